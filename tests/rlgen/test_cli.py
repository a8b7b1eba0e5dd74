"""The command line, as a user meets it: answers, mistakes, Ctrl-C."""

import gzip
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from recorded import append, write_run
from rich.console import Console
from typer.testing import CliRunner

from rlgen import __main__, __version__, cli, display, doctor, load
from rlgen.command import replying
from rlgen.config import load_experiment
from rlgen.errors import ConfigError
from rlgen.scheduler import Progress

PLANNER = ["value-iteration-frozenlake", "stop.updates=5", "evaluation.episodes=2"]
AGENT = ["q-learning-cliff", "stop.env_steps=2000", "evaluation.episodes=2"]
MODEL = ["vae-digits", "stop.epochs=1"]
PATIENCE = 120.0  # seconds until a test gives up on a subprocess


def rlgen(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def answer(*arguments):
    """The JSON object of a command that must succeed."""
    result = rlgen(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 1  # whatever else is said is on stderr
    return json.loads(lines[-1])


def tree(folder):
    """Every file below a folder, with its content."""
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def run_in(folder, arguments):
    """Train in a folder; the run's directory."""
    return Path(answer("train", *arguments, f"run.dir={folder}", "--quiet")["run_dir"])


@pytest.fixture(scope="module")
def agent_run(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("agent"), AGENT)


@pytest.fixture(scope="module")
def model_run(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("model"), MODEL)


# --- answers ------------------------------------------------------------------------------------


def test_numbers_that_json_does_not_have_are_null(capsys):
    with replying(as_json=True, debug=False) as found:
        found |= {"low": -math.inf, "parts": [1.0, (math.nan, 2)], "name": "inf"}
    assert capsys.readouterr().out == '{"low": null, "parts": [1.0, [null, 2]], "name": "inf"}\n'


def test_the_version_is_that_of_the_package():
    assert rlgen("--version").stdout == f"rlgen {__version__}\n"


def test_the_module_runs_as_the_command_does(in_tmp):
    done = subprocess.run([sys.executable, "-m", "rlgen", "--version"], capture_output=True)
    assert done.stdout.decode() == f"rlgen {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "unneeded"),
    [
        (["--help"], ["torch", "ray", "gymnasium", "pydantic_core"]),
        (["list"], ["torch", "ray"]),
        (["show", "q-learning-cliff"], ["ray"]),
        (["train", *PLANNER, "--quiet"], ["ray"]),
    ],
)
def test_commands_import_only_what_they_use(arguments, unneeded, in_tmp):
    code = (
        "import sys\n"
        "from rlgen.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        f"print([name for name in {unneeded} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["[]"], done.stderr


def test_list_names_what_there_is_with_a_line_each():
    listed = answer("list")
    assert set(listed) == {"agents", "models", "environments", "configs", "sweeps"}
    assert listed["agents"]["q-learning"].startswith("Q-learning:")
    assert {"vae", "rbm"} <= set(listed["models"])
    for kind in listed:
        assert all(text and "missing" not in text for text in listed[kind].values()), kind
    assert listed["environments"]["rlgen/Cliff-v0"].startswith("The slippery cliff of the book")
    assert listed["environments"]["CartPole-v1"] == "Gymnasium, classic control"
    assert "CartPole-v0" not in listed["environments"]  # an older version
    plain = rlgen("list").stdout
    assert all(name in plain for name in [*listed["configs"], *listed["environments"]])


def test_what_is_next_can_be_typed_where_rlgen_is_not_on_the_path(tmp_path):
    script = Path(sys.executable).with_name("rlgen")
    done = subprocess.run(
        [script, "train", *PLANNER, "--quiet"],
        capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("next: "))
    assert (tmp_path / line.split()[1]).resolve() == script.resolve()
    assert f"{line.split()[1]} dashboard runs" in done.stdout


def test_what_is_next_can_be_typed_where_a_folder_has_a_space(tmp_path):
    folder = tmp_path / "my runs"
    lines = rlgen("train", *PLANNER, f"run.dir={folder}", "--quiet").stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("next: "))
    told = [shlex.split(line.removeprefix("next:")) for line in lines[first:]]
    (run,) = folder.glob("*/*")
    assert [words[:3] for words in told if words[1] == "eval"] == [["rlgen", "eval", str(run)]]
    assert ["rlgen", "dashboard", str(folder)] in told


def test_list_can_be_of_some():
    found = answer("list", "configs", "CartPole", "ppo")
    assert set(found.pop("configs")) == {"ppo-cartpole", "ppo-masked-cartpole"}
    assert not any(found.values())
    assert "agents" not in rlgen("list", "models", "restricted").stdout
    assert {kind for kind, lines in answer("list", "frozen").items() if lines} == {
        "agents", "environments", "configs",
    }  # fmt: skip
    none = rlgen("list", "xyz")
    assert none.exit_code == 2 and "nothing has 'xyz' in it" in none.stderr


def test_show_gives_every_default_and_the_plan():
    shown = answer("show", *AGENT, "scheduler.workers=3")
    assert shown["config"]["scheduler"]["mode"] == "sync"  # a default
    assert shown["config"]["stop"]["env_steps"] == 2000
    counts = {role["name"]: role["count"] for role in shown["plan"]}
    assert counts == {"learner": 1, "worker": 3, "evaluator": 1}
    assert shown["cores"] >= 1
    plain = rlgen("show", *AGENT, "scheduler.workers=3", "scheduler.backend=ray").stdout
    assert "env_steps: 2000" in plain and "a private cluster here: 5 CPUs" in plain


def test_doctor_says_ok_or_what_to_do(in_tmp, monkeypatch):
    monkeypatch.delenv("RLGEN_DATA", raising=False)
    result = rlgen("doctor", "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == (0 if found["ok"] else 1)
    names = {finding["name"] for finding in found["findings"]}
    assert {"python", "torch", "ray", "gpu", "data", "runs"} <= names
    assert list(in_tmp.iterdir()) == []

    monkeypatch.setenv("RLGEN_DATA", str(in_tmp / "nowhere"))
    find = doctor.importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util,
        "find_spec",
        lambda name: None if name == "onnxscript" else find(name),
    )
    result = rlgen("doctor")
    assert result.exit_code == 1
    assert f"problem  data: RLGEN_DATA={in_tmp / 'nowhere'} is not a folder" in result.stdout
    assert "-> make it, or set RLGEN_DATA" in result.stdout
    line = "ok       extra onnx (rlgen export --format onnx): not installed; "
    assert f"{line}pip install 'rlgen[onnx]'\n" in result.stdout


def test_doctor_knows_every_extra():
    plain = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = plain["project"]["optional-dependencies"].keys() - {"dev", "docs"}
    assert doctor.EXTRAS.keys() == extras


def test_train_sums_up_and_says_what_is_next(in_tmp):
    result = rlgen("train", *AGENT)
    assert result.exit_code == 0, result.stderr
    assert "where the time went" in result.stdout and "bottleneck: " in result.stdout
    folder = f"runs{os.sep}q-learning-cliff{os.sep}"
    assert f"next: rlgen eval {folder}" in result.stdout
    assert f"rlgen plot curves {folder}" in result.stdout
    assert f"rlgen play {folder}" in result.stdout
    assert "greedy return" in result.stdout


def test_the_train_summary_has_what_scripts_need(in_tmp):
    summary = answer("train", *AGENT)
    keys = "run_dir algorithm seed env_steps updates wall_s env_steps_per_s evaluation stop_reason"
    assert set(keys.split()) <= set(summary)
    assert {"mean", "std", "episodes"} <= set(summary["evaluation"])
    assert summary["algorithm"] == "q-learning" and summary["seed"] == 0
    stored = json.loads((Path(summary["run_dir"]) / "summary.json").read_text())
    assert stored == summary


def test_resume_goes_on_where_the_run_stood(tmp_path):
    arguments = ["q-learning-cliff", "stop.target=", "evaluation.episodes=2"]
    first = answer("train", *arguments, "stop.env_steps=1000", f"run.dir={tmp_path}")
    second = answer("resume", first["run_dir"], "stop.env_steps=2000")
    whole = answer("train", *arguments, "stop.env_steps=2000", f"run.dir={tmp_path}")
    assert second["run_dir"] == first["run_dir"] and second["env_steps"] == whole["env_steps"]
    weights = [Path(s["checkpoint"]) / "weights.safetensors" for s in (second, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_eval_of_an_agent_counts_episodes(agent_run):
    evaluation = answer("eval", agent_run, "--episodes", 3)
    assert evaluation["metric"] == "return" and evaluation["episodes"] == 3
    first, *others = rlgen("eval", agent_run, "--episodes", 3).stdout.splitlines()
    assert first.endswith(" over 3 episodes")
    assert [line.split()[0] for line in others] == ["min", "max", "length"]
    assert len({line.rindex(" ") for line in others}) == 1  # one below the other


def test_eval_of_a_model_takes_a_split(model_run):
    splits = ("test", "validation")
    test, validation = (answer("eval", model_run, "--quick", "--split", s) for s in splits)
    assert answer("eval", model_run, "--quick") == test
    assert test["mean"] != validation["mean"] and test["rows"] > 100


def test_eval_of_a_model_adds_its_dear_figures_with_errors(model_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("rlgen.generative.features._SEEN", 1000)  # a hasty classifier
    found = answer("eval", model_run, "--rows", 60)
    assert found.items() >= answer("eval", model_run, "--quick").items()
    figures = found["figures"]
    expected = "mmd sliced_wasserstein frechet precision recall code_accuracy"
    assert set(expected.split()) <= set(figures)
    for figure in figures.values():
        assert set(figure) == {"value", "low", "high", "note"}
        assert figure["low"] <= figure["value"] <= figure["high"]
    lines = rlgen("eval", model_run, "--rows", 60).stdout.splitlines()
    value, error = figures["recall"]["value"], figures["recall"]["high"]
    [line] = [line for line in lines if line.split()[0] == "recall"]
    assert float(line.split()[1]) == pytest.approx(value, abs=1e-2)
    assert float(line.split()[3]) == pytest.approx(error - value, rel=0.1)
    assert "(features, validation rows " in line
    assert lines[-1] == "  (each interval is of one standard error, where its note says no other)"
    few = answer("eval", model_run, "--rows", 29)
    assert "mmd" not in few["figures"] and "note" not in found
    assert few["note"] == "distances of samples to rows need 30 rows (--rows, data)"
    assert few["note"] in rlgen("eval", model_run, "--rows", 29).stdout


BAD = {
    "finite": ({"x": [[0, 1], [0, np.nan]] * 20}, "not nan in row 1, column 1"),
    "shape": ({"x": [1.0, 2.0]}, "found 'x' of shape (2,)"),
    "empty": ({"x": np.zeros((0, 4))}, "found 'x' of shape (0, 4)"),
    "too few": ({"x": np.zeros((2, 4))}, "has 2 rows; with 1 for validation and 1 for the test"),
    "label": ({"x": np.zeros((20, 4)), "y": [0, -1] * 10}, "has the label -1 in row 1"),
    "support": ({"x": [[0, 1], [0, 1], [2, 1], [-1, 0]] * 9}, "not 2 in row 2, column 0"),
}
OF_UNITS = ("rbm-digits", "bernoulli-mixture-digits", "stacked-autoencoder-digits", "dbn-digits")


@pytest.mark.parametrize(
    ("config", "mistake"),
    [*(("vae-digits", mistake) for mistake in BAD), *((config, "support") for config in OF_UNITS)],
)
def test_bad_data_are_refused_before_the_training(in_tmp, config, mistake):
    arrays, message = BAD[mistake]
    np.savez("bad.npz", **{name: np.array(rows) for name, rows in arrays.items()})
    refused(message, "train", config, "data={name: bad.npz}", "--quiet")
    assert [p.name for p in Path().iterdir()] == ["bad.npz"]  # not even a run's folder


@pytest.fixture(scope="module")
def chain_run(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("chain"), ["rbm-digits", "stop.epochs=1"])


def frames_of(path):
    with Image.open(path) as gif:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]


def test_walks_go_from_code_to_code(model_run, tmp_path):
    answer("sample", model_run, "-o", tmp_path / "walk.png", "--walk", "-n", 3, "--frames", 5)
    # Cells of 8 x 8 pixels and lines of one, seven times enlarged.
    assert Image.open(tmp_path / "walk.png").size == (7 * (5 * 9 + 1), 7 * (3 * 9 + 1))
    answer("sample", model_run, "-o", tmp_path / "walk.gif", "-n", 3, "--frames", 5)
    frames = frames_of(tmp_path / "walk.gif")
    assert len(frames) == 5 and (frames[0] != frames[4]).any()
    walks = load(model_run).walk(2, 9)
    assert walks.shape == (2, 9, 8, 8)
    steps = np.abs(np.diff(walks, axis=1)).max()
    assert 0 < steps < np.abs(walks[:, 0] - walks[:, -1]).max()
    refused("has learned none to walk within", "sample", model_run, "-o", tmp_path / "x.png",
            "--walk", "--label", 3)  # fmt: skip


@pytest.mark.parametrize("name", ["vae-digits", "gan-digits"])
def test_a_walk_of_a_model_with_labels_is_of_one_label(name, tmp_path):
    short = ["hyperparameters.conditional=true", "network.hidden=[8]", "stop.epochs=1"]
    if name == "gan-digits":
        short += ["hyperparameters.architecture=mlp"]
    run_dir = run_in(tmp_path, [name, *short])
    run, png = load(run_dir), tmp_path / "x.png"
    z = run.algorithm.prior(2)
    line = torch.lerp(z[[0]].expand(3, -1), z[[1]].expand(3, -1), torch.tensor([[0], [0.5], [1]]))
    told = run.algorithm.decode_labelled(line, torch.full((3,), 7))
    torch.manual_seed(0)
    walks = run.walk(12, 3)
    torch.manual_seed(0)
    seventh = run.walk(12, 3, label=7)
    same = [np.array_equal(a, b) for a, b in zip(walks, seventh, strict=True)]
    assert same == [walk == 7 for walk in range(12)]  # 0, 1, ..., 9, 0, 1
    run.algorithm.prior = lambda n: z
    np.testing.assert_allclose(run.walk(1, 3, label=7).reshape(3, -1), told.detach(), atol=1e-6)
    said = rlgen("sample", run_dir, "-o", png, "--walk", "-n", 3).stdout
    assert said == f"3 walks of 12 steps, of the labels 0, 1, 2, ... in turn in {png}\n"
    said = rlgen("sample", run_dir, "-o", png, "--walk", "-n", 1, "--label", 4).stdout
    assert said == f"1 walk of 12 steps, of label 4 in {png}\n"
    refused("there is no label 12", "sample", run_dir, "-o", png, "--walk", "--label", 12)


def test_a_chain_is_an_animation_of_its_states(chain_run, tmp_path):
    answer("sample", chain_run, "-o", tmp_path / "a.gif", "-n", 4, "--frames", 6, "--every", 3)
    assert len(frames_of(tmp_path / "a.gif")) == 6
    torch.manual_seed(0)
    every = load(chain_run).chain(4, 6)
    torch.manual_seed(0)
    third = load(chain_run).chain(4, 2, every=3)
    assert every.shape == (6, 4, 8, 8)
    np.testing.assert_array_equal(third, every[::3])


def test_a_chain_that_ends_is_shown_to_its_end(tmp_path):
    short = ["hyperparameters.steps=40", "hyperparameters.sampling_steps=40", "stop.epochs=1"]
    run_dir = run_in(tmp_path, ["ddpm-two-moons", "data.size=400", *short])
    run = load(run_dir)
    assert run.algorithm.chain_ends  # built here, which draws
    torch.manual_seed(0)
    states = run.chain(3, 99)
    assert states.shape == (41, 3, 2)  # all that there are
    torch.manual_seed(0)
    np.testing.assert_array_equal(run.chain(3, 5), states[::10])
    torch.manual_seed(0)
    np.testing.assert_array_equal(run.chain(3, 5, every=2), states[:10:2])
    answer("sample", run_dir, "-o", tmp_path / "a.gif", "-n", 9, "--frames", 5)
    first, *_, last = (frame < 200 for frame in frames_of(tmp_path / "a.gif"))
    assert (first != last).any()


def test_weights_of_another_network_are_refused(model_run, tmp_path):
    shutil.copytree(model_run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("latent: ", "latent: 1"))
    for asked in (["eval"], ["sample", "-o", tmp_path / "x.png"]):
        refused("weights, but VAE has", *asked, tmp_path / "run")


def test_models_without_codes_or_samples_say_so(tmp_path):
    gaussian = run_in(tmp_path, ["gaussian-digits"])
    refused("trained gaussian, which has no codes to walk between", "sample", gaussian, "--walk",
            "-o", tmp_path / "x.png")  # fmt: skip
    coder = run_in(tmp_path, ["autoencoder-digits", "stop.epochs=1"])
    refused("trained autoencoder, which does not sample", "sample", coder, "-o", tmp_path / "x.png")
    with pytest.raises(ConfigError, match="there is no label -1; the data has 10 labels"):
        load(gaussian).sample(2, label=-1)


def test_options_without_an_effect_on_samples_are_refused(model_run, chain_run, tmp_path):
    png, gif = tmp_path / "x.png", tmp_path / "x.gif"
    refused("--every: only a GIF of a sampling chain", "sample", model_run, "-o", gif, "--every", 2)
    refused("--every: only a GIF", "sample", chain_run, "-o", png, "--every", 2)
    refused("--frames: samples in a PNG have none", "sample", model_run, "-o", png, "--frames", 9)
    refused("--label: chains are of no label", "sample", chain_run, "-o", gif, "--label", 3)
    refused("this model learned none", "sample", model_run, "-o", png, "--label", 3)
    refused("there is no label 12; the data has 10", "sample", model_run, "-o", png, "--label", 12)


def test_sample_draws_a_picture_that_its_seed_repeats(model_run, tmp_path):
    drawn = answer("sample", model_run, "-o", tmp_path / "a.png", "-n", 5)
    assert drawn["file"] == str(tmp_path / "a.png") and drawn["count"] == 5
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) >= 8
    for name, seed in (("b", 0), ("c", 1)):
        answer("sample", model_run, "-o", tmp_path / f"{name}.png", "-n", 5, "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_rows_are_scored_with_the_error_of_their_mean():
    rows = {"metric": "elbo", "mean": -20.0, "std": 3.0, "rows": 101}
    assert display.score(rows) == "elbo -20.00 ± 0.30 (standard error) over 101 rows"
    rows |= {"std": math.inf}
    assert display.score(rows) == "elbo -20.00 over 101 rows"
    rows |= {"mean": -math.inf, "std": math.nan}
    impossible = "rows are impossible to the model, or it has diverged"
    assert display.score(rows) == f"elbo is -inf ({impossible}) over 101 rows"
    rows = {"metric": "accuracy", "mean": 0.9, "std": 0.3, "rows": 1}
    assert display.score(rows) == "accuracy 0.9000 over 1 row"


def test_one_episode_has_no_deviation():
    episodes = {"metric": "return", "mean": -8.0, "std": 0.0, "episodes": 1}
    assert display.score(episodes) == "greedy return -8.000 over 1 episode"
    episodes |= {"episodes": 2}
    said = "greedy return -8.000 ± 0.000 (standard deviation) over 2 episodes"
    assert display.score(episodes) == said


# --- progress -----------------------------------------------------------------------------------

PROGRESS = Progress(
    counters={"cycles": 9, "env_steps": 43_008, "updates": 84, "dropped": 0, "seconds": 24.1},
    rate=1790.4,
    fraction=0.43,
    seconds_left=31.6,
    latest={"entropy": 0.61234, "episode_return": 123.44},
    evaluation={"metric": "return", "mean": 500.0, "std": 0.0, "episodes": 20},
    present=1,
    time_share={
        "worker": {"waiting": 0.1, "environment": 0.5, "inference": 0.36, "process": 0.04},
        "learner": {"update": 0.1, "waiting": 0.9},
    },
)


SCORE = "greedy return 500.0 ± 0.0 (standard deviation) over 20 episodes"


def test_a_pipe_gets_few_plain_lines(capsys, monkeypatch):
    show = display.Display(load_experiment("q-learning-cliff"), Console(file=io.StringIO()))
    with show:
        show(PROGRESS)
        assert capsys.readouterr().out == ""  # not two seconds yet
        monkeypatch.setattr(display, "SECONDS_PER_LINE", 0.0)
        show(PROGRESS)
    assert capsys.readouterr().out == (
        "env_steps 43,008  updates 84  (43%)  1,790 env_steps/s  0:00:32 left  "
        "episode_return 123.4  entropy 0.6123  "
        f"evaluation: {SCORE}\n"
    )


def test_a_terminal_gets_a_live_picture(capsys):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with display.Display(load_experiment("q-learning-cliff"), console) as show:
        show(PROGRESS)
    seen = console.file.getvalue()
    assert "starting 1 worker (inline)" in seen  # before the first cycle
    assert "43%" in seen and "0:00:32 left" in seen and "1,790 env_steps/s" in seen
    assert (
        "evaluation: greedy return 500.0 ± 0.0 (standard deviation) over 20 episodes  target -8"
        in seen
    )
    assert "1 of 1 worker  worker: environment 50% inference 36% waiting 10%" in seen
    assert "learner: waiting 90% update 10%" in seen and "process" not in seen
    assert capsys.readouterr().out == ""


def test_the_live_picture_has_the_latest_returns_and_evaluations_as_sparklines():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    show = display.Display(load_experiment("impala-cartpole", ["scheduler.workers=3"]), console)
    with show:
        latest = {"lag_mean": 1.25, "lag_max": 3}  # one dict, as the scheduler's
        for mean in (0.0, 35.0, 70.0, 70.0):
            evaluation = PROGRESS.evaluation | {"mean": mean}
            latest["episode_return"] = 7.0 - mean / 10
            for _ in range(2):  # the same ones again
                show(replace(PROGRESS, latest=latest, evaluation=evaluation, present=2))
    seen = console.file.getvalue()
    assert "return █▅▁ 0" in seen
    assert "over 20 episodes  target 475  ▁▅██" in seen
    assert "2 of 3 workers  lag 1.25, at most 3" in seen
    assert "lag_mean" not in seen


def test_the_live_picture_is_drawn_while_figures_come_in():
    class First(str):
        def startswith(self, prefix):
            latest["second"] = 2.0
            return False

    latest = {First("first"): 1.0}
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    show = display.Display(load_experiment("impala-cartpole", []), console)
    show(replace(PROGRESS, latest=latest))
    console.print(show._picture())
    assert "first 1" in console.file.getvalue() and len(latest) == 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(32.4, "0:00:32 left"), (None, "time left unknown"), (1e18, "time left unknown")],
)
def test_the_time_left_is_told_where_it_is_known(seconds, said):
    assert display.time_left(replace(PROGRESS, seconds_left=seconds)) == said


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ([0.0, 1.0, 2.0, 7.0], "▁▂▃█"),
        ([3.0, 3.0], "▁▁"),
        ([1.0, math.nan, -math.inf, 2.0], "▁  █"),
        ([math.nan], " "),
        ([], ""),
    ],
)
def test_a_sparkline_is_as_high_as_its_values(values, blocks):
    assert display.sparkline(values) == blocks


@pytest.mark.parametrize("width", [100, 80, 40, 24])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width):
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    show = display.Display(load_experiment("q-learning-cliff"), console)
    show.progress = PROGRESS
    console.print(show._picture())
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("43% 0:00:32 left", "env_steps 43,008", "1,790 env_steps/s", "entropy 0.6123"):
        assert part in text, part
    assert "evaluation: greedy return 500.0 ± 0.0 (standard deviation) over 20 episodes" in text
    assert "q-learning-cliff" in text and "learner: waiting 90% update 10%" in text


def test_a_pipe_is_told_of_lost_workers(capsys, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_PER_LINE", 0.0)
    experiment = load_experiment("impala-cartpole", ["scheduler.workers=3"])
    with display.Display(experiment, Console(file=io.StringIO())) as show:
        show(replace(PROGRESS, present=2))
    assert "left  2 of 3 workers  episode_return" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing(terminal, capsys, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_PER_LINE", 0.0)
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with display.Display(load_experiment("q-learning-cliff"), console, quiet=True) as show:
        show(PROGRESS)
    assert (console.file.getvalue(), capsys.readouterr().out) == ("", "")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("target", f"reached the target: {SCORE} (target 475)"),
        ("converged", f"converged after 84 updates; {SCORE}"),
        ("interrupted", f"interrupted; {SCORE}"),
        (
            "env_steps",
            f"ended after 9,000 environment steps (stop.env_steps); {SCORE} (target 475 not "
            "reached)",
        ),
    ],
)
def test_the_end_is_said_in_words(reason, words):
    overrides = ["stop.env_steps=9000", "stop.target=475", "evaluation.every=100"]
    experiment = load_experiment("q-learning-cliff", overrides)
    summary = {"stop_reason": reason, "evaluation": PROGRESS.evaluation, "updates": 84}
    assert display.outcome(experiment, summary) == words


# --- mistakes -----------------------------------------------------------------------------------


def refused(message, *arguments):
    """A command that must fail with one short line that holds ``message``, and status 2."""
    result = rlgen(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("rlgen: ") and len(lines[0]) < 500, lines
    assert message in lines[0]


def write_idx(root):
    """A folder like MNIST's, whose training images are cut short."""
    (root / "mnist").mkdir(parents=True)
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (100, 28, 28))
    content = gzip.compress(header + bytes(5000))
    (root / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(content)
    return root


NOWHERE = "scheduler={backend: ray, address: '127.0.0.1:9'}"
MISTAKES = {
    "unknown config": ("did you mean 'q-learning-cliff'?", ["q-learning-clif"]),
    "unknown key": ("did you mean 'workers'?", [*AGENT, "scheduler.worker=2"]),
    "wrong type": (
        "workers: expected a positive integer, or 'auto' (got 'two')",
        [*AGENT, "scheduler.workers=two"],
    ),
    "out of range": ("hyperparameters.gamma: ", [*AGENT, "hyperparameters.gamma=2"]),
    "no workers": ("scheduler.workers: ", [*AGENT, "scheduler.workers=-1"]),
    "unknown environment": ("NoSuchThing-v0", [*AGENT, "env={id: NoSuchThing-v0}"]),
    "continuous actions": ("action", ["dqn-cartpole", "env.id=Pendulum-v1"]),
    "neither kind": (
        "hyperparameters.policy: input should be 'uniform' or a valid list (got 'greedy')",
        ["policy-evaluation-random-walk", "hyperparameters.policy=greedy"],
    ),
    "wrong item": (
        "hyperparameters.policy.1: input should be a valid integer",
        ["policy-evaluation-random-walk", "hyperparameters.policy=[0, left]"],
    ),
    "no model": ("CartPole-v1", [*PLANNER, "env={id: CartPole-v1}"]),
    "missing data": ("nowhere", ["vae-mnist", "data.root=nowhere"]),
    "no data root": ("RLGEN_DATA", ["vae-mnist"]),
    "no cluster": ("no Ray cluster could be used at '127.0.0.1:9'", [*AGENT, NOWHERE]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_line_and_writes_nothing(case, in_tmp, monkeypatch):
    monkeypatch.delenv("RLGEN_DATA", raising=False)
    message, arguments = MISTAKES[case]
    refused(message, "train", *arguments)
    assert list(in_tmp.iterdir()) == []


def test_a_space_that_prints_itself_on_several_lines_is_shown_on_one(in_tmp):
    pytest.importorskip("Box2D", reason="needs the extra box2d")
    refused("(8,), float32); use dqn", "train", *AGENT, "env={id: LunarLander-v3}")


def test_a_corrupt_data_file_is_named(in_tmp):
    root = write_idx(in_tmp / "data")
    refused("train-images-idx3-ubyte.gz", "train", "vae-mnist", f"data.root={root}")
    assert not (in_tmp / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_is_not_promised_where_there_is_none(in_tmp):
    refused("learner_gpus", "train", *MODEL, "scheduler.learner_gpus=1")
    assert list(in_tmp.iterdir()) == []


def test_a_mistake_is_also_an_answer_for_scripts(in_tmp):
    result = rlgen("train", "q-learning-clif", "--json")
    assert result.exit_code == 2
    assert "did you mean" in json.loads(result.stdout)["error"]


def test_debug_shows_the_traceback(in_tmp):
    result = rlgen("train", "q-learning-clif", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and "in read_config" in result.stderr


def test_an_unexpected_error_is_short_and_points_to_debug(in_tmp, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr("rlgen.config.load_experiment", broken)
    result = rlgen("train", *AGENT)
    assert result.exit_code == 1
    assert result.stderr == (
        "rlgen: ZeroDivisionError: by chance; run again with --debug to see where\n"
    )


def test_what_is_not_a_run_is_refused(in_tmp):
    for command in (["resume"], ["eval"], ["sample", "-o", "x.png"]):
        refused(
            "'nowhere' is no folder; give a run's folder, runs/NAME/RUN ('rlgen runs' lists them)",
            command[0], "nowhere", *command[1:],
        )  # fmt: skip
    assert list(in_tmp.iterdir()) == []


def test_of_a_folder_of_runs_the_latest_is_named(in_tmp):
    for name in ("b/20260101-000000-seed0", "a/20260102-000000-seed0", "a/20251231-000000-seed0"):
        write_run(in_tmp / "runs" / name)
    for folder, latest in {"runs": "a/20260102", "runs/b": "b/20260101"}.items():
        latest = f"the latest run in it is 'runs/{latest}-000000-seed0'"
        refused(f"{folder!r} is not a run: it has no config.yaml; {latest}", "eval", folder)


# --- runs ---------------------------------------------------------------------------------------


def test_runs_are_listed_with_what_they_have_come_to(in_tmp):
    assert rlgen("runs").stdout == "no runs in runs\n"  # there are none yet
    write_run(in_tmp / "runs/demo/r0")
    write_run(in_tmp / "runs/sweeps/other/trials/r1", ended=False)
    append(in_tmp / "runs/demo/r0", {"kind": "summary"}, {"kind": "train", "time": "now"})
    found = answer("runs")["runs"]
    assert [(run["run"], run["status"]) for run in found] == [
        ("runs/demo/r0", "env_steps"),
        ("runs/sweeps/other/trials/r1", "(broken off)"),
    ]
    assert found[0]["summary"]["env_steps"] == 400 and found[1]["summary"] == {}
    for where in ("runs/demo", "demo", "runs/demo/r0"):  # a folder, an experiment, a run
        assert [run["run"] for run in answer("runs", where)["runs"]] == ["runs/demo/r0"]
    said = rlgen("runs", "demo")
    assert said.stderr == "rlgen: runs/demo/r0: 1 damaged line of metrics.jsonl left out\n"
    assert said.stdout.splitlines()[1].split() == ["env_steps", "2", "2", "runs/demo/r0"]


def test_runs_that_are_not_there_or_damaged(in_tmp):
    run = write_run(in_tmp / "runs/demo/r0")
    refused("runs: 'dmo' is no folder; give one, or an experiment in runs/; did you mean 'demo'?",
            "runs", "dmo")  # fmt: skip
    refused("is no folder; give one", "runs", run / "config.yaml")
    (run / "config.yaml").write_text("a: [")
    said = rlgen("runs")
    assert (said.exit_code, said.stdout) == (0, "no runs in runs\n")
    assert "left out: runs/demo/r0/config.yaml: cannot be read" in said.stderr


def test_a_damaged_checkpoint_is_refused_and_left_alone(tmp_path):
    run = run_in(tmp_path, PLANNER)
    weights = next(run.rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    before = tree(tmp_path)
    refused("weights.safetensors", "resume", run, "stop.updates=9")
    refused("weights.safetensors", "eval", run)
    assert tree(tmp_path) == before


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path, agent_run):
    run = run_in(tmp_path, PLANNER)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(agent_run / "checkpoints", run / "checkpoints")
    before = tree(tmp_path)
    message = "a checkpoint of algorithm 'q-learning', not of 'value-iteration'"
    refused(message, "resume", run, "stop.updates=9")
    refused(message, "eval", run)
    assert tree(tmp_path) == before


def test_a_resumed_run_stays_the_same_experiment(agent_run):
    before = tree(agent_run)
    refused("seed: a resumed run may change scheduler, fault, stop", "resume", agent_run, "seed=4")
    refused("stop.env_steps: this run is already there", "resume", agent_run, "stop.target=")
    assert tree(agent_run) == before


def test_options_that_do_not_fit_the_run_are_refused(agent_run, model_run, in_tmp):
    refused("only models of data have samples", "sample", agent_run, "-o", "x.png")
    refused("trains in an environment", "eval", agent_run, "--split", "test")
    refused("trains on data", "eval", model_run, "--episodes", 3)
    refused("did you mean 'validation'?", "eval", model_run, "--split", "valid")
    refused("--rows: ", "eval", agent_run, "--rows", 10)
    refused("--quick: ", "eval", agent_run, "--quick")
    refused("--rows: ", "eval", model_run, "--quick", "--rows", 10)
    refused("ends in .png or .gif, got 'x.jpg'", "sample", model_run, "-o", "x.jpg")
    refused("there is no folder 'no'", "sample", model_run, "-o", "no/x.png")
    assert list(in_tmp.iterdir()) == []


def test_an_environment_that_raises_is_named(in_tmp):
    arguments = ["env={id: 'faulty_env:Faulty-v0', num_envs: 1, kwargs: {fault: raise}}"]
    arguments.append("fault.max_restarts=0")
    refused(
        "environment 'faulty_env:Faulty-v0' (seed ", "train", *AGENT, *arguments, "stop.target="
    )


# --- Ctrl-C -------------------------------------------------------------------------------------


class Started:
    """A training in a process of its own, and in a process group of its own."""

    def __init__(self, folder, *arguments):
        self.folder = folder
        self.mark = uuid.uuid4().hex  # in the environment of all its processes, Ray's too
        self.stderr = folder / "stderr.txt"
        environ = dict(os.environ, RLGEN_TEST=self.mark, PYTHONPATH=str(Path(__file__).parent))
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rlgen", "train", *arguments],
                cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True,
                start_new_session=True,
            )  # fmt: skip

    def interrupt(self):
        """What a terminal does on Ctrl-C: to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def terminate(self):
        """What a cluster does to a job that has to go."""
        self.process.send_signal(signal.SIGTERM)

    def wait_for(self, there):
        end = time.monotonic() + PATIENCE
        while not there():
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)

    def wait_for_training(self):
        """Until the first record is there."""
        self.wait_for(lambda: any(p.stat().st_size for p in self.folder.glob("runs/*/*/*.jsonl")))

    def end(self):
        """Wait for the end; the exit status and what was printed."""
        output, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output

    def processes(self):
        """The processes that it started and that still live."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environ.read_bytes():
                    found.append(environ.parent.name)
            except OSError:
                continue
        return found


@pytest.fixture
def start(in_tmp):
    """Start a training; it is ended whatever becomes of the test."""
    started = []

    def start(*arguments):
        started.append(Started(in_tmp, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()


ENDLESS = ["q-learning-cliff", "stop={seconds: 600}", "evaluation={every: 0, episodes: 2}"]
HANGING = [
    "q-learning-cliff", "stop={seconds: 600}", "evaluation={every: 0, episodes: 2}",
    "hyperparameters={gamma: 0.9}",
    "env={id: 'faulty_env:Faulty-v0', num_envs: 1, kwargs: {fault: hang, flag: hangs}}",
]  # fmt: skip


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_before_a_command_has_begun_is_quiet(ignored):
    code = (
        "import os, runpy, signal, sys\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if ignored else 'default_int_handler'})\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'rlgen.report': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "sys.argv = ['rlgen', '--version']\n"
        "runpy.run_module('rlgen', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if ignored:
        assert (done.returncode, done.stdout) == (0, f"rlgen {__version__}\n"), done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "rlgen: stopped\n")


def test_ctrl_c_between_import_and_command_is_quiet(monkeypatch, capfd):
    class Left(Exception):
        pass

    def leave(status):
        raise Left(status)

    def interrupted():
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(cli, "main", interrupted)
    monkeypatch.setattr(__main__.os, "_exit", leave)
    with pytest.raises(Left, match="130"):
        __main__.main()
    assert capfd.readouterr().err == "rlgen: stopped\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_leaves_a_checkpoint_that_goes_on(start):
    started = start(*ENDLESS)
    started.wait_for_training()
    started.interrupt()
    status, output = started.end()
    assert status == 130
    assert "finishing the cycle in hand; Ctrl-C again stops at once" in started.stderr.read_text()
    assert "Traceback" not in started.stderr.read_text()
    hint = output.splitlines()[-1]
    assert hint.startswith("resume with: rlgen resume ")
    run = started.folder / hint.rpartition(" ")[2]
    reached = json.loads((run / "summary.json").read_text())
    assert reached["stop_reason"] == "interrupted" and reached["env_steps"] > 0
    end = reached["env_steps"] + 1000
    more = answer("resume", run, f"stop.env_steps={end}")
    assert more["stop_reason"] == "env_steps"
    assert more["env_steps"] >= end > reached["env_steps"]
    assert more["updates"] > reached["updates"] and more["seconds"] > reached["seconds"]


def test_a_second_ctrl_c_stops_at_once(start):
    assert_second_stops(start(*HANGING))


def assert_second_stops(started):
    started.wait_for(lambda: (started.folder / "hangs").exists())
    started.interrupt()
    started.wait_for(lambda: "finishing the cycle" in started.stderr.read_text())
    started.interrupt()
    status, _ = started.end()
    assert status == 130
    first, last = started.stderr.read_text().splitlines()
    assert first.endswith("Ctrl-C again stops at once")
    assert last.startswith("rlgen: stopped at once; runs")


def assert_terminated(started):
    started.wait_for_training()
    started.terminate()
    status, output = started.end()
    assert status == 143
    said = started.stderr.read_text()
    assert "finishing the cycle in hand; SIGTERM again stops at once" in said
    assert "Traceback" not in said
    run = started.folder / output.splitlines()[-1].removeprefix("resume with: rlgen resume ")
    reached = json.loads((run / "summary.json").read_text())
    assert (reached["stop_reason"], reached["signal"]) == ("interrupted", "SIGTERM")
    assert Path(started.folder / reached["checkpoint"], "manifest.json").is_file()


def test_sigterm_leaves_a_checkpoint_and_exits_with_143(start):
    assert_terminated(start(*ENDLESS))


def test_a_second_sigterm_stops_at_once(start):
    started = start(*HANGING)
    started.wait_for(lambda: (started.folder / "hangs").exists())
    started.terminate()
    started.wait_for(lambda: "finishing the cycle" in started.stderr.read_text())
    started.terminate()
    assert started.end()[0] == 143
    assert "rlgen: stopped at once; runs" in started.stderr.read_text()


RAY = ["scheduler.backend=ray", "scheduler.workers=2"]
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")


@pytest.mark.slow
@needs_proc
def test_ctrl_c_on_ray_ends_every_process(start):
    started = start(*ENDLESS, *RAY)
    started.wait_for_training()
    assert len(started.processes()) > 4  # it does see Ray's
    started.interrupt()
    status, output = started.end()
    assert status == 130
    assert "resume with: rlgen resume " in output
    wait_until_none(started)


@pytest.mark.slow
@needs_proc
def test_sigterm_on_ray_leaves_a_checkpoint_and_no_process(start):
    started = start(*ENDLESS, *RAY)
    assert_terminated(started)
    wait_until_none(started)


@pytest.mark.slow
@needs_proc
def test_a_second_ctrl_c_on_ray_ends_every_process(start):
    started = start(*HANGING, *RAY)
    assert_second_stops(started)
    wait_until_none(started)


@pytest.mark.slow
@needs_proc
def test_ctrl_c_while_ray_starts_leaves_nothing(start):
    started = start(*ENDLESS, *RAY)
    started.wait_for(lambda: len(started.processes()) > 2)
    started.interrupt()
    assert started.end()[0] == 130
    said = started.stderr.read_text().splitlines()
    assert said[-1] == "rlgen: stopped before the training began" and len(said) <= 2, said
    assert not (started.folder / "runs").exists()
    wait_until_none(started)


def wait_until_none(started):
    end = time.monotonic() + 30
    while started.processes() and time.monotonic() < end:
        time.sleep(0.2)
    assert started.processes() == []
