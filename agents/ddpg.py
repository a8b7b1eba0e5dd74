"""Deep deterministic policy gradient."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rlgen.agents.continuous import (
    Critics,
    DeterministicPolicy,
    ReplayHyperparameters,
    check_bounded_actions,
    descend,
    td_target,
)
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import NotNegative, Rate
from rlgen.networks import follow


class DDPGConfig(ReplayHyperparameters):
    """Hyper-parameters of DDPG, beside those of every algorithm of continuous actions."""

    noise: NotNegative = 0.1  # its deviation per step, in half ranges of the actions
    noise_reversion: Rate = 1.0  # theta; 1: independent noise


class DDPG(Algorithm):
    """DDPG: the deterministic policy gradient with a replay and slow targets (section 14.5).

    One update draws transitions (s, a, r, s') from the replay, descends

        L = mean ( y - Q(s, a) )^2,   y = r + gamma * (1 - terminated) * Q'(s', mu'(s'))

    without a gradient through y, then ascends mean Q(s, mu(s)) in the policy's parameters, which
    is the deterministic policy gradient (Silver et al. 2014, theorem 1),

        grad J = mean [ grad_a Q(s, a) at a = mu(s)  *  grad mu(s) ],

    and moves the targets Q', mu' by tau of their distance (Polyak averaging). The behaviour is
    mu(s) + x, with x = (1 - theta) x + N(0, noise^2) from x = 0 at the start of every episode:
    independent Gaussian noise with theta = 1, an Ornstein-Uhlenbeck process with less (0.15 in the
    paper). Actions are standardised to [-1, 1].

    With tau = 1 the targets are the networks themselves: that is the off-policy DPG of 2014 with a
    replay and a network for its critic, and less stable. The book names both and gives no formula.

    Lillicrap et al., *Continuous control with deep reinforcement learning*, 2016, algorithm 1;
    Silver et al., *Deterministic policy gradient algorithms*, 2014.
    """

    Config = DDPGConfig
    uses_network = True
    data_parallel = True
    modes = ("sync", "async")
    config: DDPGConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that are not in a bounded box, and observations without an encoder."""
        check_bounded_actions(problem, "ddpg")

    def __init__(self, config: DDPGConfig, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__(config, problem, rng)
        self.network = DeterministicPolicy(problem)
        self.critic = Critics(problem, self.network.encoder.size, 1)
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        adam = torch.optim.Adam
        self.policy_optimizer = adam(
            self.network.layers.parameters(), lr=config.policy_learning_rate, fused=True
        )
        self.critic_optimizer = adam(
            [*self.network.encoder.parameters(), *self.critic.parameters()],
            lr=config.critic_learning_rate,
            fused=True,
        )
        self.noise = torch.zeros(1, 1)
        self.replay = config.plan()

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """mu(s), with noise unless greedy; uniformly random at first."""
        net, c = self.network, self.config
        unit = net(net.encoder(observation))
        if not greedy and self.env_steps < c.random_steps:
            unit = 2.0 * torch.rand_like(unit) - 1.0
        elif not greedy:
            begun = torch.from_numpy(self.starts)[:, None]
            kept = (1.0 - c.noise_reversion) * torch.where(begun, 0.0, self.noise)
            self.noise = kept + c.noise * torch.randn_like(unit)
            unit = (unit + self.noise).clamp(-1.0, 1.0)
        return {"action": net.bounds.to_action(unit)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """Descend on one minibatch of B transitions."""
        c, net, frozen = self.config, self.network, self.target_network
        with torch.no_grad():
            after = frozen.encoder(batch["next_observation"])
            next_value = self.target_critic(after, frozen(after))[0]
            y = td_target(batch["reward"], batch["terminated"], next_value, c.gamma)
        features = net.encoder(batch["observation"])
        q = self.critic(features, net.bounds.to_unit(batch["action"]))[0]
        critic_loss = functional.mse_loss(q, y)
        norm = descend(critic_loss, self.critic_optimizer, c.max_gradient_norm)
        features = features.detach()
        policy_loss = -self.critic(features, net(features))[0].mean()
        descend(policy_loss, self.policy_optimizer, c.max_gradient_norm)
        follow(frozen, net, c.target_rate)
        follow(self.target_critic, self.critic, c.target_rate)
        return {
            "critic_loss": critic_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "gradient_norm": norm,
        }


if __name__ == "__main__":
    import rlgen

    rlgen.train("ddpg-pendulum")
