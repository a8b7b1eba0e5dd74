"""One update of TD3 by hand: the smaller critic, clipped target noise, the delayed policy."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlgen
from rlgen.agents.td3 import TD3
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig

RATE = 0.1


def linear_agent(**hyperparameters: Any) -> Any:
    """mu(s) = tanh(v . s + c), Q_i(s, a) = w_i . (s, a) + b_i; steps of plain gradient descent."""
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[])
    space = gym.spaces.Box(-9.0, 9.0, (2,))
    problem = Problem(space, gym.spaces.Box(-1.0, 1.0, (1,)), network=network)
    agent: Any = TD3(TD3.Config(**hyperparameters), problem, np.random.default_rng(0))
    agent.policy_optimizer = torch.optim.SGD(agent.network.layers.parameters(), lr=RATE)
    agent.critic_optimizer = torch.optim.SGD(agent.critics.parameters(), lr=RATE)
    values = np.random.default_rng(5)
    with torch.no_grad():
        for module in (agent.network.layers, agent.critics):
            for parameter in module.parameters():
                parameter.copy_(torch.from_numpy(values.normal(size=parameter.shape)))
        for module in (agent.target_network.layers, agent.target_critics):
            for parameter in module.parameters():
                parameter.copy_(torch.from_numpy(values.normal(size=parameter.shape)))
    return agent


def minibatch(rows: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "observation": rng.normal(size=(rows, 2)),
        "action": rng.uniform(-1, 1, size=(rows, 1)),
        "reward": rng.normal(size=rows),
        "next_observation": rng.normal(size=(rows, 2)),
        "terminated": np.arange(rows) % 3 == 1,
    }


def tensors(columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        k: torch.from_numpy(v if v.dtype == bool else v.astype(np.float32))
        for k, v in columns.items()
    }


def linear(layers: Any) -> tuple[np.ndarray, float]:
    (layer,) = layers
    return layer.weight.detach().numpy()[0].astype(float), layer.bias.item()


def targets(agent: Any, columns: dict[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
    policy, *critics = (
        linear(m) for m in (agent.target_network.layers, *agent.target_critics.each)
    )
    y = []
    for r, s1, end, e in zip(
        columns["reward"], columns["next_observation"], columns["terminated"], noise, strict=True
    ):
        action = np.clip(np.tanh(s1 @ policy[0] + policy[1]) + e, -1, 1)
        next_value = min(np.append(s1, action) @ w + b for w, b in critics)
        y.append(r if end else r + 0.9 * next_value)
    return np.array(y)


@pytest.mark.parametrize("smoothing", [0.2, 100.0])
def test_update_is_a_hand_made_gradient_step(smoothing):
    """With a deviation of 100 nearly all noise is at its limit, +-0.5 (and actions end at +-1)."""
    agent = linear_agent(gamma=0.9, smoothing=smoothing, max_gradient_norm=1e6)
    columns = minibatch()
    torch.manual_seed(3)
    noise = np.clip(smoothing * torch.randn(6, 1).numpy(), -0.5, 0.5)[:, 0]
    y = targets(agent, columns, noise)
    before = [linear(layers) for layers in agent.critics.each]
    torch.manual_seed(3)
    agent.update(tensors(columns))
    for (w, b), layers in zip(before, agent.critics.each, strict=True):
        w_gradient, b_gradient = np.zeros(3), 0.0
        for s, a, goal in zip(columns["observation"], columns["action"], y, strict=True):
            inputs = np.append(s, a)
            error = inputs @ w + b - goal
            w_gradient += 2 * error * inputs / 6
            b_gradient += 2 * error / 6
        moved = linear(layers)
        np.testing.assert_allclose(moved[0], w - RATE * w_gradient, rtol=1e-4, atol=1e-6)
        assert moved[1] == pytest.approx(b - RATE * b_gradient, rel=1e-4)


def test_policy_and_targets_move_every_d_th_update_only():
    agent = linear_agent(policy_period=3, target_rate=0.5, max_gradient_norm=1e6)
    columns = minibatch()
    for update in range(1, 7):
        policy = linear(agent.network.layers)
        slow = linear(agent.target_network.layers), linear(agent.target_critics.each[1])
        agent.update(tensors(columns))
        weight, bias = policy
        if update % 3 == 0:  # by the first critic's slope, as it is after its own step
            slope = linear(agent.critics.each[0])[0][2]
            for s in columns["observation"]:
                mu = np.tanh(s @ policy[0] + policy[1])
                weight = weight + RATE * slope * (1 - mu**2) * s / 6
                bias += RATE * slope * (1 - mu**2) / 6
        moved = linear(agent.network.layers)
        np.testing.assert_allclose(np.append(*moved), np.append(weight, bias), rtol=1e-4)
        share = 0.5 if update % 3 == 0 else 0.0
        for old, module, target in zip(
            slow,
            (agent.network.layers, agent.critics.each[1]),
            (agent.target_network.layers, agent.target_critics.each[1]),
            strict=True,
        ):
            expected = (1 - share) * np.append(*old) + share * np.append(*linear(module))
            np.testing.assert_allclose(np.append(*linear(target)), expected, rtol=1e-4)


def test_exploration_is_gaussian_around_the_policy():
    agent = linear_agent(random_steps=0, noise=0.1)
    with torch.no_grad():
        for parameter in agent.network.layers.parameters():
            parameter.zero_()
    action = agent.act(torch.zeros(20_000, 2), greedy=False)["action"]
    assert abs(action.mean()) < 5 * 0.1 / np.sqrt(20_000)
    assert abs(action.std() / 0.1 - 1) < 5 / np.sqrt(40_000)
    assert (agent.act(torch.zeros(3, 2), greedy=True)["action"] == 0).all()


def solved(seed: int, runs_dir: Any) -> None:
    run = rlgen.train("td3-pendulum", {"run.dir": str(runs_dir), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] > -200
    assert run.summary["evaluation"]["episodes"] == 20
    assert run.summary["env_steps"] <= 15_000


def test_swings_the_pendulum_up(tmp_path):
    solved(0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_swings_the_pendulum_up_with_every_seed(seed, tmp_path):
    solved(seed, tmp_path)
