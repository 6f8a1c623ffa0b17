"""True captions of a scene: which of its objects are counted together, and what of them is said."""

from diffax.data.scenes.figures import Object
from diffax.data.scenes.scene import Draws, Scene, chance, pick
from diffax.data.scenes.statements import RELATIONS, Caption, Group

STATED = 51  # a relation is stated where all centers are a fifth of the picture apart, and on average less so across

_TOGETHER, _COLOR, _SIZE, _SHAPE, _RELATION = 70, 85, 60, 90, 75  # percent of what can be said that is said


def describe(scene: Scene, bits: Draws) -> Caption:
    """A caption that is true of the scene, and tells all of its objects, though not all of each."""
    parts = _parts(list(scene), bits)
    groups = tuple(_said(part, bits) for part in parts)
    clear = [[name for name in RELATIONS if _clear(name, parts[0], part)] for part in parts[1:]]
    if all(clear) and chance(_RELATION, bits):
        return Caption(groups, tuple(pick(names, bits) for names in clear))
    return Caption(groups, (None,) * len(clear))


def _parts(objects: list[Object], bits: Draws) -> list[list[Object]]:
    """The objects in groups, in random order; those of a group have shape or color in common."""
    objects.sort(key=lambda item: (next(bits), item))
    for size in (3, 2):
        for first in range(len(objects) - size + 1):
            ours = objects[first : first + size]
            if (_common(ours, "shape") or _common(ours, "color")) and chance(_TOGETHER, bits):
                rest = [[item] for item in objects if item not in ours]
                return [ours, *rest] if chance(50, bits) else [*rest, ours]
    return [[item] for item in objects]


def _said(part: list[Object], bits: Draws) -> Group:
    percents = dict(size=_SIZE, color=_COLOR, shape=_SHAPE)
    said = {kind: _common(part, kind) if chance(percent, bits) else None for kind, percent in percents.items()}
    return Group(len(part), **said)


def _common(part: list[Object], kind: str) -> str | None:
    values = {getattr(item, kind) for item in part}
    return values.pop() if len(values) == 1 else None


def _clear(relation: str, ours: list[Object], others: list[Object]) -> bool:
    axis, sign = RELATIONS[relation]
    along = [sign * (getattr(b, axis) - getattr(a, axis)) for a in ours for b in others]
    other = "y" if axis == "x" else "x"
    across = [getattr(b, other) - getattr(a, other) for a in ours for b in others]
    return min(along) > STATED and sum(along) > abs(sum(across))
