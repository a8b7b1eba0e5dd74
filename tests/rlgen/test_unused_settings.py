"""A setting that would be ignored is refused."""

import pytest

from rlgen.config import load_experiment, resolve_experiment
from rlgen.errors import ConfigError
from rlgen.problem import load_problem


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("value-iteration-cliff", "env.num_envs=4", r"env.num_envs: value-iteration has no use"),
        ("value-iteration-cliff", "env.frame_stack=2", r"env.frame_stack: value-iteration has no"),
        (
            "q-learning-cliff",
            "env.normalize_observation=true",
            r"normalize_observation: q-learning",
        ),
        ("value-iteration-cliff", "env.observed=[0]", r"env.observed: value-iteration has no use"),
        ("a3c-cartpole", "network.memory=gru", r"network.memory: a3c has no use for it; remove"),
        ("a2c-cartpole", "network.memory_size=32", r"network: memory_size=32 needs memory=gru"),
        ("vae-digits", "network.torso=nature_cnn", r"network.torso: vae has no use for it"),
        ("vae-digits", "network.memory=lstm", r"network.memory: vae has no use for it"),
        ("vae-digits", "evaluation.episodes=5", r"evaluation.episodes: vae has no use"),
        ("vae-digits", "data.size=50", r"data.size: only for the densities"),
        ("vae-digits", "data.root=somewhere", r"data.root: only for data sets in IDX files"),
    ],
)
def test_it_is_refused(config, override, message):
    with pytest.raises(ConfigError, match=message):
        load_problem(load_experiment(config, [override]))


def test_a_resolved_configuration_is_not_refused_for_its_defaults():
    experiment = load_experiment("value-iteration-cliff")
    assert experiment.dump()["env"]["num_envs"] == 8

    assert resolve_experiment(experiment.dump()) == experiment
