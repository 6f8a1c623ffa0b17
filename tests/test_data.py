"""Batches: what step k sees is a function of (seed, k), and every example is seen."""

import itertools
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from networks import thinned

from diffax import data
from diffax.data import pipeline

SMALL = data.fake(n=10, shape=(6, 4, 3), num_classes=10, seed=3)  # label i is image i: labels tell which examples came


def run(**options):
    """The first batches of a stream, and its end."""
    count = options.pop("count", 5)
    stream = data.batches(options.pop("dataset", SMALL), **{"batch_size": 4, "seed": 0, **options})
    got = list(itertools.islice(stream, count))
    stream.close()
    return got


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for name in x:
            assert x[name].dtype == y[name].dtype
            np.testing.assert_array_equal(x[name], y[name])


# The stream -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", thinned((0, 1, 3), 0, 1))
def test_the_position_is_the_step(workers):
    options = dict(batch_size=7, flip=True, dequantize=True)
    whole = run(count=9, **options)
    assert_same(run(count=9 - 4, step=4, workers=workers, **options), whole[4:])


def test_a_far_step_is_reached_at_once():
    began = time.perf_counter()
    (batch,) = run(step=10**9 + 7, count=1)
    assert time.perf_counter() - began < 5
    first = (10**9 + 7) * 4
    expected = [pipeline._shuffled(10, 0, p // 10)[p % 10] for p in range(first, first + 4)]
    np.testing.assert_array_equal(batch["label"], expected)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_hosts_batches_in_order_are_the_one_host_batch(hosts):
    options = dict(batch_size=8, flip=True, dequantize=True, step=2)
    parts = zip(*(run(host=host, hosts=hosts, **options) for host in range(hosts)))
    joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in parts]
    assert_same(joined, run(**options))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 37])
def test_every_epoch_is_a_fresh_shuffle_of_everything(batch_size):
    labels = np.concatenate([batch["label"] for batch in run(batch_size=batch_size, count=-(-200 // batch_size))])
    epochs = labels[:200].reshape(20, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (20, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_shuffles_are_uniform():
    # Each (example, place) pair of 4000 shuffles of 5 is binomial(4000, 1/5): 800 with a standard deviation of 25.3.
    shuffles = np.stack([pipeline._shuffled.__wrapped__(5, 1, epoch) for epoch in range(4000)])
    counts = np.stack([np.bincount(place, minlength=5) for place in shuffles.T])
    assert np.abs(counts - 800).max() < 4.5 * 25.3


def test_seeds_give_different_orders_and_options_do_not_change_the_order():
    def labels(**options):
        return np.concatenate([batch["label"] for batch in run(**options)]).tolist()

    assert labels(seed=1) != labels(seed=2)
    assert labels(seed=1, flip=True, dequantize=True) == labels(seed=1)


def test_batches_are_float32_with_int32_labels_or_without_labels():
    (batch,) = run(count=1, dataset=data.fake(n=3, shape=(4, 4, 1), num_classes=0))
    assert batch.keys() == {"x0"} and batch["x0"].shape == (4, 4, 4, 1) and batch["x0"].dtype == np.float32
    (batch,) = run(count=1)
    assert batch["label"].dtype == np.int32


def test_a_list_is_a_source():
    rows = [dict(x0=np.full((2,), float(i)), label=np.int32(i)) for i in range(3)]
    (batch,) = run(dataset=data.Dataset(rows, shape=(2,), num_classes=3), count=1)
    np.testing.assert_array_equal(batch["x0"], np.float32(batch["label"])[:, None].repeat(2, axis=1))


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
def test_normalizing_reaches_both_ends_exactly_and_rounds_back(levels):
    raw = np.arange(levels).astype(np.uint16)
    x0 = pipeline._normalize(raw, levels)
    assert x0.dtype == np.float32 and x0[0] == -1 and x0[-1] == 1
    np.testing.assert_array_equal(x0, -x0[::-1])
    np.testing.assert_array_equal(np.rint((x0.astype(np.float64) + 1) / 2 * (levels - 1)), raw)


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("bits", [0, 1, 65534, 65535])
def test_dequantizing_stays_inside_and_floors_back(levels, bits):
    raw = np.arange(levels).astype(np.uint16)
    x0 = pipeline._dequantize(raw, levels, np.full(levels, bits, np.uint16))
    assert x0.dtype == np.float32 and x0.min() > -1 and x0.max() < 1
    np.testing.assert_array_equal(np.floor((x0.astype(np.float64) + 1) / 2 * levels), raw)


def test_dequantizing_noise_is_uniform_and_independent():
    dataset = data.fake(n=64, shape=(16, 16, 3))
    noisy, plain = (run(dataset=dataset, batch_size=64, count=4, dequantize=flag) for flag in (True, False))
    x0 = np.stack([batch["x0"] for batch in noisy]).astype(np.float64)
    raw = np.rint((np.stack([batch["x0"] for batch in plain]).astype(np.float64) + 1) / 2 * 255)
    u = (x0 + 1) / 2 * 256 - raw
    n = u.size
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 4 / math.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 4 / math.sqrt(180 * n)
    rows = u.reshape(-1, 16 * 16 * 3) - 1 / 2
    neighbors = [rows[1:] * rows[:-1], rows[:, 1:] * rows[:, :-1], rows * (raw.reshape(rows.shape) / 255 - 1 / 2)]
    for products in neighbors:  # the next example, the next value, the value itself: correlation zero
        assert abs(products.mean()) < 4 * products.std() / math.sqrt(products.size)


def test_flipping_mirrors_about_half_and_always_the_same():
    options = dict(batch_size=500, count=4)
    flipped, plain = run(flip=True, **options), run(**options)
    assert_same(flipped, run(flip=True, **options))
    x0, same = np.concatenate([b["x0"] for b in flipped]), np.concatenate([b["x0"] for b in plain])
    mirrored = (x0 == same[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (x0 == same).all(axis=(1, 2, 3))).all()  # each is one or the other
    assert abs(mirrored.sum() - 1000) < 4 * math.sqrt(2000 / 4)
    noisy = np.concatenate([b["x0"] for b in run(flip=True, dequantize=True, **options)])
    np.testing.assert_allclose(noisy, x0, atol=1.01 / 128)  # dequantizing flips the same ones


def test_batches_leave_the_source_alone():
    x0 = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    views = data.Source(2, read=lambda index: dict(x0=x0[index]), take=lambda indices: dict(x0=x0))
    run(dataset=data.Dataset(views, shape=(3, 4, 1), levels=256), batch_size=2, flip=True, dequantize=True)
    np.testing.assert_array_equal(x0.ravel(), np.arange(24))


def test_examples_are_normalized_in_the_order_asked_for():
    batch = data.examples(SMALL, [7, 2, 2])
    assert batch["label"].tolist() == [7, 2, 2]
    np.testing.assert_array_equal(batch["x0"][0], pipeline._normalize(SMALL.source[7]["x0"], 256))


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size=0.*>= 1"),
        (dict(batch_size=-4), "batch_size=-4"),
        (dict(batch_size=4.0), "batch_size=4.0.*integer"),
        (dict(batch_size=True), "batch_size=True"),
        (dict(batch_size=float("nan")), "batch_size=nan"),
        (dict(batch_size=6, hosts=4), "batch_size=6 .* 4 hosts"),
        (dict(hosts=0), "hosts=0"),
        (dict(host=2, hosts=2), "host=2.*0..1"),
        (dict(step=-1), "step=-1"),
        (dict(seed=-1), "seed=-1"),
        (dict(seed=None), "seed=None"),
        (dict(workers=-1), "workers=-1"),
        (dict(dataset=data.mixture(n=4), flip=True), r"flip=True.*\(2,\)"),
        (dict(dataset=data.mixture(n=4), dequantize=True), "dequantize=True.*levels=0"),
        (dict(dataset=data.Dataset([], shape=(2,))), "empty"),
    ],
)
def test_bad_options_are_refused_before_reading(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(options.pop("dataset", SMALL), **{"batch_size": 4, "seed": 0, **options})


# Worker processes -----------------------------------------------------------------------------------------------------

_ENDLESS = """
import multiprocessing, sys
from diffax import data
if __name__ == "__main__":
    stream = data.batches(data.digits(), batch_size=8, seed=0, workers=1)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if "forever" in sys.argv:
        for _ in stream: pass
"""


def _alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return True
    except ProcessLookupError:
        return False


@pytest.mark.slow
def test_workers_end_when_the_trainer_does_and_not_before(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_ENDLESS)
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([*command, "forever"], stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        for pid in pids:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert pids and all(_alive(pid) for pid in pids)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert finished.returncode == 0 and "Traceback" not in finished.stderr, finished.stderr
