"""Every sampler over processes, predictions and numbers of steps: samples end finite and noise-free in each cell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import PREDICTIONS, PROCESSES, SAMPLERS, exact_network, gaussian, keys_of, levels, strict  # noqa: F401

from diffax import denoiser, init_noise, samplers

DATA, LAST = gaussian(0.3, 0.5), 0.05
# each process and each prediction at least once
PAIRS = (
    ("vp", "eps"),
    ("subvp", "v"),
    ("ve", "score"),
    ("edm", "edm"),
    ("cosine", "x0"),
    ("flow", "velocity"),
    ("ddpm", "eps_unit_variance"),
)
STEPS = (1, 2, 3, 5, 11, 1000)


@functools.cache
def pairs():
    """(denoisers, their grids' ends [pairs, 2])."""
    made = {name: PROCESSES[name]() for name, _ in PAIRS}
    networks = [(made[name], *exact_network(DATA, made[name], prediction)) for name, prediction in PAIRS]
    ends = [(LAST, levels(process, 2)[1]) for process in made.values()]
    return [denoiser(apply, process, row) for process, apply, row in networks], np.asarray(ends)


def test_there_are_at_least_a_thousand_cells():
    assert {prediction for _, prediction in PAIRS} == set(PREDICTIONS)
    assert len(SAMPLERS) * len(PAIRS) * len(STEPS) >= 1000


@pytest.mark.slow
@pytest.mark.parametrize("n", STEPS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_finite_and_noise_free(name, n):
    denoisers, ends = pairs()
    keys, unit = keys_of(4), init_noise(keys_of(4, seed=1), (1,), 1.0)

    @jax.jit
    def run(grids):
        def of_pair(cell):
            pair, sigmas = cell
            denoise = lambda x, s: jax.lax.switch(pair, denoisers, x, jnp.full(len(x), s))  # noqa: E731
            x0, path = SAMPLERS[name].run(denoise, unit * sigmas[0], sigmas, keys, trajectory=True)
            return x0, path.x0[-1], path.x

        return jax.lax.map(of_pair, (jnp.arange(len(denoisers)), grids))

    found = jax.device_get(run(jnp.stack([samplers.karras(n, *end) for end in ends])))
    for (process, prediction), x, estimate, path in zip(PAIRS, *found, strict=True):
        assert np.isfinite(path).all(), (process, prediction)
        # noise-free: what comes back is the last estimate, to the rounding of a last step from as far as the start
        np.testing.assert_allclose(x, estimate, rtol=1e-5, atol=1e-4 if n == 1 else 2e-6, err_msg=process)
