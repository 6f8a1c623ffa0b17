"""Ranges of numbers in a config, and values that must fit each other."""

import math
from collections.abc import Mapping
from typing import Any

from diffax import build
from diffax.averages import WIDEST

_INFINITE = ("sigma_hi", "s_max", "clip", "norm_threshold")
_SIGNED = ("mean", "bias", "labels", "gamma_min", "gamma_max")
_AT_LEAST_1 = (
    *"n reference each steps order probes batch_size accumulate log_every keep max_nonfinite tokens max_steps".split(),
    *"channels features multipliers blocks groups patch depth heads frequencies".split(),
)
_POSITIVE = (
    *"learning_rate clip lo hi rho sigma_data tolerance sigma_min sigma_max beta_max std gamma shift".split(),
    *"rtol atol prior_std norm_threshold".split(),
)
_SHARE = ("drop", "drop_each", "eta", "variance", "decays", "rescale")  # in [0, 1]


def check_range(where: str, value: Any, users_own: bool = False) -> None:
    """Refuses numbers that cannot be meant; what is allowed is told by the option's name.

    Args:
        users_own: it is an option of a function from outside the library, whose range only that function knows.

    Raises:
        ValueError: the field, its value, and what is allowed.
    """
    for one in value if isinstance(value, tuple) else (value,):
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            expected = _expected(where.rpartition(".")[2], one, users_own)
            if expected:
                raise ValueError(f"{where}: {one} is not allowed, expected {expected}")


def check_together(full: Mapping) -> None:
    """Refuses values of a complete config that are unknown names or do not fit each other.

    Raises:
        ValueError: the field, its value, and what is allowed.
    """
    _check_choice("train.parallel", full["train"]["parallel"], ("mesh", "fsdp", "pmap"))
    dtype = full["network"].get("dtype")
    if dtype is not None:
        _check_choice("network.dtype", dtype, ("float32", "bfloat16", "float16"))
    _check_averages(full["ema"], full["sample"])
    for name in full["eval"]["metrics"]:
        if ":" in name:
            build.find("metric", name, "eval.metrics")
        else:
            _check_choice("eval.metrics", name, build.choices("metric"))
    guidance, grid = full["sample"]["guidance"], full["sample"]["grid"]
    where, process = "process", full["process"]
    while "process" in process:  # that of Shifted
        where, process = f"{where}.process", process["process"]
    if {"sigma_min", "sigma_max"} <= process.keys() and ":" not in process["name"]:
        _check_less(f"{where}.sigma_min", process["sigma_min"], f"{where}.sigma_max", process["sigma_max"])
    if {"sigma_lo", "sigma_hi"} <= guidance.keys() and ":" not in guidance["name"]:
        _check_less("sample.guidance.sigma_lo", guidance["sigma_lo"], "sample.guidance.sigma_hi", guidance["sigma_hi"])
    one_level = grid.get("n") == 1 and grid.get("lo") == grid.get("hi")
    if {"lo", "hi"} <= grid.keys() and ":" not in grid["name"] and not one_level:
        _check_less("sample.grid.lo", grid["lo"], "sample.grid.hi", grid["hi"])
    _check_decay(full["optimizer"])
    prompts, n = full["sample"]["prompts"], full["sample"]["n"]
    if n < len(prompts):
        raise ValueError(f"sample.n: {n} is not allowed, fewer than the {len(prompts)} prompts; give at least as many")


def _check_decay(options):
    if options["decay_steps"]:
        _check_less("optimizer.warmup", options["warmup"], "optimizer.decay_steps", options["decay_steps"])
        if options["decay_after"]:
            raise ValueError(
                f"optimizer.decay_after: {options['decay_after']} is not allowed beside optimizer.decay_steps, "
                f"{options['decay_steps']}: a rate falls in one way; set one of them to 0"
            )


def _check_averages(ema, sample):
    widths = [f"width{width}" for width in ema["widths"]]
    _check_choice("sample.ema", sample["ema"], ("", "none", *map(str, ema["decays"]), *widths))
    for where, width in [("sample.width", sample["width"])] * bool(sample["width"]) + [
        ("ema.widths", width) for width in ema["widths"]
    ]:
        if not 0 < width <= WIDEST:
            raise ValueError(f"{where}: {width} is not allowed, expected more than 0, at most {WIDEST:.4f}")
    if sample["width"] and not (ema["widths"] and ema["snapshot_every"]):
        raise ValueError(
            f"sample.width: {sample['width']} is made of averages that a run keeps; train with ema.widths=(0.05, 0.1) "
            "and an ema.snapshot_every"
        )
    if ema["snapshot_every"] and not widths:
        raise ValueError(
            f"ema.snapshot_every: {ema['snapshot_every']} keeps ema.widths, which is empty; give (0.05, 0.1)"
        )


def _check_less(where, value, bound, limit):
    if not value < limit:
        raise ValueError(f"{where}: {value} is not allowed, expected less than {bound}, which is {limit}")


def _check_choice(where, value, choices):
    if value not in choices:
        raise ValueError(
            f"{where}: {value!r} is unknown{build.unknown(str(value), [choice for choice in choices if choice])}"
        )


def _expected(name, value, users_own):
    """What is expected of an option instead of `value`; None if nothing is wrong."""
    if math.isnan(value) or (math.isinf(value) and not users_own and not (value > 0 and name in _INFINITE)):
        return "a finite number"
    if users_own:
        return None
    if name in _AT_LEAST_1 and value < 1:
        return "at least 1"
    if name in _POSITIVE and value <= 0:
        return "more than 0" + ", or inf for none" * (name in _INFINITE)
    if name in _SHARE and not 0 <= value <= 1:
        return "a number from 0 to 1"
    if name == "dropout" and not 0 <= value < 1:
        return "0 or more, less than 1"
    if name == "seed" and value >= 2**31:
        return "less than 2147483648"
    if value < 0 and name not in _SIGNED:
        return "0 or more"
    return None
