"""Gaussian diffusion processes x_t = alpha(t)·x0 + sigma(t)·eps."""

from diffax.process.continuous import EDM, VE, VP, Cosine, FlowMatching, SubVP
from diffax.process.discrete import (
    DDPM,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    sigmoid_betas,
    zero_terminal_snr,
)
from diffax.process.gaussian import Process, Shifted, add_noise, expand, pytree

__all__ = [
    "DDPM",
    "EDM",
    "VE",
    "VP",
    "Cosine",
    "FlowMatching",
    "Process",
    "Shifted",
    "SubVP",
    "add_noise",
    "cosine_betas",
    "expand",
    "linear_betas",
    "pytree",
    "scaled_linear_betas",
    "sigmoid_betas",
    "zero_terminal_snr",
]
