"""Embeddings of frozen encoders: computed once, found again by other processes, told to a network."""

import concurrent.futures
import contextlib
import multiprocessing
import sqlite3
import textwrap

import jax
import numpy as np
import pytest
from flax import linen as nn
from launcher import ROOT, compiled, launch, programs  # noqa: F401
from PIL import Image

from diffax import build, checkpoint, data, demo
from diffax.config import complete
from diffax.data import embeddings
from diffax.loop import checks, frozen, training, workdir

LENGTH, WIDTH = 5, 4


def values(text):
    """An embedding that tells all bytes of a short text, and how long it is."""
    found = np.zeros((LENGTH, WIDTH), np.float32)
    for i, byte in enumerate(text.encode()[: LENGTH * WIDTH]):
        found.flat[i] = byte / 8
    return found


def embed(texts):
    return np.stack([values(text) for text in texts])


def counting(asked, function=embed, name="bytes-1"):
    def embed(texts):
        asked.extend(texts)
        return function(texts)

    return data.Encoder(name, LENGTH, WIDTH, embed)


def test_each_text_is_embedded_once(tmp_path):
    asked = []
    first = data.cached(counting(asked), tmp_path)
    found = data.encode_all(first, ["a cat", "", "two", "a cat"])
    np.testing.assert_array_equal(found, [values("a cat"), np.zeros((LENGTH, WIDTH)), values("two"), values("a cat")])
    assert found.dtype == np.float16 and sorted(asked) == ["a cat", "two"]
    again = data.cached(counting(asked), tmp_path)
    np.testing.assert_array_equal(data.encode(again, "two"), values("two"))
    assert sorted(asked) == ["a cat", "two"]
    data.encode(data.cached(counting(asked, name="bytes-2"), tmp_path), "two")  # of another encoder
    assert sorted(asked) == ["a cat", "two", "two"]


@pytest.mark.parametrize("text", ["a cat", "你好", "\x00\x1b[2J", "", "ab\ud800"])
def test_a_text_comes_back(tmp_path, text):
    tokenizer = data.cached(data.Encoder("bytes", LENGTH, WIDTH, embed), tmp_path)
    assert data.decode(tokenizer, data.encode(tokenizer, text)) == text.encode("utf-8", "replace").decode()
    with pytest.raises(ValueError, match="no text with this embedding"):
        data.decode(tokenizer, np.ones((LENGTH, WIDTH)))


def test_texts_set_aside_are_embedded_once_and_leave_the_file_as_it_was(tmp_path):
    asked, tokenizer = [], data.cached(counting([]), tmp_path)
    data.encode(tokenizer, "known")
    before = (tmp_path / "bytes-1.sqlite").read_bytes()
    typed = embeddings.aside(data.cached(counting(asked), tmp_path))
    assert asked.pop() == ""  # whatever the encoder compiles, it has
    texts = ["known", "new", "", "ab\ud800", "new"]
    for _ in range(2):
        found = data.encode_all(typed, texts)
        np.testing.assert_array_equal(found, data.encode_all(data.cached(counting([]), tmp_path / "other"), texts))
        assert [data.decode(typed, row) for row in found] == ["known", "new", "", "ab?", "new"]
    assert asked == ["ab?", "new"] and (tmp_path / "bytes-1.sqlite").read_bytes() == before
    with pytest.raises(ValueError, match="no text with this embedding"):
        data.decode(tokenizer, found[1])


def test_many_at_once_write_one_file(tmp_path):
    texts = [f"{i}" for i in range(40)]

    def one(offset):
        tokenizer = data.cached(data.Encoder("bytes", LENGTH, WIDTH, embed), tmp_path)
        return [data.encode(tokenizer, texts[(offset + i) % 40]) for i in range(40)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for offset, found in zip(range(0, 40, 5), pool.map(one, range(0, 40, 5))):
            np.testing.assert_array_equal(found, embed(texts[offset:] + texts[:offset]))


def test_of_two_that_add_a_text_at_once_the_first_counts(tmp_path):
    def slow(texts):
        data.encode(data.cached(counting([]), tmp_path), "a")  # another process is faster
        return embed(texts) + 0.25

    tokenizer = data.cached(counting([], slow), tmp_path)
    np.testing.assert_array_equal(data.encode(tokenizer, "a"), values("a"))
    assert data.decode(tokenizer, values("a")) == "a"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: embed(texts)[:, 1:], r"gave \(1, 4, 4\) for 1 texts, expected each \(5, 4\)"),
        (lambda texts: embed(texts) * np.nan, "not finite in float16"),
        (lambda texts: embed(texts) * 1e5, "not finite in float16"),
    ],
)
def test_an_encoder_that_cannot_be_right_is_refused(tmp_path, function, message):
    tokenizer = data.cached(counting([], function), tmp_path)
    with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
        data.encode(tokenizer, "a")


def test_files_that_cannot_be_used_are_refused(tmp_path):
    data.encode(data.cached(counting([]), tmp_path), "a")
    with pytest.raises(ValueError, match=r"another shape than \(6, 4\); remove it"):
        data.cached(data.Encoder("bytes-1", 6, WIDTH, embed), tmp_path)
    (tmp_path / "other.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=r"other\.sqlite cannot be used"):
        data.cached(counting([], name="other"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="give another folder"):
        data.cached(counting([]), tmp_path / "file")


def test_an_encoder_that_is_killed_has_kept_the_texts_before(tmp_path):
    asked, texts = [], [f"{i:03}" for i in range(600)]

    def dies(some):
        if len(asked) > 300:
            raise KeyboardInterrupt
        return embed(some)

    with pytest.raises(KeyboardInterrupt):
        data.encode_all(data.cached(counting(asked, dies), tmp_path), texts)
    assert asked == texts[:512]
    asked.clear()
    np.testing.assert_array_equal(data.encode_all(data.cached(counting(asked), tmp_path), texts), embed(texts))
    assert asked == texts[256:]


def test_the_file_needs_no_memory_that_hosts_would_have_to_share(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "bytes-1.sqlite")) as store:
        store.execute("pragma journal_mode = wal")
        store.execute("create table other (a)")
    data.encode(data.cached(counting([]), tmp_path), "a")
    assert (tmp_path / "bytes-1.sqlite").read_bytes()[18:20] == b"\1\1"  # sqlite.org/fileformat.html: 2 is WAL


def test_a_folder_of_captions_is_embedded_as_it_is_read(tmp_path):
    pictures, asked = tmp_path / "pictures", []
    pictures.mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4), (10 * i,) * 3).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text(f"shade {i}")
    tokenizer = data.cached(counting(asked), tmp_path / "kept")
    dataset = data.image_text_folder(pictures, 4, tokenizer=tokenizer)
    assert not asked and not dataset.nulls["text"].any() and dataset.prompts == ("shade 0", "shade 1", "shade 2")
    example = dataset.source[2]
    np.testing.assert_array_equal(example["text"], values("shade 2"))
    assert example["x0"][0, 0, 0] == 20 and asked == ["shade 2"]
    bare = data.examples(dataset, [0, 1], bare=True)  # as evaluations compare samples with
    assert [*bare] == ["x0"] and len(bare["x0"]) == 2 and asked == ["shade 2"]
    drawn = data.examples(data.shapes(tokenizer=tokenizer), [3, 5], bare=True)
    np.testing.assert_array_equal(drawn["x0"], data.examples(data.shapes(), [3, 5])["x0"])
    assert [*drawn] == ["x0"] and asked == ["shade 2"]


@pytest.mark.slow
def test_worker_processes_share_the_file(tmp_path):
    tokenizer = data.cached(data.Encoder("bytes", LENGTH, WIDTH, embed), tmp_path)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(data.encode, [tokenizer] * 4, ["a", "b", "a", "c"]))
    np.testing.assert_array_equal(found, embed(["a", "b", "a", "c"]))
    assert data.decode(tokenizer, found[3]) == "c"


class Reading(nn.Module):
    """A network that is little more than its text transformer."""

    text: nn.Module

    def __call__(self, x_in, c_noise, cond=None):
        return x_in * self.text(cond["text"]).pooled.mean(-1)[:, None, None, None]


READING = dict(
    data=dict(name="shapes", examples=16),
    process=dict(name="learned_schedule", n=1),
    prediction=dict(name="eps"),
    network=dict(
        name="test_embeddings:Reading", text=dict(name="TextTransformer", width=WIDTH, layers=1, head_dim=WIDTH)
    ),
    loss=dict(conditional=True, objective=dict(name="vdm_loss")),
    ema=dict(decays=(0.9, 0.5)),
    train=dict(batch_size=8),
    eval=dict(n=8),
)


def test_a_frozen_encoder_stays_the_same_when_its_run_goes_on(tmp_path):
    """Of a run whose parameters are not the network's alone."""
    config = complete({**READING, "loss": {**READING["loss"], "learn_process": True}})
    experiment = checks.experiment(config)
    rng, shapes = np.random.default_rng(0), training.state_shapes(experiment)
    state = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)
    manager = checkpoint.manager(workdir.prepare(tmp_path, config) / "checkpoints")
    checkpoint.save(manager, 3, state, wait=True)
    encoder = frozen.of_run(tmp_path, 3)
    params = encoder.embed.keywords["params"]
    jax.tree.map(np.testing.assert_array_equal, params, state.ema_params["0.9"]["network"]["text"])
    checkpoint.save(manager, 6, jax.tree.map(lambda leaf: leaf + 1, state), wait=True)
    checkpoint.close(manager)
    workdir.prepare(tmp_path, {**config, "sample": {**config["sample"], "ema": "none"}})
    assert frozen.of_run(tmp_path, 3).name == encoder.name != frozen.of_run(tmp_path, 6).name
    for step, message in {None: "no step is named; give a step of 3, 6", 4: "step=4 is not there; give a st"}.items():
        with pytest.raises(ValueError, match=message):
            frozen.of_run(tmp_path, step)


def encoder() -> data.Encoder:
    return data.Encoder("bytes", LENGTH, WIDTH, embed)


@pytest.mark.parametrize("told", ["no tokenizer", "embeddings"])
def test_a_network_for_tokens_is_refused_data_without(tmp_path, told):
    cached = dict(name="cached", encoder=dict(name="test_embeddings:encoder"), folder=str(tmp_path))
    captioned = {**READING["data"], "tokenizer": cached}
    without = dict(data=dict(name="digits"), loss={**READING["loss"], "conditional": False})
    config = complete({**READING, **(dict(data=captioned) if told == "embeddings" else without)})
    with pytest.raises(ValueError, match=f"network.text: TextTransformer reads tokens, the data has {told}; take data"):
        build.experiment(config)


EXPERIMENT = """
    from shapes_text import get_config as shapes_text

    def get_config(mode="quick"):
        config = shapes_text("quick")
        config.network.update(channels=8, multipliers=(1,), attention=(), cross_attention=(12,), groups=4, head_dim=4)
        config.network.text.update(layers=1, width=16, head_dim=8)
        config.optimizer.update(name="adam", decay_steps=0, warmup=0)
        config.train.update(steps=2, checkpoint_every=2, sample_every=0)
        config.sample.update(n=4, batch_size=4)
        config.sample.grid.n = 2
        config.eval.update(n=4, batch_size=4, reference=4)
        if mode == "frozen":
            encoder = dict(name="diffax.loop.frozen:of_run", folder="{folder}/first", step=2)
            config.data.tokenizer = dict(name="cached", encoder=encoder, folder="{folder}/kept")
            config.network.text = dict(name="TextEmbeddings", width=16)
        return config
"""


@pytest.mark.slow
def test_a_run_told_by_the_frozen_transformer_of_another(tmp_path, programs):  # noqa: F811
    file = tmp_path / "experiment.py"
    file.write_text(textwrap.dedent(EXPERIMENT).replace("{folder}", str(tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "experiments"))
        outcome = launch(f"--config={file}", f"--workdir={tmp_path / 'first'}")
        assert outcome.code == 0, outcome.err
        outcome = launch(f"--config={file}:frozen", f"--workdir={tmp_path / 'second'}")
        assert outcome.code == 0, outcome.err
        prompts = ["--prompt=a red circle", "--prompt=two blue squares"]
        picture = tmp_path / "out.png"
        told = launch("--mode=sample", f"--workdir={tmp_path / 'second'}", *prompts, f"--out={picture}", "--n=3")
        assert told.code == 0, told.err
    with np.load(picture.with_suffix(".npz")) as found:
        assert found["caption"].tolist() == ["a red circle", "two blue squares", "a red circle"]
        text = found["text"]
    encoder = frozen.of_run(tmp_path / "first", 2)
    assert [path.stem for path in (tmp_path / "kept").glob("*.sqlite")] == [encoder.name]
    expected = encoder.embed(["a red circle", "two blue squares"])
    assert text.dtype == np.float16 and (text[0] != 0).any(1).sum() == 4  # the start, and three words
    np.testing.assert_allclose(text[:2], expected, atol=2e-3)
    with np.load(tmp_path / "second" / "samples" / "eval_00000002.npz") as found:
        objects = workdir.read_config(tmp_path / "second")["data"]["objects"]
        test = data.shapes(size=24, objects=objects, split="test")
        assert found["caption"][1] == data.decode(test.tokenizer, test.source[1]["text"])
    before = [path.read_bytes() for path in (tmp_path / "kept").glob("*.sqlite*")]
    studio = demo.studio(tmp_path / "second", 2, ())
    studio.draw(demo.checked(studio.fields, {}))
    assert not compiled(lambda: studio.draw(demo.checked(studio.fields, {"prompt": "three green crosses"})))
    assert [path.read_bytes() for path in (tmp_path / "kept").glob("*.sqlite*")] == before
    with pytest.raises(ValueError, match="reads no tokens"):
        frozen.of_run(tmp_path / "second", 2)
