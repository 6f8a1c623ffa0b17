"""Metrics against closed forms: the Fréchet distance of known Gaussians, the classifier on known images, the card."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from diffax.metrics import (
    agreement,
    array_hash,
    card,
    check_needs,
    frechet_distance,
    frechet_floor,
    frechet_from_statistics,
    gaussian_statistics,
    versions,
)


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def covariance(d, rank=None, seed=0):
    root = np.random.default_rng(seed).normal(size=(d, rank or d + 3))
    return root @ root.T


def test_frechet_of_one_dimension():
    # N(m, s²) against N(n, r²): (m − n)² + (s − r)²
    a, b = (np.array([0.3]), np.array([[4.0]])), (np.array([-1.0]), np.array([[0.25]]))
    assert frechet_from_statistics(a, b) == pytest.approx(1.3**2 + 1.5**2, rel=1e-14)


@pytest.mark.parametrize("basis", [np.eye(6), rotation(6)], ids=["diagonal", "commuting"])
def test_frechet_of_commuting_covariances(basis):
    a, b = np.array([1.0, 2.0, 3.0, 0.5, 0.0, 0.0]), np.array([2.0, 0.1, 3.0, 0.0, 4.0, 0.0])
    shift = np.arange(6.0)
    distance = frechet_from_statistics((shift, basis * a @ basis.T), (0 * shift, basis * b @ basis.T))
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert distance == pytest.approx(expected, rel=1e-12)


def test_frechet_of_two_by_two():
    # tr √M = √(tr M + 2 √det M) for 2 × 2 matrices; M = A·B has the eigenvalues of A^½ B A^½
    a, b = covariance(2, seed=1), covariance(2, seed=2)
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * overlap
    assert frechet_from_statistics((np.zeros(2), a), (np.zeros(2), b)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [400, 7], ids=["many", "fewer than features"])
def test_frechet_identities(n):
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(n, 20)) @ covariance(20, seed=1), 1 + generator.normal(size=(n + 5, 20))
    scale = np.trace(gaussian_statistics(a)[1])
    turn = rotation(20)
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-10)
    assert frechet_distance(a, a) <= 1e-12 * scale
    assert frechet_distance(a, a + 2.0) == pytest.approx(20 * 4.0, rel=1e-10)  # a shift costs its square


def test_frechet_of_orthogonal_singular_covariances():
    # supports at right angles do not overlap: the distance is the sum of both variances
    a, b = np.zeros((50, 10)), np.zeros((60, 10))
    generator = np.random.default_rng(0)
    a[:, :4], b[:, 4:7] = generator.normal(size=(50, 4)), generator.normal(size=(60, 3))
    (mean_a, cov_a), (mean_b, cov_b) = gaussian_statistics(a), gaussian_statistics(b)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_gaussian_samples_reaches_the_closed_form():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(200_000, 3)), 0.5 + 2 * generator.normal(size=(200_000, 3))
    assert frechet_distance(a, b) == pytest.approx(3 * (0.25 + 1.0), rel=0.01)


def test_statistics_are_numpys():
    features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    mean, cov = gaussian_statistics(features)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-12)


def test_frechet_refuses():
    good = np.random.default_rng(0).normal(size=(5, 3))
    for bad, word in ((good[:1], "n ≥ 2"), (good[:, 0], r"\(5,\)"), (np.where(good > 1, np.nan, good), "not finite")):
        with pytest.raises(ValueError, match=word):
            frechet_distance(bad, good)
    with pytest.raises(ValueError, match="3 features against 2"):
        frechet_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="n=1"):
        frechet_floor(good, 1)


def test_floor_falls_with_the_number_of_samples_and_repeats():
    real = np.random.default_rng(0).normal(size=(2000, 8))
    floors = [frechet_floor(real, n, seed=1) for n in (50, 200, 1000, 5000)]
    assert floors == sorted(floors, reverse=True) or floors[2] == floors[3]
    assert floors[0] > 5 * floors[2] and floors[2] == floors[3]  # beyond half of the data, halves are compared
    assert frechet_floor(real, 700, seed=1) != frechet_floor(real, 900, seed=1)
    assert frechet_floor(real, 200, seed=1) == floors[1] != frechet_floor(real, 200, seed=2)


def test_floor_follows_sampling_theory():
    # one dimension, unit variance: E (Δmean)² = 1/k + 1/(N−k), E (Δstd)² = half of that, to first order
    real = np.random.default_rng(0).normal(size=(1000, 1))
    k, rest = 250, 750
    assert frechet_floor(real, k, draws=2000) == pytest.approx(1.5 * (1 / k + 1 / rest) * real.var(), rel=0.15)


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images / 8 - 1).astype(np.float32)[order, ..., None], data.target[order]


def test_agreement_on_held_out_digits(digits):
    images, labels = digits
    share = agreement(images[:1200], labels[:1200], images[1200:], labels[1200:])
    assert share >= 0.975
    shifted = agreement(images[:1200], labels[:1200], images[1200:], (labels[1200:] + 1) % 10)
    assert shifted <= 1 - share  # an image is read as one class only


def test_agreement_counts_exactly(digits):
    images, labels = digits
    asked, shown = labels[:100].copy(), images[:100].copy()
    asked[:7] = (asked[:7] + 3) % 10
    shown[7:12] = np.nan
    assert agreement(images, labels, shown, asked) == pytest.approx(0.88, abs=1e-12)
    assert agreement(images, labels, 3.0 * np.sign(shown[12:]), asked[12:]) == agreement(
        images, labels, np.sign(shown[12:]), asked[12:]
    )  # clipped as a picture is
    assert agreement(images, labels, shown[7:12], asked[7:12]) == 0.0


def test_agreement_refuses(digits):
    images, labels = digits
    with pytest.raises(ValueError, match="equal shapes"):
        agreement(images, labels, images[:5, :4], labels[:5])
    with pytest.raises(ValueError, match="one integer label"):
        agreement(images, labels, images[:5], labels[:4])
    with pytest.raises(ValueError, match="two classes"):
        agreement(images[:5], 0 * labels[:5], images[:5], labels[:5])


def test_array_hash_is_of_the_values():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [np.asfortranarray(array), array.astype(">f4"), jnp.asarray(array), np.repeat(array, 2, 1)[:, ::2]]
    assert {array_hash(other) for other in same} == {array_hash(array)}
    others = [array.astype(np.float64), array.reshape(3, 2), array + np.float32(1e-7), jnp.asarray(array, jnp.bfloat16)]
    assert len({array_hash(other) for other in [array, *others]}) == 5
    # sha256 of b"uint8 (3,)\nabc", from the command line
    assert (
        array_hash(np.frombuffer(b"abc", np.uint8))
        == "sha256:3f77b8c865f32ad80e54530b148f0aba6012dd8888d233077d78892727e77bc7"
    )


def test_card_holds_what_a_score_depends_on():
    import diffax

    made = card(
        step=3,
        scores={"frechet": 1.5},
        features="pixels",
        features_hash="sha256:0",
        resize=None,
        samples=10,
        reference="digits",
        reference_hash="sha256:1",
        ema=0.999,
        sampler={"name": "heun", "churn": 0.0},
        seed=7,
        seconds=1.5,
    )
    assert json.loads(json.dumps(made)) == made
    assert made["versions"] == versions() and made["seconds"] == 1.5
    assert versions()["diffax"] == diffax.__version__ and versions()["numpy"] == np.__version__
    assert versions()["device"].startswith("8 x cpu")


def test_frechet_of_one_rank_less():
    # singular but for rounding: the distance from itself is zero to rounding, whichever factor is taken
    for seed in range(30):
        cov = covariance(6, rank=5, seed=seed)
        assert frechet_from_statistics((np.zeros(6), cov), (np.zeros(6), 4 * cov)) == pytest.approx(
            np.trace(cov), rel=1e-12
        )


def test_examples_that_a_metric_is_too_costly_for_are_refused():
    check_needs(["pixel_frechet"], (64, 64, 3), 2, 4)
    check_needs(["pixel_diversity"], (128, 128, 3), 2, 4)
    with pytest.raises(ValueError, match=r"^eval\.metrics: 'pixel_frechet' takes matrices of 19 GB .* 49152 values"):
        check_needs(["pixel_diversity", "pixel_frechet"], (128, 128, 3), 2, 4)


def test_pixel_diversity_is_the_distance_of_two_samples_of_a_condition():
    from diffax.metrics import pixel_diversity

    rng = np.random.default_rng(0)
    captions = np.array(["a", "b", "a", "b", "b", "once"])
    x = rng.standard_normal((6, 2, 2, 1))
    squares = []
    for name in "ab":
        group = x[captions == name].reshape((captions == name).sum(), -1)
        pairs = [((p - q) ** 2).mean() for i, p in enumerate(group) for q in group[:i]]
        squares.append(np.mean(pairs))
    found = pixel_diversity({}, {"x0": x, "caption": captions}, 0)["pixel_diversity"]
    assert found == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-12)
    assert pixel_diversity({}, {"x0": np.ones((4, 3)), "label": np.zeros(4, int)}, 0)["pixel_diversity"] == 0.0
    with pytest.raises(ValueError, match=r"set eval\.each"):
        pixel_diversity({}, {"x0": x, "label": np.arange(6)}, 0)
