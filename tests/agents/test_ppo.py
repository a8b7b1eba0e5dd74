"""PPO's objective by hand, its first step against a slow loop, its minibatches; learning."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout
from torch import Tensor

import rlgen
from rlgen.agents.policies import clipped_objective, shuffled
from rlgen.agents.ppo import PPO
from rlgen.algorithm import Problem, read_weights
from rlgen.config import NetworkConfig, load_experiment
from rlgen.errors import ConfigError

STEPS, ENVS, FEATURES = 7, 5, 3
GAMMA, LAM = 0.9, 0.7
SPACES = [gym.spaces.Discrete(3), gym.spaces.Box(-2.0, 2.0, (2,))]


def agent(action_space: gym.Space[Any], **hyperparameters: Any) -> PPO:
    torch.manual_seed(0)
    space = gym.spaces.Box(-np.inf, np.inf, (FEATURES,))
    problem = Problem(space, action_space, network=NetworkConfig(hidden=[8]))
    PPO.check(problem)
    given = {"gamma": GAMMA, "gae_lambda": LAM, "max_gradient_norm": 1e9} | hyperparameters
    ppo = PPO(PPO.Config(**given), problem, np.random.default_rng(0))
    with torch.no_grad():  # away from the nearly uniform policy of the start
        last: Any = ppo.network.policy[-1]
        last.weight.normal_()
    return ppo


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors]).clone()


def test_clipped_objective_by_hand():
    """Eq 7 with eps = 0.2: the gain from going further is cut, a loss from it never is."""
    ratio = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5, 1.1])
    advantage = torch.tensor([2.0, 2.0, -2.0, 2.0, -2.0, 3.0])
    expected = torch.tensor([2.0, 1.2 * 2, 1.5 * -2, 0.5 * 2, 0.8 * -2, 1.1 * 3])
    torch.testing.assert_close(clipped_objective(ratio, advantage, 0.2), expected)


def test_clipped_rows_have_no_gradient():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5]).requires_grad_()
    advantage = torch.tensor([2.0, -2.0, 2.0, -2.0])
    clipped_objective(ratio, advantage, 0.2).sum().backward()
    assert ratio.grad.tolist() == [0.0, -2.0, 2.0, 0.0]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_one_step_on_all_rows_equals_a_slow_loop(space, normalize):
    """w - g exactly for plain descent of rate 1, with another policy's log-probabilities."""
    ppo = agent(
        space,
        epochs=1,
        minibatch_size=1000,
        clip_range=0.1,
        normalize_advantage=normalize,
        value_coefficient=0.3,
        entropy_coefficient=0.05,
    )
    batch, net = random_rollout(ppo), ppo.network
    noise = torch.from_numpy(np.random.default_rng(3).normal(scale=0.3, size=(STEPS, ENVS))).float()
    batch["log_prob"] = batch["log_prob"] + noise
    places = [(t, b) for t in range(STEPS) for b in range(ENVS) if batch["valid"][t, b]]
    advantages = []
    for t, b in places:
        advantage, weight = 0.0, 1.0
        for k in range(t, STEPS):
            ends = batch["terminated"][k, b] or batch["truncated"][k, b]
            inside = not ends and k < STEPS - 1
            after = batch["observation"][k + 1, b] if inside else batch["next_observation"][k, b]
            future = 0.0 if batch["terminated"][k, b] else net.value(after).item()
            value = net.value(batch["observation"][k, b]).item()
            advantage += weight * (batch["reward"][k, b].item() + GAMMA * future - value)
            weight *= GAMMA * LAM
            if ends:
                break
        advantages.append(advantage)
    spread = np.array(advantages)
    weights = (spread - spread.mean()) / spread.std() if normalize else spread
    total, beyond, divergence = torch.zeros(()), 0, 0.0
    for (t, b), advantage, weight in zip(places, advantages, weights.tolist(), strict=True):
        value = net.value(batch["observation"][t, b]).squeeze()
        outputs = net.policy(batch["observation"][t, b])
        log_prob = net.head.log_prob(outputs, batch["action"][t, b])
        ratio = (log_prob - batch["log_prob"][t, b]).exp()
        beyond += not 0.9 <= ratio.item() <= 1.1
        divergence += ratio.item() - 1 - ratio.log().item()
        gain = min(ratio * weight, ratio.clamp(0.9, 1.1) * weight, key=lambda g: g.item())
        error = advantage + value.item() - value
        total = total - gain + 0.3 * error**2 - 0.05 * net.head.entropy(outputs)
    gradients = torch.autograd.grad(total / len(places), list(net.parameters()))
    expected = flat(net.parameters()) - flat(gradients)
    ppo.optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    metrics = ppo.update(batch)
    torch.testing.assert_close(flat(net.parameters()), expected, rtol=1e-4, atol=2e-5)
    assert 0 < beyond < len(places)
    assert metrics["clipped"].item() == pytest.approx(beyond / len(places))
    assert metrics["kl"].item() == pytest.approx(divergence / len(places), rel=1e-3)


def test_rows_that_only_reset_have_no_influence():
    first, second = (agent(gym.spaces.Discrete(3), minibatch_size=8) for _ in range(2))
    batch = random_rollout(first)
    other = {name: column.clone() for name, column in batch.items()}
    for name in ("observation", "next_observation", "reward"):
        other[name][~batch["valid"]] = 1e3
    for ppo, columns in ((first, batch), (second, other)):
        torch.manual_seed(7)
        ppo.update(columns)
    np.testing.assert_allclose(read_weights(first), read_weights(second), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "parts"), [(4, 6), (10, 2), (1000, 1)])
def test_every_transition_is_used_once_per_epoch(size, parts, monkeypatch):
    ppo = agent(gym.spaces.Discrete(3), epochs=3, minibatch_size=size)
    batch, seen = random_rollout(ppo, seed=4), []
    count = int(batch["valid"].sum())
    assert count // size == parts or parts == 1
    step = ppo._step
    monkeypatch.setattr(ppo, "_step", lambda rows: seen.append(rows) or step(rows))
    ppo.update(batch)
    assert len(seen) == 3 * parts
    whole = batch["observation"][batch["valid"]]
    for epoch in range(3):
        minibatches = seen[epoch * parts : (epoch + 1) * parts]
        rows = torch.cat([minibatch["observation"] for minibatch in minibatches])
        assert sorted(rows.tolist()) == sorted(whole.tolist())
        assert not torch.equal(rows, whole)  # in another order
    assert not torch.equal(seen[0]["observation"], seen[parts]["observation"])


def test_minibatches_of_whole_environments_keep_the_order_of_time():
    """Entry 10 t + b of 4 steps and 6 environments, in 4 minibatches."""
    rows = 10 * torch.arange(4)[:, None] + torch.arange(6)
    parts = list(shuffled({"a": rows, "b": -rows[..., None]}, 4, axis=1))
    assert [tuple(part["a"].shape) for part in parts] == [(4, 2), (4, 2), (4, 1), (4, 1)]
    for part in parts:
        assert torch.equal(part["b"].squeeze(-1), -part["a"])
        assert torch.equal(part["a"], 10 * torch.arange(4)[:, None] + part["a"][0])
    assert sorted(torch.cat([part["a"][0] for part in parts]).tolist()) == list(range(6))


def test_annealing_ends_at_rate_0():
    ppo = agent(gym.spaces.Discrete(3), annealing_steps=1000, learning_rate=0.01)
    batch = random_rollout(ppo)
    for now, rate in ((0, 0.01), (250, 0.0075), (1000, 0.0), (3000, 0.0)):
        before, ppo.env_steps = read_weights(ppo), now
        ppo.update(batch)
        assert ppo.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        assert np.array_equal(read_weights(ppo), before) == (rate == 0.0)


def test_actions_come_with_their_log_probability():
    ppo = agent(gym.spaces.Discrete(3))
    observation = torch.randn(50, FEATURES)
    with torch.no_grad():
        columns = ppo.act(observation, greedy=False)
        log_probs = ppo.network.policy(observation).log_softmax(-1)
        picked = log_probs[torch.arange(50), columns["action"]]
        torch.testing.assert_close(columns["log_prob"], picked)
        greedy = ppo.act(observation, greedy=True)["action"]
    assert torch.equal(greedy, log_probs.argmax(-1))
    assert not torch.equal(greedy, columns["action"])


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("clip_range", 0, r"hyperparameters.clip_range: .*greater than 0 \(got 0\)"),
        ("rollout_steps", 1, r"hyperparameters.rollout_steps: .*greater than or equal to 2"),
        ("epoch", 9, r"hyperparameters.epoch: unknown key; did you mean 'epochs'"),
    ],
)
def test_bad_hyperparameters_are_refused(key, given, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment("ppo-cartpole", [f"hyperparameters.{key}={given}"])


def train(name: str, tmp_path: Any, seed: int) -> rlgen.Run:
    run = rlgen.train(name, {"run.dir": str(tmp_path), "seed": seed})
    assert run.summary["stop_reason"] == "target"
    return run


@pytest.mark.parametrize("seed", range(5))
def test_ppo_solves_cartpole_within_100000_steps(seed, tmp_path):
    run = train("ppo-cartpole", tmp_path, seed)
    assert (run.experiment.stop.target, run.experiment.stop.target_evaluations) == (475, 2)
    assert run.experiment.evaluation.episodes == 20
    assert run.summary["env_steps"] <= 100_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ppo_swings_acrobot_up_in_less_than_100_steps(seed, tmp_path):
    run = train("ppo-acrobot", tmp_path, seed)
    assert run.summary["evaluation"]["mean"] >= -100


@pytest.mark.slow
def test_ppo_lands_within_a_million_steps(tmp_path):
    pytest.importorskip("Box2D", reason="needs the extra box2d")
    run = train("ppo-lunarlander", tmp_path, 0)
    assert run.summary["evaluation"]["mean"] >= 200
    assert run.summary["env_steps"] <= 1_000_000
