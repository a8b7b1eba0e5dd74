"""What a job takes along: this package, the user's modules, the configuration, how it starts."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

import rlgen
from rlgen.errors import ConfigError

FOLDERS = ("agents", "configs", "envs", "generative")  # beside the package in a source tree
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info")
MIB = 2**20

#: The entrypoint's shell finds the Python that Ray itself runs with: another, or none, may be
#: first on the head's PATH. Ray's raylet, the parent of all that it starts, names it.
START = """\
# sh start.sh MODULE ARGUMENT ...: run a module with the Python of this node's Ray.
pid=$$ python=
while [ -z "$python" ] && [ "${pid:-1}" -gt 1 ]; do
  pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null)
  python=$(tr '\\0' '\\n' 2>/dev/null < "/proc/${pid:-1}/cmdline" |
    sed -n 's/^--python_worker_command=\\([^ ]*\\) .*/\\1/p')
done
exec "${python:-python3}" -m "$@"
"""


def stage_package(folder: Path) -> Path:
    """Lay this package out in ``folder`` as a wheel would install it; its own folder.

    A wheel itself would do less: the head's pip would fetch every dependency again.
    """
    target = folder / "rlgen"
    shutil.copytree(Path(rlgen.__file__).parent, target, ignore=IGNORED)
    for name in FOLDERS:
        spec = importlib.util.find_spec(f"rlgen.{name}")
        assert spec is not None and spec.submodule_search_locations is not None
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, target / name, ignore=IGNORED, dirs_exist_ok=True)
    return target


def stage_modules(modules: Iterable[Path], folder: Path, files: Path) -> list[Path]:
    """Copy the user's packages into ``folder``, and what is a file of one module into ``files``.

    Raises:
        ConfigError: one is not there, cannot be imported by its name, or would hide another.
    """
    staged: list[Path] = []
    for given in modules:
        path = given.resolve()
        if not path.exists():
            raise ConfigError(f"--module: there is no {str(given)!r}")
        if not path.stem.isidentifier() or (path.is_file() and path.suffix != ".py"):
            raise ConfigError(
                f"--module: expected a package's folder or a .py file, got {str(given)!r}"
            )
        target = (files if path.is_file() else folder) / path.name
        if path.stem == "rlgen" or target.exists():
            raise ConfigError(f"--module: {str(given)!r} would hide another {path.stem!r}")
        if path.is_file():
            shutil.copy(path, target)
        else:
            shutil.copytree(path, target, ignore=IGNORED)
        staged.append(target)
    return staged


def stage_run(plain: dict[str, Any], config: Path) -> Path:
    """Write the configuration, and the start script beside it; the configuration's file."""
    (config.parent / "start.sh").write_text(START)
    config.write_text(yaml.safe_dump(plain, sort_keys=False))
    return config


def check_size(paths: Iterable[Path], largest: int) -> int:
    """The bytes of all files; refuse what Ray would refuse after its upload.

    Raises:
        ConfigError: more than ``largest``; names the largest files.
    """
    files = {
        file: file.stat().st_size
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    }
    total = sum(files.values())
    if total > largest:
        top = sorted(files, key=lambda file: -files[file])[:3]
        shown = ", ".join(f"{file.name} {files[file] / MIB:,.1f} MiB" for file in top)
        raise ConfigError(
            f"--module: {total / MIB:,.1f} MiB to upload, and a head takes "
            f"{largest / MIB:,.1f} MiB ({shown}); keep data on storage that every node reads"
        )
    return total


def run_dir(base: str, job: str) -> str:
    """A job's own folder of runs as a word of a shell; relative ones are below the head's home."""
    if "://" in base or base.startswith("/"):
        return shlex.quote(f"{base.rstrip('/')}/{job}")
    below = base.removeprefix("~/").removeprefix("./").rstrip("/")
    return '"$HOME"/' + shlex.quote(f"{below}/{job}" if below not in ("", ".", "~") else job)


def local_files(experiment: Any) -> dict[str, str]:
    """The files that a configuration names, by key: they must be there on the cluster too."""
    named = {
        "data.name": experiment.data and experiment.data.name,
        "data.root": experiment.data and experiment.data.root,
        "demonstrations.path": experiment.demonstrations and experiment.demonstrations.path,
    }
    return {key: str(value) for key, value in named.items() if value and Path(value).is_absolute()}
