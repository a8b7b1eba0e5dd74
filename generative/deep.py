"""The deep Boltzmann machine with two hidden layers: both phases, and the mean field."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, pad

from rlgen.algorithm import Estimate
from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    draw,
    energy,
    hidden_mean,
    visible_mean,
)
from rlgen.generative.partition import log_partition_of

Phases = tuple[Tensor, Tensor, Tensor, Tensor]
STARTING = 10  # steps of the mean field at which chains begin


class DeepMachine(BoltzmannMachine):
    """v ``(d,)``, h ``(m1,)`` and u ``(m2,)``, with E = -a'v - b'h - c'u - v'Wh - h'Vu.

    As v and u meet only in h, it is the Boltzmann machine of (v, u) ``(d + m2,)`` and h, whose
    weights are W over V' and whose visible biases are a and c.

    Args:
        mean: of the rows, ``(d,)``.
        hidden: m1.
        upper: m2.

    Attributes:
        stage: ``()`` float32: 0 and 1: W or V is trained greedily; 2: both together. A buffer, as
            workers learn of it with the weights.
    """

    stage: Tensor

    def __init__(self, mean: Tensor, hidden: int, upper: int) -> None:
        super().__init__(len(mean) + upper, hidden)
        self.d, self.upper = len(mean), upper
        self.mean = mean
        self.weight.normal_(std=0.01)
        self.visible_bias[: self.d] = mean.clamp(0.01, 0.99).logit()
        self.register_buffer("stage", torch.zeros(()))

    def greedy_lower(self, x: Tensor) -> Phases:
        """CD-1 for W: p(h | v) = s(2 W'v + b), with u = 0 throughout."""
        below = pad(x, (0, self.upper))
        hidden = hidden_mean(self, 2 * below)
        fantasy = draw(visible_mean(self, draw(hidden)))
        fantasy[:, self.d :] = 0
        return below, hidden, fantasy, hidden_mean(self, 2 * fantasy)

    def greedy_upper(self, x: Tensor) -> Phases:
        """CD-1 for V from draws of h: p(h | u) = s(2 V u + b), with v = 0 throughout."""
        hidden = draw(hidden_mean(self, 2 * pad(x, (0, self.upper))))
        below = self._upper_mean(hidden)
        fantasy_hidden = draw(hidden_mean(self, 2 * draw(below)))
        return below, hidden, self._upper_mean(fantasy_hidden), fantasy_hidden

    def _upper_mean(self, hidden: Tensor) -> Tensor:
        """(0, E[u | h]) ``(n, d + m2)``."""
        mean = visible_mean(self, hidden)
        mean[:, : self.d] = 0
        return mean

    def mean_field(self, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The means of (v, u) ``(n, d + m2)`` and h ``(n, m1)`` in q, a product, for p(h, u | v).

        So many times nu = s(V'mu + c) and mu = s(W'v + V nu + b), from mu = s(2 W'v + b) on. Each
        of the two raises E_q[-E] + H(q), whose maximum makes q the best product.
        """
        mu = hidden_mean(self, 2 * pad(x, (0, self.upper)))
        for _ in range(steps):
            below = torch.cat([x, visible_mean(self, mu)[:, self.d :]], 1)
            mu = hidden_mean(self, below)
        return below, mu

    def unnormalised_bound(self, x: Tensor, steps: int) -> Tensor:
        """E_q[-E] + H(q) ``(n,)`` nats of the mean field q: at most log p(v) + log Z."""
        below, mu = self.mean_field(x, steps)
        units = torch.cat([below[:, self.d :], mu], 1)
        entropy = binary_cross_entropy(units, units, reduction="none").sum(1)
        return entropy - energy(self, below, mu)

    def bound(self, x: Tensor, steps: int, ais_chains: int, ais_steps: int) -> Estimate:
        """The mean lower bound of log p(x) over rows ``(n, d)``.

        Its interval is that of log Z, by `rlgen.generative.partition.log_partition_of`.
        """
        value = float(self.unnormalised_bound(x, steps).mean())
        base = self.mean_field(x, steps)[0].mean(0).clamp(0.01, 0.99).logit()
        log_z = log_partition_of(self, base, ais_chains, ais_steps)
        ends = value - log_z.value, value - log_z.high, value - log_z.low
        return Estimate(*ends, f"log Z: {log_z.note}")

    def walk(self, n: int) -> Iterator[Tensor]:
        """E[v | h] ``(n, d)`` after every step of endless Gibbs chains.

        They begin at the mean field of pixels drawn by their means: with u drawn by its biases, all
        of h may be off, a state that chains hardly leave.
        """
        below, _ = self.mean_field(draw(self.mean.to(self.weight).expand(n, -1)), STARTING)
        while True:
            mean = visible_mean(self, draw(hidden_mean(self, below)))
            yield mean[:, : self.d]
            below = draw(mean)
