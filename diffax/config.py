"""Configs: filling in defaults, and refusing what cannot be meant before anything is built or compiled.

A config is plain data in sections. Sections with a `name` are specs, made by `diffax.build`; their defaults are those
of the named function's signature. The others are the records below.
"""

import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffax import build


class Pipeline(NamedTuple):
    """How examples become batches: random horizontal flips, uniform dequantization, loader processes."""

    flip: bool = False
    dequantize: bool = False
    workers: int = 0


class Loss(NamedTuple):
    """Whether the network is told the class, and how often it is told nothing, for guidance."""

    conditional: bool = False
    drop: float = 0.1


class Optimizer(NamedTuple):
    """The learning rate and its warm-up in steps, the step at which a cosine brings it to 0 (0: never), clipping."""

    learning_rate: float = 2e-4
    warmup: int = 0
    decay_steps: int = 0
    clip: float = 1.0


class Averages(NamedTuple):
    """Moving averages of the parameters. Sampling uses `sample.ema`, the first unless told otherwise."""

    decays: tuple = (0.9999,)
    warmup: bool = True


class Train(NamedTuple):
    """The run: sizes, devices ("mesh", "fsdp" or "pmap"), and how often, in steps, things are written (0: never)."""

    steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    parallel: str = "mesh"
    log_every: int = 50
    checkpoint_every: int = 1000
    sample_every: int = 1000
    keep: int = 3
    keep_every: int = 0
    max_nonfinite: int = 10
    tensorboard: bool = False


class Sample(NamedTuple):
    """Samples: their number, the batch, the seed, the average used ("": the first, "none": the raw parameters).

    `labels` are asked for in turn, all classes where empty.
    """

    n: int = 64
    batch_size: int = 64
    seed: int = 0
    ema: str = ""
    labels: tuple = ()


class Guidance(NamedTuple):
    """Classifier-free guidance and its interval of noise levels."""

    scale: float = 1.0
    sigma_lo: float = 0.0
    sigma_hi: float = math.inf


class Evaluation(NamedTuple):
    """What is measured of `n` samples, and whether training ends with it."""

    n: int = 1000
    batch_size: int = 250
    seed: int = 1
    metrics: tuple = ("pixel_frechet",)
    after_training: bool = True


RECORDS = {
    "pipeline": Pipeline,
    "loss": Loss,
    "optimizer": Optimizer,
    "ema": Averages,
    "train": Train,
    "sample": Sample,
    "sample.guidance": Guidance,
    "eval": Evaluation,
}
SPECS = {
    "data": "data",
    "process": "process",
    "prediction": "prediction",
    "network": "network",
    "loss.time": "time",
    "loss.weight": "weight",
    "optimizer": "optimizer",
    "sample.sampler": "sampler",
    "sample.grid": "grid",
}
# what may change between two launches on one workdir: nothing that an update depends on
FREE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_every",
)
FREE += ("train.tensorboard", "train.max_nonfinite", "pipeline.workers", "sample", "eval")

_INFINITE = ("sigma_hi", "s_max", "clip")
_SIGNED = ("mean", "bias", "labels")
_AT_LEAST_1 = tuple(
    "steps batch_size accumulate log_every keep max_nonfinite channels multipliers blocks groups".split()
)
_POSITIVE = tuple("learning_rate clip lo hi rho sigma_data sigma_min sigma_max beta_max std gamma shift".split())
_SHARE = ("drop", "dropout", "eta", "variance", "decays")  # in [0, 1]


def load(path: str) -> Any:
    """The ConfigDict of an experiment file, "experiments/x.py" or "experiments/x.py:mode"; mode is "full" unless given.

    Raises:
        ValueError: no such file, no `get_config` in it, or a mode that it does not know.
    """
    file, _, mode = path.partition(".py:") if ".py:" in path else (path.removesuffix(".py"), "", "full")
    file += ".py"
    if not os.path.isfile(file):
        raise ValueError(f"config: no file {file!r}; give an experiment file such as experiments/digits.py")
    spec = importlib.util.spec_from_file_location("experiment", file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))  # experiments may start from their neighbors
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config: {file} defines no get_config(mode)")
    return module.get_config(mode)


def complete(config: Mapping) -> dict:
    """The config as a plain dict with every default filled in, checked.

    Raises:
        ValueError: the field's name, its value, and what is allowed.
    """
    full = {"seed": 0, **{key: plain(value) for key, value in config.items()}}
    sections = {"seed", *(where.split(".")[0] for where in (*RECORDS, *SPECS))}
    for key in full:
        if key not in sections:
            raise ValueError(f"{key}: unknown section{build.unknown(key, sections)}")
    for where, record in RECORDS.items():
        section = _section(full, where)
        for name, default in record._field_defaults.items():
            section.setdefault(name, default)
    for where, kind in SPECS.items():
        _fill_spec(_section(full, where), kind, where)
    _refuse_unknown(full)
    _check(full)
    return full


def plain(value: Any) -> Any:
    """A config as dicts of plain data: ConfigDicts opened, lists as tuples."""
    if hasattr(value, "items"):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(plain(inner) for inner in value)
    return value


def rename(config: dict, where: str, name: str) -> None:
    """Gives the spec at `where` another name, in place; the options of the old one go with it."""
    section = _section(config, where)
    if section.get("name") != name:
        kept = RECORDS[where]._fields if where in RECORDS else ()
        for key in [key for key in section if key not in kept]:
            del section[key]
        section["name"] = name


def difference(old: Mapping, new: Mapping) -> list[str]:
    """The fields outside `FREE` in which two complete configs differ, each with both values."""
    a, b = dict(_leaves(old)), dict(_leaves(new))
    lines = []
    for where in sorted(a.keys() | b.keys()):
        free = where in FREE or where.split(".")[0] in FREE
        if not free and a.get(where) != b.get(where):
            lines.append(f"{where}: {a.get(where)!r} there, {b.get(where)!r} now")
    return lines


def _section(full, where):
    for key in where.split("."):
        full = full.setdefault(key, {})
        if not isinstance(full, dict):
            raise ValueError(f"{where}: expected a section of options, got {full!r}")
    return full


_DEFAULT_SPECS = {
    "loss.time": "uniform",
    "loss.weight": "unit",
    "optimizer": "adam",
    "sample.sampler": "ddim",
    "sample.grid": "uniform_time",
}


def _fill_spec(section, kind, where):
    if "name" not in section:
        if where not in _DEFAULT_SPECS:
            raise ValueError(f"{where}.name: missing; one of {', '.join(sorted(build.choices(kind)))}")
        section["name"] = _DEFAULT_SPECS[where]
    if kind == "grid" and section["name"] in ("uniform_time", "karras", "uniform_logsnr"):
        section.setdefault("n", 50)
    known = build.parameters(kind, build.find(kind, section["name"], where))
    for name, parameter in known.items():
        plain = isinstance(parameter.default, (bool, int, float, str, tuple))
        if plain and parameter.default is not inspect.Parameter.empty:
            section.setdefault(name, parameter.default)
        elif name not in section and parameter.default is inspect.Parameter.empty:
            raise ValueError(f"{where}.{name}: missing, {section['name']} needs it")


def _refuse_unknown(full):
    for where in {*RECORDS, *SPECS}:
        section = _section(full, where)
        known = set(RECORDS[where]._fields) if where in RECORDS else set()
        known |= {inner.removeprefix(where + ".") for inner in (*RECORDS, *SPECS) if inner.startswith(where + ".")}
        if where in SPECS:
            known |= {"name", *build.parameters(SPECS[where], build.find(SPECS[where], section["name"], where))}
        for key in section:
            if key not in known:
                raise ValueError(f"{where}.{key}: unknown option{build.unknown(key, known)}")


def _leaves(tree, where=""):
    for key, value in tree.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, tuple(value) if isinstance(value, list) else value


def _check(full):
    """Types against the defaults' types, and ranges."""
    for where, value in _leaves(full):
        section, _, name = where.rpartition(".")
        _check_type(where, value, _default(full, section, name))
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, (int, float)) and not isinstance(one, bool):
                _check_range(where, name, one)
    if full["train"]["parallel"] not in ("mesh", "fsdp", "pmap"):
        raise ValueError(f"train.parallel: {full['train']['parallel']!r} is unknown; one of fsdp, mesh, pmap")
    if full["network"].get("dtype", "float32") not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"network.dtype: {full['network']['dtype']!r} is unknown; one of bfloat16, float16, float32")
    known = [str(decay) for decay in full["ema"]["decays"]]
    if full["sample"]["ema"] not in ("", "none", *known):
        raise ValueError(
            f"sample.ema: {full['sample']['ema']!r} is no average of this run; one of {', '.join([*known, 'none'])}"
        )
    metrics = build.choices("metric")
    for name in full["eval"]["metrics"]:
        if name not in metrics and ":" not in name:
            raise ValueError(f"eval.metrics: {name!r} is unknown{build.unknown(name, metrics)}")


def _default(full, section, name):
    """The default of an option where that is plain data, else None."""
    if name in getattr(RECORDS.get(section), "_field_defaults", {}):
        return RECORDS[section]._field_defaults[name]
    if section in SPECS and name != "name":
        function = build.find(SPECS[section], _section(full, section)["name"], section)
        default = build.parameters(SPECS[section], function)[name].default
        return default if isinstance(default, (bool, int, float, str, tuple)) else None
    return "" if name == "name" else 0 if name == "seed" else None


def _check_type(where, value, default):
    if value is None or callable(value):
        raise ValueError(f"{where}: {value!r} is not plain data; leave the field out for its default")
    if default is None:
        return
    wanted = type(default)
    ok = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
    if wanted is float:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not ok:
        raise ValueError(f"{where}: {value!r} is of type {type(value).__name__}, expected {wanted.__name__}")


def _check_range(where, name, value):
    if math.isnan(value) or (math.isinf(value) and not (value > 0 and name in _INFINITE)):
        raise ValueError(f"{where}: {value} is not allowed, expected a finite number")
    if name in _AT_LEAST_1 and value < 1:
        raise ValueError(f"{where}: {value} is not allowed, expected at least 1")
    if name == "n" and value < 1:
        raise ValueError(f"{where}: {value} is not allowed, expected at least 1")
    if name in _POSITIVE and value <= 0:
        raise ValueError(f"{where}: {value} is not allowed, expected more than 0")
    if name in _SHARE and not 0 <= value <= 1:
        raise ValueError(f"{where}: {value} is not allowed, expected a number from 0 to 1")
    if value < 0 and name not in _SIGNED:
        raise ValueError(f"{where}: {value} is not allowed, expected 0 or more")
