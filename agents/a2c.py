"""Synchronous advantage actor-critic."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rlgen.agents.policies import (
    FORGOTTEN,
    ActorCritic,
    check_policy,
    make_rmsprop,
    masked_mean,
    normalized,
)
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Fraction, Hyperparameters, NotNegative, Positive, Whole
from rlgen.networks import clip_gradients
from rlgen.returns import gae
from rlgen.schedules import linear


class A2CConfig(Hyperparameters):
    """Hyper-parameters of A2C."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    gae_lambda: Fraction = 1.0  # 1: n-step returns; 0: one-step errors; in [0, 1]
    rollout_steps: Count = 16  # n, steps per environment and update
    learning_rate: Positive = 2e-3  # of RMSprop, > 0
    annealing_steps: Whole = 0  # env steps till the rate is 0; 0: it stays
    rmsprop_decay: Decay = 0.99  # of the squared gradients, in [0, 1)
    rmsprop_epsilon: Positive = 1e-5  # added to their root, > 0
    normalize_advantage: bool = False  # to mean 0 and deviation 1 over the rollout, in the policy
    value_coefficient: NotNegative = 0.5  # c_v, >= 0
    entropy_coefficient: NotNegative = 0.0  # c_e, >= 0
    max_gradient_norm: Positive = 0.5  # clipped above it, > 0
    max_gradient_value: Positive | None = None  # each component is clipped to +- this before, > 0


class A2C(Algorithm):
    """A2C: n-step actor-critic over many environments in step (sections 14.4 and 14.5).

    One update descends, over the n steps of all environments and workers together,

        mean [ -log pi(a_t | s_t) A_t + c_v (A_t + V_old(s_t) - V(s_t))^2 - c_e H(pi(. | s_t)) ]

    (eq 14.72 and 14.73; A_t is a constant). With ``gae_lambda`` 1, A_t is the n-step return minus
    V(s_t), bootstrapped where the rollout is cut (n steps instead of the one of eq 14.71); below 1
    it is the generalised estimate (`rlgen.returns.gae`). The book's gamma^t is left out, or late
    steps would not count; its delta lacks V(terminal) = 0.

    Mnih et al., *Asynchronous methods for deep reinforcement learning*, 2016, made synchronous;
    Schulman et al., *High-dimensional continuous control using generalized advantage estimation*.
    """

    Config = A2CConfig
    uses_network = True
    data_parallel = True
    network_options = ("torso", "memory")
    config: A2CConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: A2CConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        self.state = FORGOTTEN
        self.optimizer = make_rmsprop(self.network, config)

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy; its mode when greedy."""
        net = self.network
        features, self.state, columns = net.recall(observation, self.state, self.starts)
        return {"action": net.decide(features, greedy)[0]} | columns

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step down on a rollout ``(T, B, ...)``."""
        net, c, valid = self.network, self.config, batch["valid"]
        outputs, value = net(batch)
        old = value.detach()
        advantage = gae(
            batch["reward"], old, net.next_values(batch, old),
            batch["terminated"], batch["truncated"], c.gamma, c.gae_lambda,
        )  # fmt: skip
        log_prob = net.head.log_prob(outputs, batch["action"])
        weight = normalized(advantage, valid) if c.normalize_advantage else advantage
        policy_loss = -masked_mean(log_prob * weight, valid)
        value_loss = masked_mean((advantage + old - value).square(), valid)
        entropy = masked_mean(net.head.entropy(outputs), valid)
        loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy
        if c.annealing_steps:
            rate = linear(c.learning_rate, 0.0, c.annealing_steps, self.env_steps)
            self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm, c.max_gradient_value)
        self.optimizer.step()
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        return {k: v.detach() for k, v in metrics.items()} | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("a2c-cartpole")
