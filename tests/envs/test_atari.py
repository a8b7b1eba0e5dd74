"""Atari: the frames, ends, scores and lives against the emulator stepped by hand."""

import numpy as np
import pytest

from rlgen.config import EnvConfig
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError
from rlgen.problem import probe

ale_py = pytest.importorskip("ale_py", reason="needs the extra rlgen[atari]")

# Raw size: what remains of the preprocessing can be repeated here bit by bit, without OpenCV.
PLAIN = {
    "repeat_action_probability": 0.0,
    "noop_max": 0,
    "use_fire_reset": False,
    "img_height": 210,
    "img_width": 160,
    "num_threads": 1,
}


def environments(game, num_envs=1, seed=0, learning=True, **kwargs):
    config = EnvConfig(id=f"ALE/{game}-v5", kwargs=kwargs)
    return Environments(config, num_envs, seed, learning)


class Console:
    """The emulator by hand: four frames an action, the maximum of the last two, in grey."""

    def __init__(self, game):
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(ale_py.roms.get_rom_path(game))
        self.actions = self.ale.getMinimalActionSet()
        self.reset()

    def reset(self):
        self.ale.reset_game()
        self.frames = [np.zeros((210, 160), np.uint8)] * 3 + [self.ale.getScreenGrayscale()]
        return np.stack(self.frames)

    def step(self, action):
        reward, last = 0, []
        for _ in range(4):
            reward += self.ale.act(self.actions[action])
            last.append(self.ale.getScreenGrayscale())
        self.frames = [*self.frames[1:], np.maximum(*last[-2:])]
        return np.stack(self.frames), reward, self.ale.game_over()


def test_frames_and_true_successors_are_those_of_the_emulator():
    """Through whole games: what is acted on next is a new game, what came of the step is not."""
    env, console = environments("Breakout", **PLAIN), Console("breakout")
    assert env.observation_space.shape == (4, 210, 160)
    observation, expected = env.reset(), console.reset()
    rng = np.random.default_rng(0)
    games, score = 0, 0
    while games < 2:
        np.testing.assert_array_equal(observation[0], expected)
        action = int(rng.integers(4))
        step = env.step(np.array([action]))
        expected, reward, over = console.step(action)
        score += reward
        assert (step.reward[0], step.terminated[0]) == (np.sign(reward), over)
        assert step.valid.all()
        successor = step.next_observation[0]
        if over:
            # The emulator stops at the end, in the middle of four frames, and keeps the last view.
            np.testing.assert_array_equal(successor[:3], expected[:3])
            assert (successor[3] != expected[3]).mean() < 0.01
            assert env.finished[-1][0] == score
            games, score, expected = games + 1, 0, console.reset()
        else:
            np.testing.assert_array_equal(successor, expected)
        observation = step.observation
    assert sum(score for score, _ in env.finished) > 0


def test_a_cut_game_is_truncated_and_keeps_its_successor():
    env = environments("Pong", 2, **PLAIN, max_num_frames_per_episode=40)
    env.reset()
    steps = [env.step(np.zeros(2, int)) for _ in range(20)]
    assert [i for i, step in enumerate(steps) if step.truncated.all()] == [9, 19]
    assert not any(step.terminated.any() for step in steps)
    last, first = steps[9].next_observation, steps[9].observation
    np.testing.assert_array_equal(last[:, :3], steps[8].next_observation[:, 1:])
    assert not first[:, :3].any() and first[:, 3].any()  # one frame of a new game, none before it
    assert env.finished == [(0.0, 10)] * 4


def play(env, steps, seed=0):
    """Random play; the steps."""
    env.reset()
    rng = np.random.default_rng(seed)
    actions = rng.integers(env.action_space.n, size=(steps, env.num_envs))
    return [env.step(action) for action in actions]


def test_rewards_are_clipped_to_learn_from_and_whole_in_the_score():
    """Space Invaders pays 5 to 30 points for each ship."""
    learned = environments("SpaceInvaders", num_threads=1)
    scored = environments("SpaceInvaders", num_threads=1, learning=False)
    steps, points = play(learned, 500), play(scored, 500)
    rewards, whole = (np.array([s.reward[0] for s in played]) for played in (steps, points))
    assert set(rewards.tolist()) == {0.0, 1.0}
    assert set(whole.tolist()) - {0.0} <= {5.0, 10.0, 15.0, 20.0, 25.0, 30.0}
    np.testing.assert_array_equal(rewards, np.sign(whole))
    assert learned.finished == scored.finished
    first_end = next(i for i, s in enumerate(points) if s.terminated[0])
    assert learned.finished[0] == (whole[: first_end + 1].sum(), first_end + 1)
    raw = environments("SpaceInvaders", num_threads=1, reward_clipping=False)
    np.testing.assert_array_equal([s.reward[0] for s in play(raw, 500)], whole)


def test_a_lost_life_ends_the_future_and_not_the_game():
    """Breakout gives 5 lives: 5 ends to learn from in one game of the score."""
    lives, games = environments("Breakout", episodic_life=True), environments("Breakout")
    scored = environments("Breakout", episodic_life=True, learning=False)
    of_lives, of_games, of_score = (play(env, 450) for env in (lives, games, scored))
    ends, overs = (
        np.array([s.terminated[0] for s in steps]).nonzero()[0] for steps in (of_lives, of_games)
    )
    assert lives.finished == games.finished == scored.finished and len(games.finished) >= 2
    assert overs.tolist() == ends[4::5].tolist()
    assert np.array_equal(overs, [i for i, s in enumerate(of_score) if s.terminated[0]])
    for i in ends[:4]:  # the same game goes on, with its frames
        np.testing.assert_array_equal(of_lives[i].observation, of_lives[i].next_observation)
        assert of_lives[i].starts.all()
    np.testing.assert_array_equal(of_lives[-1].observation, of_games[-1].observation)


def test_any_seed_gives_games_of_its_own():
    """ale-py itself takes 31 bits, and seeds row i with seed + i."""
    seed, settings = 2**32 - 1, {"num_threads": 2}
    first = [step.observation for step in play(environments("Pong", 2, seed, **settings), 30)]
    again = [step.observation for step in play(environments("Pong", 2, seed, **settings), 30)]
    np.testing.assert_array_equal(first, again)
    # No-ops at the start and sticky actions differ between rows and between neighbouring seeds.
    assert not np.array_equal(first[-1][0], first[-1][1])
    other = play(environments("Pong", 2, seed - 1, **settings), 30)
    assert not any(
        np.array_equal(first[-1][i], other[-1].observation[j]) for i, j in np.ndindex(2, 2)
    )


def test_the_standard_preprocessing_is_the_default():
    observation, action = probe(EnvConfig(id="ALE/Pong-v5"))
    assert observation.shape == (4, 84, 84) and observation.dtype == np.uint8
    assert action.n == 6  # those that do something; full_action_space gives 18
    env = environments("Pong")
    frame = env.reset()[0, -1].astype(int)
    # The right side up: the score is above the white line above the field, the court below it.
    bright = np.flatnonzero(frame.mean(axis=1) > 200)
    assert bright.min() < 20 and frame[:8].std() > 10
    settings = {"full_action_space": True, "img_height": 42, "img_width": 42, "stack_num": 2}
    observation, action = probe(EnvConfig(id="ALE/Pong-v5", kwargs=settings))
    assert (observation.shape, action.n) == ((2, 42, 42), 18)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"episodic_lives": True},
            "env.kwargs.episodic_lives: ALE/Pong-v5 takes no such argument; did you mean "
            "'episodic_life'?",
        ),
        (
            {"autoreset_mode": "SameStep"},
            "env.kwargs: ALE/Pong-v5 cannot be made (ValueError: autoreset_mode is rlgen's to "
            "choose; remove it)",
        ),
        (
            {"frameskip": 0},
            "env.kwargs: ALE/Pong-v5 cannot be made (Error: Invalid frameskip of 0, frameskip must "
            "be positive.)",
        ),
    ],
)
def test_arguments_that_do_not_fit(kwargs, message):
    with pytest.raises(ConfigError) as caught:
        probe(EnvConfig(id="ALE/Pong-v5", kwargs=kwargs))
    assert str(caught.value) == message
