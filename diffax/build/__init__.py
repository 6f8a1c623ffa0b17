"""From plain data to objects: the only folder that turns strings into functions."""

from diffax.build.names import NESTED, choices, find, make, options, parameters, unknown
from diffax.build.objects import (
    Experiment,
    elementwise,
    emas,
    experiment,
    learns_variance,
    loss,
    optimizer,
    parts,
    trained,
)

__all__ = [
    "NESTED",
    "Experiment",
    "choices",
    "elementwise",
    "emas",
    "experiment",
    "find",
    "learns_variance",
    "loss",
    "make",
    "optimizer",
    "options",
    "parameters",
    "parts",
    "trained",
    "unknown",
]
