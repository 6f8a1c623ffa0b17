"""Text: tokens and back, networks that read, samples of prompts from the command line, and what is refused."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import BIG, ROOT, compiled, launch, programs, untrained  # noqa: F401
from networks import run, stirred
from PIL import Image

from diffax import build, conditions, data
from diffax import config as configs
from diffax.loop import checks, modes, pictures, sampling, wanted, workdir
from diffax.metrics import Scores
from diffax.models import TextEmbeddings, TextTransformer, UNet, init

KEY = jax.random.key(0)
WORDS = data.by_words(("a", "red", "circle", "left", "of", ",", "two"), length=8)
TEXTS = ["", "hello", "héllo wörld", "日本語のテキスト", "\x00\x1b[31m\n\t", "\ud800 alone", "🙂" * 9, "a" * 40]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_come_back(text):
    tokenizer = data.by_bytes(64)
    tokens = data.encode(tokenizer, text)
    assert tokens.dtype == np.int32 and tokens.shape == (64,) and tokens[0] == 1 and tokens.max() < tokenizer.size
    assert data.decode(tokenizer, tokens) == text.replace("\ud800", "?")


def test_words_come_back_in_lower_case_and_unknown_ones_are_marked():
    assert data.decode(WORDS, data.encode(WORDS, "A red CIRCLE, left of  two")) == "a red circle, left of two"
    assert data.encode(WORDS, "a zonk").tolist() == [1, 3, 2, 0, 0, 0, 0, 0]
    assert data.decode(WORDS, data.encode(WORDS, "a zonk")) == "a <unknown>"
    assert data.encode(WORDS, "").tolist() == [1] + [0] * 7


@pytest.mark.parametrize("text", ["a red circle " * 100_000, "x" * 10**6])
@pytest.mark.parametrize("tokenizer", [WORDS, data.by_bytes(32)], ids=["words", "bytes"])
def test_a_text_that_is_too_long_is_cut_with_a_warning(tokenizer, text, caplog):
    tokens = data.encode(tokenizer, text)
    if tokenizer is WORDS and text.startswith("x"):
        assert tokens.tolist() == [1, 2, 0, 0, 0, 0, 0, 0] and not caplog.records  # one unknown word
        return
    assert (tokens > 0).all()
    assert "too long" in caplog.text and len(caplog.text) < 400
    data.encode(tokenizer, text)
    assert len(caplog.records) == 1  # as for every picture of a prompt


def test_captions_that_are_too_long_are_cut_with_one_warning(caplog):
    tokenizer = data.by_bytes(19)
    for texts in (["short"] * 2, [f"{n} is too long for it" for n in range(3)], ["another that is as long"]):
        found = [data.decode(tokenizer, row) for row in data.encode_captions(tokenizer, texts)]
        assert found == [text[:18] for text in texts]
    assert [record.getMessage()[:62] for record in caplog.records] == [
        "some captions, and it may be many, have more than 18 tokens: t"
    ]


def test_a_character_is_not_cut_in_two():
    tokenizer = data.by_bytes(4)  # start and three bytes: one character of two bytes and half of another
    assert data.decode(tokenizer, data.encode(tokenizer, "éé")) == "é"


@pytest.mark.parametrize("word", ["two words", "Upper", "", " a"])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(ValueError, match="is no single word in lower case"):
        data.by_words(("a", word))


@pytest.mark.parametrize(("ids", "wrong"), [((0, 5), 0), ((7, 1), 1), ((4, 10), 10), ((-1,), -1)])
def test_tokens_that_are_reserved_or_that_there_are_not_are_refused(ids, wrong):
    own = data.Tokenizer(10, 8, lambda text: ids, str)
    with pytest.raises(ValueError, match=f"tokenizer: 'a' has the token {wrong}, expected 3 to 9, or 2 for what is"):
        data.encode(own, "a")
    assert data.encode(own._replace(split=lambda text: (2, 3, 9)), "a").tolist() == [1, 2, 3, 9, 0, 0, 0, 0]


# Conditions


NULLS = {"label": np.int32(5), "text": np.zeros((2, 3), np.float32), "text_mask": np.zeros(2, bool)}
N = 4096


def told():
    rng = np.random.default_rng(0)
    text = rng.standard_normal((N, 2, 3)).astype(np.float32)
    return {"label": rng.integers(0, 5, N, np.int32), "text": text, "text_mask": np.ones((N, 2), bool)}


SHARES = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.2), (0.1, 0.2), (1.0, 0.0)]


@functools.cache
def left():
    """What is left of all examples' conditions, and of example 7's alone, for each of `SHARES`: in one program."""

    @jax.jit
    def everything(cond, keys):
        both = (cond, keys), jax.tree.map(lambda a: a[7:8], (cond, keys))
        return [[conditions.drop(cond, NULLS, keys, *shares) for cond, keys in both] for shares in SHARES]

    found = everything(told(), jax.random.split(KEY, N))
    return dict(zip(SHARES, jax.tree.map(np.asarray, found), strict=True))


@pytest.mark.parametrize(("together", "each"), SHARES)
def test_conditions_are_dropped_together_and_each_on_its_own(together, each):
    cond, (found, alone) = told(), left()[together, each]
    no_label, no_text = found["label"] == 5, ~found["text_mask"].any(1)
    assert conditions.kinds(cond) == ["label", "text"]
    np.testing.assert_array_equal(found["label"][~no_label], cond["label"][~no_label])
    np.testing.assert_array_equal(found["text"][~no_text], cond["text"][~no_text])
    assert not found["text"][no_text].any() and found["text_mask"][~no_text].all()
    share = together + (1 - together) * each
    for dropped in (no_label, no_text):
        assert abs(dropped.mean() - share) <= 4.5 * np.sqrt(share * (1 - share) / N)
    both = together + (1 - together) * each**2
    assert abs((no_label & no_text).mean() - both) <= 4.5 * np.sqrt(both * (1 - both) / N)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[7]), alone, found)


# Networks


def reading(text, **options):
    sizes = dict(channels=8, multipliers=(1, 2), blocks=1, attention=(), cross_attention=(8,), groups=4)
    return UNet(**sizes, text=text, **options)


def reading_of(network, params, cond, seed=0):
    x = np.random.default_rng(seed).standard_normal((1, 8, 8, 3)).astype(np.float32)
    x = np.broadcast_to(x, (len(cond["text"]), 8, 8, 3))
    return run(network, params, x, np.full(len(x), 3, np.float32), cond)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_says_nothing_and_every_word_something(kernel):
    network = reading(TextTransformer(WORDS.size, width=8, layers=1, head_dim=4, kernel=kernel))
    specs = [jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)]
    params = init(network, KEY, *specs, {"text": jax.ShapeDtypeStruct((1, 8), jnp.int32)})
    params = stirred(params)
    short = jnp.asarray([[1, 4, 5, 0, 0, 0, 0, 0], [1, 4, 6, 0, 0, 0, 0, 0], [1, 5, 4, 0, 0, 0, 0, 0], [1] + [0] * 7])
    y = reading_of(network, params, {"text": short})
    for i in range(4):
        for j in range(i):
            assert np.abs(y[i] - y[j]).max() > 1e-3  # other words, another order, none at all
    garbage = short.at[:, 4:].set(7)  # what the mask leaves out may be anything
    np.testing.assert_allclose(
        reading_of(network, params, {"text": garbage, "text_mask": short > 0}), y, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 5])
def test_a_feed_forward_hears_the_neighbors_that_its_kernel_reaches(kernel):
    network = TextTransformer(9, width=8, layers=1, head_dim=4, kernel=kernel)
    text = jnp.full((1, 12), 4).at[0, 0].set(1)
    params = stirred(init(network, KEY, text))
    params["0_attention_project"] = jax.tree.map(jnp.zeros_like, params["0_attention_project"])  # alone
    read = lambda text: np.asarray(network.apply({"params": params}, text).tokens[0])  # noqa: E731
    changed = np.abs(read(text.at[0, 6].set(5)) - read(text)).max(1) > 1e-4
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(6 - kernel // 2, 7 + kernel // 2))


@pytest.mark.slow
def test_text_without_its_mean_is_heard_through_attention_alone():
    """With the answers of cross-attention at zero such a network is deaf, one that is told the mean is not."""
    specs = [jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)]
    texts = jnp.asarray([[1, 4, 5, 0], [1, 6, 7, 0]])
    for pooled in (True, False):
        network = reading(TextTransformer(WORDS.size, width=8, layers=1, head_dim=4), pooled_text=pooled)
        params = stirred(init(network, KEY, *specs, {"text": jax.ShapeDtypeStruct((1, 4), jnp.int32)}))
        # one by one: rows of a batch may be rounded differently
        read = lambda params: [reading_of(network, params, {"text": text[None]}) for text in texts]  # noqa: B023, E731
        apart = lambda params: np.abs(np.subtract(*read(params))).max()  # noqa: B023, E731
        assert apart(params) > 1e-3
        silent = lambda path, p: jnp.zeros_like(p) if "_text" in str(path) and "project" in str(path) else p  # noqa: E731
        found = apart(jax.tree.map_with_path(silent, params))
        assert found > 1e-3 if pooled else found == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(head_dim=24), "width=64 is not divisible by head_dim=24: choose one that divides it"),
        (dict(kernel=4), "kernel=4 is not allowed: expected an odd number"),
        (dict(kernel=-1), "kernel=-1 is not allowed: expected at least 1"),
        (dict(layers=0), "layers=0 is not allowed: expected at least 1"),
    ],
)
def test_text_transformers_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        TextTransformer(9, **{"width": 64, **options})


def test_a_text_transformer_that_cannot_be_is_named_by_its_field():
    config = configs.complete(configs.load(str(ROOT / "experiments/shapes_text.py")))
    with pytest.raises(ValueError, match=r"network\.text: kernel=4 is not allowed"):
        build.experiment(configs.override(config, [("network.text.kernel", "4")]))


def test_embeddings_of_another_encoder_and_the_null_among_them():
    network = reading(TextEmbeddings(width=8))
    rng = np.random.default_rng(0)
    mask = np.asarray([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)  # the last one says nothing
    cond = {"text": rng.standard_normal((3, 4, 6)).astype(np.float32), "text_mask": mask}
    arguments = [np.zeros((3, 8, 8, 3), np.float32), np.zeros(3, np.float32), cond]
    params = init(network, KEY, *arguments)
    params = stirred(params)
    y = reading_of(network, params, cond)
    masked = {**cond, "text": np.where(mask[..., None], cond["text"], np.float32(np.nan))}
    np.testing.assert_allclose(reading_of(network, params, masked), y, rtol=1e-5)
    assert np.isfinite(y).all() and np.abs(y[0] - y[1]).max() > 1e-3
    tokens = {"text": np.ones((3, 4), np.int32)}
    with pytest.raises(ValueError, match="text: int32 is not allowed, expected embeddings"):
        jax.eval_shape(network.init, KEY, *arguments[:2], tokens)


def test_a_token_out_of_range_gives_nan_in_its_row_alone():
    network = reading(TextTransformer(9, width=8, layers=1, head_dim=4))
    x, c = np.zeros((3, 8, 8, 3), np.float32), np.zeros(3, np.float32)
    text = np.asarray([[1, 9, 0], [1, 8, 0], [1, -1, 0]], np.int32)
    params = init(network, KEY, x, c, {"text": text})
    y = reading_of(network, jax.tree.map(lambda p: np.asarray(p) + np.float32(0.1), params), {"text": text})
    np.testing.assert_array_equal(np.isnan(y).any((1, 2, 3)), [True, False, True])


def test_an_image_or_a_vector_that_is_not_there_may_be_anything():
    network = UNet(channels=8, multipliers=(1,), blocks=1, attention=(), groups=4, vectors=("clip",), image=True)
    rng = np.random.default_rng(0)
    image, clip, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 4, 1), (2, 5), (2, 8, 8, 3)))
    given, c = np.asarray([True, False]), np.zeros(2, np.float32)
    cond = {"image": image, "image_mask": given, "clip": clip, "clip_mask": given}
    params = init(network, KEY, x, c, cond)
    params = stirred(params)
    answer = lambda cond: run(network, params, x, c, cond)  # noqa: E731
    y = answer(cond)
    for name in ("image", "clip"):
        second_gone, first_other = cond[name].copy(), cond[name].copy()
        second_gone[1], first_other[0] = np.nan, first_other[0] + 1
        np.testing.assert_allclose(answer({**cond, name: second_gone}), y, rtol=1e-5)
        assert np.abs(answer({**cond, name: first_other})[0] - y[0]).max() > 1e-3
    whole = {"image": image, "clip": clip}  # without masks all are there
    np.testing.assert_allclose(answer(whole)[0], y[0], rtol=1e-4, atol=1e-5)


# The command line


def plain(denoise, x, sigmas, keys):
    """A sampler that does not tell its way."""
    return denoise(x, sigmas[0])


SHAPES = f"--config={ROOT}/experiments/shapes_text.py:quick"
OPTIONS = (
    "network.channels=8 network.multipliers=(1,) network.attention=() network.cross_attention=(12,) network.groups=4 "
    "network.head_dim=4 network.text.layers=1 network.text.width=16 network.text.head_dim=8 train.steps=1 "
    "train.sample_every=0 sample.n=4 sample.batch_size=6 sample.grid.n=2 data.examples=64 eval.after_training=False"
)
SMALL = [f"--config.{option}" for option in OPTIONS.split()]


@pytest.fixture(scope="module")
def drawer(tmp_path_factory, programs):  # noqa: F811
    """A run of one step, which none has to wait for."""
    return untrained(tmp_path_factory.mktemp("text") / "run", SHAPES, OPTIONS)


def arrays(picture):
    with np.load(picture.with_suffix(".npz")) as found:
        return dict(found)


def test_a_prompt_becomes_a_picture_that_tells_how(drawer, tmp_path):
    out, film = tmp_path / "new" / "grid.png", tmp_path / "film.webp"
    asked = ("--prompt=a red circle", "--prompt=two blue squares", "--n=5", "--seed=3", "--guidance=4", "--steps=3")
    command = ("--mode=sample", f"--workdir={drawer}", *asked, "--sampler=ddim", f"--out={out}")
    outcome = launch(*command, f"--animation={film}")
    assert outcome.code == 0, outcome.err
    with Image.open(out) as picture:
        text = picture.text
    assert text["prompts"].splitlines()[:3] == ["a red circle", "two blue squares", "a red circle"]
    assert '"seed": 3' in text["diffax"] and '"scale": 4.0' in text["diffax"] and "ddim" in text["diffax"]
    found = arrays(out)
    assert found["x0"].shape == (5, 24, 24, 3) and found["caption"][1] == "two blue squares"
    with Image.open(film) as frames, Image.open(out) as picture:
        assert 2 <= frames.n_frames <= 4  # equal ones are joined
        assert frames.size == picture.size  # laid out as the picture


@pytest.mark.parametrize(
    ("turn", "n", "columns"),
    [
        ({"label": [3, 5, 7]}, 30, 3),
        ({"label": [3, 5, 7]}, 10, 3),  # the last row is not full
        ({"label": range(10)}, 7, 7),
        ({"label": range(10)}, 100, 10),
        ({"text": [[1, 4], [1, 5]]}, 6, 2),
        ({"text": [[1, 4], [1, 5]]}, 64, 8),
        ({"text": [[1, 4], [1, 5], [1, 4], [1, 6]]}, 12, 4),  # one of them twice
        ({"text": [[1, 4], [1, 5]], "label": [0, 1, 2]}, 12, 6),
        ({"label": [4]}, 9, None),
        ({"label": range(1000)}, 64, None),
        ({}, 9, None),
    ],
)
def test_a_column_has_one_class_and_one_prompt(turn, n, columns):
    cond = {name: np.asarray(values)[np.arange(n) % len(values)] for name, values in turn.items()}
    found = pictures.columns({**cond, "image": np.arange(n)})
    assert found == columns
    for value in cond.values() if found else ():
        assert all(len(np.unique(value[i::found], axis=0)) == 1 for i in range(found))


@pytest.mark.slow
def test_words_that_the_network_does_not_know_are_named_once(drawer, tmp_path, caplog):
    asked = ("--prompt=a red circle", "--prompt=a magenta circle", "--prompt=a red cross", "--negative_prompt=kittens")
    command = ("--mode=sample", f"--workdir={drawer}", *asked, "--n=6", "--steps=2", f"--out={tmp_path / 'out.png'}")
    outcome = launch(*command)
    assert outcome.code == 0, outcome.err
    first, second = [record.getMessage() for record in caplog.records if "is read as" in record.getMessage()]
    assert first.startswith(
        "the prompt 'a magenta circle' is read as 'a <unknown> circle'; words that are known: a above "
    )
    assert second.startswith("the prompt 'kittens' is read as '<unknown>'; ") and " purple " in second
    with Image.open(tmp_path / "out.png") as picture:
        side = (picture.height - 2) // 2
        assert picture.size == (3 * side + 2, 2 * side + 2)  # a column a prompt


def test_neither_prompts_nor_negative_prompts_compile_anew(drawer):
    experiment, state = modes.restored(workdir.read_config(drawer), drawer)
    draw, options = sampling.generator(experiment), experiment.config["sample"]
    # where the command has them and in its number, for a program that the commands above have compiled
    params = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), stirred(state.params), state.params)

    def drawn(prompt, negative=""):
        options.update(prompts=(prompt,), negative_prompt=negative)
        cond = wanted.conditions(experiment, 6)
        return draw(params, 0, cond, 6, 6, {**options["guidance"], "scale": 3.0})[0]

    first, again = [], []
    compiled(lambda: first.append(drawn("a red circle")))
    assert not compiled(lambda: again.extend([drawn("two blue squares"), drawn("a red circle", "a blue circle")]))
    assert all(np.abs(x - first[0]).max() > 1e-4 for x in again)


@pytest.mark.slow
def test_a_file_of_prompts_with_an_empty_line(drawer, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\n你好, 世界\n", encoding="utf-8")
    out = tmp_path / "out.png"
    outcome = launch("--mode=sample", f"--workdir={drawer}", f"--prompts={file}", "--n=3", f"--out={out}")
    assert outcome.code == 0, outcome.err
    assert arrays(out)["caption"].tolist() == ["a red circle", "", "<unknown>, <unknown>"]


def fields_of_reference(reference, generated, seed) -> Scores:
    return {f"reference_{name}": float(len(values)) for name, values in reference.items()}


@pytest.mark.slow
def test_captions_of_another_split_at_several_scales_of_guidance(drawer, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(drawer, folder)
    options = "n=6 batch_size=6 conditions=test each=2 scales=(1,3) reference=8 after_training=True".split()
    options.append("metrics=('caption_agreement','test_text:fields_of_reference')")
    outcome = launch(SHAPES, f"--workdir={folder}", *SMALL, *(f"--config.eval.{option}" for option in options))
    assert outcome.code == 0, outcome.err
    first, second = (folder / f"eval_00000001{end}.json" for end in ("", "_2"))
    cards = first.read_bytes(), second.read_bytes()
    assert [json.loads(card)["sampler"]["guidance"]["scale"] for card in cards] == [1.0, 3.0]
    scores = json.loads(cards[0])["scores"]
    assert {name: n for name, n in scores.items() if "reference" in name} == {"reference_x0": 8.0}  # no text is encoded
    captions = arrays(folder / "samples" / "eval_00000001_2.png")["caption"]
    test = data.shapes(size=24, objects=workdir.read_config(folder)["data"]["objects"], split="test")
    assert captions.tolist() == [data.decode(test.tokenizer, test.source[i // 2]["text"]) for i in range(6)]
    second.unlink()  # the run was killed between the two
    assert launch(SHAPES, f"--workdir={folder}", *SMALL, *(f"--config.eval.{option}" for option in options)).code == 0
    assert (first.read_bytes(), second.read_bytes()) == cards


def test_no_prompt_is_a_traceback(drawer, tmp_path):
    prompts = ["red " * 250_000, "\x00\x1b[2J", "שלום", ""]
    asked = [f"--prompt={prompt}" for prompt in prompts]
    outcome = launch("--mode=sample", f"--workdir={drawer}", *asked, "--n=4", f"--out={tmp_path / 'out.png'}")
    assert outcome.code == 0, outcome.err
    assert arrays(tmp_path / "out.png")["caption"].tolist()[1:] == [
        "<unknown> <unknown> <unknown> <unknown>",
        "<unknown>",
        "",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts=@"], "--prompts: cannot read"),
        (["--prompts=/no/such/file"], "--prompts: cannot read /no/such/file (No such file or directory)"),
        (["--prompts=@/binary"], "(it is no UTF-8); give a text file"),
        (["--prompts=@/empty"], "is empty; write one prompt a line"),
        (["--class=3"], "sample.labels: (3,) given, but the network has no classes"),
        (["--out=picture.jpg"], "--out: picture.jpg is not allowed, expected a file that ends in .png"),
        (["--out=@/folder.png"], "is a folder; name a file in it"),
        (["--out=@/arrays.png"], "/arrays.npz is a folder, the arrays of "),
        (["--animation=film.mp4"], "expected a file that ends in .gif or .webp"),
        (["--steps=0"], "sample.grid.n: 0 is not allowed"),
        (["--guidance=inf"], "sample.guidance.scale: inf is not allowed"),
        (["--n=-1"], "sample.n: -1 is not allowed"),
        (
            ["--config.eval.metrics=place_diversity"],
            "'place_diversity' needs several samples of a condition; set eval.each",
        ),
        (["--negative_prompt=blue", "--guidance=1"], "sample.negative_prompt: 'blue' changes nothing with guidance of"),
        (["--animation=@/a.gif", "--sampler=test_text:plain"], "--animation: test_text:plain does not tell its way"),
        (["--mode=eval", "--prompt=a red circle"], "--prompt: eval.conditions='test' is evaluated instead; leave it"),
        (
            ["--mode=eval", "--class=3"],
            "--class: eval.conditions='test' is evaluated instead; leave it out, or add --c",
        ),
        (
            ["--mode=eval", "--config.eval.scales=1,3", "--guidance=2"],
            "--guidance: eval.scales=(1.0, 3.0) is evaluated instead; leave it out, or add --config.eval.scales=",
        ),
        (
            ["--mode=eval", "--config.eval.conditions=", "--prompt=a red cat"],
            "eval.metrics: 'caption_agreement' is of pictures and captions like those of shapes; leave it out, or ask",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(drawer, tmp_path, options, message):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "arrays.npz").mkdir()
    outcome = launch("--mode=sample", f"--workdir={drawer}", *(o.replace("@", str(tmp_path)) for o in options))
    assert outcome.code == 2 and message in outcome.err, outcome.err
    assert outcome.err.count("\n") == 1 and not outcome.compiled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("eval.n=65", "eval.n: 65 is not allowed, 'test' has 64 examples"),
        ("eval.conditions= sample.prompts=('a_cat',)", "(caption='<unknown>': expected 'a', 'one', 'two' or"),
        ("data.tokenizer={'name':'by_bytes','length':4}", "eval.metrics: 'caption_agreement' is of pictures and capt"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_training(tmp_path, options, message):
    options = (f"--config.{option}" for option in f"{options} eval.after_training=True".split())
    outcome = launch(SHAPES, f"--workdir={tmp_path / 'run'}", *SMALL, *options)
    assert outcome.code == 2 and message in outcome.err, outcome.err
    assert not BIG & set(outcome.compiled) and not (tmp_path / "run").exists()


def test_pictures_that_the_judge_of_captions_cannot_read_are_refused(drawer):
    experiment = checks.experiment(workdir.read_config(drawer))
    checks.evaluation(experiment)
    for shape in ((8, 8, 3), (24, 24, 1), (24, 32, 3)):
        with pytest.raises(ValueError, match="'caption_agreement' is of pictures and captions like those of shapes; "):
            checks.evaluation(experiment._replace(dataset=experiment.dataset._replace(shape=shape)))
