"""The Wasserstein GAN."""

from __future__ import annotations

import copy
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Positive
from rlgen.generative.adversarial import (
    AdversarialHyperparameters,
    Generator,
    Normalization,
    Opponent,
    descend,
    transport_costs,
)
from rlgen.networks import follow

NORMALIZATIONS: dict[str, Normalization] = {
    "clip": "batch",
    "penalty": "layer",  # a batch normalisation would tie the gradient of a row to the others
    "spectral": "spectral",
}


def gradient_penalty(critic: Opponent, x: Tensor, made: Tensor, labels: Tensor | None) -> Tensor:
    """The mean of (|df/dx| - 1)^2 at points between rows ``(n, d)`` and made rows ``(n, d)``.

    Each is drawn uniformly on the line from a row to its made one (Gulrajani et al. 2017).
    """
    share = torch.rand(len(x), 1, dtype=x.dtype, device=x.device)
    between = torch.lerp(made, x, share).requires_grad_()
    values = critic(between, labels).sum()
    (gradient,) = torch.autograd.grad(values, between, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


class WGAN(Algorithm):
    """Wasserstein GAN: a generator down the earth mover's distance that a critic f estimates.

    K times, with a new minibatch x and z ~ p(z) each time, one step of the critic up

        mean f(x) - mean f(G(z))                                                   (eq 13.55)

    with f kept Lipschitz, and then, with a new z, one of the generator up mean f(G(z)) (eq 13.56):
    algorithm 13.2, where an `update` is one step of f. Kept Lipschitz by

    - clip: RMSProp, then every parameter of f clipped to [-c, c], as the book has it (its comment
      calls it "gradient truncation"). The value is then k W1 for an unknown k: no value of another
      c compares with it. Learning rate, K and batch: Arjovsky et al. 2017, arXiv:1701.07875.
    - penalty: minus lambda mean (|df/dx| - 1)^2 between rows and made rows, and Adam with betas
      (0, 0.9): Gulrajani et al. 2017, arXiv:1704.00028. The value is near W1 in the data's units.
    - spectral: spectral normalisation of f's layers, and the same Adam: Miyato et al. 2018.

    Averaged weights, conditional models and DCGAN as in `gan`. Source: section 13.3.6.
    """

    class Config(AdversarialHyperparameters):
        """Hyper-parameters; ``network.hidden`` are the layers of G, mirrored those of f."""

        lipschitz: Literal["clip", "penalty", "spectral"] = "clip"  # what keeps f so
        clip: Positive = 0.01  # c
        penalty: Positive = 10.0  # lambda
        critic_steps: Count = 5  # K, steps of f (and minibatches) for each of G
        learning_rate: Positive = 5e-5  # of both

        @model_validator(mode="after")
        def _no_idle_ones(self) -> Self:
            for key in ("clip", "penalty"):
                if self.lipschitz != key:
                    self.refuse_idle([key], f"lipschitz={key}")
            return self

    source = "data"
    batch_axis = 0
    uses_network = True
    network_options = ()
    data_parallel = True

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.generator = Generator(config, problem)
        self.critic = Opponent(config, problem, NORMALIZATIONS[config.lipschitz], in_units=True)
        self.network = copy.deepcopy(self.generator).eval()  # the average, which is evaluated
        self.steps = 0  # of the critic
        self.optimizer, self.opponent_optimizer = map(
            self._optimizer, (self.generator, self.critic)
        )

    def _optimizer(self, player: torch.nn.Module) -> torch.optim.Optimizer:
        if self.config.lipschitz == "clip":  # momentum is unstable here
            return torch.optim.RMSprop(player.parameters(), self.config.learning_rate)
        return torch.optim.Adam(
            player.parameters(), self.config.learning_rate, (0.0, 0.9), fused=True
        )

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of the critic and, every K-th time, one of the generator."""
        x, y = batch["x"], batch["y"] if self.config.conditional else None
        with torch.no_grad():
            made = self.generator(self.generator.codes(len(x), y))
        distance = self.critic(x, y).mean() - self.critic(made, y).mean()
        metrics = {"wasserstein": distance.detach()}
        loss = -distance
        if self.config.lipschitz == "penalty":
            penalty = gradient_penalty(self.critic, x, made, y)
            metrics["penalty"] = penalty.detach()
            loss = loss + self.config.penalty * penalty
        descend(self.opponent_optimizer, loss)
        if self.config.lipschitz == "clip":
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-self.config.clip, self.config.clip)
        self.steps += 1
        if self.steps % self.config.critic_steps == 0:
            made = self.generator(self.generator.codes(len(x), y))
            descend(self.optimizer, -self.critic(made, y).mean())
            # At first the average is over all steps so far: it forgets the first weights sooner.
            each = self.config.critic_steps / self.steps
            follow(self.network, self.generator, max(1 - self.config.average, each))
        return metrics

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

    rlgen.train("wgan-gp-ring")
