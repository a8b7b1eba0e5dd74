"""The generative adversarial network."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Positive
from rlgen.generative.adversarial import (
    AdversarialHyperparameters,
    Generator,
    Opponent,
    descend,
    transport_costs,
)
from rlgen.networks import follow

Loss = Literal["non-saturating", "minimax"]


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))) of logits ``(n,)`` and ``(m,)`` (eq 13.31)."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor, loss: Loss) -> Tensor:
    """-E log D(G(z)) (eq 13.33), or minimax: E log(1 - D(G(z))) (eq 13.34); of logits ``(n,)``."""
    return softplus(-fake).mean() if loss == "non-saturating" else -softplus(fake).mean()


class GAN(Algorithm):
    """Generative adversarial network: a generator against a discriminator D of real and made rows.

    K times, with a new minibatch x and z ~ p(z) each time, one step of Adam up

        mean log D(x) + mean log(1 - D(G(z)))                                  (eq 13.31)

    and then, with a new z, one up mean log D(G(z)) (non-saturating, eq 13.33; exchanging the labels
    is the same), or down mean log(1 - D(G(z))) (minimax, eq 13.34): algorithm 13.1, where an
    `update` is one step of D. Step 9 of it prints mean D(G(z)), without the logarithm: its gradient
    vanishes as the minimax one's does where D is sure.

    Samples come from an exponential moving average of the generator's weights (Yaz et al. 2019,
    arXiv:1806.04498). Spectral normalisation makes D 1-Lipschitz: Miyato et al. 2018,
    arXiv:1802.05957. Conditional: Mirza & Osindero 2014, arXiv:1411.1784.

    Source: section 13.3; Goodfellow et al. 2014, arXiv:1406.2661. DCGAN (section 13.3.4): Radford
    et al. 2016, arXiv:1511.06434, with its five rules: strides instead of pooling, batch
    normalisation, no fully connected layers, ReLU and a last tanh in G, LeakyReLU in D.
    """

    class Config(AdversarialHyperparameters):
        """Hyper-parameters; ``network.hidden`` are the layers of G, mirrored those of D."""

        loss: Loss = "non-saturating"
        critic_steps: Count = 1  # K, steps of D (and minibatches) for each of G
        spectral: bool = False  # D's layers with a largest singular value of 1, without batch norm
        learning_rate: Positive = 2e-4  # Adam's, of both
        momentum: Decay = 0.5  # Adam's beta_1

    source = "data"
    batch_axis = 0
    uses_network = True
    network_options = ()
    data_parallel = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.generator = Generator(config, problem)
        self.discriminator = Opponent(config, problem, "spectral" if config.spectral else "batch")
        self.network = copy.deepcopy(self.generator).eval()  # the average, which is evaluated
        self.steps = 0  # of the discriminator
        betas = (config.momentum, 0.999)
        self.optimizer, self.opponent_optimizer = (
            torch.optim.Adam(player.parameters(), config.learning_rate, betas, fused=True)
            for player in (self.generator, self.discriminator)
        )

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of the discriminator and, every K-th time, one of the generator."""
        x, y = batch["x"], batch["y"] if self.config.conditional else None
        with torch.no_grad():
            made = self.generator(self.generator.codes(len(x), y))
        real, fake = self.discriminator(x, y), self.discriminator(made, y)  # apart: batch norm
        loss = discriminator_loss(real, fake)
        descend(self.opponent_optimizer, loss)
        self.steps += 1
        if self.steps % self.config.critic_steps == 0:
            made = self.generator(self.generator.codes(len(x), y))
            descend(self.optimizer, generator_loss(self.discriminator(made, y), self.config.loss))
            # At first the average is over all steps so far: it forgets the first weights sooner.
            each = self.config.critic_steps / self.steps
            follow(self.network, self.generator, max(1 - self.config.average, each))
        return {
            "discriminator_loss": loss.detach(),  # 2 log 2 = 1.386 where they are in balance
            "generator_loss": generator_loss(fake.detach(), self.config.loss),
            "d_real": real.detach().sigmoid().mean(),
            "d_fake": fake.detach().sigmoid().mean(),
        }

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Minus what it costs to move each row ``(n,)`` onto as many samples: the score."""
        labels = batch["y"] if self.config.conditional else None
        samples = self.network(self.network.codes(len(batch["x"]), labels))
        return {"minus_sliced_wasserstein": -transport_costs(batch["x"], samples)}

    def prior(self, n: int) -> Tensor:
        """Codes: z, and in a conditional model labels 0, 1, 2, ... in one-hot form."""
        return self.network.codes(n)

    def decode(self, z: Tensor) -> Tensor:
        """G(z) ``(n, d)`` of codes."""
        return self.network(z)

    def decode_labelled(self, z: Tensor, labels: Tensor) -> Tensor:
        """G(z) of codes with these labels instead of theirs."""
        return self.network(self.network.relabelled(z, labels))

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows; a conditional model takes the labels 0, 1, 2, ... in turn."""
        return self.decode(self.prior(n))

    def sample_labelled(self, labels: Tensor) -> Tensor:
        """One row of each label."""
        return self.decode_labelled(self.prior(len(labels)), labels)


if __name__ == "__main__":
    import rlgen

    rlgen.train("gan-digits")
