"""The histogram, against NumPy's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import rlgen
from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.histogram import Histogram
from rlgen.problem import build

RNG = np.random.default_rng(0)


def fitted(rows: np.ndarray, parts: int = 3, **config: object) -> Histogram:
    torch.manual_seed(0)
    rows = rows.astype(np.float32)
    problem = Problem(
        data_mean=rows.mean(0),
        data_range=(float(rows.min()), float(rows.max())),
        data_shape=rows.shape[1:],
        data_count=len(rows),
    )
    given = Histogram.Config.model_validate(config)
    algorithm = Histogram(given, problem, np.random.default_rng(0))
    for part in np.array_split(rows, parts):
        assert float(algorithm.network.counts.sum()) == 0
        algorithm.update({"x": torch.from_numpy(part)})
    return algorithm


@pytest.mark.parametrize("bins", [10, 30])  # those of figure 9.4
@pytest.mark.parametrize("d", [1, 2, 3])
def test_it_equals_numpy(bins: int, d: int) -> None:
    rows = RNG.normal(size=(2000, d)).astype(np.float32)
    algorithm = fitted(rows, bins=bins, smoothing=0.0, margin=0.0)
    edges = np.linspace(rows.min(), rows.max(), bins + 1)
    density, _ = np.histogramdd(rows.astype(float), bins=[edges] * d, density=True)
    centres = np.stack(np.meshgrid(*[(edges[1:] + edges[:-1]) / 2] * d, indexing="ij"), axis=-1)
    found = algorithm.log_prob(torch.from_numpy(centres.reshape(-1, d))).exp()
    # The first index of NumPy's is the slowest, and a row on an edge may fall to either side.
    difference = np.abs(found.numpy() - density.ravel()) * (edges[1] - edges[0]) ** d
    assert difference.sum() < 3 / 2000
    assert float(algorithm.network.counts.sum()) == 2000


def test_smoothing_and_margin() -> None:
    # Two bins of width 1 in [0, 2] after a margin of a quarter of [0.333, 1.667] on each side.
    rows = np.array([[1 / 3], [5 / 3], [1.5]])
    algorithm = fitted(rows, bins=2, smoothing=0.5, margin=0.25)
    density = algorithm.log_prob(torch.tensor([[0.2], [1.9], [-0.1], [2.1]])).exp()
    torch.testing.assert_close(
        density, torch.tensor([1.5 / 4, 2.5 / 4, 0, 0]).double(), atol=1e-6, rtol=0
    )
    figures = algorithm.evaluate({"x": torch.tensor([[0.2], [2.1]])})
    assert np.asarray(figures["covered"]).tolist() == [1.0, 0.0]
    assert float(np.asarray(figures["log_likelihood"])[1]) == -1e30
    strict = fitted(rows[1:], parts=1, bins=5, smoothing=0.0, margin=1.0)  # of [1.333, 1.833]
    assert strict.log_prob(torch.tensor([[1.4]])).item() == -math.inf


def test_the_mass_is_one_and_draws_follow_it() -> None:
    rows = RNG.normal(size=(3000, 2)) * [1.0, 0.3]
    algorithm = fitted(rows, bins=12)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 1201)] * 2)
    mass = float(algorithm.log_prob(grid).exp().sum()) * 0.01**2
    assert mass == pytest.approx(1.0, abs=0.01)
    draws = algorithm.sample(60_000)
    cells, inside = algorithm.bin(draws)
    assert bool(inside.all())
    found = torch.bincount(cells, minlength=144) / 60_000
    weight = algorithm.network.counts + algorithm.config.smoothing
    expected = weight / weight.sum()
    error = 5 * (expected / 60_000).sqrt() + 1e-4
    assert bool(((found - expected).abs() < error).all())


def test_a_second_epoch_counts_anew() -> None:
    rows = RNG.normal(size=(90, 1)).astype(np.float32)
    algorithm = fitted(rows, bins=5)
    first = algorithm.network.counts.clone()
    for part in np.array_split(rows, 4):
        algorithm.update({"x": torch.from_numpy(part)})
    assert torch.equal(algorithm.network.counts, first)
    constant = fitted(np.full((4, 1), 7.0), bins=3, smoothing=0.0)  # a range of 0 is taken as 1
    assert constant.log_prob(torch.tensor([[7.0]])).isfinite().item()


def test_more_bins_tell_more_until_they_are_too_many(tmp_path: Path) -> None:
    scores = {
        bins: rlgen.train(
            "histogram-two-moons", {"run.dir": str(tmp_path), "hyperparameters.bins": bins}
        ).evaluate()["mean"]
        for bins in (10, 30, 1000)
    }
    assert scores[10] < scores[30] - 0.4  # -1.14 and -0.54
    assert scores[1000] < scores[30]


def test_bins_in_many_dimensions_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"hyperparameters\.bins: 30\^64 bins, for rows of 64 values, are more"
    ):
        build(load_experiment("histogram-two-moons", ["data.name=digits"]), 0)
