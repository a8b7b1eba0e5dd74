"""Tabular SARSA(lambda)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Fraction
from rlgen.schedules import power_law

LARGEST_TABLE = 10**5  # entries: each step of each environment touches all of them


class SARSALambdaConfig(tabular.ControlConfig):
    """Hyper-parameters of SARSA(lambda), beside those of every tabular control algorithm."""

    trace_decay: Fraction = 0.9  # lambda, in [0, 1]; 0 is SARSA
    traces: Literal["accumulating", "replacing"] = "replacing"  # at a visit: e + 1, or 1


class SARSALambda(Algorithm):
    """SARSA(lambda): each temporal difference is credited to all pairs before it, by their traces.

    For every step (s, a, r, s', a') of the epsilon-greedy policy of Q, for all pairs at once,

        delta = r + gamma * (1 - terminated) * Q(s', a') - Q(s, a),
        e(s, a) = e(s, a) + 1  (accumulating)  or  1  (replacing),
        Q += alpha * delta * e,
        e *= gamma * lambda,

    with traces of 0 where an episode begins. The book only remarks that one may take several steps
    before the bootstrap (after eq 14.39); this is the mean over all numbers of steps n, weighted by
    (1 - lambda) lambda^(n - 1), seen backwards. With a falling step size, alpha is that of each
    pair's own latest visit.

    What a batch means is as in SARSA: the a' of a worker's last rows is drawn with the table in
    hand and really taken next; the learner updates in order of time, then of the workers, then of
    their environments, with a trace for each of these. T = B = W = 1 is the listing of the book by
    Sutton and Barto (1998, section 7.5).

    Rummery and Niranjan, *On-line Q-learning using connectionist systems*, 1994; Singh and Sutton,
    *Reinforcement learning with replacing eligibility traces*, 1996.

    Attributes:
        table: ``(planes, S, A)`` float64, zeros at first: Q, and N(s, a) where a schedule needs it.
        traces: on the learner, ``(B, S, A)`` float64, e.
        alpha: on the learner, ``(S, A)`` float64, the step size of each pair.
        ahead: on a worker, ``(B,)`` actions drawn for the next step; empty where there are none.
    """

    Config = SARSALambdaConfig
    modes = ("sync",)
    shared = "table"
    config: SARSALambdaConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table that can be swept at every step."""
        tabular.check("sarsa-lambda", problem, LARGEST_TABLE)

    def __init__(
        self, config: SARSALambdaConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.table = tabular.table(problem, 2 if config.counts else 1)
        self.traces = np.empty((0, *self.table[0].shape))
        self.alpha = np.full(self.table[0].shape, config.learning_rate)
        self.ahead = np.empty(0, np.int64)

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The actions (B,) drawn ahead, else epsilon-greedy ones."""
        rows = tabular.states(self.problem, observation)
        if greedy:
            return {"action": self.table[0, rows].argmax(axis=1)}
        action = self._draw(rows)
        if self.ahead.size:
            action = np.where(self.starts, action, self.ahead)
            self.ahead = np.empty(0, np.int64)
        return {"action": action, "start": self.starts}

    def process(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rollout ``(T, B)`` with the states' numbers and the next actions."""
        following = tabular.next_actions(batch, self._look_ahead)
        self.ahead = following[-1]
        rows = {name: batch[name] for name in ("action", "reward", "start", "valid")}
        rows["state"] = tabular.states(self.problem, batch["observation"])
        rows["successor"] = tabular.states(self.problem, batch["next_observation"])
        discount = np.where(batch["terminated"], 0.0, self.config.gamma)
        return rows | {"discount": discount, "next_action": following}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update Q row by row, in the order of time, then of the environments."""
        config, valid = self.config, batch["valid"]
        envs, (q, *counts), alpha = valid.shape[1], self.table, self.alpha
        if len(self.traces) != envs:
            self.traces = np.zeros((envs, *q.shape))
        accumulates, decay, error = config.traces == "accumulating", config.trace_decay, 0.0
        names = ("state", "action", "reward", "discount", "successor", "next_action", "start")
        columns = [batch[name][valid].tolist() for name in names]
        row_envs = np.broadcast_to(np.arange(envs), valid.shape)[valid].tolist()
        for env, s, a, r, discount, s1, a1, start in zip(row_envs, *columns, strict=True):
            traces = self.traces[env]
            if start:
                traces[...] = 0.0
            td_error = r + discount * q[s1, a1] - q[s, a]
            traces[s, a] = traces[s, a] + 1.0 if accumulates else 1.0
            if counts:
                counts[0][s, a] += 1.0
                alpha[s, a] = power_law(
                    config.learning_rate, config.learning_rate_power, counts[0][s, a]
                )
            q += alpha * traces * td_error
            traces *= config.gamma * decay
            error += abs(td_error)
        return {"td_error": error / max(len(row_envs), 1)}

    def _look_ahead(self, observation: np.ndarray) -> np.ndarray:
        return self._draw(tabular.states(self.problem, observation))

    def _draw(self, rows: np.ndarray) -> np.ndarray:
        """Epsilon-greedy actions ``(B,)`` in the table's rows ``(B,)``."""
        return tabular.behave(self.config, self.table, self.env_steps, rows, self.rng)


if __name__ == "__main__":
    import rlgen

    rlgen.train("sarsa-lambda-windy")
