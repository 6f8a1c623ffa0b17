"""Processes: closed forms against each other, against quadrature, and against the published tables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import PROCESSES, Trigonometric, precision, strict  # noqa: F401

import diffax
from diffax import DDPM, EDM, VE, VP, Cosine, FlowMatching, Process, Shifted, SubVP, add_noise

TABLES = {
    "linear": diffax.linear_betas,
    "scaled_linear": diffax.scaled_linear_betas,
    "cosine": diffax.cosine_betas,
    "sigmoid": diffax.sigmoid_betas,
    "zero_terminal_snr": lambda: diffax.zero_terminal_snr(diffax.scaled_linear_betas()),
}
QUANTITIES = ("alpha", "sigma", "nsr", "logsnr", "timestep")


@jax.jit
def quantities(process, t):
    """Everything at times t, and a smooth scalar of it with its gradient in the parameters and in t."""

    def scalar(process, t):
        found = {name: getattr(process, name)(t) for name in QUANTITIES}
        return jnp.mean(jnp.log(found["alpha"]) + jnp.log(found["sigma"]) + found["logsnr"]), found

    (value, found), gradients = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)(process, t)
    return found | {"time": process.time(found["nsr"]), "scalar": value, "gradients": gradients}


def at(process, t):
    """`quantities` on the host, of a process whose parameters are arrays of t's own type."""
    return jax.device_get(quantities(jax.tree.map(lambda a: jnp.asarray(a, t.dtype), process), t))


@jax.jit
def by_bisection(process, nsr):
    """The default inverse and its derivatives in nsr and in the parameters, beside the process's own."""

    def of(time):
        value, back = jax.vjp(lambda process, nsr: time(process, nsr), process, nsr)
        by_process, by_nsr = back(jnp.ones_like(value))
        return value, by_nsr, jax.tree.leaves(by_process)

    return of(Process.time), of(lambda process, nsr: process.time(nsr))


@functools.cache
def everything(process_name, bits):
    with precision(bits):
        process = PROCESSES[process_name]()
        t = np.linspace(process.t_min, process.t_max, 41, dtype=f"float{bits}")
        return t, at(process, t)


def in_float64(process):
    return jax.tree.map(np.float64, jax.device_get(process))


@functools.cache
def bisected(process_name):
    """The default inverse, and the process's own, at levels that are evenly spaced in log nsr."""
    nsr = everything(process_name, 64)[1]["nsr"]
    with precision(64):
        process = in_float64(PROCESSES[process_name]())
        return jax.device_get(by_bisection(process, np.geomspace(nsr[0], nsr[-1], 43)[1:-1] * 1.01))


@pytest.mark.parametrize("process_name", PROCESSES)
def test_definitions(process_name):
    t, found = everything(process_name, 64)
    np.testing.assert_allclose(found["nsr"], found["sigma"] / found["alpha"], rtol=1e-11)
    np.testing.assert_allclose(found["logsnr"], -2 * np.log(found["nsr"]), rtol=1e-12, atol=1e-12)
    assert np.all(np.diff(found["nsr"]) > 0)
    np.testing.assert_allclose(found["time"], t, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found["timestep"][[0, -1]], [0.0, 999.0], atol=1e-9)
    assert np.all(np.diff(found["timestep"]) > 0)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_float32_agrees_with_float64(process_name):
    # to the conditioning of time itself: 1 - t at the noisy end, t at the clean one
    exact, found = everything(process_name, 64)[1], everything(process_name, 32)[1]
    for name in QUANTITIES:
        assert found[name].dtype == np.float32
        assert np.all(np.isfinite(found[name]))
        np.testing.assert_allclose(found[name], exact[name], rtol=5e-4, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(found["time"], exact["time"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_gradients_are_finite_from_end_to_end(process_name):
    t, found = everything(process_name, 32)
    assert (t[0], t[-1]) == tuple(np.float32([PROCESSES[process_name]().t_min, PROCESSES[process_name]().t_max]))
    for leaf in jax.tree.leaves(found["gradients"]):
        assert leaf.dtype == np.float32
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("process_name", PROCESSES)
def test_gradients_equal_differences(process_name):
    # of every leaf of the process, along one direction, and of t: against a central difference
    rng, h = np.random.default_rng(0), 1e-6
    with precision(64):
        process = in_float64(PROCESSES[process_name]())
        t = bisected(process_name)[1][0]
        way = jax.tree.map(lambda a: a * rng.uniform(0.5, 1.5, a.shape), process)
        ahead, behind = (jax.tree.map(lambda a, d, h=h: a + h * d, process, way) for h in (h, -h))
        by_process, by_t = at(process, t)["gradients"]
        for found, direction, ends in (
            (by_process, way, ((ahead, t), (behind, t))),
            (by_t, t, ((process, t * (1 + h)), (process, t * (1 - h)))),
        ):
            slope = (at(*ends[0])["scalar"] - at(*ends[1])["scalar"]) / (2 * h)
            total = sum(np.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (found, direction))))
            np.testing.assert_allclose(total, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_bisection_equals_the_closed_form(process_name):
    generic, closed = bisected(process_name)
    for found, expected in zip(jax.tree.leaves(generic), jax.tree.leaves(closed)):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["vp", "cosine", "flow", "trigonometric"])
def test_bisection_in_float32(name):
    t, exact = everything(name, 64)
    found = jax.jit(Process.time)(PROCESSES[name](), np.float32(exact["nsr"]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, t, rtol=3e-5)


@jax.jit
def stacked(processes, t):
    return jax.vmap(lambda process: (process.alpha(t), process.nsr(t), process.time(process.nsr(t))), axis_size=2)(
        processes
    )


@pytest.mark.parametrize("process_name", PROCESSES)
def test_vmap_over_hyper_parameters(process_name):
    first = jax.tree.map(np.float32, jax.device_get(PROCESSES[process_name]()))
    second = jax.tree.map(lambda a: a * np.float32(1.05), first)
    t, _ = everything(process_name, 32)
    alpha, nsr, time = jax.device_get(stacked(jax.tree.map(lambda a, b: np.stack([a, b]), first, second), t))
    for i, process in enumerate((first, second)):
        expected = at(process, t)
        np.testing.assert_allclose(alpha[i], expected["alpha"], rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(nsr[i], expected["nsr"], rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(time[i], t, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_processes_are_pytrees(process_name):
    process = PROCESSES[process_name]()
    leaves, structure = jax.tree.flatten(process)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(process)
    t = jnp.float32(0.3 * process.t_max)
    assert again.nsr(t) == process.nsr(t)
    with pytest.raises(AttributeError):
        process.beta_min = 1.0


def test_leaves_are_named():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Shifted(VP(), 2.0))]
    assert paths == [".process.beta_min", ".process.beta_max", ".shift"]


@pytest.mark.parametrize("process_name", ["vp", "cosine", "ddpm", "ddpm_cosine", "ddpm_zero_snr"])
def test_variance_is_preserved(process_name):
    found = everything(process_name, 64)[1]
    np.testing.assert_allclose(found["alpha"] ** 2 + found["sigma"] ** 2, 1.0, rtol=1e-12)


def test_vp_and_subvp_are_the_integral_of_beta():
    # arXiv:2011.13456, Eq. 29: beta(t) integrated by Simpson's rule, exact for a line
    t, found = everything("vp", 64)
    beta = 0.1 + t * (20.0 - 0.1)
    integral = t * (0.1 + 4 * (0.1 + 0.5 * t * (20.0 - 0.1)) + beta) / 6
    np.testing.assert_allclose(found["alpha"], np.exp(-0.5 * integral), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.sqrt(-np.expm1(-integral)), rtol=1e-12)
    t, found = everything("subvp", 64)
    np.testing.assert_allclose(found["sigma"], 1 - found["alpha"] ** 2, rtol=1e-9)
    np.testing.assert_allclose(found["alpha"], VP().alpha(t), rtol=1e-6)


def test_closed_forms():
    t, found = everything("ve", 64)
    np.testing.assert_allclose(found["nsr"], 0.01 * (50.0 / 0.01) ** t, rtol=1e-12)
    t, found = everything("edm", 64)
    np.testing.assert_allclose(found["nsr"], t, rtol=0)
    t, found = everything("flow", 64)
    np.testing.assert_allclose(found["alpha"] + found["sigma"], 1.0, rtol=1e-15)
    t, found = everything("cosine", 64)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(found["alpha"] ** 2, f / np.cos(0.008 / 1.008 * np.pi / 2) ** 2, rtol=1e-9)
    t, found = everything("trigonometric", 64)
    np.testing.assert_allclose(found["nsr"], 1.3 * np.tan(np.pi * t / 2), rtol=1e-10)


def test_flow_matching_shift_is_that_of_stable_diffusion_3():
    # arXiv:2403.03206, Eq. 23: t' = s·t/(1 + (s - 1)·t)
    t, found = everything("shifted_flow", 64)
    rerouted = 2.0 * t / (1 + t)
    np.testing.assert_allclose(found["sigma"], rerouted, rtol=1e-12)
    np.testing.assert_allclose(found["alpha"], 1 - rerouted, rtol=1e-9)


@jax.jit
def formulas(process, t):
    return process.alpha(t), process.sigma(t), process.logsnr(t)


@pytest.mark.parametrize("process_name", PROCESSES)
def test_shift_lowers_logsnr_by_twice_its_logarithm(process_name):
    t, base = everything(process_name, 64)
    with precision(64):
        alpha, sigma, logsnr = map(np.asarray, formulas(Shifted(PROCESSES[process_name](), 3.0), t))
    np.testing.assert_allclose(logsnr, base["logsnr"] - 2 * np.log(3.0), rtol=1e-12, atol=1e-12)
    # in what is added to the data too, at the noisy end where a bisection has nowhere to go
    np.testing.assert_allclose(sigma / alpha, 3.0 * base["nsr"], rtol=1e-9)


def test_add_noise_per_example():
    x0, eps = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 1)).astype(np.float32)
    x_t = np.asarray(jax.jit(add_noise)(FlowMatching(), x0, eps, np.float32([0.1, 0.5, 0.9])))
    for i, u in enumerate((0.1, 0.5, 0.9)):
        np.testing.assert_allclose(x_t[i], (1 - u) * x0[i] + u * eps[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_tables_equal_the_product(name):
    with precision(64):
        betas = TABLES[name]()
        assert betas.dtype == np.float64
        process = DDPM(betas)
        alpha, sigma, _ = map(np.asarray, formulas(process, np.arange(1000.0)))
    alpha_bar = np.maximum([np.prod(1 - betas[: i + 1]) for i in range(1000)], 2.0**-24)
    np.testing.assert_allclose(alpha[:-1] ** 2, alpha_bar[:-1], rtol=1e-11)
    np.testing.assert_allclose(alpha[-1] ** 2, alpha_bar[-1], rtol=1e-7)  # 2^-24 where it was less
    np.testing.assert_allclose(sigma**2, 1 - alpha_bar, rtol=1e-7)
    assert process.steps == 1000
    in_float32 = formulas(DDPM(betas), np.arange(1000, dtype=np.float32))
    np.testing.assert_allclose(np.asarray(in_float32[0]) ** 2, alpha_bar, rtol=2e-5)


def test_published_numbers():
    # arXiv:2006.11239's and latent diffusion's schedules, as every implementation of them prints
    assert np.prod(1 - diffax.linear_betas()) == pytest.approx(4.0358e-05, rel=1e-4)
    assert np.prod(1 - diffax.scaled_linear_betas()) == pytest.approx(0.0046599, rel=1e-4)
    assert diffax.scaled_linear_betas()[[0, -1]] == pytest.approx([0.00085, 0.012])
    assert diffax.cosine_betas()[0] == pytest.approx(4.1284e-05, rel=1e-4)
    assert diffax.cosine_betas()[-1] == 0.999
    half = 0.5 * (1e-4 + 0.02)
    assert diffax.sigmoid_betas(3) == pytest.approx([half - 0.00995 * np.tanh(3), half, half + 0.00995 * np.tanh(3)])


def test_a_table_is_not_printed():
    assert repr(DDPM(diffax.linear_betas())) == "DDPM(1000 steps)"


def test_ddpm_is_the_vp_sde_in_small_steps():
    # arXiv:2011.13456, App. B: beta_i = beta(i/T)/T; the gap closes as 1/T
    gaps = []
    for n in (400, 1600):
        betas, t = (0.1 + np.linspace(0, 1, n) * (20.0 - 0.1)) / n, np.arange(n // 10, n)
        with precision(64):
            small, continuous = (formulas(*of)[2] for of in ((DDPM(betas), t.astype(float)), (VP(), (t + 1.0) / n)))
        gaps.append(np.abs(np.asarray(small) - np.asarray(continuous)).max())
    assert gaps[1] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(4.0, rel=0.1)


def test_zero_terminal_snr():
    # arXiv:2305.08891, Algorithm 1: the first alpha is kept, the last is 0, √alpha-bar is rescaled linearly
    betas = diffax.linear_betas()
    before, after = (np.sqrt(np.cumprod(1 - b)) for b in (betas, diffax.zero_terminal_snr(betas)))
    assert after[0] == pytest.approx(before[0], rel=1e-12)
    assert after[-1] == 0.0
    np.testing.assert_allclose(np.diff(after) / np.diff(before), before[0] / (before[0] - before[-1]), rtol=1e-6)
    process = DDPM(diffax.zero_terminal_snr(betas))
    assert process.nsr(jnp.float32(999.0)) == pytest.approx(4096.0, rel=1e-5)
    assert process.alpha(jnp.float32(999.0)) == pytest.approx(2.0**-12, rel=1e-5)
    assert process.sigma(jnp.float32(999.0)) == 1.0


@pytest.mark.parametrize(
    "betas", [diffax.zero_terminal_snr(diffax.linear_betas()), diffax.linear_betas(4000)], ids=["zero_snr", "4000"]
)
def test_steps_without_signal_have_levels_that_float32_tells_apart(betas):
    process, t = DDPM(betas), np.arange(len(betas), dtype=np.float32)
    nsr, back = jax.device_get(jax.jit(lambda t: (process.nsr(t), process.time(process.nsr(t))))(t))
    assert np.all(np.diff(nsr) > 0) and nsr[-1] == pytest.approx(4096.0, rel=1e-5)
    np.testing.assert_allclose(back, t, atol=0.05)
    alpha2 = np.cumprod(1 - betas)
    there = alpha2 > 2.0**-21  # below that, their order matters alone
    np.testing.assert_allclose(nsr[there] ** -2, alpha2[there] / (1 - alpha2[there]), rtol=1e-4)


def test_between_indices_log_nsr_is_linear():
    with precision(64):
        process = DDPM(diffax.linear_betas(50))
        log = np.log(process.nsr(np.array([7.0, 7.25, 8.0])))
        np.testing.assert_allclose(log[1], 0.75 * log[0] + 0.25 * log[2], rtol=1e-13)
        np.testing.assert_array_equal(process.timestep(np.array([0.0, 7.0, 49.0])), [0.0, 7.0, 49.0])


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ([0.1], "at least 2"),
        ([[0.1, 0.2]], r"\(1, 2\)"),
        ([0.1, 0.0], "got 0.0"),
        ([0.1, 1.5], "got 1.5"),
        ([0.1, float("nan")], "got nan"),
        ([-0.1, 0.2], "got -0.1"),
        ([0.1, 1.0, 0.5], "no signal"),
    ],
)
def test_bad_betas(betas, message):
    with pytest.raises(ValueError, match=message):
        DDPM(betas)


def test_a_process_needs_both_formulas():
    class Half(Process):
        def alpha(self, t):
            return 1.0 - t

    with pytest.raises(TypeError, match=r"Half must define sigma"):
        Half().nsr(jnp.float32(0.5))


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), EDM(), Cosine(), FlowMatching(), Trigonometric()])
def test_changing_a_hyper_parameter_does_not_recompile(process):
    traced = []

    @jax.jit
    def nsr(process, t):
        traced.append(1)
        return process.nsr(t)

    for factor in (1.0, 1.01, 1.02):
        nsr(jax.tree.map(lambda a, f=factor: a * f, process), jnp.float32(0.5))
    assert len(traced) == 1
