"""The mixture of products of Bernoulli distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative
from rlgen.errors import ConfigError
from rlgen.generative.em import Start, Sums, add, first_shares

LOG_ZERO = -1e30  # the logarithm of 0, such that 0 log 0 is 0


class Bernoullis(nn.Module):
    """K products of d Bernoullis: weights ``(K,)``, log mu and log(1 - mu) ``(K, d)``."""

    def __init__(self, components: int, size: int) -> None:
        super().__init__()
        half = torch.full((components, size), -math.log(2), dtype=torch.float64)
        self.log_weight = nn.Buffer(torch.full_like(half[:, 0], -math.log(components)))
        self.log_one, self.log_zero = nn.Buffer(half), nn.Buffer(half.clone())
        self.fitted = nn.Buffer(torch.zeros_like(half[0, 0]))


class BernoulliMixture(Algorithm):
    """Mixture of K products of Bernoulli distributions by expectation-maximisation.

        E  gamma_nk prop. to pi_k prod_i mu_ki^x_ni (1 - mu_ki)^(1 - x_ni)
        M  N_k = sum_n gamma_nk,  pi_k = N_k / N,  mu_k = (sum_n gamma_nk x_n + c) / (N_k + 2 c)

    With c = 0 it is the exercise's, and the likelihood of the training rows never falls; but a
    value that is 0 in all rows of a component then rules out every row where it is 1. With c > 0
    (`smoothing`), what never falls is the likelihood plus c sum_ki log mu_ki (1 - mu_ki), a Beta
    prior on each mu. One epoch is one iteration, as in `gaussian-mixture`. Values between 0 and 1
    are taken as probabilities, the log density then being that of the expected row: see
    data.binarize.

    Source: exercise 11-7; Bishop 2006, section 9.3.3.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `BernoulliMixture`."""

        components: Count = 10  # K
        start: Start = "k-means++"  # how the rows that it starts from are drawn
        smoothing: NotNegative = 0.5  # c, ones and zeros added to each count
        tolerance: NotNegative = 1e-4  # converged: a smaller gain, in nats a row
        batch_size: Count = 5000  # rows at a time; the first start it

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        rows = min(config.batch_size, problem.data_count)
        if rows < config.components:
            raise ConfigError(
                f"hyperparameters.components: {config.components} cannot start from {rows} rows, "
                "those of a minibatch; use fewer components or a larger batch_size"
            )
        assert problem.data_mean is not None
        self.network = Bernoullis(config.components, len(problem.data_mean))
        self.totals: Sums = {}
        self.before = -math.inf  # objective of the last epoch

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("bernoulli-mixture")

    def share(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The responsibilities gamma ``(n, K)``, and log p(x) ``(n,)``."""
        net, rows = self.network, x.double()
        joint = net.log_weight + rows @ net.log_one.T + (1 - rows) @ net.log_zero.T
        log_prob = joint.logsumexp(1)
        return (joint - log_prob[:, None]).exp(), log_prob

    def sums(self, x: Tensor, share: Tensor, log_prob: Tensor) -> Sums:
        """What the M step needs of rows ``(n, d)``, and their log-likelihood, ``(1, ...)`` each."""
        parts = {"count": share.sum(0), "ones": share.T @ x.double()}
        return {k: v[None] for k, v in (parts | {"log_likelihood": log_prob.sum()}).items()}

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The E step on this worker's rows; the rows themselves, before there is a start."""
        x = batch["x"]
        return self.sums(x, *self.share(x)) if self.network.fitted else batch

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Add up; at the end of the epoch, the M step."""
        if not self.network.fitted:
            x = batch["x"]
            shares = first_shares(x, self.config.components, self.config.start)
            # Half way to all alike: a value that no row of a cluster has stays possible.
            self.maximize(self.sums(x, 0.5 * shares + 0.5 / shares.shape[1], shares[:, 0]))
            self.network.fitted.fill_(1.0)
            batch = self.sums(x, *self.share(x))
        self.totals = add(self.totals, batch)
        rows = float(self.totals["count"].sum())
        log_likelihood = float(self.totals["log_likelihood"]) / rows
        objective = log_likelihood + self.log_prior() / rows
        if round(rows) >= self.problem.data_count:
            self.maximize(self.totals)
            self.converged = objective - self.before < self.config.tolerance
            self.totals, self.before = {}, objective
        return {"log_likelihood": log_likelihood, "objective": objective}

    def maximize(self, sums: Sums) -> None:
        """The M step."""
        net, c, tiny = self.network, self.config.smoothing, 10 * torch.finfo(torch.float64).eps
        count, ones = sums["count"][0], sums["ones"][0]
        net.log_weight.copy_(((count + tiny) / (count + tiny).sum()).log())
        for log_p, part in ((net.log_one, ones), (net.log_zero, count[:, None] - ones)):
            p = (part.clamp(min=0) + c) / (count[:, None] + 2 * c + tiny)
            log_p.copy_(p.log().clamp(min=LOG_ZERO))

    def log_prior(self) -> float:
        """c sum_ki log mu_ki (1 - mu_ki), in nats."""
        c = self.config.smoothing
        return c * float((self.network.log_one + self.network.log_zero).sum()) if c else 0.0

    def log_prob(self, x: Tensor) -> Tensor:
        """The log probability of rows ``(n, d)``, ``(n,)`` nats."""
        return self.share(x)[1]

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """The exact log-likelihood of each row ``(n,)``, in nats."""
        return {"log_likelihood": self.log_prob(batch["x"])}

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows of zeros and ones."""
        chosen = torch.multinomial(self.network.log_weight.exp(), n, replacement=True)
        return torch.bernoulli(self.network.log_one[chosen].exp())

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of the component of each row ``(n, d)``, averaged over its responsibilities."""
        return self.share(x)[0] @ self.network.log_one.exp()


if __name__ == "__main__":
    import rlgen

    rlgen.train("bernoulli-mixture-digits")
