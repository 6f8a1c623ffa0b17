"""Scenes to pictures: exact across, supersampled downwards, and the same bytes on every machine."""

from collections.abc import Sequence

import numpy as np

from diffax.data.scenes.figures import BACKGROUND, COLORS, SHAPES, SIDE, SIZES, Object

_LINES = 256  # lines that a picture is drawn of, at least: a step of one unit downwards is never lost
_AT_ONCE = 128  # scenes drawn together: more would take memory and no less time


def draw(scenes: Sequence[Sequence[Object]], size: int) -> np.ndarray:
    """Pictures uint8 [scenes, size, size, 3], anti-aliased, on the dark background."""
    pictures = np.empty((len(scenes), size, size, 3), np.uint8)
    for start in range(0, len(scenes), _AT_ONCE):
        pictures[start : start + _AT_ONCE] = _drawn(scenes[start : start + _AT_ONCE], size)
    return pictures


def coverage(objects: Sequence[Object], size: int, scale: float = 1.0) -> np.ndarray:
    """The share of each pixel that an object covers, float64 [objects, size, size], of objects scaled by `scale`.

    Every pixel is cut into lines; of each line the covered length is exact, min(right, x + 1) - max(left, x). Products,
    quotients and square roots round alike everywhere (IEEE 754); lengths are rounded to 2^-16, so that their sum is
    exact and does not depend on its order. Hence pictures are the same on every machine.
    """
    lines = -(-_LINES // size)
    across, down = (np.array([getattr(item, axis) for item in objects], np.float64) / SIDE for axis in "xy")
    radius = np.array([SIZES[item.size] for item in objects], np.float64) * (scale / SIDE)
    heights = (np.arange(size * lines) + 0.5) / (size * lines)
    y = (heights - down[:, None]) / radius[:, None]
    half = np.empty_like(y)
    shapes = np.array([item.shape for item in objects])
    for name in set(shapes.tolist()):
        half[shapes == name] = SHAPES[name].half_width(y[shapes == name])
    half = (half * (radius[:, None] * size))[..., None]
    left, pixel = across[:, None, None] * size, np.arange(size)
    covered = np.minimum(left + half, pixel + 1) - np.maximum(left - half, pixel)
    whole = np.rint(np.maximum(covered, 0) * 2**16).reshape(len(objects), size, lines, size).sum(axis=2)
    return whole / (lines * 2**16)


def _drawn(scenes: Sequence[Sequence[Object]], size: int) -> np.ndarray:
    owner = np.repeat(np.arange(len(scenes)), [len(scene) for scene in scenes])
    objects = [item for scene in scenes for item in scene]
    ink = np.array([COLORS[item.color] for item in objects], np.float64).reshape(-1, 3) - BACKGROUND
    layers = np.round(coverage(objects, size)[..., None] * ink[:, None, None])  # whole numbers: sums have no order
    pictures = np.full((len(scenes), size, size, 3), BACKGROUND, np.float64)
    np.add.at(pictures, owner, layers)
    return pictures.clip(0, 255)
