"""Learned models against counting in dictionaries, exact values, and what R-max promises."""

import collections

import gymnasium as gym
import numpy as np
import pytest
from exact import linear_program

import rlgen
from rlgen.agents.rmax import RMax
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import load_mdp
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError


def make(states, actions, **hyperparameters):
    spaces = gym.spaces.Discrete(states), gym.spaces.Discrete(actions)
    config = RMax.Config(**hyperparameters)
    return RMax(config, Problem(*spaces), np.random.default_rng(0))


def rollout(rows):
    """A batch ``(T, 1)`` of rows (state, action, reward, successor, terminated)."""
    columns = [np.array(column)[:, None] for column in zip(*rows, strict=True)]
    names = ("observation", "action", "reward", "next_observation", "terminated")
    batch = dict(zip(names, columns, strict=True))
    batch["reward"] = batch["reward"].astype(np.float32)
    return batch | {"valid": np.ones_like(batch["terminated"])}


def random_rows(rng, states, actions, count):
    return [
        (
            int(rng.integers(states)),
            int(rng.integers(actions)),
            float(rng.integers(-4, 5)),
            int(rng.integers(states)),
            bool(rng.random() < 0.1),
        )
        for _ in range(count)
    ]


def by_dictionary(rows, states, actions, gamma, known_after, r_max):
    """Q of the model that the rows give, written down slowly."""
    seen = collections.defaultdict(list)
    for s, a, r, s1, end in rows:
        if r_max is None or len(seen[s, a]) < known_after:
            seen[s, a].append((r, s1, end))
    known = {pair for pair, outcomes in seen.items() if len(outcomes) >= known_after}
    unknown = -np.inf if r_max is None else r_max / (1 - gamma)
    q = {(s, a): 0.0 for s in range(states) for a in range(actions)}
    for _ in range(2000):
        value = {}
        for s in range(states):
            options = [q[s, a] if (s, a) in known else unknown for a in range(actions)]
            value[s] = max(options) if max(options) > -np.inf else 0.0
        for pair in known:
            gains = [r + gamma * (0.0 if end else value[s1]) for r, s1, end in seen[pair]]
            q[pair] = sum(gains) / len(gains)
    return np.array(
        [[q[s, a] if (s, a) in known else unknown for a in range(actions)] for s in range(states)]
    )


@pytest.mark.parametrize("known_after", [1, 3, 6])
@pytest.mark.parametrize("r_max", [None, 5.0])
def test_the_plan_of_what_was_counted(known_after, r_max):
    """In several batches, some of which bring a pair more visits than it needs."""
    exploration = "random" if r_max is None else "optimistic"
    rows = random_rows(np.random.default_rng(0), 6, 3, 90)
    algorithm = make(6, 3, gamma=0.9, exploration=exploration, r_max=r_max, known_after=known_after)
    for first, last in ((0, 40), (40, 41), (41, 90)):
        algorithm.update(rollout(rows[first:last]))
        expected = by_dictionary(rows[:last], 6, 3, 0.9, known_after, r_max)
        np.testing.assert_allclose(algorithm.q, expected, atol=1e-5)


def test_unknown_actions():
    optimist = make(2, 3, gamma=0.9, r_max=2.0, known_after=2)
    np.testing.assert_allclose(optimist.q, 20.0)
    optimist.update(rollout([(0, 0, 1.0, 1, False)] * 2 + [(0, 1, -1.0, 1, True)]))
    # Known: 1 and then the unknown; unknown after one visit; never tried.
    np.testing.assert_allclose(optimist.q[0], [1.0 + 0.9 * 20.0, 20.0, 20.0])
    metrics = optimist.update(rollout([(0, 1, -1.0, 1, True)]))
    assert optimist.q[0, 1] == -1.0
    assert metrics["known"] == pytest.approx(2 / 6)
    book = make(2, 3, gamma=0.9, exploration="random", known_after=1)
    book.update(rollout([(0, 0, 1.0, 1, False), (0, 1, -1.0, 1, True)]))
    np.testing.assert_array_equal(book.q[0], [1.0, -1.0, -np.inf])
    assert book.act(np.array([0]), greedy=True)["action"] == [0]


def test_only_the_first_visits_count_and_only_news_is_planned():
    algorithm = make(2, 1, gamma=0.5, r_max=1.0, known_after=2)
    sweeps = [
        algorithm.update(rollout([(0, 0, reward, 1, True)]))["sweeps"]
        for reward in (1.0, 0.0, -5.0)
    ]
    assert [count > 0 for count in sweeps] == [False, True, False]
    assert algorithm.q[0, 0] == 0.5
    assert algorithm.visits.tolist() == [2, 0]


def test_a_truncated_step_goes_on_and_an_invalid_row_does_not_count():
    algorithm = make(2, 1, gamma=0.5, exploration="random", known_after=1)
    rows = [(1, 0, 2.0, 1, True), (0, 0, 1.0, 1, False), (0, 0, 9.0, 0, False)]
    batch = rollout(rows) | {"truncated": np.array([[False], [True], [False]])}
    batch["valid"][2] = False
    algorithm.update(batch)
    np.testing.assert_array_equal(algorithm.q[:, 0], [1.0 + 0.5 * 2.0, 2.0])


def test_behaviour():
    spread = make(2, 4, gamma=0.9, exploration="random")
    spread.q[0] = [0, 5, 1, 1]
    actions = spread.act(np.zeros(40_000, int), greedy=False)["action"]
    np.testing.assert_allclose(np.bincount(actions) / 40_000, 0.25, atol=0.01)
    optimist = make(2, 4, gamma=0.9, r_max=1.0)
    optimist.q[0] = [0, 5, 5, 1]
    actions = optimist.act(np.zeros(10_000, int), greedy=False)["action"]
    shares = np.bincount(actions, minlength=4) / 10_000
    np.testing.assert_allclose(shares, [0, 0.5, 0.5, 0], atol=0.025)
    assert optimist.act(np.array([0]), greedy=True)["action"] == [1]


class Lock(gym.Env):
    """A chain of n states: one of two actions goes on, the other one leads back to the start.

    The end pays 1 and leads back to the start, too. A random walk gets there once in 2^n steps.
    """

    def __init__(self, length: int = 12) -> None:
        right = np.random.default_rng(0).integers(2, size=length)
        self.P = {
            s: {
                a: [(1.0, (s + 1) % length, float(s == length - 1), False)]
                if a == right[s]
                else [(1.0, 0, 0.0, False)]
                for a in range(2)
            }
            for s in range(length)
        }
        self.initial_state_distrib = np.eye(length)[0]
        self.observation_space = gym.spaces.Discrete(length)
        self.action_space = gym.spaces.Discrete(2)


gym.register("rlgen-test/Lock-v0", Lock)


def learn(config, steps, **hyperparameters):
    """An algorithm after so many steps of one environment, and the env it was trained in."""
    env = Environments(config, 1, seed=0)
    problem = Problem(env.observation_space, env.action_space)
    algorithm = RMax(RMax.Config(**hyperparameters), problem, np.random.default_rng(0))
    observation = env.reset()
    for _ in range(steps):
        action = algorithm.act(observation, greedy=False)["action"]
        step = env.step(action)
        batch = step._asdict() | {"observation": observation, "action": action}
        algorithm.update({name: rows[None] for name, rows in batch.items()})
        observation = step.observation
    return algorithm


def test_optimism_opens_a_lock_that_random_steps_do_not():
    """Twelve states: R-max knows all after a few hundred steps, and its Q is Q*.

    At most each of 24 pairs once, and 12 steps on the way to each.
    """
    config = EnvConfig(id="rlgen-test/Lock-v0")
    model = load_mdp(config)
    values = linear_program(model, 0.95)
    exact = model.rewards + 0.95 * (model.transitions @ values).reshape(12, 2)
    optimist = learn(config, 24 * 12, gamma=0.95, r_max=1.0, known_after=1)
    np.testing.assert_allclose(optimist.q, exact, atol=1e-5)
    book = learn(config, 24 * 12, gamma=0.95, exploration="random", known_after=1)
    assert np.abs(book.q - exact).max() > 0.4
    assert np.isneginf(book.q).any()  # the last states were never seen


def test_a_deterministic_lake_is_learned_exactly():
    config = EnvConfig(id="FrozenLake-v1", kwargs={"is_slippery": False})
    optimist = learn(config, 600, gamma=0.9, r_max=1.0, known_after=1)
    assert optimist.q[0].max() == pytest.approx(0.9**5, abs=1e-6)  # six steps to the goal
    book = learn(config, 3000, gamma=0.9, exploration="random", known_after=1)
    assert book.q[0].max() == pytest.approx(0.9**5, abs=1e-6)


def test_the_ready_configurations(tmp_path):
    changes = {"run.dir": str(tmp_path)}
    rooms = rlgen.train("rmax-four-rooms", changes)
    assert rooms.summary["metrics"]["known"] == pytest.approx(103 / 104)  # all but the goal's own
    # As long as the best policy takes: 15.04 steps, deviation 9.23 (by its exact model).
    steps = rooms.summary["evaluation"]["length"]
    assert abs(steps - 15.04) < 4 * 9.23 / np.sqrt(200)
    lake = rlgen.train("model-learning-frozenlake", {**changes, "stop.env_steps": 30_000})
    # The best policy arrives within 100 steps with probability 0.7402 (by its exact model).
    assert lake.summary["evaluation"]["mean"] > 0.7402 - 4 * 0.44 / np.sqrt(1000)


def test_a_reward_above_the_bound_is_refused():
    algorithm = make(2, 2, r_max=0.5)
    message = r"hyperparameters.r_max: 0.5 is less than a reward of 2 that was paid; give the larg"
    with pytest.raises(ConfigError, match=message):
        algorithm.update(rollout([(0, 0, 2.0, 1, False)]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"exploration=optimistic needs r_max, the largest reward of a step"),
        ({"exploration": "random", "r_max": 1.0}, r"r_max=1.0 belongs to exploration=optimistic"),
        ({"r_max": 1.0, "gamma": 1.0}, r"less than 1"),
        ({"r_max": 1.0, "known_after": 0}, r"greater than or equal to 1"),
    ],
)
def test_hyperparameters_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        RMax.Config(**given)


def test_needs_tables():
    box = gym.spaces.Box(0, 1, (2,))
    with pytest.raises(ConfigError, match=r"env.id: rmax needs discrete observations, not Box"):
        RMax.check(Problem(box, gym.spaces.Discrete(2)))
