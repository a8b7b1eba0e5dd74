"""The deep belief network as a classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, NotNegative, Positive, Whole
from rlgen.errors import ConfigError
from rlgen.generative import layers
from rlgen.generative.boltzmann import follow, momentum_sgd
from rlgen.generative.classifier import Activation, Classifier, Labelled


class DBNClassifier(Algorithm):
    """Deep belief network with discriminative fine-tuning.

    1. Greedily, for ``epochs_per_layer`` each, from the bottom up: layer l is a Boltzmann machine
       of h_l, trained by CD-1 (Algorithm 12.2, with the means of h_l instead of draws):

           W_l <- W_l + lr <h_l p(h | h_l)' - v p(h | v)'>,    h_(l+1) = s(W_l' h_l + b_l),  h_0 = x

    2. For ``fine_tuning_epochs``, with W_l and b_l as the layers of a feed-forward network: Adam
       goes down the cross entropy -log softmax(U h_L + c)_y, its rate falling to 0 along a line.

    Step 1 needs no labels: with ``labelled``, only that many rows, the run's first, keep theirs.
    Without 1, Glorot's initialisation: the controls, sigmoid or ReLU. The book prints W h_l for
    W' h_l (eq 12.66), and starts at W = 0, which leaves all hidden units the same.

    Source: section 12.3.2; Hinton & Salakhutdinov 2006, doi:10.1126/science.1127647.
    """

    class Config(Hyperparameters):
        """Hyper-parameters of `DBNClassifier`."""

        sizes: list[Count] = Field([500, 500, 2000], min_length=1)  # units of the hidden layers
        activation: Activation = "sigmoid"  # of the feed-forward network
        epochs_per_layer: Whole = 10  # of contrastive divergence; 0: no pre-training
        learning_rate: Positive = 0.05  # of contrastive divergence
        momentum: Decay = 0.5
        weight_decay: NotNegative = 2e-4  # of W in contrastive divergence
        fine_tuning_epochs: Count = 30  # then the run ends
        fine_tuning_rate: Positive = 1e-3  # Adam's, at first
        labelled: Count | None = None  # rows whose labels are used; none given: all
        batch_size: Count = 100  # rows of a minibatch, over all workers

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.activation != "sigmoid" and self.epochs_per_layer:
                raise ValueError(
                    f"activation={self.activation} needs epochs_per_layer=0: the Boltzmann "
                    "machines of the pre-training have sigmoid units"
                )
            if not self.epochs_per_layer:
                idle = ("learning_rate", "momentum", "weight_decay")
                self.refuse_idle(idle, "pre-training (epochs_per_layer)")
            return self

    source = "data"
    batch_axis = 0

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.data_mean is not None
        labelled, mean = config.labelled or 0, torch.from_numpy(problem.data_mean)
        if labelled > problem.data_count:
            raise ConfigError(
                f"hyperparameters.labelled: {labelled} are more than the {problem.data_count} "
                "training rows; give fewer, or leave it out"
            )
        greedy = config.epochs_per_layer > 0
        self.network = network = Classifier(
            mean, config.sizes, problem.data_classes, config.activation, greedy
        )
        self.labelled = Labelled(labelled, len(mean))
        self.rows = 0  # seen so far
        self.ascent = momentum_sgd(network, config.momentum, config.weight_decay)
        self.optimizer = torch.optim.Adam(network.upward, config.fine_tuning_rate, fused=True)

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse data without labels, or not in [0, 1]."""
        problem.check_unit_interval("dbn-classifier")
        if problem.data_classes < 2:
            raise ConfigError(
                "data.name: dbn-classifier needs labels of at least 2 classes, as digits and mnist "
                f"have, not {problem.data_classes}"
            )

    @torch.no_grad()
    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """In the pre-training, add the statistics of the machine in training."""
        if self.network.complete:
            return batch
        below = layers.climb(self.network.lower, batch["x"], draws=False)[-1]
        return batch | layers.contrast(self.network[len(self.network.lower)], below, k=1)

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of contrastive divergence for one layer, or of Adam for all."""
        config, network, count = self.config, self.network, self.problem.data_count
        layer, each = int(network.stage), config.epochs_per_layer * count
        done = (self.rows - each * len(network)) / (config.fine_tuning_epochs * count)
        self.labelled.keep(self.rows, batch["x"], batch["y"])
        self.rows += len(batch["x"])
        if layer < len(network):
            self.ascent.zero_grad()
            statistics = [batch[name] for name in layers.PHASES]
            follow(network[layer], self.ascent, config.learning_rate, statistics)
            network.advance(self.rows, each)
            return {"hidden_activity": batch["hidden"].mean(), "layer": float(layer)}
        loss = self._fine_tune(batch["x"], batch["y"], config.fine_tuning_rate * (1 - done))
        self.converged = self.rows >= each * len(network) + config.fine_tuning_epochs * count
        return {"cross_entropy": loss, "layer": float(layer)}

    def _fine_tune(self, x: Tensor, y: Tensor, rate: float) -> Tensor:
        if self.config.labelled:
            x, y = self.labelled.draw(len(x), self.rows)
        self.optimizer.param_groups[0]["lr"] = rate
        loss = nn.functional.cross_entropy(self.network(x), y)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def encode(self, x: Tensor) -> Tensor:
        """The top hidden layer's units ``(n, k)``."""
        return self.network.encode(x)

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Whether the likeliest class is right (its mean, the accuracy, is the score); log p(y)."""
        logits, y = self.network(batch["x"]), batch["y"]
        return {
            "accuracy": (logits.argmax(-1) == y).float(),
            "label_log_prob": -nn.functional.cross_entropy(logits, y, reduction="none"),
        }


if __name__ == "__main__":
    import rlgen

    rlgen.train("dbn-classifier-digits")
