"""Replays that share frames give the same minibatches as those that store every stack."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlgen import checkpoint, state
from rlgen.algorithm import Algorithm, Problem
from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.linked_replay import LinkedReplay, make_replay
from rlgen.replay import Replay, ReplayPlan

K, SHAPE = 4, (7, 6)


class Film:
    """Environments that show stacks of random frames.

    Args:
        envs: how many.
        first: how an episode's first stack is filled: "repeat" its frame, "zeros" before it, or
            "noise", other frames (as after no-op starts).
        end: chance of an episode's end per step.
    """

    def __init__(self, envs: int, first: str, end: float, seed: int, shape=SHAPE) -> None:
        self.rng = np.random.default_rng(seed)
        self.first, self.end, self.shape = first, end, shape
        self.stacks = [self._start() for _ in range(envs)]

    def _frame(self) -> np.ndarray:
        return self.rng.integers(0, 256, self.shape, dtype=np.uint8)

    def _start(self) -> deque[np.ndarray]:
        frame = self._frame()
        if self.first == "repeat":
            return deque([frame] * K, maxlen=K)
        fill = [
            np.zeros_like(frame) if self.first == "zeros" else self._frame() for _ in range(K - 1)
        ]
        return deque([*fill, frame], maxlen=K)

    def rollout(self, steps: int) -> dict[str, np.ndarray]:
        columns: dict[str, list[list[Any]]] = {}
        for _ in range(steps):
            line: dict[str, list[Any]] = {}
            for i, stack in enumerate(self.stacks):
                before = np.stack(stack)
                stack.append(self._frame())
                chance = self.rng.random()
                row = {
                    "observation": before,
                    "next_observation": np.stack(stack),
                    "action": self.rng.integers(9),
                    "reward": np.float32(self.rng.normal()),
                    "terminated": chance < self.end / 2,
                    "truncated": self.end / 2 < chance < self.end,
                    "valid": chance < 0.97,  # lost rows break the chain, too
                }
                if chance < self.end:
                    self.stacks[i] = self._start()
                for name, value in row.items():
                    line.setdefault(name, []).append(value)
            for name, values in line.items():
                columns.setdefault(name, []).append(values)
        return {name: np.array(values) for name, values in columns.items()}


def pair(plan: ReplayPlan) -> tuple[Replay, LinkedReplay]:
    return Replay(plan, np.random.default_rng(7)), LinkedReplay(plan, np.random.default_rng(7))


def assert_same(plain: Replay, linked: LinkedReplay) -> None:
    left, right = plain.sample(), linked.sample()
    assert left.keys() == right.keys()
    for name, column in left.items():
        assert column.dtype == right[name].dtype
        np.testing.assert_array_equal(column, right[name])


@pytest.mark.parametrize("capacity", [5, 64, 3_000])
@pytest.mark.parametrize("first", ["repeat", "zeros", "noise"])
@pytest.mark.parametrize("end", [0.02, 0.6])  # long episodes, and so short that the ring must grow
def test_samples_equal_those_of_the_naive_replay(first: str, end: float, capacity: int) -> None:
    plain, linked = pair(ReplayPlan(capacity, 200, 1))
    film = Film(5, first, end, seed=capacity)
    for _ in range(30):
        batch = film.rollout(int(film.rng.integers(1, 9)))
        plain.take(batch, [0])
        linked.take(batch, [0])
        assert_same(plain, linked)
    assert linked.frames.names == ("observation", "next_observation")
    assert not {"observation", "next_observation"} & linked.columns.keys()


def test_two_workers_whose_batches_come_one_by_one() -> None:
    plain, linked = pair(ReplayPlan(100, 200, 1))
    films = [Film(3, "repeat", 0.1, seed) for seed in range(2)]
    for turn in [0, 1, 1, 0, 1, 0, 0, 0, 0, 1] * 3:  # the other's rows are long overwritten
        batch = films[turn].rollout(9)
        plain.take(batch, [turn])
        linked.take(batch, [turn])
        assert_same(plain, linked)


def test_successors_that_are_no_shift_are_kept_whole() -> None:
    """Whatever comes after the first rows, what comes out is what went in."""
    plain, linked = pair(ReplayPlan(50, 100, 1))
    film = Film(4, "repeat", 0.1, seed=0)
    for cycle in range(20):
        batch = film.rollout(5)
        if cycle > 2:
            odd = film.rng.random(batch["valid"].shape) < 0.3
            batch["next_observation"][odd] = film.rng.integers(0, 256, (odd.sum(), K, *SHAPE))
        plain.take(batch, [0])
        linked.take(batch, [0])
        assert_same(plain, linked)


@pytest.mark.parametrize("shape", [(3, 8, 8), (8, 8, 3)])
def test_pictures_that_are_no_stacks_are_stored_as_they_are(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "observation": rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        "next_observation": rng.integers(0, 256, (20, *shape), dtype=np.uint8),
        "action": np.arange(20),
        "terminated": np.zeros(20, bool),
    }
    plain, linked = pair(ReplayPlan(30, 50, 1))
    plain.insert(rows)
    linked.insert(rows)
    assert linked.frames.names == ()
    assert_same(plain, linked)


def test_n_step_returns_over_shared_frames() -> None:
    plan = ReplayPlan(64, 100, 1, n_step=3, gamma=0.9)
    linked, film = LinkedReplay(plan, np.random.default_rng(0)), Film(1, "repeat", 0.1, seed=1)
    history: list[dict[str, Any]] = []
    for _ in range(12):
        batch = film.rollout(6)
        batch["valid"][:] = True
        batch["action"][:, 0] = np.arange(6) + len(history)
        history += [{name: column[t, 0] for name, column in batch.items()} for t in range(6)]
        linked.take(batch, [0])
    sample = linked.sample()
    for i, number in enumerate(sample["action"].tolist()):
        last = number
        while last < min(number + 2, len(history) - 1) and not (
            history[last]["terminated"] or history[last]["truncated"]
        ):
            last += 1
        np.testing.assert_array_equal(sample["observation"][i], history[number]["observation"])
        successor = history[last]["next_observation"]
        np.testing.assert_array_equal(sample["next_observation"][i], successor)


def test_a_stored_replay_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    plan = ReplayPlan(40, 60, 1, n_step=2, gamma=0.9, priority_exponent=0.6)
    one, other = (LinkedReplay(plan, np.random.default_rng(3)) for _ in range(2))
    film = Film(3, "repeat", 0.3, seed=2)
    for _ in range(8):
        one.take(film.rollout(4), [0])
        one.sample()
        one.learned(np.random.default_rng(0).random(60) + 0.1)
    kept = state.capture(one)
    assert kept.opaque == []
    checkpoint.write_part(tmp_path, "replay", kept.plain, kept.arrays)
    state.restore(other, *checkpoint.read_part(tmp_path, "replay"))
    for _ in range(5):
        batch = film.rollout(4)
        one.take(batch, [0])
        other.take(batch, [0])
        left, right = one.sample(), other.sample()
        for name, column in left.items():
            np.testing.assert_array_equal(column, right[name])


def stored_bytes(replay: Replay) -> int:
    arrays = state.capture(replay).arrays.values()
    return sum(array.nbytes for array in arrays)


def test_the_memory_of_atari_stacks_is_an_eighth() -> None:
    """2k = 8 frames per transition become 1 and 1/200 of an episode's first; 1/32 is spare."""
    plain, linked = pair(ReplayPlan(1_000, 1, 1))
    film = Film(2, "repeat", 1 / 200, seed=0, shape=(84, 84))
    for _ in range(120):
        batch = film.rollout(5)
        batch["valid"][:] = True
        plain.take(batch, [0])
        linked.take(batch, [0])
    assert linked.size == 1_000
    assert 7 < stored_bytes(plain) / stored_bytes(linked) < 8


class Corridor(gym.Env):
    """A picture of where one stands, 8 x 8; the end is 5 steps away, a cut comes after 12."""

    observation_space = gym.spaces.Box(0, 255, (8, 8), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.place = self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = 0, 0
        return self._picture(), {}

    def step(self, action):
        self.place, self.time = max(self.place + 2 * int(action) - 1, 0), self.time + 1
        return self._picture(), 1.0, self.place == 5, self.time == 12, {}

    def _picture(self):
        picture = np.zeros((8, 8), np.uint8)
        picture[self.place] = 10 + self.time
        return picture


gym.register("Corridor-v0", Corridor, disable_env_checker=True)


def test_stacks_made_by_env_frame_stack_share_their_frames() -> None:
    env = Environments(EnvConfig(id="Corridor-v0", frame_stack=3), 3, seed=0)
    rng = np.random.default_rng(0)
    algorithm = Algorithm(None, Problem(env.observation_space, env.action_space), rng)
    algorithm.replay = ReplayPlan(70, 100, 1)
    linked = make_replay(algorithm)
    plain = Replay(algorithm.replay, np.random.default_rng(7))
    assert isinstance(linked, LinkedReplay)
    linked.rng = np.random.default_rng(7)
    observation = env.reset()
    for _ in range(40):
        lines = []
        for _ in range(4):
            action = rng.integers(2, size=3)
            step = env.step(action)
            lines.append(step._asdict() | {"observation": observation, "action": action})
            observation = step.observation
        batch = {name: np.stack([line[name] for line in lines]) for name in lines[0]}
        plain.take(batch, [0])
        linked.take(batch, [0])
        assert_same(plain, linked)
    assert linked.frames.names
    # Of 70 transitions in episodes of at least 5 steps.
    assert linked.frames.total - linked.frames.shown.min() < 70 * 1.6


def test_atari_stacks_share_their_frames_too() -> None:
    pytest.importorskip("ale_py")
    kwargs = {"noop_max": 30, "episodic_life": True, "num_threads": 1}
    env = Environments(EnvConfig(id="ALE/Breakout-v5", kwargs=kwargs), 2, seed=0)
    plain, linked = pair(ReplayPlan(150, 32, 1))
    rng, observation = np.random.default_rng(0), env.reset()
    steps = ends = 0
    for _ in range(40):
        lines = []
        for _ in range(4):
            action = rng.integers(4, size=2)
            step = env.step(action)
            lines.append(step._asdict() | {"observation": observation, "action": action})
            observation = step.observation
            ends += int((step.terminated | step.truncated).sum())
        batch = {name: np.stack([line[name] for line in lines]) for name in lines[0]}
        steps += int(batch["valid"].sum())
        plain.take(batch, [0])
        linked.take(batch, [0])
        assert_same(plain, linked)
    env.close()
    assert ends > 0
    assert linked.frames.total <= steps + K * (ends + 2)
