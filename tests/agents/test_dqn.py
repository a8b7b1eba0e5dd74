"""DQN's target, step and target network by hand; learning a small environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from rlgen.agents.dqn import DQN, td_target
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.replay import Replay

STATES, ACTIONS = 3, 2


def agent(
    observation: gym.Space[Any], actions: int, hidden: list[int], **hyperparameters: Any
) -> DQN:
    torch.manual_seed(0)
    network = NetworkConfig(hidden=hidden, activation="relu")
    problem = Problem(observation, gym.spaces.Discrete(actions), network=network)
    DQN.check(problem)
    return DQN(DQN.Config(**hyperparameters), problem, np.random.default_rng(0))


def linear_agent(**hyperparameters: Any) -> DQN:
    """Q(s, a) = W[a, s] + b[a]: one linear layer over one-hot states."""
    return agent(gym.spaces.Discrete(STATES), ACTIONS, [], **hyperparameters)


def minibatch(rows: int, seed: int = 1) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    columns = {
        "observation": rng.integers(STATES, size=rows),
        "action": rng.integers(ACTIONS, size=rows),
        "reward": rng.normal(size=rows).astype(np.float32),
        "next_observation": rng.integers(STATES, size=rows),
        "terminated": rng.random(rows) < 0.5,
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def parameters(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()]).clone()


def test_td_target_by_hand():
    """y = r + gamma * max; a terminal successor has no value, however large its row."""
    reward, terminated = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([False, True, False])
    next_values = torch.tensor([[3.0, 5.0], [100.0, 200.0], [-4.0, -2.0]])
    assert td_target(reward, terminated, next_values, 0.5).tolist() == [3.5, 2.0, -2.0]


def test_truncated_transitions_bootstrap():
    """Only `terminated` reaches the update, so an episode cut by a time limit has a future."""
    dqn = linear_agent(gamma=0.5)
    with torch.no_grad():
        dqn.target.layers[0].weight.copy_(torch.tensor([[1.0, 4.0, 2.0], [3.0, 0.0, 8.0]]))
        dqn.network.layers[0].weight.zero_()
    row = {
        "observation": torch.tensor([0]),
        "action": torch.tensor([1]),
        "reward": torch.tensor([1.0]),
        "next_observation": torch.tensor([2]),
    }
    # Q(0, 1) = 0, so the loss is y^2: (1 + 0.5 * 8)^2 cut, 1 terminated.
    cut = dqn.update(row | {"terminated": torch.tensor([False])})
    assert cut["loss"].item() == 25.0
    with torch.no_grad():
        for parameter in dqn.network.parameters():
            parameter.zero_()
    assert dqn.update(row | {"terminated": torch.tensor([True])})["loss"].item() == 1.0


def test_update_is_one_hand_made_adam_step():
    """First step of Adam (eq 1 of Kingma and Ba): w - lr * g / (|g| + 1e-8), g clipped by norm."""
    dqn = linear_agent(gamma=0.9, learning_rate=0.01, max_gradient_norm=0.2)
    with torch.no_grad():
        dqn.target.layers[0].bias.add_(0.7)  # the target differs from the network
    batch = minibatch(8)
    layer = dqn.network.layers[0]
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    target = dqn.target.layers[0].weight.T + dqn.target.layers[0].bias
    weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
    for s, a, r, s1, end in zip(*(batch[name].tolist() for name in batch), strict=True):
        y = r + (0.0 if end else 0.9 * target[s1].max().item())
        slope = 2 * (weight[a, s] + bias[a] - y) / 8  # of the mean squared error; y is a constant
        weight_gradient[a, s] += slope
        bias_gradient[a] += slope
    norm = torch.sqrt(weight_gradient.square().sum() + bias_gradient.square().sum())
    metrics = dqn.update(batch)
    assert norm > 0.2
    torch.testing.assert_close(metrics["gradient_norm"], norm)  # as it was before the clipping
    clip = 0.2 / norm
    for parameter, old, gradient in (
        (layer.weight, weight, weight_gradient * clip),
        (layer.bias, bias, bias_gradient * clip),
    ):
        expected = old - 0.01 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)


def test_target_is_a_copy_that_moves_every_c_updates():
    dqn = linear_agent(target_period=3)
    frozen = parameters(dqn.target)
    assert torch.equal(frozen, parameters(dqn.network))
    for update in range(1, 8):
        dqn.update(minibatch(4, seed=update))
        if update % 3 == 0:
            frozen = parameters(dqn.network)
        else:
            assert not torch.equal(frozen, parameters(dqn.network))
        assert torch.equal(frozen, parameters(dqn.target))
    assert all(p.grad is None and not p.requires_grad for p in dqn.target.parameters())


def test_behaviour_is_epsilon_greedy_and_decays():
    """The greedy one of A = 2 actions has probability 1 - eps + eps / 2; five standard errors."""
    dqn = linear_agent(epsilon_start=0.8, epsilon_end=0.1, epsilon_steps=100)
    observation = torch.zeros(20_000, dtype=torch.int64)
    best = dqn.act(observation, greedy=True)["action"]
    assert len(best.unique()) == 1
    for steps, epsilon in ((0, 0.8), (50, 0.45), (100, 0.1), (10_000, 0.1)):
        dqn.env_steps = steps
        share = (dqn.act(observation, greedy=False)["action"] == best).float().mean().item()
        error = np.sqrt(epsilon / 2 * (1 - epsilon / 2) / len(observation))
        assert abs(share - (1 - epsilon / 2)) < 5 * error
    assert torch.equal(dqn.act(observation, greedy=True)["action"], best)


def test_learns_to_repeat_what_it_sees():
    """Reward 1 where the action is the observation: a wrong policy scores about 1/4."""
    dqn = agent(
        gym.spaces.Discrete(4),
        4,
        [32],
        learning_rate=3e-3,
        gamma=0.5,
        learning_starts=64,
        target_period=20,
        epsilon_steps=500,
    )
    replay = Replay(dqn.replay, dqn.rng)
    observation = dqn.rng.integers(4, size=8)
    everything = torch.arange(4)
    assert dqn.act(everything, greedy=True)["action"].tolist() != everything.tolist()
    for step in range(125):
        dqn.env_steps = 8 * step
        action = dqn.act(torch.from_numpy(observation), greedy=False)["action"].numpy()
        following = dqn.rng.integers(4, size=8)
        replay.insert(
            {
                "observation": observation,
                "action": action,
                "reward": (action == observation).astype(np.float32),
                "next_observation": following,
                "terminated": np.zeros(8, bool),
            }
        )
        observation = following
        while replay.owes_update():
            dqn.update({k: torch.from_numpy(v) for k, v in replay.sample().items()})
    assert dqn.act(everything, greedy=True)["action"].tolist() == everything.tolist()


def test_continuous_actions_are_refused():
    action = gym.spaces.Box(-1.0, 1.0, (2,))
    message = r"env.id: dqn needs a Discrete action space, not Box\(-1.0, 1.0, \(2,\).*; use a3c"
    with pytest.raises(ConfigError, match=message):
        DQN.check(Problem(gym.spaces.Discrete(3), action))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (
            {"learning_starts": 500, "buffer_size": 100},
            r"hyperparameters: learning_starts=500 is more than buffer_size=100 holds",
        ),
        ({"epsilon_start": 1.5}, r"hyperparameters.epsilon_start: .*less than or equal to 1"),
        ({"target_periode": 5}, r"target_periode: unknown key; did you mean 'target_period'"),
    ],
)
def test_bad_hyperparameters_are_refused(hyperparameters, message):
    plain = {
        "name": "x",
        "algorithm": "dqn",
        "hyperparameters": hyperparameters,
        "env": {"id": "CartPole-v1"},
        "stop": {"env_steps": 10},
    }
    with pytest.raises(ConfigError, match=message):
        resolve_experiment(plain)


def test_normalising_discrete_observations_is_refused():
    space = gym.spaces.Discrete(2)
    problem = Problem(space, space, normalize_observation=True)
    with pytest.raises(ConfigError, match=r"env.normalize_observation: only for Box"):
        DQN.check(problem)
