"""Text to tokens and back: by bytes, for any text, or by the words of a known vocabulary."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from diffax.data.dataset import check_integers
from diffax.data.embeddings import Embedded

MOST_PROMPTS = 16  # texts that a data set names for samples to be drawn of
PAD, START, UNKNOWN, FIRST = 0, 1, 2, 3  # FIRST is that of the first byte or word
_log = logging.getLogger(__name__)


class Tokenizer(NamedTuple):
    """What `encode` and `decode` need: made by `by_bytes` or `by_words`.

    Attributes:
      size: tokens are 0 .. size - 1.
      length: of the arrays that `encode` returns.
      split: text -> its tokens, one after the other. join: tokens -> text.
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

    A text that is too long is cut, with a warning. With `Embedded` it is float16 [length, width].
    """
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: Tokenizer | Embedded, texts: Sequence[str]) -> np.ndarray:
    """`encode` of each text, [n, ...]."""
    if isinstance(tokenizer, Embedded):
        return tokenizer.embed(texts)
    return np.stack([_tokens(tokenizer, text) for text in texts])


def _tokens(tokenizer: Tokenizer, text: str) -> np.ndarray:
    tokens = np.full(tokenizer.length, PAD, np.int32)
    tokens[0] = START
    for place, token in enumerate(tokenizer.split(text), 1):
        if place == tokenizer.length:
            kept = decode(tokenizer, tokens)
            _log.warning("the text %s is too long: only its start is used, up to %s", _shown(text), repr(kept[-30:]))
            break
        tokens[place] = token
    return tokens


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
