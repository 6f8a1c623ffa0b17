"""Data sets and batches: what is read is what is there, and the position in the stream is the training step."""

import io
import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffax import data
from diffax.data import folder, pipeline

SMALL = data.fake(n=10, shape=(6, 4, 3), num_classes=10, seed=3)  # label i is image i: labels tell which examples came


def run(**options):
    """The first batches of a stream, and its end."""
    count = options.pop("count", 5)
    stream = data.batches(options.pop("dataset", SMALL), **{"batch_size": 4, "seed": 0, **options})
    got = list(itertools.islice(stream, count))
    stream.close()
    return got


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for name in x:
            assert x[name].dtype == y[name].dtype
            np.testing.assert_array_equal(x[name], y[name])


def python(code, **options):
    """A fresh interpreter on `code`, which must succeed; what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The stream -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_position_is_the_step(workers):
    options = dict(batch_size=7, flip=True, dequantize=True)
    whole = run(count=9, **options)
    assert_same(run(count=9 - 4, step=4, workers=workers, **options), whole[4:])


def test_a_far_step_is_reached_at_once():
    began = time.perf_counter()
    (batch,) = run(step=10**9 + 7, count=1)
    assert time.perf_counter() - began < 5
    first = (10**9 + 7) * 4
    expected = [pipeline._shuffled(10, 0, p // 10)[p % 10] for p in range(first, first + 4)]
    np.testing.assert_array_equal(batch["label"], expected)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_hosts_batches_in_order_are_the_one_host_batch(hosts):
    options = dict(batch_size=8, flip=True, dequantize=True, step=2)
    parts = zip(*(run(host=host, hosts=hosts, **options) for host in range(hosts)))
    joined = [{name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in parts]
    assert_same(joined, run(**options))


@pytest.mark.parametrize("batch_size", [1, 4, 10, 37])
def test_every_epoch_is_a_fresh_shuffle_of_everything(batch_size):
    labels = np.concatenate([batch["label"] for batch in run(batch_size=batch_size, count=-(-200 // batch_size))])
    epochs = labels[:200].reshape(20, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (20, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_shuffles_are_uniform():
    # Each (example, place) pair of 4000 shuffles of 5 is binomial(4000, 1/5): 800 with a standard deviation of 25.3.
    shuffles = np.stack([pipeline._shuffled.__wrapped__(5, 1, epoch) for epoch in range(4000)])
    counts = np.stack([np.bincount(place, minlength=5) for place in shuffles.T])
    assert np.abs(counts - 800).max() < 4.5 * 25.3


def test_seeds_give_different_orders_and_options_do_not_change_the_order():
    def labels(**options):
        return np.concatenate([batch["label"] for batch in run(**options)]).tolist()

    assert labels(seed=1) != labels(seed=2)
    assert labels(seed=1, flip=True, dequantize=True) == labels(seed=1)


def test_batches_are_float32_with_int32_labels_or_without_labels():
    (batch,) = run(count=1, dataset=data.fake(n=3, shape=(4, 4, 1), num_classes=0))
    assert batch.keys() == {"x0"} and batch["x0"].shape == (4, 4, 4, 1) and batch["x0"].dtype == np.float32
    (batch,) = run(count=1)
    assert batch["label"].dtype == np.int32


def test_a_list_is_a_source():
    rows = [dict(x0=np.full((2,), float(i)), label=np.int32(i)) for i in range(3)]
    (batch,) = run(dataset=data.Dataset(rows, shape=(2,), num_classes=3), count=1)
    np.testing.assert_array_equal(batch["x0"], np.float32(batch["label"])[:, None].repeat(2, axis=1))


# Values ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
def test_normalizing_reaches_both_ends_exactly_and_rounds_back(levels):
    raw = np.arange(levels).astype(np.uint16)
    x0 = pipeline._normalize(raw, levels)
    assert x0.dtype == np.float32 and x0[0] == -1 and x0[-1] == 1
    np.testing.assert_array_equal(x0, -x0[::-1])
    np.testing.assert_array_equal(np.rint((x0.astype(np.float64) + 1) / 2 * (levels - 1)), raw)


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
@pytest.mark.parametrize("bits", [0, 1, 65534, 65535])
def test_dequantizing_stays_inside_and_floors_back(levels, bits):
    raw = np.arange(levels).astype(np.uint16)
    x0 = pipeline._dequantize(raw, levels, np.full(levels, bits, np.uint16))
    assert x0.dtype == np.float32 and x0.min() > -1 and x0.max() < 1
    np.testing.assert_array_equal(np.floor((x0.astype(np.float64) + 1) / 2 * levels), raw)


def test_dequantizing_noise_is_uniform_and_independent():
    dataset = data.fake(n=64, shape=(16, 16, 3))
    noisy, plain = (run(dataset=dataset, batch_size=64, count=4, dequantize=flag) for flag in (True, False))
    x0 = np.stack([batch["x0"] for batch in noisy]).astype(np.float64)
    raw = np.rint((np.stack([batch["x0"] for batch in plain]).astype(np.float64) + 1) / 2 * 255)
    u = (x0 + 1) / 2 * 256 - raw
    n = u.size
    assert 0 < u.min() and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 4 / math.sqrt(12 * n)
    assert abs(u.var() - 1 / 12) < 4 / math.sqrt(180 * n)
    rows = u.reshape(-1, 16 * 16 * 3) - 1 / 2
    neighbors = [rows[1:] * rows[:-1], rows[:, 1:] * rows[:, :-1], rows * (raw.reshape(rows.shape) / 255 - 1 / 2)]
    for products in neighbors:  # the next example, the next value, the value itself: correlation zero
        assert abs(products.mean()) < 4 * products.std() / math.sqrt(products.size)


def test_flipping_mirrors_about_half_and_always_the_same():
    options = dict(batch_size=500, count=4)
    flipped, plain = run(flip=True, **options), run(**options)
    assert_same(flipped, run(flip=True, **options))
    x0, same = np.concatenate([b["x0"] for b in flipped]), np.concatenate([b["x0"] for b in plain])
    mirrored = (x0 == same[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored ^ (x0 == same).all(axis=(1, 2, 3))).all()  # each is one or the other
    assert abs(mirrored.sum() - 1000) < 4 * math.sqrt(2000 / 4)
    noisy = np.concatenate([b["x0"] for b in run(flip=True, dequantize=True, **options)])
    np.testing.assert_allclose(noisy, x0, atol=1.01 / 128)  # dequantizing flips the same ones


def test_batches_leave_the_source_alone():
    x0 = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    dataset = data.Dataset(data.in_memory(x0=x0), shape=(3, 4, 1), levels=256)
    run(dataset=dataset, flip=True, dequantize=True)
    np.testing.assert_array_equal(x0.ravel(), np.arange(24))


def test_examples_are_normalized_in_the_order_asked_for():
    batch = data.examples(SMALL, [7, 2, 2])
    assert batch["label"].tolist() == [7, 2, 2]
    np.testing.assert_array_equal(batch["x0"][0], pipeline._normalize(SMALL.source[7]["x0"], 256))


# Data sets ------------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = data.digits("all")
    everything = dataset.source.take(np.arange(1797))
    np.testing.assert_array_equal(everything["x0"][..., 0], bunch.images)
    np.testing.assert_array_equal(everything["label"], bunch.target)
    assert everything["x0"].max() == dataset.levels - 1
    # Upright and not mirrored: 7 has its bar on top, 6 its bowl below and open to the right above it.
    mean = {digit: everything["x0"][everything["label"] == digit, ..., 0].mean(axis=0) for digit in (6, 7)}
    assert mean[7][:2].sum() > 1.5 * mean[7][-2:].sum()
    assert mean[6][1:4, :4].sum() > 2 * mean[6][1:4, 4:].sum()


def test_digits_without_the_table_come_from_scikit_learn_itself(monkeypatch):
    expected = data.digits("train").source.take(np.arange(1438))
    monkeypatch.setattr(np, "loadtxt", lambda *args, **kwargs: (_ for _ in ()).throw(FileNotFoundError()))
    assert_same([data.digits("train").source.take(np.arange(1438))], [expected])


def test_digits_split_is_stratified_and_complete():
    parts = {split: data.digits(split).source for split in ("train", "test", "all")}
    rows = {split: source.take(np.arange(len(source))) for split, source in parts.items()}
    count = {split: np.bincount(rows[split]["label"]) for split in rows}
    np.testing.assert_array_equal(count["train"] + count["test"], count["all"])
    assert np.abs(count["test"] - 0.2 * count["all"]).max() <= 0.5
    images = {split: sorted(x0.tobytes() for x0 in rows[split]["x0"]) for split in rows}
    assert sorted(images["train"] + images["test"]) == images["all"]
    assert not set(images["train"]) & set(images["test"])


def test_fake_images_depend_on_the_index_alone():
    short, long = data.fake(n=3, shape=(5, 7, 3)), data.fake(n=2000, shape=(5, 7, 3))
    for i in range(3):
        assert_same([short.source[i]], [long.source[i]])
    values = data.examples(long, range(2000))["x0"]
    counts = np.bincount(np.rint((values + 1) / 2 * 255).astype(int).ravel(), minlength=256)
    expected = values.size / 256
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)
    assert len({x0.tobytes() for x0 in values}) == 2000
    assert long.source[123]["label"] == 3
    assert not np.array_equal(data.fake(seed=1).source[0]["x0"], data.fake(seed=2).source[0]["x0"])


def test_the_mixture_has_the_moments_that_it_states():
    n = 40_000
    points = data.examples(data.mixture(n=n, modes=8, seed=5), range(n))
    means, std, weights = data.ring(8)
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 0.8)
    assert np.abs(points["x0"]).max() < 1.1 and points["x0"].dtype == np.float32
    for mode in range(8):
        mine = points["x0"][points["label"] == mode].astype(np.float64)
        assert abs(len(mine) - n * weights[mode]) < 4 * math.sqrt(n * weights[mode])
        assert np.abs(mine.mean(axis=0) - means[mode]).max() < 4.5 * std / math.sqrt(len(mine))
        assert abs(mine.std() / std - 1) < 4.5 / math.sqrt(4 * len(mine)) + 1e-3


def test_what_a_data_set_needs_is_imported_when_it_is_used():
    out = python("""
        import sys
        from diffax import data
        data.digits(); data.fake(); data.mixture()
        print([name for name in ("grain", "sklearn", "scipy", "PIL", "tensorflow_datasets") if name in sys.modules])
    """)
    assert out.strip() == "[]"


# A folder of images ---------------------------------------------------------------------------------------------------


def picture(height=24, width=32, seed=0):
    """A smooth RGB image, so that JPEG keeps it."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_sub_folders_are_the_classes(tmp_path):
    for i, name in enumerate(["b", "a/deep", "c", ".hidden"]):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / f"{i}.PNG").write_bytes(encoded(picture(8, 8, seed=i), "PNG"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("not an image, and not meant to be one")
    dataset = data.image_folder(tmp_path, size=8)
    assert (len(dataset.source), dataset.num_classes, dataset.levels, dataset.report) == (3, 3, 256, ())
    for label, seed in enumerate([1, 0, 2]):
        example = dataset.source[label]
        np.testing.assert_array_equal(example["x0"], np.asarray(picture(8, 8, seed=seed)))
        assert example["label"] == label and example["label"].dtype == np.int32


def test_a_flat_folder_has_no_classes(tmp_path):
    picture().save(tmp_path / "one.jpeg", quality=95)
    dataset = data.image_folder(str(tmp_path), size=16)
    (batch,) = run(dataset=dataset, count=1)
    assert dataset.num_classes == 0 and batch.keys() == {"x0"} and batch["x0"].shape == (4, 16, 16, 3)


def _sixteen_bit(gray):
    return Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("form", "convert", "tolerance"),
    [
        ("PNG", lambda image: image, 0),
        ("JPEG", lambda image: image, 12),
        ("JPEG", lambda image: image.convert("CMYK"), 12),
        ("PNG", lambda image: image.convert("L"), 0),
        ("PNG", lambda image: _sixteen_bit(image.convert("L")), 0),
        ("PNG", lambda image: image.convert("1"), 0),
        ("PNG", lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE), 0),
        ("PNG", lambda image: image.convert("LA"), 0),
        ("PNG", lambda image: image.convert("RGBA"), 0),
    ],
)
def test_every_mode_becomes_the_same_rgb(tmp_path, form, convert, tolerance):
    image = convert(picture(16, 16))
    image.save(tmp_path / f"x.{form}".lower(), quality=95) if form == "JPEG" else image.save(tmp_path / "x.png")
    seen = picture(16, 16).convert("L") if image.mode == "I;16" else image
    x0 = data.image_folder(tmp_path, size=16).source[0]["x0"]
    assert x0.shape == (16, 16, 3) and x0.dtype == np.uint8
    assert np.abs(x0.astype(int) - np.asarray(seen.convert("RGB")).astype(int)).max() <= tolerance


def test_transparent_parts_are_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:2] = (200, 100, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).convert("P").save(tmp_path / "palette.png", transparency=0)
    for example in data.image_folder(tmp_path, size=4).source:
        assert (example["x0"][2:] == 255).all()


@pytest.mark.parametrize("shape", [(10, 30), (30, 10)])
def test_the_center_is_kept(tmp_path, shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    third = 1 if shape[1] > shape[0] else 0
    pixels[(slice(None),) * third + (slice(10, 20),)] = 255  # the middle square is white, the rest black
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (data.image_folder(tmp_path, size=10).source[0]["x0"] == 255).all()
    assert (data.image_folder(tmp_path, size=5).source[0]["x0"] == 255).all()


def test_the_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture(16, 16).save(tmp_path / "x.png", exif=exif)
    x0 = data.image_folder(tmp_path, size=16).source[0]["x0"]
    np.testing.assert_array_equal(x0, np.asarray(picture(16, 16).rotate(-90)))


def test_bad_files_are_skipped_counted_and_named(tmp_path):
    whole = {"a.png": encoded(picture(), "PNG"), "b.jpg": encoded(picture(), "JPEG")}
    bad = {
        "cut.png": whole["a.png"][: len(whole["a.png"]) // 2],
        "cut.jpg": whole["b.jpg"][: len(whole["b.jpg"]) // 2],
        "text.png": b"this is no image\n" * 50,
        "zero.jpg": b"",
    }
    for name, content in {**whole, **bad}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning) as warned:
        dataset = data.image_folder(tmp_path, size=8)
    assert len(dataset.source) == 2 and len(dataset.report) == 4
    (message,) = [str(warning.message) for warning in warned]
    assert "skipped 4 of 6 images" in message
    for name in bad:
        assert name in message and any(name in line for line in dataset.report)


@pytest.mark.parametrize(
    ("form", "options"), [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"comment": b"x" * 300})]
)
def test_no_truncation_goes_unnoticed(tmp_path, form, options):
    content = encoded(picture(12, 16), form, **options)
    file = tmp_path / "x.png"
    file.write_bytes(content)
    assert folder._fault(str(file)) is None
    for length in range(len(content)):
        file.write_bytes(content[:length])
        if folder._fault(str(file)) is None:  # only where nothing of the picture is gone
            np.testing.assert_array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(io.BytesIO(content))))
            assert length >= len(content) - 24


def test_a_file_with_more_after_its_end_is_good(tmp_path):
    for form in ("PNG", "JPEG"):
        (tmp_path / f"{form}.jpg").write_bytes(encoded(picture(), form) + b"\0" * 100)
    assert data.image_folder(tmp_path, size=8).report == ()


def test_an_image_damaged_inside_is_replaced_by_the_next(tmp_path):
    content = bytearray(encoded(picture(), "PNG"))
    content[len(content) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    picture(seed=1).save(tmp_path / "b.png")
    dataset = data.image_folder(tmp_path, size=8)
    with pytest.warns(UserWarning, match=r"a\.png.*stands in"):
        stand_in = dataset.source[0]
    np.testing.assert_array_equal(stand_in["x0"], np.asarray(ImageOps.fit(picture(seed=1), (8, 8), Image.BICUBIC)))


@pytest.mark.filterwarnings("ignore:.*stands in")
def test_a_folder_that_is_gone_is_an_error(tmp_path):
    picture().save(tmp_path / "a.png")
    dataset = data.image_folder(tmp_path, size=8)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="is the folder still there"):
        run(dataset=dataset)


# TensorFlow Datasets --------------------------------------------------------------------------------------------------


def test_tfds_on_mocked_cifar10_without_tensorflow(tmp_path):
    # With the mock, tfds makes random CIFAR-10 examples from the builder's own features.
    out = python("""
        import sys
        import numpy as np
        import tensorflow_datasets as tfds
        from diffax import data
        with tfds.testing.mock_data(num_examples=6):
            dataset = data.tfds("cifar10", "test")
            raw = [dataset.source[i] for i in range(6)]
            seen = next(data.batches(dataset, batch_size=12, seed=0, step=5))
        assert dataset[1:] == ((32, 32, 3), 10, 256, ()) and len(dataset.source) == 6
        assert seen["x0"].shape == (12, 32, 32, 3) and np.abs(seen["x0"]).max() <= 1
        back = np.rint((seen["x0"].astype(np.float64) + 1) / 2 * 255).astype(np.uint8)
        key = lambda x0, label: (x0.tobytes(), int(label))
        assert sorted(map(key, back, seen["label"])) == sorted(2 * [key(**example) for example in raw])
        assert "tensorflow" not in sys.modules
        print("all held")
    """)
    assert "all held" in out


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
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

        def _generate_examples(self, n):
            for i in range(n):
                png = io.BytesIO(encoded(Image.new("RGB", (6, 4), (10 * i,) * 3), "PNG"))
                yield i, {"image": png, "label": i % 3, "wave": np.full(2, i / 8, np.float32), "number": i}

    Stripes(data_dir=root / "good").download_and_prepare(file_format="array_record")
    Stripes(data_dir=root / "other").download_and_prepare(file_format="parquet")
    return root


def test_tfds_reads_what_was_prepared(prepared):
    dataset = data.tfds("stripes", "train", data_dir=str(prepared / "good"), size=4)
    assert dataset[1:] == ((4, 4, 3), 3, 256, ())
    values = [(int(e["x0"][0, 0, 0]), int(e["x0"].std()), int(e["label"])) for e in dataset.source]
    assert sorted(values) == [(10 * i, 0, i % 3) for i in range(5)]
    part = data.tfds("stripes", "train[:60%]", data_dir=str(prepared / "good"), size=2, label_key=None)
    assert len(part.source) == 3 and part.num_classes == 0
    waves = data.tfds("stripes", data_dir=str(prepared / "good"), image_key="wave")
    assert waves.levels == 0
    for example in waves.source:
        assert int(8 * example["x0"][0]) % 3 == example["label"]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(batch_size=0), "batch_size=0.*>= 1"),
        (dict(batch_size=-4), "batch_size=-4"),
        (dict(batch_size=4.0), "batch_size=4.0.*integer"),
        (dict(batch_size=True), "batch_size=True"),
        (dict(batch_size=float("nan")), "batch_size=nan"),
        (dict(batch_size=6, hosts=4), "batch_size=6 .* 4 hosts"),
        (dict(hosts=0), "hosts=0"),
        (dict(host=2, hosts=2), "host=2.*0..1"),
        (dict(step=-1), "step=-1"),
        (dict(seed=-1), "seed=-1"),
        (dict(seed=None), "seed=None"),
        (dict(workers=-1), "workers=-1"),
        (dict(dataset=data.mixture(n=4), flip=True), r"flip=True.*\(2,\)"),
        (dict(dataset=data.mixture(n=4), dequantize=True), "dequantize=True.*levels=0"),
        (dict(dataset=data.Dataset([], shape=(2,))), "empty"),
    ],
)
def test_bad_options_are_refused_before_reading(options, message):
    with pytest.raises(ValueError, match=message):
        data.batches(options.pop("dataset", SMALL), **{"batch_size": 4, "seed": 0, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: data.digits("valid"), "split='valid'.*train, test, all"),
        (lambda path: data.fake(n=0), "n=0"),
        (lambda path: data.fake(shape=(4, -1, 3)), r"shape\[1\]=-1"),
        (lambda path: data.fake(num_classes=-1), "num_classes=-1"),
        (lambda path: data.mixture(n=-5), "n=-5"),
        (lambda path: data.mixture(modes=0), "modes=0"),
        (lambda path: data.in_memory(x0=np.zeros(3), label=np.zeros(2)), "'x0': 3, 'label': 2"),
        (lambda path: data.image_folder(path, size=0), "size=0"),
        (lambda path: data.image_folder(path, size=8), "no file below ends in .png, .jpg, .jpeg"),
        (lambda path: data.tfds("cifar1", data_dir=str(path)), "cifar1.*did you mean cifar10"),
        (lambda path: data.tfds("huggingface:mnist"), "network"),
        (lambda path: data.tfds("cifar10:1.0.0", data_dir=str(path)), "cifar10:1.0.0.*3.0.2"),
        (lambda path: data.tfds("cifar10/pink", data_dir=str(path)), "pink"),
    ],
)
def test_bad_data_sets_are_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path)
    assert "\n" not in str(error.value)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.image_folder(tmp_path / "nowhere", size=8)
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"none of its 1 images.*a\.png"):
        data.image_folder(tmp_path, size=8)
    (tmp_path / "class").mkdir()
    picture().save(tmp_path / "class" / "b.png")
    with pytest.raises(ValueError, match=r"'a\.png' lie beside the class folders class"):
        data.image_folder(tmp_path, size=8)


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
        (dict(image_key="picture"), "picture.*image, label, number, wave"),
        (dict(image_key="wave"), "no 8-bit image"),
        (dict(image_key="number", size=None), "int64"),
        (dict(label_key="class"), "class.*image, label, number, wave"),
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


# Worker processes -----------------------------------------------------------------------------------------------------

_ENDLESS = """
import multiprocessing, sys
from diffax import data
if __name__ == "__main__":
    stream = data.batches(data.digits(), batch_size=8, seed=0, workers=1)
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if "forever" in sys.argv:
        for _ in stream: pass
"""


def _alive(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return True
    except ProcessLookupError:
        return False


def test_workers_end_with_a_killed_trainer_and_quietly_with_a_finished_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_ENDLESS)
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([*command, "forever"], stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        assert pids and all(_alive(pid) for pid in pids)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert finished.returncode == 0 and finished.stderr == ""
