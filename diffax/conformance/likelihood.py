"""Checks of a log-density, (denoise, x, keys, lo, hi) -> [batch] in nats, on data whose own is known."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffax.conformance.exact import Mixture, exact_denoiser, gaussian, log_density
from diffax.conformance.report import Report, below, close

DATA, LO, HI = gaussian(0.3, 0.5, dim=2), 0.002, 80.0
LINE = Mixture(np.array([0.6, 0.4]), np.array([[0.8], [-0.6]]), np.array([0.25, 0.4]))
MODES = Mixture(np.array([0.6, 0.4]), np.array([[0.8, -0.3, 0.1], [-0.6, 0.5, 0.4]]), np.array([0.25, 0.4]))


def check_likelihood(log_prob: Callable, *, show: bool = True) -> Report:
    """Holds a log-density by the probability-flow ODE to the closed forms of Gaussian data and of mixtures.

    Args:
        log_prob: (denoise, x, keys, lo=, hi=) -> [batch] in nats, or a record with a field `log_prob`: of x at level lo
            under the prior N(0, hi²) at level hi. For `likelihood.log_prob` with its trace estimated, what is found
            varies with the probes: bind `exact_trace()`.
        show: print the table.

    Returns:
        The report; `held` says whether all did.
    """
    report = Report(f"the log-density {_name(log_prob)}", tuple(_checks(partial(_values, log_prob))))
    if show:
        print(report, flush=True)
    return report


def _checks(values):
    x = DATA.draw(16)
    yield below("Gaussian data, against the flow's own, nats", _largest(values(DATA, x) - _flow(x)), 2e-3)
    line = np.linspace(-4.0, 4.0, 401)[:, None]
    of_line, p = values(LINE, line), np.exp(log_density(LINE)(jnp.asarray(line), LO))
    yield below("a mixture on a line, against its density", _largest(np.exp(of_line) - p), 0.02)
    yield close("mass of a mixture on a line", 1.0, float(np.trapezoid(np.exp(of_line), line[:, 0])), 5e-3)
    x = MODES.draw(16)
    found = values(MODES, x)
    # the prior lacks the data's mean m: latents of about hi·z make that m·z/hi, a hundredth of a nat
    off = found - np.asarray(log_density(MODES)(jnp.asarray(x), LO))
    yield below("a mixture in space, against its density, nats", _largest(off), 0.02)
    alone = values(MODES, x[5:6], first=5)
    yield below("change of a value with its neighbors, nats", _largest(alone - found[5]), 1e-3)


def _values(log_prob, data, x, first=0):
    keys = jax.random.split(jax.random.key(0), first + len(x))[first:]
    found = log_prob(exact_denoiser(data), jnp.asarray(x, jnp.float32), keys, lo=LO, hi=HI)
    return np.asarray(getattr(found, "log_prob", found), np.float64)


def _flow(x):
    """log p of x at LO under the flow of N(m, s²) from N(0, HI²): it stretches all by √((s² + HI²)/(s² + LO²))."""
    mean, std = float(DATA.means[0, 0]), float(DATA.stds[0])
    stretch = np.sqrt((std**2 + HI**2) / (std**2 + LO**2))
    latent = mean + stretch * (x - mean)
    return np.sum(-0.5 * (latent / HI) ** 2 - 0.5 * np.log(2 * np.pi * HI**2) + np.log(stretch), axis=1)


def _largest(values):
    return float(np.max(np.abs(values)))


def _name(function):
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__)
