"""Value iteration against linear programming and the numbers of the book's cliff."""

import numpy as np
import pytest
import scipy.sparse
from exact import action_values, cycle, linear_program, planner, value_of
from exact import solve as solve_with

import rlgen
from rlgen.agents.policy_evaluation import PolicyEvaluation
from rlgen.agents.policy_iteration import PolicyIteration
from rlgen.agents.value_iteration import ValueIteration
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.mdp import MDP, load_mdp
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError

CLIFF_START = 14


def solve(model, slices=1, **hyperparameters):
    return solve_with(ValueIteration, model, slices, **hyperparameters)


def random_mdp(seed, states=30):
    return load_mdp(EnvConfig(id="rlgen/RandomMDP-v0", kwargs={"states": states, "seed": seed}))


@pytest.mark.parametrize("order", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize(
    ("name", "start_value"),
    [  # the first two also from rlgen's specification: FrozenLake, gamma 0.99
        ("FrozenLake-v1", 0.5420259),
        ("FrozenLake8x8-v1", 0.4146404),
        ("Taxi-v4", None),
        ("CliffWalking-v1", None),
        ("CliffWalkingSlippery-v1", None),
        ("rlgen/FourRooms-v0", None),
    ],
)
def test_values_equal_the_linear_program(name, start_value, order):
    model = load_mdp(EnvConfig(id=name))
    planner, history = solve(model, gamma=0.99, order=order)
    expected = linear_program(model, 0.99)
    np.testing.assert_allclose(planner.values, expected, atol=1e-8, rtol=0)
    assert history[-1]["start_value"] == pytest.approx(model.start @ expected, abs=1e-8)
    if start_value is not None:
        assert history[-1]["start_value"] == pytest.approx(start_value, abs=1e-7)


@pytest.mark.parametrize("order", ["jacobi", "gauss_seidel"])
def test_twenty_random_mdps(order):
    for seed in range(20):
        model = random_mdp(seed)
        planner, _ = solve(model, slices=1 + seed % 3, gamma=0.9, order=order)
        np.testing.assert_allclose(planner.values, linear_program(model, 0.9), atol=1e-8, rtol=0)


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
    for order in ("jacobi", "gauss_seidel"):
        assert planner(ValueIteration, cliff(0.0), order=order).sweep(3, 3)["value"].shape == (0,)


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
    # And the greedy policy loses at most 2 gamma / (1 - gamma) of that (Puterman, section 6.3).
    states = np.arange(model.num_states)
    policy = np.eye(4)[planner.act(states, greedy=True)["action"]]
    loss = (exact - value_of(model, policy, gamma)).max()
    assert -1e-9 < loss <= 2 * gamma / (1 - gamma) * tolerance


def in_a_loop(model, values, gamma, first, last):
    """Gauss-Seidel as one writes it down."""
    values = values.copy()
    for state in range(first, last):
        values[state] = action_values(model, values, gamma)[state].max()
    return values[first:last]


@pytest.mark.parametrize(
    "model",
    [random_mdp(0), load_mdp(EnvConfig(id="FrozenLake8x8-v1")), cliff(0.1)],
    ids=["random", "lake", "cliff"],
)
@pytest.mark.parametrize(("first", "last"), [(0, None), (7, 19)])
def test_gauss_seidel_is_the_loop_over_the_states(model, first, last):
    last = last or model.num_states
    one = planner(ValueIteration, model, gamma=0.95, order="gauss_seidel")
    one.values[:] = np.where(
        model.terminal, 0, np.random.default_rng(0).normal(size=len(one.values))
    )
    expected = in_a_loop(model, one.values, 0.95, first, last)
    swept = one.sweep(first, last)
    np.testing.assert_allclose(swept["value"], expected, atol=1e-13)
    assert np.abs(expected - one.values[first:last]).max() == pytest.approx(swept["change"].max())
    jacobi = action_values(model, one.values, 0.95).max(axis=1)[first:last]
    assert np.abs(expected - jacobi).max() > 0.01  # it makes a difference


def test_gauss_seidel_needs_fewer_sweeps():
    model = load_mdp(EnvConfig(id="FrozenLake8x8-v1"))
    (_, jacobi), (_, in_place) = (
        solve(model, gamma=0.99, order=order) for order in ("jacobi", "gauss_seidel")
    )
    assert len(in_place) < 0.75 * len(jacobi)


def test_gauss_seidel_goes_down_a_chain_in_one_sweep():
    """State s leads to s - 1 and pays 1; state 0 is the end: V(s) = s."""
    states = 200
    p = scipy.sparse.csr_array(np.eye(states)[np.maximum(np.arange(states) - 1, 0)])
    rewards = np.ones((states, 1))
    rewards[0] = 0
    ends = np.arange(states) == 0
    model = MDP(p, rewards, ends, np.eye(states)[-1])
    one = planner(ValueIteration, model, gamma=1.0, order="gauss_seidel")
    cycle(one)
    np.testing.assert_array_equal(one.values, np.arange(states))
    assert not one.converged
    cycle(one)
    assert one.converged


@pytest.mark.parametrize("order", ["jacobi", "gauss_seidel"])
def test_asynchronous_slices_of_old_values_converge(order):
    """Slices arrive in any order, each swept from a V that is up to five updates old."""
    model, gamma, rng = random_mdp(3), 0.9, np.random.default_rng(0)
    worker = planner(ValueIteration, model, gamma=gamma, order=order)
    learner = planner(ValueIteration, model, gamma=gamma, order=order)
    edges, old = [(0, 9), (9, 10), (10, 30)], [learner.values.copy()]
    while not learner.converged:
        worker.values[:] = old[-1 - rng.integers(min(len(old), 5))]
        learner.update(worker.sweep(*edges[rng.integers(3)]))
        old.append(learner.values.copy())
        assert len(old) < 5_000
    np.testing.assert_allclose(learner.values, linear_program(model, gamma), atol=1e-9)


def test_the_same_slices_again_do_not_count_as_converged():
    """Two requests of a worker are under way: the second is swept from the same V as the first."""
    model = random_mdp(4)
    worker = planner(ValueIteration, model, gamma=0.9, tolerance=1e-3)
    learner = planner(ValueIteration, model, gamma=0.9, tolerance=1e-3)
    for _ in range(3):
        for edge in ((0, 15), (15, 30)):
            metrics = learner.update(worker.sweep(*edge))
            assert not learner.converged
    assert metrics["residual"] > 0.1


def test_slices_that_no_longer_change_need_not_fit_together():
    """State 0 leads to 1, which pays 1 and ends: state 0 was swept before V(1) was known."""
    p = scipy.sparse.csr_array(np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1.0]]))
    model = MDP(p, np.array([[0.0], [1.0], [0.0]]), np.arange(3) == 2, np.array([1.0, 0.0, 0.0]))
    learner = planner(ValueIteration, model, gamma=0.9)
    for edge in ((0, 1), (1, 3)):
        learner.update(learner.sweep(*edge))
        assert not learner.converged
    learner.update(learner.sweep(1, 3))  # by now the last change of every state is 0
    assert learner.values[0] == 0.9
    assert not learner.converged
    learner.update(learner.sweep(0, 1))
    assert learner.converged


@pytest.mark.parametrize("backend", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_asynchronous_workers_reach_the_linear_program(backend, tmp_path):
    changes = {"run.dir": str(tmp_path), "scheduler.backend": backend}
    run = rlgen.train("value-iteration-four-rooms", changes)
    assert run.experiment.scheduler.mode == "async"
    assert run.summary["stop_reason"] == "converged"
    expected = linear_program(load_mdp(EnvConfig(id="rlgen/FourRooms-v0")), 0.9)
    np.testing.assert_allclose(run.weights, expected, atol=1e-9)


def bold_play(capital, goal, p):
    """V of staking all that one has or needs, exactly: follow it until it comes round.

    Dubins and Savage, *How to gamble if you must*, 1965: it is optimal where p < 1/2.
    """
    value, weight, x, seen = 0.0, 1.0, capital, {}
    while 0 < x < goal:
        if x in seen:  # the tail is a geometric series
            earlier, before = seen[x]
            ratio = weight / before
            return earlier + (value - earlier) / (1 - ratio)
        seen[x] = value, weight
        if 2 * x >= goal:
            value += weight * p
            weight, x = weight * (1 - p), 2 * x - goal
        else:
            weight, x = weight * p, 2 * x
    return value + weight * (x >= goal)


@pytest.mark.parametrize("order", ["jacobi", "gauss_seidel"])
@pytest.mark.parametrize("p", [0.25, 0.4])
def test_gambler(p, order):
    """Example 4.3 and exercise 4.9 of Sutton and Barto: p 0.4 and 0.25."""
    model = load_mdp(EnvConfig(id="rlgen/Gambler-v0", kwargs={"p_heads": p}))
    planner, _ = solve(model, gamma=1.0, order=order)
    expected = [bold_play(capital, 100, p) for capital in range(100)]
    np.testing.assert_allclose(planner.values[:100], expected, atol=1e-8)
    np.testing.assert_allclose(planner.values, linear_program(model, 1.0), atol=1e-8)
    assert planner.values[[25, 50, 75]] == pytest.approx([p**2, p, p + (1 - p) * p], abs=1e-8)
    # Figure 4.3: all on 50; of equally good stakes the smallest, so 1 to 12 and back to 1 from 25.
    stakes = planner.act(np.arange(100), greedy=True)["action"] + 1
    assert stakes[50] == 50
    assert stakes[[25, 75]].tolist() == [25, 25]
    assert stakes[1:13].tolist() == list(range(1, 13))


def test_the_ready_configurations_of_the_gambler_and_the_wind(tmp_path):
    run = rlgen.train("value-iteration-gambler", {"run.dir": str(tmp_path)})
    assert run.weights[50] == pytest.approx(0.4, abs=1e-9)
    for moves, steps in ((4, 15), (8, 7), (9, 7)):  # example 6.5 and exercise 6.9
        changes = {"run.dir": str(tmp_path), "env.kwargs.moves": moves}
        run = rlgen.train("value-iteration-windy-grid", changes)
        evaluation = run.evaluate()
        assert (evaluation["mean"], evaluation["length"]) == (-steps, steps)


def cycling():
    """Three states in a ring, whose sweeps end in a cycle of last bits."""
    p = scipy.sparse.csr_array(np.roll(np.eye(3), 1, axis=1))
    for seed in range(100):
        rewards = 1e9 * np.random.default_rng(seed).normal(size=3)
        values, before = np.zeros(3), np.ones(3)
        for _ in range(2000):
            before, values = values, rewards + 0.9 * values[[1, 2, 0]]
        if (values != before).any():
            return MDP(p, rewards[:, None], np.zeros(3, bool), np.array([1.0, 0.0, 0.0]))
    raise AssertionError("none of a hundred rings cycles")


@pytest.mark.parametrize("order", ["jacobi", "gauss_seidel"])
def test_what_rounding_leaves_is_no_reason_to_go_on(order):
    """Rewards of 1e9 cannot be resolved to 1e-10."""
    model = cycling()
    for solver, ways in (
        (ValueIteration, {"order": order}),
        (PolicyIteration, {"evaluation": "iterative"}),
        (PolicyEvaluation, {}),
    ):
        planner, _ = solve_with(solver, model, gamma=0.9, **ways)
        exact = value_of(model, np.ones((3, 1)), 0.9)
        np.testing.assert_allclose(planner.values, exact, rtol=1e-13)


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
