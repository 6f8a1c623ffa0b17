"""Numbers that cannot be meant are refused where they are given, by name; those that are traced pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from diffax import EDM, VE, VP, FlowMatching, SubVP, losses, prediction, zero_terminal_snr

KEYS = jax.random.key(0)[None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zero_terminal_snr([0.1, -0.2]), r"every beta must be in \(0, 1\], got -0.2"),
        (lambda: zero_terminal_snr([0.1]), "at least 2 values"),
        (lambda: zero_terminal_snr([1.0, 1.0]), "betas from 1.0 to 1.0 take no signal away, or all of it at once"),
        (lambda: prediction.edm(0.0), "sigma_data=0.0: a standard deviation is positive"),
        (lambda: prediction.edm("a"), "sigma_data='a' is not a number: a standard deviation is positive"),
        (lambda: prediction.edm([0.5]), r"sigma_data=\[0.5\] is not a number"),
        (lambda: losses.edm(-0.5), "sigma_data=-0.5: a standard deviation is positive"),
        (lambda: losses.lognormal(0.0, -1.0), "mean=0.0, std=-1.0: give a finite mean, and a standard deviation of 0"),
        (lambda: losses.lognormal(np.nan), "mean=nan, std=1.2: give a finite mean"),
        (lambda: losses.logit_normal(std=np.nan), "mean=0.0, std=nan: give a finite mean"),
        (
            lambda: losses.lognormal(FlowMatching(), KEYS),
            r"mean=FlowMatching\(\) is not a number: give a finite mean",
        ),
        (lambda: losses.min_snr(-1.0), "gamma=-1.0: the largest weight is positive"),
        (lambda: losses.soft_min_snr(0.0), "gamma=0.0: the largest weight is positive"),
        (lambda: losses.p2(k=-1.0), "k=-1.0, gamma=1.0: give 0 or more, finite"),
        (lambda: losses.p2(gamma=np.nan), "k=1.0, gamma=nan: give 0 or more, finite"),
        (lambda: losses.sigmoid(np.nan), "bias=nan: .*give a finite number"),
        (lambda: losses.time_probabilities(losses.loss_history(4), -0.5), "uniform=-0.5: it is a share of the draws"),
        (lambda: losses.draw_times(losses.loss_history(4), KEYS, 1.5), "uniform=1.5: it is a share of the draws"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ends_of_what_can_be_meant_pass():
    process, row, t = FlowMatching(), prediction.x0(), np.float32([0.25, 0.5])
    snr = np.float32([9.0, 1.0])
    for weight in (losses.min_snr(np.inf), losses.soft_min_snr(np.inf)):
        np.testing.assert_allclose(weight(process, row, t), snr, rtol=1e-6)
    np.testing.assert_allclose(losses.p2(0, 0)(process, prediction.eps(), t), 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses.lognormal(0, 0)(EDM(), KEYS), 1.0)
    assert losses.discrete(np.int64(2))(process, KEYS) in (np.float32(process.t_min), np.float32(process.t_max))
    for number in (jnp.float32(0.5), np.float32(0.5)):  # arrays of one number are numbers
        np.testing.assert_allclose(losses.edm(number)(process, row, t), snr + 4.0, rtol=1e-6)
        np.testing.assert_allclose(prediction.edm(number).target(process, np.float32([0.5]))[1], -0.5 / np.sqrt(1.25))


def test_what_is_traced_passes():
    @jax.jit
    def drawn(std):
        return losses.lognormal(0.0, std)(EDM(), KEYS)

    z = jax.random.normal(KEYS[0])
    np.testing.assert_allclose(drawn(0.5), jnp.exp(0.5 * z)[None], rtol=1e-5)
    np.testing.assert_allclose(drawn(-0.5), jnp.exp(-0.5 * z)[None], rtol=1e-5)  # what it gives is the caller's


@pytest.mark.parametrize("make", [VP, SubVP, VE, EDM])
def test_a_process_may_hold_anything_that_a_pytree_may(make):
    """Axes, names, shardings and shapes of its numbers, tangents, and arrays that are broadcast."""
    t = np.float32(0.5)
    both = make(np.float32([[0.1], [5.0]]), np.float32([[1.0, 2.0], [10.0, 20.0]]))
    level = jax.vmap(lambda process: process.nsr(t), in_axes=(make(0, 0),))
    assert level(both).shape == ((2,) if make is EDM else (2, 2))
    assert np.isfinite(jax.jvp(lambda process: process.nsr(t), (make(0.1, 20.0),), (make(1.0, 0.0),))[1])
    for leaf in ("a", PartitionSpec(), jax.ShapeDtypeStruct((), np.float32)):
        assert jax.tree.leaves(make(leaf, leaf)) == [leaf, leaf]
