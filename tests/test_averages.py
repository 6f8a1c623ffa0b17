"""Moving averages: their profiles, and averages of any width made from a few that were kept."""

import shutil
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launcher import TINY, TOY, launch, programs  # noqa: F401

from diffax import checkpoint, report
from diffax.averages import WIDEST, power, power_decay, reconstruct, shares
from diffax.loop import modes, snapshots, workdir

STEPS = 3000


def path(seed=0):
    """Parameters along a run, [steps, n]: a drift that slows down, and noise that remembers."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.standard_normal((STEPS, 40)), axis=0) * 0.02
    return noise + 3.0 * np.exp(-np.arange(STEPS)[:, None] / 600)


def tracked(parameters, width, every):
    """The average by its recursion, in float64, kept every so many steps."""
    decays = 1.0 - np.asarray(power_decay(width)(np.arange(STEPS)), np.float64)
    mean, kept = np.zeros(parameters.shape[1]), {}
    for step, (share, now) in enumerate(zip(decays, parameters), 1):
        mean = mean + share * (now - mean)
        if step % every == 0:
            kept[step] = mean
    return kept


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.15, 0.25, WIDEST])
def test_the_profile_has_the_width_asked_for(width):
    # the moments of tau/t under (gamma + 1)·tau^gamma, and of the weights that the decays make
    gamma = power(width)
    assert np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, rel=1e-9)
    decays = np.asarray(power_decay(width)(np.arange(STEPS)), np.float64)
    weights = (1.0 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)  # nothing is left of the initial parameters
    tau = (np.arange(STEPS) + 0.5) / STEPS
    mean = (weights * tau).sum()
    assert np.sqrt((weights * (tau - mean) ** 2).sum()) == pytest.approx(width, rel=5e-3)
    assert mean == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)


def test_the_widest_is_the_plain_mean():
    parameters = path()
    np.testing.assert_allclose(tracked(parameters, WIDEST, STEPS)[STEPS], parameters.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "step"), [(0.05, 3000), (0.07, 3000), (0.1, 3000), (0.13, 3000), (0.1, 1500), (0.08, 1500)]
)
def test_any_width_is_made_of_two_that_were_kept(width, step):
    # the bar of the issue is 1e-3 relative
    parameters = path()
    kept = {w: tracked(parameters, w, 150) for w in (0.05, 0.1)}
    snapshots = [(t, w) for w in kept for t in kept[w]]
    found = reconstruct([{"w": kept[w][t]} for t, w in snapshots], snapshots, step, width)["w"]
    wanted = tracked(parameters, width, step)[step]
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    # and not because all averages are alike
    assert np.linalg.norm(kept[0.05][step] - kept[0.1][step]) > 0.02 * np.linalg.norm(wanted)


def test_a_width_that_was_kept_is_itself():
    snapshots = [(100, 0.05), (100, 0.1), (200, 0.05), (200, 0.1)]
    np.testing.assert_allclose(shares(snapshots, 200, 0.1), [0, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("snapshots", [[], [(300, 0.1)]])
def test_nothing_to_make_it_of(snapshots):
    with pytest.raises(ValueError, match=f"no average of step 200 or before among {len(snapshots)} snapshots"):
        shares(snapshots, 200, 0.1)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, float("nan")])
def test_no_such_width(width):
    with pytest.raises(ValueError, match=r"is not allowed: expected more than 0, at most 0\.2887"):
        power(width)


def test_under_jit_the_first_update_forgets_the_start():
    assert float(jax.jit(power_decay(0.1))(jnp.int32(0))) == 0.0
    later = jax.jit(power_decay(0.1))(jnp.int32(99_999))
    assert float(later) == pytest.approx((1 - 1e-5) ** (power(0.1) + 1), rel=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory, programs):  # noqa: F811
    """A run of 60 steps that keeps its averages of widths 0.05 and 0.1, and tracks 0.08 as well."""
    folder = tmp_path_factory.mktemp("averages") / "run"
    options = ("ema.widths=(0.05,0.1,0.08)", "ema.snapshot_every=4", "train.steps=60", "optimizer.decay_steps=0")
    outcome = launch(TOY, f"--workdir={folder}", *TINY, *(f"--config.{option}" for option in options))
    assert outcome.code == 0, outcome.err
    return folder


@pytest.mark.slow
def test_a_run_keeps_them_and_another_width_is_made_of_two(run):
    kept = sorted(int(p.name) for p in (run / "averages").iterdir())
    assert kept == list(range(4, 61, 4))
    _, state = modes.restored(workdir.read_config(run), run)
    names = {"width0.05": 0.05, "width0.1": 0.1}
    manager = checkpoint.manager(run / "averages")
    every = {name: state.ema_params[name] for name in (*names, "width0.08")}
    trees = {t: checkpoint.restore(manager, every, step=t)[1] for t in kept}
    checkpoint.close(manager)
    snapshots = [(t, width) for t in kept for width in names.values()]
    made = reconstruct([trees[t][name] for t in kept for name in names], snapshots, 60, 0.08)
    leaves = [jax.tree.leaves(tree) for tree in (made, state.ema_params["width0.08"], state.ema_params["width0.1"])]
    made, followed, other = (np.concatenate([np.ravel(leaf) for leaf in tree]) for tree in leaves)
    assert np.linalg.norm(made - followed) < 1e-3 * np.linalg.norm(followed)
    assert np.linalg.norm(other - followed) > 1e-3 * np.linalg.norm(followed)


@pytest.mark.slow
def test_one_step_of_those_that_were_kept_is_in_memory_at_a_time(run, monkeypatch):
    restore, read, most = checkpoint.restore, [], []

    def counted(*args, **kwargs):
        step, tree = restore(*args, **kwargs)
        most.append(sum(leaf() is not None for leaf in read))  # of the steps before
        read.append(weakref.ref(jax.tree.leaves(tree)[0]))
        return step, tree

    experiment, state = modes.restored(workdir.read_config(run), run)
    monkeypatch.setattr(checkpoint, "restore", counted)
    made = snapshots.average(experiment, run, state, 0.08)
    assert len(read) == 15 and max(most) <= 1
    for leaf, like in zip(jax.tree.leaves(made), jax.tree.leaves(state.ema_params["width0.08"])):
        np.testing.assert_allclose(leaf, like, rtol=0, atol=1e-3 * np.abs(like).max())


@pytest.mark.slow
def test_what_is_damaged_is_left_out_and_named(run, tmp_path, caplog):
    experiment, state = modes.restored(workdir.read_config(run), run)
    for step in (20, 40, 60):
        shutil.copytree(run / "averages" / str(step), tmp_path / "averages" / str(step))
    large = max((p for p in (tmp_path / "averages" / "40").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(large.read_bytes())
    content[len(content) // 2] ^= 1
    large.write_bytes(content)
    made = snapshots.average(experiment, tmp_path, state, 0.08)
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "averages/40 are damaged" in caplog.text
    shutil.rmtree(tmp_path / "averages" / "40")
    jax.tree.map(np.testing.assert_array_equal, made, snapshots.average(experiment, tmp_path, state, 0.08))
    for step in (20, 60):
        (tmp_path / "averages" / str(step) / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"^sample.width: 0.08 .* none of step 60 or before is good; leave it out, or"):
        snapshots.average(experiment, tmp_path, state, 0.08)


@pytest.mark.slow
def test_samples_and_cards_of_a_width(run):
    outcome = launch("--mode=eval", f"--workdir={run}", "--config.sample.width=0.07")
    assert outcome.code == 0, outcome.err
    card = report.read_json(max(run.glob("eval_00000060*.json"), key=lambda p: p.stat().st_mtime))
    assert card["ema"] == "width0.07"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--config.sample.width=0.3",), "sample.width: 0.3 is not allowed, expected more than 0, at most 0.2887"),
        (
            ("--config.sample.width=0.1",),
            "sample.width: 0.1 is made of averages that a run keeps; train with ema.widths",
        ),
        (("--config.ema.widths=(0.5,)",), "ema.widths: 0.5 is not allowed"),
        (("--config.ema.snapshot_every=10",), "ema.snapshot_every: 10 keeps ema.widths, which is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message, tmp_path):
    outcome = launch(TOY, f"--workdir={tmp_path / 'run'}", *options)
    assert outcome.code == 2 and message in outcome.err
