"""The Hopfield network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters
from rlgen.errors import ConfigError
from rlgen.generative.connected import energy, recall


class Memory(nn.Module):
    """The patterns ``(P, K)`` of zeros and ones, how many are there, weights and biases."""

    def __init__(self, patterns: int, units: int) -> None:
        super().__init__()
        self.patterns = nn.Buffer(torch.zeros(patterns, units))
        self.count = nn.Buffer(torch.zeros(()))
        self.weight = nn.Buffer(torch.zeros(units, units))
        self.bias = nn.Buffer(torch.zeros(units))


class Hopfield(Algorithm):
    """Hopfield network: a memory whose recall goes down the energy to the pattern nearby.

        E(x) = -(sum_(i<j) w_ij x_i x_j + sum_i b_i x_i),   x_i <- [sum_j w_ij x_j + b_i >= 0]

    one unit at a time, in random order (eq 12.1, 12.17): the Boltzmann machine at T = 0, so the
    energy never rises and the recall ends. With the patterns as S ``(P, K)`` of -1 and 1, the rule

        hebb        W = S'S
        projection  W = S'(SS')^-1 S   (its pseudo-inverse; Personnaz, Guyon & Dreyfus 1985)

    stores them, with 0 on the diagonal. For units of 0 and 1 the biases are b = -W1 / 2: then the
    inputs have the signs of those of -1 and 1. Hebb's rule holds about 0.138 K random patterns with
    a few errors (Amit, Gutfreund & Sompolinsky 1985), but few that resemble one another, such as
    pictures; the projection holds fewer than K independent ones exactly. There is nothing to train:
    the first rows of the epoch, which is in random order, are stored.

    Source: section 12.1.1.2, which names it; Hopfield 1982, doi:10.1073/pnas.79.8.2554.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `Hopfield`."""

        patterns: Count = 10  # training rows stored
        rule: Literal["hebb", "projection"] = "hebb"
        batch_size: Count = 100  # rows read at a time

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        if config.patterns > problem.data_count:
            raise ConfigError(
                f"hyperparameters.patterns: {config.patterns} are more than the "
                f"{problem.data_count} training rows; store fewer"
            )
        self.network = Memory(config.patterns, len(problem.data_mean))

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("hopfield")

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Keep rows until there are enough; then compute the weights."""
        net, first = self.network, int(self.network.count)
        kept = (batch["x"][: len(net.patterns) - first] > 0.5).float()
        net.patterns[first : first + len(kept)] = kept
        net.count.add_(len(kept))
        if len(kept) and int(net.count) == len(net.patterns):
            s = 2 * net.patterns - 1
            weight = (s.T if self.config.rule == "hebb" else torch.linalg.pinv(s)) @ s
            net.weight.copy_(weight.fill_diagonal_(0.0))
            net.bias.copy_(-0.5 * weight.sum(1))
        return {"patterns": float(net.count)}

    def chain(self, n: int, x: Tensor | None = None) -> Iterator[Tensor]:
        """The states ``(n, K)`` of recalls, from coin tosses or from rows, until they stay."""
        net = self.network
        start = torch.rand(n, len(net.bias), device=net.bias.device) if x is None else x
        start = (start > 0.5).float()
        yield start
        yield from recall(net.weight, net.bias, start)

    def sample(self, n: int) -> Tensor:
        """Where recalls ``(n, K)`` from coin tosses end: patterns, and mixtures of them."""
        *_, end = self.chain(n)
        return end

    def reconstruct(self, x: Tensor) -> Tensor:
        """Where recalls ``(n, K)`` from rows end."""
        *_, end = self.chain(len(x), x)
        return end

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """How the recall from each row ``(n,)`` ends.

        Its overlap in [-1, 1] with the most similar pattern (the score; 1: it is that pattern, 0:
        as coin tosses are), whether it is the pattern most similar to the row, and its energy.
        """
        net, x = self.network, (batch["x"] > 0.5).float()
        end, s = self.reconstruct(x), 2 * net.patterns - 1
        before, after = ((2 * rows - 1) @ s.T / s.shape[1] for rows in (x, end))
        nearest = (after.gather(1, before.argmax(1)[:, None]) == 1).float().squeeze(1)
        figures = {"overlap": after.max(1).values, "recalled": nearest}
        return figures | {"energy": energy(net.weight, net.bias, end)}


if __name__ == "__main__":
    import rlgen

    rlgen.train("hopfield-digits")
