"""Evaluation: scores of a trained network's samples against real data, and the card that says how they came about."""

from pathlib import Path
from typing import Any

import numpy as np

from diffax import build, report
from diffax.loop import likelihoods, sampling, wanted, workdir
from diffax.train import TrainState


def evaluate(experiment: build.Experiment, state: TrainState, folder: Path, draw: sampling.Generate) -> dict[str, Any]:
    """Draws `eval.n` samples, scores them, prints the scores, and writes the card and the samples.

    With `eval.scales` it does so for each of these scales of guidance. The same evaluation again replaces its card; one
    with another sampler, seed or number of samples gets a new one.

    Returns:
        The last metric card: scores, hashes of samples' reference, sampler, seed and versions.
    """
    from diffax import data

    config, options = experiment.config, experiment.config["eval"]
    params, cond = sampling.chosen_params(state, config), wanted.evaluated(experiment)
    first = np.arange(min(len(experiment.dataset.source), options["reference"]))
    reference = data.examples(experiment.dataset, first, bare=True)
    _check_finite(reference["x0"], ValueError, f"data: of the examples of {config['data']['name']}")
    bits = likelihoods.scores(experiment, params) if options["likelihood"]["examples"] else {}
    for scale in options["scales"] or (config["sample"]["guidance"]["scale"],):
        guidance = {**config["sample"]["guidance"], "scale": scale}
        with report.progress(options["n"], noun="image") as bar:
            n, size = options["n"], min(options["n"], options["batch_size"])
            images, _ = draw(params, options["seed"], cond, n, size, guidance, tick=bar.update)
        _check_finite(images, FloatingPointError, f"step {int(state.step)}: of the samples")
        generated, scores = wanted.described(experiment, images, cond), {}
        for name in options["metrics"]:
            scores |= build.find("metric", name, "eval.metrics")(reference, generated, options["seed"])
        result = _card(experiment, int(state.step), guidance, reference, scores | bits)
        told = "  ".join(f"{name} {value:.4f}" for name, value in result["scores"].items())
        print(told, f"({n} samples{f', guidance {scale:g}' if options['scales'] else ''})", flush=True)
        _write(folder, int(state.step), result, generated)
    return result


def done(experiment: build.Experiment, folder: Path, step: int) -> bool:
    """Whether a step has the cards of a whole evaluation."""
    cards = [file for at, file in report.numbered(folder, "eval", ".json") if at == step and _asked(file)]
    return len(cards) >= max(1, len(experiment.config["eval"]["scales"]))


def _card(experiment, step, guidance, reference, scores):
    from diffax.metrics.card import array_hash, card

    config, options = experiment.config, experiment.config["eval"]
    asked = {name: options[name] for name in ("conditions", "each")}
    asked = asked if options["conditions"] else {"labels": config["sample"]["labels"]}
    return card(
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
            "guidance": guidance,
            "clip": config["sample"]["clip"],
            "learned_variance": sampling.takes_learned_variance(experiment),
        },
        seed=options["seed"],
        **asked,
        **({"likelihood": options["likelihood"]} if options["likelihood"]["examples"] else {}),
    )


def _write(folder, step, result, generated):
    """The card, and the samples under the same name: nothing else is written over."""
    first = Path(folder) / f"eval_{step:08d}.json"
    file = workdir.unused(first, lambda file: _asked(file) == _question(result))
    report.write_bytes(Path(folder) / "samples" / f"{file.stem}.npz", report.npz_bytes(generated))
    report.write_json(file, result)


def _check_finite(images, error, what):
    if broken := sampling.broken(images):
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
