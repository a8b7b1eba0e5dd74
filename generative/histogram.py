"""The histogram."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative
from rlgen.errors import ConfigError

MOST_BINS = 2**22  # counts of 8 bytes that travel as the weights


class Bins(nn.Module):
    """How many training rows fell into each bin, ``(M^d,)``."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.counts = nn.Buffer(torch.zeros(count, dtype=torch.float64))


class Histogram(Algorithm):
    """Histogram density: a box of M equal bins along each of d axes, M^d in all (eq 9.44).

        p(x) = (K_m + c) / ((N + c M^d) V)    for x in bin m, K_m of N training rows in it

    V is the volume of a bin. The box spans the least to the largest training value along every
    axis, widened by a margin on each side; outside, the density is 0. The eq's is c = 0, with which
    it is 0 in every empty bin too. An epoch is all that it takes; minibatches and workers change
    nothing.

    Source: section 9.2.2.1.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `Histogram`."""

        bins: Count = 30  # M, along each axis
        smoothing: NotNegative = 0.1  # c, rows added to each bin
        margin: NotNegative = 0.05  # each side's, as a share of the range
        batch_size: Count = 5000  # rows at a time

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.size = len(problem.data_mean)
        if self.size * math.log(config.bins) > math.log(MOST_BINS):
            raise ConfigError(
                f"hyperparameters.bins: {config.bins}^{self.size} bins, for rows of {self.size} "
                f"values, are more than {MOST_BINS}; use fewer, or data of fewer values"
            )
        low, high = problem.data_range
        span = (high - low) or 1.0
        self.low = low - config.margin * span
        self.width = (1 + 2 * config.margin) * span / config.bins
        self.network = Bins(config.bins**self.size)
        self.counts = torch.zeros_like(self.network.counts)  # of this epoch

    def bin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The bin of rows ``(n, d)``, and which of them are in the box: ``(n,)`` each."""
        scaled = (x.double() - self.low) / self.width
        inside = ((scaled >= 0) & (scaled <= self.config.bins)).all(1)
        cells = scaled.long().clamp(0, self.config.bins - 1)
        powers = self.config.bins ** torch.arange(self.size, device=x.device)
        return cells @ powers, inside

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Count; at the end of the epoch, publish."""
        counts = self.network.counts
        new = torch.bincount(self.bin(batch["x"])[0], minlength=len(counts))
        self.counts = self.counts.to(counts) + new
        rows = float(self.counts.sum())
        if rows >= self.problem.data_count:
            counts.copy_(self.counts)
            self.counts = torch.zeros_like(counts)
        return {"rows": rows}

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)``, ``(n,)`` nats; -inf where it is 0."""
        (cell, inside), c = self.bin(x), self.config.smoothing
        counts = self.network.counts
        total = (counts.sum() + c * len(counts)) * self.width**self.size
        return torch.where(inside, (counts[cell] + c) / total, 0.0).log()

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The exact log-likelihood of each row ``(n,)``, and whether its density is not 0.

        Where it is 0 the logarithm is given as -1e30, so that means stay finite.
        """
        log_prob = self.log_prob(batch["x"])
        return {
            "log_likelihood": log_prob.clamp(min=-1e30),
            "covered": log_prob.isfinite().double(),
        }

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` draws: a bin, and a place in it."""
        weight = self.network.counts + self.config.smoothing
        edges = weight.cumsum(0)
        cell = torch.searchsorted(edges, torch.rand(n).to(edges) * edges[-1])
        axes = [cell // self.config.bins**i % self.config.bins for i in range(self.size)]
        corner = torch.stack(axes, dim=1)
        return self.low + self.width * (corner + torch.rand(corner.shape).to(edges))


if __name__ == "__main__":
    import rlgen

    rlgen.train("histogram-two-moons")
