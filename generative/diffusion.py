"""The Gaussian diffusion of Ho et al. 2020: its noise schedule, and its distributions.

x_t is a row after t of T steps of noise; t counts from 1, and x_0 is the row itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

OFFSET = 0.008  # s of the cosine schedule: keeps the first steps from being too small
MAX_BETA = 0.999
TERMS = 50  # of the variational bound, drawn where it has more


def betas(schedule: str, steps: int) -> Tensor:
    """The variances beta_1 .. beta_T of the steps ``(T,)`` float64.

    ``"linear"``: from 1e-4 to 0.02 at T = 1000 (Ho et al. 2020); others are scaled by 1000 / T, so
    that the last row is as noisy. ``"cosine"``: alpha_bar falls as a squared cosine (Nichol &
    Dhariwal 2021, arXiv:2102.09672, eq 17).
    """
    if schedule == "linear":
        beta = torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps
    else:
        time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((time + OFFSET) / (1 + OFFSET) * torch.pi / 2).square()
        beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    return beta.clamp(max=MAX_BETA)


class Diffusion(nn.Module):
    """q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I), in T steps.

    Attributes:
        steps: T.
        beta: ``(T + 1,)``; beta_0 = 0.
        alpha_bar: ``(T + 1,)``, the product of 1 - beta up to t; alpha_bar_0 = 1.
    """

    beta: Tensor
    alpha_bar: Tensor

    def __init__(self, schedule: str, steps: int) -> None:
        super().__init__()
        self.steps = steps
        beta = torch.cat((torch.zeros(1, dtype=torch.float64), betas(schedule, steps)))
        self.beta = nn.Buffer(beta.float())
        self.alpha_bar = nn.Buffer((1 - beta).cumprod(0).float())

    def at(self, t: Tensor) -> Tensor:
        """alpha_bar_t ``(n, 1)`` of times ``(n,)``."""
        return self.alpha_bar[t, None]

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of rows x_0 ``(n, d)`` at times ``(n,)``, with noise ``(n, d)`` of N(0, I) (eq 4)."""
        return self.at(t).sqrt() * x + (1 - self.at(t)).sqrt() * noise

    def clean(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0, where the noise in x_t ``(n, d)`` is ``noise``: the inverse of `noised` (eq 15)."""
        return (x_t - (1 - self.at(t)).sqrt() * noise) / self.at(t).sqrt()

    def posterior(
        self, x: Tensor, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Mean ``(n, d)`` and variance ``(n, 1)`` of q(x_s | x_t, x_0) for 0 <= s < t.

        With eta = 1, and s = t - 1, it is that of the diffusion (Ho et al. 2020, eq 6 and 7). A
        smaller one is that of another process with the same q(x_t | x_0) and less noise, without
        any at 0 (Song, Meng & Ermon 2021, arXiv:2010.02502, eq 12 and 16).
        """
        now, then = self.at(t), self.at(s)
        variance = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
        noise = (x_t - now.sqrt() * x) / (1 - now).sqrt()
        mean = then.sqrt() * x + (1 - then - variance).clamp(min=0).sqrt() * noise
        return mean, variance

    def times(self, steps: int) -> list[tuple[int, int]]:
        """From T to 0 in so many even steps: pairs of a time and the next, smaller one."""
        times = torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64).round().int().tolist()
        return list(pairwise(times))


def bound(
    diffusion: Diffusion,
    estimate: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    width: float = 0.0,
) -> Tensor:
    """An unbiased estimate of the variational bound of log p(x_0), in nats (Ho et al. 2020, eq 5).

        log p(x_0 | x_1) - sum_{t > 1} KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
        - KL(q(x_T | x_0) || N(0, I))

    p has the variances of q, and of beta_1 at the end. One x_t is drawn for each term, and of the
    sum at most `TERMS` terms, spread evenly.

    Args:
        diffusion: its noise.
        estimate: x_0 ``(n, d)`` of x_t ``(n, d)`` and times ``(n,)``.
        x: rows ``(n, d)``, scaled to [-1, 1].
        width: of the cells of values that come at levels, whose probability is then bounded; 0 for
            continuous ones, whose density is.

    Returns:
        ``(n,)``.
    """
    first = torch.ones(len(x), dtype=torch.int64, device=x.device)
    mean = estimate(diffusion.noised(x, first, torch.randn_like(x)), first)
    total = decoder_log_prob(x, mean, float(diffusion.beta[1].sqrt()), width)
    last = diffusion.alpha_bar[-1]
    total = total - 0.5 * (last * x.square() - last - torch.log1p(-last)).sum(-1)
    inner = diffusion.steps - 1
    terms = min(TERMS, inner)
    for term in range(terms):
        share = (term + torch.rand(len(x), dtype=torch.float64, device=x.device)) / terms
        t = 2 + (share * inner).long().clamp(max=inner - 1)
        x_t = diffusion.noised(x, t, torch.randn_like(x))
        wanted, variance = diffusion.posterior(x, x_t, t, t - 1)
        found, _ = diffusion.posterior(estimate(x_t, t), x_t, t, t - 1)
        kl = (wanted - found).square().sum(-1) / (2 * variance[:, 0])
        total = total - inner / terms * kl
    return total


def decoder_log_prob(x: Tensor, mean: Tensor, scale: float, width: float) -> Tensor:
    """log p(x_0 | x_1) of rows ``(n, d)``, ``(n,)`` nats: a normal distribution's density.

    Or, with a width, its probability of the cell of each value, the outermost cells reaching to
    infinity (eq 13).
    """
    z = ((x - mean) / scale).double()
    if not width:
        return -(0.5 * z.square() + math.log(scale * math.sqrt(2 * math.pi))).sum(-1).to(x)
    half = width / (2 * scale)
    edge = 1 - width / 2
    above = torch.where(x > edge, torch.inf, z + half)
    below = torch.where(x < -edge, -torch.inf, z - half)
    # By the mirrored tail where both are large: their difference would lose all its digits.
    flip = z > 0
    above, below = torch.where(flip, -below, above), torch.where(flip, -above, below)
    cell = torch.special.ndtr(above) - torch.special.ndtr(below)
    return cell.clamp(min=1e-300).log().sum(-1).to(x)
