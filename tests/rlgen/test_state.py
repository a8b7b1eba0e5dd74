"""State of objects as arrays and JSON, and back."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from rlgen import checkpoint, state
from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.errors import CheckpointError


class Everything:
    """One attribute of every kind that is kept."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.legacy = np.random.RandomState(seed)
        self.number, self.flag, self.nothing, self.word = seed, seed > 1, None, f"w{seed}"
        self.array = self.rng.normal(size=(2, 3))
        self.view = self.array[0]
        self.empty = np.empty(0, np.int64)
        self.scalar = np.array(self.rng.random())
        self.bits = self.rng.random(5) > 0.5
        self.tensor = torch.rand(3)
        self.nested = {"a": [1, (2.0, np.arange(seed + 1))], 3: self.rng.random()}
        self.network = nn.Linear(2, 2)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.1)
        self.child = Child(seed)
        self.function = len  # a constant: not kept, not lost

    def work(self) -> torch.Tensor:
        """Change everything that changes."""
        self.number += 1
        self.array += self.rng.normal() + self.legacy.normal()
        self.optimizer.zero_grad()
        self.network(torch.full((1, 2), self.rng.random(), dtype=torch.float32)).sum().backward()
        self.optimizer.step()
        return torch.cat([p.detach().flatten() for p in self.network.parameters()])


class Child:
    def __init__(self, seed: int) -> None:
        self.values = list(range(seed))
        self.parent_name = "everything"


def through_disk(target: object, tmp_path) -> tuple:
    kept = state.capture(target)
    assert kept.opaque == []
    checkpoint.write_part(tmp_path, "part", json.loads(json.dumps(kept.plain)), kept.arrays)
    return checkpoint.read_part(tmp_path, "part")


def test_an_object_goes_on_exactly_where_it_was_kept(tmp_path):
    one = Everything(3)
    one.work()
    kept = through_disk(one, tmp_path)
    expected = [one.work() for _ in range(3)]

    other = Everything(1)
    state.restore(other, *kept)
    assert (other.number, other.flag, other.nothing, other.word) == (4, True, None, "w3")
    assert other.nested["a"][1][0] == 2.0 and isinstance(other.nested["a"][1], tuple)
    np.testing.assert_array_equal(other.nested["a"][1][1], np.arange(4))
    assert 3 in other.nested  # an integer key stays one
    assert other.child.values == [0, 1, 2]
    assert other.function is len
    assert other.view.base is not None and np.shares_memory(other.view, other.array)
    got = [other.work() for _ in range(3)]
    for left, right in zip(expected, got, strict=True):
        assert torch.equal(left, right)
    np.testing.assert_array_equal(one.array, other.array)


def test_what_lives_in_foreign_memory_is_named(tmp_path):
    class Simulator:
        def __init__(self) -> None:
            self.handle = iter([1, 2])  # no attributes, no way to look inside
            self.time = 1.0

    kept = state.capture(Simulator())
    assert kept.opaque == ["handle"]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "FrozenLake-v1"])
def test_environments_go_on_exactly(env_id, tmp_path):
    config = EnvConfig(id=env_id, frame_stack=2)
    rng = np.random.default_rng(0)

    def actions(env: Environments) -> list[np.ndarray]:
        space = env.action_space
        if isinstance(space, gym.spaces.Discrete):
            return [rng.integers(space.n, size=3) for _ in range(60)]
        return [rng.uniform(-1, 1, size=(3, *(space.shape or ()))) for _ in range(60)]

    env = Environments(config, 3, seed=7)
    env.reset()
    for action in actions(env):
        env.step(action)
    kept = through_disk(env, tmp_path)
    future = actions(env)
    expected = [env.step(action) for action in future]

    other = Environments(config, 3, seed=8)
    other.reset()
    state.restore(other, *kept)
    for action, step in zip(future, expected, strict=True):
        for left, right in zip(step, other.step(action), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_state_of_another_shape_is_refused():
    kept = state.capture(nn.ModuleDict({"a": nn.Linear(2, 2)}))

    class Holder:
        def __init__(self, size: int) -> None:
            self.network = nn.Linear(size, 2)

    kept = state.capture(Holder(2))
    with pytest.raises(CheckpointError, match="does not fit Holder.*another algorithm, network"):
        state.restore(Holder(3), kept.plain, kept.arrays)
