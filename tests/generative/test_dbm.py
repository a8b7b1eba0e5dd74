"""The deep Boltzmann machine, against enumeration of all its states."""

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
from rlgen.generative import data
from rlgen.generative.boltzmann import hidden_mean, log_partition, visible_mean
from rlgen.generative.dbm import DBM
from rlgen.problem import load_problem


def states(units: int) -> Tensor:
    """All 2^units states, in double precision."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


# Of v, h and u of a 4-3-2 machine.
V, H, U = states(4), states(3), states(2)


def make(rows: int = 16, **config: object) -> DBM:
    """A 4-3-2 machine of normal parameters, in double precision."""
    torch.manual_seed(0)
    problem = Problem(data_mean=np.full(4, 0.4, np.float32), data_shape=(4,), data_count=rows)
    given = DBM.Config.model_validate({"sizes": [3, 2], **config})
    model = DBM(given, problem, np.random.default_rng(0))
    model.network.double()
    for parameter in model.network.parameters():
        parameter.normal_()
    model.chains = model.chains.double()
    return model


def parts(model: DBM) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """W ``(4, 3)``, V ``(3, 2)``, a, b and c."""
    dbm = model.network
    w, v = dbm.weight[:4], dbm.weight[4:].T
    return w, v, dbm.visible_bias[:4], dbm.hidden_bias, dbm.visible_bias[4:]


def minus_energies(model: DBM) -> Tensor:
    """-E(v, h, u) ``(16, 8, 4)``, as the paper writes it."""
    w, v, a, b, c = parts(model)
    return (
        (V @ a)[:, None, None] + (H @ b)[None, :, None] + (U @ c)[None, None]
        + (V @ w @ H.T)[:, :, None] + (H @ v @ U.T)[None]
    )  # fmt: skip


def joint(model: DBM) -> Tensor:
    """p(v, h, u) ``(16, 8, 4)``."""
    return torch.softmax(minus_energies(model).flatten(), 0).view(16, 8, 4)


def test_it_is_the_machine_of_v_and_u_with_h() -> None:
    model = make()
    p = joint(model)
    below = torch.cat([V.repeat_interleave(4, 0), U.repeat(16, 1)], 1)
    given = torch.einsum("vhu,hk->vuk", p, H) / p.sum(1)[:, :, None]
    torch.testing.assert_close(hidden_mean(model.network, below), given.reshape(64, 3))
    v = torch.einsum("vhu,vk->hk", p, V) / p.sum((0, 2))[:, None]
    u = torch.einsum("vhu,uk->hk", p, U) / p.sum((0, 2))[:, None]
    torch.testing.assert_close(visible_mean(model.network, H), torch.cat([v, u], 1))
    torch.testing.assert_close(
        log_partition(model.network), minus_energies(model).logsumexp((0, 1, 2))
    )


def test_the_mean_field_climbs_to_a_fixed_point_below_the_likelihood() -> None:
    model = make()
    w, top, _, b, c = parts(model)
    log_p = joint(model).sum((1, 2)).log()
    log_z = log_partition(model.network)
    bounds = [model.network.unnormalised_bound(V, steps) - log_z for steps in (1, 2, 3, 10, 200)]
    for before, after in itertools.pairwise(bounds):
        assert bool((after >= before - 1e-9).all())
    assert bool((bounds[-1] < log_p - 1e-3).all())
    assert float((bounds[-1] - bounds[0]).max()) > 1e-3
    below, mu = model.network.mean_field(V, 200)
    nu = below[:, 4:]
    assert torch.equal(below[:, :4], V)
    torch.testing.assert_close(nu, torch.sigmoid(mu @ top + c))
    torch.testing.assert_close(mu, torch.sigmoid(V @ w + nu @ top.T + b))
    # The bound is log p(v) - KL(q | p(h, u | v)), summed here over all states.
    p = joint(model) / joint(model).sum((1, 2), keepdim=True)

    def table(mean: Tensor, values: Tensor) -> Tensor:
        return (values * mean[:, None] + (1 - values) * (1 - mean[:, None])).prod(-1)

    q = table(mu, H)[:, :, None] * table(nu, U)[:, None]
    divergence = (q * (q.log() - p.log())).sum((1, 2))
    torch.testing.assert_close(bounds[-1], log_p - divergence)
    assert float(divergence.max()) < 1.0


def test_the_joint_step_is_the_gradient_of_the_bound() -> None:
    model = make(epochs_per_layer=0, chains=200_000, k=30, joint_rate=1.0, momentum=0.0,
                 weight_decay=0.0, mean_field_steps=100)  # fmt: skip
    rows = V[[1, 6, 6, 13]]
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    # At a fixed point of q, the gradient is that of the energy alone.
    model.network.requires_grad_(True)
    bound = model.network.unnormalised_bound(rows, 100).mean() - log_partition(model.network)
    expected = torch.autograd.grad(bound, list(model.network.parameters()))
    model.network.requires_grad_(False)
    batch = model.process({"x": rows})
    assert len(batch["below"]) == 4
    assert len(batch["fantasy"]) == 200_000
    model.update(batch)
    for (name, parameter), gradient in zip(model.network.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter - before[name], gradient, atol=0.006, rtol=0)
    assert max(float(gradient.abs().max()) for gradient in expected) > 0.1


def test_chains_persist_and_tend_to_the_model() -> None:
    model = make(epochs_per_layer=0, chains=50_000, k=1)
    for _ in range(40):
        before = model.chains
        batch = model.process({"x": V})
        assert torch.equal(model.chains, batch["fantasy"])
        assert not torch.equal(model.chains, before)
    p = joint(model)
    means = torch.cat([p.sum((1, 2)) @ V, p.sum((0, 1)) @ U])
    torch.testing.assert_close(model.chains.mean(0), means, atol=0.012, rtol=0)
    torch.testing.assert_close(batch["ended"].mean(0), p.sum((0, 2)) @ H, atol=0.012, rtol=0)


def test_the_greedy_phases_double_what_h_receives() -> None:
    model = make(epochs_per_layer=1)
    w, top, a, b, c = parts(model)
    rows = V[[5]].repeat(200_000, 1)
    sigmoid = torch.sigmoid

    def table(mean: Tensor, values: Tensor) -> Tensor:
        return (values * mean[:, None] + (1 - values) * (1 - mean[:, None])).prod(-1)

    lower = model.process({"x": rows})
    assert not lower["below"][:, 4:].any()
    assert not lower["fantasy"][:, 4:].any()
    hidden = sigmoid(2 * V[[5]] @ w + b)
    torch.testing.assert_close(lower["hidden"][:1], hidden)
    fantasy = table(hidden, H)[0] @ sigmoid(H @ w.T + a)
    torch.testing.assert_close(lower["fantasy"][:, :4].mean(0), fantasy, atol=0.006, rtol=0)
    torch.testing.assert_close(lower["ended"], sigmoid(2 * lower["fantasy"][:, :4] @ w + b))
    model.network.stage.fill_(1)
    upper = model.process({"x": rows})
    assert not upper["below"][:, :4].any()
    assert not upper["fantasy"][:, :4].any()
    torch.testing.assert_close(upper["hidden"].mean(0), hidden[0], atol=0.006, rtol=0)
    assert set(upper["hidden"].flatten().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(upper["below"][:, 4:], sigmoid(upper["hidden"] @ top + c))
    u = table(hidden, H)[0] @ table(sigmoid(H @ top + c), U)
    ended = u @ sigmoid(2 * U @ top.T + b)
    torch.testing.assert_close(upper["ended"].mean(0), ended, atol=0.006, rtol=0)
    torch.testing.assert_close(upper["fantasy"][:, 4:], sigmoid(upper["ended"] @ top + c))


def test_layers_are_trained_greedily_and_then_together() -> None:
    model = make(epochs_per_layer=2, joint_epochs=2, weight_decay=0.0, momentum=0.0)
    for stage, moving in ((0, {"W"}), (0, {"W"}), (1, {"V"}), (1, {"V"}), (2, {"W", "V"})):
        w, top, *_ = (part.clone() for part in parts(model))
        assert model.update(model.process({"x": V}))["layer"] == stage
        after = parts(model)
        moved = {"W"} if not torch.equal(w, after[0]) else set()
        moved |= {"V"} if not torch.equal(top, after[1]) else set()
        assert moved == moving
        assert not model.converged
    model.update(model.process({"x": V}))
    assert model.converged


def test_samples_and_codes_come_from_the_model() -> None:
    model = make(sample_steps=60, mean_field_steps=7)
    p = joint(model)
    samples = model.sample(40_000)
    torch.testing.assert_close(samples.mean(0), p.sum((1, 2)) @ V, atol=0.012, rtol=0)
    assert set(samples.flatten().tolist()).isdisjoint({0.0, 1.0})  # means, not draws
    assert [frame.shape for frame in islice(model.chain(5), 3)] == [(5, 4)] * 3
    w, _, a, *_ = parts(model)
    mu = model.network.mean_field(V, 7)[1]
    assert torch.equal(model.encode(V), mu)
    assert not torch.equal(mu, model.network.mean_field(V, 1)[1])
    shown = torch.sigmoid(mu @ w.T + a)
    torch.testing.assert_close(model.reconstruct(V), shown)
    score = model.evaluate({"x": V})["reconstruction_log_prob"]
    torch.testing.assert_close(score, (V * shown.log() + (1 - V) * (1 - shown).log()).sum(1))


def test_a_walk_begins_at_the_mean_field_of_pixels_drawn_by_their_means() -> None:
    """Not at u drawn by its biases, which here switch h off for good."""
    model = make()
    dbm = model.network
    dbm.mean = torch.tensor([1.0, 0.0, 1.0, 0.0])
    w, v, a, b, c = parts(model)
    w.copy_(80 * torch.eye(4, 3))
    v.fill_(-80)
    for bias in (a, b):
        bias.fill_(-40)
    c.fill_(40)  # u is on where h is off
    expected = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    for frame in islice(model.chain(5), 3):
        torch.testing.assert_close(frame, expected.expand(5, -1), atol=1e-6, rtol=0)


def test_it_refuses_what_it_cannot_learn() -> None:
    problem = Problem(data_mean=np.zeros(2, np.float32), data_range=(-1.0, 2.0))
    with pytest.raises(ConfigError, match=r"data\.name: dbm needs values in \[0, 1\].*\[-1, 2\]"):
        DBM.check(problem)
    for changes, message in (
        (["sizes=[8]"], "at least 2 items"),
        (["sizes=[8,8,8]"], "at most 2 items"),
        (["epochs_per_layer=0", "learning_rate=0.1"], "only with epochs_per_layer above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_experiment("dbm-digits", [f"hyperparameters.{key}" for key in changes])


def test_learning_raises_the_bound_of_digits() -> None:
    """With 16 units of h, log Z is exact, so that the bounds compare."""
    settings = {"sizes": "[16,16]", "epochs_per_layer": 10, "joint_epochs": 20}
    keys = [f"hyperparameters.{key}={value}" for key, value in settings.items()]
    experiment = load_experiment("dbm-digits", keys)
    assert experiment.data is not None
    dataset = data.load(experiment.data, 0)
    torch.manual_seed(0)
    problem = load_problem(experiment)
    model = DBM(experiment.hyperparameters, problem, np.random.default_rng(0))  # type: ignore[arg-type]
    held_out = torch.from_numpy(dataset.rows("validation", np.arange(dataset.count("validation"))))

    def bound() -> float:
        measured = model.measure({"x": held_out})["log_prob_bound"]
        assert isinstance(measured, Estimate)
        assert measured.note == "log Z: exact, by enumeration"
        return measured.value

    shard = data.Shard(dataset, 0, 20)
    bounds = {0: bound()}
    while not model.converged:
        model.update(model.process({"x": torch.from_numpy(shard.next()["x"])}))
        if shard.position == 0 and shard.epoch in (20, 40):
            bounds[shard.epoch] = bound()
    # -24.6 nats untrained (independent pixels), -20.5 by layers, -19.0 together.
    assert bounds[20] > bounds[0] + 2
    assert bounds[40] > bounds[20] + 0.5
