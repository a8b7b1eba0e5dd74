"""Environments whose numbers break, registered as ``spoilt_env:Spoilt-v0`` and the like."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv


class Spoilt(gym.Env[np.ndarray, np.int64]):
    """Ten-step episodes of reward 1; at one step of its life, or every so many, a number breaks.

    Args:
        where: ``observation``, ``reward`` or ``start`` (the first observation of an episode).
        at: the step, or the episode of ``start``, from 1; 0 for never.
        every: whether at every multiple of it.
        value: what comes then.
    """

    def __init__(
        self, where: str = "observation", at: int = 0, every: bool = False, value: str = "nan"
    ) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.where, self.at, self.every, self.value = where, at, every, float(value)
        self.life = self.episode = self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode += 1
        self.time = 0
        return self._look(self.where == "start" and self._breaks(self.episode)), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.life += 1
        self.time += 1
        broken = self._breaks(self.life)
        reward = self.value if broken and self.where == "reward" else 1.0
        seen = self._look(broken and self.where == "observation")
        return seen, reward, self.time == 10, False, {}

    def _breaks(self, number: int) -> bool:
        return self.at > 0 and (number % self.at == 0 if self.every else number == self.at)

    def _look(self, broken: bool) -> np.ndarray:
        return np.array([self.time / 10, self.value if broken else self.life % 7, 1], np.float32)


def vector(num_envs: int, mode: str = "NextStep", **kwargs: Any) -> SyncVectorEnv:
    """A vector form that begins episodes by itself."""
    makers = [partial(Spoilt, **kwargs)] * num_envs
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode(mode))


gym.register("Spoilt-v0", entry_point=Spoilt)
gym.register("SpoiltVector-v0", vector_entry_point=vector)
