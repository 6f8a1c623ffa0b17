"""Scenes of colored shapes with captions, drawn from a seed, and a checker that tells whether a picture is right."""

from diffax.data.shapes.checker import Report, check, check_all
from diffax.data.shapes.dataset import captioned, shapes
from diffax.data.shapes.draw import draw
from diffax.data.shapes.figures import COLORS, SHAPES, SIZES, Object
from diffax.data.shapes.finder import find
from diffax.data.shapes.grammar import parse, say, vocabulary
from diffax.data.shapes.scene import HELD_OUT
from diffax.data.shapes.statements import Caption, Group, Statement, statements, truths

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
