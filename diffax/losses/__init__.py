"""Training losses: each takes a batch and one key an example, and returns a loss an example, [batch]."""

from diffax.losses.denoising import denoising_loss
from diffax.losses.times import TimeSampler, discrete, logit_normal, lognormal, stratified, uniform
from diffax.losses.weights import Weight, edm, elbo, eps, min_snr, p2, sigmoid, soft_min_snr, unit, v, x0

__all__ = [
    "TimeSampler",
    "Weight",
    "denoising_loss",
    "discrete",
    "edm",
    "elbo",
    "eps",
    "logit_normal",
    "lognormal",
    "min_snr",
    "p2",
    "sigmoid",
    "soft_min_snr",
    "stratified",
    "uniform",
    "unit",
    "v",
    "x0",
]
