"""Is a picture what its caption says? A checker for generated pictures that needs no trained network."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffax.data.scenes.figures import Object
from diffax.data.scenes.finder import find
from diffax.data.scenes.grammar import parse
from diffax.data.scenes.statements import Caption, Statement, truths


class Report(NamedTuple):
    """What was found in a picture, and which of its caption's statements are true of that."""

    objects: tuple[Object, ...]
    statements: dict[Statement, bool]

    @property
    def right(self) -> bool:
        """Whether all statements hold; the count is one, so nothing else is in the picture."""
        return all(self.statements.values())


def check(picture: np.ndarray, caption: str | Caption) -> Report:
    """Reads one picture [side, side, 3], uint8 or floats in [-1, 1], and compares it with its caption.

        check(picture, "a small red circle left of a blue square").right

    Raises:
      ValueError: as `find` for the picture, and as `parse` for the caption.
    """
    return check_all(np.asarray(picture)[None], [caption])[0]


def check_all(pictures: np.ndarray, captions: Sequence[str | Caption]) -> list[Report]:
    """`check` of many pictures [n, side, side, 3] with one caption each, in little time.

    Raises:
      ValueError: as `check`; another number of captions.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures and {len(captions)} captions: give one caption a picture")
    asked = [parse(caption) if isinstance(caption, str) else caption for caption in captions]
    return [Report(tuple(objects), truths(caption, objects)) for objects, caption in zip(find(pictures), asked)]
