"""Actions of a bounded box: their standardisation to [-1, 1], and a Gaussian squashed into it."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_STD_RANGE = (-20.0, 2.0)  # Haarnoja et al. 2018


class Bounds(nn.Module):
    """The linear map between [-1, 1] and the range of each component of a bounded ``Box``.

    Attributes:
        size: number of components.

    Args:
        space: of finite bounds, the lower below the upper.
    """

    def __init__(self, space: gym.Space[Any] | None) -> None:
        super().__init__()
        assert isinstance(space, gym.spaces.Box)
        self.shape = space.shape
        self.size = int(np.prod(space.shape))
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        self.center = nn.Buffer(torch.tensor((low + high) / 2, dtype=torch.float32))
        self.half_range = nn.Buffer(torch.tensor((high - low) / 2, dtype=torch.float32))

    def to_action(self, unit: Tensor) -> Tensor:
        """Actions ``(..., *shape)`` in the units of the environment, of ``(..., size)``."""
        action = self.center + self.half_range * unit
        return action.reshape(*action.shape[:-1], *self.shape)

    def to_unit(self, action: Tensor) -> Tensor:
        """The inverse: ``(..., size)`` float32 in [-1, 1]."""
        leading = action.shape[: action.dim() - len(self.shape)]
        return (action.reshape(*leading, self.size).float() - self.center) / self.half_range


class SquashedGaussian(nn.Module):
    """Policy head of a bounded ``Box``: a diagonal Gaussian through tanh, then to the bounds.

    Of ``size`` outputs the first half are the means, the second the logarithms of the standard
    deviations before tanh, clamped to [-20, 2]. Densities are those of the actions standardised to
    [-1, 1]^d, so they do not depend on the units of the environment:

        log pi(a | s) = sum_i [ log N(x_i; mean_i, std_i^2) - log(1 - tanh(x_i)^2) ],
        log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x))

    The right-hand side is exact where tanh(x) rounds to 1. Haarnoja et al., *Soft actor-critic*,
    2018, appendix C.
    """

    def __init__(self, space: gym.Space[Any] | None) -> None:
        super().__init__()
        self.bounds = Bounds(space)
        self.size = 2 * self.bounds.size

    def draw(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Draw standardised actions ``(..., d)``, with a gradient; and their log pi ``(...)``."""
        mean, log_std = outputs.chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        noise = torch.randn_like(mean)
        x = mean + log_std.exp() * noise
        return x.tanh(), _log_density(noise, log_std, x)

    def sample(self, outputs: Tensor) -> Tensor:
        """Draw actions ``(..., *shape)`` in the units of the environment."""
        return self.bounds.to_action(self.draw(outputs)[0])

    def mode(self, outputs: Tensor) -> Tensor:
        """The actions of the means, as is usual: the median, not the mode, of each component."""
        return self.bounds.to_action(outputs.chunk(2, dim=-1)[0].tanh())

    def log_prob(self, outputs: Tensor, action: Tensor) -> Tensor:
        """log pi(a | s), ``(...)``; actions at the bounds count as one rounding step inside."""
        mean, log_std = outputs.chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        inside = 1.0 - torch.finfo(outputs.dtype).eps
        x = self.bounds.to_unit(action).clamp(-inside, inside).atanh()
        return _log_density((x - mean) / log_std.exp(), log_std, x)


def _log_density(z: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """log pi of tanh(x), where x = mean + std * z: summed over the components."""
    log_normal = -0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - x - functional.softplus(-2.0 * x))
    return (log_normal - log_slope).sum(dim=-1)
