"""The checker of captioned shapes sees what was drawn, through noise, and what is wrong; the metric counts it."""

import functools
import itertools

import numpy as np
import pytest

from diffax import build
from diffax.data import examples, shapes
from diffax.data.scenes import COLORS, HELD_OUT, SHAPES, SIZES, Caption, Object, Statement, captioned, check, draw
from diffax.data.scenes.checker import check_all, find, parse, truths
from diffax.data.scenes.statements import statements

OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDES = (16, 24, 32)
NUMBERS, KINDS = ("", "_one", "_two", "_three"), ("", "_count", "_shape")
BACKGROUND = np.array([22, 24, 30])


@functools.cache
def some(count, split="test"):
    """Scenes and parsed captions."""
    cells = [captioned(i, split, (1, 2, 3), HELD_OUT) for i in range(count)]
    return [scene for scene, _ in cells], [parse(caption) for _, caption in cells]


def noisy(pictures, std=0.1, seed=0):
    """Floats in [-1, 1] with Gaussian noise, clipped."""
    return np.clip(pictures / 127.5 - 1 + std * np.random.default_rng(seed).standard_normal(pictures.shape), -1, 1)


def changed(caption):
    """(kind, caption) for every caption that differs in one attribute, count or relation."""
    for i, group in enumerate(caption.groups):
        others = dict(color=COLORS, shape=SHAPES, size=SIZES, count=(1, 2, 3))
        for kind, values in others.items():
            said = getattr(group, kind)
            for value in values if said is not None else ():
                groups = (*caption.groups[:i], group._replace(**{kind: value}), *caption.groups[i + 1 :])
                if value != said:
                    yield kind, caption._replace(groups=groups)
    for i, relation in enumerate(caption.relations):
        if relation:
            flipped = (*caption.relations[:i], OPPOSITE[relation], *caption.relations[i + 1 :])
            yield "relation", caption._replace(relations=flipped)


@functools.cache
def wrong(count):
    """(number, kind, caption) of `changed` captions of `some` scenes, but for those that are true all the same."""
    return [
        (i, kind, other)
        for i, (scene, caption) in enumerate(zip(*some(count)))
        for kind, other in changed(caption)
        if not all(truths(other, scene).values())  # "a circle left of a circle" is true either way
    ]


def check_the_checker(count, size, std):
    """Real pictures are right; swapped and changed captions are judged as the scenes say."""
    scenes, captions = some(count)
    found = find(noisy(draw(scenes, size), std))
    holds = [all(truths(caption, objects).values()) for caption, objects in zip(captions, found)]
    assert np.mean(holds) >= (0.995 if std == 0 else 0.99)
    swapped, agree = 0, []
    for caption, scene, objects in zip(captions, scenes[-1:] + scenes[:-1], found[-1:] + found[:-1]):
        true = all(truths(caption, scene).values())
        swapped += true
        agree.append(all(truths(caption, objects).values()) == true)
    assert np.mean(agree) >= 0.995 and 0 < swapped < 0.1 * count
    caught = {}
    for i, kind, other in wrong(count):
        caught.setdefault(kind, []).append(not all(truths(other, found[i]).values()))
    assert caught.keys() == {"color", "shape", "size", "count", "relation"}
    assert all(np.mean(hits) >= 0.99 and len(hits) > 0.1 * count for hits in caught.values())


@pytest.mark.parametrize("std", [0, 0.1])
@pytest.mark.parametrize("size", SIDES)
def test_the_checker_agrees_with_the_scenes(size, std):
    check_the_checker(200, size, std)


@pytest.mark.slow
@pytest.mark.parametrize("std", [0, 0.1])
@pytest.mark.parametrize("size", SIDES)
def test_the_checker_agrees_with_2000_scenes(size, std):
    check_the_checker(2000, size, std)


@pytest.mark.parametrize("size", SIDES)
def test_objects_are_found_as_they_were_drawn(size):
    scenes, _ = some(100)
    for scene, objects in zip(scenes, find(noisy(draw(scenes, size)))):
        seen = sorted(objects, key=lambda item: (item.x, item.y))
        drawn = [min(scene, key=lambda item: abs(item.x - one.x) + abs(item.y - one.y)) for one in seen]
        assert [one[:3] for one in seen] == [one[:3] for one in drawn] and {*drawn} == {*scene}
        away = [np.hypot(one.x - item.x, one.y - item.y) for one, item in zip(seen, drawn)]
        assert max(away) < 0.4 * 256 / size  # pixels


def test_every_shape_is_told_apart_at_every_place_and_size():
    kinds = [*itertools.product(SHAPES, COLORS, SIZES)]
    for size in SIDES:
        for place in [(100, 100), (107, 103), (128, 141), (131, 137)]:
            objects = find(noisy(draw([[Object(*kind, *place)] for kind in kinds], size)))
            assert [[one[:3] for one in found] for found in objects] == [[kind] for kind in kinds]


def test_bytes_and_floats_are_read_alike():
    scenes, captions = some(30)
    pictures = draw(scenes, 16)
    floats = pictures.astype(np.float32) / 127.5 - 1
    assert [len(found) for found in find(pictures)] == [len(scene) for scene in scenes]
    pairs = [*zip(find(pictures), find(floats))]
    assert all(sorted(a) == sorted(b) for a, b in pairs)
    assert sum(a != b for a, b in pairs) <= 1  # the largest first: a rounding may decide between two of one size
    assert check(pictures[3], captions[3]) == check_all(pictures, captions)[3]
    assert check_all(pictures[:0], []) == []


# What is no object of the grammar -------------------------------------------------------------------------------------


def painted(inside, color="red", size=32):
    """A picture of the points (x, y), in 256ths from the middle, where `inside` is true."""
    y, x = (np.indices((size * 8, size * 8)) + 0.5) * (32 / size) - 128
    covered = inside(x, y).reshape(size, 8, size, 8).mean((1, 3))[..., None]
    ink = np.array(COLORS.get(color, color))
    return (BACKGROUND + covered * (ink - BACKGROUND)).round().astype(np.uint8)


@pytest.mark.parametrize(
    "inside",
    [
        lambda x, y: (x**2 + y**2 < 48**2) & (x**2 + y**2 > 24**2),
        lambda x, y: (x**2 + y**2 < 48**2) & (y < 0),
        lambda x, y: (x**2 + y**2 < 48**2) & ((x < 0) | (y < 0)),
        lambda x, y: (x / 2) ** 2 + y**2 < 30**2,
        lambda x, y: (abs(x) < 70) & (abs(y) < 20),
        lambda x, y: x**2 + y**2 < 75**2,
        lambda x, y: ((x - 40) ** 2 + y**2 < 48**2) | ((x + 40) ** 2 + y**2 < 48**2),
        lambda x, y: (x**2 + y**2 < 48**2) | ((abs(y) < 12) & (x > 0) & (x < 120)),
        lambda x, y: (abs(x) < (y + 32) * -0.55 + 60) & (y > -32),
    ],
    ids=[
        "ring",
        "half a circle",
        "three quarters",
        "ellipse",
        "bar",
        "huge circle",
        "two in one",
        "handle",
        "upside down",
    ],
)
def test_other_shapes_are_unclear(inside):
    (found,) = find(painted(inside)[None])
    assert [item.shape for item in found] == ["unclear"]
    assert not check(painted(inside), "a red circle").right


def test_other_colors_are_unclear_and_a_little_off_is_not():
    circle = lambda x, y: x**2 + y**2 < 48**2  # noqa: E731
    for color in [(240, 136, 58), (130, 60, 60), (160, 160, 160), (60, 220, 230)]:
        assert find(painted(circle, color)[None])[0][0].color == "unclear", color
    for color, levels in COLORS.items():
        off = tuple(0.88 * level + 0.12 * ground for level, ground in zip(levels, BACKGROUND))
        assert find(painted(circle, off)[None])[0][0].color == color


def test_blemishes_are_overlooked_and_objects_are_not():
    picture = draw([[Object("circle", "red", "large", 180, 180)]], 16)[0]
    picture[2, 2] = COLORS["white"]
    picture[12, 2:4] = COLORS["green"]
    assert check(picture, "a large red circle").right
    picture[3:6, 3:6] = COLORS["blue"]
    report = check(picture, "a large red circle")
    assert [fact.kind for fact, true in report.statements.items() if not true] == ["count"]
    assert len(report.objects) == 2 and report.objects[0].shape == "circle"


def test_nothing_is_found_where_nothing_is():
    empty = np.broadcast_to(BACKGROUND, (16, 16, 3)).astype(np.uint8)
    noise = np.random.default_rng(0).uniform(-1, 1, (16, 16, 3))
    broken = draw([[Object("circle", "red", "large", 128, 128)]], 16)[0] / 127.5 - 1
    broken[0, 0] = np.nan
    for picture in (empty, noise, broken, np.full((16, 16, 3), 255, np.uint8)):
        report = check(picture, "a red circle")
        assert not report.right
        assert "red" not in [item.color for item in report.objects if item.shape == "circle"]
    assert check(empty, "a red circle").statements == dict.fromkeys(statements(parse("a red circle")), False)


def test_the_report_tells_what_is_wrong():
    picture = draw([[Object("circle", "red", "small", 60, 60), Object("square", "green", "large", 180, 80)]], 32)[0]
    report = check(picture, "a red circle to the right of a large blue square")
    assert report.statements == {
        Statement("count", 2): True,
        Statement("color", "red", 0): True,
        Statement("shape", "circle", 0): True,
        Statement("size", "large", 1): True,
        Statement("color", "blue", 1): False,
        Statement("shape", "square", 1): True,
        Statement("relation", "right", 1): False,
    }


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((16, 16)), r"\(1, 16, 16\)"),
        (np.zeros((16, 24, 3)), r"\(1, 16, 24, 3\).*\[n, side, side, 3\]"),
        (np.zeros((8, 8, 3)), "8 pixels a side: give at least 16"),
        (np.zeros((16, 16, 3), int), "int64: give uint8, or floats"),
    ],
)
def test_other_pictures_are_refused(picture, message):
    with pytest.raises(ValueError, match=message) as error:
        check(picture, "a circle")
    assert "\n" not in str(error.value)


# The metric -----------------------------------------------------------------------------------------------------------


def test_the_metric_is_the_share_of_right_pictures():
    metric = build.choices("metric")["caption_agreement"]
    cells = [captioned(i, "test", (1, 2, 3), HELD_OUT) for i in range(120)]
    texts = np.array([caption for _, caption in cells])
    pictures = draw([scene for scene, _ in cells], 16) / 127.5 - 1
    scores = metric({}, {"x0": pictures, "caption": texts}, 0)
    assert set(scores.values()) == {1.0}
    assert [name for name in scores if name[:7] == "caption"] == [f"caption_agreement{n}" for n in NUMBERS]
    mixed = np.concatenate([pictures[:60], np.roll(pictures[60:], 1, 0)])
    scores = metric({}, {"x0": mixed, "caption": texts}, 0)
    reports = check_all(mixed, [*texts])
    right = np.array([report.right for report in reports])
    counts = np.array([parse(text).count for text in texts])
    assert scores["caption_agreement"] == right.mean() < 0.6
    assert scores["caption_agreement_two"] == right[counts == 2].mean()
    facts = [(fact.kind, true) for report in reports for fact, true in report.statements.items()]
    assert scores["statement_agreement"] == np.mean([true for _, true in facts])
    assert scores["statement_agreement_color"] == np.mean([true for kind, true in facts if kind == "color"])
    one = metric({}, {"x0": pictures[:1], "caption": ["a circle"]}, 0)
    assert [*one] == ["caption_agreement", "caption_agreement_one", *(f"statement_agreement{k}" for k in KINDS)]


def test_the_metric_needs_captions_of_the_grammar():
    metric = build.choices("metric")["caption_agreement"]
    pictures = np.zeros((2, 16, 16, 3))
    with pytest.raises(ValueError, match=r"generated\['caption'\]: a data set with captions, such as shapes"):
        metric({}, {"x0": pictures}, 0)
    with pytest.raises(ValueError, match="caption='a dog'"):
        metric({}, {"x0": pictures, "caption": ["a circle", "a dog"]}, 0)
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        check_all(pictures, [Caption(())])


def test_place_diversity_is_that_of_real_places():
    metric = build.choices("metric")["place_diversity"]
    one, two = shapes(size=16, objects=(1,)), shapes(size=16, objects=(2,))
    real = {"x0": np.concatenate([examples(d, np.arange(150))["x0"] for d in (one, two)])}
    # real pictures under one name: their places are as far apart as those of others
    captions = np.array(["a red circle"] * 150 + ["two things"] * 150)
    scores = metric(real, {"x0": real["x0"], "caption": captions}, 0)
    assert scores["place_diversity"] == pytest.approx(scores["place_diversity_floor"], rel=1e-12)
    # a single place is uniform between margins of about an eighth: 2·2·(0.75²/12)
    single = metric(real, {"x0": real["x0"][:150], "caption": captions[:150]}, 0)["place_diversity_floor"]
    assert 0.33 < single < 0.5
    same = np.repeat(real["x0"][:1], 3, axis=0)
    assert metric(real, {"x0": same, "caption": captions[:3]}, 0)["place_diversity"] == pytest.approx(0.0, abs=1e-9)
    # what has another number of objects is left out
    mixed = {"x0": np.concatenate([same, real["x0"][150:152]]), "caption": np.array(["a red circle"] * 5)}
    assert metric(real, mixed, 0)["place_diversity"] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"set eval\.each"):
        metric(real, {"x0": same, "caption": np.array(["a cross", "a thing", "two things"])}, 0)
    with pytest.raises(ValueError, match="needs captions"):
        metric(real, {"x0": same}, 0)
