"""An experiment, built and refused if its parts do not fit each other, before anything is compiled."""

import importlib.util
import inspect
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffax import build, losses, metrics, parallel
from diffax.chain import count_steps
from diffax.data.scenes import check_all
from diffax.loop import likelihoods, sampling, wanted

_OF_CAPTIONS = ("caption_agreement", "place_diversity")  # metrics whose judge is that of the data set shapes
_FIRST = 16  # examples of a split whose captions are read before all of it is evaluated


def experiment(config: Mapping, training: bool = False) -> build.Experiment:
    """Builds the experiment of a complete config, and checks what only its parts together can tell.

    Args:
        training: it is to be trained, on the devices that are there; the evaluation after that is checked as well.

    Raises:
        ValueError: the field, its value, and what is allowed.
    """
    if training:
        _check_training(config["train"], config["optimizer"]["decay_steps"])
    built = build.experiment(config)
    _check_data(built)
    _check_classes(built)
    if training and config["eval"]["after_training"]:
        evaluation(built)
    if config["eval"]["likelihood"]["examples"]:
        likelihoods.held_out(built)
    _check_row(built)
    _check_times(built)
    _check_objective(built)
    _check_sampler(built)
    _check_guidance(built)
    return built


def evaluation(experiment: build.Experiment) -> None:
    """Checks what else an evaluation needs: enough conditions and examples, none too large, captions for their judge.

    Raises:
        ValueError: the field, its value, and what is allowed.
    """
    options, dataset = experiment.config["eval"], experiment.dataset
    wanted.held_out(experiment, options["n"])
    reference = min(options["reference"], len(dataset.source))
    metrics.check_needs(options["metrics"], dataset.shape, options["n"], reference)
    judged = [name for name in options["metrics"] if name in _OF_CAPTIONS]
    if not judged:
        return
    n = min(options["n"], _FIRST) if options["conditions"] else options["n"]
    captions = sorted(set(wanted.captions(experiment, wanted.evaluated(experiment, n))))
    try:  # the judge itself, of pictures of nothing
        check_all(np.full((len(captions), *experiment.dataset.shape), -1.0), captions)
    except ValueError as error:
        told = f"eval.metrics: {judged[0]!r} is of pictures and captions like those of shapes"
        raise ValueError(f"{told}; leave it out, or ask for these ({error})") from None


def _check_training(options, decay_steps):
    if 0 < decay_steps < options["steps"]:
        told = f"{options['steps']} is not allowed, optimizer.decay_steps, {decay_steps}, brings the learning rate to 0"
        raise ValueError(f"train.steps: {told}; give at most that, or begin a run with as large a decay_steps")
    try:
        parallel.check_batch(options["batch_size"], jax.device_count(), options["accumulate"])
    except ValueError as error:
        raise ValueError(f"train.{error}") from None
    if options["tensorboard"] and importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            'train.tensorboard: True needs tensorboardX, which is missing: pip install "tensorboardX>=2.6"'
        )


def _check_data(experiment):
    config, dataset = experiment.config, experiment.dataset
    name, pipeline = config["data"]["name"], config["pipeline"]
    if not len(dataset.source):
        raise ValueError(f"data: {name} has no examples; give a data set with at least one")
    first = dataset.source[0]
    for field, like in {"x0": np.empty(dataset.shape), **dataset.nulls}.items():
        if field not in first:
            raise ValueError(f"data: the first example of {name} has no {field!r}, only {', '.join(map(repr, first))}")
        if field != "x0" and np.shape(first[field]) != np.shape(like):
            found = f"{np.shape(first[field])} in the first example, {np.shape(like)} in the one that says nothing"
            raise ValueError(f"data: {field!r} of {name} has shape {found}; give both the same")
    if np.shape(first["x0"]) != tuple(dataset.shape):
        raise ValueError(f"data: {name} says shape {dataset.shape}, its first example has {np.shape(first['x0'])}")
    kind = np.asarray(first["x0"]).dtype
    if not dataset.levels and kind.kind in "biu":  # bfloat16 is of a kind of its own
        raise ValueError(f"data: {name} gives {kind} but says levels=0, floats as they are; set levels, 256 for 8 bits")
    if dataset.num_classes and not 0 <= int(first["label"]) < dataset.num_classes:
        raise ValueError(f"data: {name} has {dataset.num_classes} classes, its first example label {first['label']}")
    if pipeline["flip"] and len(dataset.shape) < 3:
        raise ValueError(f"pipeline.flip: True needs images, {name} has shape {dataset.shape}; set it to False")
    if pipeline["dequantize"] and not dataset.levels:
        raise ValueError(f"pipeline.dequantize: True needs integer values, {name} has floats; set it to False")


def _check_classes(experiment):
    options = experiment.config["eval"]
    wanted.conditions(experiment, 1)
    wanted.held_out(experiment, 1)
    captioned = "text" in experiment.nulls and experiment.dataset.tokenizer is not None
    for name in options["metrics"]:
        takes = "(real, generated, seed), two dictionaries of arrays and a number"
        _check_takes("eval.metrics", name, build.find("metric", name, "eval.metrics"), takes, 3, {})
        if name in _OF_CAPTIONS and not captioned:
            raise ValueError(f"eval.metrics: {name!r} needs loss.conditional=True and a data set with captions")
        if name in ("pixel_diversity", "place_diversity") and options["conditions"] and options["each"] < 2:
            raise ValueError(f"eval.metrics: {name!r} needs several samples of a condition; set eval.each to 2 or more")
    if "classifier_agreement" in options["metrics"] and "label" not in experiment.nulls:
        raise ValueError(
            "eval.metrics: 'classifier_agreement' needs loss.conditional=True and a data set with classes; leave it out"
        )


def _check_sampler(experiment):
    name, sampler = experiment.config["sample"]["sampler"]["name"], experiment.sampler
    takes, options = "(denoise, x, sigmas, keys)", experiment.sampler_options
    _check_takes("sample.sampler.name", name, sampler, takes, 4, options)
    shape = (2, *experiment.dataset.shape)
    draw = partial(sampler, lambda x, sigma: x, **options)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    try:
        drawn = jax.eval_shape(draw, jax.ShapeDtypeStruct(shape, np.float32), experiment.sigmas, keys)
    except ValueError as error:
        raise ValueError(f"sample.sampler: {name}: {error}") from None
    drawn = drawn[0] if isinstance(drawn, tuple) else drawn
    if np.shape(drawn) != shape:
        told = f"{name!r} makes samples of shape {np.shape(drawn)} of noise of shape {shape}"
        raise ValueError(f"sample.sampler.name: {told}; return x0, of the shape of x")


def _check_guidance(experiment):
    options = dict(experiment.config["sample"]["guidance"])
    if not experiment.nulls and options.get("scale", 1.0) != 1:
        told = f"{options['scale']} changes nothing, the network is told no condition (loss.conditional=False)"
        raise ValueError(f"sample.guidance.scale: {told}; leave it out")
    name, takes = options.pop("name"), inspect.signature(experiment.guidance).parameters
    given = {"sigmas": None} if "sigmas" in takes else {}
    _check_takes("sample.guidance.name", name, experiment.guidance, "(cond, uncond, scale)", 2, {**given, **options})


def _check_takes(where, name, function, takes, count, options):
    """Whether a function can be called with `count` arguments, told as `takes`, and `options`."""
    try:
        inspect.signature(function).bind(*[None] * count, **options)
    except TypeError as error:
        raise ValueError(f"{where}: {name!r} does not take {takes}: {error}") from None


def _check_objective(experiment):
    """An objective may not fit the process, the times or the weight; only a whole bound can train a process."""
    config, process, objective = experiment.config["loss"], experiment.process, experiment.objective
    name, n = config["objective"]["name"], config["time"].get("n")
    given = {**build.options("objective", config["objective"], "loss.objective"), "sample_time": None}
    takes = "(apply, process, prediction, x0, keys, sample_time)"
    _check_takes("loss.objective.name", name, objective, takes, 5, given)
    if objective is losses.vdm_loss and config["time"]["name"] in ("discrete", "lognormal", "logit_normal"):
        raise ValueError(
            f"loss.time: {config['time']['name']} is not allowed, {name} is a bound in the mean over even times; use "
            "uniform or stratified"
        )
    if "steps" in config["objective"]:
        if config["time"]["name"] != "discrete":
            raise ValueError(f"loss.time: {config['time']['name']} is not allowed, {name} is of a chain; use discrete")
        try:
            steps = count_steps(process, config["objective"]["steps"])
        except ValueError as error:
            raise ValueError(f"loss.objective: {error}") from None
        drawn = getattr(process, "steps", None) if n is None else n
        if drawn != steps:
            raise ValueError(f"loss.time.n: {drawn} is not allowed, {name} has {steps} steps; give the same")
    if config["learn_process"] and not jax.tree.leaves(process):
        kind = type(process).__name__
        raise ValueError(f"loss.learn_process: True, but {kind} has no numbers to learn; set it to False")
    # vlb_loss leaves out the prior, which alone keeps the noise at t_max
    if config["learn_process"] and objective in (losses.denoising_loss, losses.hybrid_loss, losses.vlb_loss):
        raise ValueError(f"loss.learn_process: True needs a whole bound, vdm_loss; {name} would be least without noise")
    build.loss(experiment, sampling.network_apply(experiment.network))


def _check_row(experiment):
    """Of the library's own rows x0 can be had; of y = x_t, say, it cannot, and all training would be in vain."""
    name, process = experiment.config["prediction"]["name"], experiment.process
    if ":" not in name:
        return
    t = jnp.linspace(process.t_min, process.t_max, 5)[1:-1]  # at an end a process may have no noise, or nothing else
    try:
        a, b = experiment.prediction.target(process, t)
        determinant = np.broadcast_to(process.alpha(t) * b - process.sigma(t) * a, t.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"prediction.name: {name!r} has no row (a, b) at times t [batch]: {error}") from None
    if not np.any(np.isfinite(determinant) & (determinant != 0)):
        told = f"{name!r} has y = a·x0 + b·eps with alpha·b - sigma·a of 0, or not finite, whatever the time"
        raise ValueError(f"prediction.name: {told}: x0 cannot be had of y; give another row")


def _check_times(experiment):
    """Draws training times and weights in the abstract: a distribution may not fit the process."""
    config, process = experiment.config["loss"], experiment.process
    sample_time = build.make("time", config["time"], "loss.time")
    weight = build.make("weight", config["weight"], "loss.weight")
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    try:
        times = jax.eval_shape(lambda keys: sample_time(process, keys), keys)
    except ValueError as error:
        raise ValueError(f"loss.time: {error}") from None
    jax.eval_shape(lambda t: weight(process, experiment.prediction, t), times)
