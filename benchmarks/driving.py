"""The driver's own code (`rlgen.cycle`, `rlgen.crew`, the Ray backend) over fake actors.

What it costs, part by part, and what it does with hundreds of workers.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from fakes import Costs, Crowd, Info, a_report, an_info
from queueing import Driver, Fit, fit

from rlgen.backends import cluster
from rlgen.backends.inline import Done, InlineBackend
from rlgen.backends.ray import RayBackend
from rlgen.config import load_experiment
from rlgen.crew import Crew
from rlgen.cycle import Cycle
from rlgen.plan import make_plan

HOSTS = 8  # processes that the fake workers share
READY = {"async": "impala-cartpole", "sync": "ppo-cartpole"}  # whose plans the fakes fill
PATIENT_S = 3600.0
SLEPT = 0.002  # of fakes whose requests are to queue


class InlineFakes(InlineBackend):
    """Fakes in this process."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs

    def spawn(self, target: str, args: tuple[Any, ...], seed: int, threads: int, **_: Any) -> Any:
        """The fake of an actor of the plan."""
        if "Worker" in target:
            return super().spawn("fakes:FakeWorker", (self.costs, args[1]), seed, threads)
        return super().spawn("fakes:FakeLearner", (self.costs,), seed, threads)


@dataclass(frozen=True)
class Member:
    """A fake worker in a crowd: to the crew, an actor."""

    crowd: Any
    index: int


class RayFakes(RayBackend):
    """Fakes on a private Ray cluster: a learner and one worker as real actors, many in crowds.

    They stay from one crew to the next, and begin anew with other costs: processes take seconds to
    start.

    Attributes:
        costs: of the next crew.
        alone: whether its workers are the one that has an actor of its own.
    """

    def __init__(self, workers: int) -> None:
        cluster.connect("local", 2.0, 0.0)
        self.costs, self.alone = Costs(), False
        self.learner = super().spawn("fakes:FakeLearner", (self.costs,), 0, 1, cpus=0, gpus=0)
        self.worker = super().spawn("fakes:FakeWorker", (self.costs,), 0, 1, cpus=0, gpus=0)
        started = [actor.start.remote() for actor in (self.learner, self.worker)]
        # Two requests of every worker may be there at once: one sleeps, one waits.
        each = 2 * -(-workers // HOSTS) + 2
        crowd = ray.remote(Crowd).options(num_cpus=0, max_concurrency=each)
        self.crowds = [crowd.remote() for _ in range(HOSTS)]
        ray.get([*started, *(c.start.remote(Costs(), 0) for c in self.crowds)], timeout=600)

    def spawn(self, target: str, args: tuple[Any, ...], seed: int, threads: int, **_: Any) -> Any:
        """The fake of an actor of the plan; the evaluator is a worker that nobody asks."""
        if "Learner" in target:
            return self.learner
        if self.alone and "Worker" in target:
            return self.worker
        index = args[1] if "Worker" in target else -1
        return Member(self.crowds[index % HOSTS], index)

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        """Start a method; of a member of a crowd, ``produce``."""
        if isinstance(actor, Member):
            return actor.crowd.call.options(num_returns=returns).remote(actor.index, *args)
        return super().call(actor, method, *args, returns=returns)

    def host(self, actor: Any, method: str, *args: Any) -> Any:
        """Begin anew (``start``): nobody's process is started again."""
        if isinstance(actor, Member):
            return actor.crowd.start.remote(self.costs, actor.index)
        return self.call(actor, "pretend", self.costs)

    def gone(self, actor: Any) -> bool:
        """Never: all are on this machine."""
        return False

    def kill(self, actor: Any) -> None:
        """Nobody: the next crew takes them over."""


class NullBackend(InlineBackend):
    """Answers at once and costs next to nothing: what is left is the time of the driver's code."""

    def __init__(self, answers: int) -> None:
        self.answers = answers  # that are there at each look
        # Batches seem to take long, so that nobody counts as silent while this is slow.
        self.info, self.report = an_info() | {"ended": PATIENT_S}, a_report()

    def spawn(self, target: str, args: tuple[Any, ...], seed: int, threads: int, **_: Any) -> Any:
        """Nobody."""
        return object()

    def host(self, actor: Any, method: str, *args: Any) -> Done:
        """Nothing to wait for."""
        return Done(None)

    def call(self, actor: Any, method: str, *args: Any, returns: int = 1) -> Any:
        """The answer of that method."""
        said = {"weights": 0, "produce": self.info, "update": self.report}
        return Done(None), Done(said[method])

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """The first few."""
        return list(futures[: self.answers])


def make_cycle(
    workers: int,
    backend: Any,
    mode: str,
    observe: Callable[[list[Info], Info], None] = lambda infos, report: None,
) -> Cycle:
    """The driver's part of a run over the actors of a backend."""
    experiment = load_experiment(
        READY[mode],
        (
            f"scheduler.workers={workers}",
            f"scheduler.mode={mode}",
            f"fault.timeout_s={PATIENT_S}",
        ),
    )
    plan = {role.name: role for role in make_plan(experiment)}
    crew = Crew(experiment, backend, plan, print)
    crew.start()
    return Cycle(crew, observe)


# --- what its parts cost ----------------------------------------------------------------------


@dataclass
class Calls:
    """What Ray's calls cost with the bytes of one configuration, in seconds.

    Attributes:
        ask, take: of the driver's processor, to ask a worker and to take its answer.
        learn, told: the same of the learner.
        look: of the driver's processor, to wait for the next answer.
        free: of the driver's processor, to let go of a batch's references.
        worker, learner: of an actor, between two calls.
        delay: of a batch and its update, where nobody else asks, less all of the above.
        join: of the driver's processor, for an update of so many batches and its answer.
        gather: of the learner, to take so many batches.
    """

    ask: float
    take: float
    learn: float
    told: float
    look: float
    free: float
    worker: float
    learner: float
    delay: float
    join: Fit
    gather: Fit


@dataclass
class Code:
    """What the driver's own code costs, in seconds of its processor.

    Attributes:
        look: `Cycle.asynchronous` but for its answers, as a function of the workers.
        answer: one of its answers, as a function of the workers.
        each: `Cycle.sync`, per worker.
    """

    look: Fit
    answer: Fit
    each: float


def timed(
    run: Callable[[], Any], clock: Callable[[], float], budget: float, most: int = 1000
) -> list[float]:
    """The seconds of each run by the given clock: until they sum up to the budget, 3 at least."""
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < most and sum(seconds) < budget):
        began = clock()
        run()
        seconds.append(clock() - began)
    return seconds


def driver_time(run: Callable[[], Any], budget: float) -> float:
    """Processor's seconds of this thread for one call, the median."""
    return statistics.median(timed(run, time.thread_time, budget))


def measure_code(counts: Sequence[int], budget: float) -> Code:
    """Time the driver's code with so many workers, over a backend that costs nothing."""
    looks, answers = [], []
    for count in counts:
        several = min(8, 2 * count)
        spent = []
        for at_once in (1, several):
            cycle = make_cycle(count, NullBackend(at_once), "async")
            cycle.asynchronous()  # which makes all requests
            spent.append(driver_time(cycle.asynchronous, budget))
        answers.append(max((spent[1] - spent[0]) / (several - 1), 1e-7))
        looks.append(max(spent[0] - answers[-1], 1e-7))
    cycle = make_cycle(256, NullBackend(1), "sync")
    each = driver_time(cycle.sync, budget) / 256
    return Code(fit(counts, looks, 2), fit(counts, answers), each)


def measure_looks(backend: RayFakes, counts: Sequence[int], budget: float) -> Fit:
    """Time `RayBackend.wait` for one answer with the requests of so many workers under way."""
    most = 2 * max(counts)
    crowd = ray.remote(Crowd).options(num_cpus=0).remote()
    ray.get(crowd.start.remote(Costs(work=3600.0), 0), timeout=600)
    asked = [backend.call(Member(crowd, 0), "produce", None, 0, 0, returns=2) for _ in range(most)]
    futures = [info for _, info in asked]
    ready = backend.put(0)
    seconds = []
    for count in counts:
        chosen = [ready, *futures[: 2 * count - 1]]
        seconds.append(driver_time(functools.partial(backend.wait, chosen, 10.0), budget))
    ray.kill(crowd)
    return fit(counts, seconds)


def measure_calls(
    backend: RayFakes, batch_bytes: int, weights_bytes: int, repeats: int, joined: Iterable[int]
) -> Calls:
    """Time Ray's calls with batches and weights of so many bytes."""
    idle = Costs(0.0, (0.0, 0.0), batch_bytes, weights_bytes)
    backend.costs, backend.alone = idle, True
    cycle = make_cycle(1, backend, "async")
    crew, weights = cycle.crew, cycle.weights
    worker, learner = backend.worker, backend.learner
    spent: dict[str, list[float]] = {k: [] for k in ("ask", "look", "take", "learn", "told")}
    trips, whole_own = [], []

    def clocked(what: str, run: Callable[..., Any], *args: Any, **more: Any) -> Any:
        began = time.thread_time()
        value = run(*args, **more)
        spent[what].append(time.thread_time() - began)
        return value

    for _ in range(repeats):
        start, began = time.monotonic(), time.thread_time()
        batch, info = clocked("ask", backend.call, worker, "produce", weights, 0, 0, returns=2)
        clocked("look", backend.wait, [info], 60.0)
        said = clocked("take", crew.answer, info, "a worker")
        weights, report = clocked(
            "learn", backend.call, learner, "update", [said], batch, returns=2
        )
        clocked("look", backend.wait, [report], 60.0)
        clocked("told", crew.answer, report, "the learner")
        del batch, info, report, said
        whole_own.append(time.thread_time() - began)
        trips.append(time.monotonic() - start)

    counts, join, gather = list(joined), [], []
    for count in counts:
        pairs = [backend.call(worker, "produce", weights, 0, 0, returns=2) for _ in range(count)]
        infos = [crew.answer(info, "a worker") for _, info in pairs]
        own, whole = [], []
        for _ in range(5):
            start, began = time.monotonic(), time.thread_time()
            update = backend.call(
                learner, "update", infos, *(batch for batch, _ in pairs), returns=2
            )
            crew.answer(update[1], "the learner")
            own.append(time.thread_time() - began)
            whole.append(time.monotonic() - start)
        join.append(statistics.median(own))
        gather.append(max(statistics.median(whole) - join[-1], 1e-6))
    del pairs

    backend.costs = Costs(SLEPT, (SLEPT, 0.0), batch_bytes, weights_bytes)
    for actor in (worker, learner):
        crew.answer(backend.host(actor, "start"), "a fake")
    fresh = [backend.put(np.zeros(weights_bytes, np.uint8)) for _ in range(repeats)]
    pairs = [backend.call(worker, "produce", w, i, 0, returns=2) for i, w in enumerate(fresh)]
    infos = [crew.answer(info, "a worker") for _, info in pairs]
    updates = [
        backend.call(learner, "update", [info], batch, returns=2)
        for info, (batch, _) in zip(infos, pairs, strict=True)
    ]
    reports = [crew.answer(report, "the learner") for _, report in updates]
    later = repeats // 2  # by then requests have queued
    of_worker = statistics.median(info["seconds"]["waiting"] for info in infos[later:])
    of_learner = statistics.median(report["waiting"] for report in reports[later:])
    backend.alone = False

    middle = {what: statistics.median(seconds) for what, seconds in spent.items()}
    known = sum(middle.values()) + middle["look"]
    free = max(statistics.median(whole_own) - known, 0.0)
    accounted = known + free + of_worker + of_learner
    return Calls(
        **middle, free=free, worker=of_worker, learner=of_learner,
        delay=max(statistics.median(trips) - accounted, 0.0),
        join=fit(counts, join), gather=fit(counts, gather),
    )  # fmt: skip


def driver_of(code: Code, looks: Fit, calls: Calls) -> Driver:
    """The driver's costs: of its own code, and of Ray's calls."""
    constant, linear, square = code.look.coefficients
    # That it rests before an answer costs something as well, and is in `calls.look`.
    look = (constant + max(looks(0), calls.look), linear + looks.coefficients[1], square)
    first, more = code.answer.coefficients
    per_answer = (calls.ask + calls.take + calls.learn + calls.told + calls.free) / 2.0
    return Driver(
        Fit(look), Fit((first + per_answer, more)),
        calls.ask + code.each / 2.0, calls.take + calls.free + code.each / 2.0, calls.join,
    )  # fmt: skip


# --- what it does -----------------------------------------------------------------------------


def simulate(backend: Any, costs: Costs, workers: int, mode: str, seconds: float) -> dict[str, Any]:
    """Run the driver over fake workers for some time, eight batches at least; say what it did.

    Returns:
        ``rate`` (batches/s), ``driver`` (share of the time that its thread was on a processor),
        ``process`` (the same of its process, Ray's threads included), ``answers`` per look,
        ``lag`` (the mean), ``work`` and ``update`` (seconds that the sleeps really took), and
        ``between``, the learner's seconds from one update to the next: where it has a backlog,
        Ray's part of its time.
    """
    seconds = max(seconds, 8.0 * costs.work)
    told: list[tuple[list[Info], Info]] = []
    backend.costs = costs
    cycle = make_cycle(workers, backend, mode, lambda infos, report: told.append((infos, report)))
    step = cycle.asynchronous if mode == "async" else cycle.sync
    warm = time.monotonic() + seconds / 3.0
    # Then every request under way has been made by weights of others.
    filled = 6 * workers if mode == "async" else 3
    while time.monotonic() < warm or cycle.counters.cycles < filled:
        step()
    told.clear()
    looks = 0
    clocks = (time.monotonic, time.thread_time, time.process_time)
    start = [clock() for clock in clocks]
    while time.monotonic() < start[0] + seconds or not told:
        step()
        looks += 1
    wall, thread, process = (c() - s for c, s in zip(clocks, start, strict=True))
    batches = sum(len(infos) for infos, _ in told)
    result = {
        "workers": workers,
        "rate": batches / wall,
        "driver": thread / wall,
        "process": process / wall,
        "answers": 2 * batches / looks,
        "lag": statistics.mean(lag for _, report in told for lag in report["lags"]),
        "work": statistics.mean(i["ended"] - i["began"] for infos, _ in told for i in infos),
        "update": statistics.mean(report["seconds"]["update"] for _, report in told),
        "between": statistics.median(report["waiting"] for _, report in told),
    }
    cycle.settle()
    return result
