"""The invertible network of affine couplings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlgen.config import NetworkConfig
from rlgen.networks import make_mlp


class Coupling(nn.Module):
    """One half ``(n, b)`` scaled and shifted by functions of the other ``(n, a)``."""

    def __init__(self, network: NetworkConfig, given: int, moved: int) -> None:
        super().__init__()
        self.net = make_mlp(network, given, 2 * moved, last_gain=0.0)  # starts as the identity
        self.bound = nn.Parameter(torch.ones(moved))

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """The log scales s, between plus and minus a learned bound, and the shifts t."""
        s, t = self.net(given).chunk(2, dim=-1)
        return self.bound * torch.tanh(s), t


class Flow(nn.Module):
    """Standardises each value, then moves one half and the other in turn."""

    def __init__(
        self, network: NetworkConfig, couplings: int, halves: Tensor, mean: Tensor, scale: Tensor
    ) -> None:
        super().__init__()
        ones = int(halves.sum())
        self.order: nn.Buffer = nn.Buffer(halves.argsort(stable=True))  # the first half, the other
        self.sizes = (len(halves) - ones, ones)
        self.mean = nn.Parameter(mean)
        self.log_scale = nn.Parameter(scale.log())
        self.couplings = nn.ModuleList(
            Coupling(network, self.sizes[i % 2], self.sizes[1 - i % 2]) for i in range(couplings)
        )

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The codes ``(n, d)`` of v ``(n, d)``, and log |det dz/dv| ``(n,)``."""
        u = (v - self.mean) * torch.exp(-self.log_scale)
        given, moved = u[:, self.order].split(self.sizes, dim=-1)
        log_det = -self.log_scale.sum().expand(len(v))
        for coupling in self.couplings:
            s, t = coupling(given)
            given, moved = moved * s.exp() + t, given  # and the next moves the other half
            log_det = log_det + s.sum(-1)
        return torch.cat((given, moved), -1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """v ``(n, d)`` of codes ``(n, d)``."""
        count = len(self.couplings)
        given, moved = z.split((self.sizes[count % 2], self.sizes[1 - count % 2]), dim=-1)
        for coupling in reversed(self.couplings):
            s, t = coupling(moved)
            given, moved = moved, (given - t) * torch.exp(-s)
        u = torch.cat((given, moved), -1)[:, self.order.argsort()]
        return u * self.log_scale.exp() + self.mean
