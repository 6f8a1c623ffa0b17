"""Configs: defaults from signatures, overrides, and the refusal of what cannot be meant, in one line."""

import inspect
import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from diffax import build, report
from diffax import config as configs
from diffax.config.options import section_options
from diffax.loop import workdir

TOY = dict(
    data=dict(name="mixture"),
    process=dict(name="FlowMatching"),
    prediction=dict(name="velocity"),
    network=dict(name="MLP"),
)


def with_values(**values):
    """The smallest config, with values at dotted places (__ for the dot)."""
    return configs.override(TOY, [(where.replace("__", "."), str(value)) for where, value in values.items()])


def test_every_default_is_that_of_the_signature():
    full = configs.complete(TOY)
    for where, kind in configs.SPECS.items():
        section = full
        for key in where.split("."):
            section = section[key]
        function = build.find(kind, section["name"], where)
        for name, parameter in build.parameters(kind, function).items():
            if type(parameter.default) in (bool, int, float, str, tuple):
                assert section[name] == parameter.default, (where, name)
    for where, record in configs.RECORDS.items():
        section = full
        for key in where.split("."):
            section = section[key]
        assert {name: section[name] for name in record._fields} == record._field_defaults


@pytest.mark.parametrize("kind", sorted(set(configs.SPECS.values())))
def test_every_function_of_the_library_can_be_named_and_its_options_have_types(kind):
    where = next(place for place, of in configs.SPECS.items() if of == kind)
    names = build.choices(kind)
    assert names
    for name, function in names.items():
        options = section_options({**TOY, **_nested(where, {"name": name})}, where)
        for key, parameter in build.parameters(kind, function).items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            assert options[key].required == (
                parameter.default is inspect.Parameter.empty and (kind, key) != ("grid", "n")
            )
            if type(parameter.default) in (bool, int, float, str, tuple):
                assert options[key].kind is type(parameter.default), (name, key)


def _nested(where, section):
    for key in reversed(where.split(".")):
        section = {key: section}
    return section


def test_completing_twice_changes_nothing_and_json_keeps_it_all(tmp_path):
    full = configs.complete(with_values(sample__labels="(1, 2)", train__keep_every=7))
    assert configs.complete(full) == full
    report.write_json(tmp_path / "config.json", full)
    again = configs.complete(report.read_json(tmp_path / "config.json"))
    assert again == full and configs.difference(again, full) == []
    assert again["sample"]["guidance"]["sigma_hi"] == math.inf and again["sample"]["labels"] == (1, 2)
    json.dumps(full)


def test_an_option_without_a_value_within_another_is_kept():
    encoder = dict(name="diffax.loop.frozen:of_run", folder="runs/first")
    tokenizer = dict(name="cached", encoder=encoder, folder="kept")
    whole = configs.complete(with_values(data=dict(name="shapes", tokenizer=tokenizer)))
    assert whole["data"]["tokenizer"]["encoder"]["step"] is None and configs.complete(whole) == whole


def test_whole_numbers_become_floats_where_floats_are_meant():
    """An int would be another type to jit, and compile sampling once more."""
    full = configs.complete(
        dict(TOY, sample=dict(sampler=dict(name="heun", churn=40), guidance=dict(scale=2)), ema=dict(decays=[0]))
    )
    values = (full["sample"]["sampler"]["churn"], full["sample"]["guidance"]["scale"], *full["ema"]["decays"])
    assert values == (40.0, 2.0, 0.0) and {type(value) for value in values} == {float}


def test_an_override_reads_its_text_as_the_type_of_the_option():
    full = configs.complete(
        with_values(
            train__steps="3",
            train__tensorboard="true",
            ema__warmup="False",
            optimizer__learning_rate="1e-3",
            sample__guidance__sigma_hi="inf",
            sample__ema="0.5",
            ema__decays="0.5,0.9",
            sample__labels="3",
            eval__metrics="pixel_frechet,classifier_agreement",
            network__dtype="bfloat16",
            seed="5",
        )
    )
    assert full["train"]["steps"] == 3 and full["train"]["tensorboard"] is True and full["ema"]["warmup"] is False
    assert full["optimizer"]["learning_rate"] == 1e-3 and full["sample"]["guidance"]["sigma_hi"] == math.inf
    assert full["sample"]["ema"] == "0.5" and full["ema"]["decays"] == (0.5, 0.9)
    assert full["sample"]["labels"] == (3,)
    assert full["eval"]["metrics"] == ("pixel_frechet", "classifier_agreement")
    assert full["network"]["dtype"] == "bfloat16" and full["seed"] == 5


def test_a_new_name_of_guidance_keeps_the_scale():
    given = dict(TOY, sample=dict(guidance=dict(scale=3.0, sigma_lo=0.1)))
    named = [("sample.guidance.name", "apg"), ("sample.guidance.eta", "0.5")]
    found = configs.complete(configs.override(configs.complete(given), named))["sample"]["guidance"]
    assert found == dict(name="apg", scale=3.0, eta=0.5, norm_threshold=math.inf)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a red triangle, a green circle and a blue cross", ("a red triangle, a green circle and a blue cross",)),
        ("1984", ("1984",)),
        ("3, 2, 1", ("3, 2, 1",)),
        ("None", ("None",)),
        ("", ()),
        ("('',)", ("",)),
        ("('a red circle, left', '7')", ("a red circle, left", "7")),
        ('["a cat"]', ("a cat",)),
        ("()", ()),
    ],
)
def test_a_prompt_is_one_text_with_its_commas_unless_it_is_a_literal_tuple(text, prompts):
    assert configs.complete(with_values(sample__prompts=text))["sample"]["prompts"] == prompts


@pytest.mark.parametrize(("text", "names"), [("", ()), ("'pixel_frechet'", ("pixel_frechet",))])
def test_of_names_there_may_be_none_or_a_quoted_one(text, names):
    assert configs.complete(with_values(eval__metrics=text))["eval"]["metrics"] == names


def test_an_option_without_a_value_may_be_given_one():
    config = dict(TOY, data=dict(name="fake", shape=(8, 8, 3)), network=dict(name="UNet", head_dim=4))
    assert configs.complete(config)["network"]["head_dim"] == 4
    assert configs.complete(configs.override(config, [("network.head_dim", "8")]))["network"]["head_dim"] == 8
    assert configs.complete(configs.override(config, [("network.head_dim", "None")]))["network"]["head_dim"] is None
    momentum = configs.complete(with_values(optimizer__name="sgd", optimizer__momentum="0.9"))["optimizer"]
    assert momentum["momentum"] == 0.9


def test_a_new_name_starts_from_the_defaults_of_its_function():
    config = dict(TOY, sample=dict(sampler=dict(name="ddim", eta=0.7)), optimizer=dict(name="adam", b1=0.5, clip=2.0))
    values = [("sample.sampler.churn", "20"), ("sample.sampler.name", "heun"), ("optimizer.name", "sgd")]
    full = configs.complete(configs.override(config, values))
    s_max = math.inf
    heun = dict(name="heun", churn=20.0, s_min=0.0, s_max=s_max, s_noise=1.0)
    assert full["sample"]["sampler"] == heun
    assert "b1" not in full["optimizer"] and full["optimizer"]["clip"] == 2.0
    same = configs.complete(configs.override(config, [("sample.sampler.name", "ddim")]))
    assert same["sample"]["sampler"]["eta"] == 0.7
    ddpm = dict(TOY, process=dict(name="DDPM", betas=dict(name="linear_betas", n=9, start=0.1)))
    betas = [("process.betas.name", "cosine_betas"), ("process.betas.n", "5")]
    cosine = dict(name="cosine_betas", n=5, s=0.008, largest=0.999)
    assert configs.complete(configs.override(ddpm, betas))["process"]["betas"] == cosine


@pytest.mark.parametrize(
    "place, text, message",
    [
        ("train.stps", "3", "train.stps: unknown option (did you mean 'steps'?); one of accumulate, batch_size"),
        ("trian.steps", "3", "trian: unknown section (did you mean 'train'?); one of data, ema,"),
        ("sample.guidance.scala", "3", "sample.guidance.scala: unknown option (did you mean 'scale'?); one of name, r"),
        ("sample.guidance.eta", "1", "sample.guidance.eta: unknown option; one of name, rescale, scale, sigma_hi, sig"),
        (
            "sample.guidance.rescale",
            "1.5",
            "sample.guidance.rescale: 1.5 is not allowed, expected a number from 0 to 1",
        ),
        (
            "sample.guidance.name",
            "agp",
            "sample.guidance.name: 'agp' is unknown (did you mean 'apg'?); one of apg, cfg",
        ),
        ("sample.guidance.name", "composed", "sample.guidance.name: 'composed' is unknown"),
        ("process.beta", "3", "process.beta: unknown option; one of name"),
        ("train.steps", "abc", "train.steps: 'abc' is of type str, expected int"),
        ("train.steps", "3.5", "train.steps: '3.5' is of type str, expected int"),
        ("train.tensorboard", "3", "train.tensorboard: '3' is of type str, expected bool"),
        ("optimizer.learning_rate", "fast", "optimizer.learning_rate: 'fast' is of type str, expected float"),
        ("ema.decays", "('a',)", "ema.decays[0]: 'a' is of type str, expected float"),
        ("sample.labels", "1.5", "sample.labels[0]: 1.5 is of type float, expected int"),
        ("train.steps.more", "3", "train.steps: 7 is of type int, expected a section of options"),
        ("train", "3", "train: 3 is of type int, expected a section of options"),
        ("seed", "x", "seed: 'x' is of type str, expected int"),
        ("train.steps", "-3", "train.steps: -3 is not allowed, expected at least 1"),
        ("train.keep_every", "-1", "train.keep_every: -1 is not allowed, expected 0 or more"),
        ("optimizer.learning_rate", "nan", "optimizer.learning_rate: nan is not allowed, expected a finite number"),
        ("optimizer.learning_rate", "inf", "optimizer.learning_rate: inf is not allowed, expected a finite number"),
        ("optimizer.learning_rate", "0", "optimizer.learning_rate: 0.0 is not allowed, expected more than 0"),
        ("ema.decays", "0.9,1.5", "ema.decays: 1.5 is not allowed, expected a number from 0 to 1"),
        ("sample.seed", "2147483648", "sample.seed: 2147483648 is not allowed, expected less than 2147483648"),
        ("sample.guidance.sigma_lo", "-inf", "sample.guidance.sigma_lo: -inf is not allowed, expected a finite"),
        ("sample.sampler.name", "huen", "sample.sampler.name: 'huen' is unknown (did you mean 'heun'?); one of ada"),
        ("process.name", "vp", "process.name: 'vp' is unknown (did you mean 'VP'?); one of Cosine, DDPM, EDM, FlowMat"),
        ("loss.weight.name", "snr", "loss.weight.name: 'snr' is unknown (did you mean 'min_snr'?); one of edm, elbo"),
        ("train.parallel", "mish", "train.parallel: 'mish' is unknown (did you mean 'mesh'?); one of fsdp, mesh, pm"),
        (
            "network.dtype",
            "bfloat17",
            "network.dtype: 'bfloat17' is unknown (did you mean 'bfloat16'?); one of bfloat1",
        ),
        ("sample.ema", "0.5", "sample.ema: '0.5' is unknown; one of 0.9999, none"),
        (
            "eval.metrics",
            "fid",
            "eval.metrics: 'fid' is unknown; one of caption_agreement, classifier_agreement, pixel_diversity, pixel_",
        ),
        ("data.name", "nowhere.of:it", "data.name: cannot import 'nowhere.of:it': No module named 'nowhere'"),
        ("data.name", "math:nothing", "data.name: cannot import 'math:nothing': module 'math' has no attribute"),
        ("data.name", "image_folder", "data.path: missing, image_folder needs it"),
        ("optimizer.decay_steps", "5", "optimizer.warmup: 5 is not allowed, expected less than optimizer.decay_steps"),
        (
            "network.dropout",
            "1.0",
            "network.dropout: 1.0 is not allowed, expected 0 or more, less than 1",
        ),
        ("optimizer.decay_after", "-1", "optimizer.decay_after: -1 is not allowed, expected 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(place, text, message):
    config = dict(TOY, train=dict(steps=7), optimizer=dict(warmup=5))
    with pytest.raises(ValueError) as error:
        configs.complete(configs.override(config, [(place, text)]))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(data={}),
            "data.name: missing; one of digits, fake, image_folder, image_text_folder, mixture, shapes, ",
        ),
        (dict(data=dict(name=3)), "data.name: 3 is of type int, expected str"),
        (dict(data=dict(name="mixture", n=True)), "data.n: True is of type bool, expected int"),
        (dict(train=dict(parallel=None)), "train.parallel: None is not plain data; leave the field out"),
        (dict(process=dict(name="DDPM")), "process.betas: missing, DDPM needs it"),
        (dict(process=dict(name="DDPM", betas=max)), "process.betas: <built-in function max> is not plain data"),
        (dict(process=dict(name="DDPM", betas={})), "process.betas.name: missing; one of cosine_betas, linear_betas"),
        (
            dict(process=dict(name="DDPM", betas=dict(name="linear_betas", n=2.5))),
            "process.betas.n: 2.5 is of type float",
        ),
        (
            dict(process=dict(name="Shifted", shift=3.0, process=dict(name="VP", beta_mix=1.0))),
            "process.process.beta_mix: unknown option (did you mean 'beta_min'?)",
        ),
        (dict(sample=dict(guidance=dict(sigma_lo=5.0, sigma_hi=1.0))), "sample.guidance.sigma_lo: 5.0 is not allowed"),
        (
            dict(sample=dict(guidance=dict(name="apg", sigma_lo=0.1))),
            "sample.guidance.sigma_lo: unknown option; one of eta, name, norm_threshold, scale",
        ),
        (
            dict(sample=dict(guidance=dict(name="apg", norm_threshold=0))),
            "sample.guidance.norm_threshold: 0.0 is not allowed, expected more than 0",
        ),
        (dict(sample=dict(guidance=dict(name="cfg_pp", scale=-1))), "sample.guidance.scale: -1.0 is not allowed, exp"),
        (dict(sample=dict(n=1, prompts=("a", "b"))), "sample.n: 1 is not allowed, fewer than the 2 prompts; give at"),
        (
            dict(sample=dict(grid=dict(name="karras", rho=0))),
            "sample.grid.rho: 0.0 is not allowed, expected more than 0",
        ),
        (dict(sample=dict(grid=dict(name="cosine", lo=-1))), "sample.grid.lo: -1.0 is not allowed, expected more than"),
        (
            dict(sample=dict(grid=dict(name="polyexponential", lo=5.0, hi=5.0))),
            "sample.grid.lo: 5.0 is not allowed, expected less than sample.grid.hi, which is 5.0",
        ),
        (dict(sample=dict(grid=dict(name="trailing", n=0))), "sample.grid.n: 0 is not allowed, expected at least 1"),
        (dict(sample=dict(grid=dict(name="leading", offset=-1))), "sample.grid.offset: -1 is not allowed, expected 0"),
        (dict(sample=dict(grid=dict(name="shifted_time", shift=0))), "sample.grid.shift: 0.0 is not allowed, expected"),
        (dict(sample=dict(grid=dict(name="resolution_time", tokens=0))), "sample.grid.tokens: 0 is not allowed, expec"),
        (dict(sample=dict(grid=dict(name="resolution_time"))), "sample.grid.tokens: missing, resolution_time needs it"),
        (dict(loss=3), "loss: 3 is of type int, expected a section of options"),
        (dict(loss=dict(time="uniform")), "loss.time: 'uniform' is of type str, expected a section of options"),
    ],
)
def test_a_file_with_what_cannot_be_meant_is_refused(change, message):
    with pytest.raises(ValueError) as error:
        configs.complete({**TOY, **change})
    assert str(error.value).startswith(message)


def test_the_ranges_of_a_users_own_function_are_its_own(tmp_path, monkeypatch):
    (tmp_path / "own_weight.py").write_text("def negative(bend: float = -2.0, gamma: float = -1.0):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = dict(TOY, loss=dict(weight=dict(name="own_weight:negative", gamma=-3)))
    assert configs.complete(config)["loss"]["weight"] == dict(name="own_weight:negative", gamma=-3.0, bend=-2.0)
    with pytest.raises(ValueError, match=r"loss\.weight\.bend: nan is not allowed"):
        configs.complete(configs.override(config, [("loss.weight.bend", "nan")]))


def test_a_difference_names_the_field_and_both_values():
    old, new = configs.complete(TOY), configs.complete(with_values(train__batch_size=8, loss__weight__name="min_snr"))
    assert configs.difference(old, new) == [
        "loss.weight.gamma: None there, 5.0 now",
        "loss.weight.name: 'unit' there, 'min_snr' now",
        "train.batch_size: 64 there, 8 now",
    ]
    free = with_values(train__steps=9, sample__n=2, eval__seed=3, pipeline__workers=1, sample__sampler__name="heun")
    assert configs.difference(old, configs.complete(free)) == []


def experiment(tmp_path, text):
    file = tmp_path / "own.py"
    file.write_text(text)
    return str(file)


def test_a_file_is_loaded_with_its_neighbors_and_mode(tmp_path):
    (tmp_path / "a_neighbor.py").write_text("STEPS = 11\n")
    file = experiment(
        tmp_path,
        "from ml_collections import ConfigDict\n"
        "def get_config(mode):\n"
        "    from a_neighbor import STEPS\n"
        "    return ConfigDict(dict(train=dict(steps=STEPS), data=dict(name=mode, shape=[3, 3])))\n",
    )
    assert configs.load(file) == dict(train=dict(steps=11), data=dict(name="full", shape=(3, 3)))
    assert configs.load(f"{file}:small")["data"]["name"] == "small"
    assert configs.load(file.removesuffix(".py"))["data"]["name"] == "full"
    assert configs.plain(ConfigDict(dict(a=[1, (2,)]))) == dict(a=(1, (2,)))


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(mode\n", "SyntaxError: '(' was never closed (own.py, line 1)"),
        ("import nowhere_at_all\n", "line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\n", "it defines no get_config(mode)"),
        ("def get_config(mode):\n    return missing\n", "line 2: NameError: name 'missing' is not defined"),
        ("def get_config(mode):\n    return 3\n", "get_config returned 3, expected a ConfigDict"),
        ("def get_config(mode):\n    raise ValueError(f'config: no mode {mode}')\n", "no mode full"),
    ],
)
def test_a_faulty_file_is_named_with_its_line(tmp_path, text, message):
    file = experiment(tmp_path, text)
    with pytest.raises(ValueError) as error:
        configs.load(file)
    assert str(error.value) == f"config: {file}: {message}"


def test_a_run_begun_before_a_field_was_there_goes_on_with_its_default(tmp_path):
    full = configs.complete(TOY)
    older = {**full, "optimizer": {k: v for k, v in full["optimizer"].items() if k != "decay_after"}}
    report.write_json(tmp_path / "config.json", older)
    assert workdir.read_config(tmp_path) == full
    workdir.prepare(tmp_path, full)
    other = configs.complete(with_values(optimizer__decay_after=7))
    with pytest.raises(ValueError, match=r"was begun with: optimizer.decay_after: 0 there, 7 now\. Choose another"):
        workdir.prepare(tmp_path, other)
    report.write_json(tmp_path / "config.json", {**full, "optimizer": {**full["optimizer"], "gone": 1}})
    with pytest.raises(ValueError, match=r"optimizer.gone: unknown option"):
        workdir.read_config(tmp_path)


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match=r"config: no file 'experiments/nothing.py'; give an experiment file"):
        configs.load("experiments/nothing.py:quick")


@pytest.mark.parametrize("name", sorted(build.choices("optimizer")))
def test_every_optimizer_takes_a_step(name):
    required = {
        key: 0.1
        for key, p in build.parameters("optimizer", build.choices("optimizer")[name]).items()
        if p.default is p.empty
    }
    spec = dict(
        name=name, learning_rate=0.1, warmup=2, decay_steps=10, decay_after=0, unit_weights=False, clip=1.0, **required
    )
    tx = build.optimizer({"optimizer": spec})
    update = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])
    found = np.asarray(update({"w": np.full((3, 3), 0.5, np.float32)}, {"w": np.ones((3, 3), np.float32)})["w"])
    assert found.shape == (3, 3) and np.isfinite(found).all()


def test_weight_decay_shrinks_kernels_alone():
    spec = dict(name="adamw", weight_decay=0.5, learning_rate=0.1, clip=1.0)
    tx = build.optimizer(configs.complete(dict(TOY, train=dict(steps=7), optimizer=spec)))
    shapes = dict(kernel=(3, 3), bias=(3,), gamma_max=())
    params = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    update = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params)[0])
    updates = jax.device_get(update(jax.tree.map(np.zeros_like, params), params))
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    assert not updates["bias"].any() and not updates["gamma_max"].any()


def test_what_needs_more_than_a_schedule_is_no_optimizer():
    assert {"adam", "adamw", "sgd", "lion"} <= set(build.choices("optimizer"))
    assert not {"lbfgs", "scale_by_rprop", "scale_by_learning_rate", "polyak_sgd"} & set(build.choices("optimizer"))
