"""A folder of images with captions as a data set."""

import json
import os
from pathlib import Path

from diffax.data.dataset import Dataset
from diffax.data.embeddings import Embedded
from diffax.data.folder import files_below, images, opened
from diffax.data.text import MOST_PROMPTS, Tokenizer, by_bytes, encode, plain, told


def image_text_folder(
    path: str | os.PathLike, size: int, captions: str = "", tokenizer: Tokenizer | Embedded | None = None
) -> Dataset:
    """PNG and JPEG files below `path` with their captions: x0 uint8 [size, size, 3], text int32 [length].

    The caption of `cat.png` is the text of `cat.txt` beside it, or what the file `captions` says: JSON lines such as
    `{"file": "pets/cat.png", "caption": "a cat"}`. An image with several lines there is an example for each. Images
    are made square and damaged ones skipped, as by `image_folder`; an image without a caption is skipped as well. An
    empty caption says nothing, and counts as one. Do not mirror pictures whose captions say left or right.

    Args:
      captions: a file, from `path`; "" for a text beside each image.
      tokenizer: of the captions, or `cached` embeddings of a frozen encoder; None = `by_bytes()`, which any text fits
        into, cut after 127 bytes.

    Raises:
      FileNotFoundError: no such folder, or no such file of captions.
      ValueError: a line of captions that is none, or that names a file outside the folder; no image with a caption.
    """
    root = opened(path, size)
    tokenizer = tokenizer or by_bytes()
    texts, lost = _lines(root, captions) if captions else _beside(root)
    if not texts:
        remedy = f"write lines to {captions}" if captions else "put cat.txt beside cat.png, or give a file of captions"
        raise ValueError(f"path={str(path)!r}: no image with a caption; {remedy}")
    captioned, report = images(path, texts, size, lost, _caption)
    source = told(captioned, tokenizer, [text for _, text in texts])
    nulls = {"text": encode(tokenizer, "")}
    prompts = tuple(dict.fromkeys(text for _, text in texts))[:MOST_PROMPTS]
    return Dataset(
        source, (size, size, 3), levels=256, report=report, conditions=nulls, tokenizer=tokenizer, prompts=prompts
    )


def _caption(text: str) -> dict[str, str]:
    return {"caption": text}


def _beside(root: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """(file, caption) of every image that has one, and a line on each that has none."""
    texts, lost = [], []
    for file in files_below(root):
        try:
            texts.append((file, plain(Path(file).with_suffix(".txt").read_text(encoding="utf-8"))))
        except (OSError, UnicodeDecodeError) as error:
            lost.append(f"{file}: no caption ({getattr(error, 'strerror', None) or 'its text is no UTF-8'})")
    return texts, lost


def _lines(root: Path, captions: str) -> tuple[list[tuple[str, str]], list[str]]:
    """As `_beside`, of a file of JSON lines."""
    file = root / captions
    if not file.is_file():
        raise FileNotFoundError(f"captions={captions!r}: there is no such file in {root}; write one JSON object a line")
    texts = []
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if line.strip():
            texts.append(_entry(root, f"{file}, line {number}", line))
    without = sorted(set(files_below(root)) - {file for file, _ in texts})
    return texts, [f"{file}: no caption" for file in without]


def _entry(root: Path, where: str, line: bytes) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        image, caption = entry["file"], entry["caption"]
        if not (isinstance(image, str) and isinstance(caption, str)):
            raise TypeError("no text")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{where} is no caption ({error}): write {{"file": "cat.png", "caption": "a cat"}}') from None
    inside = os.path.normpath(image)
    if os.path.isabs(inside) or inside.startswith(".."):
        raise ValueError(f"{where}: {image!r} is not below {root}; name files from there")
    return str(root / inside), plain(caption)
