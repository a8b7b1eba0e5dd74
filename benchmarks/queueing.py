"""What a run of N workers comes to, from the times of its parts: formulas only.

Times are in seconds, rates in batches per second. The formulas stand in `docs/scaling.md`. Sources:
Lazowska, Zahorjan, Graham and Sevcik, "Quantitative System Performance" (1984), chapter 5 (bounds)
and chapter 6 (mean value analysis, Schweitzer's approximation); Reiser, "A queueing network
analysis of computer communication networks with window flow control" (IEEE Trans. Commun., 1979)
for first-come-first-served stations whose times are not exponential.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """A polynomial that was fitted to times; ``error`` is its largest relative residual."""

    coefficients: tuple[float, ...]  # of 1, n, n^2 ...
    error: float = 0.0

    def __call__(self, n: float) -> float:
        """The time at ``n``."""
        return sum(c * n**power for power, c in enumerate(self.coefficients))


def fit(n: Sequence[float], seconds: Sequence[float], degree: int = 1) -> Fit:
    """Least squares of relative errors, with no coefficient below zero.

    A coefficient that would be negative is left out, and the others are fitted again.
    """
    x, y = np.asarray(n, float), np.asarray(seconds, float)
    powers = list(range(degree + 1))
    while True:
        columns = np.stack([x**power for power in powers], axis=1)
        found = np.linalg.lstsq(columns / y[:, None], np.ones_like(y), rcond=None)[0]
        if found.min() >= 0 or len(powers) == 1:
            break
        del powers[int(found.argmin())]
    coefficients = [0.0] * (degree + 1)
    for power, value in zip(powers, found, strict=True):
        coefficients[power] = max(float(value), 0.0)
    return Fit(tuple(coefficients), float(np.abs(columns @ found / y - 1.0).max()))


@dataclass(frozen=True)
class Driver:
    """What the scheduler's own process spends.

    Attributes:
        look: a look at what is ready, as a function of the workers.
        answer: one answer and the request that follows it, as a function of the workers.
        ask: sync: the request of one worker.
        take: sync: the answer of one worker.
        join: sync: the learner's request and its answer, as a function of the batches joined.
    """

    look: Fit
    answer: Fit
    ask: float
    take: float
    join: Fit

    def answers_per_look(self, workers: int, rate: float) -> float:
        """How many answers are there at each look; above one only when it never rests."""
        look, answer, answers = self.look(workers), self.answer(workers), 2.0 * rate
        if answers * (look + answer) <= 1.0:
            return 1.0
        return answers * look / (1.0 - answers * answer) if answers * answer < 1.0 else math.inf

    def share(self, workers: int, rate: float) -> float:
        """The share of its time that it is busy."""
        at_once = self.answers_per_look(workers, rate)
        return min(1.0, 2.0 * rate * (self.answer(workers) + self.look(workers) / at_once))

    def response(self, workers: int, rate: float) -> float:
        """From an answer's arrival until the next request is out: on average half of the look
        in progress, then a look of its own, and those that it finds there.
        """
        look, answer = self.look(workers), self.answer(workers)
        at_once = self.answers_per_look(workers, rate)
        if math.isinf(at_once):
            return math.inf
        whole = look + at_once * answer
        return self.share(workers, rate) * whole / 2.0 + look + (at_once + 1.0) / 2.0 * answer


def response(service: float, rate: float, customers: int, scv: float = 0.0) -> float:
    """Waiting and service at one first-come-first-served station of a closed network.

    Args:
        service: its time for one batch.
        rate: batches per second.
        customers: requests in the network; an arrival finds what the others queue.
        scv: squared coefficient of variation of the service time: 0 always the same, 1 exponential
            (Schweitzer's approximation, and Pollaczek and Khinchine's formula for many customers).
    """
    others = (customers - 1) / customers * rate * service
    if others >= 1.0:
        return math.inf
    return service * (1.0 - others * (1.0 - scv) / 2.0) / (1.0 - others)


def async_rate(
    workers: int,
    work: float,
    stations: Sequence[float],
    delay: float = 0.0,
    driver: Driver | None = None,
    in_flight: int = 2,
    scv: float = 0.0,
) -> float:
    """Batches per second of workers that are never waited for.

    Each of N workers has ``in_flight`` requests under way, and works on one at a time. So the rate
    X is the largest with X <= N / work and work + T(X) <= in_flight N / X, where T is the time that
    a request spends elsewhere: at the stations, on its way, and twice at the driver.

    Args:
        workers: N.
        work: a worker's time for one batch.
        stations: times for one batch of what all share: the learner, a network.
        delay: what a request waits for without a queue.
        driver: the scheduler's process.
        in_flight: requests per worker.
        scv: as in `response`.
    """
    customers = in_flight * workers

    def elsewhere(rate: float) -> float:
        there = sum(response(service, rate, customers, scv) for service in stations)
        return there + delay + (2.0 * driver.response(workers, rate) if driver else 0.0)

    def feasible(rate: float) -> bool:
        return work + elsewhere(rate) <= customers / rate

    most = min([workers / work if work else math.inf, *(1.0 / s for s in stations if s)])
    if driver:
        most = min(most, 1.0 / (2.0 * driver.answer(workers)))
    return _largest(feasible, most)


def bound(
    workers: int, work: float, stations: Sequence[float], delay: float = 0.0, in_flight: int = 2
) -> float:
    """The asymptotic bound of `async_rate`: no request ever waits for another at a station."""
    alone = work + sum(stations) + delay
    limits = [workers / work if work else math.inf, in_flight * workers / alone]
    return min(limits + [1.0 / service for service in stations if service])


def sync_cycle(
    workers: int,
    work: float,
    update: float,
    driver: Driver,
    delay: float = 0.0,
    cv: float = 0.0,
) -> tuple[float, float]:
    """Seconds of one cycle in step, and how many of them the driver is busy.

    The driver asks one worker after the other, and takes their answers in the same order, while
    those that were asked later still work. The last of N workers is about sqrt(2 ln N) deviations
    later than the mean (Gumbel's limit for normal times).

    Args:
        workers: N.
        work: the mean time of one worker for its batch.
        update: the learner's time for the N batches.
        driver: the scheduler's process.
        delay: what requests wait for without a queue.
        cv: coefficient of variation of a worker's time.
    """
    last = work * (1.0 + cv * math.sqrt(2.0 * math.log(workers)))
    ask, take, join = driver.ask, driver.take, driver.join(workers)
    produced = max(last + workers * max(ask, take), workers * (ask + take))
    return produced + join + update + delay, workers * (ask + take) + join


def _largest(feasible: Callable[[float], bool], most: float) -> float:
    """The largest rate that is feasible; what is feasible ends once, at or below ``most``."""
    if feasible(most):
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if feasible(middle) else (low, middle)
    return low
