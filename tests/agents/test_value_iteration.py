"""Value iteration against linear programming and the numbers of the book's cliff."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from rlgen.agents.value_iteration import ValueIteration
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import MDP, load_mdp
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError

CLIFF_START = 14


def algorithm(model, **hyperparameters):
    config = ValueIteration.Config(**hyperparameters)
    return ValueIteration(config, Problem(model=model), np.random.default_rng(0))


def solve(model, slices=1, **hyperparameters):
    """Sweep until converged; the algorithm and the metrics of every update."""
    planner = algorithm(model, **hyperparameters)
    edges = np.linspace(0, model.num_states, slices + 1).astype(int)
    history = []
    while not planner.converged:
        parts = [planner.sweep(*edge)["values"] for edge in itertools.pairwise(edges)]
        history.append(planner.update({"values": np.concatenate(parts)}))
        assert len(history) < 20_000
    return planner, history


def linear_program(model, gamma):
    """V*: the least V with V >= r + gamma P V, and 0 where it ends."""
    states, actions = model.rewards.shape
    identity = scipy.sparse.csr_array(np.repeat(np.eye(states), actions, axis=0))
    result = scipy.optimize.linprog(
        np.ones(states),
        A_ub=gamma * model.transitions - identity,
        b_ub=-model.rewards.ravel(),
        bounds=[(0, 0) if end else (None, None) for end in model.terminal],
        method="highs-ds",
    )
    assert result.success
    return result.x


@pytest.mark.parametrize(
    ("name", "start_value"),
    [  # the first two also from rlgen's specification: FrozenLake, gamma 0.99
        ("FrozenLake-v1", 0.5420259),
        ("FrozenLake8x8-v1", 0.4146404),
        ("Taxi-v4", None),
        ("CliffWalking-v1", None),
        ("CliffWalkingSlippery-v1", None),
    ],
)
def test_values_equal_the_linear_program(name, start_value):
    model = load_mdp(EnvConfig(id=name))
    planner, history = solve(model, gamma=0.99)
    expected = linear_program(model, 0.99)
    np.testing.assert_allclose(planner.values, expected, atol=1e-8, rtol=0)
    assert history[-1]["start_value"] == pytest.approx(model.start @ expected, abs=1e-8)
    if start_value is not None:
        assert history[-1]["start_value"] == pytest.approx(start_value, abs=1e-7)


def cliff(slip):
    return load_mdp(EnvConfig(id="rlgen/Cliff-v0", kwargs={"slip": slip}))


def route(planner):
    """The greedy way from the start when nothing slips."""
    table, state, states = cliff(0.0), CLIFF_START, []
    while not table.terminal[state]:
        action = planner.act(np.array([state]), greedy=True)["action"][0]
        state = int(table.transitions[[state * 4 + action]].indices[0])
        states.append(state)
        assert len(states) < 30
    return states


@pytest.mark.parametrize(
    ("slip", "start_value", "moves"),
    [  # gamma 1: computed for the specification; the way moves to the third row at slip 0.02
        (0.0, -8.0, 8),
        (0.01, -9.995, 8),
        (0.02, -10.906, 10),
        (0.05, -12.485, 10),
        (0.1, -15.682, 10),
        (0.2, -24.640, 10),
        (0.3, -37.930, 10),
    ],
)
def test_cliff_table(slip, start_value, moves):
    planner, _ = solve(cliff(slip), gamma=1.0)
    assert planner.values[CLIFF_START] == pytest.approx(start_value, abs=5e-4)
    states = route(planner)
    assert len(states) == moves
    assert states[-1] == 20
    assert (min(states) < 7) == (moves == 10)  # the third row is the book's, the top here


@pytest.mark.parametrize(("slip", "value"), [(0.0, -6.7316), (0.1, -12.8497), (0.2, -19.8656)])
def test_cliff_discounted(slip, value):
    planner, _ = solve(cliff(slip), gamma=0.95)
    assert planner.values[CLIFF_START] == pytest.approx(value, abs=5e-5)


def test_cliff_values_of_every_cell():
    safe, _ = solve(cliff(0.0), gamma=1.0)
    expected = [-8, -7, -6, -5, -4, -3, -2, -7, -6, -5, -4, -3, -2, -1, -8, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(safe.values, expected)
    slippery, _ = solve(cliff(0.1), gamma=1.0)
    top = [-10.16, -9.00, -7.69, -6.37, -5.04, -3.72, -2.48]
    middle = [-11.49, -13.18, -12.02, -10.74, -9.40, -5.93, -1.32]
    expected = [*top, *middle, -15.68, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(slippery.values, expected, atol=0.006)


@pytest.mark.parametrize("slices", [2, 3, 7, 20])
def test_slices_are_bit_equal(slices):
    model = load_mdp(EnvConfig(id="FrozenLake8x8-v1"))
    whole, history = solve(model, gamma=0.99)
    sliced, again = solve(model, slices, gamma=0.99)
    np.testing.assert_array_equal(whole.values, sliced.values)
    assert history == again


def test_an_empty_slice_is_empty():
    assert algorithm(cliff(0.0)).sweep(3, 3)["values"].shape == (0,)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-4])
def test_the_error_is_below_the_tolerance(tolerance):
    """And the rule is not looser than it says: one sweep less does not satisfy it."""
    model, gamma = cliff(0.3), 0.95
    planner, history = solve(model, gamma=gamma, tolerance=tolerance)
    exact = linear_program(model, gamma)
    assert np.abs(planner.values - exact).max() < tolerance
    residuals = [metrics["residual"] for metrics in history]
    limit = tolerance * (1 - gamma) / gamma
    assert residuals[-1] < limit <= residuals[-2]


def test_large_values_reach_the_fixed_point_of_floats():
    """Rewards of 1e9 cannot be resolved to 1e-10; the sweeps end in the same bits for ever."""
    p = scipy.sparse.csr_array(np.array([[0.3, 0.7], [0.6, 0.4]]))
    model = MDP(p, np.array([[1e9], [-3e9 / 7]]), np.zeros(2, bool), np.array([1.0, 0.0]))
    planner, history = solve(model, gamma=0.99)
    assert history[-1]["residual"] == 0.0
    exact = np.linalg.solve(np.eye(2) - 0.99 * p.toarray(), model.rewards[:, 0])
    np.testing.assert_allclose(planner.values, exact, rtol=1e-10)


def test_ties_take_the_first_action():
    """Two equal ways, one of them worse in the last bit only."""
    p = scipy.sparse.csr_array(np.array([[0.0, 1.0]] * 2 + [[0.0, 1.0]] * 2))
    rewards = np.array([[0.3, 0.1 + 0.2], [0.0, 0.0]])
    assert rewards[0, 1] > rewards[0, 0]
    planner, _ = solve(MDP(p, rewards, np.array([False, True]), np.array([1.0, 0.0])))
    assert planner.act(np.array([0, 1]), greedy=True)["action"].tolist() == [0, 0]


def test_the_policy_earns_its_value():
    """Greedy episodes on the slippery cliff: the mean return is V*(start), -15.68 at slip 0.1."""
    planner, _ = solve(cliff(0.1), gamma=1.0)
    environments = Environments(EnvConfig(id="rlgen/Cliff-v0", kwargs={"slip": 0.1}), 256, seed=0)
    observation = environments.reset()
    for _ in range(200):
        observation = environments.step(planner.act(observation, greedy=True)["action"]).observation
    returns = np.array([score for score, _ in environments.finished])
    assert len(returns) > 3000
    assert abs(returns.mean() + 15.682) < 4 * returns.std() / np.sqrt(len(returns))


def test_needs_a_model():
    with pytest.raises(
        ConfigError, match=r"env.id: value-iteration needs an environment with a kn"
    ):
        ValueIteration.check(Problem())
    ValueIteration.check(Problem(model=cliff(0.0)))
