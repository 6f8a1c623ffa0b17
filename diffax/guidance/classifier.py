"""Guidance by a classifier of noisy data."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import each, expand
from diffax.known import check_scale
from diffax.prediction import Denoiser


def classifier_guidance(denoise: Denoiser, log_prob: Callable[[Array, Array], Array], scale: float | Array) -> Denoiser:
    """Classifier guidance, arXiv:2105.05233, Algorithm 2: denoise + scale·sigma²·∇_x log p(y | x, sigma).

    By Bayes' rule the score of p(x | y) is that of p(x) plus ∇_x log p(y | x), and E[x0 | x] = x + sigma²·score.

    Args:
        log_prob: (x, sigma [batch]) -> log p(y | x, sigma) [batch] of the wanted class y of noisy x = x0 + sigma·eps,
            each example's of that example alone.
        scale: 0 is `denoise`; 1 is the conditional denoiser, if both are exact.
    """
    check_scale(scale)

    def guided(x, sigma):
        sigma = each(sigma, x)

        def total(x):
            log_p = log_prob(x, sigma)
            if log_p.shape != sigma.shape:
                raise ValueError(
                    f"log_prob returned shape {log_p.shape} for a batch of {len(sigma)}: "
                    f"return {sigma.shape}, the log-probability of the wanted class alone"
                )
            return jnp.sum(log_p)

        return denoise(x, sigma) + expand(each(scale, x) * sigma**2, x) * jax.grad(total)(x)

    return guided
