"""From names to functions. This folder is the only place that turns strings into functions.

A spec is a dict(name=..., option=...). Its name is looked up among the functions or classes of its kind in the
library, or, as "package.module:function", anywhere. A new function of the library can be named as soon as it exists:
what belongs to a kind is told by its class or by the type it returns, and there is no list to add it to.
"""

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from diffax.process import Process


def make(kind: str, spec: Mapping, where: str, **given) -> Any:
    """Calls the function that `spec["name"]` names with the spec's other entries; specs within it are made first.

    Args:
        kind: what is looked for, a key of `_KINDS`.
        where: the spec's place in the config, for messages.
        given: further arguments, each passed only to a function that takes it, of the specs within too.

    Raises:
        ValueError: unknown name or option (listing what there is), or the function's own complaint.
    """
    function = find(kind, spec["name"], where)
    chosen = {}
    for key, value in options(kind, spec, where).items():
        inner = NESTED.get(key)
        if inner and isinstance(value, Mapping):
            value = make(inner, value, f"{where}.{key}", **given)
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
    places, belongs, _ = _KINDS[kind]
    found: dict[str, Any] = {}
    for place in places.split():
        module, _, namespace = place.partition(":")
        there = importlib.import_module(module)
        found |= vars(getattr(there, namespace) if namespace else there)
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


def _returns(module, *aliases):
    def belongs(value):
        if not inspect.isfunction(value):
            return False
        found = typing.get_type_hints(value, include_extras=True).get("return")
        return any(found == getattr(importlib.import_module(module), alias) for alias in aliases)

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


def _is_guidance(value):
    # (cond, uncond, scale, ...) -> Denoiser, of two denoisers that the launcher has
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:3] == ["cond", "uncond", "scale"]


def _is_network(value):
    # (x_in, c_noise, cond) -> y: a classifier, which is told nothing, is none
    return (
        inspect.isclass(value)
        and hasattr(value, "lazy_init")
        and "cond" in inspect.signature(value.__call__).parameters
    )


def _is_reader(value):
    # (text, mask) -> diffax.models.text.Text
    return (
        inspect.isclass(value)
        and hasattr(value, "lazy_init")
        and "text" in inspect.signature(value.__call__).parameters
    )


def _is_optimizer(value):
    # ours, and optax's aliases, but for those that need a line search, a key, or a learning rate that is a number
    return (
        inspect.isfunction(value)
        and (value.__module__ == "diffax.optimizers" or value.__module__.endswith(".alias"))
        and "learning_rate" in inspect.signature(value).parameters
        and value.__name__ not in ("lbfgs", "noisy_sgd", "optimistic_adam", "rprop", "sm3")
    )


def _is_policy(value):
    # (primitive, *args, **params) -> bool, not what makes such a function
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(value).parameters.values())


def _is_coefficient(value):
    return inspect.isfunction(value) and list(inspect.signature(value).parameters) == ["process", "t"]


# kind -> the modules to look in, or a namespace of one, what of it belongs, and the parameters not the config's to set
_KINDS = {
    "data": ("diffax.data", _returns("diffax.data", "Dataset"), ()),
    "process": ("diffax.process", _is_process, ()),
    "betas": ("diffax.process", _returns("numpy", "ndarray"), ()),
    "prediction": ("diffax.prediction", _returns("diffax.prediction", "Prediction"), ()),
    "coefficient": ("diffax.prediction", _is_coefficient, ()),
    "network": ("diffax.models", _is_network, ("num_classes", "out_channels", "out_features")),
    "reader": ("diffax.models", _is_reader, ("vocabulary",)),
    "policy": ("jax:checkpoint_policies", _is_policy, ()),
    "tokenizer": ("diffax.data", _returns("diffax.data", "Tokenizer", "Embedded"), ()),
    "encoder": ("diffax.data", _returns("diffax.data", "Encoder"), ()),
    "time": ("diffax.losses", _returns("diffax.losses", "TimeSampler"), ()),
    "objective": (
        "diffax.losses",
        _is_objective,
        (*"apply process prediction x0 keys sample_time weight decoder".split(),),
    ),
    "weight": ("diffax.losses", _returns("diffax.losses", "Weight"), ()),
    "optimizer": ("optax diffax.optimizers", _is_optimizer, ("learning_rate", "mask")),
    "sampler": (
        "diffax.samplers",
        _returns("diffax.samplers", "Samples"),
        (*"denoise x sigmas keys trajectory".split(),),
    ),
    "grid": ("diffax.samplers", _returns("diffax.samplers", "Sigmas"), ("process",)),
    "guidance": ("diffax.guidance", _is_guidance, ("cond", "uncond", "scale", "sigmas")),
    "metric": ("diffax.metrics", _returns("diffax.metrics", "Scores"), ()),
}

# options that are specs or names themselves -> their kind
NESTED = {
    "process": "process",
    "betas": "betas",
    "c_in": "coefficient",
    "c_noise": "coefficient",
    "text": "reader",
    "policy": "policy",
    "tokenizer": "tokenizer",
    "encoder": "encoder",
}
