"""Numbers that cannot be meant are refused where they are given, by name; those that are traced pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffax import EDM, VE, VP, Cosine, FlowMatching, Shifted, SubVP, losses, prediction


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(beta_min=-1.0), "beta_min=-1.0, beta_max=20.0: noise is added, not removed"),
        (lambda: VP(0.1, np.nan), "beta_max=nan: noise is added"),
        (lambda: SubVP(beta_max=0.0), "beta_max=0.0: noise is added"),
        (lambda: VP(jnp.asarray([0.1, -0.1])), "noise is added"),
        (lambda: VE(sigma_min=60.0), "sigma_min=60.0, sigma_max=50.0: give a positive level, and a larger finite one"),
        (lambda: EDM(0.0), "sigma_min=0.0, sigma_max=80.0: give a positive level"),
        (lambda: EDM(sigma_max=np.inf), "sigma_max=inf: give a positive level"),
        (lambda: Cosine(-0.1), "s=-0.1: give 0 or more"),
        (lambda: Shifted(FlowMatching(), 0.0), "shift=0.0: what multiplies the noise-to-signal ratio is positive"),
        (lambda: prediction.edm(0.0), "sigma_data=0.0: a standard deviation is positive"),
        (lambda: losses.edm(-0.5), "sigma_data=-0.5: a standard deviation is positive"),
        (lambda: losses.lognormal(0.0, -1.0), "std=-1.0: a standard deviation is positive"),
        (lambda: losses.logit_normal(std=np.nan), "std=nan: a standard deviation is positive"),
        (lambda: losses.min_snr(-1.0), "gamma=-1.0: the largest weight is positive"),
        (lambda: losses.soft_min_snr(0.0), "gamma=0.0: the largest weight is positive"),
        (lambda: losses.p2(k=-1.0), "k=-1.0: what is added to snr is 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ends_of_what_can_be_meant_pass():
    VP(0.0, 1e-6), Cosine(0.0), losses.min_snr(np.inf), losses.soft_min_snr(np.inf), losses.p2(0.0)


def test_what_is_traced_passes():
    # what it gives then is the caller's: a sweep is one program
    found = jax.jit(jax.vmap(lambda lo: VE(lo, 1.0).nsr(0.0)))(np.asarray([0.1, 2.0], np.float32))
    np.testing.assert_allclose(found, [0.1, 2.0], rtol=1e-6)
    jax.eval_shape(lambda std: losses.lognormal(0.0, std)(EDM(), jax.random.split(jax.random.key(0), 2)), 1.0)
