"""Recorded episodes, for algorithms that learn from an expert: files, data sets, checks.

A recording is a NumPy archive without pickles, as `rlgen record` writes it:

====================  ==========================================================================
observation           ``(N, ...)``, the rows of all episodes, one episode after another
action                ``(N, ...)``, as the environment took them (inside the bounds of a ``Box``)
reward                ``(N,)`` float32
terminated            ``(N,)`` bool
truncated             ``(N,)`` bool
episode               ``(N,)`` int64: 0, 0, ..., 1, 1, ...
last_observation      ``(E, ...)``, the true successor of each episode's last row; every other
                      successor is the next row's observation, so that none is stored twice
about                 a JSON text: the environment, its spaces, who played
====================  ==========================================================================
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from rlgen.config import DemonstrationsConfig
from rlgen.errors import ConfigError, DataError, did_you_mean

MINARI = "minari:"
Columns = dict[str, np.ndarray]
#: The columns of a recording: the kinds of dtype they may have, and their dimensions (None: any).
_COLUMNS: dict[str, tuple[str, int | None]] = {
    "observation": ("uif", None),
    "action": ("uif", None),
    "reward": ("f", 1),
    "terminated": ("b", 1),
    "truncated": ("b", 1),
    "episode": ("i", 1),
    "last_observation": ("uif", None),
}


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """Recorded episodes as N rows; the arrays are read-only.

    Attributes:
        observation: ``(N, ...)``, one episode after another.
        action: ``(N, ...)``.
        reward: ``(N,)`` float32.
        terminated: ``(N,)`` bool.
        truncated: ``(N,)`` bool.
        episode: ``(N,)`` int64, the number of the row's episode.
        last_observation: ``(E, ...)``, the successor of each episode's last row.
        about: what the recording says of itself.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode: np.ndarray
    last_observation: np.ndarray
    about: dict[str, Any]

    @cached_property
    def last(self) -> np.ndarray:
        """``(N,)`` bool: the last rows of the episodes."""
        return np.append(self.episode[1:] != self.episode[:-1], True)

    @cached_property
    def next_observation(self) -> np.ndarray:
        """``(N, ...)``, the true successors."""
        successor = np.roll(self.observation, -1, axis=0)
        successor[self.last] = self.last_observation
        successor.flags.writeable = False
        return successor

    @cached_property
    def step(self) -> np.ndarray:
        """``(N,)`` int64: 0, 1, ... within each episode."""
        first = np.flatnonzero(np.append(True, self.last[:-1]))
        steps: np.ndarray = np.arange(len(self.episode)) - first[self.episode]
        return steps

    @property
    def returns(self) -> np.ndarray:
        """``(E,)`` float64, the undiscounted returns."""
        return np.bincount(self.episode, self.reward)

    def count(self, split: str = "train") -> int:
        """N; nothing is held out, so there is one split."""
        return len(self.action)

    def columns(self, split: str, indices: np.ndarray) -> Columns:
        """The columns ``observation`` and ``action`` of some rows (a copy)."""
        return {"observation": self.observation[indices], "action": self.action[indices]}

    def first(self, episodes: int) -> Demonstrations:
        """The first so many episodes."""
        rows = int(np.searchsorted(self.episode, episodes))
        parts = {name: getattr(self, name)[:rows] for name in _COLUMNS}
        parts["last_observation"] = self.last_observation[:episodes]
        return Demonstrations(**parts, about=self.about)


def describe(space: gym.Space[Any]) -> dict[str, Any]:
    """A space in plain data: what a recording and an environment must have in common."""
    kind = type(space).__name__
    if isinstance(space, gym.spaces.Discrete):
        return {"space": kind, "values": int(space.n)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"space": kind, "values": [int(n) for n in space.nvec.ravel()]}
    return {"space": kind, "shape": list(space.shape or ()), "dtype": str(space.dtype)}


def check_spaces(
    given: Demonstrations,
    name: str,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
) -> None:
    """Refuse demonstrations of another environment than the configuration's.

    Raises:
        ConfigError: names the first difference.
    """
    for role, space in (("observation", observation_space), ("action", action_space)):
        recorded, wanted = given.about[f"{role}_space"], describe(space)
        for key, value in wanted.items():
            if recorded.get(key) != value:
                raise ConfigError(
                    f"demonstrations.path: {name} was recorded with {role}s of {key} "
                    f"{recorded.get(key)}, but those of env.id have {value}"
                )
    if isinstance(action_space, gym.spaces.Box):
        outside = (given.action < action_space.low) | (given.action > action_space.high)
        if outside.any():
            raise ConfigError(
                f"demonstrations.path: {name} has actions outside of env.id's bounds, such as "
                f"{given.action[outside][0]:g}"
            )
    for role, space in (("observation", observation_space), ("action", action_space)):
        if isinstance(space, gym.spaces.Discrete) and space.start == 0:
            names = ("action",) if role == "action" else ("observation", "last_observation")
            seen = np.concatenate([getattr(given, column) for column in names])
            least, most = seen.min(), seen.max()
            if least < 0 or most >= space.n:
                raise ConfigError(
                    f"demonstrations.path: {name} has {role}s from {least} to {most}, but those of "
                    f"env.id go from 0 to {space.n - 1}"
                )


def save(path: Path, columns: Columns, about: dict[str, Any]) -> None:
    """Write a recording; an existing file is replaced once the new one is whole.

    Args:
        path: ends in ``.npz``.
        columns: as the module's text says, without ``about``.
        about: plain data; needs ``observation_space`` and ``action_space`` of `describe`.

    Raises:
        DataError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **columns)  # type: ignore[arg-type]
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def ready() -> list[str]:
    """The names of the recordings that come with rlgen."""
    folder = importlib.resources.files("rlgen.configs")
    return sorted(f.name.removesuffix(".npz") for f in folder.iterdir() if f.name.endswith(".npz"))


def load(config: DemonstrationsConfig) -> Demonstrations:
    """The demonstrations that a configuration names.

    Raises:
        ConfigError, DataError: they do not exist, are damaged, or are fewer than asked for.
    """
    name = config.path
    # The time of the last change is part of the key: a file that is written again is read again.
    stamp = os.stat(name).st_mtime_ns if name.endswith(".npz") and os.path.exists(name) else 0
    return _load(name, config.episodes, stamp)


@functools.lru_cache(maxsize=4)
def _load(name: str, episodes: int | None, stamp: int) -> Demonstrations:
    """As `load`; the actors of one process share the (read-only) arrays."""
    if name.startswith(MINARI):
        whole = _read_minari(name.removeprefix(MINARI), episodes)
    elif name.endswith(".npz"):
        whole = _read(name, Path(name))
    elif name in ready():
        with importlib.resources.as_file(
            importlib.resources.files("rlgen.configs").joinpath(f"{name}.npz")
        ) as path:
            whole = _read(name, path)
    else:
        raise ConfigError(
            f"demonstrations.path: there is no recording {name!r}; give FILE.npz (from 'rlgen "
            f"record'), minari:NAME, or one of rlgen's own{did_you_mean(name, ready())}"
        )
    held = len(whole.last_observation)
    if episodes is not None and episodes > held:
        raise ConfigError(f"demonstrations.episodes: {episodes} asked for, {name} holds {held}")
    result = whole if episodes is None else whole.first(episodes)
    for column in _COLUMNS:
        getattr(result, column).flags.writeable = False
    return result


def _read(name: str, path: Path) -> Demonstrations:
    """A recording of `save`."""
    expected = "expected a recording of 'rlgen record'"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        about = json.loads(str(arrays.pop("about", "null")))
    except FileNotFoundError:
        raise DataError(f"demonstrations.path: there is no file {name!r}") from None
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # Of an array of objects, or of a file that is no archive, NumPy says to load pickles.
        reason = "it is no archive of arrays" if "pickle" in str(error) else str(error)
        raise DataError(f"{name}: cannot be read ({reason}); {expected}") from error
    for column, (kinds, dims) in _COLUMNS.items():
        if column not in arrays:
            raise DataError(f"{name}: there is no array {column!r} in it; {expected}")
        array = arrays[column]
        if array.ndim == 0 or array.ndim != (dims or array.ndim) or array.dtype.kind not in kinds:
            raise DataError(
                f"{name}: found {column!r} of shape {array.shape} and dtype {array.dtype}; "
                f"{expected}"
            )
    if not isinstance(about, dict) or not {"observation_space", "action_space"} <= about.keys():
        raise DataError(f"{name}: its 'about' does not say which spaces it is of; {expected}")
    return _checked(name, {column: arrays[column] for column in _COLUMNS}, about)


def _checked(name: str, columns: Columns, about: dict[str, Any]) -> Demonstrations:
    """The demonstrations of columns that fit together.

    Raises:
        DataError: they do not.
    """
    episode, last = columns["episode"], columns["last_observation"]
    if len(episode) == 0:
        raise DataError(f"{name}: holds no episodes")
    for column in _COLUMNS:
        count = len(last) if column == "last_observation" else len(episode)
        if len(columns[column]) != count:
            raise DataError(
                f"{name}: {column!r} has {len(columns[column])} rows, 'episode' has {count}"
            )
    steps = np.diff(episode)
    if (
        episode[0] != 0
        or episode[-1] != len(last) - 1
        or steps.min(initial=0) < 0
        or (steps > 1).any()
    ):
        raise DataError(f"{name}: 'episode' does not count from 0 to {len(last) - 1} in order")
    if last.shape[1:] != columns["observation"].shape[1:]:
        raise DataError(
            f"{name}: last observations of shape {last.shape[1:]}, observations of "
            f"{columns['observation'].shape[1:]}"
        )
    for column, array in columns.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name}: {column!r} holds values that are not finite")
    return Demonstrations(**columns, about=about)


def _read_minari(name: str, episodes: int | None) -> Demonstrations:
    """The episodes of a Minari data set that is on this machine (never from the network)."""
    try:
        import minari
    except ImportError as error:
        raise ConfigError(
            "demonstrations.path: minari: needs a package that is not installed; install the "
            'extra that brings it: pip install "rlgen[minari]"'
        ) from error
    try:
        dataset = minari.load_dataset(name)
    except Exception as error:  # whatever its storage raises for a set that it cannot open
        local = did_you_mean(name, minari.list_local_datasets())
        raise ConfigError(
            f"demonstrations.path: minari has no data set {name!r} on this machine{local} "
            f"('minari download {name}' fetches one)"
        ) from error
    spaces = {
        "observation_space": _plain(name, dataset.observation_space),
        "action_space": _plain(name, dataset.action_space),
    }
    count = int(dataset.total_episodes if episodes is None else episodes)
    indices = range(min(count, int(dataset.total_episodes)))
    parts: dict[str, list[np.ndarray]] = {column: [] for column in _COLUMNS}
    for number, played in enumerate(dataset.iterate_episodes(indices)):
        steps = len(played.rewards)
        seen = _from_zero(dataset.observation_space, played.observations)
        parts["observation"].append(seen[:steps])
        parts["last_observation"].append(seen[steps : steps + 1])
        parts["action"].append(_from_zero(dataset.action_space, played.actions))
        parts["reward"].append(np.asarray(played.rewards, np.float32))
        parts["terminated"].append(np.asarray(played.terminations, np.bool_))
        parts["truncated"].append(np.asarray(played.truncations, np.bool_))
        parts["episode"].append(np.full(steps, number, np.int64))
    columns = {column: np.concatenate(arrays) for column, arrays in parts.items()}
    return _checked(f"minari:{name}", columns, {"minari": name, **spaces})


def _plain(name: str, space: gym.Space[Any]) -> dict[str, Any]:
    supported = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete)
    if not isinstance(space, supported):
        raise ConfigError(
            f"demonstrations.path: minari:{name} has a {type(space).__name__} space, expected Box, "
            "Discrete or MultiDiscrete"
        )
    return describe(space)


def _from_zero(space: gym.Space[Any], values: Any) -> np.ndarray:
    """Values of a space counted from 0, as our environments give and take them."""
    rows = np.asarray(values, space.dtype) - getattr(space, "start", np.zeros((), space.dtype))
    return rows.reshape(len(rows), -1) if isinstance(space, gym.spaces.MultiDiscrete) else rows
