"""The loss weightings.

A weighting is a function of the noise level that multiplies the squared error of x0, of eps or of y. Errors in
the three are proportional, with factors that follow from the prediction's row (a, b), so each weighting is
written once, in the space of its paper, and holds for every parameterization.

Each raises a ValueError where a number of its own cannot be meant.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.known import check_number
from diffax.prediction import Prediction
from diffax.process import Process

Weight = Callable[[Process, Prediction, Array], Array]  # (process, prediction, t [batch]) -> [batch]


def unit() -> Weight:
    """1: the plain squared error of the network's output y, arXiv:2006.11239, Eq. 14."""
    return lambda process, prediction, t: jnp.ones_like(t)


def eps() -> Weight:
    """The squared error of eps, whatever is predicted: L_simple of arXiv:2006.11239, Eq. 14.

    It is denoising score matching with lambda(sigma) = sigma² too, twice the loss of arXiv:1907.05600, Eq. 5-6: the
    score of x is -E[eps]/sigma, so sigma² times the squared error of the score is that of eps.
    """
    return lambda process, prediction, t: _eps_error_per_y_error(process, prediction, t)


def x0() -> Weight:
    """The squared error of x0, whatever is predicted."""
    return lambda process, prediction, t: _x0_error_per_y_error(process, prediction, t)


def v() -> Weight:
    """snr + 1 on the squared error of x0, arXiv:2202.00512, Sec. 4: that of v where alpha² + sigma² = 1."""

    def weight(process, prediction, t):
        return (1.0 + process.nsr(t) ** -2) * _x0_error_per_y_error(process, prediction, t)

    return weight


def elbo() -> Weight:
    """The variational bound in continuous time, in nats: its mean over t ~ uniform() is L_T.

    ½·(t_max - t_min)·(-d logsnr/dt)·‖eps error‖²; arXiv:2107.00630, Eq. 17-18. `denoising_loss` takes the mean over
    the data's dimensions, so this is nats per dimension.

    It is the likelihood weighting g(t)² of score matching too, arXiv:2101.09258, Eq. 7-8: the SDE of a process has
    g² = -sigma²·d logsnr/dt, so ½·g²·‖score error‖² is the integrand above. In x0 space it is ½·(-d snr/dt).
    """

    def weight(process, prediction, t):
        return 0.5 * _logsnr_range(process, t) * _eps_error_per_y_error(process, prediction, t)

    return weight


def min_snr(gamma: float = 5.0) -> Weight:
    """min(snr, gamma) on the squared error of x0, arXiv:2303.09556, Eq. 9."""
    check_number(lambda gamma: gamma > 0, "the largest weight is positive", gamma=gamma)

    def weight(process, prediction, t):
        snr = process.nsr(t) ** -2
        return jnp.minimum(snr, gamma) * _x0_error_per_y_error(process, prediction, t)

    return weight


def soft_min_snr(gamma: float = 4.0) -> Weight:
    """snr·gamma/(snr + gamma) on the squared error of x0, arXiv:2401.11605: `min_snr` without its kink."""
    check_number(lambda gamma: gamma > 0, "the largest weight is positive", gamma=gamma)

    def weight(process, prediction, t):
        return _x0_error_per_y_error(process, prediction, t) / (process.nsr(t) ** 2 + 1.0 / gamma)

    return weight


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1/(k + snr)^gamma on the squared error of eps, arXiv:2204.00227, Eq. 8."""
    check_number(lambda *both: all(0 <= one < math.inf for one in both), "give 0 or more, finite", k=k, gamma=gamma)

    def weight(process, prediction, t):
        snr = process.nsr(t) ** -2
        return (k + snr) ** -gamma * _eps_error_per_y_error(process, prediction, t)

    return weight


def edm(sigma_data: float = 0.5) -> Weight:
    """(nsr² + sd²)/(nsr·sd)² on the squared error of x0, arXiv:2206.00364, Table 1: 1 on y of `prediction.edm`."""
    check_number(lambda sd: 0 < sd < math.inf, "a standard deviation is positive and finite", sigma_data=sigma_data)

    def weight(process, prediction, t):
        nsr = process.nsr(t)
        return (1.0 / sigma_data**2 + nsr**-2) * _x0_error_per_y_error(process, prediction, t)

    return weight


def sigmoid(bias: float = 0.0) -> Weight:
    """sigmoid(bias - logsnr) on the terms of the bound `elbo()`, arXiv:2303.00848, Sec. 4 and App. D.

    Like the bound, its mean over uniform times does not depend on the schedule between its ends.
    """
    check_number(math.isfinite, "every weight would be 0, or as in the bound; give a finite number", bias=bias)

    def weight(process, prediction, t):
        w = jax.nn.sigmoid(bias - process.logsnr(t))
        return 0.5 * w * _logsnr_range(process, t) * _eps_error_per_y_error(process, prediction, t)

    return weight


def uncertainty(loss: Array, log_variance: Array) -> Array:
    """A loss weighted by a learned uncertainty u of its level: loss/exp(u) + u, arXiv:2312.02696, Eq. 21.

    At the optimum u = log E[loss] at each level, where every level's gradient has the same weight. In the paper u is a
    small network of c_noise, trained along with the denoiser and dropped after. To know the levels, draw t first and
    give the loss `sample_time=lambda process, keys: t`.

    Args:
        loss: [batch], as from `denoising_loss` with `edm()`. log_variance: u at the same levels, [batch].
    """
    return loss * jnp.exp(-log_variance) + log_variance


def _x0_error_per_y_error(process, prediction, t):
    """‖x0 error‖²/‖y error‖² at fixed x_t, where a change of x0 by d changes eps by -d·alpha/sigma."""
    a, b = prediction.target(process, t)
    return (a - b / process.nsr(t)) ** -2


def _eps_error_per_y_error(process, prediction, t):
    a, b = prediction.target(process, t)
    return (a * process.nsr(t) - b) ** -2


def _logsnr_range(process, t):
    """(t_max - t_min)·(-d logsnr/dt): the span of logsnr, spread over uniform times."""
    slope = jax.jvp(process.logsnr, (t,), (jnp.ones_like(t),))[1]
    return (process.t_max - process.t_min) * -slope
