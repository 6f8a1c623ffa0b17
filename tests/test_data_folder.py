"""A folder of images: what is read is what is there, and what cannot be read is named."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from diffax import data
from diffax.data import folder


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
    batch = next(data.batches(dataset, batch_size=4, seed=0))
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
    image.save(tmp_path / f"x.{form}".lower(), quality=95, subsampling=0) if form == "JPEG" else image.save(
        tmp_path / "x.png"
    )
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
    half = data.image_folder(tmp_path, size=5).source[0]["x0"].astype(int)
    assert (half[1:-1, 1:-1] == 255).all()  # the filter reaches over the edge of the crop, by less than a pixel
    np.testing.assert_array_equal(half, half[::-1, ::-1])


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
    content = encoded(picture(8, 8), form, **options)
    file = tmp_path / "x.png"
    file.write_bytes(content)
    assert folder._fault(str(file)) is None
    for length in sorted({*range(0, len(content), 5), *range(len(content) - 40, len(content))}):
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
        dataset.source[0]


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
