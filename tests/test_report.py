"""The page and the progress line: the curves are the rows, damage is named, both outputs have the same figures."""

import io
import re

import jax.numpy as jnp
import numpy as np
import pytest

from diffax.report import (
    grid,
    open_writer,
    progress,
    sample_path,
    save_png,
    strip,
    strip_path,
    write_json,
    write_report,
)
from diffax.report.chart import chart, smoothed


def rows(path, *steps, **values):
    with open_writer(path, steps[0] - 1) as writer:
        for step in steps:
            writer.write(step, values or {"loss": step / 3})


def path_of(figure, kind):
    (found,) = re.findall(rf'<path class="{kind}" d="([^"]*)"', figure)
    return found


@pytest.mark.parametrize("n", [1, 7, 600, 601, 20_000])
def test_chart_has_a_segment_between_neighbors(n):
    values = 1 + 0.1 * np.random.default_rng(0).random(n)
    figure = chart("loss", np.arange(1, n + 1), values)
    assert path_of(figure, "line").count("L") == min(n, 600) - 1
    if n <= 600:
        assert len(re.findall("M[^M]*h0", path_of(figure, "few" if n <= 60 else "dots"))) == n
    else:
        assert path_of(figure, "band").count("L") == 2 * 600 - 1
    coordinates = [float(x) for x in re.findall(r"-?\d+\.\d", path_of(figure, "line"))]
    assert all(-0.1 <= x <= 1000.1 for x in coordinates)
    assert len(figure) < 60_000


def test_chart_places_values_on_its_scale():
    steps, values = np.array([0, 50, 100]), np.array([0.0, 25.0, 100.0])
    points = [tuple(map(float, pair.split(","))) for pair in path_of(chart("x", steps, values), "line")[1:].split("L")]
    labels = re.findall(r'top:([\d.]+)%">([^<]*)', chart("x", steps, values))
    places = {float(text): float(top) * 10 for top, text in labels}
    assert [x for x, _ in points] == [0.0, 500.0, 1000.0]
    assert 0 <= places[100.0] < places[0.0] <= 1000  # up is more
    assert points[0][1] == pytest.approx(places[0.0], abs=0.2)
    assert points[2][1] == pytest.approx(places[100.0], abs=0.2)
    assert points[1][1] == pytest.approx(places[0.0] + (places[100.0] - places[0.0]) / 4, abs=0.2)


def test_chart_survives_what_runs_produce():
    steps = np.arange(100)
    values = np.exp(-steps / 5.0) + 1e-3
    assert "log scale" in chart("loss", steps, values)
    assert "log scale" not in chart("loss", steps, values - 2e-3)  # not positive
    values[[3, 50]] = np.nan, np.inf
    figure = chart("a<b", steps, values)
    assert "2 not finite" in figure and path_of(figure, "bad").count("M") == 2 and "a&lt;b" in figure
    assert "no finite value" in chart("loss", steps, np.full(100, np.nan))
    extremes = [
        1e308 * (-1.0) ** steps,
        np.full(100, 1e-320),
        steps * 0.0,
        1 + 1e-15 * steps,
        10.0 ** (6 * steps - 300),
    ]
    for values in extremes:
        assert not re.search("nan|inf", chart("x", steps, values))


def test_smoothing_keeps_lines_and_averages_noise():
    x = np.linspace(0, 5, 1000)
    np.testing.assert_array_equal(smoothed(x), x)  # no noise, nothing to smooth
    noise = np.random.default_rng(0).normal(size=1000)
    interior = slice(40, -40)
    np.testing.assert_allclose(
        smoothed(3 * x + noise)[interior], 3 * x[interior] + smoothed(noise)[interior], atol=1e-9
    )
    triangle = np.convolve(np.full(35, 1 / 35), np.full(35, 1 / 35))  # ceil(1000 / 60) = 17 neighbors on each side
    np.testing.assert_allclose(smoothed(noise)[interior], np.convolve(noise, triangle, "same")[interior], atol=1e-12)
    assert smoothed(noise)[0] == pytest.approx(noise[0])  # the start is not averaged with what comes later


def workdir(path):
    rows(path / "metrics.jsonl", *range(1, 31))
    generator = np.random.default_rng(0)
    for step in range(10, 150, 10):
        save_png(sample_path(path, step), grid(generator.normal(size=(4, 8, 8, 1))), {"caption": f"<i>{step}</i>"})
    save_png(strip_path(path, 140), strip(generator.normal(size=(5, 3, 8, 8, 1))))
    write_json(path / "config.json", {"train": {"steps": 40}, "note": "<script>alert(1)</script>"})
    for step in (20, 30):
        scores = {"agreement": 0.5 + step / 100, "frechet": 3.25, "frechet_floor": 1.125}
        write_json(path / f"eval_{step:08d}.json", {"step": step, "scores": scores, "sampler": {"name": "heun"}})
    return path


def test_report_shows_all_parts_and_needs_no_network(tmp_path):
    facts = {"command": "run --x='<b>'", "parameters": 178465, "versions": {"jax": "1.2.3"}}
    page = write_report(workdir(tmp_path), title="a & b", total=40, facts=facts).read_text()
    assert path_of(page, "line").count("L") == 29
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<i>140" not in page and "&lt;i&gt;140&lt;/i&gt;" in page and "--x=&#x27;&lt;b&gt;&#x27;" in page
    for text in ("a &amp; b", "Step 30 of 40", "80.0 %", "3.25", "1.125", "178,465", "1.2.3", "heun", 'content="30"'):
        assert text in page, text
    images = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    assert len(images) == 1 + 1 + 8 == page.count("<img")  # newest, strip, an even choice of the earlier ones
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import|https?:', page)
    assert page.count("<section>") == page.count("</section>") == 5
    for tag in ("div", "figure", "table", "tr", "td", "svg", "span", "b", "i"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_report_ends_its_reload_when_the_run_is_done(tmp_path):
    rows(tmp_path / "metrics.jsonl", 39, 40)
    assert "http-equiv" not in write_report(tmp_path, total=40).read_text()
    assert "http-equiv" in write_report(tmp_path, total=41).read_text()


@pytest.mark.parametrize("part", ["metrics.jsonl", "config.json", "samples", "eval_00000030.json", "everything"])
def test_report_without_a_part(tmp_path, part):
    path = workdir(tmp_path / "run")
    for file in list(path.rglob("*")):
        if file.is_file() and (part == "everything" or part in file.parts):
            file.unlink()
    page = write_report(path).read_text()
    assert ("<svg" in page) == (part not in ("metrics.jsonl", "everything"))
    assert ("<img" in page) == (part not in ("samples", "everything"))
    assert ("&lt;script" in page) == (part not in ("config.json", "everything"))
    assert "cannot be shown" not in page and page.endswith("</html>\n")


def test_report_names_damaged_parts_and_shows_the_rest(tmp_path):
    path = workdir(tmp_path)
    sample_path(path, 140).write_bytes(sample_path(path, 140).read_bytes()[:60])
    (path / "config.json").write_text("{")
    (path / "eval_00000020.json").write_text("[]")
    page = write_report(path).read_text()
    assert "step_00000140.png cannot be shown" in page and "config.json" in page
    assert "80.0 %" in page and page.count("<img") == 9
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_report(path / "none")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(file, start=0, total=100, compilation=10.0, step_seconds=0.5, pause_at=None):
    now = [0.0]
    with progress(total, start, file=file, clock=lambda: now[0]) as bar:
        for step in range(start + 1, total + 1):
            now[0] += compilation if step == start + 1 else step_seconds
            now[0] += 60.0 if step == pause_at else 0.0
            bar.update(step, 64, loss=jnp.float32(1 / step))
            rate = bar.rate()
    return rate


def test_progress_lines_on_a_plain_stream():
    file = io.StringIO()
    assert run(file) == pytest.approx(128.0)  # 64 images in 0.5 s; the first step's 10 s do not count
    start, *lines = file.getvalue().splitlines()
    assert start == "step 0/100  compiling"
    assert lines[0] == "step 1/100  loss 1  first after 10 s, compilation included"
    assert lines[1] == "step 2/100  loss 0.5  128 images/s  49 s left"
    assert lines[2] == "step 12/100  loss 0.08333  128 images/s  44 s left"
    assert lines[-1] == "step 100/100  loss 0.01  128 images/s  1 min 00 s in all"
    assert [int(re.search(r"step (\d+)/", line)[1]) for line in lines] == [1, 2, *range(12, 100, 10), 100]


def test_progress_of_a_resumed_run_with_a_pause():
    file = io.StringIO()
    assert run(file, start=60, pause_at=75) == pytest.approx(128.0)  # the median forgets a pause
    assert file.getvalue().splitlines()[:3] == [
        "step 60/100  compiling",
        "step 61/100  loss 0.01639  first after 10 s, compilation included",
        "step 62/100  loss 0.01613  128 images/s  19 s left",
    ]


def test_progress_shows_the_last_state_when_stopped():
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress(1000, noun="image", file=file) as bar:
        for done in (10, 20, 30, 40):
            bar.update(done, 10)
        bar.log("a message")
        raise KeyboardInterrupt
    lines = file.getvalue().splitlines()[1:]
    assert lines[0].startswith("image 10/1000  ")
    assert lines[-2] == "a message" and lines[-1].startswith("image 40/1000  ")


def test_a_step_that_was_waited_for_and_is_told_at_once_has_no_speed():
    file, now = io.StringIO(), [0.0]
    with progress(200, file=file, clock=lambda: now[0]) as bar:
        for step, seconds in enumerate((10.0, 0.5, 0.001), 1):  # each read one late; when stopped, the last as well
            now[0] += seconds
            bar.update(step, 64)
    assert [line.split("  ")[1] for line in file.getvalue().splitlines()[2:]] == ["128 images/s"] * 2


def test_progress_bar_on_a_terminal_has_the_same_figures():
    file = Terminal()
    assert run(file) == pytest.approx(128.0)
    shown = file.getvalue()
    assert "\r" in shown and " 50%|" in shown and "100%|" in shown
    for text in ("step 1/100", "step 2/100  loss 0.5  128 images/s  49 s left", "1 min 00 s in all"):
        assert text in shown


def test_three_scales_of_guidance_become_curves(tmp_path):
    def card(number, scale, share, seed=1):
        sampler = {"name": "heun", "guidance": {"scale": scale, "sigma_lo": 0.0, "sigma_hi": float("inf")}}
        body = {"step": 100, "scores": {"caption_agreement": share}, "sampler": sampler, "seed": seed}
        write_json(tmp_path / f"eval_00000100{'' if number == 1 else f'_{number}'}.json", body)

    for number, (scale, share) in enumerate([(1.5, 0.5), (2.0, 0.8)], 1):
        card(number, scale, share)
    page = write_report(tmp_path).read_text()
    assert "guidance scale" not in page
    card(3, 5.0, 0.4, seed=2)  # of another question
    assert "guidance scale" not in write_report(tmp_path).read_text()
    card(4, 3.0, 0.9)
    card(5, 4.0, 0.7, seed=1)
    page = write_report(tmp_path).read_text()
    assert "Against the scale of guidance" in page
    assert "<b>50.0 %</b><span>caption agreement" in page  # what the run itself asked for, not the last one tried
    assert "caption_agreement against guidance scale, 4 values" in page
    assert "guidance scale 1.5<br>" in page and "<b>step" not in page.split("Against the scale")[1]
