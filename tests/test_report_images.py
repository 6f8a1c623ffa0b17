"""Pictures: every level of every pixel is where it belongs, and what is not a number is seen."""

import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffax.report import grid, sample_path, save_png, scatter, scatter_strip, strip


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image), dict(image.text)


def test_grid_holds_every_level_and_round_trips(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    picture = grid(levels / np.float32(127.5) - 1, columns=2, pad=3, scale=2)
    assert picture.shape == (2 * (16 + 3) + 3, 2 * (16 + 3) + 3, 3)
    save_png(sample_path(tmp_path, 12), picture, {"caption": "four tiles, ü"})
    assert sample_path(tmp_path, 12).name == "step_00000012.png"
    read, text = opened(sample_path(tmp_path, 12))
    assert text == {"caption": "four tiles, ü"}
    for i in range(4):
        top, left = 3 + 19 * (i // 2), 3 + 19 * (i % 2)
        tile = read[top : top + 16, left : left + 16]
        for dy, dx in ((0, 0), (1, 1)):  # every pixel is 2 × 2, every channel the same
            np.testing.assert_array_equal(tile[dy::2, dx::2], np.repeat(levels[i], 3, -1))
    assert os.listdir(tmp_path / "samples") == ["step_00000012.png"]


def test_grid_shows_what_is_not_a_number_and_clips():
    images = np.zeros((1, 2, 2, 3), np.float32)
    images[0, 0, 0, 1], images[0, 0, 1, 0], images[0, 1, 0], images[0, 1, 1] = np.nan, np.inf, 1e30, -7
    picture = grid(images, pad=0, scale=1)
    np.testing.assert_array_equal(picture, [[[255, 0, 255]] * 2, [[255] * 3, [0] * 3]])
    assert grid(jnp.zeros((3, 8, 8, 1), jnp.bfloat16)).shape == (2 * 242 + 2, 2 * 242 + 2, 3)  # a row of 480 and gaps
    assert grid(np.zeros((300, 24, 12, 1), np.float32)).shape == (17 * 50 + 2, 18 * 26 + 2, 3)  # 48 pixels high


def test_strip_has_a_row_for_each_sample_and_both_ends():
    steps, n = 30, 2
    trajectory = np.empty((steps, n, 1, 1, 1), np.float32)
    trajectory[:] = np.linspace(-1, 1, steps)[:, None, None, None, None]
    trajectory[:, 1] *= 0.5
    picture = strip(trajectory, columns=5, pad=0, scale=1)[..., 0]
    expected = np.linspace(-1, 1, steps)[np.rint(np.linspace(0, 29, 5)).astype(int)]
    np.testing.assert_array_equal(picture, np.rint((expected * [[1], [0.5]] + 1) * 127.5))
    noise = np.random.default_rng(0).normal(size=(1, 4, 16, 16, 1))
    scaled = strip(np.concatenate([80 * noise, 0.5 * noise]), pad=0, scale=1)
    levels, counts = np.unique(scaled[:, :16], return_counts=True)
    assert len(levels) > 200 and counts[[0, -1]].sum() < 0.5 * counts.sum()  # noise of level 80 is not black and white


@pytest.mark.parametrize("images", [np.zeros((2, 8, 8)), np.zeros((0, 8, 8, 1)), np.zeros((2, 8, 8, 2))])
def test_pictures_refuse(images, tmp_path):
    with pytest.raises(ValueError, match="images have shape"):
        grid(images)
    with pytest.raises(ValueError, match="uint8"):
        grid(np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(ValueError, match="trajectory"):
        strip(np.zeros((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="uint8"):
        save_png(tmp_path / "x.png", np.zeros((4, 4)))


def test_scatter_draws_points_where_they_are():
    points = np.array([[1.0, 0.5], [-1.0, -0.5], [np.nan, 0.0], [9.0, 0.0]])
    picture = scatter(points, np.array([0, 1, 0, 0]), limit=2.0, size=400).astype(int)
    margin, inner = 36, 328  # nine hundredths of the side

    def at(x, y):
        return picture[round(margin + (1 - y / 2) / 2 * inner), round(margin + (x / 2 + 1) / 2 * inner)]

    assert np.abs(at(1.0, 0.5) - (0x2F, 0x6F, 0xDE)).max() < 8
    assert np.abs(at(-1.0, -0.5) - (0xE8, 0x74, 0x3B)).max() < 8
    assert at(0.5, -1.2).min() == 255  # nothing there
    plain = scatter(points[:2], np.array([0, 1]), limit=2.0, size=400)
    changed = np.argwhere((plain != picture).any(-1))
    assert len(changed) and changed[:, 0].max() < margin  # the two bad points are only counted, above the frame
    assert scatter_strip(np.stack([50 * points[:2], points[:2]])).shape == (240, 3 * 240, 3)
    with pytest.raises(ValueError, match="one label a point"):
        scatter(points, np.zeros(3, int))
