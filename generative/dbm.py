"""The deep Boltzmann machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, NotNegative, Positive, Whole
from rlgen.generative.boltzmann import draw, follow, gibbs, hidden_mean, momentum_sgd, visible_mean
from rlgen.generative.deep import DeepMachine
from rlgen.generative.layers import PHASES
from rlgen.generative.partition import Chains
from rlgen.generative.variational import bernoulli_log_prob


class DBM(Algorithm):
    """Deep Boltzmann machine of two hidden layers h and u, without connections inside a layer.

    E(v, h, u) = -a'v - b'h - c'u - v'Wh - h'Vu, a Boltzmann machine of (v, u) and h.

    1. Greedily, for ``epochs_per_layer`` each, by CD-1: W with p(h | v) = s(2 W'v + b), then V, c
       with p(h | u) = s(2 V u + b) and draws of h. Doubled: each stands for both inputs of h.
    2. For ``joint_epochs``, its rate falling to 0 along a line. The mean field: by nu = s(V'mu + c)
       and mu = s(W'v + V nu + b) in turn, the best product of independent units for p(h, u | v).
       Persistent chains: k Gibbs steps of (v', u') and h'. With means over rows and chains,

           (W, V') <- (W, V') + lr (<(v, nu) mu'> - <(v', u') p(h' | v', u')'>), so the biases

    Source: named in section 12.4; Salakhutdinov & Hinton 2009, "Deep Boltzmann machines".
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `DBM`."""

        sizes: list[Count] = Field([500, 1000], min_length=2, max_length=2)  # units of h and of u
        epochs_per_layer: Whole = 10  # of contrastive divergence; 0: both layers from the start
        joint_epochs: Count = 20  # of both layers together; then the run ends
        mean_field_steps: Count = 10
        chains: Count = 100  # persistent ones of each worker
        k: Count = 5  # Gibbs steps of the chains for an update
        learning_rate: Positive = 0.05  # greedily
        joint_rate: Positive = 0.01  # of both together, at first
        momentum: Decay = 0.5
        weight_decay: NotNegative = 2e-4  # of W and V
        batch_size: Count = 100  # rows of a minibatch, over all workers
        sample_steps: Count = 1000  # Gibbs steps of a sample
        ais_chains: Chains = 100  # of each base, for log Z beyond 20 units of h
        ais_steps: Count = 10_000  # their temperatures

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if not self.epochs_per_layer:
                self.refuse_idle(["learning_rate"], "epochs_per_layer above 0")
            return self

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        mean = torch.from_numpy(problem.data_mean)
        self.network = dbm = DeepMachine(mean, *config.sizes)
        dbm.stage.fill_(0 if config.epochs_per_layer else 2)
        self.rows = 0  # seen so far
        self.chains = draw(dbm.visible_bias.sigmoid().expand(config.chains, -1))
        self.optimizer = momentum_sgd([dbm], config.momentum, config.weight_decay)

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("dbm")

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """(v, u) ``(n, d + m2)`` and h ``(n, m1)`` of both phases; of chains, one row for each."""
        dbm, x = self.network, batch["x"]
        if dbm.stage < 2:
            phases = dbm.greedy_upper(x) if dbm.stage else dbm.greedy_lower(x)
        else:
            self.chains, ended = gibbs(dbm, hidden_mean(dbm, self.chains), self.config.k)
            phases = *dbm.mean_field(x, self.config.mean_field_steps), self.chains, ended
        return dict(zip(PHASES, phases, strict=True))

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step along the difference of the two phases' statistics."""
        config, count, stage = self.config, self.problem.data_count, int(self.network.stage)
        greedy = 2 * config.epochs_per_layer * count
        done = (self.rows - greedy) / (config.joint_epochs * count)
        rate = config.learning_rate if stage < 2 else config.joint_rate * (1 - done)
        below, hidden, fantasy, ended = (batch[name] for name in PHASES)
        follow(self.network, self.optimizer, rate, (below, hidden, fantasy, ended))
        self.rows += len(below)
        self.network.stage.fill_(2 if self.rows >= greedy else self.rows * 2 // greedy)
        self.converged = self.rows >= greedy + config.joint_epochs * count
        return {"hidden_activity": hidden.mean(), "layer": float(stage)}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """log p(x | h = its mean) of each row ``(n,)`` nats, the score: it is no likelihood."""
        p = self.reconstruct(batch["x"]).clamp(1e-6, 1 - 1e-6)
        return {"reconstruction_log_prob": bernoulli_log_prob(batch["x"], p.logit())}

    def measure(self, batch: dict[str, Any]) -> Mapping[str, Tensor | Estimate]:
        """A lower bound of log p(x), in nats."""
        c = self.config
        bound = self.network.bound(batch["x"], c.mean_field_steps, c.ais_chains, c.ais_steps)
        return {"log_prob_bound": bound}

    def encode(self, x: Tensor) -> Tensor:
        """The mean field's means of h ``(n, m1)``."""
        return self.network.mean_field(x, self.config.mean_field_steps)[1]

    def decode(self, z: Tensor) -> Tensor:
        """p(v | h) ``(n, d)``."""
        return visible_mean(self.network, z)[:, : self.network.d]

    def reconstruct(self, x: Tensor) -> Tensor:
        """p(v | h) ``(n, d)`` at the mean field of h."""
        return self.decode(self.encode(x))

    def chain(self, n: int) -> Iterator[Tensor]:
        """p(v | h) ``(n, d)`` after every Gibbs step."""
        return self.network.walk(n)

    def sample(self, n: int) -> Tensor:
        """p(v | h) ``(n, d)`` at the end of chains of `sample_steps` steps."""
        return next(islice(self.chain(n), self.config.sample_steps - 1, None))


if __name__ == "__main__":
    import rlgen

    rlgen.train("dbm-digits")
