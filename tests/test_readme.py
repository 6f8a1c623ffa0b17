"""README's code runs as it stands, and says the truth about the library."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import diffax as dx
from diffax import build

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def run(examples, names=()):
    """What examples leave behind, run one after the other."""
    names = dict(names)
    for block in examples:
        exec(compile(block, "README.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def first():
    """What the first leaves behind."""
    return run(EXAMPLES[:1])


@pytest.fixture(scope="module")
def namespace(first):
    """What the first four leave behind: noise, training, sampling, and what is made of a picture."""
    return run(EXAMPLES[1:4], first)


@pytest.fixture(scope="module")
def everything(namespace):
    """What all but the last leave behind."""
    return run(EXAMPLES[4:-1], namespace)


def test_there_are_nine_examples():
    assert len(EXAMPLES) == 9


@pytest.mark.slow
def test_the_last_checks_a_sampler(everything):
    assert "conformance.check" in EXAMPLES[-1]
    run(EXAMPLES[-1:], everything)


def test_exact_denoiser_gives_the_data_spread(first):
    assert abs(float(jnp.std(first["x0"])) - 0.5) < 0.02


@pytest.mark.slow
def test_likelihoods_are_those_of_the_data(everything):
    data, found, bound = everything["data"], everything["found"], everything["bound"]
    exact = jnp.sum(-2.0 * data**2 - 0.5 * jnp.log(2 * jnp.pi * 0.25), axis=1)
    assert jnp.allclose(found.log_prob, exact, atol=2e-3)
    assert jnp.allclose(everything["again"], data, atol=1e-3)
    assert jnp.allclose(everything["bits"] - 7.0, -exact / 2 / jnp.log(2.0), atol=2e-3)
    # 0.7269 - 0.7258 nats a dimension above the truth in the mean over the noise of a bound
    assert abs(float(jnp.mean(bound.total + exact)) / 2 - 0.0011) < 4 * float(jnp.std(bound.total)) / 512**0.5 / 2


def test_inverse_example_is_the_posterior_and_comes_back(namespace):
    total = namespace["observe"](namespace["drawn"])
    # a posterior of variance 1/(1/0.5 + 1/0.01)
    assert abs(float(jnp.mean(total)) - 0.8 * 0.5 / 0.51) < 4.5 * (0.005 / 0.51 / 4096) ** 0.5
    assert float(jnp.abs(namespace["back"] - namespace["drawn"]).max()) < 1e-5


@pytest.mark.slow
def test_what_learns_more_has_what_to_learn(everything):
    assert bool(jnp.isfinite(everything["weighted"]).all())
    assert int(everything["history"].count.sum()) == 512
    assert float(jnp.abs(everything["slope"].gamma_max)) > 0.0
    assert bool(jnp.isfinite(everything["x"]).all())


@pytest.mark.slow
def test_what_is_told_more_guides(everything):
    # a new network, which predicts nothing yet under any condition
    estimate, tell, x, level = (everything[name] for name in ("estimate", "tell", "picture", "sigmas"))
    assert x.shape == (1, 8, 8, 3) and bool(jnp.isfinite(x).all())

    everything["estimate"] = estimate = jax.jit(estimate)  # of all that `both` asks
    found, expected = everything["both"](x, level[-2:-1]), estimate(x, level[-2:-1], tell("a red circle"))
    assert jnp.allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_own_process_is_complete(everything):
    assert abs(float(jnp.std(everything["x0"])) - 0.5) < 0.02  # it starts from data N(0, 1/4) too
    process = everything["Straight"]()
    t = jnp.linspace(0.05, 0.95, 7)
    assert jnp.allclose(process.logsnr(t), 10.0 - 20.0 * t, atol=1e-4)
    assert jnp.allclose(process.time(process.nsr(t)), t, atol=1e-5)


def test_training_example_lowers_the_loss(namespace):
    assert jnp.isfinite(namespace["loss"])
    assert float(jnp.abs(namespace["params"]["scale"]).min()) > 0


def test_table_names_exist():
    table = TEXT.split("## From paper to functions")[1].split("## Experiments")[0]
    for name in re.findall(r"`(\w+)", table):
        known = any(hasattr(module, name) for module in (dx, dx.prediction, dx.losses, dx.samplers, dx.inverse))
        assert known, f"README's table names {name}, which does not exist"


def test_experiments_of_the_table_exist():
    for name in re.findall(r"`(\w+\.py)`", TEXT.split("| experiment | what")[1].split("Measured step")[0]):
        assert (Path(__file__).parent.parent / "experiments" / name).exists(), name


def test_every_kind_of_how_to_add_is_told_by_its_annotation():
    for kind, example in (("time", "uniform"), ("weight", "min_snr"), ("sampler", "heun"), ("data", "digits")):
        assert example in build.choices(kind)
