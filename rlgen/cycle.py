"""The cycle: weights -> worker.produce() -> batch -> learner.update() -> weights.

The driver holds references only: a batch goes from its worker to the learner, and the learner's
flat weights to the workers, without passing through here. What does come here is a few numbers per
batch (a worker's info, the learner's report).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlgen.counters import Counters
from rlgen.crew import Crew
from rlgen.errors import BatchLost, EnvironmentFailure, RlgenError, WorkerDied

IN_FLIGHT = 2  # requests per worker in async mode: one at work, one waiting, so that none idles


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
        landed: dict[int, tuple[dict[str, Any], Any]] = {}
        missing = list(range(len(self.crew.workers)))
        while missing:
            asked = {worker: self._ask(worker) for worker in missing}
            landed |= {w: self.crew.land(w, answer, self._ask) for w, answer in asked.items()}
            infos, batches = zip(*(landed[worker] for worker in sorted(landed)), strict=True)
            weights, report = self._update(list(infos), batches)
            try:
                said, missing = self.crew.answer(report, "the learner"), []
            except BatchLost as error:
                missing = self.crew.bereft(error)
        self.crew.remember(self._request())
        self._publish(list(infos), said, weights)

    def asynchronous(self) -> None:
        """Handle whatever is ready: a batch goes to the learner, new weights to its worker."""
        under_way = Counter(flight.worker for flight in self._flights.values())
        for worker in self.crew.present():
            for _ in range(IN_FLIGHT - under_way[worker]):
                self._flights.update([self._produce(worker)])
        for future in self.backend.wait(list(self._flights), self.crew.fault.timeout_s):
            if future in self._flights:  # else it left with a worker that was replaced
                self._handle(future, self._flights.pop(future))
        self._end_silence()

    def settle(self) -> None:
        """Wait until every batch that the learner was given is counted."""
        while updating := [key for key, flight in self._flights.items() if flight.info]:
            for future in self.backend.wait(updating, self.crew.fault.timeout_s):
                self._handle(future, self._flights.pop(future))
            self._end_silence()

    def _produce(self, worker: int) -> tuple[Any, Flight]:
        batch, info = self._ask(worker)
        return info, Flight(worker, batch, None, time.monotonic())

    def _ask(self, worker: int) -> Any:
        actor = self.crew.workers[worker]
        return self.backend.call(actor, "produce", *self._request(), returns=2)

    def _request(self) -> tuple[Any, ...]:
        return self.weights, self.version, self.counters.env_steps

    def _update(self, infos: list[dict[str, Any]], batches: Sequence[Any]) -> Any:
        return self.crew.call_learners("update", infos, *batches, returns=2)

    def _handle(self, future: Any, flight: Flight) -> None:
        """Take an answer; the other requests of its actor have waited behind this one till now."""
        for other in self._flights.values():
            if other.actor == flight.actor:
                other.since = time.monotonic()
        if flight.info is not None:
            try:
                report = self.crew.answer(future, "the learner")
            except BatchLost:
                self.counters.dropped += 1
                return
            self._publish([flight.info], report, flight.payload)
            return
        try:
            info = self.crew.heard(flight.worker, future)
        except (WorkerDied, EnvironmentFailure) as error:
            self._lose(flight.worker, error)
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
        self.counters.add(infos, report)
        self.converged = report["converged"]
        self.observe(infos, report)

    def _end_silence(self) -> None:
        """Give up workers that have not answered in time; a silent learner ends the run."""
        now, patience_s = time.monotonic(), self.crew.patience_s
        waited = [(now - flight.since, flight.actor) for flight in self._flights.values()]
        if any(s > self.crew.fault.timeout_s and actor is None for s, actor in waited):
            raise self.crew.silent("the learner")
        for worker in {actor for s, actor in waited if s > patience_s and actor is not None}:
            self._lose(worker, self.crew.silent(self.crew.name(worker), patience_s))

    def _lose(self, worker: int, error: RlgenError) -> None:
        """Go on without a worker until it is back, and forget what it was asked."""
        self.crew.lose(worker, error)
        left = {f: flight for f, flight in self._flights.items() if flight.actor != worker}
        self.counters.dropped += len(self._flights) - len(left)
        self._flights = left
