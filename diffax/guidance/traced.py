"""What is known of a value when a function of it is traced spares a network; else its value does, as it runs."""

from functools import partial

import jax
import jax.numpy as jnp

from diffax.known import holds, numbers


def always(test, *values):
    """Whether a test holds for every example: a Python bool where the values are known, else a traced one.

    False where the values are differentiated: an estimate that a weight of 0 hides is not in the value, but it is the
    derivative with respect to that weight.
    """
    if any(numbers(value) is None for value in values):
        return _holds(test, *values) > 0
    return holds(test, *values)


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
