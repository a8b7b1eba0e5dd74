"""Values that come at a few levels, such as pixels, to models of continuous ones.

A row of L levels holds values k / (L - 1) with k = 0 .. L - 1. Each stands for its cell, the
interval of width 1 / (L - 1) around it.
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from rlgen.algorithm import Problem
from rlgen.errors import ConfigError


def _not_one(levels: int) -> int:
    if levels == 1:
        raise ValueError("one level holds no information; give at least 2, or 0 for any values")
    return levels


#: The type of the hyper-parameter: 0 for continuous values.
Levels = Annotated[int, Field(ge=0, le=65_536), AfterValidator(_not_one)]


def check_levels(problem: Problem, levels: int) -> None:
    """Refuse levels for data, held-out rows among them, with values at others.

    Raises:
        ConfigError: names the hyper-parameter, and the first such value with its place.
    """
    if not levels:
        return
    if outside := problem.outside(0, 1):
        raise ConfigError(
            f"hyperparameters.levels: {levels} needs data in [0, 1], not {outside}; set it to 0"
        )

    def between(x: np.ndarray) -> np.ndarray:
        steps = x * (levels - 1)
        return np.abs(steps - np.rint(steps)) > 0.01

    if problem.data_first is not None and (found := problem.data_first(between)):
        raise ConfigError(
            f"hyperparameters.levels: {levels} needs values k/{levels - 1}, not {found}; give the "
            "number that the data have (mnist 256, digits 17, binarised 2), or 0 for continuous "
            "values"
        )


def dequantise(x: Tensor, levels: int) -> Tensor:
    """Rows ``(n, d)``, each value drawn uniformly from its cell (Uria et al. 2013).

    The density p of such rows bounds the probability P of the row of levels: by Jensen's
    inequality, E log p - d log(L - 1) <= log P (Theis et al. 2016, arXiv:1511.01844).
    """
    return x + (torch.rand_like(x) - 0.5) / (levels - 1)


def quantise(x: Tensor, levels: int) -> Tensor:
    """Each value of rows ``(n, d)`` at the nearest level."""
    return (x * (levels - 1)).round().clamp(0, levels - 1) / (levels - 1)


def spread(x: Tensor, levels: int, margin: float) -> tuple[Tensor, Tensor]:
    """Values in the cells of levels, spread over the whole line; others are left alone.

    The logit of m + (1 - 2m) y, where y in [0, 1] says where in the cells x lies, and m is the
    margin (Dinh et al. 2017, section 4.1).

    Returns:
        The values, and the logarithm of the slope at each, both of the shape of x.
    """
    if not levels:
        return x, torch.zeros_like(x)
    p = margin + (1 - 2 * margin) * (x * (levels - 1) + 0.5) / levels
    slope = math.log((1 - 2 * margin) * (levels - 1) / levels)
    return p.logit(), slope - p.log() - torch.log1p(-p)


def gather(v: Tensor, levels: int, margin: float) -> Tensor:
    """The inverse of `spread`; v far out lies up to the margin beyond the cells."""
    if not levels:
        return v
    y = (torch.sigmoid(v) - margin) / (1 - 2 * margin)
    return (y * levels - 0.5) / (levels - 1)


def spread_moments(
    mean: Tensor, low: float, high: float, levels: int, margin: float
) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``(d,)`` of values, after `spread`, as far as their mean says.

    A value in [low, high] has at most the variance (mean - low)(high - mean), which it has where it
    is always one or the other; to that comes what spreads a value over its cell.
    """
    mean, inside = mean.double(), 1e-3 * (high - low or 1.0)
    if levels:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        spread_ends, log_slope = spread(ends, levels, margin)
        low, high = spread_ends.tolist()
        inside = math.exp(log_slope[0]) / (levels - 1) / math.sqrt(12)
        mean = low + (high - low) * mean
    variance = (mean - low).clamp(min=0) * (high - mean).clamp(min=0) + inside**2
    return mean.float(), variance.sqrt().float()
