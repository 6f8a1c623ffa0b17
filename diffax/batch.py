"""What belongs to one example of a batch [batch, *data]: its number, its key, its noise, its inner product."""

import jax
import jax.numpy as jnp
from jax import Array


def expand(a: Array, like: Array) -> Array:
    """Appends axes to the per-example `a` [batch] until it broadcasts against `like` [batch, *data]."""
    a = jnp.asarray(a)
    return a.reshape(a.shape + (1,) * (jnp.ndim(like) - a.ndim))


def each(value: float | Array, like: Array) -> Array:
    """One value an example [batch], in the floats of `like`."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape[:1])


def dot(a: Array, b: Array) -> Array:
    """Each example's inner product, [batch]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def check_keys(keys: Array, like: Array) -> None:
    """Refuses keys that are not one an example of `like` [batch, *data].

    Raises:
        ValueError: both shapes, and how to make such keys.
    """
    if jnp.shape(keys)[:1] != like.shape[:1]:
        n = len(like)
        raise ValueError(
            f"keys of shape {jnp.shape(keys)} for a batch of {n}: one key an example, jax.random.split(key, {n})"
        )


def split_keys(keys: Array, like: Array) -> tuple[Array, Array]:
    """Two new keys of each example's key, as two arrays [batch]."""
    check_keys(keys, like)
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def normal(keys: Array, like: Array) -> Array:
    """N(0, 1) in the shape and the floats of `like` [batch, *data], example i from key i."""
    check_keys(keys, like)
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], like.dtype))(keys)
