"""One update of DDPG by hand, its exploration noise in closed form, and the pendulum."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlgen
from rlgen.agents.ddpg import DDPG
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig

RATE = 0.1


def linear_agent(**hyperparameters: Any) -> Any:
    """mu(s) = tanh(v . s + c), Q(s, a) = w . (s, a) + b; steps of plain gradient descent."""
    torch.manual_seed(0)
    network = NetworkConfig(hidden=[])
    problem = Problem(
        gym.spaces.Box(-9.0, 9.0, (2,)), gym.spaces.Box(-2.0, 2.0, (1,)), network=network
    )
    agent: Any = DDPG(DDPG.Config(**hyperparameters), problem, np.random.default_rng(0))
    agent.policy_optimizer = torch.optim.SGD(agent.network.layers.parameters(), lr=RATE)
    agent.critic_optimizer = torch.optim.SGD(agent.critic.parameters(), lr=RATE)
    with torch.no_grad():
        agent.network.layers[0].weight.copy_(torch.tensor([[0.3, -0.2]]))
        agent.network.layers[0].bias.fill_(0.1)
        agent.critic.each[0][0].weight.copy_(torch.tensor([[0.5, -0.4, 0.7]]))
        agent.critic.each[0][0].bias.fill_(-0.3)
        agent.target_network.layers[0].weight.copy_(torch.tensor([[-0.6, 0.9]]))
        agent.target_network.layers[0].bias.fill_(0.2)
        agent.target_critic.each[0][0].weight.copy_(torch.tensor([[1.0, 0.2, -0.8]]))
        agent.target_critic.each[0][0].bias.fill_(0.4)
    return agent


# The second row ended, the third was truncated: it has a future, as `terminated` alone says.
OBSERVATION = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -0.7]])
ACTION = np.array([[1.0], [-2.0], [0.5]])
REWARD = np.array([1.0, -1.0, 2.0])
SUCCESSOR = np.array([[0.2, -0.4], [5.0, 5.0], [1.5, 1.0]])
TERMINATED = np.array([False, True, False])


def batch() -> dict[str, torch.Tensor]:
    columns = {
        "observation": OBSERVATION,
        "action": ACTION,
        "reward": REWARD,
        "next_observation": SUCCESSOR,
    }
    tensors = {name: torch.from_numpy(c.astype(np.float32)) for name, c in columns.items()}
    return tensors | {"terminated": torch.from_numpy(TERMINATED)}


def parameters(layers: torch.nn.Module) -> np.ndarray:
    return torch.cat([p.detach().reshape(-1) for p in layers.parameters()]).numpy()


def test_update_is_a_hand_made_gradient_step():
    """The critic's step, then the policy's by the chain rule of theorem 1 (Silver et al. 2014)."""
    agent = linear_agent(gamma=0.9, target_rate=0.25, max_gradient_norm=1e6)
    agent.update(batch())
    # The critic: actions are seen as a / 2, for they go from -2 to 2.
    critic, bias = np.array([0.5, -0.4, 0.7]), -0.3
    critic_gradient, bias_gradient = np.zeros(3), 0.0
    for s, a, r, s1, end in zip(OBSERVATION, ACTION, REWARD, SUCCESSOR, TERMINATED, strict=True):
        next_action = np.tanh(s1 @ [-0.6, 0.9] + 0.2)
        y = r + (0.0 if end else 0.9 * (np.append(s1, next_action) @ [1.0, 0.2, -0.8] + 0.4))
        inputs = np.append(s, a / 2)
        error = inputs @ critic + bias - y
        critic_gradient += 2 * error * inputs / 3
        bias_gradient += 2 * error / 3
    critic, bias = critic - RATE * critic_gradient, bias - RATE * bias_gradient
    moved = parameters(agent.critic)
    np.testing.assert_allclose(moved, [*critic, bias], rtol=1e-5)
    # The policy ascends mean Q(s, mu(s)): dQ/da = critic[2], dmu/dv = (1 - mu^2) s.
    weight_gradient, bias_gradient = np.zeros(2), 0.0
    for s in OBSERVATION:
        mu = np.tanh(s @ [0.3, -0.2] + 0.1)
        weight_gradient += critic[2] * (1 - mu**2) * s / 3
        bias_gradient += critic[2] * (1 - mu**2) / 3
    expected = [*(np.array([0.3, -0.2]) + RATE * weight_gradient), 0.1 + RATE * bias_gradient]
    policy = parameters(agent.network.layers)
    np.testing.assert_allclose(policy, expected, rtol=1e-5)
    # The targets move by a quarter of their distance.
    old = np.array([-0.6, 0.9, 0.2])
    target = parameters(agent.target_network.layers)
    np.testing.assert_allclose(target, old + 0.25 * (policy - old), rtol=1e-5)
    old = np.array([1.0, 0.2, -0.8, 0.4])
    target = parameters(agent.target_critic)
    np.testing.assert_allclose(target, old + 0.25 * (moved - old), rtol=1e-5)


def test_a_target_rate_of_one_leaves_no_separate_targets():
    agent = linear_agent(target_rate=1.0)
    agent.update(batch())
    for target, module in (
        (agent.target_network, agent.network),
        (agent.target_critic, agent.critic),
    ):
        np.testing.assert_array_equal(parameters(target), parameters(module))


def explored(steps: int, **hyperparameters: Any) -> np.ndarray:
    """Standardised actions ``(steps, B)`` of a policy that is 0 everywhere."""
    agent = linear_agent(random_steps=0, **hyperparameters)
    with torch.no_grad():
        for parameter in agent.network.layers.parameters():
            parameter.zero_()
    actions, observation = [], torch.zeros(500, 2)
    for step in range(steps):
        agent.starts = np.full(500, step == 0)
        with torch.no_grad():
            action = agent.act(observation, greedy=False)["action"]
        actions.append(action[:, 0].numpy() / 2)
    return np.stack(actions)


@pytest.mark.parametrize("theta", [1.0, 0.15])
def test_noise_has_the_moments_of_its_process(theta):
    """x' = (1 - theta) x + N(0, s^2): variance s^2 / (1 - (1 - theta)^2) in the long run, and
    correlation 1 - theta from step to step; Gaussian noise is the case theta = 1."""
    x = explored(140, noise=0.05, noise_reversion=theta)
    assert x[0].std() == pytest.approx(0.05, rel=0.2)  # it began at 0
    late = x[40:]
    variance = 0.05**2 / (1 - (1 - theta) ** 2)
    assert late.var() == pytest.approx(variance, rel=0.1)
    correlation = (late[1:] * late[:-1]).mean() / late.var()
    assert correlation == pytest.approx(1 - theta, abs=0.03)


def test_noise_begins_anew_with_an_episode():
    agent = linear_agent(random_steps=0, noise=0.05, noise_reversion=0.01)
    agent.noise = torch.full((3, 1), 0.5)
    agent.starts = np.array([False, True, False])
    agent.act(torch.zeros(3, 2), greedy=False)
    kept = np.array([0.5 * 0.99, 0.0, 0.5 * 0.99])
    assert np.abs(agent.noise[:, 0].numpy() - kept).max() < 5 * 0.05
    before = agent.noise.clone()
    agent.act(torch.zeros(3, 2), greedy=True)
    assert torch.equal(agent.noise, before)  # an evaluation has none


def solved(name: str, seed: int, runs_dir: Any) -> None:
    """Mean return of 20 episodes better than -200 in at most 15,000 steps (and those asked for)."""
    run = rlgen.train(name, {"run.dir": str(runs_dir), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] > -200
    assert run.summary["evaluation"]["episodes"] == 20
    assert run.summary["env_steps"] <= 15_000


def test_swings_the_pendulum_up(tmp_path):
    solved("ddpg-pendulum", 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_swings_the_pendulum_up_with_every_seed(seed, tmp_path):
    solved("ddpg-pendulum", seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_so_it_does_without_target_networks(seed, tmp_path):
    solved("dpg-pendulum", seed, tmp_path)
