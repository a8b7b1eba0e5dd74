"""One run, from its first actor to its summary: the cycle, and what goes on around it.

Around the cycle stand the evaluation (which never holds training up on the ray backend), the
checkpoints, the records, and the conditions that end the run.
"""

from __future__ import annotations

import json
import math
import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlgen import checkpoint, rundir, sinks, storage
from rlgen.config import AUTO, Experiment
from rlgen.counters import CLOCKS, Counters
from rlgen.crew import Crew
from rlgen.cycle import Cycle
from rlgen.errors import (
    BadGradient,
    CheckpointError,
    ConfigError,
    Diverged,
    LearnerDied,
    NotFinite,
    RlgenError,
    StoreFull,
    WorkerDied,
)
from rlgen.gallery import Gallery
from rlgen.plan import connect, fill, make_plan
from rlgen.problem import load_problem
from rlgen.recall import Recall
from rlgen.tracking import Tracker
from rlgen.workload import Workload, bottleneck, time_share

Summary = dict[str, Any]
DISPLAY_EVERY_S = 0.1
OFTEN = 5_000  # records in as long as a run has taken so far, at most
LOAD_EVERY_S = 2.0  # least time between records of the workers, which grow with their number
TRACED_CYCLE = 20  # by then everything is warm
LEARNED = ("updates", "rows_learned")  # what learners did, as `Counters` has it


@dataclass
class Progress:
    """What a display shows, after every cycle."""

    counters: dict[str, Any]
    rate: float  # of the run's clock, per second
    fraction: float  # of the nearest stop condition
    seconds_left: float | None
    latest: dict[str, Any]  # the newest figures
    evaluation: dict[str, Any] | None
    present: int  # workers that can be asked
    time_share: dict[str, dict[str, float]]  # of each role, by what was done


@dataclass
class Window:
    """What has come in since the last record."""

    began: float
    first: Counters  # what the run had done by then
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    lags: list[int] = field(default_factory=list)
    sums: Counter[str] = field(default_factory=Counter)  # of the environments' own metrics


def no_display(progress: Progress) -> None:
    """Show nothing."""


class Scheduler:
    """Runs one experiment; `interrupt` asks it to end after the cycle in hand."""

    def __init__(
        self,
        experiment: Experiment,
        display: Callable[[Progress], None] = no_display,
        warn: Callable[[str], None] = print,
        trace: Callable[[str], None] | None = None,
        evaluated: Callable[[], None] | None = None,
    ) -> None:
        self.experiment = experiment
        self.evaluated = evaluated  # told of every evaluation but the last, after a checkpoint
        self.trace = trace  # told once of the journey of one batch
        self.display = display
        self._warn_user = warn
        self.warnings: list[str] = []
        self.run_dir = Path()
        self.record: Callable[[str, dict[str, Any]], None] = self._hold
        self._restarts_before: int | None = None  # of the run, in earlier processes
        self.backend: Any = None  # until it is connected
        self.interrupted: signal.Signals | None = None  # by what, or None
        self.evaluation: dict[str, Any] | None = None  # the latest one
        self._budgets = experiment.stop.model_dump(
            exclude_none=True, exclude={"target", "target_evaluations"}
        )
        self._scores: list[float] = []  # of the latest evaluations, as many as the target needs
        self._evaluated_version = -1
        self._pending: tuple[Any, Any, Counters] | None = None
        self._reached: Any = None  # weights that reached the target
        self._worker_s = 0.0  # seconds of the loop, times the workers that were there
        self._latest: dict[str, Any] = {}
        self._displayed = 0.0
        self._load: Workload | None = None  # from the first cycle on

    def interrupt(self, by: signal.Signals = signal.SIGINT) -> None:
        """End the run after the cycle in hand, with a checkpoint."""
        self.interrupted = by

    def run(self, run_dir: Path | None = None, resume: Path | None = None) -> Summary:
        """Run to the first stop condition and return the summary.

        Args:
            run_dir: of a run that goes on; None makes a new one, once everything has been checked.
            resume: the verified checkpoint to go on from.

        Raises:
            RlgenError: anything that one message explains. What the run wrote stays.
        """
        for name in sinks.wanted(self.experiment.tracking):
            sinks.check_installed(name, f"tracking.{name}")
        self.problem = load_problem(self.experiment)
        self.backend = connect(self.experiment, make_plan(self.experiment))
        tracker, summary, uploads = None, None, None
        try:
            if self.interrupted:  # while Ray started, which nothing may break off
                raise KeyboardInterrupt
            if self.experiment.scheduler.workers == AUTO:
                self.experiment = fill(self.experiment, self.problem)
                self.warn(f"scheduler.workers: auto: {self.experiment.scheduler.workers}")
            plan = make_plan(self.experiment)
            self.backend.reserve(plan, self.warn)
            self.crew = Crew(
                self.experiment, self.backend, {role.name: role for role in plan}, self.warn
            )
            self._start(resume)
            self.run_dir = run_dir or rundir.create(self.experiment)
            tracker = Tracker(self.run_dir, self.experiment, self.warn)
            self.record = tracker.record
            if resume is not None:
                rundir.write_config(self.run_dir, self.experiment)
                self.warnings.append(f"resumed from {resume}")
            self._gallery = Gallery(
                self.experiment, self.problem.data_shape, self.run_dir, self.record, self.warn
            )
            for message in self.warnings:
                self.record("event", {"message": message})
            uploads = storage.mirror(self.run_dir, self.warn)
            try:
                summary = self._live()
            except RlgenError:
                raise
            except Exception:
                self._check_weights()  # an actor may have stumbled over them
                raise
            return summary
        except (WorkerDied, NotFinite, StoreFull) as error:
            if not self._kept():
                raise
            run = shlex.quote(str(self.run_dir))
            again = f"go on from its last checkpoint with 'rlgen resume {run}'"
            kind = WorkerDied if isinstance(error, WorkerDied) else type(error)
            raise kind(f"{error}; {again}") from error
        finally:
            if uploads is not None:
                uploads.close()
            if tracker is not None:
                tracker.close(summary)
            self.backend.shutdown()

    def _live(self) -> Summary:
        """The loop; begun again from the last checkpoint where a learner may die."""
        while True:
            try:
                return self._loop()
            except LearnerDied as error:
                if not self.experiment.fault.restart_learner:
                    raise
                self.crew.spend(error)
                kept = None
                if self._kept():
                    kept = checkpoint.latest(self.run_dir / rundir.CHECKPOINTS, self.warn)
                self.crew.dismiss()
                self._pending = None
                self._gallery.forget()
                self.warn(f"going on from {kept or 'the start, for there is no checkpoint yet'}")
                self._start(kept)
            except BadGradient as error:
                raise self._diverged(str(error)) from error
            except (WorkerDied, NotFinite, StoreFull) as error:
                self.record("event", {"message": str(error)})
                self._write_checkpoint()  # what the learner knows is not lost
                raise

    def _check_weights(self) -> None:
        """End a run whose weights are no longer numbers, before they are kept.

        Raises:
            Diverged: as `_check_metrics`.
        """
        weights = self.crew.answer(self.cycle.weights, "the learner")
        if np.isnan(weights).any() or np.isposinf(weights).any():  # -inf: not known yet (R-max)
            raise self._diverged("a weight is not a number, or infinite")

    def _check_metrics(self, metrics: dict[str, float]) -> None:
        """End a run whose latest update was not of numbers.

        Raises:
            Diverged: names the figure and the last good checkpoint.
        """
        wrong = {name: value for name, value in metrics.items() if not math.isfinite(value)}
        if wrong:
            raise self._diverged(", ".join(f"{name} is {value}" for name, value in wrong.items()))

    def _diverged(self, what: str) -> Diverged:
        if self._kept():
            path = checkpoint.latest(self.run_dir / rundir.CHECKPOINTS, self.warn)
            run = shlex.quote(str(self.run_dir))
            kept = f"the last good checkpoint is {path}, which 'rlgen eval {run}' reads"
        else:
            kept = "no checkpoint was written before (checkpoint.every)"
        message = (
            f"training diverged after {self.cycle.counters.updates:,} updates: {what}; {kept}; "
            "start anew with a smaller learning rate or clipped gradients"
        )
        self.record("event", {"message": message})
        return Diverged(message)

    def _kept(self) -> bool:
        """Whether the run has a checkpoint."""
        folder = self.run_dir / rundir.CHECKPOINTS
        return self.run_dir != Path() and bool(checkpoint.candidates(folder))

    def warn(self, message: str) -> None:
        """Tell the user, and keep it in the run's records."""
        self._warn_user(message)
        self.record("event", {"message": message})

    def _hold(self, kind: str, values: dict[str, Any]) -> None:
        """Keep an event until there is a file for it."""
        self.warnings.append(values["message"])

    # --- the loop ---------------------------------------------------------------------------------

    def _loop(self) -> Summary:
        self._began = time.monotonic() - self.cycle.counters.seconds
        self._first = replace(self.cycle.counters)
        self._first_ticks = self.ticks()
        self._window = Window(time.monotonic(), replace(self.cycle.counters))
        self._load = self._load or Workload(self.experiment, time.monotonic())
        step = self.cycle.sync if self._sync else self.cycle.asynchronous
        while (reason := self._stop_reason()) is None:
            before, already = self.ticks(), self.cycle.counters.seconds
            step()
            self.cycle.counters.seconds = time.monotonic() - self._began
            self._worker_s += (self.cycle.counters.seconds - already) * self.crew.present_count
            self._count_restarts()
            self._evaluate(before)
            self._checkpoint_if_due(before)
            self._record_if_due()
            self._display_if_due()
        return self._finish(reason)

    def _count_restarts(self) -> None:
        assert self._restarts_before is not None
        self.cycle.counters.restarts = self._restarts_before + self.crew.restarts

    @property
    def _sync(self) -> bool:
        return self.experiment.scheduler.mode == "sync"

    def ticks(self) -> float:
        """The run's clock: environment steps, epochs or updates."""
        value: float = getattr(self.cycle.counters, self.experiment.clock)
        return value

    def _due(self, every: int, before: float) -> bool:
        return every > 0 and self.ticks() // every > before // every

    def _stop_reason(self) -> str | None:
        if self.interrupted:
            return "interrupted"
        if self._reached is not None:
            return "target"
        if self.cycle.converged:
            return "converged"
        reached = self._fractions()
        return next((name for name, fraction in reached.items() if fraction >= 1.0), None)

    def _fractions(self) -> dict[str, float]:
        """How far each budget is used up."""
        counters = self.cycle.counters
        return {name: getattr(counters, name) / most for name, most in self._budgets.items()}

    def _finish(self, reason: str) -> Summary:
        self.cycle.settle()
        if reason == "interrupted":
            self._pending = None
        else:
            self._collect(wait=True)
        if self._reached is not None:
            # The run's result is the weights that were evaluated, however much later that showed.
            reason = "target"
            self.crew.ask_learners("adopt", self._reached)
            self.cycle.weights = self._reached
        elif reason != "interrupted" and self._evaluated_version != self.cycle.version:
            self._launch_evaluation()
            self._collect(wait=True)
        if reason != "interrupted":
            counters = asdict(self.cycle.counters)
            self._gallery.ask(self.crew, self.cycle.weights, counters, last=True)
        self._count_restarts()
        if self.cycle.counters.cycles > self._window.first.cycles:
            self._record()
        assert self._load is not None
        if self._load.any:
            self._record_load()
        path = self._write_checkpoint()
        if reason != "interrupted":
            self._unless_full("pictures", self._gallery.finish)
        summary = self._summary(reason, path)
        self.record("summary", summary)
        text = json.dumps(summary, indent=1)
        file = self.run_dir / rundir.SUMMARY
        self._unless_full(rundir.SUMMARY, lambda: rundir.write_whole(file, text))
        return summary

    def _unless_full(self, what: str, write: Callable[[], Any]) -> None:
        """Write a file of the run; a disk that is full does not take its result away."""
        try:
            write()
        except OSError as error:
            self.warn(f"{self.run_dir / what} could not be written: {reason_of(error)}")

    def _summary(self, reason: str, path: Path | None) -> Summary:
        counters = self.cycle.counters
        first, elapsed = self._first, self._elapsed()
        return {
            "run_dir": storage.origin(self.run_dir) or str(self.run_dir),
            "experiment": self.experiment.name,
            "algorithm": self.experiment.algorithm,
            "seed": self.experiment.seed,
            **asdict(counters),
            "wall_s": counters.seconds,
            **rates(counters, first, elapsed, "env_steps", *LEARNED),
            "evaluation": self.evaluation,
            "metrics": self._latest,
            "stop_reason": reason,
            **({"signal": self.interrupted.name} if self.interrupted else {}),
            "checkpoint": None if path is None else str(path),
            **self._time_share(),
        }

    # --- what the cycle tells -------------------------------------------------------------------

    def _observe(self, infos: list[dict[str, Any]], report: dict[str, Any]) -> None:
        assert self._load is not None
        self._load.add(infos, report)
        for info in infos:
            for return_, length in info.get("episodes", ()):
                self._window.returns.append(return_)
                self._window.lengths.append(length)
            self._window.sums.update(info.get("metrics", {}))
        for told in (*infos, report):
            self._count_not_finite(told.get("not_finite"))
        self._window.lags += report["lags"]
        if self.trace is not None and self.cycle.counters.cycles == TRACED_CYCLE:
            for line in journey(infos[0], report, time.time()):
                self.trace(line)

    def _count_not_finite(self, found: tuple[int, str] | None) -> None:
        """Count what was dropped or clipped, and tell of the first."""
        if found is None:
            return
        count, first = found
        counters, policy = self.cycle.counters, self.experiment.fault.not_finite
        if not counters.not_finite:
            self.warn(f"{first} (fault.not_finite={policy}); from now on only counted, not_finite")
        counters.not_finite += count

    def _record_if_due(self) -> None:
        every = self.experiment.tracking.every_s
        if every:  # the longer a run, the longer between its records, or they would fill memories
            every = max(every, self.cycle.counters.seconds / OFTEN)
        if time.monotonic() - self._window.began >= every:
            self._record()
            assert self._load is not None
            if time.monotonic() - self._load.since >= LOAD_EVERY_S:
                self._record_load()

    def _record(self) -> None:
        """One line of metrics, of everything since the last one."""
        parts = self.crew.ask_learners("metrics")
        learned = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        self._check_metrics(learned)
        self._latest |= learned
        window, now = self._window, time.monotonic()
        elapsed = max(now - window.began, 1e-9)
        values: dict[str, Any] = asdict(self.cycle.counters)
        clock = self.experiment.clock
        values |= rates(self.cycle.counters, window.first, elapsed, clock, *LEARNED)
        if window.lags and not self._sync:
            self._latest |= {"lag_mean": float(np.mean(window.lags)), "lag_max": max(window.lags)}
        if not self._sync:
            values["workers"] = self.crew.present_count
        if window.returns:
            self._latest["episode_return"] = float(np.mean(window.returns))
            self._latest["episode_length"] = float(np.mean(window.lengths))
        steps = max(self.ticks() - getattr(window.first, clock), 1)
        self._latest |= {name: total / steps for name, total in window.sums.items()}
        self.record("train", values | self._latest)
        self._window = Window(now, replace(self.cycle.counters))

    def _record_load(self) -> None:
        """One line of what each worker did since the last one."""
        assert self._load is not None
        crew = self.crew
        values = self._load.take(time.monotonic(), len(crew.workers), crew.begun_anew, crew.away())
        clocks = {k: v for k, v in asdict(self.cycle.counters).items() if k in CLOCKS}
        self.record("workers", clocks | values)

    def _display_if_due(self) -> None:
        now = time.monotonic()
        if now - self._displayed >= DISPLAY_EVERY_S:
            self._displayed = now
            self.display(self._progress())

    def _elapsed(self) -> float:
        """Seconds of the loop since this process took the run up."""
        return max(self.cycle.counters.seconds - self._first.seconds, 1e-9)

    def _progress(self) -> Progress:
        elapsed = self._elapsed()
        rate = (self.ticks() - self._first_ticks) / elapsed
        fraction = min(max(self._fractions().values(), default=0.0), 1.0)
        done = fraction - self._first_fraction
        left = elapsed * (1.0 - fraction) / done if done > 0 else None
        counters = asdict(self.cycle.counters)
        present = self.crew.present_count
        share = self._time_share()["time_share"]
        return Progress(
            counters, rate, fraction, left, self._latest, self.evaluation, present, share
        )

    def _time_share(self) -> dict[str, Any]:
        """Where each role's time went, as shares of the run, and which of them held it up."""
        assert self._load is not None
        whole = {"worker": self._worker_s, "learner": self._elapsed()}
        share = time_share(self._load.seconds, whole)
        return {"time_share": share, "bottleneck": bottleneck(share)}

    # --- evaluation -----------------------------------------------------------------------------

    def _evaluate(self, before: float) -> None:
        earlier = self.evaluation
        self._collect_or_launch(before)
        if (
            self.evaluated is not None
            and self.evaluation is not earlier
            and not self._stop_reason()
        ):
            self.cycle.settle()
            self._write_checkpoint()
            self.evaluated()

    def _collect_or_launch(self, before: float) -> None:
        self._collect(wait=False)
        self._gallery.collect(self.crew)
        if self._due(self.experiment.evaluation.every, before) and self._reached is None:
            self._collect(wait=True)  # one at a time, so that which is first to pass is certain
            if self._reached is None:
                self._launch_evaluation()

    def _launch_evaluation(self) -> None:
        self._evaluated_version = self.cycle.version
        self._ask_evaluator(self.cycle.weights, replace(self.cycle.counters))

    def _ask_evaluator(self, weights: Any, counters: Counters) -> None:
        """Begin the evaluation of some weights; the clock of their time seeds its episodes."""
        ticks = int(getattr(counters, self.experiment.clock))
        future = self.backend.call(self.crew.evaluator, "evaluate", weights, ticks)
        self._pending = (future, weights, counters)

    def _collect(self, wait: bool) -> None:
        """Take the result of the pending evaluation, if it is there."""
        if self._pending is None:
            return
        future, weights, counters = self._pending
        if not wait and not self.backend.wait([future], 0):
            return
        try:
            self.evaluation = self.crew.answer(future, "the evaluator")
        except WorkerDied as error:
            self.crew.replace_evaluator(error)
            self._ask_evaluator(weights, counters)
            self._collect(wait)
            return
        self._pending = None
        needed = self.experiment.stop.target_evaluations
        self._scores = [*self._scores, self.evaluation["mean"]][-needed:]
        self.record("evaluation", asdict(counters) | self.evaluation)
        self._gallery.ask(self.crew, weights, asdict(counters))
        if self._target_met():
            self._reached = weights

    # --- checkpoints ----------------------------------------------------------------------------

    def _checkpoint_if_due(self, before: float) -> None:
        if self._due(self.experiment.checkpoint.every, before):
            self.cycle.settle()
            self._write_checkpoint()

    def _write_checkpoint(self) -> Path | None:
        """Write a checkpoint, with the states of the workers where a resume needs them.

        Returns:
            The latest good one: where it could not be written, the one before, or None.
        """
        self._check_weights()
        config = self.experiment.checkpoint

        def fill(folder: Path) -> None:
            crew = self.crew
            crew.save_learner(folder, config.replay)
            states = []
            if self._sync:
                try:
                    states = crew.capture()
                except WorkerDied as error:
                    self.warn(f"{error}; this checkpoint is without the workers' episodes")
            for index, own in enumerate(states):
                checkpoint.write_part(folder, f"worker-{index}", own.plain, own.arrays)
            plain = {
                "algorithm": self.experiment.algorithm,
                "counters": asdict(self.cycle.counters),
                "evaluation": self.evaluation,
                "scores": self._scores,
                "opaque": sorted({name for own in states for name in own.opaque}),
            }
            checkpoint.write_part(folder, "run", plain, crew.random())

        folder = self.run_dir / rundir.CHECKPOINTS
        try:
            return checkpoint.write(folder, f"{self.cycle.counters.cycles:010d}", fill, config.keep)
        except OSError as error:
            before = checkpoint.latest(folder, self.warn) if self._kept() else None
            stays = f"{before} stays the latest" if before else "there is none before it"
            self.warn(f"a checkpoint could not be written: {reason_of(error)}; {stays}")
            return before

    def _start(self, resume: Path | None) -> None:
        """Start the crew, and go on from a checkpoint where there is one."""
        if resume is None:
            self.crew.start()
            self._begin_cycle(Counters())
            self._first_fraction = 0.0
            return
        plain, random = read_run_part(resume, self.experiment)
        counters = Counters(**plain["counters"])
        stored = len(list(resume.glob("worker-*.json")))
        equal = self._sync and stored == self.experiment.scheduler.workers and not plain["opaque"]
        # Workers that begin anew draw from streams of their own, not from their first ones again.
        self.crew.start(life=0 if equal else counters.cycles)
        self.crew.load_learners(resume)
        for name, learner in zip(self.crew.learner_streams(), self.crew.learners, strict=True):
            if name in random:  # else there were fewer
                self.backend.host(learner, "set_random", random[name])
        if equal:
            self.crew.restore(resume, random)
        elif plain["opaque"]:
            first, *others = plain["opaque"]
            more = f" and {len(others)} more" if others else ""
            self.warn(
                f"resume: {first}{more} could not be stored, so episodes in progress begin anew "
                "and the run will not equal an uninterrupted one"
            )
        elif self.experiment.source == "data":
            self.crew.seek(counters.cycles)
        elif self._sync:
            self.warn(f"resume: {stored} workers before, so those of now begin new episodes")
        self._begin_cycle(counters)
        if self.crew.recall is not None:
            self.crew.keep()
        self.evaluation, self._scores = plain["evaluation"], plain["scores"]
        self._first_fraction = max(self._fractions().values(), default=0.0)
        if reason := self._stop_reason() or self._target_met():
            raise ConfigError(
                f"stop.{reason}: this run is already there; to go on, give another, such as "
                f"'rlgen resume RUN stop.{reason}=...'"
            )

    def _begin_cycle(self, counters: Counters) -> None:
        self.cycle = Cycle(self.crew, self._observe)
        self.cycle.counters = counters
        if self._restarts_before is None:  # else the crew has counted those of this process
            self._restarts_before = counters.restarts - self.crew.restarts
        scheduler = self.experiment.scheduler
        if scheduler.backend == "ray" and self._sync and self.experiment.source != "model":
            self.crew.recall = Recall(self.backend.get(self.cycle.weights).nbytes)

    def _target_met(self) -> str | None:
        """Say so when the latest evaluations in a row reach the target."""
        target, needed = self.experiment.stop.target, self.experiment.stop.target_evaluations
        latest = self._scores[-needed:]
        met = target is not None and len(latest) == needed and min(latest) >= target
        return "target" if met else None


def journey(info: dict[str, Any], report: dict[str, Any], now: float) -> list[str]:
    """One batch's way with times in ms: since its worker began, and where they were spent."""

    def since(moment: float) -> str:
        return f"{1e3 * (moment - info['began']):9.2f} ms"

    def parts(seconds: dict[str, float]) -> str:
        return ", ".join(f"{what} {1e3 * spent:.2f}" for what, spent in seconds.items())

    return [
        f"{since(info['began'])}  worker {info['worker']} begins with weights {info['version']}",
        f"{since(info['ended'])}  its batch is there ({parts(info['seconds'])})",
        f"{since(report['began'])}  the learner begins, lag {report['lags'][0]}",
        f"{since(report['ended'])}  weights {report['version']} are there "
        f"({parts(report['seconds'])})",
        f"{since(now)}  the scheduler knows",
    ]


def rates(now: Counters, before: Counters, seconds: float, *counted: str) -> dict[str, float]:
    """What was done per second between two moments, ``{"NAME_per_s": ...}``."""
    return {
        f"{name}_per_s": (getattr(now, name) - getattr(before, name)) / seconds for name in counted
    }


def reason_of(error: OSError) -> str:
    """What the system says of a failed write, with its file where it names one."""
    reason = error.strerror or " ".join(str(error).split())
    return f"{reason} ({error.filename})" if error.filename else reason


def read_run_part(folder: Path, experiment: Experiment) -> checkpoint.Part:
    """What a checkpoint says of its run.

    Raises:
        CheckpointError: it is of another algorithm.
    """
    plain, arrays = checkpoint.read_part(folder, "run")
    if plain["algorithm"] != experiment.algorithm:
        raise CheckpointError(
            f"{folder}: a checkpoint of algorithm {plain['algorithm']!r}, not of "
            f"{experiment.algorithm!r}"
        )
    return plain, arrays
