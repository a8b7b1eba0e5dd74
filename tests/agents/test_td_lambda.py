"""TD(lambda) against plain loops, exact values and the published curves of the random walk."""

import gymnasium as gym
import numpy as np
import pytest

import rlgen
from rlgen.agents.td_lambda import TDLambda
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import load_mdp
from rlgen.errors import ConfigError

WALK = EnvConfig(id="rlgen/RandomWalk-v0")


def learner(states, actions=1, **hyperparameters):
    problem = Problem(gym.spaces.Discrete(states), gym.spaces.Discrete(actions))
    return TDLambda(TDLambda.Config(**hyperparameters), problem, np.random.default_rng(0))


@pytest.mark.parametrize("traces", ["accumulating", "replacing"])
@pytest.mark.parametrize("power", [0.0, 0.6])
def test_update_is_the_plain_loop(traces, power):
    """Sutton and Barto (1998), figure 7.7, one number at a time, of several environments."""
    rng = np.random.default_rng(0)
    agent = learner(
        6, gamma=0.9, learning_rate=0.3, learning_rate_power=power,
        trace_decay=0.7, traces=traces, initial_value=0.25,
    )  # fmt: skip
    values, visits, alpha, e = np.full(6, 0.25), np.zeros(6), np.full(6, 0.3), np.zeros((3, 6))
    for _ in range(4):
        batch = {
            "observation": rng.integers(6, size=(20, 3)),
            "next_observation": rng.integers(6, size=(20, 3)),
            "reward": rng.normal(size=(20, 3)).astype(np.float32),
            "terminated": rng.random((20, 3)) < 0.2,
            "start": rng.random((20, 3)) < 0.2,
            "valid": rng.random((20, 3)) < 0.8,
        }
        for t in range(20):
            for b in range(3):
                if not batch["valid"][t, b]:
                    continue
                if batch["start"][t, b]:
                    e[b] = 0.0
                s, s1 = batch["observation"][t, b], batch["next_observation"][t, b]
                future = 0.0 if batch["terminated"][t, b] else 0.9 * values[s1]
                delta = float(batch["reward"][t, b]) + future - values[s]
                e[b, s] = 1.0 if traces == "replacing" else e[b, s] + 1.0
                visits[s] += 1
                alpha[s] = 0.3 / visits[s].item() ** power
                for x in range(6):
                    values[x] += alpha[x] * delta * e[b, x]
                    e[b, x] *= 0.9 * 0.7
        agent.update(batch)
        np.testing.assert_allclose(agent.values, values, rtol=1e-12)


def walk_errors(runs, episodes, states=5, left=0.0, **hyperparameters):
    """RMS error of V over the inner states, mean over independent runs, after each episode.

    Every run walks on rows of its own in one table; each of them waits for the slowest episode.
    """
    size = states + 2
    agent = learner(runs * size, gamma=1.0, **hyperparameters)
    rng, first = np.random.default_rng(0), np.arange(runs) * size
    exact = left + (1.0 - left) * np.arange(1, size - 1) / (size - 1)  # example 6.2
    errors = []
    for _ in range(episodes):
        state, start = first + size // 2, np.ones(runs, bool)
        running = np.ones(runs, bool)
        while running.any():
            successor = state + rng.choice([-1, 1], size=runs)
            place = successor - first
            ends = (place == 0) | (place == size - 1)
            reward = np.where(place == 0, left, np.where(place == size - 1, 1.0, 0.0))
            batch = {
                "observation": state, "next_observation": np.where(running, successor, state),
                "reward": reward.astype(np.float32), "terminated": ends,
                "start": start, "valid": running,
            }  # fmt: skip
            agent.update({name: column[None] for name, column in batch.items()})
            running = running & ~ends
            state, start = np.where(running, successor, state), np.zeros(runs, bool)
        values = agent.values.reshape(runs, size)[:, 1:-1]
        errors.append(np.sqrt(((values - exact) ** 2).mean(axis=1)).mean())
    return np.array(errors)


@pytest.mark.parametrize(
    ("alpha", "after_10", "after_100"),
    [(0.05, 0.175, 0.035), (0.1, 0.13, 0.055), (0.15, 0.1, 0.07)],
)
def test_errors_on_the_random_walk_are_the_published_curves(alpha, after_10, after_100):
    """Sutton and Barto (2018), example 6.2, right: from 0.236 on, 100 runs; read off the figure."""
    errors = walk_errors(100, 100, learning_rate=alpha, initial_value=0.5)
    assert errors[0] < 0.236
    assert errors[9] == pytest.approx(after_10, abs=0.02)
    assert errors[-1] == pytest.approx(after_100, abs=0.01)


def test_a_trace_in_between_learns_fastest():
    """19 states, first 10 episodes: about 0.26 at best, by lambda 0.8 to 0.9 (figure 12.6)."""
    best = {
        decay: min(
            walk_errors(30, 10, 19, -1.0, learning_rate=alpha, trace_decay=decay).mean()
            for alpha in alphas
        )
        for decay, alphas in {0.0: (0.8, 0.9), 0.8: (0.3, 0.4), 1.0: (0.02, 0.05)}.items()
    }
    assert best[0.8] == pytest.approx(0.26, abs=0.02)
    assert best[0.8] < best[0.0] - 0.05
    assert best[0.8] < best[1.0] - 0.05


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_it_comes_to_the_exact_values_of_a_policy(decay, tmp_path):
    """Of the way along the edge of the slippery cliff, and of its evaluation; by a linear solve."""
    policy = [3] * 6 + [1] + [3] * 6 + [1] + [0] * 7
    config = EnvConfig(id="rlgen/Cliff-v0", kwargs={"slip": 0.1})
    mdp = load_mdp(config)
    rows = np.arange(21) * 4 + policy
    matrix = np.eye(21) - 0.95 * mdp.transitions[rows].toarray()
    exact = np.linalg.solve(matrix, mdp.rewards[np.arange(21), policy])
    run = rlgen.train(
        "td-lambda-random-walk",
        {
            "run.dir": str(tmp_path),
            "hyperparameters": {
                "policy": policy, "gamma": 0.95, "trace_decay": decay,
                "learning_rate": 1.0, "learning_rate_power": 0.8,
            },
            "env": {**config.model_dump(exclude={"num_envs", "observed"}), "num_envs": 16},
            "stop": {"env_steps": 60_000},
            "evaluation": {"every": 0, "episodes": 10},
        },
    )  # fmt: skip
    visited = [14, *range(7, 13)]  # often
    np.testing.assert_allclose(run.weights[visited], exact[visited], atol=2.0)
    assert np.ptp(exact[visited]) > 10
    assert run.act(14) == 0 and run.act(7) == 3  # the policy, whatever V says


def test_the_ready_configuration_comes_to_sixths_and_evaluates_the_walk_itself(tmp_path):
    run = rlgen.train("td-lambda-random-walk", {"run.dir": str(tmp_path)})
    np.testing.assert_allclose(run.weights[1:-1], np.arange(1, 6) / 6, atol=0.03)
    assert run.summary["evaluation"]["mean"] == pytest.approx(0.5, abs=0.07)


def test_a_random_policy_takes_every_action_alike():
    agent = learner(2, 4)
    drawn = agent.act(np.zeros(40_000, int), greedy=True)["action"]
    np.testing.assert_allclose(np.bincount(drawn) / 40_000, 0.25, atol=0.01)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([0, 1], "hyperparameters.policy: 2 actions were given, but the environment has 3 states"),
        ([0, 1, 2], "hyperparameters.policy: there is no action 2; the environment has 2, counted"),
    ],
)
def test_policies_that_do_not_fit(policy, message):
    with pytest.raises(ConfigError, match=message):
        learner(3, 2, policy=policy)
