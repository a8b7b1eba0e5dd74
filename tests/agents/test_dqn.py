"""DQN's target, step, target network and options by hand; learning small environments."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

import rlgen
from rlgen.agents.dqn import DQN
from rlgen.agents.values import td_target
from rlgen.algorithm import Problem
from rlgen.config import NetworkConfig, load_experiment, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.linked_replay import LinkedReplay, make_replay
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
    y = td_target(reward, terminated, 0.5, next_values, next_values)
    assert y.tolist() == [3.5, 2.0, -2.0]
    choosing = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # double: by these, not by those
    y = td_target(reward, terminated, 0.5, next_values, choosing)
    assert y.tolist() == [2.5, 2.0, -2.0]


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


# Three transitions: s0 -(a1, r=1)-> s1 -(a0, r=-2)-> s2 -(a1, r=3)-> terminated; gamma 0.5.
# Q of the network and of the target, rows s0 s1 s2; as advantages these tables mean, with the
# values below, Q = V + A - mean A: [[.5, 1.5], [1, -1], [1, 3]] and [[-.5, .5], [0, 2], [1, -5]].
NETWORK, TARGET = [[0, 1], [2, 0], [1, 3]], [[1, 2], [4, 6], [5, -1]]
NETWORK_VALUES, TARGET_VALUES = [1, 0, 2], [0, 1, -2]
Q_OF_ROWS = {False: [1.0, 2.0, 3.0], True: [1.5, 1.0, 3.0]}  # by duelling
Y_OF_ROWS = {  # by double, duelling, n
    (False, False, 1): [4.0, 0.5, 3.0],  # 1 + 6/2, -2 + 5/2, 3
    (True, False, 1): [3.0, -2.5, 3.0],  # 1 + 4/2, -2 - 1/2
    (False, True, 1): [2.0, -1.5, 3.0],  # 1 + 2/2, -2 + 1/2
    (True, True, 1): [1.0, -4.5, 3.0],  # 1 + 0/2, -2 - 5/2
    (False, False, 2): [1.25, -0.5, 3.0],  # 1 - 2/2 + 5/4, -2 + 3/2
    (True, False, 2): [-0.25, -0.5, 3.0],  # 1 - 2/2 - 1/4
    (False, True, 2): [0.25, -0.5, 3.0],  # 1 - 2/2 + 1/4
    (True, True, 2): [-1.25, -0.5, 3.0],  # 1 - 2/2 - 5/4
}
OPTIONS = list(itertools.product((False, True), (False, True), (1, 2), (False, True)))


@pytest.mark.parametrize("polyak", [None, 0.25])
@pytest.mark.parametrize("loss", ["squared", "huber"])
@pytest.mark.parametrize(("double", "duelling", "n", "prioritised"), OPTIONS)
def test_three_transitions_by_hand(double, duelling, n, prioritised, loss, polyak):
    """Target, weights, loss, priorities and the target network of every combination of options."""
    priority = {"alpha": 1.0, "beta_start": 0.5, "beta_steps": 100} if prioritised else {}
    follows = {"target_period": 1} if polyak is None else {"polyak": polyak}
    dqn = linear_agent(
        gamma=0.5, batch_size=3, learning_starts=1, double=double, duelling=duelling, n_step=n,
        prioritised=prioritised, loss=loss, **priority, **follows,
    )  # fmt: skip
    for net, table, values in (
        (dqn.network, NETWORK, NETWORK_VALUES),
        (dqn.target, TARGET, TARGET_VALUES),
    ):
        with torch.no_grad():
            net.layers[0].weight.copy_(torch.tensor(table, dtype=torch.float32).T)
            if duelling:
                net.value[0].weight.copy_(torch.tensor([values], dtype=torch.float32))
    replay = make_replay(dqn)
    replay.insert(
        {
            "observation": np.array([0, 1, 2]),
            "action": np.array([1, 0, 1]),
            "reward": np.array([1.0, -2.0, 3.0], np.float32),
            "next_observation": np.array([1, 2, 0]),
            "terminated": np.array([False, False, True]),
        }
    )
    if prioritised:
        replay.priorities.set(np.arange(3), np.array([1.0, 2.0, 3.0]))
        dqn.env_steps = 40  # beta has come to 0.5 + 0.5 * 40 / 100 = 0.7
    batch = {name: torch.from_numpy(column) for name, column in replay.sample().items()}
    rows = batch["observation"].tolist()
    before = parameters(dqn.target)
    metrics = dqn.update(batch)

    q = np.array([Q_OF_ROWS[duelling][row] for row in rows])
    y = np.array([Y_OF_ROWS[double, duelling, n][row] for row in rows])
    error = np.abs(q - y)
    each = error**2
    if loss == "huber":
        each = np.where(error <= 1, 0.5 * error**2, error - 0.5)
    weights = np.ones(3)
    if prioritised:  # (N P(i))^-beta / max_j, with P = 1/6, 2/6, 3/6
        weights = np.array([(3 * (row + 1) / 6) ** -0.7 for row in rows])
        weights /= weights.max()
        np.testing.assert_allclose(dqn.priorities, error + 1e-3, rtol=1e-5)
    assert metrics["loss"].item() == pytest.approx((weights * each).mean(), rel=1e-5)
    assert metrics["q"].item() == pytest.approx(q.mean())
    after, learned = parameters(dqn.target), parameters(dqn.network)
    expected = learned if polyak is None else before + polyak * (learned - before)
    torch.testing.assert_close(after, expected)
    assert not torch.equal(after, before)


def test_targets_follow_softly_or_all_at_once():
    soft = linear_agent(polyak=0.1)
    assert soft.config.target_period is None
    old = parameters(soft.target)
    for update in range(4):
        soft.update(minibatch(4, seed=update))
        expected = old + 0.1 * (parameters(soft.network) - old)
        old = parameters(soft.target)
        torch.testing.assert_close(old, expected)


def test_importance_weights_become_full():
    """beta rises to 1: then a row's weight is the reciprocal of how often it is drawn."""
    batch = minibatch(2) | {"probability": torch.tensor([0.1, 0.4])}
    losses = {}
    for steps in (0, 10, 99):
        fresh = linear_agent(prioritised=True, beta_start=0.0, beta_steps=10)
        fresh.env_steps = steps
        losses[steps] = fresh.update(batch)["loss"].item()
        squares = (fresh.priorities - 1e-3).square()
        beta = min(steps / 10, 1)
        expected = (squares[0] + squares[1] * 0.25**beta) / 2
        assert losses[steps] == pytest.approx(expected.item(), rel=1e-4)
    assert losses[0] > losses[10] == losses[99]


def test_duelling_streams_are_identified():
    """A constant in the advantages changes no action value, one in V changes all by itself."""
    dqn = agent(gym.spaces.Discrete(3), 4, [8], duelling=True)
    states = torch.arange(3)
    before = dqn.network(states).detach()
    with torch.no_grad():
        dqn.network.layers[-1].bias.add_(5.0)
        torch.testing.assert_close(dqn.network(states), before)
        dqn.network.value[-1].bias.add_(2.0)
        torch.testing.assert_close(dqn.network(states), before + 2.0)


def test_images_go_through_a_convolution_and_share_frames():
    """Stacked pictures: the encoder, its copy in the target, the replay and one update."""
    space = gym.spaces.Box(0, 255, (4, 36, 36), np.uint8)
    dqn = agent(space, 3, [16], batch_size=8, learning_starts=10, double=True, polyak=0.5)
    assert any(isinstance(m, torch.nn.Conv2d) for m in dqn.network.modules())
    replay = make_replay(dqn)
    assert isinstance(replay, LinkedReplay)
    film = np.random.default_rng(0).integers(0, 256, (24, 36, 36), dtype=np.uint8)
    stacks = np.stack([film[t : t + 4] for t in range(21)])
    replay.insert(
        {
            "observation": stacks[:-1],
            "next_observation": stacks[1:],
            "action": np.arange(20) % 3,
            "reward": np.ones(20, np.float32),
            "terminated": np.zeros(20, bool),
        }
    )
    assert replay.frames.total == 24
    old, before = parameters(dqn.target), parameters(dqn.network)
    dqn.update({name: torch.from_numpy(column) for name, column in replay.sample().items()})
    assert not torch.equal(before, parameters(dqn.network))
    torch.testing.assert_close(parameters(dqn.target), (old + parameters(dqn.network)) / 2)


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
    message = r"env.id: dqn needs a Discrete action space, not Box\(-1.0, 1.0, \(2,\).*; use ppo"
    with pytest.raises(ConfigError, match=message):
        DQN.check(Problem(gym.spaces.Discrete(3), action))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (
            {"learning_starts": 500, "buffer_size": 100},
            r"hyperparameters: learning_starts=500 is more than buffer_size=100 holds",
        ),
        ({"polyak": 0.1, "target_period": 9}, r"give one of target_period and polyak"),
        ({"polyak": None, "target_period": None}, r"give one of target_period and polyak"),
        ({"polyak": 0.0}, r"hyperparameters.polyak: .*greater than 0"),
        ({"loss": "hubert"}, r"hyperparameters.loss: .*'squared' or 'huber'"),
        ({"alpha": 0.5}, r"alpha has an effect only with prioritised=true"),
        ({"beta_steps": 5}, r"beta_steps has an effect only with prioritised=true"),
        ({"n_step": 0}, r"hyperparameters.n_step: .*greater than or equal to 1"),
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


def test_a_resolved_configuration_with_polyak_is_read_again():
    changes = ["hyperparameters.target_period=null", "hyperparameters.polyak=0.01"]
    experiment = load_experiment("dqn-cartpole", changes)
    assert resolve_experiment(experiment.dump()) == experiment


def test_normalising_discrete_observations_is_refused():
    space = gym.spaces.Discrete(2)
    problem = Problem(space, space, normalize_observation=True)
    with pytest.raises(ConfigError, match=r"env.normalize_observation: only for Box"):
        DQN.check(problem)


# Each option alone, on a ready configuration; Huber's loss has one of its own (smaller steps).
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "double": ("dqn-cartpole", {"hyperparameters.double": True}),
    "duelling": ("dqn-cartpole", {"hyperparameters.duelling": True}),
    "prioritised": ("dqn-cartpole", {"hyperparameters.prioritised": True}),
    "n_step": ("dqn-cartpole", {"hyperparameters.n_step": 3}),
    "huber": ("dqn-huber-cartpole", {}),
    "polyak": (
        "dqn-cartpole",
        {"hyperparameters.target_period": None, "hyperparameters.polyak": 0.02},
    ),
    "all but huber and polyak": ("dqn-extensions-cartpole", {}),
}


def reaches_475(option: str, seed: int, folder: Any) -> None:
    config, changes = ALONE[option]
    run = rlgen.train(config, {"run.dir": str(folder), "seed": seed, **changes})
    assert run.summary["stop_reason"] == "target"
    assert run.summary["evaluation"]["mean"] >= 475
    assert run.summary["env_steps"] <= 60_000


def test_n_step_dqn_solves_cartpole(tmp_path):
    reaches_475("n_step", 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("option", ALONE)
def test_each_option_alone_solves_cartpole(option, seed, tmp_path):
    reaches_475(option, seed, tmp_path)
