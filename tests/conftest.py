"""Eight virtual CPU devices for every test, and programs that compile sooner, set before JAX starts."""

import gc
import os
from importlib.metadata import version

# Most of the time is the compiler's. Small programs compile sooner in one part than in 32; the few that are optimized
# (`oracle.precision`) are so at the level of training steps. jaxlib 0.10's new emitters alone take a third of the time
# of all tests. Real commands, which tests start with flags of their own, do without any of this.
SOONER = ["--xla_cpu_parallel_codegen_split_count=1", "--xla_backend_optimization_level=1"]
if version("jaxlib").startswith("0.10."):
    SOONER.append("--xla_cpu_use_fusion_emitters=false")
flags = os.environ.get("XLA_FLAGS", "") or " ".join(SOONER)
if "xla_force_host_platform_device_count" not in flags:
    flags = f"{flags} --xla_force_host_platform_device_count=8".strip()
os.environ["XLA_FLAGS"] = flags
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
gc.set_threshold(50_000, 20, 20)  # reading the tests, too, makes many objects: a second of five less


def pytest_collection_finish(session):
    """What is imported by now stays; to search it for garbage again and again took a twentieth of the time."""
    gc.collect()
    gc.freeze()
