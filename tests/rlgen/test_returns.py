"""Returns against hand-computed numbers and a slow loop."""

import numpy as np
import pytest
import torch

from rlgen.returns import n_step_returns


def column(*rows: object) -> torch.Tensor:
    return torch.tensor(rows)[:, None]


def test_discounted_returns_by_hand() -> None:
    # G_2 = 3, G_1 = 2 + 0.5 * 3 = 3.5, G_0 = 1 + 0.5 * 3.5 = 2.75 (eq 14.55).
    off = torch.zeros(3, 1, dtype=torch.bool)
    returns = n_step_returns(column(1.0, 2.0, 3.0), torch.zeros(3, 1), off, off, gamma=0.5)
    assert returns.tolist() == [[2.75], [3.5], [3.0]]


def test_last_row_bootstraps_by_hand() -> None:
    # Three-step return: 1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 8 = 3.75.
    off = torch.zeros(3, 1, dtype=torch.bool)
    value = torch.full((3, 1), 8.0)
    returns = n_step_returns(column(1.0, 2.0, 3.0), value, off, off, gamma=0.5)
    assert returns.tolist() == [[3.75], [5.5], [7.0]]


@pytest.mark.parametrize(("ended", "expected"), [("terminated", 2.0), ("truncated", 5.0)])
def test_termination_ends_the_future_and_truncation_does_not(ended: str, expected: float) -> None:
    # Row 1 ends: its return is 2, or 2 + 0.5 * V = 2 + 0.5 * 6; row 0 adds 1 + 0.5 of that.
    flags = {name: torch.zeros(3, 1, dtype=torch.bool) for name in ("terminated", "truncated")}
    flags[ended][1] = True
    value = column(100.0, 6.0, 4.0)
    returns = n_step_returns(column(1.0, 2.0, 3.0), value, **flags, gamma=0.5)
    assert returns[:, 0].tolist() == [1 + 0.5 * expected, expected, 5.0]


def test_terminated_wins_over_truncated_and_over_the_last_row() -> None:
    on = torch.ones(2, 1, dtype=torch.bool)
    value = torch.full((2, 1), 9.0)
    assert n_step_returns(column(1.0, 2.0), value, on, on, 0.9).tolist() == [[1.0], [2.0]]


def test_one_row_is_the_one_step_return() -> None:
    # Eq 14.71: r + gamma * V(s').
    off = torch.zeros(1, 1, dtype=torch.bool)
    assert n_step_returns(column(1.0), column(4.0), off, off, 0.5).tolist() == [[3.0]]


@pytest.mark.parametrize("seed", range(5))
def test_against_a_slow_loop_over_random_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, envs, gamma = 17, 6, 0.93
    reward, value = rng.normal(size=(2, steps, envs))
    terminated, truncated = rng.random((2, steps, envs)) < 0.2
    # Forward sums from every row, unlike the backward pass under test.
    expected = np.zeros((steps, envs))
    for t in range(steps):
        for b in range(envs):
            discount = 1.0
            for k in range(t, steps):
                expected[t, b] += discount * reward[k, b]
                discount *= gamma
                if terminated[k, b]:
                    break
                if truncated[k, b] or k == steps - 1:
                    expected[t, b] += discount * value[k, b]
                    break
    reward_, value_, ended, cut = map(torch.from_numpy, (reward, value, terminated, truncated))
    returns = n_step_returns(reward_, value_, ended, cut, gamma)
    np.testing.assert_allclose(returns.numpy(), expected, rtol=1e-12)


def test_rows_that_only_reset_have_no_influence_and_inputs_stay() -> None:
    terminated = torch.tensor([[False], [True], [False], [False]])
    off = torch.zeros_like(terminated)
    reward, value = column(1.0, 1.0, 0.0, 1.0), column(0.0, 0.0, 0.0, 2.0)
    other = reward.clone()
    other[2] = 1e6  # row 2 follows the end of an episode: it only resets
    kept = other.clone()
    first = n_step_returns(reward, value, terminated, off, 0.9)
    second = n_step_returns(other, value, terminated, off, 0.9)
    assert torch.equal(first[[0, 1, 3]], second[[0, 1, 3]])
    assert torch.equal(other, kept)
