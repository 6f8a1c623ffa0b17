"""The training loss, the distributions of training times, and the loss weightings.

A weighting is a function of the noise level that multiplies the squared error of x0, of eps or of y. Errors in
the three are proportional, with factors that follow from the prediction's row (a, b), so each weighting is
written once, in the space of its paper, and holds for every parameterization.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.prediction import Apply, Prediction
from diffax.process import Process, add_noise, expand

TimeSampler = Callable[[Process, Array], Array]  # (process, keys [batch]) -> t [batch]
Weight = Callable[[Process, Prediction, Array], Array]  # (process, prediction, t [batch]) -> [batch]


def uniform() -> TimeSampler:
    """t uniform on [t_min, t_max]."""
    return lambda process, keys: _spread(process, _uniforms(keys))


def stratified() -> TimeSampler:
    """t uniform on [t_min, t_max], the batch's i-th example in the i-th of its `batch` equal parts.

    The mean over a batch varies less than with `uniform`. Example i depends on its key and on its place in the
    batch; in a batch that is split by `pmap` the strata are each device's own.
    """

    def sample(process, keys):
        u = _uniforms(keys)
        return _spread(process, (jnp.arange(u.shape[0], dtype=u.dtype) + u) / u.shape[0])

    return sample


def lognormal(mean: float = -1.2, std: float = 1.2) -> TimeSampler:
    """ln nsr ~ N(mean, std²), arXiv:2206.00364, Table 1. Not cut off at the process's ends, as in the paper."""
    return lambda process, keys: process.time(jnp.exp(mean + std * _normals(keys)))


def logit_normal(mean: float = 0.0, std: float = 1.0) -> TimeSampler:
    """logit of (t - t_min)/(t_max - t_min) ~ N(mean, std²), arXiv:2403.03206, Eq. 19."""
    return lambda process, keys: _spread(process, jax.nn.sigmoid(mean + std * _normals(keys)))


def discrete(n: int | None = None) -> TimeSampler:
    """t uniform on n equally spaced times from t_min to t_max; on the indices 0 … T-1 of a DDPM process.

    Args:
        n: the number of times; None takes the process's own `steps`.

    Raises:
        ValueError: no n, and a process in continuous time.
    """

    def sample(process, keys):
        count = getattr(process, "steps", None) if n is None else n
        if count is None or count < 2:
            raise ValueError(
                f"discrete(n={n}) needs n of at least 2 for {type(process).__name__}, which has no steps of its own"
            )
        i = jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys)
        gap = (process.t_max - process.t_min) / (count - 1)  # 1 for a DDPM: its t are whole numbers
        return process.t_min + gap * i.astype(jnp.result_type(float))

    return sample


def unit() -> Weight:
    """1: the plain squared error of the network's output y, arXiv:2006.11239, Eq. 14."""
    return lambda process, prediction, t: jnp.ones_like(t)


def eps() -> Weight:
    """The squared error of eps, whatever is predicted: L_simple of arXiv:2006.11239, Eq. 14."""
    return lambda process, prediction, t: _eps_error_per_y_error(process, prediction, t)


def elbo() -> Weight:
    """The variational bound in continuous time, in nats: its mean over t ~ uniform() is L_T.

    ½·(t_max - t_min)·(-d logsnr/dt)·‖eps error‖²; arXiv:2107.00630, Eq. 17-18. `denoising_loss` takes the mean over
    the data's dimensions, so this is nats per dimension.
    """

    def weight(process, prediction, t):
        return 0.5 * _logsnr_range(process, t) * _eps_error_per_y_error(process, prediction, t)

    return weight


def min_snr(gamma: float = 5.0) -> Weight:
    """min(snr, gamma) on the squared error of x0, arXiv:2303.09556, Eq. 9."""

    def weight(process, prediction, t):
        snr = process.nsr(t) ** -2
        return jnp.minimum(snr, gamma) * _x0_error_per_y_error(process, prediction, t)

    return weight


def p2(k: float = 1.0, gamma: float = 1.0) -> Weight:
    """1/(k + snr)^gamma on the squared error of eps, arXiv:2204.00227, Eq. 8."""

    def weight(process, prediction, t):
        snr = process.nsr(t) ** -2
        return (k + snr) ** -gamma * _eps_error_per_y_error(process, prediction, t)

    return weight


def edm(sigma_data: float = 0.5) -> Weight:
    """(nsr² + sd²)/(nsr·sd)² on the squared error of x0, arXiv:2206.00364, Table 1: 1 on y of `prediction.edm`."""

    def weight(process, prediction, t):
        nsr = process.nsr(t)
        return (1.0 / sigma_data**2 + nsr**-2) * _x0_error_per_y_error(process, prediction, t)

    return weight


def sigmoid(bias: float = 0.0) -> Weight:
    """sigmoid(bias - logsnr) on the terms of the bound `elbo()`, arXiv:2303.00848, Sec. 4 and App. D.

    Like the bound, its mean over uniform times does not depend on the schedule between its ends.
    """

    def weight(process, prediction, t):
        w = jax.nn.sigmoid(bias - process.logsnr(t))
        return 0.5 * w * _logsnr_range(process, t) * _eps_error_per_y_error(process, prediction, t)

    return weight


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
    if jnp.shape(keys)[:1] != x0.shape[:1]:
        n = len(x0)
        raise ValueError(
            f"keys of shape {jnp.shape(keys)} for a batch of {n}: one key an example, jax.random.split(key, {n})"
        )
    pairs = jax.vmap(jax.random.split)(keys)
    t = sample_time(process, pairs[:, 0]).astype(x0.dtype)
    eps = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype))(pairs[:, 1])
    x_t = add_noise(process, x0, eps, t)
    y = apply(expand(prediction.c_in(process, t), x_t) * x_t, prediction.c_noise(process, t))
    if y.shape != x0.shape:
        raise ValueError(f"the network returned shape {y.shape} for x0 of shape {x0.shape}: they must be the same")
    a, b = prediction.target(process, t)
    error = y.astype(x0.dtype) - (expand(a, x0) * x0 + expand(b, x0) * eps)
    return weight(process, prediction, t) * jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))


def _spread(process, u):
    return process.t_min + (process.t_max - process.t_min) * u


def _uniforms(keys):
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.result_type(float)))(keys)


def _normals(keys):
    return jax.vmap(lambda key: jax.random.normal(key, dtype=jnp.result_type(float)))(keys)


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
