"""What is known of a value when a function of it is traced: it is refused, or spares a network, as early as can be."""

import math
from functools import partial

import jax
import jax.numpy as jnp


def check(allowed, remedy, **values):
    """Refuses values for which `allowed` does not hold; those that are traced pass.

    Raises:
        ValueError: the names, the values and the remedy.
    """
    if not (known(allowed, *values.values()) or any(numbers(value) is None for value in values.values())):
        named = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"{named}: {remedy}")


def check_scale(scale):
    """Refuses NaN and infinity."""
    check(math.isfinite, "every sample would be NaN; give a finite scale", scale=scale)


def numbers(value):
    """A number, array or list as a flat list of Python numbers; None where it is traced."""
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    flat = (leaf.ravel().tolist() if hasattr(leaf, "ravel") else [leaf] for leaf in jax.device_get(leaves))
    return [number for part in flat for number in part]


def known(test, *values):
    """Whether the values are known when traced, and a test of numbers holds for all of them."""
    lists = [numbers(value) for value in values]
    if any(one is None for one in lists):
        return False
    n = max(map(len, lists))
    return all(test(*row) for row in zip(*(one * (n // max(len(one), 1)) for one in lists)))


def always(test, *values):
    """Whether a test holds for every example: a Python bool where the values are known, else a traced one.

    False where the values are differentiated: an estimate that a weight of 0 hides is not in the value, but it is the
    derivative with respect to that weight.
    """
    if any(numbers(value) is None for value in values):
        return _holds(test, *values) > 0
    return known(test, *values)


def each(value, x):
    """One value an example [batch], in the floats of x."""
    return jnp.broadcast_to(jnp.asarray(value, x.dtype), x.shape[:1])


def expand(a, like):
    """Appends axes to the per-example `a` [batch] until it broadcasts against `like` [batch, *data]."""
    return a.reshape(a.shape + (1,) * (jnp.ndim(like) - a.ndim))


def either(first, one, other, x, sigma):
    """one(x, sigma) if `first`, else other(x, sigma); only the one taken is run."""
    if isinstance(first, bool):
        return one(x, sigma) if first else other(x, sigma)
    return jax.lax.cond(first, one, other, x, sigma)


def unless(idle, network, x, sigma):
    """network(x, sigma); where it is idle, zeros without running it."""

    def run(x, sigma):
        return network(x, sigma).astype(x.dtype)

    return either(idle, lambda x, sigma: jnp.zeros_like(x), run, x, sigma)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _holds(test, *values):
    return jnp.all(test(*values)).astype(jnp.float32)  # a float: what is differentiated needs a tangent


@_holds.defjvp
def _(test, primals, tangents):
    return jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
