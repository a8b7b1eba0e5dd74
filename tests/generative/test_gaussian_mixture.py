"""The mixture of Gaussians, against scikit-learn's from the same start."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture as Reference

import rlgen
from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.densities import MODE_SCALES, modes
from rlgen.generative.em import first_shares
from rlgen.generative.gaussian_mixture import GaussianMixture
from rlgen.problem import build


def blobs(n: int = 600, seed: int = 0) -> np.ndarray:
    """Three overlapping clusters in the plane."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])[rng.integers(3, size=n)]
    return (centres + rng.normal(size=(n, 2)) * [1.0, 0.5]).astype(np.float32)


def make(rows: np.ndarray, **config: object) -> GaussianMixture:
    torch.manual_seed(0)
    mean = rows.mean(0)
    problem = Problem(data_mean=mean, data_shape=mean.shape, data_count=len(rows))
    given = GaussianMixture.Config.model_validate(config)
    return GaussianMixture(given, problem, np.random.default_rng(0))


def epoch(algorithm: GaussianMixture, rows: np.ndarray, parts: int = 1) -> float:
    for part in np.array_split(rows, parts):
        metrics = algorithm.update(algorithm.process({"x": torch.from_numpy(part)}))
    return float(metrics["log_likelihood"])


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("rows", [blobs(), load_digits().data.astype(np.float32) / 16])
def test_em_equals_scikit_learn_from_the_same_start(covariance: str, rows: np.ndarray) -> None:
    means = rows[:3].astype(float)
    d = rows.shape[1]
    reference = Reference(
        3,
        covariance_type={"full": "full", "diagonal": "diag"}[covariance],
        reg_covar=1e-3,
        tol=0.0,
        max_iter=20,
        weights_init=np.array([0.5, 0.3, 0.2]),
        means_init=means,
        precisions_init=np.tile(np.eye(d) if covariance == "full" else np.ones(d), (3, *[1] * (
            2 if covariance == "full" else 1))),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="did not converge"):
        reference.fit(rows.astype(float))
    algorithm = make(rows, components=3, covariance=covariance, regularization=1e-3)
    net = algorithm.network
    net.log_weight.copy_(torch.tensor([0.5, 0.3, 0.2]).double().log())
    net.mean.copy_(torch.from_numpy(means))
    net.scale.copy_(torch.eye(d) if covariance == "full" else torch.ones(d))
    net.fitted.fill_(1.0)
    for _ in range(20):
        epoch(algorithm, rows, parts=4)
    np.testing.assert_allclose(net.log_weight.exp(), reference.weights_, atol=1e-6)
    np.testing.assert_allclose(net.mean, reference.means_, atol=1e-6)
    scale = net.scale
    covariances = scale @ scale.mT if covariance == "full" else scale.square()
    np.testing.assert_allclose(covariances, reference.covariances_, atol=1e-6)
    ours = algorithm.evaluate({"x": torch.from_numpy(rows)})["log_likelihood"]
    theirs = reference.score_samples(rows.astype(float))
    assert float(ours.mean()) == pytest.approx(theirs.mean(), abs=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # 9e-6 of 40 nats in rows far out
    shares, _ = algorithm.share(torch.from_numpy(rows))
    np.testing.assert_allclose(shares, reference.predict_proba(rows.astype(float)), atol=1e-6)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("start", ["k-means++", "random"])
@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_never_decreases(covariance: str, start: str, seed: int) -> None:
    rows = blobs(seed=seed)
    algorithm = make(rows, components=5, covariance=covariance, start=start, regularization=0.0)
    scores = [epoch(algorithm, rows) for _ in range(40)]
    assert min(np.diff(scores)) > -1e-10
    assert scores[-1] > scores[0] + 0.01
    # What an epoch reports is the likelihood of the parameters that it began with.
    now = float(algorithm.log_prob(torch.from_numpy(rows)).mean())
    assert now == pytest.approx(epoch(algorithm, rows), abs=1e-10)


def test_one_component_is_the_gaussian() -> None:
    rows = blobs().astype(float)
    algorithm = make(rows.astype(np.float32), components=1, regularization=0.0)
    epoch(algorithm, rows)
    exact = stats.multivariate_normal(rows.mean(0), np.cov(rows.T, bias=True)).logpdf(rows)
    np.testing.assert_allclose(algorithm.log_prob(torch.from_numpy(rows)), exact, atol=1e-9)


def test_minibatches_change_nothing_but_the_rows_that_start_it() -> None:
    rows = blobs()
    one, many = (make(rows, components=3) for _ in range(2))
    epoch(one, rows)
    many.network.load_state_dict(one.network.state_dict())
    for _ in range(5):
        epoch(one, rows)
        epoch(many, rows, parts=7)
    torch.testing.assert_close(one.network.mean, many.network.mean, atol=1e-10, rtol=0)
    assert many.before == pytest.approx(one.before, abs=1e-10)


def test_it_converges_by_its_tolerance() -> None:
    rows, epochs = blobs(), []
    for tolerance in (1e-2, 1e-5):
        algorithm, scores = make(rows, components=3, tolerance=tolerance), [-math.inf]
        while not algorithm.converged:
            scores.append(epoch(algorithm, rows))
        assert scores[-1] - scores[-2] < tolerance <= scores[-2] - scores[-3]
        epochs.append(len(scores))
    assert epochs[0] < epochs[1]


def test_starts() -> None:
    centres = 10.0 * torch.eye(8)
    rows = centres.repeat(50, 1) + 0.01 * torch.randn(400, 8)
    torch.manual_seed(0)
    found = {"k-means++": 0, "random": 0}
    for start in found:
        for _ in range(20):
            shares = first_shares(rows, 8, start)  # type: ignore[arg-type]
            assert shares.sum(1).tolist() == [1.0] * 400
            found[start] += int(bool((shares.sum(0) == 50).all()))
    # Far clusters: the squared distance leaves no chance for a second seed in one of them; eight
    # rows drawn alike come from eight clusters with probability 8!/8^8 = 0.0024.
    assert found == {"k-means++": 20, "random": 0}
    same = first_shares(torch.ones(5, 2), 3, "k-means++")  # no distances to draw by
    assert same.sum(0).sum() == 5


def test_all_modes_of_the_grid_and_its_exact_likelihood(tmp_path: Path) -> None:
    run = rlgen.train("gaussian-mixture-grid", {"run.dir": str(tmp_path)})
    algorithm = run.algorithm
    distance = np.linalg.norm(modes("grid")[:, None] - algorithm.network.mean.numpy(), axis=-1)
    assert distance.min(1).max() < 0.03  # 25 modes, 4 / sqrt(320) of 0.05 is 0.011
    # Entropy of 25 far Gaussians of deviation s: log 25 + log(2 pi e s^2) = 0.0646 nats.
    entropy = math.log(25) + math.log(2 * math.pi * math.e * MODE_SCALES["grid"] ** 2)
    assert run.evaluate()["mean"] == pytest.approx(-entropy, abs=4 / math.sqrt(1000))
    draws = run.sample(2000)
    near = np.linalg.norm(draws[:, None] - modes("grid"), axis=-1)
    assert (near.min(1) < 5 * MODE_SCALES["grid"]).mean() > 0.999
    assert len(np.unique(near.argmin(1))) == 25


def test_digits_beat_one_gaussian(tmp_path: Path) -> None:
    runs = {
        name: rlgen.train(name, {"run.dir": str(tmp_path)})
        for name in ("gaussian-digits", "gaussian-mixture-digits")
    }
    scores = {name: run.evaluate()["mean"] for name, run in runs.items()}
    assert scores["gaussian-mixture-digits"] > scores["gaussian-digits"] + 5  # 58.0 and 46.3
    mixture = runs["gaussian-mixture-digits"]
    assert mixture.summary["stop_reason"] == "converged"
    drawn = {p.stem.partition("-")[0] for p in (mixture.dir / "pictures").iterdir()}
    assert drawn == {"samples", "reconstructions"}


def test_draws_follow_the_density() -> None:
    rows = blobs()
    algorithm = make(rows, components=3)
    for _ in range(20):
        epoch(algorithm, rows)
    draws = algorithm.sample(50_000)
    # The mixture's own moments, from its parameters.
    net = algorithm.network
    weight = net.log_weight.exp()
    mean = weight @ net.mean
    second = (weight[:, None, None] * (net.scale @ net.scale.mT
              + net.mean[:, :, None] * net.mean[:, None, :])).sum(0)  # fmt: skip
    torch.testing.assert_close(draws.mean(0), mean, atol=0.04, rtol=0)
    torch.testing.assert_close(draws.T.cov() + mean.outer(mean), second, atol=0.15, rtol=0)


def test_a_reconstruction_is_the_mean_of_the_component() -> None:
    rows = np.repeat(np.array([[0.0, 0.0], [9.0, 9.0]], np.float32), 50, axis=0)
    rows += 0.1 * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    algorithm = make(rows, components=2)
    epoch(algorithm, rows)
    shown = algorithm.reconstruct(torch.tensor([[1.0, 1.0], [8.0, 8.5]]))
    torch.testing.assert_close(shown, torch.tensor([[0.0, 0.0], [9.0, 9.0]]).double(), atol=0.05,
                               rtol=0)  # fmt: skip


def test_more_components_than_rows_are_refused() -> None:
    experiment = load_experiment(
        "gaussian-mixture-digits", ["hyperparameters.components=20", "hyperparameters.batch_size=9"]
    )
    with pytest.raises(
        ConfigError, match=r"hyperparameters\.components: 20 cannot start from 9 rows, those of a"
    ):
        build(experiment, 0)
