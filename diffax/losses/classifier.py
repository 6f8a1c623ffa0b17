"""The training loss of a classifier of noisy data."""

from collections.abc import Callable

from jax import Array

from diffax.losses.denoising import draw
from diffax.losses.times import TimeSampler, uniform
from diffax.prediction import Coefficient, log_softmax_at, one, timestep
from diffax.process import Process, expand


def classifier_loss(
    apply: Callable[[Array, Array], Array],
    process: Process,
    x0: Array,
    label: Array,
    keys: Array,
    sample_time: TimeSampler = uniform(),  # noqa: B008 - a pure function
    c_in: Coefficient = one,
    c_noise: Coefficient = timestep,
) -> Array:
    """The cross-entropy -log p(label | x_t, t) of each example, [batch], in nats; arXiv:2105.05233, Sec. 4.

    Its least expectation is that of the exact posterior, by which `guidance.classifier_guidance` makes a
    conditional denoiser of an unconditional one.

    Args:
        apply: (x_in, c_noise) -> logits [batch, classes], with parameters bound.
        x0: clean data [batch, *data]. label: int [batch]; one out of range gives NaN in its row.
        keys: one PRNG key an example, [batch]. Loss i depends on example i and key i only.
        c_in, c_noise: how the classifier sees x_t and t; `prediction.class_log_prob` needs the same.

    Raises:
        ValueError: shapes or keys that cannot be meant.
    """
    t, _, x_t = draw(process, x0, keys, sample_time)
    return -log_softmax_at(apply(expand(c_in(process, t), x_t) * x_t, c_noise(process, t)), label)
