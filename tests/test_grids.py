"""Grids: each against its closed form or the published numbers, and what no grid may be."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import PROCESSES, precision, strict  # noqa: F401

import diffax
from diffax import DDPM, EDM, VP, FlowMatching, Shifted, build, linear_betas, samplers, scaled_linear_betas


class Grid(NamedTuple):
    """n -> sigmas; the first and the last level above 0, of n > 1, where they are known without the grid."""

    make: Callable
    first: float
    last: float | None = None


def table():
    """A DDPM of 1000 steps."""
    return DDPM(linear_betas())


def alpha_bar_nsr(t):
    alpha_bar = np.cumprod(1 - linear_betas())[t]
    return math.sqrt((1 - alpha_bar) / alpha_bar)


T0, T999 = alpha_bar_nsr(0), alpha_bar_nsr(999)
NOISIEST = 0.999 / (1 - 0.999)  # of flow matching, whose cleanest level is 1e-5
GRIDS = {
    "karras": Grid(samplers.karras, 80.0, 0.002),
    "karras_1": Grid(lambda n: samplers.karras(n, rho=1.0), 80.0, 0.002),
    "uniform_logsnr": Grid(samplers.uniform_logsnr, 80.0, 0.002),
    "polyexponential": Grid(samplers.polyexponential, 80.0, 0.002),
    "polyexponential_half": Grid(lambda n: samplers.polyexponential(n, 0.01, 50.0, rho=0.5), 50.0, 0.01),
    "polyexponential_2": Grid(lambda n: samplers.polyexponential(n, rho=2.0), 80.0, 0.002),
    "cosine": Grid(samplers.cosine, 80.0, 0.002),
    "cosine_wide": Grid(lambda n: samplers.cosine(n, 1e-4, 4096.0), 4096.0, 1e-4),
    "at_times": Grid(lambda n: samplers.at_times(EDM(), np.linspace(7.0, 0.5, n)), 7.0, 0.5),
    "uniform_time": Grid(lambda n: samplers.uniform_time(table(), n), T999, T0),
    "shifted_time": Grid(lambda n: samplers.shifted_time(FlowMatching(), n), NOISIEST, 3 * 1e-5 / (1 - 1e-5)),
    "shifted_time_down": Grid(lambda n: samplers.shifted_time(FlowMatching(), n, 0.5), NOISIEST / 2, 1e-5 / (1 - 1e-5)),
    "resolution_time": Grid(
        lambda n: samplers.resolution_time(FlowMatching(), n, 4096), NOISIEST, math.exp(1.15) * 1e-5 / (1 - 1e-5)
    ),
    "leading": Grid(lambda n: samplers.leading(table(), n, offset=int(n < 1000)), None, alpha_bar_nsr(1)),
    "trailing": Grid(lambda n: samplers.trailing(table(), n), T999),
    "linspace": Grid(lambda n: samplers.linspace(table(), n), None, T0),
    "ays_sd": Grid(samplers.ays_sd, 14.615),
    "ays_sdxl": Grid(samplers.ays_sdxl, 14.615),
    "ays_svd": Grid(samplers.ays_svd, 700.0),
}


def test_the_list_is_complete():
    names = set(build.choices("grid"))
    assert names <= set(GRIDS)
    assert {name for name in GRIDS if name in samplers.__all__} == names <= set(diffax.__all__)


@functools.cache
def every_grid(n, bits):
    """{name: sigmas} of n levels."""
    with jax.enable_x64(bits == 64):
        return jax.device_get(jax.jit(lambda: {name: grid.make(n) for name, grid in GRIDS.items()})())


@pytest.mark.parametrize("bits, rtol", [(32, 1e-4), (64, 1e-9)])
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_can_be_followed_from_its_first_level_to_its_last(name, bits, rtol):
    _, first, last = GRIDS[name]
    for n in (1, 2, 100):
        sigmas = every_grid(n, bits)[name]
        with jax.enable_x64(bits == 64):
            samplers.check_sigmas(sigmas)
        assert sigmas.shape == (n + 1,) and sigmas.dtype == f"float{bits}"
        assert first is None or sigmas[0] == pytest.approx(first, rel=rtol)
        assert last is None or n == 1 or sigmas[-2] == pytest.approx(last, rel=rtol)


SHIFTS = (1.0, 3.0, 0.4)


@jax.jit
def grids_of(process):
    """The levels at both ends, and grids between them: with evenly spaced times, and shifted."""
    shifted = jax.vmap(lambda shift: samplers.shifted_time(process, 20, shift))(np.float32(SHIFTS))
    return process.nsr(jnp.asarray([process.t_min, process.t_max])), samplers.uniform_time(process, 20), *shifted


@pytest.mark.parametrize("process_name", PROCESSES)
def test_grids_of_processes_stay_within_their_levels(process_name):
    process = PROCESSES[process_name]()
    (lowest, highest), *grids = jax.device_get(grids_of(process))
    for sigmas in grids:
        samplers.check_sigmas(sigmas)
        assert lowest * (1 - 1e-5) <= sigmas[-2] and sigmas[0] <= highest * (1 + 1e-5)
    for sigmas in grids[:2]:
        np.testing.assert_allclose([sigmas[0], sigmas[19]], [highest, lowest], rtol=1e-4)
    _, _, up, down = grids
    np.testing.assert_allclose([up[0], down[19]], [highest, lowest], rtol=1e-3)
    samplers.check_sigmas(samplers.uniform_time(process, 20))  # and not traced, where the values are checked


def test_closed_forms():
    r = math.sqrt(3.0)

    @jax.jit
    def grids():
        return (
            samplers.karras(18),
            samplers.uniform_logsnr(3, 0.01, 100.0),
            samplers.at_times(FlowMatching(), [0.8, 0.5]),
            samplers.uniform_time(table(), 1000),
            samplers.polyexponential(3, 0.01, 100.0, rho=2.0),
            samplers.cosine(5, 2 - r, 2 + r),
        )

    with precision(64):
        karras, logsnr, times, own, halfway, cosine = grids()
        log_nsr = np.asarray(table().log_nsr)
    # arXiv:2206.00364, Eq. 5
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(karras, np.append(expected, 0.0), rtol=1e-12)
    np.testing.assert_allclose(logsnr, [100.0, 1.0, 0.01, 0.0], rtol=1e-12)
    np.testing.assert_allclose(times, [4.0, 1.0, 0.0], rtol=1e-12)
    np.testing.assert_allclose(np.asarray(own)[:-1], np.exp(log_nsr)[::-1], rtol=1e-12)
    # a quarter of the way down in log(sigma) at u = ½
    np.testing.assert_allclose(halfway, [100.0, 0.1, 0.01, 0.0], rtol=1e-12)
    # tan of 75°, 60°, 45°, 30°, 15°
    np.testing.assert_allclose(cosine, [2 + r, r, 1, 1 / r, 2 - r, 0], rtol=1e-12)


def test_the_exponential_grid():
    for options in (dict(), dict(lo=0.1, hi=3.0)):
        found = samplers.polyexponential(20, **options)
        np.testing.assert_allclose(found, samplers.uniform_logsnr(20, **options), rtol=1e-5)


def test_the_cosine_grid_is_even_in_time():
    # the schedule alpha = cos(½πt), sigma = sin(½πt), whose times the grid must not need
    process = type(PROCESSES["trigonometric"]())(1.0)
    lo, hi = (math.tan(0.5 * math.pi * t) for t in (process.t_min, process.t_max))

    @jax.jit
    def both():
        return samplers.cosine(30, lo, hi), samplers.uniform_time(process, 30)

    with precision(64):
        np.testing.assert_allclose(*both(), rtol=1e-9)
    # as exact in float32, from the noisiest level to the cleanest
    found = np.asarray(jax.jit(lambda: samplers.cosine(40, 1e-4, 4096.0))(), np.float64)[:-1]
    angles = np.linspace(math.atan(4096.0), math.atan(1e-4), 40)
    np.testing.assert_allclose(found, np.tan(angles), rtol=2e-6)


# diffusers 0.42.1, DDIMScheduler(num_train_timesteps=1000, timestep_spacing=...).set_timesteps(n)
TIMESTEPS = {
    ("leading", 1): [0],
    ("leading", 3): [666, 333, 0],
    ("leading", 7): [852, 710, 568, 426, 284, 142, 0],
    ("leading", 10): [900, 800, 700, 600, 500, 400, 300, 200, 100, 0],
    ("trailing", 1): [999],
    ("trailing", 3): [999, 666, 332],
    ("trailing", 7): [999, 856, 713, 570, 428, 285, 142],
    ("trailing", 10): [999, 899, 799, 699, 599, 499, 399, 299, 199, 99],
    ("linspace", 1): [0],
    ("linspace", 3): [999, 500, 0],
    ("linspace", 7): [999, 832, 666, 500, 333, 166, 0],
    ("linspace", 10): [999, 888, 777, 666, 555, 444, 333, 222, 111, 0],
}
# of longer ones the sum of i·t, i = 1 … n from the noisiest on; 48 rounds halves, to which side rests on float64
SUMS = {
    ("leading", 48): 368480,
    ("leading", 50): 416500,
    ("leading", 100): 1666500,
    ("leading", 999): 166167000,
    ("trailing", 48): 407068,
    ("trailing", 50): 440725,
    ("trailing", 61): 649120,  # without the -1 that diffusers appends as the 62nd
    ("trailing", 100): 1711950,
    ("trailing", 999): 166292250,
    ("linspace", 48): 391648,
    ("linspace", 50): 424561,
    ("linspace", 61): 629679,
    ("linspace", 100): 1681605,
    ("linspace", 999): 166292250,
}


class Index:
    """A chain of 1000 steps whose noise level tells its index: t + 1."""

    steps, t_min, t_max = 1000, 0.0, 999.0

    def nsr(self, t):
        return t + 1.0


@functools.cache
def timesteps():
    """{(name, n) or (name, n, offset): the indices of the grid's levels in the table}"""
    whole = [(name, 1000) for name in ("leading", "trailing", "linspace")]
    cases = [*TIMESTEPS, *SUMS, *whole, ("leading", 50, 1), ("leading", 3, 333)]
    grids = jax.jit(lambda: [getattr(samplers, name)(Index(), *numbers) for name, *numbers in cases])
    return {case: (sigmas[:-1] - 1.0).astype(int) for case, sigmas in zip(cases, jax.device_get(grids()))}


@pytest.mark.parametrize("name, n", [*TIMESTEPS, *SUMS])
def test_timesteps_are_those_of_diffusers(name, n):
    found = timesteps()[name, n]
    assert len(found) == n
    if (name, n) in TIMESTEPS:
        assert found.tolist() == TIMESTEPS[name, n]
    else:
        assert np.sum(found * np.arange(1, n + 1)) == SUMS[name, n]


def test_every_step_of_the_chain_and_an_offset():
    for name in ("leading", "trailing", "linspace"):
        assert timesteps()[name, 1000].tolist() == list(range(999, -1, -1))
    # Stable Diffusion's fifty steps
    assert timesteps()["leading", 50, 1].tolist() == list(range(981, 0, -20))
    assert timesteps()["leading", 3, 333][0] == 999


def test_shifted_time_is_that_of_the_paper():
    # arXiv:2403.03206, Eq. 23, on times that are evenly spaced up to the one that is shifted to 0.999
    shifts = (1.0, 3.0, 0.5)

    @jax.jit
    def grids():
        return (
            [samplers.shifted_time(FlowMatching(), 25, shift) for shift in shifts],
            samplers.uniform_time(Shifted(FlowMatching(), 3.0), 25),
            (samplers.shifted_time(VP(), 25, 1.0), samplers.uniform_time(VP(), 25)),
        )

    with precision(64):
        of_shifts, own, unshifted = jax.device_get(grids())
    for shift, found in zip(shifts, of_shifts):
        top = min(0.999, 0.999 / (shift - (shift - 1) * 0.999))
        bottom = max(1e-5, 1e-5 / (shift - (shift - 1) * 1e-5))
        t = np.linspace(top, bottom, 25)
        shifted = shift * t / (1 + (shift - 1) * t)
        np.testing.assert_allclose(found[:-1] / (1 + found[:-1]), shifted, rtol=1e-9)
    # the even times of a process that is trained with the shift, but for where it begins
    assert own[0] == pytest.approx(3 * NOISIEST)
    np.testing.assert_allclose(*unshifted, rtol=1e-9)


def test_resolution_shift():
    assert samplers.resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert samplers.resolution_shift(4096) == pytest.approx(math.exp(1.15))
    assert samplers.resolution_shift(1024) == pytest.approx(math.exp(0.63))  # a fifth of the way
    assert samplers.resolution_shift(2176, base_shift=0.0, max_shift=2.0) == pytest.approx(math.e)

    @jax.jit
    def both():
        process = FlowMatching()
        return samplers.resolution_time(process, 9, 1024), samplers.shifted_time(process, 9, math.exp(0.63))

    with precision(64):
        np.testing.assert_array_equal(*both())


def test_align_your_steps():
    # arXiv:2404.14507: the published levels, the last replaced by 0
    sd = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    sdxl = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.0]
    svd = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0]

    @jax.jit
    def grids():
        # the timesteps that the authors publish beside them, in Stable Diffusion's own table
        chain = DDPM(scaled_linear_betas())
        of_sd = samplers.at_times(chain, [999, 850, 736, 645, 545, 455, 343, 233, 124, 24])
        of_sdxl = samplers.at_times(chain, [999, 845, 730, 587, 443, 310, 193, 116, 53, 13])
        makes = (samplers.ays_sd, samplers.ays_sdxl, samplers.ays_svd)
        return [(make(), make(20), make(5)) for make in makes], of_sd, of_sdxl

    with precision(64):
        found, of_sd, of_sdxl = jax.device_get(grids())
    for published, (same, twice, half) in zip((sd, sdxl, svd), found):
        np.testing.assert_allclose(same, published, rtol=1e-12)
        np.testing.assert_allclose(twice[:-1:2], published[:-1], rtol=1e-12)
        np.testing.assert_allclose(twice[1:-2:2] ** 2, twice[:-3:2] * twice[2:-1:2], rtol=1e-12)
        np.testing.assert_allclose(half, [*published[:-1:2], 0.0], rtol=1e-12)
    # the last two of 20 lie between the table's last two: its end, 0.029, is known although it is replaced
    ends = [twice[-2] ** 2 / twice[-3] for _, twice, _ in found]
    np.testing.assert_allclose(ends, [0.029, 0.029, 0.002], rtol=1e-12)
    np.testing.assert_allclose(of_sd, sd, rtol=4e-3)
    np.testing.assert_allclose(of_sdxl, sdxl, rtol=1.5e-2)


def traced_options():
    """(grid of 6 levels by its numbers, the numbers): all that one may sweep."""
    process = FlowMatching()
    return {
        "karras": (lambda lo, hi, rho: samplers.karras(6, lo, hi, rho), (0.01, 50.0, 7.0)),
        "uniform_logsnr": (lambda lo, hi: samplers.uniform_logsnr(6, lo, hi), (0.01, 50.0)),
        "polyexponential": (lambda lo, hi, rho: samplers.polyexponential(6, lo, hi, rho), (0.01, 50.0, 1.5)),
        "cosine": (lambda lo, hi: samplers.cosine(6, lo, hi), (0.01, 50.0)),
        "shifted_time": (lambda shift: samplers.shifted_time(process, 6, shift), (3.0,)),
        "at_times": (lambda t: samplers.at_times(process, jnp.stack([t, 0.5 * t])), (0.9,)),
        "leading": (lambda b: samplers.leading(PROCESSES["ddpm"](), 6), (0.0,)),
    }


@pytest.mark.parametrize("name", traced_options())
def test_sweeping_does_not_recompile_and_gradients_are_right(name):
    grid, numbers = traced_options()[name]
    runs = []

    @jax.jit
    def sweep(*numbers):
        runs.append(1)
        back = jax.grad(lambda *numbers: jnp.sum(grid(*numbers)[1:]))(*numbers)
        return grid(*numbers), jax.jacfwd(grid, argnums=tuple(range(len(numbers))))(*numbers), back

    with precision(64):
        for factor in (1.0, 0.9):
            point = np.asarray(numbers) * factor
            sigmas, slopes, back = sweep(*point)
            assert np.isfinite(back)
            np.testing.assert_allclose(sigmas, grid(*point), rtol=1e-9)
            for i, slope in enumerate(slopes):
                step = np.zeros(len(point))
                step[i] = 1e-6 * (point[i] or 1.0)
                ahead, behind = (np.asarray(sweep(*end)[0]) for end in (point + step, point - step))
                difference = (ahead - behind) / (2 * step[i])
                np.testing.assert_allclose(slope, difference, rtol=1e-5, atol=1e-5)
        assert len(runs) == 1


def test_a_process_may_be_traced():
    def grids(process, chain):
        return samplers.uniform_time(process, 20), samplers.shifted_time(process, 20), samplers.trailing(chain, 20)

    for found, expected in zip(jax.jit(grids)(VP(), table()), grids(VP(), table()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(GRIDS) - {"at_times"}))
@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_a_grid_needs_a_level(name, n):
    with pytest.raises(ValueError, match=f"n of {n} is not allowed, expected a whole number of levels, at least 1"):
        GRIDS[name].make(n)


BETWEEN = {"karras": True, "uniform_logsnr": False, "polyexponential": True, "cosine": False}  # has it a rho?


@pytest.mark.parametrize("name", BETWEEN)
def test_bad_numbers_are_refused_by_name(name):
    make = getattr(samplers, name)
    for option in ("lo", "hi", "rho")[: 3 if BETWEEN[name] else 2]:
        for value in (0.0, -1.0, math.inf, math.nan, np.float32(-1.0), jnp.float32(-1.0)):
            with pytest.raises(ValueError, match=f"^{option} of .* is not allowed, expected a finite number above 0"):
                make(4, **{option: value})
    for n, lo, hi in ((4, 1.0, 1.0), (4, 2.0, 1.0), (1, 2.0, 1.0)):
        with pytest.raises(ValueError, match=f"hi of {hi} is not allowed, expected more than lo, which is {lo}"):
            make(n, lo, hi)
    np.testing.assert_allclose(jax.jit(lambda: make(1, 1.0, 1.0))(), [1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: samplers.at_times(VP(), []), r"at least 1 time, got shape \(0,\)"),
        (lambda: samplers.at_times(VP(), 0.5), r"at least 1 time, got shape \(\)"),
        (lambda: samplers.at_times(VP(), [0.5, 0.5]), "decrease, got 0.5 then 0.5 at place 0"),
        (lambda: samplers.at_times(VP(), [1.0, 0.25, 0.5]), "decrease, got 0.25 then 0.5 at place 1"),
        (lambda: samplers.at_times(VP(), [1.0, math.nan]), "finite and decrease, got 1.0 then nan"),
        (lambda: samplers.at_times(VP(), [math.inf, 0.5]), "finite and decrease, got inf then 0.5"),
        (lambda: samplers.at_times(FlowMatching(), [1.0, 0.5]), "noise level of FlowMatching there is inf; expected t"),
        (
            lambda: samplers.at_times(VP(), [0.5, 0.0]),
            "t of 0.0 in ts is not allowed: the noise level of VP there",
        ),
        (lambda: samplers.shifted_time(VP(), 4, 0.0), "shift of 0.0 is not allowed"),
        (lambda: samplers.shifted_time(VP(), 4, math.nan), "shift of nan is not allowed"),
        (lambda: samplers.resolution_shift(0), "tokens of 0 is not allowed, expected at least 1"),
        (lambda: samplers.resolution_time(VP(), 4, 10**9), "tokens of 1000000000 is not allowed, .* mu from -80 to 80"),
        (lambda: samplers.leading(VP(), 4), "VP has no table of steps, expected a DDPM; use uniform_time"),
        (lambda: samplers.linspace(table(), 1001), "n of 1001 is not allowed: the process has 1000 steps"),
        (lambda: samplers.trailing(table(), 2000), "n of 2000 is not allowed: the process has 1000 steps"),
        (lambda: samplers.leading(table(), 1001), "n of 1001 is not allowed: the process has 1000 steps"),
        (lambda: samplers.leading(table(), 1000, 1), "offset of 1 is not allowed: .* expected from 0 to 0"),
        (lambda: samplers.leading(table(), 10, 100), "offset of 100 is not allowed: .* expected from 0 to 99"),
        (lambda: samplers.leading(table(), 10, -1), "offset of -1 is not allowed"),
        (lambda: samplers.leading(table(), 10, 0.5), "offset of 0.5 is not allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_config_names_the_grid_that_refuses():
    with pytest.raises(ValueError, match=r"^sample\.grid: n of 9 is not allowed: the process has 4 steps"):
        build.make("grid", dict(name="trailing", n=9), "sample.grid", process=DDPM(linear_betas(4)))
    config, process = dict(name="resolution_time", n=4, tokens=1024), FlowMatching()
    found = jax.jit(lambda: build.make("grid", config, "sample.grid", process=process))()
    np.testing.assert_allclose(found, jax.jit(lambda: samplers.resolution_time(process, 4, 1024))(), rtol=1e-6)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0], "at least 2 levels"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
        ([1.0, 2.0, 0.0], "got 1.0 then 2.0 at step 0"),
        ([2.0, 1.0, 1.0, 0.0], "got 1.0 then 1.0 at step 1"),
        ([2.0, float("nan"), 0.0], "got 2.0 then nan"),
        ([float("inf"), 1.0, 0.0], "got inf then 1.0"),
        ([2.0, 1.0], "end in 0, got 1.0"),
        ([2.0, 1.0, -1.0], "end in 0, got -1.0"),
    ],
)
def test_bad_sigmas(sigmas, message):
    with pytest.raises(ValueError, match=message):
        samplers.check_sigmas(jnp.asarray(sigmas))
