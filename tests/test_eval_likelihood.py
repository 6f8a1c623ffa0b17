"""Bits a dimension of a run: known where the data are uniform, and refused where there can be none."""

import numpy as np
import pytest
from launcher import TINY, TOY, launch, programs  # noqa: F401

from diffax import report

UNIFORM = """
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from diffax.data import Dataset, in_memory

def evens(split: str = "train") -> Dataset:
    '''Every pair of integers 0 … 16 once: dequantized, it is uniform on [-1, 1]².'''
    return Dataset(in_memory(x0=np.stack(np.divmod(np.arange(289), 17), 1).astype(np.uint8)), shape=(2,), levels=17)

class Exact(nn.Module):
    '''The EDM network of uniform data, whose posterior is a Gaussian cut off at -1 and 1.'''

    @nn.compact
    def __call__(self, x_in, c_noise, cond=None):
        nothing = self.param("nothing", nn.initializers.zeros, ())
        s = jnp.exp(4.0 * c_noise)[:, None]
        r = jnp.sqrt(s**2 + 1.0)
        x = jnp.abs(x_in * r)  # by symmetry: where both ends lie below x, their distributions differ by nothing lost
        a, b = (-1.0 - x) / s, (1.0 - x) / s
        phi = lambda z: jax.scipy.stats.norm.logpdf(z)
        mass = jax.scipy.special.log_ndtr(b) + jnp.log1p(-jnp.exp(
            jnp.minimum(jax.scipy.special.log_ndtr(a) - jax.scipy.special.log_ndtr(b), -1e-6)))
        mean = jnp.sign(x_in) * (x + s * (jnp.exp(phi(a) - mass) - jnp.exp(phi(b) - mass)))
        return (mean - x_in / r) * r / s + 0.0 * nothing
"""


@pytest.fixture
def uniform(tmp_path, monkeypatch):
    (tmp_path / "uniform_parts.py").write_text(UNIFORM)
    monkeypatch.syspath_prepend(tmp_path)
    parts = "data.name=uniform_parts:evens network.name=uniform_parts:Exact process.name=EDM process.sigma_min=0.01"
    parts += " process.sigma_max=20 prediction.name=edm prediction.sigma_data=1 pipeline.dequantize=True"
    parts += " loss.conditional=False loss.drop=0 train.steps=1 train.batch_size=8 sample.n=4 sample.sampler.name=ddim"
    parts += " sample.grid.n=3 sample.grid.lo=0.01 sample.grid.hi=20 eval.n=8 eval.metrics=pixel_frechet"
    return [TOY, *(f"--config.{part}" for part in parts.split()), f"--workdir={tmp_path / 'run'}"], tmp_path / "run"


@pytest.mark.slow
def test_uniform_data_have_the_bits_of_their_integers(uniform, programs):  # noqa: F811
    args, folder = uniform
    likelihood = ("examples=289", "batch_size=48", "tolerance=1e-4", "probes=2")
    outcome = launch(*args, *(f"--config.eval.likelihood.{option}" for option in likelihood))
    assert outcome.code == 0, outcome.err
    card = report.read_json(folder / "eval_00000001.json")
    scores = card["scores"]
    # what noise of level 0.01 adds at the edges, about 0.6 % of the cells' mass each, is the rest
    assert scores["bits_per_dim"] == pytest.approx(np.log2(17), abs=0.02)
    assert 0 < scores["bits_per_dim_standard_error"] < 0.02
    assert "vlb_bits_per_dim" not in scores  # a bound on the integers, for a network of the integers
    assert card["likelihood"]["examples"] == 289
    assert "bits per dim" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_bound_is_at_least_the_entropy(uniform, programs):  # noqa: F811
    args, folder = uniform
    options = ("pipeline.dequantize=False", "eval.likelihood.examples=50", "eval.likelihood.tolerance=1.0")
    outcome = launch(*args, *(f"--config.{option}" for option in options))
    assert outcome.code == 0, outcome.err
    assert report.read_json(folder / "eval_00000001.json")["scores"]["vlb_bits_per_dim"] > np.log2(17) - 0.02


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("examples=500", "eval.likelihood.examples: 500 is not allowed, 'test' has 289; give fewer"),
        ("examples=-1", "eval.likelihood.examples: -1 is not allowed, expected 0 or more"),
        ("tolerance=0", "eval.likelihood.tolerance: 0.0 is not allowed, expected more than 0"),
        ("probes=0", "eval.likelihood.probes: 0 is not allowed, expected at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(uniform, option, message):
    launch(*uniform[0], f"--config.eval.likelihood.{option}")  # a grid is made of operations, which are compiled once
    outcome = launch(*uniform[0], f"--config.eval.likelihood.{option}")
    assert outcome.code == 2 and message in outcome.err and not outcome.compiled


def test_floats_have_no_bits(tmp_path):
    for _ in range(2):  # as above
        outcome = launch(TOY, *TINY, "--config.eval.likelihood.examples=5", f"--workdir={tmp_path / 'run'}")
    assert outcome.code == 2 and "eval.likelihood" in outcome.err and not outcome.compiled
