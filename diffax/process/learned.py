"""The learned noise schedule of variational diffusion models: a process whose parameters are trained."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffax.process.gaussian import Process, pytree


class Monotone(NamedTuple):
    """The parameters of an increasing function of t, the three layers of arXiv:2107.00630, App. H, [n] but for `w1` [].

    w1·t + Σ w3·sigmoid(w2·w1·t + b2), with softplus of each w for positive weights. The biases of the other two
    layers are left out: those of the first can be read into b2, and the ends of the schedule take out a constant.
    """

    w1: Array
    w2: Array
    b2: Array
    w3: Array


@pytree
class LearnedSchedule(Process):
    """The variance-preserving process of gamma(t) = -logsnr, learned; arXiv:2107.00630, Eq. 3-5 and App. H.

    gamma rises from gamma_min at t = 0 to gamma_max at t = 1: along `network`, rescaled, or in a straight line where
    there is none. All three are leaves, for an optimizer to train along with the network by `losses.vdm_loss`. Tell
    the network the level and not t, which comes to mean another level: `prediction.eps(c_noise=quarter_log_nsr)`.
    """

    gamma_min: float = -13.3  # the ends at which the paper's training starts
    gamma_max: float = 5.0
    network: Monotone | None = None

    def _gamma(self, t):
        share = t
        if self.network is not None:
            low, high = (_increasing(self.network, jnp.asarray(end, t.dtype)) for end in (0.0, 1.0))
            share = (_increasing(self.network, t) - low) / (high - low)
        return self.gamma_min + (self.gamma_max - self.gamma_min) * share

    def alpha(self, t):
        """√sigmoid(-gamma)."""
        return jnp.sqrt(jax.nn.sigmoid(-self._gamma(jnp.asarray(t))))

    def sigma(self, t):
        """√sigmoid(gamma)."""
        return jnp.sqrt(jax.nn.sigmoid(self._gamma(jnp.asarray(t))))

    def nsr(self, t):
        """exp(½·gamma)."""
        return jnp.exp(0.5 * self._gamma(jnp.asarray(t)))

    def logsnr(self, t):
        """-gamma."""
        return -self._gamma(jnp.asarray(t))


def learned_schedule(
    n: int = 1024, gamma_min: float = -13.3, gamma_max: float = 5.0, steepness: float = 10.0
) -> LearnedSchedule:
    """A schedule to train, of arrays: it starts near a straight line, with n steps spread evenly over [0, 1].

    Args:
        n: width of the network.
        steepness: slope of its sigmoids at the start.

    Raises:
        ValueError: an empty network, or ends in the wrong order.
    """
    if n < 1 or not gamma_min < gamma_max or not steepness > 0:
        raise ValueError(
            f"n={n}, gamma_min={gamma_min}, gamma_max={gamma_max}, steepness={steepness} is not allowed: expected n of "
            "at least 1, gamma_min below gamma_max, a positive steepness"
        )
    centers = (np.arange(n) + 0.5) / n
    network = Monotone(_raw(1.0), _raw(np.full(n, steepness)), -steepness * centers, _raw(np.full(n, 1.0 / n)))
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda p: jnp.asarray(np.asarray(p, dtype)), LearnedSchedule(gamma_min, gamma_max, network))


@partial(jax.jit, inline=True)  # one program where it is called outside of any
def _increasing(network, t):
    w1, w2, w3 = (jax.nn.softplus(w) for w in (network.w1, network.w2, network.w3))
    line = w1 * t
    return line + jnp.sum(w3 * jax.nn.sigmoid(w2 * line[..., None] + network.b2), axis=-1)


def _raw(w):
    """The inverse of softplus, on the host."""
    return w + np.log(-np.expm1(-w))
