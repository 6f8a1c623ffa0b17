"""The captioned shapes: scenes are drawn as they are, captions are true of them, and splits are apart."""

import hashlib
import itertools
import math
import pickle

import numpy as np
import pytest

from diffax import build, data
from diffax.data.scenes import COLORS, HELD_OUT, SHAPES, SIZES, Caption, Group, Object, captioned, draw, truths
from diffax.data.scenes.draw import coverage
from diffax.data.scenes.grammar import LONGEST, parse, say, vocabulary
from diffax.data.scenes.scene import SPLITS

ALL = (1, 2, 3)


def some(count, split="train", objects=ALL):
    """Scenes and captions of the first examples."""
    return zip(*(captioned(i, split, objects, HELD_OUT) for i in range(count)))


# Drawing --------------------------------------------------------------------------------------------------------------


AREAS = dict(circle=math.pi, square=1.8**2, triangle=2.01 * 1.1, cross=4 * 1.1 * 0.72 - 0.72**2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 24, 32])
def test_objects_have_their_area_and_center(shape, size):
    places = [(101, 140), (128, 117), (90, 155)]
    for name, radius in SIZES.items():
        covered = coverage([Object(shape, "red", name, *place) for place in places], size)
        assert covered.min() >= 0 and covered.max() <= 1 + 1e-12
        area = covered.sum((1, 2)) * (256 / size) ** 2
        np.testing.assert_allclose(area, AREAS[shape] * radius**2, atol=2.2 * radius)  # by a line of 256
        middles = (np.arange(size) + 0.5) * 256 / size
        x, y = (covered.sum(axis) @ middles / covered.sum((1, 2)) for axis in (1, 2))
        np.testing.assert_allclose(np.stack([x, y], -1), places, atol=1)


def test_a_picture_is_the_average_of_a_larger_one():
    scenes, _ = some(40)
    small, large = draw(scenes, 16).astype(float), draw(scenes, 32).astype(float)
    assert np.abs(large.reshape(40, 16, 2, 16, 2, 3).mean((2, 4)) - small).max() <= 1


def test_colors_are_those_of_the_palette():
    for color, levels in COLORS.items():
        picture = draw([[Object("square", color, "large", 128, 128)]], 16)[0]
        assert tuple(picture[8, 8]) == levels
        assert tuple(picture[0, 0]) == (22, 24, 30)


def test_objects_are_whole_and_apart():
    scenes, _ = some(150)
    for scene in scenes:
        covered = coverage(scene, 64) > 0
        assert not (covered[:, [0, -1]].any() or covered[:, :, [0, -1]].any()), scene
        grown = [np.pad(one, 4) for one in covered]  # by two pixels of 64 in all eight directions
        for _ in range(2):
            for axis in (0, 1):
                grown = [one | np.roll(one, 1, axis) | np.roll(one, -1, axis) for one in grown]
        assert np.sum(grown, axis=0).max() == 1, scene
        assert len(scene) < 3 or sum(item.size == "large" for item in scene) <= 1


# The data set ---------------------------------------------------------------------------------------------------------


def test_examples_are_the_same_for_ever():
    # The data are part of every result that names them: should this fail, what draws them has changed, not the test.
    digest = hashlib.sha256()
    for split in SPLITS:
        batch = data.shapes(16, split=split).source.take(np.arange(200))
        digest.update(batch["x0"].tobytes() + batch["text"].astype("<i4").tobytes())
    assert digest.hexdigest() == "a3f115531f6c9c0e77b038b72597c86993027dba4e231ec2abb51b1a582a2142"


def test_an_example_depends_on_its_index_alone():
    source = data.shapes(24).source
    batch = source.take(np.array([7, 300, 2]))
    for row, index in enumerate([7, 300, 2]):
        for field, value in pickle.loads(pickle.dumps(data.shapes(24, examples=301).source))[index].items():
            np.testing.assert_array_equal(value, batch[field][row])
            assert value.dtype == batch[field].dtype
    np.testing.assert_array_equal(data.shapes(16).source[7]["text"], batch["text"][0])
    with pytest.raises(IndexError, match="301"):
        data.shapes(examples=301).source[301]


def test_the_data_set_is_what_it_says():
    dataset = build.make("data", dict(name="shapes", size=16, objects=[1, 2], examples=20), "data")
    batch = data.examples(dataset, range(20))
    assert batch["x0"].shape == (20, 16, 16, 3) and batch["x0"].min() < -0.8 and batch["x0"].max() <= 1
    assert batch["text"].dtype == np.int32 == dataset.nulls["text"].dtype
    assert dataset.nulls["text"].shape == batch["text"].shape[1:]
    assert dataset.nulls.keys() == {"text"} and dataset.levels == 256 and len(dataset.source) == 20
    assert {parse(data.decode(dataset.tokenizer, text)).count for text in batch["text"]} == {1, 2}
    by_bytes = build.make("data", dict(name="shapes", tokenizer=dict(name="by_bytes", length=160)), "data")
    assert data.decode(by_bytes.tokenizer, by_bytes.source[3]["text"]) == captioned(3, "train", ALL, HELD_OUT)[1]
    stream = data.batches(dataset, batch_size=4, seed=0)
    assert next(stream)["text"].shape == (4, LONGEST[2] + 1)
    stream.close()


@pytest.mark.slow
def test_splits_are_apart():
    parts = {split: list(some(400, split)) for split in SPLITS}
    pictures = {split: {x0.tobytes() for x0 in draw(scenes, 16)} for split, (scenes, _) in parts.items()}
    assert all(len(pictures[split]) == 400 for split in pictures)
    for a, b in itertools.combinations(pictures, 2):
        assert not pictures[a] & pictures[b]
    for split, (scenes, captions) in parts.items():
        for scene, caption in zip(scenes, captions):
            pairs = {f"{item.color} {item.shape}" for item in scene}
            named = {f"{group.color} {group.shape}" for group in parse(caption).groups}
            assert bool(pairs & {*HELD_OUT}) == bool(named & {*HELD_OUT}) == (split == "novel")
            assert split == "novel" or (sum(item.x + item.y for item in scene) % 8 == 0) == (split != "train")
    said = {split: {say(parse(caption)) for caption in captions} for split, (_, captions) in parts.items()}
    assert not said["unseen"] & {say(parse(caption)) for caption in list(some(4000))[1]}
    assert said["test"] & said["train"] and said["test"] & said["unseen"]
    pairs = {(item.color, item.shape) for scene in parts["train"][0] for item in scene}
    assert len(pairs) == len(COLORS) * len(SHAPES) - len(HELD_OUT)
    everything = {(item.color, item.shape) for i in range(400) for item in captioned(i, "train", ALL, ())[0]}
    assert len(everything) == len(COLORS) * len(SHAPES)


def test_the_first_facts_of_scenes_are_evenly_spread():
    n = 1500
    scenes, captions = some(n)
    counts = np.bincount([len(scene) for scene in scenes])[1:]
    assert np.abs(counts - n / 3).max() < 4 * math.sqrt(n * 2 / 9)
    first = [scene[0] for scene in scenes]
    usual = [f"{color} {shape}" for color in COLORS for shape in SHAPES if f"{color} {shape}" not in HELD_OUT]
    shares = [sum(f"{item.color} {item.shape}" == pair for item in first) for pair in usual]
    assert np.abs(np.array(shares) - n / 20).max() < 4 * math.sqrt(n / 20)
    trees = [parse(caption) for caption in captions]
    said = {
        relation: sum(relation in tree.relations for tree in trees) for relation in ("left", "right", "above", "below")
    }
    assert min(said.values()) > 0.06 * n
    assert sum(any(group.count > 1 for group in tree.groups) for tree in trees) > 0.25 * n


# Captions -------------------------------------------------------------------------------------------------------------


def test_captions_are_true_and_survive_the_tokens():
    scenes, captions = some(3000)
    dataset = data.shapes()
    used = set()
    for scene, caption in zip(scenes, captions):
        assert all(truths(parse(caption), scene).values()), caption
        tokens = data.encode(dataset.tokenizer, caption)
        assert data.decode(dataset.tokenizer, tokens) == caption
        assert np.count_nonzero(tokens) <= LONGEST[3] + 1
        used |= {*caption.replace(",", " ,").split()}
    assert used == {*vocabulary()}


def test_what_is_said_is_what_is_parsed():
    group = Group(1, "small", "purple", "circle")
    of = "one tiny violet disk"
    texts = (of, f"{of} to the left of {of}", f"{of} to the left of {of} and to the left of {of}")
    for count, text in enumerate(texts, 1):
        longest = Caption((group,) * count, ("left",) * (count - 1))
        assert say(longest, itertools.repeat(99)) == text and parse(text) == longest
        assert len(text.split()) == LONGEST[count]
        dataset = data.shapes(objects=range(1, count + 1))
        assert data.decode(dataset.tokenizer, data.encode(dataset.tokenizer, text)) == text
        assert len(data.encode(dataset.tokenizer, "")) == LONGEST[count] + 1
    assert say(Caption((Group(),))) == "a shape" and say(Caption((Group(),)), itertools.repeat(99)) == "one object"
    assert parse("An Object") == Caption((Group(),))
    for count, size, color, shape in itertools.product(ALL, (None, *SIZES), (None, *COLORS), (None, *SHAPES)):
        tree = Caption((group, Group(count, size, color, shape)), ("below",))
        for word in range(60, 100, 13):
            assert parse(say(tree, itertools.repeat(word))) == tree


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "expected 'a', 'one', 'two' or 'three' at the end; write it like 'two small red circles'"),
        ("a dog", "expected a shape at 'dog'"),
        ("two circle", "expected the plural of a shape at 'circle'"),
        ("a red small circle", "expected a shape at 'small circle'"),
        ("a circle beside a square", "expected a relation, 'and' or the end at 'beside a square'"),
        ("a circle left of", "at the end"),
        ("a circle, a square, a cross and a circle", "at most three groups"),
    ],
)
def test_other_captions_are_refused(caption, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(caption)
    assert "\n" not in str(error.value)


SCENE = (
    Object("circle", "red", "small", 60, 60),
    Object("square", "blue", "large", 180, 80),
    Object("circle", "red", "small", 70, 200),
)


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("two red circles and a blue square", True),
        ("a large blue square right of two small red circles", True),
        ("a circle above a square and above a circle", False),  # 60 against 80 is no relation
        ("a circle above a circle and left of a square", True),
        ("a circle, a square and a circle", True),
        ("two red circles", False),  # there is a third object
        ("three shapes", True),
        ("three circles", False),
        ("two circles above a square", False),
        ("two large red circles and a blue square", False),
        ("two shapes left of a shape", True),
        ("a red shape, a small shape and a shape", True),
        ("a blue shape below a red circle and above a red circle", False),
    ],
)
def test_truth(caption, true):
    for scene in itertools.permutations(SCENE):
        facts = truths(parse(caption), scene)
        assert all(facts.values()) == true, facts


def test_the_prompts_can_be_true_and_are_of_known_pairs():
    dataset = data.shapes()
    assert len(dataset.prompts) == 16
    trees = [parse(prompt) for prompt in dataset.prompts]
    assert {tree.count for tree in trees} == {1, 2, 3}
    assert not {f"{group.color} {group.shape}" for tree in trees for group in tree.groups} & {*HELD_OUT}
    assert {relation for tree in trees for relation in tree.relations} == {None, "left", "right", "above", "below"}
    assert {parse(prompt).count for prompt in data.shapes(objects=(1, 2)).prompts} == {1, 2}
    novel = data.shapes(split="novel")
    assert [data.encode(novel.tokenizer, prompt).tolist() for prompt in novel.prompts] == [
        text.tolist() for text in novel.source.take(np.arange(16))["text"]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size=12), "size=12: give an integer >= 16"),
        (dict(examples=0), "examples=0"),
        (dict(split="valid"), "split='valid'.*train, test, novel, unseen"),
        (dict(objects=()), r"objects=\(\).*from 1, 2 and 3"),
        (dict(objects=(2, 4)), r"objects=\(2, 4\)"),
        (dict(held_out=("pink circle",)), "'pink circle' is no color and shape; of red,.*cross"),
        (dict(held_out=(), split="novel"), "nothing novel"),
        (dict(held_out=[f"{a} {b}" for a in COLORS for b in SHAPES]), "leave some"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        data.shapes(**options)
    assert "\n" not in str(error.value)


def test_shuffled_captions_are_those_of_the_next_picture():
    right, wrong = data.shapes(examples=8), data.shapes(examples=8, shuffled=True)
    for i in range(7):
        np.testing.assert_array_equal(wrong.source[i]["x0"], right.source[i]["x0"])
        np.testing.assert_array_equal(wrong.source[i]["text"], right.source[i + 1]["text"])
