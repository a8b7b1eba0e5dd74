"""What the deep belief network as a classifier is made of: its network, and the labelled rows."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rlgen.generative.boltzmann import BoltzmannMachine, hidden_input
from rlgen.generative.layers import Stack

Activation = Literal["sigmoid", "relu"]


class Classifier(Stack):
    """A stack whose upward weights are a feed-forward network's, under a softmax layer.

    Args:
        mean: of the rows, ``(d,)``.
        sizes: of the hidden layers.
        classes: of the labels.
        activation: of the hidden layers.
        greedy: whether the machines are trained first; else they count as complete, and their
            weights begin as Glorot's.
    """

    def __init__(
        self, mean: Tensor, sizes: list[int], classes: int, activation: Activation, greedy: bool
    ) -> None:
        super().__init__(mean, sizes)
        self.output = nn.Linear(sizes[-1], classes)
        self.activation = activation
        if not greedy:
            self.advance(0, 0)
            for machine in self:
                nn.init.xavier_uniform_(machine.weight, nn.init.calculate_gain(activation))
        for parameter in self.upward:
            parameter.requires_grad_(True)

    @property
    def upward(self) -> list[nn.Parameter]:
        """The weights and biases of the feed-forward network."""
        own = [p for machine in self for p in (machine.weight, machine.hidden_bias)]
        return [*own, *self.output.parameters()]

    @property
    def lower(self) -> list[BoltzmannMachine]:
        """The machines below the one in training."""
        return list(self)[: int(self.stage)]

    def encode(self, x: Tensor) -> Tensor:
        """The top hidden layer ``(n, k)``."""
        for machine in self:
            x = hidden_input(machine, x)
            x = x.sigmoid() if self.activation == "sigmoid" else x.relu()
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of p(y | x)."""
        logits: Tensor = self.output(self.encode(x))
        return logits


class Labelled(nn.Module):
    """The first rows of a run, with their labels.

    A module, as modules are where the learner's device is; it is no part of the shared weights.
    """

    x: Tensor
    y: Tensor

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.register_buffer("x", torch.zeros(rows, width))
        self.register_buffer("y", torch.zeros(rows, dtype=torch.long))

    def keep(self, seen: int, x: Tensor, y: Tensor) -> None:
        """Take those of the rows ``(n, d)`` for which there is room, ``seen`` rows having come."""
        room = self.y[seen : seen + len(y)]
        self.x[seen : seen + len(y)], room[:] = x[: len(room)], y[: len(room)]

    def draw(self, n: int, seen: int) -> tuple[Tensor, Tensor]:
        """``n`` rows with their labels, with replacement, of those that are kept so far."""
        chosen = torch.randint(min(seen, len(self.y)), (n,), device=self.y.device)
        return self.x[chosen], self.y[chosen]
