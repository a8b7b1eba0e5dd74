"""Recordings: what `rlgen record` writes, what can be read, and what is refused."""

import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from typer.testing import CliRunner

import rlgen
from rlgen import cli, demonstrations
from rlgen.config import DemonstrationsConfig, load_experiment, resolve_experiment
from rlgen.display import score
from rlgen.errors import ConfigError, DataError
from rlgen.problem import load_problem


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def read(path, episodes=None):
    return demonstrations.load(DemonstrationsConfig(path=str(path), episodes=episodes))


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An untrained agent: its episodes on CartPole end by falling."""
    changes = {"run.dir": str(tmp_path_factory.mktemp("runs")), "stop": {"env_steps": 100}}
    return rlgen.train("dqn-cartpole", {**changes, "evaluation": {"episodes": 2}})


@pytest.fixture(scope="module")
def recording(agent, tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "short.npz"
    result = command("record", agent.dir, "-o", path, "--episodes", 5, "--seed", 3, "--json")
    assert result.exit_code == 0, result.stderr
    return path, json.loads(result.stdout)


def test_what_is_recorded_is_what_the_environment_answers(recording):
    """Each episode again, from its first state: Gymnasium's own CartPole gives every row."""
    shown = read(recording[0])
    env = gym.make("CartPole-v1").unwrapped
    for number in range(5):
        rows = np.flatnonzero(shown.episode == number)
        env.reset()
        env.state = shown.observation[rows[0]]
        for row in rows:
            np.testing.assert_allclose(shown.observation[row], env.state, atol=1e-6)
            env.state = shown.observation[row].astype(np.float64)  # it was rounded to float32
            observation, reward, terminated, _, _ = env.step(int(shown.action[row]))
            np.testing.assert_allclose(shown.next_observation[row], observation, atol=1e-6)
            assert (reward, terminated) == (shown.reward[row], shown.terminated[row])
        assert terminated and shown.last[rows].tolist() == [False] * (len(rows) - 1) + [True]
        assert shown.step[rows].tolist() == list(range(len(rows)))
    assert not shown.truncated.any()


def test_the_episodes_are_those_of_an_evaluation(agent, recording):
    path, answer = recording
    shown, evaluation = read(path), agent.evaluate(episodes=5, tick=3)
    assert (shown.returns.mean(), shown.returns.std()) == (evaluation["mean"], evaluation["std"])
    assert {k: answer[k] for k in evaluation} == evaluation
    assert answer["steps"] == len(shown.reward) == 5 * evaluation["length"]
    assert shown.about["env"]["id"] == "CartPole-v1"
    first = read(path, episodes=2)
    np.testing.assert_array_equal(first.next_observation, shown.next_observation[: first.count()])
    assert first.returns.tolist() == shown.returns[:2].tolist()


def test_it_says_what_it_recorded_and_repeats_it(agent, recording, tmp_path):
    again = tmp_path / "again.npz"
    result = command("record", agent.dir, "-o", again, "--episodes", 5, "--seed", 3)
    answer = recording[1]
    said = f"{answer['steps']:,} steps, {score(answer)} in {again}"
    assert result.stdout.strip().replace("\n", "") == said
    np.testing.assert_array_equal(read(again).observation, read(recording[0]).observation)
    agent.record(tmp_path / "other.npz", episodes=5, seed=4)
    assert not np.array_equal(read(tmp_path / "other.npz").reward, read(again).reward)


def test_more_episodes_than_play_at_once_are_in_order(agent, tmp_path):
    agent.record(tmp_path / "many.npz", episodes=40)  # 32 and 8
    shown = read(tmp_path / "many.npz")
    assert np.unique(shown.episode).tolist() == list(range(40))
    evaluation = agent.evaluate(episodes=40)
    assert shown.returns.min() == evaluation["min"]
    assert shown.returns.mean() == pytest.approx(evaluation["mean"])


def test_an_episode_that_is_cut_short_is_truncated_and_actions_are_as_taken(tmp_path):
    plain = {
        "name": "x",
        "algorithm": "a3c",
        "env": {"id": "Pendulum-v1", "num_envs": 2},
        "stop": {"env_steps": 2000},
        "hyperparameters": {"learning_rate": 0.5},  # to outputs beyond the bounds
        "evaluation": {"episodes": 2, "max_steps": 30},
        "run": {"dir": str(tmp_path)},
    }
    run = rlgen.train(plain)
    run.record(tmp_path / "cut.npz", episodes=2)
    shown = read(tmp_path / "cut.npz")
    assert len(shown.reward) == 60 and np.flatnonzero(shown.truncated).tolist() == [29, 59]
    assert not shown.terminated.any()
    space = gym.make("Pendulum-v1").action_space
    assert np.abs(shown.action).max() == 2.0 and all(a in space for a in shown.action)


def test_recording_is_refused(agent, recording, tmp_path):
    result = command("record", agent.dir, "-o", recording[0])
    assert result.exit_code == 2
    assert "exists already; --force replaces it" in result.stderr.replace("\n", " ")
    assert command("record", agent.dir, "-o", tmp_path / "x.npz", "--episodes", 1).exit_code == 0
    forced = command("record", agent.dir, "-o", tmp_path / "x.npz", "--episodes", 2, "--force")
    assert forced.exit_code == 0 and len(read(tmp_path / "x.npz").returns) == 2
    for output, message in (
        ("x.txt", r"record: expected a name that ends in .npz, got 'x.txt'"),
        (tmp_path / "none" / "x.npz", r"record: there is no folder '.*none'"),
    ):
        with pytest.raises(ConfigError, match=message):
            agent.record(output)


def test_a_generative_run_plays_no_episodes(tmp_path):
    changes = {"run.dir": str(tmp_path), "stop": {"epochs": 1}, "evaluation": {}}
    run = rlgen.train("vae-digits", changes)
    message = "trained the model vae; only agents play episodes"
    with pytest.raises(ConfigError, match=message):
        run.record(tmp_path / "x.npz")


@pytest.mark.parametrize("name", demonstrations.ready())
def test_ours_are_whole_and_of_an_expert(name):
    shown = read(name)
    assert not shown.observation.flags.writeable
    if name == "cartpole-expert":
        assert shown.returns.tolist() == [500.0] * 10


def altered(recording, tmp_path, **changes):
    with np.load(recording[0], allow_pickle=False) as archive:
        arrays = {k: archive[k] for k in archive.files}
    path = tmp_path / "altered.npz"
    arrays = {k: v for k, v in (arrays | changes).items() if v is not None}
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, r"there is no array 'reward' in it; expected a recording of 'rlgen rec"),
        ({"action": np.array("left")}, r"found 'action' of shape \(\) and dtype <U4"),
        ({"terminated": np.zeros(3)}, r"found 'terminated' of shape \(3,\) and dtype float64"),
        ({"truncated": np.zeros(3, bool)}, r"'truncated' has 3 rows, 'episode' has \d+"),
        ({"about": np.array("{}")}, r"its 'about' does not say which spaces"),
        ({"about": np.array("{")}, r"cannot be read \(.*expected a recording"),
        (
            {"last_observation": np.zeros((5, 3))},
            r"last observations of shape \(3,\), observations",
        ),
        ({"last_observation": np.zeros((4, 4))}, r"'episode' does not count from 0 to 3 in order"),
        (
            {"last_observation": np.full((5, 4), np.nan)},
            r"'last_observation' holds values that are",
        ),
        ({"observation": np.array([object()])}, r"cannot be read \(it is no archive of arrays\)"),
    ],
)
def test_a_damaged_recording_is_refused(changes, message, recording, tmp_path):
    path = altered(recording, tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        read(path)


def test_what_does_not_exist_is_refused(recording, tmp_path):
    with pytest.raises(DataError, match=r"demonstrations.path: there is no file '.*none.npz'"):
        read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match=r"text.npz: cannot be read"):
        read(tmp_path / "text.npz")
    with pytest.raises(ConfigError, match=r"no recording 'cartpole-expart'.*did you mean 'cartp"):
        read("cartpole-expart")
    with pytest.raises(ConfigError, match=r"demonstrations.episodes: 6 asked for, .* holds 5"):
        read(recording[0], episodes=6)


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("bc-cartpole", ["env.id=Acrobot-v1"], r"recorded with observations of shape \[4\], but"),
        ("bc-cartpole", ["env.id=Taxi-v4"], r"recorded with observations of space Box, but those"),
        ("bc-cartpole", ["env.frame_stack=2"], r"of shape \[4\], but those of env.id have \[2, 4"),
        (
            "max-ent-irl-grid",
            ["env.kwargs={map_name: 8x8}"],
            r"grid-expert was recorded with observations of values 25, but those .* have 64",
        ),
        ("max-ent-irl-grid", ["env.id=CartPole-v1", "env.kwargs={}"], r"of space Discrete, but"),
    ],
)
def test_another_environments_recording_is_refused(config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_problem(load_experiment(config, overrides))


def test_discrete_actions_that_do_not_exist_are_refused(tmp_path):
    shown = columns(3, np.array([0, 5, 1]))
    box = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    about = {"observation_space": box, "action_space": gym.spaces.Discrete(2)}
    about = {name: demonstrations.describe(space) for name, space in about.items()}
    demonstrations.save(tmp_path / "odd.npz", shown, about)
    given = read(tmp_path / "odd.npz")
    with pytest.raises(ConfigError, match=r"odd.npz has actions from 0 to 5, .* from 0 to 1"):
        demonstrations.check_spaces(given, "odd.npz", box, gym.spaces.Discrete(2))


def test_actions_out_of_bounds_are_refused(tmp_path):
    shown = columns(3, np.float32([[0.5], [2.5], [1.0]]))
    box = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    about = {"observation_space": box, "action_space": gym.spaces.Box(-3, 3, (1,), np.float32)}
    about = {name: demonstrations.describe(space) for name, space in about.items()}
    demonstrations.save(tmp_path / "strong.npz", shown, about)
    experiment = load_experiment(
        "bc-cartpole", ["env.id=Pendulum-v1", f"demonstrations={{path: {tmp_path}/strong.npz}}"]
    )
    with pytest.raises(ConfigError, match=r"actions outside of env.id's bounds, such as 2.5"):
        load_problem(experiment)


def columns(rows, action):
    return {
        "observation": np.zeros((rows, 3), np.float32),
        "action": action,
        "reward": np.zeros(rows, np.float32),
        "terminated": np.zeros(rows, bool),
        "truncated": np.arange(rows) == rows - 1,
        "episode": np.zeros(rows, np.int64),
        "last_observation": np.zeros((1, 3), np.float32),
    }


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("dqn-cartpole", "demonstrations.path=x.npz", r"demonstrations: dqn has no use for this"),
        ("bc-cartpole", "demonstrations=", r"demonstrations: missing; behaviour-cloning needs one"),
        ("bc-cartpole", "demonstrations.paths=x", r"demonstrations.paths: unknown key"),
        ("bc-cartpole", "demonstrations.episodes=0", r"demonstrations.episodes: .*greater than or"),
        ("bc-cartpole", "data.name=digits", r"data: behaviour-cloning has no use for this section"),
        ("bc-cartpole", "env=", r"env: missing; behaviour-cloning needs one"),
        ("bc-cartpole", "env.num_envs=4", r"env.num_envs: behaviour-cloning has no use for it"),
        ("bc-cartpole", "env.normalize_observation=true", r"normalize_observation: behaviour-clon"),
        ("bc-cartpole", "stop.env_steps=100", r"stop.env_steps: behaviour-cloning counts epochs"),
        ("bc-cartpole", "network.memory=gru", r"network.memory: behaviour-cloning has no use"),
        ("gail-cartpole", "network.memory=gru", r"network.memory: gail has no use"),
        ("max-ent-irl-grid", "hyperparameters.gamma=1", r"hyperparameters.gamma: .*less than 1"),
    ],
)
def test_sections_and_settings_without_use_are_refused(config, override, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment(config, [override])


def test_paths_are_absolute_and_the_plan_names_the_recording(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("bc-cartpole", ["demonstrations.path=own/expert.npz"])
    assert experiment.demonstrations.path == str(Path.cwd() / "own" / "expert.npz")
    assert resolve_experiment(experiment.dump()) == experiment
    assert load_experiment("bc-cartpole").demonstrations.path == "cartpole-expert"
    shown = CliRunner().invoke(cli.app, ["show", "bc-cartpole", "--json"])
    tasks = {role["name"]: role["task"] for role in json.loads(shown.stdout)["plan"]}
    assert tasks["worker"] == "minibatches of cartpole-expert"
    assert tasks["evaluator"] == "20 greedy episodes"


def minari_set(folder, monkeypatch, name, env, episodes):
    """A data set made by Minari's own functions in a folder of the test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    import minari
    from minari.data_collector import EpisodeBuffer

    return minari.create_dataset_from_buffers(
        dataset_id=name,
        env=env,
        buffer=[EpisodeBuffer(**episode) for episode in episodes],
        algorithm_name="random",
        author="nobody",
        data_format="hdf5",
    )


def played(env, seed, steps):
    """One episode of random actions."""
    env.action_space.seed(seed)
    seen, rows = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        action = env.action_space.sample()
        observation, *row = env.step(action)
        seen.append(observation)
        rows.append((action, *row[:3]))
    action, reward, terminated, truncated = zip(*rows, strict=True)
    return {
        "observations": np.array(seen),
        "actions": np.array(action),
        "rewards": list(reward),
        "terminations": list(terminated),
        "truncations": [*truncated[:-1], True],
    }


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Minari, for want of an author
def test_minari_data_sets_of_this_machine_are_read(tmp_path, monkeypatch):
    env = gym.make("Pendulum-v1")
    given = [played(env, seed, steps) for seed, steps in ((1, 4), (2, 7), (3, 5))]
    minari_set(tmp_path, monkeypatch, "pendulum/random-v0", env, given)
    shown = read("minari:pendulum/random-v0", episodes=2)
    assert shown.episode.tolist() == [0] * 4 + [1] * 7
    for number, episode in enumerate(given[:2]):
        rows = shown.episode == number
        np.testing.assert_array_equal(shown.observation[rows], episode["observations"][:-1])
        np.testing.assert_array_equal(shown.next_observation[rows], episode["observations"][1:])
        np.testing.assert_array_equal(shown.action[rows], episode["actions"])
        np.testing.assert_allclose(shown.reward[rows], episode["rewards"], rtol=1e-6)
    assert np.flatnonzero(shown.truncated).tolist() == [3, 10]
    assert len(read("minari:pendulum/random-v0").returns) == 3
    overrides = ["env.id=Pendulum-v1", "demonstrations={path: minari:pendulum/random-v0}"]
    run = rlgen.train(
        load_experiment(
            "bc-cartpole",
            [*overrides, "stop.epochs=2", f"run.dir={tmp_path}", "evaluation.episodes=1"],
        )
    )
    assert run.summary["samples"] == 2 * 16
    with pytest.raises(ConfigError, match=r"demonstrations.episodes: 4 asked for, minari:.* hold"):
        read("minari:pendulum/random-v0", episodes=4)
    with pytest.raises(ConfigError, match=r"minari has no data set 'pendulum/expert-v0' on this"):
        read("minari:pendulum/expert-v0")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Minari, for want of an author
def test_minari_counts_from_zero_here(tmp_path, monkeypatch):
    """A Discrete(3, start=5) action is 0, 1 or 2, as algorithms give them."""

    class Counted(gym.Env):
        observation_space = gym.spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [1, 1]])
        action_space = gym.spaces.Discrete(3, start=5)
        spec = gym.spec("CartPole-v1")

    episode = {
        "observations": np.array([[[1, 2], [3, 4]], [[2, 3], [4, 5]]]),
        "actions": np.array([7]),
        "rewards": [1.0],
        "terminations": [True],
        "truncations": [False],
    }
    minari_set(tmp_path, monkeypatch, "counted-v0", Counted(), [episode])
    shown = read("minari:counted-v0")
    assert shown.observation.tolist() == [[0, 1, 2, 3]] and shown.action.tolist() == [2]
    assert shown.next_observation.tolist() == [[1, 2, 3, 4]]
    assert shown.about["observation_space"] == {"space": "MultiDiscrete", "values": [2, 3, 4, 5]}


def test_minari_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(
        ConfigError, match=r'the extra that brings it: pip install "rlgen\[minari\]'
    ):
        read("minari:any-v0")
