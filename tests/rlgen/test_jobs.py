"""Jobs on a real head in token mode: one for the whole file, as its start takes seconds."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from experiments import TINY

HERE = Path(__file__).parent
CPUS = 4


def free_ports(count):
    """Ports that nobody has, outside of those of Ray's workers (10002 to 19999)."""
    found = []
    while len(found) < count:
        with socket.socket() as probe:
            port = secrets.randbelow(20_000) + 40_000
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


pytestmark = pytest.mark.slow  # a head of its own, and a job takes half a minute


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head that asks for a token; the Pythons on its PATH are none."""
    folder = Path(tempfile.mkdtemp(prefix="rl"))  # short: sockets have paths of 107 characters
    home = folder / "home"
    home.mkdir()
    token = secrets.token_hex(32)
    file = folder / "token"
    file.write_text(token)
    file.chmod(0o600)
    tools = folder / "bin"
    tools.mkdir()
    for tool in ("awk", "bash", "sed", "sh", "sleep", "tr"):
        (tools / tool).symlink_to(shutil.which(tool))
    for tool in ("python", "python3"):
        (tools / tool).symlink_to(shutil.which("false"))
    dashboard, client = free_ports(2)
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("RAY_") and key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
        "PATH": str(tools),
    }
    command = [
        *(Path(sys.executable).parent / "ray", "start", "--head", "--block", "--port=0"),
        *(f"--temp-dir={folder}/r", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *("--dashboard-agent-listen-port=0", f"--num-cpus={CPUS}", "--num-gpus=0"),
        "--object-store-memory=100000000",
    ]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True, cwd=folder
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: answers(address), process, log)
        there = SimpleNamespace(
            address=address, token=token, file=file, home=home, environment=environment
        )
        wait_for(lambda: resources(there), process, log)
        yield there
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        for entry in Path("/proc").glob("[0-9]*"):  # whatever of this head's is left
            try:
                left = str(folder).encode() in (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if left and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(condition, process=None, log=None):
    while not condition():
        assert process is None or process.poll() is None, log.read_text()
        time.sleep(0.3)


def answers(address):
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code == 401  # a token is asked for
    except OSError:
        return False
    raise AssertionError("a head in token mode answered without one")


def resources(head):
    """Whether the cluster says what it has: some seconds after its start."""
    request = urllib.request.Request(
        f"{head.address}/api/cluster_status", headers={"Authorization": f"Bearer {head.token}"}
    )
    status = json.load(urllib.request.urlopen(request, timeout=5))["data"]["clusterStatus"]
    return (status or {}).get("loadMetricsReport", {}).get("usage", {}).get("CPU")


def rlgen(head, *arguments, cwd=None, status=0, **environment):
    """Run a command against the head; what it prints on stdout and stderr, never a token."""
    given = {"RAY_AUTH_TOKEN_PATH": str(head.file), "OMP_NUM_THREADS": "1", **environment}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "rlgen", *arguments],
        env={**kept, **{key: value for key, value in given.items() if value is not None}},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert head.token not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def answer(head, *arguments, **more):
    out, _ = rlgen(head, *arguments, "--json", "--address", head.address, **more)
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def done(head, tmp_path_factory):
    """A job of a configuration file and an algorithm of the user's own, followed to its end."""
    folder = tmp_path_factory.mktemp("jobs")
    plain = {**TINY["own_algorithm:RandomSearch"], "evaluation": {"episodes": 3}}
    plain["stop"] = {"env_steps": 600}
    (folder / "mine.yaml").write_text(yaml.safe_dump(plain))
    out, err = rlgen(
        head,
        *("submit", "mine.yaml", "seed=3", "--address", head.address, "--job", "first", "--follow"),
        *("--module", str(HERE / "own_algorithm.py")),
        cwd=folder,
    )
    return SimpleNamespace(folder=folder, out=out, err=err)


def test_a_job_runs_as_the_local_command_would(head, done):
    assert "submitted first" in done.out
    assert "mine: ended after 600 environment steps" in done.out  # the log, followed
    assert f"first: SUCCEEDED\nnext: rlgen pull first --address {head.address}" in done.out
    out, _ = rlgen(head, "logs", "first", "--address", head.address)
    assert "mine: ended after 600 environment steps" in out
    (entry,) = [e for e in answer(head, "jobs")["jobs"] if e["job"] == "first"]
    assert entry["status"] == "SUCCEEDED" and entry["what"] == "mine.yaml seed=3"
    out, _ = rlgen(head, "jobs", "--address", head.address)
    assert re.search(r"^first +SUCCEEDED .* mine\.yaml seed=3$", out, re.MULTILINE)
    out, _ = rlgen(head, "status", "first", "--address", head.address)
    assert "exit status 0" in out
    (run,) = (head.home / "runs" / "first" / "mine").iterdir()  # on the head
    resolved = yaml.safe_load((run / "config.yaml").read_text())
    assert resolved["scheduler"]["backend"] == "ray" and resolved["seed"] == 3


def test_its_run_comes_home_and_can_be_evaluated(head, done):
    home = done.folder / "home"
    (run,) = answer(head, "pull", "first", "-o", str(home))["runs"]
    (there,) = (head.home / "runs" / "first" / "mine").iterdir()
    assert Path(run) == home / "mine" / there.name
    files = {path.relative_to(there): path for path in there.rglob("*") if path.is_file()}
    assert any(path.name == "manifest.json" for path in files)
    for name, path in files.items():
        assert (Path(run) / name).read_bytes() == path.read_bytes()
    assert [path.name for path in home.iterdir()] == ["mine"]  # nothing else is left
    out, _ = rlgen(head, "eval", run, PYTHONPATH=str(HERE))
    assert "over 3 episodes" in out
    _, err = rlgen(head, "pull", "first", "-o", str(home), "--address", head.address, status=2)
    assert "is here already; replace it with --force" in err
    assert {e["job"] for e in answer(head, "jobs")["jobs"]} == {"first"}  # pulling leaves none
    for log in (head.file.parent / "r" / "session_latest" / "logs").glob("job-driver-first-pull-*"):
        assert log.stat().st_size < 2000  # nor its parcel in a log


def test_who_has_not_the_token_is_told_so(head):
    at = ("jobs", "--address", head.address)
    _, err = rlgen(head, *at, status=2, RAY_AUTH_MODE="disabled")
    assert "asks for a token, but RAY_AUTH_MODE=disabled is set here; unset it" in err
    empty = {"RAY_AUTH_TOKEN_PATH": None, "HOME": str(head.home)}
    _, err = rlgen(head, *at, status=2, **empty)
    assert "asks for a token, and there is none here" in err
    _, err = rlgen(head, *at, status=2, RAY_AUTH_TOKEN="0" * 64)
    assert "refuses the token" in err and "0" * 64 not in err


def test_a_tokens_file_that_others_may_read_is_closed(head):
    head.file.chmod(0o644)
    _, err = rlgen(head, "jobs", "--address", head.address)
    assert "its mode is now 0600" in err
    assert head.file.stat().st_mode & 0o777 == 0o600


def test_the_given_address_counts_whatever_ray_finds_in_the_environment(head, done):
    elsewhere = {"RAY_ADDRESS": "127.0.0.1:1", "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}
    assert answer(head, "jobs", **elsewhere)["jobs"]
    out, _ = rlgen(head, "jobs", "--json", RAY_API_SERVER_ADDRESS=head.address)  # none given
    assert json.loads(out)["jobs"]


def test_mistakes_are_refused_before_anything_is_sent(head, done):
    def error(*arguments):
        return rlgen(head, *arguments, "--address", head.address, status=2)[1]

    assert "has had a job 'first'" in error("submit", "q-learning-cliff", "--job", "first")
    many = error("submit", "q-learning-cliff", "scheduler.workers=40")
    assert f"needs 42 CPUs, the cluster has {CPUS}" in many
    assert "did you mean 'first'" in error("status", "firts")


def test_a_job_that_fails_says_why(head, tmp_path):
    """Its data set is not on the head: it fails there, at once."""
    config = {**TINY["vae"], "data": {"name": "mnist", "root": str(tmp_path)}}
    (tmp_path / "absent.yaml").write_text(yaml.safe_dump(config))
    _, err = rlgen(
        head,
        *("submit", "absent.yaml", "--job", "absent", "--follow", "--address", head.address),
        cwd=tmp_path,
        status=2,
    )
    assert f"data.root: {tmp_path} is not sent; it must be there on every node" in err
    assert re.search(r"rlgen: absent FAILED: .*mnist", err)
    assert answer(head, "status", "absent")["exit"] == 2


LONG = ("q-learning-cliff", "stop.env_steps=null", "stop.target=null", "evaluation.every=0")


def begin(head):
    """A job that would run for an hour, once it trains: its name, and its runs on the head."""
    name = answer(head, "submit", *LONG, "stop.seconds=3600")["job"]
    runs = head.home / "runs" / name
    wait_for(lambda: list(runs.glob("*/*/metrics.jsonl")))
    return name, runs


def test_a_job_that_is_stopped_leaves_a_checkpoint(head):
    name, runs = begin(head)
    assert re.fullmatch(r"q-learning-cliff-\d{8}-\d{6}-[0-9a-f]{4}", name)
    out, _ = rlgen(head, "status", name, "--address", head.address)
    assert f"{name}: RUNNING\nwhat: {' '.join(LONG)} stop.seconds=3600" in out
    assert f"its plan needs 3 CPUs; the cluster has {CPUS} CPUs" in out
    assert not list(runs.glob("*/*/checkpoints/*"))
    assert answer(head, "stop", name)["status"] == "STOPPED"
    assert list(runs.glob("*/*/checkpoints/*/manifest.json"))


def test_what_waits_for_others_is_explained(head, tmp_path):
    name, _ = begin(head)
    # Ray cannot even start this one's process: it asks for more than there is.
    ask = (
        "from ray.job_submission import JobSubmissionClient as C;"
        f"C({head.address!r}).submit_job(entrypoint='true', submission_id='hopeless', "
        "entrypoint_num_cpus=100, metadata={'rlgen': 'x', 'runs': 'runs', 'CPU': '100'})"
    )
    subprocess.run([sys.executable, "-c", ask], env=head.environment, check=True)
    out, _ = rlgen(head, "status", "hopeless", "--address", head.address)
    assert "hopeless: PENDING" in out
    assert f"needs 100 CPUs; the cluster has {CPUS} CPUs" in out and "cannot run until" in out
    _, err = rlgen(head, "stop", "hopeless", "--address", head.address)
    assert "has not begun yet, and ends as soon as it does" in err
    # The cluster is told of its use every few seconds.
    wait_for(lambda: answer(head, "status", name)["free"].get("CPU") == 1.0)
    out, err = rlgen(head, "submit", *LONG, "stop.seconds=5", "--address", head.address)
    assert "1 of them free; the job waits until others have ended" in err
    second = re.search(r"^submitted (\S+)", out, re.MULTILINE)[1]
    wait_for(lambda: answer(head, "status", second)["waiting"])
    assert answer(head, "stop", name)["status"] == "STOPPED"
    out, _ = rlgen(head, "logs", second, "--follow", "--address", head.address)
    assert out.rstrip().endswith(f"{second}: SUCCEEDED")
    (run,) = answer(head, "pull", second, "-o", str(tmp_path))["runs"]
    (Path(run) / "config.yaml").write_text("spoilt")
    assert answer(head, "pull", second, "-o", str(tmp_path), "--force")["runs"] == [run]
    assert "stop:" in (Path(run) / "config.yaml").read_text()
    out, _ = rlgen(head, "stop", second, "--address", head.address)
    assert "had ended already: SUCCEEDED" in out


def test_dqn_on_a_cluster_from_submit_to_eval(head, tmp_path):
    """What the documentation shows, word by word, with a configuration that has to learn."""
    out, _ = rlgen(
        head, *("submit", "dqn-cartpole", "--address", head.address, "--follow"), cwd=tmp_path
    )
    (name,) = re.findall(r"^submitted (\S+)", out, re.MULTILINE)
    assert "dqn-cartpole: reached the target" in out
    assert re.search(
        rf"^{name} +SUCCEEDED", rlgen(head, "jobs", "--address", head.address)[0], re.MULTILINE
    )
    rlgen(head, "pull", name, "--address", head.address, cwd=tmp_path)
    (run,) = (tmp_path / "runs" / "dqn-cartpole").iterdir()
    out, _ = rlgen(head, "eval", str(run))
    assert float(re.search(r"greedy return ([\d.]+)", out)[1]) > 400
