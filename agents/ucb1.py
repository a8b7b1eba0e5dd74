"""Upper confidence bounds for bandits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlgen.agents.arms import add_pulls, averages, best_arms, check_arms, table_shape
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative


class UCB1Config(Hyperparameters):
    """Hyper-parameters of UCB1."""

    exploration: NotNegative = math.sqrt(2)  # c; sqrt 2 for rewards in [0, 1]
    rollout_steps: Count = 1  # T, pulls per bandit and cycle


class UCB1(Algorithm):
    """UCB1: optimism in the face of uncertainty.

    After every arm was pulled once, in random order, a bandit that was pulled t times, n(a) times
    at arm a, pulls the arm of the greatest

        Q(a) + c * sqrt( ln t / n(a) ),

    where Q(a) is the mean reward of the arm. With rewards in [0, 1] and c = sqrt 2 the expected
    regret after t pulls is at most (theorem 1; Delta(a) is how much less than the best arm pays)

        8 * ln t * sum_a 1 / Delta(a)  +  (1 + pi^2 / 3) * sum_a Delta(a)   over a not the best.

    Several steps or workers in one cycle act on the same t, n and Q.

    Auer, Cesa-Bianchi and Fischer, *Finite-time analysis of the multiarmed bandit problem*, 2002;
    Sutton and Barto, *Reinforcement learning*, 2018, section 2.7, with c free.

    Attributes:
        totals: ``(2, N, K)`` float64, sums of rewards and numbers of pulls.
    """

    Config = UCB1Config
    shared = "totals"
    config: UCB1Config

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse what is no bed of bandits."""
        check_arms("ucb1", problem)

    def __init__(self, config: UCB1Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.totals = np.zeros((2, *table_shape(problem)))

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Arms (B,) of the bandits (B,) by their upper bounds, or by their means when greedy."""
        totals = self.totals[:, observation]
        values, counts = averages(totals), totals[1]
        if not greedy:
            pulled = np.maximum(counts, 1.0)
            log_t = np.log(np.maximum(counts.sum(axis=1, keepdims=True), 1.0))
            bound = values + self.config.exploration * np.sqrt(log_t / pulled)
            values = np.where(counts > 0, bound, np.inf)
        return {"action": best_arms(values, self.rng)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Add the pulls to the totals."""
        add_pulls(self.totals, batch)
        return {"fewest_pulls": float(self.totals[1].min())}


if __name__ == "__main__":
    import rlgen

    rlgen.train("ucb1-testbed")
