"""Checks of a process and of a prediction: identities, and the denoiser that a perfect network gives."""

import jax
import jax.numpy as jnp
import numpy as np

from diffax import prediction as predictions
from diffax.batch import expand
from diffax.conformance.exact import Mixture, exact_denoiser, exact_network
from diffax.conformance.report import Report, below, true
from diffax.prediction import Prediction, denoiser, to_x0
from diffax.process import EDM, VE, VP, Cosine, FlowMatching, Process, SubVP, add_noise

MODES = Mixture(np.array([0.6, 0.4]), np.array([[0.8, -0.3], [-0.6, 0.5]]), np.array([0.25, 0.4]))
ROWS = {
    "x0": predictions.x0,
    "eps": predictions.eps,
    "v": predictions.v,
    "velocity": predictions.velocity,
    "score": predictions.score,
    "edm": predictions.edm,
}


def check_process(process: Process) -> Report:
    """Holds a process to its definition; see `check`."""
    subject = f"the process {process!r}"
    with jax.enable_x64(True):
        process = _in_float64(process)
        t = process.t_min + (process.t_max - process.t_min) * jnp.linspace(0.0, 1.0, 65)
        alpha, sigma, nsr = process.alpha(t), process.sigma(t), process.nsr(t)
        values = np.concatenate([alpha, sigma, nsr, process.logsnr(t)])
        inside = t[1:-1]
        checks = [
            true("alpha, sigma, nsr, logsnr finite from t_min to t_max", bool(np.isfinite(values).all())),
            true("alpha and sigma positive", bool((np.asarray(alpha) > 0).all() and (np.asarray(sigma) > 0).all())),
            true("nsr increases with t", bool((np.diff(nsr) > 0).all())),
            below("nsr against sigma/alpha, relative", _relative(nsr, sigma / alpha), 1e-9),
            below("logsnr against -2 log(nsr)", _largest(process.logsnr(t) + 2 * jnp.log(nsr)), 1e-9),
            below(
                "time(nsr(t)) against t, of the span",
                _largest(process.time(process.nsr(inside)) - inside) / float(process.t_max - process.t_min),
                1e-6,
            ),
            below("alpha' and sigma' against differences, of the span", _slopes(process), 1e-5),
            below("x_t against alpha x0 + sigma eps", _noised(process, t), 1e-12),
        ]
        checks += [
            below(f"denoiser of a perfect {name} network, relative", _denoised(process, make()), 1e-8)
            for name, make in ROWS.items()
        ]
    return Report(subject, tuple(checks))


def check_prediction(prediction: Prediction) -> Report:
    """Holds a prediction to its definition under six processes; see `check`."""
    checks = []
    with jax.enable_x64(True):
        for process in (VP(), SubVP(), VE(), EDM(), Cosine(), FlowMatching()):
            name = type(process).__name__
            t = process.t_min + (process.t_max - process.t_min) * jnp.linspace(0.0, 1.0, 33)
            a, b = prediction.target(process, t)
            alpha, sigma = process.alpha(t), process.sigma(t)
            values = np.concatenate([jnp.broadcast_to(v, t.shape) for v in (a, b, prediction.c_in(process, t))])
            checks.append(true(f"{name}: a, b and c_in finite from t_min to t_max", bool(np.isfinite(values).all())))
            apart = np.abs(np.asarray(alpha * b - sigma * a))
            checks.append(true(f"{name}: alpha b - sigma a nowhere 0", bool((apart > 0).all())))
            x0, eps = (jax.random.normal(jax.random.key(i), (33, 2)) for i in (0, 1))
            y = expand(a, x0) * x0 + expand(b, x0) * eps
            back = to_x0(prediction, process, y, add_noise(process, x0, eps, t), t)
            # what rounding may do is 1/|alpha b - sigma a| of the solve
            size = np.maximum(1.0, (np.abs(b) + np.abs(a)) / np.maximum(apart, 1e-300))[:, None]
            checks.append(below(f"{name}: x0 from its own target", _largest(np.asarray(back - x0) / size), 1e-9))
            checks.append(below(f"{name}: denoiser of a perfect network", _denoised(process, prediction), 1e-7))
    return Report("the prediction", tuple(checks))


def _in_float64(process):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), process)


def _denoised(process, row):
    """The largest error of the denoiser from a perfect network, at levels from end to end; relative to the data."""
    lo, hi = (float(process.nsr(jnp.asarray(t, float))) for t in (process.t_min, process.t_max))
    levels = jnp.geomspace(lo, hi, 18)[1:-1]
    x = jnp.asarray(MODES.draw(16)) + levels[:, None] * jax.random.normal(jax.random.key(0), (16, 2))
    apply, told = exact_network(MODES, process, row)
    return _largest(denoiser(apply, process, told)(x, levels) - exact_denoiser(MODES)(x, levels))


def _slopes(process):
    span = process.t_max - process.t_min
    t, h = process.t_min + span * jnp.linspace(0.0713, 0.9283, 9), 1e-6 * span
    worst = 0.0
    for f in (process.alpha, process.sigma):
        found = jax.jvp(f, (t,), (jnp.ones_like(t),))[1]
        expected = (f(t + h) - f(t - h)) / (2 * h)
        worst = max(worst, _largest((found - expected) * span / jnp.max(jnp.abs(f(t)))))
    return worst


def _noised(process, t):
    x0, eps = (jax.random.normal(jax.random.key(i), (len(t), 2)) for i in (0, 1))
    expected = process.alpha(t)[:, None] * x0 + process.sigma(t)[:, None] * eps
    return _largest(add_noise(process, x0, eps, t) - expected) / max(1.0, float(jnp.max(process.sigma(t))))


def _largest(values):
    return float(np.max(np.abs(values)))


def _relative(found, expected):
    return _largest(np.asarray(found) / np.asarray(expected) - 1)
