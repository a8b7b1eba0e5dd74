"""Sweeps: many trials of one experiment, which Ray Tune runs, and of which a folder keeps account.

``<run.dir>/<experiment>/sweep-<time>/`` holds

- ``sweep.yaml``: the experiment and what is searched;
- ``trials/NNNN/``: a trial, which is a run like any other;
- ``journal.jsonl``: one line for every trial that began or ended; of a population also for every
  trial that has come to the end of a generation, and for what was decided then;
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
from rlgen.config import AUTO, Experiment, resolve_experiment, set_keys
from rlgen.errors import CheckpointError, ConfigError, RlgenError
from rlgen.scheduler import Scheduler, read_run_part
from rlgen.search import Point, Search
from rlgen.tracking import METRICS, read_metrics

SWEEP, JOURNAL, TRIALS = "sweep.yaml", "journal.jsonl", "trials"
RESULTS, TABLE, BEST = "results.json", "results.csv", "best.yaml"
FAILURE = "failure.json"
Report = Callable[[float, float], None]


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

    def note(self, **what: Any) -> None:
        """Add a line to the journal."""
        path = self.folder / JOURNAL
        before = path.read_bytes() if path.is_file() else b""
        cut = before != b"" and not before.endswith(b"\n")  # by a kill
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if cut else "") + json.dumps(what) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The journal."""
        found: list[dict[str, Any]] = []
        path = self.folder / JOURNAL
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # cut short by a kill
        return found

    def trials(self) -> list[Trial]:
        """Every trial that has a point, with what it has come to."""
        points: dict[int, Point] = {}
        if self.search.method != "bayesian":
            points = dict(enumerate(self.search.points(self.experiment.seed)))
        told: dict[int, dict[str, Any]] = {}
        for line in self.lines():
            if "point" in line:
                points[line["trial"]] = line["point"]
            elif "points" in line:
                points |= {int(number): point for number, point in line["points"].items()}
            elif "end" in line:
                told[line["trial"]] = line
        return [self._trial(n, points[n], told.get(n)) for n in sorted(points)]

    def _trial(self, number: int, point: Point, told: dict[str, Any] | None) -> Trial:
        folder = trial_folder(self.folder, number)
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

    # --- a population -----------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The generation of a population, from 0: so often it was decided who goes on from whom."""
        return sum("generation" in line for line in self.lines())

    @property
    def horizon(self) -> int:
        """Ticks of the run's clock at which the generation ends."""
        return (self.generation + 1) * self.search.interval * self.experiment.evaluation.every

    def to_run(self, say: Callable[[str], None]) -> list[Trial]:
        """The trials of a population that have not come to the end of the generation.

        Where all have, the next one begins: the worst of them take the checkpoints of the best, and
        other values. Killed in the middle of that, it is done again, with the same outcome.
        """
        alive = [trial for trial in self.trials() if not trial.ended]
        now = self.generation
        done = {line["trial"] for line in self.lines() if line.get("reached") == now}
        if not alive or any(trial.number not in done for trial in alive):
            return [trial for trial in alive if trial.number not in done]
        standing = [(t.number, t.point, -math.inf if t.mean is None else t.mean) for t in alive]
        changed = search.evolve(self.search, self.experiment.seed, now + 1, standing)
        for number, (donor, point) in changed.items():
            take_over(trial_folder(self.folder, number), trial_folder(self.folder, donor))
            values = ", ".join(
                f"{key.rpartition('.')[2]} {short(value)}" for key, value in point.items()
            )
            say(f"generation {now + 1}: trial {number} goes on from trial {donor} with {values}")
        self.note(
            generation=now + 1,
            donors={number: donor for number, (donor, _) in changed.items()},
            points={number: point for number, (_, point) in changed.items()},
        )
        return [trial for trial in self.trials() if not trial.ended]

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
            population = self.search.method == "population"
            todo = [trial for trial in trials if not trial.ended]
            if population:
                todo = self.to_run(say)
            fresh: list[int] = []
            if self.search.method == "bayesian":
                fresh = list(range(len(trials), self.search.trials))
            if todo or fresh:
                total = len(trials) + len(fresh)
                clock, experiment = self.experiment.clock, self.experiment

                def more() -> list[tuple[int, Point]]:
                    return [(t.number, t.point) for t in self.to_run(say)] if population else []

                def began(number: int, point: Point) -> None:
                    self.note(trial=number, point=point)

                def ended(number: int, crash: str | None) -> None:
                    if crash is not None:
                        reason = f"its process failed: {crash}"
                        self.note(trial=number, end="failed", reason=reason)
                    elif not self._trial(number, {}, None).ended:
                        if population:
                            self.note(trial=number, reached=self.generation)
                            return
                        self.note(trial=number, end="stopped", reason=self.search.method)
                    trial = next(t for t in self.trials() if t.number == number)
                    say(f"trial {number} of {total}: {outcome(trial, clock)}")

                tune.run(
                    "rlgen.sweeps:run_trial",
                    self.folder.absolute(),
                    self.search,
                    experiment.seed,
                    [(trial.number, trial.point) for trial in todo],
                    fresh,
                    more,
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
    if experiment.scheduler.workers == AUTO:
        raise ConfigError(
            "scheduler.workers: auto says nothing in a sweep, whose trials each run inside one "
            "process; give a number, such as scheduler.workers=1"
        )
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
        rundir.write_whole(folder / SWEEP, yaml.safe_dump(content, sort_keys=False))
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


def short(value: Any) -> str:
    """A value of a point as it is shown."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_trial(folder: Path, number: int, point: Point, report: Report) -> None:
    """Run one trial, from wherever it was; called in a process of its own.

    To its end, or, of a population, to the end of the generation.

    Args:
        folder: the sweep's.
        number: of the trial.
        point: its values, which may have changed since it was last at work.
        report: told of every evaluation, the earlier ones of this trial included.
    """
    sweep = open_sweep(str(folder), _nothing)
    horizon = sweep.horizon if sweep.search.method == "population" else math.inf
    run_dir, clock = trial_folder(folder, number), sweep.experiment.clock
    changes = {
        "run.dir": str(folder / TRIALS),
        "scheduler.backend": "inline",
        "scheduler.address": "local",
        "scheduler.learners": 1,
    }
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        experiment = resolve_experiment(set_keys(sweep.experiment.dump(), {**changes, **point}))
        resume = _where_it_was(run_dir, experiment)
        if resume is None:
            shutil.rmtree(run_dir)
            run_dir.mkdir()
            rundir.prepare(run_dir, experiment)
        else:
            cycles = read_run_part(resume, experiment)[0]["counters"]["cycles"]
            for ticks, mean in evaluations_of(run_dir, clock, cycles):
                if ticks >= horizon:
                    return  # killed between its checkpoint and the journal
                report(ticks, mean)

        def evaluated() -> None:
            assert scheduler.evaluation is not None
            report(scheduler.ticks(), scheduler.evaluation["mean"])
            if scheduler.ticks() >= horizon:
                scheduler.interrupt()

        scheduler = Scheduler(experiment, warn=_nothing, evaluated=evaluated)
        summary = scheduler.run(run_dir, resume)
    except RlgenError as error:
        failure = json.dumps({"error": " ".join(str(error).split())})
        rundir.write_whole(run_dir / FAILURE, failure)
        return
    report(summary[clock], summary["evaluation"]["mean"])


def _where_it_was(run_dir: Path, experiment: Experiment) -> Path | None:
    """The checkpoint that a trial goes on from; None: it begins.

    One at the very end of the run is of no use: its process was killed before it could say so. That
    end is made again from the checkpoint before.
    """
    stop = experiment.stop
    budgets = stop.model_dump(exclude_none=True, exclude={"target", "target_evaluations"})
    for path in checkpoint.candidates(run_dir / rundir.CHECKPOINTS):
        if checkpoint.damage(path) is not None:
            continue
        plain = read_run_part(path, experiment)[0]
        spent = any(plain["counters"][name] >= most for name, most in budgets.items())
        scores = plain["scores"][-stop.target_evaluations :]
        enough = len(scores) == stop.target_evaluations
        if not spent and not (stop.target is not None and enough and min(scores) >= stop.target):
            return path
    return None


def take_over(run_dir: Path, donor: Path) -> None:
    """Put the latest checkpoint of another trial in the place of a trial's own ones."""
    given = checkpoint.latest(donor / rundir.CHECKPOINTS, _nothing)
    own, aside = run_dir / rundir.CHECKPOINTS, run_dir / ".given"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(given, aside / given.name)
    shutil.rmtree(own, ignore_errors=True)
    aside.rename(own)


def _nothing(message: str) -> None:
    """Say nothing."""
