"""The sections of a config: records with their defaults, and specs, whose defaults are those of the named function."""

import math
from typing import NamedTuple


class Pipeline(NamedTuple):
    """How examples become batches: random horizontal flips, uniform dequantization, loader processes."""

    flip: bool = False
    dequantize: bool = False
    workers: int = 0


class Loss(NamedTuple):
    """Whether the network is told the data's conditions, such as the class, and whether the numbers of the process are
    trained too. For guidance it is told nothing with the probability `drop`, and `drop_each` of each condition."""

    conditional: bool = False
    drop: float = 0.1
    drop_each: float = 0.0
    learn_process: bool = False


class Optimizer(NamedTuple):
    """The learning rate and its warm-up in steps, the step at which a cosine brings it to 0 or the one after which it
    falls as 1/sqrt(step) (0: never), clipping. `unit_weights` holds those of EDM2's layers at unit magnitude."""

    learning_rate: float = 2e-4
    warmup: int = 0
    decay_steps: int = 0
    decay_after: int = 0
    unit_weights: bool = False
    clip: float = 1.0


class Averages(NamedTuple):
    """Moving averages of the parameters: exponential ones by their `decays`, EDM2's power-function ones by `widths`
    (sigma_rel). The latter are kept every `snapshot_every` steps (0: never), for any `sample.width` after training.
    Sampling uses `sample.ema`, the first unless told otherwise."""

    decays: tuple[float, ...] = (0.9999,)
    warmup: bool = True
    widths: tuple[float, ...] = ()
    snapshot_every: int = 0


class Train(NamedTuple):
    """The run: sizes, devices ("mesh", "fsdp" or "pmap"), and how often, in steps, things are written (0: never)."""

    steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    parallel: str = "mesh"
    log_every: int = 50
    checkpoint_every: int = 1000
    sample_every: int = 1000
    keep: int = 3
    keep_every: int = 0
    max_nonfinite: int = 10
    tensorboard: bool = False


class Sample(NamedTuple):
    """Samples: their number, the batch, the seed, the average used ("": the first, "none": the raw parameters), or the
    `width` of one made after training from `ema.widths` (0: none).

    `labels` are asked for in turn, all classes where empty; so are `prompts`, the data set's where empty. Guidance
    leads away from `negative_prompt`. `learned_variance`: a sampler that takes a `variance` is
    given the one that the network has learned, if it has. `clip`: estimates of x0 are kept within ±clip.
    """

    n: int = 64
    batch_size: int = 64
    seed: int = 0
    ema: str = ""
    width: float = 0.0
    labels: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    learned_variance: bool = True
    clip: float = math.inf


class Guidance(NamedTuple):
    """The scale, of whatever function guides; its options are that function's."""

    scale: float = 1.0


class Likelihood(NamedTuple):
    """Bits a dimension of so many `examples` of the data set's `split`, 0 for none; by the bound, and where `ode`, by
    the probability-flow ODE, with how many `probes` each and to what `tolerance` (of a step of the solver, in nats)."""

    examples: int = 0
    split: str = "test"
    batch_size: int = 100
    ode: bool = True
    probes: int = 1
    tolerance: float = 1e-3


class Evaluation(NamedTuple):
    """What is measured of `n` samples, and whether training ends with it. They are of the conditions of the data set's
    split `conditions`, in its order, such as new captions, so many samples of `each`; "": of those of `sample`. Metrics
    compare them with the first `reference` examples of the data. With `scales` there is an evaluation for each of these
    scales of guidance."""

    n: int = 1000
    batch_size: int = 250
    seed: int = 1
    metrics: tuple[str, ...] = ("pixel_frechet",)
    conditions: str = ""
    each: int = 1
    scales: tuple[float, ...] = ()
    reference: int = 50_000
    after_training: bool = True


RECORDS = {
    "pipeline": Pipeline,
    "loss": Loss,
    "optimizer": Optimizer,
    "ema": Averages,
    "train": Train,
    "sample": Sample,
    "sample.guidance": Guidance,
    "eval": Evaluation,
    "eval.likelihood": Likelihood,
}

# section -> the kind of function that its `name` is looked up among, by `diffax.build`
SPECS = {
    "data": "data",
    "process": "process",
    "prediction": "prediction",
    "network": "network",
    "loss.objective": "objective",
    "loss.time": "time",
    "loss.weight": "weight",
    "optimizer": "optimizer",
    "sample.sampler": "sampler",
    "sample.grid": "grid",
    "sample.guidance": "guidance",
}
NAMES = {
    "loss.objective": "denoising_loss",
    "loss.time": "uniform",
    "loss.weight": "unit",
    "optimizer": "adam",
    "sample.sampler": "ddim",
    "sample.grid": "uniform_time",
    "sample.guidance": "cfg",
}
TEXTS = ("sample.prompts",)  # entries are texts, with commas: a command line's is one, unless it is a literal tuple
GRID_LEVELS = 50  # of a grid that is told no `n`

# what may change between two launches on one workdir: nothing that an update depends on
FREE = (
    "train.steps",
    "train.log_every",
    "train.sample_every",
    "train.checkpoint_every",
    "train.keep",
    "train.keep_every",
    "train.tensorboard",
    "train.max_nonfinite",
    "pipeline.workers",
    "sample",
    "eval",
)
