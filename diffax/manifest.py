"""Which folders of a directory of checkpoints are finished steps, and whether their files are what was written.

    <step>.<attempt>.tmp/  is unfinished: never read, removed by the next save;
    <step>/                is finished: its `manifest.json` lists the leaves, and size and BLAKE2b hash of each file;
    <step>.bad/            was found damaged and set aside: never read, never deleted.

A step is written to its `.tmp` folder, hashed there, and renamed to `<step>/` as the last act of all. The rename is
atomic: a process killed at any moment leaves a step either finished with its hashes or unfinished, nothing in between.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

_FILE = "manifest.json"
_log = logging.getLogger(__name__)


def finished(directory: Path) -> list[int]:
    """The finished steps in increasing order, not verified; [] if the directory does not exist."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


def begin(temporary: Path) -> None:
    """Makes the folder `temporary`, after removing what killed or failed saves have left beside it."""
    for leftover in temporary.parent.glob("*.tmp"):
        _log.info("removing %s, which was never finished", leftover)
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)


def finish(temporary: Path, step: int, leaves: list[dict[str, Any]]) -> None:
    """Hashes the files of `temporary`, writes its manifest and renames it to `<step>`, durably."""
    folder = temporary.with_name(str(step))
    paths = sorted(p for p in temporary.rglob("*") if p.is_file())
    files = {p.relative_to(temporary).as_posix(): [p.stat().st_size, _hash(p, sync=True)] for p in paths}
    body = json.dumps(dict(step=step, leaves=leaves, files=files), indent=0).encode()
    with open(temporary / _FILE, "wb") as file:
        file.write(hashlib.blake2b(body, digest_size=32).hexdigest().encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    for path in {p.parent for p in paths} | {temporary}:
        _sync_folder(path)
    temporary.rename(folder)
    _sync_folder(folder.parent)


def retire(folder: Path) -> None:
    """Deletes a finished step. It loses its name first: neither a reader nor a crash may see half of it as finished."""
    temporary = folder.with_name(f"{folder.name}.old.tmp")
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a finished step: dict(step, leaves, files); ValueError if it does not match its own hash."""
    digest, _, body = (folder / _FILE).read_bytes().partition(b"\n")
    if digest != hashlib.blake2b(body, digest_size=32).hexdigest().encode():
        raise ValueError(f"{_FILE} does not match its own hash")
    return json.loads(body)


def fault(folder: Path) -> str | None:
    """What is wrong with a finished step, in words; None if all its files are what was written.

    Raises:
      OSError: where the files cannot be read for a reason that says nothing about their content, such as a permission.
    """
    try:
        manifest = read(folder)
        if manifest["step"] != int(folder.name):
            return f"it holds step {manifest['step']}"
        for name, (size, digest) in manifest["files"].items():
            actual = (folder / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes where {size} were written"
            if _hash(folder / name) != digest:
                return f"{name} is not what was written (its hash differs)"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except ValueError as error:
        return str(error)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"the disk cannot read it ({error.strerror})"
    return None


def newest_good(directory: Path) -> int | None:
    """The newest step without a fault, after setting damaged newer ones aside; None if no step was ever finished.

    Raises:
      ValueError: if steps were finished and all of them are damaged.
    """
    for step in reversed(finished(directory)):
        folder = directory / str(step)
        reason = fault(folder)
        if reason is None:
            return step
        if not folder.exists():  # a trainer beside this process has retired it meanwhile, for newer ones
            return newest_good(directory)
        _set_aside(folder, reason)
    damaged = sorted(p.name for p in directory.glob("*.bad*"))
    if damaged:
        raise ValueError(
            f"every checkpoint in {directory} is damaged ({', '.join(damaged)}) and training never restarts unasked: "
            "put back an intact copy, or move these folders away to start from zero"
        )
    return None


def _set_aside(folder: Path, reason: str) -> None:
    number = 1 + sum(1 for _ in folder.parent.glob(f"{folder.name}.bad*"))
    bad = folder.with_name(f"{folder.name}.bad" + (str(number) if number > 1 else ""))
    try:
        folder.rename(bad)
        kept = f"kept as {bad.name}"
    except OSError as error:
        kept = f"left there ({error.strerror})"
    _log.warning("CHECKPOINT %s IS DAMAGED: %s. It is %s; falling back to an older one.", folder, reason, kept)


def _hash(path: Path, *, sync: bool = False) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32))
        if sync:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
