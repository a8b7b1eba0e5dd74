"""What runs have left behind: their records as curves, over seeds, without loading any weights.

Dashboards, plots and reports read runs through here. A run may be in progress: reading it again
costs only what was written since.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special  # scipy.stats takes seconds to import

from rlgen import rundir, storage
from rlgen.counters import CLOCKS as CLOCKS
from rlgen.errors import ConfigError, did_you_mean
from rlgen.sinks import COUNTERS
from rlgen.tracking import METRICS

RUNNING, ENDED, INTERRUPTED, BROKEN = "running", "ended", "interrupted", "broken off"
#: What may differ between two runs of one experiment.
APART = ("seed", "run", "tracking", "checkpoint")
POINTS = 200  # of the grid on which curves are joined
RUNS = Path("runs")  # where runs are by default
NAMED = 3  # settings that set experiments of one name apart, in their names


@dataclass
class History:
    """One run.

    Attributes:
        folder: its directory.
        config: as stored, plain.
        records: of `METRICS`, oldest first.
        skipped: lines that are damaged, and were left out.
    """

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    skipped: int = 0
    _read: int = 0  # bytes

    def refresh(self) -> bool:
        """Read what was written since; whether there was anything."""
        path = self.folder / METRICS
        if not path.is_file():
            return False
        size = path.stat().st_size
        if size < self._read:  # replaced
            self.records, self.skipped, self._read = [], 0, 0
        if size == self._read:
            return False
        with path.open("rb") as file:
            file.seek(self._read)
            content = file.read(size - self._read)
        whole = content.rfind(b"\n") + 1  # a last line without its end is being written
        for line in content[:whole].splitlines():
            try:
                record = json.loads(line)
                record["kind"]
            except (ValueError, TypeError, KeyError):
                self.skipped += bool(line.strip())
                continue
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
        went_on = bool(self.of("summary")) and self.records[-1]["kind"] != "summary"
        summary = {} if went_on else self.summary
        return status_of(is_running(self.folder), summary)

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
        # A run that went on from a checkpoint did some of its way again: the later time counts.
        later = np.minimum.accumulate(values[::-1, 0])[::-1]
        values = values[values[:, 0] <= later]
        return values[:, 0], values[:, 1]

    @functools.cached_property
    def clock(self) -> str:
        """What the run counts: ``env_steps``, ``epochs`` or ``updates``."""
        for record in self.of("train"):  # also of runs whose configuration rlgen no longer reads
            for name in ("env_steps", "epochs", "updates"):
                if f"{name}_per_s" in record:
                    return name
        clock: str = rundir.read_experiment(self.folder).clock
        return clock


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


def read_all(places: Iterable[str | Path]) -> list[History]:
    """The histories of the runs that `find_all` finds."""
    return [read(folder) for folder in find_all(places)]


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
    for history in histories:
        settings = flat(history.config).items()
        plain = {key: value for key, value in settings if not _is_of(key, apart)}
        groups.setdefault(json.dumps(plain, sort_keys=True, default=str), []).append(history)
    named: dict[str, list[History]] = {}
    for runs in groups.values():
        alike = [g for g in groups.values() if g[0].config["name"] == runs[0].config["name"]]
        name = unique = _name(runs[0].config, [other[0].config for other in alike], apart)
        count = 1
        while unique in named:
            count += 1
            unique = f"{name} {count}"
        named[unique] = runs
    return named


def _is_of(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of the names, or below one of them."""
    return key in names or any(key.startswith(f"{name}.") for name in names)


def _name(
    config: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], left_out: Sequence[str]
) -> str:
    own, others = flat(config), [flat(other) for other in alike]
    apart = [key for key in differing(others) if not _is_of(key, left_out)]
    # A key that only some have is another rlgen's, which says little.
    common = [key for key in apart if all(key in other for other in others)] or apart
    told = [f"{key.rpartition('.')[2]}={own[key]}" for key in common if key in own]
    said = " ".join(told[:NAMED] + ["..."] * (len(told) > NAMED))
    return f"{config['name']} ({said})" if said else str(config["name"])


def join(
    curves: Sequence[tuple[np.ndarray, np.ndarray]], points: int = POINTS
) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds on one grid, over what the longest covers.

    A run that has ended keeps its last value: it may have ended because it reached its target.

    Returns:
        The grid ``(points,)`` and the curves ``(seeds, points)``.
    """
    filled = [(x, y) for x, y in curves if len(x)]
    if not filled:
        return np.empty(0), np.empty((0, 0))
    grid = np.linspace(max(x[0] for x, _ in filled), max(x[-1] for x, _ in filled), points)
    return grid, np.stack([np.interp(grid, x, y) for x, y in filled])


def band(values: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean over the first axis (seeds) with its interval, of Student's t distribution.

    Returns:
        Mean, low and high; all the same for one seed, of which no interval is known.
    """
    mean = values.mean(axis=0)
    if len(values) < 2:
        return mean, mean, mean
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    half = scipy.special.stdtrit(len(values) - 1, (1 + level) / 2) * error
    return mean, mean - half, mean + half
