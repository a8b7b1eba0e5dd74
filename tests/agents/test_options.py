"""Options: the rooms, the ways to their hallways, SMDP Q-learning against a slow account of it."""

from collections import deque

import gymnasium as gym
import numpy as np
import pytest
from exact import linear_program

import rlgen
from rlgen.agents.hallways import find_rooms, hallway_options, primitive_options
from rlgen.agents.options import Options
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig, load_experiment, resolve_experiment
from rlgen.envs.grid import Arrival, Grid
from rlgen.envs.gridworlds import FourRoomsEnv
from rlgen.envs.mdp import MDP, load_mdp
from rlgen.errors import ConfigError
from rlgen.problem import load_problem, role_seed
from rlgen.rollout import RolloutWorker

HALLWAYS = [25, 51, 62, 88]  # the cells (3, 6), (6, 2), (7, 9) and (10, 6) of the paper's figure
CELLS = Grid(FourRoomsEnv.LAYOUT)


def four_rooms(**kwargs):
    return load_mdp(EnvConfig(id="rlgen/FourRooms-v0", kwargs=kwargs))


def grid_model(*layout):
    """A grid in which nothing ever ends."""
    grid = Grid(layout)
    start = np.full(len(grid.cells), 1 / len(grid.cells))
    return MDP.from_outcomes(grid.slippery(lambda cell: Arrival(cell, 0.0, False), 0.0, start))


def distances(target, room):
    """Steps to the cell ``target`` through the cells of ``room``, breadth first."""
    steps, queue = {target: 0}, deque([target])
    while queue:
        cell = queue.popleft()
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            near = (cell[0] + down, cell[1] + right)
            if near in room and near not in steps:
                steps[near] = steps[cell] + 1
                queue.append(near)
    return steps


@pytest.mark.parametrize("kwargs", [{}, {"slip": 0.0}, {"goal": (9, 9)}, {"goal": (10, 6)}])
def test_the_four_rooms_are_found(kwargs):
    hallways, rooms = find_rooms(four_rooms(**kwargs))
    assert hallways.tolist() == HALLWAYS
    assert sorted(np.bincount(rooms[rooms >= 0])) == [20, 25, 25, 30]


@pytest.mark.parametrize(
    ("layout", "hallways"),
    [
        (("...", "...", "..."), []),  # the corners have two neighbours, and a way around
        (("...#...", ".......", "...#..."), [(1, 3)]),
        (("..", ".#"), [(0, 0)]),  # two rooms of one cell each
    ],
)
def test_hallways_join_what_is_apart(layout, hallways):
    found, rooms = find_rooms(grid_model(*layout))
    assert [Grid(layout).cells[state] for state in found] == hallways
    assert len(np.unique(rooms[rooms >= 0])) == len(hallways) + 1


@pytest.mark.parametrize("slip", [0.0, 1 / 3])
def test_an_option_takes_the_shortest_way_in_its_room(slip):
    """Breadth first on the cells. With slips too, each meant step comes one nearer."""
    model = four_rooms(slip=slip)
    table, (hallways, rooms) = hallway_options(model), find_rooms(model)
    assert len(table.policy) == 8
    targets = []
    for policy, starts, goes_on in zip(table.policy, table.starts, table.goes_on, strict=True):
        (room,) = set(rooms[goes_on])
        inside = {CELLS.cells[s] for s in np.flatnonzero(rooms == room)}
        doors = [h for h in hallways if any(near in inside for near in around(CELLS.cells[h]))]
        assert len(doors) == 2
        (target,) = [h for h in doors if not starts[h]]
        targets.append(target)
        (other,) = [h for h in doors if h != target]
        assert set(np.flatnonzero(starts)) == {*np.flatnonzero(rooms == room), other}
        assert np.array_equal(np.flatnonzero(goes_on), np.flatnonzero(rooms == room))
        steps = distances(CELLS.cells[target], inside)
        for state in np.flatnonzero(goes_on):
            to = CELLS.move(state, *((-1, 0), (1, 0), (0, -1), (0, 1))[policy[state]])
            near, cell = CELLS.cells[to], CELLS.cells[state]
            if slip == 0:
                assert steps[near] == steps[cell] - 1
            else:
                assert near == cell or steps.get(near, 99) <= steps[cell]
    assert sorted(targets) == sorted(HALLWAYS * 2)


def around(cell):
    return [(cell[0] + d, cell[1] + r) for d, r in ((-1, 0), (1, 0), (0, -1), (0, 1))]


def test_a_primitive_option_is_one_action():
    table = primitive_options(four_rooms())
    assert table.policy.shape == (4, 104) and not table.goes_on.any() and table.starts.all()
    assert table.policy[:, 0].tolist() == [0, 1, 2, 3]


def experiment(**changes):
    plain = {
        "name": "x",
        "algorithm": "options",
        "hyperparameters": {"rollout_steps": 7, "learning_rate": 0.3, "epsilon": 0.3},
        "env": {
            "id": "rlgen/FourRooms-v0",
            "num_envs": 3,
            "kwargs": {"max_episode_steps": 60},
        },
        "stop": {"env_steps": 1},
    }
    return resolve_experiment(rlgen.config.set_keys(plain, changes))


def slow_smdp(steps, table):
    """One environment's steps, option by option, with the time at which each ended."""
    ended, current = [], None
    for time, (s, o, begins, r, s1, terminated, truncated) in enumerate(steps):
        if begins:
            current = {"s": s, "o": o, "rewards": []}
        assert current["o"] == o
        current["rewards"].append(r)
        if terminated or truncated or not table.goes_on[o, s1]:
            ended.append((time, {**current, "s1": s1, "terminated": terminated}))
            current = None
    return ended


@pytest.mark.parametrize("options", ["both", "hallways", "primitive"])
def test_learning_is_that_of_a_slow_account(options):
    """Rollouts of 7 steps, so that most options span several; cut and ended episodes among them."""
    setting = experiment(**{"hyperparameters.options": options})
    worker = RolloutWorker(setting, 0, role_seed(0, "worker"))
    learner = RolloutWorker(setting, 1, 5).algorithm  # any other instance of the algorithm
    table, gamma, alpha = learner.table, 0.9, 0.3
    expected = np.zeros_like(learner.q)
    lives = [[] for _ in range(3)]
    raw = {}
    original = type(worker.algorithm).process

    def remember(batch):
        raw.update({name: column.copy() for name, column in batch.items()})
        return original(worker.algorithm, batch)

    worker.algorithm.process = remember
    counted = 0
    for version in range(60):
        batch, _ = worker.produce(learner.q.ravel(), version, 0)
        first = len(lives[0])
        for row, life in enumerate(lives):
            names = ("observation", "option", "begins", "reward", "next_observation")
            names += ("terminated", "truncated")
            life += zip(*(raw[name][:, row].tolist() for name in names), strict=True)
        done = [
            (time, row, option)
            for row, life in enumerate(lives)
            for time, option in slow_smdp(life, table)
            if time >= first
        ]
        for _, _, option in sorted(done, key=lambda item: item[:2]):
            gained = sum(gamma**i * r for i, r in enumerate(option["rewards"]))
            future = 0.0
            if not option["terminated"]:
                possible = np.flatnonzero(table.starts[:, option["s1"]])
                future = gamma ** len(option["rewards"]) * expected[option["s1"], possible].max()
            cell = option["s"], option["o"]
            assert table.starts[cell[::-1]]
            expected[cell] += alpha * (gained + future - expected[cell])
        counted += len(done)
        learner.update(batch)
        np.testing.assert_allclose(learner.q, expected, rtol=1e-12, atol=1e-12)
    assert counted > 50 and np.count_nonzero(expected) > 3
    ends = [(terminated, truncated) for life in lives for *_, terminated, truncated in life]
    assert np.any(ends, axis=0).tolist() == [True, True]
    assert (counted < len(ends)) == (options != "primitive")


def test_an_option_runs_until_it_ends_and_no_further():
    setting = experiment(**{"hyperparameters.options": "hallways"})
    worker = RolloutWorker(setting, 0, 1)
    algorithm = worker.algorithm
    observation, starts = worker.observation, np.ones(3, bool)
    running = None
    for _ in range(200):
        algorithm.starts = starts
        chosen = algorithm.act(observation, greedy=False)
        if running is not None:
            stays = ~starts & algorithm.table.goes_on[running, observation]
            assert (chosen["option"][stays] == running[stays]).all()
            assert (chosen["begins"] == ~stays).all()
        assert algorithm.table.starts[chosen["option"], observation][chosen["begins"]].all()
        running = chosen["option"]
        step = worker.env.step(chosen["action"])
        observation, starts = step.observation, step.starts


def test_with_options_the_first_episodes_are_much_shorter():
    """As in the paper's figure 4: whoever takes whole ways comes to the goal in fewer steps."""
    lengths = {}
    for options in ("primitive", "both", "hallways"):
        changes = {"hyperparameters.options": options, "env.num_envs": 40, "env.kwargs": {}}
        worker = RolloutWorker(experiment(**changes), 0, 3)
        episodes = []
        for version in range(60):  # 420 steps each, before anything is learned
            _, info = worker.produce(worker.algorithm.q.ravel(), version, 0)
            episodes += info["episodes"]
        lengths[options] = 60 * 7 * 40 / len(episodes)
    assert lengths["both"] < 0.7 * lengths["primitive"]
    assert lengths["hallways"] < 0.4 * lengths["primitive"]


@pytest.mark.parametrize("options", ["both", "hallways"])
def test_it_finds_the_shortest_way(options, tmp_path):
    """From the upper left corner to the hallway (7, 9) it takes 14 steps (breadth first)."""
    free = set(CELLS.cells)
    assert distances((7, 9), free)[1, 1] == 14
    changes = {
        "run.dir": str(tmp_path),
        "hyperparameters.options": options,
        "env.kwargs": {"slip": 0.0, "start": [1, 1]},
        "stop.env_steps": 30_000,
        "evaluation": {"episodes": 1},
    }
    run = rlgen.train("options-four-rooms", changes)
    assert run.evaluate()["length"] == 14
    # With the deterministic way, Q of the best option is the optimal value of a linear program.
    best = np.where(run.algorithm.table.starts.T, run.algorithm.q, -np.inf).max(axis=1)
    model = load_mdp(run.experiment.env)
    optimum = linear_program(model, 0.9)
    start = int(model.start.argmax())
    assert best[start] == pytest.approx(optimum[start], abs=2e-3)


def test_what_has_no_hallways_or_no_model_is_refused():
    message = r"env.id: options found no hallways in the model.*such as rlgen/FourRooms-v0, or q-l"
    with pytest.raises(ConfigError, match=message):
        load_problem(load_experiment("options-four-rooms", ["env.id=FrozenLake-v1"]))
    with pytest.raises(ConfigError, match=r"env.id: CartPole-v1 has no model"):
        load_problem(load_experiment("options-four-rooms", ["env.id=CartPole-v1"]))
    ring = Problem(gym.spaces.Discrete(8), model=grid_model("...", ".#.", "..."))
    with pytest.raises(ConfigError, match=message):
        Options.check(ring)  # every cell alone joins its two neighbours
    model = grid_model("...#...", ".......", "...#...")
    states = gym.spaces.Discrete(19)
    problem = Problem(states, gym.spaces.Discrete(4), model=model)
    Options.check(problem)
    message = r"hyperparameters.options: in 1 states no option to a hallway can be chosen; use both"
    with pytest.raises(ConfigError, match=message):
        Options(Options.Config(options="hallways"), problem, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=r"hyperparameters.options: input should be 'both'"):
        load_experiment("options-four-rooms", ["hyperparameters.options=rooms"])
