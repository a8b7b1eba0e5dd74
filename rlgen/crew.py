"""The crew: the actors of one run, how they are started, answered for in time, and replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen import checkpoint, state
from rlgen.config import Experiment
from rlgen.errors import PeerLost, WorkerDied
from rlgen.plan import Role, spawn

PEER_S = 5.0  # until what one learner lost shows at the driver
START_TIMEOUT_S = 300.0  # imports and simulators may take long, where a request may not


class Crew:
    """The learners, the evaluator and the workers of a run.

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
        self.learners: list[Any] = []
        self._peers: list[Any] = []  # answers of the learners but the first to the latest call
        self.evaluator: Any = None
        self.workers: list[Any] = []

    def start(self, life: int = 0) -> None:
        """Start everyone at once; ``life`` sets random streams apart from an earlier start's."""
        self.life = life
        role = self.plan["learner"]
        self.learners = [
            spawn(self.backend, self.experiment, role, rank) for rank in range(role.count)
        ]
        self.evaluator = spawn(self.backend, self.experiment, self.plan["evaluator"])
        role = self.plan["worker"]
        self.workers = [
            spawn(self.backend, self.experiment, role, index, life) for index in range(role.count)
        ]
        named = {self.learner_name(i): learner for i, learner in enumerate(self.learners)}
        named |= {"the evaluator": self.evaluator}
        named |= {self.name(index): worker for index, worker in enumerate(self.workers)}
        started = [(self.backend.start(actor), who) for who, actor in named.items()]
        for future, who in started:
            self.answer(future, who, START_TIMEOUT_S)
        if len(self.learners) > 1:
            address = self.ask(self.learners[0], "the learner", "open")
            self.ask_learners("join", address)

    def learner_name(self, rank: int) -> str:
        """What messages call a learner: the first one is the one that publishes the weights."""
        return f"learner {rank}" if rank else "the learner"

    def learner_streams(self) -> list[str]:
        """The names of the learners' random states in a checkpoint."""
        return ["learner", *(f"learner-{rank}" for rank in range(1, len(self.learners)))]

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
        except PeerLost as error:
            self._find_lost()
            raise WorkerDied(f"{who} {error}") from error
        except WorkerDied as error:
            raise WorkerDied(f"{who} died: {error}") from error

    def _find_lost(self) -> None:
        """Raise what happened to the learner that the others lost touch with."""
        for rank, future in enumerate(self._peers, 1):
            if not self.backend.wait([future], PEER_S):
                continue
            try:
                self.backend.get(future)
            except PeerLost:
                continue
            except WorkerDied as error:
                raise WorkerDied(f"{self.learner_name(rank)} died: {error}") from error

    def silent(self, who: str, timeout_s: float | None = None) -> WorkerDied:
        """The error of an actor that has not answered in time."""
        if timeout_s is not None:
            return WorkerDied(f"{who} did not start within {timeout_s:g} s; is the cluster busy?")
        return WorkerDied(f"{who}: no answer for {self.config.timeout_s:g} s (scheduler.timeout_s)")

    def ask(self, actor: Any, who: str, method: str, *args: Any) -> Any:
        """Call a method and wait for its value."""
        return self.answer(self.backend.call(actor, method, *args), who)

    def call_learners(self, method: str, *args: Any, returns: int = 1) -> Any:
        """Start a method of every learner; the first one's futures, the others keep in step."""
        calls = [
            self.backend.call(learner, method, *args, returns=returns) for learner in self.learners
        ]
        self._peers = [call[-1] if returns > 1 else call for call in calls[1:]]
        return calls[0]

    def ask_learners(self, method: str, *args: Any) -> list[Any]:
        """Call a method of every learner at once, and wait for their values."""
        calls = [self.backend.call(learner, method, *args) for learner in self.learners]
        return [self.answer(call, self.learner_name(i)) for i, call in enumerate(calls)]

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
        """The torch random states of the learners and the workers, by their names."""
        actors = dict(zip(self.learner_streams(), self.learners, strict=True))
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
