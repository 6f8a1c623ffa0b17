"""What scenes are made of: shapes, colors, sizes, and objects that combine them. Lengths are 256ths of a picture."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

SIDE = 256  # units along a picture's side; x runs to the right, y downwards
LEAST_SIDE = 16  # pixels: with fewer, shapes cannot be told apart


class Shape(NamedTuple):
    """A figure that is symmetric about its vertical axis, around the point by which it is placed, its center of mass.

    Attributes:
      half_width: heights y [...] (down, in radii) -> half the width there [...], in radii; 0 outside.
      wide, above, below: how far it reaches to either side, up and down, in radii.
    """

    half_width: Callable[[np.ndarray], np.ndarray]
    wide: float
    above: float
    below: float


class Object(NamedTuple):
    """One object of a scene, or one that was found in a picture; x and y are those of its center of mass.

    The names are keys of SHAPES, COLORS and SIZES; in a picture a shape or color that is none of them is "unclear".
    """

    shape: str
    color: str
    size: str
    x: float
    y: float


def _circle(y):
    return np.sqrt(np.maximum(1 - y * y, 0))


def _square(y):
    return np.where(np.abs(y) < 0.9, 0.9, 0.0)


def _triangle(y):
    height, half_base = 2.01, 1.1
    up = y + 2 / 3 * height  # a triangle's center of mass lies two thirds of its height below the tip
    return np.where((up > 0) & (up < height), up * (half_base / height), 0.0)


def _cross(y):
    arm, half_bar = 1.1, 0.36
    return np.where(np.abs(y) < half_bar, arm, np.where(np.abs(y) < arm, half_bar, 0.0))


SHAPES = {
    "circle": Shape(_circle, 1.0, 1.0, 1.0),
    "square": Shape(_square, 0.9, 0.9, 0.9),
    "triangle": Shape(_triangle, 1.1, 1.34, 0.67),
    "cross": Shape(_cross, 1.1, 1.1, 1.1),
}
COLORS = {
    "red": (232, 58, 56),
    "green": (56, 186, 88),
    "blue": (60, 118, 246),
    "yellow": (250, 212, 62),
    "purple": (200, 72, 204),
    "white": (240, 240, 240),
}
BACKGROUND = (22, 24, 30)
SIZES = {"small": 32, "large": 48}  # the radii: 2 and 3 pixels of 16
UNCLEAR = "unclear"


def box(item: Object) -> tuple[float, float, float, float]:
    """How far an object reaches from its center: (left, right, up, down), in 256ths of the picture."""
    shape, radius = SHAPES[item.shape], SIZES[item.size]
    return shape.wide * radius, shape.wide * radius, shape.above * radius, shape.below * radius
