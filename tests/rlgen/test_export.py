"""``rlgen export``: what is written computes what the run does, and its card says how."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import httpx
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import load_file
from typer.testing import CliRunner

import rlgen
from rlgen import card, cli, export
from rlgen.errors import ConfigError
from rlgen.export import Format
from rlgen.rollout import act
from rlgen.rundir import read_versions


class Shifted(gym.Env):
    """Observations 3..5, actions 7..8, which are rewarded by the observation's parity."""

    observation_space = gym.spaces.Discrete(3, start=3)
    action_space = gym.spaces.Discrete(2, start=7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 3
        return self.state, {}

    def step(self, action):
        reward = float(action == 7 + self.state % 2)
        self.state = int(self.np_random.integers(3, 6))
        return self.state, reward, False, bool(self.np_random.random() < 0.2), {}


gym.register("ShiftedExport-v0", entry_point=Shifted)

RUNS = {
    "dqn": ("dqn-cartpole", {"stop.env_steps": 200, "evaluation.every": 0}),
    "ppo": (
        "ppo-pendulum",
        {"stop.env_steps": 256, "evaluation.every": 0, "hyperparameters.rollout_steps": 32},
    ),
    "q-learning": ("q-learning-cliff", {"stop.env_steps": 500}),
    "vae": ("vae-digits", {"stop.epochs": 1}),
    "rbm": ("rbm-digits", {"stop.epochs": 1}),
    "gaussian": ("gaussian-digits", {}),
    "ddpm": (
        "ddpm-two-moons",
        {"stop.epochs": 1, "hyperparameters.steps": 20, "hyperparameters.sampling_steps": 4},
    ),
    "seen in part": (
        "dqn-cartpole",
        {
            "stop.env_steps": 200,
            "evaluation.every": 0,
            "env.observed": [0, 2],
            "env.frame_stack": 3,
        },
    ),
    "shifted": (
        "dqn-cartpole",
        {"env.id": "ShiftedExport-v0", "stop.env_steps": 1500, "evaluation.every": 0},
    ),
    "async": ("a3c-cartpole", {"stop.env_steps": 200, "evaluation.every": 0}),
    "memory": ("ppo-masked-cartpole", {"stop.env_steps": 200, "evaluation.every": 0}),
    "text": ("ngram-fables", {"stop.epochs": 1}),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Small runs, each trained when it is first asked for."""
    made = {}

    def get(name, overrides=None, **changes):
        overrides = overrides or {}
        key = (name, *overrides.items(), *changes.items())
        if key not in made:
            config, own = RUNS[name]
            folder = {"run.dir": str(tmp_path_factory.getbasetemp() / "runs")}
            if "evaluation.every" in own:
                folder |= {"evaluation.episodes": 2, "stop.target": None}
                folder |= {"stop.target_evaluations": 1}
            made[key] = rlgen.train(config, own | folder | overrides, **changes)
        return made[key]

    return get


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def observations(run, n):
    space = run.algorithm.problem.observation_space
    space.seed(7)
    return np.stack([space.sample() for _ in range(n)])


def snippet(folder):
    """The code on a card."""
    return re.search(r"```python\n(.*?)```", (folder / export.CARD).read_text(), re.DOTALL).group(1)


def test_weights_by_name_load_as_the_card_says(run_of, tmp_path, monkeypatch):
    run = run_of("dqn")
    files = export.write(run, tmp_path / "out", Format.safetensors)
    assert [path.name for path in files] == ["weights.safetensors", "config.yaml", "README.md"]
    stored = load_file(files[0])
    assert stored.keys() == dict(run.algorithm.network.state_dict()).keys()
    monkeypatch.chdir(tmp_path / "out")
    Path("load.py").write_text(snippet(tmp_path / "out"))
    loaded = runpy.run_path("load.py")["algorithm"]
    rows = torch.from_numpy(observations(run, 20))
    assert torch.equal(loaded.network(rows), run.algorithm.network(rows))


def test_a_table_is_one_array(run_of, tmp_path, monkeypatch):
    run = run_of("q-learning")
    export.write(run, tmp_path, Format.safetensors)
    monkeypatch.chdir(tmp_path)
    Path("load.py").write_text(snippet(tmp_path))
    loaded = runpy.run_path("load.py")
    np.testing.assert_array_equal(loaded["table"], run.algorithm.table)
    np.testing.assert_array_equal(loaded["algorithm"].table, run.algorithm.table)


@pytest.mark.parametrize("name", ["dqn", "ppo", "q-learning", "seen in part", "memory", "shifted"])
def test_the_weights_of_an_agent_act_as_the_card_says(name, run_of, tmp_path, monkeypatch, capsys):
    export.write(run_of(name), tmp_path, Format.safetensors)
    monkeypatch.chdir(tmp_path)
    Path("load.py").write_text(snippet(tmp_path))
    loaded = runpy.run_path("load.py")
    rows = loaded["observations"]
    expected = act(run_of(name).algorithm, rows, np.ones(1, np.bool_), greedy=True)["action"]
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("name", ["vae", "gaussian", "ddpm", "text"])
def test_the_weights_of_a_model_sample_as_the_card_says(
    name, run_of, tmp_path, monkeypatch, capsys
):
    export.write(run_of(name), tmp_path, Format.safetensors)
    monkeypatch.chdir(tmp_path)
    Path("load.py").write_text(snippet(tmp_path))
    loaded = runpy.run_path("load.py")["algorithm"]
    assert capsys.readouterr().out.startswith("tensor([[")
    want, got = (getattr(a, a.shared) for a in (run_of(name).algorithm, loaded))
    if isinstance(want, np.ndarray):
        np.testing.assert_array_equal(got, want)
    else:
        got = got.state_dict()
        assert all(torch.equal(got[key], value) for key, value in want.state_dict().items())


def test_an_agents_torchscript_acts_as_the_run(run_of, tmp_path):
    run = run_of("dqn")
    export.write(run, tmp_path, Format.torchscript)
    rows = observations(run, 50)
    expected = [run.act(row) for row in rows]
    policy = torch.jit.load(tmp_path / "policy.pt")
    assert policy(torch.from_numpy(rows)).tolist() == expected
    assert len(set(expected)) == 2  # both actions are looked at


@pytest.mark.parametrize("changes", [{}, {"env.frame_stack": 2}])
@pytest.mark.parametrize(
    "format_", [Format.torchscript, pytest.param(Format.onnx, marks=pytest.mark.slow)]
)
def test_a_function_speaks_the_environments_own_numbers(changes, format_, run_of, tmp_path):
    run = run_of("shifted", overrides=changes)
    export.write(run, tmp_path, format_)
    rows = np.array([[3, 3], [3, 4], [4, 3], [4, 4], [4, 5], [5, 4], [5, 5]])
    rows = rows if changes else rows[:, 1]
    expected = [run.act(row) for row in rows]
    assert set(expected) == {7, 8}
    if format_ is Format.onnx:
        from onnx.reference import ReferenceEvaluator

        (got,) = ReferenceEvaluator(str(tmp_path / "policy.onnx")).run(None, {"observation": rows})
    else:
        got = torch.jit.load(tmp_path / "policy.pt")(torch.from_numpy(rows))
    assert got.tolist() == expected


def test_normalisation_and_bounds_are_inside(run_of, tmp_path):
    run = run_of("ppo")
    with torch.no_grad():
        encoder, head = run.algorithm.network.encoder, run.algorithm.network.policy
        assert encoder.normalize
        encoder.mean.fill_(0.5)  # something that cannot be left out
        encoder.scale.fill_(3.0)
        head[-1].weight.mul_(30.0)  # such that actions reach the bounds
    export.write(run, tmp_path, Format.torchscript)
    rows = observations(run, 50)
    expected = np.stack([run.act(row) for row in rows])
    got = torch.jit.load(tmp_path / "policy.pt")(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(expected).max() == 2.0  # the bound of the pendulum
    assert np.abs(expected).min() < 2.0


def test_a_models_torchscript_decodes_as_the_run(run_of, tmp_path):
    run = run_of("vae")
    export.write(run, tmp_path, Format.torchscript)
    codes = run.algorithm.prior(5)
    with torch.no_grad():
        expected = run.algorithm.decode(codes)
    torch.testing.assert_close(torch.jit.load(tmp_path / "decoder.pt")(codes), expected)


def in_a_process_without_rlgen(folder):
    """Run the code of the card where rlgen cannot be imported; what it prints."""
    code = "import sys; sys.modules['rlgen'] = None\n" + snippet(folder)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_torchscript_needs_no_rlgen(run_of, tmp_path):
    export.write(run_of("dqn"), tmp_path, Format.torchscript)
    action = run_of("dqn").act(np.zeros(4, np.float32))
    assert in_a_process_without_rlgen(tmp_path) == f"tensor([{action}])\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dqn", "ppo", "vae", "rbm"])
def test_onnx_computes_what_the_run_does(name, run_of, tmp_path):
    from onnx.reference import ReferenceEvaluator

    run = run_of(name)
    export.write(run, tmp_path, Format.onnx)
    if name in ("dqn", "ppo"):
        rows = observations(run, 13)
        expected = np.stack([run.act(row) for row in rows])
        model = ReferenceEvaluator(str(tmp_path / "policy.onnx"))
        (got,) = model.run(None, {"observation": rows})
    else:
        codes = torch.rand(13, export.function_of(run)[1].shape[1])
        with torch.no_grad():
            expected = run.algorithm.decode(codes).numpy()
        model = ReferenceEvaluator(str(tmp_path / "decoder.onnx"))
        (got,) = model.run(None, {"code": codes.numpy()})
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert in_a_process_without_rlgen(tmp_path)


def test_a_function_that_is_not_the_runs_is_not_written(run_of, tmp_path, monkeypatch):
    def wrong(function, rows, path):
        path.write_text("")
        return lambda x: function(x) + 1

    monkeypatch.setattr(export, "_to_torchscript", wrong)
    with pytest.raises(ConfigError, match="does not compute what the run does"):
        export.write(run_of("dqn"), tmp_path / "out", Format.torchscript)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("q-learning", "q-learning learned a table, no network"),
        ("gaussian", "gaussian makes rows by random draws"),
        ("ddpm", "ddpm makes rows by a chain of many steps"),
        ("memory", "has a memory \\((lstm|gru)\\)"),
        ("text", "learned arrays, no network"),
    ],
)
def test_what_is_no_function_is_refused_with_the_reason(name, reason, run_of, tmp_path):
    for format_ in (Format.torchscript, Format.onnx):
        with pytest.raises(ConfigError, match=f"{reason}.*--format safetensors"):
            export.write(run_of(name), tmp_path / "out", format_)
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_how_and_how_well(run_of, tmp_path):
    run, other = run_of("dqn"), run_of("dqn", seed=1)
    export.write(run, tmp_path, Format.safetensors)
    text = (tmp_path / export.CARD).read_text()
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["library_name"] == "rlgen"
    assert about["pipeline_tag"] == "reinforcement-learning"
    assert "CartPole-v1" in about["tags"]
    assert "license" not in about  # the user's to choose
    last = run.summary["evaluation"]
    (result,) = about["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(last["mean"])
    half = 12.7062 * last["std"]  # Student's t of one degree of freedom, and sqrt(2 - 1)
    (own, seeds) = card.figures(run)
    assert own[1:4] == pytest.approx((last["mean"], last["mean"] - half, last["mean"] + half), 1e-4)
    means = [r.summary["evaluation"]["mean"] for r in (run, other)]
    assert seeds[1] == pytest.approx(np.mean(means))
    assert seeds[4] == "2 seeds of this experiment"
    assert f"| return | {last['mean']:.5g} |" in body
    assert f"torch {torch.__version__}" in body
    assert "env steps: " in body


def test_the_card_says_whether_a_run_can_be_repeated_to_the_bit(run_of, tmp_path):
    for name in ("dqn", "async"):
        export.write(run_of(name), tmp_path / name, Format.safetensors)
    exact, other = ((tmp_path / name / export.CARD).read_text() for name in ("dqn", "async"))
    assert "`rlgen train config.yaml` does it again.\n" in exact
    assert "does it again, but not to the bit: asynchronous workers" in other


def test_the_card_says_which_observations_a_policy_takes(run_of, tmp_path):
    for name in ("dqn", "seen in part"):
        export.write(run_of(name), tmp_path / name, Format.torchscript)
    whole, part = (
        " ".join((tmp_path / name / export.CARD).read_text().split())
        for name in ("dqn", "seen in part")
    )
    assert "`(n, 4)` of float32, as the environment gives them: normalisation" in whole
    assert (
        "`(n, 3, 2)` of float32, as the environment gives them, of which only the components 0, 2, "
        "each the latest 3 of its episode, the oldest first: normalisation" in part
    )


def test_no_path_of_this_machine_is_given_away(run_of, tmp_path):
    plain = run_of("vae").experiment.dump()
    plain["data"] |= {"name": str(tmp_path / "mine.npz"), "root": str(tmp_path)}
    assert str(tmp_path) not in yaml.safe_dump(export.portable(plain))
    export.write(run_of("vae"), tmp_path / "out", Format.safetensors)
    machine = read_versions(run_of("vae").dir)["machine"]
    for name in (export.CONFIG, export.CARD):
        written = (tmp_path / "out" / name).read_text()
        assert str(run_of("vae").dir.parent) not in written and machine not in written


def test_the_command_and_its_refusals(run_of, tmp_path):
    run, out = run_of("dqn").dir, tmp_path / "out"
    said = command("export", run, "-o", out, "--json")
    assert said.exit_code == 0, said.stderr
    assert len(json.loads(said.stdout)["files"]) == 3
    again = command("export", run, "-o", out)
    assert again.exit_code == 2
    assert "has weights.safetensors, config.yaml, README.md already" in again.stderr
    assert command("export", run, "-o", out, "--force").exit_code == 0
    said = command("export", tmp_path, "-o", tmp_path / "x")
    assert "is not a run" in said.stderr
    assert not (tmp_path / "x").exists()
    said = command("export", run, "-o", tmp_path / "x", "--format", "tflite")
    assert said.exit_code == 2
    said = command("export", run, "-o", tmp_path / "x", "--push", "no/such/name")
    assert "--push: expected USER/REPO" in said.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("options", "package", "line"),
    [
        (["--format", "onnx"], "onnxscript", "pip install 'rlgen[onnx]'"),
        (["--push", "ada/x"], "huggingface_hub", "pip install 'rlgen[hub]'"),
    ],
)
def test_a_missing_extra_is_one_message(options, package, line, tmp_path, monkeypatch):
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    said = command("export", tmp_path, "-o", tmp_path / "x", *options)
    assert said.exit_code == 2
    assert f"needs {package}, which is missing; {line}" in said.stderr


class Hub:
    """What `HfApi` is asked for."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo, **options):
        self.calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, **options):
        self.calls.append(options)


def test_a_push_uploads_what_was_written_and_no_more(run_of, tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    (tmp_path / "diary.txt").write_text("mine")
    said = command("export", run_of("dqn").dir, "-o", tmp_path, "--push", "ada/cart", "--json")
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["url"] == "https://huggingface.co/ada/cart"
    created, uploaded = hub.calls
    assert created == ("ada/cart", {"private": True, "exist_ok": True})
    assert uploaded["repo_id"] == "ada/cart"
    assert uploaded["folder_path"] == tmp_path
    assert uploaded["allow_patterns"] == ["weights.safetensors", "config.yaml", "README.md"]


REQUEST = httpx.Request("POST", "https://huggingface.co/api/repos/create")


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (httpx.ConnectError("no"), "ConnectError"),
        (HfHubHTTPError("no", response=httpx.Response(401, request=REQUEST)), "HfHubHTTPError 401"),
    ],
)
def test_a_hub_that_gives_nothing_is_one_message(error, name, run_of, tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(self, *args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    said = command("export", run_of("dqn").dir, "-o", tmp_path, "--push", "ada/cart")
    assert said.exit_code == 2
    assert f"--push: 'ada/cart' could not be uploaded ({name})" in said.stderr
    assert (tmp_path / "weights.safetensors").is_file()  # what was written stays


@pytest.mark.slow
def test_offline_is_one_message(run_of, tmp_path):
    environ = os.environ | {"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_secret"}
    arguments = ["export", run_of("dqn").dir, "-o", tmp_path, "--push", "ada/cart"]
    said = subprocess.run(
        [sys.executable, "-m", "rlgen", *map(str, arguments)],
        env=environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert said.returncode == 2
    assert said.stderr.count("rlgen: ") == 1
    assert "could not be uploaded (OfflineModeIsEnabled)" in said.stderr
    assert "hf_secret" not in said.stdout + said.stderr
