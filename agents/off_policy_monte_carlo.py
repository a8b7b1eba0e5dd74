"""Off-policy Monte Carlo control by weighted importance sampling."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from pydantic import model_validator

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Rate


class OffPolicyMonteCarloConfig(tabular.ExplorationConfig):
    """Hyper-parameters of off-policy Monte Carlo, those of every epsilon-greedy behaviour."""

    epsilon: Rate = 0.5  # share of random actions of the behaviour (at first), in (0, 1]

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.epsilon_end == 0.0:
            raise ValueError("epsilon_end must be above 0: the behaviour must try every action")
        return self


class OffPolicyMonteCarlo(Algorithm):
    """Off-policy Monte Carlo control: the greedy policy learns from an exploring one's episodes.

    The behaviour b is epsilon-greedy of Q, the target policy pi is greedy. When an episode is over,
    backwards in time from G = 0, W = 1,

        G = r + gamma * G,
        C(s, a) += W,
        Q(s, a) += W / C(s, a) * [ G - Q(s, a) ],
        if a is not the greedy action in s: stop;  else W = W / b(a | s),

    so that Q(s, a) is the mean return, weighted by the importance ratios prod pi / b of the steps
    after (s, a) (section 14.2.2 says to use importance weights and gives no formula). The weighted
    mean is biased, but of bounded variance; the plain one is not. Only the tail of an episode after
    its last exploring action teaches anything, so learning is slow where episodes are long.

    What a batch means is as in Monte Carlo control: a worker keeps its running episodes and sends
    complete ones, with the probabilities b(a | s) at which it really acted, by the table that it
    had at each step. A truncated episode's G starts from max_a Q(s', a). The learner takes the
    workers in turn, of each the environments in turn, of each the episodes in the order of time.

    Sutton and Barto, *Reinforcement Learning*, 2018, section 5.7; Precup, Sutton and Singh,
    *Eligibility traces for off-policy policy evaluation*, 2000.

    Attributes:
        table: ``(planes, S, A)`` float64, zeros at first: Q, and N(s, a) where a schedule needs it.
        weights: on the learner, ``(S, A)`` float64, C.
        running: on a worker, the columns ``(t, B)`` of the episodes that go on.
    """

    Config = OffPolicyMonteCarloConfig
    modes = ("sync",)
    shared = "table"
    batch_axis = 0
    config: OffPolicyMonteCarloConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table."""
        tabular.check("off-policy-monte-carlo", problem)

    def __init__(
        self, config: OffPolicyMonteCarloConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.table = tabular.table(problem, 2 if config.counts else 1)
        self.weights = np.zeros(self.table[0].shape)
        self.running: dict[str, np.ndarray] = {}

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The behaviour's actions (B,) and their probabilities; the target's when greedy."""
        rows = tabular.states(self.problem, observation)
        values = self.table[0, rows]
        if greedy:
            return {"action": values.argmax(axis=1)}
        epsilon = tabular.exploration(self.config, self.env_steps, self.table[-1, rows])
        action = tabular.epsilon_greedy(values, epsilon, self.rng)
        probability = tabular.epsilon_greedy_probability(values, epsilon, action)
        return {"action": action, "probability": probability, "start": self.starts}

    def process(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The steps ``(n,)`` of the complete episodes, one episode after the other."""
        rows, self.running = tabular.split_episodes(tabular.prepend(self.running, batch))
        for name, observation in (("state", "observation"), ("successor", "next_observation")):
            rows[name] = tabular.states(self.problem, rows.pop(observation))
        return rows

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Learn from the tails of the episodes, one after the other."""
        gamma = self.config.gamma
        states, position = np.unique([batch["state"], batch["successor"]], return_inverse=True)
        source, successor = position.reshape(2, -1).tolist()
        names = ("action", "reward", "terminated", "probability")
        action, reward, terminated, probability = (batch[name].tolist() for name in names)
        firsts = np.flatnonzero(batch["start"]).tolist()
        ends = [*firsts, len(source)][1:]
        q, total = self.table[0, states].tolist(), self.weights[states].tolist()
        learned, error = 0, 0.0
        for first, end in zip(firsts, ends, strict=True):
            return_ = 0.0 if terminated[end - 1] else max(q[successor[end - 1]])
            weight = 1.0
            for t in reversed(range(first, end)):
                s, a = source[t], action[t]
                return_ = reward[t] + gamma * return_
                total[s][a] += weight
                difference = return_ - q[s][a]
                q[s][a] += weight / total[s][a] * difference
                learned, error = learned + 1, error + abs(difference)
                if q[s].index(max(q[s])) != a:
                    break
                weight /= probability[t]
        shape = self.table[0, states].shape
        self.table[0, states] = np.reshape(q, shape)
        self.weights[states] = np.reshape(total, shape)
        if self.config.counts:
            np.add.at(self.table[1], (batch["state"], batch["action"]), 1.0)
        used = learned / max(len(source), 1)
        return {"error": error / max(learned, 1), "share_of_steps_used": used}


if __name__ == "__main__":
    import rlgen

    rlgen.train("off-policy-monte-carlo-blackjack")
