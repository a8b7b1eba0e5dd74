"""The variational autoencoder."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NetworkConfig, Positive
from rlgen.errors import ConfigError
from rlgen.networks import make_mlp


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, diag(sigma^2)) || N(0, I)) of each row ``(..., k)``, in nats (eq 13.26)."""
    return 0.5 * (log_variance.exp() + mu.square() - 1.0 - log_variance).sum(-1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Bernoulli log p(x | z) of each row ``(..., d)`` in [0, 1], summed over d (eq 13.17)."""
    # x log g + (1 - x) log(1 - g) = x l - softplus(l) for g = sigmoid(l)
    return (x * logits - functional.softplus(logits)).sum(-1)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The log of N(x | mean, sigma^2 I) of each row ``(..., d)``, summed over d (eq 13.18)."""
    z = (x - mean) * torch.exp(-log_scale)
    return -0.5 * z.square().sum(-1) - x.shape[-1] * (log_scale + 0.5 * math.log(2 * math.pi))


class Autoencoder(nn.Module):
    """The encoder ``(n, d) -> (n, 2 k)``, its mirror image, and the Gaussian's log deviation."""

    def __init__(self, network: NetworkConfig, size: int, latent: int) -> None:
        super().__init__()
        mirrored = network.model_copy(update={"hidden": network.hidden[::-1]})
        self.encoder = make_mlp(network, size, 2 * latent)
        self.decoder = make_mlp(mirrored, latent, size)
        self.log_scale = nn.Parameter(torch.zeros(()))


class VAE(Algorithm):
    """Variational autoencoder: encoder and decoder trained together on the evidence lower bound.

    Maximises, for each row x, with z_m = mu(x) + sigma(x) eps_m and eps_m ~ N(0, I) (eq 13.27),

        elbo(x) = 1/M sum_m log p(x | z_m) - KL(N(mu(x), diag(sigma^2(x))) || N(0, I))   (eq 13.24)

    where log p sums over the d values of x and the KL over the latent ones; the mean is over rows
    only. The book's reduced objective, eq 13.28, adds the KL and drops the 1/2 of the squared
    error: both are slips. With M > 1, log p is averaged: the bound stays the ELBO.

    Decoders: Bernoulli, for values in [0, 1] (a proper likelihood of binary ones), or Gaussian with
    one learned standard deviation of at least exp(-5) (Rybkin et al. 2021, arXiv:2006.13202).

    Source: section 13.2; Kingma & Welling 2014, arXiv:1312.6114.
    """

    class Config(Hyperparameters):
        """Hyper-parameters; the hidden layers are ``network.hidden``."""

        latent: Count = 20  # size of z
        decoder: Literal["bernoulli", "gaussian"] = "bernoulli"
        learning_rate: Positive = 1e-3  # Adam's
        batch_size: Count = 128  # rows of a minibatch, over all workers
        samples: Count = 1  # M, draws of z for each row

    source = "data"
    batch_axis = 0
    uses_network = True
    network_options = ()

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.network is not None
        assert problem.data_mean is not None
        mean = torch.from_numpy(problem.data_mean)
        self.bernoulli = config.decoder == "bernoulli"
        if self.bernoulli and (problem.data_range[0] < 0 or problem.data_range[1] > 1):
            raise ConfigError(
                "hyperparameters.decoder: 'bernoulli' needs data in [0, 1]; use 'gaussian'"
            )
        self.network = Autoencoder(problem.network, len(mean), config.latent)
        with torch.no_grad():  # start where every row is decoded to the mean row
            start = mean.clamp(0.01, 0.99).logit() if self.bernoulli else mean
            list(self.network.decoder.parameters())[-1].copy_(start)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), config.learning_rate, fused=True
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(n, latent)`` of q(z | x)."""
        mu, log_variance = self.network.encoder(x).chunk(2, dim=-1)
        return mu, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """The mean ``(n, d)`` of p(x | z)."""
        output = self.network.decoder(z)
        return torch.sigmoid(output) if self.bernoulli else output

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the Gaussian decoder's standard deviation."""
        return self.network.log_scale.clamp(min=-5.0)

    def bound(self, x: Tensor) -> dict[str, Tensor]:
        """The evidence lower bound of each row ``(n,)``, in nats, and its two terms."""
        mu, log_variance = self.encode(x)
        noise = torch.randn(self.config.samples, *mu.shape, dtype=x.dtype, device=x.device)
        output = self.network.decoder(mu + torch.exp(0.5 * log_variance) * noise)  # (M, n, d)
        if self.bernoulli:
            log_prob = bernoulli_log_prob(x, output)
        else:
            log_prob = gaussian_log_prob(x, output, self.log_scale)
        reconstruction, kl = log_prob.mean(0), gaussian_kl(mu, log_variance)
        return {"elbo": reconstruction - kl, "reconstruction": reconstruction, "kl": kl}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """As `bound`; the bound itself is the score."""
        return self.bound(batch["x"])

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam up the mean bound of the rows."""
        means = {name: rows.mean() for name, rows in self.bound(batch["x"]).items()}
        self.optimizer.zero_grad()
        torch.autograd.backward(-means["elbo"])
        self.optimizer.step()
        return {name: mean.detach() for name, mean in means.items()}

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows from z ~ N(0, I): means for Bernoulli values, draws for Gaussian ones."""
        mean = self.decode(torch.randn(n, self.config.latent, device=self.network.log_scale.device))
        if self.bernoulli:
            return mean
        return mean + torch.exp(self.log_scale) * torch.randn_like(mean)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The means ``(n, d)`` of p(x | z) at the mean z of q(z | x)."""
        return self.decode(self.encode(x)[0])


if __name__ == "__main__":
    import rlgen

    rlgen.train("vae-digits")
