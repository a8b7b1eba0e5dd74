"""Gradient bandit: a softmax policy over the arms."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlgen.agents.arms import add_pulls, check_arms, pulls, table_shape
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive


class GradientBanditConfig(Hyperparameters):
    """Hyper-parameters of the gradient bandit."""

    step_size: Positive = 0.1  # alpha, > 0
    baseline: bool = True  # subtract the mean reward so far
    rollout_steps: Count = 1  # T, pulls per bandit and cycle


class GradientBandit(Algorithm):
    """Gradient bandit: stochastic gradient ascent on the expected reward of a softmax policy.

    Every bandit has a preference H(a) of each arm, and pulls an arm with probability
    pi(a) = exp H(a) / sum_b exp H(b). A reward r of arm A moves all of them,

        H(a) += alpha * (r - baseline) * ( [a = A] - pi(a) ),

    where the baseline is the bandit's mean reward up to but not including r; before the first one
    it is r itself. This is REINFORCE with baseline (Algorithm 14.7) where an episode is one pull.
    All pulls of a batch were drawn from the same pi, so all are judged by it, and by the baseline
    before the batch.

    Sutton and Barto, *Reinforcement learning*, 2018, section 2.8.

    Attributes:
        preference: ``(N, K)`` float64, H of N bandits.
        totals: ``(2, N, K)`` float64, sums of rewards and numbers of pulls.
    """

    Config = GradientBanditConfig
    shared = "preference"
    config: GradientBanditConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse what is no bed of bandits."""
        check_arms("gradient-bandit", problem)

    def __init__(
        self, config: GradientBanditConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        shape = table_shape(problem)
        self.preference = np.zeros(shape)
        self.totals = np.zeros((2, *shape))

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Arms (B,) of the bandits (B,), drawn from pi, or the likeliest."""
        preference = self.preference[observation]
        if not greedy:  # the greatest of H(a) + Gumbel noise is distributed as pi
            preference = preference + self.rng.gumbel(size=preference.shape)
        return {"action": preference.argmax(axis=1)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Move the preferences along the gradient of each pull."""
        bandit, arm, reward = pulls(batch)
        advantage = reward - self._baseline(bandit, reward)
        pi = softmax(self.preference[bandit])
        gradient = -advantage[:, None] * pi
        gradient[np.arange(len(arm)), arm] += advantage
        np.add.at(self.preference, bandit, self.config.step_size * gradient)
        add_pulls(self.totals, batch)
        entropy = -(pi * np.log(np.maximum(pi, 1e-300))).sum(axis=1)
        return {"entropy": float(entropy.mean())}

    def _baseline(self, bandit: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """The mean rewards ``(n,)`` of the bandits before this batch; r itself of a new one."""
        if not self.config.baseline:
            return np.zeros(len(reward))
        sums, counts = self.totals.sum(axis=2)[:, bandit]
        return np.where(counts > 0, sums / np.maximum(counts, 1.0), reward)


def softmax(preference: np.ndarray) -> np.ndarray:
    """Probabilities ``(..., K)`` of preferences ``(..., K)``."""
    weight = np.exp(preference - preference.max(axis=-1, keepdims=True))
    probability: np.ndarray = weight / weight.sum(axis=-1, keepdims=True)
    return probability


if __name__ == "__main__":
    import rlgen

    rlgen.train("gradient-bandit-testbed")
