"""Every file in experiments/: its docstring, its full config, and its quick mode from the first step to the report."""

import ast
import re

import numpy as np
import pytest
from launcher import ROOT, finish, launch, programs, rows, start  # noqa: F401

from diffax import config as configs
from diffax import report
from diffax.loop import workdir

FILES = sorted((ROOT / "experiments").glob("*.py"))
NAMES = [file.stem for file in FILES]
# most of a quick mode's time is compilation: these take their steps with one level of their U-Net
ONE_LEVEL = ("cifar10_edm", "cifar10_flow", "cifar10_iddpm", "cifar10_ncsnpp", "cifar10_vp", "digits_iddpm")
ONE_LEVEL += ("digits_score_sde", "digits_vdm", "imagenet64_adm", "imagenet64_edm2", "shapes_text")


def options(text):
    return [f"--config.{option}" for option in text.split()]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_docstring_says_paper_and_command(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert re.search(r"^Paper: .*arXiv:\d{4}\.\d{5}", text, re.MULTILINE)
    assert f"python -m diffax.main --config=experiments/{file.name} --workdir=runs/" in text


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_full_config_is_complete_and_refuses_other_modes(file):
    full, quick = configs.complete(configs.load(str(file))), configs.complete(configs.load(f"{file}:quick"))
    for section in ("process", "prediction", "loss"):  # quick is the same recipe in small
        assert quick[section] == full[section] or section == "process", section
    assert quick["process"]["name"] == full["process"]["name"]
    assert (
        quick["train"]["steps"] == 200 and quick["train"]["checkpoint_every"] == 20 and quick["train"]["log_every"] == 1
    )
    assert full["train"]["steps"] > 200 and full["optimizer"]["decay_steps"] in (0, full["train"]["steps"])
    with pytest.raises(ValueError, match=r"one of full, quick"):
        configs.load(f"{file}:quicker")


def check_run(folder, file, steps):
    """Asserts that a run of a quick mode has left all that it should, with the recipe of its file."""
    assert [dict(row)["step"] for row in rows(folder)] == list(range(1, steps + 1))
    for name in ("config.json", "report.html", f"eval_{steps:08d}.json", f"checkpoints/{steps}"):
        assert (folder / name).exists(), name
    for name in (f"step_{steps // 2:08d}.png", f"step_{steps:08d}.png", f"strip_{steps:08d}.png"):
        assert (folder / "samples" / name).read_bytes().startswith(b"\x89PNG"), name
    stored, quick = workdir.read_config(folder), configs.complete(configs.load(f"{file}:quick"))
    scores = report.read_json(folder / f"eval_{steps:08d}.json")["scores"]
    assert scores and all(score >= 0 for score in scores.values())
    assert "pixel_frechet" not in quick["eval"]["metrics"] or scores["pixel_frechet_floor"] > 0
    for section in ("process", "prediction", "loss"):
        assert stored[section] == quick[section], section
    assert stored["sample"]["sampler"] == quick["sample"]["sampler"]


@pytest.mark.slow  # test_main's run goes the same way
def test_quick_mode_goes_through(tmp_path, programs):  # noqa: F811
    """In two steps of a small network."""
    file, folder = ROOT / "experiments" / "toy_mixture.py", tmp_path / "run"
    fewer = "train.steps=2 train.batch_size=8 train.checkpoint_every=1 train.sample_every=1 sample.n=8 "
    fewer += "sample.batch_size=8 sample.grid.n=2 eval.n=16 eval.batch_size=8 network.features=16 network.blocks=1"
    outcome = launch(f"--config={file}:quick", f"--workdir={folder}", *options(fewer))
    assert outcome.code == 0, outcome.err
    check_run(folder, file, 2)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_quick_mode_learns(file, tmp_path, programs):  # noqa: F811
    """All of it, by the real command."""
    folder, smaller = tmp_path / "run", ""
    if file.stem in ONE_LEVEL:
        dry = launch("--dry_run", f"--config={file}:quick", f"--workdir={folder}")  # as it is, up to shapes and memory
        assert dry.code == 0 and "parameters" in dry.out, dry.err
        smaller = "network.multipliers=(1,) network.attention=()"
        smaller += " network.cross_attention=()" if file.stem == "shapes_text" else ""
    # no result of a quick mode hangs on the last bits
    command = start(f"--config={file}:quick", f"--workdir={folder}", *options(smaller), programs=programs, haste=True)
    outcome = finish(command, timeout=900)
    assert outcome.code == 0, outcome.err
    losses = np.array([dict(row)["loss"] for row in rows(folder)])
    assert len(losses) == 200 and np.isfinite(losses).all()
    # independent uniform pixels leave an EDM network nothing to learn beyond its preconditioning: there, no divergence
    limit = 1.05 if file.stem in ("cifar10_edm", "imagenet64_edm2") else 0.8
    assert np.median(losses[-50:]) < limit * np.median(losses[:5])
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [160, 180, 200]
    check_run(folder, file, 200)
