"""Package metadata; tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "diffax/__init__.py").read_text()).group(1)

setup(
    name="diffax",
    version=version,
    description="Diffusion models in JAX and Flax from one small vocabulary of pure functions",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["diffax", "diffax.*"]),
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "diffrax>=0.7.2",
        "flax>=0.12.8",
        "grain>=0.2.18",
        "importlib_resources>=6.0",  # tensorflow-datasets imports it without saying so
        "jax>=0.10.2",
        "jaxtyping>=0.3",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "pillow>=11.0",
        "scikit-learn>=1.5",
        "tensorflow-datasets>=4.9.10",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
        "tb": ["tensorboardX>=2.6"],
        "bench": ["torch>=2.9", "diffusers>=0.38"],
        "dev": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "tensorboardX>=2.6",
        ],
        "lint": ["ruff>=0.14", "pyright[nodejs]>=1.1.400", "pre-commit>=4.0"],
    },
    entry_points={"console_scripts": ["diffax = diffax.main:run"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
