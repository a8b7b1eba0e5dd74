"""The command ``rlgen chaos``: run a configuration on Ray and kill its processes meanwhile."""

from __future__ import annotations

import contextlib
import enum
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlgen.command import AsJson, ConfigName, Debug, Overrides, Quiet, replying
from rlgen.errors import ConfigError

if TYPE_CHECKING:
    from rlgen.config import Experiment
    from rlgen.scheduler import Scheduler

UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
ENOUGH = 10_000  # restarts, where nobody says how many


class Victim(enum.StrEnum):
    """Whose processes are killed."""

    WORKER = "worker"
    LEARNER = "learner"
    EVALUATOR = "evaluator"


def add_to(app: typer.Typer, schedule: Callable[..., Any]) -> None:
    """Add the command.

    Args:
        app: to which.
        schedule: runs an experiment with its progress shown, and a context beside it.
    """

    @app.command()
    def chaos(
        config: ConfigName,
        overrides: Overrides = None,
        kill: Annotated[Victim, typer.Option(help="Whose processes")] = Victim.WORKER,
        every: Annotated[
            str, typer.Option(help="5s, 500ms, 1m; later where the run has not got on since")
        ] = "5s",
        seed: Annotated[int, typer.Option(min=0, help="Of the choice whom to kill")] = 0,
        most: Annotated[
            int | None, typer.Option("--most", min=1, help="Kills; no limit by default")
        ] = None,
        quiet: Quiet = False,
        as_json: AsJson = False,
        debug: Debug = False,
    ) -> None:
        """Train on Ray while processes are killed, and say what that cost.

        A sync run is done once more undisturbed, and must end with the same weights.
        """
        with replying(as_json, debug) as answer:
            pause_s = _seconds(every)
            experiment = _prepared(config, overrides or [], kill)
            killer = Killer(kill, pause_s, seed, most)
            try:
                summary = schedule(experiment, quiet, None, None, beside=killer.beside)
            finally:
                print(f"killed {len(killer.kills)} times: {', '.join(killer.kills) or 'nobody'}")
                answer["kills"] = killer.kills
            answer |= summary
            for line in _lost(experiment, summary, killer):
                print(line)
            if summary["stop_reason"] == "interrupted":
                print("interrupted, so there is nothing to compare")
                return
            reason = _incomparable(experiment)
            if reason:
                print(f"not compared with an undisturbed run: {reason}")
                return
            print("the same once more, undisturbed")
            from rlgen.api import load

            same = load(summary["run_dir"]).experiment  # with as many workers, were they 'auto'
            undisturbed = schedule(same, quiet, None, None)
            answer["undisturbed"] = undisturbed["run_dir"]
            answer["equal"] = _same_weights(summary["run_dir"], undisturbed["run_dir"])
            print(f"the same weights: {'yes' if answer['equal'] else 'no'}")
            if not answer["equal"]:
                print("  a reason may be among the messages above: what could not be kept")
                raise typer.Exit(1)


class Killer:
    """Kills one process after the other beside a run, whenever that has got on since the last.

    Attributes:
        kills: whom, and when, in words.
        again: cycles that killed learners had done since the checkpoint before.
    """

    def __init__(self, role: Victim, pause_s: float, seed: int, most: int | None) -> None:
        self.role = role
        self.pause_s = pause_s
        self.most = most
        self.kills: list[str] = []
        self.again = 0
        self._random = random.Random(seed)
        self._reached: Any = -1  # what the run had got to at the last kill
        self._over = threading.Event()

    @contextlib.contextmanager
    def beside(self, scheduler: Scheduler) -> Iterator[None]:
        """Kill for as long as the block runs."""
        thread = threading.Thread(target=self._watch, args=(scheduler,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self, scheduler: Scheduler) -> None:
        began = time.monotonic()
        while not self._over.wait(self.pause_s):
            if self.most is not None and len(self.kills) >= self.most:
                return
            if scheduler.run_dir != Path() and hasattr(scheduler, "cycle"):
                self._kill(scheduler, time.monotonic() - began)

    def _kill(self, scheduler: Scheduler, now: float) -> None:
        from rlgen.backends.killing import kill_process

        cycles = scheduler.cycle.counters.cycles
        kept = self._checkpoint(scheduler)
        reached = kept if self.role is Victim.LEARNER else cycles
        if reached <= self._reached:
            return  # or the run would never end
        crew = scheduler.crew
        actors = {
            Victim.WORKER: list(crew.workers),
            Victim.LEARNER: list(crew.learners),
            Victim.EVALUATOR: [crew.evaluator],
        }[self.role]
        there = [number for number, actor in enumerate(actors) if actor is not None]
        if not there:
            return
        number = self._random.choice(there)
        if kill_process(actors[number]):
            self._reached = reached
            name = self.role.value if len(actors) == 1 else f"{self.role} {number}"
            self.kills.append(f"{name} after {now:.1f} s")
            if self.role is Victim.LEARNER:
                self.again += cycles - max(kept, 0)

    def _checkpoint(self, scheduler: Scheduler) -> int:
        """The cycle of the newest checkpoint; -1 where there is none."""
        from rlgen import checkpoint, rundir

        found = checkpoint.candidates(scheduler.run_dir / rundir.CHECKPOINTS)
        return int(found[0].name) if found else -1


def _seconds(text: str) -> float:
    """The seconds of ``5s``, ``500ms``, ``1.5m`` or a plain number.

    Raises:
        ConfigError: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)", text.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--every: expected a time such as 5s or 500ms, got {text!r}")
    return float(found[1]) * UNITS[found[2]]


def _prepared(config: str, overrides: list[str], kill: Victim) -> Experiment:
    """The experiment on Ray, with restarts enough where nobody has set them.

    Raises:
        ConfigError: it would run inline, or a killed learner would begin at the start again.
    """
    from rlgen.config import load_experiment

    ours = ["scheduler.backend=ray", f"fault.max_restarts={ENOUGH}"]
    if kill is Victim.LEARNER:
        ours.append("fault.restart_learner=true")
    experiment = load_experiment(config, [*ours, *overrides])
    if experiment.scheduler.backend != "ray":
        raise ConfigError("scheduler.backend: inline has no processes to kill; leave it at ray")
    if kill is Victim.LEARNER and not experiment.checkpoint.every:
        raise ConfigError(
            f"checkpoint.every: 0, so a killed learner would begin anew each time; give some "
            f"{experiment.clock} between checkpoints, such as checkpoint.every=1000"
        )
    return experiment


def _lost(experiment: Experiment, summary: dict[str, Any], killer: Killer) -> Iterator[str]:
    """What the kills have cost, in lines."""
    yield f"{summary['restarts']} restarts; stopped by {summary['stop_reason']}"
    if killer.role is Victim.EVALUATOR:
        yield "lost: the evaluations in flight, which were done again"
    elif killer.role is Victim.LEARNER:
        yield f"lost: {killer.again:,} cycles since the checkpoints, which were done again"
    elif experiment.scheduler.mode == "sync":
        yield "lost: the batches in flight, which were made again"
    else:
        yield f"lost: {summary['dropped']:,} batches in flight, or too old"


def _incomparable(experiment: Experiment) -> str:
    """Why an undisturbed run would not end alike; empty where it should."""
    if experiment.scheduler.mode == "async":
        return "an async run is never the same twice"
    if experiment.stop.seconds is not None:
        return "stop.seconds ends each run elsewhere"
    return ""


def _same_weights(disturbed: str, undisturbed: str) -> bool:
    import numpy as np

    from rlgen.api import load

    left, right = load(disturbed).weights, load(undisturbed).weights
    return left.shape == right.shape and np.array_equal(left, right)
