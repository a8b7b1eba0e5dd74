"""The deep belief network, against enumeration of all its states."""

from __future__ import annotations

import itertools
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.algorithm import Estimate, Problem
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data, layers
from rlgen.generative.boltzmann import BoltzmannMachine, free_energy, log_partition
from rlgen.generative.dbn import DBN
from rlgen.problem import load_problem


def states(units: int) -> Tensor:
    """All 2^units states, in double precision."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def make(sizes: list[int], rows: int = 100, **config: object) -> DBN:
    """A network over 4 values, with standard normal parameters in double precision."""
    torch.manual_seed(0)
    problem = Problem(
        data_mean=np.full(4, 0.4, np.float32), data_shape=(4,), data_count=rows, data_classes=0
    )
    given = DBN.Config.model_validate({"sizes": sizes, "epochs_per_layer": 1, **config})
    model = DBN(given, problem, np.random.default_rng(0))
    model.network.double()
    for parameter in model.network.parameters():
        parameter.normal_()
    return model


def finish(model: DBN) -> None:
    """Count all layers as trained, with the recognition weights as they are."""
    model.network.generative.stage.fill_(len(model.config.sizes))


def table(inputs: Tensor, values: Tensor) -> Tensor:
    """The probability of each row of ``values``, for each row of inputs of independent units."""
    p = torch.sigmoid(inputs)[:, None]
    return (values * p + (1 - values) * (1 - p)).prod(-1)


def joint(rbm: BoltzmannMachine) -> Tensor:
    """p(v, h) of a machine from the energy alone."""
    v, h = states(len(rbm.visible_bias)), states(len(rbm.hidden_bias))
    minus_energy = (v @ rbm.visible_bias)[:, None] + h @ rbm.hidden_bias + v @ rbm.weight @ h.T
    return torch.softmax(minus_energy.flatten(), 0).view(len(v), len(h))


def down(rbm: BoltzmannMachine) -> Tensor:
    """p(below | above) ``(above states, below states)`` of a directed layer."""
    h, v = states(len(rbm.hidden_bias)), states(len(rbm.visible_bias))
    return table(h @ rbm.weight.T + rbm.visible_bias, v)


def up(rbm: BoltzmannMachine) -> Tensor:
    """q(above | below) ``(below states, above states)`` of a recognition layer."""
    h, v = states(len(rbm.hidden_bias)), states(len(rbm.visible_bias))
    return table(v @ rbm.weight + rbm.hidden_bias, h)


def test_the_bound_with_tied_weights_is_the_likelihood_of_the_machine_below() -> None:
    # Hinton, Osindero & Teh 2006: a layer that begins as the one below it, turned upside down,
    # changes nothing, and there q(h | x) is the true posterior, so that the bound is tight.
    model = make([3, 4])
    first, second = model.network.generative
    second.weight.copy_(first.weight.T)
    second.visible_bias.copy_(first.hidden_bias)
    second.hidden_bias.copy_(first.visible_bias)
    model.network.untie(0)
    model.network.generative.stage.fill_(1)
    x, h = states(4), states(3)
    each = [model.network.log_weight([x, row.expand(16, 3)]) for row in h]
    bound = (up(first) * torch.stack(each, 1)).sum(1) - log_partition(second)
    exact = -free_energy(first, x) - log_partition(first)
    torch.testing.assert_close(bound, exact)
    # Every single draw says the same: log p(x, h) - log p(h | x) does not depend on h.
    torch.testing.assert_close(each[0], each[5])


def test_the_bound_by_enumeration() -> None:
    model = make([3, 2, 3])
    finish(model)
    g0, g1, top = model.network.generative
    r0, r1 = model.network.recognition
    # p(x) = sum p(x | h1) p(h1 | h2) p(h2, h3)
    p = joint(top).sum(1) @ down(g1) @ down(g0)
    q = up(r0)[:, :, None] * up(r1)[None]  # (16, 8, 4)
    x, weights = states(4), torch.zeros(16, 8, 4, dtype=torch.float64)
    for i, h1 in enumerate(states(3)):
        for j, h2 in enumerate(states(2)):
            given = [x, h1.expand(16, 3), h2.expand(16, 2)]
            weights[:, i, j] = model.network.log_weight(given)
    log_z = log_partition(top)
    exact = torch.log((q * (weights - log_z).exp()).sum((1, 2)))
    torch.testing.assert_close(exact, torch.log(p))
    bound = (q * weights).sum((1, 2)) - log_z
    assert bool((bound < torch.log(p) - 0.01).all())
    # `measure` draws h once for each row, and has so few units that log Z is exact.
    rows = x[3].repeat(20_000, 1)
    measured = model.measure({"x": rows})["log_prob_bound"]
    assert isinstance(measured, Estimate)
    assert measured.value == pytest.approx(float(bound[3]), abs=0.06)
    assert measured.low == measured.high == measured.value
    assert measured.note == "log Z: exact, by enumeration"


def test_the_bound_is_of_the_layers_trained_so_far() -> None:
    model = make([3, 2])
    first = model.network.generative[0]
    measured = model.measure({"x": states(4)})["log_prob_bound"]
    assert isinstance(measured, Estimate)
    exact = -free_energy(first, states(4)) - log_partition(first)
    assert measured.value == pytest.approx(float(exact.mean()))
    assert model.encode(states(4)).shape == (16, 3)
    finish(model)
    assert model.encode(states(4)).shape == (16, 2)


def test_the_delta_rules_are_the_gradients_of_the_conditionals() -> None:
    rbm = make([3, 2]).network.generative[0]
    below, above = states(4)[[1, 6, 9]], states(3)[[0, 5, 7]]
    rbm.requires_grad_(True)
    for imitate, inputs, target, bias in (
        (layers.imitate_below, above @ rbm.weight.T + rbm.visible_bias, below, rbm.visible_bias),
        (layers.imitate_above, below @ rbm.weight + rbm.hidden_bias, above, rbm.hidden_bias),
    ):
        loss = -torch.distributions.Bernoulli(logits=inputs).log_prob(target).sum() / 3
        expected = torch.autograd.grad(loss, [rbm.weight, bias])
        with torch.no_grad():
            imitate(rbm, below, above)
        torch.testing.assert_close((rbm.weight.grad, bias.grad), expected)


def test_wake_sleep_by_hand() -> None:
    model = make([3, 2], up_down_rate=0.5, up_down_epochs=4, momentum=0.0, weight_decay=0.0)
    finish(model)
    model.rows = 300  # two epochs for the layers, and one of the four of wake-sleep
    before = {k: v.numpy().copy() for k, v in model.network.state_dict().items()}
    rng = np.random.default_rng(3)
    x, h, v, dream = (rng.integers(0, 2, (5, n)).astype(float) for n in (4, 3, 3, 4))
    hidden, ended = rng.random((5, 2)), rng.random((5, 2))
    columns = {"x": x, "awake_0": x, "awake_1": h, "asleep_0": dream, "asleep_1": v}
    columns |= {"below": h, "fantasy": v, "hidden": hidden, "ended": ended}
    model.update({name: torch.from_numpy(column) for name, column in columns.items()})

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    rate = 0.5 * 3 / 4  # falls along a line
    generative, top = "generative.machines.0.", "generative.machines.1."
    recognition = "recognition.machines.0."
    wake = x - sigmoid(h @ before[generative + "weight"].T + before[generative + "visible_bias"])
    sleep = v - sigmoid(
        dream @ before[recognition + "weight"] + before[recognition + "hidden_bias"]
    )
    expected = {
        generative + "weight": wake.T @ h / 5,
        generative + "visible_bias": wake.mean(0),
        recognition + "weight": dream.T @ sleep / 5,
        recognition + "hidden_bias": sleep.mean(0),
        top + "weight": (h.T @ hidden - v.T @ ended) / 5,
        top + "visible_bias": (h - v).mean(0),
        top + "hidden_bias": (hidden - ended).mean(0),
    }
    for name, value in model.network.state_dict().items():
        step = rate * expected.get(name, 0.0)
        np.testing.assert_allclose(value.numpy(), before[name] + step, err_msg=name)


def hold(model: DBN) -> None:
    """Have every layer repeat the one next to it, up and down."""
    for machine in [*model.network.generative, *model.network.recognition]:
        machine.weight.copy_(80 * torch.eye(4))
        machine.visible_bias.fill_(-40)
        machine.hidden_bias.fill_(-40)


@pytest.mark.parametrize("persistent", [False, True])
def test_persistent_chains_go_on_from_the_batch_before(persistent: bool) -> None:
    model = make([4, 4], persistent=persistent)
    hold(model)
    finish(model)
    first, second = states(4)[[5, 6, 7]], states(4)[[8, 9]]
    assert torch.equal(model.process({"x": first})["fantasy"], first)
    batch = model.process({"x": second})
    assert torch.equal(batch["fantasy"], first if persistent else second)
    assert torch.equal(batch["asleep_0"], batch["fantasy"])  # and the dream begins there
    model.update(batch)  # of as many rows and of others as there are


def test_a_dream_begins_above_pixels_drawn_by_their_means() -> None:
    model = make([4, 4])
    hold(model)
    finish(model)
    model.network.mean = torch.tensor([1.0, 0.0, 0.0, 1.0])
    below, above = next(model.network.dream(3))
    assert torch.equal(below, model.network.mean.double().expand(3, -1))
    assert torch.equal(above, below)


def test_both_phases_have_the_enumerated_distributions() -> None:
    model = make([3, 2], k=2)
    finish(model)
    g0, top = model.network.generative
    r0 = model.network.recognition[0]
    rows = states(4)[5].repeat(100_000, 1)
    batch = model.process({"x": rows})

    def frequencies(column: Tensor) -> Tensor:
        units = column.shape[1]
        codes = (column @ 2.0 ** torch.arange(units - 1, -1, -1, dtype=torch.float64)).long()
        return torch.bincount(codes, minlength=2**units).double() / len(codes)

    awake = up(r0)[5]
    p = joint(top)
    step = (p / p.sum(1, keepdim=True)) @ (p / p.sum(0)).T  # h1 -> h2 -> h1
    chain = awake @ step @ step
    for name, expected in (
        ("awake_1", awake),
        ("below", awake),
        ("fantasy", chain),
        ("asleep_1", chain),
        ("asleep_0", chain @ down(g0)),
    ):
        torch.testing.assert_close(frequencies(batch[name]), expected, atol=0.007, rtol=0)
    assert bool((batch["awake_0"] == rows).all())
    torch.testing.assert_close(
        batch["hidden"], torch.sigmoid(batch["below"] @ top.weight + top.hidden_bias)
    )


def test_samples_and_codes_come_from_the_model() -> None:
    model = make([3, 2], sample_steps=60)
    finish(model)
    g0, top = model.network.generative
    p = joint(top)
    samples = model.sample(40_000)
    torch.testing.assert_close(samples.mean(0), p.sum(1) @ down(g0) @ states(4), atol=0.01, rtol=0)
    assert set(samples.flatten().tolist()).isdisjoint({0.0, 1.0})  # means, not draws
    codes = model.prior(40_000)
    torch.testing.assert_close(codes.mean(0), p.sum(0) @ states(2), atol=0.01, rtol=0)
    frames = list(islice(model.chain(5), 3))
    assert [frame.shape for frame in frames] == [(5, 4)] * 3
    # Between x and the code go means: here by hand.
    x = states(4)
    h = torch.sigmoid(
        x @ model.network.recognition[0].weight + model.network.recognition[0].hidden_bias
    )
    code = torch.sigmoid(h @ top.weight + top.hidden_bias)
    torch.testing.assert_close(model.encode(x), code)
    h = torch.sigmoid(code @ top.weight.T + top.visible_bias)
    decoded = torch.sigmoid(h @ g0.weight.T + g0.visible_bias)
    torch.testing.assert_close(model.decode(code), decoded)
    torch.testing.assert_close(model.reconstruct(x), decoded)
    score = model.evaluate({"x": x})["reconstruction_log_prob"]
    by_hand = (x * decoded.log() + (1 - x) * (1 - decoded).log()).sum(1)
    torch.testing.assert_close(score, by_hand)


def test_layers_are_trained_from_the_bottom_up_and_then_together() -> None:
    model = make([3, 3, 2], rows=16, up_down_epochs=2, epochs_per_layer=2)
    rows = states(4)
    moves = []
    for layer in (0, 0, 1, 1, 2, 2, 3, 3):
        before = {k: v.clone() for k, v in model.network.state_dict().items()}
        assert not model.converged
        assert model.update(model.process({"x": rows}))["layer"] == layer
        after = model.network.state_dict()
        weights = [k for k in after if k.endswith("weight") and (after[k] != before[k]).any()]
        moves.append({k[0] + k.split(".")[2] for k in weights})
    assert model.converged
    # Recognition weights move where their layer is done, and in wake-sleep.
    every = {"g0", "g1", "g2", "r0", "r1"}
    assert moves == [{"g0"}, {"g0", "r0"}, {"g1"}, {"g1", "r1"}, {"g2"}, {"g2"}, every, every]


def test_recognition_begins_as_the_transposed_generative_weights() -> None:
    model = make([3, 3], rows=16)
    model.update(model.process({"x": states(4)}))
    generative, recognition = model.network.generative[0], model.network.recognition[0]
    torch.testing.assert_close(recognition.weight, generative.weight)
    torch.testing.assert_close(recognition.hidden_bias, generative.hidden_bias)


def test_the_parts_of_several_workers_may_be_empty() -> None:
    model = make([3, 2])
    finish(model)
    batch = model.process({"x": torch.zeros(0, 4, dtype=torch.float64)})
    assert {len(column) for column in batch.values()} == {0}


def test_momentum_and_weight_decay_are_those_of_the_optimiser() -> None:
    model = make([3, 2], momentum=0.3, weight_decay=0.01)
    weights, biases = model.optimizer.param_groups
    assert (weights["momentum"], weights["weight_decay"]) == (0.3, 0.01)
    assert (biases["momentum"], biases["weight_decay"]) == (0.3, 0.0)


def test_it_refuses_what_it_cannot_learn() -> None:
    problem = Problem(data_mean=np.zeros(2, np.float32), data_range=(-1.0, 2.0))
    with pytest.raises(ConfigError, match=r"data\.name: dbn needs values in \[0, 1\].*\[-1, 2\]"):
        DBN.check(problem)
    for changes, message in (
        (["sizes=[8]"], "at least 2 items"),
        (["epochs_per_layer=0", "up_down_epochs=0"], "are both 0"),
        (["epochs_per_layer=0", "learning_rate=0.1"], "only with epochs_per_layer above 0"),
        (["up_down_epochs=0", "up_down_rate=0.1"], "only with up_down_epochs above 0"),
    ):
        # From the defaults, so that nothing else is idle.
        keys = ["up_down_rate=0.01", "learning_rate=0.05", *changes]
        with pytest.raises(ConfigError, match=message):
            load_experiment("dbn-digits", [f"hyperparameters.{key}" for key in keys])


def test_wake_sleep_raises_the_bound_of_digits() -> None:
    """With 16 units on top, log Z is exact, so that the bounds compare."""
    settings = {"sizes": "[32,16]", "epochs_per_layer": 15, "up_down_epochs": 15}
    keys = [f"hyperparameters.{key}={value}" for key, value in settings.items()]
    experiment = load_experiment("dbn-digits", keys)
    assert experiment.data is not None
    dataset = data.load(experiment.data, 0)
    torch.manual_seed(0)
    problem = load_problem(experiment)
    model = DBN(experiment.hyperparameters, problem, np.random.default_rng(0))  # type: ignore[arg-type]
    held_out = torch.from_numpy(dataset.rows("validation", np.arange(dataset.count("validation"))))

    def bound() -> float:
        torch.manual_seed(1)
        measured = model.measure({"x": held_out.repeat(10, 1)})["log_prob_bound"]
        assert isinstance(measured, Estimate)
        return measured.value

    shard = data.Shard(dataset, 0, 20)
    bounds = {0: bound()}
    while not model.converged:
        x = torch.from_numpy(shard.next()["x"])
        model.update(model.process({"x": x}))
        if shard.position == 0 and shard.epoch in (30, 45):
            bounds[shard.epoch] = bound()
    # -24.7 nats untrained (independent pixels), -19.5 by layers, -18.9 by wake-sleep.
    assert bounds[30] > bounds[0] + 3
    assert bounds[45] > bounds[30] + 0.2
