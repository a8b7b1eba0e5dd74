"""Workers produce batches; here what all share, and the one that rolls out environments.

A worker is an actor; the scheduler calls ``produce`` and gets a batch, whose reference goes on to
the learner, and an ``info`` of a few numbers. A worker holds nothing that its constructor and the
next weights do not bring back, but for episodes and epochs in progress (see `capture`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from rlgen import state
from rlgen.algorithm import Algorithm, write_weights
from rlgen.batch import Batch, allocate, spec_of, to_arrays, to_tensors
from rlgen.config import Experiment
from rlgen.envs.vector import Environments
from rlgen.errors import blaming
from rlgen.finite import Finite, cut_before
from rlgen.moments import moments_of
from rlgen.problem import build

Info = dict[str, Any]
Produced = tuple[Batch, Info]


def act(algorithm: Algorithm, observation: np.ndarray, starts: np.ndarray, greedy: bool) -> Batch:
    """The algorithm's columns for observations ``(B, ...)``, as arrays.

    ``starts`` marks the rows in which an episode begins (`Algorithm.starts`).
    """
    algorithm.starts = starts
    if not algorithm.on_tensors:
        return algorithm.act(observation, greedy)
    with torch.no_grad():
        return to_arrays(algorithm.act(torch.from_numpy(observation), greedy))


class Worker:
    """What the three kinds share: the algorithm, its weights, the clock, the checkpoint."""

    uses_weights = True

    def __init__(self, experiment: Experiment, index: int, seed: int) -> None:
        self.experiment = experiment
        self.index = index
        self.algorithm = build(experiment, seed)
        self.version = -1
        self.idle_since: float | None = None

    def produce(self, weights: np.ndarray, version: int, env_steps: int) -> Produced:
        """One batch made with the given weights, and what the scheduler needs to know of it.

        Args:
            weights: flat shared weights; read only when ``version`` is new.
            version: the learner's version of the weights.
            env_steps: environment steps of the whole run so far, for exploration schedules.
        """
        began, start = time.time(), time.monotonic()
        if version != self.version and self.uses_weights:
            write_weights(self.algorithm, weights)
            self.version = version
        self.algorithm.env_steps = env_steps
        seconds = {"waiting": start - (self.idle_since or start)}
        batch, info = self._make(seconds)
        self.idle_since = time.monotonic()
        info |= {"worker": self.index, "version": version, "seconds": seconds}
        return batch, info | {"began": began, "ended": began + self.idle_since - start}

    def _make(self, seconds: dict[str, float]) -> Produced:
        """One batch and its info; adds to ``seconds`` where the time went."""
        raise AssertionError("each kind of worker makes its own batches")

    def _process(self, batch: Batch) -> Batch:
        if self.algorithm.on_tensors:
            return to_arrays(self.algorithm.process(to_tensors(batch)))
        return self.algorithm.process(batch)

    def capture(self) -> state.State:
        """What a checkpoint keeps of this worker: all but what comes with the next weights."""
        learned = [k for k, v in vars(self.algorithm).items() if isinstance(v, state.LOADABLE)]
        skip = [f"algorithm.{name}" for name in (*learned, self.algorithm.shared)]
        return state.capture(self, skip=("version", "idle_since", *skip))

    def restore(self, plain: Any, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what a checkpoint kept."""
        state.restore(self, plain, arrays)


class RolloutWorker(Worker):
    """Steps its environments with one batched forward each, straight into the batch."""

    def __init__(self, experiment: Experiment, index: int, seed: int) -> None:
        super().__init__(experiment, index, seed)
        assert experiment.env is not None
        self.config = experiment.env
        self.who = f"environment worker {index}: environment {self.config.id!r} (seed {seed})"
        finite = Finite(self.who, experiment.fault)
        self.env = Environments(self.config, self.config.num_envs, seed, finite=finite)
        with blaming(self.who, "reset"):
            self.observation = self.env.reset()
        self.starts = np.ones(self.config.num_envs, np.bool_)

    def _make(self, seconds: dict[str, float]) -> Produced:
        steps = self.experiment.hyperparameters.rollout_steps  # type: ignore[attr-defined]
        inference = environment = 0.0
        batch: Batch = {}
        for t in range(steps):
            start = time.perf_counter()
            columns = act(self.algorithm, self.observation, self.starts, greedy=False)
            acted = time.perf_counter()
            with blaming(self.who, "step"):
                step = self.env.step(columns["action"])
            environment += time.perf_counter() - acted
            inference += acted - start
            columns |= step._asdict() | {"observation": self.observation}
            self.observation, self.starts = step.observation, step.starts
            if not batch:
                batch = allocate(spec_of(columns, (steps,)))
            for name, rows in columns.items():
                batch[name][t] = rows
        if found := self.env.finite.tally.take():
            cut_before(batch)
        info: Info = {"env_steps": int(batch["valid"].sum()), "episodes": self.env.finished[:]}
        info["not_finite"] = found
        info["metrics"] = self.env.take_metrics()
        self.env.finished.clear()
        start = time.perf_counter()
        produced = self._process(batch)
        if self.config.normalize_observation:
            produced = produced | {"moments": moments_of(batch["observation"][batch["valid"]])}
        processing = time.perf_counter() - start
        seconds |= {"inference": inference, "environment": environment, "process": processing}
        return produced, info
