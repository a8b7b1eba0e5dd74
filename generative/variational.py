"""The parts of a variational autoencoder: its densities and its networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks import ACTIVATIONS, initialize, make_mlp
from rlgen.networks.layers import GAINS


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, diag(sigma^2)) || N(0, I)) of each row ``(..., k)``, in nats (eq 13.26)."""
    return 0.5 * (log_variance.exp() + mu.square() - 1.0 - log_variance).sum(-1)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x | z) of each row ``(..., d)`` of Bernoulli values, summed over d (eq 13.17)."""
    # x log g + (1 - x) log(1 - g) = x l - softplus(l) for g = sigmoid(l)
    return (x * logits - functional.softplus(logits)).sum(-1)


def gaussian_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The log of N(x | mean, sigma^2 I) of each row ``(..., d)``, summed over d (eq 13.18)."""
    z = (x - mean) * torch.exp(-log_scale)
    return -0.5 * z.square().sum(-1) - x.shape[-1] * (log_scale + 0.5 * math.log(2 * math.pi))


def reparameterise(mu: Tensor, log_variance: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """z = mu + sigma eps ``(draws, n, k)`` of each q(z | x), and eps ~ N(0, I) (eq 13.27)."""
    noise = torch.randn(draws, *mu.shape, dtype=mu.dtype, device=mu.device)
    return mu + torch.exp(0.5 * log_variance) * noise, noise


def importance_ratio(z: Tensor, noise: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z | 0, I) - log q(z | x) of each row ``(..., k)``, at z = mu(x) + sigma(x) noise."""
    return 0.5 * (noise.square() + log_variance - z.square()).sum(-1)


class ConvolutionalEncoder(nn.Module):
    """Two 4x4 convolutions of stride 2, then the layers of the network section.

    Args:
        network: its hidden layers stand between the convolutions and the outputs.
        shape: ``(h, w)`` or ``(h, w, c)`` of an image, h and w divisible by 4.
        channels: of the first convolution; the second one has twice as many.
        outputs: values for each image.
    """

    def __init__(
        self, network: NetworkConfig, shape: tuple[int, ...], channels: int, outputs: int
    ) -> None:
        super().__init__()
        self.image = (*shape[:2], math.prod(shape[2:]))
        height, width, colours = self.image
        first = nn.Conv2d(colours, channels, 4, stride=2, padding=1)
        second = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        for layer in (first, second):
            initialize(layer, GAINS.get(network.activation, 1.0), network.initialization)
        activation = ACTIVATIONS[network.activation]
        dense = make_mlp(network, channels * height * width // 8, outputs)
        self.layers = nn.Sequential(first, activation(), second, activation(), nn.Flatten(), *dense)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(n, d)`` to ``(n, outputs)``."""
        return self.layers(rows.unflatten(-1, self.image).movedim(-1, -3))


class ConvolutionalDecoder(nn.Module):
    """The mirror image of a `ConvolutionalEncoder`, and a bias for each value of a row.

    Args:
        network: its hidden layers, in reversed order.
        shape, channels: the encoder's.
        inputs: values of a code.
    """

    def __init__(
        self, network: NetworkConfig, shape: tuple[int, ...], channels: int, inputs: int
    ) -> None:
        super().__init__()
        height, width, colours = *shape[:2], math.prod(shape[2:])
        self.small = (2 * channels, height // 4, width // 4)
        activation = ACTIVATIONS[network.activation]
        self.dense = make_mlp(network, inputs, math.prod(self.small))
        first = nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1)
        second = nn.ConvTranspose2d(channels, colours, 4, stride=2, padding=1, bias=False)
        initialize(first, GAINS.get(network.activation, 1.0), network.initialization)
        initialize(second, 1.0, network.initialization)
        self.layers = nn.Sequential(activation(), first, activation(), second)
        self.bias = nn.Parameter(torch.zeros(height * width * colours))

    def forward(self, codes: Tensor) -> Tensor:
        """Codes ``(..., inputs)`` to rows ``(..., d)``."""
        small = self.dense(codes.flatten(0, -2)).unflatten(-1, self.small)
        rows = self.layers(small).movedim(-3, -1).flatten(1) + self.bias
        return rows.unflatten(0, codes.shape[:-1])


class Autoencoder(nn.Module):
    """q(z | x) and p(x | z) as networks: an encoder ``(n, d) -> (n, 2 k)`` and its mirror image.

    Args:
        network: layers of both.
        shape: of a row before flattening.
        channels: of the first convolution; 0: perceptrons.
        latent: size k of z.
        classes: labels that the decoder is told beside z, as so many values; 0: none.
        bernoulli: whether p(x | z) is Bernoulli, given by logits, or Gaussian, given by means.

    Raises:
        ConfigError: convolutions of rows that are no images, or of images that cannot be halved
            twice.
    """

    def __init__(
        self,
        network: NetworkConfig,
        shape: tuple[int, ...],
        channels: int,
        latent: int,
        classes: int,
        bernoulli: bool,
    ) -> None:
        super().__init__()
        self.classes, self.bernoulli = classes, bernoulli
        size, mirrored = (
            math.prod(shape),
            network.model_copy(update={"hidden": network.hidden[::-1]}),
        )
        self.encoder: nn.Sequential | ConvolutionalEncoder
        self.decoder: nn.Sequential | ConvolutionalDecoder
        if channels:
            if len(shape) < 2 or shape[0] % 4 or shape[1] % 4:
                raise ConfigError(
                    "hyperparameters.architecture: 'conv' needs images with sides divisible by 4, "
                    f"not rows of shape {shape}; use 'mlp'"
                )
            self.encoder = ConvolutionalEncoder(network, shape, channels, 2 * latent)
            self.decoder = ConvolutionalDecoder(mirrored, shape, channels, latent + classes)
        else:
            self.encoder = make_mlp(network, size, 2 * latent)
            self.decoder = make_mlp(mirrored, latent + classes, size)
        self.log_deviation = nn.Parameter(torch.zeros(()))  # of the Gaussian, before its bound

    def start(self, mean: Tensor) -> None:
        """Set the decoder's last bias so that every code is decoded to about the mean row."""
        decoder = self.decoder
        bias = decoder.bias if isinstance(decoder, ConvolutionalDecoder) else decoder[-1].bias
        assert isinstance(bias, Tensor)
        with torch.no_grad():
            bias.copy_(mean.clamp(0.01, 0.99).logit() if self.bernoulli else mean)

    @property
    def log_scale(self) -> Tensor:
        """Logarithm of the Gaussian's standard deviation, at least -5."""
        return self.log_deviation.clamp(min=-5.0)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(n, k)`` of q(z | x)."""
        mu, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mu, log_variance

    def output(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Logits or means ``(..., d)`` of p(x | z), for codes ``(..., k)``.

        ``labels`` are int64 of a shape that goes with ``(...)``; without classes they do not count.
        """
        if self.classes:
            assert labels is not None
            told = functional.one_hot(labels, self.classes).to(z)
            z = torch.cat([z, told.expand(*z.shape[:-1], self.classes)], dim=-1)
        return self.decoder(z)

    def log_likelihood(self, x: Tensor, z: Tensor, labels: Tensor | None) -> Tensor:
        """log p(x | z) ``(..., n)`` of rows ``(n, d)``, for codes ``(..., n, k)``."""
        if self.bernoulli:
            return bernoulli_log_prob(x, self.output(z, labels))
        return gaussian_log_prob(x, self.output(z, labels), self.log_scale)

    def mean(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mean ``(n, d)`` of p(x | z), for codes ``(n, k)``.

        With classes, but without ``labels``, those are averaged over, all being as likely.

        Raises:
            ConfigError: labels for a model without classes.
        """
        if labels is not None and not self.classes:
            raise ConfigError("label: this model learned none; train with conditional=true")
        if self.classes and labels is None:
            each = torch.arange(self.classes, device=z.device)[:, None]
            return self.mean(z.expand(self.classes, *z.shape), each).mean(0)
        output = self.output(z, labels)
        return torch.sigmoid(output) if self.bernoulli else output

    def draw(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Rows ``(n, d)`` of codes ``(n, k)``: the means if Bernoulli, draws if Gaussian."""
        mean = self.mean(z, labels)
        if self.bernoulli:
            return mean
        return mean + torch.exp(self.log_scale) * torch.randn_like(mean)

    def likeliest(self, x: Tensor, z: Tensor) -> Tensor | None:
        """The labels ``(n,)`` with the largest p(x | z, y); None without classes."""
        if not self.classes:
            return None
        each = torch.arange(self.classes, device=z.device)[:, None]
        return self.log_likelihood(x, z.expand(self.classes, *z.shape), each).argmax(0)
