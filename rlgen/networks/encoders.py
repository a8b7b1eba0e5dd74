"""Encoders: from the observations of a space to features."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks.heads import SPACES
from rlgen.networks.torsos import (
    SMALLEST,
    AttentionTorso,
    ImageLayout,
    PlainCNN,
    ResidualCNN,
)

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. 2015, then 512 units
SMALL = ((16, 3, 1),)  # Young and Tian 2019, for MinAtar's 10 x 10


class Encoder(nn.Module):
    """Turn raw observations ``(..., *shape)`` of a space into float32 features ``(..., size)``.

    ``Discrete`` and ``MultiDiscrete`` become one-hot vectors; a ``Box`` is flattened, a ``uint8``
    one scaled to [0, 1]. ``normalize`` standardises a ``Box`` by ``mean`` and ``scale`` instead,
    buffers that the platform keeps at the running moments of what the environments gave. A torso
    then works on the ``Box`` in its own shape.

    Args:
        space: of one observation.
        normalize: standardise observations.
        network: its torso, layer norm and initialisation; None for plain features.

    Raises:
        ConfigError: a space of another kind, `normalize` of one that is not a ``Box``, or a torso
            that does not fit.
    """

    def __init__(
        self,
        space: gym.Space[Any] | None,
        normalize: bool = False,
        network: NetworkConfig | None = None,
    ) -> None:
        super().__init__()
        self.classes: list[int] = []
        self.single = isinstance(space, gym.spaces.Discrete)
        self.shape: tuple[int, ...] = ()
        self.scale_bytes = False
        if isinstance(space, gym.spaces.Discrete):
            self.classes, self.size = [int(space.n)], int(space.n)
        elif isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            self.classes = [int(n) for n in space.nvec]
            self.size = sum(self.classes)
        elif isinstance(space, gym.spaces.Box):
            self.shape, self.size = space.shape, int(np.prod(space.shape))
            self.scale_bytes = space.dtype == np.uint8 and not normalize
        else:
            raise ConfigError(f"env.id: observations in {space} are not supported; {SPACES}")
        self.normalize = normalize
        if normalize:
            if self.classes:
                raise ConfigError("env.normalize_observation: only for Box observations")
            self.mean = nn.Buffer(torch.zeros(self.size))
            self.scale = nn.Buffer(torch.ones(self.size))
        self.torso = None if network is None else make_torso(space, network)
        if self.torso is not None:
            self.size = self.torso.size

    def forward(self, observation: Tensor) -> Tensor:
        """Features ``(..., size)`` float32."""
        if self.classes:
            columns = observation.long().unsqueeze(-1) if self.single else observation.long()
            parts = [functional.one_hot(columns[..., i], n) for i, n in enumerate(self.classes)]
            return torch.cat(parts, dim=-1).float()
        leading = observation.shape[: observation.dim() - len(self.shape)]
        rows = observation.reshape(*leading, int(np.prod(self.shape)))
        features = rows / 255.0 if self.scale_bytes else rows.float()
        if self.normalize:
            features = ((features - self.mean) * self.scale).clamp(-10.0, 10.0)
        if self.torso is not None:
            features = self.torso(features.reshape(-1, *self.shape))
        return features.reshape(*leading, self.size)


def make_torso(
    space: gym.Space[Any], network: NetworkConfig
) -> PlainCNN | ResidualCNN | AttentionTorso | None:
    """The torso that the network section asks for, None where features stay as they are.

    ``auto`` chooses ``nature_cnn`` for images of at least 36 x 36, ``small_cnn`` for smaller ones,
    ``mlp`` for everything else. Images are ``Box`` observations of three or four dimensions, or of
    two dimensions of bytes.

    Raises:
        ConfigError: the torso does not fit the observations.
    """
    shape = space.shape or ()
    box = isinstance(space, gym.spaces.Box)
    image = box and (len(shape) in (3, 4) or (len(shape) == 2 and space.dtype == np.uint8))
    kind = network.torso
    if image or (box and len(shape) == 2):
        layout = ImageLayout(shape)
        side = min(layout.height, layout.width)
    if kind == "auto" and image:
        kind = "nature_cnn" if side >= SMALLEST["nature_cnn"] else "small_cnn"
        kind = kind if side >= SMALLEST[kind] else "mlp"
    if network.layer_norm and not network.hidden and kind not in ("nature_cnn", "residual_cnn"):
        raise ConfigError("network.layer_norm: there is no hidden layer to normalise; remove it")
    if kind in ("auto", "mlp"):
        return None
    if not box or not 2 <= len(shape) <= 4:
        rows = ", or tables of 2 (entities, features)" if kind == "attention" else ""
        raise ConfigError(
            f"network.torso: {kind} needs images, Box observations of 2 to 4 dimensions{rows}; "
            f"given {space}; use mlp"
        )
    if (image or kind != "attention") and side < SMALLEST[kind]:
        raise ConfigError(
            f"network.torso: {kind} needs images of at least {SMALLEST[kind]} x {SMALLEST[kind]}, "
            f"given {layout.height} x {layout.width}; use small_cnn or mlp"
        )
    if kind == "attention":
        return AttentionTorso(shape, image, network.initialization)
    if kind == "residual_cnn":
        return ResidualCNN(shape, network.layer_norm, network.initialization)
    layers, dense = (NATURE, 512) if kind == "nature_cnn" else (SMALL, 0)
    return PlainCNN(shape, layers, dense, network.layer_norm, network.initialization)


class Observed(Protocol):
    """What an encoder is made for (`rlgen.algorithm.Problem`)."""

    @property
    def observation_space(self) -> gym.Space[Any] | None:
        """Of one environment."""

    @property
    def network(self) -> NetworkConfig | None:
        """The network section of the configuration."""

    @property
    def normalize_observation(self) -> bool:
        """Whether observations are standardised."""


def make_encoder(problem: Observed) -> Encoder:
    """What turns a problem's observations into features, as its network section asks for.

    Raises:
        ConfigError: a space that no encoder takes, or a torso that does not fit it.
    """
    return Encoder(problem.observation_space, problem.normalize_observation, problem.network)
