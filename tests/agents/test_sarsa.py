"""SARSA and SARSA(lambda) against plain sequential loops, and on the book's cliff."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import rlgen
from rlgen.agents.sarsa import SARSA
from rlgen.agents.sarsa_lambda import SARSALambda
from rlgen.algorithm import Problem
from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.problem import role_seed
from rlgen.returns import n_step_rows

ENV = {"id": "rlgen/Cliff-v0", "kwargs": {"slip": 0.1, "max_episode_steps": 15}}
GAMMA, ALPHA, EPSILON = 0.9, 0.3, 0.2


def pick(values, draws, epsilon=EPSILON):
    """Epsilon-greedy from A + 2 uniform draws: which of the best, whether to explore, where to."""
    if draws[-2] < epsilon:
        return int(draws[-1] * len(values))
    best = [a for a, value in enumerate(values) if value == max(values)]
    return max(best, key=lambda a: draws[a])


def target(q, row, expected, epsilon=EPSILON):
    if row.end == "terminated":
        return row.return_
    value = q[row.s1, row.a1]
    if expected:
        mean = sum(q[row.s1].tolist()) / q.shape[1]
        value = (1.0 - epsilon) * q[row.s1].max() + epsilon * mean
    return row.return_ + row.discount * value


def sequential(workers, envs, steps, cycles, n=1, expected=False, trace=None, power=0.0):
    """The definition in the docstring of `SARSA`, one number at a time.

    Only the random draws are those of the algorithm: A + 2 for every action, the environments' own.
    """
    crew = []
    for index in range(workers):
        seed = role_seed(0, "worker", index)
        environment = Environments(EnvConfig(**ENV), envs, seed)
        crew.append(
            SimpleNamespace(
                env=environment,
                rng=np.random.default_rng(seed),
                s=environment.reset(),
                ahead=[None] * envs,
                open=[[] for _ in range(envs)],  # rows whose n rewards are not all known
                starts=[True] * envs,
            )
        )
    q, visits, alpha = np.zeros((21, 4)), np.zeros((21, 4)), np.full((21, 4), ALPHA)
    traces = np.zeros((workers, envs, 21, 4))
    for cycle in range(cycles):
        table, known = q.copy(), []
        for number, worker in enumerate(crew):
            rollout = []
            for t in range(steps):
                draws = worker.rng.random((envs, 6))
                action = [pick(table[s], d) for s, d in zip(worker.s, draws, strict=True)]
                if t == 0:
                    action = [
                        a if a1 is None else a1 for a, a1 in zip(action, worker.ahead, strict=True)
                    ]
                step = worker.env.step(np.array(action))
                for b in range(envs):
                    end = "terminated" if step.terminated[b] else None
                    end = end or ("truncated" if step.truncated[b] else None)
                    row = SimpleNamespace(
                        time=(cycle * steps + t, number, b), s=worker.s[b], a=action[b], end=end,
                        r=float(step.reward[b]), s1=step.next_observation[b], a1=None,
                        start=worker.starts[b],
                    )  # fmt: skip
                    if rollout and t > 0 and rollout[-envs].end is None:
                        rollout[-envs].a1 = action[b]
                    rollout.append(row)
                    worker.starts[b] = end is not None
                worker.s = step.observation
            worker.ahead = [None] * envs
            if not expected:
                last = rollout[-envs:]
                for row in rollout:
                    if row.end == "truncated" or (row.end is None and any(row is x for x in last)):
                        row.a1 = pick(table[row.s1], worker.rng.random(6))
                worker.ahead = [row.a1 if row.end is None else None for row in last]
            for row in rollout:
                waiting = worker.open[row.time[2]]
                waiting.append(SimpleNamespace(row=row, rewards=[]))
                for item in list(waiting):
                    item.rewards.append(row.r)
                    if row.end or len(item.rewards) == n:
                        waiting.remove(item)
                        k = len(item.rewards)
                        return_ = sum(GAMMA**i * r for i, r in enumerate(item.rewards))
                        known.append(
                            SimpleNamespace(
                                time=item.row.time, s=item.row.s, a=item.row.a, return_=return_,
                                discount=GAMMA**k, end=row.end, s1=row.s1, a1=row.a1,
                                start=item.row.start,
                            )
                        )  # fmt: skip
        for row in sorted(known, key=lambda row: row.time):
            td_error = target(q, row, expected) - q[row.s, row.a]
            visits[row.s, row.a] += 1
            alpha[row.s, row.a] = ALPHA / visits[row.s, row.a].item() ** power
            if trace is None:
                q[row.s, row.a] += alpha[row.s, row.a] * td_error
                continue
            e = traces[row.time[1], row.time[2]]
            if row.start:
                e[...] = 0.0
            e[row.s, row.a] = 1.0 if trace == "replacing" else e[row.s, row.a] + 1.0
            q += alpha * e * td_error
            e *= GAMMA * 0.8
    return q


def train(tmp_path, sizes, options, algorithm="sarsa", backend="inline"):
    workers, envs, steps, cycles = sizes
    common = {"gamma": GAMMA, "learning_rate": ALPHA, "epsilon": EPSILON, "rollout_steps": steps}
    plain = {
        "name": "x",
        "algorithm": algorithm,
        "hyperparameters": common | options,
        "env": {**ENV, "num_envs": envs},
        "scheduler": {"workers": workers, "backend": backend},
        "stop": {"env_steps": workers * envs * steps * cycles},
        "evaluation": {"episodes": 1},
        "run": {"dir": str(tmp_path)},
    }
    return rlgen.train(plain).weights.reshape(-1, 21, 4)[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"expected": True},
        {"steps": 3},
        {"steps": 7, "expected": True},
        {"steps": 2, "learning_rate_power": 0.6},
    ],
    ids=str,
)
@pytest.mark.parametrize(("workers", "envs", "steps"), [(1, 1, 1), (2, 3, 5), (3, 1, 2)])
def test_it_is_the_sequential_definition(options, workers, envs, steps, tmp_path):
    """Bit for bit; with one of everything it is the listing of the book (14.3), with the mask."""
    cycles = 600 // (workers * envs * steps)
    ours = train(tmp_path, (workers, envs, steps, cycles), options)
    power = options.get("learning_rate_power", 0.0)
    n, expected = options.get("steps", 1), options.get("expected", False)
    plain = sequential(workers, envs, steps, cycles, n=n, expected=expected, power=power)
    assert (plain != 0).sum() > 20
    np.testing.assert_array_equal(ours, plain)


@pytest.mark.slow
def test_more_workers_on_ray_are_the_sequential_definition_too(tmp_path):
    ours = train(tmp_path, (2, 3, 5, 20), {"steps": 3}, backend="ray")
    np.testing.assert_array_equal(ours, sequential(2, 3, 5, 20, n=3))


@pytest.mark.parametrize("traces", ["accumulating", "replacing"])
@pytest.mark.parametrize("power", [0.0, 0.6])
@pytest.mark.parametrize(("workers", "envs", "steps"), [(1, 1, 1), (2, 3, 5)])
def test_sarsa_lambda_is_the_sequential_definition(traces, power, workers, envs, steps, tmp_path):
    """With one of everything it is the listing of Sutton and Barto (1998, figure 7.11)."""
    cycles = 600 // (workers * envs * steps)
    options = {"traces": traces, "trace_decay": 0.8, "learning_rate_power": power}
    ours = train(tmp_path, (workers, envs, steps, cycles), options, "sarsa-lambda")
    plain = sequential(workers, envs, steps, cycles, trace=traces, power=power)
    assert (plain != 0).sum() > 20
    np.testing.assert_allclose(ours, plain, rtol=1e-13)


def test_sarsa_lambda_of_zero_is_sarsa(tmp_path):
    sizes = (1, 2, 4, 100)
    zero = train(tmp_path, sizes, {"trace_decay": 0.0}, "sarsa-lambda")
    np.testing.assert_allclose(zero, train(tmp_path, sizes, {}), rtol=1e-13)


@pytest.mark.parametrize("algorithm", [SARSA, SARSALambda])
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
def test_what_bootstraps(algorithm, terminated, truncated, valid, expected):
    problem = Problem(gym.spaces.Discrete(2), gym.spaces.Discrete(2))
    config = algorithm.Config(gamma=0.5, learning_rate=1.0, epsilon=0.0)
    agent = algorithm(config, problem, np.random.default_rng(0))
    agent.table[0] = [[1.0, 0.0], [3.0, 8.0]]
    rows = {
        "observation": 0, "action": 0, "next_observation": 1, "reward": np.float32(2.0),
        "terminated": terminated, "truncated": truncated, "valid": valid, "start": True,
    }  # fmt: skip
    agent.update(agent.process({name: np.array([[value]]) for name, value in rows.items()}))
    assert agent.table[0].tolist() == [[expected, 0.0], [3.0, 8.0]]


def test_the_action_that_was_drawn_ahead_is_taken():
    """Although by then the table says otherwise; not where an episode begins."""
    problem = Problem(gym.spaces.Discrete(3), gym.spaces.Discrete(4))
    agent = SARSA(SARSA.Config(epsilon=0.0), problem, np.random.default_rng(0))
    agent.table[0] = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    observation = np.array([0, 1, 2])
    agent.starts = np.array([True] * 3)
    batch = agent.act(observation, greedy=False)
    assert batch["action"].tolist() == [0, 1, 2]
    batch |= {
        "observation": observation,
        "next_observation": np.array([1, 2, 0]),
        "reward": np.zeros(3, np.float32),
        "terminated": np.array([False, False, True]),
        "truncated": np.zeros(3, bool),
        "valid": np.ones(3, bool),
    }
    sent = agent.process({name: column[None] for name, column in batch.items()})
    assert sent["next_action"][0, :2].tolist() == [1, 2]
    agent.table[0] = [[0, 0, 0, 1]] * 3
    agent.starts = np.array([False, False, True])
    assert agent.act(np.array([1, 2, 0]), greedy=False)["action"].tolist() == [1, 2, 3]
    assert agent.act(np.array([1, 2, 0]), greedy=False)["action"].tolist() == [3, 3, 3]


def test_rows_of_a_lost_episode_teach_nothing():
    """A start without an end before it, as where environments could not be restored."""
    flags = {"terminated": [0, 0, 0, 1, 0], "start": [1, 0, 1, 0, 1], "valid": [1, 1, 1, 1, 1]}
    numbers = {"state": range(5), "action": range(5), "successor": range(1, 6)}
    columns = {name: np.array(column, bool)[:, None] for name, column in flags.items()}
    columns |= {name: np.array(column)[:, None] for name, column in numbers.items()}
    columns |= {
        "truncated": np.zeros((5, 1), bool),
        "reward": np.array([[1.0], [2.0], [4.0], [8.0], [16.0]]),
        "next_action": columns["action"],
    }
    rows = n_step_rows(columns, 3, 0.5)
    # 0 and 1 are lost, 2 and 3 ended, 4 waits for more.
    assert rows["valid"][:, 0].tolist() == [False, False, True, True, False]
    assert rows["return"][2:4, 0].tolist() == [4.0 + 0.5 * 8.0, 8.0]
    assert rows["discount"][2:4, 0].tolist() == [0.0, 0.0]


def greedy_path(name, seed, tmp_path, **changes):
    run = rlgen.train(name, {"run.dir": str(tmp_path), "seed": seed, **changes})
    evaluation = run.evaluate()
    return evaluation["mean"], evaluation["length"]


@pytest.mark.parametrize("seed", range(10))
def test_sarsa_is_safe_and_q_learning_optimal_on_the_cliff(seed, tmp_path):
    """10 moves along the far wall and 8 along the edge (exercise 14-4)."""
    changes = {"stop": {"env_steps": 20_000}, "evaluation.every": 0}
    assert greedy_path("sarsa-cliff", seed, tmp_path, **changes) == (-10.0, 10.0)
    assert greedy_path("q-learning-cliff", seed, tmp_path, **changes) == (-8.0, 8.0)


@pytest.mark.parametrize("seed", range(3))
def test_expected_sarsa_learns_the_safe_path_with_a_step_size_of_one(seed, tmp_path):
    """Its targets have no noise here (van Seijen et al., 2009); SARSA's have."""
    assert greedy_path("expected-sarsa-cliff", seed, tmp_path) == (-10.0, 10.0)


@pytest.mark.parametrize("name", ["n-step-sarsa-windy", "sarsa-lambda-windy"])
def test_the_windy_grid_is_crossed_in_15_moves(name, tmp_path):
    """The shortest way: Sutton and Barto, example 6.5."""
    assert greedy_path(name, 0, tmp_path) == (-15.0, 15.0)


def test_glie_comes_to_the_optimal_values_and_a_constant_epsilon_does_not(tmp_path):
    """-15.682 is V* of the start at slip 0.1 (the specification; a linear program's)."""

    def start_value(**changes):
        short = {"stop.env_steps": 100_000, "evaluation": {"every": 0, "episodes": 1}}
        run = rlgen.train("sarsa-glie-cliff", {"run.dir": str(tmp_path)} | short | changes)
        return run.weights.reshape(-1, 21, 4)[0, 14].max()

    assert start_value() == pytest.approx(-15.682, abs=1.5)
    constant = {"gamma": 1.0, "epsilon": 0.2, "learning_rate": 1.0, "learning_rate_power": 0.6}
    assert start_value(hyperparameters=constant) < -22
