"""Captions in words, and words to captions.

    caption  = group | group relation group | group "and" group | group "," group "and" group
             | group relation group "and" relation group
    group    = count [size] [color] noun          "two small red circles", "a thing"
    relation = "left of" | "to the right of" | "above" | "under" | ...

A caption tells all objects of a picture: "a circle" is wrong of a picture with two. What it does not say is left open.
"""

from diffax.data.scenes.scene import Draws, chance, pick
from diffax.data.scenes.statements import Caption, Group
from diffax.data.text import words

# what is meant -> the words for it, the first one the plainest
_COUNTS = {1: ("a", "one"), 2: ("two",), 3: ("three",)}
_SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
_COLORS = {
    "red": ("red",),
    "green": ("green",),
    "blue": ("blue",),
    "yellow": ("yellow",),
    "purple": ("purple", "violet"),
    "white": ("white",),
}
_NOUNS = {
    "circle": (("circle", "circles"), ("disk", "disks")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "cross": (("cross", "crosses"), ("plus", "pluses")),
    None: (("shape", "shapes"), ("thing", "things"), ("object", "objects")),
}
_RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under", "beneath"),
}
_PLAIN = 70  # percent of the words that are the plainest

# the words of the longest caption of so many objects: "a small red circle to the left of a small red cross and ..."
LONGEST = {1: 4, 2: 12, 3: 21}


def say(caption: Caption, bits: Draws | None = None) -> str:
    """The caption in words; `bits` choose among synonyms, without them every word is the plainest one."""
    text = _group(caption.groups[0], bits)
    last = len(caption.groups) - 1
    for i, (relation, group) in enumerate(zip(caption.relations, caption.groups[1:]), 1):
        words = [] if relation is None else [_word(_RELATIONS[relation], bits)]
        if i > 1 or relation is None:
            words = ["and" if i == last else ",", *words]
        text = " ".join([text, *words, _group(group, bits)])
    return text.replace(" ,", ",")


def parse(text: str) -> Caption:
    """What a caption states. Case and space are ignored, as in tokens that were decoded.

    Raises:
      ValueError: a word that the grammar does not have, or words in another order.
    """
    left = [*words(text)]
    try:
        groups, relations = [_take_group(left)], []
        while left:
            joined = _take(left, {"and": ("and", ",")})
            relation = _take(left, _RELATIONS)
            if joined is None and relation is None:
                raise LookupError("a relation, 'and' or the end")
            groups.append(_take_group(left))
            relations.append(relation)
        if len(groups) > 3:
            raise LookupError("at most three groups")
    except LookupError as error:
        where = f"at {' '.join(left)!r}" if left else "at the end"
        raise ValueError(
            f"caption={text!r}: expected {error.args[0]} {where}; write it like 'two small red circles' or"
            " 'a red circle left of a large blue square'"
        ) from None
    return Caption(tuple(groups), tuple(relations))


def vocabulary() -> tuple[str, ...]:
    """All words and marks of captions, sorted."""
    nouns = [word for forms in _NOUNS.values() for both in forms for word in both]
    others = [word for table in (_COUNTS, _SIZES, _COLORS, _RELATIONS) for words in table.values() for word in words]
    return tuple(sorted({part for word in (*nouns, *others, "an", "and", ",") for part in word.split()}))


def _group(group: Group, bits: Draws | None) -> str:
    noun = _word(_NOUNS[group.shape], bits)[group.count > 1]
    size = [] if group.size is None else [_word(_SIZES[group.size], bits)]
    color = [] if group.color is None else [_word(_COLORS[group.color], bits)]
    rest = " ".join([*size, *color, noun])
    count = _word(_COUNTS[group.count], bits)
    return f"{'an' if count == 'a' and rest[0] in 'aeiou' else count} {rest}"


def _word(words, bits):
    if bits is None or len(words) == 1 or chance(_PLAIN, bits):
        return words[0]
    return pick(words[1:], bits)


def _take_group(left: list[str]) -> Group:
    count = _take(left, {**_COUNTS, 1: (*_COUNTS[1], "an")})
    if count is None:
        raise LookupError("'a', 'one', 'two' or 'three'")
    size, color = _take(left, _SIZES), _take(left, _COLORS)
    for shape, forms in _NOUNS.items():
        if left and left[0] in [both[count > 1] for both in forms]:
            left.pop(0)
            return Group(count, size, color, shape)
    raise LookupError("the plural of a shape" if count > 1 else "a shape")


def _take(left: list[str], table: dict):
    """The meaning of the words that `left` starts with, which are taken away; None, and nothing taken, without one."""
    for meaning, phrases in table.items():
        for phrase in phrases:
            words = phrase.split()
            if left[: len(words)] == words:
                del left[: len(words)]
                return meaning
    return None
