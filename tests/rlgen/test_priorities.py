"""The sum tree against plain sums, and proportional draws against Schaul's formula (eq 1)."""

import numpy as np
import pytest

from rlgen.algorithm import Algorithm, Problem
from rlgen.linked_replay import LinkedReplay, make_replay
from rlgen.priorities import Priorities, SumTree
from rlgen.replay import Replay, ReplayPlan


@pytest.mark.parametrize("capacity", [1, 63, 64, 65, 5_000])
def test_the_tree_finds_where_the_running_sum_passes(capacity: int) -> None:
    rng = np.random.default_rng(0)
    tree, weights = SumTree(capacity), np.zeros(capacity)
    for _ in range(20):
        slots = rng.choice(capacity, size=rng.integers(1, capacity + 1), replace=False)
        # Whole numbers: their sums are exact, so the two agree at every boundary.
        weights[slots] = rng.integers(0, 4, size=len(slots))
        tree.set(slots, weights[slots])
        if weights.sum() == 0:
            continue
        assert tree.total == weights.sum()
        mass = np.concatenate([rng.random(50) * tree.total, np.arange(tree.total)])
        expected = np.searchsorted(weights.cumsum(), mass, side="right")
        np.testing.assert_array_equal(tree.find(mass), expected)


def test_rounding_never_finds_an_empty_slot() -> None:
    rng = np.random.default_rng(1)
    tree = SumTree(10_000)
    slots = rng.choice(10_000, size=300, replace=False)
    tree.set(slots, rng.random(300) ** 12)  # over some thirty orders of magnitude
    total = tree.total
    mass = np.concatenate(
        [[0.0, total, np.nextafter(total, 0), total * 2], rng.random(5_000) * total]
    )
    assert set(tree.find(mass).tolist()) <= set(slots.tolist())


def test_a_repeated_slot_keeps_one_weight() -> None:
    tree = SumTree(200)
    tree.set(np.array([150, 3, 150]), np.array([2.0, 1.0, 2.0]))
    assert tree.total == 3.0


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_rows_are_drawn_in_proportion_to_their_priority(alpha: float) -> None:
    """P(i) = p_i^alpha / sum_k p_k^alpha; strata make the counts more even than independent draws,
    whose 99.9 % quantile of chi-squared with 99 degrees of freedom is 148.2."""
    rng = np.random.default_rng(2)
    priorities = Priorities(150, alpha)
    slots = np.arange(100)
    priorities.add(slots)
    p = rng.random(100) + 0.05
    priorities.set(slots, p.astype(np.float32))
    expected = p**alpha / (p**alpha).sum()
    counts = np.zeros(150)
    for _ in range(500):
        drawn, probability = priorities.draw(64, rng)
        np.testing.assert_allclose(probability, expected[drawn], rtol=1e-6)
        np.add.at(counts, drawn, 1)
    assert counts[100:].sum() == 0
    draws = 500 * 64
    assert ((counts[:100] - draws * expected) ** 2 / (draws * expected)).sum() < 148.2


def test_each_stratum_gives_one_row() -> None:
    """64 rows of one priority, 64 strata: every row once, which independent draws never do."""
    priorities = Priorities(64, 0.6)
    priorities.add(np.arange(64))
    drawn, _ = priorities.draw(64, np.random.default_rng(3))
    assert sorted(drawn.tolist()) == list(range(64))


def test_new_rows_have_the_largest_priority_so_far() -> None:
    priorities = Priorities(4, 1.0)
    priorities.add(np.arange(2))
    priorities.set(np.array([0, 1]), np.array([8.0, 0.5]))
    priorities.set(np.array([0]), np.array([2.0]))
    priorities.add(np.array([2]))
    assert priorities.tree.levels[0][:4].tolist() == [2.0, 0.5, 8.0, 0.0]


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    number = np.arange(first, first + count)
    return {
        "observation": number,
        "action": number,
        "reward": number.astype(np.float32),
        "next_observation": number + 1,
        "terminated": np.zeros(count, bool),
    }


def test_the_replay_takes_the_priorities_of_the_rows_it_gave() -> None:
    plan = ReplayPlan(8, batch_size=200, learning_starts=1, priority_exponent=1.0)
    replay = LinkedReplay(plan, np.random.default_rng(4))
    replay.insert(rows(0, 5))
    drawn = replay.sample()["action"]
    replay.learned((drawn == 3) * 3.0 + 1e-12)
    batch = replay.sample()
    assert set(batch["action"].tolist()) == {3}
    np.testing.assert_allclose(batch["probability"], 1.0)
    replay.insert(rows(5, 5))  # overwrites 0 and 1; the new ones are as likely as row 3
    counts = np.bincount(replay.sample()["action"], minlength=10)
    assert counts[[0, 1, 2, 4]].sum() == 0
    np.testing.assert_allclose(counts[[3, 5, 6, 7, 8, 9]], 200 / 6, atol=2)


def test_only_a_plan_that_asks_for_it_gets_the_linked_replay() -> None:
    def made(**plan):
        algorithm = Algorithm(None, Problem(), np.random.default_rng(0))
        algorithm.replay = ReplayPlan(100, 10, 10, **plan)
        return type(make_replay(algorithm))

    assert made() is Replay
    for plan in ({"n_step": 3}, {"sequence": 4}, {"priority_exponent": 0.0}):
        assert made(**plan) is LinkedReplay
