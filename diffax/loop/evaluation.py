"""Evaluation: scores of a trained network's samples against real data, and the card that says how they came about."""

from pathlib import Path
from typing import Any

import numpy as np

from diffax import build, report
from diffax.loop import likelihoods, sampling, wanted, workdir
from diffax.train import TrainState


def path(folder: Path, step: int) -> Path:
    """Where a step's first card lies; a second, of another evaluation, is `eval_<step>_2.json`."""
    return Path(folder) / f"eval_{step:08d}.json"


def evaluate(experiment: build.Experiment, state: TrainState, folder: Path, draw: sampling.Generate) -> dict[str, Any]:
    """Draws `eval.n` samples, scores them, prints the scores, and writes the card and the samples.

    The same evaluation again replaces its card; one with another sampler, seed or number of samples gets a new one.

    Returns:
        The metric card: scores, hashes of samples' reference, sampler, seed and versions.
    """
    from diffax import data
    from diffax.metrics.card import array_hash, card

    config, options, step = experiment.config, experiment.config["eval"], int(state.step)
    cond = wanted.evaluated(experiment, options["n"])
    with report.progress(options["n"], noun="image") as bar:
        images = draw(
            sampling.chosen_params(state, config),
            options["seed"],
            cond,
            options["n"],
            options["batch_size"],
            config["sample"]["guidance"],
            tick=bar.update,
        )
    generated = {"x0": images, **cond}
    if captions := wanted.captions(experiment, cond):
        generated["caption"] = np.asarray(captions)
    reference = data.examples(experiment.dataset, np.arange(min(len(experiment.dataset.source), options["reference"])))
    _check_finite(reference["x0"], ValueError, f"data: of the examples of {config['data']['name']}")
    _check_finite(images, FloatingPointError, f"step {step}: of the samples")
    scores = {}
    for name in options["metrics"]:
        scores |= build.find("metric", name, "eval.metrics")(reference, generated, options["seed"])
    if options["likelihood"]["examples"]:
        scores |= likelihoods.scores(experiment, sampling.chosen_params(state, config))
    asked = {name: options[name] for name in ("conditions", "each")}
    asked = asked if options["conditions"] else {"labels": config["sample"]["labels"]}
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
            "clip": config["sample"]["clip"],
            "learned_variance": sampling.takes_learned_variance(experiment),
        },
        seed=options["seed"],
        **asked,
        **({"likelihood": options["likelihood"]} if options["likelihood"]["examples"] else {}),
    )
    print("  ".join(f"{name} {value:.4f}" for name, value in scores.items()), f"({options['n']} samples)", flush=True)
    file = workdir.unused(path(folder, step), lambda file: _asked(file) == _question(result))
    report.write_bytes(Path(folder) / "samples" / f"{file.stem}.npz", wanted.arrays(experiment, images, cond))
    report.write_json(file, result)
    return result


def _check_finite(images, error, what):
    broken = int((~np.isfinite(images)).reshape(len(images), -1).any(1).sum())
    if broken:
        raise error(f"{what}, {broken} of {len(images)} are not finite, so there is nothing to score")


def _asked(file):
    try:
        return _question(report.read_json(file))
    except (ValueError, AttributeError):  # not a card: it stays where it is
        return None


def _question(card):
    """All of a card but what an equal evaluation may change, as text."""
    rest = {name: value for name, value in card.items() if name not in ("scores", "versions")}
    return report.to_json({**rest, "scores": sorted(card.get("scores", ()))})
