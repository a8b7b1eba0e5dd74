"""What planning on an exact model shares: backups, greedy actions and stopping rules."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from rlgen.algorithm import Model, Problem
from rlgen.errors import ConfigError


def check_model(name: str, problem: Problem) -> None:
    """Refuse an environment without a model.

    Raises:
        ConfigError: there is none.
    """
    if problem.model is None:
        raise ConfigError(
            f"env.id: {name} needs an environment with a known model (a transition table), such as "
            "FrozenLake-v1 or rlgen/Cliff-v0"
        )


@dataclass(frozen=True)
class Backups:
    """Bellman backups of n states, ``first <= s < first + n``, of a model or of a policy's chain.

    Attributes:
        rows: ``(n * A, S)``, p(. | s, a); a policy's chain has A = 1.
        rewards: ``(n, A)``.
        first: the number of the first state.
        parts: those that were cut, for cutting costs as much as multiplying.
    """

    rows: scipy.sparse.csr_array
    rewards: np.ndarray
    first: int = 0
    parts: dict[tuple[int, int], Backups] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, policy: np.ndarray | None = None) -> Backups:
        """Of all states of a model, for all actions or those of a policy.

        Args:
            model: of S states and A actions.
            policy: ``(S,)`` int actions, or ``(S, A)`` float probabilities.
        """
        if policy is None:
            return cls(model.transitions, model.rewards)
        states, actions = model.rewards.shape
        if policy.ndim == 1:
            rows = np.arange(states) * actions + policy
            return cls(model.transitions[rows], model.rewards.reshape(-1, 1)[rows])
        chosen, first = np.arange(states * actions), np.arange(0, states * actions + 1, actions)
        mixture = scipy.sparse.csr_array((policy.ravel(), chosen, first))
        return cls(mixture @ model.transitions, (policy * model.rewards).sum(axis=1)[:, None])

    def part(self, first: int, last: int) -> Backups:
        """The backups of the states ``first <= s < last`` (of all: see `first`)."""
        if (first, last) == (0, len(self.rewards)):
            return self
        if (first, last) not in self.parts:
            actions = self.rewards.shape[1]
            rows = self.rows[first * actions : last * actions]
            self.parts[first, last] = Backups(rows, self.rewards[first:last], first)
        return self.parts[first, last]

    def action_values(self, values: np.ndarray, gamma: float) -> np.ndarray:
        """Q(s, a) = r(s, a) + gamma * sum_s' p(s' | s, a) V(s'), ``(n, A)``, of V ``(S,)``."""
        q: np.ndarray = (self.rows @ values).reshape(self.rewards.shape)
        q *= gamma  # in place: the arrays are large and new pages are slow
        q += self.rewards
        return q


def best_values(action_values: np.ndarray) -> np.ndarray:
    """max_a Q(s, a), ``(n,)``; as ``max(axis=1)``, which is 15 times slower over a short axis."""
    return functools.reduce(np.maximum, action_values.T).copy()


def nearly(best: np.ndarray) -> np.ndarray:
    """What counts as equal to ``best``: else noise in the last bit would choose the policy."""
    return best - 1e-12 * np.maximum(1.0, np.abs(best))


def greedy_actions(action_values: np.ndarray, best: np.ndarray) -> np.ndarray:
    """The best actions ``(n,)`` int64; of those that are equal up to rounding the first."""
    actions: np.ndarray = (action_values >= nearly(best)[:, None]).argmax(axis=1)
    return actions


def greedy_in(
    model: Model, values: np.ndarray, gamma: float, observation: np.ndarray
) -> np.ndarray:
    """The greedy actions of V in states ``(B,)``."""
    rewards = model.rewards[observation]
    actions = rewards.shape[1]
    rows = np.asarray(observation)[:, None] * actions + np.arange(actions)
    expected = model.transitions[rows.ravel()] @ values
    action_values = rewards + gamma * expected.reshape(rewards.shape)
    return greedy_actions(action_values, best_values(action_values))


def residual_limit(config: Any, values: np.ndarray) -> float:
    """The residual below which V' is within ``config.tolerance`` of the fixed point.

    For any V' = T V of a gamma-contraction T in the maximum norm,
    ``max |V' - V*| <= gamma / (1 - gamma) * max |V' - V|`` (Puterman 1994, theorem 6.3.1). With
    gamma = 1 there is no such bound: then it is the tolerance itself. It is not below the rounding
    of the values: sweeps may end in a cycle of last bits, and never at a residual of 0.
    """
    gamma: float = config.gamma
    limit: float = config.tolerance * ((1.0 - gamma) / gamma if gamma < 1.0 else 1.0)
    return max(limit, 1e-15 * float(np.abs(values).max()))


class Sweeper(Protocol):
    """An algorithm that improves V slice by slice."""

    config: Any
    values: np.ndarray
    change: np.ndarray
    converged: bool

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Columns ``state``, ``value``, ``change`` (how far from the V swept from)."""


def take(algorithm: Sweeper, batch: dict[str, Any]) -> float:
    """Take the swept values of all states, or of some, and say whether V has converged.

    Where a batch holds all states they were swept from one V, and the largest change is that V's
    residual. Slices that arrive alone (mode async) were swept from different ones, which bounds
    nothing: so once every slice's last change is small, all states are swept here once more.

    Returns:
        The residual: the largest of the states' last changes.
    """
    states = batch["state"]
    algorithm.values[states] = batch["value"]
    algorithm.change[states] = batch["change"]
    residual = float(algorithm.change.max())
    limit = residual_limit(algorithm.config, algorithm.values)
    if residual >= limit or len(states) == len(algorithm.values):
        algorithm.converged = residual < limit
        return residual
    return take(algorithm, algorithm.sweep(0, len(algorithm.values)))


def refuse_endless(transitions: scipy.sparse.csr_array, terminal: np.ndarray) -> None:
    """Refuse to evaluate, without a discount, a policy that does not surely end.

    Raises:
        ConfigError: from some state no terminal one can be reached.
    """
    ends, before = terminal.copy(), -1
    while before < (before := int(ends.sum())):
        ends |= transitions @ ends.astype(np.float64) > 0
    if not ends.all():
        raise ConfigError(
            f"hyperparameters.gamma: with gamma=1 the policy must end from everywhere, and from "
            f"state {int((~ends).argmax())} it never does; use gamma < 1"
        )
