"""Encoders by hand, policy heads against torch.distributions."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as dist

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks import ACTIVATIONS, Encoder, clip_gradients, make_mlp, mlp, policy_head

DRAWS = 20_000


def test_discrete_observations_become_one_hot() -> None:
    encoder = Encoder(spaces.Discrete(3))
    assert encoder.size == 3
    features = encoder(torch.tensor([[2], [0]]))
    assert features.dtype == torch.float32
    assert features.tolist() == [[[0, 0, 1]], [[1, 0, 0]]]


def test_multidiscrete_observations_become_joined_one_hots() -> None:
    encoder = Encoder(spaces.MultiDiscrete([2, 3]))
    assert encoder.size == 5
    assert encoder(torch.tensor([[1, 0], [0, 2]])).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]


def test_boxes_are_flattened_and_bytes_scaled() -> None:
    encoder = Encoder(spaces.Box(0, 255, (2, 2), np.uint8))
    pixels = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels), torch.tensor([[0.0, 1.0, 0.2, 0.4]]))
    assert Encoder(spaces.Box(-1, 1, ()))(torch.zeros(5)).shape == (5, 1)
    double = Encoder(spaces.Box(-1, 1, (3,), np.float64))(torch.zeros(7, 4, 3, dtype=torch.float64))
    assert double.dtype == torch.float32 and double.shape == (7, 4, 3)


def test_normalisation_standardises_and_clamps() -> None:
    encoder = Encoder(spaces.Box(-9, 9, (2,)), normalize=True)
    encoder.mean.copy_(torch.tensor([1.0, 0.0]))
    encoder.scale.copy_(torch.tensor([2.0, 100.0]))
    assert encoder(torch.tensor([[3.0, -5.0]])).tolist() == [[4.0, -10.0]]


def test_unsupported_observations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.id: observations in Text.* are not supported"):
        Encoder(spaces.Text(3))
    with pytest.raises(ConfigError, match=r"env.normalize_observation: only for Box"):
        Encoder(spaces.Discrete(3), normalize=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_its_layers_in_order(activation: str) -> None:
    torch.manual_seed(0)
    layers = mlp([3, 8, 5, 2], activation, last_gain=0.01)
    x = torch.randn(4, 3)
    hidden = x
    linears = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    for layer in linears[:-1]:
        hidden = ACTIVATIONS[activation]()(hidden @ layer.weight.T)  # the biases are 0
    torch.testing.assert_close(layers(x), hidden @ linears[-1].weight.T)
    # Rows of the last weight are orthogonal, of norm `last_gain`.
    weight = linears[-1].weight
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(2), rtol=1e-4, atol=1e-8)


def box(low: float | list[float], high: float | list[float], shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(np.full(shape, low, np.float32), np.full(shape, high, np.float32))


def reference(space: Any, head: Any, outputs: torch.Tensor) -> dist.Distribution:
    """The same distribution by torch.distributions, over flat actions."""
    if isinstance(space, spaces.Discrete):
        return dist.Categorical(logits=outputs)
    low, high = torch.tensor(space.low.ravel()), torch.tensor(space.high.ravel())
    bounded = torch.isfinite(low) & torch.isfinite(high)
    half = torch.where(bounded, (high - low) / 2, 1.0)
    center = torch.where(bounded, (high + low) / 2, 0.0)
    normal = dist.Normal(center + half * outputs, half * head.log_std.exp())
    return dist.Independent(normal, 1)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4),
        box(-2.0, 2.0, (1,)),
        box([0.0, -np.inf, -1.0], [10.0, np.inf, np.inf], (3,)),
        box(-1.0, 3.0, (2, 2)),
    ],
    ids=str,
)
def test_heads_equal_torch_distributions(space: Any) -> None:
    torch.manual_seed(1)
    head: Any = policy_head(space)
    if isinstance(space, spaces.Box):
        with torch.no_grad():
            head.log_std.uniform_(-1.0, 0.5)
    outputs = torch.randn(6, 5, head.size, requires_grad=True)
    expected = reference(space, head, outputs)
    action = head.sample(outputs)
    flat = action if isinstance(space, spaces.Discrete) else action.reshape(6, 5, -1)
    assert action.shape == (6, 5, *(space.shape or ()))
    assert action.dtype == (torch.int64 if isinstance(space, spaces.Discrete) else torch.float32)
    torch.testing.assert_close(
        head.log_prob(outputs, action.detach()), expected.log_prob(flat.detach())
    )
    torch.testing.assert_close(head.entropy(outputs), expected.entropy())
    mode = head.mode(outputs)
    torch.testing.assert_close(mode.reshape(flat.shape), expected.mode)


def test_multi_categorical_is_a_product_of_categoricals() -> None:
    torch.manual_seed(2)
    head = policy_head(spaces.MultiDiscrete([2, 3]))
    assert head.size == 5
    outputs = torch.randn(7, 5)
    parts = [dist.Categorical(logits=outputs[:, :2]), dist.Categorical(logits=outputs[:, 2:])]
    action = head.sample(outputs)
    assert action.shape == (7, 2)
    torch.testing.assert_close(
        head.log_prob(outputs, action), sum(p.log_prob(action[:, i]) for i, p in enumerate(parts))
    )
    torch.testing.assert_close(head.entropy(outputs), parts[0].entropy() + parts[1].entropy())
    assert torch.equal(head.mode(outputs), torch.stack([p.mode for p in parts], dim=1))


def test_categorical_samples_have_their_probabilities() -> None:
    # Chi-squared with 3 degrees of freedom: 99.9 % quantile 16.3.
    torch.manual_seed(3)
    probabilities = torch.tensor([0.05, 0.15, 0.3, 0.5])
    head = policy_head(spaces.Discrete(4))
    counts = head.sample(probabilities.log().expand(DRAWS, 4)).bincount(minlength=4)
    expected = DRAWS * probabilities
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


def test_gaussian_samples_have_their_moments_in_the_units_of_the_environment() -> None:
    # Mean 5 + 5 * 0.2 = 6 and deviation 5 * e^-1; five standard errors.
    torch.manual_seed(4)
    head: Any = policy_head(box(0.0, 10.0, (1,)))
    with torch.no_grad():
        head.log_std.fill_(-1.0)
        draws = head.sample(torch.full((DRAWS, 1), 0.2))
    deviation = 5 * np.exp(-1)
    assert abs(draws.mean().item() - 6.0) < 5 * deviation / np.sqrt(DRAWS)
    assert abs(draws.std().item() / deviation - 1.0) < 5 / np.sqrt(2 * DRAWS)


def test_unsupported_actions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary.* not supported"):
        policy_head(spaces.MultiBinary(3))


def test_layer_norm_normalises_what_enters_each_activation() -> None:
    torch.manual_seed(5)
    layers = mlp([3, 50, 40, 2], "relu", layer_norm=True)
    assert [type(layer).__name__ for layer in layers] == [
        *("Linear", "LayerNorm", "ReLU"),
        *("Linear", "LayerNorm", "ReLU"),
        "Linear",
    ]
    hidden = layers[:2](100.0 * torch.randn(7, 3))
    torch.testing.assert_close(hidden.mean(-1), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden.std(-1, correction=0), torch.ones(7), atol=1e-3, rtol=0)


def test_xavier_initialisation_has_its_variance() -> None:
    # Glorot and Bengio 2010, eq 16: uniform within gain * sqrt(6 / (in + out)).
    torch.manual_seed(6)
    layers: Any = mlp([300, 200, 100], "tanh", last_gain=0.01, initialization="xavier")
    for layer, gain in ((layers[0], 5 / 3), (layers[2], 0.01)):
        bound = gain * np.sqrt(6 / sum(layer.weight.shape))
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
        assert not layer.bias.any()


def test_the_network_section_reaches_the_layers() -> None:
    for option in ({"layer_norm": True}, {"initialization": "xavier"}, {"activation": "relu"}):
        outputs = []
        for network in ({}, option):
            torch.manual_seed(7)
            config: Any = NetworkConfig.model_validate(network)
            outputs.append(make_mlp(config, 3, 2)(torch.ones(3)))
        assert not torch.allclose(*outputs)


def test_gradients_are_clipped_by_norm_and_by_value() -> None:
    def clipped(*limits: float) -> tuple[list[float], float]:
        parameter = torch.nn.Parameter(torch.zeros(2))
        unused = torch.nn.Parameter(torch.zeros(1))  # without a gradient
        parameter.grad = torch.tensor([3.0, -4.0])
        norm = clip_gradients([parameter, unused], *limits)
        return parameter.grad.tolist(), norm.item()

    assert clipped(10.0) == ([3.0, -4.0], 5.0)
    assert clipped(1.0)[0] == pytest.approx([0.6, -0.8], rel=1e-5)
    assert clipped(10.0, 3.5) == ([3.0, -3.5], 5.0)
    assert clipped(1.0, 2.0)[0] == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-5)
    assert clipped(1.0, 2.0)[1] == 5.0
