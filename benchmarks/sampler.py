"""A policy that only acts: what the rollout benchmarks measure is sampling, not learning."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Hyperparameters


class SamplerConfig(Hyperparameters):
    """T, steps per environment and cycle."""

    rollout_steps: int = 32


def network() -> nn.Sequential:
    """The 2 x 64 tanh network of the measurements of the peers."""
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )


def draw(logits: Tensor) -> Tensor:
    """A categorical draw by the Gumbel maximum."""
    return (logits - torch.rand_like(logits).log_().neg_().log_()).argmax(dim=-1)


class Sampler(Algorithm):
    """A random network's policy on CartPole; learns nothing."""

    Config = SamplerConfig
    modes = ("sync", "async")

    def __init__(self, config: Any, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = network()

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Drawn actions."""
        return {"action": draw(self.network(observation))}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Take the batch and do nothing with it."""
        return {}
