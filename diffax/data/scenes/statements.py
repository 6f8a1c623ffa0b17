"""What a caption states, as a tree, and whether that is true of the objects of a scene."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from diffax.data.scenes.figures import Object

# relation -> (coordinate, +1 if the first one's is the smaller)
RELATIONS = {"left": ("x", 1), "right": ("x", -1), "above": ("y", 1), "below": ("y", -1)}
HOLDS = 26  # a relation holds where the centers are further apart, in its direction, than a tenth of the picture
_SEEN = 5  # of more objects than this, the first are compared with the caption, which is wrong anyway


class Group(NamedTuple):
    """Objects that a caption counts: "two small red circles". What is None is left unsaid."""

    count: int = 1
    size: str | None = None
    color: str | None = None
    shape: str | None = None


class Caption(NamedTuple):
    """All objects of a picture, in groups.

    Attributes:
      groups: one to three.
      relations: for each group after the first, where the first one stands to it: "left" (of it), "right", "above",
        "below"; None where that is left unsaid.
    """

    groups: tuple[Group, ...]
    relations: tuple[str | None, ...] = ()

    @property
    def count(self) -> int:
        """How many objects the picture has to show: no fewer and no more."""
        return sum(group.count for group in self.groups)


class Statement(NamedTuple):
    """One fact that a caption states.

    Attributes:
      kind: "count" (of all objects), "size", "color", "shape" (of each object of a group) or "relation".
      value: the count, the size, ..., the relation.
      group: which group is spoken of; of a relation, the one that the first group stands to; None for the count.
    """

    kind: str
    value: str | int
    group: int | None = None


def statements(caption: Caption) -> tuple[Statement, ...]:
    """The facts that a caption states, one by one: the count, what is said of each group, the relations."""
    facts = [Statement("count", caption.count)]
    for i, group in enumerate(caption.groups):
        said = {kind: getattr(group, kind) for kind in ("size", "color", "shape")}
        facts += [Statement(kind, value, i) for kind, value in said.items() if value is not None]
    facts += [Statement("relation", value, i) for i, value in enumerate(caption.relations, 1) if value is not None]
    return tuple(facts)


def truths(caption: Caption, objects: Sequence[Object]) -> dict[Statement, bool]:
    """Which statements are true of a scene, under the reading that makes most of them true.

    A reading says which objects are meant by which group: every choice is tried, and where there are too few objects,
    what is said of the missing ones is false. All are true for some reading exactly if the caption is true.
    """
    slots = [i for i, group in enumerate(caption.groups) for _ in range(group.count)]
    seen = [*objects[:_SEEN], *([None] * (len(slots) - len(objects)))]
    facts = [fact for fact in statements(caption) if fact.kind != "count"]
    readings = []
    for chosen in set(itertools.permutations(seen, len(slots))):
        groups = [[item for item, slot in zip(chosen, slots) if slot == i] for i in range(len(caption.groups))]
        readings.append([_true(fact, groups) for fact in facts])
    best = max(readings, key=lambda true: (sum(true), true))  # of equals the one that is right first
    return {Statement("count", caption.count): len(objects) == len(slots), **dict(zip(facts, best))}


def relates(relation: str, a: Object, b: Object, margin: float = HOLDS) -> bool:
    """Whether `a` is left of, right of, above or below `b`, by more than a margin."""
    axis, sign = RELATIONS[relation]
    return sign * (getattr(b, axis) - getattr(a, axis)) > margin


def _true(fact: Statement, groups: list[list[Object | None]]) -> bool:
    ours = groups[fact.group or 0]
    if fact.kind == "relation":
        pairs = itertools.product(groups[0], ours)
        return all(a is not None and b is not None and relates(str(fact.value), a, b) for a, b in pairs)
    return all(item is not None and getattr(item, fact.kind) == fact.value for item in ours)
