"""The restricted Boltzmann machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, NotNegative, Positive, Share, Whole
from rlgen.generative import boltzmann as bm
from rlgen.generative.partition import Chains, log_partition_of

PHASES = ("x", "hidden", "fantasy", "ended")  # rows of data, of the model, each with E[h | v]


class RBM(Algorithm):
    """Restricted Boltzmann machine, by contrastive divergence or persistent chains.

        W <- W + lr <v_0 E[h | v_0]' - v_k E[h | v_k]'> / s
        a <- a + lr <v_0 - v_k>,    b <- b + lr <E[h | v_0] - E[h | v_k]>    (Algorithm 12.1)

    and momentum, and weight decay on W (biases of Gaussian units: over s^2). The workers run the
    chains: with ``cd`` of k steps from the rows, with ``pcd`` going on from update to update, with
    ``tempering`` at several temperatures that swap. The statistics take means of h where the
    listing draws it (less noise, the same mean), and W starts at N(0, 0.01^2): from the listing's 0
    all hidden units would stay the same. When the free energies of training and held-out rows part,
    it overfits. Eq 12.60 prints two signs wrong.

    Source: section 12.2, Exercises 12-4, 12-5; Hinton 2002, doi:10.1162/089976602760128018, 2010,
    UTML TR 2010-003; Tieleman 2008 (pcd); Lee, Ekanadham & Ng 2008 (sparsity).
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `RBM`."""

        hidden: Count = 256  # hidden units
        units: bm.Units = "bernoulli-bernoulli"  # visible-hidden
        sigma: Positive = 1.0  # s, the standard deviation of Gaussian units
        levels: Annotated[int, Field(ge=2)] = 2  # of multinomial units, evenly spaced in [0, 1]
        negative: Literal["cd", "pcd", "tempering"] = "cd"  # the chains of the negative phase
        k: Count = 1  # their Gibbs steps, each update
        chains: Count = 100  # persistent ones of each worker (at each temperature)
        temperatures: Annotated[int, Field(ge=2)] = 10  # inverse ones, evenly from 1 to 0
        learning_rate: Positive = 0.05
        decay_epochs: Whole = 0  # the rate goes to 0 in a straight line over so many; 0: never
        momentum: Decay = 0.5
        weight_decay: NotNegative = 1e-4  # of W
        sparsity_cost: NotNegative = 0.0  # its product with (target - activity) is added to b's
        sparsity_target: Share = 0.1
        batch_size: Count = 100  # rows of a minibatch, over all workers
        sample_steps: Count = 1000  # Gibbs steps of a sample
        ais_chains: Chains = 100  # of each base, for log Z beyond 20 hidden units
        ais_steps: Count = 10_000  # their temperatures

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            for key, used, needed in (
                ("sigma", "gaussian" in self.units, "Gaussian units"),
                ("levels", "multinomial" in self.units, "units=multinomial-bernoulli"),
                ("chains", self.negative != "cd", "negative=pcd or tempering"),
                ("temperatures", self.negative == "tempering", "negative=tempering"),
                ("sparsity_target", self.sparsity_cost > 0, "sparsity_cost > 0"),
                ("sparsity_cost", self.units != "bernoulli-gaussian", "binary hidden units"),
            ):
                self.refuse_idle([] if used else [key], needed)
            return self

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        sizes = config.hidden, config.sigma, config.levels
        self.network = rbm = bm.machine_for(problem, config.units, *sizes)
        self.base = rbm.visible_bias.clone()  # as the data's mean would have it
        temperatures = config.temperatures if config.negative == "tempering" else 1
        self.betas = torch.linspace(1, 0, temperatures)[:, None, None]
        self.chains = bm.begin(rbm, temperatures, config.chains)
        rbm.weight.normal_(std=0.01)
        self.optimizer = bm.momentum_sgd([rbm], config.momentum, config.weight_decay)
        self.seen = 0  # rows so far

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the chains' ends ``(m, m1)`` and E[h | v] of both phases ``(n or m, m2)``."""
        rbm, k, x = self.network, self.config.k, bm.units_of(self.network, batch["x"])
        hidden, figures = bm.hidden_mean(rbm, x), {}
        if self.config.negative == "cd":
            fantasy, ended = bm.gibbs(rbm, hidden, k)
            figures = {"reconstruction_error": (fantasy - x).square().mean(1)}
        elif self.config.negative == "pcd":
            fantasy, ended = bm.gibbs(rbm, bm.hidden_mean(rbm, self.chains[0]), k)
            self.chains = fantasy[None]
        else:
            self.chains, swaps = bm.temper(rbm, self.chains, self.betas, self.base, k)
            fantasy, ended = self.chains[0], bm.hidden_mean(rbm, self.chains[0])
            figures = {"swaps": swaps[None]}
        return figures | dict(zip(PHASES, (x, hidden, fantasy, ended), strict=True))

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step along the difference of the two phases' statistics."""
        config, rows = self.config, self.config.decay_epochs * self.problem.data_count
        activity = batch["hidden"].mean(0)
        rate = bm.falling(config.learning_rate, rows, self.seen)
        push = config.sparsity_cost * (config.sparsity_target - activity)
        bm.follow(self.network, self.optimizer, rate, [batch[name] for name in PHASES], push)
        self.seen += len(batch["x"])
        figures = {k: rows.mean() for k, rows in batch.items() if k not in PHASES}
        return figures | {"hidden_activity": activity.mean()}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """A score of each row ``(n,)`` that needs no Z, and its free energy, in nats."""
        rbm, v = self.network, bm.units_of(self.network, batch["x"])
        score = bm.score_matching if rbm.visible_kind == "gaussian" else bm.pseudo_log_likelihood
        return {score.__name__: score(rbm, v), "free_energy": bm.free_energy(rbm, v)}

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor | Estimate]:
        """log p(v) of each row ``(n,)``, and log Z: exact up to 20 hidden units, else by AIS."""
        rbm = self.network
        log_z = log_partition_of(rbm, self.base, self.config.ais_chains, self.config.ais_steps)
        free_energy = bm.free_energy(rbm, bm.units_of(rbm, batch["x"]))
        return {"log_prob": -free_energy - log_z.value, "log_partition": log_z}

    def encode(self, x: Tensor) -> Tensor:
        """E[h | v] ``(n, m2)`` of rows ``(n, d)``."""
        return bm.hidden_mean(self.network, bm.units_of(self.network, x))

    def decode(self, z: Tensor) -> Tensor:
        """E[v | h] ``(n, d)`` of hidden values or means ``(n, m2)``."""
        return bm.values_of(self.network, bm.visible_mean(self.network, z))

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[v | h] ``(n, d)`` at h = E[h | x]."""
        return self.decode(self.encode(x))

    def chain(self, n: int) -> Iterator[Tensor]:
        """Gibbs steps from h of no input: E[v | h] ``(n, d)``, or draws of Gaussian values."""
        rbm = self.network
        hidden = bm.hidden_mean(rbm, rbm.visible_bias.expand(n, -1), beta=0.0)
        while True:
            mean = bm.visible_mean(rbm, bm.draw_hidden(rbm, hidden))
            v = bm.draw_visible(rbm, mean)
            yield bm.values_of(rbm, v if rbm.visible_kind == "gaussian" else mean)
            hidden = bm.hidden_mean(rbm, v)

    def sample(self, n: int) -> Tensor:
        """The states ``(n, d)`` of chains after `sample_steps` steps."""
        return next(islice(self.chain(n), self.config.sample_steps - 1, None))


if __name__ == "__main__":
    import rlgen

    rlgen.train("rbm-digits")
