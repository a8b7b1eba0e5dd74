"""Returns against hand-computed numbers and a slow loop."""

import numpy as np
import pytest
import torch

from rlgen.returns import gae, n_step_returns, vtrace


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


def random_columns(seed: int, steps: int = 17, envs: int = 6) -> dict[str, np.ndarray]:
    """Rewards, values of states and of true successors, and ends; as within a rollout."""
    rng = np.random.default_rng(seed)
    terminated, truncated = rng.random((2, steps, envs)) < 0.15
    reward, value, next_value = rng.normal(size=(3, steps, envs))
    inside = ~(terminated | truncated)[:-1]  # there the successor is the next row's state
    next_value[:-1][inside] = value[1:][inside]
    columns = {"reward": reward, "value": value, "next_value": next_value}
    return columns | {"terminated": terminated, "truncated": truncated}


def tensors(columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def test_gae_by_hand() -> None:
    # gamma = lam = 0.5. Row 2: 3 + 0.5 * 8 - 2 = 5; row 1: 2 + 0.5 * 2 - 1 + 0.25 * 5 = 3.25;
    # row 0: 1 + 0.5 * 1 - 4 + 0.25 * 3.25 = -1.6875.
    off = torch.zeros(3, 1, dtype=torch.bool)
    value, following = column(4.0, 1.0, 2.0), column(1.0, 2.0, 8.0)
    advantage = gae(column(1.0, 2.0, 3.0), value, following, off, off, 0.5, 0.5)
    assert advantage.tolist() == [[-1.6875], [3.25], [5.0]]


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_gae_is_the_weighted_sum_of_k_step_advantages(seed: int, lam: float) -> None:
    """Eq 16 of the paper: (1 - lam) sum_k lam^(k-1) A^(k), the last one with all that is left.

    A^(k) = r_t + ... + gamma^(k-1) r_{t+k-1} + gamma^k V(s_{t+k}) - V(s_t).
    """
    columns, gamma = random_columns(seed), 0.93
    reward, value, following = (columns[name] for name in ("reward", "value", "next_value"))
    steps, envs = reward.shape
    expected = np.zeros_like(reward)
    for t in range(steps):
        for b in range(envs):
            sum_, weight = 0.0, 1.0  # of the rewards; what of the weights is left
            for k in range(1, steps - t + 1):
                row = t + k - 1
                sum_ += gamma ** (k - 1) * reward[row, b]
                future = 0.0 if columns["terminated"][row, b] else following[row, b]
                advantage = sum_ + gamma**k * future - value[t, b]
                ends = columns["terminated"][row, b] or columns["truncated"][row, b]
                if ends or row == steps - 1:
                    expected[t, b] += weight * advantage
                    break
                expected[t, b] += (1 - lam) * lam ** (k - 1) * advantage
                weight -= (1 - lam) * lam ** (k - 1)
    result = gae(**tensors(columns), gamma=gamma, lam=lam)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("clips", [(1.0, 1.0), (2.0, 0.7), (1e9, 1e9)])
@pytest.mark.parametrize("seed", range(3))
def test_vtrace_is_the_sum_of_the_paper(seed: int, clips: tuple[float, float]) -> None:
    """v_s = V(s_s) + sum_t gamma^(t-s) (prod_{i<t} c_i) delta_t, by a forward sum for each row."""
    columns, gamma = random_columns(seed), 0.93
    log_ratio = np.random.default_rng(seed + 10).normal(scale=0.7, size=columns["reward"].shape)
    reward, value, following = (columns[name] for name in ("reward", "value", "next_value"))
    rho, c = np.minimum(clips[0], np.exp(log_ratio)), np.minimum(clips[1], np.exp(log_ratio))
    steps, envs = reward.shape
    target, advantage = np.zeros_like(reward), np.zeros_like(reward)
    for b in range(envs):
        for s in reversed(range(steps)):
            product, target[s, b] = 1.0, value[s, b]
            for t in range(s, steps):
                future = 0.0 if columns["terminated"][t, b] else following[t, b]
                delta = rho[t, b] * (reward[t, b] + gamma * future - value[t, b])
                target[s, b] += gamma ** (t - s) * product * delta
                product *= c[t, b]
                if columns["terminated"][t, b] or columns["truncated"][t, b]:
                    break
            if columns["terminated"][s, b]:
                after = 0.0
            elif columns["truncated"][s, b] or s == steps - 1:
                after = following[s, b]
            else:
                after = target[s + 1, b]
            advantage[s, b] = rho[s, b] * (reward[s, b] + gamma * after - value[s, b])
    rows = tensors(columns | {"log_ratio": log_ratio})
    result = vtrace(**rows, gamma=gamma, rho_clip=clips[0], c_clip=clips[1])
    np.testing.assert_allclose(result[0].numpy(), target, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(result[1].numpy(), advantage, rtol=1e-10, atol=1e-12)


def test_on_policy_vtrace_and_gae_with_lambda_1_are_n_step_returns() -> None:
    """Remark 1 of the paper on V-trace; telescoping of the errors in that on GAE."""
    rows = tensors(random_columns(4))
    value, following = rows["value"], rows["next_value"]
    ends = (rows["terminated"], rows["truncated"])
    returns = n_step_returns(rows["reward"], following, *ends, 0.9)
    target, advantage = vtrace(torch.zeros_like(value), **rows, gamma=0.9, rho_clip=1, c_clip=1)
    torch.testing.assert_close(target, returns)
    torch.testing.assert_close(advantage, returns - value)
    torch.testing.assert_close(gae(**rows, gamma=0.9, lam=1.0), returns - value)


def test_rows_that_only_reset_change_no_advantage() -> None:
    rows = tensors(random_columns(5))
    rows["terminated"][3] = True
    ratio = torch.randn(rows["reward"].shape, dtype=torch.float64)
    other = {name: column.clone() for name, column in rows.items()}
    other["reward"][4], other["next_value"][3], other["value"][4] = 1e6, 1e6, 1e6
    other["terminated"][4], other["truncated"][4] = False, False  # row 4 only resets
    rows["terminated"][4], rows["truncated"][4] = False, False
    kept = torch.arange(len(ratio)) != 4

    def all_three(columns: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        targets = vtrace(ratio, **columns, gamma=0.9, rho_clip=1, c_clip=1)
        return [gae(**columns, gamma=0.9, lam=0.8)[kept], *(column[kept] for column in targets)]

    for first, second in zip(all_three(rows), all_three(other), strict=True):
        assert torch.equal(first, second)
