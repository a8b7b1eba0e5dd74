"""The learner: hosts the algorithm, its device and its replay, and publishes new weights."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rlgen import checkpoint, state
from rlgen.algorithm import Metrics, read_weights, write_weights
from rlgen.batch import Batch, concatenate, to_tensors
from rlgen.config import Experiment
from rlgen.finite import Gradients
from rlgen.linked_replay import make_replay
from rlgen.moments import Standardiser
from rlgen.problem import build
from rlgen.rollout import Info

# Batches from Ray's object store are read-only; no algorithm writes into its batch.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")

Report = dict[str, Any]
PARTS = ("learner", "replay")  # of a checkpoint, from which a learner goes on


class Learner:
    """An actor: turns batches into new weights."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.experiment = experiment
        self.algorithm = build(experiment, seed)
        self.device = "cuda" if experiment.scheduler.learner_gpus else "cpu"
        for value in vars(self.algorithm).values():
            if isinstance(value, nn.Module):
                value.to(self.device)
        self.gradients = Gradients(self.algorithm, experiment.fault)
        self.replay = make_replay(self.algorithm)
        self.version = 0
        self.updates = 0
        self.standardiser = Standardiser()
        self.latest: Metrics = {}

    def weights(self) -> tuple[np.ndarray, int]:
        """The flat shared weights and their version."""
        return read_weights(self.algorithm), self.version

    def update(self, infos: list[Info], *batches: Batch) -> tuple[np.ndarray, Report]:
        """Learn from the batches of one cycle and publish the next version.

        Args:
            infos: what the workers said of each batch.
            batches: one per worker, in the order of the workers.

        Returns:
            The new flat weights, and a report of a few numbers.
        """
        arrived, began = time.time(), time.perf_counter()
        lags = [self.version - info["version"] for info in infos]
        parts = [dict(batch) for batch in batches]
        moments = [part.pop("moments") for part in parts if "moments" in part]
        if moments:
            self.standardiser.take(moments, self.algorithm.network)  # type: ignore[attr-defined]
        self.algorithm.env_steps += sum(info.get("env_steps", 0) for info in infos)
        batch = concatenate(parts, self.algorithm.batch_axis)
        if self.replay is not None:
            self.replay.take(batch, [info["worker"] for info in infos])
        ingested = time.perf_counter()
        self._learn(batch)
        self.version += 1
        weights = read_weights(self.algorithm)
        ended = time.perf_counter()
        return weights, {
            "version": self.version,
            "updates": self.updates,
            "replayed": self.algorithm.replayed,
            "converged": self.algorithm.converged,
            "lags": lags,
            "seconds": {"ingest": ingested - began, "update": ended - ingested},
            "not_finite": self.gradients.tally.take(),
            "began": arrived,
            "ended": arrived + ended - began,  # of no clock that can be set back
        }

    def _learn(self, batch: Batch) -> None:
        """One update of a fresh batch, or as many of replayed ones as are owed."""
        if self.replay is None:
            self._update(batch)
            return
        while self.replay.owes_update():
            self._update(self.replay.sample())
            self.replay.learned(self.algorithm.priorities)

    def _update(self, batch: Batch) -> None:
        columns = to_tensors(batch, self.device) if self.algorithm.on_tensors else batch
        self.updates += 1
        self.latest = self.gradients.update(columns, self.updates, self.latest)

    def metrics(self) -> dict[str, float]:
        """The metrics of the latest update (apart from it, for reading waits for the device)."""
        return {name: float(value) for name, value in self.latest.items()}

    def adopt(self, weights: np.ndarray) -> None:
        """Take the given weights, those that an evaluation found to reach the target."""
        write_weights(self.algorithm, weights)
        self.version += 1

    def save(self, folder: str, with_replay: bool) -> dict[str, checkpoint.Part]:
        """Write the parts ``weights``, ``learner`` and ``replay`` of a checkpoint being made.

        Returns:
            The parts, where this machine does not see the folder; else none.
        """
        own = state.capture(self, skip=("replay", "device", "latest", "peers", "gradients"))
        parts: dict[str, checkpoint.Part] = {
            "weights": ({"version": self.version}, {"weights": read_weights(self.algorithm)}),
            "learner": (own.plain, own.arrays),
        }
        if self.replay is not None and with_replay:
            ring = state.capture(self.replay, skip=("rng",))
            parts["replay"] = ring.plain, ring.arrays
        return checkpoint.write_parts(Path(folder), parts)

    def sees(self, folder: str) -> bool:
        """Whether this machine sees a folder that the driver has just made."""
        return checkpoint.is_here(Path(folder))

    def load(self, folder: str, parts: dict[str, checkpoint.Part] | None = None) -> None:
        """Go on from a verified checkpoint; without a stored replay, from an empty one.

        Args:
            folder: the checkpoint.
            parts: what it holds, where this machine does not see the folder.
        """
        parts = parts or checkpoint.read_parts(Path(folder), PARTS)
        state.restore(self, *parts["learner"])
        if self.replay is not None and "replay" in parts:
            state.restore(self.replay, *parts["replay"])
