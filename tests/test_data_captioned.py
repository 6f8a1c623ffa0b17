"""A folder of captioned images: which caption belongs to which image, and what is skipped or refused by name."""

import json

import numpy as np
import pytest
from PIL import Image

from diffax import data


def fill(folder, names, seed=0):
    rng = np.random.default_rng(seed)
    pixels = {name: rng.integers(0, 256, (8, 8, 3)).astype(np.uint8) for name in names}
    for name, image in pixels.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return pixels


def captions_of(dataset):
    return [data.decode(dataset.tokenizer, dataset.source[i]["text"]) for i in range(len(dataset.source))]


def test_a_text_beside_each_image(tmp_path):
    pixels = fill(tmp_path, ["b.png", "a/c.png", "a/d.png"])
    texts = {"b": "a  small\n red circle ", "a/c": "日本", "a/d": ""}
    for stem, text in texts.items():
        (tmp_path / f"{stem}.txt").write_text(text, encoding="utf-8")
    dataset = data.image_text_folder(tmp_path, size=8)
    assert captions_of(dataset) == ["日本", "", "a small red circle"]
    for i, name in enumerate(["a/c.png", "a/d.png", "b.png"]):
        np.testing.assert_array_equal(dataset.source[i]["x0"], pixels[name])
    assert dataset.prompts == ("日本", "", "a small red circle") and not dataset.report
    np.testing.assert_array_equal(dataset.nulls["text"], data.encode(dataset.tokenizer, ""))
    batch = next(data.batches(dataset, batch_size=4, seed=0))
    assert batch["x0"].shape == (4, 8, 8, 3) and batch["text"].shape == (4, 128)


def test_json_lines_and_several_captions_of_an_image(tmp_path):
    pixels = fill(tmp_path, ["x.png", "y.png", "z.png"])
    lines = [("y.png", "one"), ("./x.png", "two"), ("y.png", "three")]
    text = "\n".join(json.dumps({"file": file, "caption": caption}) for file, caption in lines)
    (tmp_path / "all.jsonl").write_text(text + "\n\n")
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 images: .*z\.png: no caption"):
        dataset = data.image_text_folder(tmp_path, size=8, captions="all.jsonl", tokenizer=data.by_bytes(8))
    assert captions_of(dataset) == ["one", "two", "three"]
    np.testing.assert_array_equal(dataset.source[2]["x0"], pixels["y.png"])
    assert dataset.nulls["text"].shape == (8,)


def test_captions_that_are_too_long_are_counted_once(tmp_path, caplog):
    fill(tmp_path, ["a.png", "b.png", "c.png"])
    for stem, text in {"a": "short", "b": "longer than that", "c": "as long as it"}.items():
        (tmp_path / f"{stem}.txt").write_text(text)
    dataset = data.image_text_folder(tmp_path, size=8, tokenizer=data.by_bytes(12))
    for _ in range(2):
        assert captions_of(dataset) == ["short", "longer than", "as long as "]
        dataset.source.take(np.arange(3))
    assert [record.getMessage()[:56] for record in caplog.records] == [
        "2 of 3 captions have more than 11 tokens: their start al"
    ]


def test_what_has_no_caption_or_cannot_be_read_is_skipped_and_named(tmp_path):
    fill(tmp_path, ["good.png", "alone.png", "latin.png"])
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:90])
    for name in ("good", "cut"):
        (tmp_path / f"{name}.txt").write_text("a caption")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.warns(UserWarning, match="skipped 3 of 4 images"):
        dataset = data.image_text_folder(tmp_path, size=8)
    assert captions_of(dataset) == ["a caption"]
    report = " ".join(dataset.report)
    assert "alone.png: no caption (No such file" in report and "latin.png: no caption (its text is no UTF-8)" in report
    assert "cut.png" in report


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file": "x.png"}', r"line 1 is no caption \('caption'\): write"),
        ("{", "line 1 is no caption"),
        ('["x.png", "a"]', "line 1 is no caption"),
        ('{"file": "x.png", "caption": 3}', "line 1 is no caption"),
        ('{"file": "../x.png", "caption": "a"}', r"'\.\./x\.png' is not below"),
        ('{"file": "/etc/x.png", "caption": "a"}', "is not below"),
    ],
)
def test_lines_that_are_no_captions(tmp_path, line, message):
    fill(tmp_path, ["x.png"])
    (tmp_path / "c.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        data.image_text_folder(tmp_path, size=8, captions="c.jsonl")


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        data.image_text_folder(tmp_path / "none", size=8)
    fill(tmp_path, ["x.png"])
    with pytest.raises(ValueError, match=r"no image with a caption; put cat\.txt beside"):
        data.image_text_folder(tmp_path, size=8)
    with pytest.raises(FileNotFoundError, match=r"captions='c\.jsonl': there is no such file"):
        data.image_text_folder(tmp_path, size=8, captions="c.jsonl")
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"write lines to c\.jsonl"):
        data.image_text_folder(tmp_path, size=8, captions="c.jsonl")
