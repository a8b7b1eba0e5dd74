"""IMPALA: asynchronous actors, corrected by V-trace."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import model_validator
from torch import Tensor

from rlgen.agents.policies import ActorCritic, check_policy, make_rmsprop, masked_mean
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Fraction, Hyperparameters, NotNegative, Positive
from rlgen.networks import clip_gradients
from rlgen.returns import vtrace


class IMPALAConfig(Hyperparameters):
    """Hyper-parameters of IMPALA."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    rollout_steps: Count = 20  # n, steps per environment and batch
    rho_clip: Positive = 1.0  # most that one step's ratio weighs (rho bar), > 0
    c_clip: Positive = 1.0  # most that a ratio carries back (c bar), > 0, <= rho_clip
    learning_rate: Positive = 3e-3  # of RMSprop, > 0
    rmsprop_decay: Decay = 0.99  # of the squared gradients, in [0, 1)
    rmsprop_epsilon: Positive = 1e-5  # added to their root, > 0
    value_coefficient: NotNegative = 0.5  # c_v, >= 0
    entropy_coefficient: NotNegative = 0.01  # c_e, >= 0
    max_gradient_norm: Positive = 2.0  # clipped above it, > 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.c_clip > self.rho_clip:
            raise ValueError(
                f"c_clip={self.c_clip:g} is above rho_clip={self.rho_clip:g}; V-trace needs "
                "c_clip <= rho_clip"
            )
        return self


class IMPALA(Algorithm):
    """IMPALA: workers act with older weights, and the learner corrects for it by V-trace.

    A batch carries mu(a | s), the probability with which its worker acted. With
    rho_t = min(rho_clip, pi / mu) and c_t = min(c_clip, pi / mu) of the learner's own policy, the
    targets v_t of `rlgen.returns.vtrace`, and rho_t, v_t constants, one step down

        mean [ -rho_t (r_t + gamma v_{t+1} - V(s_t)) log pi(a_t | s_t)
               + c_v (v_t - V(s_t))^2 - c_e H(pi(. | s_t)) ].

    On the worker's own weights (sync, one update per rollout) the ratios are 1 and this is A2C.

    Beyond the book. Espeholt et al., *IMPALA: Scalable distributed deep-RL with importance
    weighted actor-learner architectures*, 2018, section 4.
    """

    Config = IMPALAConfig
    uses_network = True
    data_parallel = True
    modes = ("async", "sync")
    config: IMPALAConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: IMPALAConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        self.optimizer = make_rmsprop(self.network, config)

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy, with their log-probability; its mode when greedy."""
        action, outputs = self.network.act(observation, greedy)
        return {"action": action, "log_prob": self.network.head.log_prob(outputs, action)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step down on a rollout ``(T, B, ...)`` of an older policy."""
        net, c, valid = self.network, self.config, batch["valid"]
        outputs, value = net(batch)
        log_prob = net.head.log_prob(outputs, batch["action"])
        log_ratio = log_prob.detach() - batch["log_prob"]
        old = value.detach()
        target, advantage = vtrace(
            log_ratio, batch["reward"], old, net.next_values(batch, old),
            batch["terminated"], batch["truncated"], c.gamma, c.rho_clip, c.c_clip,
        )  # fmt: skip
        policy_loss = -masked_mean(log_prob * advantage, valid)
        value_loss = masked_mean((target - value).square(), valid)
        entropy = masked_mean(net.head.entropy(outputs), valid)
        loss = policy_loss + c.value_coefficient * value_loss - c.entropy_coefficient * entropy
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        ratio = masked_mean(log_ratio.exp().clamp(max=c.rho_clip), valid)
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        metrics |= {"rho": ratio}
        return {k: v.detach() for k, v in metrics.items()} | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("impala-cartpole")
