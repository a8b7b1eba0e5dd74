"""A ring of frames: stacked images of a replay keep each frame once, not 2k times."""

from __future__ import annotations

import numpy as np

NAMES = ("observation", "next_observation")
BLOCK = 1024  # frames copied at a time when the ring grows
MOST = 16  # frames of a stack


class Frames:
    """Frames of stacked observations ``(k, ...)``, and which of them each row of a replay shows.

    A row that continues another adds one frame, its successor's newest. A row that begins an
    episode adds its stack, a repeated frame once. A successor that is not its observation shifted
    by one frame is kept whole: so what comes out is what went in, whatever that was.

    Frames are numbered in order of arrival and kept in a ring, which grows where episodes are so
    short that their first stacks need more room than planned.

    Attributes:
        names: the columns kept here; empty where observations are not stacks.

    Args:
        capacity: rows of the replay.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.names: tuple[str, ...] = ()
        self.frames = np.zeros(0)  # (F, ...): frame n is in place n % F
        self.shown = np.zeros(0, np.int64)  # (capacity, 2, k): numbers of the frames of each row
        self.total = 0  # frames ever added
        self.low = 0  # no row shows a frame before this one

    def choose(self, observation: np.ndarray, successor: np.ndarray) -> None:
        """Keep these columns ``(n, k, ...)`` here if they are stacks of pictures."""
        count, *shape = observation.shape
        if len(shape) < 3 or not 1 < shape[0] <= min(MOST, *shape[1:]):
            return
        if not _equal(observation[:, 1:], successor[:, :-1]).all():
            return
        self.names = NAMES
        self.shown = np.zeros((self.capacity, 2, shape[0]), np.int64)
        room = self.capacity + self.capacity // 32 + 2 * count
        self.frames = np.zeros((room, *shape[1:]), observation.dtype)

    def insert(
        self,
        observation: np.ndarray,
        successor: np.ndarray,
        previous: np.ndarray,
        streams: np.ndarray,
        first: int,
    ) -> None:
        """Add rows ``(n, k, ...)``, the first of which has number ``first``.

        ``previous`` is what `Links.insert` returned of them, ``streams`` what it was given.
        """
        k = observation.shape[1]
        order = np.argsort(streams, kind="stable")
        source, observation, successor = previous[order], observation[order], successor[order]
        begins, carries = source < 0, (source >= 0) & (source < first)
        shifts = _equal(observation[:, 1:], successor[:, :-1])
        # In this order each row has, in a list of frames, its k observed ones right before its
        # own: they are the k latest of the row that it continues, or put there for it.
        own = np.where(shifts, 1, k)
        ends = (np.where(begins | carries, k, 0) + own).cumsum()
        seen, led_to = (stop[:, None] + np.arange(-k, 0) for stop in (ends - own, ends))
        new = np.ones(ends[-1], np.bool_)
        new[seen[carries]] = False
        for i in range(1, k):
            repeats = _equal(observation[:, i], observation[:, i - 1]) & begins
            new[seen[repeats, i]] = False
        numbers = self.total + new.cumsum() - 1  # a repeated frame has the number before it
        numbers[seen[carries]] = self.shown[source[carries] % self.capacity, 1]
        rows = (first + order) % self.capacity
        self.shown[rows, 0], self.shown[rows, 1] = numbers[seen], numbers[led_to]
        self._make_room(int(new.sum()), min(first + len(order), self.capacity))
        self._write(numbers[seen[begins]], observation[begins])
        self._write(numbers[led_to[shifts, -1]], successor[shifts, -1])
        self._write(numbers[led_to[~shifts]], successor[~shifts])
        self.total += int(new.sum())

    def take(self, name: str, slots: np.ndarray) -> np.ndarray:
        """The stacks of a column in ``slots`` of any shape."""
        taken: np.ndarray = self.frames[self.shown[slots, NAMES.index(name)] % len(self.frames)]
        return taken

    def _write(self, numbers: np.ndarray, frames: np.ndarray) -> None:
        self.frames[numbers % len(self.frames)] = frames

    def _make_room(self, count: int, rows: int) -> None:
        """Have room for ``count`` more frames beside those that the first ``rows`` slots show."""
        if self.total + count - self.low <= len(self.frames):
            return
        self.low = int(self.shown[:rows, 0].min())
        needed = self.total + count - self.low
        if needed <= len(self.frames):
            return
        old = self.frames
        self.frames = np.zeros((needed * 5 // 4, *old.shape[1:]), old.dtype)
        for start in range(self.low, self.total, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, self.total))
            self._write(numbers, old[numbers % len(old)])


def _equal(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Which rows are equal, ``(n,)`` bool."""
    same: np.ndarray = (left == right).reshape(len(left), -1).all(axis=1)
    return same


def push_frame(
    frames: np.ndarray, successor: np.ndarray, observation: np.ndarray, fresh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The latest k observations ``(B, k, ...)`` with one more, up to the successors and to act on.

    Args:
        frames: ``(B, k, ...)`` before; not written to.
        successor: ``(B, ...)`` the new ones.
        observation: ``(B, ...)`` the ones to act on.
        fresh: rows in which an episode begins, where the first observation is repeated k times.
    """
    seen = np.concatenate([frames[:, 1:], successor[:, None]], axis=1)
    if not fresh.size:
        return seen, seen
    acted = seen.copy()
    acted[fresh] = observation[fresh][:, None]
    return seen, acted
