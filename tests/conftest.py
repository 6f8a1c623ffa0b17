"""Eight virtual CPU devices for every test, and programs that compile sooner, set before JAX starts."""

import os
from importlib.metadata import version

# Most of the time of all tests is the compiler's: jaxlib 0.10's new emitters take a third, optimization a fifth. Real
# commands, which tests start with flags of their own, have them, and so has what is slow: `.ci/run` sets the flags.
SOONER = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
if not os.environ.get("XLA_FLAGS"):
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
flags = os.environ.get("XLA_FLAGS", "") or SOONER
if "xla_force_host_platform_device_count" not in flags:
    flags = f"{flags} --xla_force_host_platform_device_count=8".strip()
os.environ["XLA_FLAGS"] = flags
os.environ.setdefault("JAX_PLATFORMS", "cpu")
