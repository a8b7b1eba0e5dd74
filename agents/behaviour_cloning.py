"""Behaviour cloning: supervised learning of an expert's recorded actions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rlgen.agents.policies import check_policy
from rlgen.algorithm import Algorithm, Metrics, Problem
from rlgen.config import Count, Hyperparameters, NotNegative, Positive
from rlgen.networks import clip_gradients, make_encoder, make_mlp, policy_head


class BehaviourCloningConfig(Hyperparameters):
    """Hyper-parameters of behaviour cloning."""

    batch_size: Count = 64  # recorded steps per update
    learning_rate: Positive = 1e-3  # of Adam, > 0
    weight_decay: NotNegative = 0.0  # of AdamW, against learning by heart, >= 0
    max_gradient_norm: Positive = 1.0  # clipped above it, > 0


class Policy(nn.Module):
    """pi(a | s) alone: no value of a state is learned."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.encoder = make_encoder(problem)
        self.head = policy_head(problem.action_space)
        self.layers = make_mlp(problem.network, self.encoder.size, self.head.size, last_gain=0.01)

    def forward(self, observation: Tensor) -> Tensor:
        """The head's outputs ``(B, size)`` for observations ``(B, ...)``."""
        outputs: Tensor = self.layers(self.encoder(observation))
        return outputs


class BehaviourCloning(Algorithm):
    """Behaviour cloning: the policy that makes the expert's actions likely (section 14.5).

    One update is one step of AdamW down the negative log-likelihood of a minibatch of recorded
    steps (s, a),

        mean [ -log pi(a | s) ]:

    the cross-entropy of discrete actions; of a ``Box``, squared errors weighed by a learned
    deviation per component. An epoch is one pass over the recording; no reward is looked at, and
    no environment is stepped but for the evaluation, where the mode of pi acts.

    Errors add up: where the clone is wrong with probability eps, it comes into states that the
    expert never showed, and may lose up to eps T^2 over T steps (Ross and Bagnell, 2010).

    Pomerleau, *Efficient training of artificial neural networks for autonomous navigation*, 1991.
    """

    Config = BehaviourCloningConfig
    source = "data"
    uses_network = True
    data_parallel = True
    uses_demonstrations = True
    batch_axis = 0
    config: BehaviourCloningConfig

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse actions that have no policy head, and observations that have no encoder."""
        check_policy(problem)

    def __init__(
        self, config: BehaviourCloningConfig, problem: Problem, rng: np.random.Generator
    ) -> None:
        super().__init__(config, problem, rng)
        self.network = Policy(problem)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def act(self, observation: Tensor, greedy: bool) -> dict[str, Tensor]:
        """Actions drawn from the policy; its mode when greedy."""
        head, outputs = self.network.head, self.network(observation)
        return {"action": head.mode(outputs) if greedy else head.sample(outputs)}

    def update(self, batch: dict[str, Tensor]) -> Metrics:
        """One step down on recorded steps ``(n, ...)``."""
        head, outputs = self.network.head, self.network(batch["observation"])
        loss = -head.log_prob(outputs, batch["action"]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(self.network.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        return {"loss": loss.detach(), "gradient_norm": norm}


if __name__ == "__main__":
    import rlgen

    rlgen.train("bc-cartpole")
