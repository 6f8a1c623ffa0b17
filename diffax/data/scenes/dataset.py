"""The captioned scenes as a data set."""

import functools
import zlib
from collections.abc import Sequence

import numpy as np

from diffax.data.dataset import Dataset, Example, Source, check_integers
from diffax.data.embeddings import Embedded
from diffax.data.scenes.describe import describe
from diffax.data.scenes.draw import draw
from diffax.data.scenes.figures import COLORS, LEAST_SIDE, SHAPES
from diffax.data.scenes.grammar import LONGEST, parse, say, vocabulary
from diffax.data.scenes.scene import HELD_OUT, SPLITS, UNSEEN_SHARE, Scene, draws, scene
from diffax.data.scenes.statements import Caption
from diffax.data.text import Tokenizer, by_words, encode, encode_captions

PROMPTS = (
    "a large red circle",
    "a small yellow cross",
    "a big white triangle",
    "a tiny blue circle",
    "a green square",
    "a small red circle left of a large blue cross",
    "a white square above a purple triangle",
    "a large yellow circle to the right of a small green triangle",
    "a small purple cross below a white circle",
    "a red square and a blue triangle",
    "two green triangles",
    "two small red circles",
    "two yellow crosses above a white square",
    "a blue circle under two purple squares",
    "three white circles",
    "a red triangle, a green circle and a blue cross",
)


def shapes(
    size: int = 16,
    split: str = "train",
    objects: Sequence[int] = (1, 2, 3),
    examples: int = 50_000,
    tokenizer: Tokenizer | Embedded | None = None,
    held_out: Sequence[str] = HELD_OUT,
    shuffled: bool = False,
) -> Dataset:
    """Drawn scenes of colored shapes with captions: x0 uint8 [size, size, 3], text int32 [length].

    "a small red circle left of a large blue square", "two green triangles above a cross": every caption is true of its
    picture and tells all of its objects, though not all of each. It is text-to-image in small, with a judge that needs
    no network: `check(picture, caption)`. Four shapes, six colors, two sizes, on a dark background.

    Example i depends on (i, split, objects, held_out) alone: the same scene and words at every size, for ever. Nothing
    is stored, examples are drawn when they are read. Do not mirror them: "left of" would be wrong (`pipeline.flip`).

    Args:
      size: pixels along a side, from 16 up.
      split: "train"; "test", other scenes, with captions as they come, most of which are in train too; "unseen", other
        scenes with captions that are not in train, in these or in other words; "novel", scenes of which each has a
        color on a shape that the other splits do not have, though they have each of the two; its caption names both.
      objects: how many there are in a scene: one of these, equally often, each of 1, 2 or 3; (1, 2, 2) has two twice as
        often as one.
      examples: the length of the data set; a longer one continues it.
      tokenizer: of the captions, or `cached` embeddings of a frozen encoder; None = `by_words` of the grammar's words,
        just long enough for every caption of so many objects.
      held_out: the pairs "color shape" of the split novel; () to train on all.
      shuffled: each picture has the caption of the next: a control, from which nothing can be learned of the text.

    Raises:
      ValueError: unknown split or pair, a number out of range, the split novel without pairs.
    """
    check_integers(LEAST_SIDE, size=size)
    check_integers(1, examples=examples)
    objects, held_out = tuple(objects), tuple(held_out)
    _check(split, objects, held_out)
    tokenizer = tokenizer or by_words(vocabulary(), LONGEST[max(objects)] + 1)
    facts = dict(split=split, objects=objects, held_out=held_out)
    read, many = (functools.partial(f, size=size, shuffled=shuffled, **facts) for f in (_read, _take))
    source = Source(
        examples,
        read=functools.partial(read, tokenizer=tokenizer),
        take=functools.partial(many, tokenizer=tokenizer),
        bare=Source(examples, read, many),
    )
    prompts = tuple(prompt for prompt in PROMPTS if parse(prompt).count in objects)
    if split == "novel":
        prompts = tuple(captioned(index, **facts)[1] for index in range(len(PROMPTS)))
    nulls = {"text": encode(tokenizer, "")}
    return Dataset(source, (size, size, 3), levels=256, conditions=nulls, tokenizer=tokenizer, prompts=prompts)


def captioned(index: int, split: str, objects: Sequence[int], held_out: Sequence[str]) -> tuple[Scene, str]:
    """The scene of example `index` and its caption in words; `shapes` says what the arguments are."""
    bits = draws(split, index)
    while True:
        drawn = scene(bits, split, objects, held_out)
        caption = describe(drawn, bits)
        while split == "novel" and not any(f"{group.color} {group.shape}" in held_out for group in caption.groups):
            caption = describe(drawn, bits)  # it has to name what is novel
        if split not in ("train", "unseen") or _is_unseen(caption) == (split == "unseen"):
            return drawn, say(caption, bits)


def _is_unseen(caption: Caption) -> bool:
    """By its plainest words, so that all ways to say the same are on one side."""
    return zlib.crc32(say(caption).encode()) % UNSEEN_SHARE == 0


def _read(index: int, **options) -> Example:
    return {name: column[0] for name, column in _take(np.array([index]), **options).items()}


def _take(
    indices: np.ndarray, size: int, shuffled: bool, tokenizer: Tokenizer | Embedded | None = None, **facts
) -> Example:
    scenes, captions = zip(*(captioned(int(index), **facts) for index in indices))
    if tokenizer is None:
        return dict(x0=draw(scenes, size))
    if shuffled:
        captions = [captioned(int(index) + 1, **facts)[1] for index in indices]
    return dict(x0=draw(scenes, size), text=encode_captions(tokenizer, captions))


def _check(split: str, objects: tuple[int, ...], held_out: tuple[str, ...]) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: shapes has the splits {', '.join(SPLITS)}")
    if not objects or any(count not in (1, 2, 3) for count in objects):
        raise ValueError(f"objects={objects}: give numbers of objects from 1, 2 and 3, such as (1, 2)")
    for pair in held_out:
        color, _, shape = pair.partition(" ")
        if color not in COLORS or shape not in SHAPES:
            raise ValueError(
                f"held_out: {pair!r} is no color and shape; of {', '.join(COLORS)} and {', '.join(SHAPES)}"
            )
    if split == "novel" and not held_out:
        raise ValueError("split='novel', held_out=(): there is nothing novel to show; give pairs, or another split")
    if len(set(held_out)) == len(COLORS) * len(SHAPES):
        raise ValueError("held_out: all pairs are held out, so nothing is left to train on; leave some")
