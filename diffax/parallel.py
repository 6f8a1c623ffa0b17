"""The one training step on many devices: jitted over a mesh, or under pmap."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
Step = Callable[..., Any]  # (state, batch, keys) -> (state, metrics)
_WEEK = 7 * 24 * 3600 * 1000  # milliseconds


def start_hosts() -> None:
    """Joins the other hosts of a multi-host run where the environment describes one; otherwise does nothing.

    That is: COORDINATOR_ADDRESS with NUM_PROCESSES and PROCESS_ID, or a TPU pod's, SLURM's or Open MPI's own
    variables, which `jax.distributed` reads. To be called before JAX is first used.
    """
    if "COORDINATOR_ADDRESS" in os.environ:
        try:
            count, index = int(os.environ["NUM_PROCESSES"]), int(os.environ["PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"COORDINATOR_ADDRESS is set, so NUM_PROCESSES and PROCESS_ID must be whole numbers ({error})"
            ) from None
        if not 0 <= index < count:
            raise ValueError(f"PROCESS_ID {index} is not among the {count} of NUM_PROCESSES: use 0 to {count - 1}")
        jax.distributed.initialize(os.environ["COORDINATOR_ADDRESS"], count, index)
    elif (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
        or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
        or int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    ):
        jax.distributed.initialize()


def mesh(devices=None) -> Mesh:
    """A one-dimensional mesh "data" over `devices`, all of them unless given."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def check_batch(batch_size: int, devices: int, accumulate: int = 1) -> None:
    """Refuses a global batch that devices, or the slices of an accumulated gradient, cannot share equally.

    Raises:
        ValueError: batch_size is not a multiple of devices·accumulate.
    """
    if batch_size % (devices * accumulate):
        slices = f" x {accumulate} slices of accumulation" if accumulate > 1 else ""
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {devices} devices{slices}: "
            f"use a multiple of {devices * accumulate}"
        )


def replicated(tree: Any, mesh: Mesh) -> Any:
    """Shardings that put every leaf of `tree` whole on every device."""
    return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), tree)


def fsdp(tree: Any, mesh: Mesh, min_size: int = 2**16) -> Any:
    """Shardings that split each leaf of at least `min_size` elements over the devices, along its longest axis.

    Leaves without an axis that divides equally stay whole. Under jit, XLA gathers parameters where they are used and
    scatters gradients: fully sharded data parallelism, arXiv:2004.13336. With a smaller `min_size` it also gathers the
    gradients below 2^16 elements for their norm (`train.global_norm`).
    """
    count = mesh.devices.size

    def shard(leaf):
        axes = [i for i, n in enumerate(leaf.shape) if n % count == 0]
        if np.prod(leaf.shape) < min_size or not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[AXIS if i == longest else None for i in range(len(leaf.shape))]))

    return jax.tree.map(shard, tree)


def data_parallel(
    step: Step, mesh: Mesh, state_sharding: Any = None, *, donate: bool | None = None, **jit_options
) -> Step:
    """`step` jitted over `mesh`: batch and keys split along their first axis, the state as `state_sharding` says.

    The global batch is one batch: the mean of its losses is the mean over all devices, and XLA inserts the sum of
    gradients.

    Args:
        state_sharding: a tree of shardings, as from `replicated` or `fsdp`; None replicates. The first state should be
            placed so (`jax.device_put`), or its other placement compiles a second program.
        donate: whether the new state takes the memory of the old, which is then gone; None is yes, except on CPU.
        jit_options: further arguments of `jax.jit`.
    """
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    state = whole if state_sharding is None else state_sharding
    if donate is None:
        # On CPU, XLA's scratch is one block that the C library maps anew at each step: page faults are a tenth of the
        # time of a large network. A new state lends its memory to the scratch first, which is then a third as large.
        donate = mesh.devices.flat[0].platform != "cpu"
    donated = 0 if donate else ()
    return jax.jit(
        step, in_shardings=(state, split, split), out_shardings=(state, whole), donate_argnums=donated, **jit_options
    )


def pmapped(step: Step, devices=None) -> Step:
    """`step` under `jax.pmap`: (state, batch, keys) with the state as from `replicate`, batch and keys this host's.

    `step` must take `axis_name` and average its gradients over it. Metrics come back from the first device.

    Args:
        devices: of this process only; None is every device of every process, the one way to span several.
    """
    mapped = jax.pmap(partial(step, axis_name=AXIS), axis_name=AXIS, devices=devices, donate_argnums=0)

    def call(state, batch, keys):
        n = jax.local_device_count() if devices is None else len(devices)
        check_batch(len(keys), n)
        batch, keys = jax.tree.map(lambda a: a.reshape(n, a.shape[0] // n, *a.shape[1:]), (batch, keys))
        state, metrics = mapped(state, batch, keys)
        return state, unreplicate(metrics)

    return call


def replicate(tree: Any, devices=None) -> Any:
    """A copy of `tree` on each device of a pmap, this host's devices unless given, stacked along a new first axis."""
    devices = jax.local_devices() if devices is None else devices
    split = NamedSharding(Mesh(devices, (AXIS,)), PartitionSpec(AXIS))

    def copies(a):
        # on their devices from the start: pmap would have to move them, and all of them may not fit on one;
        # and a new array for each, because the CPU backend borrows NumPy's memory instead of copying it
        parts = [jax.device_put(np.array(a)[None], device) for device in devices]
        return jax.make_array_from_single_device_arrays((len(devices), *jnp.shape(a)), split, parts)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any) -> Any:
    """The copy of a tree from `replicate` on this host's first device."""
    # from the one device: indexing the whole would be a collective of all, and a deadlock between hosts
    return jax.tree.map(lambda a: a.addressable_data(0)[0], tree)


def on_this_host(tree: Any) -> Any:
    """A tree whose arrays this host can read whole: as it is, unless several hosts share them, which all call this."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)


def on_first_host(work: Callable[[], Any]) -> Any:
    """What `work()` gives, on the first of several hosts; the others wait until it ends, and have None."""
    try:
        return work() if jax.process_index() == 0 else None
    finally:
        if jax.process_count() > 1:
            from orbax.checkpoint import multihost

            # where JAX ends, hosts wait for each other five minutes only; here too, one that dies ends them all
            multihost.get_barrier_sync_fn()(key="first_host", timeout_ms=_WEEK)


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """The global arrays, split over `mesh`, from each host's part `batch` (numpy, equal in size)."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda a: jax.make_array_from_process_local_data(sharding, a), batch)
