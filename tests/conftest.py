"""Eight virtual CPU devices for every test, and programs that compile sooner, set before JAX starts."""

import gc
import os
from importlib.metadata import version

# jaxlib 0.10's new emitters take a third of the time of all tests. Real commands, which tests start with flags of their
# own, have them, and are optimized.
SOONER = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
flags = os.environ.get("XLA_FLAGS", "") or SOONER
if "xla_force_host_platform_device_count" not in flags:
    flags = f"{flags} --xla_force_host_platform_device_count=8".strip()
os.environ["XLA_FLAGS"] = flags
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # most of the time is the compiler's


def pytest_xdist_auto_num_workers(config):
    """A worker more than cores: some wait for the processes that they started."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish(session):
    """What is imported by now stays; to search it for garbage again and again took a twentieth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
