"""Compiler options change speed, never results; the program cache outlives the process; memory stays with it."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import compile as settings


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
