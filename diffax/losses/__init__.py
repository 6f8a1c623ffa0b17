"""Training losses: each takes a batch and one key an example, and returns a loss an example, [batch]."""

from diffax.losses.classifier import classifier_loss
from diffax.losses.denoising import denoising_loss
from diffax.losses.history import LossHistory, draw_times, loss_history, observe, time_probabilities
from diffax.losses.hybrid import hybrid_loss, vlb_loss
from diffax.losses.score_matching import energy_score, sliced_score_matching
from diffax.losses.times import TimeSampler, discrete, logit_normal, lognormal, stratified, uniform
from diffax.losses.vdm import vdm_bound, vdm_loss
from diffax.losses.weights import Weight, edm, elbo, eps, min_snr, p2, sigmoid, soft_min_snr, uncertainty, unit, v, x0

__all__ = [
    "LossHistory",
    "TimeSampler",
    "Weight",
    "classifier_loss",
    "denoising_loss",
    "discrete",
    "draw_times",
    "edm",
    "elbo",
    "energy_score",
    "eps",
    "hybrid_loss",
    "logit_normal",
    "lognormal",
    "loss_history",
    "min_snr",
    "observe",
    "p2",
    "sigmoid",
    "sliced_score_matching",
    "soft_min_snr",
    "stratified",
    "time_probabilities",
    "uncertainty",
    "uniform",
    "unit",
    "v",
    "vdm_bound",
    "vdm_loss",
    "vlb_loss",
    "x0",
]
