"""Tabular SARSA, its n-step form, and expected SARSA."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count
from rlgen.returns import n_step_rows
from rlgen.schedules import power_law


class SARSAConfig(tabular.ControlConfig):
    """Hyper-parameters of SARSA, beside those of every tabular control algorithm."""

    steps: Count = 1  # n, rewards before the bootstrap
    expected: bool = False  # bootstrap from the policy's mean over a' instead of the a' taken


class SARSA(Algorithm):
    """SARSA: on-policy temporal differences in a table (Algorithm 14.3).

    For every step (s, a, r, s', a') of the epsilon-greedy policy of Q (eq 14.39),

        Q(s, a) += alpha * [ r + gamma * (1 - terminated) * Q(s', a') - Q(s, a) ].

    With n ``steps`` the target is r_1 + gamma r_2 + ... + gamma^(n-1) r_n + gamma^n Q(s_n, a_n), or
    what there is of it where the episode ends before (the remark after eq 14.39). ``expected`` puts
    sum_a' pi(a' | s') Q(s', a') in the place of Q(s', a'), with the policy of the updated table.
    Unlike in the listing, Q is 0 after a termination and the policy is always derived from Q; a
    truncated episode bootstraps, with an a' that is drawn and not taken.

    What a batch means: a cycle is T steps in B environments of each of W workers with the table as
    it is. A worker draws the a' of its last rows with that table, and it is really the first action
    of the next cycle, even though the table is newer by then. A row goes to the learner once its n
    rewards are known, so later by n - 1 steps. The learner updates row after row with the table
    as it becomes: in order of time, then of the workers, then of their environments.
    T = B = W = 1 is the listing. (Where ``expected``, no action is drawn ahead.)

    Rummery and Niranjan, *On-line Q-learning using connectionist systems*, 1994; Sutton and Barto,
    *Reinforcement Learning*, 2018, sections 6.4, 6.6 and 7.2; van Seijen et al., *A theoretical and
    empirical analysis of expected Sarsa*, 2009.

    Attributes:
        table: ``(planes, S, A)`` float64, zeros at first: Q, and N(s, a) where a schedule needs it.
        ahead: on a worker, ``(B,)`` actions drawn for the next step; empty where there are none.
        running: on a worker, the columns ``(n - 1, B)`` of the latest rows, valid where rewards
            are missing.
    """

    Config = SARSAConfig
    modes = ("sync",)
    shared = "table"
    config: SARSAConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        tabular.check("sarsa", problem)

    def __init__(self, config: SARSAConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.table = tabular.table(problem, 2 if config.counts else 1)
        self.ahead = np.empty(0, np.int64)
        self.running: dict[str, np.ndarray] = {}

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The actions (B,) drawn ahead, else epsilon-greedy ones; ties as in `epsilon_greedy`."""
        rows = tabular.states(self.problem, observation)
        if greedy:
            return {"action": self.table[0, rows].argmax(axis=1)}
        action = self._draw(rows)
        if self.ahead.size:
            action = np.where(self.starts, action, self.ahead)
            self.ahead = np.empty(0, np.int64)
        return {"action": action, "start": self.starts}

    def process(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The rows ``(n - 1 + T, B)`` with their returns; ``valid`` where those are known."""
        columns = {name: batch[name] for name in ("start", "action", "terminated", "truncated")}
        columns["next_action"] = np.zeros_like(batch["action"])
        if not self.config.expected:
            columns["next_action"] = tabular.next_actions(batch, self._look_ahead)
            self.ahead = columns["next_action"][-1]
        columns["state"] = tabular.states(self.problem, batch["observation"])
        columns["successor"] = tabular.states(self.problem, batch["next_observation"])
        columns |= {"reward": batch["reward"].astype(np.float64), "valid": batch["valid"]}
        waiting = self.config.steps - 1
        columns = tabular.prepend(self.running or tabular.blank(columns, waiting), columns)
        rows = n_step_rows(columns, self.config.steps, self.config.gamma)
        later = {"valid": columns["valid"] & ~rows["valid"]}
        self.running = {k: v[len(v) - waiting :] for k, v in (columns | later).items()}
        return rows

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update Q row by row, in the order of time, then of the environments."""
        valid, config = batch["valid"], self.config
        both = np.stack([batch["state"][valid], batch["successor"][valid]])
        states, position = np.unique(both, return_inverse=True)
        source, successor = position.reshape(2, -1).tolist()
        names = ("action", "return", "discount", "next_action")
        columns = [batch[name][valid].tolist() for name in names]
        explored = tabular.exploration(config, self.env_steps, self.table[-1, both[1]]).tolist()
        alpha, error, actions = config.learning_rate, 0.0, self.table.shape[2]
        q, *counts = self.table[:, states].tolist()  # Python's floats: see `QLearning.update`
        rows = zip(source, *columns, successor, explored, strict=True)
        for s, a, return_, discount, a1, s1, epsilon in rows:
            value = q[s1][a1]
            if config.expected:
                value = (1.0 - epsilon) * max(q[s1]) + epsilon * sum(q[s1]) / actions
            td_error = return_ + discount * value - q[s][a]
            if counts:
                visits = counts[0][s]
                visits[a] += 1.0
                alpha = power_law(config.learning_rate, config.learning_rate_power, visits[a])
            q[s][a] += alpha * td_error
            error += abs(td_error)
        self.table[:, states] = np.reshape([q, *counts], self.table[:, states].shape)
        return {"td_error": error / max(len(explored), 1)}

    def _look_ahead(self, observation: np.ndarray) -> np.ndarray:
        return self._draw(tabular.states(self.problem, observation))

    def _draw(self, rows: np.ndarray) -> np.ndarray:
        """Epsilon-greedy actions ``(B,)`` in the table's rows ``(B,)``."""
        return tabular.behave(self.config, self.table, self.env_steps, rows, self.rng)


if __name__ == "__main__":
    import rlgen

    rlgen.train("sarsa-cliff")
