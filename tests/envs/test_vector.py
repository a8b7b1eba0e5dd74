"""The vector facade against an environment whose observations tell the truth about each step.

Its observation is (episode, t, length, terminates, last action): so the successor of every step is
known, and whether the step ends the episode by termination or by truncation.
"""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlgen import state
from rlgen.config import EnvConfig
from rlgen.envs.mdp import MDPVectorEnv
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError
from rlgen.problem import probe

SPACE = gym.spaces.Box(-100, 10_000, (5,), np.float32)
ACTIONS = gym.spaces.Discrete(7)


class Counting(gym.Env):
    """Episodes of random length (1 to 5) that end at random by termination or truncation."""

    observation_space, action_space = SPACE, ACTIONS
    episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        length, kind = self.np_random.integers(1, 6), self.np_random.integers(2)
        self.truth = np.array([self.episode, 0, length, kind, -1], np.float32)
        return self.truth, {}

    def step(self, action):
        reward = 0.1 * self.truth[1] + 1.0
        self.truth[1] += 1  # the same array for ever: the facade must copy
        self.truth[4] = action
        ends = self.truth[1] == self.truth[2]
        return (
            self.truth,
            reward,
            bool(ends and self.truth[3]),
            bool(ends and not self.truth[3]),
            {},
        )


class CountingVector(gym.vector.VectorEnv):
    """The same as a vector environment of any autoreset mode, written into one buffer."""

    def __init__(self, num_envs, mode):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = SPACE, ACTIONS
        self.observation_space = gym.vector.utils.batch_space(SPACE, num_envs)
        self.action_space = gym.vector.utils.batch_space(ACTIONS, num_envs)
        self.mode = mode
        self.truth = np.full((num_envs, 5), -1, np.float32)
        self.over = np.zeros(num_envs, bool)

    def begin(self, rows):
        n = rows.sum()
        self.truth[rows, 0] += 1
        self.truth[rows, 1] = 0
        self.truth[rows, 2] = self.np_random.integers(1, 6, n)
        self.truth[rows, 3] = self.np_random.integers(2, size=n)
        self.truth[rows, 4] = -1
        self.over[rows] = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        self.begin(mask)
        return np.where(mask[:, None], self.truth, -99), {}  # rubbish in the rows not asked for

    def step(self, actions):
        over = self.over.copy()
        assert self.mode is not AutoresetMode.DISABLED or not over.any(), "stepped when over"
        # What it reports of a row that only resets is rubbish, and must not count.
        reward = np.where(over, 77.0, 0.1 * self.truth[:, 1].astype(float) + 1.0)
        self.truth[~over, 1] += 1
        self.truth[:, 4] = actions
        self.begin(over)
        ends = (self.truth[:, 1] == self.truth[:, 2]) & ~over
        terminated, truncated = ends & (self.truth[:, 3] == 1), ends & (self.truth[:, 3] == 0)
        self.over = ends
        terminated |= over
        info = {}
        if self.mode is AutoresetMode.SAME_STEP and ends.any():
            final = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(ends):
                final[row] = self.truth[row].copy()
            info = {"final_obs": final, "_final_obs": ends.copy()}
            self.begin(ends)
        return self.truth, reward, terminated, truncated, info


class NoFinal(CountingVector):
    def step(self, actions):
        return *super().step(actions)[:4], {}


gym.register("rltest/Counting-v0", entry_point=Counting)
KINDS = {"rltest/Counting-v0": AutoresetMode.DISABLED}
for mode in AutoresetMode:
    gym.register(
        f"rltest/{mode.value}-v0",
        vector_entry_point=lambda num_envs, mode=mode: CountingVector(num_envs, mode),
    )
    gym.register(
        f"rltest/Sync{mode.value}-v0",
        vector_entry_point=lambda num_envs, mode=mode: SyncVectorEnv(
            [Counting] * num_envs, autoreset_mode=mode
        ),
    )
    KINDS |= {f"rltest/{mode.value}-v0": mode, f"rltest/Sync{mode.value}-v0": mode}
gym.register(
    "rltest/NoFinal-v0",
    vector_entry_point=lambda num_envs: NoFinal(num_envs, AutoresetMode.SAME_STEP),
)


def roll(environments, steps, seed=0):
    """Transitions (observation, action, Step) of random actions."""
    rng = np.random.default_rng(seed)
    observation = environments.reset()
    for _ in range(steps):
        action = rng.integers(7, size=environments.num_envs)
        step = environments.step(action)
        yield observation, action, step
        observation = step.observation


@pytest.mark.parametrize("name", KINDS)
def test_no_transition_crosses_a_reset(name):
    environments = Environments(EnvConfig(id=name), 6, seed=3)
    counts = np.zeros(2, int)
    expected, invalid = [], 0
    after_end = np.zeros(6, bool)
    for observation, action, step in roll(environments, 300):
        ok = step.valid
        now, then = observation[ok], step.next_observation[ok]
        np.testing.assert_array_equal(then[:, [0, 2, 3]], now[:, [0, 2, 3]])  # the same episode
        np.testing.assert_array_equal(then[:, 1], now[:, 1] + 1)
        np.testing.assert_array_equal(then[:, 4], action[ok])
        np.testing.assert_array_equal(
            step.reward[ok], (0.1 * now[:, 1].astype(float) + 1).astype(np.float32)
        )
        ends = then[:, 1] == then[:, 2]
        np.testing.assert_array_equal(step.terminated[ok], ends & (then[:, 3] == 1))
        np.testing.assert_array_equal(step.truncated[ok], ends & (then[:, 3] == 0))
        # Rows that reset are those after an end, in the one mode that has such rows.
        waits = after_end if KINDS[name] is AutoresetMode.NEXT_STEP else np.zeros(6, bool)
        np.testing.assert_array_equal(~ok, waits)
        assert not (step.terminated | step.truncated)[~ok].any()
        assert not step.reward[~ok].any()
        after_end = step.terminated | step.truncated
        fresh = ~ok if KINDS[name] is AutoresetMode.NEXT_STEP else after_end
        assert (step.observation[fresh, 1] == 0).all()
        np.testing.assert_array_equal(step.observation[~fresh], step.next_observation[~fresh])
        counts += step.terminated.sum(), step.truncated.sum()
        invalid += (~ok).sum()
        for length in step.next_observation[after_end, 2].astype(int):
            expected.append((sum(0.1 * t + 1 for t in range(length)), length))
    assert counts.min() > 100
    assert (invalid > 100) == (KINDS[name] is AutoresetMode.NEXT_STEP)
    np.testing.assert_allclose(environments.finished, expected, rtol=1e-6)
    assert [type(x) for x in environments.finished[0]] == [float, int]
    environments.close()


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_one_episode(name):
    environments = Environments(EnvConfig(id=name, frame_stack=3), 4, seed=0)
    assert environments.observation_space.shape == (3, 5)
    back = np.array([2, 1, 0])
    for observation, _, step in roll(environments, 100):
        for frames in (observation, step.next_observation[step.valid], step.observation):
            newest = frames[:, -1]
            np.testing.assert_array_equal(frames[:, :, 0], newest[:, None, 0].repeat(3, axis=1))
            expected = np.maximum(newest[:, None, 1] - back, 0)  # the first one is repeated
            np.testing.assert_array_equal(frames[:, :, 1], expected)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_only_the_observed_components_are_seen(name, frames):
    """The same episodes as without the mask, in the order of the components asked for."""
    config = EnvConfig(id=name, frame_stack=frames)
    whole = Environments(config, 4, seed=0)
    masked = Environments(config.model_copy(update={"observed": [4, 1]}), 4, seed=0)
    shape = (2,) if frames == 1 else (2, 2)
    assert masked.observation_space.shape == shape
    for (all_of_it, _, full), (seen, _, part) in zip(
        roll(whole, 60), roll(masked, 60), strict=True
    ):
        assert seen.shape == (4, *shape)
        np.testing.assert_array_equal(seen, all_of_it[..., [4, 1]])
        for name_, rows in part._asdict().items():
            expected = getattr(full, name_)
            expected = expected[..., [4, 1]] if "observation" in name_ else expected
            np.testing.assert_array_equal(rows, expected)


def test_the_bounds_are_those_of_the_observed_components():
    space, _ = probe(EnvConfig(id="Pendulum-v1", observed=[2, 0]))
    assert space == gym.spaces.Box(np.float32([-8, -1]), np.float32([8, 1]))


@pytest.mark.parametrize(
    ("name", "observed", "message"),
    [
        ("CartPole-v1", [0, 4], r"different components out of 0 to 3, got \[0, 4\]"),
        ("CartPole-v1", [1, 1], r"different components out of 0 to 3, got \[1, 1\]"),
        ("CartPole-v1", [], r"different components out of 0 to 3, got \[\]"),
        ("FrozenLake-v1", [0], r"needs observations in a flat Box, not Discrete\(16\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(name, observed, message):
    with pytest.raises(ConfigError, match=f"env.observed: .*{message}"):
        probe(EnvConfig(id=name, observed=observed))


def test_rows_stay_the_callers():
    for name in KINDS:
        kept = [
            (step.observation, step.observation.copy(), step.reward, step.reward.copy())
            for _, _, step in roll(Environments(EnvConfig(id=name), 3, seed=0), 20)
        ]
        for observation, observed, reward, rewarded in kept:
            np.testing.assert_array_equal(observation, observed)
            np.testing.assert_array_equal(reward, rewarded)


def test_same_step_without_the_final_observation_is_refused():
    environments = Environments(EnvConfig(id="rltest/NoFinal-v0"), 3, seed=0)
    with pytest.raises(
        ConfigError, match=r"env.id: rltest/NoFinal-v0 resets in the step .*final_obs"
    ):
        list(roll(environments, 10))


def test_first_reset_is_seeded_and_later_ones_go_on():
    def firsts(seed):
        environments = Environments(EnvConfig(id="Pendulum-v1"), 4, seed)
        return environments.reset(), environments.reset()

    once, again, other = firsts(1), firsts(1), firsts(2)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once[0], once[1])
    # Gymnasium would seed 1, 2, 3, 4 and 2, 3, 4, 5: three rows in common.
    assert not np.isin(once[0], other[0]).any()


def test_reset_forgets_the_running_episodes():
    environments = Environments(EnvConfig(id="CartPole-v1"), 2, seed=0)
    for _ in range(2):
        environments.reset()
        for _ in range(3):
            environments.step(np.zeros(2, int))
    assert environments.finished == []
    while len(environments.finished) < 2:
        environments.step(np.zeros(2, int))
    assert all(score == length and length < 15 for score, length in environments.finished)


class Echo(gym.Env):
    """Observes its last action; counts from where its spaces do."""

    def __init__(self, kind="discrete"):
        spaces = gym.spaces
        self.observation_space, self.action_space = {
            "discrete": (spaces.Discrete(9, start=-4), spaces.Discrete(3, start=2)),
            "multi": (
                spaces.MultiDiscrete([[3, 4], [5, 6]], start=[[1, 1], [1, 1]]),
                spaces.MultiDiscrete([3, 4], start=[5, 6]),
            ),
            "box": (
                spaces.Box(-9.0, 9.0, (2,), np.float64),
                spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32)),
            ),
            "text": (spaces.Text(3), spaces.Discrete(2)),
            "dict": (spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)})),
        }[kind]
        self.kind = kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        seen = {
            "discrete": lambda: int(action) - 6,
            "multi": lambda: np.array([[1, 1], action - 4]),
            "box": lambda: np.asarray(action, np.float64),
        }[self.kind]()
        return seen, 0.0, False, False, {}


gym.register("rltest/Echo-v0", entry_point=Echo)


def echo(kind, action, **more):
    environments = Environments(EnvConfig(id="rltest/Echo-v0", kwargs={"kind": kind}, **more), 2, 0)
    environments.reset()
    return environments, environments.step(np.array(action)).observation


def test_discrete_counts_from_zero():
    environments, seen = echo("discrete", [0, 2])  # the environment's 2 and 4, which it shows as
    np.testing.assert_array_equal(seen, [0, 2])  # -4 and -2, the first and third of its numbers
    assert environments.observation_space == gym.spaces.Discrete(9)
    assert environments.action_space == gym.spaces.Discrete(3)


def test_multi_discrete_is_flat_and_counts_from_zero():
    environments, seen = echo("multi", [[0, 3], [2, 1]])
    np.testing.assert_array_equal(seen, [[0, 0, 0, 4], [0, 0, 2, 2]])
    assert environments.observation_space == gym.spaces.MultiDiscrete([3, 4, 5, 6])
    assert environments.action_space == gym.spaces.MultiDiscrete([3, 4])


def test_box_actions_are_clipped_and_cast():
    _, seen = echo("box", [[0.5, -7.0], [3.0, 1.5]])
    np.testing.assert_array_equal(seen, [[0.5, -2.0], [1.0, 1.5]])


def test_stacked_discrete_becomes_multi_discrete():
    environments, seen = echo("discrete", [1, 2], frame_stack=3)
    assert environments.observation_space == gym.spaces.MultiDiscrete([9, 9, 9])
    assert seen.shape == (2, 3)
    np.testing.assert_array_equal(seen[:, 2], [1, 2])
    environments, seen = echo("multi", [[0, 3], [2, 1]], frame_stack=2)
    assert environments.observation_space == gym.spaces.MultiDiscrete([3, 4, 5, 6, 3, 4, 5, 6])
    np.testing.assert_array_equal(seen[:, 4:], [[0, 0, 0, 4], [0, 0, 2, 2]])


@pytest.mark.parametrize(
    ("kind", "message"), [("text", "observations in a Text"), ("dict", "actions in a Dict")]
)
def test_other_spaces_are_refused(kind, message):
    with pytest.raises(ConfigError, match=f"env.id: rltest/Echo-v0 has {message} space, expected"):
        probe(EnvConfig(id="rltest/Echo-v0", kwargs={"kind": kind}))


def test_which_vector_form():
    forms = {
        "FrozenLake-v1": MDPVectorEnv,
        "rlgen/Cliff-v0": MDPVectorEnv,
        "CartPole-v1": gym.envs.classic_control.cartpole.CartPoleVectorEnv,
        "Pendulum-v1": SyncVectorEnv,
    }
    for name, form in forms.items():
        assert type(Environments(EnvConfig(id=name), 2, 0).env) is form
    # A table that is not all of the dynamics is not used.
    fickle = EnvConfig(id="Taxi-v4", kwargs={"fickle_passenger": True})
    assert type(Environments(fickle, 2, 0).env) is SyncVectorEnv


def test_native_and_single_cart_pole_agree():
    """The native vector environment's first episode equals Gymnasium's single environment's."""
    environments = Environments(EnvConfig(id="CartPole-v1"), 1, seed=0)
    single = gym.make("CartPole-v1")
    single.reset(seed=0)
    first = environments.reset()[0]
    single.unwrapped.state = environments.env.state[:, 0].copy()
    for t in range(60):
        action = int(t % 2)
        step = environments.step(np.array([action]))
        observation, reward, terminated, truncated, _ = single.step(action)
        np.testing.assert_allclose(step.next_observation[0], observation, rtol=1e-5)
        assert (step.reward[0], step.terminated[0], step.truncated[0]) == (
            reward,
            terminated,
            truncated,
        )
        if terminated:
            break
    assert terminated
    assert not np.array_equal(first, observation)


def test_time_limit_is_a_truncation():
    config = EnvConfig(id="FrozenLake-v1", kwargs={"max_episode_steps": 4, "is_slippery": False})
    environments = Environments(config, 2, seed=0)
    environments.reset()
    flags = []
    for action in (0, 0, 0, 0, 1, 1, 2):  # against the wall; then down, down, right
        step = environments.step(np.array([action, 0]))
        flags.append((bool(step.terminated[0]), bool(step.truncated[0])))
    assert flags == [(False, False)] * 3 + [(False, True)] + [(False, False)] * 3
    assert environments.finished == [(0.0, 4), (0.0, 4)]


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "rltest/Counting-v0"]
)
@pytest.mark.parametrize("frames", [1, 3])
def test_restored_environments_go_on_equally(name, frames):
    def play(environments, steps):
        rng = np.random.default_rng(5)
        space = environments.action_space
        for _ in range(steps):
            shape = (environments.num_envs, *space.shape)
            step = environments.step(rng.integers(0, 2, shape))
        return step, environments.finished

    config = EnvConfig(id=name, frame_stack=frames)
    one, two = Environments(config, 3, seed=1), Environments(config, 3, seed=2)
    one.reset(), two.reset()
    play(one, 40)
    kept = state.capture(one)
    assert kept.opaque == []
    expected = play(one, 50)
    state.restore(two, kept.plain, kept.arrays)
    for left, right in zip(expected[0], play(two, 50)[0], strict=True):
        np.testing.assert_array_equal(left, right)
    assert expected[1] == two.finished
