"""The power-function averages that a run keeps on its way, in `averages/<step>/`, and others made of these after it."""

import logging
from pathlib import Path
from typing import Any

import jax

from diffax import averages, build, checkpoint, manifest
from diffax.train import TrainState

_log = logging.getLogger(__name__)


def keep(experiment: build.Experiment, folder: Path, step: int, state: TrainState) -> None:
    """Writes the averages of `ema.widths` at a step, unless the step was done before: it had the same."""
    directory = Path(folder) / "averages"
    if step in manifest.finished(directory):
        return
    manager = checkpoint.manager(directory, keep=2**62)
    try:
        checkpoint.save(manager, step, _of(experiment, state.ema_params), wait=True)
    finally:
        checkpoint.close(manager)


def average(experiment: build.Experiment, folder: Path, state: TrainState, width: float) -> Any:
    """The parameters averaged with sigma_rel = `width` up to the state's step, from what was kept until then.

    What is damaged of it is warned of, and left out.

    Raises:
        ValueError: nothing was kept, or all of it is damaged.
    """
    directory, step = Path(folder) / "averages", int(state.step)
    widths = {f"width{width}": width for width in experiment.config["ema"]["widths"]}
    kept = [t for t in manifest.finished(directory) if t <= step and _whole(directory / str(t))]
    if not kept:
        raise ValueError(
            f"sample.width: {width} is made of averages in {directory}, none of step {step} or before is good; "
            f"leave it out, or give one of ema.widths, {tuple(widths.values())}"
        )
    # the averages of the state itself are the last ones
    snapshots = [(t, width) for t in [*kept, step] for width in widths.values()]
    read = _read(directory, kept, _of(experiment, state.ema_params))
    return averages.reconstruct((tree[name] for tree in read for name in widths), snapshots, step, width)


def _whole(folder):
    fault = manifest.fault(folder)
    if fault:
        _log.warning("the averages %s are damaged (%s), and left out", folder, fault)
    return not fault


def _read(directory, kept, last):
    """The averages of one step after the other: all of them are too much to hold."""
    target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), last)
    manager = checkpoint.manager(directory)
    try:
        for step in kept:
            yield checkpoint.restore(manager, target, step=step)[1]
    finally:
        checkpoint.close(manager)
    yield last


def _of(experiment, ema_params):
    return {f"width{width}": ema_params[f"width{width}"] for width in experiment.config["ema"]["widths"]}
