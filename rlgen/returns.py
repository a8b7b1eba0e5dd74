"""Returns of rollouts: pure functions over time-major columns ``(T, B)``."""

from __future__ import annotations

import torch
from torch import Tensor


def n_step_returns(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
) -> Tensor:
    """Discounted returns of a rollout of T steps, bootstrapped where it is cut.

    In one backward pass (eq 14.55; bootstrapped as in eq 14.71), with s_{t+1} the true successor
    of row t,

        R_t = r_t + gamma * 0              if row t terminated,
        R_t = r_t + gamma * V(s_{t+1})     if row t was truncated, or is the last one,
        R_t = r_t + gamma * R_{t+1}        else.

    So row t gets the (T - t)-step return, or a shorter one where its episode ends before. With
    ``next_value`` zero these are the plain discounted returns G_t of the rollout.

    A row where the environment only reset (not ``valid``) follows the end of an episode, so no
    other row depends on it; its own return means nothing.

    Args:
        reward: ``(T, B)`` float.
        next_value: ``(T, B)`` float, V(s_{t+1}); read only where the second case holds.
        terminated: ``(T, B)`` bool.
        truncated: ``(T, B)`` bool.
        gamma: discount per step, in [0, 1].

    Returns:
        ``(T, B)``, of the dtype of ``reward``.
    """
    last = torch.zeros_like(terminated)
    last[-1] = True
    cut = (truncated | last) & ~terminated
    returns = reward + gamma * torch.where(cut, next_value, 0.0)
    carry = gamma * (~(cut | terminated)).to(reward)
    rows, carries = (
        returns.unbind(0),
        carry.unbind(0),
    )  # views: the loop fills `returns`
    for t in reversed(range(len(rows) - 1)):
        rows[t].addcmul_(carries[t], rows[t + 1])
    return returns
