"""The metric card: a score together with everything that it depends on, so that it can be reproduced or doubted."""

import hashlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np


def card(
    *,
    step: int,
    scores: Mapping[str, float],
    features: str,
    features_hash: str,
    resize: str | None,
    samples: int,
    reference: str,
    reference_hash: str,
    ema: str | float | None,
    sampler: Mapping[str, Any],
    seed: int,
    **more: Any,
) -> dict[str, Any]:
    """The dict that an evaluation writes to ``eval_<step>.json``; `versions` are added.

    Args:
      step: training step of the parameters.
      scores: name -> score. By convention ``<name>_floor`` is what real data score in ``<name>``.
      features: what the scores are computed on: "pixels", or a network's name and layer.
      features_hash: `array_hash` of that network's weights; of the reference's features when there are none.
      resize: filter that brought images to the features' size; None when no image was resized.
      samples: number of samples.
      reference: the real data, as "digits, all, 1797 images".
      reference_hash: `array_hash` of the real data.
      ema: which average of the parameters was used (its decay or name); None for the parameters themselves.
      sampler: name and options, guidance and grid included.
      seed: seed that the samples' keys come from.
      more: further entries (command, wall seconds, ...).
    """
    return dict(
        step=step,
        scores=dict(scores),
        features=features,
        features_hash=features_hash,
        resize=resize,
        samples=samples,
        reference=reference,
        reference_hash=reference_hash,
        ema=ema,
        sampler=dict(sampler),
        seed=seed,
        versions=versions(),
        **more,
    )


def array_hash(array: np.ndarray) -> str:
    """``sha256:`` and 64 hexadecimal digits of an array's shape, dtype and little-endian values.

    Equal for equal arrays on every machine, whatever their layout in memory.
    """
    array = np.asarray(array)
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(array.shape)
    head = f"{array.dtype.name} {array.shape}\n".encode()
    return f"sha256:{hashlib.sha256(head + array.tobytes()).hexdigest()}"


def versions() -> dict[str, Any]:
    """Versions of Python and of the packages that decide a result, and the devices that JAX computes on."""
    import jax

    import diffax

    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "diffax": diffax.__version__,
        **{name: _version(name) for name in names},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{jax.device_count()} x {device.platform} ({device.device_kind})",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
