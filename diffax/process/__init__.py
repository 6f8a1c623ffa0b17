"""Gaussian diffusion processes x_t = alpha(t)·x0 + sigma(t)·eps."""

from diffax.batch import expand
from diffax.process.continuous import EDM, VE, VP, Cosine, FlowMatching, SubVP
from diffax.process.discrete import (
    DDPM,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    sigmoid_betas,
    zero_terminal_snr,
)
from diffax.process.gaussian import Process, Shifted, add_noise, pytree
from diffax.process.learned import LearnedSchedule, learned_schedule

__all__ = [
    "DDPM",
    "EDM",
    "VE",
    "VP",
    "Cosine",
    "FlowMatching",
    "LearnedSchedule",
    "Process",
    "Shifted",
    "SubVP",
    "add_noise",
    "cosine_betas",
    "expand",
    "learned_schedule",
    "linear_betas",
    "pytree",
    "scaled_linear_betas",
    "sigmoid_betas",
    "zero_terminal_snr",
]
