"""Networks that estimate the noise in rows, given how noisy they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks import ACTIVATIONS, initialize, make_mlp

WAVES = 64  # features of a time
OCTAVES = 4  # frequencies of a value
LARGE = 16  # sides in pixels
LONGEST = 10_000  # the longest wave, in steps of 1000


def time_features(t: Tensor, steps: int) -> Tensor:
    """Sines and cosines ``(n, WAVES)`` of times ``(n,)`` in 0 .. steps (Vaswani et al. 2017)."""
    exponents = torch.arange(WAVES // 2, device=t.device) / (WAVES // 2)
    angles = (1000 / steps) * t[:, None] * torch.exp(-math.log(LONGEST) * exponents)
    return torch.cat((angles.sin(), angles.cos()), -1)


class MLPDenoiser(nn.Module):
    """A perceptron of the row, its sines and cosines, and the features of its time.

    Those of the row, at `OCTAVES` frequencies, let it see detail (Tancik et al. 2020,
    arXiv:2006.10739).
    """

    def __init__(self, network: NetworkConfig, size: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.net = make_mlp(network, size * (1 + 2 * OCTAVES) + WAVES, size, last_gain=0.01)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise ``(n, d)`` in rows ``(n, d)`` at times ``(n,)``."""
        angles = torch.cat([math.pi / 2 * 2**k * x for k in range(OCTAVES)], -1)
        features = (x, angles.sin(), angles.cos(), time_features(t, self.steps))
        noise: Tensor = self.net(torch.cat(features, -1))
        return noise


class Block(nn.Module):
    """Two convolutions with a shortcut; the time shifts every channel between them."""

    def __init__(self, network: NetworkConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[network.activation]()
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, c), c) for c in (inputs, outputs))
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(WAVES, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` and features ``(n, WAVES)`` to ``(n, outputs, h, w)``."""
        y = self.first(self.activation(self.norms[0](x))) + self.time(time)[:, :, None, None]
        y = self.second(self.activation(self.norms[1](y)))
        result: Tensor = y + self.shortcut(x)
        return result


class UNet(nn.Module):
    """A small U-Net: down to half the height and width at each level, and up again.

    One block for each level on either side and one at the bottom, ``network.hidden[i]`` channels at
    level i; what a level held on the way down stands beside what comes up to it. Large pictures are
    first folded, the pixels of each square of 2 x 2 into channels: half as many multiplications.
    """

    def __init__(self, network: NetworkConfig, shape: tuple[int, ...], steps: int) -> None:
        super().__init__()
        widths, self.steps = network.hidden, steps
        self.shape = (*shape[:2], shape[2] if len(shape) == 3 else 1)
        self.fold = 2 if min(shape[:2]) >= LARGE and not any(side % 2 for side in shape[:2]) else 1
        channels, parts = self.shape[2] * self.fold**2, self.fold * 2 ** (len(widths) - 1)
        if any(side % parts for side in shape[:2]):
            raise ConfigError(
                f"network.hidden: {len(widths)} levels need sides that are divisible by {parts}, "
                f"but the pictures are {shape[0]} x {shape[1]}; give fewer"
            )
        self.time = nn.Sequential(nn.Linear(WAVES, WAVES), ACTIVATIONS[network.activation]())
        self.inlet = nn.Conv2d(channels, widths[0], 3, padding=1)
        ins = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(Block(network, a, b) for a, b in zip(ins, widths, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(c, c, 3, 2, padding=1) for c in widths[:-1])
        self.bottom = Block(network, widths[-1], widths[-1])
        self.up = nn.ModuleList(Block(network, 2 * b, a) for a, b in zip(ins, widths, strict=True))
        self.outlet = nn.Sequential(
            nn.GroupNorm(math.gcd(8, widths[0]), widths[0]),
            ACTIVATIONS[network.activation](),
            nn.Conv2d(widths[0], channels, 3, padding=1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                initialize(module, 1.0, network.initialization)
        # Every block starts as its shortcut, and the estimate as 0.
        for last in [self.outlet[-1], *(b.second for b in self.modules() if isinstance(b, Block))]:
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise ``(n, d)`` in rows ``(n, d)`` at times ``(n,)``."""
        time = self.time(time_features(t, self.steps))
        y = x.view(-1, *self.shape).permute(0, 3, 1, 2)
        y = self.inlet(functional.pixel_unshuffle(y, self.fold))
        held = []
        for level, block in enumerate(self.down):
            y = block(self.halve[level - 1](y) if level else y, time)
            held.append(y)
        y = self.bottom(y, time)
        for level in reversed(range(len(self.up))):
            y = self.up[level](torch.cat((y, held[level]), 1), time)
            if level:
                y = functional.interpolate(y, scale_factor=2.0)
        noise = functional.pixel_shuffle(self.outlet(y), self.fold)
        return noise.permute(0, 2, 3, 1).reshape(x.shape)


def make_denoiser(
    kind: str, network: NetworkConfig, shape: tuple[int, ...], steps: int
) -> nn.Module:
    """The ``"mlp"`` or ``"unet"`` of rows of a shape, and of times up to ``steps``.

    Raises:
        ConfigError: a unet of rows that are no pictures, of a size that its levels do not halve, or
            with a setting that it ignores.
    """
    if kind == "mlp":
        return MLPDenoiser(network, math.prod(shape), steps)
    if len(shape) not in (2, 3):
        raise ConfigError(
            f"hyperparameters.denoiser: 'unet' needs pictures, but the rows have shape {shape}; "
            "use 'mlp'"
        )
    if not network.hidden:
        raise ConfigError("network.hidden: a unet needs the channels of one level at least")
    if network.layer_norm:
        raise ConfigError("network.layer_norm: a unet normalises groups of channels; set it false")
    return UNet(network, shape, steps)
