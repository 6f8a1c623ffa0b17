"""Importance sampling of timesteps by the losses seen there: a record, and the functions that read and write it."""

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check_number
from diffax.process import pytree


@pytree
class LossHistory:
    """The last losses of every timestep: `losses` [T, n], the newest last, and `count` int32 [T] of all ever seen."""

    losses: Array
    count: Array


def loss_history(steps: int, length: int = 10) -> LossHistory:
    """A history of T = `steps` timesteps in which nothing was seen yet; 10 losses each in arXiv:2102.09672, Sec. 3.3.

    Raises:
        ValueError: fewer than one of either.
    """
    if steps < 1 or length < 1:
        raise ValueError(f"a history of {steps} steps and {length} losses each is not allowed, expected at least 1")
    return LossHistory(jnp.zeros((steps, length)), jnp.zeros(steps, jnp.int32))


def observe(history: LossHistory, t: Array, loss: Array) -> LossHistory:
    """The history with the `loss` [batch] of timesteps `t` [batch] pushed in, in the order of the batch.

    Under `pmap` or `shard_map` gather both over the devices first, so that every device keeps the same history.
    """

    def push(history, seen):
        i, value = seen
        row = jnp.roll(history.losses[i], -1).at[-1].set(value)
        return LossHistory(history.losses.at[i].set(row), history.count.at[i].add(1)), None

    seen = (jnp.round(t).astype(jnp.int32), jax.lax.stop_gradient(loss).astype(history.losses.dtype))
    return jax.lax.scan(push, history, seen)[0]


def time_probabilities(history: LossHistory, uniform: float = 0.001) -> Array:
    """p_t [T] in proportion to √E[L_t²], arXiv:2102.09672, Eq. 18; even until each timestep has a full row of losses.

    Args:
        uniform: share of the draws that is even still, so that a timestep whose loss was 0 is seen again; that of the
            paper's code.

    Raises:
        ValueError: a `uniform` that is no share.
    """
    check_number(lambda share: 0 <= share <= 1, "it is a share of the draws; give a number in [0, 1]", uniform=uniform)
    steps, length = history.losses.shape
    root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))
    total = jnp.sum(root)
    learned = (1.0 - uniform) * root / jnp.where(total > 0, total, 1.0) + uniform / steps
    return jnp.where((jnp.min(history.count) >= length) & (total > 0), learned, 1.0 / steps)


def draw_times(history: LossHistory, keys: Array, uniform: float = 0.001) -> tuple[Array, Array]:
    """(t, weight), both [batch]: timesteps from p_t, and 1/(T·p_t).

    The mean of weight·L over these t is the mean of L over even t, for any history; arXiv:2102.09672, Eq. 18.
    """
    p = time_probabilities(history, uniform)
    i = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(p)))(keys)
    return i.astype(p.dtype), 1.0 / (len(p) * p[i])
