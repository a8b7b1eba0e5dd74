"""The environments that are exact models: what they are, closed forms, and their pictures."""

import gymnasium as gym
import numpy as np
import pytest
from exact import linear_program
from gymnasium.utils.env_checker import check_env

from rlgen.config import EnvConfig
from rlgen.envs import TABULAR
from rlgen.envs.mdp import MDP, MDPVectorEnv, Outcomes, load_mdp, outcomes_of
from rlgen.envs.single import make_single
from rlgen.errors import ConfigError

PICTURED = sorted(set(TABULAR) - {"rlgen/RandomMDP-v0"})


def load(name, **kwargs):
    return load_mdp(EnvConfig(id=name, kwargs=kwargs))


def make(name, **kwargs):
    return gym.make(name, **kwargs).unwrapped


@pytest.mark.filterwarnings("ignore:.*render")
@pytest.mark.parametrize("name", TABULAR)
def test_gymnasium_accepts_it(name):
    check_env(gym.make(name, render_mode="ansi").unwrapped)


@pytest.mark.parametrize("name", TABULAR)
def test_the_vector_form_steps_the_same_table(name):
    """One environment and the vector of one, with the same draws, are the same."""
    env = make(name)
    vector = MDPVectorEnv(outcomes_of(env), 1)
    env.reset(seed=3)
    vector.reset(seed=3)
    assert vector.state[0] == env.state
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = rng.integers(env.action_space.n)
        state, reward, terminated, _, _ = env.step(action)
        other = vector.step(np.array([action]))
        assert (state, reward, terminated) == (other[0][0], other[1][0], other[2][0])
        if terminated:
            assert env.reset()[0] == vector.reset()[0][0]


@pytest.mark.parametrize("name", PICTURED)
def test_picture(name):
    env = make(name, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.dtype == np.uint8
    assert before.ndim == 3
    rng = np.random.default_rng(0)
    moved = env.state
    while moved == env.state:
        env.step(rng.integers(env.action_space.n))
    assert (before != env.render()).any()


@pytest.mark.parametrize(
    ("name", "state", "text"),
    [
        ("rlgen/RandomWalk-v0", 2, "G . @ S . . G\n"),
        ("rlgen/Gambler-v0", 37, "capital 37 of 100\n"),
        ("rlgen/CarRental-v0", 21 * 4 + 9, "first place: 4 cars, second place: 9 cars\n"),
        ("rlgen/RandomMDP-v0", 5, "state 5 of 100\n"),
    ],
)
def test_text(name, state, text):
    env = make(name, render_mode="ansi")
    env.state = state
    assert env.render() == text


def test_no_picture():
    with pytest.raises(NotImplementedError, match="RandomMDPEnv has no picture; use render_mode='"):
        make("rlgen/RandomMDP-v0").picture()


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("Cliff", {"slip": 1.5}, r"slip must be in \[0, 1\], got 1.5"),
        ("FourRooms", {"slip": -1}, r"slip must be in \[0, 1\], got -1"),
        ("FourRooms", {"goal": [0, 0]}, r"goal must be a \(row, column\) of a free cell, such as"),
        ("FourRooms", {"start": [7, 9]}, r"start must be a .* where the other is; got \(7, 9\)"),
        ("WindyGrid", {"moves": 5}, r"moves must be 4, 8 or 9, got 5"),
        ("RandomWalk", {"states": 4}, r"states must be odd, so that one is in the middle; got 4"),
        ("RandomMDP", {"branching": 101}, r"got states=100, actions=4, branching=101"),
        ("CarRental", {"max_cars": 0}, r"max_cars must be positive, got 0"),
        ("Gambler", {"p_heads": 1.0}, r"p_heads must be in \(0, 1\) and goal at least 2; got 1.0"),
        ("Gambler", {"goal": 1}, r"got 0.4 and 1"),
        ("WindyGrid", {"move": 8}, r"takes no such argument; did you mean 'moves'\?"),
    ],
)
def test_arguments_that_do_not_fit(name, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_single(EnvConfig(id=f"rlgen/{name}-v0", kwargs=kwargs))


def distances(env, goal):
    """Least moves to the goal from every state, breadth first, where nothing is random."""
    table, far = env.outcomes, {goal: 0}
    states = table.pair // table.num_actions
    frontier = [goal]
    while frontier:
        before = {
            int(s)
            for g in frontier
            for s in states[(table.successor == g) & (table.probability > 0.5)]
        } - set(far)
        for state in before:
            far[state] = far[frontier[0]] + 1
        frontier = sorted(before)
    return far


def test_four_rooms():
    """104 cells, of which four are hallways; without slipping V is gamma^(distance - 1)."""
    env = make("rlgen/FourRooms-v0", slip=0.0)
    cells = env.grid.cells
    assert len(cells) == 104
    hallways = [s for s, (r, c) in enumerate(cells) if (r in (6, 7) and c in (2, 9)) or c == 6]
    assert [s for s in hallways if len(neighbours(env, s)) == 2] == [25, 51, 62, 88]
    goal = cells.index((7, 9))
    assert goal == 62
    model = load("rlgen/FourRooms-v0", slip=0.0)
    assert np.flatnonzero(model.terminal).tolist() == [goal]
    values, far = linear_program(model, 0.9), distances(env, goal)
    assert len(far) == 104
    expected = [0.9 ** (far[s] - 1) if s != goal else 0.0 for s in range(104)]
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert far[0] == max(far.values()) == 14  # from the upper left corner, as the crow walks
    slippery = make("rlgen/FourRooms-v0")
    rows = slice(*slippery.outcomes.first[[0, 1]])  # the upper left corner, up
    assert slippery.outcomes.probability[rows] == pytest.approx([2 / 3, 1 / 9, 1 / 9, 1 / 9])
    assert slippery.outcomes.successor[rows].tolist() == [0, cells.index((2, 1)), 0, 1]


def neighbours(env, state):
    table = env.outcomes
    rows = slice(table.first[state * 4], table.first[state * 4 + 4])
    return set(table.successor[rows].tolist()) - {state}


def test_four_rooms_with_another_goal_and_start():
    env = make("rlgen/FourRooms-v0", goal=[9, 9], start=[1, 1], slip=0.0, render_mode="ansi")
    for seed in range(3):
        assert env.reset(seed=seed)[0] == 0
    lines = env.render().splitlines()
    assert lines[1].split()[1] == "@"
    assert lines[9].split()[9] == "G"
    assert env.outcomes.terminated.sum() == len(neighbours(env, env.grid.cells.index((9, 9))))
    anywhere = make("rlgen/FourRooms-v0")
    assert np.count_nonzero(anywhere.outcomes.start) == 103
    assert anywhere.outcomes.start[62] == 0


@pytest.mark.parametrize(("moves", "steps"), [(4, 15), (8, 7), (9, 7)])
def test_windy_grid(moves, steps):
    """Sutton and Barto 2018, example 6.5: 15 steps; with king's moves (exercise 6.9) 7."""
    env = make("rlgen/WindyGrid-v0", moves=moves)
    start, goal = 3 * 10 + 0, 3 * 10 + 7
    assert env.reset()[0] == start
    assert distances(env, goal)[start] == steps
    model = load("rlgen/WindyGrid-v0", moves=moves)
    assert linear_program(model, 1.0)[start] == pytest.approx(-steps, abs=1e-9)


def test_the_wind():
    env = make("rlgen/WindyGrid-v0", moves=9)
    cell = env.grid.number
    blown = {(3, 3): (2, 4), (3, 6): (1, 7), (3, 2): (3, 3), (0, 7): (0, 8), (5, 9): (5, 9)}
    for origin, arrival in blown.items():  # to the right; the wind is that of the column left
        env.state = cell[origin]
        assert env.step(3)[:2] == (cell[arrival], -1.0)
    env.state = cell[3, 7 - 1]
    assert env.step(8)[0] == cell[1, 6]  # staying
    env.state = cell[5, 7]
    assert env.step(8)[:3] == (cell[3, 7], -1.0, True)


def test_gusts():
    """Exercise 6.10: one third each of one less, the same and one more, where there is a wind."""
    env = make("rlgen/WindyGrid-v0", gusts=True)
    table, cell = env.outcomes, env.grid.number
    for origin, arrivals in (((3, 6), [(2, 7), (1, 7), (0, 7)]), ((3, 1), [(3, 2)])):
        pair = cell[origin] * 4 + 3
        rows = slice(*table.first[[pair, pair + 1]])
        assert table.successor[rows].tolist() == [cell[arrival] for arrival in arrivals]
        np.testing.assert_allclose(table.probability[rows], 1 / len(arrivals))


def test_random_walk_begins_in_the_middle_and_pays_at_the_ends():
    env = make("rlgen/RandomWalk-v0", states=19, left=-1.0)
    assert env.reset(seed=0)[0] == 10
    model = load("rlgen/RandomWalk-v0", states=19, left=-1.0)
    assert np.flatnonzero(model.terminal).tolist() == [0, 20]
    assert model.rewards[[1, 10, 19], 0].tolist() == [-0.5, 0.0, 0.5]


def test_random_mdp():
    model = load("rlgen/RandomMDP-v0", states=500, actions=3, branching=7, seed=1)
    assert model.rewards.shape == (500, 3)
    np.testing.assert_array_equal(np.diff(model.transitions.indptr), 7)  # all different
    assert not model.terminal.any()
    again = load("rlgen/RandomMDP-v0", states=500, actions=3, branching=7, seed=1)
    other = load("rlgen/RandomMDP-v0", states=500, actions=3, branching=7, seed=2)
    assert (model.transitions != again.transitions).nnz == 0
    assert (model.transitions != other.transitions).nnz > 0
    # Pieces of [0, 1] cut at 6 uniform points have mean 1/7 and variance 6 / (7 * 7 * 8).
    assert model.transitions.data.var() == pytest.approx(6 / 392, rel=0.1)
    assert abs(model.rewards.mean()) < 4 / np.sqrt(1500)
    assert model.rewards.std() == pytest.approx(1, abs=4 / np.sqrt(3000))
    # Every state is equally often a successor: chi-square of 500 counts.
    counts = np.bincount(model.transitions.indices, minlength=500)
    assert ((counts - 21) ** 2 / 21).sum() == pytest.approx(499, abs=5 * np.sqrt(2 * 499))


def test_rows_in_any_order_are_the_same_table():
    table = make("rlgen/WindyGrid-v0", gusts=True).outcomes
    order = np.random.default_rng(0).permutation(table.pair.size)
    columns = (table.pair, table.probability, table.successor, table.reward, table.terminated)
    shuffled = Outcomes.from_rows(70, 4, (column[order] for column in columns), table.start)
    np.testing.assert_array_equal(shuffled.first, table.first)
    one, other = MDP.from_outcomes(table), MDP.from_outcomes(shuffled)
    assert abs(one.transitions - other.transitions).max() < 1e-15
    np.testing.assert_allclose(one.rewards, other.rewards, atol=1e-14)


def test_random_mdp_with_every_successor():
    model = load("rlgen/RandomMDP-v0", states=4, actions=1, branching=4)
    assert (model.transitions.toarray() > 0).all()


def test_a_day_of_the_car_rental():
    """Against counting 20,000 days; Poisson of mean 3 and 3, from 4 cars in the morning."""
    env = make("rlgen/CarRental-v0")
    rng = np.random.default_rng(0)
    days = 200_000
    requests, back = rng.poisson((3, 4), (days, 2)), rng.poisson((3, 2), (days, 2))
    # (5, 18) in the evening; two cars go to the second place.
    morning = np.array([3, 20])
    rented = np.minimum(morning, requests)
    evening = np.minimum(20, morning - rented + back)
    state = np.bincount(evening[:, 0] * 21 + evening[:, 1], minlength=441) / days
    pair = (5 * 21 + 18) * 11 + 5 + 2
    table = env.outcomes
    rows = slice(*table.first[[pair, pair + 1]])
    exact = np.zeros(441)
    exact[table.successor[rows]] = table.probability[rows]
    np.testing.assert_allclose(exact.sum(), 1.0, atol=1e-12)
    error = np.sqrt(exact * (1 - exact) / days)
    assert (np.abs(state - exact) < 5 * error + 1e-5).all()
    mean = (table.probability[rows] * table.reward[rows]).sum()
    earned = 10.0 * rented.sum(axis=1) - 4.0
    assert mean == pytest.approx(earned.mean(), abs=5 * earned.std() / np.sqrt(days))
    # The reward of a day given its evening: its mean over the days that ended so.
    common = exact.argmax()
    given = earned[evening[:, 0] * 21 + evening[:, 1] == common]
    says = table.reward[rows][table.successor[rows] == common][0]
    assert says == pytest.approx(given.mean(), abs=5 * given.std() / np.sqrt(len(given)))


def test_asking_for_more_cars_than_there_are_costs_as_much():
    model = load("rlgen/CarRental-v0")
    evening = 2 * 21 + 10  # two cars at the first place
    np.testing.assert_allclose(np.diff(model.rewards[evening, 7:]), -2.0)
    p = model.transitions[evening * 11 + 7 : evening * 11 + 11].toarray()
    np.testing.assert_array_equal(p[1:], np.repeat(p[:1], 3, axis=0))


def test_gambler():
    model = load("rlgen/Gambler-v0", p_heads=0.3, goal=10)
    assert np.flatnonzero(model.terminal).tolist() == [0, 10]
    p = model.transitions.toarray().reshape(11, 5, 11)
    assert (p[4, 1, 6], p[4, 1, 2]) == (0.3, 0.7)
    assert (p[8, 4, 10], p[8, 4, 6]) == (0.3, 0.7)  # no more than is missing
    assert (p[1, 4, 2], p[1, 4, 0]) == (0.3, 0.7)  # nor than there is
    np.testing.assert_array_equal(model.rewards[8], [0, 0.3, 0.3, 0.3, 0.3])
    assert model.start[[0, 1, 9, 10]] == pytest.approx([0, 1 / 9, 1 / 9, 0])
