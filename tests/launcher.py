"""The launcher for tests: in this process, where what it compiles is counted, or as the real command in another."""

import atexit
import contextlib
import dataclasses
import functools
import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from absl import flags

ROOT = Path(__file__).parents[1]
TOY = f"--config={ROOT}/experiments/toy_mixture.py:quick"
DIGITS = f"--config={ROOT}/experiments/digits.py:quick"
# the whole path of the toy experiment in few operations
TINY = tuple(
    f"--config.{option}"
    for option in (
        "data.n=512 network.features=16 network.blocks=1 train.batch_size=32 train.sample_every=0 sample.n=16 "
        "sample.batch_size=16 sample.sampler.name=ddim sample.grid.n=3 eval.n=64 eval.batch_size=16"
    ).split()
)
BIG = {"jit(train_step)", "jit(run)", "jit(start)"}  # the programs of a step, of sampling and of the initial state

_compiled: list[str] = []


def _note(event, duration, **details):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(details.get("fun_name", ""))


jax.monitoring.register_event_duration_secs_listener(_note)


class Outcome(NamedTuple):
    """What a launch came to; `compiled` are the names of the programs that it compiled."""

    code: int | None
    out: str
    err: str
    compiled: list[str]


@functools.cache
def _folder():
    """The folder of compiled programs that launches share, in this process and in those that it starts."""
    folder = tempfile.mkdtemp(prefix="programs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@pytest.fixture(scope="module")
def programs():
    """That folder, where this module's own programs are kept too."""
    with kept_in(_folder()):
        yield _folder()


@contextlib.contextmanager
def kept_in(folder):
    """Compiled programs are kept in this folder, and afterwards as before."""
    from jax.experimental.compilation_cache import compilation_cache

    options = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        _set(options)
        compilation_cache.reset_cache()
        yield
    finally:
        _set(before)
        compilation_cache.reset_cache()


def _set(options):
    for name, value in options.items():
        jax.config.update(name, value)


def compiled(function, *args, **kwargs):
    """The names of the programs compiled by a call."""
    del _compiled[:]
    function(*args, **kwargs)
    return list(_compiled)


def launch(*args) -> Outcome:
    """The command in this process, on its eight devices. Whatever is no `SystemExit` is raised.

    Its programs are kept for other launches, not in the user's cache, unless a folder is set already; those of the
    tests after it are not kept. Garbage is looked for as before.
    """
    from diffax import main

    for flag in flags.FLAGS.get_flags_for_module(main):
        flag.unparse()
    out, err, argv, path, often = io.StringIO(), io.StringIO(), sys.argv, list(sys.path), gc.get_threshold()
    sys.argv = ["diffax", *map(str, args)]
    del _compiled[:]
    try:
        kept = contextlib.nullcontext() if jax.config.jax_compilation_cache_dir else kept_in(_folder())
        stays = unittest.mock.patch.object(main, "_leave", lambda code, *_: sys.exit(code))  # this process does
        with kept, stays, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with pytest.raises(SystemExit) as end:
                main.run()
    finally:
        sys.argv, sys.path[:] = argv, path
        gc.set_threshold(*often)
    return Outcome(end.value.code, out.getvalue(), err.getvalue(), list(_compiled))


def start(
    *args, programs: Path, cwd: Path = ROOT, devices: int = 1, xla_flags: str = "", haste: bool = False
) -> subprocess.Popen:
    """The command in a process of its own, on `devices` virtual devices, compiled as for a user or in haste."""
    environment = {
        **os.environ,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(haste),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {xla_flags}".strip(),
    }
    command = [sys.executable, "-m", "diffax.main", *map(str, args)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen, timeout: float = 300.0) -> Outcome:
    """Waits for the end of a process."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Outcome(process.returncode, out, err, [])


def stop(process: subprocess.Popen, number: signal.Signals, ready, after: float = 0.0) -> Outcome:
    """Sends a signal `after` seconds after `ready()` became true; a process that ended before is left in peace."""
    until = time.monotonic() + 300
    while process.poll() is None and not ready():
        assert time.monotonic() < until
        time.sleep(0.002)
    time.sleep(after)
    if process.poll() is None:
        process.send_signal(number)
    return finish(process)


def configured(file: str, options: Iterable[str]) -> dict:
    """The complete config of a file under `options`, with or without the flags' "--config."."""
    from diffax import config

    chosen = [tuple(option.removeprefix("--config.").split("=", 1)) for option in options]
    return config.complete(config.override(config.load(file.removeprefix("--config=")), chosen))


def untrained(folder: Path, file: str, options: str) -> Path:
    """A workdir with the checkpoint of step 1, its parameters stirred so that every part of a network counts."""
    from diffax import checkpoint
    from diffax.loop import checks, training, workdir

    experiment = checks.experiment(configured(file, options.split()))
    rng = np.random.default_rng(0)
    stirred = jax.tree.map(
        lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape).astype(leaf.dtype) if leaf.ndim else leaf,
        jax.device_get(training.initial_state(experiment)),  # a program for every shape takes seconds
    )
    state = jax.device_put(stirred)
    state = dataclasses.replace(state, step=state.step + 1)
    workdir.prepare(folder, experiment.config)
    manager = checkpoint.manager(folder / "checkpoints")
    checkpoint.save(manager, 1, state, wait=True)
    checkpoint.close(manager)
    return folder


def state_bytes(folder: Path) -> dict[str, bytes]:
    """Every array of the newest checkpoint of a run, bit for bit."""
    from diffax.loop import modes, workdir

    _, state = modes.restored(workdir.read_config(folder), folder)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def rows(folder: Path) -> list[tuple]:
    """The rows of a run, without the speed."""
    from diffax import report

    file = folder / "metrics.jsonl"
    found = report.read_rows(file) if file.exists() else []
    return [tuple((k, v) for k, v in row.items() if k != "images_per_second") for row in found]


def steps_done(folder: Path) -> int:
    """The number of rows that a running process has written."""
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0
