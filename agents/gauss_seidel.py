"""Gauss-Seidel sweeps of a model, many states at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from rlgen.agents.planning import Backups, best_values


@dataclass(frozen=True)
class GaussSeidel:
    """Sweeps a slice in the order of its states, each with the new values of those before it.

    The new value of a state needs those of its successors that come before it in the slice. So the
    slice is cut into groups, each of which needs earlier groups only, and a group is swept at once:
    exactly what the loop over the states gives. 100,000 states with 16 random successors make some
    50 groups, a grid as many as it has diagonals, a chain one per state.

    Attributes:
        part: the slice, of n states.
        old: ``(n * A, S)``, its rows without the entries below.
        groups: the states of each group, ascending.
        first: where each group's entries begin, ``(groups + 1,)``.
        target: of every entry (one of p(s' | s, a) with s' before s): its row in its group.
        column: s'.
        data: p(s' | s, a).
    """

    part: Backups
    old: scipy.sparse.csr_array
    groups: list[np.ndarray]
    first: np.ndarray
    target: np.ndarray
    column: np.ndarray
    data: np.ndarray

    @classmethod
    def of(cls, part: Backups) -> GaussSeidel:
        """Cut a slice into groups."""
        states, actions = part.rewards.shape
        entry = part.rows.tocoo()
        state, earlier = entry.row // actions, entry.col - part.first
        new = (earlier >= 0) & (earlier < state)
        old = (entry.data[~new], (entry.row[~new], entry.col[~new]))
        groups = _groups(earlier[new].astype(np.int64), state[new].astype(np.int64), states)
        group, place = np.empty(states, np.int64), np.empty(states, np.int64)
        for number, members in enumerate(groups):
            group[members], place[members] = number, np.arange(len(members))
        number = group[state[new]]
        order = np.argsort(number, kind="stable")
        return cls(
            part,
            scipy.sparse.csr_array(old, shape=part.rows.shape),
            groups,
            np.searchsorted(number[order], np.arange(len(groups) + 1)),
            (place[state] * actions + entry.row % actions)[new][order],
            entry.col[new][order],
            entry.data[new][order],
        )

    def sweep(self, values: np.ndarray, gamma: float) -> np.ndarray:
        """The new values ``(n,)`` of the slice, from V ``(S,)``."""
        states, actions = self.part.rewards.shape
        known = self.part.rewards + gamma * (self.old @ values).reshape(states, actions)
        values, offset = values.copy(), self.part.first
        for number, members in enumerate(self.groups):
            rows = slice(self.first[number], self.first[number + 1])
            gain = self.data[rows] * values[self.column[rows]]
            added = np.bincount(self.target[rows], gain, len(members) * actions)
            action_values = known[members] + gamma * added.reshape(-1, actions)
            values[offset + members] = best_values(action_values)
        return values[offset : offset + states]


def _groups(earlier: np.ndarray, later: np.ndarray, states: int) -> list[np.ndarray]:
    """States in groups, so that ``later`` is in a group after that of ``earlier``, pair by pair."""
    earlier, later = np.divmod(np.unique(earlier * states + later), max(states, 1))
    begin = np.searchsorted(earlier, np.arange(states + 1))
    waits = np.bincount(later, minlength=states)  # for how many states of earlier groups
    groups = []
    members = np.flatnonzero(waits == 0)
    while members.size:
        groups.append(members)
        counts = begin[members + 1] - begin[members]
        skipped = np.repeat(begin[members] - np.cumsum(counts) + counts, counts)
        after = later[skipped + np.arange(counts.sum())]
        np.subtract.at(waits, after, 1)
        after = np.unique(after)
        members = after[waits[after] == 0]
    return groups
