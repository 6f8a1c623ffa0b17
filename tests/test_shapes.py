"""The captioned shapes: captions are true, scenes are drawn as they are, and the checker sees what was drawn."""

import numpy as np
import pytest

from diffax import data
from diffax.data.shapes import HELD_OUT, captioned, check_all, draw, parse, truths


def some(count, split="train", objects=(1, 2, 3)):
    """Scenes and captions of the first examples."""
    return zip(*(captioned(i, split, objects, HELD_OUT) for i in range(count)))


@pytest.mark.parametrize("size", [16, 24, 32])
def test_real_pictures_are_right(size):
    scenes, captions = some(200)
    for scene, caption in zip(scenes, captions):
        assert all(truths(parse(caption), scene).values()), caption
    assert all(report.right for report in check_all(draw(scenes, size), captions))


def test_captions_survive_the_tokens():
    dataset = data.shapes()
    for i in range(50):
        _, caption = captioned(i, "train", (1, 2, 3), HELD_OUT)
        tokens = dataset.source[i]["text"]
        assert data.decode(dataset.tokenizer, tokens) == caption
        np.testing.assert_array_equal(tokens, data.encode(dataset.tokenizer, caption))
