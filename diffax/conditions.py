"""What a network is told beside x and its noise level: `cond`, one dictionary of arrays with a leading batch axis.

    label   int   [batch]                     a class; the null is the number of classes
    text    int   [batch, length]             tokens, padded with 0; the null is the empty text's
    text    float [batch, length, features]   embeddings of an encoder that is not trained
    image   float [batch, h, w, channels]     a low-resolution image
    any     float [batch, features]           any other name: a vector, such as an image's embedding

Beside a condition of floats there may be `<name>_mask`: bool [batch, length] says which embeddings are there, bool
[batch] which examples have the image or the vector at all. The null of these has a mask that is False.

`nulls` is a dictionary of the same names with the arrays, of one example, that say nothing.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import expand
from diffax.known import holds

Cond = Mapping[str, Array]
MASK = "_mask"


def kinds(cond: Cond) -> list[str]:
    """The names of the conditions, without their masks."""
    return [name for name in cond if not (name.endswith(MASK) and name.removesuffix(MASK) in cond)]


def repeat(nulls: Cond, batch: int) -> dict[str, Array]:
    """The conditions of `batch` examples that are told nothing."""
    return {name: jnp.broadcast_to(jnp.asarray(null), (batch, *jnp.shape(null))) for name, null in nulls.items()}


def drop(cond: Cond, nulls: Cond, keys: Array, together: float = 0.0, each: float = 0.0) -> dict[str, Array]:
    """Training's conditions: some replaced by what says nothing, for guidance; arXiv:2207.12598, Algorithm 1.

    Args:
        cond: arrays [batch, ...].
        keys: one key an example, [batch].
        together: probability with which an example loses all of its conditions.
        each: probability with which, besides, it loses each one on its own (as arXiv:2211.09800, Sec. 3.2.1, needs it
            to guide by several).
    """

    names = kinds(cond)

    def lost(key):
        gone = jnp.broadcast_to(jax.random.bernoulli(key, together), (len(names),))
        if holds(lambda each: each == 0, each):
            return gone
        return gone | jax.random.bernoulli(jax.random.fold_in(key, 1), each, (len(names),))

    dropped = dict(zip(names, jax.vmap(lost)(keys).T))

    def one(name, value):
        null = jnp.asarray(nulls[name], value.dtype)
        return jnp.where(expand(dropped[name if name in dropped else name.removesuffix(MASK)], value), null, value)

    return {name: one(name, value) for name, value in cond.items()}
