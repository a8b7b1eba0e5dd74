"""The network of a deep belief network: its draws in both directions, and their probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import Tensor, nn

from rlgen.algorithm import Estimate
from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    draw,
    free_energy,
    hidden_input,
    visible_input,
)
from rlgen.generative.layers import Stack, climb, descend
from rlgen.generative.partition import log_partition_of
from rlgen.generative.variational import bernoulli_log_prob


class BeliefNetwork(nn.Module):
    """p(x, h) and q(h | x), of the layers up to the one in training.

    Attributes:
        generative: machines of which all but the top one are used downwards only.
        recognition: machines used upwards only, one less.
    """

    def __init__(self, mean: Tensor, sizes: list[int]) -> None:
        super().__init__()
        self.mean = mean
        self.generative = Stack(mean, sizes)
        self.recognition = Stack(mean, sizes[:-1])

    @property
    def layers(self) -> tuple[list[BoltzmannMachine], list[BoltzmannMachine], BoltzmannMachine]:
        """Those downwards, those upwards, and the machine on top."""
        top = min(int(self.generative.stage), len(self.generative) - 1)
        return list(self.generative)[:top], list(self.recognition)[:top], self.generative[top]

    def untie(self, layer: int) -> None:
        """Let the recognition weights of a layer begin as the transposed generative ones."""
        self.recognition[layer].load_state_dict(self.generative[layer].state_dict())

    def encode(self, x: Tensor) -> Tensor:
        """The means of h_L ``(n, m_L)``, upwards through the means."""
        _, up, top = self.layers
        return climb([*up, top], x, draws=False)[-1]

    def decode(self, z: Tensor) -> Tensor:
        """The means of x ``(n, d)``, downwards through the means."""
        down, _, top = self.layers
        return descend([*down, top], z, draws=False)[0]

    def dream(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless Gibbs chains of the top machine: h_(L-1), h_L ``(n, m)``.

        They begin above pixels drawn by their means, as Hinton, Osindero & Teh's do.
        """
        _, up, top = self.layers
        pixels = draw(self.mean.to(top.weight).expand(n, -1))
        above = climb([*up, top], pixels, draws=True)[-1]
        while True:
            below = draw(visible_input(top, above).sigmoid_())
            above = draw(hidden_input(top, below).sigmoid_())
            yield below, above

    def dream_on(self, n: int, steps: int) -> tuple[Tensor, Tensor]:
        """h_(L-1) and h_L ``(n, m)`` after so many Gibbs steps."""
        return next(islice(self.dream(n), steps - 1, None))

    def show(self, below: Tensor) -> Tensor:
        """The means of x ``(n, d)`` after draws from h_(L-1) down to h_1."""
        down = self.layers[0]
        if not down:
            return below
        return descend(down[:1], descend(down[1:], below, draws=True)[0], draws=False)[0]

    def log_weight(self, states: list[Tensor]) -> Tensor:
        """log p*(x, h_1 ... h_(L-1)) - log q(h_1 ... h_(L-1) | x) ``(n,)`` nats.

        p is p* / Z, with Z of the top machine. Over draws of q, its mean is at most log p(x) Z
        (eq 12.65), and the mean of its exponential is p(x) Z.
        """
        down, up, top = self.layers
        total = -free_energy(top, states[-1])
        for generative, recognition, below, above in zip(
            down, up, states, states[1:], strict=False
        ):
            total += bernoulli_log_prob(below, visible_input(generative, above))
            total -= bernoulli_log_prob(above, hidden_input(recognition, below))
        return total

    def bound(self, x: Tensor, chains: int, steps: int) -> Estimate:
        """The mean lower bound of log p(x) over rows ``(n, d)``, from one draw of h for each.

        Its interval is that of log Z, by `rlgen.generative.partition.log_partition_of`.
        """
        _, up, top = self.layers
        states = climb(up, x, draws=True)
        mean = states[-1].mean(0).clamp(0.01, 0.99).logit()
        log_z = log_partition_of(top, mean, chains, steps)
        value = float(self.log_weight(states).mean())
        return Estimate(
            value - log_z.value, value - log_z.high, value - log_z.low, f"log Z: {log_z.note}"
        )
