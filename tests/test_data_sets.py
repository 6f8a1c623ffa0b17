"""The data sets that need no files: the digits, fake images, the mixture."""

import importlib.metadata
import math
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from diffax import data


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = data.digits("all")
    everything = dataset.source.take(np.arange(1797))
    np.testing.assert_array_equal(everything["x0"][..., 0], bunch.images)
    np.testing.assert_array_equal(everything["label"], bunch.target)
    assert everything["x0"].max() == dataset.levels - 1
    # Upright and not mirrored: 7 has its bar on top, 6 its bowl below and open to the right above it.
    mean = {digit: everything["x0"][everything["label"] == digit, ..., 0].mean(axis=0) for digit in (6, 7)}
    assert mean[7][:2].sum() > 1.5 * mean[7][-2:].sum()
    assert mean[6][1:4, :4].sum() > 2 * mean[6][1:4, 4:].sum()


def test_digits_without_the_table_come_from_scikit_learn_itself(monkeypatch):
    expected = data.digits("train").source.take(np.arange(1438))
    moved = pathlib.Path("moved", "elsewhere")
    monkeypatch.setattr(importlib.metadata.Distribution, "locate_file", lambda *_: moved, raising=False)
    monkeypatch.setattr(importlib.metadata.PathDistribution, "locate_file", lambda *_: moved)
    fallen_back = data.digits("train").source.take(np.arange(1438))
    np.testing.assert_array_equal(fallen_back["x0"], expected["x0"])
    np.testing.assert_array_equal(fallen_back["label"], expected["label"])


def test_digits_split_is_stratified_and_complete():
    parts = {split: data.digits(split).source for split in ("train", "test", "all")}
    rows = {split: source.take(np.arange(len(source))) for split, source in parts.items()}
    count = {split: np.bincount(rows[split]["label"]) for split in rows}
    np.testing.assert_array_equal(count["train"] + count["test"], count["all"])
    assert np.abs(count["test"] - 0.2 * count["all"]).max() <= 0.5
    images = {split: sorted(x0.tobytes() for x0 in rows[split]["x0"]) for split in rows}
    assert sorted(images["train"] + images["test"]) == images["all"]
    assert not set(images["train"]) & set(images["test"])


def test_fake_images_depend_on_the_index_alone():
    short, long = data.fake(n=3, shape=(5, 7, 3)), data.fake(n=2000, shape=(5, 7, 3))
    for i in range(3):
        np.testing.assert_array_equal(short.source[i]["x0"], long.source[i]["x0"])
    values = data.examples(long, range(2000))["x0"]
    counts = np.bincount(np.rint((values + 1) / 2 * 255).astype(int).ravel(), minlength=256)
    expected = values.size / 256
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)
    assert len({x0.tobytes() for x0 in values}) == 2000
    assert long.source[123]["label"] == 3
    assert not np.array_equal(data.fake(seed=1).source[0]["x0"], data.fake(seed=2).source[0]["x0"])


def test_the_mixture_has_the_moments_that_it_states():
    n = 40_000
    points = data.examples(data.mixture(n=n, modes=8, seed=5), range(n))
    means, std, weights = data.ring(8)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 0.8)
    assert np.abs(points["x0"]).max() < 1.1 and points["x0"].dtype == np.float32
    for mode in range(8):
        mine = points["x0"][points["label"] == mode].astype(np.float64)
        assert abs(len(mine) - n * weights[mode]) < 4 * math.sqrt(n * weights[mode])
        assert np.abs(mine.mean(axis=0) - means[mode]).max() < 4.5 * std / math.sqrt(len(mine))
        assert abs(np.sqrt(((mine - means[mode]) ** 2).mean()) / std - 1) < 4.5 / math.sqrt(4 * len(mine)) + 1e-3


def test_what_a_data_set_needs_is_imported_when_it_is_used():
    code = """
        import sys
        from diffax import data
        data.digits(); data.fake(); data.mixture()
        print([name for name in ("grain", "sklearn", "scipy", "PIL", "tensorflow_datasets") if name in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.digits("valid"), "split='valid'.*train, test, all"),
        (lambda: data.fake(n=0), "n=0"),
        (lambda: data.fake(shape=(4, -1, 3)), r"shape\[1\]=-1"),
        (lambda: data.fake(num_classes=-1), "num_classes=-1"),
        (lambda: data.mixture(n=-5), "n=-5"),
        (lambda: data.mixture(modes=0), "modes=0"),
        (lambda: data.in_memory(x0=np.zeros(3), label=np.zeros(2)), "'x0': 3, 'label': 2"),
    ],
)
def test_bad_data_sets_are_refused(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
