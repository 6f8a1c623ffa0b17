"""Likelihoods in (x, sigma): the density of the probability-flow ODE, and the variational bound.

x = x0 + sigma·eps, and a denoiser E[x0 | x] is all that is known of a model. diffrax solves the ODE; it is imported
when it does. Every function takes data in [batch, *data] and returns nats, one number an example.
"""

from diffax.chain import Bound, Decoder, categorical, discretized, gaussian
from diffax.likelihood.bound import vlb, vlb_continuous
from diffax.likelihood.density import (
    LogProb,
    Prior,
    bits_per_dim,
    decode,
    encode,
    log_prob,
    noise_prior,
    process_prior,
)
from diffax.likelihood.trace import Trace, exact_trace, hutchinson

__all__ = [
    "Bound",
    "Decoder",
    "LogProb",
    "Prior",
    "Trace",
    "bits_per_dim",
    "categorical",
    "decode",
    "discretized",
    "encode",
    "exact_trace",
    "gaussian",
    "hutchinson",
    "log_prob",
    "noise_prior",
    "process_prior",
    "vlb",
    "vlb_continuous",
]
