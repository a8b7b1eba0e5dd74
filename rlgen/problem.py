"""From an experiment to the algorithm that solves it: what every actor builds first."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rlgen import demonstrations, registry
from rlgen.algorithm import Algorithm, Problem
from rlgen.config import EnvConfig, Experiment
from rlgen.envs.mdp import load_mdp
from rlgen.envs.vector import Environments
from rlgen.errors import ConfigError
from rlgen.generative import data

#: Every role draws from a random stream of its own, derived from the experiment's seed.
ROLES = ("learner", "worker", "evaluator")


def role_seed(seed: int, role: str, index: int = 0, life: int = 0) -> int:
    """The seed of one actor's stream; ``life`` counts its restarts."""
    sequence = np.random.SeedSequence(seed, spawn_key=(ROLES.index(role), index, life))
    return int(sequence.generate_state(1, np.uint32)[0])


def load_problem(experiment: Experiment) -> Problem:
    """Open what the experiment names and describe it.

    Raises:
        ConfigError, DataError: it does not exist, or the algorithm cannot solve it.
    """
    algorithm = registry.resolve(experiment.algorithm)
    if experiment.data is not None:
        rows = data.load(experiment.data, experiment.seed)
        if algorithm.uses_text != bool(rows.vocabulary):
            needs = "texts: fables, or FILE.txt" if algorithm.uses_text else "numbers, not texts"
            raise ConfigError(
                f"data.name: {experiment.algorithm} models {needs} (got {experiment.data.name!r})"
            )
        problem = Problem(
            data_mean=rows.mean(),
            data_range=rows.range(),
            data_first=rows.first,
            data_shape=rows.shape,
            data_count=rows.count("train"),
            data_vocabulary=rows.vocabulary,
            data_classes=rows.classes,
            network=experiment.network,
        )
    else:
        assert experiment.env is not None  # the configuration has one of the two
        observation_space, action_space = probe(experiment.env)
        shown = None
        if experiment.demonstrations is not None:
            shown = demonstrations.load(experiment.demonstrations)
            name = experiment.demonstrations.path
            demonstrations.check_spaces(shown, name, observation_space, action_space)
        modelled = experiment.source == "model" or algorithm.uses_model
        problem = Problem(
            observation_space=observation_space,
            action_space=action_space,
            model=load_mdp(experiment.env) if modelled else None,
            network=experiment.network,
            normalize_observation=experiment.env.normalize_observation,
            demonstrations=shown,
        )
    algorithm.check(problem)
    return problem


def probe(config: EnvConfig) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The observation and action space of one environment, as `Environments` gives them.

    Raises:
        ConfigError: as `Environments`.
    """
    environments = Environments(config, 1, seed=0)
    environments.close()
    return environments.observation_space, environments.action_space


def build(experiment: Experiment, seed: int) -> Algorithm:
    """The experiment's algorithm, for one actor with the given seed."""
    algorithm = registry.resolve(experiment.algorithm)
    built: Algorithm = algorithm(
        experiment.hyperparameters, load_problem(experiment), np.random.default_rng(seed)
    )
    return built
