"""Torsos: from an image, or the rows of a table of entities, to one vector of features.

Each takes what an encoder made of the observation, float32 ``(n, *shape)``, and has a ``size``.
Convolutions use ReLU, as in the papers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.networks.layers import initialize

SMALLEST = {"small_cnn": 3, "nature_cnn": 36, "residual_cnn": 8, "attention": 2}  # sides in pixels
RELU_GAIN = math.sqrt(2)


class ImageLayout:
    """Where height, width and channels of an image are, and how to make it ``(n, C, H, W)``.

    Of the last three dimensions the smaller one of the first and the third holds the channels, the
    third where they are equal: ``(4, 84, 84)`` and ``(84, 84, 3)`` are understood. A fourth one in
    front counts frames, which become channels too: ``(k, H, W, C)``. Two dimensions are one
    channel.

    Args:
        shape: of one observation, of two to four dimensions.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        single = (1, *shape) if len(shape) == 2 else shape[-3:]
        frames = shape[0] if len(shape) == 4 else 1
        self.last = single[2] <= single[0]
        height, width, channels = single if self.last else (*single[1:], single[0])
        self.height, self.width, self.channels = height, width, frames * channels

    def __call__(self, images: Tensor) -> Tensor:
        """``(n, *shape)`` as ``(n, C, H, W)``."""
        frames = images.reshape(len(images), -1, *self.shape[-3:])
        if self.last:
            frames = frames.movedim(-1, -3)
        return frames.reshape(len(images), self.channels, self.height, self.width)


def _dense(inputs: int, outputs: int, layer_norm: bool, initialization: str) -> nn.Sequential:
    """The fully connected layer at a torso's end."""
    linear = nn.Linear(inputs, outputs)
    initialize(linear, RELU_GAIN, initialization)
    norm = [nn.LayerNorm(outputs)] if layer_norm else []
    return nn.Sequential(linear, *norm, nn.ReLU())


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, initialization: str
) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding)
    initialize(layer, RELU_GAIN, initialization)
    return layer


class PlainCNN(nn.Module):
    """Convolutions one after the other, flattened, then a fully connected layer if there is one.

    Args:
        shape: of one observation (see `ImageLayout`).
        layers: (channels, kernel, stride) of each convolution.
        dense: width of the fully connected layer, 0 for none.
        layer_norm: before the last ReLU.
        initialization: of the weights.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        layers: tuple[tuple[int, int, int], ...],
        dense: int,
        layer_norm: bool,
        initialization: str,
    ) -> None:
        super().__init__()
        self.layout = ImageLayout(shape)
        inputs, height, width = self.layout.channels, self.layout.height, self.layout.width
        parts: list[nn.Module] = []
        for channels, kernel, stride in layers:
            parts += [_convolution(inputs, channels, kernel, stride, 0, initialization), nn.ReLU()]
            inputs = channels
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        self.size = inputs * height * width
        parts.append(nn.Flatten())
        if dense:
            parts.append(_dense(self.size, dense, layer_norm, initialization))
            self.size = dense
        self.layers = nn.Sequential(*parts)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(n, size)``."""
        return self.layers(self.layout(images))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int, initialization: str) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, 3, 1, 1, initialization)
        self.second = _convolution(channels, channels, 3, 1, 1, initialization)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class ResidualCNN(nn.Module):
    """The deep network of IMPALA without its memory (Espeholt et al. 2018, figure 3, right).

    Three sections of 16, 32 and 32 channels: a 3x3 convolution, a 3x3 maximum of stride 2, two
    residual blocks; then 256 fully connected units.
    """

    def __init__(self, shape: tuple[int, ...], layer_norm: bool, initialization: str) -> None:
        super().__init__()
        self.layout = ImageLayout(shape)
        inputs, height, width = self.layout.channels, self.layout.height, self.layout.width
        parts: list[nn.Module] = []
        for channels in (16, 32, 32):
            parts += [
                _convolution(inputs, channels, 3, 1, 1, initialization),
                nn.MaxPool2d(3, stride=2, padding=1),
                _ResidualBlock(channels, initialization),
                _ResidualBlock(channels, initialization),
            ]
            inputs, height, width = channels, (height + 1) // 2, (width + 1) // 2
        self.size = 256
        dense = _dense(inputs * height * width, self.size, layer_norm, initialization)
        self.layers = nn.Sequential(*parts, nn.ReLU(), nn.Flatten(), dense)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(n, 256)``."""
        return self.layers(self.layout(images))


class _AttentionBlock(nn.Module):
    """Pre-norm self-attention and perceptron, each with a residual connection."""

    def __init__(self, size: int, heads: int, initialization: str) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(size), nn.LayerNorm(size)])
        self.projection, self.output = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.widen, self.narrow = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        for linear in (self.projection, self.output, self.widen, self.narrow):
            initialize(linear, RELU_GAIN if linear is self.widen else 1.0, initialization)

    def forward(self, tokens: Tensor) -> Tensor:
        projected = self.projection(self.norms[0](tokens))
        parts = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts)  # (n, heads, tokens, size / heads)
        tokens = tokens + self.output(mixed.transpose(1, 2).flatten(-2))
        return tokens + self.narrow(functional.relu(self.widen(self.norms[1](tokens))))


class AttentionTorso(nn.Module):
    """Self-attention over tokens, then their mean (Vaswani et al. 2017, normalised first).

    The rows of a two-dimensional observation ``(entities, features)`` are tokens without a
    position, so the features do not depend on the order of the rows. An image is cut into about
    8 x 8 square patches (padded with zeros), whose positions are learned (Dosovitskiy et al. 2021).
    Two blocks of width 64 with four heads.
    """

    def __init__(self, shape: tuple[int, ...], image: bool, initialization: str) -> None:
        super().__init__()
        self.size = 64
        self.layout = ImageLayout(shape) if image else None
        self.positions: nn.Parameter | None = None
        inputs = shape[-1]
        if self.layout is not None:
            self.patch = math.ceil(max(self.layout.height, self.layout.width) / 8)
            self.margin = (-self.layout.width % self.patch, -self.layout.height % self.patch)
            patches = math.ceil(self.layout.height / self.patch)
            patches *= math.ceil(self.layout.width / self.patch)
            inputs = self.layout.channels * self.patch**2
            self.positions = nn.Parameter(0.02 * torch.randn(patches, self.size))
        self.embedding = nn.Linear(inputs, self.size)
        initialize(self.embedding, 1.0, initialization)
        blocks = [_AttentionBlock(self.size, 4, initialization) for _ in range(2)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(self.size)

    def forward(self, observation: Tensor) -> Tensor:
        """Features ``(n, 64)``."""
        if self.layout is not None:
            right, below = self.margin
            images = functional.pad(self.layout(observation), (0, right, 0, below))
            observation = functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        tokens = self.embedding(observation)
        if self.positions is not None:
            tokens = tokens + self.positions
        return self.norm(self.blocks(tokens)).mean(dim=1)
