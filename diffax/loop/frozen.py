"""The text transformer of a trained run, frozen, as the encoder of others."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffax import data
from diffax.loop import modes, sampling, workdir

_ROWS = 64  # texts at once: one executable, whatever their number


def of_run(folder: str | os.PathLike) -> data.Encoder:
    """What the text transformer of a run says of a text, by the averaged parameters of its newest checkpoint.

    Raises:
        ValueError: no run there, or one whose network has no transformer for tokens.
    """
    experiment, state = modes.restored(workdir.read_config(folder), folder)
    reader, tokenizer = getattr(experiment.network, "text", None), experiment.dataset.tokenizer
    params = sampling.chosen_params(state, experiment.config).get("text")
    if params is None or not isinstance(tokenizer, data.Tokenizer):
        raise ValueError(f"folder={str(folder)!r}: the network of this run reads no tokens; give one that does")
    params = jax.device_get(params)
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in jax.tree.leaves(params))).hexdigest()
    embed = partial(_embedded, reader=reader, params=params, tokenizer=tokenizer)
    return data.Encoder(f"{Path(folder).resolve().name}-{digest[:12]}", tokenizer.length, reader.width, embed)


def _embedded(texts: Sequence[str], reader: Any, params: Any, tokenizer: data.Tokenizer) -> np.ndarray:
    found = []
    for first in range(0, len(texts), _ROWS):
        some = list(texts[first : first + _ROWS])
        tokens = data.encode_captions(tokenizer, some + [""] * (_ROWS - len(some)))
        found.append(np.asarray(_read(reader, params, tokens))[: len(some)])
    return np.concatenate(found)


@partial(jax.jit, static_argnums=0)
def _read(reader, params, tokens):
    text = reader.apply({"params": params}, tokens)
    return jax.numpy.where(text.mask[..., None], text.tokens, 0.0)
