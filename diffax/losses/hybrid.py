"""The losses of Improved DDPM: a network that learns the variance of its steps, by the bound of a discrete chain."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import expand
from diffax.chain import Decoder, count_steps, decoder_std, discretized, large_over_small, step_divergence
from diffax.losses.denoising import draw, squared_error
from diffax.losses.times import TimeSampler, discrete
from diffax.losses.weights import Weight, unit
from diffax.prediction import LearnedApply, Prediction, split_learned, to_x0
from diffax.process import Process


def hybrid_loss(
    apply: LearnedApply,
    process: Process,
    prediction: Prediction,
    x0: Array,
    keys: Array,
    sample_time: TimeSampler = discrete(),  # noqa: B008 - pure functions
    weight: Weight = unit(),  # noqa: B008
    lambda_vlb: float = 0.001,
    steps: int | None = None,
    decoder: Decoder = discretized(256),  # noqa: B008
) -> Array:
    """L_hybrid = L_simple + lambda·L_vlb of each example, [batch]; arXiv:2102.09672, Eq. 16.

    L_simple alone trains y: in L_vlb it is held fixed, and only v, the share of the large variance, has a gradient.

    Args:
        apply: (x_in, c_noise) -> (y, v) along the last axis, twice as long as that of x0; v in [-1, 1].
        lambda_vlb: weight of L_vlb in bits per dimension, the unit of the paper's own code.

    The other arguments are those of `denoising_loss` and `vlb_loss`.
    """
    t, eps, x_t, y, v = _run(apply, process, prediction, x0, keys, sample_time)
    simple = weight(process, prediction, t) * squared_error(prediction, process, y, x0, eps, t)
    estimate = to_x0(prediction, process, jax.lax.stop_gradient(y), x_t, t)
    return simple + (lambda_vlb / math.log(2.0)) * _chain_term(process, x0, estimate, v, t, steps, decoder)


def vlb_loss(
    apply: LearnedApply,
    process: Process,
    prediction: Prediction,
    x0: Array,
    keys: Array,
    sample_time: TimeSampler = discrete(),  # noqa: B008 - pure functions
    steps: int | None = None,
    decoder: Decoder = discretized(256),  # noqa: B008
) -> Array:
    """L_vlb of a network that learns its variance: one term an example, times T; [batch], in nats per dimension.

    Its mean over `discrete()` times is the whole bound but for the prior, which no network changes (a process does: to
    learn one, use `vdm_loss`): the divergences L_{t-1} of Gaussians of mean and variance learned, and -log of the
    decoder L_0, arXiv:2102.09672, Eq. 4-7. The log of a step's variance is v·log(large) + (1 - v)·log(small), Eq. 15.
    In L_0, which has no small variance, that of the next step takes its place.

    For importance sampling (Sec. 3.3) draw t first, `t, w = losses.draw_times(history, keys)`, multiply this loss for
    `sample_time=lambda process, keys: t` by w, and tell the history of it by `losses.observe(history, t, loss)`.

    Args:
        apply: (x_in, c_noise) -> (y, v) along the last axis, twice as long as that of x0; v in [-1, 1].
        steps: T, evenly spaced over the process's times, with sample_time=discrete(steps); None takes a DDPM's own.
        decoder: of `diffax.likelihood`: `discretized(levels)` for integers, `gaussian` for continuous data.

    Raises:
        ValueError: shapes or keys that cannot be meant; no steps for a process in continuous time.
    """
    t, _, x_t, y, v = _run(apply, process, prediction, x0, keys, sample_time)
    return _chain_term(process, x0, to_x0(prediction, process, y, x_t, t), v, t, steps, decoder)


def _run(apply, process, prediction, x0, keys, sample_time):
    """(t, eps, x_t, y, v) of a batch: its times, its noise, and both halves of the network's output."""
    t, eps, x_t = draw(process, x0, keys, sample_time)
    x_in = expand(prediction.c_in(process, t), x_t) * x_t
    y, v = split_learned(apply(x_in, prediction.c_noise(process, t)).astype(x0.dtype), x_in)
    return t, eps, x_t, y, v


def _chain_term(process, x0, estimate, v, t, steps, decoder):
    """T times the term of the bound at t [batch], a dimension."""
    count = count_steps(process, steps)
    gap = (process.t_max - process.t_min) / (count - 1)
    first = t < process.t_min + 0.5 * gap
    # of the first level the step above it, whose small variance it borrows
    s = jnp.where(first, process.t_min, t - gap)
    nearer, logsnr = (expand(process.logsnr(time), x0) for time in (s, jnp.where(first, process.t_min + gap, t)))
    ratio = large_over_small(nearer, logsnr)
    data = tuple(range(1, x0.ndim))
    divergence = jnp.sum(step_divergence((x0 - estimate) ** 2, v * ratio, nearer, logsnr), axis=data)
    std = decoder_std(v, expand(process.sigma(s), x0), nearer, logsnr)
    # where no decoder is asked for, its own logarithm could overflow and its gradient be NaN
    at_first = expand(first, x0)
    surprise = -decoder(x0, jnp.where(at_first, estimate, x0), jnp.where(at_first, std, 1.0))
    return count * jnp.where(first, surprise, divergence) / math.prod(x0.shape[1:])
