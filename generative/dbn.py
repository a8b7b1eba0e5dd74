"""The deep belief network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Estimate, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, NotNegative, Positive, Whole
from rlgen.generative import layers
from rlgen.generative.belief import BeliefNetwork
from rlgen.generative.boltzmann import follow, momentum_sgd
from rlgen.generative.partition import Chains
from rlgen.generative.variational import bernoulli_log_prob


class DBN(Algorithm):
    """Deep belief network: p(x, h) = p(x | h_1) ... p(h_(L-2) | h_(L-1)) p(h_(L-1), h_L).

    Directed layers p(h_l = 1 | h_(l+1)) = s(G_l h_(l+1) + g_l) under a Boltzmann machine; upwards,
    q(h_(l+1) = 1 | h_l) = s(R_l' h_l + r_l).

    1. Greedily, for ``epochs_per_layer`` each, from the bottom up: layer l is a machine of draws
       h_l, trained by CD-k (Algorithm 12.2). Then G_l = R_l = W_l.
    2. For ``up_down_epochs``, contrastive wake-sleep, its rate falling to 0 along a line. Wake:
       draw h_1 ... h_(L-1) upwards. The top machine: CD-k from h_(L-1), or persistent chains, to
       h'_(L-1). Sleep: draw h' from there downwards, to x'. Then

           G_l <- G_l + lr <(h_l - s(G_l h_(l+1) + g_l)) h_(l+1)'>
           R_l <- R_l + lr <h'_l (h'_(l+1) - s(R_l' h'_l + r_l))'>

    The book has wake-sleep in words only, without the top machine's update and without saying where
    a dream begins; and W h_l for W' h_l upwards (eq 12.66). While layer l is in training, the model
    is the network of the layers up to it.

    Source: section 12.3; Hinton, Osindero & Teh 2006, doi:10.1162/neco.2006.18.7.1527.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `DBN`."""

        sizes: list[Count] = Field([500, 500, 2000], min_length=2)  # units of the hidden layers
        epochs_per_layer: Whole = 10  # of contrastive divergence; 0: wake-sleep from the start
        learning_rate: Positive = 0.05  # of contrastive divergence
        up_down_epochs: Whole = 10  # of wake-sleep; then the run ends
        up_down_rate: Positive = 0.01  # of wake-sleep, at first
        k: Count = 1  # Gibbs steps of the negative phase
        persistent: bool = False  # in wake-sleep the negative phase goes on from the last batch's
        momentum: Decay = 0.5
        weight_decay: NotNegative = 2e-4  # of W, G and R
        batch_size: Count = 100  # rows of a minibatch, over all workers
        sample_steps: Count = 1000  # Gibbs steps of a sample in the top machine
        ais_chains: Chains = 100  # of each base, for log Z beyond 20 units on top
        ais_steps: Count = 10_000  # their temperatures

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if not self.epochs_per_layer:
                self.refuse_idle(["learning_rate"], "epochs_per_layer above 0")
            if not self.up_down_epochs:
                self.refuse_idle(["up_down_rate", "persistent"], "up_down_epochs above 0")
                if not self.epochs_per_layer:
                    raise ValueError("epochs_per_layer and up_down_epochs are both 0")
            return self

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        self.network = BeliefNetwork(torch.from_numpy(problem.data_mean), config.sizes)
        self.network.generative.advance(0, config.epochs_per_layer)
        self.rows = 0  # seen so far
        self.chains = torch.empty(0, config.sizes[-2])  # the latest h'_(L-1) of wake-sleep
        machines = [*self.network.generative, *self.network.recognition]
        self.optimizer = momentum_sgd(machines, config.momentum, config.weight_decay)

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data that are not in [0, 1]."""
        problem.check_unit_interval("dbn")

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add draws of both phases: the top machine's, and in wake-sleep those of every layer."""
        down, up, top = self.network.layers
        awake = layers.climb(up, batch["x"], draws=True)
        chains = self.chains if self.config.persistent and len(self.chains) else None
        batch = batch | layers.contrast(top, awake[-1], self.config.k, chains)
        if self.network.generative.complete:
            self.chains = batch["fantasy"]
            asleep = layers.descend(down, self.chains, draws=True)
            for layer in range(len(awake)):
                batch |= {f"awake_{layer}": awake[layer], f"asleep_{layer}": asleep[layer]}
        return batch

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of CD for the machine on top, and in wake-sleep of the delta rule below it."""
        config, count, stack = self.config, self.problem.data_count, self.network.generative
        layer, rate, (down, up, top) = int(stack.stage), config.learning_rate, self.network.layers
        self.optimizer.zero_grad()
        if stack.complete:
            epochs = self.rows / count - config.epochs_per_layer * len(stack)
            rate = config.up_down_rate * (1 - epochs / config.up_down_epochs)
            for i, (generative, recognition) in enumerate(zip(down, up, strict=True)):
                layers.imitate_below(generative, batch[f"awake_{i}"], batch[f"awake_{i + 1}"])
                layers.imitate_above(recognition, batch[f"asleep_{i}"], batch[f"asleep_{i + 1}"])
        follow(top, self.optimizer, rate, [batch[name] for name in layers.PHASES])  # and below
        self.rows += len(batch["x"])
        stack.advance(self.rows, config.epochs_per_layer * count)
        if layer < int(stack.stage) < len(stack):
            self.network.untie(layer)
        epochs = config.epochs_per_layer * len(stack) + config.up_down_epochs
        self.converged = self.rows >= epochs * count
        return {"hidden_activity": batch["hidden"].mean(), "layer": float(layer)}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """log p(x | its code) of each row ``(n,)`` nats, the score: it is no likelihood."""
        p = self.reconstruct(batch["x"]).clamp(1e-6, 1 - 1e-6)
        return {"reconstruction_log_prob": bernoulli_log_prob(batch["x"], p.logit())}

    def measure(self, batch: dict[str, Any]) -> Mapping[str, Tensor | Estimate]:
        """A lower bound of log p(x), in nats; log Z as its note says."""
        c = self.config
        return {"log_prob_bound": self.network.bound(batch["x"], c.ais_chains, c.ais_steps)}

    def sample(self, n: int) -> Tensor:
        """p(x | h_1) ``(n, d)``: a long chain in the top machine, then draws downwards."""
        return self.network.show(self.network.dream_on(n, self.config.sample_steps)[0])

    def chain(self, n: int) -> Iterator[Tensor]:
        """p(x | h_1) ``(n, d)`` after every Gibbs step of the top machine."""
        return (self.network.show(below) for below, _ in self.network.dream(n))

    def prior(self, n: int) -> Tensor:
        """Draws of h_L ``(n, m_L)``."""
        return self.network.dream_on(n, self.config.sample_steps)[1]

    def encode(self, x: Tensor) -> Tensor:
        """The means of h_L ``(n, m_L)``, upwards through the means."""
        return self.network.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """The means of x ``(n, d)``, downwards through the means."""
        return self.network.decode(z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Up and down again through the means ``(n, d)``."""
        return self.decode(self.encode(x))


if __name__ == "__main__":
    import rlgen

    rlgen.train("dbn-digits")
