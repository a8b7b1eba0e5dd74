"""An environment with a fault, registered as ``faulty_env:Faulty-v0``."""

import os
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np


class Faulty(gym.Env):
    """Ten-step episodes; at the given step of its life it fails, once if a flag file is given."""

    def __init__(self, fault: str, at: int = 30, flag: str = "") -> None:
        self.observation_space = gym.spaces.Discrete(4)
        self.action_space = gym.spaces.Discrete(2)
        self.fault, self.at, self.flag = fault, at, flag
        self.life = 0
        self.time = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.np_random.integers(4), {}

    def step(self, action):
        self.life += 1
        self.time += 1
        if self.life == self.at and self._first():
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.fault == "hang":
                time.sleep(3600)
            else:
                raise ArithmeticError("the bridge is out")
        return self.np_random.integers(4), float(np.float32(action)), self.time == 10, False, {}

    def _first(self) -> bool:
        """Whether no other environment has failed yet, in any process."""
        if not self.flag:
            return True
        try:
            Path(self.flag).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


gym.register("Faulty-v0", entry_point=Faulty)
