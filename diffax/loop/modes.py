"""The launcher's modes besides training: sampling and evaluating a trained run, and the dry run."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build, report
from diffax import config as configs
from diffax.conditions import repeat
from diffax.loop import checks, evaluation, pictures, sampling, training, workdir


def sample(config: Mapping, folder: str | os.PathLike) -> Path:
    """Draws `sample.n` samples from the newest checkpoint of `folder`; writes a picture and the arrays.

    Returns:
        The picture's path; beside it lies an .npz with x0 and the conditions, such as label.
    """
    experiment, state = restored(config, folder)
    options = experiment.config["sample"]
    cond = sampling.wanted(experiment, options["n"])
    params = sampling.chosen_params(state, experiment.config)
    draw = sampling.generator(experiment)
    with report.progress(options["n"], noun="image") as bar:
        x = draw(
            params, options["seed"], cond, options["n"], options["batch_size"], options["guidance"], tick=bar.update
        )
    arrays = report.npz_bytes({"x0": x, **cond})
    name = f"sample_{int(state.step):08d}_seed{options['seed']}.npz"
    written = workdir.unused(Path(folder) / "samples" / name, lambda file: file.read_bytes() == arrays)
    written.parent.mkdir(exist_ok=True)
    report.write_bytes(written, arrays)
    picture = pictures.draw_picture(experiment, x, cond)
    if picture is not None:
        written = written.with_suffix(".png")
        report.save_png(written, picture, {"config": str(dict(options))})
    print(f"{options['n']} samples of step {int(state.step)} in {written}", flush=True)
    return written


def evaluate(config: Mapping, folder: str | os.PathLike) -> dict:
    """Scores samples of the newest checkpoint of `folder`, as after training; writes the card and the report."""
    experiment, state = restored(config, folder)
    card = evaluation.evaluate(experiment, state, Path(folder), sampling.generator(experiment))
    pictures.write_report(experiment, state, Path(folder))
    return card


def restored(config: Mapping, folder: str | os.PathLike):
    """(experiment, state) of the newest good checkpoint of a workdir, under a config that fits it.

    Raises:
        ValueError: no run there, no checkpoint yet, or a config of another run.
    """
    from diffax import checkpoint

    different = configs.difference(workdir.read_config(folder), config)
    if different:
        raise ValueError(f"config differs from the one that {folder} was trained with: {'; '.join(different)}")
    workdir.writable(folder)
    experiment = checks.experiment(config)
    run = training.place(experiment, training.initial_state(experiment))
    manager = checkpoint.manager(Path(folder).absolute() / "checkpoints")
    found = checkpoint.restore(manager, run.target)
    checkpoint.close(manager)
    if found is None:
        raise ValueError(f"workdir: {folder} has no checkpoint yet; train it first")
    return experiment, found[1]


def dry_run(config: Mapping) -> None:
    """Prints the complete config, the parameter count, shapes and an estimate of memory, all without computing."""
    experiment = checks.experiment(config)
    state = jax.eval_shape(lambda: training.initial_state(experiment))
    parameters = training.parameter_count(state.params)
    batch = -(-config["train"]["batch_size"] // (jax.device_count() * config["train"]["accumulate"]))
    print(report.to_json(config))
    print(f"data         {len(experiment.dataset.source)} examples of shape {experiment.dataset.shape}")
    print(f"parameters   {parameters:,}")
    print(f"state        {_megabytes(state)} MB (parameters, averages, optimizer)")
    print(f"gradient     {_megabytes(state.params)} MB")
    print(f"activations  {_activation_megabytes(experiment, state, batch)} MB on each device for {batch} examples")


def _activation_megabytes(experiment, state, batch):
    """The size of what the backward pass reads: the residuals of the loss, from shapes alone."""
    loss_fn = build.loss(experiment, sampling.network_apply(experiment.network))

    def residuals(params):
        example = {"x0": jnp.zeros((batch, *experiment.dataset.shape)), **repeat(experiment.nulls, batch)}
        keys = jax.random.split(jax.random.key(0), batch)
        return jax.vjp(lambda params: loss_fn(params, example, keys), params)[1]

    return _megabytes(jax.eval_shape(residuals, state.params)) - _megabytes(state.params)


def _megabytes(tree):
    return round(sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e6)
