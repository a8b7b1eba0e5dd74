"""A replay ring: preallocated columns, uniform minibatches, an integer account of updates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlgen.batch import Batch

NOT_REPLAYED = ("valid", "truncated")


@dataclass(frozen=True)
class ReplayPlan:
    """How an algorithm learns from its replay.

    Attributes:
        capacity: transitions kept; the oldest are overwritten.
        batch_size: transitions per update.
        learning_starts: transitions stored before the first update.
        updates_per_step: updates owed per environment step, as ``(updates, steps)`` integers.
        n_step: rewards summed per row, discounted by ``gamma`` (see `LinkedReplay`).
        gamma: discount per step of that sum; read only with ``n_step`` above 1.
        sequence: consecutive rows drawn together; 1: single ones.
        priority_exponent: alpha of proportional priorities; None: drawn uniformly.
    """

    capacity: int
    batch_size: int
    learning_starts: int
    updates_per_step: tuple[int, int] = (1, 1)
    n_step: int = 1
    gamma: float = 1.0
    sequence: int = 1
    priority_exponent: float | None = None


class Replay:
    """The ring itself. Columns are allocated at the first insertion, from its shapes and dtypes."""

    def __init__(self, plan: ReplayPlan, rng: np.random.Generator) -> None:
        self.plan = plan
        self.rng = rng
        self.columns: Batch = {}
        self.size = 0
        self.next = 0
        self.owed = 0  # in units of 1 / steps of an update

    def take(self, batch: Batch, workers: list[int]) -> None:
        """Append the valid transitions of a rollout ``(T, B, ...)`` of these workers, joined."""
        self.insert(rows_of(batch))

    def insert(self, rows: Batch) -> None:
        """Append rows ``(n, ...)``, oldest first, and credit the updates that they owe."""
        count = len(next(iter(rows.values())))
        if not self.columns:
            # Zeros, for checkpoints have what is not filled yet too, and memory may hold anything.
            self.columns = {
                name: np.zeros((self.plan.capacity, *column.shape[1:]), column.dtype)
                for name, column in rows.items()
            }
        kept = min(count, self.plan.capacity)  # of a longer batch only the latest fit
        slots = (self.next + np.arange(count - kept, count)) % self.plan.capacity
        for name, column in self.columns.items():
            column[slots] = rows[name][count - kept :]
        self.next = (self.next + count) % self.plan.capacity
        self.size = min(self.size + count, self.plan.capacity)
        if self.size >= self.plan.learning_starts:
            self.owed += count * self.plan.updates_per_step[0]

    def owes_update(self) -> bool:
        """Whether an update is owed; if so, its cost leaves the account."""
        if self.owed < self.plan.updates_per_step[1]:
            return False
        self.owed -= self.plan.updates_per_step[1]
        return True

    def sample(self) -> Batch:
        """A uniform minibatch ``(batch_size, ...)``, drawn with replacement."""
        rows = self.rng.integers(self.size, size=self.plan.batch_size)
        return {name: column[rows] for name, column in self.columns.items()}

    def learned(self, priorities: object) -> None:
        """Take the priorities of the rows drawn last; a uniform replay has no use for them."""


def rows_of(batch: Batch) -> Batch:
    """The valid transitions of a rollout ``(T, B, ...)`` as rows, in order of time."""
    valid = batch["valid"]
    return {name: column[valid] for name, column in batch.items() if name not in NOT_REPLAYED}
