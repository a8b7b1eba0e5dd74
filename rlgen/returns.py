"""Returns of rollouts: pure functions over time-major columns ``(T, B)``."""

from __future__ import annotations

import numpy as np
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
    return _accumulated(returns, gamma * (~(cut | terminated)).to(reward))


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimates of a rollout of T steps.

    In one backward pass, with V(s_{t+1}) = 0 after a termination,

        delta_t = r_t + gamma * V(s_{t+1}) - V(s_t),
        A_t = delta_t + gamma * lam * A_{t+1},     A_{t+1} = 0 at an episode's or the rollout's end.

    ``lam`` 1 gives the n-step return (`n_step_returns`) minus V(s_t), ``lam`` 0 the one-step error
    of eq 14.71. Schulman et al., *High-dimensional continuous control using generalized advantage
    estimation*, 2016, eq 16.

    Args:
        reward: ``(T, B)`` float.
        value: ``(T, B)`` float, V(s_t).
        next_value: ``(T, B)`` float, V(s_{t+1}) of the true successors; not read where terminated.
        terminated: ``(T, B)`` bool.
        truncated: ``(T, B)`` bool.
        gamma: discount per step, in [0, 1].
        lam: lambda, in [0, 1].

    Returns:
        ``(T, B)``, of the dtype of ``reward``; rows that only reset (not ``valid``) have no
        influence on others, and their own entry means nothing.
    """
    advantage = reward + gamma * torch.where(terminated, 0.0, next_value) - value
    carry = gamma * lam * (~(terminated | truncated)).to(reward)
    return _accumulated(advantage, carry)


def vtrace(
    log_ratio: Tensor,
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    rho_clip: float,
    c_clip: float,
) -> tuple[Tensor, Tensor]:
    """V-trace targets of a rollout of T steps that another policy mu made.

    With rho_t = min(rho_clip, pi / mu) and c_t = min(c_clip, pi / mu), in one backward pass

        delta_t = rho_t (r_t + gamma V(s_{t+1}) - V(s_t)),
        v_t = V(s_t) + delta_t + gamma c_t (v_{t+1} - V(s_{t+1})),
        A_t = rho_t (r_t + gamma v_{t+1} - V(s_t)),

    where a rollout is cut (a truncation, the last row) v_{t+1} = V(s_{t+1}), and after a
    termination both are 0. With pi = mu and both clips 1, v_t is the n-step return and A_t that
    minus V(s_t). Espeholt et al., *IMPALA*, 2018, eq 1 and remark 1, section 4.2.

    Args:
        log_ratio: ``(T, B)`` float, log pi(a_t | s_t) - log mu(a_t | s_t).
        reward: ``(T, B)`` float.
        value: ``(T, B)`` float, V(s_t).
        next_value: ``(T, B)`` float, V(s_{t+1}) of the true successors; not read where terminated.
        terminated: ``(T, B)`` bool.
        truncated: ``(T, B)`` bool.
        gamma: discount per step, in [0, 1].
        rho_clip: rho bar, > 0.
        c_clip: c bar, > 0; at most ``rho_clip`` in the paper.

    Returns:
        The targets v_t and the policy's advantages A_t, ``(T, B)`` each; rows that only reset (not
        ``valid``) have no influence on others, and their own entries mean nothing.
    """
    ratio = log_ratio.exp()
    rho, c = ratio.clamp(max=rho_clip), ratio.clamp(max=c_clip)
    next_value = torch.where(terminated, 0.0, next_value)
    goes_on = (~(terminated | truncated)).to(reward)
    delta = rho * (reward + gamma * next_value - value)
    above = _accumulated(delta, gamma * c * goes_on)  # v_t - V(s_t)
    next_target = next_value.clone()
    next_target[:-1] += goes_on[:-1] * above[1:]
    return value + above, rho * (reward + gamma * next_target - value)


def _accumulated(values: Tensor, carry: Tensor) -> Tensor:
    """x_t = values_t + carry_t * x_{t+1} along the rows ``(T, B)``, in place of the values."""
    rows, carries = values.unbind(0), carry.unbind(0)  # views
    for t in reversed(range(len(rows) - 1)):
        rows[t].addcmul_(carries[t], rows[t + 1])
    return values


def n_step_rows(columns: dict[str, np.ndarray], n: int, gamma: float) -> dict[str, np.ndarray]:
    """The n-step returns of time-major rows ``(T, B)``, and what they are bootstrapped from.

    The return of row t is r_t + gamma r_{t+1} + ... of n rewards, or of fewer up to the episode's
    end. A row of which not all are there yet, or whose episode was lost (a "start" follows without
    an end), is not valid.

    Args:
        columns: "state", "action", "reward" float64, "successor", "next_action", "terminated",
            "truncated", "start" and "valid".
        n: rewards, at least 1.
        gamma: discount per step, in [0, 1].

    Returns:
        ``(T, B)`` columns: "state", "action", "return" float64, and of the return's last row
        "successor", "next_action" and the "discount" of their value (0 after a termination);
        "valid" where all rewards are known.
    """
    ended, length = columns["terminated"] | columns["truncated"], len(columns["valid"])
    waits, known = columns["valid"].copy(), np.zeros_like(ended)
    return_, last = np.zeros(ended.shape), np.zeros(ended.shape, np.int64)
    for k in range(min(n, length)):  # the k-th reward of all rows at once
        rows = slice(0, length - k)
        waits[length - k :] = False
        if k:
            waits[rows] &= ~columns["start"][k:]
        return_[rows] += np.where(waits[rows], gamma**k * columns["reward"][k:], 0.0)
        last[rows][waits[rows]] = k
        known[rows] |= waits[rows] & (ended[k:] | (k == n - 1))
        waits[rows] &= ~ended[k:]
    at = last + np.arange(length)[:, None]
    result = {name: columns[name] for name in ("state", "action")}
    for name in ("successor", "next_action"):
        result[name] = np.take_along_axis(columns[name], at, 0)
    powers = np.array([gamma ** (k + 1) for k in range(n)])
    goes_on = ~np.take_along_axis(columns["terminated"], at, 0)
    return result | {"return": return_, "discount": goes_on * powers[last], "valid": known}
