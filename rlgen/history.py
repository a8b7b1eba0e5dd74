"""What runs have left behind: their records as curves, over seeds, without loading any weights.

Dashboards, plots and reports read runs through here. A run may be in progress: reading it again
costs only what was written since.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special  # scipy.stats takes seconds to import

from rlgen import rundir, storage
from rlgen.counters import CLOCKS as CLOCKS
from rlgen.errors import CheckpointError, ConfigError, did_you_mean
from rlgen.sinks import COUNTERS
from rlgen.tracking import METRICS

RUNNING, ENDED, INTERRUPTED, BROKEN = "running", "ended", "interrupted", "broken off"
#: What may differ between two runs of one experiment.
APART = ("seed", "run", "tracking", "checkpoint")
COUNTED = ("env_steps", "epochs", "updates")  # the clocks that a run may have for its own
PROGRESS = ("train", "evaluation")  # kinds of records of a run that goes on
LARGEST = 2**63  # of a counter or a time that is one
POINTS = 200  # of the grid on which curves are joined
RUNS = Path("runs")  # where runs are by default
NAMED = 3  # settings that set experiments of one name apart, in their names


@dataclass(eq=False)
class History:
    """One run.

    Attributes:
        folder: its directory.
        config: as stored, plain.
        records: of `METRICS`, oldest first; not those of what a run that went on from a checkpoint
            has done again.
        skipped: lines that are damaged, and were left out.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0
    _read: int = 0  # bytes
    _cycles: int = 0  # of the last record of training

    def refresh(self) -> bool:
        """Read what was written since; whether there was anything."""
        path = self.folder / METRICS
        if not path.is_file():
            return False
        size = path.stat().st_size
        if size < self._read:  # replaced
            self.records, self.skipped, self._read, self._cycles = [], 0, 0, 0
        if size == self._read:
            return False
        with path.open("rb") as file:
            file.seek(self._read)
            content = file.read(size - self._read)
        whole = content.rfind(b"\n") + 1  # a last line without its end is being written
        for line in content[:whole].splitlines():
            record = parse(line)
            if record is None:
                self.skipped += bool(line.strip())
                continue
            if record["kind"] == "train":
                cycles = record.get("cycles", self._cycles)
                if cycles < self._cycles:  # it went on from a checkpoint
                    self.records = [r for r in self.records if not _undone(r, cycles)]
                self._cycles = cycles
            self.records.append(record)
        self._read += whole
        return whole > 0

    @property
    def name(self) -> str:
        """What tables call the run: experiment and directory."""
        return f"{self.config['name']}/{self.folder.name}"

    @property
    def summary(self) -> dict[str, Any]:
        """Of the run; empty where it has not ended."""
        return rundir.read_summary(self.folder)

    @property
    def status(self) -> str:
        """`RUNNING`, `ENDED`, `INTERRUPTED` (it can go on) or `BROKEN` off (killed, or failed)."""
        running, summary = is_running(self.folder), self.summary
        if summary and not running:  # seen from the end: records may be many
            kinds = (record["kind"] for record in reversed(self.records))
            late = next((kind for kind in kinds if kind in ("summary", *PROGRESS)), "summary")
            if late != "summary" and self.of("summary"):  # it went on
                summary = {}
        return status_of(running, summary)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of one kind: ``train``, ``evaluation``, ``event``, ``workers``."""
        return [record for record in self.records if record["kind"] == kind]

    def latest(self, figure: str) -> float | None:
        """The last value of a figure, such as ``evaluation/mean``; None where there is none."""
        kind, _, name = figure.partition("/")
        for record in reversed(self.records):
            if record["kind"] == kind and isinstance(record.get(name), (int, float)):
                return float(record[name])
        return None

    def figures(self) -> list[str]:
        """The names ``kind/figure`` of what is worth a curve, evaluations first.

        Left out are the clocks, the counters of evaluations (they are those of training again) and
        counters that have stayed 0; `curve` has them all.
        """
        found: dict[str, None] = {}
        for kind, known in (("evaluation", COUNTERS), ("train", CLOCKS)):
            for record in self.of(kind):
                for name, value in record.items():
                    number = isinstance(value, (int, float)) and not isinstance(value, bool)
                    worth = value or name not in COUNTERS
                    if number and worth and name not in ("time", *known):
                        found.setdefault(f"{kind}/{name}")
        return list(found)

    def curve(self, figure: str, x: str = "") -> tuple[np.ndarray, np.ndarray]:
        """A figure's values ``(n,)`` over a clock's ``(n,)``.

        Args:
            figure: ``kind/name``.
            x: one of `CLOCKS`; the run's own clock by default.
        """
        kind, _, name = figure.partition("/")
        x = x or self.clock
        pairs = [
            (record[x], record[name])
            for record in self.of(kind)
            if isinstance(record.get(name), (int, float)) and x in record
        ]
        values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        # Of two records at one tick (of a run that went on from there, or at its end) the later.
        later = np.minimum.accumulate(np.append(values[1:, 0], np.inf)[::-1])[::-1]
        values = values[values[:, 0] < later]
        return values[:, 0], values[:, 1]

    @property
    def clock(self) -> str:
        """What the run counts: ``env_steps``, ``epochs`` or ``updates``."""
        return clock_of(self.config, next((r for r in self.records if r["kind"] == "train"), {}))


def clock_of(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """What a run counts.

    Args:
        config: of the run.
        record: one of its training; empty where there is none yet, so that it may be another clock.
    """
    for name in COUNTED:
        if f"{name}_per_s" in record:
            return name
    if config.get("env"):
        return "env_steps"
    return "epochs" if config.get("data") else "updates"


def parse(line: bytes) -> dict[str, Any] | None:
    """A record from its line; None where it is damaged or not what rlgen writes."""
    try:
        record = json.loads(line)
        kind = record["kind"]
        figures = [record.get(name, 0) for name in ("time", *CLOCKS)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    numbers = all(isinstance(value, (int, float)) and abs(value) < LARGEST for value in figures)
    known = isinstance(kind, str) and (kind != "evaluation" or "metric" in record)
    return record if numbers and known else None


def _undone(record: Mapping[str, Any], cycles: int) -> bool:
    """Whether a record is of what a run that now is at so many cycles has done again."""
    return record["kind"] not in ("summary", "event") and record.get("cycles", 0) >= cycles


def status_of(running: bool, summary: Mapping[str, Any]) -> str:
    """The status of a run.

    Args:
        running: a process writes it now.
        summary: of its end; empty where it has none, or has gone on since.
    """
    if running:
        return RUNNING
    reason = summary.get("stop_reason")
    if reason is None:
        return BROKEN
    return INTERRUPTED if reason == "interrupted" else ENDED


def is_running(folder: Path) -> bool:
    """Whether a process writes the run's records now: it holds a lock on them."""
    try:
        descriptor = os.open(folder / METRICS, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def find(root: Path) -> list[Path]:
    """The folders of all runs below a folder, itself included, by name."""
    found = []
    for path, folders, files in os.walk(root):
        if rundir.CONFIG in files and (rundir.VERSIONS in files or METRICS in files):
            found.append(Path(path))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def read(folder: Path) -> History:
    """The history of a run.

    Raises:
        CheckpointError: the folder is no run.
    """
    history = History(folder, rundir.read_plain(folder))
    history.refresh()
    return history


def find_all(places: Iterable[str | Path]) -> list[Path]:
    """The folders of runs, each once.

    Args:
        places: runs (also URIs), folders of runs, or names of experiments in ``runs/``.

    Raises:
        ConfigError: there are no runs at one of them.
    """
    folders: dict[Path, None] = {}
    for place in places:
        if storage.is_uri(str(place)):
            path = storage.localized(place, print)
        else:
            path = Path(place) if Path(place).exists() else RUNS / place
        found = find(path)
        if not found:
            what = "it holds no run" if path.exists() else "there is no such folder or experiment"
            known = [p.name for p in RUNS.glob("*") if p.is_dir()]
            raise ConfigError(
                f"{str(place)!r}: {what}; give runs (runs/NAME/RUN), folders of runs, or "
                f"experiments in {RUNS}/{did_you_mean(str(place), known)}"
            )
        folders |= dict.fromkeys(found)
    return list(folders)


def read_all(
    places: Iterable[str | Path], warn: Callable[[str], None] = warnings.warn
) -> list[History]:
    """The histories of the runs that `find_all` finds.

    Args:
        places: as `find_all` has them.
        warn: told of runs that cannot be read, and are left out.

    Raises:
        ConfigError: there are no runs at one of the places.
        CheckpointError: none of them can be read.
    """
    found: list[History] = []
    damaged: list[CheckpointError] = []
    for folder in find_all(places):
        try:
            found.append(read(folder))
        except CheckpointError as error:
            damaged.append(error)
    if not found:
        raise damaged[0]
    for problem in damaged:
        warn(f"left out: {problem}")
    return found


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration with its keys as they are given on the command line."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all of some `flat` configurations."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]


def experiments(
    histories: Iterable[History], apart: Sequence[str] = APART
) -> dict[str, list[History]]:
    """Runs that differ in nothing but some settings, by a name of their own.

    The name is the experiment's, and where several experiments share it also what sets them apart.

    Args:
        histories: of the runs.
        apart: the settings that may differ, sections or dotted keys.
    """
    groups: dict[str, list[History]] = {}
    settings: dict[str, dict[str, dict[str, Any]]] = {}  # of each group, by the experiment's name
    for history in histories:
        plain = {k: v for k, v in flat(history.config).items() if not _is_of(k, apart)}
        key = json.dumps(plain, sort_keys=True, default=str)
        groups.setdefault(key, []).append(history)
        settings.setdefault(history.config["name"], {})[key] = plain
    names: dict[str, str] = {}
    for name, alike in settings.items():
        keys = _telling(list(alike.values()))
        names |= {key: _name(name, plain, keys) for key, plain in alike.items()}
    named: dict[str, list[History]] = {}
    counts: Counter[str] = Counter()
    for key, runs in groups.items():
        counts[names[key]] += 1
        count = counts[names[key]]
        named[names[key] if count == 1 else f"{names[key]} {count}"] = runs
    return named


def by_seed(
    named: Mapping[str, Sequence[History]], warn: Callable[[str], None]
) -> dict[str, list[History]]:
    """`one_per_seed` of every experiment; runs that are left out are told of."""
    chosen = {name: one_per_seed(runs) for name, runs in named.items()}
    for name, runs in named.items():
        if again := len(runs) - len(chosen[name]):
            warn(f"{name}: of {len(runs)} runs {again} earlier ones of the same seeds are left out")
    return chosen


def one_per_seed(runs: Iterable[History]) -> list[History]:
    """The latest run of each seed, one that has ended before one that has not, by seed.

    For a seed that was run twice is still one seed.
    """
    latest = sorted(runs, key=lambda run: (run.status == ENDED, run.folder.name))
    chosen = {run.config["seed"]: run for run in latest}
    return [chosen[seed] for seed in sorted(chosen)]


def _is_of(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of the names, or below one of them."""
    return key in names or any(key.startswith(f"{name}.") for name in names)


def _telling(alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that tell experiments of one name apart."""
    apart = differing(alike)
    # A key that only some have is another rlgen's, which says little.
    return [key for key in apart if all(key in plain for plain in alike)] or apart


def _name(name: str, plain: Mapping[str, Any], keys: Sequence[str]) -> str:
    shown = {k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in plain.items()}
    told = [f"{key.rpartition('.')[2]}={shown[key]}" for key in keys if key in plain]
    said = " ".join(told[:NAMED] + ["..."] * (len(told) > NAMED))
    return f"{name} ({said})" if said else name


def join(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], ended: Sequence[bool], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds on one grid, over what the longest covers.

    Args:
        curves: of the seeds; those without a point are left out.
        ended: whether the run of each has. One that has keeps its last value, for it may have ended
            because it reached its target; of another nothing is known from there on.
        points: of the grid.

    Returns:
        The grid ``(points,)`` and the curves ``(seeds, points)``, NaN where they are not known.
    """
    filled = [(x, y, None if end else np.nan) for (x, y), end in zip(curves, ended, strict=True)
              if len(x)]  # fmt: skip
    if not filled:
        return np.empty(0), np.empty((0, 0))
    grid = np.linspace(max(x[0] for x, *_ in filled), max(x[-1] for x, *_ in filled), points)
    return grid, np.stack([np.interp(grid, x, y, right=right) for x, y, right in filled])


def band(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over the first axis (seeds) with its interval, of Student's t distribution.

    Args:
        values: NaN where a seed has none; at least one has.
        level: of the interval.

    Returns:
        Mean, low and high; all the same for one seed, of which no interval is known.
    """
    count = np.sum(~np.isnan(values), axis=0)
    mean = np.nanmean(values, axis=0)
    several = np.maximum(count - 1, 1)
    error = np.sqrt(np.nansum(np.square(values - mean), axis=0) / several / count)
    half = scipy.special.stdtrit(several, (1 + level) / 2) * error
    return mean, mean - half, mean + half
