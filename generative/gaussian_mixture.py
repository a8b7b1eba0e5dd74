"""The mixture of Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative
from rlgen.errors import ConfigError
from rlgen.generative.em import Start, Sums, add, first_shares
from rlgen.generative.normals import Covariance, Gaussians


class GaussianMixture(Algorithm):
    """Mixture of K Gaussians by expectation-maximisation (Algorithm 11.3, with vectors for rows).

        E  gamma_nk = pi_k N(x_n | mu_k, S_k) / sum_j pi_j N(x_n | mu_j, S_j)
        M  N_k = sum_n gamma_nk,   pi_k = N_k / N,   mu_k = sum_n gamma_nk x_n / N_k,
           S_k = sum_n gamma_nk (x_n - mu_k)(x_n - mu_k)' / N_k   (with the new mu_k)

    The workers do the E step and send the three sums that the M step needs; the learner adds them
    up and does the M step once an epoch is whole. So this is EM over all rows, however large the
    minibatches, and an epoch is one iteration. The likelihood of the training rows never falls (but
    for what `regularization` gives away). The first minibatch starts it: each row goes to the
    nearest of K rows drawn as seeds, and one M step follows.

    Beyond the listing: sums of exponentials by their logarithms, full covariances, a start.

    Source: section 11.4.2.2; Dempster, Laird & Rubin 1977.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `GaussianMixture`."""

        components: Count = 10  # K
        covariance: Covariance = "full"  # or one variance for each value
        start: Start = "k-means++"  # how the seeds are drawn
        regularization: NotNegative = 1e-6  # added to every variance
        tolerance: NotNegative = 1e-4  # converged: a smaller gain, in nats a row
        batch_size: Count = 5000  # rows at a time; the first start it

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        rows = min(config.batch_size, problem.data_count)
        if rows < config.components:
            raise ConfigError(
                f"hyperparameters.components: {config.components} cannot start from {rows} rows, "
                "those of a minibatch; use fewer components or a larger batch_size"
            )
        centre = torch.from_numpy(problem.data_mean)
        self.network = Gaussians(config.components, centre, config.covariance)
        self.totals: Sums = {}
        self.before = -float("inf")  # log-likelihood of the last epoch

    def share(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The responsibilities gamma ``(n, K)``, and log p(x) ``(n,)``."""
        joint = self.network.log_weight + self.network.log_density(x)
        log_prob = joint.logsumexp(1)
        return (joint - log_prob[:, None]).exp(), log_prob

    def expectation(self, x: Tensor) -> Sums:
        """The sums of the E step over rows ``(n, d)``, and their log-likelihood."""
        share, log_prob = self.share(x)
        return self.network.sums(x, share) | {"log_likelihood": log_prob.sum()[None]}

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The E step on this worker's rows; the rows themselves, before there is a start."""
        return self.expectation(batch["x"]) if self.network.fitted else batch

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Add up; at the end of the epoch, the M step."""
        if not self.network.fitted:
            shares = first_shares(batch["x"], self.config.components, self.config.start)
            self.network.fit(self.network.sums(batch["x"], shares), self.config.regularization)
            batch = self.expectation(batch["x"])
        self.totals = add(self.totals, batch)
        rows = float(self.totals["count"].sum())
        log_likelihood = float(self.totals["log_likelihood"]) / rows
        if round(rows) >= self.problem.data_count:
            self.network.fit(self.totals, self.config.regularization)
            self.converged = log_likelihood - self.before < self.config.tolerance
            self.totals, self.before = {}, log_likelihood
        return {"log_likelihood": log_likelihood}

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density of rows ``(n, d)``, ``(n,)`` nats (eq 11.97)."""
        return self.share(x)[1]

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The exact log-likelihood of each row ``(n,)``, in nats."""
        return {"log_likelihood": self.log_prob(batch["x"])}

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` draws."""
        return self.network.draw(n)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of the component of each row ``(n, d)``, averaged over its responsibilities."""
        return self.share(x)[0] @ self.network.mean


if __name__ == "__main__":
    import rlgen

    rlgen.train("gaussian-mixture-digits")
