"""The GAN: its losses against closed forms, its updates by hand, its networks by DCGAN's rules."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, wasserstein_distance
from torch import nn

import rlgen
from rlgen.algorithm import Problem, read_weights, write_weights
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.adversarial import transport_costs
from rlgen.generative.gan import GAN, discriminator_loss, generator_loss

# Distributions of six points, as counts of 12 and 10 rows.
COUNTS_P, COUNTS_Q = np.array([1, 2, 3, 1, 1, 4]), np.array([3, 1, 1, 2, 2, 1])
P, Q = COUNTS_P / COUNTS_P.sum(), COUNTS_Q / COUNTS_Q.sum()
JS = jensenshannon(P, Q) ** 2  # scipy's is the root


def make(
    rows: np.ndarray, shape: tuple[int, ...], hidden: list[int], classes: int = 0, **config: Any
) -> GAN:
    torch.manual_seed(0)
    network = {"hidden": hidden}
    if config.get("architecture") != "dcgan":
        network["activation"] = "relu"  # type: ignore[assignment]
    problem = Problem(
        data_mean=rows.mean(0).astype(np.float32),
        data_range=(float(rows.min()), float(rows.max())),
        data_shape=shape,
        data_count=len(rows),
        data_classes=classes,
        network=NetworkConfig.model_validate(network),
    )
    return GAN(GAN.Config.model_validate(config), problem, np.random.default_rng(0))


def points(n: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(3.0, 2.0, (n, 2)).astype(np.float32))


def of_rows(logits: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
    """The logit of every row, where point i stands in counts[i] of them."""
    return logits.repeat_interleave(torch.from_numpy(counts))


def test_the_loss_of_the_best_discriminator_is_the_js_divergence() -> None:
    # Eq 13.41: E_pr log D* + E_pt log(1 - D*) = 2 JS - 2 log 2, with D* = pr / (pr + pt).
    best = torch.from_numpy(np.log(P) - np.log(Q))
    loss = discriminator_loss(of_rows(best, COUNTS_P), of_rows(best, COUNTS_Q))
    assert float(loss) == pytest.approx(2 * math.log(2) - 2 * JS, abs=1e-12)


def test_the_generators_losses_at_the_best_discriminator() -> None:
    best = torch.from_numpy(np.log(P) - np.log(Q))
    fake = of_rows(best, COUNTS_Q)
    real_term = (P * np.log(P / (P + Q))).sum()  # E_pr log D*
    # Eq 13.47: E_pt log D* = -KL(pt || pr) + 2 JS - 2 log 2 - E_pr log D*
    expected = -(-entropy(Q, P) + 2 * JS - 2 * math.log(2) - real_term)
    assert float(generator_loss(fake, "non-saturating")) == pytest.approx(expected, abs=1e-12)
    expected = 2 * JS - 2 * math.log(2) - real_term
    assert float(generator_loss(fake, "minimax")) == pytest.approx(expected, abs=1e-12)


def test_descent_of_the_loss_finds_the_best_discriminator() -> None:
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = discriminator_loss(of_rows(logits, COUNTS_P), of_rows(logits, COUNTS_Q))
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(logits.detach().sigmoid(), P / (P + Q), atol=1e-5)


def test_only_the_minimax_gradient_vanishes_where_the_discriminator_is_sure() -> None:
    # Eq 13.42: without a common support D* is 0 on all generated data.
    slopes = {}
    for loss in ("minimax", "non-saturating"):
        logit = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
        torch.autograd.backward(generator_loss(logit, loss))  # type: ignore[arg-type]
        assert logit.grad is not None
        slopes[loss] = float(logit.grad)
    assert slopes["minimax"] == pytest.approx(-math.exp(-30), rel=1e-6)
    assert slopes["non-saturating"] == pytest.approx(-1.0, abs=1e-12)


def test_the_first_update_by_hand() -> None:
    x = points()
    algorithm = make(x.numpy(), (2,), [8], latent=3, learning_rate=0.01, loss="minimax")
    generator, judge = copy.deepcopy(algorithm.generator), copy.deepcopy(algorithm.discriminator)
    torch.manual_seed(5)
    metrics = algorithm.update({"x": x})
    torch.manual_seed(5)
    first, second = torch.randn(64, 3), torch.randn(64, 3)
    real, fake = judge(x).sigmoid(), judge(generator(first)).sigmoid()
    value = real.log().mean() + (1 - fake).log().mean()
    loss = -float(value.detach())
    assert float(metrics["discriminator_loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["d_real"]) == pytest.approx(float(real.detach().mean()), rel=1e-5)
    assert float(metrics["d_fake"]) == pytest.approx(float(fake.detach().mean()), rel=1e-5)
    assert float(metrics["generator_loss"]) == pytest.approx(
        float((1 - fake.detach()).log().mean()), rel=1e-4
    )
    # Adam's first step is the rate times the sign of a gradient: the discriminator goes up,
    up = torch.autograd.grad(value, list(judge.parameters()))
    for new, old, slope in zip(
        algorithm.discriminator.parameters(), judge.parameters(), up, strict=True
    ):
        clear = slope.abs() > 1e-4
        assert bool(clear.any())
        torch.testing.assert_close(
            (new - old)[clear], 0.01 * slope.sign()[clear], rtol=0.01, atol=0
        )
    # and then the generator down the same value of the new discriminator.
    value = (1 - algorithm.discriminator(generator(second)).sigmoid()).log().mean()
    down = torch.autograd.grad(value, list(generator.parameters()))
    for new, old, slope in zip(
        algorithm.generator.parameters(), generator.parameters(), down, strict=True
    ):
        clear = slope.abs() > 1e-4
        assert bool(clear.any())
        moved = (new - old)[clear]
        torch.testing.assert_close(moved, -0.01 * slope.sign()[clear], rtol=0.01, atol=0)


def test_the_generator_steps_after_every_kth_update() -> None:
    x = points()
    algorithm = make(x.numpy(), (2,), [8], latent=3, critic_steps=3)
    moved = []
    for _ in range(7):
        before = [p.detach().clone() for p in algorithm.generator.parameters()]
        judge = [p.detach().clone() for p in algorithm.discriminator.parameters()]
        algorithm.update({"x": x})
        pairs = zip(before, algorithm.generator.parameters(), strict=True)
        moved.append(any(not torch.equal(old, new) for old, new in pairs))
        pairs = zip(judge, algorithm.discriminator.parameters(), strict=True)
        assert all(not torch.equal(old, new) for old, new in pairs)
    assert moved == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("decay", [0.0, 0.6])
def test_samples_come_from_the_average_of_the_generators_weights(decay: float) -> None:
    x = points()
    algorithm = make(x.numpy(), (2,), [4], latent=2, average=decay, learning_rate=0.05)
    history = []
    for _ in range(6):
        algorithm.update({"x": x})
        history.append(nn.utils.parameters_to_vector(algorithm.generator.parameters()).detach())
    # The mean of all steps up to the second, where 1/t < 1 - decay, and then exponential.
    expected = history[0]
    for count, weights in enumerate(history[1:], 2):
        rate = max(1 - decay, 1 / count)
        expected = (1 - rate) * expected + rate * weights
    average = nn.utils.parameters_to_vector(algorithm.network.parameters()).detach()
    torch.testing.assert_close(average, expected)
    assert torch.equal(average, history[-1]) == (decay == 0.0)
    torch.manual_seed(3)
    drawn = algorithm.sample(5)
    torch.manual_seed(3)
    assert torch.equal(drawn, algorithm.decode(algorithm.prior(5)))
    other = make(x.numpy(), (2,), [4], latent=2)
    write_weights(other, read_weights(algorithm))
    torch.manual_seed(3)
    assert torch.equal(drawn, other.sample(5))


def test_spectral_normalisation_gives_every_layer_a_norm_of_1() -> None:
    images = np.random.default_rng(2).random((64, 64)).astype(np.float32)
    for config, hidden in (({}, [16, 8]), ({"architecture": "dcgan"}, [8, 4])):
        algorithm = make(
            images, (8, 8), hidden, latent=2, spectral=True, learning_rate=1e-6, **config
        )  # type: ignore[arg-type]
        for _ in range(20):  # each forward is one step of the power iteration
            algorithm.update({"x": torch.from_numpy(images)})
        layers = [m for m in algorithm.discriminator.modules() if hasattr(m, "parametrizations")]
        assert len(layers) == 3
        for layer in layers:
            assert isinstance(layer.weight, torch.Tensor)
            weight = layer.weight.detach().flatten(1).numpy()
            norm = np.linalg.svd(weight, compute_uv=False)[0]
            assert norm == pytest.approx(1.0, abs=0.005)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in algorithm.discriminator.modules())


def test_a_conditional_model_learns_what_belongs_to_a_label() -> None:
    # Label 0 around (-2, 0), label 1 around (2, 1).
    centres = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    torch.manual_seed(1)
    labels = torch.arange(512) % 2
    x = centres[labels] + 0.1 * torch.randn(512, 2)
    changes = {"learning_rate": 3e-3, "average": 0.95}
    algorithm = make(x.numpy(), (2,), [32], 2, latent=4, conditional=True, **changes)
    assert algorithm.prior(4)[:, 4:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    for _ in range(400):
        algorithm.update({"x": x[:128], "y": labels[:128]})
    with torch.no_grad():
        for label in (0, 1):
            mean = algorithm.sample_labelled(torch.full((200,), label)).mean(0)
            assert float((mean - centres[label]).norm()) < 0.6
        cycled = algorithm.sample(200)
    assert float((cycled[::2].mean(0) - centres[0]).norm()) < 0.6
    assert float((cycled[1::2].mean(0) - centres[1]).norm()) < 0.6
    plain = make(x.numpy(), (2,), [32], 2)
    with pytest.raises(ConfigError, match="learned none; train with conditional=true"):
        plain.sample_labelled(torch.tensor([1]))


def test_noise_is_normal_or_uniform() -> None:
    x = points().numpy()
    torch.manual_seed(0)
    normal = make(x, (2,), [4], latent=3).prior(20_000)
    uniform = make(x, (2,), [4], latent=3, noise="uniform").prior(20_000)
    assert float(normal.std()) == pytest.approx(1.0, abs=0.02)
    assert float(normal.abs().max()) > 3
    assert float(uniform.std()) == pytest.approx(3**-0.5, abs=0.01)
    assert float(uniform.abs().max()) <= 1


def test_dcgan_follows_the_books_rules() -> None:
    # z(100) -> 4x4x1024 -> 8x8x512 -> 16x16x256 -> 32x32x128 -> 64x64x3 (section 13.3.4)
    images = np.zeros((1, 64 * 64 * 3), np.float32)
    with torch.device("meta"):
        algorithm = make(
            images, (64, 64, 3), [1024, 512, 256, 128], architecture="dcgan", latent=100
        )
        shapes, x = [], torch.empty(2, 100)
        for layer in algorithm.generator.layers:
            x = layer(x)
            if isinstance(layer, nn.ConvTranspose2d):
                shapes.append(tuple(x.shape[1:]))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]
    generator = [type(layer) for layer in algorithm.generator.layers]
    block = [nn.BatchNorm2d, nn.ReLU, nn.ConvTranspose2d]
    assert generator == [nn.Unflatten, nn.ConvTranspose2d, *(4 * block), nn.Tanh]
    judge = [type(layer) for layer in algorithm.discriminator.layers]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert judge == [nn.Conv2d, nn.LeakyReLU, *(3 * block), nn.Conv2d]


def test_dcgan_makes_rows_laid_out_as_the_datas() -> None:
    rows = np.random.default_rng(0).uniform(-1, 3, (10, 8 * 4 * 3)).astype(np.float32)
    algorithm = make(rows, (8, 4, 3), [6], architecture="dcgan", latent=5)
    drawn = algorithm.sample(7)
    assert drawn.shape == (7, 96)
    assert float(drawn.detach().min()) >= rows.min()
    assert float(drawn.detach().max()) <= rows.max()
    # A row's channels are last, an image's planes first.
    plane = algorithm.network.layers(torch.ones(1, 5))
    assert torch.equal(
        algorithm.decode(torch.ones(1, 5)).view(8, 4, 3)[2, 1],
        algorithm.network.middle + algorithm.network.scale * plane[0, :, 2, 1],
    )
    seen: list[torch.Tensor] = []
    algorithm.discriminator.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.from_numpy(rows)
    algorithm.discriminator(x)
    scaled = (x.view(10, 8, 4, 3)[3, 2, 1] - 1) / 2  # from [-1, 3] to [-1, 1], nearly
    torch.testing.assert_close(seen[0][3, :, 2, 1], scaled, atol=0.02, rtol=0)


def test_transport_costs_are_scipys_distance_row_by_row() -> None:
    rng = np.random.default_rng(4)
    x, samples = rng.normal(size=(50, 1)), rng.exponential(size=(50, 1))
    torch.manual_seed(0)
    costs = transport_costs(torch.from_numpy(x), torch.from_numpy(samples)).numpy()
    expected = wasserstein_distance(x[:, 0], samples[:, 0])
    assert costs.mean() == pytest.approx(expected, abs=1e-12)
    # In one dimension the i-th smallest row goes to the i-th smallest sample.
    ranks = x[:, 0].argsort().argsort()
    np.testing.assert_allclose(costs, np.abs(x[:, 0] - np.sort(samples[:, 0])[ranks]))
    far = transport_costs(
        torch.zeros(200, 5), torch.zeros(200, 5) + torch.tensor([3.0, 0, 0, 0, 0])
    )
    # A shift by s costs s E|u_1| on the unit sphere of 5 dimensions, E|u_1| = 3/8.
    assert float(far.mean()) == pytest.approx(3 * 3 / 8, rel=0.15)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gan-ring", {"hyperparameters.conditional": True, "data.name": "table"},
         "hyperparameters.conditional: the data set has no labels"),
        ("gan-ring", {"hyperparameters.architecture": "dcgan"},
         r"hyperparameters.architecture: dcgan needs images .* not rows of shape \(2,\); use mlp"),
        ("dcgan-digits", {"network.hidden": [8, 8, 8]},
         "network.hidden: dcgan doubles the side at each of its 3 layers; images of 8x8 cannot"),
        ("dcgan-digits", {"network.hidden": []}, "at each of its 0 layers"),
        ("dcgan-digits", {"network.activation": "relu"},
         "network.activation: dcgan's own rules fix it; remove it"),
        ("gan-ring", {"hyperparameters.average": 1.0}, "hyperparameters.average: input should be"),
        ("gan-ring", {"hyperparameters.momentum": 1.0}, "hyperparameters.momentum: input should"),
        ("gan-ring", {"hyperparameters.spectral": True, "network.layer_norm": True},
         "network.layer_norm: spectral normalisation bounds"),
        ("gan-ring", {"hyperparameters.loss": "hinge"}, "hyperparameters.loss: input should be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if changes.get("data.name") == "table":
        np.savez(tmp_path / "table.npz", x=np.eye(20, dtype=np.float32))
        changes = {**changes, "data.name": str(tmp_path / "table.npz")}
    with pytest.raises(ConfigError, match=message):
        rlgen.train(
            name.replace("gan-ring", "gan-minimax-ring"),
            {"run.dir": str(tmp_path / "r"), **changes},
        )
    assert not (tmp_path / "r").exists()


def test_the_ready_configurations_differ_as_their_names_say() -> None:
    mlp, dcgan = (load_experiment(name).hyperparameters for name in ("gan-digits", "dcgan-digits"))
    assert mlp.architecture == "mlp"  # type: ignore[attr-defined]
    assert dcgan.architecture == "dcgan"  # type: ignore[attr-defined]
    assert load_experiment("gan-minimax-ring").hyperparameters.loss == "minimax"  # type: ignore[attr-defined]
