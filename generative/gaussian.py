"""One Gaussian."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative
from rlgen.generative.em import Sums, add
from rlgen.generative.normals import Covariance, Gaussians


class Gaussian(Algorithm):
    """One Gaussian by maximum likelihood: the simplest model that has an exact likelihood.

        mean = 1/N sum_n x_n,    covariance = 1/N sum_n (x_n - mean)(x_n - mean)'  (eq 9.33-9.34)

    The workers sum their rows and the rows' squares, and the learner adds up an epoch: however
    large the minibatches, the answer is the same, and one epoch is all that it takes.

    Source: section 9.2.1.1.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `Gaussian`."""

        covariance: Covariance = "full"  # or one variance for each value
        regularization: NotNegative = 1e-6  # added to every variance
        batch_size: Count = 5000  # rows at a time: bounds the memory only

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.network = Gaussians(1, torch.from_numpy(problem.data_mean), config.covariance)
        self.totals: Sums = {}

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The sums of this worker's rows."""
        x = batch["x"]
        return self.network.sums(x, torch.ones(len(x), 1, dtype=torch.float64, device=x.device))

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Add up; at the end of the epoch, take the moments."""
        self.totals = add(self.totals, batch)
        rows = round(float(self.totals["count"].sum()))  # of this epoch
        if rows >= self.problem.data_count:
            self.network.fit(self.totals, self.config.regularization)
            self.totals = {}
        return {"rows": float(rows)}

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)``, ``(n,)`` nats (eq 9.31)."""
        return self.network.log_density(x)[:, 0]

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The exact log-likelihood of each row ``(n,)``, in nats."""
        return {"log_likelihood": self.log_prob(batch["x"])}

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` draws."""
        return self.network.draw(n)


if __name__ == "__main__":
    import rlgen

    rlgen.train("gaussian-digits")
