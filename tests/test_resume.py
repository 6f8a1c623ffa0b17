"""Exact resume, with real processes that are killed, stopped and robbed of their newest checkpoint."""

import concurrent.futures
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from launcher import TINY, TOY, finish, launch, programs, rows, start, state_bytes, steps_done, stop  # noqa: F401

from diffax import report

STEPS = 200
RUN = (TOY, *TINY, f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=7")
RUN += ("--config.eval.after_training=False",)
SHORT = (TOY, *TINY, "--config.train.steps=12", "--config.train.checkpoint_every=4", "--config.eval.n=16")


def same(a: Path, b: Path) -> None:
    """Asserts that two runs have the same rows, each step once, and the same state, bit for bit."""
    assert rows(a) == rows(b)
    assert [row[0] for row in rows(a)] == [("step", i) for i in range(1, len(rows(a)) + 1)]
    assert state_bytes(a) == state_bytes(b)


def killed_run(folder, cache, kills, seed):
    """Kills a run at random moments, wherever it is, until it ends; returns how often it was killed."""
    chance, count = random.Random(seed), 0
    while True:
        process = start(*RUN, f"--workdir={folder}", programs=cache)
        if count == kills:
            outcome = finish(process)
            assert outcome.code == 0, outcome.err
            return count
        # anywhere up to this launch's part of the run, so that it lasts: in a step, while a checkpoint is written, in
        # the start where the rows are there already
        goal = chance.randrange(STEPS * (count + 1) // (kills + 2))
        outcome = stop(process, signal.SIGKILL, lambda goal=goal: steps_done(folder) >= goal, chance.uniform(0.0, 0.02))
        if outcome.code == 0:
            return count
        assert outcome.code == -signal.SIGKILL, outcome.err
        count += 1


def stopped_run(folder, cache):
    """SIGTERM, a second trainer, SIGINT, and on to the end; the outcomes with the bytes of metrics.jsonl after each."""
    found, args = [], (*RUN, f"--workdir={folder}")
    file = folder / "metrics.jsonl"
    first, second = start(*args, programs=cache), []

    def second_refused():
        if steps_done(folder) < 40:
            return False
        first.send_signal(signal.SIGSTOP)
        second.append(finish(start(*args, programs=cache)))
        first.send_signal(signal.SIGCONT)
        return True

    found.append((stop(first, signal.SIGTERM, second_refused), file.read_bytes()))
    done = steps_done(folder)
    process = start(*args, programs=cache)
    found.append((stop(process, signal.SIGINT, lambda: steps_done(folder) >= done + 40), file.read_bytes()))
    found.append((finish(start(*args, programs=cache)), file.read_bytes()))
    return found, second[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, programs):  # noqa: F811
    """The run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    outcome = finish(start(*RUN, f"--workdir={folder}", programs=programs))
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def runs(whole, programs):  # noqa: F811
    """The folder with that run, the one killed and the one stopped; what these said."""
    folder = whole.parent
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        killed = pool.submit(killed_run, folder / "killed", programs, 2, 0)
        stopped = pool.submit(stopped_run, folder / "stopped", programs)
    return folder, killed.result(), stopped.result()


def test_a_killed_run_ends_as_the_one_never_killed(runs):
    folder, kills, _ = runs
    assert kills == 2
    assert len(rows(folder / "whole")) == STEPS
    same(folder / "whole", folder / "killed")


def test_a_stopped_run_redoes_no_step(runs):
    folder, _, (outcomes, _) = runs
    (term, after_term), (interrupt, after_interrupt), (end, after_end) = outcomes
    assert (term.code, interrupt.code, end.code) == (3, 3, 0), term.err + interrupt.err + end.err
    assert 40 <= after_term.count(b"\n") < after_interrupt.count(b"\n") < STEPS
    assert after_interrupt.startswith(after_term) and after_end.startswith(after_interrupt)
    for text, count in ((interrupt.err, after_term.count(b"\n")), (end.err, after_interrupt.count(b"\n"))):
        assert f"resuming at step {count} of {STEPS}" in text
    assert "SIGTERM" in term.err and "SIGINT" in interrupt.err
    same(folder / "whole", folder / "stopped")


def test_a_second_trainer_is_refused(runs):
    _, _, (_, second) = runs
    assert second.code == 2
    assert second.err.count("\n") == 1 and "is in use by process" in second.err


@pytest.mark.slow
def test_many_kills(whole, tmp_path, programs):  # noqa: F811
    for seed in (1, 2):
        assert killed_run(tmp_path / str(seed), programs, 10, seed) >= 8
        same(whole, tmp_path / str(seed))


@pytest.fixture(scope="module")
def short(tmp_path_factory, programs):  # noqa: F811
    """A run of 12 steps with checkpoints 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("short") / "run"
    outcome = launch(*SHORT, f"--workdir={folder}")
    assert outcome.code == 0, outcome.err
    return folder


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(short, tmp_path, damage, caplog):
    folder = tmp_path / "run"
    shutil.copytree(short, folder)
    largest = max(
        (p for p in (folder / "checkpoints" / "12").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    damage(largest)
    outcome = launch(*SHORT, f"--workdir={folder}")
    assert outcome.code == 0
    assert "resuming at step 8 of 12" in outcome.err
    assert outcome.compiled.count("jit(train_step)") == 1  # ahead, and not once more
    assert (folder / "checkpoints" / "12.bad").is_dir() and "12 IS DAMAGED" in caplog.text
    same(short, folder)


def test_a_picture_that_a_kill_prevented_is_drawn(short, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(short, folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    picture = folder / "samples" / "step_00000008.png"
    assert not picture.exists()
    outcome = launch(*SHORT, f"--workdir={folder}", "--config.train.sample_every=8")
    assert outcome.code == 0 and "resuming at step 8" in outcome.err
    assert picture.exists()
    same(short, folder)


def test_more_steps_continue_and_fewer_are_refused(short, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(short, folder)
    outcome = launch(*SHORT, f"--workdir={folder}", "--config.train.steps=11")
    assert outcome.code == 2 and not outcome.compiled
    assert outcome.err == f"diffax: train.steps: 11 is less than the 12 steps done in {folder}; give 12 or more\n"
    before = (folder / "metrics.jsonl").read_bytes()
    assert launch(*SHORT, f"--workdir={folder}", "--config.train.steps=16").code == 0
    assert (folder / "metrics.jsonl").read_bytes().startswith(before)
    whole = tmp_path / "whole"
    assert launch(*SHORT, f"--workdir={whole}", "--config.train.steps=16").code == 0
    same(whole, folder)


def test_a_finished_run_does_nothing_again(short):
    files = {path: path.stat().st_mtime_ns for path in short.rglob("*") if path.suffix in (".png", ".jsonl", ".json")}
    outcome = launch(*SHORT, f"--workdir={short}")
    assert outcome.code == 0 and "jit(train_step)" not in outcome.compiled and "jit(run)" not in outcome.compiled
    config = short / "config.json"
    assert all(path == config or path.stat().st_mtime_ns == time for path, time in files.items())


def test_a_signal_after_the_last_step_ends_at_once(short, tmp_path, monkeypatch, capfd):
    """The evaluation may take hours; the next launch does it."""
    folder = tmp_path / "run"
    shutil.copytree(short, folder)
    (folder / "eval_00000012.json").unlink()

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr("diffax.loop.evaluation.evaluate", interrupted)
        begun = time.monotonic()
        assert launch(*SHORT, f"--workdir={folder}").code == 3
    assert time.monotonic() - begun < 60 and "SIGTERM: all steps are done and saved" in capfd.readouterr().err
    assert launch(*SHORT, f"--workdir={folder}").code == 0
    first, second = (report.read_json(run / "eval_00000012.json") for run in (short, folder))
    assert first["scores"] == second["scores"] and first["features_hash"] == second["features_hash"]
    same(short, folder)


@pytest.mark.slow
def test_losses_that_are_not_finite_stop_the_run(short, tmp_path, monkeypatch):
    (tmp_path / "own_points.py").write_text(OWN_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    import own_points

    own = ("--config.data.name=own_points:points", "--config.train.max_nonfinite=3")
    args = (*(arg for arg in SHORT if "data.n=" not in arg), *own)
    assert launch(*args, f"--workdir={tmp_path / 'whole'}").code == 0
    folder = tmp_path / "run"
    assert launch(*args, f"--workdir={folder}", "--config.train.steps=8").code == 0
    own_points.SCALE = float("nan")
    outcome = launch(*args, f"--workdir={folder}")
    assert outcome.code == 1 and "diffax: 3 updates in a row up to step 11 were not finite" in outcome.err
    assert [dict(row)["step"] for row in rows(folder)] == list(range(1, 12))
    own_points.SCALE = 1.0
    assert launch(*args, f"--workdir={folder}").code == 0
    same(tmp_path / "whole", folder)


OWN_POINTS = """
import numpy as np
from diffax.data import Dataset

SCALE = 1.0

class Points(list):
    def __getitem__(self, i):
        return dict(x0=np.float32(SCALE) * np.array([i / 64, 0.5], np.float32), label=np.int32(i % 8))

def points() -> Dataset:
    return Dataset(Points(range(64)), shape=(2,), num_classes=8)
"""


@pytest.mark.slow
def test_signals_end_a_process_while_its_programs_are_compiled(tmp_path):
    """At once and in order: Python would wait for a thread that compiles, or crash beside it."""
    folder, programs = tmp_path / "run", tmp_path / "programs"  # noqa: F811
    args = (TOY, *TINY, "--config.network.blocks=16", "--config.train.steps=3", f"--workdir={folder}")
    process = start(*args, programs=programs)

    def interrupted():
        if not (folder / "config.json").exists():
            return False
        process.send_signal(signal.SIGINT)
        return True

    twice = stop(process, signal.SIGINT, interrupted, after=1.5)
    assert (twice.code, twice.err.splitlines()[-1]) == (130, "diffax: interrupted")
    after_last = stop(start(*args, programs=programs), signal.SIGTERM, (folder / "checkpoints/3").exists, after=1.0)
    assert after_last.code == 3 and "all steps are done and saved" in after_last.err
    assert finish(start(*args, programs=programs)).code == 0
