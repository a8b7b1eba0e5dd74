"""Asynchronous advantage actor-critic."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlgen.agents.policies import ActorCritic, check_policy, make_rmsprop, masked_mean
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Decay, Fraction, Hyperparameters, NotNegative, Positive
from rlgen.networks import clip_gradients
from rlgen.returns import n_step_returns


class A3CConfig(Hyperparameters):
    """Hyper-parameters of A3C."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    rollout_steps: Count = 32  # n, steps per environment and gradient
    learning_rate: Positive = 2e-3  # of RMSprop, > 0
    rmsprop_decay: Decay = 0.99  # of the squared gradients, in [0, 1)
    rmsprop_epsilon: Positive = 1e-5  # added to their root, > 0
    value_coefficient: NotNegative = 0.5  # c_v, >= 0
    entropy_coefficient: NotNegative = 0.01  # c_e, >= 0
    max_gradient_norm: Positive = 2.0  # clipped above it, > 0


class A3C(Algorithm):
    """A3C: workers compute n-step actor-critic gradients, the learner applies them (section 14.5).

    A worker runs n steps in its environments with its copy of the parameters, bootstraps the
    returns R_t (`rlgen.returns.n_step_returns`; n steps instead of the one of eq 14.71) and sends
    the gradient of

        mean [ -log pi(a_t | s_t) * (R_t - V(s_t)) + c_v (R_t - V(s_t))^2 - c_e H(pi(. | s_t)) ]

    (eq 14.73 and 14.72; the advantage and R_t are constants; gamma^t is left out, or late steps
    would not count). The learner makes one RMSprop step per gradient as they arrive, with
    statistics shared by all workers, on parameters that may be newer than the gradient's own.

    Mnih et al., *Asynchronous methods for deep reinforcement learning*, 2016.
    """

    Config = A3CConfig
    uses_network = True
    modes = ("async", "sync")
    batch_axis = 0
    config: A3CConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(self, config: A3CConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        self.optimizer = make_rmsprop(self.network, config)

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy; its mode when greedy."""
        return {"action": self.network.act(observation, greedy)[0]}

    def process(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of a rollout ``(T, B, ...)`` as one row ``(1, P)``, and its metrics."""
        net, config, valid = self.network, self.config, batch["valid"]
        outputs, value = net(batch)
        old = value.detach()
        return_ = n_step_returns(
            batch["reward"], net.next_values(batch, old),
            batch["terminated"], batch["truncated"], config.gamma,
        )  # fmt: skip
        log_prob = net.head.log_prob(outputs, batch["action"])
        policy_loss = -masked_mean(log_prob * (return_ - old), valid)
        value_loss = masked_mean((return_ - value).square(), valid)
        entropy = masked_mean(net.head.entropy(outputs), valid)
        loss = policy_loss + config.value_coefficient * value_loss
        loss = loss - config.entropy_coefficient * entropy
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
        }
        columns = {name: metric.detach().reshape(1) for name, metric in metrics.items()}
        return columns | {"gradient": torch.cat([g.reshape(-1) for g in gradients])[None]}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Apply the gradients ``(n, P)`` one after the other."""
        parameters = list(self.network.parameters())
        sizes = [p.numel() for p in parameters]
        for row in batch["gradient"]:
            for parameter, part in zip(parameters, row.split(sizes), strict=True):
                # A copy: clipping writes, and the batch may be read-only shared memory.
                parameter.grad = part.view_as(parameter).clone()
            norm = clip_gradients(parameters, self.config.max_gradient_norm)
            self.optimizer.step()
        metrics = {name: batch[name].mean() for name in ("policy_loss", "value_loss", "entropy")}
        return metrics | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("a3c-cartpole")
