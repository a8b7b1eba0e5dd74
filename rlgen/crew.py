"""The crew: the actors of one run, how they are started, answered for in time, and replaced."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlgen import checkpoint, state
from rlgen.config import Experiment
from rlgen.errors import (
    BatchLost,
    EnvironmentFailure,
    LearnerDied,
    PeerLost,
    RlgenError,
    WorkerDied,
)
from rlgen.learner import PARTS
from rlgen.plan import Role, spawn
from rlgen.recall import Recall

PATIENCE = 20  # averages of a batch's time, after which a silent worker counts as dead
LEAST_PATIENCE_S = 30.0  # for a machine may be busy with something else
AVERAGED = 0.9  # of the average that the next batch leaves
LOOK_S = 1.0  # at most, between two looks at an idle crew
ROOM_S = 2.0  # between two looks for room
GOING_S = 0.5  # between two looks at who is dying
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
        self.fault = experiment.fault
        self.backend = backend
        self.plan = plan
        self.warn = warn
        self.restarts = 0
        self.begun_anew: Counter[int] = Counter()  # how often each worker has
        self.life = 0
        self.learners: list[Any] = []
        self.recall: Recall | None = None  # of a sync run on processes that may be lost
        self.first_loss: str | None = None
        self._average_s: float | None = None  # that a batch takes its worker
        self._away: dict[int, float] = {}  # lost workers, and when they begin anew
        self._starting: dict[int, tuple[Any, float]] = {}  # those that do, and until when they may
        self._avoid: dict[int, Any] = {}  # for lost workers: actors on nodes that are gone
        self._begun = 0  # workers that have begun while others went on
        self._grown = -math.inf  # when it last looked for room
        self._alone_since = math.inf  # when the last worker left
        self._peers: list[Any] = []  # answers of the learners but the first to the latest call
        self.evaluator: Any = None
        self.workers: list[Any] = []

    def start(self, life: int = 0) -> None:
        """Start everyone at once; ``life`` sets random streams apart from an earlier start's."""
        self.life = life
        self._away, self._starting, self._avoid = {}, {}, {}
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
        started = [(self.backend.host(actor, "start"), who) for who, actor in named.items()]
        for future, who in started:
            self.welcome(future, who)
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
        """The value of a future, waited for no longer than ``fault.timeout_s`` or as given.

        Raises:
            WorkerDied: the actor's process ended, or it stayed silent.
            BatchLost: of the learner, that it had nothing of a batch.
        """
        if not self.backend.wait([future], timeout_s or self.fault.timeout_s):
            raise self.silent(who, timeout_s)
        try:
            return self.backend.get(future)
        except PeerLost as error:
            self._find_lost()
            raise LearnerDied(f"{who} {error}") from error
        except BatchLost as error:
            if "learner" not in who:
                raise LearnerDied(f"the learner's node died with the weights for {who}") from error
            if len(self.learners) > 1:
                raise LearnerDied(
                    f"{who} lost a batch that the others may have: {error}"
                ) from error
            raise
        except WorkerDied as error:
            raise _death_of(who)(f"{who} died: {error}") from error

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
                raise LearnerDied(f"{self.learner_name(rank)} died: {error}") from error

    def silent(self, who: str, timeout_s: float | None = None) -> WorkerDied:
        """The error of an actor that has not answered in time."""
        waited = self.fault.timeout_s if timeout_s is None else timeout_s
        reason = (
            "fault.timeout_s" if waited == self.fault.timeout_s
            else f"{PATIENCE} times as long as batches take, fault.timeout_s at most"
        )  # fmt: skip
        return _death_of(who)(f"{who}: no answer for {waited:g} s ({reason})")

    def welcome(self, future: Any, who: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until an actor has started.

        Raises:
            WorkerDied: it ended, or takes too long.
        """
        if not self.backend.wait([future], timeout_s):
            raise WorkerDied(
                f"{who} did not start within {START_TIMEOUT_S:g} s; is the cluster busy?"
            )
        self.answer(future, who)

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

    # --- supervision ----------------------------------------------------------------------------

    @property
    def patience_s(self) -> float:
        """How long a worker may take: many times as long as it has taken on average."""
        if self._average_s is None:
            return self.fault.timeout_s
        return min(self.fault.timeout_s, max(LEAST_PATIENCE_S, PATIENCE * self._average_s))

    def heard(self, worker: int, future: Any) -> dict[str, Any]:
        """What a worker says of its batch, which tells how long batches take."""
        info: dict[str, Any] = self.answer(future, self.name(worker), self.patience_s)
        took = info["ended"] - info["began"]
        before = took if self._average_s is None else self._average_s
        self._average_s = AVERAGED * before + (1 - AVERAGED) * took
        return info

    def land(
        self, worker: int, answer: Any, ask: Callable[[int], Any]
    ) -> tuple[dict[str, Any], Any]:
        """The info and the batch of a request; asked again of a new worker if this one is lost.

        Args:
            worker: its number.
            answer: its futures, of the batch and of the info.
            ask: makes the request again, and gives two new futures.
        """
        while True:
            batch, info = answer
            try:
                return self.heard(worker, info), batch
            except (WorkerDied, EnvironmentFailure) as error:
                self.replace(worker, error)
                answer = ask(worker)

    def remember(self, request: tuple[Any, ...]) -> None:
        """Take note of a request that every worker of a sync run has answered."""
        if self.recall is None:
            return
        self.recall.requests.append(request)
        if self.recall.full:
            with contextlib.suppress(WorkerDied):  # the next request finds it dead, and recalls
                self.keep()

    def keep(self) -> None:
        """Keep the workers' present states, in case that one is lost."""
        assert self.recall is not None
        self.recall.keep(self.capture(), self._worker_random())

    def replace(self, worker: int, error: RlgenError) -> None:
        """Start a worker of a sync run anew, with the state that the lost one had.

        One whose environment raised would only do so again: it begins with new episodes.

        Raises:
            WorkerDied: no restart is left.
        """
        while True:
            self._unless_learner(error)
            avoid = self._end(self.workers[worker])
            self.spend(error, avoid)
            try:
                self._begin_anew(worker, isinstance(error, WorkerDied), avoid)
                return
            except RlgenError as another:
                error = another

    def lose(self, worker: int, error: RlgenError) -> None:
        """Have a worker of an async run begin anew later, while the others go on.

        Raises:
            WorkerDied: fewer than ``fault.min_healthy`` are left, and no restart.
        """
        self._unless_learner(error)
        self.first_loss = self.first_loss or str(error)
        avoid, self.workers[worker] = self._end(self.workers[worker]), None
        if avoid is not None and self.config.elastic:
            self.warn(f"{error}; its node has left, going on with {len(self._here())} workers")
            if worker < self.plan["worker"].count:  # else it comes back as room for another
                self._begin(worker, math.inf)
            return
        if self.restarts < self.fault.max_restarts:
            self.restarts += 1
            self._avoid[worker] = avoid
            pause = self.fault.backoff_s * 2 ** (self.restarts - 1)
            self._away[worker] = time.monotonic() + pause
            self.warn(f"{error}; starting it anew{_where(avoid)} in {pause:g} s")
            return
        left = len(self.workers) - self.workers.count(None) + len(self._away)
        if left < self.fault.min_healthy:
            raise WorkerDied(
                f"{error}; {left} workers are left (fault.min_healthy: {self.fault.min_healthy}) "
                f"after {self.restarts} restarts (fault.max_restarts); the first loss was: "
                f"{self.first_loss}"
            ) from error
        self.warn(f"{error}; no restart is left (fault.max_restarts), going on with {left} workers")

    def present(self) -> list[int]:
        """The workers that can be asked; none at the moment, where all are yet to come back.

        Raises:
            WorkerDied: all have left with their nodes, and no other has come.
        """
        self._rejoin()
        if self.config.elastic:
            self._grow()
        now, here = time.monotonic(), self._here()
        if here:
            self._alone_since = math.inf
        elif starting := [future for future, _ in self._starting.values()]:
            self._alone_since = min(self._alone_since, now)
            waiting = all(due == math.inf for _, due in self._starting.values())
            if waiting and not self._away and now - self._alone_since > START_TIMEOUT_S:
                raise WorkerDied(
                    f"all workers have left with their nodes, and none could start elsewhere "
                    f"within {START_TIMEOUT_S:g} s; the first loss was: {self.first_loss}"
                )
            self.backend.wait(starting, LOOK_S)
        elif self._away:
            time.sleep(min(LOOK_S, max(0.0, min(self._away.values()) - now)))
        return here

    @property
    def present_count(self) -> int:
        """How many workers can be asked."""
        return len(self._here())

    def away(self) -> list[int]:
        """The workers that are lost, and those that are beginning anew."""
        return sorted(set(range(len(self.workers))) - set(self._here()))

    def _here(self) -> list[int]:
        alive = (i for i, worker in enumerate(self.workers) if worker is not None)
        return [worker for worker in alive if worker not in self._starting]

    def _grow(self) -> None:
        """Add workers where there is room, once those that were added before have found theirs."""
        now, most = time.monotonic(), self.config.max_workers
        if now < self._grown + ROOM_S or any(due < math.inf for _, due in self._starting.values()):
            return
        self._grown = now
        count = len(self._here()) + len(self._away) + len(self._starting)
        room = self.backend.room(self.plan["worker"].cpus)
        for _ in range(room if most is None else min(room, most - count)):
            first = self.plan["worker"].count  # the places before are those of lost ones
            places = range(first, len(self.workers))
            free = (i for i in places if self.workers[i] is None and i not in self._away)
            worker = next(free, max(first, len(self.workers)))
            if worker == len(self.workers):
                self.workers.append(None)
            self._begin(worker, now + START_TIMEOUT_S)
            self.warn(f"there is room for more: {self.name(worker)} joins")

    def _begin(self, worker: int, due: float) -> None:
        """Have a worker start while the others go on; it has failed at the time that is given."""
        self._begun += 1
        life = self.life + self._begun
        self.workers[worker] = spawn(
            self.backend, self.experiment, self.plan["worker"], worker, life,
            self._avoid.pop(worker, None),
        )  # fmt: skip
        self._starting[worker] = (self.backend.host(self.workers[worker], "start"), due)

    def _rejoin(self) -> None:
        """Start the lost workers whose time has come, and welcome those that have started."""
        now = time.monotonic()
        for worker in [worker for worker, due in self._away.items() if due <= now]:
            del self._away[worker]
            self.begun_anew[worker] += 1
            self._begin(worker, now + START_TIMEOUT_S)
        for worker, (future, due) in list(self._starting.items()):
            ready = self.backend.wait([future], 0)
            if not ready and now < due:
                continue
            del self._starting[worker]
            if not ready and worker >= self.plan["worker"].count:
                self.backend.kill(self.workers[worker])
                self.workers[worker] = None
                self.warn(f"{self.name(worker)} does not join: others have taken its room")
                continue
            try:
                self.welcome(future, self.name(worker), 0)
            except RlgenError as error:
                self.lose(worker, error)

    def bereft(self, error: BatchLost) -> list[int]:
        """The workers of a sync run that went with the batches which the learner did not get.

        A node's objects go before its processes, which notice a second or so later.

        Raises:
            BatchLost: nobody went.
        """
        due = time.monotonic() + LEAST_PATIENCE_S
        while not (gone := self._dead()):
            if time.monotonic() > due:
                raise error
            time.sleep(GOING_S)
        return gone

    def _dead(self) -> list[int]:
        asked = [(i, self.backend.host(w, "random")) for i, w in enumerate(self.workers)]
        gone = []
        for worker, future in asked:
            try:
                self.answer(future, self.name(worker), self.patience_s)
            except WorkerDied:
                gone.append(worker)
        return gone

    def dismiss(self) -> None:
        """End every actor."""
        for actor in (*self.learners, self.evaluator, *self.workers):
            if actor is not None:
                self.backend.kill(actor)

    def _end(self, actor: Any) -> Any:
        """End a lost actor; give it back where its node is gone, and has no place for another."""
        gone = self.backend.gone(actor)
        self.backend.kill(actor)
        return actor if gone else None

    def _unless_learner(self, error: RlgenError) -> None:
        """Raise an error that blames the learner, whoever it came from."""
        if isinstance(error, LearnerDied):
            raise error

    def spend(self, error: RlgenError, avoid: Any = None) -> None:
        """Count a restart and tell of its reason, and whether it is on a node that is gone.

        Raises:
            WorkerDied: none is left; names the first reason of all.
        """
        self.first_loss = self.first_loss or str(error)
        if self.restarts >= self.fault.max_restarts:
            first = "" if self.first_loss == str(error) else f"; the first was: {self.first_loss}"
            raise WorkerDied(
                f"{error}; {self.fault.max_restarts} restarts were allowed "
                f"(fault.max_restarts){first}"
            ) from error
        self.restarts += 1
        self.warn(f"{error}; starting it anew{_where(avoid)}")

    def _begin_anew(self, worker: int, as_before: bool, avoid: Any) -> None:
        opaque = self.recall.opaque(worker) if self.recall else None
        exact = as_before and self.recall is not None and opaque is None
        life = self.life if exact else self.life + self.restarts
        role = self.plan["worker"]
        self.begun_anew[worker] += 1
        self.workers[worker] = spawn(self.backend, self.experiment, role, worker, life, avoid)
        started = self.backend.host(self.workers[worker], "start")
        self.welcome(started, self.name(worker))
        if exact:
            self._recall(worker)
        elif opaque and as_before:
            self.warn(
                f"{self.name(worker)}: {opaque} could not be kept, so its episodes begin anew"
            )

    def _recall(self, worker: int) -> None:
        """Bring a new worker to where the lost one was."""
        assert self.recall is not None
        actor, name = self.workers[worker], self.name(worker)
        if self.recall.states is not None:
            kept = self.recall.states[worker]
            self.ask(actor, name, "restore", kept.plain, kept.arrays)
            self.backend.host(actor, "set_random", self.recall.random[worker])
        for request in self.recall.requests:
            _, info = self.backend.call(actor, "produce", *request, returns=2)
            self.answer(info, name)

    def replace_evaluator(self, error: WorkerDied) -> None:
        """Start the evaluator anew; it holds nothing.

        Raises:
            WorkerDied: no restart is left.
        """
        while True:
            self._unless_learner(error)
            avoid = self._end(self.evaluator)
            if avoid is not None and self.config.elastic:
                self.warn(f"{error}; starting it anew{_where(avoid)}")
            else:
                self.spend(error, avoid)
            self.evaluator = spawn(
                self.backend, self.experiment, self.plan["evaluator"], avoid=avoid
            )
            started = self.backend.host(self.evaluator, "start")
            try:
                self.welcome(started, "the evaluator")
                return
            except WorkerDied as another:
                error = another

    def random(self) -> dict[str, Any]:
        """The torch random states of the learners and the workers, by their names."""
        actors = dict(zip(self.learner_streams(), self.learners, strict=True))
        actors |= {f"worker-{i}": w for i, w in enumerate(self.workers) if w is not None}
        states = {}
        for name, actor in actors.items():
            with contextlib.suppress(WorkerDied):  # and has none, then
                states[name] = self.answer(self.backend.host(actor, "random"), name)
        return states

    def _worker_random(self) -> list[np.ndarray]:
        return [
            self.answer(self.backend.host(worker, "random"), self.name(index))
            for index, worker in enumerate(self.workers)
        ]

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
            self.backend.host(worker, "set_random", random[f"worker-{index}"])

    def save_learner(self, folder: Path, with_replay: bool) -> None:
        """Write the learner's parts of a checkpoint, or have it do so where it sees the folder."""
        left = self.ask(self.learners[0], "the learner", "save", str(folder), with_replay)
        checkpoint.write_parts(folder, left)

    def load_learners(self, folder: Path) -> None:
        """Have the learners go on from a checkpoint; those that do not see it are given it."""
        with tempfile.TemporaryDirectory(prefix=".seen-", dir=folder.parent) as probe:
            seen = self.ask_learners("sees", probe)
        given = None
        if not all(seen):
            given = self.backend.put(checkpoint.read_parts(folder, PARTS))
        calls = [
            self.backend.call(learner, "load", str(folder), *(() if sees else (given,)))
            for learner, sees in zip(self.learners, seen, strict=True)
        ]
        for rank, call in enumerate(calls):
            self.answer(call, self.learner_name(rank))

    def seek(self, minibatches: int) -> None:
        """Have data workers go on after so many minibatches, whoever read those."""
        for index, worker in enumerate(self.workers):
            self.ask(worker, self.name(index), "seek", minibatches)


def _where(avoid: Any) -> str:
    """What a message adds where the node of a lost actor is gone."""
    return "" if avoid is None else " on another node (its own does not answer)"


def _death_of(who: str) -> type[WorkerDied]:
    """The error of an actor's death, by what messages call it."""
    return LearnerDied if "learner" in who else WorkerDied
