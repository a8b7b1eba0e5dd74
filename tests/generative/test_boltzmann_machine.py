"""The fully connected Boltzmann machine against enumeration of its states; simulated annealing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import connected, data
from rlgen.generative.boltzmann_machine import FullBoltzmann
from rlgen.generative.connected import anneal, energy, geometric, mean_field, recall, sweep


def states(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def codes(x: Tensor) -> Tensor:
    """The place of each row in `states`."""
    return (x @ (2.0 ** torch.arange(x.shape[1] - 1, -1, -1).to(x))).long()


def network(units: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(units, units, generator=generator).triu(1).double()
    return half + half.T, torch.randn(units, generator=generator).double()


def test_a_units_conditional_by_enumeration() -> None:
    """p(x_i = 1 | rest) from the joint distribution, against the share of ones that are drawn."""
    weight, bias = network(4)
    x, temperature = states(4), 1.7
    p = (-energy(weight, bias, x) / temperature).softmax(0)
    torch.manual_seed(0)
    drawn = sweep(weight, bias, x.repeat(50_000, 1), temperature, torch.tensor([2]))
    share = drawn.view(50_000, 16, 4).mean(0)
    for k, row in enumerate(x):
        ones, zeros = row.clone(), row.clone()
        ones[2], zeros[2] = 1, 0
        both = p[codes(ones[None])], p[codes(zeros[None])]
        assert float(share[k, 2]) == pytest.approx(float(both[0] / sum(both)), abs=0.012)
    others = [0, 1, 3]
    torch.testing.assert_close(share[:, others], x[:, others])


def test_hot_units_are_coin_tosses_and_cold_ones_follow_hopfields_rule() -> None:
    weight, bias = network(5)
    torch.manual_seed(0)
    x = states(5).repeat(2000, 1)
    hot = sweep(weight, bias, x, 1e9)
    assert float(hot.mean()) == pytest.approx(0.5, abs=0.01)
    unit = torch.tensor([3])
    cold = sweep(weight, bias, x, 1e-9, unit)
    assert torch.equal(cold, sweep(weight, bias, x, 0.0, unit))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_sweeps_keep_the_distribution(temperature: float) -> None:
    weight, bias = network(4)
    p = (-energy(weight, bias, states(4)) / temperature).softmax(0)
    torch.manual_seed(1)
    x = states(4)[torch.multinomial(p, 200_000, replacement=True)]
    after = sweep(weight, bias, x, temperature)
    found = torch.bincount(codes(after), minlength=16) / 200_000
    torch.testing.assert_close(found.double(), p, atol=0.006, rtol=0)  # 5 deviations at most
    assert float((after != x).double().mean()) > 0.05
    clamped = sweep(weight, bias, x, temperature, torch.tensor([2, 3]))
    torch.testing.assert_close(clamped[:, :2], x[:, :2])
    found = torch.bincount(codes(clamped), minlength=16) / 200_000
    torch.testing.assert_close(found.double(), p, atol=0.006, rtol=0)


def model(visible: int, hidden: int, **given: object) -> FullBoltzmann:
    problem = Problem(data_mean=np.full(visible, 0.4, np.float32), data_count=1000)
    config = FullBoltzmann.Config.model_validate({"hidden": hidden, **given})
    torch.manual_seed(0)
    machine = FullBoltzmann(config, problem, np.random.default_rng(0))
    weight, bias = network(visible + hidden)
    machine.network.weight.copy_(weight)
    machine.network.bias.copy_(bias)
    return machine


def log_prob(weight: Tensor, bias: Tensor, visible: int, temperature: float) -> Tensor:
    """log p(v) of all visible states, by sums over all states of E as the book defines it."""
    x = states(len(bias))
    pairs = torch.stack([x[:, i] * x[:, j] for i, j in itertools.combinations(range(len(bias)), 2)])
    upper = torch.stack([weight[i, j] for i, j in itertools.combinations(range(len(bias)), 2)])
    scores = ((upper[:, None] * pairs).sum(0) + x @ bias) / temperature
    return scores.log_softmax(0).view(2**visible, -1).logsumexp(1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_step_goes_up_the_likelihood(temperature: float) -> None:
    """The mean step is the exact gradient, hidden units, 1/T and all."""
    machine = model(3, 2, temperature=temperature, learning_rate=1.0, sweeps=30)
    weight, bias = network(5)
    weight.requires_grad_(True), bias.requires_grad_(True)
    p = torch.tensor([0.3, 0.0, 0.1, 0.0, 0.25, 0.05, 0.3, 0.0]).double()
    objective = p @ log_prob(weight, bias, 3, temperature)
    gradients = torch.autograd.grad(objective, [weight, bias])
    rows = states(3).float().repeat_interleave((p * 100_000).round().long(), 0)
    machine.chains = (torch.rand(100_000, 5) < 0.5).float()
    batch = machine.process({"x": rows})
    assert set(batch) == {"clamped", "free"}
    torch.testing.assert_close(batch["clamped"][:, :3], rows)
    before = machine.network.weight.clone(), machine.network.bias.clone()
    machine.update(batch)
    step = machine.network.weight - before[0], machine.network.bias - before[1]
    assert float(gradients[0].abs().max()) > 0.05  # the noise below cannot hide it
    full = (gradients[0] + gradients[0].T).float()  # the oracle has each pair once
    torch.testing.assert_close(step[0], full, atol=0.01, rtol=0)
    torch.testing.assert_close(step[1], gradients[1].float(), atol=0.01, rtol=0)
    torch.testing.assert_close(machine.network.weight, machine.network.weight.T)
    assert not machine.network.weight.diagonal().any()


def test_the_rate_falls_to_zero() -> None:
    machine = model(3, 1, decay_epochs=1)
    batch = {"clamped": torch.ones(500, 4), "free": torch.zeros(10, 4)}
    steps = []
    for _ in range(3):
        before = machine.network.bias.clone()
        machine.update(batch)
        steps.append(float((machine.network.bias - before)[0]))
    assert steps == pytest.approx([0.05, 0.025, 0.0], abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_bound_is_below_the_likelihood_and_tight_for_one_hidden_unit(
    temperature: float,
) -> None:
    v = states(3).float()
    for hidden, gap in ((0, 1e-4), (1, 1e-4), (3, 0.5)):
        machine = model(3, hidden, temperature=temperature)
        exact = log_prob(*network(3 + hidden), 3, temperature)
        found = machine.measure({"x": v})
        difference = exact - found["log_prob_bound"]  # type: ignore[operator]
        assert bool((difference > -1e-4).all())
        assert float(difference.max()) < gap
        assert "exact" in found["log_partition"].note  # type: ignore[union-attr]
        assert machine.encode(v).shape == (8, hidden)
    assert float(difference.max()) > 1e-3  # three hidden units are not independent


def test_the_mean_field_is_a_fixed_point() -> None:
    weight, bias = network(6)
    v = states(2)
    x = mean_field(weight, bias, v, 1.5)
    torch.testing.assert_close(x[:, :2], v)
    again = ((x @ weight + bias) / 1.5).sigmoid()
    torch.testing.assert_close(x[:, 2:], again[:, 2:], atol=1e-4, rtol=0)


def test_the_partition_function(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias = network(10)
    exact = float((-energy(weight, bias, states(10))).logsumexp(0))
    found = connected.log_partition_of(weight, bias, 0 * bias, 100, 100)
    assert found.value == pytest.approx(exact)
    monkeypatch.setattr(connected, "ENUMERABLE", 5)
    torch.manual_seed(0)
    found = connected.log_partition_of(weight, bias, bias, 300, 300)
    assert found.value == pytest.approx(exact, abs=0.1)
    assert found.low < exact < found.high
    assert "AIS, 300 chains of 300" in found.note


def test_the_score_is_the_pseudo_log_likelihood_without_hidden_units() -> None:
    machine = model(4, 0, temperature=1.5)
    log_p = log_prob(*network(4), 4, 1.5)
    expected = []
    for state in range(16):
        flips = [state ^ (1 << bit) for bit in range(4)]
        both = torch.stack([log_p[state].expand(4), log_p[flips]])
        expected.append((log_p[state] - both.logsumexp(0)).sum())
    found = machine.evaluate({"x": states(4).float()})
    assert list(found) == ["pseudo_log_likelihood"]
    torch.testing.assert_close(found["pseudo_log_likelihood"], torch.stack(expected).float())


def test_samples_have_the_distribution_of_the_model() -> None:
    machine = model(3, 2, sample_sweeps=30)
    torch.manual_seed(0)
    found = torch.bincount(codes(machine.sample(20_000)), minlength=8) / 20_000
    exact = log_prob(*network(5), 3, 1.0).exp().float()
    torch.testing.assert_close(found, exact, atol=0.018, rtol=0)  # 5 deviations at most


def test_learning_raises_the_exact_likelihood_of_digits() -> None:
    """The 16 pixels in the middle, by pairs alone: enumerable."""
    experiment = load_experiment("boltzmann-machine-digits")
    assert experiment.data is not None
    dataset = data.load(experiment.data, 0)
    rows = dataset.rows("train", np.arange(dataset.count("train")))
    x = torch.from_numpy(rows.reshape(-1, 8, 8)[:, 2:6, 2:6].reshape(-1, 16))
    problem = Problem(data_mean=x.mean(0).numpy(), data_count=len(x))
    config = FullBoltzmann.Config(hidden=0, decay_epochs=8, learning_rate=0.1)
    torch.manual_seed(0)
    machine = FullBoltzmann(config, problem, np.random.default_rng(0))

    def score() -> float:
        measured = machine.measure({"x": x})
        assert "exact" in measured["log_partition"].note  # type: ignore[union-attr]
        return float(measured["log_prob_bound"].mean())  # type: ignore[union-attr]

    first = score()
    for _ in range(8):
        for part in x[torch.randperm(len(x))].split(20):
            machine.update(machine.process({"x": part}))
    assert score() > first + 1.5


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"boltzmann-machine needs values in \[0, 1\].*\[-2, 1\]"):
        FullBoltzmann.check(Problem(data_range=(-2.0, 1.0)))


def test_annealing_finds_the_lowest_energy_where_descents_do_not() -> None:
    weight, bias = network(16, seed=3)
    every = states(16)
    lowest = energy(weight, bias, every).min()
    torch.manual_seed(0)
    start = (torch.rand(200, 16) < 0.5).double()
    *_, ends = recall(weight, bias, start)
    descended = float((energy(weight, bias, ends) < lowest + 1e-6).double().mean())
    best, found = anneal(weight, bias, start, geometric(5.0, 0.2, 100))
    torch.testing.assert_close(energy(weight, bias, best), found)
    assert float(found.min()) == pytest.approx(float(lowest))
    annealed = float((found < lowest + 1e-6).double().mean())
    assert annealed > 0.8
    assert annealed > descended + 0.2


def test_temperatures_fall_by_the_same_share() -> None:
    temperatures = geometric(8.0, 0.5, 5)
    assert temperatures == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5])
    assert geometric(3.0, 3.0, 2) == pytest.approx([3.0, 3.0])
