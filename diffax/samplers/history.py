"""What multistep samplers share: polynomials through the values of earlier steps, and integrals of them."""

import jax.numpy as jnp
from jax import Array


def push(new: Array, past: Array) -> Array:
    """[k, ...]: the newest value in front, the oldest dropped."""
    return jnp.concatenate([new[None], past[:-1]])


def empty(k: int, x: Array, sigmas: Array) -> tuple[Array, Array]:
    """(values, levels) before the first step; the levels are of no step, but what comes of them must be finite."""
    return jnp.zeros((k, *x.shape), x.dtype), sigmas[0] * 2.0 ** jnp.arange(1, k + 1, dtype=sigmas.dtype)


def combine(weights: Array, values: Array) -> Array:
    """The sum of weights [k] times values [k, ...]; elementwise, since a matrix product may round to bfloat16."""
    return sum(weights[j] * values[j] for j in range(len(values)))


def lagrange(nodes: Array, valid: Array, at: Array) -> Array:
    """[k, m]: the Lagrange polynomials of the valid ones of k nodes at m points; 0 for the others."""
    others = valid[None, :] & ~jnp.eye(len(nodes), dtype=bool)
    apart = jnp.where(others, nodes[:, None] - nodes[None, :], 1.0)
    factors = jnp.where(others[..., None], (at - nodes[:, None]) / apart[..., None], 1.0)
    return jnp.where(valid[:, None], jnp.prod(factors, axis=1), 0.0)


def half_step_ratio(before: Array, s: Array, r: Array) -> Array:
    """log(s/r)/(2·log(before/s)), the 1/(2r) of arXiv:2211.01095, Algorithm 2; 0 where no step came before."""
    h_last = jnp.log(before / s)
    return jnp.where(h_last > 0, 0.5 * jnp.log(s / r) / jnp.where(h_last > 0, h_last, 1.0), 0.0)


def exponential_weights(levels: Array, valid: Array, s: Array, r: Array, rate: float | Array = 1.0) -> Array:
    """Weights [k] of the estimates D at `levels`, of which the first is s, in the exact solution's integral

        Σ_j c_j D_j = ∫ rate·e^(-rate·(h - u)) D(u) du over u from 0 to h = log(s/r),

    D(u) the polynomial in u = log(s/sigma) through the valid estimates. The integral of a constant, 1 - (r/s)^rate,
    comes out exactly.
    """
    h = jnp.log(s / r)
    at, parts = _quadrature(h.dtype)
    kernel = rate * h * jnp.exp(-rate * h * (1.0 - at)) * parts
    rest = jnp.sum(lagrange(jnp.log(s / levels) / h, valid, at) * kernel, axis=1)[1:]
    return jnp.concatenate([(-jnp.expm1(-rate * h) - jnp.sum(rest))[None], rest])


def sigma_weights(levels: Array, valid: Array, s: Array, r: Array) -> Array:
    """Weights [k] of slopes at `levels`: ∫ ℓ_j(sigma) dsigma from s to r, ℓ_j the Lagrange polynomials in sigma."""
    at, parts = _quadrature(s.dtype)
    return (r - s) * jnp.sum(lagrange(levels, valid, s + (r - s) * at) * parts, axis=1)


def log_sigma_weights(levels: Array, valid: Array, s: Array, r: Array) -> Array:
    """Weights [k] of slopes at `levels`: ∫ ℓ_j(log sigma) dsigma from s to r."""
    h = jnp.log(r / s)
    at, parts = _quadrature(s.dtype)
    return jnp.sum(lagrange(jnp.log(levels / s), valid, h * at) * h * s * jnp.exp(h * at) * parts, axis=1)


def _quadrature(dtype):
    """Gauss-Legendre nodes and weights [16] on [0, 1], exact for polynomials up to degree 31.

    The closed forms of the same integrals subtract near-equal numbers twice or thrice, and at h = 0.1 have lost half
    of float32's digits.
    """
    from numpy.polynomial.legendre import leggauss

    nodes, weights = leggauss(16)
    return jnp.asarray((nodes + 1) / 2, dtype), jnp.asarray(weights / 2, dtype)
