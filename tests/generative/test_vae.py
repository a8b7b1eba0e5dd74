"""The VAE: its terms against closed forms, its bound against an exactly solvable model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

import rlgen
from rlgen.algorithm import Problem, read_weights, write_weights
from rlgen.batch import to_tensors
from rlgen.config import DataConfig, NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data
from rlgen.generative.vae import VAE, bernoulli_log_prob, gaussian_kl, gaussian_log_prob


def make(mean: np.ndarray, hidden: list[int], activation: str = "tanh", **config: object) -> VAE:
    torch.manual_seed(0)
    network = NetworkConfig.model_validate({"hidden": hidden, "activation": activation})
    problem = Problem(data_mean=mean.astype(np.float32), data_shape=mean.shape, network=network)
    return VAE(VAE.Config.model_validate(config), problem, np.random.default_rng(0))


def last_bias(net: nn.Sequential) -> torch.Tensor:
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
        figures = algorithm.bound(torch.from_numpy(x))
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


def test_the_elbo_of_a_linear_model_meets_its_exact_likelihood() -> None:
    # Probabilistic PCA (Tipping & Bishop 1999): x = W z + mean + sigma e has the likelihood that
    # scikit-learn's PCA.score gives, with W = U (L - sigma^2)^(1/2) and the posterior
    # N(M^-1 W'(x - mean), sigma^2 M^-1), M = W'W + sigma^2, which is diagonal for this W.
    x, pca = linear_data()
    algorithm = make(np.zeros(5), [], latent=2, decoder="gaussian", samples=20_000)
    algorithm.network.double()
    variance = pca.noise_variance_
    w = pca.components_.T * np.sqrt(pca.explained_variance_ - variance)
    m = w.T @ w + variance * np.eye(2)
    inverse = np.linalg.inv(m)
    encoder, decoder = algorithm.network.encoder[0], algorithm.network.decoder[0]
    assert isinstance(encoder, nn.Linear)
    assert isinstance(decoder, nn.Linear)
    with torch.no_grad():
        encoder.weight[:2] = torch.from_numpy(inverse @ w.T)
        encoder.bias[:2] = torch.from_numpy(-inverse @ w.T @ pca.mean_)
        encoder.weight[2:] = 0
        encoder.bias[2:] = torch.from_numpy(np.log(variance * np.diag(inverse)))
        decoder.weight.copy_(torch.from_numpy(w))
        decoder.bias.copy_(torch.from_numpy(pca.mean_))
        algorithm.network.log_scale.fill_(0.5 * math.log(variance))
        rows = torch.from_numpy(x[:50])
        elbo = algorithm.bound(rows)["elbo"]
        exact = torch.from_numpy(pca.score_samples(x[:50]))
        # The bound is tight row by row; 20,000 draws leave an error of about 0.01 nats.
        torch.testing.assert_close(elbo, exact, atol=0.05, rtol=0)
        encoder.bias[2:] += 1.0  # a posterior too wide by e: the bound falls below
        loose = algorithm.bound(rows)["elbo"]
        assert bool((loose < exact - 0.5).all())


def test_training_a_linear_model_reaches_its_exact_likelihood() -> None:
    x, pca = linear_data()
    algorithm = make(x.mean(0), [], latent=2, decoder="gaussian", learning_rate=0.02, samples=8)
    rows = torch.from_numpy(x.astype(np.float32))
    first = float(algorithm.update({"x": rows})["elbo"])
    for _ in range(1500):
        algorithm.update({"x": rows})
    algorithm.config = algorithm.config.model_copy(update={"samples": 200})
    with torch.no_grad():
        elbo = float(algorithm.bound(rows)["elbo"].mean())
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
        used = name != "log_scale" or decoder == "gaussian"
        assert torch.equal(parameter, before[name]) != used, name
    for value in first.values():
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
        ConfigError, match=r"hyperparameters\.decoder: 'bernoulli' needs data in \[0, 1\]; use"
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
        figures = algorithm.bound(x)
    elbo = float(figures["elbo"].mean())
    assert elbo > independent + 5.0
    assert elbo > -20.0  # -18.7 at 20 epochs, seed 0
    # A collapsed posterior would have no KL.
    assert float(figures["kl"].mean()) > 3.0


def test_the_ready_configurations_load() -> None:
    for name in ("vae-digits", "vae-mnist", "vae-two-moons"):
        assert load_experiment(name).source == "data"
    assert load_experiment("vae-mnist").hyperparameters.latent == 20  # type: ignore[attr-defined]
    assert data.load(DataConfig(name="two_moons", size=10), 0).shape == (2,)
