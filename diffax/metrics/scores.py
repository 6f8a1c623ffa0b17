"""Metrics that a config can name: (reference, generated, seed) -> scores, from batches dict(x0, label)."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from diffax.metrics.classifier import agreement
from diffax.metrics.frechet import frechet_distance, frechet_floor

Scores = Annotated[dict[str, float], "name -> score; <name>_floor is what real data score"]
# Values of an example, d: a covariance has 8·d² bytes, here 1.2 GB, and the distance takes some d³ operations, here
# minutes on a server. For images of twice the side it is 16 and 64 times as much.
MOST_VALUES = 64 * 64 * 3


# metric -> the fewest samples, and real examples, that it can be told of; half of the latter make a floor
_FEWEST = {"pixel_frechet": {"n": 2, "reference": 4}, "classifier_agreement": {"reference": 2}}


def check_needs(metrics: Sequence[str], shape: Sequence[int], n: int, reference: int) -> None:
    """Refuses metrics that examples of a shape are too large for, or n samples and `reference` real examples too few.

    Raises:
        ValueError: the option of `eval`, its value, and the remedy.
    """
    there = {"n": n, "reference": reference}
    for name in metrics:
        for field, fewest in _FEWEST.get(name, {}).items():
            if there[field] < fewest:
                told = f"eval.{field}: {there[field]} is not allowed, {name!r} needs at least {fewest}"
                raise ValueError(f"{told}; give more, or leave it out of eval.metrics")
    d = math.prod(shape)
    if "pixel_frechet" in metrics and d > MOST_VALUES:
        raise ValueError(
            f"eval.metrics: 'pixel_frechet' takes matrices of {8e-9 * d**2:.0f} GB for examples of {d} values, at most"
            f" {MOST_VALUES} are allowed; leave it out, eval.metrics=() for none at all"
        )


def pixel_frechet(reference: dict, generated: dict, seed: int) -> Scores:
    """The squared Fréchet distance of the raw values of x0, and its floor: real data against real data."""
    real, made = (np.asarray(batch["x0"], np.float64).reshape(len(batch["x0"]), -1) for batch in (reference, generated))
    return {"pixel_frechet": frechet_distance(real, made), "pixel_frechet_floor": frechet_floor(real, len(made), seed)}


def pixel_diversity(reference: dict, generated: dict, seed: int) -> Scores:
    """The root mean square distance, a value, of two samples of one condition; 0 if they are always the same.

    Raises:
        ValueError: no two samples of one condition.
    """
    asked = generated.get("caption", generated.get("label"))
    asked = np.zeros(len(generated["x0"]), int) if asked is None else asked
    x = np.asarray(generated["x0"], np.float64).reshape(len(asked), -1)
    squares = squared_distances(x, asked)
    if not len(squares):
        raise ValueError("the metric 'pixel_diversity' needs several samples of a condition: set eval.each")
    return {"pixel_diversity": float(np.sqrt(squares.mean() / x.shape[1]))}


def squared_distances(x: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Of each condition with several samples x [n, d], the mean squared distance of two of these: [conditions]."""
    _, group, count = np.unique(asked, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(group, column) for column in x.T], axis=1) / count[:, None]
    # of n samples, 2/(n - 1) times the squared distances from their mean is the mean of those between two of them
    return np.bincount(group, ((x - mean[group]) ** 2).sum(1))[count > 1] * 2.0 / (count[count > 1] - 1)


def classifier_agreement(reference: dict, generated: dict, seed: int) -> Scores:
    """The share of samples that a support-vector classifier of the real data reads as the class asked for.

    Raises:
        ValueError: data without labels.
    """
    if "label" not in reference or "label" not in generated:
        raise ValueError(
            "the metric 'classifier_agreement' needs a data set with classes and a class-conditional network"
        )
    images = (reference["x0"], reference["label"], generated["x0"], generated["label"])
    return {"classifier_agreement": agreement(*images)}
