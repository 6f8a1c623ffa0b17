"""Traces of Jacobians by probes: the exact one, and Hutchinson's estimates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Trace = Callable[[Array, Array], Array]  # (key, x [*data]) -> probes [k, *data] with E[sum of v·v^T] = 1


def exact_trace() -> Trace:
    """The trace itself: a probe along every coordinate, so as many products with the Jacobian as x has values."""
    return lambda key, x: jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)


def hutchinson(n: int = 1, noise: Callable = jax.random.rademacher) -> Trace:
    """Hutchinson's unbiased estimate, the mean of v·Jv over n random probes; arXiv:1810.01367, Eq. 7.

    With Rademacher noise its variance is 2/n times the sum of the squares off the diagonal of a symmetric J; Gaussian
    noise adds those on it.

    Args:
        n: how many probes.
        noise: (key, shape, dtype) -> independent values of mean 0 and variance 1, such as `jax.random.normal`.

    Raises:
        ValueError: no probe.
    """
    if not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"n of {n} is not allowed, expected a whole number of probes, at least 1")
    return lambda key, x: noise(key, (n, *x.shape), x.dtype) * n**-0.5


def value_and_trace(f: Callable[[Array], Array], x: Array, probes: Array) -> tuple[Array, Array]:
    """f(x) and the sum of v·(df/dx)v over the probes [k, *data]: one pass forward, and a tangent for each probe."""
    value, pushed = jax.vmap(lambda v: jax.jvp(f, (x,), (v,)), out_axes=(None, 0))(probes)
    return value, jnp.sum(probes * pushed)
