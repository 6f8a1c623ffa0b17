"""Checks of a sampler, (denoise, x, sigmas, keys) -> x0, on data whose exact denoiser is known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffax import samplers
from diffax.conformance.exact import Mixture, exact_denoiser, gaussian
from diffax.conformance.report import Check, Report, below, close, number, true

DATA = gaussian(0.3, 0.5)
MODES = Mixture(np.array([0.5, 0.3, 0.2]), np.array([[0.8, -0.3], [-0.6, 0.5], [0.1, 0.9]]), np.array([0.25, 0.1, 0.2]))


def check_sampler(sampler: Callable, *, draws: int = 50_000) -> Report:
    """Holds a sampler to what any sampler must do; see `check`.

    Args:
        sampler: options bound, e.g. by `functools.partial`.
        draws: samples for means and variances.
    """
    run = jax.jit(lambda x, sigmas, keys: sampler(exact_denoiser(DATA), x, sigmas, keys))
    x, sigmas = jnp.ones((8, 3)), samplers.karras(8)
    noisy = bool((run(x, sigmas, _keys(8)) != run(x, sigmas, _keys(8, 1))).any())
    checks = [*_runs(sampler, run, noisy), *_rows(run), *_laws(sampler, run, draws)]
    if not noisy:
        found = order(sampler)
        checks.append(Check("order of convergence", ">= 0.7", f"{found:.2f}", found >= 0.7))
    calls = network_calls(sampler, 10)
    checks.append(Check("network calls in 10 steps", ">= 10", str(calls), calls >= 10))
    return Report(f"the sampler {_name(sampler)}", tuple(checks))


def order(sampler: Callable, *, grid: Callable = samplers.uniform_logsnr, lo: float = 0.002, hi: float = 80.0) -> float:
    """The order of convergence on the probability-flow ODE of Gaussian data, of a sampler without noise.

    Its solution is x(sigma) = m + (x - m)·√((s² + sigma²)/(s² + hi²)). The error is the largest at three levels on the
    way, in units of the standard deviation there: at the end alone, leading errors may cancel.
    """
    errors = []
    with jax.enable_x64(True):
        for n in (60, 180):
            sigmas = grid(n + 1, lo, hi)[:-1]
            x = 0.3 + sigmas[0] * jnp.asarray([[1.0], [-2.0]])
            parts = [sigmas[: 1 + n * k // 3] for k in (1, 2, 3)]
            run = jax.jit(lambda x, parts: [sampler(exact_denoiser(DATA), x, part, _keys(2)) for part in parts])
            worst = 0.0
            for part, end in zip(parts, run(x, parts)):
                deviation = jnp.sqrt(0.25 + part[jnp.asarray([0, -1])] ** 2)
                exact = 0.3 + (x - 0.3) * deviation[1] / deviation[0]
                worst = max(worst, float(jnp.max(jnp.abs(end - exact)) / deviation[1]))
            errors.append(max(worst, 1e-15))
    return float(np.log(errors[0] / errors[1]) / np.log(3.0))


def network_calls(sampler: Callable, n: int) -> int:
    """How often n steps run the network, counted as they run."""
    count = []

    def denoise(x, sigma):
        jax.debug.callback(lambda: count.append(1))
        return exact_denoiser(DATA)(x, sigma)

    jax.block_until_ready(jax.jit(lambda x: sampler(denoise, x, samplers.karras(n), _keys(2)))(jnp.ones((2, 1))))
    jax.effects_barrier()
    return len(count)


def moments(sampler: Callable, data: Mixture, sigmas: Array, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(mean [d], variance [d]) of n samples of `data`, in float64, to hold against a law in closed form."""
    run = jax.jit(lambda x, sigmas, keys: sampler(exact_denoiser(data), x, sigmas, keys))
    return _moments(run, data, sigmas, n, seed)


def _runs(sampler, run, noisy):
    """Finite and of the right shape in few steps and many; free of noise at the end; no recompilation."""
    finite, traced = True, []
    for n in (1, 2, 11):
        sigmas = samplers.karras(n)
        out = np.asarray(run(samplers.init_noise(_keys(4), (2, 2, 1), sigmas[0]), sigmas, _keys(4)))
        finite &= out.shape == (4, 2, 2, 1) and out.dtype == np.float32 and bool(np.isfinite(out).all())
    yield true("finite and in shape in 1, 2, 11 steps", finite)

    x = 5.0 * jnp.linspace(-2.0, 2.0, 16).reshape(4, 2, 2, 1)
    off = run(x, jnp.asarray([5.0, 0.0]), _keys(4)) - exact_denoiser(DATA)(x, 5.0)
    # a sampler with noise may add some before it asks; one told another level is far off
    yield below("one step to 0 against the estimate there", float(jnp.abs(off).max()), 0.25 if noisy else 1e-4)

    @jax.jit
    def to_a_point(x, sigmas, keys):
        traced.append(1)
        return sampler(exact_denoiser(gaussian(0.3, 1e-3)), x, sigmas, keys)

    for hi in (80.0, 40.0):
        sigmas = samplers.karras(20, hi=hi)
        out = np.asarray(to_a_point(samplers.init_noise(_keys(64), (1,), hi), sigmas, _keys(64, 1)))
    yield below("distance from data that is one point", float(np.abs(out - 0.3).max()), 0.02)
    yield true("another grid of the same length compiles nothing", len(traced) == 1)


def _rows(run):
    """Sample i depends on its start and its key alone."""
    sigmas, keys = samplers.karras(8), _keys(8)
    x = samplers.init_noise(_keys(8, 1), (3,), sigmas[0])
    whole = run(x, sigmas, keys)
    others = run(x.at[1:].set(3.0), sigmas, keys.at[1:].set(_keys(7, 2)))
    alone = run(x[5:6], sigmas, keys[5:6])
    yield below("change of a sample with its neighbors", float(jnp.abs(others[0] - whole[0]).max()), 1e-5)
    yield below("change of a sample drawn alone", float(jnp.abs(alone[0] - whole[5]).max()), 1e-4)
    yield below("change of a run done again", float(jnp.abs(run(x, sigmas, keys) - whole).max()), 0.0)


def _laws(sampler, run, n):
    """Mean and variance of Gaussian data and of a mixture, what is left when the error of first order is taken out."""
    of_modes = jax.jit(lambda x, sigmas, keys: sampler(exact_denoiser(MODES), x, sigmas, keys))
    for name, data, drawn in (("Gaussian data", DATA, run), ("a mixture", MODES, of_modes)):
        grids = [samplers.karras(steps, 0.01, 50.0) for steps in (50, 100)]
        coarse, fine = (np.stack(_moments(drawn, data, grid, n, seed)) for seed, grid in enumerate(grids))
        mean, variance = 2 * fine - coarse
        share = 4.5 * np.sqrt(5.0 / n)  # the variance of this combination is 5 times that of a single run
        off, ratio = (mean - data.mean()) / np.sqrt(data.variance()), variance / data.variance()
        yield close(f"mean of {name}, in its deviations", 0.0, float(off[np.argmax(np.abs(off))]), share + 0.01)
        worst = float(ratio[np.argmax(np.abs(ratio - 1))])
        yield close(f"variance of {name}, over its own", 1.0, worst, share * np.sqrt(2.0) + 0.02)


def _moments(run, data, sigmas, n, seed):
    x = samplers.init_noise(_keys(n, 2 * seed), data.means.shape[1:], sigmas[0])
    out = np.asarray(run(x, sigmas, _keys(n, 2 * seed + 1)), np.float64)
    return out.mean(0), out.var(0)


def _keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def _name(sampler):
    inner, options = getattr(sampler, "func", sampler), getattr(sampler, "keywords", {})
    shown = ", ".join(f"{k}={number(v) if isinstance(v, float) else v}" for k, v in options.items())
    return f"{getattr(inner, '__name__', type(inner).__name__)}({shown})"
