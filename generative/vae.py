"""The variational autoencoder."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, Positive, Whole
from rlgen.errors import ConfigError
from rlgen.generative.variational import (
    Autoencoder,
    gaussian_kl,
    importance_ratio,
    reparameterise,
)
from rlgen.schedules import linear

AT_ONCE = 2000  # rows decoded at a time by `VAE.measure`


class VAE(Algorithm):
    """Variational autoencoder: encoder and decoder trained together on the evidence lower bound.

    Maximises, for each row x, with z_m = mu(x) + sigma(x) eps_m and eps_m ~ N(0, I) (eq 13.27),

        elbo(x) = 1/M sum_m log p(x | z_m) - KL(N(mu(x), diag(sigma^2(x))) || N(0, I))   (eq 13.24)

    where log p sums over the d values of x and the KL over the latent ones; the mean is over rows
    only. In training the KL's weight is `beta`, grown from 0 in `warmup` epochs. The book's reduced
    objective, eq 13.28, adds the KL and drops the 1/2 of the squared error: both are slips. With
    M > 1, log p is averaged: the bound stays the ELBO. The encoder gives log sigma^2 (eq 13.9).

    Decoders: Bernoulli, for values in [0, 1] (a proper likelihood of binary ones), or Gaussian with
    one learned standard deviation of at least exp(-5) (Rybkin et al. 2021, arXiv:2006.13202). A
    conditional one is told the label too, p(x | z, y); the encoder reads it off the row.

    Source: section 13.2; Kingma & Welling 2014, arXiv:1312.6114; beta: Higgins et al. 2017; the
    importance-weighted bound: Burda et al. 2016, arXiv:1509.00519.
    """

    class Config(Hyperparameters):
        """Hyper-parameters; the hidden layers are ``network.hidden``."""

        latent: Count = 20  # size of z
        decoder: Literal["bernoulli", "gaussian"] = "bernoulli"
        architecture: Literal["mlp", "conv"] = "mlp"
        channels: Count = 32  # of conv's first layer; the second one has twice as many
        conditional: bool = False  # on the label
        beta: Positive = 1.0  # weight of the KL in training
        warmup: Whole = 0  # epochs in which it grows to that
        learning_rate: Positive = 1e-3  # Adam's
        batch_size: Count = 128  # rows of a minibatch, over all workers
        samples: Count = 1  # M, draws of z for each row
        importance_samples: Count = 5000  # draws of the importance-weighted bound

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.architecture == "mlp":
                self.refuse_idle(("channels",), "architecture=conv")
            return self

    source = "data"
    batch_axis = 0
    uses_network = data_parallel = True
    network_options = ()

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.network is not None and problem.data_mean is not None
        bernoulli = config.decoder == "bernoulli"
        if bernoulli and (outside := problem.outside(0, 1)):
            raise ConfigError(
                f"hyperparameters.decoder: 'bernoulli' needs values in [0, 1], not {outside}; use "
                "'gaussian'"
            )
        if config.conditional and not problem.data_classes:
            raise ConfigError("hyperparameters.conditional: these data have no labels; use false")
        channels = config.channels if config.architecture == "conv" else 0
        sizes = (channels, config.latent, problem.data_classes if config.conditional else 0)
        self.network = Autoencoder(problem.network, problem.data_shape, *sizes, bernoulli)
        self.network.start(torch.from_numpy(problem.data_mean))
        weights = self.network.parameters()
        self.optimizer = torch.optim.Adam(weights, config.learning_rate, fused=True)
        self.updates = 0

    def evaluate(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The evidence lower bound of each row ``(n,)``, in nats (the score), and its two terms."""
        mu, log_variance = self.network.posterior(batch["x"])
        z, _ = reparameterise(mu, log_variance, self.config.samples)
        reconstruction = self.network.log_likelihood(batch["x"], z, batch.get("y")).mean(0)
        kl = gaussian_kl(mu, log_variance)
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The importance-weighted bound of each row ``(n,)``, in nats, from k draws of q(z | x).

        log 1/k sum_i p(x | z_i) p(z_i) / q(z_i | x): from the ELBO (k = 1) up to log p(x).
        """
        x, labels, k = batch["x"], batch.get("y"), self.config.importance_samples
        mu, log_variance = self.network.posterior(x)
        total, most = torch.full_like(x[:, 0], -torch.inf), max(1, AT_ONCE // len(x))
        for first in range(0, k, most):
            z, noise = reparameterise(mu, log_variance, min(most, k - first))
            weights = self.network.log_likelihood(x, z, labels)
            weights = weights + importance_ratio(z, noise, log_variance)
            total = torch.logaddexp(total, weights.logsumexp(0))
        return {"importance_weighted_bound": total - math.log(k)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam up the mean bound of the rows, its KL weighted."""
        config, epoch = self.config, -(-self.problem.data_count // self.config.batch_size)
        weight = linear(0.0, config.beta, config.warmup * epoch, self.updates)
        means = {name: rows.mean() for name, rows in self.evaluate(batch).items()}
        self.optimizer.zero_grad()
        torch.autograd.backward(weight * means["kl"] - means["reconstruction"])
        self.optimizer.step()
        self.updates += 1
        return {name: mean.detach() for name, mean in means.items()} | {"kl_weight": weight}

    def prior(self, n: int) -> Tensor:
        """``(n, latent)`` draws of N(0, I)."""
        return torch.randn(n, self.config.latent, device=self.network.log_deviation.device)

    def encode(self, x: Tensor) -> Tensor:
        """The mean ``(n, latent)`` of q(z | x)."""
        return self.network.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """The mean ``(n, d)`` of p(x | z); of a conditional model, over all labels."""
        return self.network.mean(z, None)

    def decode_labelled(self, z: Tensor, labels: Tensor) -> Tensor:
        """The mean ``(n, d)`` of p(x | z, y)."""
        return self.network.mean(z, labels)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The means ``(n, d)`` of p(x | z) at the mean z of q(z | x), with the likeliest labels."""
        z = self.encode(x)
        return self.network.mean(z, self.network.likeliest(x, z))

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows from z ~ N(0, I): means for Bernoulli values, draws for Gaussian ones."""
        classes = self.network.classes
        return self.network.draw(self.prior(n), torch.arange(n) % classes if classes else None)

    def sample_labelled(self, labels: Tensor) -> Tensor:
        """As `sample`, of p(x | z, y) for labels ``(n,)``."""
        return self.network.draw(self.prior(len(labels)), labels)


if __name__ == "__main__":
    import rlgen

    rlgen.train("vae-digits")
