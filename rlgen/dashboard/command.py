"""The command ``rlgen dashboard``."""

from __future__ import annotations

import importlib.util
import json
import secrets
import socket
import sys
import threading
from typing import Annotated

import typer

from rlgen.command import Debug, replying
from rlgen.errors import ConfigError

FOLDER, PORT = "runs", 8470
SHORTEST = 16  # characters of a token
NEEDED = ("dash", "dash_ag_grid")


def dashboard(
    runs: Annotated[
        str, typer.Argument(metavar="RUNS_DIR", help="A folder with runs anywhere below it")
    ] = FOLDER,
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but this machine's needs --token")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The next one if it is in use; 0 for any")
    ] = PORT,
    token: Annotated[
        str | None,
        typer.Option(help="Ask whoever comes for this token; 'auto' makes one", metavar="TOKEN"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with the url, before all else")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show the runs of a folder on a local web page, live; Ctrl-C ends it."""
    with replying(as_json, debug) as answer:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"dashboard: {missing[0]} is not installed; install it with: "
                "pip install 'rlgen[dashboard]'"
            )
        from rlgen import storage
        from rlgen.dashboard import server
        from rlgen.dashboard.runs import Runs

        if not server.is_loopback(host) and token is None:
            raise ConfigError(
                f"--host: {host} can be reached by others, so a token is needed: add --token auto; "
                "or leave --host out and come by a tunnel, ssh -L"
            )
        if token == "auto":
            token = secrets.token_urlsafe(24)
        elif token is not None and len(token) < SHORTEST:
            raise ConfigError(
                f"--token: expected at least {SHORTEST} characters, got {len(token)}; 'auto' makes "
                "a good one"
            )
        root = storage.local_root(runs)
        if storage.is_uri(runs):
            _say(f"of {runs}, what this machine has written or read: {root}")
        if not root.is_dir() and (root.exists() or runs != FOLDER):
            raise ConfigError(
                f"dashboard: there is no folder {str(root)!r}; runs are below run.dir, {FOLDER!r} "
                "by default"
            )
        found = server.listen(host, port, _say)
        app = server.make_app(Runs(root), token, host, found.getsockname()[1], _say, debug)
        serving = server.start(app, found, host)
        url = f"http://{_name(host)}:{found.getsockname()[1]}/"
        if token is not None:
            url += f"?token={token}"
        answer |= {"url": url, "runs": str(root)}
        if as_json:
            print(json.dumps(answer), file=sys.__stdout__, flush=True)
        print(f"dashboard of {root}: {url}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            _say("the dashboard has ended")
        finally:
            serving.shutdown()


def _name(host: str) -> str:
    """What a browser calls it, on another machine where that can reach it."""
    if host in ("0.0.0.0", "::", ""):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _say(message: str) -> None:
    print(f"rlgen: {message}", file=sys.stderr, flush=True)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(dashboard)
