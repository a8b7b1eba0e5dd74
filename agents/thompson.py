"""Thompson sampling for bandits."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from rlgen.agents.arms import add_pulls, best_arms, check_arms, pulls, table_shape
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive
from rlgen.errors import ConfigError

OF_REWARDS = {
    "bernoulli": ("prior_successes", "prior_failures"),
    "gaussian": ("prior_mean", "prior_std", "reward_std"),
}


class ThompsonConfig(Hyperparameters):
    """Hyper-parameters of Thompson sampling; the prior's are those of its kind of rewards."""

    rewards: Literal["bernoulli", "gaussian"] = "bernoulli"  # 0 or 1, or of known deviation
    prior_successes: Positive = 1.0  # of the Beta prior of an arm; 1 and 1 is uniform
    prior_failures: Positive = 1.0  # > 0
    prior_mean: float = 0.0  # of the Gaussian prior of an arm
    prior_std: Positive = 1.0  # > 0
    reward_std: Positive = 1.0  # of a reward around the arm's mean, > 0
    rollout_steps: Count = 1  # T, pulls per bandit and cycle

    @model_validator(mode="after")
    def _one_prior(self) -> Self:
        for kind, names in OF_REWARDS.items():
            for name in names if kind != self.rewards else ():
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} belongs to rewards={kind}, not {self.rewards}; remove it"
                    )
        return self


class Thompson(Algorithm):
    """Thompson sampling: pull an arm as often as it is the best one, by the posterior.

    Every pull draws a mean reward for each arm from its posterior and takes the greatest. After s
    and f pulls of an arm that paid 1 and 0, or n pulls of mean reward m, the posterior is

        Beta(successes + s, failures + f),                                   or
        N( (prior_mean / prior_std^2 + n * m / reward_std^2) * v,  v ),
        1 / v = 1 / prior_std^2 + n / reward_std^2.

    The regret of Bernoulli arms grows as the lower bound of Lai and Robbins (1985) says that it
    must: as ln t * sum_a Delta(a) / KL(a, best). Pulls of one cycle share a posterior.

    Thompson, *On the likelihood that one unknown probability exceeds another*, 1933; Kaufmann,
    Korda and Munos, *Thompson sampling: an asymptotically optimal finite-time analysis*, 2012.

    Attributes:
        totals: ``(2, N, K)`` float64, sums of rewards and numbers of pulls.
    """

    Config = ThompsonConfig
    shared = "totals"
    config: ThompsonConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse what is no bed of bandits."""
        check_arms("thompson", problem)

    def __init__(self, config: ThompsonConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.totals = np.zeros((2, *table_shape(problem)))

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Arms (B,) of the bandits (B,): best by a draw, or by the posterior mean when greedy."""
        sums, counts = self.totals[:, observation]
        if self.config.rewards == "bernoulli":
            a = self.config.prior_successes + sums
            b = self.config.prior_failures + counts - sums
            means = a / (a + b) if greedy else self.rng.beta(a, b)
        else:
            means, variance = self._gaussian(sums, counts)
            if not greedy:
                means = means + np.sqrt(variance) * self.rng.standard_normal(means.shape)
        return {"action": best_arms(means, self.rng)}

    def _gaussian(self, sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the Gaussian posterior of each arm."""
        prior, noise = self.config.prior_std**-2, self.config.reward_std**-2
        variance = 1.0 / (prior + counts * noise)
        return (prior * self.config.prior_mean + noise * sums) * variance, variance

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Add the pulls to the totals."""
        if self.config.rewards == "bernoulli":
            reward = pulls(batch)[2]
            other = reward[(reward != 0) & (reward != 1)]
            if other.size:
                raise ConfigError(
                    "hyperparameters.rewards: bernoulli is for rewards of 0 and 1, and the "
                    f"environment gave {other[0]:.6g}; use rewards=gaussian"
                )
        add_pulls(self.totals, batch)
        return {"fewest_pulls": float(self.totals[1].min())}


if __name__ == "__main__":
    import rlgen

    rlgen.train("thompson-bernoulli")
