"""Posterior estimates E[x0 | x, y] from a denoiser and a measurement y = observe(x0) + noise.

By Bayes' rule the score of p(x | y) is that of p(x) plus ∇_x log p(y | x), and E[x0 | x] = x + sigma²·score; so

    E[x0 | x, y] = D(x, sigma) + sigma²·∇_x log p(y | x).

The methods differ in what they take for p(y | x).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffax.batch import dot, each, expand
from diffax.known import check, check_count, check_scale
from diffax.prediction import Denoiser

Observe = Callable[[Array], Array]  # images [batch, *data] -> measurements [batch, *measurement]


def dps(denoise: Denoiser, observe: Observe, y: Array, scale: float | Array) -> Denoiser:
    """Diffusion posterior sampling, arXiv:2209.14687, Algorithm 1: D - sigma²·scale·∇_x ‖y - observe(D(x, sigma))‖.

    The paper's step zeta' ∇‖·‖²/‖·‖ is 2·zeta' times this gradient, and is taken per step of its sampler, whatever the
    length; here it is part of the score, so that `scale` means the same on every grid. The norm is each example's own.

    Args:
        observe: any differentiable measurement.
        y: what was measured, [batch, *measurement].
        scale: 0 is `denoise`. Where y is one number, ‖residual‖ over the variance of y given x is exact for a Gaussian.
    """
    check_scale(scale)

    def guided(x, sigma):
        x0, pull = jax.vjp(lambda x: denoise(x, sigma), x)

        def total(x0):
            residual = _residual(observe, y, x0)
            squared = dot(residual, residual)
            return jnp.sum(jnp.sqrt(jnp.where(squared > 0, squared, 1)))  # the norm of 0 has no derivative

        (slope,) = pull(jax.grad(total)(x0))
        return x0 - expand(each(scale, x) * each(sigma, x) ** 2, x) * slope

    return guided


def pigdm(
    denoise: Denoiser,
    observe: Observe,
    y: Array,
    noise_std: float | Array,
    *,
    sigma_data: float | Array = 1.0,
    tol: float = 1e-5,
    iterations: int = 100,
) -> Denoiser:
    """PiGDM (Song et al., ICLR 2023, openreview 9_gsMA8MRKQ, Sec. 3): p(x0 | x) is taken for N(D, r²·I).

    Then y is N(A·D, r²·A·Aᵀ + noise_std²·I), and with J the Jacobian of D,

        E[x0 | x, y] = D + sigma²·Jᵀ Aᵀ (r²·A·Aᵀ + noise_std²·I)⁻¹ (y - A·D),    r² = sigma²·sd²/(sigma² + sd²).

    This is exact for data N(m, sd²·I). A need not be a matrix: what is solved, by conjugate gradients, is the equal
    (r²·AᵀA + noise_std²·I) v = Aᵀ (y - A·D), which has a solution also without noise, for any y and any A.

    Args:
        observe: the linear A. An affine one is as good; any other is linearized at the estimate.
        y: what was measured, [batch, *measurement].
        noise_std: standard deviation of the measurement's noise, 0 for none.
        sigma_data: sd; the paper's choice is 1.
        tol: the residual at which the solution is taken, relative to the right-hand side.
        iterations: at most so many; for operators that are badly conditioned, fewer regularize.
    """
    check(lambda n: 0 <= n < math.inf, "a standard deviation is not negative; give 0 for none", noise_std=noise_std)
    check(lambda s: 0 < s < math.inf, "a standard deviation is positive; give the data's", sigma_data=sigma_data)
    check(lambda t: 0 < t < 1, "it is relative; give a small positive number", tol=tol)
    check_count("iterations", iterations)

    def guided(x, sigma):
        x0, pull = jax.vjp(lambda x: denoise(x, sigma), x)
        level, sd = each(sigma, x), each(sigma_data, x)
        residual = _residual(observe, y, x0)
        _, forward = jax.linearize(observe, x0)
        transpose = jax.linear_transpose(forward, x0)
        share = 1 + (level / sd) ** 2  # sigma²/r²
        # all is divided by r², which vanishes with sigma
        ridge = expand((each(noise_std, x) / level) ** 2 * share, x)
        v = _solve(lambda v: transpose(forward(v))[0] + ridge * v, transpose(residual)[0], tol, iterations)
        return x0 + expand(share, x) * pull(v)[0]

    return guided


def check_fits(name, value, x):
    """Raise ValueError unless `value` broadcasts to the shape of the images x."""
    try:
        fits = jnp.broadcast_shapes(jnp.shape(value), x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {jnp.shape(value)} does not fit images of shape {x.shape}: "
            "give [batch, *data], or what broadcasts against it"
        )


def _residual(observe, y, x0):
    found = observe(x0)
    if jnp.shape(y) != found.shape:
        raise ValueError(
            f"y of shape {jnp.shape(y)}, but observe gives {found.shape} for images {x0.shape}: "
            "give one measurement an example, jnp.broadcast_to(y, ...) where one is for all"
        )
    return jnp.asarray(y, found.dtype) - found


def _solve(matrix, b, tol, iterations):
    """v with matrix(v) = b by conjugate gradients, for a symmetric matrix ⪰ 0 that mixes no examples.

    `jax.scipy.sparse.linalg.cg` has one inner product for the batch: there an example would depend on its neighbors.
    """

    def solve(matrix, b):
        enough = tol**2 * dot(b, b)

        def unfinished(state):
            k, _, r, _ = state
            return (k < iterations) & jnp.any(dot(r, r) > enough)

        def improve(state):
            k, v, r, p = state
            image, before = matrix(p), dot(r, r)
            curvature = dot(p, image)
            active = (before > enough) & (curvature > 0)  # an example that has its solution stands still
            step = expand(jnp.where(active, before / jnp.where(active, curvature, 1), 0), b)
            v, r = v + step * p, r - step * image
            again = expand(jnp.where(active, dot(r, r) / jnp.where(active, before, 1), 0), b)
            return k + 1, v, r, r + again * p

        return jax.lax.while_loop(unfinished, improve, (0, jnp.zeros_like(b), b, b))[1]

    return jax.lax.custom_linear_solve(matrix, b, solve, symmetric=True)
