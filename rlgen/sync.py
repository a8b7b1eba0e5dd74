"""The command ``rlgen sync``: what runs have recorded, into a sink, at any time later."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rlgen.command import AsJson, Debug, damaged, replying
from rlgen.errors import ConfigError, RlgenError, did_you_mean

SINKS = ("wandb", "tensorboard", "trackio")


@dataclass
class Synced:
    """What went into a sink.

    Attributes:
        records: how many.
        files: pictures and videos among them.
        skipped: damaged lines, left out.
        where: it can be seen.
    """

    records: int
    files: int
    skipped: int
    where: str


def sync(folder: Path, to: str, say: Callable[[str], None]) -> Synced:
    """Replay a run's records, pictures, videos and summary into a sink.

    What the sink has of this run already is replaced, so that nothing is in it twice.

    Args:
        folder: the run's.
        to: one of `SINKS`.
        say: told what the user should know.

    Raises:
        ConfigError: there is no such sink, its package is missing, or the run goes on.
        CheckpointError: the folder is no run.
        RlgenError: the sink failed.
    """
    from rlgen import history, sinks

    if to not in SINKS:
        raise ConfigError(f"--to: there is no {to!r}{did_you_mean(to, SINKS)}")
    sinks.check_installed(to, "--to")
    run = history.read(folder)
    if run.status == history.RUNNING:
        raise ConfigError(f"{folder}: this run is being written; sync it once it has ended")
    if not run.records:
        raise ConfigError(f"{folder}: this run has recorded nothing")
    mode = os.environ.get("WANDB_MODE", "online")
    if to == "wandb" and mode not in ("online", "offline"):
        raise ConfigError(f"WANDB_MODE: expected online or offline, got {mode!r}; unset it")
    records = [*run.records, *_unrecorded(run)]
    try:
        about = sinks.about(folder, run.config, run.clock, replay=True)
        sink = sinks.open_sink(to, about, mode, say)
        for record in records:
            sink.record(record)
        sink.close(run.summary or None)
    except RlgenError:
        raise
    except Exception as error:  # whatever a third party's sink may raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RlgenError(f"{folder}: {to}: {reason}") from error
    files = sum(sinks.medium(record, folder) is not None for record in records)
    return Synced(len(run.records), files, run.skipped, sink.where)


def _unrecorded(run: Any) -> Iterator[dict[str, Any]]:
    """Records of the pictures and videos of which there are none, as of older runs' last ones."""
    from rlgen.rundir import PICTURES, VIDEOS

    known = {record.get("file") for record in run.records}
    shown = {record.get("name") for record in run.of("picture")}  # the last is a copy of these
    last = run.records[-1]
    for kind, folder in (("picture", PICTURES), ("video", VIDEOS)):
        for path in sorted((run.folder / folder).glob("*.*")):
            file = str(path.relative_to(run.folder))
            if file in known or path.suffix not in (".png", ".gif", ".mp4"):
                continue
            name, ticks = _named(path.stem)
            if ticks is None and name in shown:
                continue
            counters = {run.clock: ticks} if ticks is not None else last
            yield {**counters, "kind": kind, "time": last["time"], "name": name, "file": file}


def _named(stem: str) -> tuple[str, int | None]:
    """The name and the ticks in ``NAME-<ticks>``, ``<ticks>`` or ``NAME``."""
    found = re.fullmatch(r"(?:(.*)-)?(\d+)", stem)
    return (found[1] or "episode", int(found[2])) if found else (stem, None)


def add_to(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("sync")
    def sync_(
        runs: Annotated[
            list[str],
            typer.Argument(
                metavar="RUN ...", help="Runs, folders of runs, experiments in runs/; also URIs"
            ),
        ],
        to: Annotated[
            str,
            typer.Option(
                help=f"{', '.join(SINKS[:-1])} or {SINKS[-1]}", autocompletion=lambda: list(SINKS)
            ),
        ],
        as_json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        """Replay what runs have recorded into a sink; what is there of them is replaced."""
        with replying(as_json, debug) as answer:
            import dataclasses

            from rlgen import history
            from rlgen.api import warn
            from rlgen.display import plural

            folders = history.find_all(runs)
            answer |= {"synced": {}, "failed": {}}
            for folder in folders:
                try:
                    synced = sync(folder, to, warn)
                except RlgenError as error:
                    if len(folders) == 1:
                        raise
                    warn(str(error))
                    answer["failed"][str(folder)] = str(error)
                    continue
                answer["synced"][str(folder)] = dataclasses.asdict(synced)
                told = f"{synced.records:,} {plural('record', synced.records)}"
                if synced.files:
                    told += f", {synced.files} {plural('file', synced.files)}"
                print(f"{folder}: {told} in {synced.where}")
                if synced.skipped:
                    warn(damaged(folder, synced.skipped))
            if answer["failed"]:
                raise RlgenError(f"{len(answer['failed'])} of {len(folders)} runs are not synced")
