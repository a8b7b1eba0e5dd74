"""Behaviour cloning: its step by hand, its closed-form optimum, and an expert's CartPole."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from experiments import train

import rlgen
from rlgen import demonstrations
from rlgen.agents.behaviour_cloning import BehaviourCloning
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError
from rlgen.generative import data


def clone(observation, action, **hyperparameters):
    """A linear policy: no hidden layers."""
    torch.manual_seed(0)
    problem = Problem(observation, action, network=NetworkConfig(hidden=[]))
    BehaviourCloning.check(problem)
    config = BehaviourCloning.Config(**hyperparameters)
    return BehaviourCloning(config, problem, np.random.default_rng(0))


def test_update_is_one_hand_made_adamw_step():
    """Gradient softmax(z) - onehot(a); first step of AdamW: w - lr (g / (|g| + 1e-8) + decay w)."""
    agent = clone(
        gym.spaces.Discrete(3),
        gym.spaces.Discrete(2),
        learning_rate=0.01,
        weight_decay=0.5,
        max_gradient_norm=0.05,
    )
    layer = agent.network.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -1.0, 0.2], [0.9, 0.4, -0.5]]))
        layer.bias.copy_(torch.tensor([0.1, -0.2]))
    observation, action = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 0, 1, 1])
    old = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    gradient = np.zeros((2, 3)), np.zeros(2)
    loss = 0.0
    for s, a in zip(observation.tolist(), action.tolist(), strict=True):
        z = old[0][:, s] + old[1]
        p = np.exp(z) / np.exp(z).sum()
        loss -= np.log(p[a]) / 4
        gradient[0][:, s] += (p - np.eye(2)[a]) / 4
        gradient[1][:] += (p - np.eye(2)[a]) / 4
    norm = np.sqrt(sum((g**2).sum() for g in gradient))
    metrics = agent.update({"observation": observation, "action": action})
    assert metrics["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert metrics["gradient_norm"].item() == pytest.approx(norm, rel=1e-5) and norm > 0.05
    for parameter, w, g in zip((layer.weight, layer.bias), old, gradient, strict=True):
        clipped = g * 0.05 / norm
        expected = w - 0.01 * (clipped / (np.abs(clipped) + 1e-8) + 0.5 * w)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-5)


def test_the_likeliest_policy_has_the_experts_frequencies():
    """With one-hot states the maximum of the likelihood is n(s, a) / n(s), state by state."""
    agent = clone(gym.spaces.Discrete(2), gym.spaces.Discrete(3), learning_rate=0.05)
    counts = np.array([[6, 3, 1], [1, 1, 8]])
    rows = [(s, a) for s in range(2) for a in range(3) for _ in range(counts[s, a])]
    observation, action = torch.tensor(rows).T
    for _ in range(400):
        agent.update({"observation": observation, "action": action})
    policy = agent.network(torch.arange(2)).softmax(dim=-1).detach().numpy()
    np.testing.assert_allclose(policy, counts / 10, atol=1e-3)
    assert agent.act(torch.arange(2), greedy=True)["action"].tolist() == [0, 2]
    drawn = agent.act(torch.zeros(20_000, dtype=torch.int64), greedy=False)["action"]
    share = np.bincount(drawn, minlength=3) / 20_000
    np.testing.assert_allclose(share, counts[0] / 10, atol=5 * np.sqrt(0.25 / 20_000))


def test_the_likeliest_gaussian_has_the_experts_mean_and_deviation():
    space = gym.spaces.Box(-4.0, 4.0, (1,))
    agent = clone(gym.spaces.Discrete(1), space, learning_rate=0.02)
    action = torch.tensor([[1.0], [2.0], [3.5], [-0.5]])
    for _ in range(1500):
        agent.update({"observation": torch.zeros(4, dtype=torch.int64), "action": action})
    mode = agent.act(torch.zeros(1, dtype=torch.int64), greedy=True)["action"]
    assert mode.item() == pytest.approx(action.mean().item(), abs=0.01)
    head = agent.network.head
    deviation = (head.log_std.exp() * head.half_range).item()
    assert deviation == pytest.approx(action.std(correction=0).item(), abs=0.01)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_ten_episodes_of_an_expert_are_enough_for_cartpole(seed, tmp_path):
    run = rlgen.train("bc-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.experiment.demonstrations.episodes == 10
    evaluation = run.summary["evaluation"]
    assert evaluation["metric"] == "return" and evaluation["episodes"] == 20
    assert evaluation["mean"] >= 450
    assert run.summary["env_steps"] == 0 and run.summary["epochs"] == 20
    assert run.act([0.0, 0.0, 0.05, 0.0]) in (0, 1)


def test_what_is_cloned_is_the_recording(tmp_path):
    """The mirror image of the expert's actions: the clone falls at once."""
    shown = demonstrations.load(load_experiment("bc-cartpole").demonstrations)
    columns = {
        name: getattr(shown, name)
        for name in ("observation", "reward", "terminated", "truncated", "episode")
    }
    columns |= {"last_observation": shown.last_observation, "action": 1 - shown.action}
    demonstrations.save(tmp_path / "mirrored.npz", columns, shown.about)
    changes = {"run.dir": str(tmp_path), "stop.epochs": 2, "evaluation.every": 0}
    run = rlgen.train(
        "bc-cartpole", {**changes, "demonstrations": {"path": str(tmp_path / "mirrored.npz")}}
    )
    assert run.evaluate()["mean"] < 15


def test_an_epoch_shows_every_row_once():
    shown = demonstrations.load(load_experiment("bc-cartpole").demonstrations)
    shards = [data.Shard(shown, 0, 64, worker, 3) for worker in range(3)]
    seen = []
    while shards[0].epoch == 0:
        parts = [shard.next() for shard in shards]
        seen.append(np.concatenate([part["observation"] for part in parts]))
        assert all(len(part["action"]) == len(part["observation"]) for part in parts)
    rows = np.concatenate(seen)
    assert len(seen) == -(-5000 // 64) and len(rows) == 5000
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(shown.observation, axis=0))


def test_the_number_of_data_workers_changes_no_minibatch(tmp_path):
    one = train("behaviour-cloning", tmp_path, {"scheduler.workers": 1})
    two = train("behaviour-cloning", tmp_path, {"scheduler.workers": 2})
    np.testing.assert_array_equal(one.weights, two.weights)
    half = train("behaviour-cloning", tmp_path, {"scheduler.workers": 1, "stop.epochs": 1})
    resumed = rlgen.resume(half.dir, {"scheduler.workers": 2, "stop.epochs": 2})
    np.testing.assert_array_equal(one.weights, resumed.weights)


def test_actions_without_a_policy_are_refused():
    space = gym.spaces.Discrete(2)
    with pytest.raises(ConfigError, match=r"env.id: actions in MultiBinary\(3\) are not supported"):
        BehaviourCloning.check(Problem(space, gym.spaces.MultiBinary(3)))
