"""Policy iteration, exact, iterative and modified, against linear programs and figures."""

import numpy as np
import pytest
import scipy.sparse
from exact import action_values, cycle, linear_program, planner, solve, value_of

import rlgen
from rlgen.agents.policy_iteration import PolicyIteration
from rlgen.agents.value_iteration import ValueIteration
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import MDP, load_mdp
from rlgen.errors import ConfigError

EVALUATIONS = {
    "exact": {"evaluation": "exact"},
    "iterative": {"evaluation": "iterative"},
    "modified": {"evaluation": "modified", "sweeps": 20},
    "modified, no sweeps": {"evaluation": "modified", "sweeps": 0},
}
ways = pytest.mark.parametrize("way", EVALUATIONS.values(), ids=EVALUATIONS)


def load(name, **kwargs):
    return load_mdp(EnvConfig(id=name, kwargs=kwargs))


def check(model, gamma, way):
    """The linear program's V, and its policy wherever that is unique, as value iteration's."""
    made, history = solve(PolicyIteration, model, gamma=gamma, **way)
    exact = linear_program(model, gamma)
    np.testing.assert_allclose(made.values, exact, atol=1e-8, rtol=0)
    assert history[-1]["start_value"] == pytest.approx(model.start @ exact, abs=1e-8)
    other, _ = solve(ValueIteration, model, gamma=gamma)
    q = np.sort(action_values(model, exact, gamma), axis=1)
    unique = np.flatnonzero((q[:, -1] - q[:, -2] > 1e-6) & ~model.terminal)
    assert unique.size > 0
    best = action_values(model, exact, gamma)[unique].argmax(axis=1)
    for algorithm in (made, other):
        np.testing.assert_array_equal(algorithm.act(unique, greedy=True)["action"], best)
    np.testing.assert_array_equal(made.policy[unique], best)
    return made, history


@ways
@pytest.mark.parametrize(
    "name", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "rlgen/FourRooms-v0"]
)
def test_values_and_policy_equal_the_linear_program(name, way):
    check(load(name), 0.99, way)


@ways
def test_twenty_random_mdps(way):
    for seed in range(20):
        check(load("rlgen/RandomMDP-v0", states=30, seed=seed), 0.9, way)


@ways
@pytest.mark.parametrize("slip", [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3])
def test_the_cliff_without_a_discount(slip, way):
    check(load("rlgen/Cliff-v0", slip=slip), 1.0, way)


@ways
def test_the_gambler(way):
    check(load("rlgen/Gambler-v0"), 1.0, way)


# Sutton and Barto 2018, figure 4.2, the last policy: cars moved from the first to the second place,
# the row is the cars at the first, the column at the second. As published programs print it (with
# 17 and 8 cars one reading of the picture has 0 instead of 1, which loses 4 cents).
PUBLISHED = """
 0  0  0  0  0  0  0  0 -1 -1 -2 -2 -2 -3 -3 -3 -3 -3 -4 -4 -4
 0  0  0  0  0  0  0  0  0 -1 -1 -1 -2 -2 -2 -2 -2 -3 -3 -3 -3
 0  0  0  0  0  0  0  0  0  0  0 -1 -1 -1 -1 -1 -2 -2 -2 -2 -2
 0  0  0  0  0  0  0  0  0  0  0  0  0  0  0 -1 -1 -1 -1 -1 -2
 0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0 -1 -1
 1  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 2  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 3  2  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 3  3  2  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 4  3  3  2  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 4  4  3  3  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  4  4  3  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  4  3  2  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  4  3  3  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  4  4  3  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  5  4  3  2  1  0  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  5  4  3  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  5  4  3  2  2  1  1  0  0  0  0  0  0  0  0  0  0  0  0
 5  5  5  4  3  3  2  2  1  1  1  1  0  0  0  0  0  0  0  0  0
 5  5  5  4  4  3  3  2  2  2  2  1  1  1  1  1  0  0  0  0  0
 5  5  5  5  4  4  3  3  3  3  2  2  2  2  2  1  1  1  0  0  0
"""


@pytest.fixture(scope="module")
def rental():
    return load("rlgen/CarRental-v0")


def test_car_rental_as_published(rental):
    """From never moving a car, four improvements; V from 421 to 637 (the figure's axis: 420)."""
    made = planner(PolicyIteration, rental, gamma=0.9)
    never = np.full(441, 5)
    made.evaluated, made.policy[:] = True, never
    made._evaluate(never)
    policies = []
    while not made.converged:
        cycle(made)
        policies.append(made.policy.copy())
    assert len(policies) == 5  # the fifth sees that the fourth is stable
    assert not np.array_equal(policies[2], policies[3])
    np.testing.assert_array_equal(policies[3], policies[4])
    moved = made.policy.reshape(21, 21) - 5
    figure = np.array(PUBLISHED.split(), int).reshape(21, 21)
    np.testing.assert_array_equal(moved, figure)
    assert made.values.argmin() == 0
    assert made.values.min() == pytest.approx(421.4, abs=0.05)
    assert made.values.max() == pytest.approx(637.0, abs=0.05)


def test_car_rental_is_exact(rental):
    """V of the published policy by a dense solve; no action is better, so it is V*."""
    policy = np.array(PUBLISHED.split(), int) + 5
    exact = value_of(rental, np.eye(11)[policy], 0.9)
    assert (action_values(rental, exact, 0.9).max(axis=1) - exact).max() < 1e-10
    for way in (EVALUATIONS["exact"], EVALUATIONS["modified"]):
        made, history = solve(PolicyIteration, rental, gamma=0.9, **way)
        np.testing.assert_allclose(made.values, exact, atol=1e-8, rtol=0)
        assert len(history) < 10
    made, _ = solve(ValueIteration, rental, gamma=0.9)
    np.testing.assert_allclose(made.values, exact, atol=1e-8, rtol=0)


@ways
@pytest.mark.parametrize("tolerance", [1.0, 1e-3])
def test_the_error_is_below_the_tolerance_and_below_what_is_said(tolerance, way):
    for seed in range(5):
        model, gamma = load("rlgen/RandomMDP-v0", states=30, seed=seed), 0.99
        exact = linear_program(model, gamma)
        made, history = solve(PolicyIteration, model, gamma=gamma, tolerance=tolerance, **way)
        error = np.abs(made.values - exact).max()
        assert error < tolerance
        assert error <= history[-1]["error"] + 1e-9
        assert all(metrics["error"] >= tolerance for metrics in history[1:-1])


def test_the_bounds_stop_long_before_the_residual():
    """The same iterates as value iteration's, at the same promise of 1e-4."""
    model = load("rlgen/RandomMDP-v0", states=200)
    way = EVALUATIONS["modified, no sweeps"]
    _, bounds = solve(PolicyIteration, model, gamma=0.99, tolerance=1e-4, **way)
    _, residual = solve(ValueIteration, model, gamma=0.99, tolerance=1e-4)
    assert len(bounds) < len(residual) / 20


def test_without_sweeps_it_is_value_iteration():
    model = load("FrozenLake8x8-v1")
    made = planner(PolicyIteration, model, gamma=0.99, evaluation="modified", sweeps=0)
    other = planner(ValueIteration, model, gamma=0.99)
    cycle(made)  # the uniform policy, without a sweep
    for _ in range(30):
        cycle(made)
        cycle(other)
        np.testing.assert_array_equal(made.values, other.values)


def test_every_policy_is_evaluated_and_better_than_the_last():
    """Against a dense solve; the first one is uniform (Algorithm 14.1)."""
    model, gamma = load("rlgen/RandomMDP-v0", states=40), 0.95
    for way in (EVALUATIONS["exact"], EVALUATIONS["iterative"]):
        made = planner(PolicyIteration, model, gamma=gamma, **way)
        cycle(made)
        values = value_of(model, np.full((40, 4), 0.25), gamma)
        np.testing.assert_allclose(made.values, values, atol=1e-9)
        while not made.converged:
            cycle(made)
            better = value_of(model, np.eye(4)[made.policy], gamma)
            np.testing.assert_allclose(made.values, better, atol=1e-9)
            assert (better >= values - 1e-9).all()
            values = better


def test_more_sweeps_need_fewer_improvements():
    model = load("FrozenLake8x8-v1")
    needed = [
        len(solve(PolicyIteration, model, gamma=0.99, evaluation="modified", sweeps=m)[1])
        for m in (0, 5, 50)
    ]
    assert needed[0] > 3 * needed[1] > 9 * needed[2]


@ways
def test_equal_policies_do_not_alternate(way):
    """Every action of every state is the same, but for the last bit of what it pays."""
    states, rng = 20, np.random.default_rng(0)
    p = rng.dirichlet(np.ones(states), size=states)
    transitions = scipy.sparse.csr_array(np.repeat(p, 3, axis=0))
    rewards = 1.0 + rng.normal(size=(states, 1)) * (1 + rng.integers(-1, 2, (states, 3)) * 2e-16)
    model = MDP(transitions, rewards, np.zeros(states, bool), np.full(states, 1 / states))
    made, history = solve(PolicyIteration, model, gamma=0.9, **way)
    assert [metrics["changed"] for metrics in history[2:]] == [0] * (len(history) - 2)
    assert (made.policy == 0).all()


@pytest.mark.parametrize("slices", [2, 3, 7])
def test_slices_are_bit_equal(slices):
    model = load("FrozenLake8x8-v1")
    for way in EVALUATIONS.values():
        whole, history = solve(PolicyIteration, model, gamma=0.95, **way)
        sliced, again = solve(PolicyIteration, model, slices, gamma=0.95, **way)
        np.testing.assert_array_equal(whole.values, sliced.values)
        assert history == again


def test_rewards_that_floats_cannot_resolve():
    """Values of 1e11 have no digit at 1e-10: evaluation ends at the rounding."""
    model = load("rlgen/RandomMDP-v0", states=20)
    large = MDP(model.transitions, 1e9 * model.rewards, model.terminal, model.start)
    exact = linear_program(model, 0.99) * 1e9
    for way in (EVALUATIONS["exact"], EVALUATIONS["iterative"]):
        made, _ = solve(PolicyIteration, large, gamma=0.99, **way)
        np.testing.assert_allclose(made.values, exact, rtol=1e-9)


def test_a_hundred_thousand_states():
    """Modified policy iteration to a residual of 1e-6, in few updates (value iteration: 1,390)."""
    model = load("rlgen/RandomMDP-v0", states=100_000)
    way = EVALUATIONS["modified"]
    made, history = solve(PolicyIteration, model, slices=2, gamma=0.99, tolerance=1e-4, **way)
    assert len(history) <= 10
    assert np.abs(action_values(model, made.values, 0.99).max(axis=1) - made.values).max() < 1e-6


@pytest.mark.parametrize("evaluation", ["exact", "iterative"])
def test_a_policy_without_end_needs_a_discount(evaluation, tmp_path):
    plain = {
        "name": "endless",
        "algorithm": "policy-iteration",
        "hyperparameters": {"gamma": 1.0, "evaluation": evaluation},
        "env": {"id": "rlgen/RandomMDP-v0", "kwargs": {"states": 5}},
    }
    message = (
        r"hyperparameters.gamma: with gamma=1 the policy must end from everywhere, and from state "
        r"0 it never does; use gamma < 1"
    )
    with pytest.raises(ConfigError, match=message):
        rlgen.train(plain, {"run.dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sweeps": 5}, r"sweeps=5 belongs to evaluation=modified; remove it"),
        ({"evaluation": "modified"}, r"evaluation=modified needs sweeps, such as sweeps=20"),
        ({"evaluation": "modified", "sweeps": -1}, r"greater than or equal to 0"),
        ({"gamma": 0.0}, r"greater than 0"),
    ],
)
def test_hyperparameters_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        PolicyIteration.Config(**given)


def test_needs_a_model():
    message = r"env.id: policy-iteration needs an environment with a known model"
    with pytest.raises(ConfigError, match=message):
        PolicyIteration.check(Problem())


def test_the_ready_configurations(tmp_path):
    run = rlgen.train("policy-iteration-car-rental", {"run.dir": str(tmp_path)})
    assert (run.summary["stop_reason"], run.summary["updates"]) == ("converged", 5)
    assert run.summary["metrics"]["start_value"] == pytest.approx(574.948, abs=1e-3)
    # 100 days from 10 and 10 cars, undiscounted: some 50 a day.
    assert run.summary["evaluation"]["mean"] == pytest.approx(5000, abs=50)
