"""A folder of PNG and JPEG files as a data set."""

import concurrent.futures
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffax.data.dataset import Dataset, Example, Source, check_integers

_SUFFIXES = (".png", ".jpg", ".jpeg")
# The last bytes of a complete file: PNG's IEND chunk (W3C PNG, 11.2.5), JPEG's EOI marker (ITU-T T.81, B.1.1.3).
_ENDS = {"PNG": b"\0\0\0\0IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_NAMED = 10  # bad files that the warning names; the report names all
_STAND_INS = 10  # files in a row that may turn out undecodable before it is an error


def image_folder(path: str | os.PathLike, size: int) -> Dataset:
    """PNG and JPEG files below `path`, x0 uint8 [size, size, 3].

    The sub-folders that hold images, at any depth, are the classes, numbered in the sorted order of their names; a flat
    folder has no classes. Hidden files and folders (".name") are left out. An image of any mode becomes RGB
    (transparent parts over white, 16 bits to 8), is turned as its EXIF tag says, scaled so that it just covers the
    square (bicubic, antialiased), and cropped at the center.

    Every file's header and end are read when the data set is opened. A file that is no image, or not complete, is
    skipped: a warning counts and names them, and `report` lists all. The rest is decoded when it is wanted; should one
    turn out to be damaged inside, a warning names it and the next image of the folder stands in, always the same one.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: size below 1; no images at all; images both beside and in sub-folders; not one good file.
    """
    classes, found = _images(opened(path, size))
    told = [(file, {"label": np.int32(label)} if classes else {}) for file, label in found]
    source, report = images(path, told, size)
    return Dataset(source, (size, size, 3), num_classes=len(classes), levels=256, report=report)


def opened(path: str | os.PathLike, size: int) -> pathlib.Path:
    """The folder; FileNotFoundError or ValueError if there is none, or no such size."""
    check_integers(1, size=size)
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no such folder; give one that holds PNG or JPEG files")
    return root


def images(
    path: str | os.PathLike,
    told: Sequence[tuple[str, Any]],
    size: int,
    lost: Sequence[str] = (),
    tell: Callable[[Any], dict[str, Any]] = dict,
) -> tuple:
    """(the source of the files that can be read, each with what is told of it; the report of those that cannot).

    Args:
      told: of each example, the file and its fields besides x0, or what `tell` makes them of.
      lost: what else was skipped, one line each, for the same warning and report.
    """
    with concurrent.futures.ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        files = list(dict.fromkeys(file for file, _ in told))
        faults = dict(zip(files, pool.map(_fault, files)))
    bad = [*lost, *(f"{file}: {fault}" for file, fault in faults.items() if fault)]
    good = [(file, fields) for file, fields in told if not faults[file]]
    count = len(files) + len(lost)
    if not good:
        raise ValueError(f"path={str(path)!r}: none of its {count} images can be read; the first is {bad[0]}")
    if bad:
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        warnings.warn(f"skipped {len(bad)} of {count} images: {'; '.join(bad[:_NAMED])}{more}", stacklevel=3)
    source = Source(len(good), functools.partial(_read, files=good, size=size, tell=tell))
    return source, tuple(f"skipped {line}" for line in bad)


def square(image: Any, size: int) -> np.ndarray:
    """PIL image of any mode -> uint8 [size, size, 3], made square as `image_folder` says."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray, which PIL's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))


def _images(root: pathlib.Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names, and (file, label) of every image; a flat folder has no names and labels 0."""
    entries = sorted((entry for entry in root.iterdir() if not _hidden(entry.name)), key=lambda entry: entry.name)
    flat = [str(entry) for entry in entries if _is_image(entry.name) and entry.is_file()]
    below = {entry.name: files_below(entry) for entry in entries if entry.is_dir()}
    below = {name: files for name, files in below.items() if files}
    if flat and below:
        raise ValueError(
            f"path={str(root)!r}: {len(flat)} images such as {os.path.basename(flat[0])!r} lie beside the class folders"
            f" {', '.join(list(below)[:5])}; move them into one of these, or all images into one folder"
        )
    if not flat and not below:
        raise ValueError(f"path={str(root)!r}: no file below ends in {', '.join(_SUFFIXES)}; give a folder of images")
    if flat:
        return [], [(file, 0) for file in flat]
    return list(below), [(file, label) for label, files in enumerate(below.values()) for file in files]


def files_below(folder: pathlib.Path) -> list[str]:
    """The image files of a folder and of those in it, sorted, hidden ones left out."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        files += [os.path.join(parent, name) for name in names if _is_image(name) and not _hidden(name)]
    return sorted(files)


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _fault(file: str) -> str | None:
    """What is wrong with a file, or None: it must open as an image, and end as its format does or else decode whole."""
    from PIL import Image

    try:
        if not os.path.getsize(file):
            return "the file is empty"
        with open(file, "rb") as stream:
            with Image.open(stream) as image:
                end = _ENDS.get(image.format or "")
            if end and stream.seek(-len(end), os.SEEK_END) and stream.read() == end:
                return None
            stream.seek(0)
            with Image.open(stream) as image:
                image.load()
    except Exception as error:  # a decoder raises almost anything on a damaged file
        return _one_line(error)
    return None


def _read(index: int, files: list[tuple[str, Any]], size: int, tell: Callable[[Any], dict[str, Any]]) -> Example:
    from PIL import Image

    reason = ""
    for i in range(index, index + _STAND_INS):
        file, fields = files[i % len(files)]
        try:
            with Image.open(file) as image:
                x0 = square(image, size)
        except Exception as error:  # as in _fault
            reason = f"{file}: {_one_line(error)}"
            warnings.warn(f"{reason}; the next image stands in for it", stacklevel=2)
            continue
        return dict(x0=x0, **tell(fields))
    raise ValueError(f"{_STAND_INS} images in a row cannot be read, the last is {reason}; is the folder still there?")


def _one_line(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image, or cut off in its header"
    return " ".join(str(error).split()) or type(error).__name__
