"""A learned model to plan with: random exploration as in the book, and R-max."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import scipy.sparse
from pydantic import model_validator

from rlgen.agents import planning, tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive, Share
from rlgen.errors import ConfigError


class RMaxConfig(Hyperparameters):
    """Hyper-parameters of model learning."""

    gamma: Share = 0.99  # discount, in (0, 1)
    exploration: Literal["optimistic", "random"] = "optimistic"  # R-max, or the book's
    r_max: float | None = None  # of optimistic: no reward is larger
    known_after: Count = 10  # m, visits of a state and action
    tolerance: Positive = 1e-6  # of the plan, in units of the reward
    rollout_steps: Count = 16  # T, steps per environment and cycle

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.exploration == "optimistic" and self.r_max is None:
            raise ValueError("exploration=optimistic needs r_max, the largest reward of a step")
        if self.exploration == "random" and self.r_max is not None:
            raise ValueError(f"r_max={self.r_max} belongs to exploration=optimistic; remove it")
        return self


class RMax(Algorithm):
    """R-max: count what happens, plan on the counts (section 14.2.1, "Model learning").

    The model of a state and action that was visited N(s, a) >= m times ("known") is

        p(s' | s, a) = N(s, a, s') / N(s, a),   r(s, a) = mean of its rewards,

    and Q is the result of value iteration on it (Algorithm 14.2). A terminated episode leads to an
    absorbing state of value 0; a truncated one just to its successor.

    - ``exploration: optimistic``, R-max: what is unknown is worth r_max / (1 - gamma) for ever, and
      the behaviour is greedy (ties at random), so it goes where it knows little. Only the first m
      visits count, and Q is planned anew when a pair becomes known.
    - ``exploration: random``: the book's, under R-max's name. The behaviour is uniform, all visits
      count, Q is planned anew after every batch, over the known actions only (a state without any
      is worth 0).

    Brafman and Tennenholtz, *R-max, a general polynomial time algorithm for near-optimal
    reinforcement learning*, 2002.

    Attributes:
        q: ``(S, A)`` float64. A ``MultiDiscrete`` observation is ravelled to s.
        visits, rewards: ``(S * A,)`` counts and sums of rewards.
        triples, counts: ``(N,)`` the seen (s, a, s') as ``(s * A + a) * (S + 1) + s'``, ascending,
            and how often; s' = S after a termination.
    """

    Config = RMaxConfig
    shared = "q"
    config: RMaxConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        tabular.check("rmax", problem)

    def __init__(self, config: RMaxConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.q = tabular.table(problem, 1)[0]
        self.q[...] = -np.inf if config.r_max is None else config.r_max / (1.0 - config.gamma)
        self.visits, self.rewards = np.zeros(self.q.size, np.int64), np.zeros(self.q.size)
        self.triples, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Greedy actions ``(B,)``, or uniform ones to explore at random."""
        values = self.q[tabular.states(self.problem, observation)]
        if greedy:
            return {"action": values.argmax(axis=1)}
        epsilon = float(self.config.exploration == "random")
        return {"action": tabular.epsilon_greedy(values, epsilon, self.rng)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Count a rollout ``(T, B)``; plan if the model changed."""
        valid, (states, actions) = batch["valid"], self.q.shape
        state = tabular.states(self.problem, batch["observation"][valid])
        successor = tabular.states(self.problem, batch["next_observation"][valid])
        successor = np.where(batch["terminated"][valid], states, successor)
        pair, reward = state * actions + batch["action"][valid], batch["reward"][valid]
        if self.config.exploration == "optimistic":
            self._check_bound(reward)
            counts = self.visits[pair] + _earlier(pair) < self.config.known_after
            pair, reward, successor = pair[counts], reward[counts], successor[counts]
        known = self.visits >= self.config.known_after
        self.visits += np.bincount(pair, minlength=self.q.size)
        self.rewards += np.bincount(pair, reward, self.q.size)
        seen = np.concatenate([self.triples, pair * (states + 1) + successor])
        times = np.concatenate([self.counts, np.ones_like(pair)])
        self.triples, place = np.unique(seen, return_inverse=True)
        self.counts = np.bincount(place, times).astype(np.int64)
        now = self.visits >= self.config.known_after
        changed = now[pair] if self.config.exploration == "random" else now & ~known
        return {"known": float(now.mean()), "sweeps": self._plan(now) if changed.any() else 0}

    def _plan(self, known: np.ndarray) -> int:
        """Value iteration over the known pairs ``(S * A,)`` bool; the number of sweeps."""
        states, gamma = len(self.q), self.config.gamma
        pair, successor = np.divmod(self.triples, states + 1)
        used, pairs = known[pair], np.flatnonzero(known)
        row = np.searchsorted(pairs, pair[used])
        chance = self.counts[used] / self.visits[pair[used]]
        shape = (len(pairs), states + 1)
        transitions = scipy.sparse.csr_array((chance, (row, successor[used])), shape)
        reward = self.rewards[pairs] / self.visits[pairs]
        q = self.q.reshape(-1)
        q[pairs] = np.where(np.isfinite(q[pairs]), q[pairs], 0.0)  # newly known, none of R-max's
        values, sweeps, residual = np.zeros(states + 1), 0, np.inf
        while residual >= planning.residual_limit(self.config, values):
            values[:states] = planning.best_values(self.q)
            values[np.isneginf(values)] = 0.0
            after = reward + gamma * (transitions @ values)
            residual = np.abs(after - q[pairs]).max()
            q[pairs] = after
            sweeps += 1
        return sweeps

    def _check_bound(self, reward: np.ndarray) -> None:
        if reward.size and reward.max() > self.config.r_max:
            raise ConfigError(
                f"hyperparameters.r_max: {self.config.r_max} is less than a reward of "
                f"{reward.max():g} that was paid; give the largest one there is"
            )


def _earlier(pair: np.ndarray) -> np.ndarray:
    """How many rows before each of ``(n,)`` hold the same number, ``(n,)``."""
    order = np.argsort(pair, kind="stable")
    _, first, count = np.unique(pair[order], return_index=True, return_counts=True)
    earlier = np.empty_like(pair)
    earlier[order] = np.arange(len(pair)) - np.repeat(first, count)
    return earlier


if __name__ == "__main__":
    import rlgen

    rlgen.train("rmax-four-rooms")
