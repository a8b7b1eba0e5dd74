"""The stacked auto-encoder: which layer learns when, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative.stacked_autoencoder import StackedAutoencoder
from rlgen.problem import load_problem

DIGITS = torch.from_numpy(load_digits().data[:400].astype(np.float32) / 16)


def make(**config: object) -> StackedAutoencoder:
    torch.manual_seed(0)
    mean = DIGITS.mean(0).numpy()
    problem = Problem(data_mean=mean, data_shape=(8, 8), data_count=len(DIGITS))
    given = StackedAutoencoder.Config.model_validate({"learning_rate": 0.01, **config})
    return StackedAutoencoder(given, problem, np.random.default_rng(0))


def test_one_layer_learns_at_a_time_and_all_at_the_end() -> None:
    algorithm = make(sizes=[20, 10, 5], layer_epochs=2)
    for expected in (0, 0, 1, 1, 2, 2, 3, 3):
        before = {k: v.clone() for k, v in algorithm.network.state_dict().items()}
        metrics = algorithm.update({"x": DIGITS})
        assert float(metrics["layer"]) == expected
        moved = {
            int(name.split(".")[1])
            for name, value in algorithm.network.state_dict().items()
            if not torch.equal(value, before[name])
        }
        assert moved == ({expected} if expected < 3 else {0, 1, 2})


def test_a_layer_learns_the_codes_below_it() -> None:
    algorithm = make(sizes=[20, 10], layer_epochs=1)
    algorithm.update({"x": DIGITS})
    w = algorithm.network.state_dict()
    z = torch.sigmoid(DIGITS @ w["down.0.weight"].T + w["down.0.bias"])
    code = torch.sigmoid(z @ w["down.1.weight"].T + w["down.1.bias"])
    shown = torch.sigmoid(code @ w["up.1.weight"].T + w["up.1.bias"])
    expected = float((shown - z).square().sum(1).mean())
    metrics = algorithm.update({"x": DIGITS})
    assert float(metrics["squared_error"]) == pytest.approx(expected, rel=1e-4)


def test_greedy_layers_help_a_deep_stack() -> None:
    errors = []
    for layer_epochs in (100, 0):
        algorithm = make(sizes=[60, 30, 10], layer_epochs=layer_epochs, learning_rate=0.02)
        for _ in range(400):
            algorithm.update({"x": DIGITS})
        scores = algorithm.evaluate({"x": DIGITS})["minus_squared_error"]
        errors.append(-float(torch.as_tensor(scores).detach().mean()))
    # Sigmoids four deep hardly learn from scratch: they stay near the mean row.
    assert errors[0] < 0.7 * errors[1]


def test_masking_hides_inputs() -> None:
    plain, masked = (make(sizes=[20], layer_epochs=50, mask=m) for m in (0.0, 0.5))
    first = [float(a.update({"x": DIGITS})["squared_error"]) for a in (plain, masked)]
    assert first[0] != first[1]


def test_data_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.name: stacked-autoencoder needs values in \[0"):
        load_problem(load_experiment("stacked-autoencoder-digits", ["data.name=two_moons"]))
