"""Tabular Q-learning, and double Q-learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.schedules import power_law


class QLearningConfig(tabular.ControlConfig):
    """Hyper-parameters of Q-learning, beside those of every tabular control algorithm."""

    double: bool = False  # two tables, of which one chooses and the other values the next action


class QLearning(Algorithm):
    """Q-learning: off-policy temporal differences in a table (Algorithm 14.4).

    For every transition (s, a, r, s'), in the order of time (eq 14.40),

        Q(s, a) += alpha * [ r + gamma * (1 - terminated) * max_a' Q(s', a') - Q(s, a) ].

    The behaviour is epsilon-greedy of the current Q: a random action with probability epsilon, so
    that the greedy one has 1 - epsilon + epsilon / |A| (the book's eq 14.31 does not sum to 1, and
    its listing never derives the behaviour from Q). Unlike in the listing, Q is 0 after a
    termination; a truncated episode bootstraps. One cycle is T steps in B environments with
    the table as it is; T = B = 1 is the listing.

    The maximum over noisy estimates is too large on average. ``double`` keeps two tables; a coin
    says which one learns, and its target takes its own best action at the other's value:

        Q_i(s, a) += alpha * [ r + gamma * Q_j(s', argmax_a' Q_i(s', a')) - Q_i(s, a) ],

    and the behaviour follows Q_1 + Q_2.

    Watkins and Dayan, *Q-learning*, 1992; van Hasselt, *Double Q-learning*, 2010.

    Attributes:
        table: ``(planes, S, A)`` float64, zeros at first: Q, or Q_1 and Q_2; and after them as many
            planes of visits, where a schedule needs them. A ``MultiDiscrete`` observation is
            ravelled to s.
    """

    Config = QLearningConfig
    modes = ("sync",)
    shared = "table"
    config: QLearningConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        tabular.check("q-learning", problem)

    def __init__(self, config: QLearningConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.tables = 2 if config.double else 1
        self.table = tabular.table(problem, self.tables * (2 if config.counts else 1))

    @property
    def q(self) -> np.ndarray:
        """``(S, A)``: Q; Q_1 + Q_2 where there are two."""
        return self.table[0] + self.table[1] if self.config.double else self.table[0]

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Epsilon-greedy actions (B,); ties are broken at random, by the first when greedy."""
        rows = tabular.states(self.problem, observation)
        values = self.table[: self.tables, rows].sum(axis=0)
        if greedy:
            return {"action": values.argmax(axis=1)}
        counts = self.table[self.tables :, rows].sum(axis=0)
        epsilon = tabular.exploration(self.config, self.env_steps, counts)
        return {"action": tabular.epsilon_greedy(values, epsilon, self.rng)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update Q transition by transition, in the order of time, then of the environments."""
        valid = batch["valid"]
        both = np.stack([batch["observation"][valid], batch["next_observation"][valid]])
        states, position = np.unique(tabular.states(self.problem, both), return_inverse=True)
        source, successor = position.reshape(2, -1).tolist()
        action, reward = batch["action"][valid].tolist(), batch["reward"][valid].tolist()
        discount = np.where(batch["terminated"][valid], 0.0, self.config.gamma).tolist()
        learns = self._coins(len(action))
        alpha, power, error = self.config.learning_rate, self.config.learning_rate_power, 0.0
        double, counts = self.config.double, self.config.counts
        # Python's floats are float64 too, and 7 times faster in a loop than array elements.
        planes = self.table[:, states].tolist()
        rows = zip(learns, source, action, reward, discount, successor, strict=True)
        for i, s, a, r, gamma, s1 in rows:
            q = planes[i]
            value = max(q[s1])
            if double:
                value = planes[1 - i][s1][q[s1].index(value)]
            td_error = r + gamma * value - q[s][a]
            if counts:
                visits = planes[self.tables + i][s]
                visits[a] += 1.0
                alpha = power_law(self.config.learning_rate, power, visits[a])
            q[s][a] += alpha * td_error
            error += abs(td_error)
        self.table[:, states] = np.reshape(planes, self.table[:, states].shape)
        return {"td_error": error / max(len(action), 1)}

    def _coins(self, count: int) -> list[int]:
        """Which table learns from each transition."""
        if self.tables == 1:
            return [0] * count
        coins: list[int] = self.rng.integers(2, size=count).tolist()
        return coins


if __name__ == "__main__":
    import rlgen

    rlgen.train("q-learning-cliff")
