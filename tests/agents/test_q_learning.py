"""Q-learning against the plain loop, and on the book's cliff."""

import gymnasium as gym
import numpy as np
import pytest

from rlgen.agents.q_learning import QLearning
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError

COLUMNS = (
    "observation",
    "action",
    "next_observation",
    "reward",
    "terminated",
    "truncated",
    "valid",
)


def learner(observation_space, actions, **hyperparameters):
    problem = Problem(observation_space, gym.spaces.Discrete(actions))
    QLearning.check(problem)
    config = QLearning.Config(**hyperparameters)
    return QLearning(config, problem, np.random.default_rng(0))


def random_batch(rng, steps, envs, states, actions):
    return {
        "observation": rng.integers(states, size=(steps, envs)),
        "action": rng.integers(actions, size=(steps, envs)),
        "next_observation": rng.integers(states, size=(steps, envs)),
        "reward": rng.normal(size=(steps, envs)).astype(np.float32),
        "terminated": rng.random((steps, envs)) < 0.2,
        "truncated": rng.random((steps, envs)) < 0.2,
        "valid": rng.random((steps, envs)) < 0.8,
    }


def test_update_is_the_plain_loop():
    """Bit for bit, with few states so that most updates read what others wrote."""
    rng = np.random.default_rng(0)
    agent = learner(gym.spaces.Discrete(50), 3, gamma=0.9, learning_rate=0.3)
    agent.q[...] = rng.normal(size=agent.q.shape)
    q = agent.q.copy()
    for _ in range(5):
        batch = random_batch(rng, 40, 6, 4, 3)
        errors = []
        for t in range(40):
            for b in range(6):
                s, a, s1, r, end, _, valid = (batch[name][t, b] for name in COLUMNS)
                if valid:
                    future = 0.0 if end else 0.9 * q[s1].max()
                    td_error = np.float64(r) + future - q[s, a]
                    q[s, a] += 0.3 * td_error
                    errors.append(abs(td_error))
        metrics = agent.update(batch)
        np.testing.assert_array_equal(agent.q, q)
        assert metrics["td_error"] == pytest.approx(np.mean(errors), rel=1e-12)


@pytest.mark.parametrize(
    ("terminated", "truncated", "valid", "expected"),
    [
        (False, False, True, 2.0 + 0.5 * 8.0),
        (False, True, True, 2.0 + 0.5 * 8.0),  # a truncated episode has a future
        (True, False, True, 2.0),
        (True, True, True, 2.0),
        (False, False, False, 1.0),  # only a reset
    ],
)
def test_what_bootstraps(terminated, truncated, valid, expected):
    agent = learner(gym.spaces.Discrete(2), 2, gamma=0.5, learning_rate=1.0)
    agent.q[...] = [[1.0, 0.0], [3.0, 8.0]]
    rows = dict(zip(COLUMNS, (0, 0, 1, np.float32(2.0), terminated, truncated, valid), strict=True))
    agent.update({name: np.array([[value]]) for name, value in rows.items()})
    assert agent.q.tolist() == [[expected, 0.0], [3.0, 8.0]]


def test_a_batch_of_resets_changes_nothing():
    agent = learner(gym.spaces.Discrete(4), 2)
    batch = random_batch(np.random.default_rng(0), 3, 2, 4, 2)
    assert agent.update(batch | {"valid": np.zeros((3, 2), bool)}) == {"td_error": 0.0}
    assert not agent.q.any()


def test_epsilon_greedy_probabilities():
    """1 - eps + eps/A for the best action and eps/A for others (eq 14.31, corrected)."""
    agent = learner(gym.spaces.Discrete(2), 4, epsilon=0.4)
    agent.q[...] = [[0.0, 5.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    drawn = agent.act(np.repeat([0, 1], 40_000), greedy=False)["action"].reshape(2, -1)
    frequencies = np.stack([np.bincount(row, minlength=4) for row in drawn]) / 40_000
    expected = [[0.1, 0.7, 0.1, 0.1], [0.4, 0.1, 0.4, 0.1]]  # ties share
    np.testing.assert_allclose(frequencies, expected, atol=0.01)  # 4 standard deviations
    assert agent.act(np.array([0, 1, 1]), greedy=True)["action"].tolist() == [1, 0, 0]


def test_multi_discrete_observations_are_ravelled():
    space = gym.spaces.MultiDiscrete([3, 4])
    agent = learner(space, 2, gamma=0.5, learning_rate=1.0)
    assert agent.q.shape == (12, 2)
    agent.q[7, 1] = 9.0  # (1, 3)
    assert agent.act(np.array([[1, 3], [1, 3]]), greedy=True)["action"].tolist() == [1, 1]
    batch = {
        "observation": np.array([[[2, 1]]]),
        "next_observation": np.array([[[1, 3]]]),
        "action": np.array([[0]]),
        "reward": np.ones((1, 1), np.float32),
    } | {name: np.array([[name == "valid"]]) for name in ("terminated", "truncated", "valid")}
    agent.update(batch)
    assert agent.q[9, 0] == 1.0 + 0.5 * 9.0


def train(name, env_steps, envs, steps, **hyperparameters):
    environments = Environments(EnvConfig(id=name), envs, seed=0)
    agent = learner(
        environments.observation_space, int(environments.action_space.n), **hyperparameters
    )
    observation = environments.reset()
    for _ in range(env_steps // (envs * steps)):
        rows = []
        for _ in range(steps):
            action = agent.act(observation, greedy=False)["action"]
            step = environments.step(action)
            rows.append({"observation": observation, "action": action} | step._asdict())
            rows[-1]["observation"] = observation
            observation = step.observation
        agent.update({key: np.stack([row[key] for row in rows]) for key in COLUMNS})
    return agent


@pytest.mark.parametrize(("envs", "steps"), [(1, 1), (8, 8)])
def test_cliff_ends_on_the_best_way(envs, steps):
    """-8.0 and 8 moves along the edge: the numbers of the specification (Ex 14-4)."""
    agent = train("rlgen/Cliff-v0", 12_000, envs, steps, gamma=1.0, learning_rate=0.1, epsilon=0.1)
    assert agent.q[14].max() == pytest.approx(-8.0, abs=0.01)
    environments = Environments(EnvConfig(id="rlgen/Cliff-v0"), 1, seed=1)
    observation, states = environments.reset(), []
    while not environments.finished and len(states) < 20:
        step = environments.step(agent.act(observation, greedy=True)["action"])
        observation = step.observation
        states.append(int(step.next_observation[0]))
    assert environments.finished == [(-8.0, 8)]
    assert states == [7, 8, 9, 10, 11, 12, 13, 20]


def test_what_does_not_fit_a_table():
    box, discrete = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
    with pytest.raises(
        ConfigError, match=r"env.id: q-learning needs discrete observations, .*use dqn"
    ):
        QLearning.check(Problem(box, discrete))
    with pytest.raises(ConfigError, match=r"env.id: q-learning needs one discrete action, not Box"):
        QLearning.check(Problem(discrete, box))
    with pytest.raises(
        ConfigError, match=r"a table of 3.0e\+12 entries, more than 1e\+08; use dqn"
    ):
        QLearning.check(Problem(gym.spaces.MultiDiscrete([100] * 6), discrete))
