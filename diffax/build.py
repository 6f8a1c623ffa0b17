"""From plain data to objects: the only file that turns strings into functions.

A spec is a dict(name=..., option=...). Its name is looked up among the functions or classes of its kind in the
library, or, as "package.module:function", anywhere. A new function of the library can be named as soon as it exists:
what belongs to a kind is told by its class or by the type it returns, and there is no list to add it to.
"""

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

import diffax.losses
import diffax.prediction
import diffax.process
import diffax.samplers
from diffax.process import Process


class Experiment(NamedTuple):
    """A config, built. `network` is a Flax module; `sampler` and `grid` are functions, their options bound or apart."""

    config: Mapping
    dataset: Any
    process: Process
    prediction: Any
    network: Any
    sampler: Callable
    sampler_options: dict
    sigmas: Any
    null_label: int | None
    objective: Callable


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
    null_label = dataset.num_classes if config["loss"]["conditional"] else None
    if null_label == 0:
        raise ValueError(f"loss.conditional: True needs a data set with classes, {config['data']['name']} has none")
    objective = find("objective", config["loss"]["objective"]["name"], "loss.objective")
    network = _network(config["network"], dataset.shape, null_label or 0, learns_variance(objective))
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
        null_label=null_label,
        objective=objective,
    )


def learns_variance(objective: Callable) -> bool:
    """Whether an objective is of networks that learn their variance too, as the annotation of its `apply` tells."""
    try:
        hints = typing.get_type_hints(getattr(objective, "func", objective), include_extras=True)
    except (NameError, TypeError, AttributeError):  # annotations for type checkers alone, or a callable without any
        return False
    return hints.get("apply") is diffax.prediction.LearnedApply


def _network(spec, shape, num_classes, learns):
    """The Flax module of a spec, checked against the shape of the data before anything is traced."""
    from diffax.models import MLP, UNet, check_shape

    out = shape[-1] * (2 if learns else 1)
    network = make("network", spec, "network", num_classes=num_classes, out_channels=out, out_features=out)
    if isinstance(network, MLP) and len(shape) != 1:
        raise ValueError(f"network: MLP takes vectors [features], the data has shape {shape}")
    if isinstance(network, UNet):
        if len(shape) != 3:
            raise ValueError(f"network: UNet takes images [height, width, channels], the data has shape {shape}")
        try:
            check_shape(network, shape)
        except ValueError as error:
            raise ValueError(f"network: {error}") from None
    return network


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
            null_label=experiment.null_label,
            drop=config["drop"],
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
    from diffax.train import decayed, optimizer, schedule

    spec = dict(config["optimizer"])
    rate = schedule(spec.pop("learning_rate"), spec.pop("warmup"), spec.pop("decay_steps"))
    clip = spec.pop("clip")
    return optimizer(make("optimizer", spec, "optimizer", learning_rate=rate, mask=decayed), clip)


def emas(config: Mapping) -> dict[str, Callable]:
    """The moving averages of a config's `ema` section, each named by its decay."""
    from diffax.train import ema_decay

    return {str(decay): ema_decay(decay, config["ema"]["warmup"]) for decay in config["ema"]["decays"]}


def make(kind: str, spec: Mapping, where: str, **given) -> Any:
    """Calls the function that `spec["name"]` names with the spec's other entries; specs within it are made first.

    Args:
        kind: what is looked for, a key of `_KINDS`.
        where: the spec's place in the config, for messages.
        given: further arguments, each passed only to a function that takes it.

    Raises:
        ValueError: unknown name or option (listing what there is), or the function's own complaint.
    """
    function = find(kind, spec["name"], where)
    chosen = {}
    for key, value in options(kind, spec, where).items():
        inner = NESTED.get(key)
        if inner and isinstance(value, Mapping):
            value = make(inner, value, f"{where}.{key}")
        elif inner and isinstance(value, str):
            value = find(inner, value, f"{where}.{key}")
        chosen[key] = value
    takes = inspect.signature(function).parameters
    chosen |= {key: value for key, value in given.items() if key in takes}
    try:
        return function(**chosen)
    except (TypeError, ValueError, FileNotFoundError) as error:
        raise ValueError(f"{where}: {error}") from error


def find(kind: str, name: str, where: str) -> Callable:
    """The function or class that `name` means.

    Raises:
        ValueError: no such name; the message lists the names of this kind, nearest first.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            hint = "; run from its folder, or put that in PYTHONPATH" if isinstance(error, ImportError) else ""
            raise ValueError(f"{where}.name: cannot import {name!r}: {error}{hint}") from error
        if not callable(found):
            raise ValueError(f"{where}.name: {name!r} is {found!r}; give the name of a function")
        return found
    names = choices(kind)
    if name not in names:
        raise ValueError(f"{where}.name: {name!r} is unknown{unknown(name, names)}")
    return names[name]


def choices(kind: str) -> dict[str, Callable]:
    """All functions or classes of a kind, by name."""
    module, belongs, _ = _KINDS[kind]
    found = vars(importlib.import_module(module))
    return {name: value for name, value in found.items() if not name.startswith("_") and belongs(value)}


def parameters(kind: str, function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function that a config may set."""
    given = ("parent", "name", *_KINDS[kind][2])
    return {key: p for key, p in inspect.signature(function).parameters.items() if key not in given}


def unknown(key: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown key: the nearest known one, and all of them."""
    folded = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), list(folded), 1, 0.5)
    hint = f" (did you mean {folded[near[0]]!r}?)" if near else ""
    return f"{hint}; one of {', '.join(sorted(known)) or 'none'}"


def options(kind: str, spec: Mapping, where: str) -> dict:
    """The options of a spec, its name left out.

    Raises:
        ValueError: an option that the named function does not take; the message lists those that it does.
    """
    known = parameters(kind, find(kind, spec["name"], where))
    for key in spec:
        if key != "name" and key not in known:
            raise ValueError(f"{where}.{key}: {spec['name']} has no such option{unknown(key, known)}")
    return {key: value for key, value in spec.items() if key != "name"}


def _returns(module, alias):
    def belongs(value):
        if not inspect.isfunction(value):
            return False
        wanted = getattr(importlib.import_module(module), alias)
        return typing.get_type_hints(value, include_extras=True).get("return") == wanted

    return belongs


def _is_process(value):
    made = typing.get_type_hints(value).get("return") if inspect.isfunction(value) else value
    return inspect.isclass(made) and issubclass(made, Process) and made is not Process


def _is_objective(value):
    given = ["apply", "process", "prediction", "x0", "keys"]
    return (
        inspect.isfunction(value)
        and list(inspect.signature(value).parameters)[:5] == given
        and typing.get_type_hints(value).get("return") is jax.Array
    )


def _is_network(value):
    # (x_in, c_noise, label) -> y: a classifier, which is told no class, is none
    return (
        inspect.isclass(value)
        and hasattr(value, "lazy_init")
        and "label" in inspect.signature(value.__call__).parameters
    )


def _is_optimizer(value):
    # optax's aliases, but for those that need a line search, a key, or a learning rate that is a number
    return (
        inspect.isfunction(value)
        and value.__module__.endswith(".alias")
        and "learning_rate" in inspect.signature(value).parameters
        and value.__name__ not in ("lbfgs", "noisy_sgd", "optimistic_adam", "rprop", "sm3")
    )


def _is_coefficient(value):
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["process", "t"]


# kind -> the module to look in, what of it belongs, and the parameters that are not the config's to set
_KINDS = {
    "data": ("diffax.data", _returns("diffax.data", "Dataset"), ()),
    "process": ("diffax.process", _is_process, ()),
    "betas": ("diffax.process", _returns("numpy", "ndarray"), ()),
    "prediction": ("diffax.prediction", _returns("diffax.prediction", "Prediction"), ()),
    "coefficient": ("diffax.prediction", _is_coefficient, ()),
    "network": ("diffax.models", _is_network, ("num_classes", "out_channels", "out_features")),
    "time": ("diffax.losses", _returns("diffax.losses", "TimeSampler"), ()),
    "objective": (
        "diffax.losses",
        _is_objective,
        (*"apply process prediction x0 keys sample_time weight decoder".split(),),
    ),
    "weight": ("diffax.losses", _returns("diffax.losses", "Weight"), ()),
    "optimizer": ("optax", _is_optimizer, ("learning_rate", "mask")),
    "sampler": (
        "diffax.samplers",
        _returns("diffax.samplers", "Samples"),
        (*"denoise x sigmas keys trajectory".split(),),
    ),
    "grid": ("diffax.samplers", _returns("diffax.samplers", "Sigmas"), ("process",)),
    "metric": ("diffax.metrics", _returns("diffax.metrics", "Scores"), ()),
}

# options that are specs or names themselves -> their kind
NESTED = {"process": "process", "betas": "betas", "c_in": "coefficient", "c_noise": "coefficient"}
