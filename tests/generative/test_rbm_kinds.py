"""The four kinds of RBM against enumeration and quadrature of the energies as the book has them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.algorithm import Problem
from rlgen.errors import ConfigError
from rlgen.generative import boltzmann as bm
from rlgen.generative.rbm import RBM

S = 0.7  # the standard deviation of Gaussian units
GRID = torch.linspace(-14, 14, 561, dtype=torch.float64)  # steps of 0.05: the error is negligible
PLANE = torch.cartesian_prod(GRID, GRID)
AREA = float(GRID[1] - GRID[0]) ** 2


def binary(units: int) -> Tensor:
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=torch.float64)


def one_of(levels: int, groups: int) -> Tensor:
    """All states of groups of which one unit is 1."""
    chosen = torch.tensor(list(itertools.product(range(levels), repeat=groups)))
    return torch.eye(levels, dtype=torch.float64)[chosen].flatten(1)


#: All visible and hidden states, with what each weighs in a sum: a point of a grid weighs its area.
STATES = {
    "bernoulli-bernoulli": (binary(4), 1.0, binary(3), 1.0),
    "gaussian-bernoulli": (PLANE, AREA, binary(3), 1.0),
    "bernoulli-gaussian": (binary(4), 1.0, PLANE, AREA),
    "multinomial-bernoulli": (one_of(3, 2), 1.0, binary(3), 1.0),
}
KINDS = list(STATES)


def machine(kind: str) -> bm.BoltzmannMachine:
    """A machine of normal parameters, in double precision."""
    visible, hidden = kind.split("-")
    v, _, h, _ = STATES[kind]
    sigma = S if "gaussian" in kind else 1.0
    levels = 3 if visible == "multinomial" else 1
    kinds = (visible, hidden)
    rbm = bm.BoltzmannMachine(v.shape[1], h.shape[1], *kinds, sigma, levels).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for parameter in rbm.parameters():
        parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator).double())
    return rbm


def energies(kind: str, v: Tensor, h: Tensor) -> Tensor:
    """E of every pair ``(n, m)``, term by term: eq 12.29, 12.59, 12.60 (signs mended), 12.67."""
    rbm = machine(kind)
    w, a, b = rbm.weight, rbm.visible_bias, rbm.hidden_bias
    if kind == "gaussian-bernoulli":
        own_v, own_h = ((v - a) ** 2 / (2 * S**2)).sum(1), -(h @ b)
        pairs = (v / S) @ w @ h.T
    elif kind == "bernoulli-gaussian":
        own_v, own_h = -(v @ a), ((h - b) ** 2 / (2 * S**2)).sum(1)
        pairs = v @ w @ (h / S).T
    else:
        own_v, own_h, pairs = -(v @ a), -(h @ b), v @ w @ h.T
    return own_v[:, None] + own_h[None] - pairs


@pytest.mark.parametrize("kind", KINDS)
def test_the_energy(kind: str) -> None:
    v, _, h, _ = STATES[kind]
    v, h = v[::997][:6], h[::991][:6]
    n = min(len(v), len(h))
    expected = energies(kind, v, h).diagonal()
    torch.testing.assert_close(bm.energy(machine(kind), v[:n], h[:n]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_conditionals(kind: str) -> None:
    rbm = machine(kind)
    v, _, h, _ = STATES[kind]
    some_v = v if len(v) < 100 else v[[60_000, 157_000, 200_111]]
    p = (-energies(kind, some_v, h)).softmax(1)
    torch.testing.assert_close(bm.hidden_mean(rbm, some_v), p @ h, atol=1e-9, rtol=1e-9)
    some_h = h if len(h) < 100 else h[[60_000, 157_000, 200_111]]
    q = (-energies(kind, v, some_h)).softmax(0)
    torch.testing.assert_close(bm.visible_mean(rbm, some_h), q.T @ v, atol=1e-9, rtol=1e-9)
    # The spread of Gaussian units, and that units of one layer are independent of each other.
    for mean, second, states in (
        (p @ h, torch.einsum("ns,si,sj->nij", p, h, h), rbm.hidden_kind),
        (q.T @ v, torch.einsum("sn,si,sj->nij", q, v, v), rbm.visible_kind),
    ):
        covariance = second - mean[:, :, None] * mean[:, None]
        if states == "gaussian":
            expected = S**2 * torch.eye(2, dtype=torch.float64).expand_as(covariance)
            torch.testing.assert_close(covariance, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_moments_of_the_conditionals(kind: str) -> None:
    rbm = machine(kind)
    v, _, h, _ = STATES[kind]
    torch.manual_seed(0)
    for mean, drawn, unit in (
        (bm.hidden_mean(rbm, v[7:8]), bm.draw_hidden, rbm.hidden_kind),
        (bm.visible_mean(rbm, h[5:6]), bm.draw_visible, rbm.visible_kind),
    ):
        rows = drawn(rbm, mean.expand(200_000, -1))
        torch.testing.assert_close(rows.mean(0), mean[0], atol=0.008, rtol=0)  # 5 deviations
        if unit == "gaussian":
            torch.testing.assert_close(
                rows.std(0), torch.full((2,), S).double(), atol=0.006, rtol=0
            )
        else:
            assert set(rows.flatten().tolist()) == {0.0, 1.0}
        if unit == "multinomial":
            assert bool((rows.view(-1, 2, 3).sum(-1) == 1).all())


@pytest.mark.parametrize("kind", KINDS)
def test_free_energy_and_partition(kind: str) -> None:
    rbm = machine(kind)
    v, dv, h, dh = STATES[kind]
    some = v if len(v) < 100 else v[[60_000, 157_000, 200_111]]
    summed = (-energies(kind, some, h)).logsumexp(1) + math.log(dh)
    torch.testing.assert_close(-bm.free_energy(rbm, some), summed, atol=1e-9, rtol=1e-9)
    log_z = (-energies(kind, v, h)).flatten().logsumexp(0) + math.log(dv * dh)
    torch.testing.assert_close(bm.log_partition(rbm), log_z, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_difference_of_the_free_energies_gradients(kind: str) -> None:
    """-dF/dW = v E[h | v]' / s and so on: F itself is right by the test above."""
    rbm, v = machine(kind), STATES[kind][0]
    x, fantasy = v[[1, 2, 5]], v[[3, 8]]
    before = [parameter.clone() for parameter in rbm.parameters()]
    phases = (x, bm.hidden_mean(rbm, x), fantasy, bm.hidden_mean(rbm, fantasy))
    bm.follow(rbm, bm.momentum_sgd([rbm], 0.0, 0.0), 0.1, phases)
    steps = [now - old for now, old in zip(rbm.parameters(), before, strict=True)]
    again = machine(kind).requires_grad_(True)
    objective = bm.free_energy(again, fantasy).mean() - bm.free_energy(again, x).mean()
    gradients = torch.autograd.grad(objective, list(again.parameters()))
    for step, gradient in zip(steps, gradients, strict=True):
        torch.testing.assert_close(step, 0.1 * gradient)


@pytest.mark.parametrize("kind", ["bernoulli-gaussian", "multinomial-bernoulli"])
def test_pseudo_log_likelihood_by_enumeration(kind: str) -> None:
    rbm, v = machine(kind), STATES[kind][0]
    log_p = -bm.free_energy(rbm, v)
    groups = v.view(len(v), -1, 3) if rbm.levels == 3 else v[:, :, None]
    expected = torch.zeros(len(v)).double()
    for i in range(groups.shape[1]):
        others = torch.cat([groups[:, :i], groups[:, i + 1 :]], 1).flatten(1)
        alike = (others[:, None] == others[None]).all(-1)  # all states that differ in i at most
        expected += log_p - torch.where(alike, log_p, -torch.inf).logsumexp(1)
    torch.testing.assert_close(bm.pseudo_log_likelihood(rbm, v), expected)


def test_score_matching_by_automatic_differentiation() -> None:
    rbm = machine("gaussian-bernoulli")
    for row in torch.tensor([[0.3, -1.2], [2.0, 0.1]]).double():

        def log_p(v: Tensor) -> Tensor:
            return -bm.free_energy(rbm, v[None]).sum()

        psi = torch.autograd.functional.jacobian(log_p, row)
        divergence = torch.autograd.functional.hessian(log_p, row).trace()  # type: ignore[no-untyped-call]
        expected = -(0.5 * psi @ psi + divergence)
        torch.testing.assert_close(bm.score_matching(rbm, row[None])[0], expected)


def test_half_way_along_the_path_is_the_machine_with_half_the_weights() -> None:
    for kind in KINDS:
        rbm, half = machine(kind), machine(kind)
        base = torch.linspace(-1, 1, len(rbm.visible_bias)).double()
        half.weight.mul_(0.25)
        half.hidden_bias.mul_(0.25)
        half.visible_bias.mul_(0.25).add_(0.75 * base)
        v, _, h, _ = STATES[kind]
        v, h = v[:9], h[:5]
        torch.testing.assert_close(bm.free_energy(rbm, v, 0.25, base), bm.free_energy(half, v))
        torch.testing.assert_close(bm.hidden_mean(rbm, v, 0.25), bm.hidden_mean(half, v))
        torch.testing.assert_close(bm.visible_mean(rbm, h, 0.25, base), bm.visible_mean(half, h))


def model(units: str, x: Tensor, **given: object) -> RBM:
    torch.manual_seed(0)
    low, high = float(x.min()), float(x.max())
    problem = Problem(data_mean=x.mean(0).numpy(), data_range=(low, high), data_count=len(x))
    config = RBM.Config.model_validate({"units": units, **given})
    return RBM(config, problem, np.random.default_rng(0))


def points(n: int) -> Tensor:
    """Pairs of values in [0, 1] that are near (0, 1) or near (1, 0.25), as often."""
    generator = torch.Generator().manual_seed(3)
    which = torch.rand(n, 1, generator=generator) < 0.5
    means = torch.where(which, torch.tensor([[0.1, 0.9]]), torch.tensor([[0.9, 0.3]]))
    return (means + 0.08 * torch.randn(n, 2, generator=generator)).clamp(0, 1)


# The values know of each other which of two modes they are in: worth up to log 2 = 0.69 nats.
@pytest.mark.parametrize(
    ("units", "given", "gain"),
    [
        ("gaussian-bernoulli", {"sigma": 0.15, "learning_rate": 0.01}, 0.4),
        ("multinomial-bernoulli", {"levels": 5, "learning_rate": 0.1}, 0.4),
        ("bernoulli-gaussian", {"learning_rate": 0.05}, 0.3),
    ],
)
@pytest.mark.parametrize("negative", ["cd", "pcd"])
def test_learning_raises_the_exact_likelihood(
    units: str, given: dict[str, object], gain: float, negative: str
) -> None:
    x = points(2000)
    if units == "bernoulli-gaussian":
        x = x.round()
    rbm = model(units, x, hidden=4, negative=negative, decay_epochs=25, **given)

    def score() -> float:
        measured = rbm.measure({"x": x})
        assert "exact" in measured["log_partition"].note  # type: ignore[union-attr]
        return float(measured["log_prob"].mean())  # type: ignore[union-attr]

    first = score()
    for _ in range(25):
        for rows in x[torch.randperm(len(x))].split(100):
            rbm.update(rbm.process({"x": rows}))
    assert score() > first + gain


def test_levels_there_and_back() -> None:
    x = torch.tensor([[0.0, 0.26, 1.0], [0.5, 0.7, 0.1]])
    rbm = model("multinomial-bernoulli", x, levels=5, hidden=2)
    units = bm.units_of(rbm.network, x)
    assert units.shape == (2, 15)
    assert units.view(2, 3, 5).argmax(-1).tolist() == [[0, 1, 4], [2, 3, 0]]
    nearest = torch.tensor([[0.0, 0.25, 1.0], [0.5, 0.75, 0.0]])
    torch.testing.assert_close(bm.values_of(rbm.network, units), nearest)
    assert rbm.encode(x).shape == (2, 2)
    assert rbm.reconstruct(x).shape == rbm.sample(2).shape == (2, 3)
    assert rbm.process({"x": x})["fantasy"].shape == (2, 15)


def test_gaussian_samples_are_draws_and_others_are_means() -> None:
    torch.manual_seed(0)
    x = torch.rand(50, 2)
    rbm = model("gaussian-bernoulli", x, sigma=0.5, hidden=2, sample_steps=1)
    rbm.network.weight.zero_()
    rows = rbm.sample(20_000)
    torch.testing.assert_close(rows.mean(0), x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.full((2,), 0.5), atol=0.02, rtol=0)
    means = model("bernoulli-gaussian", x, hidden=2, sample_steps=1)
    means.network.weight.zero_()
    torch.testing.assert_close(means.sample(3), x.mean(0).expand(3, -1))


def test_gaussian_units_take_values_that_discrete_ones_refuse() -> None:
    x = torch.tensor([[-3.0, 2.0], [4.0, 1.0]])
    assert model("gaussian-bernoulli", x).network.visible_bias.tolist() == [0.5, 1.5]
    with pytest.raises(ConfigError, match=r"multinomial-bernoulli needs .*not in \[-3, 4\]"):
        model("multinomial-bernoulli", x)
