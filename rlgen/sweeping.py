"""The commands of sweeps and of what is kept by URI: sweep, runs, push."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rlgen.command import AsJson, Debug, Overrides, Quiet, console, damaged, replying
from rlgen.errors import CheckpointError, ConfigError, did_you_mean

SHOWN = 20  # trials in the table


def sweep(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="With a section 'search'; see 'rlgen list'"),
    ] = None,
    overrides: Overrides = None,
    search: Annotated[
        Path | None,
        typer.Option("--search", metavar="FILE", help="A YAML file with the section 'search'"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="SWEEP", help="Go on with a sweep, by its folder or URI"),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Search for good settings: many trials of a configuration, side by side (Ray Tune)."""
    with replying(as_json, debug) as answer:
        from rlgen import storage, sweeps
        from rlgen.backends import tune

        if resume is not None:
            if config is not None or search is not None:
                raise ConfigError("--resume: goes on with a sweep as it is; give nothing beside it")
            found = sweeps.open_sweep(resume, _warn)
        elif config is None:
            raise ConfigError("sweep: give a configuration, or --resume SWEEP")
        else:
            experiment, wanted = _read(config, overrides or [], search)
            tune.check_installed(bayesian=False)
            found = sweeps.create(experiment, wanted)
        tune.check_installed(found.search.method == "bayesian")
        where = storage.origin(found.folder) or str(found.folder)
        answer |= {"sweep": where, "folder": str(found.folder)}
        before = [trial for trial in found.trials() if trial.ended]
        if before:
            print(f"{len(before)} trials have ended already")
        try:
            trials = found.run(_nothing if quiet else _say)
        except KeyboardInterrupt:
            found.write_results(found.trials())
            again = f"rlgen sweep --resume {shlex.quote(where)}"
            raise KeyboardInterrupt(f"stopped; go on with: {again}") from None
        order = sweeps.ranked(trials)
        answer |= {
            "results": str(found.folder / sweeps.RESULTS),
            "trials": [asdict(trial) for trial in order],
        }
        console.print(_table(order, found.experiment.clock, list(found.search.space)))
        if len(order) > SHOWN:
            print(f"and {len(order) - SHOWN} more in {found.folder / sweeps.TABLE}")
        print(f"sweep: {where}")
        if order[0].mean is None:
            raise ConfigError(f"sweep: no trial was evaluated; the first failed: {order[0].reason}")
        answer["best"] = str(found.folder / sweeps.BEST)
        print(f"next: rlgen train {shlex.quote(answer['best'])}")


def runs(
    where: Annotated[
        str,
        typer.Argument(metavar="WHERE", help="A folder or URI of runs, an experiment in runs/"),
    ] = "runs",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder or at a URI, with what they have reached."""
    with replying(as_json, debug) as answer:
        from rlgen import storage

        if storage.is_uri(where):
            found = [(r, s, s.get("stop_reason", "(not ended)")) for r, s in storage.runs(where)]
        else:
            found = _here(where)
        answer["runs"] = [{"run": r, "summary": s, "status": status} for r, s, status in found]
        if not found:
            print(f"no runs in {where}")
            return
        print(f"{'ended by':12} {'mean':>10} {'seconds':>8}  run")  # last, for it may be long
        for run, summary, status in found:
            reached = (summary.get("evaluation") or {}).get("mean")
            mean = "" if reached is None else f"{reached:.4g}"
            seconds = f"{summary['seconds']:,.0f}" if "seconds" in summary else ""
            print(f"{status:12} {mean:>10} {seconds:>8}  {run}")


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run's, or a sweep's")],
    uri: Annotated[
        str | None,
        typer.Argument(metavar="URI", help="Where it goes; where it belongs by default"),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Upload a run or a sweep: what could not be uploaded while it ran, or all of a local one."""
    with replying(as_json, debug) as answer:
        from rlgen import storage

        if not folder.is_dir():
            raise ConfigError(f"push: there is no folder {str(folder)!r}")
        target = uri or storage.origin(folder)
        if target is None:
            raise ConfigError(f"push: {str(folder)!r} belongs to no URI; give one")
        if not storage.is_uri(target):
            raise ConfigError(f"push: expected a URI such as s3://bucket/runs, got {target!r}")
        if not storage.Mirror(folder, target, _warn).close():
            raise ConfigError(f"push: not all of {str(folder)!r} is at {target} yet; try again")
        answer |= {"folder": str(folder), "uri": target}
        print(f"{folder} is at {target}")


def _here(where: str) -> list[tuple[str, dict[str, Any], str]]:
    """The runs on this machine: folder, summary, and what ended them or in brackets how they are.

    Raises:
        ConfigError: there is no such folder.
    """
    from rlgen import history

    path = Path(where) if Path(where).exists() else history.RUNS / where
    if not path.is_dir() and where != str(history.RUNS):  # which the first run makes
        known = [p.name for p in history.RUNS.glob("*") if p.is_dir()]
        raise ConfigError(
            f"runs: {where!r} is no folder; give one, or an experiment in {history.RUNS}/"
            f"{did_you_mean(where, known)}"
        )
    found: list[tuple[str, dict[str, Any], str]] = []
    for folder in history.find(path):
        try:
            run = history.read(folder)
        except CheckpointError as error:
            _warn(f"left out: {error}")
            continue
        if run.skipped:
            _warn(damaged(folder, run.skipped))
        ended = run.status in (history.ENDED, history.INTERRUPTED)
        summary = run.summary if ended else {}
        found.append((str(folder), summary, summary["stop_reason"] if ended else f"({run.status})"))
    return found


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (sweep, runs, push):
        app.command()(command)


def _read(config: str, overrides: list[str], search: Path | None) -> tuple[Any, Any]:
    """The experiment and the section ``search`` of a configuration."""
    import yaml

    from rlgen.config import parse_overrides, read_config, resolve_experiment, set_keys

    plain = set_keys(read_config(config), parse_overrides(overrides))
    wanted = plain.pop("search", None)
    if search is not None:
        if wanted is not None:
            raise ConfigError(
                f"--search: {config} has a section 'search' already; give one of both"
            )
        if not search.is_file():
            raise ConfigError(f"--search: there is no file {str(search)!r}")
        try:
            wanted = yaml.safe_load(search.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"--search: {search}: not valid YAML: {error}") from error
        if isinstance(wanted, dict) and set(wanted) == {"search"}:
            wanted = wanted["search"]
    return resolve_experiment(plain), wanted


def _table(order: list[Any], clock: str, keys: list[str]) -> Table:
    """The trials, the best first."""
    table = Table(box=None, pad_edge=False)
    for heading in ("trial", "mean", clock, "status", *(k.rpartition(".")[2] for k in keys)):
        table.add_column(
            heading, justify="right" if heading in ("trial", "mean", clock) else "left"
        )
    for trial in order[:SHOWN]:
        mean = "" if trial.mean is None else f"{trial.mean:.4g}"
        failed = trial.status == "failed"
        status = f"failed ({trial.reason[:60]})" if failed else trial.status
        values = [trial.point[key] for key in keys]
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        table.add_row(str(trial.number), mean, f"{trial.ticks:,.0f}", status, *shown)
    return table


def _say(message: str) -> None:
    print(message, flush=True)


def _nothing(message: str) -> None:
    """Say nothing."""


def _warn(message: str) -> None:
    print(f"rlgen: {message}", file=sys.stderr, flush=True)
