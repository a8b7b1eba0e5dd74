"""The cross-entropy method against truncated normal distributions, a bowl, and CartPole."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

import rlgen
from rlgen.agents.cross_entropy import CrossEntropy
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, resolve_experiment
from rlgen.errors import ConfigError


def agent(**hyperparameters: Any) -> CrossEntropy:
    """A policy of 2 x 2 + 2 = 6 parameters."""
    torch.manual_seed(0)
    problem = Problem(
        gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2), network=NetworkConfig(hidden=[])
    )
    return CrossEntropy(CrossEntropy.Config(**hyperparameters), problem, np.random.default_rng(0))


def test_update_fits_the_best_candidates():
    """The best two of five (ceil(0.4 * 5)): their mean, and their variance divided by 2."""
    search = agent(population=5, elite_fraction=0.4)
    drawn = torch.arange(30.0).reshape(5, 6)
    fitness = torch.tensor([3.0, -1.0, 0.0, 7.0, 1.0])
    before = search.network.vector()
    assert search.update({"drawn": drawn[:4], "fitness": fitness[:4]}) == {}
    assert search.update({"drawn": drawn[:0], "fitness": fitness[:0]}) == {}
    assert torch.equal(search.network.vector(), before)  # not enough yet
    metrics = search.update({"drawn": drawn[4:], "fitness": fitness[4:]})
    assert search.network.vector().tolist() == [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]
    assert search.network.deviation.tolist() == [9.0] * 6
    assert (metrics["fitness"].item(), metrics["fitness_best"].item()) == (2.0, 7.0)


def test_the_added_variance_falls_to_zero():
    search = agent(population=4, elite_fraction=0.5, extra_variance=8.0, extra_updates=4)
    batch = {"drawn": torch.ones(4, 6), "fitness": torch.arange(4.0)}
    deviations = []
    for _ in range(6):
        search.update(batch)
        deviations.append(search.network.deviation[0].item() ** 2)
    assert deviations == pytest.approx([8.0, 6.0, 4.0, 2.0, 0.0, 0.0])


def test_one_update_has_the_moments_of_a_truncated_normal():
    """With fitness x_0 the elite of N(m, 1) is x_0 above its 80 % quantile; x_1.. are as before.

    Moments from scipy.stats; five standard errors of 4,000 elite candidates.
    """
    search = agent(population=20_000, elite_fraction=0.2, deviation=1.0)
    mean = search.network.vector().numpy()
    drawn, _ = search._draw(20_000)
    search.update({"drawn": drawn, "fitness": drawn[:, 0]})
    elite = stats.truncnorm(stats.norm.ppf(0.8), np.inf)
    shift = search.network.vector().numpy() - mean
    deviation = search.network.deviation.numpy()
    assert abs(shift[0] - elite.mean()) < 5 * elite.std() / np.sqrt(4_000)
    assert deviation[0] == pytest.approx(elite.std(), rel=0.1)
    assert np.abs(shift[1:]).max() < 5 / np.sqrt(4_000)
    assert np.abs(deviation[1:] - 1).max() < 5 / np.sqrt(8_000)


def test_finds_the_bottom_of_a_bowl():
    search = agent(population=100, elite_fraction=0.2, deviation=2.0)
    bottom = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0, -1.0])
    for _ in range(40):
        drawn, vectors = search._draw(100)
        assert torch.equal(drawn, vectors)  # what is kept are the parameters themselves
        search.update({"drawn": drawn, "fitness": -(drawn - bottom).square().sum(dim=1)})
    assert (search.network.vector() - bottom).abs().max() < 1e-3


def test_an_evaluation_acts_by_the_mean_and_leaves_the_trials_alone():
    search = agent()
    search.starts = np.ones(3, np.bool_)
    observation = torch.randn(3, 2)
    search.act(observation, greedy=False)
    running = search.trials.running.tolist()
    action = search.act(observation, greedy=True)["action"]
    assert torch.equal(action, search.network(observation))
    assert search.trials.running.tolist() == running == [0, 1, 2]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("elite_fraction", 1.0, r"hyperparameters.elite_fraction: .*less than 1"),
        ("population", 1, r"hyperparameters.population: .*greater than or equal to 2"),
        ("elites", 3, r"hyperparameters.elites: unknown key"),
        ("extra_updates", 3, r"extra_updates has an effect only with extra_variance above 0"),
    ],
)
def test_bad_hyperparameters_are_refused(key, value, message):
    plain = {
        "name": "x",
        "algorithm": "cross-entropy",
        "hyperparameters": {key: value},
        "env": {"id": "CartPole-v1"},
        "stop": {"env_steps": 10},
    }
    with pytest.raises(ConfigError, match=message):
        resolve_experiment(plain)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_solves_cartpole_within_300000_steps(seed, tmp_path):
    run = rlgen.train("cem-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] >= 475
    assert run.summary["env_steps"] <= 310_000
