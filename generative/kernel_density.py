"""Kernel density estimation."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive


class Kernels(nn.Module):
    """The centres ``(N, d)`` of the kernels, and how many of them are there yet."""

    def __init__(self, centres: int, size: int) -> None:
        super().__init__()
        self.centres = nn.Buffer(torch.zeros(centres, size))
        self.count = nn.Buffer(torch.zeros((), dtype=torch.float32))


class KernelDensity(Algorithm):
    """Kernel density estimate: the mean of a kernel of width h around each of N training rows.

        gaussian  p(x) = 1/N sum_n (2 pi)^(-d/2) h^-d exp(-|x - x_n|^2 / (2 h^2))    (eq 9.48-9.49)
        cube      p(x) = 1/(N h^d) #{n : |x_i - x_ni| < h/2 for every i}             (eq 9.45-9.47)

    The book prints the Gaussian's constant as (2 pi)^(1/2) h, which is right for d = 1 only. There
    is nothing to train: the first rows of the epoch, which is in random order, become the centres.
    The bandwidth h is all that matters: choose it by the likelihood of the validation rows.

    Source: section 9.2.2.2; Parzen 1962.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `KernelDensity`."""

        kernel: Literal["gaussian", "cube"] = "gaussian"
        bandwidth: Positive = 0.2  # h, in the units of the data
        centres: Count = 10_000  # training rows kept; all, if there are fewer
        batch_size: Count = 5000  # rows read at a time

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        count = min(config.centres, problem.data_count)
        self.network = Kernels(count, len(problem.data_mean))

    @property
    def centres(self) -> Tensor:
        """The centres that are there."""
        return self.network.centres[: int(self.network.count)]

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Keep rows until there are enough."""
        first = int(self.network.count)
        kept = batch["x"][: len(self.network.centres) - first]
        self.network.centres[first : first + len(kept)] = kept
        self.network.count.add_(len(kept))
        return {"centres": float(self.network.count)}

    def log_kernels(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)`` under each kernel, ``(n, N)`` nats."""
        h, d = self.config.bandwidth, x.shape[1]
        rows, centres = x.double(), self.centres.double()
        if self.config.kernel == "cube":
            inside = (torch.cdist(rows, centres, p=math.inf) < h / 2).double()
            return inside.log() - d * math.log(h)
        squared = torch.cdist(rows, centres).square()
        return -squared / (2 * h * h) - 0.5 * d * math.log(2 * math.pi * h * h)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)``, ``(n,)`` nats; -inf where no cube is."""
        return self.log_kernels(x).logsumexp(1) - math.log(len(self.centres))

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
        """``(n, d)`` draws: a centre and the noise of its kernel."""
        h, chosen = self.config.bandwidth, torch.randint(len(self.centres), (n,))
        rows = self.centres[chosen.to(self.centres.device)]
        noise = torch.rand_like(rows) - 0.5 if self.config.kernel == "cube" else None
        return rows + h * (torch.randn_like(rows) if noise is None else noise)


if __name__ == "__main__":
    import rlgen

    rlgen.train("kernel-density-two-moons")
