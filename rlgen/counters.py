"""What a run has done so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Those that are x axes.
CLOCKS = ("env_steps", "samples", "epochs", "updates", "cycles", "seconds")


@dataclass
class Counters:
    """What a run has done so far; kept in its checkpoints."""

    cycles: int = 0
    env_steps: int = 0
    samples: int = 0
    epochs: float = 0.0
    updates: int = 0
    rows_learned: int = 0  # samples or transitions that the updates learned from
    dropped: int = 0
    restarts: int = 0
    not_finite: int = 0  # numbers, or optimiser steps, that `fault.not_finite` left out
    seconds: float = 0.0  # wall clock of the training loop

    def add(self, infos: Sequence[Mapping[str, Any]], report: Mapping[str, Any]) -> None:
        """Count one cycle, by what its workers and the learner said."""
        fresh = [sum(info.get(what, 0) for info in infos) for what in ("env_steps", "samples")]
        updates = max(report["updates"] - self.updates, 0)
        self.cycles += 1
        self.env_steps += fresh[0]
        self.samples += fresh[1]
        self.epochs = max([self.epochs, *(info.get("epochs", 0.0) for info in infos)])
        self.updates += updates
        self.rows_learned += updates * report["replayed"] if report["replayed"] else sum(fresh)
