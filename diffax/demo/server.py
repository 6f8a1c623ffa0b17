"""The HTTP server: the page by GET, pictures by POST, drawn one after the other."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from diffax.demo.drawing import Studio, checked
from diffax.demo.page import page

HOST = "127.0.0.1"  # whoever can reach the page can keep the machine busy
# on any port: a forwarded one is another than the server's, and 80 is left out
_OWN = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]*)?", re.IGNORECASE)
_LARGEST = 2**24  # bytes of a request
_log = logging.getLogger(__name__)
# The page loads nothing, from nowhere, and runs its own script alone.
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Reply(NamedTuple):
    """What is sent back."""

    status: int
    kind: str
    body: bytes
    headers: Mapping[str, str] = {}


def server(opened: Callable[[], Studio], port: int = 8000) -> ThreadingHTTPServer:
    """A bound server of a run; `serve_forever()` serves, `server_close()` ends it.

    `GET /` is the page. `POST /draw` takes a JSON object of the run's fields and answers with a PNG, and the header
    Seconds; what cannot be drawn is 400 with {"error": one line}. `GET /waiting` tells which numbers of steps
    are still to be compiled: each is once, in the background, from now on.

    Args:
        opened: the run, as of `studio`; called once the port is there.
        port: 0 takes one that is free, told by `server_port`.

    Raises:
        ValueError: the port is in use, or what `opened` raises.
    """
    try:
        bound = ThreadingHTTPServer((HOST, port), _Handler)
    except OSError as error:
        raise ValueError(
            f"--port: {port} cannot be opened ({error.strerror}); give another, such as --port={(port + 1) % 65536}"
        ) from None
    try:
        bound.RequestHandlerClass = partial(_Handler, _routes(opened()))
    except BaseException:
        bound.server_close()
        raise
    return bound


def _routes(run: Studio) -> dict[tuple[str, str], Callable[[bytes], Reply]]:
    worker, waiting = ThreadPoolExecutor(1), list(run.fields["steps"].limits)  # one worker: all is drawn in turn

    def drawn(asked):
        start = time.perf_counter()
        picture = run.draw(asked)
        if asked["steps"] in waiting:
            waiting.remove(asked["steps"])
        return Reply(200, "image/png", picture, {"Seconds": f"{time.perf_counter() - start:.3f}"})

    def prepare():
        for n in waiting[:1]:
            try:
                drawn({**checked(run.fields, {}), "steps": n})
            except Exception:
                _log.exception("%s steps cannot be drawn", n)
                waiting.remove(n)
            worker.submit(prepare)  # behind whoever has asked meanwhile

    def draw(body):
        try:
            asked = checked(run.fields, _parsed(body))
        except ValueError as error:
            return _refusal(400, str(error))
        return worker.submit(drawn, asked).result()

    html = page(run).encode()
    worker.submit(prepare)
    return {
        ("GET", "/"): lambda body: Reply(200, "text/html; charset=utf-8", html),
        ("GET", "/waiting"): lambda body: Reply(200, "application/json", json.dumps(sorted(waiting)).encode()),
        ("POST", "/draw"): draw,
    }


def _parsed(body):
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"request: cannot be read as JSON ({error})") from None


def _refusal(status, message):
    return Reply(status, "application/json", json.dumps({"error": " ".join(message.split())}).encode())


class _Handler(BaseHTTPRequestHandler):
    timeout = 30  # seconds for a request to come in

    def __init__(self, routes, *args):
        self.routes = routes
        super().__init__(*args)

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        path = self.path.partition("?")[0]
        route = self.routes.get((self.command, path))
        try:
            self._check_host()
            reply = route(self._body()) if route else _refusal(404, f"{path[:60]}: nothing is there; the page is at /")
        except ConnectionError:
            return
        except _Refused as error:
            reply = _refusal(error.status, str(error))
        except Exception as fault:
            _log.exception("a request failed")
            reply = _refusal(500, f"drawing failed ({type(fault).__name__}); the terminal of the demo tells more")
        self._send(reply)

    def _check_host(self):
        # a page of another site whose name is made to lead here would be of this origin, and read all that is drawn
        host, own = self.headers.get("Host", "none"), f"{HOST}:{self.server.server_port}"
        if not _OWN.fullmatch(host):
            raise _Refused(f"Host: {host[:60]} is not allowed, expected {own}; open http://{own}", 403)

    def _body(self):
        if self.command == "GET":
            return b""
        kind, length = self.headers.get_content_type(), self.headers.get("Content-Length", "none")
        if kind != "application/json":  # which no page of another origin can send unasked
            raise _Refused(f"Content-Type: {kind[:60]} is not allowed, expected application/json")
        if not (length.isdecimal() and len(length) < 12 and int(length) <= _LARGEST):
            raise _Refused(f"Content-Length: {length[:60]} is not allowed, expected at most {_LARGEST} bytes")
        return self.rfile.read(int(length))

    def _send(self, reply):
        try:
            self.send_response(reply.status)
            headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body)), **_HEADERS, **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
        except ConnectionError:  # the visitor has left
            pass

    def log_message(self, format, *args):
        """Says nothing: the terminal is for faults."""


class _Refused(ValueError):
    """A request whose head cannot be meant."""

    def __init__(self, message, status=400):
        super().__init__(message)
        self.status = status
