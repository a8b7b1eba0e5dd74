"""The fastest vector environment of a configuration."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlgen.config import EnvConfig
from rlgen.envs.blackjack import blackjack_of
from rlgen.envs.mdp import MDPVectorEnv, outcomes_of
from rlgen.envs.single import (
    accepts,
    check_kwargs,
    creator,
    explained,
    find_spec,
    make_single,
)

# Vector forms that are used in our own way.
_OURS = {"ale_py.vector_env:AtariVectorEnv": "rlgen.envs.atari:AtariVectorEnv"}


def make_vector(config: EnvConfig, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Stepped as a table where it has one, by its own vector entry point, or one by one.

    Raises:
        ConfigError: as `make_single`.
    """
    spec = find_spec(config)
    with explained(config, spec):
        check_kwargs(config, spec)
        if _has_vector_form(config, spec):
            entry_point = _OURS.get(str(spec.vector_entry_point), spec.vector_entry_point)
            spec = dataclasses.replace(spec, vector_entry_point=entry_point)
            mode = gym.VectorizeMode.VECTOR_ENTRY_POINT
            return gym.make_vec(spec, num_envs, mode, **config.kwargs)
        first = make_single(config)
        outcomes = outcomes_of(first)
        if outcomes is not None:
            limit = first.spec.max_episode_steps if first.spec else None
            first.close()
            return MDPVectorEnv(outcomes, num_envs, limit)
        blackjack = blackjack_of(first, num_envs)
        if blackjack is not None:
            first.close()
            return blackjack
        others = [partial(make_single, config)] * (num_envs - 1)
        return SyncVectorEnv(
            [lambda: first, *others], copy=False, autoreset_mode=AutoresetMode.DISABLED
        )


def _has_vector_form(config: EnvConfig, spec: EnvSpec) -> bool:
    """Whether the registry has a vector entry point that takes what the configuration asks for."""
    if spec.vector_entry_point is None or spec.additional_wrappers:
        return False
    given = set(config.kwargs)
    return spec.entry_point is None or given <= accepts(creator(spec.vector_entry_point), given)
