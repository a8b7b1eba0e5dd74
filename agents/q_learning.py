"""Tabular Q-learning."""

from __future__ import annotations

from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from pydantic import Field

from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Hyperparameters
from rlgen.errors import ConfigError

LARGEST_TABLE = 10**8  # entries, 0.8 GB


class QLearningConfig(Hyperparameters):
    """Hyper-parameters of Q-learning."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.99  # discount, in [0, 1]
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1  # alpha, in (0, 1]
    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of random actions, in [0, 1]
    rollout_steps: Annotated[int, Field(ge=1)] = 16  # T, steps per environment and cycle


class QLearning(Algorithm):
    """Q-learning: off-policy temporal differences in a table (Algorithm 14.4).

    For every transition (s, a, r, s'), in the order of time (eq 14.40),

        Q(s, a) += alpha * [ r + gamma * (1 - terminated) * max_a' Q(s', a') - Q(s, a) ].

    The behaviour is epsilon-greedy of the current Q: a random action with probability epsilon, so
    that the greedy one has 1 - epsilon + epsilon / |A| (the book's eq 14.31 does not sum to 1, and
    its listing never derives the behaviour from Q). Unlike in the listing, Q is 0 after a
    termination; a truncated episode bootstraps. One cycle is T steps in B environments with
    the table as it is; T = B = 1 is the listing.

    Watkins and Dayan, *Q-learning*, 1992.

    Attributes:
        q: ``(S, A)`` float64, zeros at first. A ``MultiDiscrete`` observation is ravelled to s.
    """

    Config = QLearningConfig
    modes = ("sync",)
    shared = "q"

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        observation, action = problem.observation_space, problem.action_space
        discrete = (gym.spaces.Discrete, gym.spaces.MultiDiscrete)
        if not isinstance(observation, discrete):
            raise ConfigError(
                f"env.id: q-learning needs discrete observations, not {observation}; use dqn"
            )
        if not isinstance(action, gym.spaces.Discrete):
            raise ConfigError(f"env.id: q-learning needs one discrete action, not {action}")
        entries = float(np.prod(_sizes(observation), dtype=float)) * int(action.n)
        if entries > LARGEST_TABLE:
            raise ConfigError(
                f"env.id: q-learning would need a table of {entries:.1e} entries, more than "
                f"{LARGEST_TABLE:.0e}; use dqn"
            )

    def __init__(self, config: QLearningConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert isinstance(problem.action_space, gym.spaces.Discrete)
        self.sizes = _sizes(problem.observation_space)
        self.q = np.zeros((int(np.prod(self.sizes)), int(problem.action_space.n)))

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Epsilon-greedy actions (B,); ties are broken at random, by the first when greedy."""
        values = self.q[self._states(observation)]
        if greedy:
            return {"action": values.argmax(axis=1)}
        # One draw for everything: the order of the best ones, whether to explore, and where to.
        rows, actions = values.shape
        draws = self.rng.random((rows, actions + 2))
        best = values == values.max(axis=1, keepdims=True)
        chosen = np.where(best, draws[:, :actions], -1.0).argmax(axis=1)
        explores = draws[:, actions] < self.config.epsilon
        anywhere = (draws[:, actions + 1] * actions).astype(np.int64)
        return {"action": np.where(explores, anywhere, chosen)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update Q transition by transition, in the order of time, then of the environments."""
        valid = batch["valid"]
        both = np.stack([batch["observation"][valid], batch["next_observation"][valid]])
        states, position = np.unique(self._states(both), return_inverse=True)
        source, successor = position.reshape(2, -1).tolist()
        action, reward = batch["action"][valid].tolist(), batch["reward"][valid].tolist()
        discount = np.where(batch["terminated"][valid], 0.0, self.config.gamma).tolist()
        alpha, error = self.config.learning_rate, 0.0
        # Python's floats are float64 too, and 7 times faster in a loop than array elements.
        q = self.q[states].tolist()
        for s, a, r, gamma, s1 in zip(source, action, reward, discount, successor, strict=True):
            td_error = r + gamma * max(q[s1]) - q[s][a]
            q[s][a] += alpha * td_error
            error += abs(td_error)
        self.q[states] = np.reshape(q, (-1, self.q.shape[1]))
        return {"td_error": error / max(len(action), 1)}

    def _states(self, observation: np.ndarray) -> np.ndarray:
        """Row numbers in the table of observations ``(...)`` or ``(..., k)``."""
        if isinstance(self.problem.observation_space, gym.spaces.Discrete):
            return observation
        rows: np.ndarray = np.ravel_multi_index(tuple(np.moveaxis(observation, -1, 0)), self.sizes)
        return rows


def _sizes(space: gym.Space[Any] | None) -> tuple[int, ...]:
    """How many values each component of an observation takes."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(space.nvec.ravel().tolist())
    assert isinstance(space, gym.spaces.Discrete)
    return (int(space.n),)


if __name__ == "__main__":
    import rlgen

    rlgen.train("q-learning-cliff")
