"""Test beds of K-armed bandits: thousands of them at once, one in each row.

A bed holds N bandits of K arms. Row i of B environments plays bandit i, so with ``num_envs`` of N
every bandit is played by one row. A pull is a step; the observation is the bandit's number, and
nothing ends: ``max_episode_steps`` or ``evaluation.max_steps`` cuts. A later `reset` of all rows
goes on to the next B bandits, so that an evaluation of N episodes plays every one.

Every step reports the metrics ``reward``, ``regret`` (the best arm's expected reward less that of
the arm pulled) and ``optimal_action`` (whether that was a best arm).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space


class BanditVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``rlgen/GaussianBandit-v0`` and ``rlgen/BernoulliBandit-v0``, B rows.

    Gaussian: an arm's expected reward is drawn from N(``mean``, 1), and a reward from N(that, 1);
    the 10-armed test bed of Sutton and Barto, *Reinforcement learning* (2018), section 2.3.
    Bernoulli: an arm's expected reward is drawn from U(0, 1); it pays 1 with that probability, or
    else 0, as in the book (section 14.1.1).

    Args:
        num_envs: B.
        kind: the distribution of the rewards.
        bandits: N.
        arms: K, at least 2; given by ``means`` where there are any.
        bed_seed: draws the expected rewards: the same bed in every worker and evaluation.
        means: expected rewards of the K arms, the same in every bandit, in place of drawn ones.
        mean: the centre of the drawn expected rewards; Gaussian only.
        max_episode_steps: pulls after which an episode is truncated; None does not.

    Attributes:
        expected: ``(N, K)`` float64, the expected rewards.

    Raises:
        ValueError: too few arms or bandits, or means that do not fit.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        kind: Literal["gaussian", "bernoulli"],
        bandits: int = 1,
        arms: int | None = None,
        bed_seed: int = 0,
        means: Sequence[float] | None = None,
        mean: float = 0.0,
        max_episode_steps: int | None = None,
    ) -> None:
        self.kind = kind
        self.num_envs = num_envs
        self.expected = _expected(kind, bandits, arms, bed_seed, means, mean)
        self.best = self.expected.max(axis=1)
        self.single_observation_space = gym.spaces.Discrete(bandits)
        self.single_action_space = gym.spaces.Discrete(self.expected.shape[1])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.first = -num_envs  # the bandit of row 0
        self.bandit = np.zeros(num_envs, np.int64)
        self.max_episode_steps = max_episode_steps
        self.elapsed = np.zeros(num_envs, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Go on to the next B bandits; rows reset by ``options["reset_mask"]`` keep theirs."""
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        self.elapsed[slice(None) if mask is None else mask] = 0
        if mask is None:
            self.first += self.num_envs
            self.bandit = (self.first + np.arange(self.num_envs)) % len(self.expected)
        return self.bandit.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Pull one arm ``(B,)`` in every row."""
        expected, best = self.expected[self.bandit, actions], self.best[self.bandit]
        if self.kind == "gaussian":
            reward = self.np_random.normal(expected)
        else:
            reward = (self.np_random.random(self.num_envs) < expected).astype(np.float64)
        metrics = {
            "reward": reward, "regret": best - expected, "optimal_action": expected == best
        }  # fmt: skip
        self.elapsed += 1
        terminated = truncated = np.zeros(self.num_envs, np.bool_)
        if self.max_episode_steps is not None:
            truncated = self.elapsed >= self.max_episode_steps
        return self.bandit.copy(), reward, terminated, truncated, {"metrics": metrics}


def _expected(
    kind: str,
    bandits: int,
    arms: int | None,
    bed_seed: int,
    means: Sequence[float] | None,
    mean: float,
) -> np.ndarray:
    """The expected rewards ``(N, K)``, drawn or given."""
    if bandits < 1:
        raise ValueError(f"bandits must be at least 1, got {bandits}")
    if kind == "bernoulli" and mean != 0.0:
        raise ValueError("mean moves a Gaussian bed only; a Bernoulli one takes means=[...]")
    if means is not None:
        if (arms or len(means)) != len(means) or mean != 0.0:
            raise ValueError(f"the {len(means)} means given leave nothing to arms and mean")
        if kind == "bernoulli" and not all(0 <= m <= 1 for m in means):
            raise ValueError(f"means of a Bernoulli bed must be in [0, 1], got {list(means)}")
    count = len(means) if means is not None else 10 if arms is None else arms
    if count < 2:
        raise ValueError(f"a bandit needs at least 2 arms, got {count}")
    if means is not None:
        return np.tile(np.asarray(means, np.float64), (bandits, 1))
    rng = np.random.default_rng(bed_seed)
    shape = (bandits, count)
    return rng.normal(mean, 1.0, shape) if kind == "gaussian" else rng.random(shape)
