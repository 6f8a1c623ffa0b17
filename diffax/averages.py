"""Moving averages of parameters: decays by step, and averages of any width made after training.

The power-function average at step t weighs the parameters of step tau by (gamma + 1)/t·(tau/t)^gamma: its width stays
the same share of the run however long that is. Its relative standard deviation sigma_rel, the width, says which it is;
0.05 to 0.15 are usual. Source: EDM2, arXiv:2312.02696, Sec. 3.1 and App. C.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Decay = Callable[[Array], Array]  # step -> the share of the average that an update keeps
Snapshot = tuple[int, float]  # the updates done, and sigma_rel
WIDEST = 12**-0.5  # the plain mean's


def ema_decay(decay: float, warmup: bool = True) -> Decay:
    """The decay of a moving average: with warm-up min(decay, (1 + n)/(10 + n)) at step n, else constant."""
    if not warmup:
        return lambda step: jnp.float32(decay)

    def warm(step):
        n = jnp.asarray(step, jnp.float32)
        return jnp.minimum(jnp.float32(decay), (1.0 + n) / (10.0 + n))

    return warm


def power_decay(width: float) -> Decay:
    """The decay (1 - 1/t)^(gamma + 1) at the t-th update: the power-function average of sigma_rel = `width`.

    The first update replaces the initial parameters; arXiv:2312.02696, Eq. 127.
    """
    exponent = power(width) + 1.0

    def decay(step):
        return (1.0 - 1.0 / (1.0 + jnp.asarray(step, jnp.float32))) ** jnp.float32(exponent)

    return decay


def power(width: float) -> float:
    """gamma of sigma_rel = `width`: sigma_rel² = (gamma + 1)/((gamma + 2)²·(gamma + 3)); arXiv:2312.02696, Eq. 123.

    Raises:
        ValueError: no such width; the widest, that of the plain mean (gamma = 0), is 0.2887.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"width={width} is not allowed: expected more than 0, at most {WIDEST:.4f}, the plain mean's")
    roots = np.roots([1.0, 7.0, 16.0 - width**-2.0, 12.0 - width**-2.0])
    return max(float(roots.real.max()), 0.0)


def reconstruct(averages: Iterable[Any], snapshots: Sequence[Snapshot], step: int, width: float) -> Any:
    """The average of sigma_rel = `width` at `step`, from averages that were kept on the way; arXiv:2312.02696, Alg. 3.

    It is the sum of these, each with a weight, whose weighing of the parameters comes nearest in the least squares.

    Args:
        averages: trees of parameters; of a generator one at a time is in memory, beside the sum.
        snapshots: (step, sigma_rel) of each.
        step: updates done, at least those of one of the snapshots.

    Raises:
        ValueError: no snapshots, none until `step`, or another number of averages.
    """
    total = tree = None
    for weight, tree in zip(shares(snapshots, step, width), averages, strict=True):
        # in float64: the weights are large and of both signs
        part = jax.tree.map(lambda leaf, weight=weight: weight * np.asarray(leaf, np.float64), tree)
        total = part if total is None else jax.tree.map(operator.iadd, total, part)
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), total, tree)


def shares(snapshots: Sequence[Snapshot], step: int, width: float) -> np.ndarray:
    """The weight [n] of each snapshot in `reconstruct`."""
    if not snapshots or min(t for t, _ in snapshots) > step:
        raise ValueError(f"no average of step {step} or before among {len(snapshots)} snapshots: keep some on the way")
    times, gammas = np.array([t for t, _ in snapshots], float), np.array([power(w) for _, w in snapshots])
    among = _product(times[:, None], gammas[:, None], times, gammas)
    wanted = _product(times, gammas, float(step), power(width))
    # each profile brought to length 1, which makes the equations as well posed as they can be
    length = np.sqrt(np.diag(among))
    return np.linalg.lstsq(among / np.outer(length, length), wanted / length, rcond=1e-12)[0] / length


def _product(t, gamma, u, delta):
    """∫ of the product of two profiles, (time t, power gamma) and (u, delta); arXiv:2312.02696, Eq. 151."""
    early, late = np.minimum(t, u), np.maximum(t, u)
    power_of_late = np.where(t > u, gamma, delta)
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * (early / late) ** power_of_late / late
