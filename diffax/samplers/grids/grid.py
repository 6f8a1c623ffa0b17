"""What every grid is made of, and what none may be."""

import itertools
import math
import operator
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import numbers

Sigmas = Annotated[Array, "noise levels [n + 1], decreasing, the last 0"]


def check_sigmas(sigmas) -> None:
    """Refuses a grid that no sampler can follow.

    Of one that is traced only the shape is known. So a jitted run may end above 0, for another denoiser to go on.

    Raises:
        ValueError: not a vector of at least two finite, decreasing levels, the last of them 0.
    """
    if jnp.ndim(sigmas) != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas must be a vector of at least 2 levels, got shape {jnp.shape(sigmas)}")
    values = numbers(sigmas)
    if values is None:
        return
    for i, (s, r) in enumerate(itertools.pairwise(values)):
        if not (s > r and s < float("inf")):
            raise ValueError(f"sigmas must be finite and decrease, got {s} then {r} at step {i}")
    if values[-1] != 0.0:
        raise ValueError(f"sigmas must end in 0, got {values[-1]}: append 0")


def checked(sigmas) -> Array:
    """The grid as an array, once `check_sigmas` has passed it."""
    check_sigmas(sigmas)
    return jnp.asarray(sigmas)


def check_options(n: int, **numbers) -> None:
    """Refuses the options of a grid that cannot be meant. A number that is traced passes: its value is not known.

    Args:
        numbers: by name, what must be finite and above 0; `hi` must be above `lo` too, unless there is one level.

    Raises:
        ValueError: the option, its value, and what is allowed.
    """
    if not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"n of {n} is not allowed, expected a whole number of levels, at least 1")
    known = {name: float(value) for name, value in numbers.items() if not isinstance(value, jax.core.Tracer)}
    for name, value in known.items():
        if not 0.0 < value < math.inf:
            raise ValueError(f"{name} of {value} is not allowed, expected a finite number above 0")
    lo, hi = known.get("lo", 0.0), known.get("hi", math.inf)
    if lo > hi or (lo == hi and n > 1):
        raise ValueError(f"hi of {hi} is not allowed, expected more than lo, which is {lo}")


def between(n: int, start, stop) -> Array:
    """[n] numbers from start to stop, evenly spaced and exact at both ends; start alone where n is 1."""
    return _between(operator.index(n), start, stop)


@partial(jax.jit, static_argnums=0, inline=True)  # one program where a grid is made outside of any, as most are
def _between(n, start, stop):
    # shares from the host: a compiled division is a product with the reciprocal, which misses 1 at the end
    gaps = max(n - 1, 1)
    there, left = real([i / gaps for i in range(n)]), real([(gaps - i) / gaps for i in range(n)])
    return left * start + there * stop


def real(number) -> Array:
    """A number, traced or not, in the precision that is in force."""
    return jnp.asarray(number, jnp.result_type(float))


@partial(jax.jit, inline=True)
def then_zero(levels: Array) -> Sigmas:
    """`levels` [n] and a last one of 0."""
    return jnp.concatenate([levels, jnp.zeros(1, levels.dtype)])
