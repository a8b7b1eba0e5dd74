"""The mixture of Bernoullis, against enumeration, scikit-learn's naive Bayes and plain NumPy."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.naive_bayes import BernoulliNB

import rlgen
from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.bernoulli_mixture import BernoulliMixture
from rlgen.problem import build, load_problem

P = np.array([[0.9, 0.8, 0.1, 0.2, 0.1], [0.1, 0.3, 0.9, 0.7, 0.6]])


def rows_of(n: int = 2000, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((n, 5)) < P[rng.integers(2, size=n)]).astype(np.float32)


def make(rows: np.ndarray, **config: object) -> BernoulliMixture:
    torch.manual_seed(0)
    mean = rows.mean(0)
    problem = Problem(data_mean=mean, data_shape=mean.shape, data_count=len(rows))
    given = BernoulliMixture.Config.model_validate(config)
    return BernoulliMixture(given, problem, np.random.default_rng(0))


def epoch(algorithm: BernoulliMixture, rows: np.ndarray, parts: int = 1) -> dict[str, float]:
    for part in np.array_split(rows, parts):
        metrics = algorithm.update(algorithm.process({"x": torch.from_numpy(part)}))
    return {name: float(value) for name, value in metrics.items()}


def fitted(rows: np.ndarray, epochs: int, **config: object) -> BernoulliMixture:
    algorithm = make(rows, **config)
    for _ in range(epochs):
        epoch(algorithm, rows)
    return algorithm


def test_probabilities_of_all_rows_sum_to_one() -> None:
    algorithm = fitted(rows_of(), 30, components=3)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)))
    assert float(algorithm.log_prob(every).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_e_step_is_naive_bayes() -> None:
    # Given its parameters, the mixture's responsibilities are a naive Bayes classifier's posterior.
    rows = rows_of()
    algorithm = fitted(rows, 5, components=2, smoothing=1.0)
    shares, _ = algorithm.share(torch.from_numpy(rows))
    bayes = BernoulliNB(alpha=1.0, fit_prior=True)
    x, y = np.repeat(rows, 2, axis=0), np.tile([0, 1], len(rows))
    bayes.fit(x, y, sample_weight=shares.numpy().ravel())  # and this is the M step
    epoch(algorithm, rows)
    again, _ = algorithm.share(torch.from_numpy(rows))
    np.testing.assert_allclose(again, bayes.predict_proba(rows), atol=1e-9)
    np.testing.assert_allclose(algorithm.network.log_one, bayes.feature_log_prob_, atol=1e-9)


def test_one_component_is_independent_values() -> None:
    rows = rows_of()
    algorithm = fitted(rows, 2, components=1, smoothing=0.0)
    expected = stats.bernoulli(rows.mean(0)).logpmf(rows).sum(1)
    figures = algorithm.evaluate({"x": torch.from_numpy(rows)})
    np.testing.assert_allclose(figures["log_likelihood"], expected, atol=1e-6)


@pytest.mark.parametrize("start", ["k-means++", "random"])
@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_what_em_maximises_never_decreases(start: str, smoothing: float) -> None:
    rows = rows_of(200)
    algorithm = make(rows, components=4, start=start, smoothing=smoothing)
    seen = [epoch(algorithm, rows) for _ in range(60)]
    objective = [metrics["objective"] for metrics in seen]
    assert min(np.diff(objective)) > -1e-10
    assert objective[-1] > objective[0] + 0.01
    if smoothing == 0:
        assert objective == [metrics["log_likelihood"] for metrics in seen]
    else:
        # c log mu + c log (1 - mu) for each value of each component, as scipy's Beta(1 + c, 1 + c)
        # has it but for its constant.
        p = algorithm.network.log_one.exp().numpy()
        beta = stats.beta(3.0, 3.0)
        prior = (beta.logpdf(p) - beta.logpdf(0.5) + 4 * math.log(0.5)).sum()
        assert algorithm.log_prior() == pytest.approx(prior, abs=1e-6)


def test_it_recovers_the_parameters_of_its_data() -> None:
    algorithm = fitted(rows_of(20_000), 200, components=2)
    found = algorithm.network.log_one.exp().numpy()
    found = found[np.argsort(-found[:, 0])]
    np.testing.assert_allclose(found, P, atol=0.03)
    draws = algorithm.sample(20_000)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), P.mean(0), atol=0.03)
    correlation = np.cov(draws.numpy().T)
    np.testing.assert_allclose(correlation, np.cov(rows_of(20_000, 1).T), atol=0.02)
    shown = algorithm.reconstruct(torch.tensor([[1.0, 1, 0, 0, 0], [0.0, 0, 1, 1, 1]]))
    np.testing.assert_allclose(shown, P, atol=0.05)


def test_without_smoothing_what_was_never_seen_is_ruled_out() -> None:
    rows = np.array([[1, 0], [1, 0], [1, 1]], np.float32)
    unseen = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    strict = fitted(rows, 3, components=1, smoothing=0.0).log_prob(unseen)
    assert strict[0] <= -1e30
    assert float(strict[1]) == pytest.approx(math.log(1 / 3))
    # (0 + 1/2) / (3 + 1) and (2 + 1/2) / (3 + 1)
    smooth = fitted(rows, 3, components=1, smoothing=0.5).log_prob(unseen)
    assert float(smooth[0]) == pytest.approx(math.log(0.125 * 0.625))


def test_minibatches_change_nothing_but_the_rows_that_start_it() -> None:
    rows = rows_of()
    one, many = (make(rows, components=3) for _ in range(2))
    epoch(one, rows)
    many.network.load_state_dict(one.network.state_dict())
    for _ in range(5):
        first, last = epoch(one, rows), epoch(many, rows, parts=7)
    torch.testing.assert_close(one.network.log_one, many.network.log_one, atol=1e-9, rtol=0)
    assert last == pytest.approx(first, abs=1e-9)


def test_digits_beat_independent_pixels(tmp_path: Path) -> None:
    run = rlgen.train("bernoulli-mixture-digits", {"run.dir": str(tmp_path)})
    assert run.summary["stop_reason"] == "converged"
    assert run.evaluate()["mean"] > -21.0  # -20.4; independent pixels reach -27.4
    drawn = {p.stem.partition("-")[0] for p in (run.dir / "pictures").iterdir()}
    assert drawn == {"samples", "reconstructions"}


def test_data_that_are_not_probabilities_are_refused() -> None:
    experiment = load_experiment(
        "bernoulli-mixture-digits", ["data.name=two_moons", "data.binarize=false"]
    )
    with pytest.raises(
        ConfigError, match=r"data\.name: bernoulli-mixture needs values in \[0, 1\], such as"
    ):
        load_problem(experiment)


def test_more_components_than_rows_are_refused() -> None:
    changes = ["hyperparameters.components=20", "hyperparameters.batch_size=9"]
    with pytest.raises(ConfigError, match=r"hyperparameters\.components: 20 cannot start from 9"):
        build(load_experiment("bernoulli-mixture-digits", changes), 0)
