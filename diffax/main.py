"""The launcher: python -m diffax.main --config=experiments/digits.py --workdir=runs/digits

Flags come in here and nowhere else. `--config.<section>.<option>=value` overrides one value of the experiment file;
with `--config.<section>.name=...` a section starts anew from the defaults of the function named.
"""

import sys
from collections.abc import Sequence

from absl import flags

BAD_INPUT = 2  # exit code; 0 is done, 3 is stopped by a signal and saved

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run's folder: checkpoints, metrics, samples, report.")
flags.DEFINE_enum("mode", "train", ["train", "sample", "eval"], "What to do.")
flags.DEFINE_bool("dry_run", False, "Print config, parameter count, shapes and memory; compile nothing.")
flags.DEFINE_bool("compilation_cache", True, "Keep compiled programs for the next launch.")


def main(argv: Sequence[str]) -> int:
    """Runs one mode; returns the exit code."""
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}; options begin with --")
    if FLAGS.workdir is None and not FLAGS.dry_run:
        raise ValueError("--workdir is missing; name a folder for the run, such as --workdir=runs/digits")
    from diffax import loop, parallel
    from diffax.compile import enable_cache
    from diffax.config import complete

    parallel.start_hosts()
    if FLAGS.compilation_cache:
        enable_cache()
    config = complete(FLAGS.config)
    if FLAGS.dry_run:
        loop.dry_run(config)
    elif FLAGS.mode == "train":
        return loop.train(config, FLAGS.workdir)
    elif FLAGS.mode == "sample":
        loop.sample(config, FLAGS.workdir)
    else:
        loop.evaluate(config, FLAGS.workdir)
    return 0


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Loads the experiment file, fills in defaults, and lets the command line override them."""
    from ml_collections import ConfigDict, config_flags

    from diffax import config as configs

    paths, argv = _take(argv, "--config")
    workdir, _ = _take(argv, "--workdir")
    mode, _ = _take(argv, "--mode")
    if paths:
        config = configs.plain(configs.load(paths[-1]))
    elif workdir and mode[-1:] in (["sample"], ["eval"]):
        from diffax.loop.workdir import read_config

        config = read_config(workdir[-1])
    elif any(arg in ("--help", "--helpfull", "-h") for arg in argv):
        return FLAGS(argv)
    else:
        raise ValueError("--config is missing; name an experiment file, such as --config=experiments/digits.py")
    for where in configs.SPECS:
        names, _ = _take(argv, f"--config.{where}.name")
        if names:
            configs.rename(config, where, names[-1])
    config_flags.DEFINE_config_dict("config", ConfigDict(configs.complete(config)), sys_argv=list(argv))
    return FLAGS(list(argv))


def _take(argv, flag):
    """The values of a flag, in either of its spellings, and the arguments without it."""
    values, rest, waiting = [], [], False
    for arg in argv:
        if waiting:
            values.append(arg)
            waiting = False
        elif arg in (flag, flag[1:]):
            waiting = True
        elif arg.startswith((flag + "=", flag[1:] + "=")):
            values.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    return values, rest


def run() -> None:
    """Entry point of the command `diffax`: what the user got wrong is one line and exit code 2."""
    try:
        code = main(parse_flags(sys.argv))
    except Exception as error:
        if not _speaks_of_input(error):
            raise
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"diffax: {' '.join(str(message).split())}", file=sys.stderr)
        code = BAD_INPUT
    sys.exit(code)


def _speaks_of_input(error):
    """Whether diffax's own code raised a ValueError, or the flags' libraries anything: all else is a fault."""
    step = error.__traceback__
    while step.tb_next is not None:
        step = step.tb_next
    origin = step.tb_frame.f_globals.get("__name__", "")
    if origin.startswith(("ml_collections", "absl.flags")):
        return True
    return isinstance(error, ValueError) and (origin == "__main__" or origin.startswith("diffax"))


if __name__ == "__main__":
    run()
