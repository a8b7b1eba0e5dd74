"""What jobs take along and bring home, and the token: all that needs no cluster."""

import base64
import hashlib
import io
import os
import subprocess
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from rlgen import jobs, parcel, shipping
from rlgen.backends import tokens
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
        if path.is_file() and path.suffix in (".py", ".yaml", ".npz", ".txt", ".typed")
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
