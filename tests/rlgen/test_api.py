"""The Python API: train, load, act, sample."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from experiments import train

import rlgen
from rlgen.errors import ConfigError


class Shifted(gym.Env):
    """Observations 3..5, actions 7..8; the reward is 1 for 7 on 3 and for 8 on the others."""

    observation_space = gym.spaces.Discrete(3, start=3)
    action_space = gym.spaces.Discrete(2, start=7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(3, 6))
        return self.state, {}

    def step(self, action):
        right = 7 if self.state == 3 else 8
        self.state = int(self.np_random.integers(3, 6))
        return self.state, float(action == right), False, bool(self.np_random.random() < 0.2), {}


gym.register("Shifted-v0", entry_point=Shifted)


def test_act_speaks_the_environments_own_numbers(tmp_path):
    run = train("q-learning", tmp_path, {"env": {"id": "Shifted-v0"},
                                         "hyperparameters.gamma": 0.0})  # fmt: skip
    assert [run.act(state) for state in (3, 4, 5)] == [7, 8, 8]
    again = rlgen.load(run.dir)
    assert [again.act(np.int64(state)) for state in (3, 4, 5)] == [7, 8, 8]
    assert again.summary["evaluation"] == run.summary["evaluation"]


def test_act_on_a_box(tmp_path):
    run = train("a3c", tmp_path, {"env": {"id": "Pendulum-v1", "num_envs": 2}})
    action = run.act([1.0, 0.0, 0.0])
    assert action.shape == (1,)
    assert action.dtype == np.float32
    assert abs(action[0]) <= 2


def test_a_model_samples_and_does_not_act(tmp_path):
    run = train("vae", tmp_path)
    assert run.sample(3).shape == (3, 8, 8)
    with pytest.raises(ConfigError, match=r"is a run of vae; use sample\(\)"):
        run.act(np.zeros(64))


def test_numbers_and_splits_out_of_range_are_refused(tmp_path):
    run = train("gaussian", tmp_path)
    for call, message in (
        (lambda: run.sample(-1), "n: expected at least 1, got -1"),
        (lambda: run.assess(0), "rows: expected at least 1, got 0"),
        (lambda: run.walk(2, 0), "steps: expected at least 1, got 0"),
        (lambda: run.chain(2, 5, 0), "every: expected at least 1, got 0"),
        (lambda: run.texts(length=0), "length: expected at least 1, got 0"),
        (lambda: run.texts(temperature=0), "temperature: expected a number greater than 0, got 0"),
        (lambda: run.evaluate(split="tests"), "split: there is no 'tests'; did you mean 'test'?"),
        (lambda: run.assess(split="train"), "split: there is no 'train'; known: test, validation"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == message


def test_evaluations_repeat_and_other_ticks_differ(tmp_path):
    run = train("a3c", tmp_path)
    assert run.evaluate(episodes=7) == run.evaluate(episodes=7)
    assert run.evaluate(episodes=7)["episodes"] == 7
    assert run.evaluate(episodes=40)["mean"] != run.evaluate(episodes=40, tick=1)["mean"]


def test_an_evaluation_leaves_the_callers_random_state_and_the_runs_mode(tmp_path):
    run = train("a3c", tmp_path, {"scheduler.mode": "async"})
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert run.evaluate(episodes=2)["episodes"] == 2
    assert torch.equal(torch.rand(1), expected)
