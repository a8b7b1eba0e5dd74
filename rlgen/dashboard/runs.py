"""The runs of a folder as the dashboard shows them, of which only what is new is read again.

A line of the table needs a run's configuration and the end of its records; whole records are read
of the runs that are looked at.
"""

from __future__ import annotations

import io
import math
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlgen import checkpoint, history, rundir
from rlgen.errors import RlgenError
from rlgen.history import History
from rlgen.tracking import METRICS

EVERY_S = 1.0  # between looks at the folder, however many pages are open
TAIL, LARGEST_TAIL = 8_192, 1 << 20  # bytes of records read for the table
KEPT = 100  # histories in memory: no more runs are drawn at a time
SEQUENCE = re.compile(r"^(.+?)-(\d+)$")  # a picture's name and the run's clock
PICTURES, VIDEOS = (".png",), (".gif", ".mp4")
UNITS = {"env_steps": "steps", "epochs": "epochs", "updates": "updates"}


@dataclass
class _Known:
    """What is known of a run without its whole records."""

    stamp: tuple[Any, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    read: int = 0  # bytes of the records
    started: float = 0.0  # seconds since the epoch
    train: dict[str, Any] = field(default_factory=dict)  # the last record of the kind
    evaluation: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)  # unless the run went on after it
    status: str = ""
    row: dict[str, Any] = field(default_factory=dict)  # of the table


class Runs:
    """All runs below a folder; `refresh` reads what is new.

    Args:
        root: a folder with runs anywhere below it, or that of one run.

    Attributes:
        named: the folder as it was given.
        base: what the runs' ids are relative to.
        rows: of the table, the latest run first.
        experiments: ids of runs that differ only in their seed, by name.
        refused: why a folder that looks like a run is none, by its path.
        version: another string once any of these has changed.
    """

    def __init__(self, root: Path) -> None:
        self.named, self.root = str(root), root.absolute()
        self.base = self.root.parent if (self.root / rundir.CONFIG).is_file() else self.root
        self.rows: list[dict[str, Any]] = []
        self.experiments: dict[str, list[str]] = {}
        self.refused: dict[str, str] = {}
        self.maps = Maps(self.base)
        self._session = secrets.token_hex(4)  # a page may outlive the server
        self._count = 0
        self._known: dict[str, _Known] = {}
        self._histories: OrderedDict[str, History] = OrderedDict()
        self._lock = threading.RLock()
        self._looked = -math.inf

    @property
    def version(self) -> str:
        """Of what the tables show."""
        return f"{self._session}-{self._count}"

    def refresh(self) -> None:
        """Look for new runs and new records, unless that was done a moment ago."""
        with self._lock:
            if time.monotonic() - self._looked < EVERY_S:
                return
            known: dict[str, _Known] = {}
            refused: dict[str, str] = {}
            changed = regroup = False
            for folder in history.find(self.root):
                id_ = folder.relative_to(self.base).as_posix()
                run = self._known.get(id_) or _Known()
                config = run.config
                try:
                    if _update(run, folder):
                        run.row, changed = _row(id_, run), True
                except RlgenError as error:
                    refused[id_] = " ".join(str(error).split())
                    continue
                except Exception as error:  # whatever someone has written into these files
                    refused[id_] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    continue
                regroup |= run.config is not config
                known[id_] = run
            regroup |= known.keys() != self._known.keys()
            if changed or regroup or refused != self.refused:
                self._known, self.refused = known, refused
                if regroup:
                    self._group()
                self._tabulate()
                self._count += 1
            self._looked = time.monotonic()

    def history(self, id_: str) -> History | None:
        """The whole records of a run, read on from where they were read before.

        None where there is no such run, or no longer.
        """
        with self._lock:
            run = self._known.get(id_)
            if run is None:
                return None
            found = self._histories.pop(id_, None) or History(self.base / id_, run.config)
            found.config = run.config
            found.refresh()
            self._histories[id_] = found
            while len(self._histories) > KEPT:
                self._histories.popitem(last=False)
            return found

    def chosen(self, runs: Iterable[str], experiments: Iterable[str]) -> dict[str, list[str]]:
        """The ids of chosen runs and of all runs of chosen experiments, by experiment."""
        with self._lock:
            wanted = set(runs).union(*(self.experiments.get(name, ()) for name in experiments))
            groups = {
                name: [id_ for id_ in members if id_ in wanted]
                for name, members in self.experiments.items()
            }
            return {name: members for name, members in groups.items() if members}

    def seeds(self, ids: Iterable[str]) -> int:
        """How many seeds some runs have."""
        with self._lock:
            return len({self._known[id_].config["seed"] for id_ in ids if id_ in self._known})

    def stamp(self, ids: Iterable[str]) -> str:
        """Another string once anything of these runs has changed."""
        with self._lock:
            return f"{hash(tuple(self._known[id_].stamp for id_ in ids if id_ in self._known)):x}"

    def summary(self, id_: str) -> dict[str, Any]:
        """The summary of a run that has ended, else empty."""
        run = self._known.get(id_)
        return {} if run is None else run.summary

    def folder(self, id_: str) -> Path | None:
        """The folder of a run; None where there is no such run."""
        return self.base / id_ if id_ in self._known else None

    def latest(self) -> list[str]:
        """The runs of the experiment that was begun last."""
        if not self.rows:
            return []
        return self.experiments[self.rows[0]["experiment"]]

    def summaries(self) -> list[dict[str, Any]]:
        """The rows of the table of experiments, in the order of their latest runs."""
        with self._lock:
            rows = {row["id"]: row for row in self.rows}
            listed = [
                _summarise(name, [rows[id_] for id_ in ids])
                for name, ids in self.experiments.items()
            ]
        return sorted(listed, key=lambda row: row["started"], reverse=True)

    def _group(self) -> None:
        histories = {id_: History(self.base / id_, run.config) for id_, run in self._known.items()}
        ids = {history.folder: id_ for id_, history in histories.items()}
        groups = history.experiments(histories.values())
        self.experiments = {name: [ids[h.folder] for h in runs] for name, runs in groups.items()}

    def _tabulate(self) -> None:
        rows = [
            {"experiment": name, **self._known[id_].row}
            for name, members in self.experiments.items()
            for id_ in members
        ]
        self.rows = sorted(rows, key=lambda row: row["started"], reverse=True)


class Maps:
    """Pictures of what tabular agents have learned, drawn when they are asked for.

    Args:
        base: what the ids of runs are relative to.

    Attributes:
        pictures: the checkpoint and its PNG, by the run's id.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.pictures: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()

    def draw(self, run: History) -> str:
        """Draw the latest checkpoint of a run, unless that was done, and name it.

        Raises:
            RlgenError: it has none, or no table of values.
        """
        id_ = run.folder.relative_to(self.base).as_posix()
        with self._lock:
            kept = checkpoint.candidates(run.folder / rundir.CHECKPOINTS)
            version = max((path.name for path in kept), default="")
            if version and self.pictures.get(id_, ("",))[0] == version:
                return version
            from rlgen import api, value_maps  # torch, which only this needs

            figure = value_maps.draw(api.load(str(run.folder)))
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=110)
            self.pictures[id_] = (version, file.getvalue())
            return version


# --- one run -------------------------------------------------------------------------------------


def _update(run: _Known, folder: Path) -> bool:
    """Read what is new of a run; whether there was anything."""
    paths = [folder / name for name in (rundir.CONFIG, METRICS, rundir.SUMMARY)]
    stats = [path.stat() if path.is_file() else None for path in paths]
    marks = [(s.st_size, s.st_mtime_ns) if s else None for s in stats]
    media = [
        (folder / name).stat().st_mtime_ns if (folder / name).is_dir() else 0
        for name in (rundir.PICTURES, rundir.VIDEOS)
    ]
    running = history.is_running(folder)
    stamp = (*marks, *media, running)
    if stamp == run.stamp:
        return False
    if not run.stamp or stamp[0] != run.stamp[0]:
        run.config = rundir.read_plain(folder)
    size = stats[1].st_size if stats[1] else 0
    if size < run.read:  # replaced
        run.read, run.started, run.train, run.evaluation, run.summary = 0, 0.0, {}, {}, {}
    if size > run.read:
        _read_end(run, paths[1], size)
    told = max(run.train.get("time", 0.0), run.evaluation.get("time", 0.0))
    if not run.summary and stats[2] is not None and stats[2].st_mtime >= told:
        run.summary = rundir.read_summary(folder)  # its record was cut short
    if not run.started:
        run.started = _began(folder)
    run.status = history.status_of(running, run.summary)
    run.stamp = stamp
    return True


def _read_end(run: _Known, path: Path, size: int) -> None:
    """Note the last records of each kind, of as little of the file as will do."""
    begin = run.read
    length = TAIL
    with path.open("rb") as file:
        while True:
            start = max(begin, size - length)
            file.seek(start)
            content = file.read(size - start)
            whole = content.rfind(b"\n") + 1
            lines = content[:whole].splitlines()
            if start > begin and lines:
                lines = lines[1:]  # which may have been cut
            records = [record for line in lines if (record := history.parse(line))]
            kinds = {record["kind"] for record in records}
            enough = bool(kinds & {"evaluation", "summary"}) and bool(kinds & {"train", "summary"})
            if enough or start == begin or length >= LARGEST_TAIL:
                break
            length *= 4
    for record in records:
        if record["kind"] == "summary":
            run.summary = record
        elif record["kind"] in history.PROGRESS:
            setattr(run, record["kind"], record)
            run.summary = {}  # it went on
    run.read = start + whole


def _began(folder: Path) -> float:
    """When the training began, in seconds since the epoch."""
    path = folder / METRICS
    if path.is_file():
        with path.open("rb") as file:
            for line in file.read(TAIL).splitlines():
                record = history.parse(line) or {}
                if "time" in record and "seconds" in record:
                    return float(record["time"]) - float(record["seconds"])
    versions = folder / rundir.VERSIONS
    return (versions if versions.is_file() else folder / rundir.CONFIG).stat().st_mtime


def _row(id_: str, run: _Known) -> dict[str, Any]:
    """A run's line of the table, but for its experiment."""
    config = run.config
    last = run.summary or run.train or run.evaluation
    unit = history.clock_of(config, run.train)
    steps = last.get(unit, 0)
    speed = _speed(last, unit)
    evaluation = run.summary.get("evaluation") or run.evaluation
    result, metric = evaluation.get("mean"), evaluation.get("metric", "")
    if result is None:
        for name in ("episode_return", "elbo"):
            if name in run.train:
                result, metric = run.train[name], f"training {name.replace('_', ' ')}"
    done = _progress(config, last) if run.status == history.RUNNING else None
    return {
        "id": id_,
        "run": id_.rpartition("/")[2],
        "status": run.status,
        "status_text": run.status if done is None else f"{run.status} {done:.0%}",
        "algorithm": config["algorithm"],
        "task": task(config),
        "seed": config.get("seed"),
        "unit": UNITS[unit],
        "steps": steps,
        "steps_text": f"{number(round(steps, 2))} {UNITS[unit][: -1 if steps == 1 else None]}",
        "result": result,
        "result_text": "" if result is None else score(result),
        "metric": metric,
        "speed": speed,
        "speed_text": "" if speed is None else f"{number(_short(speed))} {UNITS[unit]}/s",
        "started": run.started,
        "started_text": when(run.started),
    }


def _speed(last: Mapping[str, Any], unit: str) -> float | None:
    """Over all of the run's time: its latest window may hold an evaluation and nothing else."""
    return float(last.get(unit, 0) / last["seconds"]) if last.get("seconds") else None


def _progress(config: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    """The share of the nearest budget that is used up."""
    budgets = {k: v for k, v in (config.get("stop") or {}).items() if k in history.CLOCKS and v}
    return min(max((last.get(k, 0) / v for k, v in budgets.items()), default=0.0), 1.0) or None


def _summarise(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs of one experiment on one line."""
    first = max(rows, key=lambda row: row["started"])
    late = sorted(rows, key=lambda row: (row["status"] == history.ENDED, row["started"]))
    seeds = {row["seed"]: row["result"] for row in late}.values()  # as `history.one_per_seed` has
    results = np.array([result for result in seeds if result is not None], np.float64)
    speeds = [row["speed"] for row in rows if row["speed"] is not None]
    result, shown = None, ""
    if len(results):
        mean, low, high = (float(value) for value in history.band(results))
        result, shown = mean, score(mean)
        if len(results) > 1:
            digits = len(shown.rpartition(".")[2])
            shown += f" ± {(high - low) / 2:,.{digits}f}"
    states = [row["status"] for row in rows]
    counted = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    steps = float(np.mean([row["steps"] for row in rows]))
    speed = float(np.mean(speeds)) if speeds else None
    return {
        "id": name,
        "experiment": name,
        "algorithm": first["algorithm"],
        "task": first["task"],
        "runs": len(rows),
        "status": states[0] if len(set(states)) == 1 else "",
        "status_text": states[0] if len(set(states)) == 1 else ", ".join(counted),
        "result": result,
        "result_text": shown,
        "metric": first["metric"],
        "steps": steps,
        "steps_text": f"{number(round(steps, 2))} {first['unit']}",
        "speed": speed,
        "speed_text": "" if speed is None else f"{number(_short(speed))} {first['unit']}/s",
        "started": first["started"],
        "started_text": when(first["started"]),
    }


def task(config: Mapping[str, Any]) -> str:
    """What a run learns: the id of its environment, or the name of its data."""
    for section, key in (("env", "id"), ("data", "name")):
        if config.get(section):
            return str(config[section].get(key))
    return ""


def score(value: float) -> str:
    """A result to be compared down a column: two decimals, fewer where it is large."""
    if not math.isfinite(value):
        return str(value)
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """A number to be read at a glance: four significant digits, thousands apart."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def when(seconds: float) -> str:
    """A time as people write it, in the time zone of this machine."""
    moment, now = datetime.fromtimestamp(seconds), datetime.now()
    if moment.date() == now.date():
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%d %b %H:%M" if moment.year == now.year else "%Y-%m-%d")


def _short(value: float) -> float:
    """Of a speed, three digits are enough."""
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


# --- files ----------------------------------------------------------------------------------------


def frames(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The pictures of a run over its training, by their names.

    Returns:
        For each name what the picture is of (the run's clock, or ``""`` for the last) and the
        path below the run's folder.
    """
    found: dict[str, list[tuple[float, str, str]]] = {}
    for path in sorted((folder / rundir.PICTURES).glob("*")):
        if path.suffix not in PICTURES:
            continue
        match = SEQUENCE.match(path.stem)
        name = match[1] if match else path.stem
        at = int(match[2]) if match else math.inf
        said = f"{at:,}" if match else ""
        found.setdefault(name, []).append((at, said, _below(path, folder)))
    return {name: [(said, file) for _, said, file in sorted(all_)] for name, all_ in found.items()}


def videos(folder: Path) -> list[tuple[str, str]]:
    """The videos of a run: when, or what, each is of, and its path below the run's folder."""
    found = sorted(p for p in (folder / rundir.VIDEOS).glob("*") if p.suffix in VIDEOS)
    return [
        (f"at {int(path.stem):,}" if path.stem.isdecimal() else path.stem, _below(path, folder))
        for path in found
    ]


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def file_of(runs: Runs, id_: str, file: str) -> Path | None:
    """A picture or a video of a run; None for anything else, wherever a path may lead."""
    folder = runs.folder(id_)
    if folder is None:
        return None
    offered = [path for listed in frames(folder).values() for _, path in listed]
    offered += [path for _, path in videos(folder)]
    if file not in offered:
        return None
    path = (folder / file).resolve()
    return path if path.is_relative_to(runs.base.resolve()) and path.is_file() else None
