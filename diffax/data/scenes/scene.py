"""Scenes: one to three objects that stand apart. Scene i of a split is a function of i, for ever."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from diffax.data.scenes.figures import COLORS, SHAPES, SIDE, SIZES, Object, box

SPLITS = ("train", "test", "novel", "unseen")
HELD_OUT = ("purple circle", "blue square", "yellow triangle", "red cross")
GAP, MARGIN = 24, 6  # between the boxes of objects, and to the picture's edge: 1.5 and 0.4 pixels of 16
_SEED = 2017
_TEST_SHARE = 8  # a scene is no training scene if the sum of its coordinates is divisible by this
UNSEEN_SHARE = 8  # one in so many captions is left for the split unseen

Scene = tuple[Object, ...]
Draws = Iterator[int]


def draws(split: str, index: int) -> Draws:
    """Endless random integers 0 .. 2^64 - 1 of one example: what its scene is drawn from, and then its caption."""
    # Not Generator's methods: from version to version NumPy keeps the bits of Philox, but not what it makes of them.
    # The index is the counter's high half, so that the streams of two examples never meet.
    bits = np.random.Philox(key=_key(SPLITS.index(split)), counter=index << 128)
    while True:
        yield from bits.random_raw(64).tolist()


def pick(options: Sequence, bits: Draws):
    """One of the options, each as likely as the others."""
    return options[next(bits) % len(options)]


def chance(percent: int, bits: Draws) -> bool:
    """True with this probability."""
    return next(bits) % 100 < percent


def scene(bits: Draws, split: str, objects: Sequence[int] = (1, 2, 3), held_out: Sequence[str] = HELD_OUT) -> Scene:
    """A scene of as many objects as one of `objects` says; of three, at most one is large: more do not fit.

    Novel has at least one of the pairs "color shape" in `held_out` in every scene, the other splits have none. A third
    of the objects that follow the first are its twins but for their place: captions count them. No scene is both in
    train and in test or unseen: the sum of its coordinates is divisible by eight in these alone.
    """
    pairs = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
    usual = pairs if split == "novel" else [pair for pair in pairs if pair not in held_out]
    first = pick(held_out if split == "novel" else usual, bits)
    kinds = [(first, pick((*SIZES,), bits))]
    for _ in range(pick(objects, bits) - 1):
        kinds.append(kinds[0] if chance(33, bits) else (pick(usual, bits), pick((*SIZES,), bits)))
    if len(kinds) > 2 and sum(size == "large" for _, size in kinds) > 1:
        kinds = [(pair, "small") for pair, _ in kinds]
    while True:
        placed = tuple(_placed(pair, size, bits) for pair, size in kinds)
        fits = all(_apart(a, b) for i, a in enumerate(placed) for b in placed[:i])
        if fits and (split == "novel" or (_sum(placed) % _TEST_SHARE == 0) == (split != "train")):
            return placed


def _placed(pair: str, size: str, bits: Draws) -> Object:
    color, shape = pair.split()
    left, right, up, down = _reach(shape, size)
    x = left + next(bits) % (SIDE - right - left + 1)
    y = up + next(bits) % (SIDE - down - up + 1)
    return Object(shape, color, size, x, y)


@functools.cache
def _reach(shape: str, size: str) -> tuple[int, ...]:
    """`box` in whole units, with the margin."""
    return tuple(-int(-side // 1) + MARGIN for side in box(Object(shape, "", size, 0, 0)))


def _apart(a: Object, b: Object) -> bool:
    """Whether a gap separates the boxes of two objects, across or downwards."""
    (a_left, a_right, a_up, a_down), (b_left, b_right, b_up, b_down) = _reach(a.shape, a.size), _reach(b.shape, b.size)
    across = max(b.x - a.x - a_right - b_left, a.x - b.x - b_right - a_left)
    down = max(b.y - a.y - a_down - b_up, a.y - b.y - b_down - a_up)
    return max(across, down) >= GAP - 2 * MARGIN


def _sum(placed: Scene) -> int:
    return sum(item.x + item.y for item in placed)


@functools.cache
def _key(split: int) -> np.ndarray:
    return np.random.SeedSequence(_SEED, spawn_key=(split,)).generate_state(2, np.uint64)
