"""Policy evaluation against closed forms and dense solves."""

import numpy as np
import pytest
from exact import cycle, planner, solve, value_of

import rlgen
from rlgen.agents.policy_evaluation import PolicyEvaluation
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import load_mdp
from rlgen.errors import ConfigError


def load(name, **kwargs):
    return load_mdp(EnvConfig(id=name, kwargs=kwargs))


@pytest.mark.parametrize("slices", [1, 3])
def test_random_walk(slices):
    """Sutton and Barto 2018, example 6.2: i / 6; with 19 states and -1 at the left, i / 10 - 1."""
    made, history = solve(PolicyEvaluation, load("rlgen/RandomWalk-v0"), slices, gamma=1.0)
    np.testing.assert_allclose(made.values[1:6], np.arange(1, 6) / 6, atol=1e-8)
    assert history[-1]["start_value"] == pytest.approx(0.5, abs=1e-8)
    wide = load("rlgen/RandomWalk-v0", states=19, left=-1.0)
    made, _ = solve(PolicyEvaluation, wide, slices, gamma=1.0, tolerance=1e-13)
    np.testing.assert_allclose(made.values[1:20], np.arange(-9, 10) / 10, atol=1e-8)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_given_actions_against_a_dense_solve(epsilon):
    rng = np.random.default_rng(0)
    for name, gamma in (("rlgen/RandomMDP-v0", 0.9), ("FrozenLake8x8-v1", 0.99)):
        model = load(name)
        actions = rng.integers(4, size=model.num_states)
        chosen = {"policy": actions.tolist(), "epsilon": epsilon}
        made, history = solve(PolicyEvaluation, model, gamma=gamma, **chosen)
        policy = (1 - epsilon) * np.eye(4)[actions] + epsilon / 4  # 1 - eps + eps / 4, and eps / 4
        np.testing.assert_allclose(made.values, value_of(model, policy, gamma), atol=1e-9)
        assert history[-1]["residual"] < 1e-10 * (1 - gamma) / gamma <= history[-2]["residual"]


def test_the_uniform_policy_of_the_book_cliff():
    model = load("rlgen/Cliff-v0", slip=0.1)
    made, _ = solve(PolicyEvaluation, model, gamma=1.0)
    np.testing.assert_allclose(made.values, value_of(model, np.full((21, 4), 0.25), 1.0), atol=1e-7)


def test_slices_are_bit_equal_and_may_arrive_alone():
    model = load("FrozenLake8x8-v1")
    whole, _ = solve(PolicyEvaluation, model, gamma=0.95)
    sliced, _ = solve(PolicyEvaluation, model, 5, gamma=0.95)
    np.testing.assert_array_equal(whole.values, sliced.values)
    alone = planner(PolicyEvaluation, model, gamma=0.95)
    for k in range(20_000):
        alone.update(alone.sweep(*((0, 20), (20, 64))[k % 2]))
        if alone.converged:
            break
    np.testing.assert_allclose(alone.values, whole.values, atol=2e-10)


def test_it_acts_as_the_policy_greedy_or_not():
    made = planner(PolicyEvaluation, load("rlgen/Cliff-v0"), policy=[3] * 7 + [0] * 14, epsilon=0.4)
    for greedy in (False, True):
        actions = made.act(np.repeat([2, 9], 20_000), greedy)["action"].reshape(2, -1)
        for row, favourite in zip(actions, (3, 0), strict=True):
            shares = np.bincount(row, minlength=4) / row.size
            expected = np.full(4, 0.1)
            expected[favourite] = 0.7
            np.testing.assert_allclose(shares, expected, atol=0.015)  # 4 deviations and more


def test_the_ready_configuration(tmp_path):
    run = rlgen.train("policy-evaluation-random-walk", {"run.dir": str(tmp_path)})
    assert run.summary["stop_reason"] == "converged"
    np.testing.assert_allclose(run.weights[1:6], np.arange(1, 6) / 6, atol=1e-8)
    # 1000 episodes that pay 1 with probability 1/2.
    assert abs(run.summary["evaluation"]["mean"] - 0.5) < 4 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"policy": [0, 1]},
            r"hyperparameters.policy: expected 21 actions \(one per state\) in 0..3, got 2 in 0..1",
        ),
        ({"policy": [4] * 21}, r"in 0..3, got 21 in 4..4"),
        ({"policy": []}, r"hyperparameters.policy: expected 21 actions .*, got 0"),
        (
            {"policy": [2] * 21, "gamma": 1.0},
            r"hyperparameters.gamma: with gamma=1 the policy must end from everywhere, and from "
            r"state 0 it never does; use gamma < 1",
        ),
    ],
)
def test_policies_that_do_not_fit(given, message, tmp_path):
    plain = {
        "name": "policy",
        "algorithm": "policy-evaluation",
        "hyperparameters": given,
        "env": {"id": "rlgen/Cliff-v0"},
    }
    with pytest.raises(ConfigError, match=message):
        rlgen.train(plain, {"run.dir": str(tmp_path)})


def test_epsilon_of_a_uniform_policy_is_refused():
    with pytest.raises(ValueError, match=r"epsilon=0.1 adds random actions to a policy of given"):
        PolicyEvaluation.Config(epsilon=0.1)


def test_needs_a_model():
    message = r"env.id: policy-evaluation needs an environment with a known model"
    with pytest.raises(ConfigError, match=message):
        PolicyEvaluation.check(Problem())


def test_one_sweep_is_the_expectation():
    model = load("rlgen/RandomMDP-v0", states=6)
    made = planner(PolicyEvaluation, model, gamma=0.5)
    cycle(made)
    np.testing.assert_allclose(made.values, model.rewards.mean(axis=1), atol=1e-15)
