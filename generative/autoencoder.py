"""The auto-encoder: plain, tied, sparse, denoising."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Hyperparameters, NotNegative, Positive, Share
from rlgen.errors import ConfigError
from rlgen.generative.coder import Coder

FUNCTIONS = {"linear": lambda a: a, "sigmoid": torch.sigmoid, "relu": torch.relu}


def bernoulli_kl(target: float, activation: Tensor) -> Tensor:
    """KL(Bernoulli(target) || Bernoulli(activation_j)) of each unit ``(k,)``, in nats (eq 9.28)."""
    p = activation.clamp(1e-6, 1 - 1e-6)
    r = torch.as_tensor(target).to(p)
    return r * (r / p).log() + (1 - r) * ((1 - r) / (1 - p)).log()


class Autoencoder(Algorithm):
    """Auto-encoder: a code z = f(x) from which g reconstructs x.

    Minimises, with means over the rows of a minibatch,

        |x - g(f(x~))|^2 + l1 sum_j |z_j| + kl sum_j KL(r || mean z_j) + decay sum |W|^2

    (eq 9.19, 9.24 to 9.28). x~ is x itself, or x with a share of its values set to 0 and Gaussian
    noise added (the denoising one, section 9.1.6). Tied, the decoder's matrices are the encoder's
    transposed. Without hidden layers, and linear, its optimum spans the principal components'
    subspace.

    The book writes f(g(x)) in eq 9.21; it is g(f(x)).

    Source: section 9.1.3, 9.1.4, 9.1.6; Vincent et al. 2008, doi:10.1145/1390156.1390294.
    """

    class Config(Hyperparameters):
        """Hyper-parameters; the hidden layers between x and z are ``network.hidden``."""

        latent: Count = 32  # k, size of z
        code: Literal["linear", "sigmoid", "relu"] = "sigmoid"  # the function that ends f
        output: Literal["linear", "sigmoid"] = "sigmoid"  # and g; sigmoid for data in [0, 1]
        tied: bool = False
        mask: Decay = 0.0  # share of the values of x~ that are 0
        noise: NotNegative = 0.0  # standard deviation of x~ - x
        l1: NotNegative = 0.0  # weight of the codes' size
        kl: NotNegative = 0.0  # weight of the divergence from the target
        target: Share = 0.05  # r, mean activation of a unit
        weight_decay: NotNegative = 0.0
        learning_rate: Positive = 1e-3  # Adam's
        batch_size: Count = 128  # rows of a minibatch, over all workers

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.kl and self.code != "sigmoid":
                raise ValueError(f"kl={self.kl} needs code=sigmoid, activations between 0 and 1")
            if not self.kl and self.target != 0.05:
                raise ValueError(f"target={self.target} needs a weight, kl > 0")
            return self

    source = "data"
    batch_axis = 0
    uses_network = True
    data_parallel = True
    network_options = ()

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.network is not None
        assert problem.data_mean is not None
        mean = torch.from_numpy(problem.data_mean)
        if config.output == "sigmoid" and (outside := problem.outside(0, 1)):
            raise ConfigError(
                "hyperparameters.output: 'sigmoid' needs data in [0, 1], not "
                f"{outside}; use 'linear'"
            )
        if config.tied and problem.network.layer_norm:
            raise ConfigError("network.layer_norm: a tied decoder has none; set it to false")
        self.network = Coder(problem.network, len(mean), config.latent, config.tied)
        with torch.no_grad():  # start near the mean row
            start = mean.clamp(0.01, 0.99).logit() if config.output == "sigmoid" else mean
            list(self.network.decoder.parameters())[-1].copy_(start)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, fused=True
        )

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(n, k)`` of rows ``(n, d)``."""
        return FUNCTIONS[self.config.code](self.network.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Rows ``(n, d)`` of codes ``(n, k)``."""
        return FUNCTIONS[self.config.output](self.network.decoder(z))

    def corrupt(self, x: Tensor) -> Tensor:
        """x~: with values set to 0, and with noise."""
        if self.config.mask:
            x = x * (torch.rand_like(x) >= self.config.mask)
        return x + self.config.noise * torch.randn_like(x) if self.config.noise else x

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam down the mean loss of the rows."""
        config, x = self.config, batch["x"]
        z = self.encode(self.corrupt(x))
        error = (self.decode(z) - x).square().sum(-1).mean()
        penalty = torch.zeros_like(error)
        if config.l1:
            penalty = penalty + config.l1 * z.abs().sum(-1).mean()
        if config.kl:
            penalty = penalty + config.kl * bernoulli_kl(config.target, z.mean(0)).sum()
        if config.weight_decay:
            matrices = [p for p in self.network.parameters() if p.dim() > 1]
            squares = torch.stack([p.square().sum() for p in matrices])
            penalty = penalty + config.weight_decay * squares.sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(error + penalty)
        self.optimizer.step()
        return {"squared_error": error.detach(), "penalty": penalty.detach()}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Minus |x - g(f(x))|^2 (the score) and the mean |z_j| of each row ``(n,)``."""
        z = self.encode(batch["x"])
        error = (self.decode(z) - batch["x"]).square().sum(-1)
        return {"minus_squared_error": -error, "code_activity": z.abs().mean(-1)}

    def reconstruct(self, x: Tensor) -> Tensor:
        """g(f(x)) of rows ``(n, d)``."""
        return self.decode(self.encode(x))


if __name__ == "__main__":
    import rlgen

    rlgen.train("autoencoder-digits")
