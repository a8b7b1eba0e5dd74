"""Recurrent DQN: its update against a loop over single steps, and tasks that need a memory."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlgen
from rlgen.agents.drqn import DRQN
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.problem import load_problem

FEATURES, ACTIONS = 3, 2


def agent(memory: str = "gru", **hyperparameters: Any) -> DRQN:
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[], memory=memory, memory_size=5)
    space = gym.spaces.Box(-1, 1, (FEATURES,))
    problem = Problem(space, gym.spaces.Discrete(ACTIONS), network=network)
    DRQN.check(problem)
    return DRQN(DRQN.Config(**hyperparameters), problem, np.random.default_rng(0))


def sequences(length: int, rows: int, states: int, ends: list[int]) -> dict[str, torch.Tensor]:
    """Sequences of one episode each; row i has ``ends[i]`` steps that count."""
    g = torch.Generator().manual_seed(1)
    seen = torch.randn(length + 1, rows, FEATURES, generator=g)
    valid = torch.arange(length)[:, None] < torch.tensor(ends)
    terminated = torch.zeros(length, rows, dtype=torch.bool)
    terminated[ends[0] - 1, 0] = True  # the others are cut
    return {
        "observation": seen[:-1].clone(),
        "next_observation": seen[1:].clone(),
        "action": torch.randint(ACTIONS, (length, rows), generator=g),
        "reward": torch.randn(length, rows, generator=g),
        "terminated": terminated,
        "valid": valid,
        "state": torch.randn(length, rows, states, generator=g),
    }


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize(("double", "burn_in"), [(True, 0), (False, 2)])
def test_the_loss_is_that_of_a_loop_over_steps(memory, double, burn_in):
    """One step at a time with `act`'s own network, row by row; what does not count is not read."""
    drqn = agent(memory, gamma=0.9, double=double, burn_in=burn_in)
    with torch.no_grad():
        for parameter in drqn.target.parameters():
            parameter.add_(0.3)
    batch = sequences(6, 4, drqn.network.memory.state_size, ends=[4, 6, 1, 3])
    batch["state"][:, 3] = 0.0  # an episode's beginning: burnt in already
    before = copy.deepcopy(drqn.network)
    losses, values = [], []
    for row, end in enumerate([4, 6, 1, 3]):
        state = aim = batch["state"][0, row : row + 1]
        for t in range(end):
            now, after = (batch[k][t, row : row + 1] for k in ("observation", "next_observation"))
            with torch.no_grad():
                q, state = before.step(now, state)
                _, aim = drqn.target.step(now, aim)
                chooser, _ = before.step(after, state)
                target, _ = drqn.target.step(after, aim)
            best = (chooser if double else target).argmax()
            future = 0.0 if batch["terminated"][t, row] else 0.9 * target[0, best].item()
            error = batch["reward"][t, row].item() + future - q[0, batch["action"][t, row]].item()
            if t >= burn_in or row == 3:
                losses.append(error**2)
                values.append(q[0, batch["action"][t, row]].item())
    for name in ("observation", "next_observation", "reward"):  # beyond the end
        for row, end in enumerate([4, 6, 1, 3]):
            batch[name][end:, row] = 7.0
    metrics = drqn.update(batch)
    assert metrics["loss"].item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["q"].item() == pytest.approx(np.mean(values), rel=1e-4)


def test_the_memory_ends_with_the_episode_and_is_stored_as_it_was():
    drqn = agent()
    observation = torch.randn(3, FEATURES)
    drqn.starts = np.ones(3, bool)
    first = drqn.act(observation, greedy=True)
    assert first["state"].shape == (3, 5) and not first["state"].any()
    drqn.starts = np.array([False, True, False])
    second = drqn.act(observation, greedy=True)
    _, after = drqn.network.step(observation, first["state"])
    expected = after.detach().clone()
    expected[1] = 0.0
    torch.testing.assert_close(second["state"], expected)


def test_burn_in_moves_no_weight_by_itself():
    """With every counted step masked out, Adam's first step of a zero gradient is no step."""
    drqn = agent(burn_in=3, sequence=4)
    batch = sequences(4, 2, 5, ends=[3, 2])
    before = [p.detach().clone() for p in drqn.network.parameters()]
    metrics = drqn.update(batch)
    assert metrics["loss"].item() == 0.0
    assert all(torch.equal(a, b) for a, b in zip(before, drqn.network.parameters(), strict=True))


class Corridor(gym.Env):
    """A T-maze (Bakker 2002): the first observation says which way to turn after ``length`` steps.

    Observations: 0, 1 a sign at the start, 2 the corridor, 3 the junction. Every action walks on;
    at the junction, the sign's action is worth 1 and the other -1. Without a memory, 0 is the best
    mean return.
    """

    observation_space = gym.spaces.Discrete(4)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length = length
        self.sign = self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign, self.time = int(self.np_random.integers(2)), 0
        return self.sign, {}

    def step(self, action):
        self.time += 1
        if self.time > self.length:
            return 3, (1.0 if action == self.sign else -1.0), True, False, {}
        return (3 if self.time == self.length else 2), 0.0, False, False, {}


gym.register("Corridor-v1", Corridor, disable_env_checker=True)
MAZE = {
    "name": "maze",
    "env": {"id": "Corridor-v1", "kwargs": {"length": 6}, "num_envs": 8},
    "evaluation": {"episodes": 64, "every": 1000},
    "stop": {"target": 0.99, "env_steps": 12_000},
}


def test_a_memory_finds_the_way_that_a_feed_forward_network_cannot(tmp_path):
    small = {"learning_starts": 200, "epsilon_steps": 4_000}
    recurrent = {
        "algorithm": "drqn",
        "hyperparameters": small | {"sequence": 8, "learning_rate": 3e-3},
        "network": {"memory": "gru", "memory_size": 16, "hidden": []},
    }
    run = rlgen.train({**MAZE, **recurrent, "run": {"dir": str(tmp_path)}})
    assert run.summary["stop_reason"] == "target"
    # The way back from the disk: one observation at a time, with the memory of the episode.
    for sign in (0, 1):
        run.act(sign, start=True)
        for seen in (2, 2, 2, 2, 2):
            run.act(seen)
        assert run.act(3) == sign
    plain = {"algorithm": "dqn", "hyperparameters": small, "network": {"hidden": [16]}}
    plain["stop"] = {"env_steps": 4_000}
    run = rlgen.train({**MAZE, **plain, "run": {"dir": str(tmp_path)}})
    assert abs(run.summary["evaluation"]["mean"]) < 0.5  # 64 episodes: standard error 1/8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_without_velocities(seed, tmp_path):
    run = rlgen.train("drqn-masked-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] >= 200
    assert run.summary["env_steps"] <= 60_000


@pytest.mark.slow
def test_cartpole_without_velocities_is_beyond_a_feed_forward_network(tmp_path):
    changes = {"env.observed": [0, 2], "env.normalize_observation": True}
    run = rlgen.train("dqn-cartpole", {"run.dir": str(tmp_path), "stop.target": 200, **changes})
    assert run.summary["stop_reason"] == "env_steps"
    assert run.summary["evaluation"]["mean"] < 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.memory=none", "network.memory_size=64"], r"network.memory: drqn needs gru"),
        (["hyperparameters.burn_in=16"], r"burn_in=16 leaves nothing of sequence=16"),
        (["hyperparameters.sequence=1"], r"hyperparameters.sequence: .*greater than or equal to 2"),
        (["hyperparameters.n_step=3"], r"hyperparameters.n_step: unknown key"),
        (["hyperparameters.learning_starts=200000"], r"learning_starts=200000 is more than"),
        (["env.id=Pendulum-v1", "env.observed=null"], r"drqn needs a Discrete action space"),
    ],
)
def test_what_it_cannot_do_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_problem(load_experiment("drqn-masked-cartpole", overrides))


def test_dqn_refuses_a_memory():
    with pytest.raises(ConfigError, match=r"network.memory: dqn has no use for it"):
        load_experiment("dqn-cartpole", ["network.memory=gru"])


def test_the_resolved_configuration_is_read_again():
    experiment = load_experiment("drqn-masked-cartpole")
    assert resolve_experiment(experiment.dump()) == experiment
