"""GAIL: the discriminator's known optimum, the reward made of it, and imitation without rewards."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlgen
from rlgen import demonstrations
from rlgen.agents.gail import GAIL
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig
from rlgen.demonstrations import Demonstrations

STATES = 4


class Repeat(gym.Env):
    """A random state at every step, 10 steps, and never a reward: nothing says what to do."""

    observation_space = gym.spaces.Discrete(STATES)
    action_space = gym.spaces.Discrete(STATES)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(STATES)), {}

    def step(self, action):
        return int(self.np_random.integers(STATES)), 0.0, False, False, {}


gym.register("test/Repeat-v0", entry_point=Repeat, max_episode_steps=10)


def shown_of(observation, action, spaces):
    count = len(action)
    about = {f"{k}_space": demonstrations.describe(v) for k, v in spaces.items()}
    return Demonstrations(
        observation=observation,
        action=action,
        reward=np.zeros(count, np.float32),
        terminated=np.zeros(count, bool),
        truncated=np.arange(count) == count - 1,
        episode=np.zeros(count, np.int64),
        last_observation=observation[:1],
        about=about,
    )


def agent(observation, action, spaces, hidden=(), **hyperparameters):
    torch.manual_seed(0)
    shown = shown_of(observation, action, spaces)
    problem = Problem(
        spaces["observation"],
        spaces["action"],
        network=NetworkConfig(hidden=list(hidden)),
        demonstrations=shown,
    )
    GAIL.check(problem)
    return GAIL(GAIL.Config(**hyperparameters), problem, np.random.default_rng(0))


DISCRETE = {"observation": gym.spaces.Discrete(2), "action": gym.spaces.Discrete(2)}


def rollout(steps, rows, seed=0):
    rng = np.random.default_rng(seed)
    columns = {
        "observation": rng.integers(2, size=(steps, rows)),
        "next_observation": rng.integers(2, size=(steps, rows)),
        "action": rng.integers(2, size=(steps, rows)),
        "log_prob": np.full((steps, rows), np.log(0.5), np.float32),
        "reward": rng.normal(size=(steps, rows)).astype(np.float32),
        "terminated": rng.random((steps, rows)) < 0.1,
        "truncated": np.zeros((steps, rows), bool),
        "valid": np.ones((steps, rows), bool),
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def test_the_best_discriminator_is_the_experts_share():
    """D* = p_E / (p_E + p_pi) (eq 13.35), so its logit is log p_E - log p_pi."""
    rng = np.random.default_rng(0)
    expert_p, policy_p = np.array([[0.4, 0.1], [0.2, 0.3]]), np.array([[0.1, 0.3], [0.3, 0.3]])

    def draw(p, count):
        flat = rng.choice(4, size=count, p=p.ravel())
        return flat // 2, flat % 2

    imitator = agent(*draw(expert_p, 20_000), DISCRETE, hidden=[16], discriminator_rate=0.003)
    policy = [torch.from_numpy(column) for column in draw(policy_p, 20_000)]
    for _ in range(1500):
        rows = torch.randint(20_000, (512,))
        imitator._discriminate({"observation": policy[0][rows], "action": policy[1][rows]})
    everything = torch.arange(4)
    logits = imitator.discriminator(everything // 2, everything % 2).detach().numpy()
    np.testing.assert_allclose(logits, np.log(expert_p / policy_p).ravel(), atol=0.15)


def test_one_step_of_the_discriminator_descends_the_cross_entropy():
    imitator = agent(np.array([1]), np.array([0]), DISCRETE, discriminator_rate=0.01)
    layer = imitator.discriminator.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.5, -0.2, 0.3, 0.8]]))
        layer.bias.fill_(0.1)
    before = layer.weight.detach().clone()
    policy = {"observation": torch.tensor([0, 1]), "action": torch.tensor([1, 1])}
    expert = np.array([0.0, 1.0, 1.0, 0.0])  # one-hot state, one-hot action
    given = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])

    def d(x):
        return 1.0 / (1.0 + np.exp(-(x @ before.numpy()[0] + 0.1)))

    metrics = imitator._discriminate(policy)
    loss = -np.log(d(expert)) - np.log(1.0 - d(given)).mean()
    assert metrics["discriminator_loss"].item() == pytest.approx(loss, rel=1e-5)
    gradient = (d(expert) - 1.0) * expert + (d(given)[:, None] * given).mean(axis=0)
    expected = before.numpy()[0] - 0.01 * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(layer.weight.detach().numpy()[0], expected, atol=1e-5)
    assert metrics["discriminator_accuracy"].item() == 0.5  # the expert's yes, the policy's no


def test_actions_are_judged_as_the_environment_takes_them():
    box = gym.spaces.Box(-2.0, 2.0, (1,))
    expert = np.array([[-2.0], [2.0], [0.5]], np.float32)
    spaces = {"observation": gym.spaces.Discrete(2), "action": box}
    imitator = agent(np.array([0, 1, 1]), expert, spaces, hidden=[8])
    drawn = torch.tensor([[-9.0], [-2.0], [2.0], [7.0]])
    logits = imitator.discriminator(torch.ones(4, dtype=torch.int64), drawn)
    assert logits[0] == logits[1] != logits[2] == logits[3]


def test_the_reward_is_minus_log_of_one_minus_d():
    """With gamma 0 the value's target is the reward of the step alone."""
    imitator = agent(np.array([1]), np.array([0]), DISCRETE, hidden=[8], gamma=0.0)
    batch = rollout(5, 3)
    logits = imitator.discriminator(batch["observation"], batch["action"])
    target = imitator._advantages(batch)["return"]
    expected = -torch.log(1.0 - torch.sigmoid(logits))
    torch.testing.assert_close(target, expected.detach())
    assert (target > 0).all()


def test_the_environments_rewards_never_enter():
    weights = []
    for scale in (1.0, 100.0):
        imitator = agent(np.array([0, 1]), np.array([0, 1]), DISCRETE, minibatch_size=16)
        batch = rollout(8, 4)
        imitator.update(batch | {"reward": scale * batch["reward"]})
        weights.append(torch.cat([p.detach().ravel() for p in imitator.network.parameters()]))
    assert torch.equal(*weights)


def test_rows_that_only_reset_teach_nothing():
    states = []
    for filler in (0, 1):
        imitator = agent(np.array([0, 1]), np.array([0, 1]), DISCRETE, minibatch_size=64)
        batch = rollout(8, 4)
        batch["truncated"][3, 1], batch["valid"][4, 1] = True, False
        batch["terminated"][3:5, 1] = False
        batch["observation"][4, 1] = batch["action"][4, 1] = filler
        imitator.update(batch)
        modules = (imitator.network, imitator.discriminator)
        states.append(torch.cat([p.detach().ravel() for m in modules for p in m.parameters()]))
    assert torch.equal(*states)


def test_the_discriminator_sees_the_experts_units():
    """Floats are standardised by the expert's moments; what never varies is left alone."""
    box = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    spaces = {"observation": box, "action": gym.spaces.Box(-2.0, 2.0, (1,), np.float32)}
    rng = np.random.default_rng(0)
    observation = rng.normal([5.0, -100.0, 3.0], [0.1, 40.0, 0.0], (500, 3)).astype(np.float32)
    action = rng.normal(0.5, 0.01, (500, 1)).astype(np.float32)
    discriminator = agent(observation, action, spaces).discriminator
    seen = discriminator.observed(torch.from_numpy(observation))
    mean, deviation = seen.mean(dim=0), seen.std(dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    acted = discriminator.acted(torch.from_numpy(action))
    assert acted.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
    logits = discriminator(torch.from_numpy(observation), torch.from_numpy(action))
    assert logits.shape == (500,)


def test_the_policys_step_descends_the_clipped_objective():
    """At the old policy the gradient of the ratio is that of the log-probability."""
    imitator = agent(np.array([0]), np.array([0]), DISCRETE, learning_rate=1e-4, clip_range=0.2)
    net = imitator.network
    observation, action = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    advantage = torch.tensor([1.0, -2.0, 0.5])
    with torch.no_grad():
        old = net.head.log_prob(net.policy(net.encoder(observation)), action)
    batch = {
        "observation": observation, "action": action, "log_prob": old,
        "advantage": advantage, "return": torch.zeros(3),
    }  # fmt: skip
    imitator._imitate(batch)
    gradient = net.policy[-1].bias.grad / net.policy[-1].bias.grad.norm()
    logits = net.policy(net.encoder(observation)).detach().requires_grad_()
    loss = -(advantage * logits.log_softmax(-1).gather(-1, action[:, None])[:, 0]).mean()
    (expected,) = torch.autograd.grad(loss, logits)
    expected = expected.sum(dim=0)
    torch.testing.assert_close(gradient, expected / expected.norm(), atol=1e-2, rtol=1e-2)
    # A row beyond the clip range, in the direction that it is clipped in, has no gradient.
    imitator._imitate(batch | {"log_prob": old - 1.0, "advantage": torch.ones(3)})
    assert net.policy[-1].bias.grad.abs().max() == 0.0


@pytest.mark.parametrize("shift", [0, 1])
def test_it_does_what_the_expert_does_where_nothing_pays(shift, tmp_path):
    """The expert's action is the state, or the next number: only its recording can say which."""
    rng = np.random.default_rng(1)
    observation = rng.integers(STATES, size=500)
    spaces = {"observation": Repeat.observation_space, "action": Repeat.action_space}
    shown = shown_of(observation, (observation + shift) % STATES, spaces)
    names = ("observation", "action", "reward", "terminated", "truncated", "episode")
    columns = {name: getattr(shown, name) for name in (*names, "last_observation")}
    demonstrations.save(tmp_path / "expert.npz", columns, shown.about)
    plain = {
        "name": "repeat",
        "algorithm": "gail",
        "hyperparameters": {"rollout_steps": 32, "gamma": 0.5, "discriminator_rate": 1e-3},
        "network": {"hidden": [32]},
        "demonstrations": {"path": str(tmp_path / "expert.npz")},
        "env": {"id": "test/Repeat-v0", "num_envs": 8},
        "stop": {"env_steps": 8000},
        "evaluation": {"episodes": 1},
        "run": {"dir": str(tmp_path)},
    }
    run = rlgen.train(plain)
    actions = run.algorithm.act(torch.arange(STATES), greedy=True)["action"]
    assert actions.tolist() == [(s + shift) % STATES for s in range(STATES)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_ten_episodes_of_an_expert_are_enough_for_cartpole(seed, tmp_path):
    run = rlgen.train("gail-cartpole", {"run.dir": str(tmp_path), "seed": seed})
    assert run.experiment.demonstrations.episodes == 10
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] >= 450
    assert run.summary["env_steps"] <= 100_000
