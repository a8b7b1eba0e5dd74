"""How busy everyone is: the throughput, the lag and the health of each worker, over a window."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlgen.config import Experiment

#: What workers are measured in, by where their batches come from; else in batches.
UNITS = {"environment": "env_steps", "data": "samples"}


class Workload:
    """Adds up what workers and learner say of their time; `take` gives the figures since the last.

    Args:
        experiment: says what workers make.
        now: seconds of a clock that cannot be set back.

    Attributes:
        since: seconds of that clock; when the window began.
        seconds: where each role's time went since the beginning, by what was done.
    """

    def __init__(self, experiment: Experiment, now: float) -> None:
        self._unit = UNITS.get(experiment.source, "batches")
        self.seconds: dict[str, Counter[str]] = {"worker": Counter(), "learner": Counter()}
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Begin a window."""
        self.since = now
        self._before = {role: Counter(parts) for role, parts in self.seconds.items()}
        self._done: Counter[int] = Counter()  # by worker
        self._waiting: dict[int, float] = defaultdict(float)
        self._span: dict[int, float] = defaultdict(float)  # from the end of one batch to the next's
        self._lags: dict[int, list[int]] = defaultdict(list)

    def add(self, infos: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
        """Take note of one update: the infos of its batches, and the learner's report."""
        for info, lag in zip(infos, report["lags"], strict=True):
            worker, seconds = info["worker"], info["seconds"]
            self.seconds["worker"].update(seconds)
            self._done[worker] += info.get(self._unit, 1)
            self._waiting[worker] += seconds["waiting"]
            self._span[worker] += sum(seconds.values())
            self._lags[worker].append(lag)
        self.seconds["learner"].update(report["seconds"])

    @property
    def any(self) -> bool:
        """Whether a batch has come since the window began."""
        return bool(self._done)

    def take(
        self, now: float, workers: int, restarts: Mapping[int, int], away: Iterable[int]
    ) -> dict[str, Any]:
        """The values of a record of kind ``workers``, of the time since the last one.

        What a worker does is measured over the time of its own batches: the figures of one of
        which none has come are None.

        Args:
            now: seconds, of the clock of the beginning.
            workers: how many there are, or have been.
            restarts: of each worker that has begun anew, how often.
            away: the workers that cannot be asked now.
        """
        spent = {role: Counter(parts) for role, parts in self.seconds.items()}
        for role, parts in spent.items():
            parts.subtract(self._before[role])
        whole = {"worker": sum(self._span.values()), "learner": now - self.since}
        share, everyone = time_share(spent, whole), range(workers)
        done, waiting, span, lags = self._done, self._waiting, self._span, self._lags
        values = {
            "unit": self._unit,
            "per_s": [_short(done[i], span[i]) for i in everyone],
            "busy": [_short(span[i] - waiting[i], span[i]) for i in everyone],
            "lag": [_short(sum(lags[i]), len(lags[i])) for i in everyone],
            "restarts": [restarts.get(i, 0) for i in everyone],
            "away": list(away),
            "time_share": {
                role: {k: min(round(v, 3), 1.0) for k, v in parts.items()}
                for role, parts in share.items()
            },
        }
        self._begin(now)
        return values


def _short(value: float, per: float) -> float | None:
    """A quotient to four digits."""
    return float(f"{value / per:.4g}") if per else None


def time_share(
    seconds: Mapping[str, Mapping[str, float]], whole: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """What each role did for which share of its time.

    Args:
        seconds: of each role, by what was done; of all workers together.
        whole: seconds that there were for each role, for all workers together.
    """
    return {
        role: {what: spent / max(whole[role], 1e-9) for what, spent in parts.items()}
        for role, parts in seconds.items()
    }


def bottleneck(share: Mapping[str, Mapping[str, float]]) -> str:
    """What held the run up most: ``role: what``, or ``driver``."""
    busy = {
        role: {what: value for what, value in parts.items() if what != "waiting"}
        for role, parts in share.items()
    }
    held = {f"{role}: {w}": value for role, parts in busy.items() for w, value in parts.items()}
    # What is left is the driver's share: calls, records, waiting for the last worker.
    held["driver"] = max(0.0, 1.0 - max(sum(parts.values()) for parts in busy.values()))
    return max(held, key=held.__getitem__)
