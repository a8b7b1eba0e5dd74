"""Layers as the network section of a configuration asks for them, and what updates have in common.

Initialisation draws from torch's global generator, which the platform seeds for each role.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rlgen.config import NetworkConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
GAINS = {"tanh": 5 / 3, "relu": math.sqrt(2)}  # of `nn.init.calculate_gain`; 1 for the others
INITIALIZATIONS = {"orthogonal": nn.init.orthogonal_, "xavier": nn.init.xavier_uniform_}


def initialize(module: nn.Module, gain: float, initialization: str = "orthogonal") -> None:
    """Draw the matrices of a linear, convolutional or recurrent layer; its vectors become 0."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            INITIALIZATIONS[initialization](parameter, gain)
        else:
            nn.init.zeros_(parameter)


def mlp(
    sizes: Sequence[int],
    activation: str,
    last_gain: float = 1.0,
    layer_norm: bool = False,
    initialization: str = "orthogonal",
) -> nn.Sequential:
    """Linear layers ``sizes[0] -> ... -> sizes[-1]`` with an activation between them.

    Weights are orthogonal or uniform (Glorot and Bengio 2010), of the activation's gain, or
    ``last_gain`` for the last layer; biases are zero. With ``layer_norm``, what enters an
    activation is normalised (Ba, Kiros and Hinton 2016).
    """
    layers: list[nn.Module] = []
    gain = GAINS.get(activation, 1.0)
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        linear = nn.Linear(inputs, outputs)
        initialize(linear, last_gain if last else gain, initialization)
        layers.append(linear)
        if not last:
            layers += [nn.LayerNorm(outputs)] if layer_norm else []
            layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def make_mlp(
    network: NetworkConfig | None, inputs: int, outputs: int, last_gain: float = 1.0
) -> nn.Sequential:
    """The layers from ``inputs`` features to ``outputs`` that the network section asks for."""
    assert network is not None  # the configuration of every algorithm with a network has one
    return mlp(
        [inputs, *network.hidden, outputs],
        network.activation,
        last_gain,
        network.layer_norm,
        network.initialization,
    )


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, max_value: float | None = None
) -> Tensor:
    """Bound gradients: each component by ``max_value``, then their joint norm by ``max_norm``.

    Returns:
        The norm before, to log.
    """
    owners = [p for p in parameters if p.grad is not None]
    if max_value is None:
        return nn.utils.clip_grad_norm_(owners, max_norm)
    norm = nn.utils.get_total_norm([p.grad for p in owners if p.grad is not None])
    nn.utils.clip_grad_value_(owners, max_value)
    nn.utils.clip_grad_norm_(owners, max_norm)
    return norm


def follow(target: nn.Module, module: nn.Module, rate: float) -> None:
    """Move target parameters by ``rate`` of their distance (Polyak averaging); copy the buffers.

    target += rate * (module - target), so that with rate 1 they are equal.
    """
    average = get_ema_multi_avg_fn(1.0 - rate)
    average(list(target.parameters()), list(module.parameters()), None)
    for old, new in zip(target.buffers(), module.buffers(), strict=True):
        old.copy_(new)
