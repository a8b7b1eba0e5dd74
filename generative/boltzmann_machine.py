"""The Boltzmann machine, fully connected."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive, Whole
from rlgen.generative.boltzmann import draw, falling
from rlgen.generative.connected import energy, log_partition_of, mean_field, sweep
from rlgen.generative.partition import Chains


class Connections(nn.Module):
    """Symmetric weights ``(K, K)`` without self-connections, and biases ``(K,)``."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(units, units), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(units), requires_grad=False)


class FullBoltzmann(Algorithm):
    """Boltzmann machine: every unit connected with every other, d visible ones first, then hidden.

        p(x) = exp(-E(x) / T) / Z,   E(x) = -(sum_(i<j) w_ij x_i x_j + sum_i b_i x_i)    (eq 12.1)
        w_ij <- w_ij + lr (<x_i x_j>_data - <x_i x_j>_model) / T,   b_i likewise  (eq 12.24-12.28)

    The workers sample both phases, by Gibbs sweeps (`connected.sweep`). In the clamped phase the
    visible units are a row of data, and the hidden ones start from their mean-field values. The
    chains of the free phase go on from update to update, as the machine changes slowly (Tieleman
    2008). The book drops the 1/T, which is right at T = 1 only. A sweep takes one product for each
    unit: where d is large, restrict the connections (`rbm`).

    Source: section 12.1; Ackley, Hinton & Sejnowski 1985, doi:10.1207/s15516709cog0901_7.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `FullBoltzmann`."""

        hidden: Whole = 16  # hidden units
        temperature: Positive = 1.0  # T
        sweeps: Count = 1  # Gibbs sweeps of both phases, each update
        chains: Count = 100  # of the free phase, of each worker
        learning_rate: Positive = 0.05
        decay_epochs: Whole = 0  # the rate goes to 0 in a straight line over so many; 0: never
        batch_size: Count = 100  # rows of a minibatch, over all workers
        sample_sweeps: Count = 500  # of a sample
        ais_chains: Chains = 100  # for log Z beyond 20 units
        ais_steps: Count = 1000  # their temperatures

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.visible = len(problem.data_mean)
        units = self.visible + config.hidden
        self.network = Connections(units)
        mean = torch.from_numpy(problem.data_mean).clamp(0.01, 0.99)
        self.network.bias[: self.visible] = config.temperature * mean.logit()
        start = 0.01 * torch.randn(units, units).triu(1)
        self.network.weight.copy_(start + start.T)
        self.base = self.network.bias.clone()
        self.chains = self.toss(config.chains)
        self.seen = 0  # rows so far

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("boltzmann-machine")

    def complete(self, v: Tensor) -> Tensor:
        """Rows ``(n, d)`` with the mean-field values of the hidden units, ``(n, K)``."""
        return mean_field(self.network.weight, self.network.bias, v, self.config.temperature)

    def toss(self, n: int) -> Tensor:
        """States ``(n, K)`` of a machine without weights."""
        return draw((self.network.bias / self.config.temperature).sigmoid().repeat(n, 1))

    def gibbs(self, x: Tensor, clamped: bool = False) -> Tensor:
        """The states ``(n, K)`` after the sweeps of an update; clamped: of the hidden units."""
        net, units = self.network, torch.arange(x.shape[1])[self.visible if clamped else 0 :]
        for _ in range(self.config.sweeps):
            x = sweep(net.weight, net.bias, x, self.config.temperature, units)
        return x

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The states ``(n or m, K)`` of both phases."""
        self.chains = self.gibbs(self.chains)
        x = self.complete(batch["x"])
        x[:, self.visible :] = draw(x[:, self.visible :])
        return {"clamped": self.gibbs(x, clamped=True), "free": self.chains}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step along the difference of the two phases' statistics."""
        net, config, x, free = self.network, self.config, batch["clamped"], batch["free"]
        rows = config.decay_epochs * self.problem.data_count
        rate = falling(config.learning_rate, rows, self.seen) / config.temperature
        pairs = x.T @ x / len(x) - free.T @ free / len(free)
        net.weight.add_(pairs.fill_diagonal_(0.0), alpha=rate)
        net.bias.add_(x.mean(0) - free.mean(0), alpha=rate)
        self.seen += len(x)
        return {"pair_difference": pairs.abs().mean()}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """sum_i log p(v_i | the other values, hidden units at their mean field) of each row.

        Without hidden units it is the pseudo-log-likelihood. ``(n,)`` nats.
        """
        net, x = self.network, self.complete(batch["x"])
        inputs = (x @ net.weight + net.bias)[:, : self.visible] / self.config.temperature
        each = logsigmoid((2 * batch["x"] - 1) * inputs)
        return {"pseudo_log_likelihood": each.sum(1)}

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor | Estimate]:
        """A lower bound of log p(v) of each row ``(n,)`` by the mean field, and log Z."""
        net, config = self.network, self.config
        log_z = log_partition_of(
            net.weight / config.temperature,
            net.bias / config.temperature,
            self.base / config.temperature,
            config.ais_chains,
            config.ais_steps,
        )
        x = self.complete(batch["x"])
        entropy = torch.special.entr(x) + torch.special.entr(1 - x)
        minus_energy = -energy(net.weight, net.bias, x) / config.temperature
        bound = minus_energy + entropy[:, self.visible :].sum(1) - log_z.value
        return {"log_prob_bound": bound, "log_partition": log_z}

    def encode(self, x: Tensor) -> Tensor:
        """The mean-field values ``(n, hidden)`` of the hidden units."""
        return self.complete(x)[:, self.visible :]

    def chain(self, n: int) -> Iterator[Tensor]:
        """The visible units ``(n, d)`` after each sweep, from those of no weights."""
        x = self.toss(n)
        while True:
            x = sweep(self.network.weight, self.network.bias, x, self.config.temperature)
            yield x[:, : self.visible]

    def sample(self, n: int) -> Tensor:
        """The states ``(n, d)`` of chains after `sample_sweeps` sweeps."""
        return next(islice(self.chain(n), self.config.sample_sweeps - 1, None))


if __name__ == "__main__":
    import rlgen

    rlgen.train("boltzmann-machine-digits")
