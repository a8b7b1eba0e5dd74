"""The workers that need no environment: parts of a data set, and sweeps of a model."""

from __future__ import annotations

import time

from rlgen import demonstrations
from rlgen.config import Experiment
from rlgen.generative import data
from rlgen.rollout import Produced, Worker


def _rows(experiment: Experiment) -> data.Rows:
    """What data workers read: a data set, or the steps of recorded episodes."""
    if experiment.data is not None:
        return data.load(experiment.data, experiment.seed)
    assert experiment.demonstrations is not None
    return demonstrations.load(experiment.demonstrations)


class DataWorker(Worker):
    """Reads its part of every minibatch; the epochs depend on the experiment's seed only."""

    def __init__(self, experiment: Experiment, index: int, seed: int) -> None:
        super().__init__(experiment, index, seed)
        # A model that leaves its minibatches as they are never looks at the weights here.
        self.uses_weights = self.algorithm.has("process")
        self.shard = data.Shard(
            _rows(experiment),
            seed=experiment.seed,
            batch_size=experiment.hyperparameters.batch_size,  # type: ignore[attr-defined]
            worker=index,
            workers=experiment.scheduler.workers,
        )

    def _make(self, seconds: dict[str, float]) -> Produced:
        start = time.perf_counter()
        columns = self.shard.next()
        read = time.perf_counter()
        batch = self._process(columns)
        seconds |= {"read": read - start, "process": time.perf_counter() - read}
        count = len(next(iter(columns.values())))
        return batch, {"samples": count, "epochs": self.shard.epochs}

    def seek(self, minibatches: int) -> None:
        """Go on after so many minibatches of the experiment."""
        self.shard.seek(minibatches)


class ModelWorker(Worker):
    """Sweeps its slice of a model's states."""

    def __init__(self, experiment: Experiment, index: int, seed: int) -> None:
        super().__init__(experiment, index, seed)
        assert self.algorithm.problem.model is not None
        states = len(self.algorithm.problem.model.terminal)
        workers = experiment.scheduler.workers
        self.first, self.last = states * index // workers, states * (index + 1) // workers

    def _make(self, seconds: dict[str, float]) -> Produced:
        start = time.perf_counter()
        batch = self.algorithm.sweep(self.first, self.last)
        seconds["sweep"] = time.perf_counter() - start
        return batch, {}
