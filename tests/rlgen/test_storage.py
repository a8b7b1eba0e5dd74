"""Runs by URI: what is there can be read, evaluated and gone on with; storage may be away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from experiments import train
from typer.testing import CliRunner

import rlgen
from rlgen import checkpoint, config, rundir, storage, tracking
from rlgen.cli import app
from rlgen.errors import CheckpointError, ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for every test, and empty memory; the cache's folder."""
    monkeypatch.setenv(storage.CACHE_VARIABLE, str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    return tmp_path / "cache"


@pytest.fixture(params=["memory", "file"])
def base(request, tmp_path):
    """A place for runs."""
    return "memory://bucket/runs" if request.param == "memory" else f"file://{tmp_path}/remote"


def files(uri):
    filesystem, root = storage._open(uri)
    return {storage._below(name, root) for name in filesystem.find(root)}


def remembered(messages):
    return messages.append


class Away:
    """A file system that fails while it is away."""

    def __init__(self, filesystem):
        self.filesystem = filesystem
        self.away = False
        self.put = []

    def __getattr__(self, name):
        if self.away:
            raise ConnectionError("could not connect")
        return getattr(self.filesystem, name)

    def put_file(self, path, remote):
        if self.away:
            raise ConnectionError("could not connect")
        self.put.append(remote.rpartition("/")[2])
        self.filesystem.put_file(path, remote)


def written(folder, cycle, content=1.0, keep=2):
    def fill(path):
        checkpoint.write_part(path, "weights", {}, {"weights": np.full(3, content)})

    return checkpoint.write(folder / "checkpoints", f"{cycle:010d}", fill, keep)


def test_a_run_by_uri_is_read_evaluated_and_gone_on_with(base, cache):
    run = train("q-learning", base, {"checkpoint.every": 1000})
    uri = run.summary["run_dir"]
    assert uri.startswith(f"{base}/q-learning/")
    metrics = tracking.read_metrics(run.dir)
    shutil.rmtree(cache)  # as on another machine
    again = rlgen.load(uri)
    assert again.dir.is_relative_to(cache)
    np.testing.assert_array_equal(again.weights, run.weights)
    assert tracking.read_metrics(again.dir) == metrics
    assert again.evaluate() == run.evaluate()
    shutil.rmtree(cache)
    longer = rlgen.resume(uri, {"stop.env_steps": 4000})
    assert longer.summary["run_dir"] == uri and longer.summary["env_steps"] >= 4000
    shutil.rmtree(cache)
    np.testing.assert_array_equal(rlgen.load(uri).weights, longer.weights)
    assert storage.runs(base) == [(uri, longer.summary)]
    # As if it had never been elsewhere.
    whole = train("q-learning", cache / "local", {"checkpoint.every": 1000, "stop.env_steps": 4000})
    np.testing.assert_array_equal(whole.weights, longer.weights)


def test_the_commands_take_a_uri(tmp_path, cache):
    base = f"file://{tmp_path}/remote"
    overrides = [f"run.dir={base}", "stop.env_steps=600", "evaluation.episodes=2"]
    result = CliRunner().invoke(app, ["train", "q-learning-cliff", *overrides, "-q", "--json"])
    uri = json.loads(result.stdout.splitlines()[-1])["run_dir"]
    shutil.rmtree(cache)
    result = CliRunner().invoke(app, ["eval", uri, "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["run_dir"] == uri
    shutil.rmtree(cache)
    more = ["stop.env_steps=1200", "-q", "--json"]
    result = CliRunner().invoke(app, ["resume", uri, *more])
    assert json.loads(result.stdout.splitlines()[-1])["env_steps"] >= 1200
    result = CliRunner().invoke(app, ["runs", base])
    assert uri in result.output.replace("\n", "") and "env_steps" in result.output


def test_metrics_arrive_while_the_run_goes_on_and_a_kill_leaves_what_was_sent(tmp_path):
    remote, cache = tmp_path / "remote", tmp_path / "elsewhere"
    code = "from rlgen import storage; storage.EVERY_S = 0.1\nfrom rlgen.cli import main; main()"
    overrides = [
        f"run.dir=file://{remote}", "stop={seconds: 600}", "evaluation.every=0",
        "checkpoint.every=500", "tracking.every_s=0.05",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", "q-learning-cliff", *overrides, "-q"],
        env={**os.environ, storage.CACHE_VARIABLE: str(cache), "OMP_NUM_THREADS": "1"},
    )
    try:

        def sent():
            found = [*remote.glob("*/*/metrics.jsonl")]
            whole = [*remote.glob("*/*/checkpoints/*/manifest.json")]
            return (found[0].stat().st_size if found else 0), len(whole)

        sizes = set()
        while len(sizes) < 4 or not sent()[1]:
            assert process.poll() is None
            sizes.add(sent()[0])
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = remote.glob("*/*")
    uri = f"file://{folder}"
    assert storage.runs(f"file://{remote}") == [(uri, {})]
    latest = checkpoint.read_part(rlgen.load(uri).checkpoint, "run")[0]["counters"]["env_steps"]
    run = rlgen.resume(uri, {"stop": {"env_steps": latest + 500}})
    assert run.summary["env_steps"] >= latest + 500
    assert any("resumed from" in r.get("message", "") for r in tracking.read_metrics(run.dir))


def test_a_checkpoint_is_there_only_once_its_manifest_is(tmp_path):
    folder, uri = tmp_path / "run", "memory://bucket/runs/a/b"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: a")
    written(folder, 1)
    mirror = storage.Mirror(folder, uri, print)
    mirror._filesystem = away = Away(mirror._filesystem)
    newer = written(folder, 2, 2.0)
    put, mirror_put = [], away.put_file

    def breaks(path, remote):
        if remote.endswith("manifest.json"):
            away.away = True
        put.append(remote.rpartition("/")[2])
        mirror_put(path, remote)

    away.put_file = breaks
    with pytest.raises(ConnectionError):
        mirror.push()
    assert put[-1] == "manifest.json" and len(put) == 3
    assert "checkpoints/0000000002/manifest.json" not in files(uri)
    (folder / storage.PENDING).unlink()
    fetched = storage.fetch(uri, print)
    assert checkpoint.latest(fetched / "checkpoints", print).name == "0000000001"
    away.away, away.put_file = False, mirror_put
    mirror.push()
    fetched = storage.fetch(uri, print)
    latest = checkpoint.latest(fetched / "checkpoints", print)
    assert latest.name == newer.name
    np.testing.assert_array_equal(checkpoint.read_part(latest, "weights")[1]["weights"], [2.0] * 3)
    mirror.close()


def test_a_checkpoint_that_is_let_go_while_it_is_sent_arrives_whole(tmp_path):
    """As where checkpoints are written faster than the storage takes them."""
    folder, uri = tmp_path / "run", "memory://bucket/runs/a/b"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: a")
    mirror = storage.Mirror(folder, uri, print)
    mirror._filesystem = slow = Away(mirror._filesystem)
    put = slow.put_file

    def let_go(path, remote):
        if "checkpoints" in remote:
            written(folder, 2, 2.0, keep=1)
        put(path, remote)

    slow.put_file = let_go
    first = written(folder, 1)
    mirror.push()
    assert not first.exists()
    latest = checkpoint.latest(storage.fetch(uri, print) / "checkpoints", print)
    assert latest.name == first.name
    slow.put_file = put
    mirror.close()
    latest = checkpoint.latest(storage.fetch(uri, print) / "checkpoints", print)
    assert latest.name == "0000000002"
    assert {name.split("/")[1] for name in files(uri) if "/" in name} == {latest.name}
    assert not list(folder.glob(".sending*"))


def test_old_checkpoints_go_and_a_rewritten_one_is_sent_again(base, tmp_path):
    folder, uri = tmp_path / "run", f"{base}/a/b"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: a")
    mirror = storage.Mirror(folder, uri, print)
    for cycle in range(4):
        written(folder, cycle)
        mirror.push()
    kept = {name.split("/")[1] for name in files(uri) if name.startswith("checkpoints/")}
    assert kept == {"0000000002", "0000000003"}
    written(folder, 3, 5.0)
    mirror.close()
    latest = checkpoint.latest(storage.fetch(uri, print) / "checkpoints", print)
    np.testing.assert_array_equal(checkpoint.read_part(latest, "weights")[1]["weights"], [5.0] * 3)


def test_a_damaged_checkpoint_at_a_uri_gives_the_one_before(tmp_path):
    folder, uri, told = tmp_path / "run", "memory://bucket/runs/a/b", []
    folder.mkdir()
    (folder / "config.yaml").write_text("name: a")
    written(folder, 1)
    written(folder, 2, 2.0)
    storage.Mirror(folder, uri, print).close()
    name = f"{uri}/checkpoints/0000000002/weights.safetensors"
    filesystem, path = storage._open(name)
    content = bytearray(filesystem.cat_file(path))
    content[-1] ^= 1
    filesystem.pipe_file(path, bytes(content))
    fetched = storage.fetch(uri, print)
    assert checkpoint.latest(fetched / "checkpoints", told.append).name == "0000000001"
    assert "does not match its sha256" in told[0]


def test_while_the_storage_is_away_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "EVERY_S", 0.02)
    monkeypatch.setattr(storage, "LONGEST_PAUSE_S", 0.05)
    folder, uri, told = tmp_path / "run", "memory://bucket/runs/a/b", []
    folder.mkdir()
    (folder / "config.yaml").write_text("name: a")
    mirror = storage.Mirror(folder, uri, told.append)
    mirror._filesystem = away = Away(mirror._filesystem)
    away.away = True
    (folder / "metrics.jsonl").write_text("{}\n")
    wait_for(lambda: told)
    time.sleep(0.3)
    (message,) = told  # once, however often it is tried
    assert "uploads to memory://bucket/runs/a/b fail" in message and str(folder) in message
    away.away = False
    wait_for(lambda: "metrics.jsonl" in files(uri))
    wait_for(lambda: len(told) == 2)
    assert "work again" in told[1]
    mirror.close()
    assert not (folder / storage.PENDING).exists()


def wait_for(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_what_could_not_be_uploaded_is_named_kept_and_pushed_later(monkeypatch, cache, tmp_path):
    monkeypatch.setattr(storage, "LAST_ATTEMPTS", 2)
    uri, told = "memory://bucket/runs/a/b", []
    folder = storage.workspace(uri)
    folder.mkdir(parents=True)
    storage.belongs(folder, uri)
    (folder / "config.yaml").write_text("name: a")
    mirror = storage.mirror(folder, told.append)
    mirror._filesystem = away = Away(mirror._filesystem)
    away.away = True
    (folder / "summary.json").write_text('{"stop_reason": "late"}')
    mirror.close()
    assert f"'rlgen push {folder}' uploads the rest" in told[-1]
    # Whoever reads the URI meanwhile gets what is there, and does not harm what is not.
    fetched = storage.fetch(uri, told.append)
    assert fetched != folder and "was not uploaded yet" in told[-1]
    assert not (fetched / "summary.json").exists() and (folder / "summary.json").exists()
    result = CliRunner().invoke(app, ["push", str(folder)])
    assert result.exit_code == 0, result.output
    assert rundir.read_summary(storage.fetch(uri, print)) == {"stop_reason": "late"}


def test_a_place_that_cannot_be_written_is_an_error_before_the_training(tmp_path):
    (tmp_path / "remote").write_text("a file, no folder")
    with pytest.raises(ConfigError, match=r"run\.dir: 'file://.*' cannot be written: "):
        train("q-learning", f"file://{tmp_path}/remote")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftpp://host/runs", "nothing is known of ftpp://"),
        ("memory://bucket/nothing", "is not a run: it has no config.yaml"),
    ],
)
def test_a_uri_of_nothing_is_one_message(uri, message):
    with pytest.raises((ConfigError, CheckpointError)) as error:
        rlgen.load(uri)
    assert message in str(error.value)


def test_s3_without_pyarrow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlgen\[storage\]'"):
        storage.check("s3://bucket/runs")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError("When listing objects: AWS Error ACCESS_DENIED"), "are there credentials"),
        (OSError("Bucket 'b' not found"), "make the bucket first"),
        (OSError("curlCode: 6, Couldn't resolve host name"), "is the network there?"),
        (ValueError("else"), "ValueError: else"),
    ],
)
def test_an_error_of_the_storage_comes_with_what_may_help(error, hint):
    assert storage._reason(error).endswith(hint) or hint in storage._reason(error)


def test_names_that_lead_out_of_the_folder_are_not_fetched(cache):
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/bucket/runs/a/b/config.yaml", b"name: a")
    filesystem.pipe_file("/bucket/runs/a/b/../../../../evil", b"x")
    filesystem.store["/bucket/runs/a/b/../evil"] = filesystem.store["/bucket/runs/a/b/config.yaml"]
    folder = storage.fetch("memory://bucket/runs/a/b", print)
    assert {p.name for p in folder.parent.rglob("*")} == {"b", "config.yaml", ".uri"}


def test_a_folder_stays_a_folder(tmp_path):
    experiment = config.load_experiment("q-learning-cliff", [f"run.dir={tmp_path}/runs/"])
    assert experiment.run.dir == f"{tmp_path}/runs"
    folder = rundir.create(experiment)
    assert folder.parent == Path(tmp_path, "runs", "q-learning-cliff")
    assert storage.origin(folder) is None and storage.mirror(folder, print) is None


# --- a server of S3's protocol --------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """The URI of a bucket on a server of our own, which the environment names."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    there = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for key, value in there.items():
        monkeypatch.setenv(key, value)
    arrow = {"endpoint_override": there["AWS_ENDPOINT_URL"], "region": "us-east-1"}
    fs.S3FileSystem(allow_bucket_creation=True, **arrow).create_dir("tests")
    yield "s3://tests"
    server.stop()


def on_s3(*arguments, begin=False):
    """A command in a process of its own; its answer, or the process while it runs."""
    code = "from rlgen import storage; storage.EVERY_S = 0.2\nfrom rlgen.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if begin:
        return process
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_a_run_on_s3_is_killed_resumed_listed_and_evaluated(bucket, cache, tmp_path):
    base = f"{bucket}/runs"
    settings = ["stop.target=null", "evaluation.every=0", "checkpoint.every=2000"]
    process = on_s3(
        *("train", "q-learning-cliff", f"run.dir={base}", "stop={seconds: 600}", *settings, "-q"),
        begin=True,
    )
    try:
        while not any(name.endswith("/manifest.json") for name in files(base)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    ((uri, summary),) = storage.runs(base)
    assert uri.startswith(f"{base}/q-learning-cliff/") and summary == {}
    shutil.rmtree(cache)  # as on another machine
    kept = checkpoint.read_part(rlgen.load(uri).checkpoint, "run")[0]["counters"]["env_steps"]
    shutil.rmtree(cache)
    most = kept + 2_000
    resumed = on_s3("resume", uri, f"stop={{env_steps: {most}}}", "-q", "--json")
    assert resumed["run_dir"] == uri and resumed["env_steps"] >= most
    shutil.rmtree(cache)
    (entry,) = on_s3("runs", base, "--json")["runs"]
    assert entry == {"run": uri, "summary": rundir.read_summary(rlgen.load(uri).dir)}
    shutil.rmtree(cache)
    assert on_s3("eval", uri, "--json")["run_dir"] == uri
    # It ended with the weights of a run that was never killed, nor elsewhere.
    whole = rlgen.train(
        "q-learning-cliff",
        {"run.dir": str(tmp_path), "stop": {"env_steps": most}, "evaluation.every": 0},
    )
    np.testing.assert_array_equal(rlgen.load(uri).weights, whole.weights)


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_one_message(bucket):
    process = on_s3("train", "q-learning-cliff", "run.dir=s3://absent/runs", "-q", begin=True)
    err = process.communicate()[1]
    assert process.returncode == 2 and "Traceback" not in err
    assert "run.dir: 's3://absent/runs/" in err and "make the bucket first" in err
