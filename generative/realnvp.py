"""The normalising flow of affine couplings."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive, Share
from rlgen.errors import ConfigError
from rlgen.generative.couplings import Flow
from rlgen.generative.levels import (
    Levels,
    check_levels,
    dequantise,
    gather,
    quantise,
    spread,
    spread_moments,
)
from rlgen.networks import clip_gradients, follow


class RealNVP(Algorithm):
    """Normalising flow: an invertible z = f(x) ~ N(0, I), by maximum likelihood.

        log p(x) = log N(f(x) | 0, I) + log |det df/dx|

    f is a chain of affine couplings. Each leaves one half of the values, x_a, alone, and moves the
    other: y_b = x_b exp(s(x_a)) + t(x_a). Its inverse needs no inverse of s and t, and its Jacobian
    is triangular: log |det| = sum_j s_j(x_a). The halves, which take turns, are the squares of a
    checkerboard, or the even and odd values of a row without a picture's shape.

    Pixels are spread over their cells (`levels`), then mapped by logit(m + (1 - 2m) y) with
    y in [0, 1]: both are part of f, and of its determinant. The score is log p(x) in nats; with
    levels, the lower bound of the log probability of the row of levels that uniform noise gives.
    It is that of a moving average of the weights.

    Beyond the book. Source: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803; with perceptrons
    for s and t as in Papamakarios et al. 2017, arXiv:1705.07057.
    """

    class Config(Hyperparameters):
        """Hyper-parameters; the hidden layers of every s and t are ``network.hidden``."""

        couplings: Annotated[int, Field(ge=2)] = 8  # an even and an odd one at least
        levels: Levels = 0  # L, values of a pixel (mnist 256, digits 17); 0: continuous values
        margin: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # m, keeps the logit of pixels finite
        average: Share = 0.998  # of the averaged weights that an update keeps
        learning_rate: Positive = 1e-3  # Adam's
        max_grad_norm: Positive = 1.0
        batch_size: Count = 128  # rows of a minibatch, over all workers

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if not self.levels:
                self.refuse_idle(["margin"], "levels > 0")
            return self

    source = "data"
    batch_axis = 0
    uses_network = True
    data_parallel = True
    network_options = ()
    shared = "average"

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.network is not None
        assert problem.data_mean is not None
        low, high = problem.data_range
        check_levels(problem, config.levels)
        given = torch.from_numpy(problem.data_mean)
        mean, scale = spread_moments(given, low, high, config.levels, config.margin)
        halves = torch.from_numpy(np.indices(problem.data_shape).sum(0).reshape(-1) % 2)
        self.network = Flow(problem.network, config.couplings, halves, mean, scale)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.updates = 0
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, fused=True
        )

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse rows of one value, which have no halves."""
        if math.prod(problem.data_shape) < 2:
            raise ConfigError("data.name: realnvp needs rows of at least 2 values, found 1")

    def density(self, flow: Flow, x: Tensor) -> Tensor:
        """log p of rows ``(n, d)``, ``(n,)`` nats."""
        v, log_slope = spread(x, self.config.levels, self.config.margin)
        z, log_det = flow(v)
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return log_normal + log_det + log_slope.sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)``, ``(n,)`` nats; with levels, at the cells' centres."""
        return self.density(self.average, x)

    def log_likelihood(self, flow: Flow, x: Tensor) -> Tensor:
        """What is maximised ``(n,)``: the log density, or the bound for rows of levels."""
        levels = self.config.levels
        if not levels:
            return self.density(flow, x)
        return self.density(flow, dequantise(x, levels)) - x.shape[-1] * math.log(levels - 1)

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam up the mean log likelihood of the rows."""
        log_likelihood = self.log_likelihood(self.network, batch["x"]).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(-log_likelihood)
        norm = clip_gradients(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        keep = min(self.config.average, (1 + self.updates) / (10 + self.updates))
        follow(self.average, self.network, 1 - keep)
        self.updates += 1
        return {"log_likelihood": log_likelihood.detach(), "gradient_norm": norm}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The log likelihood of each row ``(n,)`` in nats, and with levels its bits per value."""
        nats = self.log_likelihood(self.average, batch["x"])
        if not self.config.levels:
            return {"log_likelihood": nats}
        bits = -nats / (batch["x"].shape[-1] * math.log(2))
        return {"log_likelihood_bound": nats, "bits_per_value": bits}

    def encode(self, x: Tensor) -> Tensor:
        """The codes ``(n, d)`` of rows ``(n, d)``."""
        z: Tensor = self.average(spread(x, self.config.levels, self.config.margin)[0])[0]
        return z

    def decode(self, z: Tensor) -> Tensor:
        """The rows ``(n, d)`` of codes ``(n, d)``, not rounded to levels."""
        return gather(self.average.inverse(z), self.config.levels, self.config.margin)

    def prior(self, n: int) -> Tensor:
        """Codes ``(n, d)`` of N(0, I)."""
        return torch.randn(n, len(self.average.mean), device=self.average.mean.device)

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows, of levels where the data have them."""
        x = self.decode(self.prior(n))
        return quantise(x, self.config.levels) if self.config.levels else x


if __name__ == "__main__":
    import rlgen

    rlgen.train("realnvp-two-moons")
