"""Deep Q-network, with its usual extensions as options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional

from rlgen.agents.values import QNetwork, check_values, epsilon_greedy, td_target
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Positive, Rate, check_learning_starts
from rlgen.networks import clip_gradients, follow
from rlgen.replay import ReplayPlan
from rlgen.schedules import linear

LOSSES: dict[str, Callable[..., Tensor]] = {
    "squared": functional.mse_loss,
    "huber": functional.huber_loss,
}


class DQNConfig(Hyperparameters):
    """Hyper-parameters of DQN; steps are environment steps of the whole run."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    learning_rate: Positive = 2.3e-3  # of Adam, > 0
    rollout_steps: Count = 16  # T, steps per environment and cycle
    buffer_size: Count = 100_000  # N, transitions in the replay
    batch_size: Count = 64  # B, transitions per update
    learning_starts: Count = 1_000  # transitions in the replay before the first update
    updates: Count = 1  # updates per `train_every` steps
    train_every: Count = 2  # steps
    target_period: Count | None = 25  # C, updates between two copies into the target network
    polyak: Rate | None = None  # tau, instead of C: at every update
    epsilon_start: Fraction = 1.0  # share of random actions at the first step, in [0, 1]
    epsilon_end: Fraction = 0.04  # and from `epsilon_steps` on, in [0, 1]
    epsilon_steps: Count = 8_000  # steps of the linear decay between the two
    max_gradient_norm: Positive = 10.0  # clipped above it, > 0
    loss: Literal["squared", "huber"] = "squared"  # of the error; huber: linear above 1
    double: bool = False  # the network that learns chooses a', the target values it
    duelling: bool = False  # Q = V + A - mean A
    n_step: Count = 1  # n, rewards before the bootstrapped value
    prioritised: bool = False  # draw rows by their last error
    alpha: Fraction = 0.6  # exponent of the priorities, in [0, 1]; 0: uniform
    beta_start: Fraction = 0.4  # exponent of the weights at the first step, in [0, 1]
    beta_steps: Count = 50_000  # steps of its linear rise to 1
    priority_epsilon: Positive = 1e-3  # added to |error|, > 0

    @model_validator(mode="before")
    @classmethod
    def _polyak_replaces_the_period(cls, given: dict[str, Any]) -> dict[str, Any]:
        return given if given.get("polyak") is None else {"target_period": None, **given}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_learning_starts(self.learning_starts, self.buffer_size)
        if (self.target_period is None) == (self.polyak is None):
            raise ValueError("give one of target_period and polyak, and set the other to null")
        if not self.prioritised:
            keys = ("alpha", "beta_start", "beta_steps", "priority_epsilon")
            self.refuse_idle(keys, "prioritised=true")
        return self


class DQN(Algorithm):
    """DQN: Q-learning with a network, a replay and a frozen target network (Algorithm 14.5).

    One update draws a minibatch of transitions (s, a, r, s') from the replay and descends

        L(phi) = mean_i w_i ( y_i - Q_phi(s_i, a_i) )^2,                    (w_i = 1)
        y = r + gamma * (1 - terminated) * max_a' Q_target(s', a')          (eq 14.43)

    without a gradient through y. Every C updates the target becomes a copy of Q_phi. The behaviour
    is epsilon-greedy with respect to Q_phi, and `terminated` is stored: the listing leaves both
    open. The paper clips the error at 1 (`loss: huber`); that pulls Q towards the median of y,
    which hides rare ends of episodes, so the error is squared here, as listed.

    Section 14.5 names the options: `double` (van Hasselt 2016) and `duelling` (Wang 2016), see
    `rlgen.agents.values`; `n_step` (`rlgen.linked_replay`; off-policy, without a correction);
    `prioritised` (Schaul 2016): row i is drawn with P(i) ~ (|y_i - Q_i| + eps)^alpha and weighs
    w_i = (N P(i))^-beta / max_j w_j over the minibatch, in which N cancels out.

    Mnih et al., *Human-level control through deep reinforcement learning*, 2015.
    """

    Config = DQNConfig
    uses_network = True
    data_parallel = True
    modes = ("sync", "async")
    config: DQNConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions over which Q has no maximum, and observations that have no encoder."""
        check_values(problem, "dqn")

    def __init__(self, config: DQNConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = QNetwork(problem, config.duelling)
        self.target = copy.deepcopy(self.network).requires_grad_(False)
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
        self.updates = 0
        self.replay = ReplayPlan(
            config.buffer_size, config.batch_size, config.learning_starts,
            (config.updates, config.train_every), config.n_step, config.gamma,
            priority_exponent=config.alpha if config.prioritised else None,
        )  # fmt: skip

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Epsilon-greedy actions ``(B,)`` int64."""
        c = self.config
        epsilon = linear(c.epsilon_start, c.epsilon_end, c.epsilon_steps, self.env_steps)
        return {"action": epsilon_greedy(self.network(observation), 0.0 if greedy else epsilon)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of B transitions."""
        c, successor = self.config, batch["next_observation"]
        with torch.no_grad():
            next_values = self.target(successor)
            choosing = self.network(successor) if c.double else next_values
            discount = batch.get("discount", c.gamma)
            y = td_target(batch["reward"], batch["terminated"], discount, next_values, choosing)
        q = self.network(batch["observation"]).gather(1, batch["action"][:, None]).squeeze(1)
        loss = LOSSES[c.loss](q, y, reduction="none")
        if c.prioritised:
            beta = linear(c.beta_start, 1.0, c.beta_steps, self.env_steps)
            loss = loss * (batch["probability"] / batch["probability"].min()) ** -beta
            self.priorities = (y - q.detach()).abs() + c.priority_epsilon
        loss = loss.mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(self.network.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        if c.polyak is not None or self.updates % (c.target_period or 1) == 0:
            follow(self.target, self.network, c.polyak or 1.0)
        return {"loss": loss.detach(), "q": q.detach().mean(), "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("dqn-cartpole")
