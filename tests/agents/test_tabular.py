"""What the tabular algorithms share: exploration, schedules, tables, and whole episodes."""

import gymnasium as gym
import numpy as np
import pytest

from rlgen.agents import tabular
from rlgen.agents.monte_carlo import MonteCarlo
from rlgen.agents.off_policy_monte_carlo import OffPolicyMonteCarlo
from rlgen.agents.q_learning import QLearning
from rlgen.agents.sarsa import SARSA
from rlgen.agents.sarsa_lambda import SARSALambda
from rlgen.agents.td_lambda import TDLambda
from rlgen.algorithm import Problem
from rlgen.config import resolve_experiment
from rlgen.errors import ConfigError

ALGORITHMS = {
    "q-learning": QLearning,
    "sarsa": SARSA,
    "sarsa-lambda": SARSALambda,
    "monte-carlo": MonteCarlo,
    "off-policy-monte-carlo": OffPolicyMonteCarlo,
    "td-lambda": TDLambda,
}
CONTROL = [name for name in ALGORITHMS if name != "td-lambda"]
PROBLEM = Problem(gym.spaces.Discrete(3), gym.spaces.Discrete(4))


def agent(name, problem=PROBLEM, **hyperparameters):
    algorithm = ALGORITHMS[name]
    algorithm.check(problem)
    config = algorithm.Config(**hyperparameters)
    return algorithm(config, problem, np.random.default_rng(0))


def frequencies(actor, state, rows=40_000):
    actor.starts = np.zeros(rows, bool)
    drawn = actor.act(np.full(rows, state), greedy=False)["action"]
    return np.bincount(drawn, minlength=4) / rows


@pytest.mark.parametrize("name", CONTROL)
def test_epsilon_greedy_probabilities(name):
    """1 - eps + eps/A for the best action and eps/A for the others (eq 14.31, corrected)."""
    actor = agent(name, epsilon=0.4)
    actor.table[0] = [[0, 5, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(frequencies(actor, 0), [0.1, 0.7, 0.1, 0.1], atol=0.01)
    np.testing.assert_allclose(frequencies(actor, 1), [0.4, 0.1, 0.4, 0.1], atol=0.01)
    assert actor.act(np.array([0, 1]), greedy=True)["action"].tolist() == [1, 0]


@pytest.mark.parametrize("name", CONTROL)
def test_glie_explores_less_where_it_has_been(name):
    """eps * k / (k + N(s)): here 0.8 * 30 / (30 + 90) = 0.2 in state 0, and 0.8 in state 1."""
    actor = agent(name, epsilon=0.8, epsilon_schedule="glie", epsilon_visits=30)
    actor.table[0, :, 2] = 1.0
    actor.table[1, 0] = [50, 20, 20, 0]
    np.testing.assert_allclose(frequencies(actor, 0), [0.05, 0.05, 0.85, 0.05], atol=0.01)
    np.testing.assert_allclose(frequencies(actor, 1), [0.2, 0.2, 0.4, 0.2], atol=0.01)


@pytest.mark.parametrize("name", CONTROL)
def test_linear_epsilon_follows_the_steps_of_the_run(name):
    schedule = {"epsilon_schedule": "linear", "epsilon_end": 0.2, "epsilon_steps": 100}
    actor = agent(name, epsilon=1.0, **schedule)
    actor.table[0, :, 2] = 1.0
    for steps, epsilon in ((0, 1.0), (50, 0.6), (1000, 0.2)):
        actor.env_steps = steps
        assert frequencies(actor, 0)[2] == pytest.approx(1 - 0.75 * epsilon, abs=0.01)


def test_probability_of_an_epsilon_greedy_action():
    values = np.array([[0.0, 5.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]).repeat(4, axis=0)
    actions = np.tile(np.arange(4), 2)
    probability = tabular.epsilon_greedy_probability(values, np.full(8, 0.4), actions)
    expected = [0.1, 0.7, 0.1, 0.1, 0.4, 0.1, 0.4, 0.1]
    np.testing.assert_allclose(probability, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilon_visits": 5}, "epsilon_visits belongs to epsilon_schedule=glie; remove it"),
        ({"epsilon_end": 0.1}, "epsilon_end belongs to epsilon_schedule=linear; remove it"),
        ({"epsilon_schedule": "glie"}, "epsilon_schedule=glie needs epsilon_visits"),
        (
            {"epsilon_schedule": "linear", "epsilon_end": 0.1},
            "epsilon_schedule=linear needs epsilon_steps",
        ),
        (
            {"epsilon_schedule": "glie", "epsilon_visits": 9, "epsilon_steps": 9},
            "epsilon_steps belongs to epsilon_schedule=linear; remove it",
        ),
    ],
)
@pytest.mark.parametrize("name", CONTROL)
def test_schedules_that_contradict_themselves(name, given, message):
    plain = {"algorithm": name, "name": "x", "env": {"id": "FrozenLake-v1"}, "stop": {"updates": 1}}
    with pytest.raises(ConfigError, match=f"^hyperparameters: {message}"):
        resolve_experiment(plain | {"hyperparameters": given})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_does_not_fit_a_table(name):
    box, discrete = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(3)
    check = ALGORITHMS[name].check
    with pytest.raises(
        ConfigError, match=f"env.id: {name} needs discrete observations, .*use dqn$"
    ):
        check(Problem(box, discrete))
    with pytest.raises(ConfigError, match=f"env.id: {name} needs one discrete action, not Box"):
        check(Problem(discrete, box))
    largest = r"1e\+05" if "lambda" in name else r"1e\+08"
    with pytest.raises(
        ConfigError, match=rf"{name} would need a table of 3.0e\+12 entries, more than {largest};"
    ):
        check(Problem(gym.spaces.MultiDiscrete([100] * 6), discrete))
    if "lambda" in name:
        with pytest.raises(ConfigError, match=r"a table of 3.0e\+05 entries"):
            check(Problem(gym.spaces.Discrete(100_000), discrete))


@pytest.mark.parametrize("name", CONTROL)
def test_multi_discrete_observations_are_ravelled(name):
    actor = agent(name, Problem(gym.spaces.MultiDiscrete([3, 4]), gym.spaces.Discrete(2)))
    assert actor.table[0].shape == (12, 2)
    actor.table[0, 7, 1] = 9.0  # (1, 3)
    assert actor.act(np.array([[1, 3], [3 - 1, 0]]), greedy=True)["action"].tolist() == [1, 0]


def test_episodes_are_cut_out_of_rollouts():
    """Against plain lists of one environment at a time, with lost episodes and resets between."""
    rng = np.random.default_rng(0)
    steps, envs, expected, running = 400, 5, [[] for _ in range(5)], [[] for _ in range(5)]
    columns = {
        name: np.zeros((steps, envs), bool)
        for name in ("terminated", "truncated", "start", "valid")
    } | {"number": np.arange(steps * envs).reshape(steps, envs)}
    for env in range(envs):
        begins, resets = True, False
        for t in range(steps):
            lost = rng.random() < 0.02  # as when environments could not be restored
            start = columns["start"][t, env] = begins or resets or lost
            valid = columns["valid"][t, env] = not resets
            if start:
                running[env] = []
            if not valid:
                begins, resets = True, False
                continue
            running[env].append(columns["number"][t, env])
            ends = rng.random() < 0.15
            columns["terminated"][t, env] = ends and rng.random() < 0.7
            columns["truncated"][t, env] = ends and not columns["terminated"][t, env]
            if ends:
                expected[env].append(running[env])
                running[env] = []
            begins, resets = ends, ends and env % 2 == 0  # even ones reset at the next step
    found, rest, first = [[] for _ in range(envs)], {}, 0
    while first < steps:
        last = first + int(rng.integers(1, 30))
        part = {name: column[first:last] for name, column in columns.items()}
        rows, rest = tabular.split_episodes(tabular.prepend(rest, part))
        cuts = np.flatnonzero(rows["start"])[1:]
        for episode in np.split(rows["number"], cuts):
            if episode.size:
                found[episode[0] % envs].append(episode.tolist())
        assert len(rest["valid"]) == 0 or rest["valid"][0].any()  # no row is kept in vain
        first = last
    assert found == expected
    assert sum(len(episodes) for episodes in expected) > 100
    for env in range(envs):
        assert rest["number"][rest["valid"][:, env], env].tolist() == running[env]
