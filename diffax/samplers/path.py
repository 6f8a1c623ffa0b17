"""The loop that all samplers share, the noise of its steps, and the path it leaves."""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import check_keys, normal
from diffax.samplers.grids.grid import checked


class Trajectory(NamedTuple):
    """The path of a sampler of n steps: `x` [n + 1, batch, *data] and the estimates `x0` [n, batch, *data] on it.

    Where `trajectory` is a number, the batch is its first samples, so many.
    """

    x: Array
    x0: Array


Samples = Array | tuple[Array, Trajectory]


def integrate(step: Callable, start, sigmas, trajectory, position=lambda carry: carry) -> Samples:
    """Scans step(carry, i, s, r) -> (carry, x0) over neighboring levels (s, r); `position` finds x in the carry.

    Raises:
        ValueError: a grid that no sampler can follow.
    """
    return follow(step, start, checked(sigmas), trajectory, position)


def follow(step: Callable, start, sigmas: Array, trajectory, position=lambda carry: carry) -> Samples:
    """`integrate` over any levels, up or down."""
    shown = of_samples(trajectory)

    def body(carry, level):
        carry, x0 = step(carry, *level)
        return carry, (position(carry)[shown], x0[shown]) if trajectory else None

    levels = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])
    last, path = jax.lax.scan(body, start, levels)
    if not trajectory:
        return position(last)
    return position(last), Trajectory(jnp.concatenate([position(start)[None, shown], path[0]]), path[1])


def of_samples(trajectory: bool | int) -> slice:
    """Of which samples of a batch `trajectory` asks the path: all for True, the first few for a number.

    Raises:
        ValueError: neither.
    """
    if isinstance(trajectory, bool) or getattr(trajectory, "dtype", None) == jnp.bool_:  # NumPy's has no index
        return slice(None if trajectory else 0)
    try:
        first = operator.index(trajectory)
    except TypeError:
        first = -1
    if first < 0:
        raise ValueError(f"trajectory={trajectory!r} is not allowed: give True, or of how many samples to keep it")
    return slice(first)


def step_noise(keys, i, like):
    """Noise of step i, example by example."""
    check_keys(keys, like)
    return normal(jax.vmap(lambda key: jax.random.fold_in(key, i))(keys), like)


def init_noise(keys: Array, shape: tuple[int, ...], sigma: float | Array) -> Array:
    """Starting points [batch, *shape] of level sigma: sigma·N(0, 1), the i-th from key i.

    Raises:
        ValueError: a single key.
    """
    if not jnp.shape(keys):
        raise ValueError("one key was given, expected one an example: jax.random.split(key, batch)")
    return sigma * jax.vmap(lambda key: jax.random.normal(key, shape, jnp.result_type(float)))(keys)
