"""The book's cliff (Fig 14.1) as an environment; its values are in test_value_iteration.py."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlgen.config import EnvConfig
from rlgen.envs.gridworlds import CliffEnv
from rlgen.envs.vector import Environments

UP, DOWN, LEFT, RIGHT = range(4)
BEST = [UP, *[RIGHT] * 6, DOWN]


def test_gymnasium_accepts_it():
    check_env(gym.make("rlgen/Cliff-v0", slip=0.1, render_mode="ansi").unwrapped)


def test_best_way_and_fall():
    env = gym.make("rlgen/Cliff-v0")
    env.reset(seed=0)
    steps = [env.step(action) for action in BEST]
    assert [step[0] for step in steps] == [7, 8, 9, 10, 11, 12, 13, 20]
    assert sum(step[1] for step in steps) == -8
    assert [step[2] for step in steps] == [False] * 7 + [True]
    env.reset()
    assert env.step(RIGHT)[:3] == (15, -100.0, True)
    env.reset()
    assert env.step(LEFT)[:3] == (14, -1.0, False)  # a wall


def test_the_vector_form_is_the_same():
    environments = Environments(EnvConfig(id="rlgen/Cliff-v0"), 2, seed=0)
    assert (environments.reset() == 14).all()
    for action in BEST:
        step = environments.step(np.array([action, LEFT]))
    assert step.terminated.tolist() == [True, False]
    assert step.next_observation.tolist() == [20, 14]
    for _ in range(192):
        step = environments.step(np.array([LEFT, LEFT]))
    assert step.truncated.tolist() == [False, True]
    assert environments.finished == [(-8.0, 8), (-200.0, 200)]


def test_slipping():
    env = CliffEnv(slip=0.3)
    table = env.outcomes
    rows = slice(*table.first[[7 * 4 + UP, 7 * 4 + UP + 1]])
    assert table.probability[rows] == pytest.approx([0.7, 0.1, 0.1, 0.1])  # as UP, DOWN, ...
    assert table.successor[rows].tolist() == [0, 14, 7, 8]
    seen = np.zeros(21)
    for seed in range(4000):
        env.reset(seed=seed)
        seen[env.step(UP)[0]] += 1
    # up; right is the cliff; left and down are walls. 4 deviations of 4000 draws.
    np.testing.assert_allclose(seen[[7, 15, 14]] / 4000, [0.7, 0.1, 0.2], atol=0.03)
    assert seen.sum() == seen[[7, 15, 14]].sum()


def test_text():
    env = CliffEnv(render_mode="ansi")
    env.reset()
    env.step(UP)
    assert env.render() == ". . . . . . .\n@ . . . . . .\nS x x x x x G\n"


def test_picture_shows_the_agent_and_the_cliff():
    env = CliffEnv(render_mode="rgb_array")
    env.reset()
    before = env.render()
    env.step(UP)
    after = env.render()
    assert before.shape == (240, 560, 3)
    assert before.dtype == np.uint8
    cells = (before != after).any(axis=2).reshape(3, 80, 7, 80).any(axis=(1, 3))
    assert np.argwhere(cells).tolist() == [[1, 0], [2, 0]]  # where it is and where it was
    assert after[160:, 80:480].mean() < after[:80].mean() - 100  # the cliff is dark
