"""The replay with trajectories: n-step returns, sequences, priorities and shared frames."""

from __future__ import annotations

import numpy as np

from rlgen.algorithm import Algorithm
from rlgen.batch import Batch, to_arrays
from rlgen.frames import Frames
from rlgen.links import Links
from rlgen.priorities import Priorities
from rlgen.replay import Replay, ReplayPlan, rows_of

OF_THE_LAST_STEP = ("next_observation", "terminated")


class LinkedReplay(Replay):
    """A ring that knows which row follows which.

    Its minibatches carry, beside the columns,

    - with ``plan.n_step`` n > 1: ``reward``, the discounted sum of up to n rewards;
      ``next_observation`` and ``terminated`` of the last of them; ``discount``, gamma^m for m
      rewards. An episode's end makes m smaller, a rollout's does not; only the newest rows, whose
      followers are yet to come, have fewer till then.
    - with ``plan.sequence`` L > 1: columns ``(L, batch_size, ...)`` of consecutive rows, and
      ``valid``, which of them belong to the first one's episode.
    - with ``plan.priority_exponent``: ``probability`` ``(batch_size,)``, P(i) of the (first) row.

    Stacked images share their frames (`rlgen.frames`).
    """

    def __init__(self, plan: ReplayPlan, rng: np.random.Generator) -> None:
        super().__init__(plan, rng)
        self.links = Links(plan.capacity)
        self.frames = Frames(plan.capacity)
        alpha = plan.priority_exponent
        self.priorities = None if alpha is None else Priorities(plan.capacity, alpha)
        self.drawn = np.zeros(0, np.int64)

    def take(self, batch: Batch, workers: list[int]) -> None:
        """Append the valid transitions of a rollout; each worker's environments are streams."""
        valid = batch["valid"]
        width = valid.shape[1] // len(workers)
        streams = (np.array(workers)[:, None] * width + np.arange(width)).reshape(-1)
        rows = rows_of(batch) | {"truncated": batch["truncated"][valid]}
        self.insert(rows, streams[valid.nonzero()[1]])

    def insert(self, rows: Batch, streams: np.ndarray | None = None) -> None:
        """Append rows ``(n, ...)``, oldest first.

        Args:
            rows: columns, with ``truncated`` where episodes are cut.
            streams: ``(n,)`` int, the environment of each row; None: all of one.
        """
        count, most = len(rows["terminated"]), self.plan.capacity
        streams = np.zeros(count, np.int64) if streams is None else streams
        for first in range(0, count, most):  # a batch may be longer than the ring
            part = slice(first, first + most)
            self._insert({name: rows[name][part] for name in rows}, streams[part])

    def _insert(self, rows: Batch, streams: np.ndarray) -> None:
        ended = rows["terminated"] | rows.pop("truncated", np.False_)
        seen, led_to = rows["observation"], rows["next_observation"]
        first = self.links.total
        previous = self.links.insert(seen, led_to, ended, streams)
        if first == 0:
            self.frames.choose(seen, led_to)
        if self.frames.names:
            self.frames.insert(seen, led_to, previous, streams, first)
            rows = {name: column for name, column in rows.items() if name not in self.frames.names}
        super().insert(rows)
        if self.priorities:
            self.priorities.add(np.arange(first, self.links.total) % self.plan.capacity)

    def sample(self) -> Batch:
        """A minibatch of ``batch_size`` rows or sequences, drawn with replacement."""
        plan = self.plan
        own: Batch = {}
        if self.priorities:
            slots, own["probability"] = self.priorities.draw(plan.batch_size, self.rng)
        else:
            slots = self.rng.integers(self.size, size=plan.batch_size)
        self.drawn = slots
        if plan.sequence > 1:
            slots, own["valid"] = self.links.sequences(slots, plan.sequence)
        last = slots
        if plan.n_step > 1:
            reward = self.columns["reward"]
            last, own["reward"], own["discount"] = self.links.n_step(
                slots, plan.n_step, reward, plan.gamma
            )
        names = [name for name in (*self.columns, *self.frames.names) if name not in own]
        where = {name: last if name in OF_THE_LAST_STEP else slots for name in names}
        return {name: self._column(name, where[name]) for name in names} | own

    def learned(self, priorities: object) -> None:
        """Set the priorities ``(batch_size,)``, a tensor or an array, of the rows drawn last."""
        if self.priorities:
            self.priorities.set(self.drawn, to_arrays({"priority": priorities})["priority"])

    def _column(self, name: str, slots: np.ndarray) -> np.ndarray:
        if name in self.frames.names:
            return self.frames.take(name, slots)
        return self.columns[name][slots]


def make_replay(algorithm: Algorithm) -> Replay | None:
    """The replay that an algorithm plans, linked where its plan or its observations ask for it."""
    plan, space = algorithm.replay, algorithm.problem.observation_space
    if plan is None:
        return None
    linked = plan.n_step > 1 or plan.sequence > 1 or plan.priority_exponent is not None
    pictures = len((space.shape if space else None) or ()) >= 3
    return (LinkedReplay if linked or pictures else Replay)(plan, algorithm.rng)
