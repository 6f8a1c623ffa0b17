"""Headless Chromium for tests, driven over a pipe by its DevTools protocol: no driver and no package are needed."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


class Browser(NamedTuple):
    """A page that is open: `send(method, **params)` is the protocol's command, `run` the value of a script."""

    send: Callable

    def run(self, script):
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script, seconds=60.0):
        """Waits until a script's value is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"{script}: {self.run('document.body.innerText')}"
            time.sleep(0.05)

    def click(self, selector):
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def key(self, key):
        for kind in ("keyDown", "keyUp"):
            code = {"ArrowRight": 39, "ArrowLeft": 37}[key]
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, file):
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browse(url, profile, width=1180, height=820):
    """A `Browser` at `url`; its profile is a folder."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
    moved = [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(high, (3, 4))]  # where the protocol has them
    arguments = [PATH, *_OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
    quiet = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
    process = os.posix_spawn(PATH, arguments, os.environ, file_actions=moved + quiet)
    for end in (theirs_in, theirs_out, *high):
        os.close(end)
    try:
        with os.fdopen(ours_in, "rb") as answers, os.fdopen(ours_out, "wb", 0) as commands:
            send = _protocol(answers, commands)
            target = send("Target.createTarget", url=url)["targetId"]
            session = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            page = Browser(lambda method, **params: send(method, session, **params))
            page.until("location.href !== 'about:blank' && document.readyState === 'complete'")
            yield page
            send("Browser.close")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _protocol(answers, commands):
    numbers = itertools.count(1)

    def send(method, session=None, **params):
        number = next(numbers)
        command = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        commands.write(json.dumps(command).encode() + b"\0")
        while True:
            message = json.loads(_until_null(answers))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    return send


def _until_null(stream):
    found = bytearray()
    while (byte := stream.read(1)) != b"\0":
        assert byte, "Chromium has ended"
        found += byte
    return bytes(found)
