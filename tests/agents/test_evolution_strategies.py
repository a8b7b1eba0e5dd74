"""Evolution strategies: their step by hand, its expectation in closed form, a bowl, CartPole."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import rlgen
from rlgen.agents.evolution_strategies import EvolutionStrategies, centred_ranks
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig


def agent(**hyperparameters: Any) -> EvolutionStrategies:
    """A policy of 2 x 2 + 2 = 6 parameters."""
    torch.manual_seed(0)
    problem = Problem(
        gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2), network=NetworkConfig(hidden=[])
    )
    config = EvolutionStrategies.Config(**hyperparameters)
    return EvolutionStrategies(config, problem, np.random.default_rng(0))


def descending(search: Any, rate: float) -> None:
    search.optimizer = torch.optim.SGD(search.network.searched(), lr=rate)


def test_ranks_are_centred_and_ties_share_theirs():
    fitness = np.array([3.0, -1.0, 3.0, 10.0, 0.0])
    expected = (stats.rankdata(fitness) - 1) / 4 - 0.5
    found = centred_ranks(torch.from_numpy(fitness))
    np.testing.assert_allclose(found.numpy(), expected)
    assert centred_ranks(torch.full((4,), 500.0)).tolist() == [0.0] * 4


def test_update_is_a_hand_made_gradient_step():
    search = agent(population=4, deviation=0.5)
    descending(search, rate=0.1)
    rng = np.random.default_rng(1)
    noise, fitness = rng.normal(size=(4, 6)), np.array([2.0, 9.0, -3.0, 5.0])
    ranks = [-1 / 6, 1 / 2, -1 / 2, 1 / 6]
    gradient = np.zeros(6)
    for rank, e in zip(ranks, noise, strict=True):
        gradient += rank * e / (4 * 0.5)
    before = search.network.vector().numpy()
    rows = {"drawn": torch.from_numpy(noise).float(), "fitness": torch.from_numpy(fitness).float()}
    assert search.update({k: v[:3] for k, v in rows.items()}) == {}
    assert search.update({k: v[:0] for k, v in rows.items()}) == {}
    np.testing.assert_array_equal(search.network.vector().numpy(), before)  # not enough yet
    metrics = search.update({k: v[3:] for k, v in rows.items()})
    np.testing.assert_allclose(search.network.vector().numpy(), before + 0.1 * gradient, rtol=1e-5)
    assert metrics["gradient_norm"].item() == pytest.approx(np.linalg.norm(gradient))


def test_noise_comes_in_mirrored_pairs_over_any_numbers_of_draws():
    search = agent(deviation=0.25)
    draws = [search._draw(n) for n in (3, 1, 2, 5, 1)]
    noise = torch.cat([kept for kept, _ in draws])
    assert torch.equal(noise[0::2], -noise[1::2])
    assert len(noise[0::2].unique(dim=0)) == 6
    for kept, vectors in draws:
        torch.testing.assert_close(vectors, search.network.vector() + 0.25 * kept)


def test_a_step_points_up_a_slope_with_its_expected_length():
    """Of a linear return, F = rank - 1/2 -> Phi(e_0) - 1/2, so E[F e] = 1 / (2 sqrt(pi)) along it.

    For E[Phi(e) e] is the mean density of N(0, 1) under itself. Five standard errors of 2,000.
    """
    search = agent(population=2_000, deviation=0.5)
    descending(search, rate=1.0)
    before = search.network.vector()
    noise, vectors = search._draw(2_000)
    slope = torch.tensor([0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    search.update({"drawn": noise, "fitness": vectors @ slope})
    step = 0.5 * (search.network.vector() - before).numpy()
    expected = np.array([0.0, 1 / (2 * np.sqrt(np.pi)), 0.0, 0.0, 0.0, 0.0])
    assert np.abs(step - expected).max() < 5 * 0.3 / np.sqrt(2_000)


def test_finds_the_bottom_of_a_bowl():
    search = agent(population=50, deviation=0.1, learning_rate=0.1)
    bottom = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0, -1.0])
    for step in range(200):
        search.optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        noise, vectors = search._draw(50)
        search.update({"drawn": noise, "fitness": -(vectors - bottom).square().sum(dim=1)})
    assert (search.network.vector() - bottom).abs().max() < 0.05


def solved(seed: int, runs_dir: Any) -> None:
    run = rlgen.train("es-cartpole", {"run.dir": str(runs_dir), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] >= 475
    assert run.summary["env_steps"] <= 510_000


def test_solves_cartpole_within_500000_steps(tmp_path):
    solved(2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_solves_cartpole_with_every_seed(seed, tmp_path):
    solved(seed, tmp_path)
