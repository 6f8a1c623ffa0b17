"""What a data set is: a random-access source of raw examples and the facts that a model needs of it."""

import dataclasses
import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Example = dict[str, np.ndarray]


class Dataset(NamedTuple):
    """A data set as a model sees it; `diffax.build` knows a function that makes one by its annotation `-> Dataset`.

    Attributes:
      source: random access: `len(source)`, and `source[i] -> dict(x0=raw array, label=int32 scalar)`, without `label`
        where there are no classes. Anything with these two will do, a list too; an optional `source.take(indices)`
        reads many at once.
      shape: shape of one `x0`; images are (height, width, channels).
      num_classes: labels are 0 .. num_classes - 1; 0 = no classes.
      conditions: of each condition but the label that an example carries, by name, the array that says nothing: its
        shape and dtype are those of every example's (see `diffax.conditions`).
      tokenizer: of the condition `text`: a `Tokenizer`, or `Embedded` where it is the embeddings of a frozen encoder.
      prompts: a few texts to draw samples of, unless others are asked for.
      levels: raw values are the integers 0 .. levels - 1 (256 for 8-bit images); 0 = float32, left as it is.
      report: what was noticed when the data set was opened, one line each (skipped files, ...).
    """

    source: Any
    shape: tuple[int, ...]
    num_classes: int = 0
    levels: int = 0
    report: tuple[str, ...] = ()
    conditions: Mapping[str, np.ndarray] = {}
    tokenizer: Any = None
    prompts: tuple[str, ...] = ()

    @property
    def nulls(self) -> dict[str, np.ndarray]:
        """All conditions, the label too, each as the array of one example that says nothing."""
        label = {"label": np.asarray(self.num_classes, np.int32)} if self.num_classes else {}
        return {**label, **self.conditions}


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access made of functions: `source[i]` is `read(i)` for 0 <= i < length.

    `take(indices) -> dict of stacked arrays`, where there is one, reads a whole batch in one call. `bare`, where there
    is one, has the same examples without what takes time to tell, such as texts in embeddings. Worker processes get a
    copy, so all must be picklable: a module's function, or a `functools.partial` of one.
    """

    length: int
    read: Callable[[int], Example]
    take: Callable[[np.ndarray], Example] | None = None
    bare: "Source | None" = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside 0..{self.length - 1}")
        return self.read(index)


def in_memory(**columns: np.ndarray) -> Source:
    """The source whose example i is row i of every column, e.g. `in_memory(x0=images, label=labels)`.

    Raises:
      ValueError: no columns, or columns of different lengths.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of lengths {lengths}: give at least one, and each the same number of rows")
    rows = functools.partial(_rows, columns)
    return Source(next(iter(lengths.values())), read=rows, take=rows)


def take(source: Any, indices: Sequence[int] | np.ndarray) -> Example:
    """Examples `indices` of a source, each field stacked along a new leading axis; raw, as the source has them."""
    many = getattr(source, "take", None)
    if many is not None:
        return many(np.asarray(indices))
    return stack([source[int(i)] for i in indices])


def stack(examples: Sequence[Example]) -> Example:
    """Examples with the same fields -> one dict of arrays with a leading axis."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def check_integers(smallest: int, **values: int) -> None:
    """Raises ValueError, naming the argument, unless every value is an integer >= smallest."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < smallest:
            raise ValueError(f"{name}={value!r}: give an integer >= {smallest}")


def _rows(columns: Mapping[str, np.ndarray], index: int | np.ndarray) -> Example:
    return {name: column[index] for name, column in columns.items()}
