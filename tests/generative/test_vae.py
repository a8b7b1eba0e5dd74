"""The VAE: its terms against closed forms, its bound against an exactly solvable model."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from sklearn.decomposition import PCA
from torch import nn

import rlgen
from rlgen.algorithm import Problem, read_weights, write_weights
from rlgen.batch import to_tensors
from rlgen.config import DataConfig, NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data
from rlgen.generative.vae import VAE
from rlgen.generative.variational import (
    ConvolutionalDecoder,
    bernoulli_log_prob,
    gaussian_kl,
    gaussian_log_prob,
)


def make(
    mean: np.ndarray,
    hidden: list[int],
    activation: str = "tanh",
    shape: tuple[int, ...] | None = None,
    classes: int = 0,
    **config: object,
) -> VAE:
    torch.manual_seed(0)
    problem = Problem(
        data_mean=mean.astype(np.float32),
        data_shape=shape or mean.shape,
        data_count=100,
        data_classes=classes,
        network=NetworkConfig.model_validate({"hidden": hidden, "activation": activation}),
    )
    return VAE(VAE.Config.model_validate(config), problem, np.random.default_rng(0))


def last_bias(net: nn.Module) -> torch.Tensor:
    assert isinstance(net, nn.Sequential)
    layer = net[-1]
    assert isinstance(layer, nn.Linear)
    return layer.bias


def test_gaussian_kl_has_its_golden_value() -> None:
    # KL(N((0.5, -1), diag(0.8^2, 1.5^2)) || N(0, I)) = 0.887678 (eq 13.26)
    mu = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    log_variance = 2 * torch.log(torch.tensor([[0.8, 1.5]], dtype=torch.float64))
    assert gaussian_kl(mu, log_variance).item() == pytest.approx(0.887678, abs=5e-7)
    q = torch.distributions.Normal(mu, torch.exp(0.5 * log_variance))
    p = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    expected = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(gaussian_kl(mu, log_variance), expected)


def test_log_probabilities_are_summed_over_the_values() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(4, 7, generator=generator, dtype=torch.float64).round()
    output = 5 * torch.randn(4, 7, generator=generator, dtype=torch.float64)
    bernoulli = torch.distributions.Bernoulli(logits=output)
    torch.testing.assert_close(bernoulli_log_prob(x, output), bernoulli.log_prob(x).sum(-1))
    log_scale = torch.tensor(-0.7, dtype=torch.float64)
    normal = torch.distributions.Normal(output, log_scale.exp())
    torch.testing.assert_close(gaussian_log_prob(x, output, log_scale), normal.log_prob(x).sum(-1))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = bernoulli_log_prob(torch.tensor([[0.0, 1.0]]), logits)
    torch.autograd.backward(value.sum())
    assert value.item() == pytest.approx(-400.0)
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-1.0, 1.0]]


def test_bernoulli_elbo_equals_a_slow_formula() -> None:
    algorithm = make(np.full(6, 0.4), [5], latent=3, samples=4)
    x = (np.random.default_rng(2).random((8, 6)) < 0.4).astype(np.float32)
    torch.manual_seed(7)
    with torch.no_grad():
        figures = algorithm.evaluate({"x": torch.from_numpy(x)})
    torch.manual_seed(7)
    noise = torch.randn(4, 8, 3).numpy()
    w = {k: v.detach().numpy().astype(float) for k, v in algorithm.network.state_dict().items()}
    layers = [[(w[f"{net}.{i}.weight"], w[f"{net}.{i}.bias"]) for i in (0, 2)]
              for net in ("encoder", "decoder")]  # fmt: skip
    for row in range(8):
        (w1, b1), (w2, b2) = layers[0]
        out = w2 @ np.tanh(w1 @ x[row] + b1) + b2
        mu, sigma = out[:3], np.exp(out[3:] / 2)
        kl = sum((s**2 + m**2 - 1) / 2 - math.log(s) for m, s in zip(mu, sigma, strict=True))
        (w1, b1), (w2, b2) = layers[1]
        total = 0.0
        for m in range(4):
            g = 1 / (1 + np.exp(-(w2 @ np.tanh(w1 @ (mu + sigma * noise[m, row]) + b1) + b2)))
            total += sum(math.log(g[i]) if x[row, i] else math.log(1 - g[i]) for i in range(6))
        assert float(figures["kl"][row]) == pytest.approx(kl, abs=1e-5)
        elbo = float(figures["elbo"][row])
        assert elbo == pytest.approx(total / 4 - kl, abs=1e-4)
    assert next(iter(algorithm.evaluate({"x": torch.from_numpy(x)}))) == "elbo"  # the score


def linear_data() -> tuple[np.ndarray, PCA]:
    """500 rows of a linear-Gaussian model of 5 values and 2 factors, and its exact fit."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(500, 5)) + 1.0
    return x, PCA(2).fit(x)


def make_exact(pca: PCA, **config: object) -> VAE:
    """The linear model whose likelihood PCA.score gives, with its exact posterior.

    Probabilistic PCA (Tipping & Bishop 1999): x = W z + mean + sigma e, W = U (L - sigma^2)^(1/2),
    with the posterior N(M^-1 W'(x - mean), sigma^2 M^-1), M = W'W + sigma^2, diagonal for this W.
    """
    algorithm = make(np.zeros(5), [], latent=2, decoder="gaussian", **config)
    algorithm.network.double()
    variance = pca.noise_variance_
    w = pca.components_.T * np.sqrt(pca.explained_variance_ - variance)
    inverse = np.linalg.inv(w.T @ w + variance * np.eye(2))
    encoder, decoder = linears(algorithm)
    with torch.no_grad():
        encoder.weight[:2] = torch.from_numpy(inverse @ w.T)
        encoder.bias[:2] = torch.from_numpy(-inverse @ w.T @ pca.mean_)
        encoder.weight[2:] = 0
        encoder.bias[2:] = torch.from_numpy(np.log(variance * np.diag(inverse)))
        decoder.weight.copy_(torch.from_numpy(w))
        decoder.bias.copy_(torch.from_numpy(pca.mean_))
        algorithm.network.log_deviation.fill_(0.5 * math.log(variance))
    return algorithm


def linears(algorithm: VAE) -> tuple[nn.Linear, nn.Linear]:
    """Encoder and decoder of a model without hidden layers."""
    found = [net[0] for net in (algorithm.network.encoder, algorithm.network.decoder)
             if isinstance(net, nn.Sequential)]  # fmt: skip
    encoder, decoder = found
    assert isinstance(encoder, nn.Linear)
    assert isinstance(decoder, nn.Linear)
    return encoder, decoder


def test_the_elbo_of_a_linear_model_meets_its_exact_likelihood() -> None:
    x, pca = linear_data()
    algorithm = make_exact(pca, samples=20_000)
    rows = torch.from_numpy(x[:50])
    exact = torch.from_numpy(pca.score_samples(x[:50]))
    with torch.no_grad():
        elbo = algorithm.evaluate({"x": rows})["elbo"]
        # The bound is tight row by row; 20,000 draws leave an error of about 0.01 nats.
        torch.testing.assert_close(elbo, exact, atol=0.05, rtol=0)
        linears(algorithm)[0].bias[2:] += 1.0  # a posterior too wide by e: the bound falls below
        loose = algorithm.evaluate({"x": rows})["elbo"]
        assert bool((loose < exact - 0.5).all())


def test_the_importance_weighted_bound_of_a_linear_model() -> None:
    x, pca = linear_data()
    rows, exact = torch.from_numpy(x[:40]), torch.from_numpy(pca.score_samples(x[:40]))
    with torch.no_grad():
        for k in (1, 3, 200):  # of the exact posterior, every draw weighs p(x): no error is left
            one = make_exact(pca, importance_samples=k)
            bound = one.measure({"x": rows})["importance_weighted_bound"]
            torch.testing.assert_close(bound, exact, atol=1e-9, rtol=0)
        means = []
        for k in (1, 10, 5000):
            one = make_exact(pca, importance_samples=k)
            linears(one)[0].bias[2:] += 1.0
            bound = one.measure({"x": rows})["importance_weighted_bound"]
            means.append(float((bound - exact).mean()))
    # It grows with k (Burda et al. 2016, theorem 1), from the ELBO towards the likelihood.
    assert means[0] < means[1] - 0.2 < means[2] - 0.2
    assert means[2] == pytest.approx(0, abs=0.02)


def test_the_importance_weighted_bound_of_a_bernoulli_model_meets_quadrature() -> None:
    algorithm = make(np.full(6, 0.4), [7], latent=1, importance_samples=20_001)
    algorithm.network.double()
    x = (np.random.default_rng(6).random((8, 6)) < 0.4).astype(float)
    with torch.no_grad():
        for parameter in algorithm.network.decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.7)  # far from a constant
        bound = algorithm.measure({"x": torch.from_numpy(x)})["importance_weighted_bound"]

    def integrand(z: float, row: np.ndarray) -> float:
        with torch.no_grad():
            p = algorithm.decode(torch.tensor([[z]], dtype=torch.float64))[0].numpy()
        return float(scipy.stats.bernoulli.pmf(row, p).prod() * scipy.stats.norm.pdf(z))

    for row, found in zip(x, bound, strict=True):
        exact, _ = scipy.integrate.quad(integrand, -8, 8, args=(row,), limit=100)
        assert float(found) == pytest.approx(math.log(exact), abs=0.03)


def test_training_a_linear_model_reaches_its_exact_likelihood() -> None:
    x, pca = linear_data()
    algorithm = make(x.mean(0), [], latent=2, decoder="gaussian", learning_rate=0.02, samples=8)
    rows = torch.from_numpy(x.astype(np.float32))
    first = float(algorithm.update({"x": rows})["elbo"])
    for _ in range(1500):
        algorithm.update({"x": rows})
    algorithm.config = algorithm.config.model_copy(update={"samples": 200})
    with torch.no_grad():
        elbo = float(algorithm.evaluate({"x": rows})["elbo"].mean())
    exact = pca.score(x)  # -6.693 nats
    assert first < exact - 1
    # Never above the likelihood, but for the noise of 200 draws for each of 500 rows.
    assert exact - 0.1 < elbo < exact + 0.01


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian"])
def test_an_update_moves_both_networks_and_raises_the_bound(decoder: str) -> None:
    x = torch.from_numpy((np.random.default_rng(4).random((64, 9)) < 0.3).astype(np.float32))
    x[:32] = 1 - x[:32]
    algorithm = make(x.numpy().mean(0), [16], latent=2, decoder=decoder, learning_rate=0.01)
    before = {name: p.detach().clone() for name, p in algorithm.network.named_parameters()}
    first = algorithm.update({"x": x})
    for name, parameter in algorithm.network.named_parameters():
        used = name != "log_deviation" or decoder == "gaussian"
        assert torch.equal(parameter, before[name]) != used, name
    for value in (first[key] for key in ("elbo", "reconstruction", "kl")):
        assert isinstance(value, torch.Tensor)
        assert not value.requires_grad
    for _ in range(300):
        last = algorithm.update({"x": x})
    assert float(last["elbo"]) > float(first["elbo"]) + 1.0
    torch.testing.assert_close(last["elbo"], last["reconstruction"] - last["kl"])


def test_the_mean_is_over_rows_only() -> None:
    # Twice the same rows: the same bound and the same gradient.
    x = torch.from_numpy(np.random.default_rng(5).normal(size=(16, 4)).astype(np.float32))
    algorithm = make(
        np.zeros(4), [8], latent=2, decoder="gaussian", learning_rate=1e-9, samples=2000
    )
    gradients = []
    for rows in (x, x.repeat(2, 1)):
        algorithm.update({"x": rows})
        gradients.append(last_bias(algorithm.network.decoder).grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=0.05, rtol=0.05)


def test_it_starts_at_the_mean_row() -> None:
    mean = np.array([0.0, 0.2, 0.9])
    algorithm = make(mean, [8], latent=2)
    bias = torch.sigmoid(last_bias(algorithm.network.decoder))
    torch.testing.assert_close(bias, torch.tensor([0.01, 0.2, 0.9]))
    gaussian = make(mean * 5, [8], decoder="gaussian")
    assert last_bias(gaussian.network.decoder).tolist() == [0, 1, 4.5]


def test_bernoulli_refuses_values_outside_the_unit_interval(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"'bernoulli' needs values in \[0, 1\], not -?\d.* in row \d+.*; use 'gaussian'$",
    ):
        rlgen.train(
            "vae-two-moons", {"hyperparameters.decoder": "bernoulli", "run.dir": str(tmp_path)}
        )
    assert list(tmp_path.iterdir()) == []


def test_samples_and_reconstructions_are_in_data_space() -> None:
    algorithm = make(np.full(6, 0.5), [8], latent=3)
    with torch.no_grad():
        sample, x = algorithm.sample(10), torch.ones(4, 6)
        assert sample.shape == (10, 6)
        assert bool(((sample > 0) & (sample < 1)).all())
        assert algorithm.reconstruct(x).shape == x.shape
        gaussian = make(np.zeros(2), [8], decoder="gaussian")
        torch.manual_seed(1)
        draws = gaussian.sample(20_000)
        # sigma starts at 1: the draws carry that noise beside the decoder's spread.
        assert bool((draws.std(0) > 0.97).all())


def test_weights_travel_flat() -> None:
    one, two = make(np.full(6, 0.5), [8]), make(np.full(6, 0.5), [8])
    one.update({"x": torch.ones(4, 6)})
    write_weights(two, read_weights(one))
    x = torch.zeros(3, 6)
    with torch.no_grad():
        assert torch.equal(one.reconstruct(x), two.reconstruct(x))


def test_learns_digits() -> None:
    experiment = load_experiment("vae-digits")
    assert experiment.data is not None
    assert experiment.network is not None
    dataset = data.load(experiment.data, 0)
    torch.manual_seed(0)
    problem = Problem(
        data_mean=dataset.mean(), data_shape=dataset.shape, network=experiment.network
    )
    algorithm = VAE(experiment.hyperparameters, problem, np.random.default_rng(0))  # type: ignore[arg-type]
    shard = data.Shard(dataset, 0, experiment.hyperparameters.batch_size)  # type: ignore[attr-defined]
    x = torch.from_numpy(dataset.rows("validation", np.arange(dataset.count("validation"))))
    # What independent pixels with the data's means reach: 27.4 nats.
    p = torch.from_numpy(dataset.mean()).clamp(0.001, 0.999)
    independent = float(bernoulli_log_prob(x, p.logit()).mean())
    while shard.epoch < 20:
        algorithm.update(to_tensors(shard.next()))
    with torch.no_grad():
        figures = algorithm.evaluate({"x": x})
    elbo = float(figures["elbo"].mean())
    assert elbo > independent + 5.0
    assert elbo > -20.0  # -18.7 at 20 epochs, seed 0
    # A collapsed posterior would have no KL.
    assert float(figures["kl"].mean()) > 3.0


def test_beta_weighs_the_divergence_in_the_gradient_only() -> None:
    # For a linear encoder the mean KL's gradient is known: (mu, (sigma^2 - 1) / 2) at its bias.
    x = torch.from_numpy(np.random.default_rng(8).normal(size=(50, 4)).astype(np.float32))
    gradients, bounds, kl = [], [], torch.zeros(4)
    for beta in (1.0, 3.0):
        algorithm = make(np.zeros(4), [], latent=2, decoder="gaussian", beta=beta)
        with torch.no_grad():
            mu, log_variance = algorithm.network.posterior(x)
            kl = torch.cat([mu.mean(0), 0.5 * (log_variance.exp() - 1).mean(0)])
        torch.manual_seed(1)
        bounds.append(algorithm.update({"x": x})["elbo"])
        gradients.append(linears(algorithm)[0].bias.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    torch.testing.assert_close(gradients[1] - gradients[0], 2 * kl, atol=1e-5, rtol=1e-4)
    assert float(bounds[0]) == float(bounds[1])  # the figure stays the bound


def test_a_warm_up_lets_the_divergence_grow_over_its_epochs() -> None:
    # 100 rows in minibatches of 40 are three updates an epoch, also for a learner that gets a part.
    algorithm = make(np.full(4, 0.5), [8], beta=0.6, warmup=2, batch_size=40)
    weights = [algorithm.update({"x": torch.ones(20, 4)})["kl_weight"] for _ in range(8)]
    assert weights == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6])
    plain = make(np.full(4, 0.5), [8])
    assert plain.update({"x": torch.ones(20, 4)})["kl_weight"] == 1.0


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (8, 12, 3)])
def test_convolutions_see_a_row_as_the_image_that_it_is(shape: tuple[int, ...]) -> None:
    height, width, colours = *shape[:2], math.prod(shape[2:])
    mean = np.linspace(0.1, 0.9, math.prod(shape))
    vae = make(mean, [10], "relu", shape, latent=3, architecture="conv", channels=4)
    net = vae.network
    x = torch.rand(5, mean.size)
    layers = net.encoder.layers
    assert isinstance(layers, nn.Sequential)
    with torch.no_grad():
        # Strided convolutions of channels-first images, halving the sides twice.
        image = torch.from_numpy(x.numpy().reshape(5, height, width, colours).transpose(0, 3, 1, 2))
        first = torch.relu(layers[0](image))
        second = torch.relu(layers[2](first))
        assert first.shape == (5, 4, height // 2, width // 2)
        assert second.shape == (5, 8, height // 4, width // 4)
        torch.testing.assert_close(net.encoder(x), layers[5:](second.flatten(1)))
        # What one cell of the smallest image says is seen within 7 pixels of it, in each colour.
        decoder = net.decoder
        assert isinstance(decoder, ConvolutionalDecoder)
        last = decoder.dense[-1]
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        plain = decoder(torch.zeros(2, 1, 3))
        assert plain.shape == (2, 1, mean.size)
        torch.testing.assert_close(torch.sigmoid(plain[0, 0]), torch.from_numpy(mean).float())
        last.bias.view(8, height // 4, width // 4)[:, 0, 0] = 5.0
        changed = (decoder(torch.zeros(1, 3)) != plain[0]).view(height, width, colours)
        assert bool(changed[:2, :2].all())
        assert not bool(changed[7:].any())
        assert not bool(changed[:, 7:].any())


def test_a_convolutional_model_learns_digits(tmp_path: Path) -> None:
    changes = {"stop.epochs": 6, "hyperparameters.warmup": 2, "run.dir": str(tmp_path)}
    run = rlgen.train("vae-conv-digits", changes)
    # Independent pixels with the data's means reach -27.4 nats; this one -21 (seeds 0 to 2).
    assert run.evaluate()["mean"] > -23


def two_patterns(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 8 bits, each wrong with probability 0.1, of one pattern or its negative."""
    rng = np.random.default_rng(9)
    labels = rng.integers(2, size=rows)
    pattern = (np.arange(8) < 4) == (labels[:, None] == 0)
    bits = pattern ^ (rng.random((rows, 8)) < 0.1)
    return torch.from_numpy(bits.astype(np.float32)), torch.from_numpy(labels)


def test_a_conditional_model_learns_what_each_label_stands_for() -> None:
    x, labels = two_patterns(2000)
    vae = make(x.numpy().mean(0), [8], latent=1, classes=2, conditional=True, learning_rate=0.02)
    for _ in range(300):
        vae.update({"x": x, "y": labels})
    entropy = 8 * float(scipy.stats.bernoulli(0.1).entropy())  # 2.60 nats a row, of its label
    with torch.no_grad():
        elbo = vae.evaluate({"x": x, "y": labels})["elbo"]
        assert float(elbo.mean()) == pytest.approx(-entropy, abs=0.15)
        bound = vae.measure({"x": x[:50], "y": labels[:50]})["importance_weighted_bound"]
        wrong = vae.measure({"x": x[:50], "y": 1 - labels[:50]})["importance_weighted_bound"]
        assert bool((bound > wrong).float().mean() > 0.9)
        probability = torch.tensor([[0.9] * 4 + [0.1] * 4, [0.1] * 4 + [0.9] * 4])
        each = vae.sample_labelled(torch.tensor([0, 1, 1]))
        torch.testing.assert_close(each, probability[[0, 1, 1]], atol=0.1, rtol=0)
        # Without labels: one after the other, all averaged, or the likeliest one.
        torch.testing.assert_close(vae.sample(4), probability.repeat(2, 1), atol=0.1, rtol=0)
        z = vae.prior(6)
        both = [vae.decode_labelled(z, torch.full((6,), label)) for label in (0, 1)]
        torch.testing.assert_close(vae.decode(z), (both[0] + both[1]) / 2)
        shown = vae.reconstruct(x)
        told = vae.decode_labelled(vae.encode(x), labels)
        assert float((shown == told).all(1).float().mean()) > 0.95


def test_a_gaussian_model_can_be_conditional_too() -> None:
    labels = torch.arange(300) % 3
    torch.manual_seed(2)
    x = 2.0 * labels[:, None] + 0.5 * torch.randn(300, 2)
    vae = make(
        x.numpy().mean(0), [8], decoder="gaussian", latent=1, classes=3, conditional=True,
        learning_rate=0.02,
    )  # fmt: skip
    for _ in range(400):
        vae.update({"x": x, "y": labels})
    with torch.no_grad():
        draws = vae.sample_labelled(torch.tensor([0, 1, 2]).repeat_interleave(500)).view(3, 500, 2)
    means = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    torch.testing.assert_close(draws.mean(1), means, atol=0.4, rtol=0)
    torch.testing.assert_close(draws.std(1), torch.full((3, 2), 0.5), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        (
            "vae-two-moons",
            {"hyperparameters.architecture": "conv"},
            r"hyperparameters\.architecture: 'conv' needs images with sides divisible by 4, not "
            r"rows of shape \(2,\); use 'mlp'",
        ),
        (
            "vae-digits",
            {"hyperparameters.channels": 8},
            r"channels has an effect only with architecture=conv",
        ),
        ("vae-digits", {"hyperparameters.beta": 0}, r"hyperparameters\.beta: .*greater than 0"),
        (
            "vae-digits",
            {"hyperparameters.importance_samples": 0},
            r"hyperparameters\.importance_samples: .*greater than or equal to 1",
        ),
    ],
)
def test_bad_settings_are_refused(
    config: str, overrides: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        rlgen.train(config, {**overrides, "run.dir": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_labels_are_refused_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"conditional: these data have no labels; use false"):
        make(np.full(4, 0.5), [8], conditional=True)
    with pytest.raises(ConfigError, match=r"this model learned none; train with conditional=true"):
        make(np.full(4, 0.5), [8], classes=2).sample_labelled(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"not rows of shape \(6, 8\)"):
        make(np.zeros(48), [8], shape=(6, 8), architecture="conv")


@pytest.mark.slow
@pytest.mark.skipif("RLGEN_DATA" not in os.environ, reason="needs MNIST in the folder RLGEN_DATA")
def test_the_importance_weighted_bound_on_mnist(tmp_path: Path) -> None:
    """vae-binary-mnist: at least -92 nats with k = 5000, on rows all over the test set."""
    run = rlgen.train("vae-binary-mnist", {"run.dir": str(tmp_path)})
    assert run.experiment.data is not None
    dataset = data.load(run.experiment.data, run.experiment.seed)
    columns = dataset.columns("test", np.arange(0, 10_000, 20))
    with torch.no_grad():
        measured = run.algorithm.measure(to_tensors(columns))["importance_weighted_bound"]
    error = float(measured.std()) / math.sqrt(len(measured))
    assert float(measured.mean()) - 2 * error >= -92.0


def test_the_ready_configurations_load() -> None:
    for name in ("vae-digits", "vae-mnist", "vae-two-moons"):
        assert load_experiment(name).source == "data"
    assert load_experiment("vae-mnist").hyperparameters.latent == 20  # type: ignore[attr-defined]
    assert data.load(DataConfig(name="two_moons", size=10), 0).shape == (2,)
