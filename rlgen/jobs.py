"""The commands of jobs on a Ray cluster: submit, jobs, logs, status, stop, pull, token."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from rlgen import parcel, shipping
from rlgen.command import AsJson, ConfigName, Debug, Overrides, replying
from rlgen.errors import ConfigError

OURS = ("backend", "address")  # of the section scheduler: a job's own
UNFIT = r"[^A-Za-z0-9._-]"  # in the name of a job
FAILED = 1  # exit status of a job that says none

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The dashboard of the cluster's head",
    ),
]
LOCAL = "http://127.0.0.1:8265"
Job = Annotated[str, typer.Argument(metavar="JOB", help="See 'rlgen jobs'")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show its log until it ends")]


def submit(
    config: ConfigName,
    overrides: Overrides = None,
    address: Address = LOCAL,
    module: Annotated[
        list[Path] | None,
        typer.Option("--module", metavar="DIR", help="A package, or FILE.py, to take along"),
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", help="Its name; made of the configuration's by default")
    ] = None,
    follow: Follow = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run 'rlgen train' as a job on a Ray cluster, with this package and your modules."""
    with replying(as_json, debug) as answer:
        from rlgen import config as configs
        from rlgen.plan import make_plan

        changes = configs.parse_overrides(overrides or ())
        for key in OURS:
            if f"scheduler.{key}" in changes:
                raise ConfigError(
                    f"scheduler.{key}: a job always runs with ray on the cluster it is sent to; "
                    "leave this out"
                )
        if job is not None and (re.search(UNFIT, job) or not job[:1].isalnum()):
            raise ConfigError(
                f"--job: expected letters, digits, then also '.', '-', '_'; got {job!r}"
            )
        sys.path[:0] = [str(path.resolve().parent) for path in module or ()]
        plain = configs.set_keys(configs.read_config(config), changes)
        here = {"scheduler.backend": "ray", "scheduler.address": "auto"}
        experiment = configs.resolve_experiment(configs.set_keys(plain, here))
        for key, path in shipping.local_files(experiment).items():
            plain = configs.set_keys(plain, {key: path})
            _warn(f"{key}: {path} is not sent; it must be there on every node of the cluster")
        _check_shipped(plain, module or [])

        plan = make_plan(experiment)
        needs = {
            "CPU": sum(role.count * role.cpus for role in plan),
            "GPU": sum(role.count * role.gpus for role in plan),
        }
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        fit = re.sub(UNFIT, "-", experiment.name)
        name = job or f"{fit}-{stamp}-{secrets.token_hex(2)}"
        base = str((plain.get("run") or {}).get("dir") or experiment.run.dir)
        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder)
            own = Path(folder, "rlgen-job")
            own.mkdir()
            # Ray takes folders as modules; files lie where the job begins, which is on the path.
            mine = shipping.stage_modules(module or (), staged, own)
            modules = [path for path in mine if path.is_dir()] + [shipping.stage_package(staged)]
            file = shipping.stage_run(plain, own / f"{fit}.yaml")
            size = shipping.check_size([*modules, own], _largest())
            head = _head(address)
            total, free, _ = head.resources()
            _check_fits(needs, total)
            head.submit(
                name,
                f"sh start.sh rlgen train {file.name} scheduler.backend=ray "
                f"scheduler.address=auto run.dir={shipping.run_dir(base, name)}",
                own,
                modules,
                {
                    "rlgen": " ".join([config, *(overrides or ())]),
                    "runs": base,
                    "CPU": f"{needs['CPU']:g}",
                    "GPU": f"{needs['GPU']:g}",
                },
            )
        answer |= {"job": name, "address": head.address, "bytes": size}
        print(f"submitted {name} ({size / shipping.MIB:.1f} MiB sent)")
        if experiment.scheduler.workers == configs.AUTO:
            print("scheduler.workers: auto: the job takes as many as fit when it begins")
        if free and any(needs[key] > free.get(key, 0.0) for key in needs):
            _warn(f"{resources(needs, total, free)}; the job waits until others have ended")
        if follow:
            _follow(head, name, answer)
            print(f"next: rlgen pull {name}{_at(address)}")
        else:
            print(f"next: rlgen logs {name} --follow{_at(address)}")
            print(f"      rlgen pull {name}{_at(address)}")


def jobs(address: Address = LOCAL, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the jobs of a cluster, the latest first."""
    with replying(as_json, debug) as answer:
        found = [info for info in _head(address).jobs() if _is_run(info)]
        answer["jobs"] = [describe(info) for info in found]
        if not found:
            print("no jobs; 'rlgen submit CONFIG' makes one")
            return
        width = max(len(entry["job"]) for entry in answer["jobs"])
        print(f"{'job':{width}}  {'status':9}  {'began':16}  {'took':>8}  what")
        for entry in answer["jobs"]:
            began = datetime.fromtimestamp(entry["began"]).strftime("%Y-%m-%d %H:%M")
            took = str(timedelta(seconds=round(entry["seconds"])))
            name, state = entry["job"], entry["status"]
            print(f"{name:{width}}  {state:9}  {began}  {took:>8}  {entry['what']}")


def logs(
    job: Job,
    address: Address = LOCAL,
    follow: Follow = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what a job has printed."""
    with replying(as_json, debug) as answer:
        head = _head(address)
        info = head.job(job)
        answer |= {"job": job, "status": info.status.value}
        if follow:
            _follow(head, job, answer)
        else:
            print(head.log(job), end="")


def status(
    job: Job, address: Address = LOCAL, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Show how a job does, and what it waits for."""
    with replying(as_json, debug) as answer:
        head = _head(address)
        info = head.job(job)
        answer |= describe(info)
        print(f"{job}: {info.status.value}")
        print(f"what: {answer['what']}")
        if info.status.is_terminal():
            took = timedelta(seconds=round(answer["seconds"]))
            print(f"ended after {took}, exit status {answer['exit']}")
            if info.status.value == "FAILED":
                print(f"why: {_last_words(head, info)}")
            return
        total, free, waiting = head.resources()
        answer |= {"total": total, "free": free, "waiting": waiting}
        print(explain(info.status.value, answer["needs"], total, free, waiting))


def stop(job: Job, address: Address = LOCAL, as_json: AsJson = False, debug: Debug = False) -> None:
    """End a job with a checkpoint."""
    with replying(as_json, debug) as answer:
        head = _head(address)
        info = head.job(job)
        if info.status.is_terminal():
            print(f"{job} had ended already: {info.status.value}")
        else:
            info = head.stop(job)
            print(f"{job}: {info.status.value}")
        answer |= describe(info)
        if info.status.value == "PENDING":  # Ray tells it only then
            _warn(f"{job} has not begun yet, and ends as soon as it does")
        elif not info.status.is_terminal():
            raise ConfigError(f"{job} was told to end and has not yet; see 'rlgen status {job}'")


def pull(
    job: Job,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the run goes: DIR/NAME/RUN")
    ] = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is here")] = False,
    address: Address = LOCAL,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Bring the run of a job home: into runs/NAME/RUN, as if it had run here."""
    with replying(as_json, debug) as answer:
        head = _head(address)
        info = head.job(job)
        if not _is_run(info):
            raise ConfigError(f"{job} was not made by 'rlgen submit'; see 'rlgen jobs'")
        base = info.metadata["runs"]
        if "://" in base:
            raise ConfigError(
                f"{job} writes to storage that can be read from here, so there is nothing to pull: "
                f"rlgen runs {base}/{job}"
            )
        runs = fetch(head, job, base, output, force)
        answer |= {"job": job, "status": info.status.value, "runs": [str(run) for run in runs]}
        if not info.status.is_terminal():
            _warn(f"{job} is {info.status.value}; this is what it had written so far")
        for run in runs:
            print(f"run: {run}")
        print(f"next: rlgen eval {shlex.quote(str(runs[0]))}")


def token(as_json: AsJson = False, debug: Debug = False) -> None:
    """Make the token that Ray clusters of yours ask for, unless there is one; it is not shown."""
    with replying(as_json, debug) as answer:
        from rlgen.backends.tokens import make_token

        path, made = make_token()
        answer |= {"file": str(path), "made": made}
        print(f"{'made a token in' if made else 'there is a token in'} {path} (mode 0600)")
        if made:
            print("copy it to every machine of the cluster, and start Ray with RAY_AUTH_MODE=token")


COMMANDS = (submit, jobs, logs, status, stop, pull, token)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in COMMANDS:
        app.command()(command)


# --- what the commands share --------------------------------------------------------------------


def fetch(head: Any, job: str, base: str, output: Path, force: bool) -> list[Path]:
    """Bring home what a job has written, by another small job on the head.

    Raises:
        ConfigError: there is nothing yet, a run of this name is here, or it came damaged.
    """
    name = f"{job}-pull-{secrets.token_hex(4)}"
    where = shipping.run_dir(base, job)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=output) as folder:
        staged, text, spare = Path(folder, "job"), Path(folder, "log"), Path(folder, "parcel")
        staged.mkdir()
        (staged / "start.sh").write_text(shipping.START)
        shutil.copy(parcel.__file__, staged / "parcel.py")
        head.submit(name, f"sh start.sh parcel {where}", staged, [], {})
        with text.open("w") as log:
            try:
                ended = head.follow(name, _until_end(log.write))
            except _Whole:
                head.stop(name)
            else:
                reason = " ".join((ended.message or "").split())[-300:]
                raise ConfigError(f"pull: the job that packs {ended.status.value}: {reason}")
        head.forget(name)
        try:
            with text.open() as lines, spare.open("w+b") as file:
                there = parcel.unpack(lines, Path(folder, "runs"), file)
        except ValueError as error:
            raise ConfigError(f"pull: {error}; try again") from error
        found = sorted(Path(folder, "runs").glob("*/*/")) if there else []
        if not found:
            raise ConfigError(
                f"pull: {job} has written no run yet; see 'rlgen status {job}' and its log"
            )
        runs = [output / path.parent.name / path.name for path in found]
        for path, run in zip(found, runs, strict=True):
            if run.exists():
                if not force:
                    raise ConfigError(f"pull: {run} is here already; replace it with --force")
                shutil.rmtree(run)
            run.parent.mkdir(exist_ok=True)
            path.rename(run)
    return runs


class _Whole(Exception):
    """All lines of a parcel are there."""


def _until_end(write: Callable[[str], object]) -> Callable[[str], None]:
    """Write what comes, and stop the following once the parcel's last line is there."""
    last = ""

    def take(text: str) -> None:
        nonlocal last
        write(text)
        last = (last + text)[-1000:]
        if last.endswith("\n") and (parcel.END in last or parcel.MISSING in last):
            raise _Whole

    return take


def describe(info: Any) -> dict[str, Any]:
    """What is known of a job, as plain data; times in seconds."""
    metadata = info.metadata or {}
    began = (info.start_time or 0) / 1000
    ended = info.end_time / 1000 if info.end_time else time.time()
    return {
        "job": info.submission_id,
        "status": info.status.value,
        "what": metadata.get("rlgen") or info.entrypoint,
        "began": began,
        "seconds": max(ended - began, 0.0),
        "exit": info.driver_exit_code,
        "needs": {key: float(metadata[key]) for key in ("CPU", "GPU") if key in metadata},
    }


def resources(
    needs: Mapping[str, float], total: Mapping[str, float], free: Mapping[str, float]
) -> str:
    """What is asked for against what is there, in words."""
    asked = [f"{size:g} {key}s" for key, size in needs.items() if size or key == "CPU"]
    there = [
        f"{total.get(key, 0.0):g} {key}s, {free.get(key, 0.0):g} of them free"
        for key, size in needs.items()
        if size or key == "CPU"
    ]
    return f"its plan needs {' and '.join(asked)}; the cluster has {' and '.join(there)}"


def explain(
    status: str,
    needs: Mapping[str, float],
    total: Mapping[str, float],
    free: Mapping[str, float],
    waiting: list[str],
) -> str:
    """What a job that has not ended does or waits for."""
    said = []
    if status == "PENDING":
        said.append("its process has not begun on the head: its files are unpacked there first")
    if total and needs:
        said.append(resources(needs, total, free))
        if any(size > total.get(key, 0.0) for key, size in needs.items()):
            said.append("so it cannot run until nodes join: use fewer workers, or stop it")
    if waiting:
        said.append(f"actors of this cluster wait for {'; '.join(waiting)}")
    return "\n".join(said) or "the cluster has not said yet what it has"


def _follow(head: Any, job: str, answer: dict[str, Any]) -> None:
    """Show a job's log until it ends, and end as it did."""
    try:
        began = time.monotonic()
        told = ""
        while (info := head.job(job)).status.value == "PENDING":
            if time.monotonic() - began > 5.0:
                words = explain("PENDING", describe(info)["needs"], *head.resources())
                if words != told:
                    _warn(f"PENDING: {words}")
                    told = words
            time.sleep(0.5)
        ended = head.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"no longer following; the job goes on: rlgen logs {job} --follow, or rlgen stop {job}"
        ) from None
    answer |= describe(ended)
    if ended.status.value == "FAILED":
        _warn(f"{job} FAILED: {_last_words(head, ended)}")
        raise typer.Exit(ended.driver_exit_code or FAILED)
    if ended.status.value == "STOPPED":
        _warn(f"{job} was stopped")
        raise typer.Exit(128 + signal.SIGTERM)
    print(f"{job}: {ended.status.value}")


def _last_words(head: Any, info: Any) -> str:
    """Why a job failed: the error that rlgen printed, or else what Ray says."""
    said = [
        line for line in head.log(info.submission_id).splitlines() if line.startswith("rlgen: ")
    ]
    reason = said[-1].removeprefix("rlgen: ") if said else " ".join((info.message or "").split())
    return reason[-600:]


def _check_shipped(plain: Mapping[str, Any], modules: list[Path]) -> None:
    """Warn of code of the user's that neither goes along nor is ours."""
    names = {
        "algorithm": str(plain["algorithm"]),
        "env.id": str((plain.get("env") or {}).get("id")),
    }
    shipped = {path.resolve().stem for path in modules} | {"rlgen"}
    for key, value in names.items():
        top = value.partition(":")[0].partition(".")[0]
        if ":" in value and top not in shipped:
            _warn(
                f"{key}: {top!r} is not sent along; unless it is installed on the cluster, give "
                "--module with its folder"
            )


def _check_fits(needs: Mapping[str, float], total: Mapping[str, float]) -> None:
    """Refuse what could never run there, before anything is sent."""
    for key, size in needs.items():
        if total and size > total.get(key, 0.0):
            raise ConfigError(
                f"scheduler: the plan needs {size:g} {key}s, the cluster has "
                f"{total.get(key, 0.0):g}; use fewer workers or smaller scheduler.worker_cpus"
            )


def _is_run(info: Any) -> bool:
    """Whether a job was made by 'rlgen submit'."""
    return "rlgen" in (info.metadata or {})


def _head(address: str) -> Any:
    from rlgen.backends.jobs import Head

    return Head(address, _warn)


def _largest() -> int:
    from rlgen.backends.jobs import LARGEST

    return LARGEST


def _at(address: str) -> str:
    return "" if address == LOCAL else f" --address {address}"


def _warn(message: str) -> None:
    print(f"rlgen: {message}", file=sys.stderr, flush=True)
