"""TensorFlow Datasets without TensorFlow and without the network."""

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from diffax import data


def test_tfds_on_mocked_cifar10_without_tensorflow(tmp_path):
    # With the mock, tfds makes random CIFAR-10 examples from the builder's own features.
    code = """
        import sys
        import numpy as np
        import tensorflow_datasets as tfds
        from diffax import data
        with tfds.testing.mock_data(num_examples=6):
            dataset = data.tfds("cifar10", "test")
            raw = [dataset.source[i] for i in range(6)]
            seen = next(data.batches(dataset, batch_size=12, seed=0, step=5))
        assert dataset[1:5] == ((32, 32, 3), 10, 256, ()) and len(dataset.source) == 6
        assert seen["x0"].shape == (12, 32, 32, 3) and np.abs(seen["x0"]).max() <= 1
        back = np.rint((seen["x0"].astype(np.float64) + 1) / 2 * 255).astype(np.uint8)
        key = lambda x0, label: (x0.tobytes(), int(label))
        assert sorted(map(key, back, seen["label"])) == sorted(2 * [key(**example) for example in raw])
        assert "tensorflow" not in sys.modules
        print("all held")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "all held", done.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data set "stripes", written to disk by tfds itself: image i has the constant value 10 i and label i % 3."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")

    class Stripes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = root

        def _info(self):
            image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(num_classes=3)
            wave = tfds.features.Tensor(shape=(2,), dtype=np.float32)
            features = {"image": image, "label": label, "wave": wave, "number": tfds.features.Scalar(np.int64)}
            text = tfds.features.Text()
            features |= {"title": text, "tags": tfds.features.Sequence(text)}
            features |= {"captions": tfds.features.Sequence({"text": text, "id": tfds.features.Scalar(np.int64)})}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

        def _generate_examples(self, n):
            for i in range(n):
                png = io.BytesIO()
                Image.new("RGB", (6, 4), (10 * i,) * 3).save(png, "PNG")
                png.seek(0)
                told = {"title": f"shade {i} é", "tags": ["gray"] * i}
                told |= {"captions": [{"text": f"{n} of {i}", "id": n} for n in range(2)]}
                yield i, {"image": png, "label": i % 3, "wave": np.full(2, i / 8, np.float32), "number": i, **told}

    Stripes(data_dir=root / "good").download_and_prepare(file_format="array_record")
    Stripes(data_dir=root / "other").download_and_prepare(file_format="parquet")
    return root


def test_tfds_reads_what_was_prepared(prepared):
    dataset = data.tfds("stripes", "train", data_dir=str(prepared / "good"), size=4)
    assert dataset[1:5] == ((4, 4, 3), 3, 256, ())
    values = [(int(e["x0"][0, 0, 0]), int(e["x0"].std()), int(e["label"])) for e in dataset.source]
    assert sorted(values) == [(10 * i, 0, i % 3) for i in range(5)]
    part = data.tfds("stripes", "train[:60%]", data_dir=str(prepared / "good"), size=2, label_key=None)
    assert len(part.source) == 3 and part.num_classes == 0
    waves = data.tfds("stripes", data_dir=str(prepared / "good"), image_key="wave")
    assert waves.levels == 0
    for example in waves.source:
        assert int(8 * example["x0"][0]) % 3 == example["label"]


@pytest.mark.parametrize(
    ("key", "texts", "captions"),
    [
        ("title", 1, lambda i: [f"shade {i} é"]),
        ("tags", 1, lambda i: ["gray" if i else ""]),
        ("captions/text", 1, lambda i: [f"0 of {i}"]),
        ("captions/text", 3, lambda i: [f"0 of {i}", f"1 of {i}", f"0 of {i}"]),
    ],
)
def test_tfds_with_captions(prepared, key, texts, captions):
    options = dict(data_dir=str(prepared / "good"), size=4, label_key=None, text_key=key, texts=texts)
    dataset = data.tfds("stripes", "train", **options)
    assert len(dataset.source) == 5 * texts and dataset.nulls["text"].sum() == 1
    for at in range(0, 5 * texts, texts):
        told = [dataset.source[at + n] for n in range(texts)]
        assert len({example["x0"].tobytes() for example in told}) == 1
        shade = int(told[0]["x0"][0, 0, 0]) // 10
        assert [data.decode(dataset.tokenizer, example["text"]) for example in told] == captions(shade)
    assert set(dataset.prompts) == {captions(i)[0] for i in range(5)}


def test_captions_that_are_too_long_warn_once_and_are_embedded_at_once(prepared, tmp_path, caplog):
    options = dict(data_dir=str(prepared / "good"), size=4, label_key=None, text_key="title")
    dataset = data.tfds("stripes", "train", **options, tokenizer=data.by_bytes(6))
    for _ in range(2):
        assert all(data.decode(dataset.tokenizer, example["text"]) == "shade" for example in dataset.source)
    assert len(caplog.records) == 1 and "have more than 5 tokens" in caplog.text
    asked = []

    def embed(texts):
        asked.append(len(texts))
        return np.stack([np.full((2, 1), len(text)) for text in texts])

    dataset = data.tfds("stripes", "train", **options, tokenizer=data.cached(data.Encoder("a", 2, 1, embed), tmp_path))
    batch = dataset.source.take(np.arange(5))
    assert (batch["text"] == len("shade 0 é")).all() and asked == [5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar1", "cifar1.*did you mean cifar10"),
        ("huggingface:mnist", "network"),
        ("cifar10:1.0.0", "cifar10:1.0.0.*3.0.2"),
        ("cifar10/pink", "pink"),
    ],
)
def test_names_that_there_are_not_are_refused(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as error:
        data.tfds(name, data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_an_unprepared_data_set_says_how_to_prepare_it_and_prepares_nothing(tmp_path):
    command = "tfds.builder('cifar10', data_dir='{}').download_and_prepare(file_format='array_record')"
    with pytest.raises(ValueError) as error:
        data.tfds("cifar10", data_dir=str(tmp_path))
    assert 'python -c "import tensorflow_datasets as tfds; ' + command.format(tmp_path) in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(split="valid"), "split='valid'.*train, test"),
        (dict(split="train["), r"split='train\['"),
        (dict(size=None), r"differ in shape, \(None, None, 3\); set size"),
        (dict(size=-1), "size=-1"),
        (dict(image_key="picture"), "picture.*captions, image, label, number, tags, title, wave"),
        (dict(image_key="wave"), "no 8-bit image"),
        (dict(image_key="number", size=None), "int64"),
        (dict(label_key="class"), "class.*captions, image, label, number, tags, title, wave"),
        (dict(text_key="caption"), "text_key='caption'.*captions, image"),
        (dict(text_key="captions/texts"), "text_key='captions/texts'"),
        (dict(text_key="captions"), "text_key='captions'.*no text"),
        (dict(text_key="title/text"), "text_key='title/text'"),
        (dict(text_key="number"), "number.*no text"),
        (dict(text_key="title", texts=0), "texts=0"),
        (dict(label_key="number"), "label_key=None"),
    ],
)
def test_bad_tfds_options_are_refused(prepared, options, message):
    with pytest.raises(ValueError, match=message) as error:
        data.tfds("stripes", data_dir=str(prepared / "good"), **{"size": 4, **options})
    assert "\n" not in str(error.value)


def test_another_format_is_refused_with_the_command(prepared):
    with pytest.raises(ValueError, match=r"as parquet, only array_record.*download_and_prepare"):
        data.tfds("stripes", data_dir=str(prepared / "other"), size=4)
