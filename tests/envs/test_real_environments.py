"""Atari, Box2D, MinAtar and MuJoCo: steps by hand, and their ready configurations in small."""

import importlib
import re

import gymnasium as gym
import numpy as np
import pytest

import rlgen
from rlgen import tracking
from rlgen.config import EnvConfig
from rlgen.envs.single import make_single
from rlgen.envs.vector import Environments

PACKAGES = {"atari": "ale_py", "box2d": "Box2D", "minatar": "minatar", "mujoco": "mujoco"}


def need(extra):
    pytest.importorskip(PACKAGES[extra], reason=f"needs the extra rlgen[{extra}]")


@pytest.mark.parametrize(
    ("extra", "name", "shape", "dtype"),
    [
        ("mujoco", "HalfCheetah-v5", (17,), np.float64),
        ("mujoco", "Hopper-v5", (11,), np.float64),
        ("box2d", "LunarLander-v3", (8,), np.float32),
        ("box2d", "BipedalWalker-v3", (24,), np.float32),
        ("minatar", "MinAtar/Breakout-v1", (10, 10, 4), np.bool_),
        ("minatar", "MinAtar/SpaceInvaders-v0", (10, 10, 6), np.bool_),
    ],
)
def test_steps_are_those_of_the_environment_by_hand(
    extra, name, shape, dtype, monkeypatch, tmp_path
):
    """Through ends and cuts: the true successor of each step, then the first view of the next."""
    need(extra)
    monkeypatch.chdir(tmp_path)
    env = Environments(EnvConfig(id=name, kwargs={"max_episode_steps": 60}), 2, seed=3)
    assert (env.observation_space.shape, env.observation_space.dtype) == (shape, dtype)
    alone = make_single(EnvConfig(id=name, kwargs={"max_episode_steps": 60}))
    seeds = np.random.SeedSequence(3).generate_state(2).tolist()
    observation, (expected, _) = env.reset(), alone.reset(seed=seeds[1])
    alone.action_space.seed(0)
    ends = 0
    for _ in range(150):
        np.testing.assert_array_equal(observation[1], expected)
        action = alone.action_space.sample()
        expected, reward, terminated, truncated, _ = alone.step(action)
        step = env.step(np.stack([action, action]))
        np.testing.assert_array_equal(step.next_observation[1], expected)
        assert step.reward[1] == np.float32(reward)
        assert (step.terminated[1], step.truncated[1]) == (terminated, truncated)
        if terminated or truncated:
            ends += 1
            expected, _ = alone.reset()
        observation = step.observation
    assert ends >= 2
    assert [*tmp_path.iterdir()] == []  # MuJoCo would write its warnings into MUJOCO_LOG.TXT here


def test_mujoco_warns_as_python_does(monkeypatch, tmp_path):
    """Its old models use what its compiler will drop; a user's own handler stays."""
    need("mujoco")
    mujoco = importlib.import_module("mujoco")
    monkeypatch.chdir(tmp_path)
    heard = []
    before = mujoco.get_mju_user_warning()
    try:
        mujoco.set_mju_user_warning(heard.append)
        make_single(EnvConfig(id="HalfCheetah-v5")).close()
        assert len(heard) == 1 and "deprecated" in heard[0]
        mujoco.set_mju_user_warning(None)
        make_single(EnvConfig(id="Hopper-v5")).close()  # muted while it is made
        with pytest.warns(RuntimeWarning, match="deprecated"):
            gym.make("HalfCheetah-v5").close()
    finally:
        mujoco.set_mju_user_warning(before)
    assert [*tmp_path.iterdir()] == []


FEW = {"env.num_envs": 2, "evaluation": {"episodes": 1, "max_steps": 10}, "tracking.every_s": 0}
OFF_POLICY = {"learning_starts": 32, "buffer_size": 300, "batch_size": 8, "train_every": 8}
ROLLOUTS = {"rollout_steps": 16, "epochs": 1, "minibatch_size": 32}
SMALL_FRAMES = {"env.kwargs.img_height": 42, "env.kwargs.img_width": 42}


@pytest.mark.parametrize(
    ("extra", "name", "hyperparameters", "changes", "lost"),
    [
        ("atari", "dqn-pong", OFF_POLICY, SMALL_FRAMES, "env.env.ale"),
        ("atari", "ppo-breakout", ROLLOUTS, SMALL_FRAMES, "env.env.ale"),
        ("minatar", "dqn-minatar-breakout", OFF_POLICY, {}, None),
        ("mujoco", "sac-halfcheetah", OFF_POLICY | {"random_steps": 32}, {}, "data and 3 more"),
        ("mujoco", "td3-hopper", OFF_POLICY | {"random_steps": 32}, {}, "data and 3 more"),
        ("box2d", "sac-bipedalwalker", OFF_POLICY | {"random_steps": 32}, {}, r"\.this and \d+"),
    ],
)
def test_its_configuration_learns_stores_and_goes_on(
    extra, name, hyperparameters, changes, lost, tmp_path
):
    """As it is, but for fewer and smaller steps: actions, gradients, checkpoint, resume."""
    need(extra)
    settings = {f"hyperparameters.{key}": value for key, value in hyperparameters.items()}
    settings |= FEW | changes | {"run.dir": str(tmp_path)}

    def train(steps):
        return rlgen.train(name, settings | {"stop": {"env_steps": steps}})

    half = train(96)
    assert half.summary["env_steps"] >= 96 and half.summary["updates"] >= 3
    assert half.summary["evaluation"]["length"] > 0
    assert all(np.isfinite(value) for value in half.summary["metrics"].values())
    action = half.act(Environments(half.experiment.env, 1, 0).reset()[0], start=True)
    assert half.algorithm.problem.action_space.contains(np.asarray(action)[()])
    resumed = rlgen.resume(half.dir, {"stop.env_steps": 192})
    assert resumed.summary["env_steps"] >= 192
    assert resumed.summary["updates"] > half.summary["updates"]
    assert not np.array_equal(resumed.weights, half.weights)
    told = [r["message"] for r in tracking.read_metrics(half.dir) if r["kind"] == "event"]
    if lost is None:  # Python and NumPy: stored whole, so the run is the one without interruption
        assert not any("could not be stored" in message for message in told)
        np.testing.assert_array_equal(resumed.weights, train(192).weights)
    else:
        (message,) = [message for message in told if "could not be stored" in message]
        assert "so episodes in progress begin anew" in message
        assert re.search(lost, message)
