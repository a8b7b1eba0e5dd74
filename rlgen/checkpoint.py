"""Checkpoints: directories written aside, synced and renamed, with a sha256 manifest.

``<run>/checkpoints/<cycle>/`` holds named parts, each a ``.safetensors`` file of its arrays and a
``.json`` file of the rest, and ``manifest.json`` with the sha256 of every file, written last. A
flipped byte would load silently, so the hashes are checked before anything is believed; when the
newest checkpoint is damaged the one before it is used. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rlgen.errors import CheckpointError

Part = tuple[Any, dict[str, np.ndarray]]  # JSON data, arrays
MANIFEST = "manifest.json"
READ = (".json", ".safetensors")  # the only files that a checkpoint has


def write_part(folder: Path, name: str, plain: Any, arrays: dict[str, np.ndarray]) -> None:
    """Write one part into a checkpoint that is being made.

    Raises:
        OSError: the disk is full, or the like.
    """
    (folder / f"{name}.json").write_text(json.dumps(plain))
    if not arrays:
        return
    path = folder / f"{name}.safetensors"
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    except SafetensorError as error:  # which does not travel between processes
        reason = str(error).rpartition("I/O error: ")[2]
        raise OSError(f"{reason} ({path})") from None


def read_part(folder: Path, name: str) -> Part:
    """Read one part of a verified checkpoint.

    Raises:
        CheckpointError: the checkpoint has no such part.
    """
    plain, arrays = folder / f"{name}.json", folder / f"{name}.safetensors"
    if not plain.is_file():
        raise CheckpointError(f"{folder}: no part {name!r} in this checkpoint")
    return json.loads(plain.read_text()), load_file(arrays) if arrays.is_file() else {}


def write_parts(folder: Path, parts: dict[str, Part]) -> dict[str, Part]:
    """Write several parts into a checkpoint that is being made, if this machine sees its folder.

    Returns:
        The parts that are still to be written, by the machine that has the folder.

    Raises:
        OSError: as `write_part`.
    """
    if not is_here(folder):
        return parts
    for name, (plain, arrays) in parts.items():
        write_part(folder, name, plain, arrays)
    return {}


def read_parts(folder: Path, names: Iterable[str]) -> dict[str, Part]:
    """Those parts of a verified checkpoint that it has."""
    there = [name for name in names if (folder / f"{name}.json").is_file()]
    return {name: read_part(folder, name) for name in there}


def is_here(folder: Path) -> bool:
    """Whether this machine sees a folder that another one has just made for nobody else."""
    return folder.is_dir()


def write(folder: Path, name: str, fill: Callable[[Path], None], keep: int) -> Path:
    """Write checkpoint ``folder/name`` atomically, keeping the ``keep`` latest.

    ``fill`` writes the parts into the directory it is given, whose name no other machine has. A
    crash at any point leaves the earlier checkpoints whole: the new one gets its name only once
    everything is on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.partial"):  # by a crash
        shutil.rmtree(left, ignore_errors=True)
    aside, final = folder / f".{name}.{secrets.token_hex(8)}.partial", folder / name
    aside.mkdir()
    try:
        fill(aside)
        hashes = {path.name: _sha256(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps({"sha256": hashes}, indent=1))
        for path in aside.iterdir():
            _sync(path)
        _sync(aside)
        shutil.rmtree(final, ignore_errors=True)  # the same cycle, written again
        aside.rename(final)
        _sync(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in candidates(folder)[keep:]:
        shutil.rmtree(old)
    return final


def latest(folder: Path, warn: Callable[[str], None]) -> Path:
    """The newest undamaged checkpoint in ``folder``; ``warn`` is told of damaged ones.

    Raises:
        CheckpointError: there is none, all are damaged, or one carries a pickle.
    """
    found = candidates(folder)
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint here; has the run written one yet?")
    problems: list[str] = []
    for path in found:
        _refuse_pickles(path)
        problem = damage(path)
        if problem is None:
            if problems:
                warn(f"checkpoint damaged: {'; '.join(problems)}; using {path} instead")
            return path
        problems.append(f"{path}: {problem}")
    raise CheckpointError(f"every checkpoint is damaged: {'; '.join(problems)}")


def candidates(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first (names are zero-padded counters)."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), reverse=True)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((path / MANIFEST).read_text())["sha256"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in hashes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} does not match its sha256 (cut short or altered)"
    return None


def _refuse_pickles(path: Path) -> None:
    """Refuse a checkpoint with what could only be meant to be unpickled: rlgen wrote none of it.

    Raises:
        CheckpointError: names the file.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else []:
        if file.is_dir():
            continue
        if file.suffix not in READ:
            what = "rlgen writes and reads .json and .safetensors only"
        elif file.suffix == ".safetensors" and _is_pickle(file):
            what = "it is a pickle, which could run anything when it is read"
        else:
            continue
        raise CheckpointError(
            f"{file}: refused: {what}; if you know where it comes from, remove it to go on"
        )


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle (protocols 2 to 5) or as torch's archive of one."""
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its header, which is a JSON object.
    pickled = head[:1] == b"\x80" and head[1:2] <= b"\x05"
    return head[8:] != b"{" and (pickled or head[:2] == b"PK")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
