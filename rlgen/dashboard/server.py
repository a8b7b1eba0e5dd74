"""Who may see the page, and what besides it is served: pictures and videos of the runs, no more."""

from __future__ import annotations

import hmac
import html
import ipaddress
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from dash import Dash
from flask import Flask, Response, abort, redirect, request, send_file
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from rlgen.dashboard import page
from rlgen.dashboard.runs import Runs, file_of
from rlgen.errors import ConfigError

PORTS = 20  # tried, from the wanted one on
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'"
)
INDEX = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" '
    'rx="3" fill="#0072B2"/><path d="M3 12c3 0 3-8 10-8" fill="none" stroke="#fff" '
    'stroke-width="2"/></svg>'
)
ASK = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>rlgen</title>
<meta name="viewport" content="width=device-width"><style>
body {{ font: 16px system-ui, sans-serif; display: grid; place-items: center; height: 90vh }}
form {{ display: grid; gap: 12px; width: 320px }}
input, button {{ font: inherit; padding: 8px 10px }}
:root {{ color-scheme: light dark }}
</style></head><body><form method="post" action="/enter">
<label for="token">{said}</label>
<input id="token" name="token" type="password" autocomplete="off" autofocus>
<button>Enter</button></form></body></html>"""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int, warn: Callable[[str], None]) -> socket.socket:
    """A socket at the port, or at the next one that is free.

    Args:
        host: an address or a name of this machine.
        port: the wanted one; 0 for any.
        warn: told when it is another one.

    Raises:
        ConfigError: the host is not this machine's, or all ports are in use.
    """
    reason = ""
    for candidate in range(port, port + PORTS) if port else (0,):
        if candidate > 65535:
            break
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, candidate, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise ConfigError(f"--host: {host!r} is no address of this machine: {error}") from None
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(address)
            found.listen(128)
        except OSError as error:
            found.close()
            reason = error.strerror or str(error)
            if error.errno in (13, 98, 48):  # may not, or in use (Linux, macOS)
                continue
            raise ConfigError(f"--host: cannot listen on {host!r}: {reason}") from None
        if port and candidate != port:
            warn(f"port {port} is in use; using {candidate}")
        return found
    raise ConfigError(
        f"--port: none of {port} to {min(port + PORTS - 1, 65535)} can be had on {host}: {reason}; "
        "give another one, or 0 for any"
    )


def make_app(
    runs: Runs,
    token: str | None,
    host: str,
    port: int,
    warn: Callable[[str], None],
    debug: bool = False,
) -> Flask:
    """The web application.

    Args:
        runs: what it shows.
        token: asked of whoever comes; None where only this machine can.
        host: it listens on, which it answers to without a token.
        port: it listens on, which tells apart the cookies of two dashboards.
        warn: told of an error of ours, once.
        debug: show its traceback.
    """
    server = Flask("rlgen.dashboard", static_folder=None)
    told: set[str] = set()

    def failed(error: BaseException) -> str:
        said = f"{type(error).__name__}: {error}"
        if said not in told:
            told.add(said)
            warn(f"{said}; start it with --debug to see where")
        return f"This cannot be drawn: {said}"

    def ended(error: BaseException | None) -> None:
        if error is not None:
            failed(error)

    if not debug:
        server.logger.disabled = True
        server.teardown_request(ended)
    guard(server, token, host, port)

    @server.get("/files/<path:name>")
    def files(name: str) -> Response:
        """``RUN/pictures/NAME.png``: only what `Runs` offers."""
        parts = name.split("/")
        path = file_of(runs, "/".join(parts[:-2]), "/".join(parts[-2:]))
        if path is None:
            abort(404)
        return send_file(path, max_age=3600 if "v" in request.args else 0)

    @server.get("/icon.svg")
    def icon() -> Response:
        return Response(ICON, mimetype="image/svg+xml")

    @server.get("/values/<path:id_>")
    def values(id_: str) -> Response:
        """The PNG that the page has had drawn."""
        picture = runs.maps.pictures.get(id_)
        if picture is None:
            abort(404)
        return Response(picture[1], mimetype="image/png")

    app = Dash(
        "rlgen.dashboard",
        server=server,  # type: ignore[arg-type]  # a Flask application, as documented
        title=f"rlgen · {runs.root.name}",
        update_title="",
        index_string=INDEX.replace("{%favicon%}", '<link rel="icon" href="/icon.svg">'),
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        add_log_handler=False,
        suppress_callback_exceptions=True,  # sliders are there only once there are pictures
        meta_tags=[
            {"name": "viewport", "content": "width=device-width, initial-scale=1"},
            {"name": "color-scheme", "content": "light dark"},
        ],
    )
    page.connect(app, runs, None if debug else failed)
    return server


def guard(server: Flask, token: str | None, host: str, port: int) -> None:
    """Let in whoever has the token or, without one, whoever asks this machine by its own name."""
    names = {*LOOPBACK, host}
    session, cookie = secrets.token_urlsafe(32), f"rlgen-{port}"

    def admit(target: str) -> Response:
        answer = redirect(target, 303)
        answer.set_cookie(cookie, session, httponly=True, samesite="Lax")
        return answer  # type: ignore[return-value]  # Flask's own response, by its subclass

    def fits(given: str | None) -> bool:
        return token is not None and hmac.compare_digest((given or "").encode(), token.encode())

    @server.before_request
    def check() -> Any:
        if token is None:
            # A page elsewhere may have its name lead here (DNS rebinding), but then says so.
            name = request.host.rpartition(":")[0] or request.host
            if not names & {name.strip("[]"), request.host.strip("[]")}:
                return Response(
                    f"rlgen: this dashboard answers to localhost, not to {html.escape(name)!r}. To "
                    "reach it by another name (a tunnel or a proxy), start it with --token auto.\n",
                    403,
                    mimetype="text/plain",
                )
            return None
        if request.path == "/enter" and request.method == "POST":
            if fits(request.form.get("token")):
                return admit("/")
            return Response(ASK.format(said="That was not the token of this dashboard."), 403)
        if fits(request.args.get("token")):
            rest = [(k, v) for k, v in request.args.items(multi=True) if k != "token"]
            return admit(request.path + (f"?{urlencode(rest)}" if rest else ""))
        if hmac.compare_digest(request.cookies.get(cookie, "").encode(), session.encode()):
            return None
        said = "The token of this dashboard, which 'rlgen dashboard' has printed:"
        return Response(ASK.format(said=said), 401)

    @server.after_request
    def harden(answer: Response) -> Response:
        answer.headers["Content-Security-Policy"] = POLICY
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"
        return answer


class _Quiet(WSGIRequestHandler):
    """Says nothing of each request, which may have the token in it."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def start(app: Flask, found: socket.socket, host: str) -> BaseWSGIServer:
    """Answer at a socket, in threads of its own; ``shutdown`` ends it."""
    server = make_server(
        host, found.getsockname()[1], app, threaded=True, request_handler=_Quiet, fd=found.fileno()
    )
    threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
    return server
