"""Is this machine ready to run rlgen? One finding per line, each with what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlgen import rundir
from rlgen.config import RunConfig
from rlgen.errors import RlgenError

PYTHON = ((3, 11), (3, 14))
DRIVER = Path("/proc/driver/nvidia/version")
#: Of every extra what it is for, and the modules that it brings.
EXTRAS = {
    "atari": ("Atari games", ("ale_py",)),
    "box2d": ("LunarLander, BipedalWalker, CarRacing", ("Box2D",)),
    "cluster": ("jobs on clusters", ("aiohttp",)),
    "dashboard": ("rlgen dashboard", ("dash", "dash_ag_grid")),
    "hub": ("rlgen export --push", ("huggingface_hub",)),
    "minari": ("recorded episodes of Minari", ("minari", "h5py")),
    "minatar": ("small Atari games", ("minatar",)),
    "mujoco": ("MuJoCo's robots", ("mujoco",)),
    "onnx": ("rlgen export --format onnx", ("onnx", "onnxscript")),
    "storage": ("runs at s3:// and gs://", ("pyarrow",)),
    "sweep": ("rlgen sweep", ("optuna", "pandas", "pyarrow")),
    "tensorboard": ("tracking.tensorboard", ("tensorboard",)),
    "trackio": ("tracking.trackio", ("trackio",)),
    "video": ("films of CartPole and the like, MP4, windows", ("imageio_ffmpeg", "pygame")),
}


@dataclass(frozen=True)
class Finding:
    """What one check found; ``advice`` is empty where all is well."""

    name: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return not self.advice


def examine(start_ray: bool = False) -> Iterator[Finding]:
    """Every check in turn; ``start_ray`` also starts a private Ray cluster and ends it."""
    yield check_python()
    yield from check_packages()
    yield check_gpu()
    if start_ray:
        yield check_cluster()
    yield from check_data()
    yield check_runs(Path(RunConfig().dir))
    yield from check_extras()


def check_python() -> Finding:
    """The version of the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    (_, low), (_, high) = PYTHON
    fits = PYTHON[0] <= sys.version_info[:2] < PYTHON[1]
    return Finding("python", version, "" if fits else f"use Python 3.{low} to 3.{high - 1}")


def check_packages() -> Iterator[Finding]:
    """Every package that results depend on: its version, and whether it can be imported."""
    modules = {"scikit-learn": "sklearn"}
    for package, version in rundir.versions().items():
        if package == "python":
            continue
        try:
            importlib.import_module(modules.get(package, package))
        except Exception as error:  # a broken installation may raise anything
            again = "install rlgen again: 'make train' does, or 'pip install -e .'"
            yield Finding(package, f"{version}, {type(error).__name__}: {error}", again)
        else:
            yield Finding(package, version)


def check_gpu() -> Finding:
    """Whether torch can use a GPU, and whether one lies idle for want of a CUDA build."""
    try:
        import torch
    except Exception:  # said already, as a package
        return Finding("gpu", "unknown, as torch cannot be imported", "install torch first")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("gpu", f"{', '.join(names)} (scheduler.learner_gpus=1 uses one)")
    if DRIVER.is_file():
        found = f"there is an NVIDIA driver, but torch {torch.__version__} finds no GPU"
        cuda = torch.version.cuda
        advice = f"needs a driver for CUDA {cuda}" if cuda else "install a CUDA build of torch"
        return Finding("gpu", found, advice)
    return Finding("gpu", "none; runs use the CPU")


def check_cluster() -> Finding:
    """Start a private Ray cluster, and end it."""
    try:
        from rlgen.backends.ray import RayBackend

        RayBackend("local", 1, 0).shutdown()
    except (RlgenError, ImportError) as error:
        return Finding("ray cluster", str(error), "until it starts, use scheduler.backend=inline")
    return Finding("ray cluster", "starts and ends")


def check_data() -> Iterator[Finding]:
    """The data sets under RLGEN_DATA."""
    from rlgen.generative.data import ROOT_VARIABLE
    from rlgen.generative.idx import find_idx

    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        yield Finding("data", f"{ROOT_VARIABLE} is not set: digits, densities and openml only")
        return
    if not Path(root).is_dir():
        advice = f"make it, or set {ROOT_VARIABLE} to the folder that holds mnist/"
        yield Finding("data", f"{ROOT_VARIABLE}={root} is not a folder", advice)
        return
    sets = [
        p for p in sorted(Path(root).iterdir()) if p.is_dir() and find_idx(p, "train", "images")
    ]
    names = ", ".join(path.name for path in sets) or "no IDX data sets"
    yield Finding("data", f"{root}: {names}")


def check_runs(folder: Path) -> Finding:
    """Whether runs can be written; leaves nothing behind."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        advice = "work in another folder, or give run.dir=FOLDER"
        return Finding("runs", f"{there}: cannot be written ({error.strerror})", advice)
    return Finding("runs", f"{folder.absolute()} can be written")


def check_extras() -> Iterator[Finding]:
    """Every extra: installed, or the line that installs it; none is needed by all."""
    for extra, (use, modules) in EXTRAS.items():
        there = all(importlib.util.find_spec(module) is not None for module in modules)
        found = "installed" if there else f"not installed; pip install 'rlgen[{extra}]'"
        yield Finding(f"extra {extra} ({use})", found)
