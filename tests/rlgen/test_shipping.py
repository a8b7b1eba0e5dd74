"""What jobs take along and bring home, and the token: all that needs no cluster."""

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from rlgen import jobs, parcel, shipping
from rlgen.backends import cluster, tokens
from rlgen.backends.jobs import Head
from rlgen.cli import app
from rlgen.errors import ConfigError

ROOT = Path(__file__).parents[2]


# --- parcels ------------------------------------------------------------------------------------


def packed(folder):
    out = io.StringIO()
    parcel.pack(folder, out)
    return out.getvalue()


def unpacked(text, target):
    return parcel.unpack(["a line before", *text.splitlines(), "one after"], target, io.BytesIO())


def parcel_of(*members):
    """A parcel of what no `pack` would write: name, type, link, contents."""
    data = io.BytesIO()
    with tarfile.open(mode="w:gz", fileobj=data) as tar:
        for name, kind, link, contents in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(contents)
            tar.addfile(info, io.BytesIO(contents))
    whole = data.getvalue()
    digest = hashlib.sha256(whole).hexdigest()
    return "\n".join([parcel.BEGIN, base64.b64encode(whole).decode(), f"{parcel.END} {digest}"])


def test_a_folder_comes_out_as_it_went_in(tmp_path):
    there = tmp_path / "there"
    (there / "run" / "checkpoints" / ".7.partial").mkdir(parents=True)
    (there / "run" / "empty").mkdir()
    (there / "run" / "big").write_bytes(os.urandom(200_000))  # many lines
    (there / "run" / "none").touch()
    (there / "run" / "checkpoints" / ".7.partial" / "run.json").write_text("not whole yet")
    (there / "link").symlink_to("/etc/passwd")
    home = tmp_path / "home"
    assert unpacked(packed(there), home)
    assert (home / "run" / "big").read_bytes() == (there / "run" / "big").read_bytes()
    names = {path.relative_to(home).as_posix() for path in home.rglob("*")}
    assert names == {"run", "run/big", "run/none", "run/empty", "run/checkpoints"}
    assert not unpacked(packed(tmp_path / "absent"), tmp_path / "nothing")


def test_a_parcel_that_was_cut_or_altered_is_refused(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(os.urandom(100_000))
    text = packed(tmp_path / "there")
    lines = text.splitlines()
    with pytest.raises(ValueError, match="cut short|damaged"):
        unpacked("\n".join(lines[:-1]), tmp_path / "a")
    with pytest.raises(ValueError, match="damaged"):
        unpacked("\n".join([lines[0], *lines[2:]]), tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../out", tarfile.REGTYPE, ""),
        ("/tmp/out", tarfile.REGTYPE, ""),
        ("run/../../out", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.LNKTYPE, "../out"),
        ("fifo", tarfile.FIFOTYPE, ""),
    ],
)
def test_nothing_is_written_outside_of_the_folder(tmp_path, name, kind, link):
    with pytest.raises(ValueError, match="lies outside of it|no plain file or folder"):
        unpacked(parcel_of((name, kind, link, b"")), tmp_path / "home" / "runs")
    assert not (tmp_path / "home" / "out").exists() and not (tmp_path / "out").exists()


def test_a_parcel_never_replaces_a_file(tmp_path):
    twice = [("file", tarfile.REGTYPE, "", b"a"), ("file", tarfile.REGTYPE, "", b"b")]
    with pytest.raises(FileExistsError):
        unpacked(parcel_of(*twice), tmp_path)


def test_the_log_is_empty_once_the_parcel_was_taken(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "file").write_text("x")
    log = tmp_path / "log"
    with log.open("a") as out:  # as Ray opens a job's log
        process = subprocess.Popen(["python3", parcel.__file__, tmp_path / "runs"], stdout=out)
    while parcel.END not in log.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 0
    assert log.read_text() == ""


# --- what is sent -------------------------------------------------------------------------------


def test_the_package_is_laid_out_as_it_is_installed(tmp_path):
    target = shipping.stage_package(tmp_path)
    sources = {"": "rlgen"} | {f"{name}/": name for name in shipping.FOLDERS}
    expected = {
        f"{prefix}{path.relative_to(ROOT / folder).as_posix()}"
        for prefix, folder in sources.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {
        path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()
    } == (expected)


def test_modules_are_packages_or_files_of_ones_own(tmp_path):
    package = tmp_path / "mine"
    (package / "__pycache__").mkdir(parents=True)
    (package / ".git").mkdir()
    (package / "__init__.py").write_text("x = 1")
    (tmp_path / "single.py").write_text("y = 2")
    staged = tmp_path / "staged"
    staged.mkdir()
    found = shipping.stage_modules([package, tmp_path / "single.py"], staged, staged)
    assert found == [staged / "mine", staged / "single.py"]
    assert [path.name for path in (staged / "mine").iterdir()] == ["__init__.py"]
    (tmp_path / "rlgen").mkdir()
    (tmp_path / "not-a-name").mkdir()
    (tmp_path / "data.csv").touch()
    for wrong, said in (
        ("rlgen", "would hide another"),
        ("mine", "would hide another"),
        ("absent", "there is no"),
        ("not-a-name", "expected a package's folder"),
        ("data.csv", "expected a package's folder"),
    ):
        with pytest.raises(ConfigError, match=said):
            shipping.stage_modules([tmp_path / wrong], staged, staged)


def test_too_much_to_send_is_refused_by_its_largest_files(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "code.py").write_bytes(b"x" * 1000)
    (tmp_path / "mine" / "data.bin").write_bytes(b"x" * 3 * 2**20)
    assert shipping.check_size([tmp_path / "mine"], 4 * 2**20) == 3 * 2**20 + 1000
    with pytest.raises(ConfigError, match=r"3\.0 MiB to upload.* takes 2\.0 MiB \(data\.bin 3\.0"):
        shipping.check_size([tmp_path / "mine"], 2 * 2**20)


@pytest.mark.parametrize(
    ("base", "word"),
    [
        ("runs", '"$HOME"/runs/job'),
        ("./my runs/", "\"$HOME\"/'my runs/job'"),
        ("~/all", '"$HOME"/all/job'),
        (".", '"$HOME"/job'),
        ("/shared/$(reboot)", "'/shared/$(reboot)/job'"),
        ("s3://bucket/runs", "s3://bucket/runs/job"),
    ],
)
def test_where_a_job_writes_is_one_word_of_the_shell(base, word):
    assert shipping.run_dir(base, "job") == word
    said = subprocess.run(["sh", "-c", f"printf %s {word}"], capture_output=True, text=True)
    assert said.stdout == word.replace('"$HOME"', os.environ["HOME"]).replace("'", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scheduler.backend=inline",), "scheduler.backend: a job always runs with ray"),
        (("--job", "a b"), "--job: expected letters"),
        (("--job", ".."), "--job: expected letters"),
        (("stop.env_step=1",), "stop.env_step: unknown key; did you mean 'env_steps'?"),
        (("--module", "/nowhere/mine"), "--module: there is no '/nowhere/mine'"),
        (("--address", "ray://head:10001"), "expected the head's dashboard, http://HOST:8265"),
        (("--address", "http://127.0.0.1:1"), "no head answers at http://127.0.0.1:1"),
    ],
)
def test_what_cannot_be_sent_is_said_at_once(arguments, said):
    done = CliRunner().invoke(app, ["submit", "q-learning-cliff", *arguments])
    assert done.exit_code == 2 and said in done.output


# --- what a head is asked -------------------------------------------------------------------------


class JobsApi(BaseHTTPRequestHandler):
    """The requests of Ray's Jobs API that submitting and listing make, with a token."""

    def answer(self, status, body=None):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do(self):
        there, path = self.server.there, self.path
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {there.token}":
            return self.answer(401, "Unauthorized: Missing authentication token")
        if path == "/api/version":
            return self.answer(200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})
        if path == "/api/cluster_status":
            usage = {"CPU": [1.0, there.cpus]}
            report = {"loadMetricsReport": {"usage": usage, "resourceDemand": []}}
            return self.answer(200, {"data": {"clusterStatus": report}})
        if path.startswith("/api/packages/"):
            if self.command == "PUT":
                there.packages[path.rpartition("/")[2]] = data
                there.uploads += 1
            return self.answer(200 if path.rpartition("/")[2] in there.packages else 404)
        if (path, self.command) == ("/api/jobs/", "POST"):
            asked = json.loads(data)
            there.asked.append(asked)
            name = asked["submission_id"]
            there.jobs[name] = {
                "type": "SUBMISSION",
                "submission_id": name,
                "status": "SUCCEEDED",
                "entrypoint": asked["entrypoint"],
                "metadata": asked["metadata"],
                "start_time": 1_700_000_000_000,
                "end_time": 1_700_000_065_000,
                "driver_exit_code": 0,
            }
            return self.answer(200, {"job_id": name, "submission_id": name})
        if path == "/api/jobs/":
            return self.answer(200, list(there.jobs.values()))
        if path.endswith("/logs"):
            return self.answer(200, {"logs": "what it printed\n"})
        job = there.jobs.get(path.rpartition("/")[2])
        return self.answer(200, job) if job else self.answer(404, "no such job")

    do_GET = do_POST = do_PUT = do  # noqa: N815 (names that http.server looks for)

    def log_message(self, *about):
        """Say nothing."""


@pytest.fixture
def head(monkeypatch):
    """A head with 4 CPUs that keeps what it was sent, and asks for a token that we have."""
    token = "f" * 64
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    monkeypatch.setattr(cluster, "_GIVEN", {"RAY_AUTH_TOKEN_PATH": None, **given})
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), JobsApi) as server:
        there = SimpleNamespace(token=token, cpus=4.0, packages={}, uploads=0, jobs={}, asked=[])
        server.there = there
        there.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield there
        server.shutdown()


def say(head, *arguments, status=0):
    done = CliRunner().invoke(app, [*arguments, "--address", head.address])
    assert done.exit_code == status, done.output
    assert head.token not in done.output
    return done.output


def test_what_a_head_is_sent_is_the_local_command(head, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("HERE = 1\n")
    command = ("submit", "q-learning-cliff", "seed=7", "--job", "one")
    out = say(head, *command, "--module", str(tmp_path / "mine"))
    assert "submitted one" in out and "next: rlgen logs one --follow" in out
    (asked,) = head.asked
    assert asked["submission_id"] == "one"
    assert re.fullmatch(
        r"sh start\.sh rlgen train (\S+\.yaml) scheduler\.backend=ray scheduler\.address=auto "
        r'run\.dir="\$HOME"/runs/one',
        asked["entrypoint"],
    )
    environment = asked["runtime_env"]
    sent = {}
    for uri in (environment["working_dir"], *environment["py_modules"]):
        with zipfile.ZipFile(io.BytesIO(head.packages[uri.rpartition("/")[2]])) as package:
            sent |= {name: package.read(name) for name in package.namelist()}
    assert {"mine/__init__.py", "rlgen/cli.py", "rlgen/agents/q_learning.py", "start.sh"} <= set(
        sent
    )
    assert sent["rlgen/cli.py"] == (ROOT / "rlgen" / "cli.py").read_bytes()
    (config,) = (
        yaml.safe_load(sent[name])
        for name in sent
        if name.endswith("cliff.yaml") and "/" not in name
    )
    assert config["seed"] == 7 and config["algorithm"] == "q-learning"
    assert not any(head.token.encode() in data for data in sent.values())
    uploads = head.uploads
    assert "has had a job 'one'" in say(head, *command, status=2)
    say(head, "submit", "q-learning-cliff", "seed=7", "--job", "two")
    assert head.uploads == uploads  # equal contents are sent once
    many = say(head, "submit", "q-learning-cliff", "scheduler.workers=40", status=2)
    assert "needs 42 CPUs, the cluster has 4" in many and len(head.asked) == 2
    listed = say(head, "jobs")
    assert re.search(r"^one +SUCCEEDED .* 0:01:05  q-learning-cliff seed=7$", listed, re.MULTILINE)
    assert "exit status 0" in say(head, "status", "one")
    assert say(head, "logs", "one") == "what it printed\n"
    assert "did you mean 'one'" in say(head, "status", "onne", status=2)
    head.token = "e" * 64  # it is another one's now
    assert "asks for a token" in say(head, "jobs", status=2)


# --- words --------------------------------------------------------------------------------------


def test_what_a_job_waits_for_is_explained():
    needs = {"CPU": 9.0, "GPU": 1.0}
    said = jobs.explain("PENDING", needs, {"CPU": 4.0}, {"CPU": 1.0}, ["2 x 1 CPU"])
    assert "has not begun on the head" in said
    assert "needs 9 CPUs and 1 GPUs; the cluster has 4 CPUs, 1 of them free and 0 GPUs" in said
    assert "cannot run until nodes join" in said and "wait for 2 x 1 CPU" in said
    said = jobs.explain("RUNNING", {"CPU": 3.0, "GPU": 0.0}, {"CPU": 4.0}, {"CPU": 1.0}, [])
    assert said == "its plan needs 3 CPUs; the cluster has 4 CPUs, 1 of them free"


def test_a_log_is_taken_up_again_where_it_broke_off(monkeypatch):
    """The connection breaks twice; a line comes while it is away; nothing is written twice."""
    whole = "one\ntwo\nthree\nfour\n"
    chunks = [["one\n", "two\n"], ["one\n", "two\n", "three\n"]]

    async def tail(job):
        for text in chunks.pop(0):
            yield text
        raise RuntimeError("the connection was lost")

    states = [SimpleNamespace(is_terminal=lambda: False), SimpleNamespace(is_terminal=lambda: True)]
    head = object.__new__(Head)
    head._client = SimpleNamespace(tail_job_logs=tail)
    monkeypatch.setattr(head, "job", lambda name: SimpleNamespace(status=states.pop(0)))
    monkeypatch.setattr(head, "log", lambda name: whole)
    written = []
    head.follow("job", written.append)
    assert "".join(written) == whole


# --- the token ----------------------------------------------------------------------------------


def choose(**environment):
    said = []
    return tokens.choose_mode(environment, said.append), said


def test_a_token_is_used_wherever_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert choose() == ("disabled", [])
    file = tmp_path / ".ray" / "auth_token"
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert tokens.make_token() == (file, True)
    assert file.stat().st_mode & 0o777 == 0o600 and len(file.read_text()) == 64
    before = file.read_text()
    file.chmod(0o640)
    assert tokens.make_token() == (file, False)  # kept, and closed again
    assert file.read_text() == before and file.stat().st_mode & 0o777 == 0o600
    assert choose() == ("token", [])
    assert choose(RAY_AUTH_MODE="disabled") == ("disabled", [])
    file.chmod(0o644)
    mode, (said,) = choose()
    assert mode == "token" and "mode is now 0600" in said and before not in said
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_token_that_is_asked_for_and_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"RAY_AUTH_MODE=token, but .*rlgen token"):
        choose(RAY_AUTH_MODE="token")
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH: there is no token"):
        choose(RAY_AUTH_TOKEN_PATH=str(tmp_path / "absent"))  # at which Ray would abort
    with pytest.raises(ConfigError, match="expected 'token' or 'disabled'"):
        choose(RAY_AUTH_MODE="on")
    assert choose(RAY_AUTH_TOKEN="secret")[0] == "token"
