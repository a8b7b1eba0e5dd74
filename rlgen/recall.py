"""What brings a lost worker of a sync run back to where it was.

From time to time the states of all workers are kept, and from then on every request that they were
given. A new worker takes the state, answers the requests once more, and stands where the lost one
stood, random streams included: so a sync run that lost a worker ends with the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlgen import state

REQUESTS = 32  # answered once more at most
WEIGHTS_BYTES = 2**28  # of the requests that are kept, which name their weights


class Recall:
    """The states of the workers at one moment, and their requests since.

    Attributes:
        states: one per worker; None for the moment at which they began.
        random: the torch random states of their hosts.
        requests: arguments of ``produce``, the same for every worker.
    """

    def __init__(self, weights_bytes: int) -> None:
        self.most = max(1, min(REQUESTS, WEIGHTS_BYTES // max(weights_bytes, 1)))
        self.states: list[state.State] | None = None
        self.random: list[np.ndarray] = []
        self.requests: list[tuple[Any, ...]] = []

    @property
    def full(self) -> bool:
        """Whether it is time to keep the states anew."""
        return len(self.requests) >= self.most

    def keep(self, states: Sequence[state.State], random: Sequence[np.ndarray]) -> None:
        """Take the present states; the requests so far are in them."""
        self.states, self.random = list(states), list(random)
        self.requests = []

    def opaque(self, worker: int) -> str | None:
        """What of a worker cannot be brought back, if anything."""
        if self.states is None or not self.states[worker].opaque:
            return None
        return self.states[worker].opaque[0]
