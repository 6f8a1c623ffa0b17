"""Several hosts: who joins them, and two processes that take together the steps of one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from launcher import TINY, TOY, finish, launch, programs, start  # noqa: F401
from perceptron import examples
from test_parallel import BATCH, MIN_SIZE, assert_agree, single, task

from diffax import parallel
from diffax.train import example_keys

VARIABLES = (
    *("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"),
    *("TPU_WORKER_HOSTNAMES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"),
)


@pytest.fixture
def started(monkeypatch):
    """What `jax.distributed.initialize` is called with, in an environment that describes no hosts."""
    calls = []
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: calls.append(args))
    return calls


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, []),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, []),
        ({"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1"}, []),
        ({"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "4", "PROCESS_ID": "3"}, [("a:1", 4, 3)]),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, [()]),
        ({"SLURM_STEP_NUM_TASKS": "2"}, [()]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [()]),
    ],
)
def test_hosts_are_joined_where_the_environment_says_so(started, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    parallel.start_hosts()
    assert started == expected


@pytest.mark.parametrize(
    "environment, words",
    [
        ({}, ["NUM_PROCESSES", "PROCESS_ID"]),
        ({"NUM_PROCESSES": "2"}, ["NUM_PROCESSES", "PROCESS_ID"]),
        ({"NUM_PROCESSES": "two", "PROCESS_ID": "0"}, ["'two'", "NUM_PROCESSES"]),
        ({"NUM_PROCESSES": "2", "PROCESS_ID": "2"}, ["PROCESS_ID 2", "NUM_PROCESSES", "0 to 1"]),
    ],
)
def test_half_an_environment_is_refused(started, monkeypatch, environment, words):
    monkeypatch.setenv("COORDINATOR_ADDRESS", "127.0.0.1:1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as error:
        parallel.start_hosts()
    assert all(word in str(error.value) for word in words) and not started


def test_global_batch_of_one_host_is_its_batch():
    batch, m = examples(BATCH), parallel.mesh()
    placed = parallel.global_batch(batch, m)
    for k, a in placed.items():
        np.testing.assert_array_equal(a, batch[k])
        assert a.sharding == NamedSharding(m, PartitionSpec(parallel.AXIS))
        assert [s.data.shape[0] for s in a.addressable_shards] == [2] * 8


def as_a_host():
    """What each process of the two-host test runs: three steps of every route; prints losses and parameters."""
    parallel.start_hosts()
    host, hosts, small, rows = (
        jax.process_index(),
        jax.process_count(),
        task("perceptron"),
        BATCH // jax.process_count(),
    )
    m = parallel.mesh()
    split = NamedSharding(m, PartitionSpec(parallel.AXIS))
    shardings = {"mesh": parallel.replicated(small.fresh(), m), "fsdp": parallel.fsdp(small.fresh(), m, MIN_SIZE)}
    keys = jax.jit(lambda i: example_keys(jax.random.key(0), i, 0, BATCH), out_shardings=split)
    found = {"hosts": hosts, "devices": jax.device_count()}
    for name, sharding in shardings.items():
        step, state = (
            parallel.data_parallel(small.step, m, sharding),
            jax.tree.map(jax.device_put, small.fresh(), sharding),
        )
        losses = []
        for i in range(3):
            mine = jax.tree.map(lambda a: a[host * rows : (host + 1) * rows], examples(BATCH, seed=i))
            state, metrics = step(state, parallel.global_batch(mine, m), keys(i))
            losses.append(float(metrics["loss"]))
        whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(m, PartitionSpec()))(state.params)
        found[name] = losses, {k: np.asarray(a).tolist() for k, a in whole.items()}

    step, state, losses = parallel.pmapped(small.step), parallel.replicate(small.fresh()), []
    for i in range(3):
        mine = jax.tree.map(lambda a: a[host * rows : (host + 1) * rows], examples(BATCH, seed=i))
        state, metrics = step(state, mine, example_keys(jax.random.key(0), i, host * rows, rows))
        losses.append(float(metrics["loss"]))
    found["pmap"] = losses, {k: np.asarray(a).tolist() for k, a in parallel.unreplicate(state).params.items()}
    print(json.dumps(found))


def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
def test_two_hosts_take_the_steps_of_one():
    folder = pathlib.Path(__file__).parent
    environment = os.environ | {
        "COORDINATOR_ADDRESS": address(),
        "NUM_PROCESSES": "2",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", "import test_hosts; test_hosts.as_a_host()"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    hosts = [subprocess.Popen(command, env=environment | {"PROCESS_ID": str(i)}, **pipes) for i in range(2)]
    try:
        outputs = [host.communicate(timeout=120) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    if any("Multiprocess computations aren't implemented" in errors for _, errors in outputs):
        pytest.skip("this version of JAX has no collectives between processes on CPU")
    assert all(host.returncode == 0 for host in hosts), "\n".join(errors[-3000:] for _, errors in outputs)

    small, rows = task("perceptron"), []
    step, state, _ = single(small, None)
    for i in range(3):
        state, metrics = step(state, examples(BATCH, seed=i), example_keys(jax.random.key(0), i, 0, BATCH))
        rows.append(metrics["loss"])
    for output, _ in outputs:
        found = json.loads(output.splitlines()[-1])
        assert (found["hosts"], found["devices"]) == (2, 8)
        for name in ("mesh", "fsdp", "pmap"):
            losses, params = found[name]
            np.testing.assert_allclose(losses, rows, rtol=1e-6)
            assert_agree(jax.tree.map(np.asarray, params, is_leaf=lambda a: isinstance(a, list)), state.params)


def on_two_hosts(cache, *args):
    """The command on two hosts of two devices each; what each of them printed."""
    hosts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COORDINATOR_ADDRESS", address())
        patch.setenv("NUM_PROCESSES", "2")
        for i in range(2):
            patch.setenv("PROCESS_ID", str(i))
            hosts.append(start(*args, programs=cache, devices=2))
    try:
        outcomes = [finish(host, timeout=240) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    if any("Multiprocess computations aren't implemented" in outcome.err for outcome in outcomes):
        pytest.skip("this version of JAX has no collectives between processes on CPU")
    assert [outcome.code for outcome in outcomes] == [0, 0], "\n".join(outcome.err[-3000:] for outcome in outcomes)
    return ["\n".join(line for line in host.out.splitlines() if "[Gloo]" not in line) for host in outcomes]


@pytest.mark.slow
def test_two_hosts_draw_what_one_draws_and_the_first_writes_it(tmp_path, programs):  # noqa: F811
    folder, wide = tmp_path / "run", ("--config.network.features=264", "--config.train.parallel=fsdp")
    first, second = on_two_hosts(programs, TOY, *TINY, *wide, "--config.train.steps=2", f"--workdir={folder}")
    assert "done: 2 steps" in first and not second
    for mode in ("eval", "sample"):
        first, second = on_two_hosts(programs, f"--mode={mode}", f"--workdir={folder}")
        assert first and not second
    both = np.load(folder / "samples" / "sample_00000002_seed0.npz")["x0"]
    assert launch("--mode=sample", f"--workdir={folder}", f"--out={tmp_path / 'one.png'}").code == 0
    np.testing.assert_allclose(np.load(tmp_path / "one.npz")["x0"], both, rtol=1e-5, atol=1e-5)
    kinds = sorted(path.name for path in folder.rglob("*") if "00000002" in path.name and path.suffix != ".png")
    assert kinds == ["eval_00000002.json", "eval_00000002.npz", "sample_00000002_seed0.npz"]
