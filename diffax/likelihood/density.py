"""The log-density of data through the probability-flow ODE, its latents, and bits per dimension."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import check_keys
from diffax.chain import gaussian
from diffax.likelihood.trace import Trace, hutchinson, value_and_trace
from diffax.prediction import Denoiser
from diffax.samplers.adaptive import check_solver, solve
from diffax.samplers.grids.grid import check_options

Prior = Callable[[Array, Array], Array]  # (latent [batch, *data] at level hi, hi) -> its log-density [batch], nats


class LogProb(NamedTuple):
    """`log_prob` [batch] in nats, `latent` [batch, *data] at level hi, and the solver's `steps` [batch]."""

    log_prob: Array
    latent: Array
    steps: Array


def noise_prior(latent: Array, hi: float | Array) -> Array:
    """N(0, hi²): noise alone; the prior of the VE and EDM processes, arXiv:2011.13456, App. C."""
    return gaussian(latent, 0.0, jnp.asarray(hi, latent.dtype))


def process_prior(process, std: float = 1.0) -> Prior:
    """The prior N(0, std²) of a process on x_t at noise level hi, which is N(0, (std/alpha)²) on x = x_t/alpha.

    With std 1 that of VP, SubVP, DDPM, Cosine and FlowMatching; its variance on x is hi² + 1 where alpha² + sigma² = 1.
    """

    def log_density(latent, hi):
        hi = jnp.asarray(hi, latent.dtype)
        return gaussian(latent, 0.0, std / process.alpha(process.time(hi)))

    return log_density


def log_prob(
    denoise: Denoiser,
    x: Array,
    keys: Array,
    *,
    lo: float | Array,
    hi: float | Array,
    trace: Trace = hutchinson(),  # noqa: B008 - a pure function
    prior: Prior = noise_prior,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> LogProb:
    """The log-density of the probability-flow ODE's samples at level lo, arXiv:2011.13456, Sec. 4.3 and App. D.2.

    log p(x) = log prior(latent) + integral of div(x - D(x, sigma)) over log sigma from lo to hi, along the flow from x.
    The divergence is d less the trace of D's Jacobian. That of data N(0, 1), d - d/(1 + sigma²), is integrated in
    closed form, and by the solver only the difference, which is nearly 0 at both ends.

    The density is that of data plus noise of level lo, at x as it is: for a lo far below the finest scale s of the data
    it differs from the data's own by some d·lo²/(2s²) nats. It is a density of x = x_t/alpha; that of x_t is lower by
    d·log alpha.

    The network is called on a batch of one under vmap, so what `denoise` closes over must not have a batch axis. With
    conditions: `jax.vmap(lambda x, key, label: log_prob(given(label), x[None], key[None], lo=lo, hi=hi))`.

    Args:
        x: data [batch, *data].
        keys: one PRNG key an example, [batch]: for its probes, the same ones all along its path.
        lo, hi: the levels between which the ODE is solved, traced; where the data and where the prior are.
        trace: `exact_trace()` or `hutchinson(n, noise)`.
        prior: the log-density at level hi; `process_prior(process)` for a process's own.
        rtol, atol: the error allowed in a step, of x (as a root mean square) and of the log-density each.
        max_steps: the most steps of an example; one that needs more is NaN.

    Raises:
        ValueError: levels, tolerances or keys that cannot be meant.
    """
    check_options(2, lo=lo, hi=hi)
    check_solver(rtol, atol, max_steps)
    check_keys(keys, x)
    sigmas = _levels(lo, hi, x)

    def one(x, key):
        probes = trace(key, x)

        def slope(state, sigma):
            x0, captured = value_and_trace(lambda x: _alone(denoise, x, sigma), state[0], probes)
            return state[0] - x0, x.size / (1.0 + sigma**2) - captured

        start = (x, jnp.zeros((), x.dtype))
        return solve(slope, start, sigmas, rtol=rtol, atol=atol, max_steps=max_steps)

    (latents, differences), steps = jax.vmap(one)(x, keys)
    latent = latents[:, 0]
    closed = 0.5 * math.prod(x.shape[1:]) * (jnp.log1p(sigmas[1] ** 2) - jnp.log1p(sigmas[0] ** 2))
    return LogProb(prior(latent, sigmas[1]) + closed + differences[:, 0], latent, steps)


def encode(
    denoise: Denoiser,
    x: Array,
    *,
    lo: float | Array,
    hi: float | Array,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Array:
    """The latent [batch, *data] at level hi of x at level lo, along the probability-flow ODE; options of `log_prob`."""
    check_options(2, lo=lo, hi=hi)
    return _flow(denoise, x, _levels(lo, hi, x), rtol, atol, max_steps)


def decode(
    denoise: Denoiser,
    latent: Array,
    *,
    lo: float | Array,
    hi: float | Array,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> Array:
    """The inverse of `encode`: x [batch, *data] at level lo of a latent at level hi."""
    check_options(2, lo=lo, hi=hi)
    return _flow(denoise, latent, _levels(lo, hi, latent)[::-1], rtol, atol, max_steps)


def bits_per_dim(log_prob: Array, shape: tuple[int, ...], levels: int | None = 256) -> Array:
    """Bits per dimension of integers 0 … levels - 1 from the log-density of their dequantized x in [-1, 1].

    For x = 2(raw + u)/levels - 1 with u uniform on (0, 1), as `diffax.data.batches(dequantize=True)` makes it, the
    density of raw + u is that of x times 2/levels in each dimension, and its mean log bounds the log-probability of raw
    from below, arXiv:1511.01844, Sec. 3.1.

    Args:
        log_prob: nats, [batch] or a mean.
        shape: of an example, [*data].
        levels: None where log_prob is the log-probability of the integers already, as of `vlb` with `discretized`.

    Raises:
        ValueError: fewer than two levels.
    """
    if levels is not None and not levels >= 2:
        raise ValueError(f"levels of {levels} is not allowed, expected at least 2, or None for a log-probability")
    return -log_prob / (math.prod(shape) * math.log(2.0)) + (math.log2(levels / 2) if levels else 0.0)


def _flow(denoise, x, sigmas, rtol, atol, max_steps):
    check_solver(rtol, atol, max_steps)

    def one(x):
        options = dict(rtol=rtol, atol=atol, max_steps=max_steps)
        return solve(lambda x, sigma: x - _alone(denoise, x, sigma), x, sigmas, **options)[0][0]

    return jax.vmap(one)(x)


def _alone(denoise, x, sigma):
    x0 = denoise(x[None], sigma)
    if x0.shape != (1, *x.shape):
        raise ValueError(
            f"the denoiser returned shape {x0.shape} for a batch of one of shape {(1, *x.shape)}: what it closes over "
            "must have no batch axis; put jax.vmap around the call, over examples and conditions"
        )
    return x0[0]


def _levels(lo, hi, like):
    return jnp.stack([jnp.asarray(lo, like.dtype), jnp.asarray(hi, like.dtype)])
