"""What a network predicts, and the one adapter from networks to denoisers.

A network's output is y = a·x0 + b·eps with (a, b) a function of (process, t). That row is all that sets one
parameterization apart from another: targets, the way back to x0 and every loss weighting follow from it.
"""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import expand
from diffax.known import check_number
from diffax.process import Process

Apply = Callable[[Array, Array], Array]  # (x_in [batch, *data], c_noise [batch]) -> y [batch, *data]
# the same with (y, v) along the last axis, twice as long as that of x_in: a network that learns its variance
LearnedApply = Annotated[Apply, "learns its variance"]
Denoiser = Callable[[Array, Array], Array]  # (x [batch, *data], sigma, a scalar or [batch]) -> x0 [batch, *data]
Coefficient = Callable[[Process, Array], Array]  # (process, t [batch]) -> [batch]


class Prediction(NamedTuple):
    """A parameterization. The network computes y = apply(c_in·x_t, c_noise), trained towards a·x0 + b·eps."""

    target: Callable[[Process, Array], tuple[Array, Array]]  # (process, t) -> (a, b)
    c_in: Coefficient
    c_noise: Coefficient


def one(process: Process, t: Array) -> Array:
    """c_in = 1: the network sees x_t as it is."""
    return jnp.ones_like(t)


def unit_variance(process: Process, t: Array) -> Array:
    """c_in = 1/√(alpha² + sigma²): inputs of unit variance for data of unit variance; for VE and EDM processes."""
    return jax.lax.rsqrt(process.alpha(t) ** 2 + process.sigma(t) ** 2)


def timestep(process: Process, t: Array) -> Array:
    """c_noise = `process.timestep(t)`, from 0 to 999."""
    return process.timestep(t)


def quarter_log_nsr(process: Process, t: Array) -> Array:
    """c_noise = ¼·ln(nsr), arXiv:2206.00364, Table 1."""
    return 0.25 * jnp.log(process.nsr(t))


def log_nsr(process: Process, t: Array) -> Array:
    """c_noise = ln(nsr), what random Fourier features embed in arXiv:2011.13456, App. H."""
    return jnp.log(process.nsr(t))


def x0(c_in: Coefficient = one, c_noise: Coefficient = timestep) -> Prediction:
    """y = x0."""
    return Prediction(lambda process, t: (jnp.ones_like(t), jnp.zeros_like(t)), c_in, c_noise)


def eps(c_in: Coefficient = one, c_noise: Coefficient = timestep) -> Prediction:
    """y = eps, arXiv:2006.11239, Eq. 14."""
    return Prediction(lambda process, t: (jnp.zeros_like(t), jnp.ones_like(t)), c_in, c_noise)


def v(c_in: Coefficient = one, c_noise: Coefficient = timestep) -> Prediction:
    """y = alpha·eps - sigma·x0, arXiv:2202.00512, App. D."""
    return Prediction(lambda process, t: (-process.sigma(t), process.alpha(t)), c_in, c_noise)


def velocity(c_in: Coefficient = one, c_noise: Coefficient = timestep) -> Prediction:
    """y = dx_t/dt = alpha′(t)·x0 + sigma′(t)·eps, arXiv:2210.02747, Eq. 15; the derivatives are exact (jvp)."""

    def target(process, t):
        tangent = jnp.ones_like(t)
        return jax.jvp(process.alpha, (t,), (tangent,))[1], jax.jvp(process.sigma, (t,), (tangent,))[1]

    return Prediction(target, c_in, c_noise)


def score(c_in: Coefficient = one, c_noise: Coefficient = timestep) -> Prediction:
    """y = the score of p(x_t) = -E[eps | x_t]/sigma, arXiv:2011.13456, Eq. 29."""
    return Prediction(lambda process, t: (jnp.zeros_like(t), -1.0 / process.sigma(t)), c_in, c_noise)


def edm(sigma_data: float = 0.5, c_noise: Coefficient = quarter_log_nsr) -> Prediction:
    """The preconditioning of arXiv:2206.00364, Table 1: y = (x0 - c_skip·x)/c_out for x = x_t/alpha.

    c_skip = sd²/(nsr² + sd²), c_out = nsr·sd/√(nsr² + sd²), and c_in makes the input's variance 1.

    Args:
        sigma_data: the data's standard deviation sd, in the data's units.

    Raises:
        ValueError: a sigma_data that is not positive.
    """
    check_number(lambda sd: 0 < sd < math.inf, "a standard deviation is positive and finite", sigma_data=sigma_data)

    def target(process, t):
        # (1 - c_skip)/c_out = nsr/(sd·r) and c_skip·nsr/c_out = sd/r, with r = √(nsr² + sd²)
        nsr = process.nsr(t)
        r = jnp.sqrt(nsr**2 + sigma_data**2)
        return nsr / (sigma_data * r), -sigma_data / r

    def c_in(process, t):
        return 1.0 / (process.alpha(t) * jnp.sqrt(process.nsr(t) ** 2 + sigma_data**2))

    return Prediction(target, c_in, c_noise)


def to_x0(prediction: Prediction, process: Process, y: Array, x_t: Array, t: Array) -> Array:
    """Solves x_t = alpha·x0 + sigma·eps, y = a·x0 + b·eps for x0 = (b·x_t - sigma·y)/(alpha·b - sigma·a).

    Args:
        y, x_t: [batch, *data]. t: [batch].
    """
    a, b = prediction.target(process, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    determinant = alpha * b - sigma * a
    return expand(b / determinant, x_t) * x_t - expand(sigma / determinant, x_t) * y


def denoiser(apply: Apply, process: Process, prediction: Prediction) -> Denoiser:
    """The denoiser E[x0 | x = x0 + sigma·eps] of a trained network: from (x_t, t) to (x, sigma).

    sigma is the noise level in the data's units, sigma = nsr(t). Within the process's range the network sees what it
    was trained on, x_t = alpha·x and t = time(sigma). Outside it, the network is told the nearest t that it knows,
    and the rest is computed for the level asked for.

    Args:
        apply: (x_in, c_noise) -> y, with parameters and conditions bound, e.g. by `functools.partial`.
    """

    def denoise(x, sigma):
        y, x_t, t = _run(apply, process, prediction.c_in, prediction.c_noise, x, sigma)
        if y.shape != x.shape:
            raise ValueError(f"the network returned shape {y.shape} for x of shape {x.shape}: they must be the same")
        return to_x0(prediction, process, y, x_t, t)

    return denoise


def learned_variance(apply: LearnedApply, process: Process, prediction: Prediction) -> tuple[Denoiser, Denoiser]:
    """(denoise, variance) of a network with twice the channels, for `samplers.ancestral(variance=variance)`.

    `variance` is (x, sigma) -> v [batch, *data], which interpolates between the logarithms of the small variance (0)
    and the large one (1); arXiv:2102.09672, Eq. 15. Both run the same network; XLA merges the two calls.

    Args:
        apply: (x_in, c_noise) -> (y, v) along the last axis, as trained by `losses.hybrid_loss`.
    """

    def variance(x, sigma):
        return split_learned(_run(apply, process, prediction.c_in, prediction.c_noise, x, sigma)[0], x)[1]

    return denoiser(lambda x_in, c_noise: split_learned(apply(x_in, c_noise), x_in)[0], process, prediction), variance


def split_learned(y: Array, like: Array) -> tuple[Array, Array]:
    """The halves of an output with twice the channels of `like`: y, and v from [-1, 1] to [0, 1].

    The output is -1 … 1 and not 0 … 1 so that a network that starts at 0 starts in the middle, v = ½.

    Raises:
        ValueError: another shape.
    """
    if y.shape != (*like.shape[:-1], 2 * like.shape[-1]):
        raise ValueError(
            f"the network returned shape {y.shape} for an input of shape {like.shape}: to learn the variance too, its "
            "last axis must be twice as long"
        )
    mean, v = jnp.split(y, 2, axis=-1)
    return mean, 0.5 * (v + 1.0)


def class_log_prob(
    apply: Apply, process: Process, label: int | Array, c_in: Coefficient = one, c_noise: Coefficient = timestep
) -> Callable[[Array, Array], Array]:
    """(x, sigma) -> log p(label | x = x0 + sigma·eps) [batch] of a classifier, for `guidance.classifier_guidance`.

    As `denoiser` does for a network that denoises: within the process's range the classifier sees what it was
    trained on, x_t = alpha·x and t = time(sigma), outside it the nearest t.

    Args:
        apply: (x_in, c_noise) -> logits [batch, classes], as trained by `losses.classifier_loss`.
        label: the class wanted, an int or [batch]; one out of range gives NaN.
    """

    def log_prob(x, sigma):
        logits, _, _ = _run(apply, process, c_in, c_noise, x, sigma)
        return log_softmax_at(logits, jnp.broadcast_to(jnp.asarray(label), x.shape[:1]))

    return log_prob


def log_softmax_at(logits: Array, label: Array) -> Array:
    """log softmax(logits) at the label of each row, [batch]; NaN where the label is none of the classes.

    Raises:
        ValueError: logits that are not [batch, classes] for labels [batch].
    """
    if logits.ndim != 2 or label.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {logits.shape} for labels of shape {label.shape}: give [batch, classes] and [batch]"
        )
    index = jnp.where(label < 0, logits.shape[1], label)  # a negative one would count from the end
    return jnp.take_along_axis(jax.nn.log_softmax(logits), index[:, None], axis=1, mode="fill")[:, 0]


def _run(apply, process, c_in, c_noise, x, sigma):
    """(y, x_t, t): the network on x = x_t/alpha of level sigma."""
    sigma = jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape[:1])
    t = process.time(sigma)
    x_t = expand(process.alpha(t), x) * x
    known = jnp.clip(t, process.t_min, process.t_max)
    return apply(expand(c_in(process, t), x) * x_t, c_noise(process, known)), x_t, t
