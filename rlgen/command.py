"""What the commands of the command line share: their options, their errors, their answers."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rlgen import completion
from rlgen.errors import ConfigError, RlgenError

# Exit statuses; the last two are a shell's for Ctrl-C and SIGTERM.
USER_ERROR, BUG, INTERRUPTED, TERMINATED = 2, 1, 130, 143
console = Console(highlight=False)  # finds sys.stdout anew at every use

ConfigName = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="See 'rlgen list', or a .yaml", autocompletion=completion.configs
    ),
]
RunDir = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's folder, runs/NAME/RUN, or its URI",
        autocompletion=completion.runs,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value ...",
        help="Overrides, such as seed=3 stop.seconds=60",
        autocompletion=completion.overrides,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object as the last line of stdout"),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors")]
Trace = Annotated[bool, typer.Option("--trace", help="Print one batch's way with its times")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress")]


class Terminated(KeyboardInterrupt):
    """SIGTERM stopped a command."""


@contextlib.contextmanager
def replying(as_json: bool, debug: bool) -> Iterator[dict[str, Any]]:
    """Around every command: its errors become one message and an exit status.

    Yields the answer for the command to fill in. With ``as_json`` it is printed as the last line
    of stdout, and everything else that is printed meanwhile goes to stderr.
    """
    answer: dict[str, Any] = {}
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    status = 0
    try:
        with aside:
            yield answer
    except typer.Exit as exit_:
        status = exit_.exit_code
    except RlgenError as error:
        # On one line: a space with many bounds prints itself on several.
        status = _fail(answer, " ".join(str(error).split()), USER_ERROR, debug)
    except KeyboardInterrupt as stop:
        status = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        _fail(answer, str(stop) or "stopped", status, debug)
    except BrokenPipeError:
        raise  # whoever read has gone, as 'head' does; typer ends quietly
    except Exception as error:
        hint = "" if debug else "; run again with --debug to see where"
        status = _fail(answer, f"{type(error).__name__}: {error}{hint}", BUG, debug)
    if as_json:
        print(json.dumps(_strict(answer), allow_nan=False))
    if status:
        raise typer.Exit(status)


def _strict(value: Any) -> Any:
    """JSON has no infinite numbers, and none that are not numbers: null stands for them."""
    if isinstance(value, dict):
        return {key: _strict(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _fail(answer: dict[str, Any], message: str, status: int, debug: bool) -> int:
    """Say what went wrong; called where an exception is being handled."""
    if debug:
        traceback.print_exc()
    print(f"rlgen: {message}", file=sys.stderr)
    answer["error"] = message
    return status


def damaged(run: Path | str, lines: int) -> str:
    """What is said of a run whose records are not all whole."""
    what = "damaged line" if lines == 1 else "damaged lines"
    return f"{run}: {lines} {what} of metrics.jsonl left out"


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
    """Around what writes the file that ``-o`` names.

    Raises:
        ConfigError: it cannot be written, and why.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"-o: cannot write {str(output)!r}: {reason}") from error


def check_output(output: Path, *endings: str) -> None:
    """Refuse a file to write whose name has another ending, or that cannot be written.

    Raises:
        ConfigError: says what was expected.
    """
    if output.suffix.lower() not in endings:
        expected = " or ".join(endings)
        raise ConfigError(f"-o: expected a name that ends in {expected}, got {str(output)!r}")
    if not output.parent.is_dir():
        raise ConfigError(f"-o: there is no folder {str(output.parent)!r}")
    if output.is_dir():
        raise ConfigError(f"-o: {str(output)!r} is a folder; give the name of a file")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise ConfigError(f"-o: {str(output)!r} may not be written; give another place")
