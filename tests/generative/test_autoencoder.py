"""The auto-encoder: against principal components, and each of its penalties and corruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn

import rlgen
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.autoencoder import Autoencoder, bernoulli_kl
from rlgen.problem import build

DIGITS = torch.from_numpy(load_digits().data[:500].astype(np.float32) / 16)


def make(rows: torch.Tensor, hidden: tuple[int, ...] = (), **config: object) -> Autoencoder:
    torch.manual_seed(0)
    network = NetworkConfig.model_validate({"hidden": list(hidden)})
    mean = rows.mean(0).numpy()
    span = (float(rows.min()), float(rows.max()))
    problem = Problem(
        data_mean=mean,
        data_range=span,
        data_shape=mean.shape,
        data_count=len(rows),
        network=network,
    )
    given = Autoencoder.Config.model_validate(config)
    return Autoencoder(given, problem, np.random.default_rng(0))


def train(algorithm: Autoencoder, rows: torch.Tensor, updates: int) -> None:
    for _ in range(updates):
        algorithm.update({"x": rows})


def error_of(algorithm: Autoencoder, rows: torch.Tensor) -> float:
    with torch.no_grad():
        return -float(
            torch.as_tensor(algorithm.evaluate({"x": rows})["minus_squared_error"]).mean()
        )


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_one_spans_the_principal_components(tied: bool) -> None:
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    rows = torch.from_numpy(
        rng.normal(size=(500, 8)) * [3, 2.5, 2, 1, 0.8, 0.5, 0.3, 0.2] @ basis.T + 1.0
    ).float()
    pca = PCA().fit(rows.numpy())
    algorithm = make(rows, latent=3, code="linear", output="linear", tied=tied, learning_rate=0.02)
    train(algorithm, rows, 1500)
    decoder = list(algorithm.network.decoder.parameters())
    encoder = next(algorithm.network.encoder.parameters()).detach()
    matrix = encoder.T if tied else decoder[0]
    angles = linalg.subspace_angles(np.asarray(matrix.detach()), pca.components_[:3].T)
    assert np.degrees(angles.max()) < 1.0
    # What it leaves is the sum of the left-out eigenvalues of the covariance (eq 9.1-9.8).
    left_out = pca.explained_variance_[3:].sum() * 499 / 500
    assert error_of(algorithm, rows) == pytest.approx(left_out, rel=1e-3)
    shown = algorithm.reconstruct(rows).detach().numpy()
    components = PCA(3).fit(rows.numpy())
    expected = components.inverse_transform(components.transform(rows.numpy()))
    np.testing.assert_allclose(shown, expected, atol=0.15)
    if tied:  # the encoder's rows are then orthonormal
        torch.testing.assert_close(encoder @ encoder.T, torch.eye(3), atol=0.02, rtol=0)


def test_tied_decoders_transpose_every_layer() -> None:
    algorithm = make(DIGITS, (12,), latent=5, tied=True, code="linear", learning_rate=0.01)
    untied = make(DIGITS, (12,), latent=5, code="linear")
    count, other = (sum(p.numel() for p in a.network.parameters()) for a in (algorithm, untied))
    assert other - count == 5 * 12 + 12 * 64
    first, last = (m for m in algorithm.network.encoder if isinstance(m, nn.Linear))
    mean = DIGITS.mean(0).clamp(0.01, 0.99).logit()
    z = torch.randn(3, 5)
    expected = torch.sigmoid(torch.tanh(z @ last.weight) @ first.weight + mean)
    torch.testing.assert_close(algorithm.decode(z), expected)
    before = error_of(algorithm, DIGITS)
    train(algorithm, DIGITS, 50)
    assert error_of(algorithm, DIGITS) < before - 0.5


def test_the_network_of_figure_9_2_finds_a_code_of_two() -> None:
    # 4-2-4: four one-hot rows through two units.
    rows = torch.eye(4)
    algorithm = make(rows, latent=2, learning_rate=0.05)
    train(algorithm, rows, 2000)
    assert float((algorithm.reconstruct(rows).detach() - rows).abs().max()) < 0.1
    codes = algorithm.encode(rows).detach()
    assert float(torch.cdist(codes, codes)[~torch.eye(4, dtype=torch.bool)].min()) > 0.3


def test_bernoulli_kl_equals_torch() -> None:
    p = torch.tensor([0.01, 0.05, 0.4, 0.99], dtype=torch.float64)
    r = torch.distributions.Bernoulli(torch.tensor(0.05, dtype=torch.float64))
    expected = torch.distributions.kl_divergence(r, torch.distributions.Bernoulli(p))
    torch.testing.assert_close(bernoulli_kl(0.05, p), expected, atol=1e-7, rtol=1e-6)
    assert bernoulli_kl(0.05, torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("target", [0.05, 0.2])
def test_kl_brings_every_unit_to_its_target(target: float) -> None:
    plain = make(DIGITS, latent=30, learning_rate=0.01)
    sparse = make(DIGITS, latent=30, learning_rate=0.01, kl=2.0, target=target)
    for algorithm in (plain, sparse):
        train(algorithm, DIGITS, 300)
    means = [a.encode(DIGITS).detach().mean(0) for a in (plain, sparse)]
    assert float((means[0] - target).abs().mean()) > 0.2
    assert float((means[1] - target).abs().max()) < 0.05
    assert error_of(sparse, DIGITS) < float(DIGITS.var(0).sum())


def test_l1_makes_codes_zero() -> None:
    shares = {}
    for l1 in (0.0, 0.1):
        algorithm = make(DIGITS, latent=60, code="relu", l1=l1, learning_rate=0.01)
        train(algorithm, DIGITS, 300)
        shares[l1] = float((algorithm.encode(DIGITS) == 0).float().mean())
    assert shares[0.1] > shares[0.0] + 0.2


def test_penalties_are_what_they_say() -> None:
    config = {"latent": 7, "l1": 0.3, "kl": 0.2, "weight_decay": 0.01}
    algorithm = make(DIGITS, **config)
    with torch.no_grad():
        z = algorithm.encode(DIGITS)
        squares = sum(float((p**2).sum()) for p in algorithm.network.parameters() if p.dim() == 2)
        kl = float(bernoulli_kl(0.05, z.mean(0)).sum())
        expected = 0.3 * float(z.abs().sum() / len(z)) + 0.2 * kl + 0.01 * squares
        error = float(((algorithm.reconstruct(DIGITS) - DIGITS) ** 2).sum() / len(z))
    metrics = algorithm.update({"x": DIGITS})
    assert float(metrics["penalty"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["squared_error"]) == pytest.approx(error, rel=1e-4)


def test_corruption() -> None:
    x = torch.ones(1000, 64)
    masked = make(DIGITS, mask=0.3).corrupt(x)
    assert sorted(masked.unique().tolist()) == [0.0, 1.0]
    assert float((masked == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    noisy = make(DIGITS, noise=0.5).corrupt(x) - x
    assert float(noisy.std()) == pytest.approx(0.5, abs=0.01)
    assert make(DIGITS).corrupt(x) is x


@pytest.mark.parametrize("corruption", [{"mask": 0.5}, {"noise": 0.5}])
def test_a_denoising_one_restores_what_was_taken(corruption: dict[str, float]) -> None:
    errors = []
    for config in ({}, corruption):
        algorithm = make(DIGITS, latent=50, learning_rate=0.01, **config)  # type: ignore[arg-type]
        train(algorithm, DIGITS, 200)
        corrupted = make(DIGITS, **corruption).corrupt(DIGITS)  # type: ignore[arg-type]
        restored = algorithm.reconstruct(corrupted).detach()
        errors.append(float((restored - DIGITS).square().sum(1).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_ten_units_beat_ten_principal_components(tmp_path: Path) -> None:
    run = rlgen.train("autoencoder-digits", {"run.dir": str(tmp_path), "stop.epochs": 30})
    rows = rlgen.generative.data.load(run.experiment.data, 0)
    train_rows, test_rows = (rows.rows(s, np.arange(rows.count(s))) for s in ("train", "test"))
    pca = PCA(10).fit(train_rows)
    left = ((test_rows - pca.inverse_transform(pca.transform(test_rows))) ** 2).sum(1).mean()
    assert -run.evaluate()["mean"] < 0.75 * left  # after 100 epochs 0.61 of 1.31
    pictures = {path.stem.partition("-")[0] for path in (run.dir / "pictures").iterdir()}
    assert pictures == {"reconstructions"}  # it has no way to sample


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hyperparameters.kl=0.1", r"hyperparameters: kl=0\.1 needs code=sigmoid, activations"),
        ("hyperparameters.target=0.1", r"hyperparameters: target=0\.1 needs a weight, kl > 0"),
        ("data.name=two_moons", r"hyperparameters\.output: 'sigmoid' needs data in \[0, 1\], not"),
        ("network.layer_norm=true", r"network\.layer_norm: a tied decoder has none; set it to"),
    ],
)
def test_what_contradicts_itself_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(load_experiment("autoencoder-digits", ["hyperparameters.tied=true", override]), 0)
