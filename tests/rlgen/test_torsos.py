"""Torsos against published sizes, PyTorch's own attention, and the symmetries that they have."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError
from rlgen.networks import Encoder, make_mlp
from rlgen.networks.torsos import ImageLayout


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def encoder(space: spaces.Box, **network: Any) -> Encoder:
    return Encoder(space, network=NetworkConfig(**network))


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_nature_cnn_has_the_published_size() -> None:
    # Mnih et al. 2015 with the 4 actions of Breakout: 1,686,180 parameters.
    network = NetworkConfig(hidden=[])
    torso = Encoder(image(4, 84, 84), network=network)
    assert torso.size == 512
    assert parameters(torso) + parameters(make_mlp(network, torso.size, 4)) == 1_686_180


def test_residual_cnn_has_the_published_size() -> None:
    # Procgen (Cobbe et al. 2020): 15 actions and a value on 64 x 64 x 3: 626,256 parameters.
    network = NetworkConfig(hidden=[], torso="residual_cnn")
    torso = Encoder(image(64, 64, 3), network=network)
    heads = [make_mlp(network, torso.size, outputs) for outputs in (15, 1)]
    assert parameters(torso) + sum(map(parameters, heads)) == 626_256


def test_small_images_get_the_network_of_minatar() -> None:
    # Young and Tian 2019: 16 filters of 3 x 3 on 10 x 10, so 1024 features.
    torso = encoder(spaces.Box(0, 1, (10, 10, 4), np.bool_))
    assert (torso.size, parameters(torso)) == (1024, 16 * 4 * 9 + 16)
    assert torso(torch.zeros(2, 3, 10, 10, 4, dtype=torch.bool)).shape == (2, 3, 1024)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((4, 84, 84), "nature_cnn"),
        ((36, 36, 3), "nature_cnn"),
        ((35, 36, 3), "small_cnn"),
        ((10, 10, 10), "small_cnn"),
        ((2, 40, 40, 3), "nature_cnn"),
        ((40, 40), "nature_cnn"),
        ((2, 2, 1), "mlp"),
        ((6,), "mlp"),
    ],
)
def test_auto_chooses_by_the_shape(shape: tuple[int, ...], kind: str) -> None:
    torch.manual_seed(0)
    chosen = encoder(image(*shape))
    torch.manual_seed(0)
    named = encoder(image(*shape), torso=kind)
    x = pixels(3, *shape)
    assert torch.equal(chosen(x), named(x))


def test_a_table_of_numbers_is_no_image() -> None:
    assert encoder(spaces.Box(-1, 1, (40, 40))).size == 1600


@pytest.mark.parametrize("torso", ["small_cnn", "nature_cnn", "residual_cnn", "attention"])
def test_channels_are_found_on_either_side(torso: str) -> None:
    torch.manual_seed(1)
    last, first = (encoder(image(*s), torso=torso) for s in ((40, 44, 3), (3, 40, 44)))
    first.load_state_dict(last.state_dict())
    x = pixels(5, 40, 44, 3)
    torch.testing.assert_close(last(x), first(x.permute(0, 3, 1, 2)), rtol=1e-3, atol=1e-3)
    assert last(x).std(dim=0).max() > 0.05  # it sees the pixels


def test_stacked_frames_become_channels_in_their_order() -> None:
    torch.manual_seed(2)
    stacked, flat = encoder(image(2, 40, 44, 3)), encoder(image(6, 40, 44))
    flat.load_state_dict(stacked.state_dict())
    x = pixels(5, 2, 40, 44, 3)
    joined = torch.cat([x[:, 0], x[:, 1]], dim=-1).permute(0, 3, 1, 2)
    torch.testing.assert_close(stacked(x), flat(joined))
    assert ImageLayout((10, 10, 10)).last  # equal sizes: the channels are last


def test_leading_dimensions_are_kept_and_bytes_scaled() -> None:
    torch.manual_seed(3)
    torso = encoder(image(4, 36, 36))
    x = pixels(2, 3, 4, 36, 36)
    assert torso(x).shape == (2, 3, 512)
    assert torso(x[0, 0]).shape == (512,)
    floats = Encoder(spaces.Box(0, 1, (4, 36, 36)), network=NetworkConfig())
    floats.load_state_dict(torso.state_dict())
    torch.testing.assert_close(torso(x), floats(x / 255.0))


def test_bytes_are_standardised_in_their_own_units() -> None:
    raw = Encoder(image(2), normalize=True)
    raw.mean.fill_(100.0)
    raw.scale.fill_(0.1)
    assert raw(torch.tensor([90, 130], dtype=torch.uint8)).tolist() == pytest.approx([-1.0, 3.0])


def test_attention_over_entities_ignores_their_order() -> None:
    torch.manual_seed(4)
    torso = encoder(spaces.Box(-1, 1, (7, 3)), torso="attention")
    x = torch.randn(5, 7, 3)
    torch.testing.assert_close(torso(x), torso(x[:, torch.randperm(7)]))
    other = x.clone()
    other[:, 2] += 1.0
    assert (torso(other) - torso(x)).abs().max() > 0.1
    # Attention mixes: without it, features would be a mean of each entity's own.
    alone = torch.stack([torso(x[:, i : i + 1].expand(-1, 7, -1)) for i in range(7)]).mean(0)
    assert (alone - torso(x)).abs().max() > 0.01


def test_attention_over_an_image_sees_where_patches_are() -> None:
    torch.manual_seed(5)
    torso: Any = encoder(image(1, 16, 16), torso="attention")  # 64 patches of 2 x 2
    x = pixels(3, 1, 16, 16)
    assert (torso(x) - torso(x.roll(2, dims=-1))).abs().max() > 1e-3
    torso.torso.positions.data.zero_()
    torch.testing.assert_close(torso(x), torso(x.roll(2, dims=-1)), rtol=1e-4, atol=1e-4)


def test_the_attention_block_is_pytorchs_own() -> None:
    torch.manual_seed(6)
    torso: Any = encoder(spaces.Box(-1, 1, (7, 3)), torso="attention").torso
    block = torso.blocks[0]
    layer = torch.nn.TransformerEncoderLayer(
        64, 4, dim_feedforward=128, dropout=0.0, batch_first=True, norm_first=True
    )
    own = {
        "self_attn.in_proj_": block.projection,
        "self_attn.out_proj.": block.output,
        "linear1.": block.widen,
        "linear2.": block.narrow,
        "norm1.": block.norms[0],
        "norm2.": block.norms[1],
    }
    weights = {f"{k}{n}": p for k, part in own.items() for n, p in part.named_parameters()}
    layer.load_state_dict(weights)
    x = torch.randn(5, 7, 64)
    torch.testing.assert_close(block(x), layer(x))


@pytest.mark.parametrize("torso", ["small_cnn", "nature_cnn", "residual_cnn", "attention"])
def test_every_weight_of_a_torso_is_trained(torso: str) -> None:
    torch.manual_seed(7)
    module = encoder(image(3, 45, 37), torso=torso)
    module(pixels(4, 3, 45, 37)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize(
    ("space", "network", "message"),
    [
        (image(4, 30, 84), {"torso": "nature_cnn"}, "at least 36 x 36, given 30 x 84; use small"),
        (image(7, 40, 3), {"torso": "residual_cnn"}, "at least 8 x 8, given 7 x 40"),
        (spaces.Box(-1, 1, (5,)), {"torso": "nature_cnn"}, "nature_cnn needs images, Box observ"),
        (spaces.Discrete(4), {"torso": "attention"}, "or tables of 2 .entities, features.; given"),
        (spaces.Box(-1, 1, (5,)), {"layer_norm": True, "hidden": []}, "no hidden layer to norm"),
    ],
)
def test_a_torso_that_does_not_fit_is_refused(space: Any, network: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"network\.(torso|layer_norm): .*{message}"):
        encoder(space, **network)


@pytest.mark.parametrize("torso", ["nature_cnn", "residual_cnn"])
@pytest.mark.parametrize("option", [{"layer_norm": True}, {"initialization": "xavier"}])
def test_layer_norm_and_initialisation_reach_the_torso(torso: str, option: Any) -> None:
    features = []
    for network in ({"torso": torso}, {"torso": torso, **option}):
        torch.manual_seed(8)
        features.append(encoder(image(3, 40, 40), **network)(pixels(6, 3, 40, 40)))
    assert (features[0] - features[1]).abs().max() > 1e-3
    if "layer_norm" in option:  # of 256 or 512 normalised numbers, ReLU keeps about a half
        torch.testing.assert_close(features[1].mean(-1), torch.full((6,), 0.4), atol=0.1, rtol=0)
