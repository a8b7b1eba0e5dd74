"""``rlgen schema``: what editors know of a configuration is what rlgen accepts."""

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from rlgen import cli
from rlgen.config import config_names, read_config, set_keys, sweep_names
from rlgen.schema import experiment_schema


@pytest.fixture(scope="module")
def validator():
    made = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_every_ready_configuration_is_valid(validator):
    names = config_names() + sweep_names()
    assert len(names) > 80
    found = {n: [e.message for e in validator.iter_errors(read_config(n))] for n in names}
    assert {n: errors for n, errors in found.items() if errors} == {}


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("dqn-cartpole", {"hyperparameters.gama": 0.9}),  # misspelt
        ("dqn-cartpole", {"hyperparameters.gamma": 1.5}),  # out of range
        ("dqn-cartpole", {"hyperparameters.loss": "hubert"}),
        ("dqn-cartpole", {"hyperparameters.latent": 8}),  # another algorithm's
        ("dqn-cartpole", {"algorithm": "dqm"}),
        ("dqn-cartpole", {"env": None}),
        ("dqn-cartpole", {"data.name": "digits"}),  # a section of models
        ("dqn-cartpole", {"scheduler.backend": "threads"}),
        ("dqn-cartpole", {"stop.env_steps": 0}),
        ("dqn-cartpole", {"sceduler.workers": 2}),
        ("vae-digits", {"env.id": "CartPole-v1"}),
        ("q-learning-cliff", {"network.hidden": [8]}),
        ("sweep-vae-digits", {"search.space": {"seed": {"integers": [0, 1]}}}),
    ],
)
def test_what_rlgen_refuses_is_marked(validator, config, changes):
    assert not validator.is_valid(set_keys(read_config(config), changes))


def test_ones_own_algorithm_may_have_any_hyperparameters(validator):
    plain = {"algorithm": "mine:Mine", "hyperparameters": {"x": 1}, "stop": {"seconds": 1}}
    assert validator.is_valid(plain)


def test_names_are_explained(validator):
    dqn = validator.schema["$defs"]["hyperparameters of dqn"]["properties"]
    assert dqn["learning_rate"]["description"] == "of Adam, > 0"
    assert dqn["gamma"]["maximum"] == 1
    known = validator.schema["properties"]["algorithm"]["anyOf"][0]["oneOf"]
    assert {"const": "dqn", "description": known[[k["const"] for k in known].index("dqn")]
            ["description"]} in known  # fmt: skip
    assert all(entry["description"] for entry in known)


def test_the_command_writes_it_and_tells_the_line_for_the_editor(in_tmp):
    said = CliRunner().invoke(cli.app, ["schema", "-o", "rlgen.schema.json"])
    assert said.exit_code == 0
    line = f"# yaml-language-server: $schema={Path('rlgen.schema.json').absolute().as_uri()}"
    assert line in said.stdout
    assert json.loads(Path("rlgen.schema.json").read_text())["title"] == "rlgen configuration"
    said = CliRunner().invoke(cli.app, ["schema", "-o", "rlgen.yaml"])
    assert said.exit_code == 2
    assert "-o: expected a name that ends in .json" in said.stderr
