"""Objectives in the launcher: a network that learns its variances, a process that is learned, and what cannot be."""

import jax
import numpy as np
import pytest
from launcher import BIG, TINY, TOY, launch, programs, rows  # noqa: F401

from diffax import build, report
from diffax.chain import gaussian
from diffax.loop import modes, sampling, training, wanted, workdir
from diffax.losses import stratified, vdm_loss
from diffax.process import LearnedSchedule

CHAIN = "loss.objective.name=hybrid_loss loss.time.name=discrete process.name=DDPM process.betas.name=linear_betas"
CHAIN += " process.betas.n=8 prediction.name=eps sample.sampler.name=ancestral"
LEARNED = "loss.objective.name=vdm_loss loss.learn_process=True loss.time.name=stratified loss.weight.name=unit"
LEARNED += " process.name=learned_schedule process.n=4 process.gamma_min=-6 prediction.name=eps"
LEARNED += " prediction.c_noise=quarter_log_nsr sample.grid.name=uniform_time"


def options(text):
    return [f"--config.{option}" for option in text.split()]


def run(folder, text, *more):
    args = (TOY, *TINY, *options(text), "--config.train.steps=3", *more)
    outcome = launch(*args, f"--workdir={folder}")
    assert outcome.code == 0, outcome.err
    return modes.restored(workdir.read_config(folder), folder)


def samples(experiment, state, **sample):
    config = {**experiment.config, "sample": {**experiment.config["sample"], **sample}}
    experiment = build.experiment(config)
    params = sampling.chosen_params(state, config)
    cond = wanted.conditions(experiment, 4)
    guidance = config["sample"]["guidance"]
    return sampling.generator(experiment)(params, 0, cond, 4, 4, guidance)[0]


@pytest.mark.slow
def test_a_network_that_learns_its_variances(tmp_path, programs):  # noqa: F811
    experiment, state = run(tmp_path / "run", CHAIN)
    last = [leaf for leaf in jax.tree.leaves(state.params) if leaf.shape[-1] == 4]  # y and v of two numbers
    assert last
    # a new network has v = ½, between the small variance and the large
    fresh = training.initial_state(experiment)
    half = samples(experiment, fresh, learned_variance=False, sampler=dict(name="ancestral", variance=0.5))
    np.testing.assert_allclose(samples(experiment, fresh), half, rtol=1e-5, atol=1e-6)
    assert np.abs(samples(experiment, fresh) - samples(experiment, fresh, learned_variance=False)).max() > 1e-3
    # and what was trained has another, for each number
    half = samples(experiment, state, learned_variance=False, sampler=dict(name="ancestral", variance=0.5))
    assert np.abs(samples(experiment, state) - half).max() > 1e-5


@pytest.fixture(scope="module")
def learned(tmp_path_factory, programs):  # noqa: F811
    """(experiment, state, workdir) of a run of three steps with a learned schedule."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    return *run(folder, LEARNED), folder


@pytest.mark.slow
def test_a_process_is_trained_beside_the_network(learned):
    experiment, state, folder = learned
    fresh = training.initial_state(experiment)
    before, after = (build.parts(experiment, s.params)[1] for s in (fresh, state))
    assert isinstance(after, LearnedSchedule)
    for old, given in zip(jax.tree.leaves(before), jax.tree.leaves(experiment.process), strict=True):
        np.testing.assert_array_equal(old, given)
    assert float(after.gamma_max) != float(before.gamma_max)
    assert any(np.any(a != b) for a, b in zip(after.network, before.network))
    # the grid is that of the process as it is by now, of the average that samples are drawn with
    params = sampling.chosen_params(state, experiment.config)
    process = build.parts(experiment, params)[1]
    sigmas = np.asarray(sampling.grid(experiment, params))
    assert sigmas[0] == pytest.approx(float(np.exp(0.5 * process.gamma_max)), rel=1e-5)
    assert np.isfinite(samples(experiment, state)).all()
    assert len(rows(folder)) == 3 and (folder / "report.html").exists()


@pytest.mark.slow
def test_the_loss_is_the_objectives(learned):
    # of the same state, batch and keys: as the launcher binds it and as it is called by hand
    experiment, state, _ = learned
    params, keys = state.params, jax.random.split(jax.random.key(1), 8)
    batch = {"x0": jax.random.normal(jax.random.key(2), (8, 2)), "label": np.zeros(8, np.int32)}
    network = sampling.network_apply(experiment.network)
    found = jax.jit(build.loss(experiment, network))(params, batch, keys)
    inner = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, 0.1))(inner[:, 0])
    label = jax.numpy.where(dropped, experiment.dataset.num_classes, batch["label"])
    network_params, process = build.parts(experiment, params)

    def apply(x_in, c_noise):
        return network(network_params, x_in, c_noise, {"label": label})

    expected = jax.jit(
        lambda x0, keys: vdm_loss(apply, process, experiment.prediction, x0, keys, stratified(), gaussian)
    )
    by_hand = expected(batch["x0"], inner[:, 2])
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss.objective.name=hybrid_los",
            "loss.objective.name: 'hybrid_los' is unknown (did you mean",
        ),
        ("loss.objective.lambda_vlb=1", "loss.objective.lambda_vlb: unknown option"),
        (
            f"{CHAIN} loss.time.name=uniform",
            "loss.time: uniform is not allowed, hybrid_loss is of a chain",
        ),
        (f"{CHAIN} loss.time.n=5", "loss.time.n: 5 is not allowed, hybrid_loss has 8 steps; give the same"),
        (f"{CHAIN} loss.objective.steps=4", "loss.time.n: 8 is not allowed, hybrid_loss has 4 steps; give the same"),
        (f"{CHAIN} process.name=VP", "process.betas"),
        (
            "loss.objective.name=vdm_loss loss.weight.name=unit loss.time.name=lognormal",
            "loss.time: lognormal is not allowed, vdm_loss is a bound",
        ),
        (f"{LEARNED} loss.objective.prior_std=0", "loss.objective.prior_std: 0.0 is not allowed, expected more than 0"),
        # without the prior, the least of the other terms is at no noise at all
        (
            f"{CHAIN} loss.objective.name=vlb_loss loss.weight.name=unit loss.learn_process=True",
            "loss.learn_process: True needs a whole bound, vdm_loss; vlb_loss would be least without noise",
        ),
        (
            "loss.objective.name=vdm_loss loss.weight.name=elbo",
            "loss.weight: elbo is not allowed, vdm_loss has",
        ),
        ("loss.learn_process=True", "loss.learn_process: True"),
        ("loss.objective.name=vdm_loss loss.learn_process=True process.name=FlowMatching", "has no numbers to learn"),
        ("sample.clip=0", "sample.clip: 0.0 is not allowed, expected more than 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(text, message, tmp_path):
    outcome = launch(TOY, *TINY, *options(text), f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 2 and message in outcome.err and not BIG & set(outcome.compiled)


OWN = """
from __future__ import annotations
from functools import partial
from typing import TYPE_CHECKING
from diffax.losses import denoising_loss
if TYPE_CHECKING:
    from nowhere import Array

def typed(apply, process, prediction, x0: Array, keys, sample_time) -> Array:
    return denoising_loss(apply, process, prediction, x0, keys, sample_time)

part = partial(denoising_loss)
number = 3

def no_time(apply, process, prediction, x0, keys):
    return denoising_loss(apply, process, prediction, x0, keys)

def mean(*args, sample_time):
    return denoising_loss(*args, sample_time=sample_time).mean()
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("typed", ""),
        ("part", ""),
        ("number", "loss.objective.name: 'own_objectives:number' is 3; give the name of a function"),
        (
            "no_time",
            "loss.objective.name: 'own_objectives:no_time' does not take (apply, process, prediction, x0, keys, s",
        ),
        ("mean", "the objective returned shape () for a batch of"),
    ],
)
def test_objectives_of_ones_own(name, message, tmp_path, monkeypatch):
    (tmp_path / "own_objectives.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    outcome = launch(TOY, *TINY, f"--config.loss.objective.name=own_objectives:{name}", "--dry_run")
    assert outcome.code == (2 if message else 0) and message in outcome.err


@pytest.mark.slow
def test_samples_stay_within_the_clip(tmp_path, programs):  # noqa: F811
    experiment, state = run(tmp_path / "run", "sample.sampler.name=ddim sample.clip=0.1")
    assert np.abs(samples(experiment, state)).max() <= 0.1 + 1e-6
    assert np.abs(samples(experiment, state, clip=float("inf"))).max() > 0.1
    assert report.read_json(tmp_path / "run" / "config.json")["sample"]["clip"] == 0.1
