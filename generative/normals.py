"""K Gaussians with full or diagonal covariances: densities, maximum-likelihood fit, draws.

What `gaussian` (K = 1) and `gaussian_mixture` share. All in double precision; statistics are of
rows from which a fixed centre was taken, so that a distant mean costs no digits.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from rlgen.errors import ConfigError

Covariance = Literal["full", "diagonal"]
Sums = dict[str, Tensor]


class Gaussians(nn.Module):
    """K Gaussians in d dimensions, and their weights in a mixture.

    Attributes:
        log_weight: ``(K,)``.
        mean: ``(K, d)``.
        scale: the lower Cholesky factors of the covariances ``(K, d, d)``, or the standard
            deviations ``(K, d)``.
        fitted: 1 once `fit` was called, and 0 before (a tensor, so that it travels).
    """

    def __init__(self, components: int, centre: Tensor, covariance: Covariance) -> None:
        super().__init__()
        size = len(centre)
        ones = torch.ones(components, size, dtype=torch.float64)
        self.log_weight = nn.Buffer(-ones[:, 0] * math.log(components))
        self.mean = nn.Buffer(centre.double().repeat(components, 1))
        self.scale = nn.Buffer(ones.diag_embed() if covariance == "full" else ones)
        self.centre = nn.Buffer(centre.double())
        self.fitted = nn.Buffer(torch.zeros((), dtype=torch.float64))

    @property
    def full(self) -> bool:
        """Whether the covariances have more than a diagonal."""
        return self.scale.dim() == 3

    def log_density(self, x: Tensor) -> Tensor:
        """log N(x | mean_k, covariance_k) of rows ``(n, d)``: ``(n, K)`` nats (eq 9.31)."""
        rows, columns = x.double(), []
        for mean, scale in zip(self.mean, self.scale, strict=True):
            if self.full:
                z = torch.linalg.solve_triangular(scale, (rows - mean).T, upper=False).T
            else:
                z = (rows - mean) / scale
            deviations = scale.diagonal() if self.full else scale
            constant = deviations.log().sum() + 0.5 * len(mean) * math.log(2 * math.pi)
            columns.append(-0.5 * z.square().sum(-1) - constant)
        return torch.stack(columns, dim=1)

    def sums(self, x: Tensor, share: Tensor) -> Sums:
        """Sufficient statistics of rows ``(n, d)``, of which ``share`` ``(n, K)`` go to each.

        Returns one row each: ``"count"`` ``(1, K)``, ``"sum"`` ``(1, K, d)`` of the centred rows
        and ``"square"``, of their outer products ``(1, K, d, d)`` or squares ``(1, K, d)``.
        """
        rows = x.double() - self.centre
        if self.full:
            square = torch.stack([(rows * weight[:, None]).T @ rows for weight in share.T])
        else:
            square = share.T @ rows.square()
        parts = {"count": share.sum(0), "sum": share.T @ rows, "square": square}
        return {name: part[None] for name, part in parts.items()}

    def fit(self, sums: Sums, regularization: float) -> None:
        """The maximum-likelihood parameters, given joined `sums` (eq 9.33-9.34, 11.108-11.112).

        ``regularization`` is added to every variance.

        Raises:
            ConfigError: a covariance is not positive definite.
        """
        totals = {name: part.sum(0) for name, part in sums.items()}
        # As in scikit-learn: an empty component keeps a finite mean, and a weight of nearly 0.
        count = totals["count"] + 10 * torch.finfo(torch.float64).eps
        offset = totals["sum"] / count[:, None]
        self.log_weight.copy_((count / count.sum()).log())
        self.mean.copy_(self.centre + offset)
        if self.full:
            covariance = totals["square"] / count[:, None, None]
            covariance -= offset[:, :, None] * offset[:, None, :]
            covariance.diagonal(dim1=1, dim2=2).add_(regularization)
            self.scale.copy_(_cholesky(covariance))
        else:
            variance = totals["square"] / count[:, None] - offset.square() + regularization
            self.scale.copy_(_roots(variance))
        self.fitted.fill_(1.0)

    def draw(self, n: int) -> Tensor:
        """``(n, d)`` rows of the mixture."""
        chosen = torch.multinomial(self.log_weight.exp(), n, replacement=True)
        noise = torch.randn(n, self.mean.shape[1], dtype=torch.float64, device=self.mean.device)
        if not self.full:
            return self.mean[chosen] + self.scale[chosen] * noise
        rows = self.mean[chosen]
        for k in chosen.unique():
            rows[chosen == k] += noise[chosen == k] @ self.scale[k].T
        return rows


def _cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factors ``(K, d, d)``."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    _refuse(failed != 0)
    return factor


def _roots(variance: Tensor) -> Tensor:
    """Standard deviations ``(K, d)``."""
    _refuse((variance <= 0).any(1))
    return variance.sqrt()


def _refuse(singular: Tensor) -> None:
    if singular.any():
        raise ConfigError(
            "hyperparameters.regularization: the covariance of component "
            f"{int(singular.nonzero()[0])} is singular (too few rows, or values that never "
            "change); use a larger one, such as 1e-3"
        )
