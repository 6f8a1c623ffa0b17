"""The text transformer of a trained run, frozen, as the encoder of others."""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffax import build, data, manifest
from diffax.loop import modes, sampling, workdir

_ROWS = 64  # texts at once: one executable, whatever their number


def of_run(folder: str | os.PathLike, step: int | None = None) -> data.Encoder:
    """What the text transformer of a run says of a text, by its parameters at a step, averaged as by default.

    They stay the same when the run goes on, as long as it keeps that checkpoint (`train.keep_every`).

    Raises:
        ValueError: no run there, no `step` or one that is not there, or a network without a transformer for tokens.
    """
    config, there = workdir.read_config(folder), manifest.finished(Path(folder) / "checkpoints")
    if step not in there:
        asked = "no step is named" if step is None else f"step={step} is not there"
        raise ValueError(f"folder={str(folder)!r}: {asked}; give a step of {', '.join(map(str, there)) or 'none yet'}")
    config = {**config, "sample": {**config["sample"], "ema": "", "width": 0.0}}  # a later launch may ask for others
    experiment, state = modes.restored(config, folder, step)
    reader, tokenizer = getattr(experiment.network, "text", None), experiment.dataset.tokenizer
    params = build.parts(experiment, sampling.chosen_params(state, config))[0].get("text")
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
