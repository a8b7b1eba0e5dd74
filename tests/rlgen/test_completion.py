"""What a shell completes, and what the help of every command shows."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from rlgen import cli, outline, registry
from rlgen.config import Hyperparameters
from rlgen.examples import EXAMPLES, PANELS


def completed(*words):
    """What bash would be offered for the last of the words."""
    words = ["rlgen", *words]
    env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(
        cli.app, [], prog_name="rlgen", env={**env, "_RLGEN_COMPLETE": "complete_bash"}
    )
    return result.stdout.split()


@pytest.fixture
def run(in_tmp):
    """A folder like a run's."""
    path = Path("runs/dqn-cartpole/one")
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("algorithm: dqn\n")
    return path


def test_configurations(in_tmp):
    Path("dqn-mine.yaml").write_text("")
    assert completed("train", "dqn-c") == ["dqn-cartpole"]
    assert "dqn-mine.yaml" in completed("train", "dqn-")
    assert "vae-digits" in completed("show", "")


def test_runs(run, tmp_path):
    assert completed("eval", "") == [str(run)]
    assert completed("resume", "runs/dqn") == [str(run)]
    assert completed("plot", "values", f"{tmp_path}/runs/d") == [str(tmp_path / run)]


def test_overrides(run):
    assert completed("train", "dqn-cartpole", "see") == ["seed="]
    assert completed("train", "dqn-cartpole", "hyperparameters.dou") == ["hyperparameters.double="]
    assert completed("train", "vae-digits", "hyperparameters.dou") == []
    assert completed("resume", str(run), "stop.env") == ["stop.env_steps="]
    assert completed("resume", str(run), "hyper") == []  # it would be another experiment


def test_files_with_mistakes_cost_only_their_own_completions(run, in_tmp, monkeypatch):
    monkeypatch.syspath_prepend(str(in_tmp))
    Path("half_written.py").write_text("class (:\n")
    Path("mine.yaml").write_text("algorithm: half_written:Mine\n")
    assert completed("train", "mine.yaml", "see") == ["seed="]
    (run / "config.yaml").write_text("- no mapping\n")
    assert completed("resume", str(run), "stop.env") == ["stop.env_steps="]


@pytest.mark.parametrize(
    "words",
    [["scheduler.backend=r"], ["scheduler.backend", "=", "r"], ["seed=1", "scheduler.backend=r"]],
)
def test_values(words):
    expected = "ray" if "=" in words else "scheduler.backend=ray"  # bash cuts at '='
    assert completed("train", "dqn-cartpole", *words) == [expected]


def test_values_of_hyperparameters():
    name = "hyperparameters.loss"
    assert completed("train", "dqn-cartpole", f"{name}=") == [f"{name}=squared", f"{name}=huber"]
    assert completed("train", "dqn-cartpole", "hyperparameters.double", "=") == ["false", "true"]


def test_it_imports_nothing_heavy():
    code = (
        "import sys\nfrom rlgen import cli, completion\n"
        "completion.configs(''); completion.runs('')\n"
        "class Context: params = {'config': 'dqn-cartpole'}\n"
        "assert completion.overrides(Context, 'hyper')\n"
        "print([m for m in ('torch', 'ray', 'gymnasium', 'matplotlib') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr


@pytest.mark.parametrize("name", sorted(registry.AGENTS | registry.MODELS))
def test_the_outline_of_the_source_is_what_the_class_has(name):
    found = outline.settings((registry.AGENTS | registry.MODELS)[name])
    config = registry.resolve(name).Config
    assert issubclass(config, Hyperparameters)
    assert set(found) == set(config.model_fields)
    assert outline.describe((registry.AGENTS | registry.MODELS)[name])[:9] != "(missing:"


def commands():
    """Every command by its words."""
    for name, command in get_command(cli.app).commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {other}", c) for other, c in inner.items())


def test_every_command_has_a_panel_and_examples():
    found = dict(commands())
    assert set(found) == set(EXAMPLES)
    assert {name.partition(" ")[0] for name in found} == set(PANELS)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_examples_are_commands_that_there_are(name):
    found = dict(commands())
    for example in EXAMPLES[name]:
        program, *words = shlex.split(example)
        assert program == "rlgen"
        given = words[len(name.split()) :]
        assert words[: len(name.split())] == name.split()
        found[name].make_context(name, given)  # raises where an argument or an option is wrong


@pytest.mark.parametrize("name", ["", *sorted(EXAMPLES)])
def test_help_fits_into_80_columns(name):
    environ = os.environ | {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "NO_COLOR": "1"}
    said = CliRunner().invoke(cli.app, [*name.split(), "--help"], env=environ)
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    if name:
        joined = " ".join(said.stdout.split())
        assert " ".join(EXAMPLES[name][0].split()) in joined
