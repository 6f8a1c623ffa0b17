"""The loss of variational diffusion models: the bound in continuous time, with gradients to the noise schedule."""

import math

import jax.numpy as jnp
from jax import Array

from diffax.batch import normal, split_keys
from diffax.chain import Bound, Decoder, categorical, prior_divergence
from diffax.losses.denoising import denoising_loss
from diffax.losses.times import TimeSampler, uniform
from diffax.losses.weights import elbo
from diffax.prediction import Apply, Prediction
from diffax.process import Process


def vdm_loss(
    apply: Apply,
    process: Process,
    prediction: Prediction,
    x0: Array,
    keys: Array,
    sample_time: TimeSampler = uniform(),  # noqa: B008 - pure functions
    decoder: Decoder = categorical(256),  # noqa: B008
    prior_std: float = 1.0,
) -> Array:
    """The bound on -log p(x0) of arXiv:2107.00630, Eq. 11, in nats per dimension, [batch]; see `vdm_bound`.

    Its gradient in a `LearnedSchedule` sets the two ends. Between them the bound does not depend on the schedule
    (Eq. 18): that gradient is noise around 0. What the paper learns there instead is a smaller variance of this
    estimate, by the gradient of the mean of its square.
    """
    bound = vdm_bound(apply, process, prediction, x0, keys, sample_time, decoder, prior_std)
    return bound.total / math.prod(x0.shape[1:])


def vdm_bound(
    apply: Apply,
    process: Process,
    prediction: Prediction,
    x0: Array,
    keys: Array,
    sample_time: TimeSampler = uniform(),  # noqa: B008 - pure functions
    decoder: Decoder = categorical(256),  # noqa: B008
    prior_std: float = 1.0,
) -> Bound:
    """An estimate of the bound's three terms from one draw an example, each [batch] in nats; differentiable.

    The diffusion term is ½·gamma'(t)·‖eps - eps_hat‖², arXiv:2107.00630, Eq. 17: `denoising_loss` with `elbo()`. The
    reconstruction needs no network: p(x0 | x_t) is in proportion to q(x_t | x0) at t_min.

    Args:
        sample_time: uniform in its law, as `uniform()` or `stratified()`.
        decoder: `categorical(levels)`, the paper's, or `discretized(levels)` for integers, `gaussian` for continuous
            data, all of `diffax.likelihood`.
        prior_std: standard deviation of the prior on x_t at t_max: 1 if the process preserves the variance, its largest
            sigma if noise is only added, as in VE and EDM.

    The other arguments are those of `denoising_loss`.
    """
    noise_keys, loss_keys = split_keys(keys, x0)
    first, last = (jnp.asarray(t, x0.dtype) for t in (process.t_min, process.t_max))
    level = process.nsr(first)
    reconstruction = -decoder(x0, x0 + level * normal(noise_keys, x0), level)
    per_dimension = denoising_loss(apply, process, prediction, x0, loss_keys, sample_time, elbo())
    diffusion = math.prod(x0.shape[1:]) * per_dimension
    prior = prior_divergence(x0, process.alpha(last), process.sigma(last), prior_std)
    return Bound(prior, diffusion, reconstruction, prior + diffusion + reconstruction)
