"""The variational bound on -log p(x0) and its three terms, in discrete and in continuous time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import dot, expand, split_keys
from diffax.chain import (
    Bound,
    Decoder,
    count_steps,
    decoder_std,
    gaussian,
    large_over_small,
    prior_divergence,
    step_divergence,
)
from diffax.prediction import Denoiser
from diffax.samplers.path import step_noise


def vlb(
    denoise: Denoiser,
    process,
    x0: Array,
    keys: Array,
    *,
    steps: int | None = None,
    draws: int | None = None,
    variance: float | Callable[[Array, Array], Array] = 1.0,
    decoder: Decoder = gaussian,
    prior_std: float = 1.0,
) -> Bound:
    """The bound of a chain of T levels, arXiv:2006.11239, Eq. 5: L_T, the sum of L_1 … L_{T-1}, and L_0.

    The reverse steps have the mean of the posterior with x0 put at the estimate (Eq. 7), and a fixed variance; with
    the small one the sum is ½·Σ(snr(s) - snr(t))·‖x0 - D‖² over neighbors s < t, arXiv:2107.00630, Eq. 13-14.

    Args:
        x0: clean data [batch, *data].
        keys: one PRNG key an example, [batch]; one draw of noise for each level.
        steps: T, evenly spaced over the process's times; None takes a DDPM's own.
        draws: how many of the T - 1 steps to draw, in even strata, each with its share of the sum; None takes all.
        variance: as of `samplers.ancestral`: 1 is the large one, beta, the nearer to the optimum for data spread over
            much more than a step's noise; 0 is the small one, the posterior's. A function (x, sigma) -> v [batch,
            *data] where a network has learned it, of `prediction.learned_variance`.
        decoder: `gaussian` for continuous data, `discretized(levels)` for integers. Its std is sigma(t_min), for a DDPM
            √beta_1.
        prior_std: standard deviation of the prior on x_t at t_max; sigma_max for VE and EDM.

    Raises:
        ValueError: numbers or keys that cannot be meant.
    """
    count = count_steps(process, steps)
    _check_draws(draws)
    noise_keys, level_keys = split_keys(keys, x0)
    logsnr = process.logsnr(_times(process, count, x0.dtype))
    n = count - 1 if draws is None else draws
    share = variance if callable(variance) else lambda x, sigma: variance

    def term(k):
        i = jnp.full(len(x0), k + 1) if draws is None else 1 + _step(_share(level_keys, k, n, x0.dtype), count - 1)
        nearer, level = (expand(logsnr[j], x0) for j in (i - 1, i))
        sigma = jnp.exp(-0.5 * logsnr[i])
        x = x0 + expand(sigma, x0) * step_noise(noise_keys, k + 1, x0)
        wider = share(x, sigma) * large_over_small(nearer, level)
        divergence = step_divergence((x0 - denoise(x, sigma)) ** 2, wider, nearer, level)
        return jnp.sum(divergence, axis=tuple(range(1, x0.ndim)))

    diffusion = _sum(term, n, x0) * ((count - 1) / n)

    def last_std(x, level, sigma):
        # a variance that is learned is that of the step to data too
        return decoder_std(variance(x, level), sigma, logsnr[0], logsnr[1]) if callable(variance) else sigma

    return _bound(denoise, process, x0, noise_keys, diffusion, decoder, prior_std, last_std)


def vlb_continuous(
    denoise: Denoiser,
    process,
    x0: Array,
    keys: Array,
    *,
    draws: int = 128,
    decoder: Decoder = gaussian,
    prior_std: float = 1.0,
) -> Bound:
    """The bound in the limit of infinitely many steps between t_min and t_max, arXiv:2107.00630, Eq. 17-18.

    ½·∫‖x0 - D‖² d snr = ½·∫snr·‖x0 - D‖² d logsnr: of the process only the two ends count. An unbiased estimate from
    `draws` levels, one in each of as many equal parts of logsnr.

    Args:
        draws: how many levels; the other arguments are those of `vlb`.
    """
    _check_draws(draws)
    noise_keys, level_keys = split_keys(keys, x0)
    first, last = process.logsnr(_times(process, 2, x0.dtype))

    def term(k):
        logsnr = first + (last - first) * _share(level_keys, k, draws, x0.dtype)
        return 0.5 * jnp.exp(logsnr) * _squared_error(denoise, x0, logsnr, noise_keys, k + 1)

    diffusion = _sum(term, draws, x0) * ((first - last) / draws)
    return _bound(denoise, process, x0, noise_keys, diffusion, decoder, prior_std)


def _bound(denoise, process, x0, keys, diffusion, decoder, prior_std, std=lambda x, level, sigma: sigma):
    """The terms at the two ends, and all three together; `std` of the decoder from (x, level, sigma(t_min))."""
    first, last = _times(process, 2, x0.dtype)
    prior = prior_divergence(x0, process.alpha(last), process.sigma(last), prior_std)
    level = process.nsr(first)
    x = x0 + level * step_noise(keys, 0, x0)
    reconstruction = -decoder(x0, denoise(x, level), std(x, level, process.sigma(first)))
    return Bound(prior, diffusion, reconstruction, prior + diffusion + reconstruction)


def _squared_error(denoise, x0, logsnr, keys, i):
    """‖x0 - D(x0 + sigma·eps, sigma)‖² [batch] at levels [batch], with the noise of step i."""
    sigma = jnp.exp(-0.5 * logsnr)
    error = x0 - denoise(x0 + expand(sigma, x0) * step_noise(keys, i, x0), sigma)
    return dot(error, error)


def _sum(term, n, like):
    """Σ term(k) [batch] over k = 0 … n - 1."""
    return jax.lax.scan(lambda total, k: (total + term(k), None), jnp.zeros(len(like), like.dtype), jnp.arange(n))[0]


def _times(process, n, dtype):
    """n times from t_min to t_max; whole numbers for all T of a DDPM."""
    gap = (process.t_max - process.t_min) / (n - 1)
    return jnp.asarray(process.t_min + gap * jnp.arange(n, dtype=dtype), dtype)


def _share(keys, k, n, dtype):
    """[batch] uniform on the k-th of the n equal parts of [0, 1]."""
    u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, k), dtype=dtype))(keys)
    return (u + k.astype(dtype)) / n


def _step(share, count):
    return jnp.minimum((share * count).astype(jnp.int32), count - 1)  # a share of 1 is a matter of rounding


def _check_draws(draws):
    if draws is not None and (not hasattr(draws, "__index__") or draws < 1):
        raise ValueError(f"draws of {draws} is not allowed, expected a whole number, at least 1")
