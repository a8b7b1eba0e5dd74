"""The directory of one run: ``<run.dir>/<experiment>/<run>/``."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

import rlgen
from rlgen import storage
from rlgen.config import Experiment, resolve_experiment
from rlgen.errors import CheckpointError, ConfigError

CONFIG, VERSIONS, SUMMARY = "config.yaml", "versions.json", "summary.json"
ID = "id"
CHECKPOINTS, PICTURES, VIDEOS = "checkpoints", "pictures", "videos"
SECTIONS = ("env", "data", "hyperparameters", "network", "scheduler", "evaluation", "tracking")
PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "ray",
    "scipy",
    "scikit-learn",
    "pydantic",
    "safetensors",
)


def create(experiment: Experiment) -> Path:
    """Make the directory of a new run, with its resolved configuration and the versions used.

    Raises:
        ConfigError: it cannot be written.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    base = experiment.run.dir
    remote = storage.is_uri(base)
    if remote:
        storage.check(base)
    parent = storage.local_root(base) / experiment.name
    name = f"{stamp}-seed{experiment.seed}"
    if remote:  # where another machine may begin one in the same second
        name += f"-{secrets.token_hex(2)}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            run_dir = parent / (name if attempt == 0 else f"{name}-{attempt}")
            try:
                run_dir.mkdir()
                break
            except FileExistsError:
                continue
        prepare(run_dir, experiment)
        if remote:
            storage.belongs(run_dir, storage.join(base, experiment.name, run_dir.name))
    except OSError as error:
        raise ConfigError(f"run.dir: cannot write to {str(parent)!r}: {error.strerror}") from error
    return run_dir


def prepare(run_dir: Path, experiment: Experiment) -> None:
    """Write what every run's directory begins with."""
    write_config(run_dir, experiment)
    (run_dir / VERSIONS).write_text(json.dumps(versions() | surroundings(), indent=1))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of which, whenever the process is killed, there is nothing or all."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_config(run_dir: Path, experiment: Experiment) -> None:
    """Store the resolved configuration, every default included."""
    text = yaml.safe_dump(experiment.dump(), sort_keys=False)
    write_whole(run_dir / CONFIG, text)


def read_plain(run_dir: Path) -> dict[str, Any]:
    """The stored configuration of a run, as plain data.

    Raises:
        CheckpointError: the directory is not a run, or its configuration is damaged.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise CheckpointError(_no_run(run_dir))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    try:
        plain: dict[str, Any] = yaml.load(path.read_text(), loader)  # noqa: S506 (both are safe)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path}: no configuration of a run: it has no keys")
    kinds = {"name": str, "algorithm": str, "seed": int, "stop": dict}
    kinds |= {section: dict for section in SECTIONS if plain.get(section) is not None}
    for key, kind in kinds.items():
        if not isinstance(plain.get(key), kind):
            found = f"{key!r} is {plain[key]!r}" if key in plain else f"it has no {key!r}"
            raise CheckpointError(f"{path}: no configuration of a run: {found}")
    return plain


def _no_run(folder: Path) -> str:
    """What to say of a folder that is no run, and what to give in its place."""
    what = f"is not a run: it has no {CONFIG}" if folder.is_dir() else "is no folder"
    advice = "give a run's folder, runs/NAME/RUN ('rlgen runs' lists them)"
    below = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")]
    if below:
        latest = max((path.parent for path in below), key=lambda run: run.name)
        advice = f"the latest run in it is {str(latest)!r}"
    return f"{str(folder)!r} {what}; {advice}"


def read_experiment(run_dir: Path) -> Experiment:
    """The experiment of a run.

    Raises:
        CheckpointError: the directory is not a run.
    """
    return resolve_experiment(read_plain(run_dir))


def identity(run_dir: Path) -> str:
    """What no other run is called, for services that hold the runs of many folders."""
    path = run_dir / ID
    if not path.is_file():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()


def find(
    experiment: Experiment, compared: Callable[[dict[str, Any]], dict[str, Any]]
) -> Path | None:
    """An earlier run of an experiment, ended or interrupted; None where there is none.

    Args:
        experiment: of which a run is looked for, in its own ``run.dir``.
        compared: what of the plain configurations has to be equal. A setting that a run's rlgen did
            not have yet has its default.
    """
    wanted = compared(experiment.dump())
    for path in sorted((Path(experiment.run.dir) / experiment.name).glob(f"*/{SUMMARY}")):
        try:
            found = read_experiment(path.parent).dump()
        except ConfigError:
            continue  # of an rlgen with other settings
        if compared(found) == wanted:
            return path.parent
    return None


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The summary of a run, empty where it has not ended yet or is damaged."""
    return _read_json(run_dir / SUMMARY)


def read_versions(run_dir: Path) -> dict[str, str]:
    """`versions` and `surroundings` when the run began; empty where they are damaged."""
    return {name: str(version) for name, version in _read_json(run_dir / VERSIONS).items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def versions() -> dict[str, str]:
    """Versions of rlgen, Python and the packages that results depend on."""
    found = {"rlgen": rlgen.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


@functools.cache
def surroundings() -> dict[str, str]:
    """The ``machine``, on which times and rates depend, and of a checkout of rlgen the ``commit``.

    That is of the driver: the workers may be elsewhere.
    """
    parts = [_processor(), f"{os.cpu_count()} cores"]
    with contextlib.suppress(ValueError, OSError):  # not every system tells
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        parts += _values(path, "Model")
    found = {"machine": ", ".join((*parts, platform.platform(terse=True)))}
    commit = _commit(Path(rlgen.__file__).parents[1])
    return found | ({"commit": commit} if commit else {})


def _processor() -> str:
    named = _values(Path("/proc/cpuinfo"), "model name")
    return " ".join((named or [platform.processor() or platform.machine()])[0].split())


def _values(path: Path, key: str) -> list[str]:
    """What stands behind a key in a file of ``key: value`` lines; nothing where there is none."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = path.read_text(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _commit(root: Path) -> str:
    """The commit that a checkout is at, and whether it was changed since; empty where unknown."""
    if not (root / ".git").exists():
        return ""
    described = ["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *described],
            capture_output=True, text=True, timeout=5,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else ""
    return ""
