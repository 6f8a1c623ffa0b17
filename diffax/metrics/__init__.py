"""Scores of samples and the card that says what each depends on."""

from diffax.metrics.captions import caption_agreement, place_diversity
from diffax.metrics.card import array_hash, card, versions
from diffax.metrics.classifier import agreement
from diffax.metrics.frechet import frechet_distance, frechet_floor, frechet_from_statistics, gaussian_statistics
from diffax.metrics.scores import Scores, check_needs, classifier_agreement, pixel_diversity, pixel_frechet

__all__ = [
    "Scores",
    "agreement",
    "array_hash",
    "caption_agreement",
    "card",
    "check_needs",
    "classifier_agreement",
    "frechet_distance",
    "frechet_floor",
    "frechet_from_statistics",
    "gaussian_statistics",
    "pixel_diversity",
    "pixel_frechet",
    "place_diversity",
    "versions",
]
