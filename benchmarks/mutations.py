"""One table: typical bugs of diffusion code, planted one at a time in a copy of the project, and the test that fails.

    python benchmarks/mutations.py [name ...]

A bug that no test notices is listed as MISSED, and the exit code is 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAWS, SAMPLERS, GUIDANCE = "tests/test_sampler_laws.py", "tests/test_samplers.py", "tests/test_guidance.py"
PROCESS, PREDICTION, LOSSES = "tests/test_process.py", "tests/test_prediction.py", "tests/test_losses.py"
TRAIN, LIKELIHOOD, GRIDS = "tests/test_train.py", "tests/test_likelihood.py", "tests/test_grids.py"
DIT = "tests/test_dit.py"

# name: (file, what stands there, what the bug puts there, the tests that are to notice it)
BUGS = {
    "ddim: noise of the level before": ("samplers/sde.py", "drawn = eta * r * jnp", "drawn = eta * s * jnp", LAWS),
    "ddim: r for r² in what is kept": ("samplers/sde.py", "(1.0 - eta**2) + share**2", "(1.0 - eta) + share**2", LAWS),
    "ancestral: large for small": ("samplers/sde.py", "ratio ** (0.5 * v)", "ratio ** (0.5 * (1.0 - v))", LAWS),
    "ancestral: mean shrinks once": ("samplers/sde.py", "x0 + (r / s) ** 2 * (x - x0)", "x0 + (r / s) * (x - x0)", LAWS),
    "reverse SDE: noise of the last step stays": ("samplers/sde.py", "jnp.where(r > 0, jnp.sqrt((s - r) * (s + r)), 0.0)", "jnp.sqrt((s - r) * (s + r))", LAWS),
    "Langevin: no factor 2 in the noise": ("samplers/sde.py", "jnp.sqrt(2.0 * size)", "jnp.sqrt(size)", LAWS),
    "corrector: one key for both noises": ("samplers/sde.py", "i * (corrections + 1) + j + 1, x)", "i * (corrections + 1), x)", LAWS),
    "heun: the slope at the end is forgotten": ("samplers/ode.py", "0.5 * (slope + (euler - denoise(euler, level)) / level)", "slope", LAWS),
    "heun: the second call at the first level": ("samplers/ode.py", "(euler - denoise(euler, level)) / level", "(euler - denoise(euler, s)) / level", LAWS),
    "churn: gamma is not capped": ("samplers/ode.py", "jnp.minimum(most, 2.0**0.5 - 1.0)", "most", LAWS),
    "churn: variance for deviation": ("samplers/ode.py", "s_noise * s * root", "s_noise * s * root**2", LAWS),
    "dpm2: arithmetic for geometric mean": ("samplers/ode.py", "middle = jnp.sqrt(up * jnp.where(r > 0, r, up))", "middle = 0.5 * (up + jnp.where(r > 0, r, up))", LAWS),
    "2M: h over h_last upside down": ("samplers/history.py", "0.5 * jnp.log(s / r) / jnp.where(h_last > 0, h_last, 1.0)", "0.5 * jnp.where(h_last > 0, h_last, 1.0) / jnp.log(s / r)", LAWS),
    "2M SDE: noise of the ODE's step": ("samplers/dpm_sde.py", "-jnp.expm1(-2.0 * eta * h)", "-jnp.expm1(-eta * h)", LAWS),
    "SDE: the middle's noise is drawn anew": ("samplers/dpm_sde.py", "q * (q * x + first)", "q * q * x", LAWS),
    "multistep: one earlier value too many": ("samplers/multistep.py", "jnp.arange(order) <= i, s,", "jnp.arange(order) <= i + 1, s,", LAWS),
    "unipc: corrected towards the old estimate": ("samplers/multistep.py", "((values, x0[None]), (levels", "((values, values[:1]), (levels", LAWS),
    "unipc: B(h) has the wrong sign": ("samplers/multistep.py", "b = h if bh == 1 else -jnp.expm1(-h)", "b = -h if bh == 1 else jnp.expm1(-h)", LAWS),
    "restart: noise to the wrong level": ("samplers/restarts.py", "(top - bottom) * (top + bottom)", "(top - bottom) * (top - bottom)", LAWS),
    "the loop drops the last step": ("samplers/path.py", "(jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])", "(jnp.arange(len(sigmas) - 2), sigmas[:-2], sigmas[1:-1])", LAWS),
    "one noise for all steps": ("samplers/path.py", "jax.random.fold_in(key, i)", "jax.random.fold_in(key, 0)", LAWS),
    "karras: the exponent is not inverted": ("samplers/grids/levels.py", "real(hi) ** (1.0 / rho), real(lo) ** (1.0 / rho)", "real(hi), real(lo)", GRIDS),
    "trailing: off by one": ("samplers/grids/times.py", "[round(steps + i * gap) - 1 for i in range(n)]", "[round(steps + i * gap) - 2 for i in range(n)]", GRIDS),
    "cfg: w is scale": ("guidance/classifier_free.py", "guided = cond + expand(each(w, cond) - 1, cond)", "guided = cond + expand(each(w, cond), cond)", GUIDANCE),
    "VP: the integral of beta, halved": ("process/continuous.py", "beta_min * t + 0.5 * (", "beta_min * t + (", PROCESS),
    "v: a sign": ("prediction.py", "(-process.sigma(t), process.alpha(t))", "(process.sigma(t), process.alpha(t))", PREDICTION),
    "min-SNR: max for min": ("losses", "jnp.minimum(", "jnp.maximum(", LOSSES),
    "likelihood: the change of volume, with the wrong sign": ("likelihood/density.py", "x.size / (1.0 + sigma**2) - captured", "captured - x.size / (1.0 + sigma**2)", LIKELIHOOD),
    "clipping: by the squared norm": ("train.py", "largest / global_norm(grads))", "largest / global_norm(grads) ** 2)", TRAIN),
    "DiT: long skips in the order of the way down": ("models/dit.py", "kept[::-1]", "kept", DIT),
    "DiT: every layer drops the same": ("models/transformer.py", "jax.random.fold_in(key, layer)", "jax.random.fold_in(key, 0)", DIT),
    "DiT: columns and rows exchanged": ("models/transformer.py", "[column * rates, row * rates]", "[row * rates, column * rates]", DIT),
    "MMDiT: padding is attended to": ("models/transformer.py", "bool), mask], axis=1)", "bool), jnp.ones_like(mask)], axis=1)", DIT),
    "init: one draw for all layers": ("models/initializers.py", "keys[place].tolist()", "keys[(0,) * len(place)].tolist()", DIT),
}  # fmt: skip


def main() -> None:
    """Prints the table."""
    names = sys.argv[1:] or list(BUGS)
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "runs", "*.pyc", "__pycache__", "*.egg-info"))
        for name in names:
            start = time.perf_counter()
            failed = planted(copy, *BUGS[name])
            missed += failed is None
            print(f"{name:55s} {failed or 'MISSED':95s} {time.perf_counter() - start:4.0f} s", flush=True)
    print(f"{len(names) - missed} of {len(names)} bugs fail a test")
    sys.exit(missed > 0)


def planted(copy: Path, file: str, right: str, wrong: str, tests: str) -> str | None:
    """The first test that fails with the bug in place, None if none does."""
    places = [copy / "diffax" / file, *sorted((copy / "diffax" / file).glob("*.py"))]
    if not file.endswith(".py"):
        places.append(copy / "diffax" / f"{file}.py")
    place = next(path for path in places if path.is_file() and right in path.read_text())
    before = place.read_text()
    place.write_text(before.replace(right, wrong, 1))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header", tests]
        # the copy comes first in the path, before the project that may be installed
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    finally:
        place.write_text(before)
    lines = [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if result.returncode == 1 and lines:
        return lines[0].split(" - ")[0].removeprefix("FAILED ").removeprefix("tests/")
    if result.returncode == 0:
        return None
    raise RuntimeError(f"pytest ended with {result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")


if __name__ == "__main__":
    main()
