"""An algorithm of a user's own, with state on the worker: random search, one policy per rollout."""

from typing import Any

import numpy as np

from rlgen.algorithm import Algorithm, Problem
from rlgen.config import Hyperparameters


class RandomSearchConfig(Hyperparameters):
    rollout_steps: int = 10


class RandomSearch(Algorithm):
    """Keep the best of random linear policies; each is tried for three rollouts."""

    Config = RandomSearchConfig
    shared = "policy"
    batch_axis = 0

    def __init__(self, config: Any, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.policy = np.zeros((4, 2))
        self.best = -np.inf
        self.tried = np.zeros((4, 2))
        self.score = 0.0
        self.rollouts = 0

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        policy = self.policy if greedy else self.tried
        return {"action": (observation @ policy).argmax(axis=1)}

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.rollouts += 1
        ends = batch["terminated"].sum()
        self.score += float(batch["reward"].sum() / (1 + ends))
        columns = {"policy": self.tried[None].copy(), "score": np.array([self.score])}
        if self.rollouts % 3 == 0:
            self.tried = self.policy + self.rng.normal(size=(4, 2))
            self.score = 0.0
        return columns

    def update(self, batch: dict[str, Any]) -> dict[str, float]:
        winner = batch["score"].argmax()
        if batch["score"][winner] > self.best:
            self.best = float(batch["score"][winner])
            self.policy[...] = batch["policy"][winner]
        return {"best": self.best}
