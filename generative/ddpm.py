"""The denoising diffusion model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Positive, Share
from rlgen.generative.denoisers import make_denoiser
from rlgen.generative.diffusion import Diffusion, bound
from rlgen.generative.levels import Levels, check_levels, quantise
from rlgen.networks import clip_gradients, follow


class DDPM(Algorithm):
    """Diffusion model: rows become noise in T small steps, and a network learns to take them back.

        x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,  e ~ N(0, I)
        minimise the mean of |e - e_theta(x_t, t)|^2,  t uniform in 1 .. T       (eq 14)

    To sample: from x_T ~ N(0, I) down, x_0 is estimated from x_t and e_theta, clipped to the range
    of the data, and x_s drawn from q(x_s | x_t, x_0). With ``eta`` 1 and all T steps that is the
    paper's algorithm 2, with its smaller variances; fewer steps, and ``eta`` 0 without noise, are
    DDIM. Estimates are those of a moving average of the weights.

    Rows are scaled to [-1, 1]. The score is minus the mean squared error of e, at the same noise
    and times at every evaluation. `measure` estimates the bound of log p(x_0) by 50 of its T terms.

    Beyond the book. Source: Ho et al. 2020, arXiv:2006.11239; Song et al. 2021, arXiv:2010.02502.
    """

    class Config(Hyperparameters):
        """Hyper-parameters; ``network.hidden``: the layers of an mlp, a unet's channels."""

        denoiser: Literal["mlp", "unet"] = "mlp"  # unet for pictures
        steps: Count = 1000  # T
        schedule: Literal["linear", "cosine"] = "linear"  # of the steps' variances
        sampling_steps: Count = 1000  # of the T, evenly spread
        eta: Fraction = 1.0  # noise of sampling: 1 as the diffusion's own, 0 none
        levels: Levels = 0  # values of a pixel (mnist 256, digits 17); 0: continuous values
        average: Share = 0.999  # of the averaged weights that an update keeps
        learning_rate: Positive = 1e-3  # Adam's
        max_grad_norm: Positive = 1.0
        batch_size: Count = 128  # rows of a minibatch, over all workers

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if self.sampling_steps > self.steps:
                raise ValueError(
                    f"sampling_steps={self.sampling_steps} is more than steps={self.steps}"
                )
            return self

    source = "data"
    batch_axis = 0
    uses_network = data_parallel = chain_ends = True
    network_options = ()
    shared = "average"

    def __init__(self, config: Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert problem.network is not None
        low, high = problem.data_range
        check_levels(problem, config.levels)
        if config.levels:
            low, high = 0.0, 1.0
        self.centre, self.half = (low + high) / 2, (high - low) / 2 or 1.0
        self.diffusion = Diffusion(config.schedule, config.steps)
        shape = problem.data_shape
        self.network = make_denoiser(config.denoiser, problem.network, shape, config.steps)
        self.average = deepcopy(self.network).requires_grad_(False)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
        self.updates = 0

    def errors(self, network: torch.nn.Module, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The mean over d of |e - e_theta(x_t, t)|^2, of each row ``(n,)``."""
        x_t = self.diffusion.noised((x - self.centre) / self.half, t, noise)
        return (network(x_t, t) - noise).square().mean(-1)

    def update(self, batch: dict[str, Any]) -> Metrics:
        """One step of Adam down the mean squared error, and of the average behind it."""
        x = batch["x"]
        t = torch.randint(1, self.config.steps + 1, x.shape[:1], device=x.device)
        loss = self.errors(self.network, x, t, torch.randn_like(x)).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = clip_gradients(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        # At first the average is that of fewer updates, or it would be of the first weights.
        keep = min(self.config.average, (1 + self.updates) / (10 + self.updates))
        follow(self.average, self.network, 1 - keep)
        self.updates += 1
        return {"denoising_loss": loss.detach(), "gradient_norm": norm}

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Minus the mean squared error of each row ``(n,)``, the times spread over 1 .. T."""
        x = batch["x"]
        t = 1 + torch.arange(len(x), device=x.device) * self.config.steps // len(x)
        noise = torch.randn(x.shape, generator=torch.Generator()).to(x)  # always the same
        return {"minus_denoising_loss": -self.errors(self.average, x, t, noise)}

    def estimate(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 ``(n, d)``, as the network has it, within the data's range."""
        return self.diffusion.clean(x_t, t, self.average(x_t, t)).clamp(-1, 1)

    def states(self, x_t: Tensor, eta: float) -> Iterator[Tensor]:
        """From x_T ``(n, d)`` to x_0, in data space."""
        yield self.centre + self.half * x_t
        for now, then in self.diffusion.times(self.config.sampling_steps):
            t, s = (torch.full((len(x_t),), k, device=x_t.device) for k in (now, then))
            mean, variance = self.diffusion.posterior(self.estimate(x_t, t), x_t, t, s, eta)
            x_t = mean + variance.sqrt() * torch.randn_like(mean)
            yield self.centre + self.half * x_t

    def chain(self, n: int) -> Iterator[Tensor]:
        """The states ``(n, d)`` from noise to a sample, in data space."""
        return self.states(self.prior(n), self.config.eta)

    def prior(self, n: int) -> Tensor:
        """x_T ``(n, d)`` of N(0, I)."""
        size = math.prod(self.problem.data_shape)
        return torch.randn(n, size, device=self.diffusion.beta.device)

    def decode(self, z: Tensor) -> Tensor:
        """x_0 ``(n, d)`` of x_T ``(n, d)`` without noise (eta 0)."""
        *_, x = self.states(z, 0.0)
        return x

    def sample(self, n: int) -> Tensor:
        """``(n, d)`` rows, of levels where the data have them."""
        *_, x = self.chain(n)
        return quantise(x, self.config.levels) if self.config.levels else x

    def measure(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """An unbiased estimate of the bound of log p(x) of each row ``(n,)``, in nats."""
        levels = self.config.levels
        width = 2 / (levels - 1) if levels else 0.0
        nats = bound(self.diffusion, self.estimate, (batch["x"] - self.centre) / self.half, width)
        size = batch["x"].shape[-1]
        if not levels:
            return {"elbo": nats - size * math.log(self.half)}
        return {"elbo": nats, "bits_per_value": -nats / (size * math.log(2))}


if __name__ == "__main__":
    import rlgen

    rlgen.train("ddpm-two-moons")
