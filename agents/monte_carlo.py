"""On-policy Monte Carlo control."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Fraction, Rate
from rlgen.schedules import power_law


class MonteCarloConfig(tabular.ControlConfig):
    """Hyper-parameters of Monte Carlo control, beside those of every tabular one."""

    learning_rate: Rate = 1.0  # alpha, in (0, 1]
    learning_rate_power: Fraction = 1.0  # omega; with alpha 1, Q is the mean return
    visits: Literal["first", "every"] = "first"  # which of a pair's visits in an episode count
    exploring_starts: bool = False  # the first action of every episode is any, alike


class MonteCarlo(Algorithm):
    """Monte Carlo control: Q is the mean return of the episodes played so far (section 14.2.2).

    When an episode of the epsilon-greedy policy of Q is over, for its pairs (s, a), with G
    summed backwards (eq 14.30, as the running mean of eq 14.35),

        G = r + gamma * G,
        N(s, a) += 1,
        Q(s, a) += alpha / N(s, a)^omega * [ G - Q(s, a) ],

    where alpha = omega = 1 is the mean of all returns, and omega = 0 forgets the old ones. With
    ``visits: first`` a pair counts only at its first visit in an episode, with ``every`` each time;
    the book starts from (s, a) and leaves this open. With exploring starts an episode's first
    action is any, alike, and epsilon may be 0; the first states are those of the environment.

    What a batch means: a worker keeps its running episodes and sends the returns of complete ones.
    One that spans several cycles was played with several tables, and counts like the others. An
    episode that was truncated has a rest that nobody saw: its G starts from max_a Q(s', a) of the
    worker's table, the one place where this bootstraps. The learner takes the workers in turn, of
    each the environments in turn, and of each the pairs in the order of time.

    Sutton and Barto, *Reinforcement Learning*, 2018, sections 5.3 and 5.4.

    Attributes:
        table: ``(planes, S, A)`` float64, zeros at first: Q, and N(s, a) where a schedule needs it.
        running: on a worker, the columns ``(t, B)`` of the episodes that go on.
    """

    Config = MonteCarloConfig
    modes = ("sync",)
    shared = "table"
    batch_axis = 0
    config: MonteCarloConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        tabular.check("monte-carlo", problem)

    def __init__(
        self, config: MonteCarloConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.table = tabular.table(problem, 2 if config.counts else 1)
        self.running: dict[str, np.ndarray] = {}

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Epsilon-greedy actions (B,), or any at the start; ties are broken at random."""
        rows = tabular.states(self.problem, observation)
        values = self.table[0, rows]
        if greedy:
            return {"action": values.argmax(axis=1)}
        epsilon = tabular.exploration(self.config, self.env_steps, self.table[-1, rows])
        if self.config.exploring_starts:
            epsilon = np.where(self.starts, 1.0, epsilon)
        action = tabular.epsilon_greedy(values, epsilon, self.rng)
        return {"action": action, "start": self.starts}

    def process(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The pairs ``(n,)`` of the complete episodes and their returns."""
        rows, self.running = tabular.split_episodes(tabular.prepend(self.running, batch))
        state = tabular.states(self.problem, rows["observation"])
        successor = tabular.states(self.problem, rows["next_observation"])
        future = np.where(rows["terminated"], 0.0, self.table[0, successor].max(axis=1))
        ended = (rows["terminated"] | rows["truncated"]).tolist()
        columns = (rows["reward"].tolist(), future.tolist(), ended)
        return_, returns = 0.0, []
        for reward, value, ends in zip(*(reversed(column) for column in columns), strict=True):
            return_ = reward + self.config.gamma * (value if ends else return_)
            returns.append(return_)
        pairs = {"state": state, "action": rows["action"], "return": np.array(returns[::-1])}
        if self.config.visits == "every":
            return pairs
        episode = np.cumsum(rows["start"])
        pair = (episode * self.table.shape[1] + state) * self.table.shape[2] + rows["action"]
        first = np.sort(np.unique(pair, return_index=True)[1])
        return {name: column[first] for name, column in pairs.items()}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Move Q towards the returns ``(n,)``, one after the other."""
        alpha, power = self.config.learning_rate, self.config.learning_rate_power
        states, source = np.unique(batch["state"], return_inverse=True)
        q, *counts = self.table[:, states].tolist()  # Python's floats: see `QLearning.update`
        columns = (source.tolist(), batch["action"].tolist(), batch["return"].tolist())
        step, error = alpha, 0.0
        for s, a, return_ in zip(*columns, strict=True):
            if counts:
                visits = counts[0][s]
                visits[a] += 1.0
                step = power_law(alpha, power, visits[a])
            difference = return_ - q[s][a]
            q[s][a] += step * difference
            error += abs(difference)
        self.table[:, states] = np.reshape([q, *counts], self.table[:, states].shape)
        return {"error": error / max(len(source), 1)}


if __name__ == "__main__":
    import rlgen

    rlgen.train("monte-carlo-blackjack")
