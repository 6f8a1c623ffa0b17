"""The discrete chain of DDPM and its beta tables, computed in float64 on the host."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffax.process.gaussian import Process, pytree


@pytree
class DDPM(Process):
    """The discrete chain of arXiv:2006.11239 with a table of `betas`, read as a process in continuous index.

    t = 0 … T-1 is the index into the table (the paper's t - 1), so t_min = 0 and t_max = T - 1. Between indices
    log nsr is interpolated linearly, beyond the ends it is continued. alpha² + sigma² = 1; alpha² at integer t is
    the product of (1 - beta), computed in float64 on the host.

    Args:
        betas: [T], T ≥ 2, each in (0, 1]. A last beta of 1 (zero terminal SNR) would make nsr infinite: alpha²
            is kept above 2^-24, so the largest nsr is 4096. Steps that would reach it before the last one come just
            below, each 3e-4 in log nsr under the next: levels that float32 can tell apart.

    Raises:
        ValueError: betas of another shape or range, or one of 1 before the last.
    """

    log_nsr: Array  # [T]

    def __init__(self, betas):
        betas = _checked(betas)
        # 1 - alpha² as a running sum of what each step removes: no cancellation at small t
        alpha2 = np.cumprod(1.0 - betas)
        noise = np.cumsum(np.concatenate([[1.0], alpha2[:-1]]) * betas)
        if alpha2[-2] == 0:
            raise ValueError("betas leave no signal before their last step: use fewer or smaller ones")
        table = 0.5 * np.log(noise / np.maximum(alpha2, 2.0**-24))
        largest = 12 * math.log(2.0)  # of log nsr
        table = np.minimum(table, largest - 3e-4 * np.arange(len(betas))[::-1])
        object.__setattr__(self, "log_nsr", jnp.asarray(table, jnp.result_type(float)))

    def __repr__(self):
        return f"DDPM({len(self.log_nsr)} steps)" if hasattr(self.log_nsr, "shape") else f"DDPM({self.log_nsr})"

    @property
    def steps(self) -> int:
        """T, the number of noise levels."""
        return self.log_nsr.shape[-1]

    @property
    def t_max(self):
        """T - 1."""
        return float(self.steps - 1)

    def alpha(self, t):
        """√(alpha-bar)."""
        return jnp.sqrt(jax.nn.sigmoid(-2.0 * _between_entries(self.log_nsr, t)))

    def sigma(self, t):
        """√(1 - alpha-bar)."""
        return jnp.sqrt(jax.nn.sigmoid(2.0 * _between_entries(self.log_nsr, t)))

    def nsr(self, t):
        """√((1 - alpha-bar)/alpha-bar)."""
        return jnp.exp(_between_entries(self.log_nsr, t))

    def time(self, nsr):
        """The inverse of `nsr`: the table read backwards."""
        return _place(self.log_nsr, jnp.log(nsr))

    def timestep(self, t):
        """The index itself, as Ho et al. embed it."""
        return jnp.asarray(t)


def _checked(betas):
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or betas.size < 2:
        raise ValueError(f"betas must be a vector of at least 2 values, got shape {betas.shape}")
    if not np.all((betas > 0) & (betas <= 1)):
        bad = betas[~((betas > 0) & (betas <= 1))][0]
        raise ValueError(f"every beta must be in (0, 1], got {bad}")
    return betas


# each one program where it is called outside of any, in place of a dozen


@partial(jax.jit, inline=True)
def _between_entries(table, t):
    """The table at index t, linear between its entries."""
    left = jnp.clip(jnp.floor(t), 0, len(table) - 2)
    i, w = left.astype(jnp.int32), t - left
    return (1.0 - w) * table[i] + w * table[i + 1]  # exact at w = 0 and at w = 1


@partial(jax.jit, inline=True)
def _place(table, value):
    """The index t at which the table has a value."""
    i = jnp.clip(jnp.searchsorted(table, value, side="right", method="compare_all") - 1, 0, len(table) - 2)
    low, high = table[i], table[i + 1]
    return i.astype(value.dtype) + (value - low) / (high - low)


def linear_betas(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Betas [n] linear from `start` to `end`, arXiv:2006.11239, Sec. 4; float64."""
    return np.linspace(start, end, n)


def scaled_linear_betas(n: int = 1000, start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    """Betas [n] whose square roots are linear, arXiv:2112.10752 (latent diffusion's schedule); float64."""
    return np.linspace(start**0.5, end**0.5, n) ** 2


def cosine_betas(n: int = 1000, s: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """Betas [n] of the cosine schedule, arXiv:2102.09672, Eq. 17, none above `largest`; float64."""
    alpha2 = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    return np.minimum(1.0 - alpha2[1:] / alpha2[:-1], largest)


def sigmoid_betas(n: int = 1000, start: float = 1e-4, end: float = 0.02) -> np.ndarray:
    """Betas [n] that rise from `start` to `end` along a sigmoid over [-6, 6], arXiv:2203.02923; float64."""
    return start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, n)))


def zero_terminal_snr(betas) -> np.ndarray:
    """Rescales `betas` [n] to leave no signal after the last step, arXiv:2305.08891, Algorithm 1; float64.

    Raises:
        ValueError: betas of another shape or range than those of `DDPM`, or that take nothing away in float64.
    """
    scale = np.sqrt(np.cumprod(1.0 - _checked(betas)))
    if not scale[0] > scale[-1]:
        raise ValueError(f"betas from {betas[0]} to {betas[-1]} take no signal away, or all of it at once")
    scale = (scale - scale[-1]) * scale[0] / (scale[0] - scale[-1])
    alpha2 = scale**2
    return 1.0 - alpha2 / np.concatenate([[1.0], alpha2[:-1]])
