"""What may be asked of a run, and the picture that comes of it."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffax import build, report
from diffax.data.embeddings import Embedded, aside
from diffax.loop import modes, pictures, sampling, wanted, workdir

COUNTS = (8, 16, 32, 64)  # of steps, beside the run's own: each is one executable, for all else that may be asked
LONGEST = 1000  # characters of a prompt
_WIDE = 640  # pixels of a picture, about


class Field(NamedTuple):
    """One thing to ask for: what it is unless asked for, which values it may have, and this in words."""

    default: Any
    allows: Callable[[Any], bool]
    expected: str
    limits: tuple = ()


class Studio(NamedTuple):
    """A run that draws: `draw` takes what `checked` returns, and returns a PNG.

    Attributes:
        title, about: of the run, for the page.
        fields: what may be asked for, by name; only what the network is told.
        draw: one of the numbers of steps for the first time compiles; nothing else does.
    """

    title: str
    about: str
    fields: dict[str, Field]
    draw: Callable[[Mapping], bytes]


def studio(folder: str | os.PathLike, most: int | None = None, counts: Sequence[int] = COUNTS) -> Studio:
    """The newest checkpoint of a run, ready to draw.

    Args:
        most: samples at once: the batch that is drawn, and cut if fewer are asked for. By default 8, and 512 of points
            in the plane.
        counts: numbers of steps to choose from, beside the run's own.

    Raises:
        ValueError: no run there, or one of data that no picture shows.
    """
    experiment, state = modes.restored(workdir.read_config(folder), folder)
    if isinstance(experiment.dataset.tokenizer, Embedded):  # what is typed here is not the training's
        tokenizer = aside(experiment.dataset.tokenizer)
        experiment = experiment._replace(dataset=experiment.dataset._replace(tokenizer=tokenizer))
    shape, step = experiment.dataset.shape, int(state.step)
    if shape != (2,) and not report.shows(shape):
        raise ValueError(f"workdir: {folder} is a run of data of shape {shape}; the demo shows images and 2-D points")
    params, most = sampling.chosen_params(state, experiment.config), most or (512 if shape == (2,) else 8)
    grids, generate = _grids(experiment, params, counts), sampling.generator(experiment, 0)

    def draw(asked):
        told = _told(experiment, asked)
        n, guidance = asked["n"], told.config["sample"]["guidance"]
        cond, levels, against = wanted.conditions(told, n), grids[asked["steps"]], wanted.negative(told)
        x, _ = generate(params, asked["seed"], cond, n, most, guidance, sigmas=levels, against=against)
        return report.png_bytes(_picture(told, x, cond), pictures.facts(told, cond, step))

    name = Path(folder).resolve().name
    about = f"step {step:,} · {experiment.config['data']['name']} · {experiment.config['sample']['sampler']['name']}"
    return Studio(name, about, _fields(experiment, most, tuple(grids)), draw)


def checked(fields: Mapping[str, Field], asked: Any) -> dict[str, Any]:
    """All fields with what was asked for, or their defaults.

    Raises:
        ValueError: the field, its value and what is allowed, in one line.
    """
    if not isinstance(asked, Mapping):
        raise ValueError(f"request: {_shown(asked)} is not allowed, expected an object of {', '.join(fields)}")
    for name, value in asked.items():
        if name not in fields:
            raise ValueError(f"{_shown(name)} is no field of this run, expected one of {', '.join(fields)}")
        if not fields[name].allows(value):
            raise ValueError(f"{name}: {_shown(value)} is not allowed, expected {fields[name].expected}")
    return {**{name: field.default for name, field in fields.items()}, **asked}


def _fields(experiment, most, counts):
    options, dataset, nulls = experiment.config["sample"], experiment.dataset, experiment.nulls
    fields = {}
    if "text" in nulls and dataset.tokenizer is not None:
        first = next(iter(options["prompts"] or dataset.prompts), "")
        fields["prompt"], fields["negative_prompt"] = _text(first), _text(options["negative_prompt"])
    if "label" in nulls:
        last = dataset.num_classes - 1
        allows, expected = _whole(0, last)
        fields["class"] = Field(
            None, lambda value: value is None or allows(value), f"{expected}, or null for all in turn", (0, last)
        )
    if nulls:
        scale = float(options["guidance"]["scale"])
        hi = max(10.0, scale)
        fields["guidance"] = Field(
            scale, lambda value: _number(value) and 0 <= value <= hi, f"a number from 0 to {hi:g}", (0, hi)
        )
    own = counts[0]
    fields["steps"] = Field(
        own, lambda value: _integer(value) and value in counts, f"one of {', '.join(map(str, sorted(counts)))}", counts
    )
    fields["n"] = Field(most, *_whole(1, most), (1, most))
    fields["seed"] = Field(options["seed"], *_whole(0, 2**31 - 1))
    return fields


def _text(default):
    def allows(value):
        return isinstance(value, str) and len(value) <= LONGEST

    return Field(default, allows, f"a text of at most {LONGEST} characters")


def _whole(lo, hi):
    return lambda value: _integer(value) and lo <= value <= hi, f"a whole number from {lo} to {hi}"


def _integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grids(experiment, params, counts):
    """The noise levels by the number of steps, the run's own first; a number that the grid cannot have is left out."""
    spec, process = experiment.config["sample"]["grid"], build.parts(experiment, params)[1]
    levels = sampling.grid(experiment, params)
    grids = {spec.get("n", len(levels) - 1): levels}
    for n in counts if "n" in spec else ():
        try:
            grids.setdefault(n, build.make("grid", {**spec, "n": n}, "sample.grid", process=process))
        except ValueError:  # as more steps than a DDPM has
            continue
    return grids


def _told(experiment, asked):
    """The experiment with what is asked for in place of `sample`'s own."""
    sample = {**experiment.config["sample"], "n": asked["n"], "seed": asked["seed"]}
    sample["grid"] = {**sample["grid"], **({"n": asked["steps"]} if "n" in sample["grid"] else {})}
    if "prompt" in asked:
        sample |= {"prompts": (asked["prompt"],), "negative_prompt": asked["negative_prompt"]}
    if "class" in asked:
        sample["labels"] = () if asked["class"] is None else (asked["class"],)
    if "guidance" in asked:
        sample["guidance"] = {**sample["guidance"], "scale": float(asked["guidance"])}
    return experiment._replace(config={**experiment.config, "sample": sample})


def _picture(experiment, x, cond):
    if x.ndim != 4:
        return pictures.draw_picture(experiment, x, cond)
    columns = len(x) if len(x) <= 4 else 4 if len(x) <= 16 else None
    across = max(2, columns or round(len(x) ** 0.5))
    return report.grid(x, columns, scale=max(1, round(_WIDE / across / x.shape[2])))


def _shown(value):
    text = repr(value[:60] if isinstance(value, str) else value)
    long = len(text) > 70 or (isinstance(value, str) and len(value) > 60)
    size = f" ({len(value)} characters)" if long and isinstance(value, str) else ""
    return f"{text[:60]}...{size}" if long else text
