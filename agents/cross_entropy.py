"""The cross-entropy method."""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from rlgen.agents.search import Population, SearchPolicy, Trials
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative, Positive, Share
from rlgen.schedules import linear


class CrossEntropyConfig(Hyperparameters):
    """Hyper-parameters of the cross-entropy method."""

    rollout_steps: Count = 32  # T, steps per environment and cycle
    population: Annotated[int, Field(ge=2)] = 64  # least number of candidates per update
    elite_fraction: Share = 0.2  # share of the best, in (0, 1)
    deviation: Positive = 0.5  # of every parameter at first, > 0
    extra_variance: NotNegative = 0.0  # added at the first update, >= 0
    extra_updates: Count = 20  # updates in which the added variance falls to 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.extra_variance == 0:
            self.refuse_idle(["extra_updates"], "extra_variance above 0")
        return self


class PolicyDistribution(SearchPolicy):
    """N(mu, diag(sigma^2)) over the parameters of a policy, which acts by mu itself."""

    def __init__(self, problem: Problem, deviation: float) -> None:
        super().__init__(problem)
        self.deviation = nn.Buffer(torch.full((self.size,), deviation))


class CrossEntropy(Algorithm):
    """CEM: search without gradients, by a Gaussian that is fitted to its best samples (14.3).

    Every environment tries a policy with parameters x ~ N(mu, diag(sigma^2)) for an episode. When
    at least ``population`` returns are known, of n of them the best ceil(elite_fraction * n) give

        mu = mean of the elite,   sigma^2 = variance of the elite (divided by its number) + z_k,

    with z_k falling linearly to 0 in the first ``extra_updates`` updates k, against a premature
    end of the search. An evaluation acts by mu. The book names gradient-free search (Fig 14.4)
    and gives no algorithm. Candidates that were still running at an update count for the next one.

    Rubinstein, *The cross-entropy method for combinatorial and continuous optimization*, 1999;
    with the added variance, Szita and Lorincz, *Learning Tetris using the noisy cross-entropy
    method*, 2006.
    """

    Config = CrossEntropyConfig
    uses_network = True
    modes = ("sync", "async")
    batch_axis = 0
    config: CrossEntropyConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        SearchPolicy(problem)

    def __init__(
        self, config: CrossEntropyConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.network = PolicyDistribution(problem, config.deviation)
        size = self.network.size
        self.trials = Trials(size)
        self.population = Population(size)
        self.updates = 0

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Every row by its own candidate; by mu when greedy."""
        if greedy:
            return {"action": self.network(observation)}
        self.trials.begin(self.starts, self._draw)
        action = self.network.forward_each(self.trials.vectors, observation)
        return {"action": action, "candidate": torch.from_numpy(self.trials.running.copy())}

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        net = self.network
        drawn = net.vector() + net.deviation * torch.randn(n, net.size)
        return drawn, drawn

    def process(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The candidates that are complete, and their returns."""
        return self.trials.collect(batch)

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Fit the Gaussian to the elite, once there are enough candidates."""
        c = self.config
        if not self.population.gather(batch, c.population):
            return {}
        candidates, fitness = self.population.take()
        count = math.ceil(c.elite_fraction * len(fitness))
        elite = candidates[fitness.topk(count).indices]
        extra = linear(c.extra_variance, 0.0, c.extra_updates, self.updates)
        vector_to_parameters(elite.mean(dim=0), self.network.searched())
        self.network.deviation.copy_((elite.var(dim=0, correction=0) + extra).sqrt())
        self.updates += 1
        return {
            "fitness": fitness.mean(),
            "fitness_best": fitness.max(),
            "deviation": self.network.deviation.mean(),
        }


if __name__ == "__main__":
    import rlgen

    rlgen.train("cem-cartpole")
