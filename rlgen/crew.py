"""The crew: the actors of one run, how they are started, answered for in time, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen import checkpoint, state
from rlgen.config import Experiment
from rlgen.errors import WorkerDied
from rlgen.plan import Role, spawn

START_TIMEOUT_S = 300.0  # imports and simulators may take long, where a request may not


class Crew:
    """The learner, the evaluator and the workers of a run.

    Ray's own restarts stay off: a restarted actor has only its constructor's state, and Ray takes
    about a minute to notice a silent node. So timeouts and replacements are made here.
    """

    def __init__(
        self,
        experiment: Experiment,
        backend: Any,
        plan: dict[str, Role],
        warn: Callable[[str], None],
    ) -> None:
        self.experiment = experiment
        self.config = experiment.scheduler
        self.backend = backend
        self.plan = plan
        self.warn = warn
        self.restarts = 0
        self.life = 0
        self.learner: Any = None
        self.evaluator: Any = None
        self.workers: list[Any] = []

    def start(self, life: int = 0) -> None:
        """Start everyone at once; ``life`` sets random streams apart from an earlier start's."""
        self.life = life
        self.learner = spawn(self.backend, self.experiment, self.plan["learner"])
        self.evaluator = spawn(self.backend, self.experiment, self.plan["evaluator"])
        role = self.plan["worker"]
        self.workers = [
            spawn(self.backend, self.experiment, role, index, life) for index in range(role.count)
        ]
        named = {"the learner": self.learner, "the evaluator": self.evaluator}
        named |= {self.name(index): worker for index, worker in enumerate(self.workers)}
        started = [(self.backend.start(actor), who) for who, actor in named.items()]
        for future, who in started:
            self.answer(future, who, START_TIMEOUT_S)

    def name(self, worker: int) -> str:
        """What messages call a worker."""
        return f"{self.experiment.source} worker {worker}"

    def answer(self, future: Any, who: str, timeout_s: float | None = None) -> Any:
        """The value of a future, waited for no longer than ``scheduler.timeout_s``.

        Raises:
            WorkerDied: the actor's process ended, or it stayed silent.
        """
        if not self.backend.wait([future], timeout_s or self.config.timeout_s):
            raise self.silent(who, timeout_s)
        try:
            return self.backend.get(future)
        except WorkerDied as error:
            raise WorkerDied(f"{who} died: {error}") from error

    def silent(self, who: str, timeout_s: float | None = None) -> WorkerDied:
        """The error of an actor that has not answered in time."""
        if timeout_s is not None:
            return WorkerDied(f"{who} did not start within {timeout_s:g} s; is the cluster busy?")
        return WorkerDied(f"{who}: no answer for {self.config.timeout_s:g} s (scheduler.timeout_s)")

    def ask(self, actor: Any, who: str, method: str, *args: Any) -> Any:
        """Call a method and wait for its value."""
        return self.answer(self.backend.call(actor, method, *args), who)

    def replace(self, worker: int, error: WorkerDied) -> None:
        """Start a worker anew; only its requests under way are lost.

        Raises:
            WorkerDied: no restart is left.
        """
        if self.restarts >= self.config.max_restarts:
            raise WorkerDied(
                f"{error}; {self.config.max_restarts} restarts were allowed "
                "(scheduler.max_restarts)"
            ) from error
        self.restarts += 1
        self.warn(f"{error}; starting it anew")
        self.backend.kill(self.workers[worker])
        self.workers[worker] = spawn(
            self.backend, self.experiment, self.plan["worker"], worker, self.life + self.restarts
        )
        started = self.backend.start(self.workers[worker])
        self.answer(started, self.name(worker), START_TIMEOUT_S)

    def random(self) -> dict[str, Any]:
        """The torch random states of the learner and the workers, by their names."""
        actors = {"learner": self.learner}
        actors |= {f"worker-{index}": worker for index, worker in enumerate(self.workers)}
        return {
            name: self.answer(self.backend.random(actor), name) for name, actor in actors.items()
        }

    def capture(self) -> list[state.State]:
        """The states of the workers, in order."""
        return [
            self.ask(worker, self.name(index), "capture")
            for index, worker in enumerate(self.workers)
        ]

    def restore(self, folder: Path, random: dict[str, Any]) -> None:
        """Put the workers where a checkpoint left them."""
        for index, worker in enumerate(self.workers):
            part = checkpoint.read_part(folder, f"worker-{index}")
            self.ask(worker, self.name(index), "restore", *part)
            self.backend.set_random(worker, random[f"worker-{index}"])

    def seek(self, minibatches: int) -> None:
        """Have data workers go on after so many minibatches, whoever read those."""
        for index, worker in enumerate(self.workers):
            self.ask(worker, self.name(index), "seek", minibatches)
