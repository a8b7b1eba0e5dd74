"""Twin delayed deterministic policy gradient."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from rlgen.agents.continuous import (
    Critics,
    DeterministicPolicy,
    ReplayHyperparameters,
    check_bounded_actions,
    descend,
    td_target,
)
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, NotNegative, Positive
from rlgen.networks import follow


class TD3Config(ReplayHyperparameters):
    """Hyper-parameters of TD3, beside those of every algorithm of continuous actions."""

    policy_period: Count = 2  # d, updates of the critics per update of policy and targets
    smoothing: NotNegative = 0.2  # deviation of the noise on target actions, in half ranges
    smoothing_limit: Positive = 0.5  # c, that noise is clipped to [-c, c]
    noise: NotNegative = 0.1  # deviation of the exploration's noise, in half ranges


class TD3(Algorithm):
    """TD3: DDPG with three remedies against overestimated values.

    One update draws transitions (s, a, r, s') and descends the squared errors of both critics

        L = sum_{i=1,2} mean ( y - Q_i(s, a) )^2,
        y = r + gamma * (1 - terminated) * min_i Q'_i(s', a'),
        a' = clip(mu'(s') + clip(e, -c, c), -1, 1),   e ~ N(0, smoothing^2)

    without a gradient through y. Every d-th update also ascends mean Q_1(s, mu(s)) in the policy
    and then moves all targets by tau of their distance (Polyak averaging). Actions are standardised
    to [-1, 1]; the behaviour adds Gaussian noise to mu(s). Not in the book.

    Fujimoto, van Hoof and Meger, *Addressing function approximation error in actor-critic
    methods*, 2018, algorithm 1.
    """

    Config = TD3Config
    uses_network = True
    data_parallel = True
    modes = ("sync", "async")
    config: TD3Config

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that are not in a bounded box, and observations without an encoder."""
        check_bounded_actions(problem, "td3")

    def __init__(self, config: TD3Config, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = DeterministicPolicy(problem)
        self.critics = Critics(problem, self.network.encoder.size, 2)
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        policy = self.network.layers.parameters()
        critics = [*self.network.encoder.parameters(), *self.critics.parameters()]
        adam = torch.optim.Adam
        self.policy_optimizer = adam(policy, lr=config.policy_learning_rate, fused=True)
        self.critic_optimizer = adam(critics, lr=config.critic_learning_rate, fused=True)
        self.updates = 0
        self.replay = config.plan()

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """mu(s), with Gaussian noise unless greedy; uniformly random at first."""
        net, c = self.network, self.config
        unit = net(net.encoder(observation))
        if not greedy and self.env_steps < c.random_steps:
            unit = 2.0 * torch.rand_like(unit) - 1.0
        elif not greedy:
            unit = (unit + c.noise * torch.randn_like(unit)).clamp(-1.0, 1.0)
        return {"action": net.bounds.to_action(unit)}

    def _target(self, batch: dict[str, Tensor]) -> Tensor:
        """y ``(B,)``."""
        c, frozen = self.config, self.target_network
        features = frozen.encoder(batch["next_observation"])
        unit = frozen(features)
        limit = c.smoothing_limit
        noise = (c.smoothing * torch.randn_like(unit)).clamp(-limit, limit)
        next_value = self.target_critics(features, (unit + noise).clamp(-1.0, 1.0)).amin(dim=0)
        return td_target(batch["reward"], batch["terminated"], next_value, c.gamma)

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of B transitions."""
        c, net = self.config, self.network
        with torch.no_grad():
            y = self._target(batch)
        features = net.encoder(batch["observation"])
        q = self.critics(features, net.bounds.to_unit(batch["action"]))
        critic_loss = (q - y).square().mean(dim=1).sum()
        norm = descend(critic_loss, self.critic_optimizer, c.max_gradient_norm)
        self.updates += 1
        if self.updates % c.policy_period == 0:
            features = features.detach()
            policy_loss = -self.critics.each[0](torch.cat([features, net(features)], dim=-1)).mean()
            descend(policy_loss, self.policy_optimizer, c.max_gradient_norm)
            follow(self.target_network, net, c.target_rate)
            follow(self.target_critics, self.critics, c.target_rate)
        return {"critic_loss": critic_loss.detach(), "q": q.detach().mean(), "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("td3-pendulum")
