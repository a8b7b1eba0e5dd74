"""Epsilon-greedy bandit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlgen.agents.arms import add_pulls, averages, best_arms, check_arms, pulls, table_shape
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Rate


class EpsilonGreedyConfig(Hyperparameters):
    """Hyper-parameters of epsilon-greedy."""

    epsilon: Fraction = 0.1  # share of random arms, in [0, 1]
    step_size: Rate | None = None  # alpha; none: 1 / pulls
    initial_value: float = 0.0  # Q of an arm at first; above every reward it is optimistic
    rollout_steps: Count = 1  # T, pulls per bandit and cycle


class EpsilonGreedy(Algorithm):
    """Epsilon-greedy: the arm that seems best, or with probability epsilon any arm.

    Of K arms the best one is pulled with probability 1 - epsilon + epsilon / K, each other with
    epsilon / K; ties are broken at random. The value of the arm pulled moves to its reward,

        Q(a) += alpha * [ r - Q(a) ],

    with alpha = 1 / n(a) after n(a) pulls, which makes Q(a) the mean of the arm's rewards, or with
    a constant alpha, which weighs them by recency and never quite forgets the initial value:
    epsilon = 0 with a great one is optimistic exploration. Pulls of one bandit in a batch (of
    several steps or workers) count one after the other.

    The book's probabilities (after eq 14.31), 1 - epsilon + 1 / K and 1 / K, sum to 2 - epsilon.

    Sutton and Barto, *Reinforcement learning*, 2018, sections 2.2 to 2.6.

    Attributes:
        q: ``(N, K)`` float64, the values of the arms of N bandits.
        totals: ``(2, N, K)`` float64, sums of rewards and numbers of pulls.
    """

    Config = EpsilonGreedyConfig
    shared = "q"
    config: EpsilonGreedyConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse what is no bed of bandits."""
        check_arms("epsilon-greedy", problem)

    def __init__(
        self, config: EpsilonGreedyConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        shape = table_shape(problem)
        self.q = np.full(shape, config.initial_value, np.float64)
        self.totals = np.zeros((2, *shape))

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Epsilon-greedy arms (B,) of the bandits (B,)."""
        values = self.q[observation]
        chosen = best_arms(values, self.rng)
        if greedy:
            return {"action": chosen}
        explores = self.rng.random(len(chosen)) < self.config.epsilon
        anywhere = self.rng.integers(values.shape[1], size=len(chosen))
        return {"action": np.where(explores, anywhere, chosen)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Move the values of the arms pulled."""
        alpha = self.config.step_size
        add_pulls(self.totals, batch)
        bandit, arm, reward = pulls(batch)
        before = self.q[bandit, arm]
        if alpha is None:
            self.q = averages(self.totals, self.config.initial_value)
        else:
            for turn in turns(bandit):
                pair = bandit[turn], arm[turn]
                self.q[pair] += alpha * (reward[turn] - self.q[pair])
        return {"error": float(np.abs(reward - before).mean())}


def turns(bandit: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of ``(n,)`` bandits, in turns: each bandit at most once a turn, its rows in order."""
    order = np.argsort(bandit, kind="stable")
    _, first, count = np.unique(bandit[order], return_index=True, return_counts=True)
    turn = np.arange(len(bandit)) - np.repeat(first, count)
    for i in range(count.max(initial=0)):
        yield order[turn == i]


if __name__ == "__main__":
    import rlgen

    rlgen.train("epsilon-greedy-testbed")
