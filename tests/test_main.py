"""The command: its modes and overrides, what it refuses before it compiles, what a workdir holds."""

import gc
import importlib.util
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from launcher import (
    BIG,
    DIGITS,
    ROOT,
    TINY,
    TOY,
    compiled,
    configured,
    finish,
    launch,
    programs,  # noqa: F401
    rows,
    start,
)

from diffax import checkpoint, main, report, samplers
from diffax.config import complete
from diffax.loop import evaluation, modes, pictures, sampling, training, workdir

CIFAR = f"--config={ROOT}/experiments/cifar10_ddpm.py:quick"
STEPS = 6
RUN = (
    TOY,
    *TINY,
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=3",
    "--config.train.sample_every=3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, programs):  # noqa: F811
    """The workdir of a run by the real command, and what it said."""
    folder = tmp_path_factory.mktemp("main") / "run"
    return folder, finish(start(*RUN, f"--workdir={folder}", programs=programs))


def test_the_command_trains_and_says_so(run):
    folder, outcome = run
    assert outcome.code == 0, outcome.err
    assert f"done: {STEPS} steps" in outcome.out and str(folder / "report.html") in outcome.out
    assert "classifier_agreement" in outcome.out and "pixel_frechet_floor" in outcome.out
    assert f"step {STEPS}/{STEPS}  loss" in outcome.err


def test_what_a_workdir_holds(run):
    folder, _ = run
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if "checkpoints" not in path.parts}
    samples = {f"samples/{name}" for name in ("step_00000003.png", "step_00000006.png", "strip_00000006.png")}
    assert samples | {"config.json", "metrics.jsonl", "report.html", "eval_00000006.json"} <= names
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6"]
    for line, step in zip((folder / "metrics.jsonl").read_text().splitlines(), range(1, STEPS + 1), strict=True):
        row = json.loads(line)
        assert row["step"] == step and np.float32(row["loss"]) == row["loss"]
    config = report.read_json(folder / "config.json")
    assert complete(config) == complete(complete(config)) and config["sample"]["grid"]["n"] == 3
    card = report.read_json(folder / "eval_00000006.json")
    assert card["samples"] == 64 and card["ema"] == "0.99" and card["sampler"]["name"] == "ddim" and card["seed"] == 1
    assert {"scores", "features_hash", "reference_hash", "resize", "versions"} <= card.keys()
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64" in page and "pixel frechet" in page


@pytest.fixture(scope="module")
def sampled(run, tmp_path_factory, programs):  # noqa: F811
    """A copy of the run from which the real command, on one device, has drawn ten samples of class 3."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(run[0], folder)
    options = ("--config.sample.n=10", "--config.sample.labels=3", "--config.sample.guidance.scale=2")
    outcome = finish(start("--mode=sample", f"--workdir={folder}", *options, programs=programs))
    assert outcome.code == 0, outcome.err
    return folder


def test_sampling_and_evaluating_need_the_workdir_alone(run, sampled):
    written = np.load(sampled / "samples" / "sample_00000006_seed0.npz")
    assert written["x0"].shape == (10, 2) and (written["label"] == 3).all()
    assert (sampled / "samples" / "sample_00000006_seed0.png").exists()
    options = ("--config.sample.sampler.name=heun", "--config.sample.sampler.churn=20", "--n=16", "--seed=5")
    outcome = launch("--mode", "eval", "--workdir", sampled, *options)
    assert outcome.code == 0, outcome.err
    first = (run[0] / "eval_00000006.json").read_bytes()
    assert (sampled / "eval_00000006.json").read_bytes() == first
    card = report.read_json(sampled / "eval_00000006_2.json")
    assert (card["samples"], card["seed"]) == (16, 5)
    sampler = card["sampler"]
    assert (sampler["name"], sampler["churn"], sampler["s_noise"]) == ("heun", 20.0, 1.0) and "eta" not in sampler
    assert sampler["clip"] == float("inf") and sampler["learned_variance"] is False
    assert report.read_json(sampled / "config.json") == report.read_json(run[0] / "config.json")
    assert launch("--mode", "eval", "--workdir", sampled, *options).code == 0  # the same again: the same card
    assert sorted(path.name for path in sampled.glob("eval_*")) == ["eval_00000006.json", "eval_00000006_2.json"]
    table = (sampled / "report.html").read_text().split("All evaluations")[1].split("</table>")[0]
    assert "<small>sampler.churn</small> 20<" in table
    assert "labels" not in table


def test_a_dry_run_prints_and_compiles_nothing_big(tmp_path):
    outcome = launch(DIGITS, "--dry_run", "--config.optimizer.name=adamw", "--config.optimizer.weight_decay=0.1")
    assert outcome.code == 0 and not BIG & set(outcome.compiled)
    config, end = json.JSONDecoder().raw_decode(outcome.out)
    rest = outcome.out[end:]
    assert config["optimizer"]["weight_decay"] == 0.1 and config["network"]["name"] == "UNet"
    (tmp_path / "config.json").write_text(outcome.out[:end])
    _, count = next(line.split() for line in rest.splitlines() if line.startswith("parameters"))
    built = modes.checks.experiment(complete(report.read_json(tmp_path / "config.json")))
    params = training.state_shapes(built).params
    assert int(count.replace(",", "")) == sum(leaf.size for leaf in jax.tree.leaves(params))
    for word in ("data", "state", "gradient", "activations"):
        assert f"\n{word} " in rest


@pytest.mark.parametrize(
    "args, message",
    [
        ((TOY,), "--workdir is missing; name a folder"),
        (("--workdir=@",), "--config is missing; name an experiment file"),
        (("--config=experiments/none.py", "--workdir=@"), "config: no file 'experiments/none.py'"),
        ((f"{TOY}er", "--workdir=@"), "config: * mode 'quicker'"),
        ((TOY, "--workdir=@", "--mode=smple"), "flag --mode=smple: value should be one of <train|sample|eval>"),
        ((TOY, "--wrkdir=@"), "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
        ((TOY, "--workdir=@", "stray"), "unexpected argument 'stray'"),
        ((TOY, "--workdir=@", "--config.train.steps"), "train.steps: no value given"),
        ((TOY, "--workdir=@", "--config.train.stps=3"), "train.stps: unknown option (did you mean 'steps'?)"),
        ((TOY, "--workdir=@", "--config.train.steps=x"), "train.steps: 'x' is of type str, expected int"),
        ((TOY, "--workdir=@", "--config.optimizer.learning_rate=-1"), "optimizer.learning_rate: -1.0 is not allowed"),
        ((TOY, "--workdir=@", "--config.train.batch_size=12"), "train.batch_size 12 is not divisible by 8 devices"),
        ((TOY, "--workdir=@", "--config.train.accumulate=5"), "train.batch_size 256 is not divisible by 8 devices x 5"),
        ((TOY, "--workdir=@", "--config.sample.labels=(8,)"), "sample.labels: 8 is not allowed, expected a class from"),
        ((TOY, "--workdir=@", "--config.sample.labels=-1"), "sample.labels: -1 is not allowed, expected a class from"),
        (
            (TOY, "--workdir=@", "--config.loss.conditional=False"),
            "eval.metrics: 'classifier_agreement' needs loss.cond",
        ),
        ((TOY, "--workdir=@", "--config.eval.n=1"), "eval.n: 1 is not allowed, 'pixel_frechet' needs at least 2; give"),
        (
            (TOY, "--workdir=@", "--config.eval.reference=3"),
            "eval.reference: 3 is not allowed, 'pixel_frechet' needs at least 4; give more, or leave it out",
        ),
        (
            (TOY, "--workdir=@", "--config.eval.reference=1", "--config.eval.metrics=classifier_agreement"),
            "eval.reference: 1 is not allowed, 'classifier_agreement' needs at least 2",
        ),
        ((TOY, "--workdir=@", "--config.loss.time.name=discrete"), "loss.time: discrete() needs n of at least 2"),
        (
            (TOY, "--workdir=@", "--config.sample.grid.lo=300"),
            "sample.grid.lo: 300.0 is not allowed, expected less than sample.grid.hi, which is 200.0",
        ),
        ((TOY, "--workdir=@", "--config.pipeline.flip=1"), "pipeline.flip: True needs images, mixture has shape (2,)"),
        ((TOY, "--workdir=@", "--config.pipeline.dequantize=1"), "pipeline.dequantize: True needs integer values"),
        ((TOY, "--workdir=@", "--config.network.name=UNet"), "network: UNet takes images"),
        (
            (CIFAR, "--workdir=@", "--config.data.shape=(128,128,3)", "--config.network.attention=()"),
            "eval.metrics: 'pixel_frechet' takes matrices of 19 GB for examples of 49152 values, at most 12288",
        ),
        ((DIGITS, "--workdir=@", "--config.network.name=MLP"), "network: MLP takes vectors"),
        (
            (DIGITS, "--workdir=@", "--config.network.multipliers=(1,1,1,1,1)"),
            "network: image size 8x8 is not divisible by 16",
        ),
        ((TOY, "--workdir=/proc/nowhere"), "workdir: cannot write to /proc/nowhere: No such file"),
        ((TOY, "--workdir=README.md/x"), "workdir: cannot write to * Not a directory; choose another folder"),
        (
            (TOY, "--workdir=@", "--negative_prompt=blue"),
            "sample.negative_prompt: 'blue' given, but the network reads no text",
        ),
        ((TOY, "--workdir=@", "--mode=eval", "--out=a.png"), "--out is for --mode=sample; leave it out"),
        ((TOY, "--workdir=@", "--mode=eval", "--animation=a.gif"), "--animation is for --mode=sample; leave it out"),
        (("--workdir=@", "--mode=sample"), "workdir: * holds no run (no config.json)"),
        (("--workdir=@", "--mode=eval"), "workdir: * holds no run (no config.json)"),
    ],
    ids=lambda value: " ".join(value[-2:])[-60:] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_before_anything_is_compiled(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    outcome = launch(*(arg.replace("@", str(tmp_path / "none")) for arg in args))
    assert outcome.code == 2
    assert not BIG & set(outcome.compiled) and outcome.out == ""
    assert outcome.err.startswith("diffax: ") and outcome.err.count("\n") == 1, outcome.err
    place = 0
    for part in message.split("*"):
        assert part in outcome.err[place:], outcome.err
        place = outcome.err.index(part, place) + len(part)
    assert not (tmp_path / "none" / "config.json").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        ((TOY, "--config.train.stps=3"), "diffax: train.stps: unknown option (did you mean 'steps'?); one of "),
        (
            (f"--config={ROOT}/experiments/cifar10_ddpm.py", "--config.data.data_dir=nowhere"),
            "diffax: data: dataset='cifar10': not prepared in nowhere/cifar10/3.0.2; prepare it with: python -c ",
        ),
    ],
)
def test_the_real_command_refuses_in_one_line(args, message, tmp_path, programs):  # noqa: F811
    outcome = finish(start(*args, f"--workdir={tmp_path / 'run'}", programs=programs))
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith(message) and outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_config_that_differs_from_the_workdirs_is_refused(run):
    folder = run[0]
    before = (folder / "config.json").read_bytes()
    for mode in ("train", "sample", "eval"):
        outcome = launch(*RUN, f"--workdir={folder}", f"--mode={mode}", "--config.train.batch_size=8")
        assert outcome.code == 2 and not BIG & set(outcome.compiled)
        assert "train.batch_size: 32 there, 8 now" in outcome.err and outcome.err.count("\n") == 1
    assert (folder / "config.json").read_bytes() == before


def test_a_run_is_read_where_it_could_not_be_trained(run, tmp_path, monkeypatch):
    """On devices that do not share its batch, and without tensorboardX."""
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    config = workdir.read_config(tmp_path)
    config["train"] |= {"batch_size": 12, "tensorboard": True}
    report.write_json(tmp_path / "config.json", config)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else found(name))
    state, same = modes.restored(config, tmp_path)[1], modes.restored(workdir.read_config(run[0]), run[0])[1]
    jax.tree.map(np.testing.assert_array_equal, state, same)
    for size, message in {12: "train.batch_size 12 is not divisible by 8", 16: "train.tensorboard: True needs"}.items():
        with pytest.raises(ValueError, match=message):
            modes.checks.experiment({**config, "train": {**config["train"], "batch_size": size}}, training=True)


def test_a_run_that_cannot_be_written_is_sampled_elsewhere(run, tmp_path, monkeypatch):
    unwritable = workdir.unwritable
    monkeypatch.setattr(
        workdir, "unwritable", lambda at: "Read-only file system" if run[0] in (at, *at.parents) else unwritable(at)
    )
    for args in (("--mode=sample",), ("--mode=eval",), ("--mode=sample", f"--out={run[0]}/a.png")):
        outcome = launch(*args, f"--workdir={run[0]}")
        assert outcome.code == 2 and "Read-only file system" in outcome.err and not BIG & set(outcome.compiled)
    asked = ("--n=10", "--class=3", "--guidance=2", f"--out={tmp_path / 'a.png'}")
    outcome = launch("--mode=sample", f"--workdir={run[0]}", *asked)
    assert outcome.code == 0 and (tmp_path / "a.png").exists(), outcome.err


def test_a_workdir_in_use_is_refused_and_left_alone(run):
    folder = run[0]
    before = (folder / "config.json").read_bytes()
    with checkpoint.lock(folder):
        outcome = launch(*RUN, f"--workdir={folder}", "--config.train.steps=50")
    assert outcome.code == 2 and not BIG & set(outcome.compiled)
    assert "in use by process" in outcome.err and outcome.err.count("\n") == 1
    assert (folder / "config.json").read_bytes() == before


def test_sampling_before_the_first_checkpoint_is_refused(run, tmp_path):
    shutil.copy(run[0] / "config.json", tmp_path)
    outcome = launch("--mode=sample", f"--workdir={tmp_path}")
    assert outcome.code == 2
    assert outcome.err == f"diffax: workdir: {tmp_path} has no checkpoint yet; train it first\n"


def test_a_fault_is_not_called_bad_input(tmp_path, monkeypatch):
    """A ValueError from elsewhere than diffax, or anything else, keeps its traceback."""
    for error in (ValueError("from elsewhere"), RuntimeError("a fault")):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr("diffax.loop.train", fail)
        with pytest.raises(type(error), match=str(error)):
            launch(TOY, f"--workdir={tmp_path}")


def test_a_reader_that_leaves_ends_it_quietly(monkeypatch, capfd):
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as out, pytest.raises(SystemExit) as stopped:
        monkeypatch.setattr(sys, "stdout", out)
        main.run(lambda argv: print("as of `diffax --dry_run | head -1`") or 0)
    assert stopped.value.code == main.PIPE_CLOSED and capfd.readouterr() == ("", "")


def test_help_lists_the_flags():
    outcome = launch("--help")
    assert outcome.code == 0 and "python -m diffax.main --config=experiments/digits.py" in outcome.out
    for flag in ("--config", "--workdir", "--mode", "--[no]dry_run"):
        assert f"{flag}:" in outcome.out


@pytest.fixture(scope="module")
def drawn(run):
    """An experiment with every swept option, its network after a few steps, and its generator."""
    config = workdir.read_config(run[0])
    experiment, state = modes.restored(config, run[0])
    return experiment, sampling.chosen_params(state, config)


GUIDANCE = dict(scale=1.5, sigma_lo=0.0, sigma_hi=float("inf"))


@pytest.mark.parametrize(
    "sampler, options",
    [
        ("ddim", ({"eta": 0.0}, {"eta": 0.7})),
        ("heun", ({"churn": 0.0}, {"churn": 9.0}, {"churn": 9.0, "s_min": 0.1, "s_max": 2.0})),
    ],
)
def test_sweeping_does_not_recompile(drawn, sampler, options):
    experiment, params = drawn
    config = {**experiment.config, "sample": {**experiment.config["sample"], "sampler": {"name": sampler}}}
    draw = sampling.generator(modes.build.experiment(complete(config)))
    cond = {"label": np.arange(8, dtype=np.int32)}

    def sample(guidance=GUIDANCE, **swept):
        results.append(draw(params, 0, cond, 8, 8, guidance, **swept)[0])

    results = []
    assert "jit(run)" in compiled(sample)
    sweep = [dict(guidance={**GUIDANCE, **change}) for change in ({"scale": 4.0}, {"sigma_lo": 0.2, "sigma_hi": 5.0})]
    sweep += [dict(options=option) for option in options[1:]] + [dict(sigmas=0.5 * experiment.sigmas)]
    for change in sweep:
        assert compiled(sample, **change) == []
    assert len({result.tobytes() for result in results}) == len(results)  # and every option tells


def test_sample_i_is_the_same_in_any_batch_on_any_devices(drawn, sampled):
    experiment, params = drawn
    draw, cond = sampling.generator(experiment), {"label": np.full(10, 3, np.int32)}
    whole, path = draw(params, 0, cond, 10, 16, {**GUIDANCE, "scale": 2.0})  # over eight devices
    np.testing.assert_array_equal(path[-1], whole)
    different = np.abs(whole[:, None] - whole[None]).max(-1) > 1e-3
    assert (different == ~np.eye(10, dtype=bool)).all()
    for batch_size in (1, 6):
        again, way = draw(params, 0, cond, 10, batch_size, {**GUIDANCE, "scale": 2.0})
        np.testing.assert_allclose(way, path[:, : max(8, batch_size)], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(again, whole, rtol=1e-5, atol=1e-5)
    one, _ = draw(params, 0, {"label": cond["label"][:1]}, 1, 1, {**GUIDANCE, "scale": 2.0}, first=7)
    np.testing.assert_allclose(one[0], whole[7], rtol=1e-5, atol=1e-5)
    on_one_device = np.load(sampled / "samples" / "sample_00000006_seed0.npz")["x0"]
    np.testing.assert_allclose(on_one_device, whole, rtol=1e-5, atol=1e-5)


def test_all_devices_share_a_batch_that_they_do_not_divide(drawn):
    experiment, params = drawn
    found = []

    def noise(denoise, x, sigmas, keys):
        jax.debug.inspect_array_sharding(x, callback=lambda sharding: found.append(sharding.shard_shape(x.shape)))
        return x

    x, path = sampling.generator(experiment._replace(sampler=noise, sampler_options={}))(
        params, 0, {}, 10, 10, GUIDANCE
    )
    assert found == [(2, 2)] and len(x) == 10 and path is None


def test_a_users_sampler_need_not_know_a_number_for_trajectory(drawn):
    experiment, params = drawn

    def own(denoise, x, sigmas, keys, *, trajectory=False):
        return (x, samplers.Trajectory(x[None], x[:0])) if trajectory is True else x

    experiment = experiment._replace(sampler=own, sampler_options={})
    for trajectory, shown in ((3, None), (True, 10), (0, None)):
        x, path = sampling.generator(experiment, trajectory)(params, 0, {}, 10, 10, GUIDANCE)
        assert len(x) == 10 and (path is None if shown is None else path.shape == (1, shown, 2))


def test_no_more_is_drawn_than_was_asked_for(run, tmp_path):
    experiment, state = modes.restored(workdir.read_config(run[0]), run[0])
    asked = []

    def draw(params, seed, cond, n, batch_size, guidance, tick=None):
        asked.append((n, batch_size))
        return np.zeros((n, 2), np.float32), None

    for n, expected in ((10, 10), (20, 16)):
        experiment.config["sample"].update(n=n, batch_size=16)
        experiment.config["eval"].update(n=n, batch_size=16, metrics=())
        pictures.write(experiment, state, tmp_path, draw)
        evaluation.evaluate(experiment, state, tmp_path, draw)
        assert asked[-2:] == [(n, expected)] * 2


def wide(route):
    """A config whose 264 x 264 parameters are enough for FSDP to split."""
    options = ("network.features=264", f"train.parallel={route}", "train.sample_every=2")
    return configured(TOY, (*TINY, *options))


def test_the_first_state_has_the_same_values_split_or_whole():
    split, whole = (training.initial_state(modes.build.experiment(wide(route))) for route in ("fsdp", "mesh"))
    jax.tree.map(np.testing.assert_array_equal, split, whole)
    large = [leaf for leaf in jax.tree.leaves(split) if leaf.shape == (264, 264)]
    assert large and all(leaf.addressable_data(0).shape == (33, 264) for leaf in large)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["fsdp", "pmap"])
def test_no_second_state_lives_while_a_run_trains(route, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def step(state, batch, keys, **_):
        return jax.tree.map(lambda a: a + 1, state), {"loss": keys.shape[0], "nonfinite_in_a_row": 0}

    def look(experiment, state, folder, draw):
        gc.collect()
        shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
        living = [array.shape for array in jax.live_arrays()]
        raise Seen(int(state.step), living.count((264, 264)) / shapes.count((264, 264)))

    monkeypatch.setattr(training, "train_step", step)
    monkeypatch.setattr(pictures, "write", look)
    with pytest.raises(Seen) as seen:
        training.train(wide(route), tmp_path / "run")
    assert seen.value.args == (2, 1.0)


OWN = """
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from diffax import prediction
from diffax.data import Dataset

def x_t():
    one, timestep = prediction.one, prediction.timestep
    return prediction.Prediction(lambda process, t: (process.alpha(t), process.sigma(t)), one, timestep)

def alone():
    return prediction.Prediction(lambda process, t: jnp.ones_like(t), prediction.one, prediction.timestep)

def difference():
    return prediction.Prediction(lambda process, t: (-jnp.ones_like(t), 1.0), prediction.one, prediction.timestep)

def grid(side: int = 4) -> Dataset:
    points = [dict(x0=np.array([i, j], np.float32) / side) for i in range(side) for j in range(side)]
    return Dataset(points, shape=(2,))

class Linear(nn.Module):
    slope: float = 0.5

    @nn.compact
    def __call__(self, x, c_noise, cond=None):
        return self.slope * nn.Dense(2)(x)

def jump(denoise, x, sigmas, keys, *, share: float = 1.0, trajectory: bool = False):
    '''One step to the data.'''
    x0 = share * denoise(x, sigmas[0])
    return (x0, type("Path", (), dict(x=jnp.stack([x, x0])))) if trajectory else x0

def plain(denoise, x, sigmas, keys):
    return denoise(x, sigmas[0])

def keyless(denoise, x, sigmas):
    return denoise(x, sigmas[0])

def fewer(denoise, x, sigmas, keys):
    return denoise(x, sigmas[0])[:1]

def astray(denoise, x, sigmas, keys):
    return jnp.nan * denoise(x, sigmas[0])

def two_sided(real, generated):
    return {}

def raw():
    return dict(x0=np.zeros((8, 2), np.float32))

def unlabeled() -> Dataset:
    return Dataset([{"x0": np.zeros(2, np.float32)}] * 16, (2,), num_classes=2)


def liar() -> Dataset:
    return Dataset([dict(x0=np.zeros(2, np.float32))] * 8, shape=(3,))

def integers() -> Dataset:
    return Dataset([dict(x0=np.zeros(2, np.uint8))] * 8, shape=(2,))

def mislabeled() -> Dataset:
    return Dataset([dict(x0=np.zeros(2, np.float32), label=np.int32(7 * (i == 3))) for i in range(8)], (2,), 2)

def holes() -> Dataset:
    return Dataset([dict(x0=np.full(2, i if i else np.nan, np.float32)) for i in range(16)], shape=(2,))
"""


@pytest.mark.slow
def test_a_users_own_functions(tmp_path, programs):  # noqa: F811
    """Data, network and sampler of a file that lies where the command is given."""
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "all.py").write_text(OWN)
    parts = ("data.name=grid", "network.name=Linear", "sample.sampler.name=jump")
    own = [f"--config.{part.replace('=', '=own_parts.all:')}" for part in parts]
    options = ("data.side=5", "network.slope=-0.25", "sample.sampler.share=0.5", "eval.metrics=pixel_frechet")
    args = (TOY, *own, *(f"--config.{option}" for option in options), "--config.loss.conditional=False")
    small = ("--config.train.steps=2", "--config.train.batch_size=8", "--config.sample.n=4", "--config.eval.n=8")
    outcome = finish(start(*args, *small, f"--workdir={tmp_path / 'run'}", programs=programs, cwd=tmp_path))
    assert outcome.code == 0, outcome.err
    config = report.read_json(tmp_path / "run" / "config.json")
    assert config["data"] == {"name": "own_parts.all:grid", "side": 5}
    assert config["network"]["slope"] == -0.25 and config["sample"]["sampler"]["share"] == 0.5
    assert len(rows(tmp_path / "run")) == 2


def test_any_directory_serves_the_command_diffax(tmp_path, monkeypatch):
    """The console script has its own folder in sys.path, not the present one."""
    (tmp_path / "own_here.py").write_text("from diffax.data import mixture as points\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    outcome = launch(TOY, "--dry_run", "--config.data.name=own_here:points", "--config.data.n=64")
    assert outcome.code == 0 and "64 examples of shape (2,)" in outcome.out


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """The start of a command whose parts are a user's own, and its workdir."""
    (tmp_path / "own_bits.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_bits", raising=False)
    small = "train.steps=2 train.batch_size=8 sample.n=4 eval.n=8 eval.metrics=pixel_frechet loss.conditional=False"
    folder = tmp_path / "run"
    names = ("--config.data.name=own_bits:grid", "--config.network.name=own_bits:Linear")
    return (TOY, *names, *(f"--config.{option}" for option in small.split()), f"--workdir={folder}"), folder


def test_a_sampler_without_a_trajectory_gives_no_strip(own_parts):
    args, folder = own_parts
    options = ("sample.sampler.name=own_bits:plain", "prediction.name=own_bits:difference")
    assert launch(*args, *(f"--config.{option}" for option in options)).code == 0
    assert (folder / "eval_00000002.json").exists() and not list(folder.glob("samples/strip*"))


def test_a_card_that_cannot_be_read_is_made_again(own_parts):
    args, folder = own_parts
    assert launch(*args).code == 0
    whole = (folder / "eval_00000002.json").read_bytes()
    (folder / "eval_00000002.json").write_bytes(whole[:10])
    assert launch(*args).code == 0
    assert (folder / "eval_00000002_2.json").read_bytes() == whole
    assert (folder / "eval_00000002.json").read_bytes() == whole[:10]  # what is no card stays where it is


@pytest.mark.parametrize(
    "option, message",
    [
        ("sample.sampler.name=own_bits:keyless", "'own_bits:keyless' does not take (denoise, x, sigmas, keys)"),
        (
            "sample.sampler.name=own_bits:fewer",
            "'own_bits:fewer' makes samples of shape (1, 2) of noise of shape (2, 2)",
        ),
        (
            "prediction.name=own_bits:x_t",
            "'own_bits:x_t' has y = a·x0 + b·eps with alpha·b - sigma·a of 0, or not finite",
        ),
        ("prediction.name=own_bits:alone", "'own_bits:alone' has no row (a, b) at times t [batch]"),
        (
            "process.name=VE process.sigma_min=60",
            "process.sigma_min: 60.0 is not allowed, expected less than",
        ),
        ("sample.sampler.order=7 sample.sampler.name=unipc", "sample.sampler: unipc: order=7 is not allowed"),
        ("sample.guidance.scale=3", "sample.guidance.scale: 3.0 changes nothing, the network is told no condition"),
        ("eval.metrics=own_bits:two_sided", "'own_bits:two_sided' does not take (real, generated, seed)"),
        (
            "optimizer.decay_steps=1 optimizer.warmup=0",
            "train.steps: 2 is not allowed, optimizer.decay_steps, 1, brings",
        ),
        ("data.name=own_bits:integers", "own_bits:integers gives uint8 but says levels=0"),
        ("data.name=own_bits:raw", "own_bits:raw gave a dict, expected diffax.data.Dataset"),
        ("data.name=own_bits:liar", "own_bits:liar says shape (3,), its first example has (2,)"),
        ("data.name=own_bits:unlabeled", "the first example of own_bits:unlabeled has no 'label', only 'x0'"),
    ],
)
def test_parts_that_cannot_work_are_refused(own_parts, option, message):
    args, _ = own_parts
    outcome = launch(*args, *(f"--config.{one}" for one in option.split()))
    assert outcome.code == 2 and message in outcome.err and not BIG & set(outcome.compiled)


def test_data_that_are_not_finite_are_named(own_parts):
    args, folder = own_parts
    outcome = launch(*args, "--config.data.name=own_bits:holes", "--config.train.steps=4")
    assert outcome.code == 2 and "of the examples of own_bits:holes, 1 of 16 are not finite" in outcome.err
    assert "the gradient is not finite, no update made" in outcome.err
    assert (folder / "report.html").exists()


def test_a_label_that_is_no_class_ends_the_run(own_parts):
    args, _ = own_parts
    outcome = launch(*args, "--config.data.name=own_bits:mislabeled")
    assert outcome.code == 2 and "data: an example has label 7, of 2 classes; expected 0 to 1" in outcome.err


def test_samples_that_are_not_finite_are_told(own_parts):
    args, folder = own_parts
    options = ("sample.sampler.name=own_bits:astray", "eval.after_training=False", "train.sample_every=2")
    outcome = launch(*args, *(f"--config.{option}" for option in options))
    assert outcome.code == 0 and "warning: 4 of 4 samples are not finite" in outcome.err
    assert list(folder.glob("samples/step_*.png"))


@pytest.mark.slow
def test_other_samples_do_not_replace_the_first(sampled):
    def draw(scale):
        options = ("--config.sample.n=10", "--config.sample.labels=3", f"--config.sample.guidance.scale={scale}")
        assert launch("--mode=sample", f"--workdir={sampled}", *options).code == 0
        return {path.name: path.read_bytes() for path in sampled.glob("samples/sample_*.npz")}

    first = draw(2)
    assert draw(2) == first  # the same again is the same file
    both = draw(3)
    assert len(both) == len(first) + 1 and first.items() <= both.items()
