"""The launcher: python -m diffax.main --config=experiments/digits.py --workdir=runs/digits

Flags come in here (and those of the demo in its own `__main__.py`), nowhere else.
`--config.<section>.<option>=value` overrides one value of the experiment file; with `--config.<section>.name=...` a
section starts anew from the defaults of the function named. With a workdir that holds a run, `--mode=sample` and
`--mode=eval` need no `--config`. What is sampled often has flags of its own:

    python -m diffax.main --mode=sample --workdir=runs/shapes --prompt="a red circle" --n=16 --guidance=4 --out=red.png
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

NOT_FINITE = 1  # exit code of a run whose updates or samples are not finite, in one line too
BAD_INPUT = 2  # exit code; 0 is done, `loop.workdir.STOPPED` is stopped by a signal and saved
INTERRUPTED = 130  # exit code, as a shell's of any command that Ctrl-C ended
PIPE_CLOSED = 141  # exit code, as a shell's of any command whose reader has left, such as `| head`

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "The experiment: a file, or file.py:mode, such as experiments/digits.py:quick.")
flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, samples, report.")
flags.DEFINE_enum("mode", "train", ["train", "sample", "eval"], "What to do.")
flags.DEFINE_bool("dry_run", False, "Print config, parameter count, shapes and memory; compile nothing.")
flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next launch.")
flags.DEFINE_multi_string("prompt", [], "What to draw; given several times, in turn. Short for sample.prompts.")
flags.DEFINE_string("prompts", None, "A text file of prompts, one a line; an empty line is the null prompt.")
flags.DEFINE_string("out", None, "With --mode=sample, the picture's file (.png); the arrays are written beside it.")
flags.DEFINE_string("animation", None, "With --mode=sample, a file (.gif or .webp) for the way from noise to picture.")
SHORT = {
    "n": ("sample.n", "How many samples."),
    "seed": ("sample.seed", "The seed of the samples."),
    "class": ("sample.labels", "The class wanted, a number; several as in --class=3,5."),
    "guidance": ("sample.guidance.scale", "The scale of guidance."),
    "negative_prompt": ("sample.negative_prompt", "What guidance leads away from."),
    "sampler": ("sample.sampler.name", "The sampler, by name."),
    "steps": ("sample.grid.n", "Its steps."),
}
EVALUATED = {"n": "eval.n", "seed": "eval.seed"}  # what these are short for with --mode=eval
for _name, (_field, _help) in SHORT.items():
    _evaluated = f", with --mode=eval for --config.{EVALUATED[_name]}" if _name in EVALUATED else ""
    flags.DEFINE_string(_name, None, f"{_help} Short for --config.{_field}{_evaluated}.")


def main(argv: Sequence[str]) -> int:
    """Runs one mode; returns the exit code.

    Raises:
        ValueError: what cannot be meant, in one line.
    """
    if {"-h", "--help", "--helpfull"} & set(argv):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return 0
    overrides = _parse_flags(argv)
    from diffax import loop, parallel
    from diffax.compile import enable_cache, keep_memory, spare_imports
    from diffax.config import complete, override

    for name in ("out", "animation"):
        if FLAGS[name].value is not None and FLAGS.mode != "sample":
            raise ValueError(f"--{name} is for --mode=sample; leave it out")
    config = complete(_with_prompts(override(_config(), [*_short(), *overrides])))
    if FLAGS.mode == "eval":
        _check_evaluated(config["eval"])
    parallel.start_hosts()
    spare_imports()
    keep_memory()
    if FLAGS.compilation_cache:
        enable_cache()
    if FLAGS.dry_run:
        loop.dry_run(config)
    elif FLAGS.mode == "train":
        return loop.train(config, FLAGS.workdir)
    elif FLAGS.mode == "sample":
        loop.sample(config, FLAGS.workdir, out=FLAGS.out, animation=FLAGS.animation)
    else:
        loop.evaluate(config, FLAGS.workdir)
    return 0


def run(command: Callable[[Sequence[str]], int] = main) -> None:
    """Entry point of the command `diffax`, or another: what the user got wrong is one line and exit code 2."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a config may name functions there
    try:
        code = command(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _is_ours(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit
        code = PIPE_CLOSED
    except (ValueError, FloatingPointError) as error:
        if not _is_ours(error):
            raise
        print(f"diffax: {' '.join(str(error).split())}", file=sys.stderr)
        code = BAD_INPUT if isinstance(error, ValueError) else NOT_FINITE
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "diffax: interrupted\n")
    except SystemExit as stop:
        from diffax.loop.workdir import STOPPED

        if stop.code != STOPPED:
            raise
        _leave(STOPPED)  # a signal came after the last step
    sys.exit(code)


def _leave(code, message=""):
    """Ends the process now: a thread may be compiling, for which Python would wait, or beside which it would crash."""
    with contextlib.suppress(OSError):  # Ctrl-C ends who reads, too
        sys.stderr.write(message)
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(code)


def _parse_flags(argv):
    """Sets FLAGS; returns the overrides, [("section.option", "value")]."""
    rest, overrides, waiting = [], [], None
    for arg in argv:
        name, equals, value = arg.lstrip("-").partition("=")
        if waiting:
            overrides.append((waiting, arg))
            waiting = None
        elif not (arg.startswith("-") and name.startswith("config.")):
            rest.append(arg)
        elif equals:
            overrides.append((name.removeprefix("config."), value))
        else:
            waiting = name.removeprefix("config.")
    if waiting:
        raise ValueError(f"{waiting}: no value given; write --config.{waiting}=value")
    try:
        rest = FLAGS(rest)
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if len(rest) > 1:
        raise ValueError(f"unexpected argument {rest[1]!r}; options begin with --")
    if FLAGS.workdir is None and not FLAGS.dry_run:
        raise ValueError("--workdir is missing; name a folder for the run, such as --workdir=runs/digits")
    return overrides


def _short():
    """The overrides that the short flags stand for."""
    fields = {name: field for name, (field, _) in SHORT.items()} | (EVALUATED if FLAGS.mode == "eval" else {})
    return [(field, FLAGS[name].value) for name, field in fields.items() if FLAGS[name].value is not None]


def _check_evaluated(options):
    """Refuses flags of samples in whose place an evaluation has fields of its own."""
    instead = dict.fromkeys(("prompt", "prompts", "class"), "conditions") | {"guidance": "scales"}
    for flag, field in instead.items():
        if FLAGS[flag].value and options[field]:
            told = f"eval.{field}={options[field]!r} is evaluated instead"
            raise ValueError(f"--{flag}: {told}; leave it out, or add --config.eval.{field}=")


def _with_prompts(config):
    """The config with the prompts of `--prompt` and of the file `--prompts`."""
    prompts = list(FLAGS.prompt)
    if FLAGS.prompts is not None:
        try:
            with open(FLAGS.prompts, encoding="utf-8") as file:
                prompts += file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"
            raise ValueError(f"--prompts: cannot read {FLAGS.prompts} ({reason}); give a text file") from None
        if not prompts:
            raise ValueError(f"--prompts: {FLAGS.prompts} is empty; write one prompt a line")
    if prompts:
        sample = {**config.get("sample", {}), "prompts": tuple(prompts)}
        config = {**config, "sample": sample}
    return config


def _config():
    """The config that the flags name: an experiment file's, or that of the run in the workdir."""
    from diffax.config import load
    from diffax.loop.workdir import read_config

    if FLAGS.config is not None:
        return load(FLAGS.config)
    if FLAGS.workdir is not None and FLAGS.mode != "train":
        return read_config(FLAGS.workdir)
    raise ValueError("--config is missing; name an experiment file, such as --config=experiments/digits.py")


def _is_ours(error):
    """Whether diffax's own code raised it, in words for the user; one from elsewhere is a fault, with its traceback."""
    step = error.__traceback__
    while step.tb_next is not None:
        step = step.tb_next
    return step.tb_frame.f_globals.get("__name__", "").split(".")[0] in ("__main__", "diffax")


if __name__ == "__main__":
    run()
