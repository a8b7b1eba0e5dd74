"""Q-learning against the plain loop, and on the book's cliff."""

import gymnasium as gym
import numpy as np
import pytest

import rlgen
from rlgen.agents.q_learning import QLearning
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments

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


@pytest.mark.parametrize("power", [0.0, 0.7])
@pytest.mark.parametrize("double", [False, True])
def test_update_is_the_plain_loop(double, power):
    """Bit for bit, with few states so that most updates read what others wrote."""
    rng, coins = np.random.default_rng(0), np.random.default_rng(0)
    agent = learner(
        gym.spaces.Discrete(50), 3,
        gamma=0.9, learning_rate=0.3, learning_rate_power=power, double=double,
    )  # fmt: skip
    q, counts = rng.normal(size=(2, 50, 3)), np.zeros((2, 50, 3))
    tables = 2 if double else 1
    agent.table[:tables] = q[:tables]
    for _ in range(5):
        batch = random_batch(rng, 40, 6, 4, 3)
        count = int(batch["valid"].sum())
        learns = iter(coins.integers(2, size=count) if double else [0] * count)
        errors = []
        for t in range(40):
            for b in range(6):
                s, a, s1, r, end, _, valid = (batch[name][t, b] for name in COLUMNS)
                if valid:
                    i = next(learns)
                    # van Hasselt (2010), algorithm 1: the own choice at the other's value
                    value = q[1 - i if double else i, s1, q[i, s1].argmax()]
                    td_error = np.float64(r) + (0.0 if end else 0.9 * value) - q[i, s, a]
                    counts[i, s, a] += 1
                    q[i, s, a] += 0.3 / counts[i, s, a].item() ** power * td_error
                    errors.append(abs(td_error))
        metrics = agent.update(batch)
        np.testing.assert_array_equal(agent.table[:tables], q[:tables])
        assert metrics["td_error"] == pytest.approx(np.mean(errors), rel=1e-12)
    if power:
        np.testing.assert_array_equal(agent.table[tables:], counts[:tables])


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


def test_both_tables_of_double_q_learning_choose_the_action():
    agent = learner(gym.spaces.Discrete(2), 3, double=True, epsilon=0.0)
    agent.table[:, 0] = [[5.0, 4.0, 0.0], [0.0, 4.0, 5.0]]
    np.testing.assert_array_equal(agent.q[0], [5, 8, 5])
    for greedy in (True, False):
        assert agent.act(np.array([0]), greedy)["action"].tolist() == [1]


def left_shares(double, runs=400, episodes=300, actions=10):
    """How often "left" is taken in A, by episode, as the mean over independent runs.

    Sutton and Barto, example 6.7: left leads to B, from where all actions end with a reward of
    N(-0.1, 1); right ends with 0. Every run has two rows of one table, 2 i (A) and 2 i + 1 (B).
    """
    agent = learner(gym.spaces.Discrete(2 * runs), actions, gamma=1.0, epsilon=0.1, double=double)
    agent.table[: 2 if double else 1, ::2, 2:] = -1e9  # in A there are only the first two
    rng, row = np.random.default_rng(1), np.arange(runs)
    state, left, begun = 2 * row, np.zeros((runs, episodes)), np.zeros(runs, int)
    while (begun < episodes).any():
        action = agent.act(state, greedy=False)["action"]
        in_a = state % 2 == 0
        action = np.where(in_a & (action > 1), rng.integers(2, size=runs), action)
        goes_left = in_a & (action == 0)
        counted = in_a & (begun < episodes)
        left[row[counted], begun[counted]] = goes_left[counted]
        begun += in_a
        reward = np.where(in_a, 0.0, rng.normal(-0.1, 1.0, runs))
        following = np.where(goes_left, state + 1, state - state % 2)
        batch = {
            "observation": state, "action": action, "next_observation": following,
            "reward": reward.astype(np.float32), "terminated": ~goes_left,
            "valid": begun <= episodes,
        }  # fmt: skip
        agent.update({name: column[None] for name, column in batch.items()})
        state = following
    return left.mean(axis=0)


def test_double_q_learning_has_no_maximisation_bias():
    """Figure 6.5: Q-learning soon takes left far more often than not; 5 % is the optimum."""
    single, double = left_shares(False), left_shares(True)
    assert single[:50].max() > 0.7
    assert double[50:].max() < 0.4
    assert double[-50:].mean() < 0.10 < single[-50:].mean()


@pytest.mark.parametrize(
    ("name", "reward"),
    [("q-learning-taxi", 7.5), ("double-q-learning-frozenlake", 0.65)],
)
def test_ready_configurations_reach_the_optimum(name, reward, tmp_path):
    """7.9 is the optimal mean of the taxi's rides, 0.74 that of the slippery lake (by planning)."""
    assert rlgen.train(name, {"run.dir": str(tmp_path)}).summary["evaluation"]["mean"] > reward
