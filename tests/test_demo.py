"""The demo: what its page asks for and is refused, that nothing compiles anew, and the page in a browser."""

import http.client
import io
import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import chromium
import numpy as np
import pytest
from launcher import ROOT, TOY, compiled, launch, programs, untrained  # noqa: F401
from PIL import Image

from diffax import demo
from diffax.demo import __main__ as command
from diffax.demo.page import page
from diffax.main import run

TINY = (
    "network.channels=8 network.multipliers=(1,) network.attention=() network.cross_attention=(12,) network.groups=4 "
    "network.head_dim=4 network.text.width=8 network.text.layers=1 network.text.head_dim=4 data.examples=64 "
    "sample.grid.n=2"
)
COUNTS = (4,)
MANY = "x" * 10**6


@pytest.fixture(scope="module")
def shapes(tmp_path_factory, programs):  # noqa: F811
    return untrained(tmp_path_factory.mktemp("demo") / "run", f"{ROOT}/experiments/shapes_text.py:quick", TINY)


def serving(bound):
    threading.Thread(target=bound.serve_forever, args=(0.05,), daemon=True).start()
    yield bound.server_port
    bound.shutdown()
    bound.server_close()


@pytest.fixture(scope="module")
def port(shapes):
    """A server with everything compiled."""
    for port in serving(demo.server(partial(demo.studio, shapes, 3, COUNTS), 0)):
        end = time.monotonic() + 120
        while json.loads(sent(port, "GET", "/waiting").body):
            assert time.monotonic() < end
            time.sleep(0.05)
        yield port


class Answer:
    """An HTTP response, read."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()


def sent(port, method, path, body=None, kind="application/json", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = ({"Content-Type": kind} if body is not None else {}) | ({"Host": host} if host else {})
    try:
        connection.request(method, path, body, headers)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def draw(port, **asked):
    answer = sent(port, "POST", "/draw", json.dumps(asked))
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "image/png" and float(answer.headers["Seconds"]) >= 0
    return answer.body


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


@pytest.mark.slow
def test_what_is_asked_for_is_drawn_and_nothing_compiles_anew(port):
    first = dict(prompt="a red circle", guidance=3, steps=4, seed=7, n=3)
    others = [{"guidance": 0.5}, {"guidance": 1}, {"steps": 2}, {"prompt": "two blue squares"}, {"prompt": ""}]
    others += [{"negative_prompt": "a blue circle"}, {"seed": 2**31 - 1}, {"n": 1}]
    found = []
    assert not compiled(lambda: found.extend(draw(port, **{**first, **other}) for other in [{}, {}, *others]))
    assert found[0] == found[1] and len(set(found)) == len(found) - 1
    shown = [pixels(png) for png in found[1:]]
    assert all(a.shape != shown[0].shape or (a != shown[0]).any() for a in shown[1:])
    assert draw(port, prompt="\ud800\x00<b>\n日本 \x1b[2J", negative_prompt="x" * 1000)
    assert draw(port, prompt="inf", negative_prompt="nan")  # which are words here, not numbers
    with Image.open(io.BytesIO(found[0])) as image:
        assert image.text["prompts"].splitlines() == ["a red circle"] * 3 and '"seed": 7' in image.text["diffax"]


@pytest.mark.slow
def test_it_is_what_the_command_draws(port, shapes, tmp_path):
    out = tmp_path / "out.png"
    asked = ("--prompt=a red circle", "--n=3", "--seed=7", "--guidance=3", "--steps=4", f"--out={out}")
    outcome = launch("--mode=sample", f"--workdir={shapes}", *asked, "--compilation_cache=False")
    assert outcome.code == 0, outcome.err
    with np.load(out.with_suffix(".npz")) as arrays:
        expected = np.rint((np.clip(arrays["x0"], -1, 1) + 1) * 127.5)
    picture = pixels(draw(port, prompt="a red circle", n=3, seed=7, guidance=3, steps=4))
    scale = (picture.shape[0] - 4) // expected.shape[1]
    side = expected.shape[1] * scale
    images = np.stack([picture[2 : 2 + side, 2 + i * (side + 2) :][:, :side] for i in range(3)])
    assert np.abs(images[:, ::scale, ::scale] - expected).max() <= 1  # rounded to 8 bits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            json.dumps({"prompt": MANY}),
            "(1000000 characters) is not allowed, expected a text of at most 1000 characters",
        ),
        ('{"prompt": 3}', "prompt: 3 is not allowed, expected a text"),
        ('{"negative_prompt": null}', "negative_prompt: None is not allowed"),
        ('{"guidance": "3"}', "guidance: '3' is not allowed, expected a number from 0 to 10"),
        ('{"guidance": NaN}', "guidance: nan is not allowed"),
        ('{"guidance": -Infinity}', "guidance: -inf is not allowed"),
        ('{"guidance": 10.1}', "guidance: 10.1 is not allowed"),
        ('{"guidance": true}', "guidance: True is not allowed"),
        ('{"n": 1000000000}', "n: 1000000000 is not allowed, expected a whole number from 1 to 3"),
        ('{"n": 0}', "n: 0 is not allowed"),
        ('{"n": 1.5}', "n: 1.5 is not allowed"),
        ('{"steps": 5}', "steps: 5 is not allowed, expected one of 2, 4"),
        ('{"steps": [4]}', "steps: [4] is not allowed"),
        ('{"seed": -1}', "seed: -1 is not allowed, expected a whole number from 0 to 2147483647"),
        (json.dumps({"seed": 10**400}), "seed: 1000"),
        ('{"seed": null}', "seed: None is not allowed"),
        ('{"class": 3}', "'class' is no field of this run, expected one of prompt,"),
        ('{"<b>": 1}', "'<b>' is no field of this run"),
        (json.dumps({MANY: 1}), "(1000000 characters) is no field"),
        ("[1]", "request: [1] is not allowed, expected an object of prompt"),
        ("{", "request: cannot be read as JSON"),
        ("", "request: cannot be read as JSON"),
        ("[" * 10**6, "request: cannot be read as JSON"),
        ('{"seed": ' + "1" * 5000 + "}", "request: cannot be read as JSON"),
        (b"\xff\xfe\x00", "request: cannot be read as JSON"),
    ],
    ids=range(25),
)
def test_what_cannot_be_meant_is_refused_in_a_line(port, body, message):
    answer = sent(port, "POST", "/draw", body)
    error = json.loads(answer.body)["error"]
    assert answer.status == 400 and message in error and "\n" not in error and len(error) < 250, error


@pytest.mark.slow
def test_other_requests_are_refused(port):
    assert sent(port, "POST", "/draw", "{}", kind="text/plain").status == 400  # as any page may send it
    for path in (("GET", "/draw"), ("GET", "/etc/passwd"), ("POST", "/", "{}"), ("GET", "//[")):
        assert sent(port, *path).status == 404
    head = f"POST /draw HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    for length in ("-1", "x", "9" * 5000, "99999999999"):
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall(f"{head}{length}\r\n\r\n".encode())
            assert b" 400 " in raw.recv(100)


@pytest.mark.slow
def test_a_name_that_is_not_its_own_is_refused(port):
    """As of another site, whose name was made to lead here after its page was read."""
    for name in ("127.0.0.1", "localhost", "[::1]", "LOCALHOST"):
        # a port that was forwarded is not the server's own, and 80 is left out
        for own in (f"{name}:{port}", f"{name}:{port + 1}", name):
            assert sent(port, "GET", "/", host=own).status == 200, own
    evil = ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "evil.example:80@localhost", "::1"]
    others = [*evil, *(f"{name}:{port}" for name in evil), "localhost:x", f"localhost:{port}.evil.example", "x" * 999]
    for other in others:
        for request in (("GET", "/"), ("GET", "/waiting"), ("POST", "/draw", "{}")):
            answer = sent(port, *request, host=other)
            assert answer.status == 403 and f"open http://127.0.0.1:{port}" in json.loads(answer.body)["error"]
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 403 " in raw.recv(100)


def test_the_runs_own_guidance_is_what_its_page_asks_for():
    own = demo.Field(1.25, lambda value: True, "", (0, 10.0))
    html = page(demo.Studio("", "", {"steps": demo.Field(2, lambda value: True, "", (2,)), "guidance": own}, bytes))
    (slider,) = re.findall('<input type="range" id="guidance"[^>]*>', html)
    told = dict(re.findall('(\\w+)="([^"]*)"', slider))
    # the value that a browser makes of it: the nearest of min, min + step, ..., unless any is allowed
    assert told["value"] == "1.25" and (told["step"] == "any" or 1.25 % float(told["step"]) == 0)


def test_a_fault_is_no_traceback_and_requests_are_served_one_at_a_time(caplog):
    inside = []

    def drawn(asked):
        inside.append(1)
        time.sleep(0.02)
        assert inside.pop() and not inside, "two at once"
        if asked["prompt"] == "fail":
            raise ValueError("a fault\nof ours")
        return b"png"

    fields = {
        "steps": demo.Field(2, lambda value: True, "", (2,)),
        "prompt": demo.Field("</b>", lambda value: True, ""),
    }
    for port in serving(demo.server(lambda: demo.Studio("<script>alert(1)</script>&", "<i>", fields, drawn), 0)):
        html = sent(port, "GET", "/?a=b").body.decode()
        assert "<title>&lt;script&gt;alert(1)&lt;/script&gt;&amp;</title>" in html and "&lt;/b&gt;" in html
        assert "alert(1)</script>" not in html and "<i>" not in html and "</b>" not in html
        with ThreadPoolExecutor(6) as visitors:
            assert list(visitors.map(lambda _, port=port: draw(port), range(12))) == [b"png"] * 12
        answer = sent(port, "POST", "/draw", '{"prompt": "fail"}')
        assert answer.status == 500 and json.loads(answer.body)["error"].startswith("drawing failed (ValueError)")
    assert "of ours" in caplog.text


def test_points_by_class(tmp_path, programs):  # noqa: F811
    options = "data.n=64 network.features=16 network.blocks=1 sample.sampler.name=ddim sample.grid.n=3"
    points = demo.studio(untrained(tmp_path / "toy", TOY, options), 16, ())
    drawn = {label: points.draw(demo.checked(points.fields, {"class": label})) for label in (None, 0, 1)}
    assert len(set(drawn.values())) == 3 and list(points.fields) == ["class", "guidance", "steps", "n", "seed"]
    last = points.fields["class"].limits[1]
    assert f"<option>{last}</option></select>" in page(points) and "prompt" not in page(points).split("<script")[0]
    for label in (last + 1, -1, "0", True):
        with pytest.raises(ValueError, match=f"class: .* is not allowed, expected a whole number from 0 to {last}"):
            demo.checked(points.fields, {"class": label})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=@/nothing"], "holds no run (no config.json)"),
        (["--workdir=@", "--port=#"], "cannot be opened (Address already in use); give another, such as --port="),
        (["--workdir=@", "--port=99999"], "99999"),
        (["--workdir=@", "--n=0"], "flag --n=0"),
        (["--nothing"], "Unknown command line flag 'nothing'"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_the_command_refuses_in_a_line(tmp_path, monkeypatch, capsys, options, message):
    for flag in command.FLAGS.get_flags_for_module(command):
        flag.unparse()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = str(taken.getsockname()[1])
        argv = [option.replace("@", str(tmp_path)).replace("#", used) for option in options]
        argv += [] if "--port" in str(argv) else ["--port=0"]
        monkeypatch.setattr(sys, "argv", ["demo", *argv])
        with pytest.raises(SystemExit) as end:
            run(command.main)
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1, error


@pytest.mark.slow
@pytest.mark.skipif(chromium.PATH is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(port, tmp_path):
    picture = """(() => {
        const image = document.querySelector("#picture"), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL();
    })()"""
    idle = "!document.body.classList.contains('busy') && !document.querySelector('#shown').hidden"
    with chromium.browse(f"http://127.0.0.1:{port}/", tmp_path) as shown:

        def after(act):
            act()
            shown.until(idle)
            assert shown.run("document.querySelector('#error').textContent") == ""
            seen.append(shown.run(picture))

        def use():
            shown.run("document.querySelector('#prompt').select()")
            shown.send("Input.insertText", text="a red circle")
            after(lambda: shown.click("#draw"))
            after(lambda: shown.click("#guidance"))  # to the middle of the bar
            shown.run("document.querySelector('#steps').focus()")
            after(lambda: shown.key("ArrowRight"))
            after(lambda: shown.click("#new"))

        seen = []
        assert not compiled(use)
        assert len(set(seen)) == 4
        told = shown.run("asked()")
        assert told["prompt"] == "a red circle" and told["guidance"] == 5 and told["steps"] == 4
        assert "guidance 5, 4 steps:" in shown.run("document.querySelector('#status').textContent")
        shown.run("document.querySelector('#seed').value = '-5'")
        shown.click("#draw")
        shown.until("document.querySelector('#error').textContent")
        assert "seed: -5 is not allowed, expected" in shown.run("document.querySelector('#error').innerText")
