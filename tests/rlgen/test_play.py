"""Videos: what is on them, how long it stays, and that a run is the same with and without them."""

import errno
import io
import json
import sys

import numpy as np
import pytest
import torch
from experiments import TINY, train
from PIL import Image, ImageSequence
from typer.testing import CliRunner

import rlgen
from rlgen import cli, videos
from rlgen.backends import ray as ray_backend
from rlgen.config import EnvConfig, resolve_experiment
from rlgen.envs.filmed import film_env
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError
from rlgen.history import read
from rlgen.videos import Shot, make_video


def command(*arguments):
    return CliRunner().invoke(cli.app, ["play", *map(str, arguments)])


def frames(content):
    """The pictures of a GIF and the milliseconds that each stays."""
    image = Image.open(io.BytesIO(content))
    return [(np.array(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]


def shots(count, episodes=1):
    """Episodes of ``count`` steps whose pictures all differ."""
    for episode in range(1, episodes + 1):
        for step in range(count + 1):
            picture = np.full((240, 240, 3), 255, np.uint8)
            picture[: 1 + step % 240, :9] = 8 * step % 256, 40, 90
            yield Shot(picture, episode, step, float(step), last=step == count, cut=False)


@pytest.fixture(scope="module")
def cliff(tmp_path_factory):
    return train("sarsa", tmp_path_factory.mktemp("cliff"))


def test_a_gif_shows_every_step_of_its_episodes_for_as_long_as_it_takes(cliff, tmp_path):
    path = tmp_path / "cliff.gif"
    result = command(cliff.dir, "-o", path, "--episodes", 2, "--seed", 3, "--json")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    pictures = frames(path.read_bytes())
    lengths = answer["lengths"]
    assert len(lengths) == 2 and answer["cut"] == 0
    assert len(pictures) == sum(lengths) + 2  # and where each began
    stays = [ms for _, ms in pictures]
    assert stays[lengths[0]] == stays[-1] == 1000  # the ends, to be seen
    assert {ms for ms in stays if ms != 1000} == {250}  # four steps a second, as it says
    for length, return_ in zip(lengths, answer["returns"], strict=True):
        assert return_ in (-length, -length - 99)  # the goal, or the cliff


def test_the_same_seed_gives_the_same_video_and_disturbs_nobody(cliff):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (cliff.play(seed=seed, max_steps=20) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.content == again.content
    assert first.content != other.content


def test_exploring_is_acting_as_at_the_end_of_the_training(tmp_path):
    run = train("q-learning", tmp_path, {"hyperparameters.epsilon": 1.0})
    greedy, exploring = run.play(max_steps=40), run.play(max_steps=40, explore=True)
    assert exploring.lengths != greedy.lengths or exploring.returns != greedy.returns


def test_an_episode_that_is_too_long_is_cut_and_that_is_said(cliff, tmp_path):
    result = command(cliff.dir, "-o", tmp_path / "short.gif", "--max-steps", 2)
    assert result.exit_code == 0
    assert "1 cut after 2 steps; a larger --max-steps lets it go on" in result.stdout
    assert len(frames((tmp_path / "short.gif").read_bytes())) == 3


def test_a_video_plays_in_a_notebook(cliff):
    html = cliff.play(max_steps=3)._repr_html_()
    assert html.startswith('<img src="data:image/gif;base64,R0lGOD')


def test_stacked_and_hidden_observations_leave_the_picture_alone(tmp_path):
    env = {"id": "CartPole-v1", "num_envs": 2, "observed": [0, 2], "frame_stack": 3}
    run = train("dqn", tmp_path, {"env": env, "stop.env_steps": 300})
    video = run.play(max_steps=60)
    picture, _ = frames(video.content)[0]
    assert picture.shape == (267 + videos.LINE, 400, 3)  # CartPole's 600 x 400
    assert video.lengths[0] == video.returns[0]


# --- the files ----------------------------------------------------------------------------------


def test_a_long_video_is_thinned_out_and_lasts_as_long():
    video = make_video(shots(900), "gif", 50.0)
    pictures = frames(video.content)
    assert videos.MOST_PICTURES / 2 <= len(pictures) <= videos.MOST_PICTURES
    assert sum(ms for _, ms in pictures) == 900 * 20 + 1000
    assert video.lengths == [900]


def test_no_picture_is_too_short_for_browsers():
    video = make_video(shots(9), "gif", 500.0)  # two milliseconds each; below 20 they take 100
    assert {ms for _, ms in frames(video.content)[:-1]} == {20}


def test_few_colours_are_kept_as_they_are():
    content = make_video(shots(31), "gif", 10.0).content
    for number, (picture, _) in enumerate(frames(content)):
        assert tuple(picture[0, 0]) == (8 * number, 40, 90)


def test_many_colours_are_reduced_and_stay_close():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 240).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(128)), axis=-1)
    steps = [picture, np.roll(picture, int(rng.integers(9, 200)), axis=0)]
    told = [Shot(p, 1, i, 0.0, last=i == 1, cut=False) for i, p in enumerate(steps)]
    for shown, expected in zip(frames(make_video(told, "gif", 10.0).content), steps, strict=True):
        error = np.abs(shown[0][:240].astype(int) - expected.astype(int))
        assert error.mean() < 8


def test_an_mp4_has_every_step(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = tmp_path / "video.mp4"
    make_video(shots(40), "mp4", 20.0).save(path)
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert count == 40 + 20  # the last one stays for a second
    assert seconds == pytest.approx(3.0, abs=0.11)


# --- during the training ------------------------------------------------------------------------

FILMED = {"evaluation.every": 500, "tracking.video_every": 2}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("sarsa", "inline"),
        pytest.param("drqn", "inline", marks=pytest.mark.slow),
        pytest.param("sarsa", "ray", marks=pytest.mark.slow),
    ],
)
def test_a_run_is_the_same_with_and_without_videos(name, backend, tmp_path, monkeypatch, request):
    changes = {"evaluation.every": 500, "scheduler.backend": backend}
    if backend == "ray":
        monkeypatch.setattr(ray_backend, "RayBackend", request.getfixturevalue("pool"))
    plain = train(name, tmp_path, changes)
    filmed = train(name, tmp_path, changes | FILMED)
    assert list((filmed.dir / "videos").glob("*.gif"))
    np.testing.assert_array_equal(plain.weights, filmed.weights)
    scores = [
        [record["mean"] for record in read(run.dir).of("evaluation")] for run in (plain, filmed)
    ]
    assert scores[0] == scores[1]


def test_videos_are_named_by_the_clock_and_recorded(tmp_path):
    run = train("sarsa", tmp_path, FILMED)
    found = sorted((run.dir / "videos").iterdir())
    records = read(run.dir).of("video")
    assert [run.dir / record["file"] for record in records] == found
    clocks = [int(path.stem) for path in found]
    assert clocks == [record["env_steps"] for record in records]
    assert clocks[-1] == run.summary["env_steps"]  # the final weights, always
    assert all(clock // 500 % 2 == 0 for clock in clocks[:-1]) and len(clocks) >= 2
    for path, record in zip(found, records, strict=True):
        assert len(frames(path.read_bytes())) == record["length"] + 1


def test_an_environment_without_pictures_costs_one_warning(tmp_path):
    changes = {"env": {"id": "rlgen/RandomMDP-v0", "num_envs": 2}, "stop.env_steps": 3000}
    run = train("q-learning", tmp_path, changes | FILMED)
    told = [record["message"] for record in read(run.dir).of("event")]
    assert told == [
        "tracking.video_every: rlgen/RandomMDP-v0 has no pictures: it can render ansi, and "
        "rgb_array is needed; going on without videos"
    ]
    assert run.summary["stop_reason"] == "env_steps"


def test_a_model_has_no_use_for_videos():
    plain = {"name": "x", **TINY["vae"], "tracking": {"video_every": 1}}
    with pytest.raises(ConfigError, match="tracking.video_every"):
        resolve_experiment(plain)


# --- environments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "rlgen/Cliff-v0", "rlgen/WindyGrid-v0", "rlgen/FourRooms-v0", "rlgen/Gambler-v0",
        "rlgen/RandomWalk-v0", "rlgen/CarRental-v0", "rlgen/GaussianBandit-v0", "Blackjack-v1",
        "FrozenLake-v1", "Taxi-v4", "CliffWalking-v1",
    ],
)  # fmt: skip
def test_our_environments_and_toy_text_have_pictures(name):
    kwargs = {"max_cars": 4} if "CarRental" in name else {}
    config = EnvConfig(id=name, kwargs=kwargs)
    filmed = film_env(config)
    env = Environments(config, 1, 0, learning=False, env=filmed)
    env.reset()
    env.step(np.zeros(1, np.int64))
    first, second = filmed.pictures[:2]
    assert first.dtype == np.uint8 and first.shape == second.shape and first.shape[2] == 3
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 3  # not blank
    env.close()


def test_a_bandit_shows_which_arm_was_pulled():
    env = film_env(EnvConfig(id="rlgen/BernoulliBandit-v0", kwargs={"arms": 4}))
    env.reset(seed=0)
    for arm in (1, 1, 3):
        env.step(np.array([arm]))
    assert env.env.pulls.tolist() == [0, 2, 0, 1]
    red = [(picture[..., 0] > 200) & (picture[..., 1] < 120) for picture in env.pictures]
    assert not red[0].any()
    assert [np.nonzero(r)[1].mean() // (640 / 4) for r in red[1:]] == [1, 1, 3]


def test_the_atari_game_that_is_seen_is_the_one_that_is_played():
    pytest.importorskip("ale_py", reason="needs the extra rlgen[atari]")
    config = EnvConfig(id="ALE/Breakout-v5", kwargs={"num_threads": 1})
    filmed = film_env(config)
    twins = filmed.env
    told = []
    for game in (twins.env, twins.screen):
        told.append([])
        step = game.step

        def spied(action, step=step, told=told[-1]):
            result = step(action)
            told.append((result[1][0], result[2][0], result[4]["lives"][0]))
            return result

        game.step = spied
    env = Environments(config, 1, 5, learning=False, env=filmed)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(400):
        env.step(rng.integers(4, size=1))
    played, seen = told
    assert played == seen
    assert sum(reward for reward, *_ in played) > 0 and any(over for _, over, _ in played)
    assert filmed.pictures[0].shape == (210, 160, 3)
    assert filmed.fps == 15
    env.close()


def test_mujoco_draws_without_a_screen(monkeypatch):
    pytest.importorskip("mujoco", reason="needs the extra rlgen[mujoco]")
    from ctypes.util import find_library

    if not (find_library("EGL") or find_library("OSMesa")):
        pytest.skip("needs libEGL or libOSMesa")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    config = EnvConfig(id="HalfCheetah-v5", kwargs={"width": 64, "height": 64})
    filmed = film_env(config)
    env = Environments(config, 1, 0, learning=False, env=filmed)
    env.reset()
    assert filmed.pictures[0].shape == (64, 64, 3) and filmed.pictures[0].std() > 10
    assert filmed.fps == 20
    env.close()


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "play: give either -o FILE.gif (or .mp4), or --live for a window"),
        (["-o", "x.gif", "--live"], "play: give either -o FILE.gif (or .mp4), or --live"),
        (["-o", "x.avi"], "-o: expected a name that ends in .gif or .mp4, got 'x.avi'"),
        (["-o", "nowhere/x.gif"], "-o: there is no folder 'nowhere'"),
    ],
)
def test_what_is_no_video_is_refused(cliff, arguments, message):
    result = command(cliff.dir, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_played(
    cliff, tmp_path, monkeypatch
):
    (tmp_path / "taken.gif").mkdir()
    result = command(cliff.dir, "-o", tmp_path / "taken.gif")
    assert result.exit_code == 2
    assert "taken.gif' is a folder; give the name of a file" in result.stderr
    monkeypatch.setattr("os.access", lambda *_: False)  # else root may write anywhere
    result = command(cliff.dir, "-o", tmp_path / "x.gif")
    assert result.exit_code == 2
    assert "x.gif' may not be written; give another place" in result.stderr


def test_a_disk_without_room_is_one_message(cliff, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    result = command(cliff.dir, "-o", tmp_path / "x.gif")
    assert result.exit_code == 2
    assert "x.gif': No space left on device" in result.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    result = command(tmp_path, "-o", tmp_path / "x.gif")
    assert result.exit_code == 2
    assert f"{str(tmp_path)!r} is not a run: it has no config.yaml" in result.stderr


def test_a_model_is_told_to_sample(tmp_path):
    run = train("gaussian", tmp_path)
    result = command(run.dir, "-o", tmp_path / "x.gif")
    assert result.exit_code == 2
    assert "only agents play episodes, models have samples (rlgen sample)" in result.stderr


def test_without_a_screen_there_is_no_window(cliff, monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems always have one")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    result = command(cliff.dir, "--live")
    assert result.exit_code == 2
    assert "there is no screen for a window here; write a file instead (-o NAME.gif)" in (
        result.stderr
    )


def test_with_a_screen_the_window_shows_the_episode(cliff, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    shown = []
    flip = pygame.display.flip

    def look():
        shown.append(pygame.surfarray.array3d(pygame.display.get_surface()).copy())
        flip()

    monkeypatch.setattr(pygame.display, "flip", look)
    monkeypatch.setattr(videos, "LAST_S", 0.0)
    video = cliff.play(format="window", fps=1000.0)
    assert len(shown) == video.lengths[0] + 1
    assert not np.array_equal(shown[0], shown[-1])


@pytest.mark.parametrize(("format_", "package"), [("mp4", "imageio_ffmpeg"), ("window", "pygame")])
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    cliff, monkeypatch, format_, package
):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r'pip install "rlgen\[video\]"'):
        cliff.play(format=format_)


def test_drawing_without_pygame_names_the_extra(tmp_path, monkeypatch):
    run = train("dqn", tmp_path, {"stop.env_steps": 60})
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ConfigError, match=r'CartPole-v1 need .* pip install "rlgen\[video\]"'):
        run.play()


def test_numbers_out_of_range_are_refused(cliff):
    for wrong in (
        {"episodes": 0},
        {"max_steps": 0},
        {"fps": 0.0},
        {"fps": np.inf},
        {"format": "gifs"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            cliff.play(**wrong)
    assert isinstance(cliff, rlgen.Run)
