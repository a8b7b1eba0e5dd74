"""TD(lambda): prediction of a fixed policy's values."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rlgen.agents import tabular
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Rate, Whole
from rlgen.errors import ConfigError
from rlgen.schedules import power_law

LARGEST_TABLE = 10**5  # entries of V with actions: each step touches a whole V


class TDLambdaConfig(Hyperparameters):
    """Hyper-parameters of TD(lambda)."""

    policy: Literal["random"] | list[Whole] = "random"  # or S actions
    gamma: Fraction = 1.0  # discount, in [0, 1]
    learning_rate: Rate = 0.05  # alpha, in (0, 1]
    learning_rate_power: Fraction = 0.0  # omega: steps are alpha / N(s)^omega
    trace_decay: Fraction = 0.0  # lambda, in [0, 1]
    traces: Literal["accumulating", "replacing"] = "accumulating"  # at a visit: e + 1, or 1
    initial_value: float = 0.0  # V at first
    rollout_steps: Count = 16  # T, steps per environment and cycle


class TDLambda(Algorithm):
    """TD(lambda): the values of a policy, from its own episodes (eq 14.37-14.39 for V).

    For every step (s, r, s') under the policy, for all states at once,

        delta = r + gamma * (1 - terminated) * V(s') - V(s),
        e(s) = e(s) + 1  (accumulating)  or  1  (replacing),
        V += alpha * delta * e,
        e *= gamma * lambda,

    with traces of 0 where an episode begins. With lambda = 0 it is one-step TD; with 1 it comes
    close to Monte Carlo. With a falling step size, alpha is that of each state's latest visit.

    The policy is "random" (uniform) or a list with an action for each state, and never changes: an
    evaluation plays it, so its mean return and V of the first state estimate the same number. The
    learner updates in order of time, then of the workers, then of their environments, with a
    trace for each of these; T = B = W = 1 is the listing.

    Sutton, *Learning to predict by the methods of temporal differences*, 1988.

    Attributes:
        values: ``(S,)`` float64, V.
        traces: on the learner, ``(B, S)`` float64, e.
        alpha, visits: on the learner, ``(S,)`` float64, the step size of each state, and N(s).
    """

    Config = TDLambdaConfig
    modes = ("sync",)
    shared = "values"
    config: TDLambdaConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse spaces that do not fit a table that can be swept at every step."""
        tabular.check("td-lambda", problem, LARGEST_TABLE)

    def __init__(self, config: TDLambdaConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        assert isinstance(problem.action_space, gym.spaces.Discrete)
        states, self.actions = int(np.prod(tabular.sizes(problem))), int(problem.action_space.n)
        self.policy = np.array([] if config.policy == "random" else config.policy, np.int64)
        if config.policy != "random" and len(self.policy) != states:
            raise ConfigError(
                f"hyperparameters.policy: {len(self.policy)} actions were given, but the "
                f"environment has {states} states; give one for each"
            )
        if (self.policy >= self.actions).any():
            raise ConfigError(
                f"hyperparameters.policy: there is no action {self.policy.max()}; the environment "
                f"has {self.actions}, counted from 0"
            )
        self.values = np.full(states, config.initial_value)
        self.traces = np.empty((0, states))
        self.alpha = np.full(states, config.learning_rate)
        self.visits = np.zeros(states)

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The policy's actions (B,), in an evaluation too: there is nothing to be greedy for."""
        if self.policy.size:
            action = self.policy[tabular.states(self.problem, observation)]
        else:
            action = self.rng.integers(self.actions, size=len(observation))
        return {"action": action, "start": self.starts}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Update V row by row, in the order of time, then of the environments."""
        config, valid = self.config, batch["valid"]
        envs, values, alpha, visits = valid.shape[1], self.values, self.alpha, self.visits
        if len(self.traces) != envs:
            self.traces = np.zeros((envs, values.size))
        accumulates, decay = config.traces == "accumulating", config.gamma * config.trace_decay
        power, error = config.learning_rate_power, 0.0
        both = np.stack([batch["observation"][valid], batch["next_observation"][valid]])
        source, successor = tabular.states(self.problem, both).tolist()
        discount = np.where(batch["terminated"][valid], 0.0, config.gamma).tolist()
        reward, start = batch["reward"][valid].tolist(), batch["start"][valid].tolist()
        row_envs = np.broadcast_to(np.arange(envs), valid.shape)[valid].tolist()
        rows = zip(row_envs, source, reward, discount, successor, start, strict=True)
        for env, s, r, gamma, s1, begins in rows:
            traces = self.traces[env]
            if begins:
                traces[...] = 0.0
            td_error = r + gamma * values[s1] - values[s]
            traces[s] = traces[s] + 1.0 if accumulates else 1.0
            if power:
                visits[s] += 1.0
                alpha[s] = power_law(config.learning_rate, power, visits[s])
            values += alpha * traces * td_error
            traces *= decay
            error += abs(td_error)
        return {"td_error": error / max(len(source), 1)}


if __name__ == "__main__":
    import rlgen

    rlgen.train("td-lambda-random-walk")
