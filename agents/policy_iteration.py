"""Policy iteration and modified policy iteration on a known model."""

from __future__ import annotations

import itertools
from typing import Any, Literal, Self, cast

import numpy as np
import scipy.sparse.linalg
from pydantic import model_validator

from rlgen.agents import planning
from rlgen.algorithm import Algorithm, Metrics, Model, Problem
from rlgen.config import Hyperparameters, Positive, Rate, Whole


class PolicyIterationConfig(Hyperparameters):
    """Hyper-parameters of policy iteration."""

    gamma: Rate = 0.99  # discount, in (0, 1]
    evaluation: Literal["exact", "iterative", "modified"] = "exact"  # solve, to the end, m sweeps
    sweeps: Whole | None = None  # m, of modified and nothing else
    tolerance: Positive = 1e-10  # largest error of V, in units of the reward

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.evaluation == "modified" and self.sweeps is None:
            raise ValueError("evaluation=modified needs sweeps, such as sweeps=20")
        if self.evaluation != "modified" and self.sweeps is not None:
            raise ValueError(f"sweeps={self.sweeps} belongs to evaluation=modified; remove it")
        return self


class PolicyIteration(Algorithm):
    """Policy iteration: evaluate a policy, make it greedy, until it is stable (Algorithm 14.1).

    From the uniform policy, one update is

        improve:   pi(s) = argmax_a Q(s, a),  Q(s, a) = r(s, a) + gamma * sum_s' p(s' | s, a) V(s')
        evaluate:  V = V^pi  (eq 14.18)

    The workers compute Q, the greedy action and TV(s) = max_a Q(s, a) of their slices; the learner
    evaluates: ``exact``, the sparse solution of (I - gamma P_pi) V = r_pi; ``iterative``, sweeps
    of P_pi to ``tolerance``; ``modified``, m sweeps of it (m = 0 is value iteration).

    An action is only left for one that is better by more than rounding: equal policies would
    alternate for ever in the listing. It stops when no action changes (not if modified), or when

        gamma / (1 - gamma) * [ max (TV - V) - min (TV - V) ] / 2 < tolerance,

    which bounds the error of TV + gamma / (1 - gamma) * (max + min) / 2 (MacQueen 1966; it becomes
    the result) and is small long before the residual. With gamma = 1 the policies must end, and
    ``modified`` stops at a residual of ``tolerance``.

    Howard, *Dynamic Programming and Markov Processes*, 1960; Puterman, *Markov Decision Processes*,
    1994, sections 6.4 to 6.6.

    Attributes:
        values: ``(S,)`` float64, V.
        policy: ``(S,)`` int64, pi; -1 while it is uniform.
    """

    Config = PolicyIterationConfig
    source = "model"
    shared = "values"
    batch_axis = 0
    config: PolicyIterationConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse an environment without a model."""
        planning.check_model("policy-iteration", problem)

    def __init__(
        self, config: PolicyIterationConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.model = cast(Model, problem.model)
        self.values = np.zeros(len(self.model.terminal))
        self.policy = np.full(len(self.values), -1)
        self.own_values = self.values.copy()  # Q(s, pi(s))
        self.evaluated = False
        self.backups = planning.Backups.of(self.model)

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Greedy actions and their values in the states ``first <= s < last``."""
        part = self.backups.part(first, last)
        action_values = part.action_values(self.values, self.config.gamma)
        best = planning.best_values(action_values)
        return {"value": best, "action": planning.greedy_actions(action_values, best)}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Improve the policy by the workers' greedy actions, then evaluate it."""
        gamma, best = self.config.gamma, batch["value"]
        if not self.evaluated:  # the sweep of V = 0 says nothing of the uniform policy
            self.evaluated = True
            self._evaluate(np.full_like(self.model.rewards, 1.0 / self.model.rewards.shape[1]))
            return {"start_value": float(self.model.start @ self.values)}
        leaves = (self.policy < 0) | (self.own_values < planning.nearly(best))
        self.policy = np.where(leaves, batch["action"], self.policy)
        difference = best - self.values
        high, low = float(difference.max()), float(difference.min())
        error, reach = max(high, -low), 0.0
        if gamma < 1.0:
            reach = gamma / (1.0 - gamma)
            error = reach * (high - low) / 2.0
        stable = self.config.evaluation != "modified" and not leaves.any()
        self.converged = stable or error < self.config.tolerance
        self.values[...] = best
        if self.converged:
            self.values[~self.model.terminal] += reach * (high + low) / 2.0
        else:
            self._evaluate(self.policy)
        start_value = float(self.model.start @ self.values)
        return {"changed": int(leaves.sum()), "error": error, "start_value": start_value}

    def _evaluate(self, policy: np.ndarray) -> None:
        """Set V to V^pi or nearer to it, and ``own_values`` to Q(s, pi(s)) of that V."""
        config, values, chain = self.config, self.values, planning.Backups.of(self.model, policy)
        if config.gamma == 1.0 and config.evaluation != "modified":
            planning.refuse_endless(chain.rows, self.model.terminal)
        if config.evaluation == "exact":
            going = np.flatnonzero(~self.model.terminal)
            inner = chain.rows[going][:, going]
            system = scipy.sparse.eye_array(len(going)) - config.gamma * inner
            values[going] = scipy.sparse.linalg.spsolve(system.tocsc(), chain.rewards[going, 0])
        sweeps = {"exact": 0, "iterative": np.inf, "modified": config.sweeps}[config.evaluation]
        for sweep in itertools.count():
            own_values = chain.action_values(values, config.gamma)[:, 0]
            residual = np.abs(own_values - values).max()
            if sweep == sweeps or residual < planning.residual_limit(config, values):
                break
            values[...] = own_values
        self.own_values = own_values

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The greedy actions in states ``(B,)``; of equally good ones the first."""
        action = planning.greedy_in(self.model, self.values, self.config.gamma, observation)
        return {"action": action}


if __name__ == "__main__":
    import rlgen

    rlgen.train("policy-iteration-car-rental")
