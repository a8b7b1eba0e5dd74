"""One-step actor-critic, as the book lists it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlgen.agents.policies import ActorCritic, check_policy, masked_mean
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Fraction, Hyperparameters, Positive
from rlgen.networks import clip_gradients


class ActorCriticConfig(Hyperparameters):
    """Hyper-parameters of the one-step actor-critic."""

    gamma: Fraction = 0.99  # discount, in [0, 1]
    discount_weighting: bool = True  # weigh step t by I_t = gamma^t (the book's lambda)
    rollout_steps: Count = 1  # T, steps per environment and update
    learning_rate: Positive = 1e-3  # alpha of the policy, > 0
    value_learning_rate: Positive = 1e-2  # beta of the value, > 0
    max_gradient_norm: Positive = 10.0  # clipped above it, > 0


class OneStepActorCritic(Algorithm):
    """One-step actor-critic: a critic's temporal difference drives the policy (Algorithm 14.8).

    After every step, with I_t = gamma^t and V = 0 after a termination (eq 14.71 to 14.73),

        delta = r + gamma (1 - terminated) V(s') - V(s),
        V:   phi   += beta delta grad V(s),
        pi:  theta += alpha I_t delta grad log pi(a | s),

    by plain gradient steps; delta is a constant in both. One environment, one worker and one step
    per rollout are the listing; of more, the mean of their rows is one step. The book calls I_t
    lambda, which is not the trace parameter of that name; its listing multiplies it by gamma after
    the policy's update (so here), its Table 14.1 before. Its delta lacks the mask.

    Without ``discount_weighting`` late steps count as much as early ones: biased, but the way to
    learn from long episodes. One sample per step is noisy: see A2C for the form used in practice.

    Attributes:
        discount: on a worker, I_t of every environment, ``(B,)`` float64.
    """

    Config = ActorCriticConfig
    uses_network = True
    config: ActorCriticConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(
        self, config: ActorCriticConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.network = ActorCritic(problem)
        rate, value_rate = config.learning_rate, config.value_learning_rate
        groups = self.network.parameter_groups(rate, value_rate)
        self.optimizer = torch.optim.SGD(groups, foreach=True)
        self.discount = torch.ones(1, dtype=torch.float64)

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy, or its mode when greedy; and I_t."""
        action, _ = self.network.act(observation, greedy)
        starts = torch.from_numpy(self.starts)
        self.discount = torch.where(starts, 1.0, self.discount * self.config.gamma)
        return {"action": action, "discount": self.discount.float()}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step down on the rows of a rollout ``(T, B, ...)``."""
        net, c, valid = self.network, self.config, batch["valid"]
        outputs, value = net(batch)
        with torch.no_grad():
            next_value = net.value(net.encoder(batch["next_observation"])).squeeze(-1)
            future = torch.where(batch["terminated"], 0.0, next_value)
            target = batch["reward"] + c.gamma * future
            delta = target - value
        weight = batch["discount"] if c.discount_weighting else 1.0
        log_prob = net.head.log_prob(outputs, batch["action"])
        policy_loss = -masked_mean(weight * delta * log_prob, valid)
        value_loss = 0.5 * masked_mean((target - value).square(), valid)
        self.optimizer.zero_grad()
        (policy_loss + value_loss).backward()
        norm = clip_gradients(net.parameters(), c.max_gradient_norm)
        self.optimizer.step()
        metrics = {"policy_loss": policy_loss, "value_loss": value_loss}
        metrics |= {"entropy": masked_mean(net.head.entropy(outputs), valid)}
        return {k: v.detach() for k, v in metrics.items()} | {"gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("actor-critic-cartpole")
