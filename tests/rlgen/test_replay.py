"""The replay ring against a plain deque, and its account of updates."""

from collections import deque
from fractions import Fraction

import numpy as np
import pytest

from rlgen.replay import Replay, ReplayPlan


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    number = np.arange(first, first + count)
    return {
        "observation": np.stack([number, -number], axis=1).astype(np.float32),
        "action": number,
        "terminated": number % 3 == 0,
    }


def in_order(replay: Replay) -> list[int]:
    """The actions kept, oldest first."""
    actions = replay.columns["action"]
    if replay.size < replay.plan.capacity:
        return actions[: replay.size].tolist()
    return np.roll(actions, -replay.next).tolist()


@pytest.mark.parametrize("capacity", [1, 7, 16])
def test_wraps_around_like_a_deque(capacity: int) -> None:
    rng = np.random.default_rng(0)
    replay = Replay(ReplayPlan(capacity, batch_size=4, learning_starts=1), rng)
    expected: deque[int] = deque(maxlen=capacity)
    total = 0
    # Lengths from 1 to more than twice the capacity; 0 is a rollout that only reset.
    for count in [1, *rng.integers(0, 2 * capacity + 3, size=60).tolist()]:
        replay.insert(rows(total, count))
        expected.extend(range(total, total + count))
        total += count
        assert in_order(replay) == list(expected)
        assert replay.size == len(expected)
        np.testing.assert_array_equal(
            replay.columns["observation"][: replay.size, 1],
            -replay.columns["action"][: replay.size],
        )


def test_what_is_not_filled_is_zero_and_not_what_memory_held() -> None:
    """For checkpoints have it too: files of equal runs are equal, and tell of nothing else."""
    dirt = [np.full((64, 2), 7.0, np.float32) for _ in range(50)]
    del dirt
    replay = Replay(ReplayPlan(64, batch_size=4, learning_starts=1), np.random.default_rng(0))
    replay.insert(rows(1, 3))
    assert replay.columns["observation"][:3].any()
    assert not any(column[3:].any() for column in replay.columns.values())


def test_a_sample_keeps_rows_together_and_dtypes() -> None:
    replay = Replay(ReplayPlan(50, batch_size=200, learning_starts=1), np.random.default_rng(1))
    replay.insert(rows(100, 20))
    batch = replay.sample()
    assert batch["observation"].shape == (200, 2)
    assert {name: str(c.dtype) for name, c in batch.items()} == {
        "observation": "float32",
        "action": "int64",
        "terminated": "bool",
    }
    action = batch["action"]
    assert set(action.tolist()) == set(range(100, 120))  # a row is missed with p = 7e-4
    np.testing.assert_array_equal(batch["observation"][:, 0], action)
    np.testing.assert_array_equal(batch["terminated"], action % 3 == 0)


def test_sampling_is_uniform() -> None:
    # 10 rows, 20,000 draws: chi-squared with 9 degrees of freedom, 99.9 % quantile 27.9.
    replay = Replay(ReplayPlan(10, batch_size=20_000, learning_starts=1), np.random.default_rng(2))
    replay.insert(rows(0, 25))
    counts = np.bincount(replay.sample()["action"] - 15, minlength=10)
    assert ((counts - 2_000.0) ** 2 / 2_000).sum() < 27.9


@pytest.mark.parametrize("ratio", [(1, 1), (1, 4), (3, 2), (5, 7)])
def test_updates_owed_are_an_exact_account(ratio: tuple[int, int]) -> None:
    plan = ReplayPlan(1_000, batch_size=1, learning_starts=1, updates_per_step=ratio)
    replay = Replay(plan, np.random.default_rng(3))
    steps = updates = 0
    for count in np.random.default_rng(4).integers(1, 9, size=200).tolist():
        replay.insert(rows(steps, count))
        steps += count
        while replay.owes_update():
            updates += 1
        assert updates == int(Fraction(*ratio) * steps)


def test_nothing_is_owed_before_learning_starts() -> None:
    replay = Replay(ReplayPlan(100, 1, learning_starts=10), np.random.default_rng(5))
    replay.insert(rows(0, 9))
    assert not replay.owes_update()
    replay.insert(rows(9, 3))  # reaches 10: this batch counts, the warm-up before it does not
    assert [replay.owes_update() for _ in range(4)] == [True, True, True, False]
