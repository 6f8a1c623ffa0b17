"""Pictures of a run: sample grids with fixed noise and labels, the denoising strip, the report."""

import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from diffax import build, report
from diffax.loop import sampling, wanted
from diffax.train import TrainState

_LONGEST = 16  # turn of classes and prompts that is a row


def write(experiment: build.Experiment, state: TrainState, folder: Path, draw: sampling.Generate) -> np.ndarray | None:
    """Draws `sample.n` samples of a state and writes their picture; noise and labels are the same at every step.

    Returns:
        The way of the first of them from noise to data, for `write_strip`.
    """
    options, step = experiment.config["sample"], int(state.step)
    cond = wanted.conditions(experiment, options["n"])
    params = sampling.chosen_params(state, experiment.config)
    size = min(options["n"], options["batch_size"])
    x, path = draw(params, options["seed"], cond, options["n"], size, options["guidance"])
    warn_broken(x)
    picture = draw_picture(experiment, x, cond)
    if picture is not None:
        report.save_png(report.sample_path(folder, step), picture, facts(experiment, cond, step))
    return path


def write_strip(experiment: build.Experiment, step: int, folder: Path, path: np.ndarray | None) -> None:
    """Writes the way of a few samples from noise to data, [steps + 1, n, *data]; of None, nothing."""
    if path is None:
        return
    options, n = experiment.config["sample"], path.shape[1]
    if report.shows(path.shape[2:]):
        picture = report.strip(path)
    else:
        picture = report.scatter_strip(path, wanted.conditions(experiment, n).get("label"))
    report.save_png(report.strip_path(folder, step), picture, {"caption": _caption(options)})


def facts(experiment: build.Experiment, cond: Mapping, step: int) -> dict[str, str]:
    """What a picture of samples keeps in its file: all that it takes to draw it again, and what is to be seen."""
    from diffax.metrics.card import versions

    options = experiment.config["sample"]
    again = {"step": step, "sample": options, "versions": versions()}
    texts = wanted.captions(experiment, cond)
    return {"caption": _caption(options), "diffax": report.to_json(again), "prompts": "\n".join(texts)}


def warn_broken(x: np.ndarray) -> None:
    """Says aloud what a picture alone would leave to be found: samples that are not finite."""
    if broken := sampling.broken(x):
        print(f"warning: {broken} of {len(x)} samples are not finite", file=sys.stderr, flush=True)


def draw_picture(experiment: build.Experiment, x: np.ndarray, cond: Mapping) -> np.ndarray | None:
    """A picture of samples: a grid of images, a scatter plot of 2-D points over the data; None for other data."""
    shape = x.shape[1:]
    if report.shows(shape):
        return report.grid(x, columns(cond))
    if shape == (2,):
        from diffax import data

        real = data.examples(experiment.dataset, np.arange(min(len(experiment.dataset.source), 2000)))
        return report.scatter(x, cond.get("label"), reference=real["x0"])
    return None


def columns(cond: Mapping) -> int | None:
    """The columns of a grid of samples under `cond`, such that each has one class and one prompt.

    As many as are asked for in turn, or a multiple of that, the largest that is not wider than high. None, as square as
    can be, where all are asked for the same, or more than 16 in turn.
    """
    told = [cond[name] for name in ("label", "text") if name in cond]
    n = len(told[0]) if told else 0
    lengths = range(1, min(n, _LONGEST) + 1)
    turn = next((k for k in lengths if all(np.array_equal(each, each[np.arange(n) % k]) for each in told)), 1)
    return turn * max(1, math.isqrt(n) // turn) if turn > 1 else None


def write_report(experiment: build.Experiment, state: TrainState, folder: Path) -> None:
    """Rewrites `report.html` from what the workdir holds."""
    from diffax.metrics.card import versions

    devices = jax.devices()
    facts = {
        "command": shlex.join(["python", "-m", "diffax.main", *sys.argv[1:]]),
        "parameters": sum(int(leaf.size) for leaf in jax.tree.leaves(state.params)),
        "hardware": f"{len(devices)} x {devices[0].device_kind}",
        "versions": versions(),
    }
    report.write_report(folder, total=experiment.config["train"]["steps"], facts=facts)


def _caption(options):
    name, scale = options["guidance"]["name"], options["guidance"]["scale"]
    guidance = f"guidance {scale:g}" if name == "cfg" else f"{name} {scale:g}"
    return f"seed {options['seed']}, {guidance}, {options['sampler']['name']}"
