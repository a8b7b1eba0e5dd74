"""Evolution strategies."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlgen.agents.search import Population, SearchPolicy, Trials
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive


class EvolutionStrategiesConfig(Hyperparameters):
    """Hyper-parameters of evolution strategies."""

    rollout_steps: Count = 32  # T, steps per environment and cycle
    population: Annotated[int, Field(ge=2)] = 64  # least number of candidates per update
    deviation: Positive = 0.1  # sigma, of the noise on every parameter, > 0
    learning_rate: Positive = 0.03  # of Adam, > 0


def centred_ranks(fitness: Tensor) -> Tensor:
    """Ranks ``(n,)`` from -1/2 for the worst to 1/2 for the best; equal ones share their mean."""
    return (fitness[:, None] - fitness).sign().sum(dim=1) / (2 * (len(fitness) - 1))


class EvolutionStrategies(Algorithm):
    """ES: ascends a smoothed return by the returns of perturbed policies alone (section 14.3).

    Every environment tries theta + sigma e for an episode, e ~ N(0, I) and its mirror image -e in
    turn. When at least ``population`` returns are known, the n of them are replaced by centred
    ranks F and Adam takes a step up

        g = 1 / (n sigma) * sum_i F_i e_i,

    which with plain returns for F is an unbiased estimate of the gradient of E[F(theta + sigma e)].
    An evaluation acts by theta. The book names gradient-free search (Fig 14.4) and gives no
    algorithm. Candidates that were still running at an update count for the next one, with the
    noise that they had.

    Salimans, Ho, Chen, Sidor and Sutskever, *Evolution strategies as a scalable alternative to
    reinforcement learning*, 2017, algorithm 1.
    """

    Config = EvolutionStrategiesConfig
    uses_network = True
    modes = ("sync", "async")
    batch_axis = 0
    config: EvolutionStrategiesConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        SearchPolicy(problem)

    def __init__(
        self, config: EvolutionStrategiesConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.network = SearchPolicy(problem)
        searched = self.network.searched()
        self.optimizer = torch.optim.Adam(searched, lr=config.learning_rate, fused=True)
        size = self.network.size
        self.trials = Trials(size)
        self.population = Population(size)
        self.mirrored = torch.empty(0, size)

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Every row by its own candidate; by theta when greedy."""
        if greedy:
            return {"action": self.network(observation)}
        self.trials.begin(self.starts, self._draw)
        action = self.network.forward_each(self.trials.vectors, observation)
        return {"action": action, "candidate": torch.from_numpy(self.trials.running.copy())}

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        """Noise e ``(n, P)``, each second row mirroring the one before; and theta + sigma e."""
        fresh = torch.randn((n - len(self.mirrored) + 1) // 2, self.network.size)
        pairs = torch.stack([fresh, -fresh], dim=1).flatten(0, 1)
        rows = torch.cat([self.mirrored, pairs])
        self.mirrored = rows[n:].clone()
        return rows[:n], self.network.vector() + self.config.deviation * rows[:n]

    def process(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The noise of the candidates that are complete, and their returns."""
        return self.trials.collect(batch)

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step of Adam, once there are enough candidates."""
        c = self.config
        if not self.population.gather(batch, c.population):
            return {}
        noise, fitness = self.population.take()
        gradient = centred_ranks(fitness) @ noise / (len(fitness) * c.deviation)
        parts = gradient.split(self.network.sizes)
        for parameter, part in zip(self.network.searched(), parts, strict=True):
            parameter.grad = -part.view_as(parameter)
        self.optimizer.step()
        return {
            "fitness": fitness.mean(),
            "fitness_best": fitness.max(),
            "gradient_norm": gradient.norm(),
        }


if __name__ == "__main__":
    import rlgen

    rlgen.train("es-cartpole")
