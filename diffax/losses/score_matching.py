"""Sliced score matching: the score of data without its noise, from random projections."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import check_keys, dot

Score = Callable[[Array], Array]  # x [batch, *data] -> ∇ log p(x) [batch, *data], row by row


def sliced_score_matching(score: Score, x: Array, keys: Array, n: int = 1, variance_reduced: bool = False) -> Array:
    """v·(∇s·v) + ½·(v·s)² of each example, [batch], the mean over n random v; arXiv:1905.07088, Eq. 7.

    In expectation it is ½·E‖s - ∇ log p‖² but for a constant of the data. Each v has independent signs for entries
    (Rademacher), and one more pass of forward differentiation. Unlike `denoising_loss` it sums over the data's axes.

    Args:
        score: x -> s(x), row i of s from row i of x; for an energy, `energy_score(energy)`.
        x: data [batch, *data]. keys: one PRNG key an example, [batch].
        n: projections an example.
        variance_reduced: ½·‖s‖², the mean of ½·(v·s)² over v, in its place; Eq. 8.

    Raises:
        ValueError: keys, shapes or a number of projections that cannot be meant.
    """
    check_keys(keys, x)
    if n < 1:
        raise ValueError(f"n={n} projections is not allowed, expected at least 1")

    def slice_at(k):
        v = jax.vmap(lambda key: jax.random.rademacher(jax.random.fold_in(key, k), x.shape[1:], x.dtype))(keys)
        s, turned = jax.jvp(score, (x,), (v,))
        if s.shape != x.shape:
            raise ValueError(f"the score has shape {s.shape} for x of shape {x.shape}: they must be the same")
        along = dot(v, turned)
        square = dot(s, s) if variance_reduced else dot(v, s) ** 2
        return along + 0.5 * square

    return jnp.mean(jax.vmap(slice_at)(jnp.arange(n)), axis=0)


def energy_score(energy: Callable[[Array], Array]) -> Score:
    """The score -∇E(x) of an energy-based model p(x) ~ exp(-E(x)), for E from [batch, *data] to [batch]."""
    return jax.grad(lambda x: -jnp.sum(energy(x)))
