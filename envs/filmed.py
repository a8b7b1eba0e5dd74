"""One environment that keeps pictures of what it goes through, for videos of its episodes."""

from __future__ import annotations

import ctypes.util
import os
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from rlgen.config import EnvConfig
from rlgen.envs.making import make_vector
from rlgen.envs.single import creator, explained, find_spec, make_single
from rlgen.errors import ConfigError
from rlgen.videos import has_screen

FPS = 30.0  # of an environment that does not say
ATARI_FPS = 60
#: The whole screen of a game, in colours.
ATARI_SCREEN = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}

Vector = VectorEnv[Any, Any, Any]


class FilmedEnv(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector of one environment that keeps pictures of its states.

    Args:
        env: the environment, whose `render` gives its state as ``(height, width, 3)`` uint8.
        name: of the environment, for messages.
        fps: steps in a second of what it shows.

    Attributes:
        every: steps from one picture to the next; the first and the last state always have one.
        pictures: those taken; the caller empties it.
    """

    def __init__(self, env: Vector, name: str, fps: float) -> None:
        super().__init__(env)
        self.name = name
        self.fps = fps
        self.every = 1
        self.pictures: list[np.ndarray] = []
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, with a picture of its first state."""
        result = self.env.reset(seed=seed, options=options)
        self._steps = 0
        self.take()
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, with a picture of the state arrived at where one is due."""
        result = self.env.step(actions)
        self._steps += 1
        _, _, terminated, truncated, _ = result
        if self._steps % self.every == 0 or terminated[0] or truncated[0]:
            self.take()
        return result

    def take(self) -> None:
        """Keep a picture of the present state.

        Raises:
            ConfigError: what draws it is not installed, or cannot draw here.
        """
        try:
            pictures: Any = self.env.render()
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            raise ConfigError(
                f"pictures of {self.name} need a package that is not installed; "
                'pip install "rlgen[video]"'
            ) from error
        except Exception as error:  # whatever a renderer without a screen may raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{self.name} cannot be drawn here: {reason}") from error
        picture = np.array(pictures[0])
        if np.issubdtype(picture.dtype, np.floating):  # MinAtar's are shares of full brightness
            picture = np.rint(255 * picture.clip(0, 1))
        self.pictures.append(picture.astype(np.uint8))


class _Twins(VectorWrapper[Any, Any, Any, Any, Any]):
    """An Atari game as it is learned from, and beside it the same game as it is seen.

    Emulators with the same seed show the same after the same actions, so the frames that the policy
    needs stay as they are.
    """

    def __init__(self, game: Vector, screen: Vector) -> None:
        super().__init__(game)
        self.screen = screen
        self._seen: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._seen, _ = self.screen.reset(seed=seed, options=options)
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._seen, *_ = self.screen.step(actions)
        return self.env.step(actions)

    def render(self) -> Any:
        return self._seen[:, 0]

    def close(self, **kwargs: Any) -> None:
        self.screen.close()
        self.env.close(**kwargs)


def film_env(config: EnvConfig) -> FilmedEnv:
    """The environment of a configuration, one of it, with pictures.

    Raises:
        ConfigError: it cannot be made, or has no pictures.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not has_screen():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # else it complains
    spec = find_spec(config)
    entry = str(spec.entry_point)
    if entry.startswith("ale_py"):
        game = make_vector(config, 1)
        if not isinstance(game, SyncVectorEnv):
            kwargs = config.kwargs | ATARI_SCREEN
            screen = make_vector(config.model_copy(update={"kwargs": kwargs}), 1)
            fps = ATARI_FPS / config.kwargs.get("frameskip", spec.kwargs["frameskip"])
            return FilmedEnv(_Twins(game, screen), config.id, fps)
        game.close()
    _check_pictures(config, spec)
    if entry.startswith("gymnasium.envs.mujoco"):
        _choose_mujoco_gl()
    env: Vector
    if spec.entry_point is not None:
        env = SyncVectorEnv(
            [partial(make_single, config, "rgb_array")], autoreset_mode=AutoresetMode.DISABLED
        )
    else:
        with explained(config, spec):
            mode = gym.VectorizeMode.VECTOR_ENTRY_POINT
            env = gym.make_vec(spec, 1, mode, render_mode="rgb_array", **config.kwargs)
    return FilmedEnv(env, config.id, float(env.metadata.get("render_fps") or FPS))


def _check_pictures(config: EnvConfig, spec: EnvSpec) -> None:
    """Refuse an environment that says it cannot be drawn.

    Raises:
        ConfigError: names what it can do instead.
    """
    with explained(config, spec):
        entry = creator(spec.entry_point or spec.vector_entry_point or "")
    modes = getattr(entry, "metadata", {}).get("render_modes", ["rgb_array"])
    if "rgb_array" not in modes:
        raise ConfigError(
            f"{config.id} has no pictures: it can render {', '.join(modes) or 'nothing'}, and "
            "rgb_array is needed"
        )


def _choose_mujoco_gl() -> None:
    """Without a screen MuJoCo draws by EGL, or where that is not there by OSMesa."""
    if not has_screen() and not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl" if ctypes.util.find_library("EGL") else "osmesa"
