"""Policy evaluation: the values of a given policy on a known model."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import numpy as np
from pydantic import model_validator

from rlgen.agents import planning
from rlgen.algorithm import Algorithm, Metrics, Model, Problem
from rlgen.config import Fraction, Hyperparameters, Positive, Rate
from rlgen.errors import ConfigError


class PolicyEvaluationConfig(Hyperparameters):
    """Hyper-parameters of policy evaluation."""

    gamma: Rate = 0.99  # discount, in (0, 1]
    tolerance: Positive = 1e-10  # largest error of V, in units of the reward
    policy: Literal["uniform"] | list[int] = "uniform"  # or the action of every state, in order
    epsilon: Fraction = 0.0  # share of random actions, in [0, 1]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.policy == "uniform" and self.epsilon > 0:
            raise ValueError(
                f"epsilon={self.epsilon} adds random actions to a policy of given actions; the "
                "uniform policy has nothing else"
            )
        return self


class PolicyEvaluation(Algorithm):
    """Policy evaluation: V of a given policy pi (eq 14.18, the inner loop of Algorithm 14.1).

    Sweeps over the workers' slices, from V = 0,

        V'(s) = sum_a pi(a | s) [ r(s, a) + gamma * sum_s' p(s' | s, a) V(s') ],

    where pi is uniform, or takes the given action with probability 1 - epsilon + epsilon / |A| and
    every other one with epsilon / |A|. It stops as value iteration does, with V within
    ``tolerance``; with gamma = 1, on a policy that surely ends, at a residual of ``tolerance``. An
    evaluation plays episodes of pi itself: their mean return comes to V(start) without discount.

    Attributes:
        values: ``(S,)`` float64, V.
        policy: ``(S, A)`` float64, pi(a | s).
    """

    Config = PolicyEvaluationConfig
    source = "model"
    modes = ("sync", "async")
    shared = "values"
    batch_axis = 0
    config: PolicyEvaluationConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse an environment without a model."""
        planning.check_model("policy-evaluation", problem)

    def __init__(
        self, config: PolicyEvaluationConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.model = cast(Model, problem.model)
        self.values = np.zeros(len(self.model.terminal))
        self.change = np.full_like(self.values, np.inf)  # of every state, when last swept
        self.policy = _policy(config, *self.model.rewards.shape)
        self.backups = planning.Backups.of(self.model, self.policy)
        if config.gamma == 1.0:
            planning.refuse_endless(self.backups.rows, self.model.terminal)

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Backups of the states ``first <= s < last``, the same bits for any slicing."""
        part = self.backups.part(first, last)
        values = part.action_values(self.values, self.config.gamma)[:, 0]
        change = np.abs(values - self.values[first:last])
        return {"state": np.arange(first, last), "value": values, "change": change}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Take the swept values, and stop on the residual."""
        residual = planning.take(self, batch)
        start_value = float(self.model.start @ self.values)
        return {"residual": residual, "start_value": start_value}

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """Actions of the policy in states ``(B,)``: it is what is evaluated, greedy or not."""
        draws = self.rng.random((len(observation), 1))
        cumulative = np.cumsum(self.policy[observation, :-1], axis=1)
        return {"action": (draws >= cumulative).sum(axis=1)}


def _policy(config: PolicyEvaluationConfig, states: int, actions: int) -> np.ndarray:
    """pi(a | s) as ``(S, A)``.

    Raises:
        ConfigError: not one of the environment's actions for each of its states.
    """
    if config.policy == "uniform":
        return np.full((states, actions), 1.0 / actions)
    chosen = np.array(config.policy, np.int64)
    if len(chosen) != states or chosen.min() < 0 or chosen.max() >= actions:
        between = f" in {chosen.min()}..{chosen.max()}" if len(chosen) else ""
        raise ConfigError(
            f"hyperparameters.policy: expected {states} actions (one per state) in "
            f"0..{actions - 1}, got {len(chosen)}{between}"
        )
    return (1.0 - config.epsilon) * np.eye(actions)[chosen] + config.epsilon / actions


if __name__ == "__main__":
    import rlgen

    rlgen.train("policy-evaluation-random-walk")
