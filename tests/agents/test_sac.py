"""One update of SAC by hand: soft target, policy through its noise, temperature."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlgen
from rlgen.agents.sac import SAC
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig

RATE = 0.1
Linear = tuple[np.ndarray, np.ndarray]


def linear_agent(**hyperparameters: Any) -> Any:
    """All networks linear; steps of plain gradient descent."""
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[])
    space = gym.spaces.Box(-9.0, 9.0, (2,))
    problem = Problem(space, gym.spaces.Box(-3.0, 3.0, (1,)), network=network)
    agent: Any = SAC(SAC.Config(**hyperparameters), problem, np.random.default_rng(0))
    values = np.random.default_rng(5)
    with torch.no_grad():
        for module in (agent.network.layers, agent.critics, agent.targets):
            for parameter in module.parameters():
                parameter.copy_(torch.from_numpy(values.normal(size=parameter.shape)))
    agent.policy_optimizer = torch.optim.SGD(agent.network.layers.parameters(), lr=RATE)
    agent.critic_optimizer = torch.optim.SGD(agent.critics.parameters(), lr=RATE)
    agent.temperature_optimizer = torch.optim.SGD([agent.network.log_alpha], lr=RATE)
    return agent


def linear(layers: Any) -> Linear:
    (layer,) = layers
    return layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float)


def squash(x: float, log_std: float, noise: float) -> tuple[float, float]:
    """The action tanh(x) and its log-density."""
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    return math.tanh(x), log_prob - math.log(1 - math.tanh(x) ** 2)


def policy(layers: Linear, state: np.ndarray, noise: float) -> tuple[float, float, float]:
    """x, log of the deviation, and its product with the noise."""
    mean, log_std = layers[0] @ state + layers[1]
    return mean + math.exp(log_std) * noise, log_std, math.exp(log_std) * noise


def test_update_is_three_hand_made_gradient_steps():
    agent = linear_agent(
        gamma=0.9, temperature=0.4, target_rate=0.25, target_entropy=-0.7, max_gradient_norm=1e6
    )
    rng = np.random.default_rng(1)
    rows = 6
    columns = {
        "observation": rng.normal(size=(rows, 2)),
        "action": rng.uniform(-3, 3, size=(rows, 1)),
        "reward": rng.normal(size=rows),
        "next_observation": rng.normal(size=(rows, 2)),
    }
    terminated = np.arange(rows) % 3 == 1
    batch = {k: torch.from_numpy(v.astype(np.float32)) for k, v in columns.items()}
    pi = linear(agent.network.layers)
    critics = [linear(layers) for layers in agent.critics.each]
    slow = [linear(layers) for layers in agent.targets[1].each]
    torch.manual_seed(3)
    next_noise, noise = torch.randn(rows, 1).numpy()[:, 0], torch.randn(rows, 1).numpy()[:, 0]
    torch.manual_seed(3)
    metrics = agent.update(batch | {"terminated": torch.from_numpy(terminated)})

    # Both critics towards y, with actions seen as a / 3.
    y = []
    for r, s1, end, e in zip(
        columns["reward"], columns["next_observation"], terminated, next_noise, strict=True
    ):
        x, log_std, _ = policy(pi, s1, e)
        action, log_prob = squash(x, log_std, e)
        value = min((w @ np.append(s1, action) + b).item() for w, b in slow) - 0.4 * log_prob
        y.append(r if end else r + 0.9 * value)
    moved = []
    for (w, b), layers in zip(critics, agent.critics.each, strict=True):
        w_gradient, b_gradient = np.zeros(3), 0.0
        for s, a, goal in zip(columns["observation"], columns["action"], y, strict=True):
            inputs = np.append(s, a / 3)
            error = (w @ inputs + b - goal).item()
            w_gradient += 2 * error * inputs / rows
            b_gradient += 2 * error / rows
        moved.append((w - RATE * w_gradient, b - RATE * b_gradient))
        for found, expected in zip(linear(layers), moved[-1], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    # The policy down mean [alpha log pi - min Q], by the chain rule: d log pi / dx = 2 tanh(x).
    w_gradient, b_gradient, log_probs = np.zeros((2, 2)), np.zeros(2), []
    for s, e in zip(columns["observation"], noise, strict=True):
        x, log_std, spread = policy(pi, s, e)
        action, log_prob = squash(x, log_std, e)
        log_probs.append(log_prob)
        inputs = np.append(s, action)
        w, _ = moved[int(np.argmin([(w @ inputs + b).item() for w, b in moved]))]
        along_x = 0.4 * 2 * math.tanh(x) - w[0, 2] * (1 - math.tanh(x) ** 2)
        slopes = np.array([along_x, along_x * spread - 0.4])
        w_gradient += np.outer(slopes, s) / rows
        b_gradient += slopes / rows
    weight, bias = linear(agent.network.layers)
    np.testing.assert_allclose(weight, pi[0] - RATE * w_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias, pi[1] - RATE * b_gradient, rtol=1e-4, atol=1e-6)

    # The temperature: the slope of -log alpha * mean [log pi + target] is entropy - target.
    entropy = -np.mean(log_probs)
    assert metrics["entropy"].item() == pytest.approx(entropy, rel=1e-4)
    expected = math.log(0.4) - RATE * (entropy + 0.7)
    assert agent.network.log_alpha.item() == pytest.approx(expected, rel=1e-4)

    for old, layers, target in zip(slow, agent.critics.each, agent.targets[1].each, strict=True):
        for before, now, found in zip(old, linear(layers), linear(target), strict=True):
            np.testing.assert_allclose(found, 0.75 * before + 0.25 * now, rtol=1e-4, atol=1e-6)


def test_the_target_entropy_is_minus_the_number_of_actions_unless_given():
    assert linear_agent().target_entropy == -1.0
    assert linear_agent(target_entropy=-3.5).target_entropy == -3.5


def test_a_temperature_without_a_learning_rate_stays():
    torch.manual_seed(0)
    space = gym.spaces.Box(-1.0, 1.0, (2,))
    problem = Problem(space, space, network=NetworkConfig(hidden=[4]))
    config = SAC.Config(temperature=0.3, temperature_learning_rate=0.0)
    agent = SAC(config, problem, np.random.default_rng(0))
    batch = {name: torch.rand(5, 2) for name in ("observation", "next_observation", "action")}
    batch |= {"reward": torch.ones(5), "terminated": torch.zeros(5, dtype=torch.bool)}
    for _ in range(3):
        assert agent.update(batch)["temperature"].item() == pytest.approx(0.3)


def test_the_behaviour_is_drawn_and_the_evaluation_takes_the_middle():
    """tanh of N(m, s^2): the median of the draws is tanh(m), in the units of the environment."""
    agent = linear_agent(random_steps=0)
    observation = torch.tensor([[0.3, -0.2]]).expand(20_001, 2)
    drawn = agent.act(observation, greedy=False)["action"][:, 0]
    middle = agent.act(observation[:1], greedy=True)["action"].item()
    below = (drawn < middle).float().mean().item()
    assert abs(below - 0.5) < 5 * 0.5 / np.sqrt(20_001)
    assert drawn.std() > 0.1


def solved(seed: int, runs_dir: Any) -> None:
    run = rlgen.train("sac-pendulum", {"run.dir": str(runs_dir), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] > -200
    assert run.summary["evaluation"]["episodes"] == 20
    assert run.summary["env_steps"] <= 15_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_swings_the_pendulum_up(seed, tmp_path):
    solved(seed, tmp_path)
