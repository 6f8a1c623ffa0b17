"""Rows of measurements: ``metrics.jsonl`` and, when asked for, TensorBoard events.

A row is one JSON object on one line, always with an integer ``step``. Floats are written as the shortest decimal that
reads back to the same double, and every float32 or bfloat16 is a double, so each float round-trips bit for bit. JSON
has no word for a non-finite float: those are the strings ``"nan"``, ``"inf"`` and ``"-inf"``, which `read_rows` turns
back; a NaN's sign and payload are not kept. A text of such a word has a backslash before it, which `read_rows` takes
away, and so has a text of that.
"""

import io
import json
import math
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_WORD = re.compile(r"\\*(nan|-?inf)")


class Writer(NamedTuple):
    """An open ``metrics.jsonl``: ``write(step, values)`` appends a row, ``close()`` ends it. Usable in a ``with``."""

    write: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def open_writer(path: str | Path, step: int = 0, *, tensorboard: bool = False) -> Writer:
    """Opens ``path`` for appending, as it stood after training step ``step``.

    Rows of a later step and a torn last line are dropped first (in a new file that replaces the old one at once), so a
    step that is done again after a kill is written once. Each row reaches the operating system before ``write``
    returns: a SIGKILL loses at most the row being written.

    Args:
      path: the file, usually ``<workdir>/metrics.jsonl``; missing folders are made.
      step: the last finished step, 0 for a new run (rows of step 0 stay).
      tensorboard: also write scalars as TensorBoard events, to the folder ``tensorboard`` beside ``path``.

    Returns:
      A `Writer`. Its ``values`` are numbers, NumPy or JAX scalars, strings, booleans, None, lists and dicts of them.

    Raises:
      ValueError: tensorboardX is asked for and missing, a line other than the last is damaged, or (from ``write``) a
        value is no scalar.
    """
    path, events = Path(path), None
    if tensorboard:
        events = _open_events(path.parent / "tensorboard", step)
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_after(path, step)
    file = path.open("ab")

    def write(step, values):
        if "step" in values:
            raise ValueError(f"a row's values hold 'step' ({values['step']}): the step is the first argument")
        row = {"step": _integer(step)} | {name: _plain(value, name) for name, value in values.items()}
        file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        file.flush()
        for name, value in row.items() if events else ():
            value = _NON_FINITE.get(value, value) if isinstance(value, str) else value
            if name != "step" and isinstance(value, int | float):
                events.add_scalar(name, value, row["step"])

    def close():
        file.close()
        if events:
            events.close()

    return Writer(write, close)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl`` in file order, non-finite floats restored; a torn last line is left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line other than the last is no row.
    """
    return [row for _, row in _scan(Path(path))]


def read_columns(path: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The numeric columns of a ``metrics.jsonl``: name -> (steps int64 [n], values float64 [n]), in file order.

    Holds two numbers a value and no row objects, so a million rows fit. Booleans count as numbers, strings and lists
    are left out. Raises as `read_rows`.
    """
    steps, values = {}, {}
    for _, row in _scan(Path(path)):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                steps.setdefault(name, []).append(row["step"])
                values.setdefault(name, []).append(float(value))
    return {name: (np.asarray(steps[name], np.int64), np.asarray(values[name])) for name in steps}


def to_json(value: Any) -> str:
    """A JSON document, indented; scalars and non-finite floats are encoded as in a row, keys keep their order."""
    return json.dumps(_plain(value, "value"), allow_nan=False, indent=2)


def write_json(path: str | Path, value: Any) -> None:
    """Writes `to_json` of a value atomically."""
    write_bytes(path, to_json(value).encode() + b"\n")


def read_json(path: str | Path) -> Any:
    """Reads what `write_json` wrote, non-finite floats restored. Raises ValueError naming a file that is no JSON."""
    try:
        return _restore(json.loads(Path(path).read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): write it again or move it away") from error


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a compressed .npz file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replaces a file at once: whoever reads sees the old content or the new, also after a kill or a power cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the rename itself is durable once the folder is; Windows cannot open one
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _scan(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields (line without its end, row). Only the last line may be torn: a kill tears nothing else."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if not line:
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict) or type(row.get("step")) is not int:
                    raise ValueError("no object with an integer 'step'")
            except ValueError as error:
                if not file.read(1):
                    return
                raise ValueError(
                    f"{path}, line {number} is no row ({error}): only a last line can be torn; remove that line"
                ) from error
            if b'nan"' in line or b'inf"' in line:
                row = _restore(row)
            yield line, row


def _drop_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = b"".join(line + b"\n" for line, row in _scan(path) if row["step"] <= step)
    if len(kept) != path.stat().st_size:
        write_bytes(path, kept)


def _open_events(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ValueError(
            'tensorboard=True needs tensorboardX, which is not installed: pip install "tensorboardX>=2.6"'
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)  # hides events of the steps done again


def _integer(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError as error:
        raise ValueError(f"step={step!r} is not an integer: rows are numbered by whole training steps") from error


def _plain(value: Any, name: str) -> Any:
    """The value as JSON types, for `_restore` to turn back."""
    if isinstance(value, str):
        return f"\\{value}" if _WORD.fullmatch(value) else value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, int | float):
        return _float(float(value)) if isinstance(value, float) else int(value)
    array = np.asarray(value)
    if array.ndim or array.dtype.kind in "OUSc":
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}: only real scalars, reduce it first")
    if array.dtype.kind in "biu":
        return array.item()
    return _float(float(array[()]))


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _restore(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value[1:] if _WORD.fullmatch(value) else value)
    if isinstance(value, list):
        return [_restore(item) for item in value]
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    return value
