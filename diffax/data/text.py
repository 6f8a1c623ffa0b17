"""Text to tokens and back: by bytes, for any text, or by the words of a known vocabulary."""

import functools
import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from diffax.data.dataset import Example, Source, check_integers, stack
from diffax.data.embeddings import Embedded

MOST_PROMPTS = 16  # texts that a data set names for samples to be drawn of
PAD, START, UNKNOWN, FIRST = 0, 1, 2, 3  # FIRST is that of the first byte or word
_log = logging.getLogger(__name__)


class Tokenizer(NamedTuple):
    """What `encode` and `decode` need: made by `by_bytes`, `by_words`, or of a vocabulary of your own.

    Attributes:
      size: tokens are 0 .. size - 1. Three of them are reserved: 0 is padding, 1 the start, 2 what is unknown.
      length: of the arrays that `encode` returns, with the start.
      split: text -> its tokens, one after the other, each from 3 on, or 2. Ids that begin at 0 need 3 added to them.
      join: such tokens -> text.
    """

    size: int
    length: int
    split: Callable[[str], Iterable[int]]
    join: Callable[[Sequence[int]], str]


def by_bytes(length: int = 128) -> Tokenizer:
    """A token for each byte of the text's UTF-8: every text comes back as it was, as far as it is kept."""
    check_integers(2, length=length)
    return Tokenizer(FIRST + 256, length, _bytes, _text)


def by_words(vocabulary: Sequence[str], length: int = 32) -> Tokenizer:
    """A token for each word, number or mark, lower case; one for all that are not in `vocabulary`.

    Raises:
      ValueError: an entry that no text can have as a word.
    """
    check_integers(2, length=length)
    places = {}
    for word in vocabulary:
        if [*words(word)] != [word]:
            raise ValueError(f"vocabulary: {word!r} is no single word in lower case; give words and marks")
        places.setdefault(word, FIRST + len(places))
    return Tokenizer(FIRST + len(places), length, partial(_places, places), partial(_sentence, tuple(places)))


def encode(tokenizer: Tokenizer | Embedded, text: str) -> np.ndarray:
    """int32 [length]: the start token, those of the text, padding. The empty text says nothing: it is the null prompt.

    A text that is too long is cut, with a warning, one for each text. With `Embedded` it is float16 [length, width].

    Raises:
      ValueError: the tokenizer gives a token that it must not.
    """
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: Tokenizer | Embedded, texts: Sequence[str]) -> np.ndarray:
    """`encode` of each text, [n, ...]."""
    if isinstance(tokenizer, Embedded):
        return tokenizer.embed(texts)
    tokens, cut = _tokens(tokenizer, texts)
    for i in cut:
        _warn_of_text(_shown(texts[i]), decode(tokenizer, tokens[i])[-30:])
    return tokens


def encode_captions(tokenizer: Tokenizer | Embedded, captions: Sequence[str], quiet: bool = False) -> np.ndarray:
    """`encode_all` of captions of a data set: one warning, or none, tells of all that are too long."""
    if isinstance(tokenizer, Embedded):
        return tokenizer.embed(captions)
    tokens, cut = _tokens(tokenizer, captions)
    if cut and not quiet:
        _warn_of_captions(tokenizer.length)
    return tokens


def told(captioned: Source, tokenizer: Tokenizer | Embedded, captions: Sequence[str] | None = None) -> Source:
    """The source of examples with `text` where those of `captioned` have a `caption`, a str.

    All captions of a batch are encoded at once; what is too long is cut.

    Args:
      captions: all that there are, if that is known: a warning counts those that are cut. Otherwise it comes with the
        first that is.
    """
    if captions is not None and not isinstance(tokenizer, Embedded):
        if cut := sum(len(_tokens(tokenizer, [caption])[1]) for caption in captions):
            _log.warning("%d of %d captions %s", cut, len(captions), _too_long(tokenizer.length))
    encoded = partial(encode_captions, tokenizer, quiet=captions is not None)
    return Source(
        len(captioned),
        read=partial(_told, captioned=captioned, encoded=encoded),
        take=partial(_all_told, captioned=captioned, encoded=encoded),
        bare=Source(len(captioned), partial(_bare, captioned=captioned)),
    )


def _told(index: int, captioned: Source, encoded: Callable[[Sequence[str]], np.ndarray]) -> Example:
    return {name: column[0] for name, column in _all_told(np.array([index]), captioned, encoded).items()}


def _all_told(indices: np.ndarray, captioned: Source, encoded: Callable[[Sequence[str]], np.ndarray]) -> Example:
    examples = [captioned[int(i)] for i in indices]
    text = encoded([str(example.pop("caption")) for example in examples])
    return {**stack(examples), "text": text}


def _bare(index: int, captioned: Source) -> Example:
    return {name: value for name, value in captioned[index].items() if name != "caption"}


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """int32 [n, length], and which texts had more tokens than that."""
    tokens, cut = np.full((len(texts), tokenizer.length), PAD, np.int32), []
    tokens[:, 0] = START
    for i, text in enumerate(texts):
        found = [*itertools.islice(tokenizer.split(text), tokenizer.length)]
        if wrong := [token for token in found if not UNKNOWN <= token < tokenizer.size]:
            allowed = f"expected {FIRST} to {tokenizer.size - 1}, or {UNKNOWN} for what is unknown"
            raise ValueError(
                f"tokenizer: {_shown(text)} has the token {wrong[0]}, {allowed}; add {FIRST} to ids that begin at 0"
            )
        if len(found) == tokenizer.length:
            cut.append(i)
        tokens[i, 1 : len(found) + 1] = found[: tokenizer.length - 1]
    return tokens, cut


@functools.lru_cache(1024)  # a prompt is encoded for every picture
def _warn_of_text(shown: str, kept: str) -> None:
    _log.warning("the text %s is too long: only its start is used, up to %r", shown, kept)


@functools.cache
def _warn_of_captions(length: int) -> None:
    _log.warning("some captions, and it may be many, %s", _too_long(length))


def _too_long(length: int) -> str:
    return f"have more than {length - 1} tokens: their start alone is used; for all of it raise the tokenizer's length"


def decode(tokenizer: Tokenizer | Embedded, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of tokens, without start and padding; or of an embedding."""
    if isinstance(tokenizer, Embedded):
        return tokenizer.recall(np.asarray(tokens))
    return tokenizer.join([int(token) for token in tokens if token not in (PAD, START)])


def _shown(text):
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _bytes(text: str) -> Iterator[int]:
    for character in text:  # a surrogate on its own has no UTF-8
        yield from (FIRST + byte for byte in character.encode("utf-8", "replace"))


def _text(tokens: Sequence[int]) -> str:
    # a character that was cut in two is left out
    return bytes(token - FIRST for token in tokens if token >= FIRST).decode("utf-8", "ignore")


def plain(text: str) -> str:
    """A text on one line, without space around it."""
    return " ".join(text.split())


def words(text: str) -> Iterator[str]:
    """The words, numbers and marks of a text, lower case: what `by_words` gives a token each."""
    return (match.group().lower() for match in re.finditer(r"\w+|[^\w\s]", text))


def _places(places: dict[str, int], text: str) -> Iterator[int]:
    return (places.get(word, UNKNOWN) for word in words(text))


def _sentence(known: tuple[str, ...], tokens: Sequence[int]) -> str:
    found = ["<unknown>" if token == UNKNOWN else known[token - FIRST] for token in tokens]
    return re.sub(r" ([,.;:!?])", r"\1", " ".join(found))
