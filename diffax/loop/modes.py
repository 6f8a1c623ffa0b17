"""The launcher's modes besides training: sampling and evaluating a trained run, and the dry run."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build, parallel, report
from diffax import config as configs
from diffax.conditions import repeat
from diffax.guidance import apg, cfg
from diffax.loop import checks, evaluation, pictures, sampling, snapshots, training, wanted, workdir


def sample(config: Mapping, folder: str | os.PathLike, out: str | None = None, animation: str | None = None) -> Path:
    """Draws `sample.n` samples from the newest checkpoint of `folder`; writes a picture and the arrays.

    Args:
        out: the picture's file, a PNG; by default one in the workdir, whose name tells step and seed.
        animation: a file, GIF or WebP, for the way of the first batch from noise to picture.

    Returns:
        The picture's path; beside it lies an .npz with x0 and the conditions, such as label. Of several hosts the
        first alone draws.

    Raises:
        ValueError: no run there, a file that cannot be written, or what could not be seen in it.
    """
    _check_file("--out", out, (".png",))
    if out and (arrays := Path(out).with_suffix(".npz")).is_dir():
        raise ValueError(f"--out: {arrays} is a folder, the arrays of {out} are to be there; choose another name")
    _check_file("--animation", animation, (".gif", ".webp"))
    experiment, state = restored(config, folder)
    if not out:
        workdir.writable(folder)
    if animation:
        _check_animation(experiment)
    _check_negative(experiment)
    return parallel.on_first_host(partial(_draw, experiment, state, folder, out, animation))


def _draw(experiment, state, folder, out, animation):
    options, step = experiment.config["sample"], int(state.step)
    cond = wanted.conditions(experiment, options["n"])
    params = sampling.chosen_params(state, experiment.config)
    size = min(options["n"], options["batch_size"])
    with report.progress(options["n"], noun="image") as bar:
        draw = sampling.generator(experiment, True if animation else None)
        x, path = draw(params, options["seed"], cond, options["n"], size, options["guidance"], tick=bar.update)
    pictures.warn_broken(x)
    arrays = report.npz_bytes(wanted.described(experiment, x, cond))
    if out:
        written = Path(out).with_suffix(".npz")
    else:  # beside those of other samples of the step and seed
        file = Path(folder) / "samples" / f"sample_{step:08d}_seed{options['seed']}.npz"
        written = workdir.unused(file, lambda file: file.read_bytes() == arrays)
    report.write_bytes(written, arrays)
    picture = pictures.draw_picture(experiment, x, cond)
    if picture is not None:
        written = written.with_suffix(".png")
        report.save_png(written, picture, pictures.facts(experiment, cond, step))
    print(f"{options['n']} sample{'s' * (options['n'] > 1)} of step {step} in {written}", flush=True)
    if animation:
        report.save_animation(animation, path, pictures.columns(cond))
        print(f"the way of {path.shape[1]} samples from noise in {animation}", flush=True)
    return written


def _check_file(flag, file, suffixes):
    if file is None:
        return
    if Path(file).suffix.lower() not in suffixes:
        raise ValueError(f"{flag}: {file} is not allowed, expected a file that ends in {' or '.join(suffixes)}")
    if Path(file).is_dir():
        raise ValueError(f"{flag}: {file} is a folder; name a file in it")
    if fault := workdir.unwritable(Path(file).absolute().parent):
        raise ValueError(f"{flag}: {file} cannot be written ({fault}); choose another folder")


def _check_animation(experiment):
    shape, name = experiment.dataset.shape, experiment.config["sample"]["sampler"]["name"]
    if not report.shows(shape):
        raise ValueError(f"--animation: needs images, the data has shape {shape}; leave it out")
    if not sampling.tells_its_way(experiment):
        raise ValueError(f"--animation: {name} does not tell its way from noise; take a sampler with `trajectory`")


def _check_negative(experiment, scales=()):
    options = experiment.config["sample"]
    prompt, scales = options["negative_prompt"], scales or [options["guidance"]["scale"]]
    if prompt and experiment.guidance in (cfg, apg) and all(scale == 1 for scale in scales):
        told = f"sample.negative_prompt: {prompt[:60]!r} changes nothing with guidance of scale 1"
        raise ValueError(f"{told}; give a larger one, such as --guidance=4, or leave it out")


def evaluate(config: Mapping, folder: str | os.PathLike) -> dict:
    """Scores samples of the newest checkpoint of `folder`, as after training; writes the cards and the report."""
    experiment, state = restored(config, folder)
    workdir.writable(folder)
    checks.evaluation(experiment)
    _check_negative(experiment, experiment.config["eval"]["scales"])
    return parallel.on_first_host(partial(_score, experiment, state, Path(folder)))


def _score(experiment, state, folder):
    card = evaluation.evaluate(experiment, state, folder, sampling.generator(experiment))
    pictures.write_report(experiment, state, folder)
    return card


def restored(config: Mapping, folder: str | os.PathLike, step: int | None = None):
    """(experiment, state) of a workdir's newest good checkpoint, or that of `step`, under a config that fits it.

    Raises:
        ValueError: no run there, no checkpoint yet, or a config of another run.
        FileNotFoundError: no such step.
    """
    from diffax import checkpoint

    different = configs.difference(workdir.read_config(folder), config)
    if different:
        raise ValueError(f"config differs from the one that {folder} was trained with: {'; '.join(different)}")
    experiment = checks.experiment(config)
    run = training.place(experiment, training.state_shapes(experiment))
    manager = checkpoint.manager(Path(folder).absolute() / "checkpoints")
    try:
        found = checkpoint.restore(manager, run.target, step=step)
    finally:
        checkpoint.close(manager)
    if found is None:
        raise ValueError(f"workdir: {folder} has no checkpoint yet; train it first")
    return experiment, _with_width(experiment, Path(folder), parallel.on_this_host(found[1]))


def _with_width(experiment, folder, state):
    """The state with the average of `sample.width`, if that is asked for and not there."""
    width, name = experiment.config["sample"]["width"], sampling.chosen_ema(experiment.config)
    if not width or name in state.ema_params:
        return state
    made = snapshots.average(experiment, folder, state, width)
    return dataclasses.replace(state, ema_params={**state.ema_params, name: made})


def dry_run(config: Mapping) -> None:
    """Prints the complete config, the parameter count, shapes and an estimate of memory, all without computing."""
    experiment = checks.experiment(config, training=True)
    state = training.state_shapes(experiment)
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
