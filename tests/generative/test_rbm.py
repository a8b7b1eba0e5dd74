"""The RBM, against enumeration of all its states."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.algorithm import Problem, read_weights
from rlgen.batch import to_tensors
from rlgen.config import config_names, load_experiment, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data
from rlgen.generative.boltzmann import (
    BoltzmannMachine,
    draw,
    free_energy,
    gibbs,
    hidden_input,
    log_partition,
    pseudo_log_likelihood,
    temper,
    visible_input,
)
from rlgen.generative.rbm import RBM

# All 16 visible and 8 hidden states of a 4 x 3 machine.
V = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
H = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)


def machine(scale: float = 1.0, seed: int = 0) -> BoltzmannMachine:
    """A 4 x 3 machine of standard normal parameters, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    rbm = BoltzmannMachine(4, 3).double()
    for parameter in rbm.parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator).double())
    return rbm


def joint(rbm: BoltzmannMachine) -> Tensor:
    """p(v, h) ``(16, 8)`` from the energy alone: E = -a'v - b'h - v'Wh."""
    minus_energy = (
        (V @ rbm.visible_bias)[:, None] + (H @ rbm.hidden_bias)[None] + V @ rbm.weight @ H.T
    )
    return torch.softmax(minus_energy.flatten(), 0).view(16, 8)


def bernoulli_table(probability: Tensor, states: Tensor) -> Tensor:
    """The probability of every state, for rows of independent p(1): ``(rows, states)``."""
    p = probability[:, None]
    return (states * p + (1 - states) * (1 - p)).prod(-1)


def kernel(rbm: BoltzmannMachine) -> Tensor:
    """p(v' | v) ``(16, 16)`` of one Gibbs step, from the project's own conditionals."""
    up = bernoulli_table(torch.sigmoid(hidden_input(rbm, V)), H)
    return up @ bernoulli_table(torch.sigmoid(visible_input(rbm, H)), V)


def statistics(rbm: BoltzmannMachine, p: Tensor) -> Tensor:
    """<v h'>, <v> and <h> in one vector, for visible states of distribution p."""
    h = torch.sigmoid(hidden_input(rbm, V))
    weight = V.T @ (p[:, None] * h)
    return torch.cat([weight.flatten(), p @ V, p @ h])


def test_conditionals_by_enumeration() -> None:
    rbm = machine()
    p = joint(rbm)
    given_v = (p @ H) / p.sum(1, keepdim=True)
    torch.testing.assert_close(torch.sigmoid(hidden_input(rbm, V)), given_v)
    given_h = (p.T @ V) / p.sum(0)[:, None]
    torch.testing.assert_close(torch.sigmoid(visible_input(rbm, H)), given_h)


def test_free_energy_and_partition_by_enumeration() -> None:
    rbm = machine()
    log_p = -free_energy(rbm, V) - log_partition(rbm)
    torch.testing.assert_close(log_p.exp(), joint(rbm).sum(1))


def test_log_partition_of_more_states_than_one_part() -> None:
    # 2^13 hidden states are summed in two parts; with the roles exchanged, 2^5 in one.
    torch.manual_seed(0)
    rbm, turned = BoltzmannMachine(5, 13), BoltzmannMachine(13, 5)
    for parameter in rbm.parameters():
        parameter.normal_()
    turned.weight.copy_(rbm.weight.T)
    turned.visible_bias.copy_(rbm.hidden_bias)
    turned.hidden_bias.copy_(rbm.visible_bias)
    torch.testing.assert_close(log_partition(rbm), log_partition(turned))


def test_pseudo_log_likelihood_by_enumeration() -> None:
    rbm = machine()
    p = joint(rbm).sum(1)
    expected = []
    for state in range(16):
        flips = [state ^ (1 << bit) for bit in range(4)]
        expected.append(torch.log(p[state] / (p[state] + p[flips])).sum())
    torch.testing.assert_close(pseudo_log_likelihood(rbm, V), torch.stack(expected))


def test_drawn_pseudo_log_likelihood_is_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    rbm = machine()
    exact = pseudo_log_likelihood(rbm, V)
    monkeypatch.setattr("rlgen.generative.boltzmann.EXACT", 3)
    torch.manual_seed(0)
    rows = V.repeat(2000, 1)  # 80,000 draws of each row
    drawn = pseudo_log_likelihood(rbm, rows).view(2000, 16)
    torch.testing.assert_close(drawn.mean(0), exact, atol=0.03, rtol=0)
    assert bool((drawn.std(0) > 0.01).any())  # it is the drawn form indeed


def gradients(rbm: BoltzmannMachine, p: Tensor) -> Tensor:
    """The gradient of sum_v p(v) log p_model(v), by automatic differentiation."""
    parameters = [rbm.weight, rbm.visible_bias, rbm.hidden_bias]
    for parameter in parameters:
        parameter.requires_grad_(True)
    log_likelihood = -(p @ free_energy(rbm, V)) - log_partition(rbm)
    found = torch.autograd.grad(log_likelihood, parameters)
    rbm.requires_grad_(False)
    return torch.cat([g.flatten() for g in found])


def data_distribution() -> Tensor:
    return torch.softmax(torch.randn(16, generator=torch.Generator().manual_seed(9)), 0).double()


def test_the_exact_gradient_is_the_difference_of_the_phases() -> None:
    rbm, p = machine(), data_distribution()
    p = p / p.sum()
    exact = statistics(rbm, p) - statistics(rbm, joint(rbm).sum(1))
    torch.testing.assert_close(gradients(rbm, p), exact, atol=1e-12, rtol=1e-9)
    # And finite differences of the log-likelihood, by the book's own definition.
    difference, step = [], 1e-5
    for parameter in rbm.parameters():
        flat = parameter.view(-1)
        for i in range(flat.numel()):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(-(p @ free_energy(rbm, V)) - log_partition(rbm))
                flat[i] -= sign * step
            difference.append((values[0] - values[1]) / (2 * step))
    torch.testing.assert_close(torch.stack(difference), exact, atol=1e-8, rtol=0)


def expected_update(rbm: BoltzmannMachine, p: Tensor, k: int) -> Tensor:
    """The mean CD-k direction: the chains' distribution is p K^k exactly."""
    end = p @ torch.linalg.matrix_power(kernel(rbm), k)
    return statistics(rbm, p) - statistics(rbm, end)


def test_contrastive_divergence_comes_to_the_gradient_as_k_grows() -> None:
    # Another 4 x 3 machine was computed to relative errors of 0.053, 0.0035 and 1e-6 for k = 1, 2
    # and 5. These are of the same orders: each step shrinks the error by the kernel's mixing.
    rbm, p = machine(scale=0.5), data_distribution()
    exact = gradients(rbm, p / p.sum())
    error = {
        k: float((expected_update(rbm, p / p.sum(), k) - exact).norm() / exact.norm())
        for k in (1, 2, 5, 50)
    }
    assert 0.005 < error[1] < 0.2
    assert error[2] < error[1] / 5
    assert error[5] < error[2] / 100
    assert error[50] < 1e-10
    cosine = torch.cosine_similarity(expected_update(rbm, p / p.sum(), 1), exact, 0)
    assert float(cosine) > 0.98


def algorithm(visible: int = 4, hidden: int = 3, **config: object) -> RBM:
    torch.manual_seed(0)
    mean = np.full(visible, 0.4, np.float32)
    problem = Problem(data_mean=mean, data_shape=(visible,), data_count=4)
    given = RBM.Config.model_validate({"hidden": hidden, **config})
    return RBM(given, problem, np.random.default_rng(0))


@pytest.mark.parametrize("k", [1, 3])
def test_one_update_is_the_expected_direction(k: int) -> None:
    model = algorithm(k=k, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    exact_model = machine(scale=1.5)
    model.network.load_state_dict(exact_model.state_dict())
    before = read_weights(model)
    p = torch.tensor([0.4, *[0.0] * 8, 0.35, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0]).double()
    rows = V.float().repeat_interleave((p * 200_000).round().long(), 0)
    batch = model.process({"x": rows})
    assert set(batch) == {"x", "hidden", "fantasy", "ended", "reconstruction_error"}
    assert set(batch["fantasy"].flatten().tolist()) == {0.0, 1.0}
    # The chains' ends have the enumerated distribution p K^k (error of 200,000 draws: 0.001).
    codes = (batch["fantasy"] @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    frequencies = torch.bincount(codes, minlength=16).double() / len(codes)
    end = p @ torch.linalg.matrix_power(kernel(exact_model), k)
    torch.testing.assert_close(frequencies, end, atol=0.006, rtol=0)
    model.update(batch)
    step = torch.from_numpy(read_weights(model) - before).double() / 0.1
    expected = expected_update(exact_model, p, k)
    assert float(expected.norm()) > 0.1  # the noise below cannot hide it
    torch.testing.assert_close(step, expected, atol=0.008, rtol=0)


def test_momentum_and_weight_decay() -> None:
    rows = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    batch = {
        "x": rows,
        "hidden": torch.tensor([[0.2, 0.4, 0.6]]),
        "fantasy": torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        "ended": torch.tensor([[0.1, 0.5, 0.5]]),
        "reconstruction_error": torch.tensor([0.5]),
    }
    model = algorithm(learning_rate=0.1, momentum=0.5, weight_decay=0.01)
    w = model.network.weight.clone()
    gradient = rows.T @ batch["hidden"] - batch["fantasy"].T @ batch["ended"]
    metrics = model.update(batch)
    velocity = gradient - 0.01 * w
    w = w + 0.1 * velocity
    torch.testing.assert_close(model.network.weight.data, w)
    model.update(batch)
    w = w + 0.1 * (0.5 * velocity + gradient - 0.01 * w)
    torch.testing.assert_close(model.network.weight.data, w)
    # The biases have momentum and no decay: two steps move b by lr (1 + 1.5) of the difference.
    expected = 0.1 * 2.5 * (batch["hidden"] - batch["ended"])[0]
    torch.testing.assert_close(model.network.hidden_bias.data, expected)
    assert float(metrics["reconstruction_error"]) == 0.5
    assert float(metrics["hidden_activity"]) == pytest.approx(0.4)


def test_it_starts_at_the_data_with_broken_symmetry() -> None:
    model = algorithm(visible=500, hidden=200)
    assert float(model.network.weight.std()) == pytest.approx(0.01, rel=0.02)
    torch.testing.assert_close(
        torch.sigmoid(model.network.visible_bias.data), torch.full((500,), 0.4)
    )
    assert not model.network.hidden_bias.any()


def test_draws_have_their_probabilities() -> None:
    torch.manual_seed(0)
    drawn = draw(torch.tensor([0.0, 0.25, 1.0]).repeat(100_000, 1))
    assert drawn.sum(0)[[0, 2]].tolist() == [0, 100_000]
    assert float(drawn[:, 1].mean()) == pytest.approx(0.25, abs=0.007)  # 5 deviations


def test_the_parts_of_several_workers_may_be_empty() -> None:
    model = algorithm()
    batch = model.process({"x": torch.zeros(0, 4)})
    assert {name: column.shape for name, column in batch.items()} == {
        "x": (0, 4), "hidden": (0, 3), "fantasy": (0, 4), "ended": (0, 3),
        "reconstruction_error": (0,),
    }  # fmt: skip


def test_persistent_chains_go_on_whatever_the_rows_are() -> None:
    model = algorithm(negative="pcd", chains=50_000, k=2)
    exact_model = machine(scale=1.5)
    model.network.load_state_dict(exact_model.state_dict())
    start = model.chains[0].double() @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()
    p = torch.bincount(start.long(), minlength=16).double() / 50_000
    for _ in range(2):  # of a single row that is far from them
        batch = model.process({"x": torch.ones(1, 4)})
        assert batch["fantasy"].shape == (50_000, 4)
        assert batch["hidden"].shape == (1, 3)
        torch.testing.assert_close(batch["ended"], torch.sigmoid(
            hidden_input(model.network, batch["fantasy"])))  # fmt: skip
        p = p @ torch.linalg.matrix_power(kernel(exact_model), 2)
        codes = batch["fantasy"] @ torch.tensor([8.0, 4.0, 2.0, 1.0])
        found = torch.bincount(codes.long(), minlength=16).double() / 50_000
        torch.testing.assert_close(found, p, atol=0.011, rtol=0)  # 5 deviations at most
        torch.testing.assert_close(model.chains[0], batch["fantasy"])


def two_modes() -> BoltzmannMachine:
    """Eight visible units that are all off or all on: Gibbs chains take ages between the two."""
    rbm = BoltzmannMachine(8, 1)
    rbm.weight.fill_(8.0)
    rbm.visible_bias.fill_(-4.0)
    rbm.hidden_bias.fill_(-32.0)  # so both are as likely
    return rbm


def test_tempered_chains_find_both_modes_where_others_do_not() -> None:
    rbm = two_modes()
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)))
    p = (-free_energy(rbm, states)).softmax(0)
    assert float(p @ states[:, 0]) == pytest.approx(0.5, abs=1e-4)
    torch.manual_seed(0)
    stuck = torch.zeros(2000, 8)
    end, _ = gibbs(rbm, torch.sigmoid(hidden_input(rbm, stuck)), 100)
    assert float(end.mean()) < 0.05
    betas = torch.linspace(1, 0, 6)[:, None, None]
    base = torch.zeros(8)
    chains, accepted = temper(rbm, torch.zeros(6, 2000, 8), betas, base, 300)
    assert 0.05 < float(accepted) < 0.95
    assert float(chains[0].mean()) == pytest.approx(0.5, abs=0.05)
    assert float((chains[0].mean(1) - 0.5).abs().min()) > 0.2  # no chain is between the modes
    assert float(chains[-1].mean()) == pytest.approx(0.5, abs=0.02)  # coin tosses
    assert set(chains[-1].sum(1).tolist()) > {2.0, 3.0, 4.0, 5.0, 6.0}


def test_tempering_keeps_the_distribution_of_every_temperature() -> None:
    rbm, base = machine(scale=1.5), torch.tensor([1.0, -1.0, 0.5, 0.0]).double()
    betas = torch.tensor([1.0, 0.6, 0.2]).double()[:, None, None]
    p = (-free_energy(rbm, V, betas, base)).softmax(-1)  # (3, 16)
    torch.testing.assert_close(p[0], joint(rbm).sum(1))
    torch.manual_seed(0)
    rows = torch.stack([V[torch.multinomial(each, 100_000, replacement=True)] for each in p])
    end, accepted = temper(rbm, rows, betas, base, 2)
    codes = (end @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    found = torch.stack([torch.bincount(each, minlength=16) for each in codes]) / 100_000
    torch.testing.assert_close(found.double(), p, atol=0.008, rtol=0)  # 5 deviations at most
    assert 0 < float(accepted) < 1
    assert not torch.equal(end[0], rows[0])


def test_temperatures_that_are_the_same_always_swap() -> None:
    rbm = machine()
    betas = torch.ones(3, 1, 1).double()
    _, accepted = temper(rbm, V[None].repeat(3, 1, 1), betas, torch.zeros(4).double(), 1)
    assert float(accepted) == 1.0


def test_the_rate_falls_to_zero_and_sparsity_pulls_at_the_biases() -> None:
    torch.manual_seed(0)
    batch = {"x": torch.zeros(2, 4), "hidden": torch.full((2, 3), 0.7),
             "fantasy": torch.zeros(5, 4), "ended": torch.full((5, 3), 0.7)}  # fmt: skip
    given = {"learning_rate": 0.1, "momentum": 0.0, "decay_epochs": 2, "weight_decay": 0.0}
    model = algorithm(**given, sparsity_cost=0.5, sparsity_target=0.2)
    assert model.problem.data_count == 4  # so that the rate is 0 after 8 rows
    steps = []
    for _ in range(6):
        before = model.network.hidden_bias.clone()
        model.update(batch)
        steps.append(float((model.network.hidden_bias - before)[0]))
    # The phases agree: all that is left is 0.5 (0.2 - 0.7), at 0.1 (1 - seen / 8).
    expected = [-0.25 * 0.1 * (1 - seen / 8) for seen in (0, 2, 4, 6, 8, 8)]
    np.testing.assert_allclose(steps, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": 0.5}, "sigma has an effect only with Gaussian units"),
        ({"levels": 5}, "levels has an effect only with units=multinomial-bernoulli"),
        ({"chains": 50}, "chains has an effect only with negative=pcd or tempering"),
        ({"negative": "pcd", "temperatures": 5}, "only with negative=tempering"),
        ({"sparsity_target": 0.2}, "sparsity_target has an effect only with sparsity_cost > 0"),
        ({"units": "bernoulli-gaussian", "sparsity_cost": 1.0}, "only with binary hidden units"),
        ({"units": "gaussian-gaussian"}, "bernoulli-gaussian"),
    ],
)
def test_settings_without_an_effect_are_refused(given: dict[str, object], message: str) -> None:
    plain = {"algorithm": "rbm", "hyperparameters": given, "data": {"name": "digits"}}
    with pytest.raises(ConfigError, match=message):
        resolve_experiment({"name": "x", **plain, "stop": {"epochs": 1}})


def test_samples_come_from_the_model() -> None:
    model = algorithm(sample_steps=50)
    exact_model = machine(scale=1.0, seed=2)
    model.network.load_state_dict(exact_model.state_dict())
    samples = model.sample(50_000)
    assert samples.shape == (50_000, 4)
    p = joint(exact_model).sum(1)
    torch.testing.assert_close(samples.mean(0).double(), p @ V, atol=0.01, rtol=0)
    assert set(samples.flatten().tolist()).isdisjoint({0.0, 1.0})  # probabilities, not draws


def test_reconstruction_is_one_mean_field_step() -> None:
    model = algorithm()
    model.network.load_state_dict(machine().state_dict())
    x = V.float()
    rbm = model.network
    hidden = torch.sigmoid(x @ rbm.weight + rbm.hidden_bias)
    expected = torch.sigmoid(hidden @ rbm.weight.T + rbm.visible_bias)
    torch.testing.assert_close(model.reconstruct(x), expected)


def test_gibbs_leaves_the_model_distribution_alone() -> None:
    rbm = machine()
    p = joint(rbm).sum(1)
    torch.testing.assert_close(p @ kernel(rbm), p)
    torch.manual_seed(1)
    rows = V[torch.multinomial(p, 100_000, replacement=True)]
    end, hidden = gibbs(rbm, torch.sigmoid(hidden_input(rbm, rows)), 3)
    torch.testing.assert_close(end.mean(0), p @ V, atol=0.01, rtol=0)
    torch.testing.assert_close(hidden, torch.sigmoid(hidden_input(rbm, end)))


def test_it_refuses_values_outside_the_unit_interval() -> None:
    mean = np.array([0.2, 0.3], np.float32)  # of values that are not
    problem = Problem(data_mean=mean, data_range=(-0.5, 1.0), data_shape=(2,))
    expected = r"hyperparameters\.units: bernoulli-bernoulli needs values in \[0, 1\].*\[-0.5, 1\]"
    with pytest.raises(ConfigError, match=expected):
        RBM(RBM.Config(), problem, np.random.default_rng(0))


def test_learning_raises_the_exact_likelihood_of_digits() -> None:
    experiment = load_experiment("rbm-digits", ["hyperparameters.hidden=12"])
    assert experiment.data is not None
    dataset = data.load(experiment.data, 0)
    torch.manual_seed(0)
    problem = Problem(data_mean=dataset.mean(), data_shape=dataset.shape)
    model = RBM(experiment.hyperparameters, problem, np.random.default_rng(0))  # type: ignore[arg-type]
    x = torch.from_numpy(dataset.rows("validation", np.arange(dataset.count("validation"))))

    def figures() -> tuple[float, float]:
        score = model.evaluate({"x": x})
        assert list(score) == ["pseudo_log_likelihood", "free_energy"]
        exact = -free_energy(model.network, x) - log_partition(model.network)
        return float(exact.mean()), float(score["pseudo_log_likelihood"].mean())  # type: ignore[union-attr]

    first = figures()
    shard = data.Shard(dataset, 0, 20)
    while shard.epoch < 15:
        model.update(model.process(to_tensors(shard.next())))
    last = figures()
    # Independent pixels give about -24.7 nats, 12 hidden units about -20.
    assert last[0] > first[0] + 2.5
    assert last[1] > first[1] + 2.5


def test_the_ready_configurations_load() -> None:
    names = [name for name in config_names() if name.startswith("rbm-")]
    assert len(names) >= 8
    for name in names:
        assert load_experiment(name).algorithm == "rbm"
