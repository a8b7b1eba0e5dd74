"""What a run has recorded comes into every sink, during it or later, and never twice."""

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from experiments import train
from typer.testing import CliRunner

from rlgen import cli, history, sinks
from rlgen.errors import CheckpointError, ConfigError, RlgenError
from rlgen.sync import sync

WANDB = Path(sys.executable).with_name("wandb")
OFTEN = {"tracking.every_s": 0, "evaluation.every": 1000}


def rlgen(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train("vae", tmp_path_factory.mktemp("runs"), {"evaluation.every": 1}).dir


@pytest.fixture
def folder(finished, tmp_path):
    """A run of its own, with samples and reconstructions of two evaluations."""
    return Path(shutil.copytree(finished, tmp_path / "vae" / finished.name))


def scalars(folder):
    """What TensorBoard reads: ``{name: [(step, value), ...]}``, and its texts and pictures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "images": 0})
    reader.Reload()
    tags = reader.Tags()
    found = {name: [(e.step, e.value) for e in reader.Scalars(name)] for name in tags["scalars"]}
    return found, set(tags["tensors"]), {n: reader.Images(n) for n in tags["images"]}


def recorded(run, kind, name, step):
    values = [(r[step], r[name]) for r in run.of(kind) if isinstance(r.get(name), (int, float))]
    return [(count, float(np.float32(value))) for count, value in values]


def summary_of_wandb(folder):
    done = subprocess.run(
        [WANDB, "leet", "inspect", "--summary", "--json", folder],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def rows_of_trackio(folder, name):
    with sqlite3.connect(folder / "rlgen.db") as database:
        query = "select step, metrics from metrics where run_name = ? order by id"
        return [(step, json.loads(text)) for step, text in database.execute(query, (name,))]


def check_everywhere(folder, run, trackio):
    """All three sinks have every record of the run once."""
    found, texts, _ = scalars(folder)
    for figure in run.figures():
        assert found[figure] == recorded(run, *figure.split("/", 1), step_of(run))
    assert "config" in texts
    (offline,) = (folder / "wandb").glob("offline-run-*")
    seen = summary_of_wandb(offline)
    for figure in run.figures():
        assert seen["summary"][figure] == pytest.approx(run.latest(figure), rel=1e-12)
    rows = rows_of_trackio(trackio, run.name)
    trained = [(step, values) for step, values in rows if "train/cycles" in values]
    assert [step for step, _ in trained] == [r[step_of(run)] for r in run.of("train")]
    assert [v["train/seconds"] for _, v in trained] == [r["seconds"] for r in run.of("train")]


def step_of(run):
    return "updates" if run.clock == "epochs" else run.clock


def test_tensorboard_reads_what_a_run_wrote(tmp_path):
    run = history.read(train("q-learning", tmp_path, OFTEN | {"tracking.tensorboard": True}).dir)
    found, texts, _ = scalars(run.folder)
    assert len(run.figures()) > 8 and len(run.of("train")) > 20
    for figure in run.figures():
        assert found[figure] == recorded(run, *figure.split("/", 1), "env_steps")
    assert found["workers/per_s/1"][-1][1] == np.float32(run.of("workers")[-1]["per_s"][1])
    assert texts == {"config", "summary"}


def test_wandb_reads_what_a_run_wrote_offline(tmp_path):
    run = history.read(train("q-learning", tmp_path, OFTEN | {"tracking.wandb": "offline"}).dir)
    (offline,) = (run.folder / "wandb").glob("offline-run-*")
    seen = summary_of_wandb(offline)
    for figure in run.figures():
        assert seen["summary"][figure] == pytest.approx(run.latest(figure), rel=1e-12)
    assert seen["summary"]["stop_reason"] == "env_steps"
    assert seen["config"]["env"]["id"] == "rlgen/Cliff-v0"
    assert (seen["run_id"], seen["name"]) == ((run.folder / "id").read_text(), run.name)
    assert (seen["state"], seen["tags"]) == ("finished", ["q-learning", "rlgen/Cliff-v0"])


def test_a_second_sync_replaces_the_first(folder):
    run = history.read(folder)
    for _ in range(2):
        done = sync(folder, "tensorboard", pytest.fail)
        assert (done.records, done.files, done.skipped) == (len(run.records), 4, 0)
    found, _, images = scalars(folder)
    for figure in run.figures():
        assert found[figure] == recorded(run, *figure.split("/", 1), "updates")
    for name in ("samples", "reconstructions"):
        files = sorted((folder / "pictures").glob(f"{name}-*.png"))
        shown = [image.encoded_image_string for image in images[f"pictures/{name}"]]
        assert shown == [file.read_bytes() for file in files] and len(shown) == 2
    assert not list(folder.glob(".tensorboard*"))


def test_a_damaged_line_is_left_out_counted_and_said(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1][:30] + "\n", *lines[2:]]))
    result = rlgen("sync", folder, "--to", "tensorboard", "--json")
    assert result.exit_code == 0
    assert f"rlgen: {folder}: 1 damaged line of metrics.jsonl left out" in result.stderr
    (synced,) = json.loads(result.stdout)["synced"].values()
    assert (synced["records"], synced["skipped"]) == (len(lines) - 1, 1)


def test_pictures_of_older_runs_have_no_records_and_come_along(folder):
    path = folder / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"picture"' not in line]
    path.write_text("\n".join(kept) + "\n")
    for old in (folder / "pictures").glob("samples-*.png"):
        old.unlink()
    sync(folder, "tensorboard", pytest.fail)
    _, _, images = scalars(folder)
    (last,) = [image.step for image in images["pictures/samples"]]
    assert last == history.read(folder).summary["updates"]


@pytest.mark.parametrize("absolute", [True, False])
def test_only_files_of_the_run_are_sent(absolute, folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"of this machine")
    link = folder / "pictures" / "link.png"
    link.symlink_to(secret)
    with (folder / "metrics.jsonl").open("a") as file:
        for named in (secret if absolute else "../../secret.png", "pictures/link.png"):
            record = {"kind": "picture", "time": 0.0, "name": "mine", "file": str(named)}
            file.write(json.dumps(record) + "\n")
    assert sync(folder, "tensorboard", pytest.fail).files == 4
    assert "pictures/mine" not in scalars(folder)[2]


def test_a_service_that_is_switched_off_is_one_message(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(ConfigError, match="WANDB_MODE: expected online or offline, got 'disabled'"):
        sync(folder, "wandb", pytest.fail)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("wandbb", "--to: there is no 'wandbb'; did you mean 'wandb'?"),
        ("tensorboard", "sync it once it has ended"),
    ],
)
def test_what_cannot_be_synced_is_one_message(to, message, folder):
    with (folder / "metrics.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a run that goes on has it
        result = rlgen("sync", folder, "--to", to)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1


def test_no_run_is_one_message_and_others_go_on(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"is no folder; give a run"):
        sync(tmp_path / "nothing", "tensorboard", pytest.fail)
    (folder.parent / "empty").mkdir()
    shutil.copy(folder / "config.yaml", folder.parent / "empty")
    (folder.parent / "empty" / "metrics.jsonl").touch()
    result = rlgen("sync", folder.parent, "--to", "tensorboard", "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert list(answer["synced"]) == [str(folder)]
    assert list(answer["failed"]) == [str(folder.parent / "empty")]
    assert "1 of 2 runs are not synced" in answer["error"]


def test_trackio_elsewhere_is_refused(folder, monkeypatch):
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://127.0.0.1:1?write_token=secret")
    with pytest.raises(ConfigError, match="synced to the local database only") as refused:
        sync(folder, "trackio", pytest.fail)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["/home/somebody/work", "../../../work"])
def test_a_run_that_is_named_as_a_path_is_refused_before_anything_is_replaced(name, folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("name: vae\n", f"name: {name}\n", 1))
    with pytest.raises(ConfigError, match="is no name, but a path; change it in config.yaml"):
        sync(folder, "trackio", pytest.fail)


def test_a_sink_that_fails_is_one_message(folder):
    (folder / "tensorboard").touch()
    (folder / "tensorboard").chmod(0)
    with pytest.raises(RlgenError, match=f"{folder}: tensorboard: "):
        sync(folder, "tensorboard", pytest.fail)


def test_the_trials_of_a_sweep_are_a_group(finished, tmp_path):
    trial = tmp_path / "vae" / "sweep-1" / "trials" / "0003"
    shutil.copytree(finished, trial)
    about = sinks.about(trial, history.read(trial).config, "epochs")
    assert (about.group, about.name) == ("vae/sweep-1", "vae/sweep-1/0003")
    assert about.id == sinks.about(trial, about.config, "epochs").id


@pytest.mark.slow
def test_a_killed_run_loses_its_last_line_at_most_and_every_sink_can_have_it(tmp_path):
    # No key, and not the service that other tests have begun: it would keep the killed run open.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    environment |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(tmp_path), "WANDB_MODE": "offline"}

    def command(*arguments):
        return [sys.executable, "-m", "rlgen", *map(str, arguments)]

    settings = [f"run.dir={tmp_path / 'runs'}", "tracking.every_s=0.02", "stop.epochs=10000"]
    live = [f"tracking.{name}" for name in ("wandb=offline", "tensorboard=true", "trackio=true")]
    process = subprocess.Popen(
        command("train", "vae-digits", "evaluation.every=1", *settings, *live, "--quiet"),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        seen = b""
        while seen.count(b'"evaluation"') < 5 or seen.count(b"\n") < 100:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
            for path in (tmp_path / "runs").glob("*/*/metrics.jsonl"):
                seen = path.read_bytes()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (path,) = (tmp_path / "runs").glob("*/*/metrics.jsonl")
    written = path.read_bytes()
    assert written.startswith(seen)  # what was there is there
    folder = path.parent
    run = history.read(folder)
    assert run.status == history.BROKEN
    assert len(run.records) == written.count(b"\n") and run.skipped == 0
    for to in ("wandb", "tensorboard", "trackio"):
        for _ in range(2):
            subprocess.run(command("sync", folder, "--to", to), env=environment, check=True)
    check_everywhere(folder, run, tmp_path / "trackio")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    assert summary_of_wandb(offline)["exit_code"] == 1  # it did not end
