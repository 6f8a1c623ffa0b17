"""What samples are wanted of: their classes, prompts and other conditions."""

import functools
import logging
from typing import Any

import numpy as np

from diffax import data
from diffax.build import Experiment, make
from diffax.data.embeddings import Embedded
from diffax.data.text import FIRST, UNKNOWN

_log = logging.getLogger(__name__)


def conditions(experiment: Experiment, n: int) -> dict[str, np.ndarray]:
    """The conditions of n samples, [n, ...] each.

    Classes are those of `sample.labels` in turn, or all; texts those of `sample.prompts` in turn, or the data set's.
    What cannot be asked for in words is taken from the first examples.

    Raises:
        ValueError: a label out of range; labels or prompts for a network that is told none.
    """
    _check(experiment)
    options, dataset = experiment.config["sample"], experiment.dataset
    found = {}
    if "label" in experiment.nulls:
        labels = options["labels"] or range(dataset.num_classes)
        found["label"] = np.resize(np.asarray(labels, np.int32), n)
    if dataset.tokenizer is not None and "text" in experiment.nulls:
        texts = options["prompts"] or dataset.prompts or ("",)
        tokens = data.encode_all(dataset.tokenizer, texts)
        _warn(dataset.tokenizer, texts, tokens)
        found["text"] = tokens[np.arange(n) % len(tokens)]
    rest = [name for name in experiment.nulls if name not in found]
    examples: Any = data.examples(dataset, np.arange(n) % len(dataset.source)) if rest else {}
    return found | {name: examples[name] for name in rest}


def evaluated(experiment: Experiment, n: int | None = None) -> dict[str, np.ndarray]:
    """The conditions of the `eval.n` samples of an evaluation, or its first n: of `held_out`, or as other samples."""
    options = experiment.config["eval"]
    n = options["n"] if n is None else n
    dataset = held_out(experiment, n)
    if dataset is None:
        return conditions(experiment, n)
    examples = data.examples(dataset, np.arange(n) // options["each"])
    return {name: examples[name] for name in experiment.nulls}


def held_out(experiment: Experiment, n: int) -> data.Dataset | None:
    """The data set's split `eval.conditions`; None if none is named, or nothing of it would be told.

    Raises:
        ValueError: no such split, or one with too few examples for n samples.
    """
    options = experiment.config["eval"]
    split = options["conditions"]
    if not split or not experiment.nulls:
        return None
    dataset = make("data", {**experiment.config["data"], "split": split}, "eval.conditions")
    if len(dataset.source) * options["each"] < n:
        raise ValueError(f"eval.n: {n} is not allowed, {split!r} has {len(dataset.source)} examples; give fewer")
    return dataset


def negative(experiment: Experiment) -> dict[str, np.ndarray]:
    """What guidance leads away from, of one example: nothing, or `sample.negative_prompt`."""
    text = experiment.config["sample"]["negative_prompt"]
    if not text or "text" not in experiment.nulls:
        return experiment.nulls
    tokenizer = experiment.dataset.tokenizer
    tokens = data.encode(tokenizer, text)
    _warn(tokenizer, [text], tokens[None])
    return {**experiment.nulls, "text": tokens}


def captions(experiment: Experiment, cond: dict[str, np.ndarray]) -> list[str]:
    """The texts of samples, as the network read them; [] for a network that reads none."""
    tokenizer = experiment.dataset.tokenizer
    return [] if tokenizer is None or "text" not in cond else [data.decode(tokenizer, row) for row in cond["text"]]


def described(experiment: Experiment, x: np.ndarray, cond: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Samples, with all that is known of them: x0, the conditions that they were drawn under, a text's caption."""
    texts = captions(experiment, cond)
    return {"x0": x, **cond, **({"caption": np.asarray(texts)} if texts else {})}


def _warn(tokenizer, texts, tokens):
    if isinstance(tokenizer, Embedded):
        return
    for text, row in zip(texts, tokens):
        if UNKNOWN in row:
            _warn_once(tokenizer, text[:60], data.decode(tokenizer, row)[:120])


@functools.cache  # conditions are asked for before compilation, and for every picture
def _warn_once(tokenizer, text, read):
    known = [data.decode(tokenizer, [token]) for token in range(FIRST, min(tokenizer.size, FIRST + 100))]
    more = "" if FIRST + len(known) == tokenizer.size else " ..."
    known = " ".join(word for word in known if word.isalnum())
    _log.warning("the prompt %r is read as %r; words that are known: %s%s", text, read, known, more)


def _check(experiment):
    options, count = experiment.config["sample"], experiment.dataset.num_classes
    labels, negative = options["labels"], options["negative_prompt"]
    if labels and "label" not in experiment.nulls:
        raise ValueError(f"sample.labels: {labels} given, but the network has no classes; leave them out")
    for label in labels:
        if not (isinstance(label, int) and 0 <= label < count):
            raise ValueError(f"sample.labels: {label} is not allowed, expected a class from 0 to {count - 1}")
    if "text" in experiment.nulls and experiment.dataset.tokenizer is not None:
        return
    for field, texts in {"prompts": options["prompts"], "negative_prompt": (negative,) if negative else ()}.items():
        if texts:
            raise ValueError(f"sample.{field}: {texts[0][:60]!r} given, but the network reads no text; leave it out")
