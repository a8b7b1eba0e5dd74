"""``rlgen new``: skeletons that work as they are written, and whose tests find broken updates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlgen import cli
from rlgen.errors import ConfigError
from rlgen.new import Kind, camel, write

#: What the tests of the skeletons must find, by a word that only the update rule has.
BROKEN = {
    "agent": ("+= self.config.learning_rate * td_error", "-= self.config.learning_rate * td_error"),
    "env": ("1 if right else -1", "1 if right else 0"),
    "model": ("        self.optimizer.step()\n", ""),
}
TINY = {
    "agent": ["stop.env_steps=200"],
    "env": ["stop.env_steps=200", "evaluation.every=0", "evaluation.episodes=2"],
    "model": ["stop.epochs=1"],
}


def rlgen(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def run_in(folder, *command):
    """A command in a folder, whose own modules are found only because it is run there."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=500
    )


def script(*arguments):
    return str(Path(sys.executable).with_name("rlgen")), *arguments


def test_it_writes_and_says_what_to_do_next(in_tmp):
    said = rlgen("new", "env", "my_world", "-o", "worlds")
    assert said.exit_code == 0
    assert said.stdout.splitlines() == [
        "worlds/my_world.py",
        "worlds/test_my_world.py",
        "worlds/my_world.yaml",
        "next:",
        "  cd worlds",
        "  rlgen train my_world.yaml",
        "  python -m pytest test_my_world.py",
        "then change my_world.py; what it may fill in is in docs/extending.md",
    ]
    text = Path("worlds/my_world.py").read_text()
    assert 'id="MyWorld-v0", entry_point="my_world:MyWorld"' in text
    assert json.loads(rlgen("new", "model", "x", "--json").stdout)["files"][0] == "x.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-agent", "letters, digits and underscores, such as 'my_agent'; got 'my-agent'"),
        ("2d", "letters, digits and underscores; got '2d'"),
        ("class", "got 'class'"),
        ("../up", "such as 'up'"),
        ("_1", "no letter"),
        ("random", "Python's own"),
        ("test_me", "a test's name"),
        ("numpy", "installed already"),
    ],
)
def test_names_that_cannot_be_a_module_are_refused(in_tmp, name, message):
    said = rlgen("new", "agent", name)
    assert said.exit_code == 2
    assert message in said.stderr
    assert list(in_tmp.iterdir()) == []


def test_existing_files_are_kept_unless_forced(in_tmp):
    Path("mine.yaml").write_text("mine")
    said = rlgen("new", "agent", "mine")
    assert said.exit_code == 2
    assert "there is mine.yaml already; give another name or folder (-o), or --force" in said.stderr
    assert Path("mine.yaml").read_text() == "mine"
    assert not Path("mine.py").exists()
    assert rlgen("new", "agent", "mine", "--force").exit_code == 0
    assert rlgen("new", "agent", "mine", "--force").exit_code == 0  # its own module is no stranger
    assert Path("mine.yaml").read_text() != "mine"


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="-o: cannot write to .*file"):
        write(Kind.agent, "mine", tmp_path / "file")


def test_classes_are_called_as_is_usual():
    assert [camel(n) for n in ("my_agent", "dqn2", "myAgent")] == ["MyAgent", "Dqn2", "MyAgent"]


@pytest.mark.parametrize(
    "kind", [Kind.agent, *(pytest.param(k, marks=pytest.mark.slow) for k in list(Kind)[1:])]
)
def test_a_skeleton_trains_at_once_by_the_installed_command(kind, tmp_path):
    write(kind, f"own_{kind}", tmp_path)
    said = run_in(tmp_path, *script("train", f"own_{kind}.yaml", "--json", *TINY[kind]))
    assert said.returncode == 0, said.stderr
    run_dir = json.loads(said.stdout)["run_dir"]
    assert run_dir.startswith(f"runs/own_{kind}/")
    if kind is Kind.agent:
        again = run_in(tmp_path, *script("eval", run_dir, "--episodes", "1"))
        assert again.returncode == 0, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Kind))
def test_a_skeleton_passes_its_own_test_and_fails_it_when_broken(kind, tmp_path):
    code, *_ = write(kind, f"own_{kind}", tmp_path)
    tests = (sys.executable, "-m", "pytest", "-q", f"test_own_{kind}.py")
    passed = run_in(tmp_path, *tests)
    assert passed.returncode == 0, passed.stdout
    right, wrong = BROKEN[kind]
    assert right in code.read_text()
    code.write_text(code.read_text().replace(right, wrong))
    failed = run_in(tmp_path, *tests)
    assert failed.returncode == 1, failed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(Kind))
def test_a_skeleton_trains_on_ray_too(kind, tmp_path):
    write(kind, f"own_{kind}", tmp_path)
    ray = ["scheduler.backend=ray", "scheduler.workers=2"]
    said = run_in(tmp_path, *script("train", f"own_{kind}.yaml", "--json", *TINY[kind], *ray))
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("kind", list(Kind))
def test_skeletons_are_tidy(kind, tmp_path):
    write(kind, f"own_{kind}", tmp_path)
    config = Path(__file__).parents[2] / "pyproject.toml"
    names = [f"own_{kind}.py", f"test_own_{kind}.py"]
    rules = ["--config", str(config), "--ignore", "D1,I001,E501"]
    said = run_in(tmp_path, sys.executable, "-m", "ruff", "check", "--no-cache", *rules, *names)
    assert said.returncode == 0, said.stdout
    assert all(len(line) <= 100 for n in names for line in (tmp_path / n).read_text().splitlines())
