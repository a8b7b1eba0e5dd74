"""What the adversarial models share: a generator, its opponent, and a score without a likelihood.

No algorithm of its own. Rows are ``(n, d)`` in the units of the data; inside, the networks see them
scaled to [-1, 1] by the range of the training rows. A code is the noise z and, in a conditional
model, the label after it in one-hot form.

`network.hidden` holds the widths of the generator's layers, from z on; the opponent has them
mirrored. With the architecture dcgan they are channels, each for images of twice the side.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from rlgen.algorithm import Problem
from rlgen.config import Count, Decay, Hyperparameters, NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks import make_mlp

#: How the opponent's layers are normalised.
Normalization = Literal["batch", "layer", "spectral"]
LEAK = 0.2  # slope of DCGAN's LeakyReLU below 0
SPREAD = 0.02  # standard deviation of DCGAN's first weights
PROJECTIONS = 128  # directions of the sliced distance


class AdversarialHyperparameters(Hyperparameters):
    """What both models are asked for."""

    latent: Count = 64  # size of z
    noise: Literal["normal", "uniform"] = "normal"  # z: N(0, I), or uniform in [-1, 1]
    architecture: Literal["mlp", "dcgan"] = "mlp"  # what network.hidden describes
    conditional: bool = False  # on the labels of the data
    average: Decay = 0.999  # decay of the averaged generator
    batch_size: Count = 64  # rows of a minibatch, over all workers


class Generator(nn.Module):
    """x = G(z), or G(z, y) with a label.

    Images end in tanh, so that they stay within the range of the data; other rows in a linear
    layer.

    Raises:
        ConfigError: the architecture or the labels do not suit the data.
    """

    def __init__(self, config: AdversarialHyperparameters, problem: Problem) -> None:
        super().__init__()
        assert problem.network is not None
        assert problem.data_mean is not None
        _check(config, problem)
        self.latent, self.uniform = config.latent, config.noise == "uniform"
        self.classes = problem.data_classes if config.conditional else 0
        self.middle, self.scale = _scale(problem)
        inputs, shape = config.latent + self.classes, problem.data_shape
        if config.architecture == "dcgan":
            self.layers = _upwards(problem.network.hidden, inputs, shape)
        else:
            self.layers = make_mlp(problem.network, inputs, len(problem.data_mean))
        if len(shape) > 1:
            self.layers.append(nn.Tanh())

    def codes(self, n: int, labels: Tensor | None = None) -> Tensor:
        """Draw ``(n, latent)``; a conditional model adds ``labels`` (by default 0, 1, 2, ...)."""
        device = next(self.parameters()).device
        if self.uniform:
            z = 2 * torch.rand(n, self.latent, device=device) - 1
        else:
            z = torch.randn(n, self.latent, device=device)
        if not self.classes:
            return z
        if labels is None:
            labels = torch.arange(n, device=device) % self.classes
        return torch.cat([z, functional.one_hot(labels, self.classes)], dim=1)

    def relabelled(self, codes: Tensor, labels: Tensor) -> Tensor:
        """The codes ``(n, k)`` with other labels ``(n,)``.

        Raises:
            ConfigError: the model is not conditional.
        """
        if not self.classes:
            raise ConfigError("label: this model learned none; train with conditional=true")
        shown = functional.one_hot(labels, self.classes)
        return torch.cat([codes[:, : self.latent], shown], dim=1)

    def forward(self, codes: Tensor) -> Tensor:
        """Rows ``(n, d)`` in the units of the data."""
        rows = self.layers(codes).movedim(1, -1).flatten(1)  # channels last
        return self.middle + self.scale * rows


class Opponent(nn.Module):
    """One real number for a row ``(n,)``: the discriminator's logit, or the critic's value.

    Args:
        config: of the model.
        problem: its data.
        normalization: of the layers.
        in_units: whether the number is in the units of the data, as a distance is, so that a slope
            of 1 is one of 1 inside too.
    """

    def __init__(
        self,
        config: AdversarialHyperparameters,
        problem: Problem,
        normalization: Normalization,
        in_units: bool = False,
    ) -> None:
        super().__init__()
        assert problem.network is not None
        assert problem.data_mean is not None
        self.classes = problem.data_classes if config.conditional else 0
        self.middle, self.scale = _scale(problem)
        self.unit = self.scale if in_units else 1.0
        self.image = _image(problem.data_shape) if config.architecture == "dcgan" else None
        hidden = problem.network.hidden[::-1]
        if self.image is not None:
            self.layers = _downwards(hidden, self.image, self.classes, normalization)
        else:
            mirrored = problem.network.model_copy(update={"hidden": hidden})
            self.layers = make_mlp(mirrored, len(problem.data_mean) + self.classes, 1)
        if normalization == "spectral":
            if problem.network.layer_norm:
                raise ConfigError(
                    "network.layer_norm: spectral normalisation bounds the slope of every layer, "
                    "and layer norm has none; use false"
                )
            for layer in list(self.layers):
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    spectral_norm(layer)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """``(n,)`` of rows ``(n, d)``; a conditional model wants their labels ``(n,)``."""
        x = (x - self.middle) / self.scale
        if self.image is not None:
            x = x.view(-1, *self.image).movedim(-1, 1)
        if self.classes:
            assert labels is not None
            shown = functional.one_hot(labels, self.classes).to(x)
            if self.image is not None:  # a plane of ones or zeros for each label
                shown = shown[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, shown], dim=1)
        return self.unit * self.layers(x).flatten()


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels."""
    height, width, channels = (*shape, 1)[:3]
    return height, width, channels


def _scale(problem: Problem) -> tuple[float, float]:
    """Middle and half the width of the range of the training rows."""
    low, high = problem.data_range
    return (low + high) / 2, (high - low) / 2 or 1.0


def _check(config: AdversarialHyperparameters, problem: Problem) -> None:
    shape, network = problem.data_shape, problem.network
    assert network is not None
    if config.conditional and not problem.data_classes:
        raise ConfigError(
            "hyperparameters.conditional: the data set has no labels; leave it out, or use one that"
            " has"
        )
    if config.architecture == "mlp":
        return
    if len(shape) not in (2, 3):
        raise ConfigError(
            "hyperparameters.architecture: dcgan needs images (h, w) or (h, w, channels), not rows "
            f"of shape {shape}; use mlp"
        )
    for key in ("activation", "layer_norm", "initialization"):
        if getattr(network, key) != NetworkConfig.model_fields[key].default:
            raise ConfigError(f"network.{key}: dcgan's own rules fix it; remove it")
    factor = 2 ** len(network.hidden)
    if factor < 2 or any(side % factor or side < 2 * factor for side in shape[:2]):
        raise ConfigError(
            f"network.hidden: dcgan doubles the side at each of its {len(network.hidden)} layers; "
            f"images of {shape[0]}x{shape[1]} cannot be reached so from at least 2x2; give "
            "another number of layers, at least one"
        )


def _upwards(hidden: list[int], inputs: int, shape: tuple[int, ...]) -> nn.Sequential:
    """DCGAN's generator ``(n, inputs) -> (n, channels, h, w)``, but for the last tanh."""
    height, width, channels = _image(shape)
    base = (height >> len(hidden), width >> len(hidden))
    # What the paper calls "project and reshape" is a fractionally-strided convolution of 1 pixel.
    layers: list[nn.Module] = [nn.Unflatten(1, (inputs, 1, 1))]
    layers.append(nn.ConvTranspose2d(inputs, hidden[0], base, bias=False))
    for now, after in zip(hidden, [*hidden[1:], channels], strict=True):
        layers += [nn.BatchNorm2d(now), nn.ReLU()]
        layers.append(nn.ConvTranspose2d(now, after, 4, stride=2, padding=1))
    return _initialized(layers)


def _downwards(
    hidden: list[int], image: tuple[int, int, int], classes: int, normalization: Normalization
) -> nn.Sequential:
    """DCGAN's discriminator ``(n, channels + classes, h, w) -> (n, 1, 1, 1)``."""
    height, width, channels = image
    layers: list[nn.Module] = []
    for before, now in zip([channels + classes, *hidden], hidden, strict=False):
        layers.append(nn.Conv2d(before, now, 4, stride=2, padding=1))
        if normalization != "spectral" and len(layers) > 1:  # not at the rows' own layer
            layers.append(nn.BatchNorm2d(now) if normalization == "batch" else nn.GroupNorm(1, now))
        layers.append(nn.LeakyReLU(LEAK))
    layers.append(nn.Conv2d(hidden[-1], 1, (height >> len(hidden), width >> len(hidden))))
    return _initialized(layers)


def _initialized(layers: list[nn.Module]) -> nn.Sequential:
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, SPREAD)
    return nn.Sequential(*layers)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the loss for the optimiser's own parameters; no others get a gradient."""
    optimizer.zero_grad()
    torch.autograd.backward(
        loss, inputs=[p for group in optimizer.param_groups for p in group["params"]]
    )
    optimizer.step()


def transport_costs(x: Tensor, samples: Tensor) -> Tensor:
    """What it costs to move each row ``(n, d)`` onto samples ``(n, d)``, on average, ``(n,)``.

    In each of 128 random directions the best plan joins rows and samples in their order, and costs
    the distance; so the mean over rows is the sliced 1-Wasserstein distance (section E.3.4).
    """
    directions = torch.randn(x.shape[1], PROJECTIONS, dtype=x.dtype, device=x.device)
    directions /= directions.norm(dim=0)
    (ordered, order), placed = (x @ directions).sort(dim=0), (samples @ directions).sort(dim=0)
    costs = torch.empty_like(ordered).scatter_(0, order, (ordered - placed.values).abs())
    return costs.mean(dim=1)
