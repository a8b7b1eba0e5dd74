"""Networks that algorithms share: encoders of spaces, multi-layer perceptrons, policy heads.

Initialisation draws from torch's global generator, which the platform seeds for each role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


def mlp(sizes: Sequence[int], activation: str, last_gain: float = 1.0) -> nn.Sequential:
    """Linear layers ``sizes[0] -> ... -> sizes[-1]`` with an activation between them.

    Weights are orthogonal (gain of the activation; ``last_gain`` for the last layer), biases zero.
    """
    layers: list[nn.Module] = []
    gain = nn.init.calculate_gain(activation) if activation in ("tanh", "relu", "sigmoid") else 1.0
    for index, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False)):
        last = index == len(sizes) - 2
        linear = nn.Linear(inputs, outputs)
        nn.init.orthogonal_(linear.weight, last_gain if last else gain)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Turn raw observations ``(..., *shape)`` of a space into float32 features ``(..., size)``.

    ``Discrete`` and ``MultiDiscrete`` become one-hot vectors; a ``Box`` is flattened, a ``uint8``
    one scaled to [0, 1]. ``normalize`` standardises a ``Box`` by ``mean`` and ``scale``, buffers
    that the platform keeps at the running moments of what the environments gave.

    Raises:
        ConfigError: a space of another kind, or `normalize` of one that is not a float ``Box``.
    """

    def __init__(self, space: gym.Space[Any], normalize: bool = False) -> None:
        super().__init__()
        self.classes: list[int] = []
        self.single = isinstance(space, gym.spaces.Discrete)
        self.dims = 0
        self.scale_bytes = False
        if isinstance(space, gym.spaces.Discrete):
            self.classes, self.size = [int(space.n)], int(space.n)
        elif isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.classes = [int(n) for n in space.nvec]
            self.size = sum(self.classes)
        elif isinstance(space, gym.spaces.Box):
            self.dims, self.size = len(space.shape), int(np.prod(space.shape))
            self.scale_bytes = space.dtype == np.uint8
        else:
            raise ConfigError(f"env.id: observations in {space} are not supported; {SPACES}")
        self.normalize = normalize
        if normalize:
            if self.classes:
                raise ConfigError("env.normalize_observation: only for Box observations")
            self.mean = nn.Buffer(torch.zeros(self.size))
            self.scale = nn.Buffer(torch.ones(self.size))

    def forward(self, observation: Tensor) -> Tensor:
        """Features ``(..., size)`` float32."""
        if self.classes:
            columns = observation.long().unsqueeze(-1) if self.single else observation.long()
            parts = [functional.one_hot(columns[..., i], n) for i, n in enumerate(self.classes)]
            return torch.cat(parts, dim=-1).float()
        features = observation if self.dims == 1 else observation.flatten(-self.dims)
        features = features.float()
        if self.scale_bytes:
            features = features / 255.0
        if self.normalize:
            features = ((features - self.mean) * self.scale).clamp(-10.0, 10.0)
        return features


SPACES = "Discrete, MultiDiscrete and Box spaces are"
