"""The configuration: complete when resolved, and refused with a helpful word when it is wrong."""

import pytest
import yaml

from rlgen.config import (
    Experiment,
    config_names,
    load_experiment,
    parse_overrides,
    read_config,
    resolve_experiment,
    set_keys,
)
from rlgen.errors import ConfigError

AGENT = "q-learning-cliff"  # an environment, no network, sync only
PLANNER = "value-iteration-frozenlake"
MODEL = "vae-digits"
READY = [AGENT, PLANNER, MODEL, "rbm-digits", "dqn-cartpole", "a3c-cartpole"]


def test_the_ready_configurations_are_there():
    assert set(READY) <= set(config_names())


@pytest.mark.parametrize("name", config_names())
def test_a_ready_configuration_is_complete_when_resolved(name):
    experiment = load_experiment(name)
    stored = yaml.safe_load(yaml.safe_dump(experiment.dump()))
    assert resolve_experiment(stored) == experiment

    def check(section, fields):  # every default of every section is written down
        assert set(fields) == set(section)

    sections = {k: v for k, v in stored.items() if isinstance(v, dict)}
    assert {"hyperparameters", "scheduler", "stop", "evaluation", "checkpoint"} <= set(sections)
    for key, section in sections.items():
        check(section, type(getattr(experiment, key)).model_fields)
    assert {"name", "algorithm", "seed"} <= set(stored)


def test_a_ready_configuration_begins_with_a_comment():
    import importlib.resources

    folder = importlib.resources.files("rlgen.configs")
    for name in config_names():
        assert folder.joinpath(f"{name}.yaml").read_text().startswith("# "), name


def test_overrides_are_read_as_yaml_and_reach_their_section():
    overrides = ["seed=3", "scheduler.workers=2", "network.hidden=[32, 16]", "stop.epochs="]
    values = parse_overrides(overrides)
    assert values == {
        "seed": 3,
        "scheduler.workers": 2,
        "network.hidden": [32, 16],
        "stop.epochs": None,
    }
    experiment = load_experiment(MODEL, [*overrides, "stop.seconds=1.5"])
    assert (experiment.seed, experiment.scheduler.workers) == (3, 2)
    assert experiment.network.hidden == [32, 16]
    assert (experiment.stop.epochs, experiment.stop.seconds) == (None, 1.5)


def test_setting_keys_changes_a_copy():
    plain = {"a": {"b": 1, "c": 2}}
    assert set_keys(plain, {"a.b": 9, "d.e": 3}) == {"a": {"b": 9, "c": 2}, "d": {"e": 3}}
    assert plain == {"a": {"b": 1, "c": 2}}


def test_a_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in read_config(AGENT).items() if k != "name"}))
    assert load_experiment(str(path)) == load_experiment(AGENT, ["name=mine"])


@pytest.mark.parametrize("name", ["a", "7", "梯度 β=0.5, mine (2)", "dqn_v1.2+x@home-3"])
def test_names_are_of_any_language(name):
    assert load_experiment(AGENT, [f"name='{name}'"]).name == name


def test_an_experiment_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_experiment(AGENT).seed = 4


WRONG = {
    # Unknown.
    "unknown config": (
        "q-learning-clif",
        [],
        r"no configuration 'q-learning-clif'; did you mean 'q-learning-cliff'",
    ),
    "unknown file": ("nowhere.yaml", [], "no configuration file 'nowhere.yaml'"),
    "unknown section": (
        AGENT,
        ["schedule.workers=2"],
        r"schedule: unknown key; did you mean 'scheduler'",
    ),
    "unknown key": (
        AGENT,
        ["scheduler.worker=2"],
        r"scheduler\.worker: unknown key; did you mean 'workers'",
    ),
    "unknown hyper-parameter": (
        AGENT,
        ["hyperparameters.gama=0.9"],
        r"hyperparameters\.gama: unknown key; did you mean 'gamma'",
    ),
    "unknown algorithm": (
        AGENT,
        ["algorithm=q-lerning"],
        r"algorithm: there is no 'q-lerning'; did you mean 'q-learning'",
    ),
    "unknown module": (
        AGENT,
        ["algorithm=no_such_package:Agent"],
        "cannot be imported.*PYTHONPATH",
    ),
    "unknown class": (
        AGENT,
        ["algorithm=rlgen.errors:Agent"],
        "module 'rlgen.errors' has no class 'Agent'",
    ),
    "unknown choice": (
        AGENT,
        ["scheduler.backend=rai"],
        r"scheduler\.backend: .*'inline' or 'ray'.*'rai'",
    ),
    # Of the wrong type.
    "no key": (AGENT, ["=3"], "expected key=value"),
    "no value": (AGENT, ["seed"], "override 'seed': expected key=value"),
    "not yaml": (AGENT, ["seed=[1"], r"seed: '\[1' is not a YAML value"),
    "text for a number": (
        AGENT,
        ["scheduler.workers=many"],
        r"scheduler\.workers: .*integer.*'many'",
    ),
    "half a worker": (AGENT, ["scheduler.workers=1.5"], r"scheduler\.workers: .*integer.*1\.5"),
    "value for a section": (AGENT, ["scheduler=3"], r"scheduler: .*3"),
    "value for hyper-parameters": (
        AGENT,
        ["hyperparameters=3"],
        "hyperparameters: expected a section, got 3",
    ),
    "section of a value": (
        AGENT,
        ["algorithm.x=3"],
        r"algorithm\.x: 'algorithm' is a value, not a section",
    ),
    # Out of range.
    "workers": (
        AGENT,
        ["scheduler.workers=-1"],
        r"scheduler\.workers: .*greater than or equal to 1.*-1",
    ),
    "no workers": (
        AGENT,
        ["scheduler.workers=0"],
        r"scheduler\.workers: .*greater than or equal to 1",
    ),
    "seed": (AGENT, ["seed=-1"], r"seed: .*greater than or equal to 0"),
    "gamma": (AGENT, ["hyperparameters.gamma=1.5"], r"hyperparameters\.gamma: .*1\.5"),
    "not a number": (MODEL, ["stop.seconds=.nan"], r"stop\.seconds: .*finite"),
    "keep": (AGENT, ["checkpoint.keep=1"], r"checkpoint\.keep: .*greater than or equal to 2"),
    "name of a path": (AGENT, ["name=a/b"], r"name: expected letters, digits, .*\(got 'a/b'\)"),
    "name of a folder above": (AGENT, ["name=.."], r"name: expected letters, digits"),
    "name of two lines": (AGENT, ['name="a\\nb"'], r"name: expected letters, digits"),
    "name of nothing": (AGENT, ['name=""'], r"name: expected letters, digits"),
    # Contradictions.
    "environment for a model of data": (
        MODEL,
        ["env.id=CartPole-v1"],
        "env: vae has no use for this section",
    ),
    "data for an agent": (
        AGENT,
        ["data.name=digits"],
        "data: q-learning has no use for this section",
    ),
    "network for a table": (
        AGENT,
        ["network.hidden=[8]"],
        "network: q-learning has no use for this section",
    ),
    "no environment": (AGENT, ["env="], "env: missing; q-learning needs one"),
    "no data": (MODEL, ["data="], "data: missing; vae needs one"),
    "address inline": (
        AGENT,
        ["scheduler.address=auto"],
        "scheduler: address=auto needs backend=ray, not inline",
    ),
    "lag in step": (AGENT, ["scheduler.max_lag=4"], "scheduler: max_lag belongs to mode=async"),
    "async where order counts": (
        AGENT,
        ["scheduler.mode=async"],
        r"scheduler\.mode: q-learning runs only in mode sync",
    ),
    "target unseen": (
        AGENT,
        ["stop.target=1", "evaluation.every=0"],
        r"stop\.target: needs evaluation\.every",
    ),
    "no end": (MODEL, ["stop={}"], r"stop: give at least one condition"),
    "epochs of an environment": (
        AGENT,
        ["stop.epochs=3"],
        r"stop\.epochs: q-learning counts env_steps, not epochs",
    ),
    "steps of data": (
        MODEL,
        ["stop.env_steps=3"],
        r"stop\.env_steps: vae counts epochs, not env_steps",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_refused_by_name(case):
    name, overrides, message = WRONG[case]
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(name, overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
        ("env: {}\n", "algorithm"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_experiment(str(path))


def test_every_setting_of_the_schema_has_a_place_in_the_dump():
    left_out = {"data", "demonstrations"}
    assert set(load_experiment("dqn-cartpole").dump()) == set(Experiment.model_fields) - left_out
