"""Candidates on a worker: whole episodes only, in the order in which they began."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlgen import registry
from rlgen.agents.search import Population, SearchPolicy, Trials
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig
from rlgen.errors import ConfigError

ENVS = 5


class Simulation:
    """B environments whose episodes have given lengths; some reset by a step of their own."""

    def __init__(self, own_step: bool, lengths: Any) -> None:
        self.own_step, self.lengths = own_step, lengths
        self.left = np.array([next(lengths) for _ in range(ENVS)])
        self.starts = np.ones(ENVS, np.bool_)
        self.void = np.zeros(ENVS, np.bool_)
        self.rng = np.random.default_rng(7)

    def step(self) -> dict[str, np.ndarray]:
        valid = ~self.void
        self.left -= valid
        ended = valid & (self.left == 0)
        for row in np.flatnonzero(ended):
            self.left[row] = next(self.lengths)
        self.void = ended if self.own_step else self.void
        self.starts = ended | ~valid
        reward = np.where(valid, self.rng.normal(size=ENVS), 100.0).astype(np.float32)
        truncated = ended & (self.rng.random(ENVS) < 0.5)
        return {
            "reward": reward,
            "valid": valid,
            "terminated": ended & ~truncated,
            "truncated": truncated,
        }


def run(own_step: bool, lengths: Any, rollouts: list[int]) -> tuple[list[Any], list[Any]]:
    """What left the trials, and the oracle's episodes: (candidate, return) as they began."""
    simulation, trials = Simulation(own_step, lengths), Trials(1)
    numbers = iter(range(10**6))

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = torch.tensor([[float(next(numbers))] for _ in range(n)])
        return drawn, -drawn

    left: list[Any] = []
    played: dict[float, float] = {}  # in the order of the first steps
    returns: dict[float, float] = {}
    for steps in rollouts:
        rows = []
        for _ in range(steps):
            trials.begin(simulation.starts, draw)
            candidate = -trials.vectors[:, 0].numpy()
            column = {"candidate": trials.running.copy()}
            step = simulation.step()
            rows.append(step | column)
            for row in np.flatnonzero(step["valid"]):
                name = float(candidate[row])
                if name not in returns:
                    played[name] = played.get(name, 0.0) + float(step["reward"][row])
                    if step["terminated"][row] or step["truncated"][row]:
                        returns[name] = played[name]
        batch = {k: torch.from_numpy(np.stack([r[k] for r in rows])) for k in rows[0]}
        leaving = trials.collect(batch)
        left += zip(leaving["drawn"][:, 0].tolist(), leaving["fitness"].tolist(), strict=True)
    # The oracle: the longest beginning of the candidates, in their order, of which all are over.
    expected = []
    for name in sorted(played):
        if name not in returns:
            break
        expected.append((name, returns[name]))
    return left, expected


@pytest.mark.parametrize("own_step", [False, True])
def test_candidates_leave_whole_and_in_order(own_step):
    rng = np.random.default_rng(3)
    lengths = iter(lambda: int(rng.choice([2, 3, 7, 40])), None)
    rollouts = rng.integers(1, 20, size=80).tolist()
    left, expected = run(own_step, lengths, rollouts)
    assert len(left) > 200
    assert [name for name, _ in left] == [name for name, _ in expected]
    assert [name for name, _ in left] == sorted(name for name, _ in left)
    np.testing.assert_allclose([r for _, r in left], [r for _, r in expected], rtol=1e-4, atol=1e-5)


def test_short_episodes_do_not_leave_before_a_long_one_that_began_earlier():
    """One episode of 50 steps among those of 5: nothing that began later leaves before it ends."""
    lengths = iter([50, 5, 5, 5, 5, *[5] * 1000])
    left, _ = run(False, lengths, [10] * 4)
    assert left == []
    left, _ = run(False, iter([50, 5, 5, 5, 5, *[5] * 1000]), [10] * 5)
    assert len(left) == 1 + 4 * 10  # 40 short ones in the same 50 steps, each counted once


@pytest.mark.parametrize("own_step", [False, True])
def test_episodes_of_one_step_are_tried_once_per_rollout(own_step):
    left, expected = run(own_step, iter(lambda: 1, None), [4] * 10)
    np.testing.assert_allclose(left, expected, rtol=1e-5)
    assert len(left) == 10 * ENVS


def test_a_candidate_whose_environment_began_anew_is_left_out():
    trials = Trials(1)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(n, 1), torch.ones(n, 1)

    def rollout(ends: list[bool]) -> dict[str, torch.Tensor]:
        rows = {
            "candidate": trials.running[None].copy(),
            "reward": np.ones((1, 2), np.float32),
            "valid": np.ones((1, 2), np.bool_),
            "terminated": np.array([ends]),
            "truncated": np.zeros((1, 2), np.bool_),
        }
        return {k: torch.from_numpy(v) for k, v in rows.items()}

    trials.begin(np.array([True, True]), draw)
    trials.collect(rollout([False, False]))
    trials.begin(np.array([False, False]), draw)
    trials.collect(rollout([False, False]))
    trials.begin(np.array([True, True]), draw)  # no episode had ended
    leaving = trials.collect(rollout([True, True]))
    assert leaving["fitness"].tolist() == [1.0, 1.0]  # of the second two candidates only


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(4)),
        (gym.spaces.Discrete(5), gym.spaces.Box(-2.0, 6.0, (2,))),
        (gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiDiscrete([3, 2])),
        (gym.spaces.Box(0, 255, (10, 10, 2), np.uint8), gym.spaces.Discrete(3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_row_acts_by_its_own_parameters(observation, action, layer_norm):
    """One batched forward equals as many policies, one after the other."""
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[6], layer_norm=layer_norm)
    policy = SearchPolicy(Problem(observation, action, network=network))
    observation.seed(0)
    rows = torch.from_numpy(np.stack([observation.sample() for _ in range(7)]))
    vectors = torch.randn(7, policy.size)
    with torch.no_grad():
        each = policy.forward_each(vectors, rows)
        for vector, row, found in zip(vectors, rows, each, strict=True):
            torch.nn.utils.vector_to_parameters(vector, policy.searched())
            torch.testing.assert_close(policy(row[None])[0], found)
    assert torch.equal(policy.vector(), vectors[-1])


def test_a_population_is_taken_when_it_is_large_enough():
    """Batches may be empty, and of any size."""
    population = Population(2)
    empty = {"drawn": torch.empty(0, 2), "fitness": torch.empty(0)}
    three = {"drawn": torch.ones(3, 2), "fitness": torch.arange(3.0)}
    assert not population.gather(empty, 5)
    assert not population.gather(three, 5)
    assert population.gather(three, 5)
    drawn, fitness = population.take()
    assert drawn.shape == (6, 2) and fitness.tolist() == [0.0, 1.0, 2.0] * 2
    assert not population.gather(empty, 1)


@pytest.mark.parametrize("name", ["cross-entropy", "evolution-strategies"])
def test_actions_without_a_policy_head_are_refused(name):
    box = gym.spaces.Box(-1.0, 1.0, (3,))
    problem = Problem(box, gym.spaces.MultiBinary(3), network=NetworkConfig())
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary.* not supported"):
        registry.resolve(name).check(problem)
