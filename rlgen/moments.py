"""Running mean and deviation of observations, merged over the batches of many workers."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from rlgen.networks import Encoder


def moments_of(rows: np.ndarray) -> np.ndarray:
    """Count, mean and sum of squared deviations of rows ``(n, ...)`` as ``(3, d)`` float64."""
    flat = rows.reshape(len(rows), math.prod(rows.shape[1:])).astype(np.float64)
    if not len(flat):
        return np.zeros((3, flat.shape[1]))
    mean = flat.mean(axis=0)
    return np.stack([np.full_like(mean, len(flat)), mean, np.square(flat - mean).sum(axis=0)])


def merge_moments(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The moments of two sets of rows together (Chan, Golub and LeVeque 1983)."""
    count = left[0] + right[0]
    if not count.any():
        return left
    delta = right[1] - left[1]
    mean = left[1] + delta * right[0] / count
    squares = left[2] + right[2] + np.square(delta) * left[0] * right[0] / count
    return np.stack([count, mean, squares])


class Standardiser:
    """The running moments of all workers' observations, as an encoder standardises by them."""

    def __init__(self) -> None:
        self.moments: np.ndarray | None = None

    def take(self, parts: list[np.ndarray], network: nn.Module) -> None:
        """Merge the workers' moments and set those of every encoder in the network."""
        for part in parts:
            self.moments = part if self.moments is None else merge_moments(self.moments, part)
        if not parts or self.moments is None:
            return
        mean, scale = mean_and_scale(self.moments)
        for module in network.modules():
            if isinstance(module, Encoder) and module.normalize:
                with torch.no_grad():
                    module.mean.copy_(torch.from_numpy(mean))
                    module.scale.copy_(torch.from_numpy(scale))


def mean_and_scale(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and reciprocal standard deviation, ``(d,)`` float32 each."""
    variance = moments[2] / np.maximum(moments[0], 1.0)
    return moments[1].astype(np.float32), (1.0 / np.sqrt(variance + 1e-8)).astype(np.float32)
