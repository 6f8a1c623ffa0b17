"""The Fréchet distance between Gaussians fitted to features, and what real data score against real data."""

import numpy as np

Statistics = tuple[np.ndarray, np.ndarray]  # mean [d] and covariance [d, d], float64


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between two sets of features; "FID" when they are the Inception network's.

        |mean_a − mean_b|² + tr(A) + tr(B) − 2·tr((A^½ B A^½)^½),   A, B the covariances

    It depends on the number of samples (fewer give more): compare equal numbers, and see `frechet_floor`.

    Args:
      a: features [n, d], any n ≥ 2, also n ≤ d.
      b: features [m, d].

    Returns:
      The distance, in squared units of the features, ≥ 0.

    Raises:
      ValueError: wrong shapes, fewer than two rows, features that are not finite.

    Source: arXiv:1706.08500, Eq. 6; for the closed form, Dowson and Landau 1982.
    """
    return _distance(*_fitted(a), *_fitted(b))


def frechet_from_statistics(a: Statistics, b: Statistics) -> float:
    """`frechet_distance` from (mean [d], covariance [d, d]) of each side, as reference statistics are published.

    With A = L Lᵀ and B = M Mᵀ the trace of (A^½ B A^½)^½ is the sum of the singular values of Lᵀ M: right for singular
    covariances, where a square root of A·B is not, and symmetric in a and b.
    """
    (mean_a, cov_a), (mean_b, cov_b) = _checked(a), _checked(b)
    return _distance(mean_a, _factor(cov_a), mean_b, _factor(cov_b))


def gaussian_statistics(features: np.ndarray) -> Statistics:
    """Mean [d] and unbiased covariance [d, d] (divided by n − 1) of features [n, d], in float64."""
    mean, centered = _centered(features)
    return mean, centered.T @ centered / (len(centered) - 1)


def frechet_floor(reference: np.ndarray, n: int, seed: int = 0, *, draws: int = 4) -> float:
    """What real data score: the mean distance between n real examples and the others, which are disjoint from them.

    Of N examples, k = min(n, N // 2) are drawn at random without replacement and compared with the remaining N − k;
    this is repeated ``draws`` times. It is the figure beside a score of n samples against all N examples. To first
    order the sampling error of such a distance goes with 1/k + 1/(N − k), of the score with 1/n + 1/N: the floor is
    on the high side by the difference, so a perfect model scores at the floor or a little below it.

    Args:
      reference: features [N, d] of real data, N ≥ 4.
      n: number of samples in the score that this stands beside.
      seed: seed of the random draws.
      draws: number of draws that are averaged.

    Raises:
      ValueError: n < 2, N < 4, and as `frechet_distance`.
    """
    reference = np.asarray(reference)
    if n < 2 or len(reference) < 4:
        raise ValueError(f"n={n} of {len(reference)} real examples: the floor needs n ≥ 2 and at least 4 examples")
    k, generator = min(n, len(reference) // 2), np.random.default_rng(seed)
    orders = [generator.permutation(len(reference)) for _ in range(draws)]
    return float(np.mean([frechet_distance(reference[order[:k]], reference[order[k:]]) for order in orders]))


def _checked(statistics: Statistics) -> Statistics:
    mean, cov = (np.asarray(part, np.float64) for part in statistics)
    if mean.ndim != 1 or cov.shape != (mean.size, mean.size):
        raise ValueError(f"mean {mean.shape} and covariance {cov.shape}: [d] and [d, d] are needed")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError("a mean or covariance is not finite")
    return mean, (cov + cov.T) / 2


def _distance(mean_a, factor_a, mean_b, factor_b):
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"{mean_a.size} features against {mean_b.size}: both sides need the same feature extractor")
    overlap = np.linalg.svd(factor_a.T @ factor_b, compute_uv=False).sum()
    distance = np.sum((mean_a - mean_b) ** 2) + np.sum(factor_a**2) + np.sum(factor_b**2) - 2 * overlap
    return max(float(distance), 0.0)


def _centered(features):
    features = np.asarray(features)
    if features.ndim != 2 or len(features) < 2 or features.shape[1] < 1:
        raise ValueError(f"features have shape {features.shape}: [n, d] with n ≥ 2 is needed")
    features = features.astype(np.float64, copy=False)
    broken = int((~np.isfinite(features)).any(axis=1).sum())
    if broken:
        raise ValueError(f"{broken} of {len(features)} feature rows are not finite")
    mean = features.mean(axis=0)
    return mean, features - mean


def _fitted(features):
    """(mean, L) of features, L Lᵀ their covariance; of fewer rows than columns, the rows themselves are a factor."""
    mean, centered = _centered(features)
    n, d = centered.shape
    return mean, centered.T / np.sqrt(n - 1) if n <= d else _factor(centered.T @ centered / (n - 1))


def _factor(cov):
    """L [d, rank] with L Lᵀ = cov; where it is singular, from the eigenvalues that are more than rounding noise."""
    noise = len(cov) * np.finfo(np.float64).eps
    try:
        factor = np.linalg.cholesky(cov)
        pivots = np.square(np.diag(factor))
        if pivots.min() > 1e4 * noise * pivots.max():  # far from what rounding makes of a singular one
            return factor
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(cov)
    real = values > noise * max(values[-1], 0.0)
    return vectors[:, real] * np.sqrt(values[real])
