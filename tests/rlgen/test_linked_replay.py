"""n-step returns and sequences of a replay, against loops over the episodes as they happened."""

from typing import Any

import numpy as np
import pytest

from rlgen.linked_replay import LinkedReplay
from rlgen.replay import Replay, ReplayPlan

GAMMA = 0.9


class World:
    """Streams of numbered transitions; ``observation`` names the moment, so no two are alike.

    Attributes:
        streams: of each stream, its transitions so far, as dicts; "broken" where the next one
            belongs to another episode although none ended (a worker was replaced).
    """

    def __init__(self, workers: int, envs: int, seed: int, end: float = 0.15) -> None:
        self.rng = np.random.default_rng(seed)
        self.workers, self.envs, self.end = workers, envs, end
        self.streams: list[list[dict[str, Any]]] = [[] for _ in range(workers * envs)]
        self.resting = np.zeros(workers * envs, bool)  # only resets at the next step
        self.now = np.arange(workers * envs) * 1_000_000
        self.count = 0

    def rollout(self, steps: int, workers: list[int]) -> dict[str, np.ndarray]:
        """Columns ``(T, W * B)`` of some workers, with rows that only reset."""
        columns: dict[str, list[list[Any]]] = {}
        for _ in range(steps):
            line: dict[str, list[Any]] = {}
            for worker in workers:
                for stream in range(worker * self.envs, (worker + 1) * self.envs):
                    for name, value in self._step(stream).items():
                        line.setdefault(name, []).append(value)
            for name, values in line.items():
                columns.setdefault(name, []).append(values)
        batch = {name: np.array(values) for name, values in columns.items()}
        return batch | {"reward": batch["reward"].astype(np.float32)}

    def _step(self, stream: int) -> dict[str, Any]:
        observation, valid = self.now[stream], not self.resting[stream]
        chance = self.rng.random()
        row = {
            "observation": observation,
            "action": self.count,
            "reward": self.rng.normal(),
            "next_observation": observation + 1,
            "terminated": bool(valid and chance < self.end / 2),
            "truncated": bool(valid and self.end / 2 < chance < self.end),
            "valid": valid,
        }
        self.count += 1
        ended = row["terminated"] or row["truncated"]
        self.now[stream] += 1 if not ended and valid else 100
        # Half of the ends are followed by a row that only resets.
        self.resting[stream] = ended and self.rng.random() < 0.5
        if valid:
            self.streams[stream].append(dict(row, broken=False))
        return row

    def replace(self, worker: int) -> None:
        """New episodes in all of a worker's environments."""
        for stream in range(worker * self.envs, (worker + 1) * self.envs):
            self.now[stream] += 500
            self.resting[stream] = False
            if self.streams[stream]:
                self.streams[stream][-1]["broken"] = True

    def from_row(self, number: int) -> list[dict[str, Any]]:
        """The transition of that number and those after it, to the end of its episode."""
        for stream in self.streams:
            for i, row in enumerate(stream):
                if row["action"] == number:
                    rest = []
                    for later in stream[i:]:
                        rest.append(later)
                        if later["terminated"] or later["truncated"] or later["broken"]:
                            break
                    return rest
        raise AssertionError(number)


def filled(plan: ReplayPlan, seed: int) -> tuple[LinkedReplay, World]:
    """A replay of two workers with three environments each, whose batches come as they like."""
    world = World(2, 3, seed)
    replay = LinkedReplay(plan, np.random.default_rng(seed))
    for cycle in range(12):
        workers = [[0, 1], [1], [0], [0, 1]][cycle % 4]  # joined (sync), and one by one (async)
        replay.take(world.rollout(int(world.rng.integers(1, 8)), workers), workers)
        if cycle == 5:
            world.replace(1)
    return replay, world


@pytest.mark.parametrize("capacity", [20, 90, 1_000])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_step_returns_are_those_of_a_loop_over_the_episode(n: int, capacity: int) -> None:
    """Across rollout cuts, up to ends, with the true successor; over a wrapped ring."""
    plan = ReplayPlan(capacity, 3_000, 1, n_step=n, gamma=GAMMA)
    replay, world = filled(plan, seed=n)
    if capacity > 20:
        assert max(len(world.from_row(a)) for a in replay.columns["action"][: replay.size]) > n
    batch = replay.sample()
    seen = set()
    for i, number in enumerate(batch["action"].tolist()):
        steps = world.from_row(number)[:n]
        assert batch["observation"][i] == steps[0]["observation"]
        assert batch["next_observation"][i] == steps[-1]["next_observation"]
        assert batch["terminated"][i] == steps[-1]["terminated"]
        expected = sum(GAMMA**k * step["reward"] for k, step in enumerate(steps))
        assert batch["reward"][i] == pytest.approx(expected, abs=1e-5)
        if n > 1:
            assert batch["discount"][i] == pytest.approx(GAMMA ** len(steps))
        seen.add((len(steps), steps[-1]["terminated"], steps[-1]["truncated"]))
    assert len(seen) >= min(n, 3)
    assert batch["reward"].dtype == np.float32


def test_links_of_a_long_batch_equal_those_of_short_ones() -> None:
    """More rows at once than the ring holds."""
    world = World(1, 2, seed=3)
    rollout = world.rollout(40, [0])
    whole, parts = (
        LinkedReplay(ReplayPlan(17, 200, 1, n_step=3), np.random.default_rng(0)) for _ in range(2)
    )
    whole.take(rollout, [0])
    for t in range(40):
        parts.take({name: column[t : t + 1] for name, column in rollout.items()}, [0])
    left, right = whole.sample(), parts.sample()
    for name, column in left.items():
        np.testing.assert_array_equal(column, right[name])


def test_sequences_are_consecutive_rows_of_one_episode() -> None:
    replay, world = filled(ReplayPlan(150, 300, 1, sequence=6), seed=4)
    batch = replay.sample()
    assert batch["observation"].shape == batch["valid"].shape == (6, 300)
    lengths = set()
    for column in range(300):
        steps = world.from_row(batch["action"][0, column])[:6]
        count = len(steps)
        assert batch["valid"][:, column].tolist() == [True] * count + [False] * (6 - count)
        for name in ("action", "observation", "next_observation", "terminated"):
            assert batch[name][:count, column].tolist() == [step[name] for step in steps]
        lengths.add(count)
    assert lengths == {1, 2, 3, 4, 5, 6}


def test_without_streams_rows_are_of_one_environment() -> None:
    number = np.arange(6)
    rows = {
        "observation": number,
        "action": number,
        "reward": np.ones(6, np.float32),
        "next_observation": number + 1,
        "terminated": number == 3,
    }
    replay = LinkedReplay(ReplayPlan(10, 50, 1, n_step=3), np.random.default_rng(0))
    replay.insert(rows)
    batch = replay.sample()
    expected = np.array([3, 3, 2, 1, 2, 1], np.float32)  # rewards up to the end after row 3
    np.testing.assert_array_equal(batch["reward"], expected[batch["action"]])


def test_the_account_of_updates_is_that_of_the_plain_replay() -> None:
    plan = ReplayPlan(30, 4, learning_starts=10, updates_per_step=(1, 3), n_step=2)
    world = World(1, 3, seed=5)
    plain, linked = (
        Replay(plan, np.random.default_rng(0)),
        LinkedReplay(plan, np.random.default_rng(0)),
    )
    for steps in (1, 2, 30, 1, 5):
        batch = world.rollout(steps, [0])
        plain.take(batch, [0])
        linked.take(batch, [0])
        assert (plain.owed, plain.size, plain.next) == (linked.owed, linked.size, linked.next)
    assert plain.owed > 0
