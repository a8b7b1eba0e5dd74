"""The asynchronous mode: two requests per worker, lag recorded, late batches dropped."""

from typing import Any

import numpy as np
import pytest
from experiments import train

from rlgen import cycle, tracking
from rlgen.config import FaultConfig, SchedulerConfig
from rlgen.cycle import Cycle
from rlgen.errors import WorkerDied

ASYNC = {"scheduler.mode": "async", "stop.env_steps": 20_000}


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_a3c_runs_asynchronously_and_records_its_lag(backend, tmp_path):
    run = train("a3c", tmp_path, {**ASYNC, "scheduler.backend": backend})
    assert run.summary["env_steps"] >= 20_000
    records = [r for r in tracking.read_metrics(run.dir) if r["kind"] == "train"]
    lags = [(r["lag_mean"], r["lag_max"]) for r in records if "lag_max" in r]
    assert all(0 <= mean <= largest for mean, largest in lags)
    # The second of two requests leaves before the first one's update.
    assert any(largest >= 1 for _, largest in lags)


class SlowCrew:
    """A crew of futures that a test resolves by hand."""

    def __init__(self, workers: int, max_lag: int | None) -> None:
        self.config = SchedulerConfig(backend="inline", workers=workers, mode="async")
        self.config = self.config.model_copy(update={"max_lag": max_lag})
        self.backend = self
        self.learner, self.workers = "learner", list(range(workers))
        self.calls: list[tuple[Any, str, tuple[Any, ...]]] = []
        self.ready: list[str] = []
        self.values: dict[str, Any] = {}
        self.version = 0
        self.replaced: list[int] = []
        self.fault = FaultConfig()
        self.patience_s = self.fault.timeout_s

    def call_learners(self, method: str, *args: Any, returns: int = 1) -> Any:
        return self.call(self.learner, method, *args, returns=returns)

    def silent(self, who: str, timeout_s: float | None = None) -> WorkerDied:
        return WorkerDied(f"{who}: no answer")

    def lose(self, worker: int, error: WorkerDied) -> None:
        self.replaced.append(worker)

    def present(self) -> list[int]:
        return self.workers

    def heard(self, worker: int, future: Any) -> Any:
        return self.answer(future, self.name(worker))

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        self.calls.append((actor, method, args))
        name = f"{actor}-{method}-{len(self.calls)}"
        if method == "weights":
            return "w0", 0
        if method == "produce":
            return f"batch of {name}", f"info of {name}"
        self.version += 1
        report = f"report of {name}"
        self.values[report] = {
            "version": self.version, "updates": self.version, "converged": False,
            "replayed": 0, "lags": [0], "seconds": {},
        }  # fmt: skip
        self.ready.append(report)
        return f"w{self.version}", report

    def wait(self, futures: list[Any], timeout_s: float) -> list[Any]:
        return [future for future in futures if future in self.ready]

    def answer(self, future: Any, who: str) -> Any:
        return self.values.get(future, 0)

    def name(self, worker: int) -> str:
        return f"worker {worker}"

    def finish(self, worker: int, version: int) -> None:
        """Let the worker's oldest request end."""
        for number, (actor, method, _) in enumerate(self.calls, 1):
            info = f"info of {actor}-{method}-{number}"
            if actor == worker and method == "produce" and info not in self.values:
                self.values[info] = {"worker": worker, "version": version, "env_steps": 5}
                self.ready.append(info)
                return

    def asked(self, actor: Any, method: str) -> int:
        return sum(call[:2] == (actor, method) for call in self.calls)


def test_two_requests_per_worker_and_no_waiting_for_the_slow_one():
    crew = SlowCrew(workers=2, max_lag=None)
    loop = Cycle(crew, lambda infos, report: None)
    loop.asynchronous()
    assert [crew.asked(worker, "produce") for worker in (0, 1)] == [cycle.IN_FLIGHT] * 2
    for done in range(1, 6):  # worker 1 never answers; worker 0 goes on
        crew.finish(0, loop.version)
        loop.asynchronous()  # its batch goes to the learner
        assert crew.asked("learner", "update") == done
        loop.asynchronous()  # the new weights come back
        assert loop.counters.env_steps == 5 * done
        loop.asynchronous()
        assert crew.asked(0, "produce") == cycle.IN_FLIGHT + done
        assert crew.calls[-1][2][:2] == (f"w{done}", done)  # with the latest weights
    assert crew.asked(1, "produce") == cycle.IN_FLIGHT


def test_late_batches_are_dropped_but_never_everything():
    crew = SlowCrew(workers=2, max_lag=1)
    loop = Cycle(crew, lambda infos, report: None)
    loop.version = 10
    for worker in (0, 1, 0, 1):  # every batch is ten versions late
        loop.asynchronous()
        crew.finish(worker, version=0)
        loop.asynchronous()
    assert loop.counters.dropped == 3  # two in a row at most: the third was learned from
    assert crew.asked("learner", "update") == 1
    np.testing.assert_equal(loop.counters.env_steps % 5, 0)


def test_a_request_behind_another_is_not_counted_as_silent():
    """Its time begins when the one before it was answered."""
    crew = SlowCrew(workers=1, max_lag=None)
    loop = Cycle(crew, lambda infos, report: None)
    loop.asynchronous()
    first, second = loop._flights.values()
    second.since -= 1e6  # it was asked for long ago
    first.since -= 1.0
    crew.finish(0, 0)
    loop.asynchronous()  # without the rule, this would replace the worker
    assert crew.asked("learner", "update") == 1


def test_a_worker_that_is_silent_is_replaced_and_a_silent_learner_ends_the_run():
    crew = SlowCrew(workers=2, max_lag=None)
    loop = Cycle(crew, lambda infos, report: None)
    loop.asynchronous()
    for flight in loop._flights.values():
        if flight.worker == 1:
            flight.since -= 1e6
    loop.asynchronous()
    assert crew.replaced == [1]
    assert {flight.worker for flight in loop._flights.values()} == {0}
    crew.finish(0, 0)
    loop.asynchronous()
    crew.ready.clear()  # the learner never answers
    for flight in loop._flights.values():
        flight.since -= 1e6 if flight.actor is None else 0
    with pytest.raises(WorkerDied, match="the learner: no answer"):
        loop.asynchronous()
