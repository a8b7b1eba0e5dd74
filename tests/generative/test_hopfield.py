"""The Hopfield network: energies by hand, recall, capacity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.algorithm import Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data
from rlgen.generative.connected import energy, recall, sweep
from rlgen.generative.hopfield import Hopfield


def network(units: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Symmetric normal weights and biases."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(units, units, generator=generator).triu(1)
    return half + half.T, torch.randn(units, generator=generator)


def model(x: Tensor, **given: object) -> Hopfield:
    """A network that stores the first of these rows."""
    problem = Problem(data_mean=x.mean(0).numpy(), data_count=len(x))
    config = Hopfield.Config.model_validate(given)
    hopfield = Hopfield(config, problem, np.random.default_rng(0))
    for rows in x.split(7):
        hopfield.update({"x": rows})
    return hopfield


def random_patterns(count: int, units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (count, units), generator=generator).float()


def noisy(x: Tensor, share: float) -> Tensor:
    flip = torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < share
    return torch.where(flip, 1 - x, x)


def test_the_energy_is_a_sum_over_pairs_and_units() -> None:
    weight, bias = network(5)
    for state in itertools.product([0.0, 1.0], repeat=5):
        expected = -sum(b * s for b, s in zip(bias.tolist(), state, strict=True))
        for i, j in itertools.combinations(range(5), 2):
            expected -= float(weight[i, j]) * state[i] * state[j]
        assert float(energy(weight, bias, torch.tensor([state]))) == pytest.approx(
            expected, abs=1e-5
        )


def test_no_step_raises_the_energy_at_zero_temperature_and_some_do_above() -> None:
    weight, bias = network(30)
    x = random_patterns(50, 30)
    torch.manual_seed(0)
    rises = {0.0: 0, 2.0: 0}
    for temperature in rises:
        now = x
        for unit in list(range(30)) * 3:
            after = sweep(weight, bias, now, temperature, torch.tensor([unit]))
            assert bool((after == now).sum(1).ge(29).all())  # one unit at a time
            change = energy(weight, bias, after) - energy(weight, bias, now)
            rises[temperature] += int((change > 1e-4).sum())
            now = after
    assert rises[0.0] == 0
    assert rises[2.0] > 50


def test_recall_ends_where_no_flip_lowers_the_energy() -> None:
    weight, bias = network(12, seed=2)[0], torch.zeros(12)
    torch.manual_seed(0)
    *_, end = recall(weight, bias, random_patterns(40, 12))
    lowest = energy(weight, bias, end)
    for i in range(12):
        flipped = end.clone()
        flipped[:, i] = 1 - flipped[:, i]
        assert bool((energy(weight, bias, flipped) >= lowest - 1e-5).all())
    assert len({tuple(row) for row in end.tolist()}) > 1  # not all in one minimum


def test_a_unit_of_no_input_is_set_to_one() -> None:
    x = torch.tensor([[0.0], [1.0]])
    assert sweep(torch.zeros(1, 1), torch.zeros(1), x, 0.0).tolist() == [[1.0], [1.0]]


def test_weights_by_hand() -> None:
    hopfield = model(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), patterns=2)
    # s = (1, 1, -1) and (1, -1, -1): w_12 = 1 - 1, w_13 = -1 - 1, w_23 = -1 + 1; b = -row sum / 2.
    expected = torch.tensor([[0.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    torch.testing.assert_close(hopfield.network.weight, expected)
    torch.testing.assert_close(hopfield.network.bias, torch.tensor([1.0, 0.0, 1.0]))


def test_the_rules_in_zeros_and_ones_are_those_of_minus_one_and_one() -> None:
    patterns = random_patterns(4, 20)
    hopfield = model(patterns, patterns=4)
    net, x = hopfield.network, random_patterns(30, 20, seed=1)
    s, rows = 2 * patterns - 1, 2 * x - 1
    hebb = (s.T @ s).fill_diagonal_(0.0)
    torch.testing.assert_close(2 * (x @ net.weight + net.bias), rows @ hebb)


@pytest.mark.parametrize(("load", "least", "most"), [(0.1, 0.97, 1.0), (0.2, 0.0, 0.7)])
def test_hebbs_rule_holds_0138_patterns_for_each_unit(
    load: float, least: float, most: float
) -> None:
    """Amit, Gutfreund & Sompolinsky 1985: a phase transition at 0.138, so full recall or none."""
    patterns = random_patterns(round(load * 600), 600)
    hopfield = model(patterns, patterns=len(patterns))
    torch.manual_seed(0)
    end = hopfield.reconstruct(noisy(patterns, 0.02))
    overlap = ((2 * end - 1) * (2 * patterns - 1)).mean()
    assert least < float(overlap) <= most


def test_the_projection_holds_half_as_many_as_units_without_an_error() -> None:
    patterns = random_patterns(100, 200)
    exact, hebb = (model(patterns, patterns=100, rule=rule) for rule in ("projection", "hebb"))
    torch.manual_seed(0)
    torch.testing.assert_close(exact.reconstruct(patterns), patterns)
    assert float((exact.reconstruct(noisy(patterns, 0.02)) - patterns).abs().mean()) < 0.002
    assert float((hebb.reconstruct(patterns) - patterns).abs().mean()) > 0.1


def test_digits_resemble_one_another_so_hebbs_rule_fails_and_the_projection_does_not() -> None:
    experiment = load_experiment("hopfield-digits")
    assert experiment.data is not None
    dataset = data.load(experiment.data, 0)
    x = torch.from_numpy(dataset.rows("train", np.arange(20)))
    torch.manual_seed(0)
    figures = {}
    for rule in ("projection", "hebb"):
        hopfield = model(x, patterns=20, rule=rule)
        figures[rule] = hopfield.evaluate({"x": noisy(x, 0.03)})
        assert list(figures[rule]) == ["overlap", "recalled", "energy"]
        assert torch.equal(hopfield.network.patterns, x)
    assert float(figures["projection"]["recalled"].mean()) > 0.8  # type: ignore[union-attr]
    assert float(figures["hebb"]["recalled"].mean()) < 0.3  # type: ignore[union-attr]
    assert hopfield.sample(3).shape == (3, 64)
    states = list(hopfield.chain(5))
    energies = torch.stack(
        [energy(hopfield.network.weight, hopfield.network.bias, s) for s in states]
    )
    assert len(states) > 2
    assert bool((energies.diff(dim=0) <= 1e-3).all())


def test_what_an_evaluation_says() -> None:
    patterns = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0] * 4])
    hopfield = model(patterns, patterns=2)
    row = patterns[:1].clone()
    row[0, 0] = 0.0
    figures = hopfield.evaluate({"x": torch.cat([row, 1 - patterns[1:]])})
    # The first is recalled; the other is the mirror image of a pattern, which is stored with it.
    assert figures["overlap"].tolist() == [1.0, 0.0]  # type: ignore[union-attr]
    assert figures["recalled"].tolist() == [1.0, 0.0]  # type: ignore[union-attr]


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"hyperparameters\.patterns: 9 are more than the 5"):
        model(random_patterns(5, 4), patterns=9)
    with pytest.raises(ConfigError, match=r"hopfield needs values in \[0, 1\].*not in \[-2, 1\]"):
        Hopfield.check(Problem(data_range=(-2.0, 1.0)))
