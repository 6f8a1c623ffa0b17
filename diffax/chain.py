"""The pieces of a variational bound that training and measuring share: its terms, its decoders, a step's divergence."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Decoder = Callable[[Array, Array, Array], Array]  # (x0, its estimate from the least noisy level, std) -> log p [batch]


class Bound(NamedTuple):
    """The terms of the bound on -log p(x0), each [batch] in nats; `total` is their sum."""

    prior: Array
    diffusion: Array
    reconstruction: Array
    total: Array


def count_steps(process, steps: int | None) -> int:
    """T of a chain: `steps`, or a DDPM's own where that is None.

    Raises:
        ValueError: fewer than two levels; no steps for a process in continuous time.
    """
    count = getattr(process, "steps", None) if steps is None else steps
    if count is None or count < 2:
        raise ValueError(f"steps={steps} for {type(process).__name__}: give the number of levels, at least 2")
    return count


def gaussian(x0: Array, estimate: Array, std: Array) -> Array:
    """The decoder of continuous data: log N(x0; estimate, std²), std one number or one for each of x0's."""
    log_p = -0.5 * ((x0 - estimate) / std) ** 2 - (0.5 * jnp.log(2.0 * jnp.pi) + jnp.log(std)).astype(x0.dtype)
    return jnp.sum(log_p, axis=tuple(range(1, x0.ndim)))


def discretized(levels: int = 256) -> Decoder:
    """The decoder of integers scaled to x0 = 2·raw/(levels - 1) - 1: the mass of each cell, arXiv:2006.11239, Eq. 13.

    The cells of the least and of the largest integer reach to infinity.

    Raises:
        ValueError: fewer than two levels.
    """
    _check_levels(levels)
    half = 1.0 / (levels - 1)

    def log_mass(x0, estimate, std):
        above = jnp.where(x0 > 1.0 - half, jnp.inf, (x0 + half - estimate) / std)
        below = jnp.where(x0 < half - 1.0, -jnp.inf, (x0 - half - estimate) / std)
        return jnp.sum(_log_normal_mass(below, above), axis=tuple(range(1, x0.ndim)))

    return log_mass


def categorical(levels: int = 256) -> Decoder:
    """The decoder of the same integers by N(level; estimate, std²), normalized over the levels, as in arXiv:2107.00630.

    It holds `levels` numbers for each of x0's.

    Raises:
        ValueError: fewer than two levels.
    """
    _check_levels(levels)

    def log_p(x0, estimate, std):
        values = jnp.linspace(-1.0, 1.0, levels, dtype=x0.dtype)
        std = jnp.broadcast_to(std, x0.shape)
        every = -0.5 * ((values - estimate[..., None]) / std[..., None]) ** 2
        own = -0.5 * ((x0 - estimate) / std) ** 2
        return jnp.sum(own - jax.nn.logsumexp(every, axis=-1), axis=tuple(range(1, x0.ndim)))

    return log_p


def prior_divergence(x0: Array, alpha: Array, sigma: Array, prior_std: float) -> Array:
    """KL of x_t at t_max, N(alpha·x0, sigma²), from the prior N(0, prior_std²), [batch] in nats."""
    # its part without x0 is nearly 0: no logarithm of nearly 1
    excess = (sigma / prior_std) ** 2 - 1.0
    parts = (alpha / prior_std * x0) ** 2 + (excess - jnp.log1p(excess))
    return 0.5 * jnp.sum(parts, axis=tuple(range(1, x0.ndim)))


def large_over_small(nearer: Array, logsnr: Array) -> Array:
    """log of the large over the small variance of a reverse step from `logsnr` to `nearer`: (1 + snr(s))/(1 + snr(t)).

    Of beta over beta-tilde, arXiv:2006.11239, Sec. 3.2, in a variance-preserving chain.
    """
    return jax.nn.softplus(nearer) - jax.nn.softplus(logsnr)


def step_divergence(square: Array, wider: Array, nearer: Array, logsnr: Array) -> Array:
    """KL of the posterior of x_s from a step's Gaussian around the estimate's mean, for each number of x0, in nats.

    The posterior's mean moves with x0 by (1 - snr(t)/snr(s)), in units of its variance, so their distance squared over
    that variance is (snr(s) - snr(t))·(x0 - estimate)²; arXiv:2107.00630, Eq. 13-14.

    Args:
        square: (x0 - estimate)². wider: log of the step's variance over the posterior's.
        nearer, logsnr: log snr of s and of t, the snr of s being the larger.
    """
    drop = jnp.exp(logsnr) * jnp.expm1(nearer - logsnr)
    # of two Gaussians of variances v and v·exp(wider)
    return 0.5 * (wider + jnp.expm1(-wider) + jnp.exp(-wider) * drop * square)


def decoder_std(v: Array, sigma: Array, nearer: Array, logsnr: Array) -> Array:
    """Of the step to data, from the first level: sigma, √beta_1, at v = 1, the posterior's of the step above at v = 0.

    In L_0, which has no small variance, that of the next step takes its place, as in arXiv:2102.09672's own code.

    Args:
        v: share of the large variance. sigma: at the first level. nearer, logsnr: of the first level and the next.
    """
    # log(r²·(s² - r²)/s²·alpha(r)²) less log(r²·alpha(r)²), r the first level
    small = jnp.log(-jnp.expm1(logsnr - nearer))
    return sigma * jnp.exp(0.5 * (1.0 - v) * small)


def _check_levels(levels):
    if not levels >= 2:
        raise ValueError(f"levels of {levels} is not allowed, expected at least 2")


def _log_normal_mass(below, above):
    """log(Phi(above) - Phi(below)), from the tail where the two are small."""
    flip = below + above > 0
    low, high = jnp.where(flip, -above, below), jnp.where(flip, -below, above)
    log_low, log_high = jax.scipy.special.log_ndtr(low), jax.scipy.special.log_ndtr(high)
    return log_high + jnp.log(-jnp.expm1(log_low - log_high))
