"""Evaluation: scores of a trained network's samples against real data, and the card that says how they came about."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from diffax import build, report
from diffax.loop import sampling
from diffax.train import TrainState


def path(folder: Path, step: int, number: int = 1) -> Path:
    """Where a step's first card lies, `eval_<step>.json`, or its second, `eval_<step>_2.json`."""
    return Path(folder) / (f"eval_{step:08d}.json" if number == 1 else f"eval_{step:08d}_{number}.json")


def evaluate(experiment: build.Experiment, state: TrainState, folder: Path, draw: sampling.Generate) -> dict[str, Any]:
    """Draws `eval.n` samples, scores them, prints the scores, and writes the card and the samples.

    The same evaluation again replaces its card; one with another sampler, seed or number of samples gets a new one.

    Returns:
        The metric card: scores, hashes of samples' reference, sampler, seed and versions.
    """
    from diffax import data
    from diffax.metrics.card import array_hash, card

    config, options, step = experiment.config, experiment.config["eval"], int(state.step)
    labels = sampling.wanted_labels(experiment, config["sample"]["labels"], options["n"])
    with report.progress(options["n"], noun="image") as bar:
        images = draw(
            sampling.chosen_params(state, config),
            options["seed"],
            labels,
            options["n"],
            options["batch_size"],
            config["sample"]["guidance"],
            tick=bar.update,
        )
    generated = {"x0": images} if labels is None else {"x0": images, "label": labels}
    reference = data.examples(experiment.dataset, np.arange(len(experiment.dataset.source)))
    scores = {}
    for name in options["metrics"]:
        scores |= build.find("metric", name, "eval.metrics")(reference, generated, options["seed"])
    result = card(
        step=step,
        scores=scores,
        features="pixels",
        features_hash=array_hash(reference["x0"]),
        resize=None,
        samples=options["n"],
        reference=config["data"]["name"],
        reference_hash=array_hash(reference["x0"]),
        ema=sampling.chosen_ema(config),
        sampler={
            **config["sample"]["sampler"],
            "grid": config["sample"]["grid"],
            "guidance": config["sample"]["guidance"],
        },
        seed=options["seed"],
    )
    file = _free(folder, step, result)
    with open(Path(folder) / "samples" / f"{file.stem}.npz", "wb") as samples:
        np.savez_compressed(samples, **generated)
    report.write_json(file, result)
    print("  ".join(f"{name} {value:.4f}" for name, value in scores.items()), f"({options['n']} samples)", flush=True)
    return result


def _free(folder, step, card):
    """The path of this card: where the same one lies already, or the first that is free."""
    asked = lambda card: report.to_json({k: v for k, v in card.items() if k not in ("scores", "versions")})  # noqa: E731
    for number in itertools.count(1):
        file = path(folder, step, number)
        if not file.exists() or asked(report.read_json(file)) == asked(card):
            return file
