"""The demo's command: python -m diffax.demo --workdir=runs/shapes

Opens a page on this machine alone, http://127.0.0.1:8000, that draws samples of the newest checkpoint of a run.
"""

from collections.abc import Sequence
from functools import partial

from absl import flags

from diffax.main import run

FLAGS = flags.FlagValues()  # its own, since those of `diffax.main` are global and have a --workdir too
flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=FLAGS)
flags.DEFINE_integer("port", 8000, "The page's port; 0 for any that is free.", 0, 65535, flag_values=FLAGS)
flags.DEFINE_integer("n", None, "The most samples at once: one batch, 8 images by default.", 1, 1024, flag_values=FLAGS)


def main(argv: Sequence[str]) -> int:
    """Serves the page until Ctrl-C; returns the exit code.

    Raises:
        ValueError: what cannot be meant, in one line.
    """
    if {"-h", "--help"} & set(argv):
        print(f"{__doc__}\n{FLAGS.get_help()}")
        return 0
    try:
        rest = FLAGS(list(argv))
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if len(rest) > 1:
        raise ValueError(f"unexpected argument {rest[1]!r}; options begin with --")
    if not FLAGS.workdir:
        raise ValueError("--workdir is missing; name the folder of a trained run, such as --workdir=runs/shapes")
    from diffax import demo
    from diffax.compile import enable_cache, keep_memory, spare_imports

    spare_imports()
    keep_memory()
    enable_cache()
    with demo.server(partial(demo.studio, FLAGS.workdir, FLAGS.n), FLAGS.port) as page:
        print(f"http://127.0.0.1:{page.server_port}  (Ctrl-C ends it)", flush=True)
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            print("ended; what is being compiled is still finished", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
