"""Proportional priorities: a sum tree over the slots of a replay, drawn from in strata.

Schaul, Quan, Antonoglou and Silver, *Prioritized experience replay*, 2016.
"""

from __future__ import annotations

import numpy as np

WIDTH = 64  # children per node: three levels for 262,144 slots, and each is one NumPy call


class SumTree:
    """Weights of ``capacity`` slots, with the sums by which one is found in O(log n).

    A node has 64 children rather than two: the walk of a whole minibatch from the root to its
    leaves is then a few array operations, not a few dozen.
    """

    def __init__(self, capacity: int) -> None:
        size = WIDTH
        while size < capacity:
            size *= WIDTH
        self.levels = []  # from the leaves to the children of the root, float64 each
        while size >= WIDTH:
            self.levels.append(np.zeros(size))
            size //= WIDTH

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self.levels[-1].sum())

    def set(self, slots: np.ndarray, weights: np.ndarray) -> None:
        """Set the weights ``(n,)`` of ``slots`` ``(n,)`` and the sums above them."""
        self.levels[0][slots] = weights
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            slots = slots // WIDTH
            level[slots] = below.reshape(-1, WIDTH)[slots].sum(axis=1)

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The slots ``(n,)`` at which the running sum of the weights passes ``mass`` ``(n,)``.

        A slot of weight 0 is never found, whatever the rounding.
        """
        slots = np.zeros(len(mass), np.int64)
        for level in reversed(self.levels):
            sums = level.reshape(-1, WIDTH)[slots].cumsum(axis=1)
            mass = np.minimum(mass, np.nextafter(sums[:, -1], 0.0))
            child = (sums <= mass[:, None]).sum(axis=1)
            start = np.where(child > 0, np.take_along_axis(sums, child[:, None] - 1, 1)[:, 0], 0.0)
            mass, slots = mass - start, slots * WIDTH + child
        return slots


class Priorities:
    """Priorities p of a replay's slots; slot i is drawn with P(i) = p_i^alpha / sum_j p_j^alpha.

    Args:
        capacity: slots.
        alpha: how much the priorities count, >= 0.
    """

    def __init__(self, capacity: int, alpha: float) -> None:
        self.alpha = alpha
        self.tree = SumTree(capacity)
        self.largest = 1.0

    def add(self, slots: np.ndarray) -> None:
        """Give new rows the largest priority so far, so that each is soon learned from."""
        self.tree.set(slots, np.full(len(slots), self.largest**self.alpha))

    def set(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities ``(n,)``, all > 0, of rows that were learned from."""
        self.largest = max(self.largest, float(priorities.max()))
        self.tree.set(slots, priorities.astype(np.float64) ** self.alpha)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One slot from each of ``count`` equal parts of the total; with its P(i) as float32."""
        total = self.tree.total
        slots = self.tree.find((np.arange(count) + rng.random(count)) * (total / count))
        return slots, (self.tree.levels[0][slots] / total).astype(np.float32)
