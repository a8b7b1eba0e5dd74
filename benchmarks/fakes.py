"""Actors that take as long as real ones and send as much, but only sleep; many in one process."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

Info = dict[str, Any]
GOLDEN = 0.618034  # multiples of which lie evenly between 0 and 1, modulo 1


@dataclass(frozen=True)
class Costs:
    """What the fakes pretend to be.

    Attributes:
        work: seconds of a worker per batch.
        update: seconds of the learner per update, and more per batch joined.
        batch_bytes, weights_bytes: of one batch, and of the flat weights.
    """

    work: float = 0.0
    update: tuple[float, float] = (0.0, 0.0)
    batch_bytes: int = 0
    weights_bytes: int = 0


class FakeWorker:
    """Sleeps, then gives a batch of the right size."""

    def __init__(self, costs: Costs, index: int = 0) -> None:
        self.index = index
        self.pretend(costs)

    def pretend(self, costs: Costs) -> None:
        """Begin anew with other costs."""
        self.costs = costs
        self.columns = {"x": np.zeros(costs.batch_bytes, np.uint8)}
        self.ended: float | None = None

    def produce(self, weights: np.ndarray, version: int, env_steps: int) -> tuple[Any, Info]:
        """As a real worker's, with the same fields in its info."""
        if self.ended is None:  # begin out of step with the others, as real ones soon are
            pause(self.costs.work * (self.index * GOLDEN % 1.0))
        began, start = time.time(), time.monotonic()
        pause(self.costs.work)
        waiting = start - (self.ended or start)
        self.ended = time.monotonic()
        info = an_info() | {"worker": self.index, "version": version, "began": began}
        info["seconds"]["waiting"] = waiting
        return self.columns, info | {"ended": began + self.ended - start}


class FakeLearner:
    """Sleeps, then gives weights of the right size."""

    def __init__(self, costs: Costs) -> None:
        self.pretend(costs)

    def pretend(self, costs: Costs) -> None:
        """Begin anew with other costs."""
        self.costs = costs
        self.flat = np.zeros(costs.weights_bytes, np.uint8)
        self.version = 0
        self.ended: float | None = None

    def weights(self) -> tuple[np.ndarray, int]:
        """The weights and their version."""
        return self.flat, self.version

    def update(self, infos: list[Info], *batches: Any) -> tuple[np.ndarray, Info]:
        """As a real learner's; ``waiting`` is the time since the update before."""
        start = time.monotonic()
        first, more = self.costs.update
        pause(first + more * len(batches))
        lags = [self.version - info["version"] for info in infos]
        self.version += 1
        waiting = start - (self.ended or start)
        self.ended = time.monotonic()
        report = a_report() | {"version": self.version, "updates": self.version, "lags": lags}
        report["seconds"]["update"] = self.ended - start
        return self.flat, report | {"waiting": waiting}


class Crowd:
    """Fake workers that share a process: a threaded Ray actor, one call at a time for each."""

    def __init__(self) -> None:
        self.workers: dict[int, tuple[FakeWorker, threading.Lock]] = {}

    def start(self, costs: Costs, index: int) -> None:
        """Add a worker, or begin one anew."""
        self.workers[index] = FakeWorker(costs, index), threading.Lock()

    def call(self, index: int, *given: Any) -> Any:
        """A batch of a worker; a second request waits for the first, as on an actor of its own."""
        worker, lock = self.workers[index]
        with lock:
            return worker.produce(*given)


def an_info() -> Info:
    """What a worker says of a batch."""
    seconds = {"waiting": 0.0, "inference": 0.0, "environment": 0.0, "process": 0.0}
    return {
        "env_steps": 1, "episodes": [], "not_finite": None, "metrics": {}, "seconds": seconds,
        "worker": 0, "version": 0, "began": 0.0, "ended": 0.0,
    }  # fmt: skip


def a_report() -> Info:
    """What a learner says of an update."""
    return {
        "version": 1, "updates": 1, "replayed": 0, "converged": False, "lags": [0],
        "seconds": {"ingest": 0.0, "update": 0.0}, "not_finite": None, "began": 0.0, "ended": 0.0,
    }  # fmt: skip


def pause(seconds: float) -> None:
    """Sleep; not even a system call for nothing."""
    if seconds > 0.0:
        time.sleep(seconds)
