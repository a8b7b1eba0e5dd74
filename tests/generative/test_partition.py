"""Annealed importance sampling against enumeration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rlgen.algorithm import Problem
from rlgen.generative import boltzmann as bm
from rlgen.generative import partition
from rlgen.generative.rbm import RBM


def machine(
    visible: int, hidden: int, scale: float, kind: str = "bernoulli-bernoulli"
) -> bm.BoltzmannMachine:
    """A machine of normal weights, of this deviation, and biases."""
    kinds: tuple[Any, Any] = tuple(kind.split("-"))  # type: ignore[assignment]
    levels = 3 if "multinomial" in kind else 1
    rbm = bm.BoltzmannMachine(visible * levels, hidden, *kinds, 1.0, levels)
    generator = torch.Generator().manual_seed(0)
    for parameter, deviation in zip(rbm.parameters(), (scale, 1.0, 1.0), strict=True):
        parameter.copy_(deviation * torch.randn(parameter.shape, generator=generator))
    return rbm


def test_the_temperatures_are_in_the_published_proportions() -> None:
    betas = partition.inverse_temperatures(14_500)
    assert (float(betas[0]), float(betas[-1]), len(betas)) == (0.0, 1.0, 14_501)
    assert bool((betas.diff() > 0).all())
    # Salakhutdinov & Murray 2008: 500 to 0.5, 4,000 to 0.9, 10,000 to 1.
    assert betas[[500, 4500]].tolist() == pytest.approx([0.5, 0.9])
    assert float(betas[250]) == pytest.approx(0.25)
    assert float(betas[9500]) == pytest.approx(0.95)
    assert partition.inverse_temperatures(1).tolist() == [0.0, 1.0]


def test_without_weights_every_chain_is_exact() -> None:
    rbm = machine(12, 30, scale=0.0)
    exact = torch.nn.functional.softplus(rbm.visible_bias).sum()
    exact += torch.nn.functional.softplus(rbm.hidden_bias).sum()
    torch.manual_seed(0)
    weights = partition.annealed_weights(rbm, rbm.visible_bias[None], 5, 7)
    torch.testing.assert_close(weights, exact.double().expand(5), atol=1e-4, rtol=0)
    # From another base the chains differ, and their mean is right.
    found = partition.estimate_log_partition(rbm, {"uniform": torch.zeros(12)}, 500, 100)
    assert found.low < float(exact) < found.high
    assert found.value == pytest.approx(float(exact), abs=0.1)


@pytest.mark.parametrize(
    "kind",
    ["bernoulli-bernoulli", "gaussian-bernoulli", "bernoulli-gaussian", "multinomial-bernoulli"],
)
def test_it_equals_enumeration(kind: str) -> None:
    rbm = machine(10, 14, 0.5 if "gaussian" not in kind else 0.2, kind)
    exact = float(bm.log_partition(rbm))
    torch.manual_seed(1)
    bases = {"uniform": torch.zeros_like(rbm.visible_bias), "visible bias": rbm.visible_bias}
    found = partition.estimate_log_partition(rbm, bases, 200, 1000)
    assert found.value == pytest.approx(exact, abs=0.1)
    assert found.low < exact < found.high
    assert found.high - found.low < 0.5


def far_from_the_data(hidden: int) -> bm.BoltzmannMachine:
    """Mostly ones, where the data are zeros: the two are 37 nats and a barrier apart."""
    rbm = machine(64, hidden, scale=0.05)
    rbm.visible_bias.fill_(-3.0)
    rbm.weight[:, 0] = 6.0
    # All off: 64 log(1 + e^-3); all on: b + 64 log(1 + e^3), 192 + b more.
    rbm.hidden_bias[0] = 37.0 - 192.0
    return rbm


@pytest.mark.parametrize("hidden", [14, pytest.param(20, marks=pytest.mark.slow)])
def test_a_poor_base_is_found_out_by_the_others(hidden: int) -> None:
    """From the mean of the data it is tens of nats off, and sure of it; of three bases, right."""
    rbm = far_from_the_data(hidden)
    data_base = torch.full((64,), -3.0)  # of data that are mostly zeros
    exact = float(bm.log_partition(rbm))
    torch.manual_seed(0)
    poor = partition.estimate_log_partition(rbm, {"data mean": data_base}, 100, 2000)
    assert poor.value < exact - 30
    assert poor.high - poor.low < 0.5
    bases = {
        "uniform": torch.zeros(64), "data mean": data_base, "visible bias": rbm.visible_bias,
    }  # fmt: skip
    found = partition.estimate_log_partition(rbm, bases, 100, 2000)
    assert found.value == pytest.approx(exact, abs=0.1)
    assert found.low < exact < found.high
    assert "the largest, from base uniform" in found.note
    assert "data mean" in found.note
    assert "100 chains of 2000 temperatures" in found.note


def test_the_interval_of_a_mean() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0]).log().double() + 1000.0  # exp would overflow
    error = np.std([0, 1, 2, 3], ddof=1) / 2
    value, low, high = partition.log_mean(weights)
    assert value == pytest.approx(1000 + math.log(1.5))
    assert high == pytest.approx(1000 + math.log(1.5 + 3 * error))
    assert low == -math.inf  # three errors below the mean is less than nothing
    same = partition.log_mean(torch.full((5,), 7.0).double())
    assert same == pytest.approx((7.0, 7.0, 7.0))


def model(hidden: int) -> RBM:
    problem = Problem(data_mean=np.full(6, 0.3, np.float32), data_count=10)
    config = RBM.Config(hidden=hidden, ais_chains=50, ais_steps=300)
    return RBM(config, problem, np.random.default_rng(0))


def test_measure_is_exact_up_to_20_hidden_units_and_estimated_beyond() -> None:
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((7, 6), 0.5))
    small, large = model(8), model(21)
    for rbm in (small, large):
        rbm.network.weight.normal_(std=0.5)
    states = torch.arange(64)[:, None] >> torch.arange(6) & 1
    for rbm, noted in ((small, "exact"), (large, "AIS, 50 chains of 300")):
        log_p = -bm.free_energy(rbm.network, states.float())
        exact = -bm.free_energy(rbm.network, x) - log_p.logsumexp(0)
        found = rbm.measure({"x": x})
        error = 1e-4 if rbm is small else 0.1
        torch.testing.assert_close(found["log_prob"], exact, atol=error, rtol=0)
        log_z = found["log_partition"]
        assert log_z.value == pytest.approx(float(log_p.logsumexp(0)), abs=error)  # type: ignore[union-attr]
        assert noted in log_z.note  # type: ignore[union-attr]
    assert "data mean" in log_z.note  # type: ignore[union-attr]
