"""Encoder and decoder of an auto-encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlgen.config import NetworkConfig
from rlgen.networks import ACTIVATIONS, make_mlp


class Transposed(nn.Module):
    """A decoder of an encoder's matrices transposed, with biases of its own."""

    def __init__(self, encoder: nn.Sequential, activation: nn.Module) -> None:
        super().__init__()
        linears = [layer for layer in encoder if isinstance(layer, nn.Linear)]
        self.layers = linears[::-1]  # in a list, so that they belong to the encoder only
        self.activation = activation
        self.biases = nn.ParameterList(torch.zeros(layer.in_features) for layer in self.layers)

    def forward(self, z: Tensor) -> Tensor:
        """``(n, k)`` to ``(n, d)``."""
        for index, layer in enumerate(self.layers):
            z = self.activation(z) if index else z
            z = functional.linear(z, layer.weight.T, self.biases[index])
        return z


class Coder(nn.Module):
    """Encoder ``(n, d) -> (n, k)`` and its mirror image."""

    def __init__(self, network: NetworkConfig, size: int, latent: int, tied: bool) -> None:
        super().__init__()
        mirrored = network.model_copy(update={"hidden": network.hidden[::-1]})
        self.encoder = make_mlp(network, size, latent)
        self.decoder = (
            Transposed(self.encoder, ACTIVATIONS[network.activation]())
            if tied
            else make_mlp(mirrored, latent, size)
        )
