"""Data sets of TensorFlow Datasets, read without TensorFlow."""

import difflib
import functools
import re
from typing import Any

import numpy as np

from diffax.data.dataset import Dataset, Source, check_integers
from diffax.data.embeddings import Embedded
from diffax.data.folder import square
from diffax.data.text import MOST_PROMPTS, Tokenizer, by_bytes, encode, plain, told

_LEVELS = {"uint8": 256, "uint16": 65536, "bool": 2, "float32": 0}


def tfds(
    dataset: str,
    split: str = "train",
    data_dir: str | None = None,
    image_key: str = "image",
    label_key: str | None = "label",
    size: int | None = None,
    text_key: str | None = None,
    texts: int = 1,
    tokenizer: Tokenizer | Embedded | None = None,
) -> Dataset:
    """A prepared TensorFlow Datasets data set in its array_record format, x0 raw as it is stored.

    Nothing is ever downloaded: a data set that has not been prepared is an error that says how to prepare it.

    Args:
      dataset: "cifar10", "mnist:3.0.1", "cats_vs_dogs", ...
      split: "train", "test", ..., or a part of one: "train[:80%]".
      data_dir: where the prepared data sets are; None = tfds's own default.
      image_key, label_key: the features that become x0 and label; label_key=None for no classes.
      size: images become uint8 [size, size, 3] as in `image_folder`; None leaves them as they are, all of one shape.
      text_key: the feature that becomes text int32 [length]: a text, or a sequence of texts; "captions/text" is the
        feature text of the feature captions. None for no captions.
      texts: a picture with several captions is an example with each of its first `texts`, one after the other.
      tokenizer: of the captions, or `cached` embeddings of a frozen encoder; None = `by_bytes()`, which any text fits
        into, cut after 127 bytes.

    Raises:
      ValueError: unknown name, split or feature; not prepared, or in another format; images of several shapes without
        `size`; a label that is no class, a caption that is no text.
    """
    import tensorflow_datasets

    check_integers(1, texts=texts, **({} if size is None else {"size": size}))
    builder = _builder(tensorflow_datasets, dataset, data_dir)
    records = _records(builder, dataset, split, data_dir)
    shape, levels = _image_facts(builder.info.features, dataset, image_key, size)
    num_classes = _num_classes(builder.info.features, dataset, label_key)
    read = functools.partial(_read, records=records, image_key=image_key, label_key=label_key, size=size)
    facts: dict[str, Any] = dict(shape=shape, num_classes=num_classes, levels=levels)
    if text_key is None:
        return Dataset(Source(len(records), read), **facts)
    _check_text(builder.info.features, dataset, text_key)
    tokenizer = tokenizer or by_bytes()
    facts |= dict(conditions={"text": encode(tokenizer, "")}, tokenizer=tokenizer)
    few = range(min(MOST_PROMPTS, len(records)))
    facts["prompts"] = tuple(dict.fromkeys(_texts(records[i], text_key)[0] for i in few))
    captioned = Source(len(records) * texts, functools.partial(read, text_key=text_key, texts=texts))
    return Dataset(told(captioned, tokenizer), **facts)


def _builder(tensorflow_datasets: Any, name: str, data_dir: str | None) -> Any:
    if re.match(r"\w+:[a-z]", name):
        raise ValueError(
            f"dataset={name!r}: tfds fetches the data sets of other hubs over the network; give one of its own"
        )
    try:
        return tensorflow_datasets.builder(name, data_dir=data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, re.findall(r"^\s*- (\w+)$", str(error), re.MULTILINE))
        hint = f"did you mean {' or '.join(near)}?" if near else "its names are in the catalog of TensorFlow Datasets"
        raise ValueError(f"dataset={name!r}: tfds has no such data set; {hint}") from None
    except Exception as error:  # a version or a configuration that there is not, a malformed name: each its own type
        raise ValueError(f"dataset={name!r}: {_one_line(error)}; give name, name:version or name/config") from None


def _records(builder: Any, name: str, split: str, data_dir: str | None) -> Any:
    """The random-access records of a split, or an error that tells why there are none and what to do."""
    try:
        # Without the argument tfds would also take parquet, of which it reads back only a part of the examples.
        return builder.as_data_source(split, file_format="array_record")
    except Exception as error:
        if not builder.info.initialized:  # is_prepared() prints a warning of its own
            raise ValueError(
                f"dataset={name!r}: not prepared in {builder.data_dir}; prepare it with: {_command(name, data_dir)}"
            ) from None
        formats = sorted(form.value for form in builder.info.available_file_formats())
        if "array_record" not in formats:
            other = f"{data_dir or '~/tensorflow_datasets'}/array_record"
            raise ValueError(
                f"dataset={name!r}: {builder.data_dir} has it as {', '.join(formats)}, only array_record can be read at"
                f" random; set data_dir={other!r} and prepare it there with: {_command(name, other)}"
            ) from None
        splits = ", ".join(builder.info.splits)
        raise ValueError(
            f"split={split!r}: {_one_line(error)}; {name} has the splits {splits}, and parts such as 'train[:80%]'"
        ) from None


def _command(name: str, data_dir: str | None) -> str:
    where = f", data_dir={data_dir!r}" if data_dir else ""
    prepare = f"tfds.builder({name!r}{where}).download_and_prepare(file_format='array_record')"
    needs = "needs the network, and for most image sets `pip install tensorflow`, this once"
    return f'python -c "import tensorflow_datasets as tfds; {prepare}"  ({needs})'


def _image_facts(features: Any, name: str, key: str, size: int | None) -> tuple[tuple[int, ...], int]:
    """(shape, levels) of x0."""
    if key not in features:
        raise ValueError(f"image_key={key!r}: {name} has the features {', '.join(sorted(features))}")
    shape, dtype = features[key].shape, np.dtype(features[key].np_dtype).name
    if dtype not in _LEVELS:
        raise ValueError(f"image_key={key!r}: is of type {dtype}; give a feature of one of {', '.join(_LEVELS)}")
    if size is not None:
        if dtype != "uint8" or len(shape) != 3:
            raise ValueError(f"size={size}: {key!r} is {dtype} of shape {shape}, no 8-bit image; set size=None")
        return (size, size, 3), 256
    if None in shape:
        raise ValueError(
            f"image_key={key!r}: images of {name} differ in shape, {shape}; set size to make them one size"
        )
    return tuple(shape), _LEVELS[dtype]


def _num_classes(features: Any, name: str, key: str | None) -> int:
    if key is None:
        return 0
    if key not in features:
        raise ValueError(f"label_key={key!r}: {name} has the features {', '.join(sorted(features))}; None = no classes")
    if not getattr(features[key], "num_classes", None):
        raise ValueError(f"label_key={key!r}: is {features[key]}, no class label; set label_key=None for no classes")
    return features[key].num_classes


def _check_text(features: Any, name: str, key: str) -> None:
    found = features
    for part in key.split("/"):
        found = getattr(found, "feature", found)  # of a sequence
        if part not in (found if hasattr(found, "keys") else ()):
            raise ValueError(f"text_key={key!r}: {name} has the features {', '.join(sorted(features))}; None = no text")
        found = found[part]
    dtype = getattr(found, "feature", found).np_dtype
    if isinstance(dtype, dict) or np.dtype(dtype).kind != "O":
        raise ValueError(f"text_key={key!r}: is {type(found).__name__}, no text; set text_key=None for no captions")


def _texts(record: Any, key: str) -> list[str]:
    """The captions of a record, at least one: the empty one says nothing."""
    for part in key.split("/"):
        # a sequence of features comes as a dict of sequences, or as a list of dicts
        record = [item[part] for item in record] if isinstance(record, list) else record[part]
    found = [record] if isinstance(record, bytes | str) else list(record)
    texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in found]
    return [plain(text) for text in texts] or [""]


def _read(
    index: int,
    records: Any,
    image_key: str,
    label_key: str | None,
    size: int | None,
    text_key: str | None = None,
    texts: int = 1,
) -> dict[str, Any]:
    index, number = divmod(index, texts)
    record = records[index]
    captions = [] if text_key is None else _texts(record, text_key)
    said = {"caption": captions[number % len(captions)]} if captions else {}
    x0 = np.asarray(record[image_key])
    if size is not None:
        from PIL import Image

        x0 = square(Image.fromarray(x0[..., 0] if x0.shape[-1] == 1 else x0), size)
    if label_key is None:
        return dict(x0=x0, **said)
    if record[label_key] < 0:
        raise ValueError(
            f"label {record[label_key]}: this split has no labels; set label_key=None or take another split"
        )
    return dict(x0=x0, label=np.int32(record[label_key]), **said)


def _one_line(error: Exception) -> str:
    """tfds's own message, without what it was called with and without its manual."""
    message = re.sub(r'^Failed to construct dataset .*?}": ', "", " ".join(str(error).split()))
    return message[:200].rstrip(" .:")
