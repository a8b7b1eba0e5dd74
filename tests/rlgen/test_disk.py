"""A disk that is full and a kill in the middle of a write cost a checkpoint, and no run."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import train

import rlgen
from rlgen import checkpoint, rundir, tracking
from rlgen.config import load_experiment
from rlgen.errors import CheckpointError

EVERY = {"checkpoint.every": 600, "tracking.every_s": 0}
#: Files above 600 bytes cannot be written from the second checkpoint on.
FULL = """
import resource
write = checkpoint.write
def limited(folder, name, fill, keep):
    if checkpoint.candidates(folder):
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
    return write(folder, name, fill, keep)
checkpoint.write = limited
"""
KILLED = """
import os, signal
hashed, count = checkpoint._sha256, 0
def killing(path):
    global count
    count += 1
    if count == 22:  # of ten files each: the first file of the third checkpoint has been hashed
        os.kill(os.getpid(), signal.SIGKILL)
    return hashed(path)
checkpoint._sha256 = killing
"""


def train_apart(
    folder: Path, before: str, changes: dict[str, Any], *prefix: str
) -> subprocess.CompletedProcess[str]:
    """Train Q-learning in a process of its own, after some preparation; prints the summary."""
    script = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from experiments import train
from rlgen import checkpoint
{before}
run = train("q-learning", {str(folder)!r}, {changes!r})
print(json.dumps(run.summary))
"""
    return subprocess.run(
        [*prefix, sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )


def test_a_full_disk_costs_no_run(tmp_path: Path) -> None:
    done = train_apart(tmp_path, FULL, EVERY)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["stop_reason"] == "env_steps"
    (run,) = tmp_path.glob("*/*")
    (kept,) = (run / "checkpoints").iterdir()
    assert summary["checkpoint"] == str(kept)
    said = done.stderr.splitlines()
    told = [line for line in said if "a checkpoint could not be written: File too large" in line]
    assert len(told) == 5 and all(f"{kept} stays the latest" in line for line in told)
    assert len([line for line in said if "metrics.jsonl: File too large; records" in line]) == 1
    assert len([line for line in said if "summary.json could not be written" in line]) == 1
    assert tracking.read_metrics(run)  # what there was room for
    more = rlgen.resume(run)
    undisturbed = train("q-learning", tmp_path / "undisturbed", EVERY)
    np.testing.assert_array_equal(more.weights, undisturbed.weights)


@pytest.mark.slow
def test_a_file_system_without_room_is_said(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=100k,nr_inodes=200 none {disk}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    saved = tmp_path / "saved"
    after = f'"$@"; cp -r {disk} {saved}'
    done = train_apart(
        disk,
        "",
        EVERY | {"checkpoint.every": 100, "checkpoint.keep": 100},
        *("unshare", "-m", "sh", "-c", f"{mount} && {after}", "sh"),
    )
    summary = json.loads(done.stdout)
    assert "a checkpoint could not be written: No space left on device" in done.stderr
    latest = Path(summary["checkpoint"])
    (kept,) = saved.glob("*/*/checkpoints")
    assert checkpoint.latest(kept, print).name == latest.name


def test_a_kill_in_the_middle_of_a_checkpoint_costs_that_one(tmp_path: Path) -> None:
    done = train_apart(tmp_path, KILLED, EVERY)
    assert done.returncode == -signal.SIGKILL
    (run,) = tmp_path.glob("*/*")
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(names) == 3 and names[0].endswith(".partial"), names
    more = rlgen.resume(run)
    assert f"resumed from {run / 'checkpoints' / names[-1]}" in [
        r["message"] for r in tracking.read_metrics(run) if r["kind"] == "event"
    ]
    undisturbed = train("q-learning", tmp_path / "undisturbed", EVERY)
    np.testing.assert_array_equal(more.weights, undisturbed.weights)


def test_two_runs_of_one_name_at_one_moment_have_two_directories(tmp_path: Path) -> None:
    """Two processes that make run directories as fast as they can."""
    context = multiprocessing.get_context("fork")
    experiment = load_experiment("q-learning-cliff", [f"run.dir={tmp_path}"])
    barrier = context.Barrier(2)
    both = [context.Process(target=make_runs, args=(experiment, barrier)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(120)
    made = list(tmp_path.glob("q-learning-cliff/*"))
    assert len(made) == 40
    assert all(rundir.read_experiment(run) == experiment for run in made)
    assert sum((run / "mine").exists() for run in made) == 40  # and each was one process's alone


def make_runs(experiment: Any, barrier: Any) -> None:
    barrier.wait(100)
    for _ in range(20):
        (rundir.create(experiment) / "mine").mkdir()


# --- damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: Any) -> Path:
    """A run with two checkpoints of every kind of part, replay included."""
    changes = {"checkpoint.every": 600, "stop.env_steps": 1200, "evaluation.episodes": 1}
    return train("dqn", tmp_path_factory.mktemp("finished"), changes).dir


FILES = (
    *("run.json", "run.safetensors", "weights.json", "weights.safetensors"),
    *("learner.json", "learner.safetensors", "replay.json", "replay.safetensors"),
    *("worker-0.json", "worker-0.safetensors", "worker-1.json", "worker-1.safetensors"),
    "manifest.json",
)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def two(run: Path) -> tuple[Path, Path]:
    newest, before = checkpoint.candidates(run / "checkpoints")
    return newest, before


def test_the_files_of_a_checkpoint_are_these(run: Path) -> None:
    assert sorted(os.listdir(two(run)[0])) == sorted(FILES)


@pytest.mark.parametrize("damage", ["flip the first", "flip", "flip the last", "cut", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_damage_of_any_file_is_noticed(name: str, damage: str, run: Path) -> None:
    newest, before = two(run)
    file = newest / name
    content = bytearray(file.read_bytes())
    places = {"flip the first": 0, "flip": len(content) // 2, "flip the last": -1}
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[places[damage]] ^= 1
        file.write_bytes(content)
    said: list[str] = []
    assert checkpoint.latest(run / "checkpoints", said.append) == before
    assert len(said) == 1 and str(newest) in said[0] and f"using {before} instead" in said[0]


@pytest.mark.parametrize("name", ["extra.pkl", "weights.pt", "sub/own.bin", "noise"])
def test_a_checkpoint_with_a_foreign_file_is_refused(name: str, run: Path) -> None:
    file = two(run)[0] / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=rf"{name}: refused: rlgen writes and reads .json"):
        checkpoint.latest(run / "checkpoints", print)


@pytest.mark.parametrize("content", ["pickle", "torch"])
def test_a_pickle_in_place_of_tensors_is_refused_and_not_run(
    content: str, run: Path, tmp_path: Path
) -> None:
    newest = two(run)[0]
    file = newest / "learner.safetensors"
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    if content == "pickle":
        import pickle

        file.write_bytes(pickle.dumps(Evil()))
    else:
        import torch

        torch.save(Evil(), file)
    # Whoever puts it there makes the hashes fit.
    hashes = {path.name: checkpoint._sha256(path) for path in newest.iterdir()}
    del hashes["manifest.json"]
    (newest / "manifest.json").write_text(json.dumps({"sha256": hashes}))
    for use in (rlgen.load, rlgen.resume):
        with pytest.raises(CheckpointError, match=r"learner.safetensors: refused: it is a pickle"):
            use(run)
    assert not ran.exists()
