"""Guidance: functions of denoisers that return a denoiser.

Scales, intervals and thresholds are scalars, or one value an example [batch]. All are traced: a new value runs the same
executable. A denoiser whose estimate would be multiplied by 0 for every example of the batch is not run.
"""

from diffax.guidance.classifier import classifier_guidance
from diffax.guidance.classifier_free import apg, batched_cfg, cfg, cfg_pp
from diffax.guidance.several import composed, nested
from diffax.guidance.threshold import dynamic_threshold, static_threshold

__all__ = [
    "apg",
    "batched_cfg",
    "cfg",
    "cfg_pp",
    "classifier_guidance",
    "composed",
    "dynamic_threshold",
    "nested",
    "static_threshold",
]
