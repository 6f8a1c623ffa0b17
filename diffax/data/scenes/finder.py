"""Objects in pictures, drawn or generated: connected parts of one color, each compared with drawn shapes."""

import functools
from typing import NamedTuple

import numpy as np

from diffax.data.scenes.draw import coverage
from diffax.data.scenes.figures import BACKGROUND, COLORS, LEAST_SIDE, SHAPES, SIDE, SIZES, UNCLEAR, Object

_AT_ONCE = 256  # pictures that are read together
_SCALES = (0.85, 1.0, 1.15)  # of each size: a generated object may be a little too small or too large
_STEP, _REACH = 0.25, 1.0  # pixels: the grid of places at which shapes are tried, and how far from the middle
_LEAST = 0.4  # share of the smallest object's pixels, below which a part is a blemish
_MISFIT = 0.12  # a shape is unclear where the square of what it leaves unexplained is more than this share of the whole
_OFF_COLOR = 0.28  # a color is unclear at this distance in [0, 1]^3; those of COLORS are 0.59 or more apart


class _Bank(NamedTuple):
    """Drawn shapes to compare with: their flat windows, of length one, [templates, window^2], and what each is."""

    windows: np.ndarray
    names: tuple[tuple[str, str], ...]
    offsets: np.ndarray  # [templates, 2]: x and y of the center, in pixels from the window's middle
    peaks: np.ndarray  # [templates]: the value of a pixel that is wholly covered
    window: int


def find(pictures: np.ndarray) -> list[list[Object]]:
    """The objects of each picture, the largest first; x and y in 256ths of its side.

    A pixel belongs to the color on whose line from the background it lies nearest, if it is half of the way there.
    Connected pixels of one color are a part; parts of less than 0.4 of the smallest object are blemishes. What a part
    is, is told by least squares: drawn shapes in steps of a quarter pixel, in three scales of each size, are tried,
    each at its best strength. Noise of standard deviation 0.1, and its clipping, do not change what is found.

    Args:
      pictures: [n, side, side, 3], uint8 or floats in [-1, 1]; what is outside is clipped. In a picture that is not
        finite nothing is found.

    Raises:
      ValueError: another shape or dtype; fewer than 16 pixels a side, where shapes cannot be told apart.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.shape[1] != pictures.shape[2]:
        raise ValueError(f"pictures of shape {pictures.shape}: [n, side, side, 3] is needed")
    if pictures.dtype != np.uint8 and pictures.dtype.kind != "f":
        raise ValueError(f"pictures are {pictures.dtype}: give uint8, or floats in [-1, 1]")
    if pictures.shape[1] < LEAST_SIDE:
        raise ValueError(
            f"pictures of {pictures.shape[1]} pixels a side: give at least {LEAST_SIDE}, to tell shapes apart"
        )
    batches = range(0, len(pictures), _AT_ONCE)
    return [found for start in batches for found in _find(_light(pictures[start : start + _AT_ONCE]))]


def _light(pictures: np.ndarray) -> np.ndarray:
    """Colors in [0, 1] less the background's, float32."""
    values = pictures.astype(np.float32)
    values = values / 255 if pictures.dtype == np.uint8 else (values.clip(-1, 1) + 1) / 2
    light = values - np.array(BACKGROUND, np.float32) / 255
    return np.where(np.isfinite(light).all(axis=(1, 2, 3), keepdims=True), light, np.float32(0))


def _find(light: np.ndarray) -> list[list[Object]]:
    side = light.shape[1]
    parts = _parts(light)
    pixels = np.bincount(parts.ravel())[1:]
    found: list[list[Object]] = [[] for _ in light]
    if not len(pixels):
        return found
    bank = _bank(side)
    picture, middle = _middles(parts, light, len(pixels))
    own, solid, values = _windows(parts, light, picture, middle, bank.window)
    # How much of the part's color there is in each of its pixels, and the drawn shape that is most like it.
    ink = _unit(np.einsum("np,npc->nc", own, values))
    amount = own * np.einsum("npc,nc->np", values, ink)
    likeness = amount @ bank.windows.T
    best = likeness.argmax(axis=1)
    drawn, peak = bank.windows[best] * own, bank.peaks[best]
    # What is left over, pixels of the part outside of the window too, as a share of the shape's square.
    misfit = (amount**2).sum(axis=1) / likeness.max(axis=1) ** 2 - 1 + (pixels - solid) * peak**2
    full = np.einsum("np,npc->nc", drawn, values) * (peak / (drawn**2).sum(axis=1))[:, None]
    centers = (middle + 0.5 + bank.offsets[best]) * (SIDE / side)
    for k in np.argsort(-pixels, kind="stable"):
        shape, size = bank.names[best[k]]
        shape = UNCLEAR if misfit[k] > _MISFIT else shape
        found[picture[k]].append(Object(shape, _color(full[k]), size, *centers[k].tolist()))
    return found


def _parts(light: np.ndarray) -> np.ndarray:
    """Connected pixels of a color, numbered from 1 over all pictures, int [n, side, side]; 0 where there are none."""
    from scipy import ndimage

    inks = _inks()
    length = (inks**2).sum(-1)
    share = light @ inks.T / length  # of the way to each color
    distance = (light**2).sum(-1, keepdims=True) - np.maximum(share, 0) ** 2 * length
    nearest = distance.argmin(-1)
    solid = np.take_along_axis(share, nearest[..., None], -1)[..., 0] > 0.5
    masks = solid[:, None] & (nearest[:, None] == np.arange(len(inks))[:, None, None])
    beside = np.zeros((3, 3, 3, 3), bool)
    beside[1, 1] = True  # the eight neighbors, in the same picture and color
    labels = ndimage.label(masks, beside)[0].max(axis=1)
    large = np.bincount(labels.ravel()) >= _LEAST * _smallest(light.shape[1])
    large[0] = False
    return (np.cumsum(large) * large)[labels]


def _middles(parts: np.ndarray, light: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Each part's picture [parts], and the pixel nearest to its center of mass, x and y, int [parts, 2]."""
    place = np.nonzero(parts)
    part = parts[place] - 1
    picture = np.zeros(count, int)
    picture[part] = place[0]
    weight = np.linalg.norm(light[place], axis=-1)
    total = np.bincount(part, weight, count)
    x, y = (np.bincount(part, weight * along, count) / total for along in (place[2], place[1]))
    return picture, np.rint(np.stack([x, y], axis=-1)).astype(int)


def _windows(
    parts: np.ndarray, light: np.ndarray, picture: np.ndarray, middle: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Around each middle: 1 for the part's pixels and their rim [parts, w^2]; how many without it [parts]; and light.

    Pixels of other parts are not its own.
    """
    half = window // 2
    pad = ((0, 0), (half, half), (half, half))
    steps = np.arange(window)
    at = (picture[:, None, None], (middle[:, 1:] + steps)[:, :, None], (middle[:, :1] + steps)[:, None, :])
    labels, values = np.pad(parts, pad)[at], np.pad(light, (*pad, (0, 0)))[at]
    number = np.arange(1, len(picture) + 1)[:, None, None]
    inside = labels == number
    inner = np.pad(inside, ((0, 0), (1, 1), (1, 1)))
    near = [inner[:, i : i + window, j : j + window] for i in range(3) for j in range(3)]
    own = np.any(near, axis=0) & (inside | (labels == 0))
    return own.reshape(len(own), -1).astype(np.float32), inside.sum((1, 2)), values.reshape(len(own), -1, 3)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _color(light: np.ndarray) -> str:
    distance = np.linalg.norm(_inks() - light, axis=-1)
    return UNCLEAR if distance.min() > _OFF_COLOR else [*COLORS][distance.argmin()]


@functools.cache
def _inks() -> np.ndarray:
    """The colors less the background, in [0, 1], float32 [colors, 3]."""
    return (np.array([*COLORS.values()], np.float32) - np.array(BACKGROUND, np.float32)) / 255


@functools.cache
def _smallest(side: int) -> float:
    """The pixels of the smallest object."""
    objects = [Object(shape, "red", "small", SIDE / 2, SIDE / 2) for shape in SHAPES]
    return float(coverage(objects, side).sum((1, 2)).min())


@functools.lru_cache(maxsize=4)
def _bank(side: int) -> _Bank:
    reach = max(max(shape.wide, shape.above) for shape in SHAPES.values()) * max(SIZES.values()) * max(_SCALES)
    half = int(np.ceil(reach / SIDE * side + 0.5))
    window = 2 * half + 1
    steps = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    names, drawn, places = [], [], []
    unit = SIDE / window  # a window is drawn as a picture of its own, so its objects are scaled
    for shape in SHAPES:
        for size in SIZES:
            for scale in _SCALES:
                objects = [Object(shape, "red", size, *((half + 0.5 + offset) * unit)) for offset in offsets]
                drawn.append(coverage(objects, window, scale * side / window).reshape(len(objects), -1))
                names += [(shape, size)] * len(objects)
                places.append(offsets)
    drawn = np.concatenate(drawn)
    peaks = 1 / np.linalg.norm(drawn, axis=1)
    windows = (drawn * peaks[:, None]).astype(np.float32)
    return _Bank(windows, tuple(names), np.concatenate(places), peaks.astype(np.float32), window)
