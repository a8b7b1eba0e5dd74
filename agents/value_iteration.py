"""Value iteration: dynamic programming on a known model."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np

from rlgen.agents import planning
from rlgen.agents.gauss_seidel import GaussSeidel
from rlgen.algorithm import Algorithm, Metrics, Model, Problem
from rlgen.config import Hyperparameters, Positive, Rate


class ValueIterationConfig(Hyperparameters):
    """Hyper-parameters of value iteration."""

    gamma: Rate = 0.99  # discount, in (0, 1]
    tolerance: Positive = 1e-10  # largest error of V, in units of the reward
    order: Literal["jacobi", "gauss_seidel"] = "jacobi"  # states all at once, or one after another


class ValueIteration(Algorithm):
    """Value iteration: exact optimal values of a known model (Algorithm 14.2).

    Sweeps of the Bellman optimality operator T (eq 14.26-14.28) from V = 0,

        V'(s) = max_a [ r(s, a) + gamma * sum_s' p(s' | s, a) V(s') ];

    terminal states stay at 0. Each worker sweeps a slice of the states. The listing does not say
    from which V; the three ways converge to the same V*:

    - ``order: jacobi``: all from the last sweep's V, the same bits for any number of workers;
    - ``order: gauss_seidel``: V'(s) at once replaces V(s) for the later states of the slice;
    - ``scheduler.mode: async``: each slice from whatever V its worker has (asynchronous).

    It stops once ``max |V' - V| < tolerance * (1 - gamma) / gamma``, which bounds ``max |V' - V*|``
    by ``tolerance``, and makes the greedy policy lose at most ``2 * gamma * tolerance /
    (1 - gamma)``. With gamma = 1 there is no such bound: it stops at ``tolerance`` itself. (Neither
    goes below the rounding of V, some 1e-15 of it.)

    Bellman, *Dynamic Programming*, 1957; Puterman, *Markov Decision Processes*, 1994, section 6.3;
    Bertsekas, *Distributed dynamic programming*, 1982.

    Attributes:
        values: ``(S,)`` float64, V.
    """

    Config = ValueIterationConfig
    source = "model"
    modes = ("sync", "async")
    shared = "values"
    batch_axis = 0
    config: ValueIterationConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse an environment without a model."""
        planning.check_model("value-iteration", problem)

    def __init__(
        self, config: ValueIterationConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.model = cast(Model, problem.model)
        self.values = np.zeros(len(self.model.terminal))
        self.change = np.full_like(self.values, np.inf)  # of every state, when last swept
        self.backups = planning.Backups.of(self.model)
        self.ordered: dict[tuple[int, int], GaussSeidel] = {}

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Bellman backups of the states ``first <= s < last``."""
        part, gamma = self.backups.part(first, last), self.config.gamma
        if self.config.order == "jacobi":
            values = planning.best_values(part.action_values(self.values, gamma))
        else:
            if (first, last) not in self.ordered:
                self.ordered[first, last] = GaussSeidel.of(part)
            values = self.ordered[first, last].sweep(self.values, gamma)
        change = np.abs(values - self.values[first:last])
        return {"state": np.arange(first, last), "value": values, "change": change}

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Take the swept values, and stop on the residual."""
        residual = planning.take(self, batch)
        start_value = float(self.model.start @ self.values)
        return {"residual": residual, "start_value": start_value}

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The greedy actions in states ``(B,)``; of equally good ones the first."""
        action = planning.greedy_in(self.model, self.values, self.config.gamma, observation)
        return {"action": action}


if __name__ == "__main__":
    import rlgen

    rlgen.train("value-iteration-frozenlake")
