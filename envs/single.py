"""One Gymnasium environment of a configuration, and what is wrong where there cannot be one."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlgen.config import EnvConfig
from rlgen.errors import ConfigError, did_you_mean
from rlgen.registry import look_here

# Where an entry point lies says which extra brings what it imports.
_EXTRAS = {
    "ale_py": "rlgen[atari]",
    "minatar": "rlgen[minatar]",
    "gymnasium.envs.box2d": "rlgen[box2d]",
    "gymnasium.envs.mujoco": "rlgen[mujoco]",
    "gymnasium.envs.phys2d": "gymnasium[jax]",
    "gymnasium.envs.tabular": "gymnasium[jax]",
}

# Namespaces whose package registers them only when it is imported.
_REGISTER = {"ALE/": "ale_py", "MinAtar/": "minatar.gym"}


class FlatTuple(gym.ObservationWrapper[Any, Any, Any]):
    """Observations in a ``Tuple`` of ``Discrete`` spaces as those of one ``MultiDiscrete``."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        parts: Any = env.observation_space
        sizes, starts = ([getattr(part, key) for part in parts] for key in ("n", "start"))
        self.observation_space = gym.spaces.MultiDiscrete(sizes, start=starts)

    def observation(self, observation: Any) -> np.ndarray:
        """The parts ``(k,)`` int64."""
        return np.array(observation, np.int64)


def make_single(config: EnvConfig, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """One environment, as `gymnasium.make` gives it, in its own numbering and units.

    Only observations that are tuples of integers (`FlatTuple`) come as one array.

    Raises:
        ConfigError: there is no such environment, something it needs is not installed, or it does
            not take the arguments in ``env.kwargs``.
    """
    spec = find_spec(config)
    with explained(config, spec):
        check_kwargs(config, spec)
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
            _catch_mujoco_warnings()
        rendering = {} if render_mode is None else {"render_mode": render_mode}
        env = gym.make(spec, disable_env_checker=True, **(config.kwargs | rendering))
    space = env.observation_space
    if isinstance(space, gym.spaces.Tuple) and all(
        isinstance(part, gym.spaces.Discrete) for part in space
    ):
        return FlatTuple(env)
    return env


def find_spec(config: EnvConfig) -> EnvSpec:
    """The registered entry of ``config.id``, after importing the package that it names.

    Raises:
        ConfigError: no such environment or package.
    """
    module, _, name = config.id.rpartition(":")
    if not module:
        module = next((m for start, m in _REGISTER.items() if name.startswith(start)), "")
    if module:
        look_here()
        try:
            package = importlib.import_module(module)
            if module == "minatar.gym" and name not in gym.registry:
                package.register_envs()  # as a plugin, which Gymnasium no longer looks for
        except ImportError as error:
            extra = _EXTRAS.get(module.partition(".")[0])
            if extra is not None:
                raise _missing(config, extra, error) from error
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


def check_kwargs(config: EnvConfig, spec: EnvSpec) -> None:
    """Refuse arguments that neither form of the environment takes.

    Raises:
        ConfigError: names the argument, and the nearest that there is.
    """
    given, known = set(config.kwargs), {"max_episode_steps"}
    for entry_point in (spec.entry_point, spec.vector_entry_point):
        if entry_point is not None:
            known |= accepts(creator(entry_point), given)
    for name in sorted(given - known):
        raise ConfigError(
            f"env.kwargs.{name}: {config.id} takes no such argument{did_you_mean(name, known)}"
        )


def _catch_mujoco_warnings() -> None:
    """Make MuJoCo warn as Python does, not into a file in the user's working directory."""
    mujoco = importlib.import_module("mujoco")
    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(lambda text: warnings.warn(text, RuntimeWarning, stacklevel=2))


def _missing(config: EnvConfig, extra: str | None, error: Exception) -> ConfigError:
    """The error for an optional dependency that is not installed."""
    if extra is None:
        return ConfigError(f"env.id: {config.id} needs a package that cannot be imported ({error})")
    return ConfigError(
        f"env.id: {config.id} needs a package that is not installed; "
        f'install the extra that brings it: pip install "{extra}"'
    )
