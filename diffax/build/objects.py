"""From a complete config to all that training, sampling and evaluation need."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import diffax.prediction
import diffax.samplers
from diffax.build.names import find, make, options
from diffax.process import Process

# of optax; others have masks, norms of arrays, shapes of their own, or noise
_ELEMENTWISE = frozenset("adabelief adagrad adam adamax amsgrad radam rmsprop sgd sign_sgd yogi".split())


class Experiment(NamedTuple):
    """A config, built. `network` is a Flax module; `sampler` and `grid` are functions, their options bound or apart.

    `nulls` has the conditions that the network is told, and of each the array of one example that says nothing.
    """

    config: Mapping
    dataset: Any
    process: Process
    prediction: Any
    network: Any
    sampler: Callable
    sampler_options: dict
    sigmas: Any
    nulls: dict
    objective: Callable
    guidance: Callable


def experiment(config: Mapping) -> Experiment:
    """Builds all that training, sampling and evaluation need from a complete config.

    Raises:
        ValueError: what `make` raises, with the field's name in front.
    """
    dataset = make("data", config["data"], "data")
    if not hasattr(dataset, "source"):
        raise ValueError(
            f"data: {config['data']['name']} gave a {type(dataset).__name__}, expected diffax.data.Dataset"
        )
    nulls = dataset.nulls if config["loss"]["conditional"] else {}
    if config["loss"]["conditional"] and not nulls:
        name = config["data"]["name"]
        raise ValueError(f"loss.conditional: True needs a data set with classes or other conditions, {name} has none")
    objective = find("objective", config["loss"]["objective"]["name"], "loss.objective")
    network = _network(config["network"], dataset, nulls, learns_variance(objective))
    process = make("process", config["process"], "process")
    sigmas = make("grid", config["sample"]["grid"], "sample.grid", process=process)
    try:
        diffax.samplers.check_sigmas(sigmas)
    except ValueError as error:
        raise ValueError(f"sample.grid: {error}") from None
    return Experiment(
        config=config,
        dataset=dataset,
        process=process,
        prediction=make("prediction", config["prediction"], "prediction"),
        network=network,
        sampler=find("sampler", config["sample"]["sampler"]["name"], "sample.sampler"),
        sampler_options=options("sampler", config["sample"]["sampler"], "sample.sampler"),
        sigmas=sigmas,
        nulls=nulls,
        objective=objective,
        guidance=find("guidance", config["sample"]["guidance"]["name"], "sample.guidance"),
    )


def learns_variance(objective: Callable) -> bool:
    """Whether an objective is of networks that learn their variance too, as the annotation of its `apply` tells."""
    try:
        hints = typing.get_type_hints(getattr(objective, "func", objective), include_extras=True)
    except (NameError, TypeError, AttributeError):  # annotations for type checkers alone, or a callable without any
        return False
    return hints.get("apply") is diffax.prediction.LearnedApply


def _network(spec, dataset, nulls, learns):
    """The Flax module of a spec, checked against the shape of the data before anything is traced."""
    from diffax.models import MLP, DiT, MMDiT, UNet, UNetEDM2, check_edm2, check_shape, check_tokens

    shape = dataset.shape
    out = shape[-1] * (2 if learns else 1)
    given = dict(num_classes=dataset.num_classes if "label" in nulls else 0, out_channels=out, out_features=out)
    if hasattr(dataset.tokenizer, "size"):
        given["vocabulary"] = dataset.tokenizer.size
    elif isinstance(spec.get("text"), Mapping):
        _check_reader(spec["text"]["name"], dataset)
    network = make("network", spec, "network", **given)
    if isinstance(network, MLP) and len(shape) != 1:
        raise ValueError(f"network: MLP takes vectors [features], the data has shape {shape}")
    checks = {UNet: check_shape, UNetEDM2: check_edm2, DiT: check_tokens, MMDiT: check_tokens}
    check = next((check for kind, check in checks.items() if isinstance(network, kind)), None)
    if check is not None:
        if len(shape) != 3:
            name = type(network).__name__
            raise ValueError(f"network: {name} takes images [height, width, channels], the data has shape {shape}")
        try:
            check(network, shape)
        except ValueError as error:
            raise ValueError(f"network: {error}") from None
    return network


def _check_reader(name, dataset):
    asks = inspect.signature(find("reader", name, "network.text")).parameters.get("vocabulary")
    if asks is not None and asks.default is asks.empty:
        has = "no tokenizer" if dataset.tokenizer is None else "embeddings"
        remedy = "take data with a tokenizer, or TextEmbeddings for embeddings"
        raise ValueError(f"network.text: {name} reads tokens, the data has {has}; {remedy}")


def loss(experiment: Experiment, network: Callable):
    """The training loss of an experiment, for `network` as `diffax.train.Network`.

    Raises:
        ValueError: options that the objective does not take, among them a weight where it has its own.
    """
    from diffax.chain import discretized, gaussian
    from diffax.train import diffusion_loss

    config, objective = experiment.config["loss"], experiment.objective
    takes = inspect.signature(objective).parameters
    chosen = options("objective", config["objective"], "loss.objective")
    weight = make("weight", config["weight"], "loss.weight")
    if "weight" in takes:
        chosen["weight"] = weight
    elif config["weight"]["name"] != "unit":
        raise ValueError(
            f"loss.weight: {config['weight']['name']} is not allowed, {config['objective']['name']} has a weight of "
            "its own; leave it out"
        )
    if "decoder" in takes:
        levels = 0 if experiment.config["pipeline"]["dequantize"] else experiment.dataset.levels
        chosen["decoder"] = discretized(levels) if levels else gaussian

    def of_process(process):
        return diffusion_loss(
            network,
            process,
            experiment.prediction,
            objective=objective,
            sample_time=make("time", config["time"], "loss.time"),
            nulls=experiment.nulls,
            drop=config["drop"],
            drop_each=config["drop_each"],
            **chosen,
        )

    if not config["learn_process"]:
        return of_process(experiment.process)

    def loss_fn(params, batch, keys):
        network_params, process = parts(experiment, params)
        return of_process(process)(network_params, batch, keys)

    return loss_fn


def trained(experiment: Experiment, params):
    """All that is trained: the network's parameters, and beside them the numbers of a process that is learned."""
    if not experiment.config["loss"]["learn_process"]:
        return params
    numbers = {place: jax.numpy.asarray(leaf, "float32") for place, leaf in _numbers(experiment.process)}
    return {"network": params, "process": numbers}


def parts(experiment: Experiment, params) -> tuple[Any, Process]:
    """(the network's parameters, the process) of what was trained."""
    if not experiment.config["loss"]["learn_process"]:
        return params, experiment.process
    leaves = [params["process"][place] for place, _ in _numbers(experiment.process)]
    return params["network"], jax.tree.unflatten(jax.tree.structure(experiment.process), leaves)


def _numbers(process):
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(process)]


def optimizer(config: Mapping):
    """The optimizer of a config: an optax alias by name, behind a schedule, clipping and the skipping of NaNs."""
    from diffax.train import decayed, optimizer, schedule, unit_weights

    spec = dict(config["optimizer"])
    rate = schedule(*(spec.pop(key) for key in ("learning_rate", "warmup", "decay_steps", "decay_after")))
    clip, unit = spec.pop("clip"), spec.pop("unit_weights")
    update = make("optimizer", spec, "optimizer", learning_rate=rate, mask=decayed)
    return optimizer(unit_weights(update) if unit else update, clip)


def elementwise(config: Mapping) -> bool:
    """Whether the optimizer of a config treats every number alike, whatever array it is in."""
    return config["optimizer"]["name"] in _ELEMENTWISE and not config["optimizer"]["unit_weights"]


def emas(config: Mapping) -> dict[str, Callable]:
    """The moving averages of a config's `ema` section, each named by its decay or width."""
    from diffax.averages import ema_decay, power_decay

    options = config["ema"]
    plain = {str(decay): ema_decay(decay, options["warmup"]) for decay in options["decays"]}
    return plain | {f"width{width}": power_decay(width) for width in options["widths"]}
