"""The cycle: weights -> worker.produce() -> batch -> learner.update() -> weights.

The driver holds references only: a batch goes from its worker to the learner, and the learner's
flat weights to the workers, without passing through here. What does come here is a few numbers per
batch (a worker's info, the learner's report).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlgen.crew import Crew
from rlgen.errors import WorkerDied

IN_FLIGHT = 2  # requests per worker in async mode: one at work, one waiting, so that none idles


@dataclass
class Counters:
    """What a run has done so far; kept in its checkpoints."""

    cycles: int = 0
    env_steps: int = 0
    samples: int = 0
    epochs: float = 0.0
    updates: int = 0
    dropped: int = 0
    restarts: int = 0
    seconds: float = 0.0  # wall clock of the training loop


@dataclass
class Flight:
    """One request under way: a worker producing, or the learner updating from its batch."""

    worker: int
    payload: Any  # the future of the batch, or of the new weights
    info: dict[str, Any] | None  # of the batch being learned from; None while it is produced
    since: float  # when its actor was last known to be at another one

    @property
    def actor(self) -> int | None:
        """Who has to answer: the worker of this number, or the learner (None)."""
        return self.worker if self.info is None else None


class Cycle:
    """Runs the cycle over a crew, synchronously or asynchronously.

    Attributes:
        weights: the reference of the latest flat weights, of ``version``.
        counters: what the run has done so far.
        converged: whether the algorithm says that it has.
    """

    def __init__(
        self, crew: Crew, observe: Callable[[list[dict[str, Any]], dict[str, Any]], None]
    ) -> None:
        self.crew = crew
        self.backend = crew.backend
        self.observe = observe  # told of the infos and the report of every update
        self.counters = Counters()
        self.converged = False
        self.weights, version = crew.call_learners("weights", returns=2)
        self.version: int = crew.answer(version, "the learner")
        self._flights: dict[Any, Flight] = {}
        self._dropped_in_a_row = 0

    def sync(self) -> None:
        """One cycle in step: every worker produces, then the learner updates once, in order."""
        flights = [self._produce(worker) for worker in range(len(self.crew.workers))]
        landed = [self._land(*flight) for flight in flights]
        infos = [info for info, _ in landed]
        weights, report = self._update(infos, [batch for _, batch in landed])
        self._publish(infos, self.crew.answer(report, "the learner"), weights)

    def asynchronous(self) -> None:
        """Handle whatever is ready: a batch goes to the learner, new weights to its worker."""
        under_way = [flight.worker for flight in self._flights.values()]
        for worker in range(len(self.crew.workers)):
            for _ in range(IN_FLIGHT - under_way.count(worker)):
                self._flights.update([self._produce(worker)])
        for future in self.backend.wait(list(self._flights), self.crew.config.timeout_s):
            if future in self._flights:  # else it left with a worker that was replaced
                self._handle(future, self._flights.pop(future))
        self._end_silence()

    def settle(self) -> None:
        """Wait until every batch that the learner was given is counted."""
        while updating := [key for key, flight in self._flights.items() if flight.info]:
            for future in self.backend.wait(updating, self.crew.config.timeout_s):
                self._handle(future, self._flights.pop(future))
            self._end_silence()

    def _produce(self, worker: int) -> tuple[Any, Flight]:
        given = (self.weights, self.version, self.counters.env_steps)
        batch, info = self.backend.call(self.crew.workers[worker], "produce", *given, returns=2)
        return info, Flight(worker, batch, None, time.monotonic())

    def _update(self, infos: list[dict[str, Any]], batches: list[Any]) -> Any:
        return self.crew.call_learners("update", infos, *batches, returns=2)

    def _land(self, future: Any, flight: Flight) -> tuple[dict[str, Any], Any]:
        """The info and the batch of a request; asked again of a new worker if this one dies."""
        while True:
            try:
                return self.crew.answer(future, self.crew.name(flight.worker)), flight.payload
            except WorkerDied as error:
                self._replace(flight.worker, error)
                future, flight = self._produce(flight.worker)

    def _handle(self, future: Any, flight: Flight) -> None:
        """Take an answer; the other requests of its actor have waited behind this one till now."""
        for other in self._flights.values():
            if other.actor == flight.actor:
                other.since = time.monotonic()
        if flight.info is not None:
            self._publish([flight.info], self.crew.answer(future, "the learner"), flight.payload)
            return
        try:
            info = self.crew.answer(future, self.crew.name(flight.worker))
        except WorkerDied as error:
            self._replace(flight.worker, error)
            return
        if self._too_late(info):
            return
        weights, report = self._update([info], [flight.payload])
        self._flights[report] = Flight(flight.worker, weights, info, time.monotonic())

    def _too_late(self, info: dict[str, Any]) -> bool:
        """Whether to drop a batch for its lag; never so many in a row that nothing is learned."""
        limit = self.crew.config.max_lag
        late = limit is not None and self.version - info["version"] > limit
        if late and self._dropped_in_a_row < len(self.crew.workers):
            self._dropped_in_a_row += 1
            self.counters.dropped += 1
            return True
        self._dropped_in_a_row = 0
        return False

    def _publish(self, infos: list[dict[str, Any]], report: dict[str, Any], weights: Any) -> None:
        """Count an update; its weights are what the next requests carry."""
        if report["version"] > self.version:
            self.version, self.weights = report["version"], weights
        counters = self.counters
        counters.cycles += 1
        counters.env_steps += sum(info.get("env_steps", 0) for info in infos)
        counters.samples += sum(info.get("samples", 0) for info in infos)
        counters.epochs = max([counters.epochs, *(info.get("epochs", 0.0) for info in infos)])
        counters.updates = max(counters.updates, report["updates"])
        self.converged = report["converged"]
        self.observe(infos, report)

    def _end_silence(self) -> None:
        """Replace workers that have not answered in time; a silent learner ends the run."""
        overdue = time.monotonic() - self.crew.config.timeout_s
        late = [flight for flight in self._flights.values() if flight.since < overdue]
        if any(flight.actor is None for flight in late):
            raise self.crew.silent("the learner")
        for worker in {flight.worker for flight in late}:
            self._replace(worker, self.crew.silent(self.crew.name(worker)))

    def _replace(self, worker: int, error: WorkerDied) -> None:
        """Have a worker replaced, and forget what it was asked."""
        self.crew.replace(worker, error)
        self.counters.restarts += 1
        for future, flight in list(self._flights.items()):
            if flight.actor == worker:
                del self._flights[future]
