"""Metrics that a config can name: (reference, generated, seed) -> scores, from batches dict(x0, label)."""

from typing import Annotated

import numpy as np

from diffax.metrics.classifier import agreement
from diffax.metrics.frechet import frechet_distance, frechet_floor

Scores = Annotated[dict[str, float], "name -> score; <name>_floor is what real data score"]


def pixel_frechet(reference: dict, generated: dict, seed: int) -> Scores:
    """The squared Fréchet distance of the raw values of x0, and its floor: real data against real data."""
    real, made = (np.asarray(batch["x0"], np.float64).reshape(len(batch["x0"]), -1) for batch in (reference, generated))
    return {"pixel_frechet": frechet_distance(real, made), "pixel_frechet_floor": frechet_floor(real, len(made), seed)}


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
