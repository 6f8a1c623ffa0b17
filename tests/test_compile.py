"""Compiler options change speed, never results; programs outlive the process, and are made ahead; memory stays."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import TINY, TOY, compiled, configured

from diffax import build
from diffax import compile as settings
from diffax.loop import training


def step(state, x):
    def loss(w):
        return jnp.mean(jnp.tanh(jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=2)[0]) ** 2)

    value, gradient = jax.value_and_grad(loss)(state)
    return state - gradient, value


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((16, 16), (8, 16))]


def test_options_are_known_to_this_compiler_and_change_no_result(arrays):
    options = settings.compiler_options()
    assert options, "no option is known: see what replaced them in this version of XLA"
    plain = jax.jit(step)(*arrays)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        plain,
        jax.jit(step, compiler_options=options)(*arrays),
    )


@pytest.fixture
def fresh_options():
    settings.compiler_options.cache_clear()
    yield
    settings.compiler_options.cache_clear()


def test_options_that_the_compiler_does_not_know_are_left_out(fresh_options, monkeypatch):
    monkeypatch.setattr(settings, "_CPU_OPTIONS", {**settings._CPU_OPTIONS, "xla_cpu_no_such_option": "1"})
    assert settings.compiler_options() == {}


def test_other_backends_get_no_options(fresh_options, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert settings.compiler_options() == {}


def cached_programs(home, **environment):
    code = "import jax; from diffax.compile import enable_cache; enable_cache(); jax.jit(lambda x: x + 1)(1.0)"
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment = {**inherited, "XDG_CACHE_HOME": str(home), **environment}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return sorted(path.name for path in home.rglob("*-cache"))


def test_a_second_launch_finds_the_first_ones_programs(tmp_path):
    first = cached_programs(tmp_path)
    assert first and cached_programs(tmp_path) == first


def test_the_users_own_cache_directory_stays(tmp_path):
    assert not cached_programs(tmp_path / "unused", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))


def test_a_cache_that_cannot_be_written_is_left_off(tmp_path):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    settings.enable_cache(tmp_path / "file" / "programs")
    assert jax.config.jax_compilation_cache_dir == before


def placed(route):
    experiment = build.experiment(configured(TOY, (*TINY, f"--config.train.parallel={route}")))
    return experiment, training.place(experiment, training.state_shapes(experiment))


@pytest.mark.slow  # the damaged runs of test_resume count it, too
@pytest.mark.parametrize("route", ["mesh", "fsdp"])
def test_a_step_made_ahead_is_compiled_once(route):
    """Of the shapes alone, before there is a state or a batch; and `jit` then finds it for those."""
    experiment, run = placed(route)
    steps = []

    def start():
        ahead = training.compiled_ahead(experiment, run)
        state = run.place(training.initial_state(experiment))
        for (batch, keys), _ in zip(run.batches(0), range(2)):
            state, _ = ahead.step(state, batch, keys)
            steps.append(int(state.step))

    assert compiled(start).count("jit(train_step)") == 1
    assert steps == [1, 2]


def test_a_step_under_pmap_is_not_made_ahead():
    experiment, run = placed("pmap")
    assert training.compiled_ahead(experiment, run) is run


def test_what_fails_while_a_step_is_compiled_ahead_is_raised_by_the_first():
    experiment, run = placed("mesh")
    failing = jax.jit(lambda state, batch, keys: (state, {}), compiler_options={"xla_no_such_option": 1})
    ahead = training.compiled_ahead(experiment, run._replace(step=failing))
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        ahead.step(None, None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_memory_of_one_call_serves_the_next():
    code = """
import resource, statistics, jax, jax.numpy as jnp
from diffax.compile import keep_memory
keep_memory()
f = jax.jit(lambda x: jnp.sin(x) @ x[0])  # 36 MB of scratch, 9,000 pages
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
x = jnp.ones((3000, 3000))
print(int(statistics.median(faults() for _ in range(9))))
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(outcome.stdout) < 100


def test_imports_are_spared_and_what_comes_after_them_is_not():
    code = """
import gc, weakref, jax
from diffax.compile import spare_imports
spare_imports()
spared = gc.get_freeze_count()
class Cycle: pass
cycle = Cycle()
cycle.itself, seen = cycle, weakref.ref(cycle)
del cycle
gc.collect()
print(spared, seen())
"""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spared, seen = outcome.stdout.split()
    assert int(spared) > 50_000 and seen == "None"
