"""Maximum-entropy inverse reinforcement learning on a known model."""

from __future__ import annotations

from typing import cast

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import spsolve

from rlgen.agents import planning
from rlgen.algorithm import Algorithm, Metrics, Model, Problem
from rlgen.config import Hyperparameters, NotNegative, Positive, Share
from rlgen.demonstrations import Demonstrations


class MaxEntIRLConfig(Hyperparameters):
    """Hyper-parameters of maximum-entropy inverse reinforcement learning."""

    gamma: Share = 0.9  # discount, in (0, 1)
    learning_rate: Positive = 0.2  # of the gradient ascent on r, > 0
    regularization: NotNegative = 0.0  # l: - l / 2 |r|^2 in the objective, >= 0
    tolerance: Positive = 0.01  # ends the run: largest entry of the gradient
    planning_tolerance: Positive = 1e-4  # largest error of the soft values


class MaxEntIRL(Algorithm):
    """Maximum-entropy IRL: a reward of states that explains an expert's visits (section 14.5).

    Of all policies that visit the states as often as the expert, the one of largest entropy is
    soft-optimal for a reward r(s), one parameter per state:

        Q(s, a) = r(s) + gamma * sum_s' p(s' | s, a) V(s'),   V(s) = log sum_a exp Q(s, a),
        pi(a | s) = exp(Q(s, a) - V(s)),   and V(s) = r(s) where s is terminal.

    Workers sweep slices of V until it is soft-optimal within ``planning_tolerance``; then the
    learner computes the expected discounted visits D of pi from the first states exactly,

        D(s) = p_0(s) + gamma * sum_{s', a} D(s') pi(a | s') p(s | s', a)   (s' not terminal),

    and climbs the log-likelihood by its gradient: the expert's mean of sum_t gamma^t 1[s_t = s],
    minus D(s), minus l r(s). Of a truncated episode the missing visits count as none. The
    environment's own rewards are not looked at. The mode of pi acts in the evaluation.

    Ziebart et al., *Maximum entropy inverse reinforcement learning*, 2008 (there with a finite
    horizon instead of a discount), in the causal form of Ziebart's thesis, 2010, which is right
    for random transitions too. The book has it in words only.

    Attributes:
        table: ``(2, S)`` float64, the reward r and the soft values V.
        expert: ``(S,)`` float64, the expert's discounted visits.
    """

    Config = MaxEntIRLConfig
    source = "model"
    uses_demonstrations = True
    shared = "table"
    batch_axis = 0
    config: MaxEntIRLConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse an environment without a model."""
        planning.check_model("max-ent-irl", problem)

    def __init__(self, config: MaxEntIRLConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.model = cast(Model, problem.model)
        self.shown = cast(Demonstrations, problem.demonstrations)
        self.table = np.zeros((2, len(self.model.terminal)))
        self.expert = self._visits_shown()
        # The rows of P of every slice that was swept: slicing costs as much as multiplying.
        self._slices: dict[tuple[int, int], scipy.sparse.csr_array] = {}

    def _visits_shown(self) -> np.ndarray:
        """The expert's discounted visits of each state, ``(S,)``, the mean over its episodes."""
        shown, gamma, states = self.shown, self.config.gamma, len(self.model.terminal)
        final = shown.last_observation
        # Where an environment ends in a state that it elsewhere passes through, the model has one
        # more state, its last, for having ended.
        ended = shown.terminated[shown.last] & ~self.model.terminal[final]
        final = np.where(ended, states - 1, final)
        visits = np.bincount(shown.observation, gamma**shown.step, minlength=states)
        visits += np.bincount(final, gamma ** (shown.step[shown.last] + 1), minlength=states)
        return visits / len(final)

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Soft backups V ``(n,)`` of the states ``first <= s < last``."""
        reward, terminal = self.table[0, first:last], self.model.terminal[first:last]
        soft = np.logaddexp.reduce(self.action_values(first, last), axis=1)
        return {"value": np.where(terminal, reward, soft)}

    def action_values(self, first: int, last: int) -> np.ndarray:
        """Soft Q ``(n, A)`` of the states ``first <= s < last``, of V as it is."""
        actions = self.model.rewards.shape[1]
        if (first, last) not in self._slices:
            rows = self.model.transitions[first * actions : last * actions]
            self._slices[first, last] = rows
        following = (self._slices[first, last] @ self.table[1]).reshape(-1, actions)
        return self.table[0, first:last, None] + self.config.gamma * following

    def update(self, batch: dict[str, np.ndarray]) -> Metrics:
        """Take the swept values ``(S,)``; once they have settled, take a step on the reward."""
        c, (reward, values) = self.config, self.table
        residual = float(np.abs(batch["value"] - values).max())
        values[:] = batch["value"]
        # What is left to go of a gamma-contraction is at most gamma / (1 - gamma) times its step.
        if residual * c.gamma / (1.0 - c.gamma) >= c.planning_tolerance:
            return {"residual": residual}
        log_policy = self.action_values(0, len(values))
        log_policy -= np.logaddexp.reduce(log_policy, axis=1, keepdims=True)
        gradient = self.expert - self.visits(np.exp(log_policy)) - c.regularization * reward
        error = float(np.abs(gradient).max())
        self.converged = error < c.tolerance
        if not self.converged:  # the reward that is kept is the one of these values
            reward += c.learning_rate * gradient
        likelihood = log_policy[self.shown.observation, self.shown.action].mean()
        return {"residual": residual, "gradient": error, "log_likelihood": float(likelihood)}

    def visits(self, policy: np.ndarray) -> np.ndarray:
        """The expected discounted visits ``(S,)`` of a policy ``(S, A)`` from the first states."""
        states, actions = policy.shape
        going = policy * ~self.model.terminal[:, None]  # an end is visited once
        first = np.arange(0, states * actions + 1, actions)
        choice = scipy.sparse.csr_array((going.ravel(), np.arange(states * actions), first))
        flow = self.config.gamma * (choice @ self.model.transitions).T
        return np.asarray(
            spsolve((scipy.sparse.eye_array(states) - flow).tocsc(), self.model.start)
        )

    def act(self, observation: np.ndarray, greedy: bool) -> dict[str, np.ndarray]:
        """The likeliest actions ``(B,)`` of the soft-optimal policy."""
        return {"action": self.action_values(0, len(self.expert))[observation].argmax(axis=1)}


if __name__ == "__main__":
    import rlgen

    rlgen.train("max-ent-irl-grid")
