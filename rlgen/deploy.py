"""The commands ``rlgen deploy ...``: files that start a cluster for a configuration, and run it."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

import rlgen
from rlgen import shipping
from rlgen.command import AsJson, ConfigName, Debug, Overrides, replying
from rlgen.errors import ConfigError

deploy = typer.Typer(
    no_args_is_help=True, help="Write files that start a cluster for a configuration."
)

ON_CLUSTER = ("scheduler.backend=ray", "scheduler.address=auto")
#: vCPUs of Amazon's general purpose machines, and of those with GPUs by their number.
M5 = {2: "large", 4: "xlarge", 8: "2xlarge", 16: "4xlarge", 32: "8xlarge", 64: "16xlarge"}
G5 = {1: "g5.4xlarge", 4: "g5.12xlarge", 8: "g5.48xlarge"}

Output = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder to write")]
NodeCpus = Annotated[int, typer.Option("--cpus-per-node", min=1, help="CPUs of every machine")]
Modules = Annotated[
    list[Path] | None,
    typer.Option("--module", metavar="DIR", help="A package, or FILE.py, to take along"),
]


@dataclass(frozen=True)
class Layout:
    """Machines for a plan: the learners and the evaluator on the head, the workers on others.

    Without worker nodes the head has room for all.
    """

    head_cpus: int
    head_gpus: int
    nodes: int  # beside the head
    node_cpus: int


@deploy.command()
def kuberay(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    module: Modules = None,
    image: Annotated[
        str, typer.Option(help="Of the containers; the Dockerfile written here builds it")
    ] = f"rlgen:{rlgen.__version__}",
    cpus_per_node: NodeCpus = 4,
    memory: Annotated[str, typer.Option(help="Of every pod")] = "8Gi",
    storage: Annotated[str, typer.Option(help="Of the volume that keeps the runs")] = "10Gi",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Kubernetes: a RayJob for the KubeRay operator, and the Dockerfile of its image."""
    with replying(as_json, debug) as answer:
        for key, value in (("--memory", memory), ("--storage", storage)):
            if not re.fullmatch(r"[0-9.]+([kMGTPE]i?)?", value):
                raise ConfigError(f"{key}: expected a quantity such as 8Gi, got {value!r}")
        plain, layout = _plan(config, overrides, cpus_per_node, module)
        documents = ray_job(plain, layout, image, memory, storage)
        output.mkdir(parents=True, exist_ok=True)
        _write(
            output / "rayjob.yaml",
            f"# docker build -t {image} . && docker push {image}\n"
            "# kubectl apply -f rayjob.yaml     (the KubeRay operator, 1.5.1 or later, is there)\n"
            + yaml.safe_dump_all(documents, sort_keys=False),
        )
        _write(output / "requirements.txt", "\n".join(requirements(plain)) + "\n")
        _write(output / "Dockerfile", dockerfile(layout))
        lib = output / "lib"
        if lib.exists():
            raise ConfigError(f"-o: {str(lib)!r} is there already; remove it, or name another")
        lib.mkdir()
        shipping.stage_modules(module or (), lib, lib)
        shipping.stage_package(lib)
        _done(answer, output, layout, "rayjob.yaml", "Dockerfile", "requirements.txt", "lib")


@deploy.command("ray-up")
def ray_up(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    provider: Annotated[str, typer.Option(help="aws, or local for machines of your own")] = "aws",
    region: Annotated[str, typer.Option(help="aws: where")] = "us-west-2",
    hosts: Annotated[
        str | None, typer.Option(metavar="HEAD,HOST,...", help="local: the machines, head first")
    ] = None,
    ssh_user: Annotated[str, typer.Option(help="Who logs in to the machines")] = "ubuntu",
    cpus_per_node: NodeCpus = 4,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Cloud or own machines: a cluster file for 'ray up'; 'rlgen submit' then sends the job."""
    with replying(as_json, debug) as answer:
        if provider not in ("aws", "local"):
            raise ConfigError(f"--provider: expected aws or local, got {provider!r}")
        if (provider == "local") != (hosts is not None):
            raise ConfigError("--hosts: needed for --provider local, and only for that")
        plain, layout = _plan(config, overrides, cpus_per_node, None)
        names = [name.strip() for name in (hosts or "").split(",") if name.strip()]
        if provider == "local" and len(names) != 1 + layout.nodes:
            raise ConfigError(
                f"--hosts: the plan needs {1 + layout.nodes} machines of {cpus_per_node} CPUs, "
                f"got {len(names)}"
            )
        cluster = cluster_file(plain, layout, region, names, ssh_user)
        output.mkdir(parents=True, exist_ok=True)
        _write(
            output / "cluster.yaml",
            "# rlgen token; ray up cluster.yaml; ray dashboard cluster.yaml   (a tunnel to 8265)\n"
            f"# rlgen submit {config} ... --follow      and in the end: ray down cluster.yaml\n"
            + yaml.safe_dump(cluster, sort_keys=False),
        )
        _done(answer, output, layout, "cluster.yaml")


@deploy.command()
def slurm(
    config: ConfigName,
    output: Output,
    overrides: Overrides = None,
    module: Modules = None,
    environment: Annotated[
        Path | None,
        typer.Option(
            "--bin", metavar="DIR", help="Where the nodes find rlgen and ray; as here by default"
        ),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Of the SLURM cluster")] = None,
    time: Annotated[str, typer.Option(help="The longest that it may run")] = "01:00:00",
    cpus_per_node: NodeCpus = 4,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """SLURM: a script for 'sbatch', with 'ray symmetric-run' on every node."""
    with replying(as_json, debug) as answer:
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
            raise ConfigError(f"--time: expected [days-]hours:minutes:seconds, got {time!r}")
        plain, layout = _plan(config, overrides, cpus_per_node, module)
        output.mkdir(parents=True, exist_ok=True)
        file = f"{_fit(plain['name'])}.yaml"
        _write(output / file, yaml.safe_dump(plain, sort_keys=False))
        modules = [str(path.resolve().parent) for path in module or ()]
        folder = (environment or Path(sys.executable).parent).absolute()
        script = slurm_script(plain, layout, file, folder, modules, partition, time)
        _write(output / "slurm.sh", script)
        (output / "slurm.sh").chmod(0o755)
        _done(answer, output, layout, "slurm.sh", file)
        print(f"next: cd {output} && sbatch slurm.sh")


def plan_layout(plan: list[Any], node_cpus: int) -> Layout:
    """How many machines of ``node_cpus`` CPUs a plan needs.

    Raises:
        ConfigError: a role does not fit on one.
    """
    for role in plan:
        if role.cpus > node_cpus:
            raise ConfigError(
                f"--cpus-per-node: a {role.name} needs {role.cpus:g} CPUs, a machine has "
                f"{node_cpus}; give larger ones"
            )
    gpus = sum(role.count * role.gpus for role in plan)
    total = math.ceil(sum(role.count * role.cpus for role in plan))
    if total <= node_cpus:
        return Layout(node_cpus, int(gpus), 0, node_cpus)
    (workers,) = (role for role in plan if role.name == "worker")
    others = math.ceil(sum(role.count * role.cpus for role in plan if role is not workers))
    nodes = math.ceil(workers.count / math.floor(node_cpus / workers.cpus))
    return Layout(max(others, node_cpus), int(gpus), nodes, node_cpus)


def ray_job(
    plain: Mapping[str, Any], layout: Layout, image: str, memory: str, storage: str
) -> list[dict[str, Any]]:
    """The Kubernetes objects: the configuration, a volume for runs where needed, the RayJob."""
    name = re.sub(r"[^a-z0-9-]+", "-", str(plain["name"]).lower()).strip("-")[:40]
    uri = "://" in _runs(plain)
    file = f"{name}.yaml"
    # The nodes' learners write checkpoints, so that the runs are on a volume that all of them see.
    volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": f"{name}-config"}}]
    mounts = [{"name": "config", "mountPath": "/etc/rlgen", "readOnly": True}]
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-config"},
            "data": {file: yaml.safe_dump(dict(plain), sort_keys=False)},
        }
    ]
    if not uri:
        volumes.append({"name": "runs", "persistentVolumeClaim": {"claimName": f"{name}-runs"}})
        mounts.append({"name": "runs", "mountPath": "/runs"})
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": f"{name}-runs"},
                "spec": {
                    "accessModes": ["ReadWriteMany" if layout.nodes else "ReadWriteOnce"],
                    "resources": {"requests": {"storage": storage}},
                },
            }
        )

    def pod(container: str, cpus: int, gpus: int, ports: list[dict[str, Any]]) -> dict[str, Any]:
        sizes = {"cpu": str(cpus), "memory": memory}
        if gpus:
            sizes["nvidia.com/gpu"] = str(gpus)
        contents: dict[str, Any] = {
            "name": container,
            "image": image,
            "resources": {"limits": sizes, "requests": dict(sizes)},
            "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True},
            "volumeMounts": copy.deepcopy(mounts),
        }
        if ports:
            contents["ports"] = ports
        return {
            "spec": {
                "securityContext": {"runAsUser": 1000, "fsGroup": 100},
                "containers": [contents],
                "volumes": copy.deepcopy(volumes),
            }
        }

    ports = [
        {"containerPort": 6379, "name": "gcs-server"},
        {"containerPort": 8265, "name": "dashboard"},
    ]
    cluster: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {},
            "template": pod("ray-head", layout.head_cpus, layout.head_gpus, ports),
        },
    }
    if layout.nodes:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": layout.nodes,
                "minReplicas": layout.nodes,
                "maxReplicas": layout.nodes,
                "rayStartParams": {},
                "template": pod("ray-worker", layout.node_cpus, 0, []),
            }
        ]
    command = ["python -m rlgen train", f"/etc/rlgen/{file}", *ON_CLUSTER]
    documents.append(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name},
            "spec": {
                "entrypoint": " ".join(command if uri else [*command, "run.dir=/runs"]),
                "submissionMode": "K8sJobMode",
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": 300,
                "rayClusterSpec": cluster,
            },
        }
    )
    return documents


def dockerfile(layout: Layout) -> str:
    """The image: Ray's own of this version, what rlgen depends on, rlgen and the modules."""
    return (
        f"FROM {_image(layout)}\n"
        "COPY requirements.txt /tmp/requirements.txt\n"
        "RUN pip install --no-cache-dir -r /tmp/requirements.txt\n"
        "COPY --chown=ray lib /home/ray/lib\n"
        "ENV PYTHONPATH=/home/ray/lib\n"
    )


def cluster_file(
    plain: Mapping[str, Any], layout: Layout, region: str, hosts: list[str], ssh_user: str
) -> dict[str, Any]:
    """The cluster of 'ray up': on ``hosts``, or on Amazon's machines where there are none."""
    # The token goes from ~/.ray/auth_token here to every machine. The dashboard listens on the
    # head's loopback alone: 'ray dashboard' tunnels to it.
    needed = " ".join(shlex.quote(requirement) for requirement in requirements(plain))
    token = "chmod 600 ~/.ray/auth_token"
    start = "ulimit -n 65536; RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 ray start"
    cluster: dict[str, Any] = {
        "cluster_name": f"rlgen-{_fit(str(plain['name']))}",
        "max_workers": layout.nodes,
        "idle_timeout_minutes": 10,
        "docker": {
            "image": _image(layout),
            "container_name": "rlgen",
            "pull_before_run": True,
        },
        "auth": {"ssh_user": ssh_user},
        "file_mounts": {"/home/ray/.ray/auth_token": "~/.ray/auth_token"},
        "setup_commands": [token, f"pip install {needed}"],
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }
    if hosts:
        head, *workers = hosts
        cluster["provider"] = {"type": "local", "head_ip": head, "worker_ips": workers}
        return cluster
    cluster["provider"] = {"type": "aws", "region": region}
    cluster["head_node_type"] = "head"
    cluster["available_node_types"] = {
        "head": {
            "resources": {},
            "node_config": {"InstanceType": _machine(layout.head_cpus, layout.head_gpus)},
        }
    }
    if layout.nodes:
        cluster["available_node_types"]["worker"] = {
            "min_workers": layout.nodes,
            "max_workers": layout.nodes,
            "resources": {},
            "node_config": {"InstanceType": _machine(layout.node_cpus, 0)},
        }
    return cluster


def slurm_script(
    plain: Mapping[str, Any],
    layout: Layout,
    file: str,
    folder: Path,
    modules: list[str],
    partition: str | None,
    time: str,
) -> str:
    """The script for 'sbatch', to be handed in from its own folder."""
    options = [
        f"--job-name={_fit(str(plain['name']))}",
        f"--nodes={1 + layout.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={max(layout.head_cpus, layout.node_cpus)}",
        *([f"--gpus-per-node={layout.head_gpus}"] if layout.head_gpus else []),
        *([f"--partition={partition}"] if partition else []),
        f"--time={time}",
        "--exclusive",
        "--output=%x-%j.log",
    ]
    header = "".join(f"#SBATCH {option}\n" for option in options)
    path = "".join(f'export PYTHONPATH={shlex.quote(m)}:"${{PYTHONPATH:-}}"\n' for m in modules)
    gpus = f" --num-gpus={layout.head_gpus}" if layout.head_gpus else ""
    runs = _runs(plain)
    where = runs if "://" in runs or runs.startswith("/") else f"$SLURM_SUBMIT_DIR/{runs}"
    return f"""\
#!/bin/bash
# Hand it in from its own folder, which every node must see: sbatch slurm.sh
{header}# --exclusive: in the end 'ray symmetric-run' stops every Ray process of its nodes.
set -euo pipefail
export PATH={shlex.quote(str(folder))}:"$PATH"
{path}umask 077
token="$SLURM_SUBMIT_DIR/.rlgen-token-$SLURM_JOB_ID"
trap 'rm -f "$token"' EXIT
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token"
export RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
hosts=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
port=$((20000 + SLURM_JOB_ID % 10000))  # Ray's own workers take 10002 to 19999
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \\
  ray symmetric-run --address "${{hosts[0]}}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \\
  --num-cpus="$SLURM_CPUS_PER_TASK"{gpus} -- \\
  rlgen train {shlex.quote(file)} {" ".join(ON_CLUSTER)} run.dir="{where}"
"""


def requirements(plain: Mapping[str, Any]) -> list[str]:
    """What rlgen depends on there; Ray in the version of here, with its jobs."""
    from packaging.requirements import Requirement

    extra = "storage" if "://" in _runs(plain) else ""
    needed = [Requirement(text) for text in importlib.metadata.requires("rlgen") or ()]
    wanted = {
        str(entry).partition(";")[0].strip()
        for entry in needed
        if entry.name != "ray" and (not entry.marker or entry.marker.evaluate({"extra": extra}))
    }
    return [f"ray[default]=={importlib.metadata.version('ray')}", *sorted(wanted)]


def _plan(
    config: str, overrides: list[str] | None, node_cpus: int, modules: list[Path] | None
) -> tuple[dict[str, Any], Layout]:
    """The configuration as plain data, checked, and the machines that it needs."""
    from rlgen import config as configs
    from rlgen.plan import make_plan

    sys.path[:0] = [str(path.resolve().parent) for path in modules or ()]
    plain = configs.set_keys(configs.read_config(config), configs.parse_overrides(overrides or ()))
    here = configs.parse_overrides(ON_CLUSTER)
    experiment = configs.resolve_experiment(configs.set_keys(plain, here))
    if experiment.scheduler.workers == configs.AUTO:
        raise ConfigError(
            "scheduler.workers: auto fills the machines that are there, but here their number "
            "follows from the workers'; give one, such as scheduler.workers=16"
        )
    for key, path in shipping.local_files(experiment).items():
        plain = configs.set_keys(plain, {key: path})
    return plain, plan_layout(make_plan(experiment), node_cpus)


def _runs(plain: Mapping[str, Any]) -> str:
    return str((plain.get("run") or {}).get("dir") or "runs")


def _image(layout: Layout) -> str:
    """Ray's own image for this Ray and Python."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    kind = "gpu" if layout.head_gpus else "cpu"
    return f"rayproject/ray:{importlib.metadata.version('ray')}-{python}-{kind}"


def _machine(cpus: int, gpus: int) -> str:
    """The smallest of Amazon's machines that has as many."""
    known: Mapping[int, str] = G5 if gpus else {size: f"m5.{name}" for size, name in M5.items()}
    wanted = gpus or cpus
    for size, name in known.items():
        if size >= wanted:
            return name
    raise ConfigError(f"deploy ray-up: no machine known with {wanted} {'GPUs' if gpus else 'CPUs'}")


def _fit(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _done(answer: dict[str, Any], output: Path, layout: Layout, *files: str) -> None:
    answer |= {
        "files": [str(output / name) for name in files],
        "nodes": 1 + layout.nodes,
        "cpus": layout.head_cpus + layout.nodes * layout.node_cpus,
        "gpus": layout.head_gpus,
    }
    machines = "1 machine" if not layout.nodes else f"{1 + layout.nodes} machines"
    print(f"{machines}, {answer['cpus']} CPUs, {layout.head_gpus} GPUs in all")
    for name in files:
        print(f"wrote {output / name}")
