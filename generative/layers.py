"""Boltzmann machines in layers: what deep belief networks share.

Layer l of a `Stack` is a machine between h_l ``(n, m_l)`` and h_(l+1) ``(n, m_(l+1))``; h_0 = x.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    draw,
    gibbs,
    hidden_input,
    visible_input,
)


class Stack(nn.Module):
    """Machines of the given sizes, one on top of the other, and which of them is in training.

    W starts at N(0, 0.01^2), as the symmetry must be broken, and the bias of x at the data's log
    odds.

    Attributes:
        stage: ``()`` float32: the machine in training, or their number once all are trained. A
            buffer, as workers learn of it with the weights.
    """

    stage: Tensor

    def __init__(self, mean: Tensor, sizes: list[int]) -> None:
        super().__init__()
        widths = [len(mean), *sizes]
        self.machines = nn.ModuleList(BoltzmannMachine(m, n) for m, n in pairwise(widths))
        for machine in self:
            machine.weight.normal_(std=0.01)
        self[0].visible_bias.copy_(mean.clamp(0.01, 0.99).logit())
        self.register_buffer("stage", torch.zeros(()))

    def advance(self, rows: int, each: int) -> None:
        """Go on to the machine whose turn it is after so many rows, ``each`` for every machine."""
        self.stage.fill_(min(rows // each if each else len(self), len(self)))

    @property
    def complete(self) -> bool:
        """Whether every machine has had its turn."""
        return int(self.stage) == len(self)

    def __len__(self) -> int:
        return len(self.machines)

    def __getitem__(self, layer: int) -> BoltzmannMachine:
        return cast(BoltzmannMachine, self.machines[layer])

    def __iter__(self) -> Iterator[BoltzmannMachine]:
        return (self[layer] for layer in range(len(self)))


def climb(machines: Iterable[BoltzmannMachine], x: Tensor, draws: bool) -> list[Tensor]:
    """h_0 = x, h_1, ..., each ``(n, m_l)``: draws, or means of independent units."""
    states = [x]
    for machine in machines:
        mean = hidden_input(machine, states[-1]).sigmoid_()
        states.append(draw(mean) if draws else mean)
    return states


def descend(machines: Sequence[BoltzmannMachine], top: Tensor, draws: bool) -> list[Tensor]:
    """x, h_1, ... to the given ``top`` above the machines, each ``(n, m_l)``, as in `climb`."""
    states = [top]
    for machine in reversed(machines):
        mean = visible_input(machine, states[0]).sigmoid_()
        states.insert(0, draw(mean) if draws else mean)
    return states


def imitate_below(rbm: BoltzmannMachine, below: Tensor, above: Tensor) -> None:
    """Set the gradients of -log p(below | above), the mean of rows: <(s(W h + a) - v) h'>."""
    surprise = (visible_input(rbm, above).sigmoid_() - below) / len(below)
    rbm.weight.grad, rbm.visible_bias.grad = surprise.T @ above, surprise.sum(0)


def imitate_above(rbm: BoltzmannMachine, below: Tensor, above: Tensor) -> None:
    """Set the gradients of -log p(above | below), the mean of rows: <v (s(W'v + b) - h)'>."""
    surprise = (hidden_input(rbm, below).sigmoid_() - above) / len(below)
    rbm.weight.grad, rbm.hidden_bias.grad = below.T @ surprise, surprise.sum(0)


PHASES = ("below", "hidden", "fantasy", "ended")


def contrast(
    rbm: BoltzmannMachine, below: Tensor, k: int, chains: Tensor | None = None
) -> dict[str, Tensor]:
    """The statistics of both phases of CD-k, for rows ``(n, m)`` of the layer below.

    With ``chains`` ``(c, m)`` the negative phase goes on from there, as in persistent CD.
    """
    hidden = hidden_input(rbm, below).sigmoid_()
    start = hidden if chains is None else hidden_input(rbm, chains).sigmoid_()
    return dict(zip(PHASES, (below, hidden, *gibbs(rbm, start, k)), strict=True))
