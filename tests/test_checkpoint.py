"""Checkpoints: every bit comes back, on any devices; no damage goes unseen; no kill leaves half a step; one trainer."""

import dataclasses
import functools
import logging
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from diffax import checkpoint, manifest

REPOSITORY = Path(__file__).parent.parent
BIG = (512, 264)  # float32 above the size under which leaves are packed


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step", "params", "ema", "opt_state"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class State:
    step: jax.Array
    params: dict
    ema: dict
    opt_state: tuple


def make_state(seed=0, sharding=None):
    """Random bits, NaN payloads and denormals included, in the dtypes of a state, packed and single."""
    rng = np.random.default_rng(seed)

    def bits(shape, dtype):
        raw = rng.integers(0, 256, (*shape, jnp.dtype(dtype).itemsize), np.uint8)
        return jnp.asarray(raw.view(jnp.dtype(dtype)).reshape(shape))

    params = {
        "w": bits(BIG, jnp.float32),
        "half": bits((*BIG[:1], 2 * BIG[1]), jnp.bfloat16),
        "odd": bits((3,), jnp.bfloat16),
        "b": bits((8, 4), jnp.float32),
        "none": jnp.zeros((0, 4)),
        "mask": jnp.asarray([True, False, True]),
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.0, 1e-3, 10)))
    state = State(jnp.int32(seed), params, {"0.999": params["w"] * 0.5}, tx.init({"b": params["b"]}))
    return state if sharding is None else jax.device_put(state, sharding)


def small_state(step, size=4):
    return {"step": jnp.int32(step), "w": jnp.full((size,), step, jnp.float32), "big": jnp.full(BIG, step, jnp.float32)}


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b)):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


@pytest.fixture
def open_manager():
    """`checkpoint.manager`, closed at the end of the test whatever has happened."""
    opened = []

    def open_(*args, **kwargs):
        opened.append(checkpoint.manager(*args, **kwargs))
        return opened[-1]

    yield open_
    for m in opened:
        m.pending.clear()
        checkpoint.close(m)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A directory with steps 20 and 40, to be copied."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    m = checkpoint.manager(directory)
    for step in (20, 40):
        checkpoint.save(m, step, small_state(step))
    checkpoint.close(m)
    return directory


@pytest.fixture
def directory(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


@pytest.mark.parametrize("abstract", [False, True])
def test_every_bit_comes_back(tmp_path, open_manager, abstract):
    state = make_state()
    checkpoint.save(open_manager(tmp_path), 7, state, wait=True)
    target = jax.eval_shape(lambda: state) if abstract else jax.tree.map(jnp.zeros_like, state)
    step, restored = checkpoint.restore(open_manager(tmp_path), target)
    assert step == 7
    assert_bitwise(restored, state)
    assert type(restored.opt_state[0]) is optax.EmptyState
    assert not any(x.committed for x in jax.tree.leaves(restored))


def test_nothing_saved_is_none(tmp_path, open_manager):
    m = open_manager(tmp_path / "absent")
    assert checkpoint.restore(m, make_state()) is None
    assert checkpoint.steps(m) == []
    assert not (tmp_path / "absent").exists()


def test_state_may_be_donated_and_overwritten_at_once(tmp_path, open_manager):
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = step({f"w{i}": jnp.full((1 << 20,), i, jnp.float32) for i in range(8)} | {"b": jnp.zeros(3)})
    host = {"numpy": np.ones(1 << 20, np.float32), "tiny": np.ones(3, np.float32)}
    want = jax.tree.map(np.array, state | host)
    m = open_manager(tmp_path)
    checkpoint.save(m, 1, state | host)
    for _ in range(5):
        state = step(state)
    for x in host.values():
        x[:] = -1
    jax.block_until_ready(state)
    assert_bitwise(checkpoint.restore(m, want)[1], jax.tree.map(jnp.asarray, want))


def test_resumed_training_is_bitwise_the_one_that_never_stopped(tmp_path, open_manager):
    tx = optax.adam(1e-2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state):
        grads = jax.grad(lambda p: jnp.sum(jnp.sin(p["w"] @ p["w"].T)) + jnp.sum(p["b"] ** 4))(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = {"w": jax.random.normal(jax.random.key(0), BIG), "b": jnp.arange(5.0)}
    state = (params, tx.init(params))
    m = open_manager(tmp_path)
    for i in range(1, 7):
        state = step(*state)
        if i == 3:
            checkpoint.save(m, i, state)
    resumed = checkpoint.restore(m, state)[1]
    for _ in range(3):
        resumed = step(*resumed)
    assert_bitwise(resumed, state)


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("devices")], ids=["replicated", "sharded"])
def test_8_to_2_to_4_devices(tmp_path, open_manager, spec):
    want = {
        "big": make_state().params["w"],
        "small": jnp.arange(16, dtype=jnp.int32),
        "bf16": jnp.ones((8, 3), jnp.bfloat16),
    }

    def shardings(count):
        mesh = jax.make_mesh((count,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        return jax.tree.map(lambda _: NamedSharding(mesh, spec), want)

    state = jax.device_put(want, shardings(8))
    for step, count in enumerate((2, 4), start=1):
        m = open_manager(tmp_path)
        checkpoint.save(m, step, state, wait=True)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), want, shardings(count))
        found, state = checkpoint.restore(m, target)
        assert found == step
        assert_bitwise(state, want)
        assert jax.tree.map(lambda x: x.sharding, state) == shardings(count)
        assert len(state["big"].sharding.device_set) == count


def flip(path):
    content = bytearray(path.read_bytes())
    content[random.Random(path.name).randrange(len(content))] ^= 1 << random.Random(len(content)).randrange(8)
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damage_to_any_file_is_seen_and_the_step_before_is_used(tmp_path, two_steps, open_manager, caplog, damage):
    files = [p.relative_to(two_steps / "40") for p in (two_steps / "40").rglob("*") if p.is_file()]
    assert len(files) >= 5 and Path("manifest.json") in files
    for i, name in enumerate(files):
        copy = shutil.copytree(two_steps, tmp_path / str(i))
        damage(copy / "40" / name)
        caplog.clear()
        step, state = checkpoint.restore(open_manager(copy), small_state(0))
        assert step == 20, name
        assert_bitwise(state, small_state(20))
        [warning] = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert str(copy / "40") in warning and "DAMAGED" in warning and name.name in warning
        assert sorted(p.name for p in copy.iterdir()) == ["20", "40.bad"]
        assert (copy / "40.bad" / name).exists() == (damage is not Path.unlink)


def test_no_byte_of_the_manifest_can_change_unseen(directory):
    path = directory / "40" / "manifest.json"
    good = path.read_bytes()
    assert manifest.fault(directory / "40") is None
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :])
        assert manifest.fault(directory / "40") is not None, i


def test_one_step_under_the_name_of_another_is_damage(directory, open_manager, caplog):
    shutil.copytree(directory / "20", directory / "60")
    assert checkpoint.restore(open_manager(directory), small_state(0))[0] == 40
    assert "it holds step 20" in caplog.text


def test_all_damaged_is_an_error_and_stays_one(directory, open_manager):
    for step in ("20", "40"):
        flip(directory / step / "manifest.json")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"every checkpoint .* damaged \(20.bad, 40.bad\).*move these folders away"
        ):
            checkpoint.restore(open_manager(directory), small_state(0))
    for folder in directory.iterdir():
        shutil.rmtree(folder)
    assert checkpoint.restore(open_manager(directory), small_state(0)) is None


def test_a_step_made_again_and_damaged_again_keeps_both(directory, open_manager):
    for _ in range(2):
        flip(directory / "40" / "manifest.json")
        m = open_manager(directory)
        assert checkpoint.restore(m, small_state(0))[0] == 20
        checkpoint.save(m, 40, small_state(40), wait=True)
    assert sorted(p.name for p in directory.iterdir()) == ["20", "40", "40.bad", "40.bad2"]


class Killed(BaseException):
    """Stops the worker where a SIGKILL would, and leaves the files as that would."""


@pytest.mark.parametrize(
    ("where", "count", "left"),
    [
        ("finish", 1, ["20", "40", "60.0.tmp"]),  # orbax has committed, nothing is hashed
        ("_sync_folder", 1, ["20", "40", "60.0.tmp"]),  # the manifest is written, the rename has not happened
        ("retire", 1, ["20", "40", "60"]),
        ("shutil.rmtree", 1, ["20.old.tmp", "40", "60"]),
    ],
)
def test_killed_between_any_two_acts_of_a_save(directory, open_manager, monkeypatch, where, count, left):
    def kill(*args, **kwargs):
        raise Killed

    m = open_manager(directory, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(f"diffax.manifest.{where}", kill)
        checkpoint.save(m, 60, small_state(60))
        assert isinstance(m.pending[60].exception(), Killed)
    assert sorted(p.name for p in directory.iterdir()) == left
    again = open_manager(directory, keep=2)
    step, state = checkpoint.restore(again, small_state(0))
    assert step == max(int(name) for name in left if name.isdecimal())
    assert_bitwise(state, small_state(step))
    checkpoint.save(again, 80, small_state(80), wait=True)
    assert sorted(p.name for p in directory.iterdir()) == [str(step), "80"]


def test_only_an_unfinished_step_is_a_fresh_start(directory, open_manager):
    (directory / "20").rename(directory / "20.tmp")
    shutil.rmtree(directory / "40")
    m = open_manager(directory)
    assert checkpoint.restore(m, small_state(0)) is None
    checkpoint.save(m, 20, small_state(20), wait=True)
    assert [p.name for p in directory.iterdir()] == ["20"]


def test_a_named_step(directory, open_manager):
    m = open_manager(directory)
    assert checkpoint.restore(m, small_state(0), step=20)[0] == 20
    with pytest.raises(FileNotFoundError, match=r"no step 30: choose one of \[20, 40\]"):
        checkpoint.restore(m, small_state(0), step=30)
    flip(directory / "40" / "manifest.json")
    with pytest.raises(ValueError, match=r"40 is damaged \(manifest.json .*leave `step` out"):
        checkpoint.restore(m, small_state(0), step=40)
    assert checkpoint.steps(m) == [20, 40]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"w": s["w"].astype(jnp.bfloat16)}, r"\['w'\] is float32\[4\] in it and bfloat16\[4\]"),
        (lambda s: s | {"w": s["w"][:3]}, r"\['w'\] is float32\[4\] in it and float32\[3\]"),
        (lambda s: s | {"big": s["big"].T}, r"\['big'\] is float32\[512, 264\] in it and float32\[264, 512\]"),
        (lambda s: s | {"big": s["big"].astype(jnp.int32)}, r"\['big'\] is float32\[512, 264\] in it and int32"),
        (lambda s: s | {"new": s["w"]}, r"\['new'\] is absent in it and float32\[4\]"),
        (lambda s: {"w": s["w"], "big": s["big"]}, r"\['step'\] is int32\[\] in it and absent"),
    ],
)
def test_another_dtype_shape_or_leaf_is_refused(directory, open_manager, change, message):
    with pytest.raises(ValueError, match=message + ".*or choose another workdir"):
        checkpoint.restore(open_manager(directory), change(small_state(0)))
    assert sorted(p.name for p in directory.iterdir()) == ["20", "40"]


def test_retention(tmp_path, open_manager, monkeypatch):
    retire = manifest.retire

    def checked(folder):
        """Whenever a step goes, a newer one is there whole."""
        newest = max(manifest.finished(tmp_path))
        assert newest > int(folder.name) and manifest.fault(tmp_path / str(newest)) is None
        retire(folder)

    monkeypatch.setattr(manifest, "retire", checked)
    m = open_manager(tmp_path, keep=2, keep_every=30)
    for step in range(10, 101, 10):
        checkpoint.save(m, step, {"w": jnp.full(3, step)})
    assert checkpoint.steps(m) == [30, 60, 90, 100]
    m = open_manager(tmp_path, keep=1)
    checkpoint.save(m, 105, {"w": jnp.full(3, 105)})
    assert checkpoint.steps(m) == [105]
    checkpoint.save(m, 15, {"w": jnp.full(3, 15)})
    assert checkpoint.steps(m) == [15, 105]  # the step just written is never the one to go


def test_a_step_is_written_once(directory, open_manager):
    m = open_manager(directory)
    with pytest.raises(ValueError, match="has a step 40 already"):
        checkpoint.save(m, 40, small_state(1))
    checkpoint.restore(m, small_state(0))
    written = (directory / "40" / "manifest.json").stat().st_mtime_ns
    checkpoint.save(m, 40, small_state(40))
    checkpoint.save(m, 60, small_state(60))
    checkpoint.save(m, 60, small_state(60), wait=True)
    assert checkpoint.steps(m) == [20, 40, 60]
    assert (directory / "40" / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("surface", ["save", "restore", "steps", "close"])
def test_a_failed_save_is_an_error_of_the_next_call(directory, open_manager, surface):
    """The kernel refuses to write files over 64 kB, as a full disk would."""
    noise = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(1 << 17, np.float32))}
    m = open_manager(directory)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        checkpoint.save(m, 60, noise)
        m.pending[60].exception()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    call = {
        "save": lambda: checkpoint.save(m, 80, noise),
        "restore": lambda: checkpoint.restore(m, noise),
        "steps": lambda: checkpoint.steps(m),
        "close": lambda: checkpoint.close(m),
    }[surface]
    with pytest.raises(
        RuntimeError, match=r"saving step 60 to .* failed .*newest finished step is 40.*run the same command"
    ):
        call()
    if surface != "close":
        checkpoint.save(m, 60, noise, wait=True)
        assert_bitwise(checkpoint.restore(m, noise)[1], noise)


def test_files_that_a_failed_save_writes_late_do_not_reach_the_next(directory, open_manager, monkeypatch):
    """Orbax reports the first file that fails; the others may still be written after the folder was removed."""
    m = open_manager(directory)
    with monkeypatch.context() as patch:
        patch.setattr("diffax.manifest.finish", lambda *args: (directory / "no such file").read_bytes())
        checkpoint.save(m, 60, small_state(1))
        assert m.pending[60].exception() is not None
    with pytest.raises(RuntimeError, match="saving step 60"):
        checkpoint.steps(m)
    with monkeypatch.context() as patch:
        patch.setattr("diffax.manifest.shutil.rmtree", lambda *args, **kwargs: None)  # as if all came back at once
        checkpoint.save(m, 60, small_state(60), wait=True)
    assert_bitwise(checkpoint.restore(m, small_state(0))[1], small_state(60))


def test_bad_input_is_refused(tmp_path, open_manager):
    m = open_manager(tmp_path)
    with pytest.raises(ValueError, match=r"leaf \['key'\] is key<fry>.*jax.random.key_data"):
        checkpoint.save(m, 1, {"key": jax.random.key(0)})
    with pytest.raises(ValueError, match=r"leaf \['n'\] is int"):
        checkpoint.save(m, 1, {"n": 3})
    for bad in ({"keep": 0}, {"keep_every": 0}):
        with pytest.raises(ValueError, match="= 0 would keep no checkpoint"):
            checkpoint.manager(tmp_path, **bad)
    assert list(tmp_path.iterdir()) == []


def test_opened_in_one_thread_used_in_another(tmp_path, open_manager):
    opened = []
    thread = threading.Thread(target=lambda: opened.append(open_manager(tmp_path)))
    thread.start()
    state = jax.jit(lambda: small_state(5))()
    thread.join()
    checkpoint.save(opened[0], 5, state)
    found = []
    thread = threading.Thread(target=lambda: found.extend(checkpoint.restore(opened[0], state)))
    thread.start()
    thread.join()
    assert found[0] == 5
    assert_bitwise(found[1], state)


def start(code, *args, devices=1):
    """A real Python process on the repository that runs `code`."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(
        command, env=environment, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), text=True
    )


LOCKER = """
import sys, time
from diffax import checkpoint
with checkpoint.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    workdir = tmp_path / "run"
    holder = start(LOCKER, workdir)
    try:
        assert holder.stdout.readline() == "held\n"
        named = f"in use by process {holder.pid} on {socket.gethostname()} since .*stop it, or choose another workdir"
        with pytest.raises(ValueError, match=named), checkpoint.lock(workdir):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with checkpoint.lock(workdir):
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), checkpoint.lock(workdir):
            pass
    with checkpoint.lock(workdir):
        pass


def test_an_unwritable_workdir_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/run cannot be written \(Not a directory\): choose another"):
        with checkpoint.lock(tmp_path / "file" / "run"):
            pass


KILLED_TRAINERS = f"""
import os, random, signal, sys, time
import jax, jax.numpy as jnp
import orbax.checkpoint
from diffax import checkpoint

def train(progress):
    m = checkpoint.manager(sys.argv[1], keep=2)
    state = dict(step=jnp.int32(0), w=jnp.zeros(4), big=jnp.zeros({BIG}))
    step, state = checkpoint.restore(m, state) or (0, state)
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0)
    while True:
        step, state = step + 1, advance(state)
        checkpoint.save(m, step, state)
        os.write(progress, b"%9d" % step)

rng = random.Random(0)
for _ in sys.stdin:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        train(write)
    os.close(write)
    for _ in range(rng.randint(2, 4)):
        os.read(read, 9)
    time.sleep(rng.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(flush=True)
"""


def test_sigkill_at_any_moment_loses_nothing(tmp_path, open_manager, caplog):
    """The trainers are forked from one process that has imported JAX and not used it, which saves a second each."""
    trainers = start(KILLED_TRAINERS, tmp_path)
    newest = 0
    for _ in range(6):
        trainers.stdin.write("\n")
        trainers.stdin.flush()
        assert trainers.stdout.readline(), trainers.stderr.read()
        step, state = checkpoint.restore(open_manager(tmp_path), small_state(0))
        assert step > newest  # at least two saves returned, so one was finished
        assert_bitwise(state, small_state(step))
        assert len(manifest.finished(tmp_path)) <= 3  # one over `keep` if it was killed before it deleted
        newest = step
    trainers.communicate()
    assert "DAMAGED" not in caplog.text


HOST = f"""
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from diffax import checkpoint
index, port, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:" + port, 2, index)
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
host = dict(big=np.random.default_rng(0).random({BIG}), tiny=np.arange(8), everywhere=np.ones(3))
host = jax.tree.map(np.float32, host)
spec = dict(big=PartitionSpec("d"), tiny=PartitionSpec("d"), everywhere=PartitionSpec())
place = lambda k, x: jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec[k]), lambda i: x[i])
state = {{k: place(k, x) for k, x in host.items()}}
m = checkpoint.manager(directory, keep=2)
assert checkpoint.restore(m, state) is None
for step in (1, 2, 3):
    checkpoint.save(m, step, state)
checkpoint.close(m)
jax.experimental.multihost_utils.sync_global_devices("saved")
if index == 0:
    (checkpoint.Path(directory) / "3" / "manifest.json").write_text("x")
m = checkpoint.manager(directory)
step, restored = checkpoint.restore(m, state)
assert step == 2, step
for k, x in host.items():
    assert restored[k].sharding == state[k].sharding
    for shard in restored[k].addressable_shards:
        assert np.array_equal(shard.data, x[shard.index]), k
checkpoint.close(m)
print("agreed", step)
"""


@pytest.mark.slow
def test_two_hosts_agree_on_the_newest_good_step(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    hosts = [start("import jax.experimental.multihost_utils\n" + HOST, i, port, tmp_path, devices=2) for i in (0, 1)]
    try:
        for host in hosts:
            output, errors = host.communicate(timeout=60)
            assert output.endswith("agreed 2\n"), errors
    finally:
        for host in hosts:
            host.kill()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "3.bad"]
