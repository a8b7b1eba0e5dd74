"""Which row of a replay follows which: the trajectories behind its rows."""

from __future__ import annotations

import numpy as np


class Links:
    """The successor of each row of a ring, in the same environment and episode.

    A stream is one environment of one worker; its rows arrive in order of time, between those of
    others. A row continues its stream's latest one where that did not end an episode and led to
    this row's observation: so a chain also breaks where a worker was replaced or resumed with new
    episodes. Links point to newer rows only, so what a row links to is overwritten after it.

    Args:
        capacity: rows of the ring; row number n (counted from 0) is in slot n % capacity.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.following = np.full(capacity, -1, np.int64)  # slot of the next row; -1: none
        self.total = 0  # rows ever inserted
        self.last = np.zeros(0, np.int64)  # (S,) number of each stream's open row; -1: none
        self.tails = np.zeros(0)  # (S, ...) the observation that it led to

    def insert(
        self,
        observation: np.ndarray,
        successor: np.ndarray,
        ended: np.ndarray,
        streams: np.ndarray,
    ) -> np.ndarray:
        """Link up to ``capacity`` new rows, oldest first.

        Args:
            observation: ``(n, ...)``.
            successor: ``(n, ...)`` the true successors.
            ended: ``(n,)`` bool, terminated or truncated.
            streams: ``(n,)`` int, small numbers from 0.

        Returns:
            ``(n,)`` the number of the row that each one continues; -1: none, or overwritten.
        """
        count, before = len(ended), self.total
        self._know(int(streams.max()) + 1, successor)
        order = np.argsort(streams, kind="stable")  # by stream, then by time
        stream = streams[order]
        first = np.concatenate([[True], stream[1:] != stream[:-1]])
        source = np.roll(before + order, 1)
        source[first] = self.last[stream[first]]
        goes_on = np.roll(~ended[order], 1)
        goes_on[first] = source[first] >= max(before - self.capacity, 0)
        led_to = np.roll(successor[order], 1, axis=0)
        led_to[first] = self.tails[stream[first]]
        goes_on &= (led_to == observation[order]).reshape(count, -1).all(axis=1)
        previous = np.empty(count, np.int64)
        previous[order] = np.where(goes_on, source, -1)
        latest = order[np.roll(first, -1)]  # the last row of each stream
        self.last[streams[latest]] = np.where(ended[latest], -1, before + latest)
        self.tails[streams[latest]] = successor[latest]
        self.total += count
        slots = np.arange(before, self.total) % self.capacity
        self.following[slots] = -1
        kept = previous >= max(self.total - self.capacity, 0)
        self.following[previous[kept] % self.capacity] = slots[kept]
        return previous

    def _know(self, streams: int, successor: np.ndarray) -> None:
        """Have room for so many streams."""
        new = streams - len(self.last)
        if not len(self.last):
            self.tails = np.zeros((0, *successor.shape[1:]), successor.dtype)
        if new > 0:
            self.last = np.concatenate([self.last, np.full(new, -1, np.int64)])
            more = np.zeros((new, *self.tails.shape[1:]), self.tails.dtype)
            self.tails = np.concatenate([self.tails, more])

    def n_step(
        self, slots: np.ndarray, n: int, reward: np.ndarray, gamma: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Discounted sums of the up to n rewards from each row on.

        Fewer where an episode ends before, or where the stream's later rows are yet to come.

        Args:
            slots: any shape.
            n: steps, >= 1.
            reward: ``(capacity,)`` float32 of the ring.
            gamma: discount per step.

        Returns:
            In the shape of ``slots``: the slot of the last row of each sum of m rewards, the sum
            (float32), and gamma^m (float32), by which its successor's value is discounted.
        """
        final, total = slots, reward[slots]
        discount = np.full(slots.shape, gamma, reward.dtype)
        for _ in range(n - 1):
            following = self.following[final]
            more = following >= 0
            final = np.where(more, following, final)
            total = total + np.where(more, discount * reward[final], 0.0).astype(reward.dtype)
            discount = np.where(more, discount * reward.dtype.type(gamma), discount)
        return final, total, discount

    def sequences(self, slots: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows that follow each of ``slots`` ``(B,)``.

        Returns:
            ``(length, B)`` slots, and which of them count: none beyond an episode's end.
        """
        rows, valid = [slots], [np.ones(len(slots), np.bool_)]
        for _ in range(length - 1):
            following = self.following[rows[-1]]
            valid.append(valid[-1] & (following >= 0))
            rows.append(np.where(valid[-1], following, rows[-1]))
        return np.stack(rows), np.stack(valid)
