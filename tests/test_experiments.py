"""Every file in experiments/: its docstring, its full config, and its quick mode from the first step to the report."""

import ast
import re

import numpy as np
import pytest
from conftest import SOONER
from launcher import ROOT, finish, launch, programs, rows, start  # noqa: F401

from diffax import config as configs
from diffax import report
from diffax.loop import workdir

FILES = sorted((ROOT / "experiments").glob("*.py"))
NAMES = [file.stem for file in FILES]
# quick mode in fewer steps, and a network of one level, which compiles in seconds
FEWER = "train.steps=2 train.batch_size=8 train.checkpoint_every=1 train.sample_every=1 sample.n=8 sample.batch_size=8"
FEWER += " sample.grid.n=2 eval.n=16 eval.batch_size=8"
SMALLER = {
    "UNet": "network.channels=8 network.groups=4 network.multipliers=(1,) network.attention=() network.dropout=0",
    "DiT": "network.width=16 network.depth=1 network.heads=2",
    "MLP": "network.features=16 network.blocks=1 network.dropout=0.1",
}


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


# the others differ from these in few numbers and names, and test_quick_mode_learns runs them
SHORT = [
    pytest.param(ROOT / "experiments" / "digits.py", marks=pytest.mark.slow),
    pytest.param(ROOT / "experiments" / "digits_dit.py", marks=pytest.mark.slow),
    ROOT / "experiments" / "toy_mixture.py",
]


@pytest.mark.parametrize("file", SHORT, ids=["digits", "digits_dit", "toy_mixture"])
def test_quick_mode_goes_through(file, tmp_path, programs):  # noqa: F811
    folder = tmp_path / "run"
    quick = configs.complete(configs.load(f"{file}:quick"))
    smaller = SMALLER[quick["network"]["name"]]
    if quick["network"].get("head_dim"):
        smaller += " network.head_dim=4"
    if quick["data"]["name"] == "fake":  # the Fréchet distance is of the third order in the number of pixels
        smaller += " data.shape=(8,8,3) data.n=64"
    if quick["eval"]["likelihood"]["examples"]:
        smaller += " eval.likelihood.examples=2 eval.likelihood.tolerance=1.0"
    outcome = launch(f"--config={file}:quick", f"--workdir={folder}", *options(f"{FEWER} {smaller}"))
    assert outcome.code == 0, outcome.err
    assert [dict(row)["step"] for row in rows(folder)] == [1, 2]
    for name in ("config.json", "report.html", "eval_00000002.json", "checkpoints/1", "checkpoints/2"):
        assert (folder / name).exists(), name
    for name in ("step_00000001.png", "step_00000002.png", "strip_00000002.png"):
        assert (folder / "samples" / name).read_bytes().startswith(b"\x89PNG"), name
    scores = report.read_json(folder / "eval_00000002.json")["scores"]
    assert all(score >= 0 for score in scores.values()) and scores["pixel_frechet_floor"] > 0
    stored = workdir.read_config(folder)
    assert stored["process"] == report.read_json(folder / "config.json")["process"]
    assert stored["sample"]["sampler"]["name"] == quick["sample"]["sampler"]["name"]


USUAL = ("digits", "toy_mixture", "cifar10_ddpm")  # compiled as a user's are


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_quick_mode_learns(file, tmp_path, programs):  # noqa: F811
    """All of it, by the real command."""
    folder = tmp_path / "run"
    flags = "" if file.stem in USUAL else SOONER  # most of their time is compilation
    command = start(f"--config={file}:quick", f"--workdir={folder}", programs=programs, xla_flags=flags)
    outcome = finish(command, timeout=900)
    assert outcome.code == 0, outcome.err
    losses = np.array([dict(row)["loss"] for row in rows(folder)])
    assert len(losses) == 200 and np.isfinite(losses).all()
    # independent uniform pixels leave an EDM network nothing to learn beyond its preconditioning: there, no divergence
    limit = 1.05 if file.stem in ("cifar10_edm", "imagenet64_edm2") else 0.8
    assert np.median(losses[-50:]) < limit * np.median(losses[:5])
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [160, 180, 200]
    assert (folder / "eval_00000200.json").exists() and (folder / "samples" / "step_00000100.png").exists()
