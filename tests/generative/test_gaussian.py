"""One Gaussian, against scipy's density and NumPy's moments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import rlgen
from rlgen.algorithm import Problem
from rlgen.errors import ConfigError
from rlgen.generative.gaussian import Gaussian

ROWS = np.random.default_rng(0).multivariate_normal([1e4, -2.0], [[2.0, 0.5], [0.5, 1.0]], 400)


def make(rows: np.ndarray, **config: object) -> Gaussian:
    torch.manual_seed(0)
    mean = rows.mean(0).astype(np.float32)
    problem = Problem(data_mean=mean, data_shape=mean.shape, data_count=len(rows))
    return Gaussian(Gaussian.Config.model_validate(config), problem, np.random.default_rng(0))


def fitted(rows: np.ndarray, parts: int = 1, **config: object) -> Gaussian:
    algorithm = make(rows, **config)
    for part in np.array_split(rows, parts):
        assert not algorithm.network.fitted
        algorithm.update(algorithm.process({"x": torch.from_numpy(part)}))
    assert algorithm.network.fitted
    return algorithm


@pytest.mark.parametrize("parts", [1, 7])
def test_full_covariance_is_the_maximum_of_the_likelihood(parts: int) -> None:
    # A mean of 1e4 beside a deviation of 1: raw squares would leave half of the digits.
    algorithm = fitted(ROWS, parts, regularization=0.0)
    net = algorithm.network
    np.testing.assert_allclose(net.mean[0], ROWS.mean(0), rtol=1e-12)
    np.testing.assert_allclose(net.scale[0] @ net.scale[0].T, np.cov(ROWS.T, bias=True), rtol=1e-9)
    exact = stats.multivariate_normal(ROWS.mean(0), np.cov(ROWS.T, bias=True)).logpdf(ROWS)
    evaluated = algorithm.evaluate({"x": torch.from_numpy(ROWS)})["log_likelihood"]
    np.testing.assert_allclose(evaluated, exact, atol=1e-8)
    # The largest mean log-likelihood of a Gaussian: -1/2 (d log 2 pi e + log det covariance).
    _, log_det = np.linalg.slogdet(np.cov(ROWS.T, bias=True))
    assert exact.mean() == pytest.approx(-0.5 * (2 * math.log(2 * math.pi * math.e) + log_det))


def test_diagonal_covariance_and_regularization() -> None:
    algorithm = fitted(ROWS, covariance="diagonal", regularization=0.25)
    variance = ROWS.var(0) + 0.25
    np.testing.assert_allclose(algorithm.network.scale[0] ** 2, variance, rtol=1e-9)
    exact = stats.norm(ROWS.mean(0), np.sqrt(variance)).logpdf(ROWS).sum(1)
    np.testing.assert_allclose(algorithm.log_prob(torch.from_numpy(ROWS)), exact, atol=1e-8)
    full = fitted(ROWS, regularization=0.25).network.scale[0]
    np.testing.assert_allclose((full @ full.T).diagonal(), variance, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_samples_have_its_moments(covariance: str) -> None:
    rows = ROWS - [1e4, 0.0]
    draws = fitted(rows, covariance=covariance).sample(100_000).numpy()
    expected = np.cov(rows.T, bias=True)
    if covariance == "diagonal":
        expected = np.diag(np.diag(expected))
    # Four standard errors of 100,000 draws.
    np.testing.assert_allclose(draws.mean(0), rows.mean(0), atol=4 * math.sqrt(2 / 1e5))
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=4 * 2 * math.sqrt(2 / 1e5))


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_a_value_that_never_changes_needs_a_regularization(covariance: str) -> None:
    rows = np.column_stack([ROWS[:, 1], np.ones(len(ROWS))])
    with pytest.raises(
        ConfigError, match=r"hyperparameters\.regularization: the covariance of component 0 is sin"
    ):
        fitted(rows, covariance=covariance, regularization=0.0)
    log_prob = fitted(rows, covariance=covariance).log_prob(torch.from_numpy(rows))
    assert bool(log_prob.isfinite().all())


def test_workers_and_minibatches_change_nothing_and_one_epoch_is_enough(tmp_path: Path) -> None:
    runs = [
        rlgen.train(
            "gaussian-digits",
            {"run.dir": str(tmp_path), "scheduler.workers": w, "hyperparameters.batch_size": b},
        )
        for w, b in ((1, 5000), (3, 100))
    ]
    assert {run.summary["epochs"] for run in runs} == {1.0}
    np.testing.assert_allclose(runs[0].weights, runs[1].weights, atol=1e-9)
    assert runs[0].evaluate(split="validation")["metric"] == "log_likelihood"
    pictures = {path.name for path in (runs[0].dir / "pictures").iterdir()}
    assert pictures == {"samples.png"}  # a Gaussian reconstructs nothing
