"""An environment one of whose copies is ten times slower, registered as ``slow_env:Slow-v0``."""

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np


class Slow(gym.Env[np.ndarray, np.int64]):
    """Twenty-step episodes of 10 ms a step; the first copy that steps takes 100 ms."""

    def __init__(self, folder: str) -> None:
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.flag = Path(folder) / "straggler"
        self.pause = 0.0
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not self.pause:
            try:
                self.flag.touch(exist_ok=False)
                self.pause = 0.1
            except FileExistsError:
                self.pause = 0.01
        time.sleep(self.pause)
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 20, False, {}


gym.register("Slow-v0", entry_point=Slow)
