"""Batches for training: which examples step k sees, and what is done to them, is a pure function of (seed, k)."""

import atexit
import contextlib
import functools
import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from diffax.data.dataset import Dataset, Example, check_integers, take

_AT_ONCE = 1024  # examples whose other conditions are in memory before they are left out
_ORDER, _FLIP, _DEQUANTIZE = range(3)  # a stream of random bits each, so that no option changes what another one draws


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    step: int = 0,
    flip: bool = False,
    dequantize: bool = False,
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
) -> Generator[Example, None, None]:
    """Endless batches dict(x0 float32 [rows, *shape] in [-1, 1], label int32 [rows]), rows = batch_size / hosts.

    The training data are one stream of examples: epoch after epoch, each a fresh shuffle of the whole data set, cut
    into batches without regard to epochs. So no example is lost, and a batch may be larger than the data set. Step k
    takes the positions k batch_size .. (k+1) batch_size - 1 of the stream, and everything random depends on (seed,
    position) alone. Hence `batches(step=k)` yields what the k-th `next` of `batches(step=0)` yields, whatever `workers`
    is; and host h gets the h-th run of consecutive rows of the one-host batch, so that the hosts' batches joined in
    order are that batch.

    Args:
      batch_size: the global one, divisible by hosts.
      seed: of the order, the flips and the dequantization.
      step: the training step to begin at.
      flip: mirror images left to right with probability 1/2.
      dequantize: x0 = 2 (raw + u) / levels - 1 with u uniform on (0, 1) (arXiv:1511.01844, section 3.1), where it is
        otherwise 2 raw / (levels - 1) - 1.
      host, hosts: which of how many processes this one is.
      workers: processes that read ahead, for sources that are slow to decode; with 0, threads do. They are spawned, so
        a script that asks for them needs the usual `if __name__ == "__main__":`. `close()` ends them.

    Raises:
      ValueError: an empty data set, a number that is no integer or too small, batch_size not divisible by hosts, an
        option that does not fit the data. All are raised by this call, before anything is read.
    """
    check_integers(1, batch_size=batch_size, hosts=hosts)
    check_integers(0, seed=seed, step=step, host=host, workers=workers)
    _check_fit(dataset, batch_size, flip, dequantize, host, hosts)
    import grain
    from absl import flags

    options = dict(size=batch_size, flip=flip, dequantize=dequantize, host=host, hosts=hosts)
    read = functools.partial(_batch, dataset=dataset, seed=seed, **options)
    stream = grain.MapDataset.range(sys.maxsize).map(read)[step:]
    stream = stream.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    if workers:
        # Grain asks absl for a flag of its own on the way, which is an error in a program that never parsed any.
        flags.FLAGS.mark_as_parsed()
        processes = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        stream = stream.mp_prefetch(processes, worker_init_fn=_start_worker)
    opened = _until_closed(stream, workers)
    atexit.register(opened.close)  # workers that are left to the garbage collector at exit end in a page of complaints
    return opened


def examples(dataset: Dataset, indices: Sequence[int] | np.ndarray, bare: bool = False) -> Example:
    """Examples `indices` as one batch, x0 float32 in [-1, 1], neither flipped nor dequantized: for evaluations.

    With `bare` it is x0 and label alone: other conditions are not kept, and texts not encoded.
    """
    raw = _bare(dataset.source, np.asarray(indices)) if bare else take(dataset.source, indices)
    return {**raw, "x0": _normalize(raw["x0"], dataset.levels)}


def _bare(source: Any, indices: np.ndarray) -> Example:
    source = getattr(source, "bare", None) or source
    parts = []
    for first in range(0, len(indices), _AT_ONCE):
        some = take(source, indices[first : first + _AT_ONCE])
        parts.append({name: some[name] for name in ("x0", "label") if name in some})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _until_closed(stream: Iterable[Example], workers: int) -> Generator[Example, None, None]:
    iterator = iter(stream)
    with _signals_held_back() if workers else contextlib.nullcontext():
        first = next(iterator)  # grain starts all of its workers here
    yield first
    yield from iterator


def _start_worker(worker: int, workers: int) -> None:
    # A trainer that was killed outright stops no workers, and they would wait for it forever.
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the end of the block, and never reach the processes that are started in it.

    A terminal's Ctrl-C and a scheduler's SIGTERM go to every process of a run, but it is the trainer that decides what
    becomes of the run. A process inherits the blocked signals from the first instant on, before any code of its own.
    """
    multiprocessing.resource_tracker.ensure_running()  # where it is started later, it unblocks them again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_fit(dataset: Dataset, batch_size: int, flip: bool, dequantize: bool, host: int, hosts: int) -> None:
    if not len(dataset.source):
        raise ValueError("the data set is empty: give one with at least one example")
    if batch_size % hosts:
        raise ValueError(f"batch_size={batch_size} is not divisible by {hosts} hosts: make it a multiple of {hosts}")
    if host >= hosts:
        raise ValueError(f"host={host}: with hosts={hosts} give one of 0..{hosts - 1}")
    if flip and len(dataset.shape) < 3:
        raise ValueError(
            f"flip=True: x0 of shape {dataset.shape} is no image [height, width, channels]; set flip=False"
        )
    if dequantize and not dataset.levels:
        raise ValueError("dequantize=True: the data set has no integer levels (levels=0); set dequantize=False")


def _batch(
    step: int, dataset: Dataset, seed: int, size: int, flip: bool, dequantize: bool, host: int, hosts: int
) -> Example:
    rows = size // hosts
    first = step * size + host * rows
    raw = take(dataset.source, _order(len(dataset.source), seed, first, rows))
    _check_labels(raw, dataset.num_classes)
    x0 = raw["x0"]
    if flip:
        mirrored = _bits(seed, _FLIP, first, rows, words=1)[:, 0] >> 63 == 1
        x0 = np.array(x0)
        x0[mirrored] = np.take(x0[mirrored], np.arange(x0.shape[-2])[::-1], axis=-2)
    if dequantize:
        values = math.prod(dataset.shape)
        bits = _bits(seed, _DEQUANTIZE, first, rows, words=math.ceil(values / 4)).view(np.uint16)[:, :values]
        x0 = _dequantize(x0, dataset.levels, bits.reshape(x0.shape))
    else:
        x0 = _normalize(x0, dataset.levels)
    return {**raw, "x0": x0}


def _check_labels(raw: Example, classes: int) -> None:
    """Before a label that is no class makes a loss NaN."""
    if not classes:
        return
    wrong = raw["label"][(raw["label"] < 0) | (raw["label"] >= classes)]
    if wrong.size:
        raise ValueError(f"data: an example has label {wrong[0]}, of {classes} classes; expected 0 to {classes - 1}")


def _order(length: int, seed: int, first: int, rows: int) -> np.ndarray:
    """Source indices at the stream's positions first .. first + rows - 1."""
    position = np.arange(first, first + rows)
    epoch, offset = position // length, position % length
    indices = np.empty(rows, np.int64)
    for e in range(int(epoch[0]), int(epoch[-1]) + 1):
        indices[epoch == e] = _shuffled(length, seed, e)[offset[epoch == e]]
    return indices


@functools.lru_cache(maxsize=4)
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    # Not Generator.permutation: from version to version NumPy keeps the bits of Philox, but not what it makes of them.
    draws = np.random.Philox(key=_key(seed, _ORDER), counter=epoch << 128).random_raw(length)
    return np.argsort(draws, kind="stable")


def _bits(seed: int, stream: int, first: int, rows: int, words: int) -> np.ndarray:
    """uint64 [rows, words] of random bits; the row at a position is the same whatever `first` and `rows` are."""
    blocks = math.ceil(words / 4)  # Philox gives four words for each value of its counter
    bits = np.random.Philox(key=_key(seed, stream), counter=first * blocks).random_raw(rows * blocks * 4)
    return np.ascontiguousarray(bits.reshape(rows, blocks * 4)[:, :words])


@functools.lru_cache(maxsize=16)
def _key(seed: int, stream: int) -> np.ndarray:
    return np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(2, np.uint64)


def _normalize(raw: np.ndarray, levels: int) -> np.ndarray:
    """0 .. levels - 1 -> [-1, 1]; only the division rounds, so the ends are exactly -1 and 1."""
    if not levels:
        return np.asarray(raw, np.float32)
    half = np.float32((levels - 1) / 2)
    return (raw.astype(np.float32) - half) / half


def _dequantize(raw: np.ndarray, levels: int, bits: np.ndarray) -> np.ndarray:
    """2 (raw + u) / levels - 1, u the middle of one of 2^n cells of (0, 1), n such that raw + u is exact in float32.

    A u of full width would now and then round raw + u up to raw + 1, which is another pixel value.
    """
    n = min(16, 23 - (levels - 1).bit_length())
    u = ((bits >> (16 - n)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-n)
    half = np.float32(levels / 2)
    return (raw.astype(np.float32) + u - half) / half
