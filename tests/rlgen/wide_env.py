"""An environment of large observations, registered as ``wide_env:Wide-v0``."""

from typing import Any

import gymnasium as gym
import numpy as np

SIZE = 2**18  # float32: 1 MiB


class Wide(gym.Env[np.ndarray, np.int64]):
    """Ten-step episodes of reward 1."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (SIZE,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(SIZE, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        return np.full(SIZE, self.time / 10, np.float32), 1.0, self.time == 10, False, {}


gym.register("Wide-v0", entry_point=Wide)
