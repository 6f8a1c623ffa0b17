"""The embedded default: the 1797 handwritten digits of 8x8 pixels that come with scikit-learn."""

import importlib.metadata

import numpy as np

from diffax.data.dataset import Dataset, in_memory

_SPLITS = ("train", "test", "all")
_TEST_SHARE = 0.2
_SPLIT_SEED = 1797  # the split is part of the data set: it never depends on a run's seed


def digits(split: str = "train") -> Dataset:
    """UCI's optical digits, x0 uint8 [8, 8, 1] with the 17 gray levels 0 (paper) .. 16 (ink), ten classes.

    Args:
      split: "train" (1438 images), "test" (359) or "all" (1797). Train and test are a fixed stratified split, four to
        one in every class, so that evaluation data are held out whatever the seed of the run.

    Raises:
      ValueError: unknown split.

    Source: Alpaydin and Kaynak 1998, UCI Machine Learning Repository, doi:10.24432/C50P49 (its test part).
    """
    if split not in _SPLITS:
        raise ValueError(f"split={split!r}: digits has the splits {', '.join(_SPLITS)}")
    x0, label = _arrays()
    if split != "all":
        rows = np.flatnonzero(_held_out(label) == (split == "test"))
        x0, label = x0[rows], label[rows]
    return Dataset(in_memory(x0=x0, label=label), shape=(8, 8, 1), num_classes=10, levels=17)


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    # Importing sklearn.datasets takes about a second, most of it scipy.stats; its table alone takes milliseconds.
    table = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    try:
        rows = np.loadtxt(str(table), delimiter=",", dtype=np.uint8)
    except OSError:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        rows = np.column_stack([bunch.data, bunch.target]).astype(np.uint8)
    return rows[:, :64].reshape(-1, 8, 8, 1), rows[:, 64].astype(np.int32)


def _held_out(label: np.ndarray) -> np.ndarray:
    """True for the test part: in every class, the fifth of the examples that drew the smallest numbers."""
    draw = np.random.Philox(_SPLIT_SEED).random_raw(len(label))
    held_out = np.zeros(len(label), bool)
    for digit in np.unique(label):
        rows = np.flatnonzero(label == digit)
        held_out[rows[np.argsort(draw[rows])][: round(_TEST_SHARE * len(rows))]] = True
    return held_out
