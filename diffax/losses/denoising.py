"""The training loss: the weighted squared error of the network's output."""

import jax.numpy as jnp
from jax import Array

from diffax.batch import expand, normal, split_keys
from diffax.losses.times import TimeSampler, uniform
from diffax.losses.weights import Weight, unit
from diffax.prediction import Apply, Prediction
from diffax.process import Process, add_noise


def denoising_loss(
    apply: Apply,
    process: Process,
    prediction: Prediction,
    x0: Array,
    keys: Array,
    sample_time: TimeSampler = uniform(),  # noqa: B008 - a pure function
    weight: Weight = unit(),  # noqa: B008
) -> Array:
    """The weighted denoising loss of each example, [batch]: weight(t) · mean over data of (y - (a·x0 + b·eps))².

    Draw a time, draw noise, add it, apply the network, compare with the target.

    Args:
        apply: (x_in, c_noise) -> y, with parameters and conditions bound.
        x0: clean data [batch, *data].
        keys: one PRNG key an example, [batch]. Loss i depends on example i and key i only.
        sample_time: the distribution of t.
        weight: the weighting, which multiplies the squared error of the network's output.

    Raises:
        ValueError: the network's output has another shape than x0, or there is not one key an example.
    """
    t, eps, x_t = draw(process, x0, keys, sample_time)
    y = apply(expand(prediction.c_in(process, t), x_t) * x_t, prediction.c_noise(process, t))
    if y.shape != x0.shape:
        raise ValueError(f"the network returned shape {y.shape} for x0 of shape {x0.shape}: they must be the same")
    return weight(process, prediction, t) * squared_error(prediction, process, y, x0, eps, t)


def draw(process: Process, x0: Array, keys: Array, sample_time: TimeSampler) -> tuple[Array, Array, Array]:
    """(t [batch], eps, x_t) of a batch: a time and noise for each example, from its key."""
    time_keys, noise_keys = split_keys(keys, x0)
    t = sample_time(process, time_keys).astype(x0.dtype)
    eps = normal(noise_keys, x0)
    return t, eps, add_noise(process, x0, eps, t)


def squared_error(prediction: Prediction, process: Process, y: Array, x0: Array, eps: Array, t: Array) -> Array:
    """The mean over data of (y - (a·x0 + b·eps))², [batch]."""
    a, b = prediction.target(process, t)
    error = y.astype(x0.dtype) - (expand(a, x0) * x0 + expand(b, x0) * eps)
    return jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))
