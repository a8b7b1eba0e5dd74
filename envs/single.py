"""One Gymnasium environment of a configuration, and what is wrong where there cannot be one."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlgen.config import EnvConfig
from rlgen.errors import ConfigError, did_you_mean

# Where an entry point lies says which extra brings what it imports.
_EXTRAS = {
    "ale_py": "rlgen[atari]",
    "gymnasium.envs.box2d": "rlgen[box2d]",
    "gymnasium.envs.mujoco": "rlgen[mujoco]",
    "gymnasium.envs.phys2d": "gymnasium[jax]",
    "gymnasium.envs.tabular": "gymnasium[jax]",
}


def make_single(config: EnvConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment, as `gymnasium.make` gives it, in its own numbering and units.

    Raises:
        ConfigError: there is no such environment, something it needs is not installed, or it does
            not take the arguments in ``env.kwargs``.
    """
    spec = find_spec(config)
    with explained(config, spec):
        if spec.entry_point is not None:
            _check_kwargs(config, creator(spec.entry_point))
        rendering = {} if render_mode is None else {"render_mode": render_mode}
        return gym.make(spec, disable_env_checker=True, **(config.kwargs | rendering))


def find_spec(config: EnvConfig) -> EnvSpec:
    """The registered entry of ``config.id``, after importing the package that it names.

    Raises:
        ConfigError: no such environment or package.
    """
    module, _, name = config.id.rpartition(":")
    if not module and name.startswith("ALE/"):
        module = "ale_py"  # it registers its environments only when imported
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            if module in _EXTRAS:
                raise _missing(config, _EXTRAS[module], error) from error
            raise ConfigError(
                f"env.id: package {module!r} of {config.id!r} cannot be imported ({error}); "
                "is its folder on PYTHONPATH?"
            ) from error
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        near = did_you_mean(name, gym.registry)
        if not near.startswith("; did"):
            near = "; your own is given as package:Name-v0, where importing package registers it"
        raise ConfigError(f"env.id: there is no environment {config.id!r}{near}") from error


@contextmanager
def explained(config: EnvConfig, spec: EnvSpec) -> Iterator[None]:
    """Turn what goes wrong while an environment is made into a `ConfigError`; mute warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ConfigError:
        raise
    except (ImportError, gym.error.DependencyNotInstalled) as error:
        entry = str(spec.entry_point or spec.vector_entry_point)
        extra = next((e for place, e in _EXTRAS.items() if entry.startswith(place)), None)
        raise _missing(config, extra, error) from error
    except Exception as error:  # whatever an environment's constructor raises
        key = "env.kwargs" if config.kwargs else "env.id"
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{key}: {config.id} cannot be made ({type(error).__name__}: {reason})"
        ) from error


def creator(entry_point: str | Callable[..., Any]) -> Callable[..., Any]:
    """What an entry point calls."""
    return entry_point if callable(entry_point) else load_env_creator(entry_point)


def accepts(function: Callable[..., Any], names: set[str]) -> set[str]:
    """The keyword arguments that ``function`` takes, or ``names`` where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return names
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _check_kwargs(config: EnvConfig, function: Callable[..., Any]) -> None:
    given = set(config.kwargs)
    known = accepts(function, given) | {"max_episode_steps"}
    for name in sorted(given - known):
        raise ConfigError(
            f"env.kwargs.{name}: {config.id} takes no such argument{did_you_mean(name, known)}"
        )


def _missing(config: EnvConfig, extra: str | None, error: Exception) -> ConfigError:
    """The error for an optional dependency that is not installed."""
    if extra is None:
        return ConfigError(f"env.id: {config.id} needs a package that cannot be imported ({error})")
    return ConfigError(
        f"env.id: {config.id} needs a package that is not installed; "
        f'install the extra that brings it: pip install "{extra}"'
    )
