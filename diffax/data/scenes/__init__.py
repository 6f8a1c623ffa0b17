"""Scenes of colored shapes with captions, drawn from a seed, and a checker that tells whether a picture is right."""

from diffax.data.scenes.checker import Report, check, check_all
from diffax.data.scenes.dataset import captioned, shapes
from diffax.data.scenes.draw import draw
from diffax.data.scenes.figures import COLORS, SHAPES, SIZES, Object
from diffax.data.scenes.finder import find
from diffax.data.scenes.grammar import parse, say, vocabulary
from diffax.data.scenes.scene import HELD_OUT
from diffax.data.scenes.statements import Caption, Group, Statement, statements, truths

__all__ = [
    "COLORS",
    "HELD_OUT",
    "SHAPES",
    "SIZES",
    "Caption",
    "Group",
    "Object",
    "Report",
    "Statement",
    "captioned",
    "check",
    "check_all",
    "draw",
    "find",
    "parse",
    "say",
    "shapes",
    "statements",
    "truths",
    "vocabulary",
]
