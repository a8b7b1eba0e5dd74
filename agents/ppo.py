"""Proximal policy optimisation."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlgen.agents.policies import (
    FORGOTTEN,
    ActorCritic,
    check_policy,
    clipped_objective,
    normalized,
    shuffled,
)
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, NotNegative, Positive, Whole
from rlgen.networks import clip_gradients
from rlgen.returns import gae
from rlgen.schedules import linear

COLUMNS = ("observation", "action", "log_prob", "advantage", "return")


class PPOConfig(Hyperparameters):
    """Hyper-parameters of PPO."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    gae_lambda: Fraction = 0.95  # of the advantage estimates, in [0, 1]
    rollout_steps: Annotated[int, Field(ge=2)] = 32  # T, steps per environment and update
    epochs: Count = 8  # passes over the rollout
    minibatch_size: Count = 256  # transitions per step of Adam
    clip_range: Positive = 0.2  # the ratio counts within 1 +- this, > 0
    learning_rate: Positive = 1e-3  # of Adam, > 0
    annealing_steps: Whole = 0  # env steps till the rate is 0; 0: it stays
    normalize_advantage: bool = True  # to mean 0 and deviation 1 over the rollout
    value_coefficient: NotNegative = 0.5  # c_v, >= 0
    entropy_coefficient: NotNegative = 0.0  # c_e, >= 0
    max_gradient_norm: Positive = 0.5  # clipped above it, > 0
    max_gradient_value: Positive | None = None  # each component is clipped to +- this before, > 0


class PPO(Algorithm):
    """PPO: many small steps on one rollout, while the policy stays near the one that acted.

    With the ratio r_t = pi(a_t | s_t) / pi_old(a_t | s_t), pi_old that of the worker, each step
    descends on a minibatch of the rollout's transitions

        mean [ -min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)
               + c_v (A_t + V_old(s_t) - V(s_t))^2 - c_e H(pi(. | s_t)) ].

    A_t are generalised advantage estimates with the values before the first step
    (`rlgen.returns.gae`), normalised over the rollout; the values' target is made of them before
    that. Values are not clipped: that gains nothing (Andrychowicz et al., 2021).

    Beyond the book. Schulman et al., *Proximal policy optimization algorithms*, 2017.
    """

    Config = PPOConfig
    uses_network = True
    network_options = ("torso", "memory")
    modes = ("sync", "async")
    data_parallel = whole_batch = True
    config: PPOConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: PPOConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        self.state = FORGOTTEN
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, eps=1e-5, fused=True
        )

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy, with their log-probability; its mode when greedy."""
        net = self.network
        features, self.state, columns = net.recall(observation, self.state, self.starts)
        action, outputs = net.decide(features, greedy)
        return {"action": action, "log_prob": net.head.log_prob(outputs, action)} | columns

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Several epochs of minibatches of a rollout ``(T, B, ...)``."""
        c, rows, size = self.config, self._rows(batch), int(batch["valid"].sum())
        if c.annealing_steps:
            rate = linear(c.learning_rate, 0.0, c.annealing_steps, self.env_steps)
            self.optimizer.param_groups[0]["lr"] = rate
        axis, most = (0, size) if self.network.memory is None else (1, batch["valid"].shape[1])
        parts = min(max(size // c.minibatch_size, 1), most)
        for _ in range(c.epochs):
            for minibatch in shuffled(rows, parts, axis):
                metrics = self._step(self.part(minibatch, axis))
        return metrics

    def _rows(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The valid transitions ``(n, ...)``, or with a memory all of them ``(T, B, ...)``."""
        c, net, valid = self.config, self.network, batch["valid"]
        with torch.no_grad():
            value = net(batch)[1]
        advantage = gae(
            batch["reward"], value, net.next_values(batch, value),
            batch["terminated"], batch["truncated"], c.gamma, c.gae_lambda,
        )  # fmt: skip
        batch = batch | {"advantage": advantage, "return": advantage + value}
        if c.normalize_advantage:
            batch["advantage"] = normalized(advantage, valid)
        if net.memory is not None:
            kept = {name: batch[name] for name in (*COLUMNS, "terminated", "truncated", "valid")}
            return kept | {"state": batch["state"][:1]}
        return {name: batch[name][valid] for name in COLUMNS}

    def _step(self, batch: dict[str, Tensor]) -> Metrics:
        """One step down on a minibatch ``(n, ...)``."""
        net, c = self.network, self.config
        outputs, value = net(batch)
        if net.memory is not None:
            valid = batch["valid"]
            outputs, value = outputs[valid], value[valid]
            batch = {name: batch[name][valid] for name in COLUMNS}
        log_ratio = net.head.log_prob(outputs, batch["action"]) - batch["log_prob"]
        ratio = log_ratio.exp()
        policy_loss = -clipped_objective(ratio, batch["advantage"], c.clip_range).mean()
        value_loss = (batch["return"] - value).square().mean()
        entropy = net.head.entropy(outputs).mean()
        loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm, c.max_gradient_value)
        self.optimizer.step()
        with torch.no_grad():
            metrics = {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": entropy,
                "kl": (ratio - 1.0 - log_ratio).mean(),  # estimates KL(old || new), never below 0
                "clipped": ((ratio - 1.0).abs() > c.clip_range).float().mean(),
            }
        return {k: v.detach() for k, v in metrics.items()} | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("ppo-cartpole")
