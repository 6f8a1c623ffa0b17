"""Texts as the embeddings of a frozen encoder, each computed once and kept on disk."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

_AT_ONCE = 256  # texts: what a process that is killed loses


class Encoder(NamedTuple):
    """A frozen text encoder.

    Attributes:
      name: of the embeddings that it gives: another one for other parameters. It names the file that keeps them.
      length, width: of the embedding of a text, cut or padded.
      embed: texts -> [n, length, width], zeros where there is nothing.
    """

    name: str
    length: int
    width: int
    embed: Callable[[Sequence[str]], np.ndarray]


class Embedded(NamedTuple):
    """In place of a `Tokenizer`: a data set's condition `text` is then float16 [length, width]. Made by `cached`.

    Attributes:
      embed: texts -> [n, length, width]; zeros where there is nothing, all of it for the empty text. With
        `keep=False` the file stays as it is.
      recall: the embedding of a text that was embedded once -> the text, or a text with the same embedding.
      encoder: of the texts that were not.
    """

    embed: Callable[..., np.ndarray]
    recall: Callable[[np.ndarray], str]
    encoder: Encoder


def cached(encoder: Encoder, folder: str | os.PathLike) -> Embedded:
    """Embeddings of `encoder` from the file `<folder>/<name>.sqlite`; those that it lacks are computed and added.

    For text-to-image training with a large encoder: after the first epoch it no longer runs, in this run and in others
    with the same captions. Texts are added by the hundred, so that a process that is killed loses little. Processes may
    share the file, those of several hosts as well where its file system has locks for all of them, as NFS 4; where not,
    give each host a folder of its own.

    Raises:
      ValueError: a folder that cannot be written, a file of another encoder, embeddings of another shape or not finite.
    """
    file = Path(folder).expanduser().absolute() / f"{encoder.name}.sqlite"
    shape = encoder.length, encoder.width
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _opened(file) as store:
            store.execute("pragma journal_mode = delete")  # not wal: several hosts cannot share its index
            store.execute("create table if not exists texts (text blob primary key, digest blob, embedding blob)")
            store.execute("create index if not exists digests on texts (digest)")
            found = store.execute("select embedding from texts limit 1").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise ValueError(f"folder={str(folder)!r}: {file.name} cannot be used ({error}); give another folder") from None
    if found and len(found[0]) != _size(shape):
        raise ValueError(f"folder={str(folder)!r}: {file.name} has embeddings of another shape than {shape}; remove it")
    return Embedded(partial(_embedded, encoder=encoder, file=file), partial(_recalled, file=file), encoder)


def aside(tokenizer: Embedded) -> Embedded:
    """The same embeddings, but those that the file lacks are kept in memory: prompts that no training will see.

    The encoder runs now, on no text, so that it is compiled when the first of them comes.
    """
    tokenizer.encoder.embed([""])
    kept: dict[str, np.ndarray] = {}

    def embed(texts):
        texts = [_key(text).decode() for text in texts]
        if missing := sorted(set(texts) - set(kept)):
            kept.update(zip(missing, tokenizer.embed(missing, keep=False)))
        return np.stack([kept[text] for text in texts])

    def recall(embedding):
        found = [text for text, known in kept.items() if np.array_equal(known, embedding)]
        return found[0] if found else tokenizer.recall(embedding)

    return Embedded(embed, recall, tokenizer.encoder)


def _embedded(texts: Sequence[str], encoder: Encoder, file: Path, keep: bool = True) -> np.ndarray:
    shape = encoder.length, encoder.width
    keys = [_key(text) for text in texts]
    with _opened(file) as store:
        rows = {b"": bytes(_size(shape)), **_kept(store, set(keys) - {b""})}
    missing = sorted(set(keys) - set(rows))
    for first in range(0, len(missing), _AT_ONCE):
        some = missing[first : first + _AT_ONCE]
        lines = [(key, hashlib.sha256(value).digest(), value) for key, value in _computed(encoder, some, shape)]
        rows |= {key: value for key, _, value in lines}
        if keep:
            with _opened(file) as store:
                store.executemany("insert or ignore into texts values (?, ?, ?)", lines)
                rows |= _kept(store, some)  # where another process was first its bits count, for all alike
    return np.stack([np.frombuffer(rows[key], np.float16).reshape(shape) for key in keys])


def _key(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a surrogate on its own has no UTF-8


def _kept(store: sqlite3.Connection, keys: Iterable[bytes]) -> dict[bytes, bytes]:
    found = {key: store.execute("select embedding from texts where text = ?", (key,)).fetchone() for key in keys}
    return {key: row[0] for key, row in found.items() if row}


def _computed(encoder: Encoder, keys: list[bytes], shape: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    values = np.asarray(encoder.embed([key.decode() for key in keys])).astype(np.float16)
    if values.shape != (len(keys), *shape):
        raise ValueError(f"encoder: {encoder.name} gave {values.shape} for {len(keys)} texts, expected each {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"encoder: {encoder.name} gave values that are not finite in float16; scale them")
    return [(key, value.tobytes()) for key, value in zip(keys, values)]


def _recalled(embedding: np.ndarray, file: Path) -> str:
    value = np.ascontiguousarray(embedding, np.float16).tobytes()
    if not any(value):
        return ""
    with _opened(file) as store:
        digest = hashlib.sha256(value).digest()
        row = store.execute("select text from texts where digest = ? order by text", (digest,)).fetchone()
    if row is None:
        raise ValueError(f"text: {file.name} has no text with this embedding; embed it first")
    return row[0].decode()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    # one for each use: neither threads nor processes may share a connection
    store = sqlite3.connect(file, timeout=60.0)
    try:
        with store:
            yield store
    finally:
        store.close()


def _size(shape: tuple[int, int]) -> int:
    return 2 * shape[0] * shape[1]
