"""What the bandit algorithms share: N bandits of K arms as tables of shape ``(N, K)``.

The observation is the bandit's number, and a bandit is all there is to it: an action changes no
later observation. Where observations say something about the bandit, they are its context.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlgen.algorithm import Problem
from rlgen.errors import ConfigError


def check_arms(name: str, problem: Problem) -> None:
    """Refuse spaces that are not the numbers of bandits and of arms.

    Raises:
        ConfigError: names the space.
    """
    spaces = {"observations": problem.observation_space, "actions": problem.action_space}
    for role, space in spaces.items():
        if not isinstance(space, gym.spaces.Discrete):
            raise ConfigError(
                f"env.id: {name} needs Discrete {role} (the number of a bandit, of an arm), not "
                f"{space}; use a test bed, such as rlgen/GaussianBandit-v0"
            )


def table_shape(problem: Problem) -> tuple[int, int]:
    """N and K."""
    observation, action = problem.observation_space, problem.action_space
    assert isinstance(observation, gym.spaces.Discrete) and isinstance(action, gym.spaces.Discrete)
    return int(observation.n), int(action.n)


def pulls(batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bandits, arms and rewards ``(n,)`` of a rollout's valid rows, in order of time."""
    valid = batch["valid"]
    return batch["observation"][valid], batch["action"][valid], batch["reward"][valid]


def best_arms(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The arms ``(B,)`` of the greatest values ``(B, K)``; ties are broken at random."""
    best = values == values.max(axis=1, keepdims=True)
    chosen: np.ndarray = np.where(best, rng.random(values.shape), -1.0).argmax(axis=1)
    return chosen


def add_pulls(totals: np.ndarray, batch: dict[str, Any]) -> None:
    """Add a rollout to ``(2, N, K)`` sums of rewards and numbers of pulls.

    A bandit may occur any number of times in the batch, as with several workers.
    """
    bandit, arm, reward = pulls(batch)
    np.add.at(totals[0], (bandit, arm), reward)
    np.add.at(totals[1], (bandit, arm), 1.0)


def averages(totals: np.ndarray, unpulled: float = 0.0) -> np.ndarray:
    """Mean rewards of ``(2, ..., K)`` totals; ``unpulled`` of an arm that never was."""
    means: np.ndarray = np.where(totals[1] > 0, totals[0] / np.maximum(totals[1], 1.0), unpulled)
    return means
