"""Checkpoints: saved in the background, verified when read, restored to any devices and sharding. The workdir's lock.

Orbax writes and reads the arrays. `manifest.py` decides which steps are finished and intact.
"""

import concurrent.futures
import contextlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from diffax import manifest

PyTree = Any

# Orbax spends about 1 ms of Python on each array it writes, so leaves up to this size go to it as one vector of bytes.
_SMALL = 2**18
_NONE, _FAILED = -1, -2
_log = logging.getLogger(__name__)


class Checkpoints(NamedTuple):
    """An open directory of checkpoints: made by `manager`, passed to the other functions of this file."""

    directory: Path
    keep: int
    keep_every: int | None
    orbax: Any
    worker: concurrent.futures.ThreadPoolExecutor
    pending: dict[int, concurrent.futures.Future]
    known: set[int]
    attempts: Iterator[int]


def manager(directory: str | os.PathLike, *, keep: int = 3, keep_every: int | None = None) -> Checkpoints:
    """Opens `directory`, creating nothing; `close` it before the process ends, or the save in flight is lost.

    It imports orbax, and may do so in a thread of its own while a step compiles.

    Args:
      directory: holds one folder a step; all hosts must see the same one.
      keep: so many of the newest steps stay.
      keep_every: steps divisible by it stay for ever.

    Raises:
      ValueError: if `keep` or `keep_every` is under 1.
    """
    for name, value in (("keep", keep), ("keep_every", keep_every)):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value} would keep no checkpoint: give 1 or more")
    import orbax.checkpoint as ocp

    worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
    orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())
    return Checkpoints(Path(directory).absolute(), keep, keep_every, orbax, worker, {}, set(), itertools.count())


def save(manager: Checkpoints, step: int, state: PyTree, *, wait: bool = False) -> None:
    """Saves `state`, a pytree of arrays, as `step`: returns once it is copied, and writes in the background.

    The caller may donate or overwrite `state` as soon as this returns. One save is in flight at a time: the next waits
    for it. A step that this manager has saved or restored is not written again. All hosts must call this.

    Raises:
      RuntimeError: if the save before this one failed, or with `wait` this one; the message names the step.
      ValueError: if `step` is there from elsewhere, or a leaf is no plain array.
    """
    import orbax.checkpoint as ocp

    _settle(manager)
    step = int(step)
    if step in manager.known:
        return
    if step in manifest.finished(manager.directory):
        raise ValueError(f"{manager.directory} has a step {step} already: continue from the newest, or move it away")
    tree, leaves = _pack(state)
    # A folder of its own for each attempt: a failed save's other files may still be on their way to theirs.
    temporary = manager.directory / f"{step}.{next(manager.attempts)}.tmp"
    try:
        if jax.process_index() == 0:
            manifest.begin(temporary)
        manager.orbax.save(temporary / "state", args=ocp.args.PyTreeSave(tree))
    except Exception as error:
        raise _failure(manager, step, error) from error
    manager.pending[step] = manager.worker.submit(_commit, manager, step, temporary, leaves)
    if wait:
        _settle(manager)


def restore(manager: Checkpoints, target: PyTree, *, step: int | None = None) -> tuple[int, PyTree] | None:
    """(step, state) of the newest step whose files are all as they were written; None if no step was ever finished.

    A damaged step is warned of, renamed to `<step>.bad`, and the one before it is tried. All hosts must call this.

    Args:
      target: arrays or `jax.ShapeDtypeStruct`s with the structure, dtypes, shapes and shardings wanted, on any devices.
        A leaf without a sharding, or uncommitted, becomes an uncommitted array on the default device.
      step: this one and no other; it is not renamed if it is damaged.

    Raises:
      ValueError: if all steps are damaged, or `step` is, or a leaf's path, dtype or shape is not `target`'s.
      FileNotFoundError: if there is no `step`.
    """
    _settle(manager)
    found = _on_first_host(lambda: _choose(manager.directory, step))
    if found is None:
        return None
    state = _read(manager, manager.directory / str(found), target)
    manager.known.add(found)
    return found, state


def steps(manager: Checkpoints) -> list[int]:
    """The finished steps in increasing order, not verified; waits for the save in flight (on the first host)."""
    _settle(manager)
    return manifest.finished(manager.directory)


def close(manager: Checkpoints) -> None:
    """Waits for the save in flight; raises RuntimeError if it failed. Closing twice is harmless."""
    try:
        _settle(manager)
    finally:
        manager.worker.shutdown()
        manager.orbax.close()


@contextlib.contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds `workdir` against a second trainer for the length of the block. Of many hosts, the first alone calls it.

    The kernel keeps the lock (flock on `<workdir>/lock`), so it ends with the process, SIGKILL included.

    Raises:
      ValueError: if another process holds it, with its id and host, or if `workdir` cannot be written.
    """
    import fcntl

    path = Path(workdir) / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise ValueError(f"workdir {workdir} cannot be written ({error.strerror}): choose another one") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise ValueError(f"workdir {workdir} is in use by {holder}: stop it, or choose another workdir") from None
        except OSError as error:
            _log.warning("%s has no locks (%s): make sure that no second run uses it", workdir, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _settle(manager: Checkpoints) -> None:
    """Waits for the save in flight, and raises what it raised."""
    for step, future in list(manager.pending.items()):
        error = future.exception()
        del manager.pending[step]
        if error is not None:
            raise _failure(manager, step, error) from error
        manager.known.add(step)


def _failure(manager: Checkpoints, step: int, error: BaseException) -> RuntimeError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    newest = max(manifest.finished(manager.directory), default="none")
    return RuntimeError(
        f"saving step {step} to {manager.directory} failed ({reason}); the newest finished step is {newest}: "
        "remove the cause (is the disk full?) and run the same command again"
    )


def _commit(manager: Checkpoints, step: int, temporary: Path, leaves: list[dict[str, Any]]) -> None:
    """Finishes a step once orbax has written it, then retires old ones; runs in the worker thread."""
    manager.orbax.wait_until_finished()
    if jax.process_index() != 0:
        return
    manifest.finish(temporary, step, leaves)
    for old in manifest.finished(manager.directory)[: -manager.keep]:
        forever = manager.keep_every is not None and old % manager.keep_every == 0
        # The step just written stays whatever its number: it is the one known to be good.
        if not forever and old != step:
            manifest.retire(manager.directory / str(old))


def _choose(directory: Path, step: int | None) -> int | None:
    if step is None:
        return manifest.newest_good(directory)
    if step not in manifest.finished(directory):
        raise FileNotFoundError(f"{directory} has no step {step}: choose one of {manifest.finished(directory)}")
    fault = manifest.fault(directory / str(step))
    if fault is not None:
        raise ValueError(
            f"checkpoint {directory / str(step)} is damaged ({fault}): leave `step` out for the newest good one"
        )
    return step


def _on_first_host(choose: Callable[[], int | None]) -> int | None:
    """`choose()` of process 0, on every process: hosts must not differ on which step is good."""
    if jax.process_count() == 1:
        return choose()
    from jax.experimental import multihost_utils

    answer, failure = None, None
    if jax.process_index() == 0:
        try:
            answer = choose()
        except Exception as error:
            failure = error
    code = np.int32(_FAILED if failure is not None else _NONE if answer is None else answer)
    code = int(multihost_utils.broadcast_one_to_all(code))
    if failure is not None:
        raise failure
    if code == _FAILED:
        raise ValueError("no checkpoint can be restored: the error is in the output of process 0")
    return None if code == _NONE else code


def _pack(state: PyTree) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What orbax is to write, and a row for each leaf: `offset` is its place in `small`, None if it is on its own."""
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    for path, x in flat:
        if not hasattr(x, "dtype") or jnp.issubdtype(x.dtype, jax.dtypes.extended):
            found = getattr(x, "dtype", type(x).__name__)
            raise ValueError(f"leaf {keystr(path)} is {found}, no plain array: of a key, save jax.random.key_data")
    small = [x.nbytes <= _SMALL and getattr(x, "is_fully_replicated", True) for _, x in flat]
    host = iter(jax.device_get([x for (_, x), is_small in zip(flat, small) if is_small]))
    tree, rows, parts, offset = {}, [], [np.zeros(1, np.uint8)], 1  # the one byte, since orbax refuses empty arrays
    for i, (path, x) in enumerate(flat):
        rows.append(
            dict(path=keystr(path), dtype=str(x.dtype), shape=list(x.shape), offset=offset if small[i] else None)
        )
        if small[i]:
            parts.append(np.asarray(next(host)).reshape(-1).view(np.uint8))
            offset += parts[-1].size
        else:
            tree[f"{i:05d}"] = x
    return {"small": np.concatenate(parts), **tree}, rows


def _read(manager: Checkpoints, folder: Path, target: PyTree) -> PyTree:
    """The state in `folder`, laid out as `target`."""
    import orbax.checkpoint as ocp

    flat, structure = jax.tree_util.tree_flatten_with_path(target)
    rows = {row["path"]: dict(row, key=f"{i:05d}") for i, row in enumerate(manifest.read(folder)["leaves"])}
    _check_same(folder, rows, {keystr(path): x for path, x in flat})
    leaves = [(rows[keystr(path)], _sharding(x)) for path, x in flat]
    on_host = ocp.RestoreArgs(restore_type=np.ndarray)
    how = {"small": on_host}
    for row, sharding in leaves:
        if row["offset"] is None:
            how[row["key"]] = ocp.ArrayRestoreArgs(sharding=sharding) if sharding else on_host
    stored = manager.orbax.restore(
        folder / "state", args=ocp.args.PyTreeRestore(item=dict.fromkeys(how, 0), restore_args=how)
    )
    return structure.unflatten(_leaf(row, sharding, stored) for row, sharding in leaves)


def _leaf(row: dict[str, Any], sharding: jax.sharding.Sharding | None, stored: dict[str, Any]) -> jax.Array:
    if row["offset"] is None:
        return jnp.asarray(stored[row["key"]])
    shape, dtype = tuple(row["shape"]), jnp.dtype(row["dtype"])
    stop = row["offset"] + int(np.prod(shape)) * dtype.itemsize
    # Its own memory: on CPU the array may be a view of what it is made from.
    x = np.frombuffer(stored["small"][row["offset"] : stop].tobytes(), dtype).reshape(shape)
    return jax.make_array_from_callback(shape, sharding, lambda index: x[index]) if sharding else jnp.asarray(x)


def _check_same(folder: Path, rows: dict[str, dict[str, Any]], target: dict[str, Any]) -> None:
    for path in [*target, *rows]:
        stored = f"{rows[path]['dtype']}{rows[path]['shape']}" if path in rows else "absent"
        wanted = f"{target[path].dtype}{list(target[path].shape)}" if path in target else "absent"
        if stored != wanted:
            raise ValueError(
                f"checkpoint {folder}: leaf {path} is {stored} in it and {wanted} in the state to restore: "
                "restore with the configuration that saved it, or choose another workdir"
            )


def _sharding(x: Any) -> jax.sharding.Sharding | None:
    return getattr(x, "sharding", None) if getattr(x, "committed", True) else None
