"""Data sets made of nothing but a seed: random images for tests, and a mixture whose density is known."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffax.data.dataset import Dataset, Example, Source, check_integers, in_memory


class Mixture(NamedTuple):
    """The density sum_k weights[k] N(means[k], std^2 I) with means [modes, dim], weights [modes] of sum 1, float64."""

    means: np.ndarray
    std: float
    weights: np.ndarray


def fake(n: int = 1024, shape: Sequence[int] = (32, 32, 3), num_classes: int = 10, seed: int = 0) -> Dataset:
    """n images of independent uniform bytes, uint8 `shape`; label i % num_classes, none where num_classes is 0.

    Image i depends on (seed, i, shape) alone: a data set of any length costs no memory, and a longer one continues it.

    Raises:
      ValueError: an argument that is no integer; n or a dimension below 1; num_classes or seed below 0.
    """
    check_integers(1, n=n, **{f"shape[{i}]": side for i, side in enumerate(shape)})
    check_integers(0, num_classes=num_classes, seed=seed)
    shape = tuple(int(side) for side in shape)
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    read = functools.partial(_fake_example, key=key, shape=shape, num_classes=num_classes)
    return Dataset(Source(n, read), shape=shape, num_classes=num_classes, levels=256)


def mixture(n: int = 10_000, modes: int = 8, seed: int = 0) -> Dataset:
    """n points of `ring(modes)`, x0 float32 [2] within about [-1, 1]; label = the mode that a point was drawn from.

    Raises:
      ValueError: n or modes below 1, seed below 0, or no integer.
    """
    check_integers(1, n=n)
    check_integers(0, seed=seed)
    means, std, weights = ring(modes)
    rng = np.random.Generator(np.random.Philox(seed))
    label = rng.choice(modes, size=n, p=weights)
    x0 = means[label] + std * rng.standard_normal((n, 2))
    source = in_memory(x0=x0.astype(np.float32), label=label.astype(np.int32))
    return Dataset(source, shape=(2,), num_classes=modes)


def ring(modes: int = 8, radius: float = 0.8, std: float = 0.05) -> Mixture:
    """The mixture that `mixture` draws from: modes of equal weight, evenly spaced on a circle, mode 0 at (radius, 0).

    Evaluations compare samples with it: its density, and so the exact denoiser at every noise level, has a closed form.

    Raises:
      ValueError: modes below 1 or no integer.
    """
    check_integers(1, modes=modes)
    angle = 2 * math.pi * np.arange(modes) / modes
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return Mixture(means, std, np.full(modes, 1 / modes))


def _fake_example(index: int, key: np.ndarray, shape: tuple[int, ...], num_classes: int) -> Example:
    # The index is the counter's high half, so that the streams of two images never meet.
    words = np.random.Philox(key=key, counter=int(index) << 128).random_raw(-(-math.prod(shape) // 8))
    example = dict(x0=words.view(np.uint8)[: math.prod(shape)].reshape(shape))
    if num_classes:
        example["label"] = np.int32(index % num_classes)
    return example
