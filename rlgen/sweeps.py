"""Sweeps: many trials of one experiment, which Ray Tune runs, and of which a folder keeps account.

``<run.dir>/<experiment>/sweep-<time>/`` holds

- ``sweep.yaml``: the experiment and what is searched;
- ``trials/NNNN/``: a trial, which is a run like any other, with its ``point.json``;
- ``journal.jsonl``: one line for every trial that began or ended;
- ``results.json``, ``results.csv`` and ``best.yaml``, a configuration for ``rlgen train``.

From these a sweep goes on: trials that have ended are not run again, and others go on from their
latest checkpoints.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rlgen import checkpoint, rundir, search, storage
from rlgen.config import Experiment, resolve_experiment, set_keys
from rlgen.errors import CheckpointError, ConfigError, RlgenError
from rlgen.scheduler import Scheduler, read_run_part
from rlgen.search import Point, Search
from rlgen.tracking import METRICS, read_metrics

SWEEP, JOURNAL, TRIALS, POINT = "sweep.yaml", "journal.jsonl", "trials", "point.json"
RESULTS, TABLE, BEST = "results.json", "results.csv", "best.yaml"
FAILURE = "failure.json"
Report = Callable[[float, float, Path | None], None]


@dataclass
class Trial:
    """One trial and what became of it.

    Attributes:
        number: from 0.
        point: the values that are its own; of a population the latest ones.
        status: ``waiting``, ``running`` (or cut off), ``finished``, ``stopped`` early, ``failed``.
        reason: why it ended.
        mean: of its latest evaluation.
        ticks: of the run's clock at that evaluation.
        evaluations: how many there were.
    """

    number: int
    point: Point
    status: str = "waiting"
    reason: str = ""
    mean: float | None = None
    ticks: float = 0.0
    evaluations: int = 0
    run_dir: str = field(default="")

    @property
    def ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.status in ("finished", "stopped", "failed")


@dataclass
class Sweep:
    """A sweep's folder and what it is of."""

    folder: Path
    experiment: Experiment
    search: Search

    # --- its account ------------------------------------------------------------------------------

    def note(self, number: int, **what: Any) -> None:
        """Add a line to the journal."""
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": number, **what}) + "\n")

    def trials(self) -> list[Trial]:
        """Every trial that has a point, with what it has come to."""
        lines: list[dict[str, Any]] = []
        path = self.folder / JOURNAL
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue  # cut short by a kill
        points: dict[int, Point] = {}
        if self.search.method != "bayesian":
            points = dict(enumerate(self.search.points(self.experiment.seed)))
        points |= {line["trial"]: line["point"] for line in lines if "point" in line}
        told = {line["trial"]: line for line in lines if "end" in line}
        return [self._trial(n, points[n], told.get(n)) for n in sorted(points)]

    def _trial(self, number: int, point: Point, told: dict[str, Any] | None) -> Trial:
        folder = trial_folder(self.folder, number)
        own = folder / POINT
        if own.is_file():  # a population changes it
            point = json.loads(own.read_text())
        trial = Trial(number, point, run_dir=str(folder))
        evaluations = evaluations_of(folder, self.experiment.clock)
        if evaluations:
            trial.ticks, trial.mean = evaluations[-1]
            trial.evaluations = len(evaluations)
        failure = folder / FAILURE
        if (summary := rundir.read_summary(folder)) and summary["stop_reason"] != "interrupted":
            trial.status, trial.reason = "finished", summary["stop_reason"]
        elif failure.is_file():
            trial.status, trial.reason = "failed", json.loads(failure.read_text())["error"]
        elif told is not None:
            trial.status, trial.reason = told["end"], told["reason"]
        elif folder.is_dir():
            trial.status = "running"
        return trial

    # --- running ----------------------------------------------------------------------------------

    def run(self, say: Callable[[str], None]) -> list[Trial]:
        """Run what is left of the sweep; every trial, in the end.

        Args:
            say: told of every trial that ends.

        Raises:
            RlgenError: the sweep cannot be run here.
            KeyboardInterrupt: as it comes; the same folder goes on.
        """
        from rlgen.backends import tune

        uploads = storage.mirror(self.folder, say)
        try:
            trials = self.trials()
            todo = [trial for trial in trials if not trial.ended]
            fresh: list[int] = []
            if self.search.method == "bayesian":
                fresh = list(range(len(trials), self.search.trials))
            if todo or fresh:
                total = len(trials) + len(fresh)
                clock, experiment = self.experiment.clock, self.experiment

                def began(number: int, point: Point) -> None:
                    self.note(number, point=point)

                def ended(number: int, crash: str | None) -> None:
                    if crash is not None:
                        self.note(number, end="failed", reason=f"its process failed: {crash}")
                    elif not self._trial(number, {}, None).ended:
                        self.note(number, end="stopped", reason=self.search.method)
                    trial = next(t for t in self.trials() if t.number == number)
                    say(f"trial {number} of {total}: {outcome(trial, clock)}")

                tune.run(
                    "rlgen.sweeps:run_trial",
                    self.folder.absolute(),
                    self.search,
                    experiment.seed,
                    [(trial.number, trial.point) for trial in todo],
                    fresh,
                    [
                        (trial.point, evaluations_of(Path(trial.run_dir), clock))
                        for trial in trials
                        if trial.ended
                    ],
                    experiment.evaluation.every,
                    getattr(experiment.stop, clock, None) or 1,
                    experiment.scheduler.learner_gpus,
                    experiment.scheduler.address,
                    began,
                    ended,
                )
            trials = self.trials()
            self.write_results(trials)
            return trials
        finally:
            if uploads is not None:
                uploads.close()

    def write_results(self, trials: list[Trial]) -> None:
        """Write the results as a table and as JSON, and the best configuration."""
        order = ranked(trials)
        best = order[0] if order and order[0].mean is not None else None
        if best is not None:
            text = yaml.safe_dump(self.best_config(best), sort_keys=False)
            (self.folder / BEST).write_text(
                f"# The best of {len(trials)} trials of {self.experiment.name} "
                f"({self.search.method}): mean {best.mean:g}, trial {best.number}.\n{text}"
            )
        plain = {
            "experiment": self.experiment.name,
            "method": self.search.method,
            "clock": self.experiment.clock,
            "best": None if best is None else best.number,
            "trials": [asdict(trial) for trial in order],
        }
        (self.folder / RESULTS).write_text(json.dumps(plain, indent=1))
        columns = ["trial", "status", "reason", "mean", self.experiment.clock, "evaluations"]
        with (self.folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*columns, *self.search.space])
            for trial in order:
                row = [trial.number, trial.status, trial.reason, trial.mean, trial.ticks]
                values = [trial.point[key] for key in self.search.space]
                writer.writerow([*row, trial.evaluations, *values])

    def best_config(self, trial: Trial) -> dict[str, Any]:
        """The configuration of a trial, as ``rlgen train`` takes it."""
        return resolve_experiment(set_keys(self.experiment.dump(), trial.point)).dump()


def create(experiment: Experiment, plain_search: Any) -> Sweep:
    """Make the folder of a new sweep.

    Raises:
        ConfigError: of the search, or the folder cannot be written.
    """
    wanted = search.parse(plain_search)
    search.check(wanted, experiment)
    base = experiment.run.dir
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    parent = storage.local_root(base) / experiment.name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            folder = parent / f"sweep-{stamp}{f'-{attempt}' if attempt else ''}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                continue
        content = {"search": plain_search, "experiment": experiment.dump()}
        (folder / f".{SWEEP}").write_text(yaml.safe_dump(content, sort_keys=False))
        (folder / f".{SWEEP}").rename(folder / SWEEP)
        if storage.is_uri(base):
            storage.check(base)
            storage.belongs(folder, storage.join(base, experiment.name, folder.name))
    except OSError as error:
        raise ConfigError(f"run.dir: cannot write to {str(parent)!r}: {error.strerror}") from error
    return Sweep(folder, experiment, wanted)


def open_sweep(where: str, warn: Callable[[str], None]) -> Sweep:
    """A sweep that is already there, by its folder or its URI.

    Raises:
        CheckpointError: there is none.
    """
    folder = storage.localized(where, warn, SWEEP)
    path = folder / SWEEP
    if not path.is_file():
        raise CheckpointError(f"{where!r} is not a sweep: it has no {SWEEP}")
    content = yaml.safe_load(path.read_text())
    return Sweep(folder, resolve_experiment(content["experiment"]), search.parse(content["search"]))


def trial_folder(sweep: Path, number: int) -> Path:
    """The run directory of a trial."""
    return sweep / TRIALS / f"{number:04d}"


def evaluations_of(folder: Path, clock: str, until: int | None = None) -> list[tuple[float, float]]:
    """Ticks and means of a run's evaluations in order, up to a cycle where one is given.

    A run that went on from a checkpoint did some of them again: the later ones count.
    """
    if not (folder / METRICS).is_file():
        return []
    found: list[tuple[int, float, float]] = []
    for record in read_metrics(folder):
        if record["kind"] == "evaluation" and (until is None or record["cycles"] <= until):
            found = [entry for entry in found if entry[0] < record["cycles"]]
            found.append((record["cycles"], record[clock], record["mean"]))
    return [(ticks, mean) for _, ticks, mean in found]


def ranked(trials: list[Trial]) -> list[Trial]:
    """The trials, the best first.

    The result of one that finished is worth more than an early glimpse of one that did not; among
    equals the one that needed less time is better.
    """
    rank = {"finished": 0, "stopped": 1, "running": 1, "failed": 2, "waiting": 3}

    def key(trial: Trial) -> tuple[float, ...]:
        known = trial.mean is not None and math.isfinite(trial.mean)
        mean = trial.mean if known and trial.mean is not None else -math.inf
        return rank[trial.status], -mean, trial.ticks, trial.number

    return sorted(trials, key=key)


def outcome(trial: Trial, clock: str) -> str:
    """What became of a trial, in words."""
    reached = "no evaluation" if trial.mean is None else f"mean {trial.mean:.4g}"
    after = f"{reached} after {trial.ticks:,.0f} {clock}"
    return (
        f"{after}, {trial.status} ({trial.reason})" if trial.reason else f"{after}, {trial.status}"
    )


def run_trial(sweep: Path, number: int, point: Point, report: Report, given: Path | None) -> None:
    """Run one trial to its end, from wherever it was; called in a process of its own.

    Args:
        sweep: the sweep's folder.
        number: of the trial.
        point: its values, which may have changed since it was last at work.
        report: told of every evaluation, the earlier ones of this trial included.
        given: a checkpoint to go on from, perhaps another trial's.
    """
    content = yaml.safe_load((sweep / SWEEP).read_text())
    folder = trial_folder(sweep, number)
    base: dict[str, Any] = content["experiment"]
    population = search.parse(content["search"]).method == "population"
    changes = {
        "run.dir": str(sweep / TRIALS),
        "scheduler.backend": "inline",
        "scheduler.address": "local",
        "scheduler.learners": 1,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        experiment = resolve_experiment(set_keys(base, {**changes, **point}))
        resume = _where_it_was(folder, given)
        if resume is None:
            shutil.rmtree(folder)
            folder.mkdir()
            rundir.prepare(folder, experiment)
        (folder / POINT).write_text(json.dumps(point))
        clock = experiment.clock
        if resume is not None and not population:
            cycles = read_run_part(resume, experiment)[0]["counters"]["cycles"]
            for ticks, mean in evaluations_of(folder, clock, cycles):
                report(ticks, mean, None)

        def evaluated(path: Path | None) -> None:
            assert scheduler.evaluation is not None
            report(scheduler.ticks(), scheduler.evaluation["mean"], path)

        scheduler = Scheduler(experiment, warn=lambda message: None, evaluated=evaluated)
        summary = scheduler.run(folder, resume)
    except RlgenError as error:
        (folder / FAILURE).write_text(json.dumps({"error": " ".join(str(error).split())}))
        return
    if not population:  # whose trials go on from others; nobody goes on from an end
        report(summary[clock], summary["evaluation"]["mean"], None)


def _where_it_was(folder: Path, given: Path | None) -> Path | None:
    """The checkpoint that a trial goes on from; one that was given takes its own ones' place."""
    own = folder / rundir.CHECKPOINTS
    if given is not None:
        name = f"{read_cycles(given):010d}"
        aside = folder / ".given"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(given, aside / name)
        shutil.rmtree(own, ignore_errors=True)
        aside.rename(own)
    try:
        return checkpoint.latest(own, lambda message: None)
    except CheckpointError:
        return None


def read_cycles(path: Path) -> int:
    """The cycles of a run when a checkpoint was written."""
    cycles: int = checkpoint.read_part(path, "run")[0]["counters"]["cycles"]
    return cycles
