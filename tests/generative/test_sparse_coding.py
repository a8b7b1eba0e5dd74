"""Sparse coding, against scikit-learn's least-angle regression and dictionary learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import DictionaryLearning, sparse_encode

import rlgen
from rlgen.algorithm import Problem
from rlgen.generative.sparse_coding import SparseCoding, fista

DIGITS = torch.from_numpy(load_digits().data[:300].astype(np.float32) / 16)


def make(rows: torch.Tensor, **config: object) -> SparseCoding:
    torch.manual_seed(0)
    mean = rows.mean(0).numpy()
    problem = Problem(data_mean=mean, data_shape=mean.shape, data_count=len(rows))
    given = SparseCoding.Config.model_validate(config)
    return SparseCoding(given, problem, np.random.default_rng(0))


def objective(a: np.ndarray, x: np.ndarray, z: np.ndarray, eta: float) -> float:
    return float(((x - z @ a.T) ** 2).sum(1).mean() + eta * np.abs(z).sum(1).mean())


@pytest.mark.parametrize("eta", [0.05, 0.5])
def test_codes_equal_the_lasso(eta: float) -> None:
    # scikit-learn minimises 1/2 |x - A z|^2 + alpha |z|_1: alpha is eta / 2. With the book's minus
    # there would be no minimum at all.
    rng = np.random.default_rng(0)
    a, x = rng.normal(size=(10, 25)), rng.normal(size=(30, 10))
    a /= np.linalg.norm(a, axis=0)
    exact = sparse_encode(x, a.T, algorithm="lasso_lars", alpha=eta / 2, max_iter=1000)
    found = fista(torch.from_numpy(a), torch.from_numpy(x), eta, 3000).numpy()
    assert objective(a, x, found, eta) == pytest.approx(objective(a, x, exact, eta), rel=1e-6)
    np.testing.assert_allclose(found, exact, atol=2e-3)
    assert ((found == 0) == (np.abs(exact) < 1e-12)).mean() > 0.99


def test_more_steps_come_nearer_as_their_square() -> None:
    rng = np.random.default_rng(1)
    a, x = rng.normal(size=(10, 25)), rng.normal(size=(30, 10))
    best = objective(a, x, fista(torch.from_numpy(a), torch.from_numpy(x), 0.5, 5000).numpy(), 0.5)
    length = np.linalg.eigvalsh(a.T @ a)[-1]
    z = fista(torch.from_numpy(a), torch.from_numpy(x), 0.5, 5000).numpy()
    for steps in (5, 20, 80):
        found = fista(torch.from_numpy(a), torch.from_numpy(x), 0.5, steps).numpy()
        gap = objective(a, x, found, 0.5) - best
        # Theorem 4.4 of Beck & Teboulle: 2 L |z_0 - z*|^2 / (k + 1)^2, with L = 2 length, z_0 = 0.
        assert -1e-9 < gap <= 4 * length * (z**2).sum(1).mean() / (steps + 1) ** 2


def test_learning_is_as_good_as_scikit_learn() -> None:
    x = (DIGITS - DIGITS.mean(0)).numpy().astype(float)
    reference = DictionaryLearning(
        40, alpha=0.1, max_iter=30, fit_algorithm="cd", random_state=0, tol=0
    ).fit(x)
    a = reference.components_.T
    z = sparse_encode(x, a.T, algorithm="lasso_lars", alpha=0.1, max_iter=1000)
    theirs = objective(a, x, z, 0.2)
    algorithm = make(DIGITS, atoms=40, eta=0.2)
    for _ in range(60):
        algorithm.update(algorithm.process({"x": DIGITS}))
    figures = algorithm.evaluate({"x": DIGITS})
    ours = -float(torch.as_tensor(figures["minus_objective"]).mean())
    assert ours < 1.05 * theirs
    assert float(algorithm.network.atoms.norm(dim=0).max()) < 1 + 1e-5


def test_on_all_rows_the_objective_falls() -> None:
    algorithm = make(DIGITS, atoms=30, eta=0.3)
    seen = []
    for _ in range(15):
        algorithm.update(algorithm.process({"x": DIGITS}))
        scores = algorithm.evaluate({"x": DIGITS})["minus_objective"]
        seen.append(-float(torch.as_tensor(scores).mean()))
    assert seen[-1] < 0.95 * seen[0]
    assert max(np.diff(seen)) < 0.01 * seen[0]


def test_a_larger_weight_makes_more_zeros() -> None:
    zeros = []
    for eta in (0.05, 1.0):
        algorithm = make(DIGITS, atoms=40, eta=eta)
        for _ in range(10):
            algorithm.update(algorithm.process({"x": DIGITS}))
        zeros.append(float(torch.as_tensor(algorithm.evaluate({"x": DIGITS})["zeros"]).mean()))
    assert zeros[1] > zeros[0] + 0.2


def test_it_recovers_the_dictionary_of_its_data() -> None:
    torch.manual_seed(1)
    true = torch.randn(20, 30)
    true /= true.norm(dim=0)
    z = torch.randn(3000, 30) * (torch.rand(3000, 30) < 0.05)
    rows = z @ true.T + 0.01 * torch.randn(3000, 20)
    algorithm = make(rows, atoms=30, eta=0.1, steps=50)
    for _ in range(50):
        algorithm.update(algorithm.process({"x": rows}))
    likeness = (true.T @ algorithm.network.atoms).abs().max(1).values
    # It may end in a local optimum; by chance none of 30 in 20 dimensions would be so near.
    assert float((likeness > 0.95).float().mean()) >= 0.7
    assert float((true.T @ make(rows, atoms=30).network.atoms).abs().max()) < 0.95


def test_digits(tmp_path: Path) -> None:
    run = rlgen.train("sparse-coding-digits", {"run.dir": str(tmp_path), "stop.epochs": 4})
    figures = run.evaluate()
    assert figures["metric"] == "minus_objective"
    assert figures["test_zeros"] > 0.7
    assert figures["test_squared_error"] < 0.4  # of 18.7 around the mean row
    drawn = {p.stem.partition("-")[0] for p in (run.dir / "pictures").iterdir()}
    assert drawn == {"reconstructions"}
