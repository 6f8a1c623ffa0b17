"""Data whose every answer is known: mixtures of Gaussians, their exact denoisers, networks and densities."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffax.batch import expand
from diffax.prediction import Apply, Denoiser, Prediction
from diffax.process import Process


class Mixture(NamedTuple):
    """Data: component k has the weight weights[k], the mean means[k] and the standard deviation stds[k] in every
    dimension."""

    weights: np.ndarray  # [k]
    means: np.ndarray  # [k, d]
    stds: np.ndarray  # [k]

    def draw(self, n: int, seed: int = 0) -> np.ndarray:
        """n examples [n, d] in float64, on the host."""
        rng = np.random.default_rng(seed)
        k = rng.choice(len(self.weights), size=n, p=self.weights)
        return self.means[k] + self.stds[k, None] * rng.standard_normal((n, self.means.shape[1]))

    def mean(self) -> np.ndarray:
        """[d]."""
        return self.weights @ self.means

    def variance(self) -> np.ndarray:
        """[d]."""
        return self.weights @ (self.means**2 + self.stds[:, None] ** 2) - self.mean() ** 2


def gaussian(mean: float = 0.0, std: float = 0.5, dim: int = 1) -> Mixture:
    """The Gaussian N(mean, std²) in `dim` independent dimensions."""
    return Mixture(np.ones(1), np.full((1, dim), float(mean)), np.full(1, float(std)))


def posterior(data: Mixture, x_t: Array, alpha: Array, sigma: Array) -> tuple[Array, Array]:
    """(E[x0 | x_t], E[eps | x_t]) for x_t [n, *data], alpha and sigma [n]: each by its own formula, no division."""
    return _posterior(*(jnp.asarray(value, x_t.dtype) for value in data), x_t, alpha, sigma)


@partial(jax.jit, inline=True)  # one program where it is called outside of any
def _posterior(weights, means, stds, x_t, alpha, sigma):
    flat = x_t.reshape(x_t.shape[0], -1)
    alpha, sigma = alpha[:, None], sigma[:, None]
    total = (alpha * stds) ** 2 + sigma**2  # [n, k]
    apart = flat[:, None, :] - alpha[..., None] * means
    p = jnp.ones((1, 1, 1), x_t.dtype)
    if len(weights) > 1:  # a Gaussian is spared the compilation of what is 1
        p = jax.nn.softmax(_log_parts(weights, apart, total), axis=-1)[..., None]
    x0 = jnp.sum(p * (means + (alpha * stds**2 / total)[..., None] * apart), axis=1)
    eps = jnp.sum(p * (sigma / total)[..., None] * apart, axis=1)
    return x0.reshape(x_t.shape), eps.reshape(x_t.shape)


def exact_denoiser(data: Mixture) -> Denoiser:
    """E[x0 | x = x0 + sigma·eps] of the data: what every trained network stands for."""

    def denoise(x, sigma):
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
        return posterior(data, x, jnp.ones_like(sigma), sigma)[0]

    return denoise


def exact_network(data: Mixture, process: Process, prediction: Prediction) -> tuple[Apply, Prediction]:
    """(apply, prediction): the network that minimizes the expected loss, y = a·E[x0 | x_t] + b·E[eps | x_t].

    The prediction is the one given, but tells the network t itself for the noise level.
    """
    told = prediction._replace(c_noise=lambda process, t: t)

    def apply(x_in, t):
        x_t = x_in / expand(told.c_in(process, t), x_in)
        x0, eps = posterior(data, x_t, process.alpha(t), process.sigma(t))
        a, b = told.target(process, t)
        return expand(a, x_in) * x0 + expand(b, x_in) * eps

    return apply, told


def log_density(data: Mixture) -> Callable[[Array, Array], Array]:
    """(x, sigma) -> log p [n] of x = x0 + sigma·eps, in nats; sigma 0 is the data's own."""

    def log_p(x, sigma):
        weights, means, stds = (jnp.asarray(value, x.dtype) for value in data)
        flat = x.reshape(x.shape[0], -1)
        sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])[:, None]
        parts = _log_parts(weights, flat[:, None, :] - means, stds**2 + sigma**2)
        return jax.nn.logsumexp(parts, axis=-1) - 0.5 * flat.shape[1] * jnp.log(jnp.asarray(2 * jnp.pi, x.dtype))

    return log_p


def _log_parts(weights, apart, total):
    return jnp.log(weights) - 0.5 * jnp.sum(apart**2, -1) / total - 0.5 * apart.shape[-1] * jnp.log(total)
