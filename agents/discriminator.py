"""The network that tells an expert's steps from a policy's; no algorithm of its own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig
from rlgen.demonstrations import Demonstrations
from rlgen.networks import Encoder, make_mlp


class Discriminator(nn.Module):
    """The logit of D(s, a), the probability that a step is the expert's.

    Components of a ``Box`` of floats are standardised by the expert's own mean and deviation.
    Actions of a ``Box`` count as the environment takes them, clipped to its bounds: a recording
    holds those, and a policy may draw others.
    """

    def __init__(self, problem: Problem, shown: Demonstrations) -> None:
        super().__init__()
        space = problem.action_space
        self.bounded = isinstance(space, gym.spaces.Box)
        if isinstance(space, gym.spaces.Box):
            self.low, self.high = (nn.Buffer(torch.tensor(b)) for b in (space.low, space.high))
        self.observed = _encoder(problem.observation_space, shown.observation, problem.network)
        self.acted = _encoder(problem.action_space, shown.action, None)
        self.layers = make_mlp(problem.network, self.observed.size + self.acted.size, 1)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Logits ``(...)``."""
        if self.bounded:
            action = action.clamp(self.low, self.high)
        features = torch.cat([self.observed(observation), self.acted(action)], dim=-1)
        logits: Tensor = self.layers(features).squeeze(-1)
        return logits


def _encoder(space: Any, expert: np.ndarray, network: NetworkConfig | None) -> Encoder:
    standardised = isinstance(space, gym.spaces.Box) and space.dtype != np.uint8
    encoder = Encoder(space, standardised, network)
    if standardised:
        rows = torch.from_numpy(expert.reshape(len(expert), -1).astype(np.float32))
        deviation, mean = torch.std_mean(rows, dim=0, correction=0)
        encoder.mean.copy_(mean)
        encoder.scale.copy_(1.0 / torch.where(deviation > 0.0, deviation, 1.0))
    return encoder
