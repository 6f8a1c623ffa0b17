"""Conformance: whether a sampler, a process or a prediction does what it must, on data whose every answer is known.

    from diffax import conformance
    report = conformance.check(my_sampler)   # prints the table; report.held, report.broken

A log-density of the probability-flow ODE has `check_likelihood`.

The exact denoisers, networks and densities that it rests on are here too, to test with.
"""

from collections.abc import Callable

from diffax.conformance.exact import (
    Mixture,
    exact_denoiser,
    exact_network,
    gaussian,
    log_density,
    posterior,
)
from diffax.conformance.likelihood import check_likelihood
from diffax.conformance.process import check_prediction, check_process
from diffax.conformance.report import Check, Report
from diffax.conformance.sampler import check_sampler, moments, network_calls, order
from diffax.prediction import Prediction
from diffax.process import Process

__all__ = [
    "Check",
    "Mixture",
    "Report",
    "check",
    "check_likelihood",
    "check_prediction",
    "check_process",
    "check_sampler",
    "exact_denoiser",
    "exact_network",
    "gaussian",
    "log_density",
    "moments",
    "network_calls",
    "order",
    "posterior",
]


def check(subject: Callable | Process | Prediction, *, draws: int = 50_000, show: bool = True) -> Report:
    """Checks a sampler (options bound by `functools.partial`), a process or a prediction, and prints a table.

    A sampler: it is finite in few steps and many; one step to 0 is the denoiser's estimate; no noise is left at the
    end; a sample depends on its own start and key alone; mean and variance of Gaussian data and of a mixture; the order
    of convergence if it draws no noise; another grid compiles nothing. A process: its identities, and that a perfect
    network of every prediction gives the exact posterior mean. A prediction: the same under six processes.

    Args:
        draws: samples for a sampler's means and variances; four times as many halve what they may be off by.
        show: print the table.

    Returns:
        The report; `held` says whether all did.

    Raises:
        TypeError: it is none of the three.
    """
    if isinstance(subject, Process):
        report = check_process(subject)
    elif isinstance(subject, Prediction):
        report = check_prediction(subject)
    elif callable(subject) and not isinstance(subject, type):
        report = check_sampler(subject, draws=draws)
    else:
        raise TypeError(f"{subject!r} is neither a sampler nor a process nor a prediction; pass one, made: VP(), eps()")
    if show:
        print(report, flush=True)
    return report
