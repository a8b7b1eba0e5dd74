"""What 'rlgen deploy' writes, held against the schemas of those who read it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from rlgen.cli import app
from rlgen.config import config_names, load_experiment
from rlgen.deploy import plan_layout
from rlgen.errors import ConfigError
from rlgen.plan import make_plan

HERE = Path(__file__).parent


def deploy(*arguments, status=0):
    done = CliRunner().invoke(app, ["deploy", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def layout(*overrides, cpus=4):
    experiment = load_experiment("dqn-cartpole", overrides)
    found = plan_layout(make_plan(experiment), cpus)
    return found.head_cpus, found.head_gpus, found.nodes


def test_machines_have_room_for_the_plan():
    assert layout() == (4, 0, 0)  # learner, worker and evaluator on one
    assert layout("scheduler.workers=2") == (4, 0, 0)
    assert layout("scheduler.workers=3") == (4, 0, 1)
    assert layout("scheduler.workers=9") == (4, 0, 3)
    assert layout("scheduler.workers=9", "scheduler.worker_cpus=0.5") == (4, 0, 2)
    # Two workers of 1.5 CPUs on a machine of 4: what is left over of each holds none.
    assert layout("scheduler.workers=5", "scheduler.worker_cpus=1.5") == (4, 0, 3)
    assert layout("scheduler.workers=3", "scheduler.learner_cpus=6", cpus=8) == (8, 0, 1)
    with pytest.raises(ConfigError, match="a learner needs 6 CPUs, a machine has 4"):
        layout("scheduler.learner_cpus=6")


# --- KubeRay ------------------------------------------------------------------------------------

# The documented fields of ray.io/v1 that a RayJob of ours may use, closed so that a wrong name is
# found. (KubeRay's own definition accepts what this writes too.)
TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}


def closed(required, **properties):
    return {
        "type": "object",
        "required": required.split(),
        "properties": properties,
        "additionalProperties": False,
    }


def listed(items):
    return {"type": "array", "items": items, "minItems": 1}


SIZES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[\d.]+\w*$"}}
CONTAINER = closed(
    "name image resources",
    name=TEXT,
    image=TEXT,
    resources=closed("limits requests", limits=SIZES, requests=SIZES),
    securityContext=closed("", allowPrivilegeEscalation=FLAG, runAsNonRoot=FLAG),
    volumeMounts=listed(closed("name mountPath", name=TEXT, mountPath=TEXT, readOnly=FLAG)),
    ports=listed(closed("containerPort", containerPort=WHOLE, name=TEXT)),
)
VOLUME = closed(
    "name",
    name=TEXT,
    configMap=closed("name", name=TEXT),
    persistentVolumeClaim=closed("claimName", claimName=TEXT),
)
POD = closed(
    "spec",
    spec=closed(
        "containers",
        containers=listed(CONTAINER),
        volumes=listed(VOLUME),
        securityContext=closed("", runAsUser=WHOLE, fsGroup=WHOLE),
    ),
)
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(
        "name", name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$"}
    ),
    spec=closed(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=WHOLE,
        rayClusterSpec=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            authOptions=closed("", mode={"enum": ["disabled", "token"]}),
            headGroupSpec=closed("template", rayStartParams=PARAMETERS, template=POD),
            workerGroupSpecs=listed(
                closed(
                    "groupName minReplicas maxReplicas template",
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    rayStartParams=PARAMETERS,
                    template=POD,
                )
            ),
        ),
    ),
)


def kuberay(folder, *arguments):
    deploy("kuberay", *arguments, "-o", folder)
    text = (folder / "rayjob.yaml").read_text()
    assert "&id" not in text  # no anchors, which some tools do not know
    documents = {document["kind"]: document for document in yaml.safe_load_all(text)}
    jsonschema.validate(documents["RayJob"], RAY_JOB)
    return documents


def test_a_ray_job_for_kubernetes(tmp_path):
    documents = kuberay(
        tmp_path, "dqn-cartpole", "scheduler.workers=9", "seed=4", "--image", "registry/x:1"
    )
    spec = documents["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == 3
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["image"] == "registry/x:1" and head["resources"]["limits"]["cpu"] == "4"
    # The configuration is where the entrypoint looks for it, and is one that trains.
    _, _, _, _, file, *overrides = spec["entrypoint"].split()
    (config,) = documents["ConfigMap"]["data"].items()
    assert file == f"/etc/rlgen/{config[0]}"
    (tmp_path / config[0]).write_text(config[1])
    experiment = load_experiment(str(tmp_path / config[0]), overrides)
    assert (experiment.seed, experiment.scheduler.address) == (4, "auto")
    assert experiment.run.dir == "/runs"
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # several nodes write there
    mounts = {mount["name"]: mount["mountPath"] for mount in head["volumeMounts"]}
    assert mounts == {"config": "/etc/rlgen", "runs": "/runs"}


def test_the_image_holds_this_package_and_the_users_modules(tmp_path):
    module = HERE / "own_algorithm.py"
    config = tmp_path / "Mine_1.yaml"
    config.write_text(
        "algorithm: own_algorithm:RandomSearch\nenv: {id: CartPole-v1}\nstop: {env_steps: 10}\n"
    )
    documents = kuberay(tmp_path / "k", config, "--module", module)
    assert documents["RayJob"]["metadata"]["name"] == "mine-1"
    # Where only that folder is on the path, that rlgen and the module are imported.
    code = (
        "import sys, rlgen.cli, rlgen.agents.dqn, own_algorithm, rlgen.config as c;"
        "print(rlgen.__file__, own_algorithm.__file__, len(c.config_names()))"
    )
    lib = tmp_path / "k" / "lib"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(lib)},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    package, own, count = done.stdout.split()
    assert Path(package).parent == lib / "rlgen" and Path(own).parent == lib
    assert int(count) == len(config_names())
    docker = (tmp_path / "k" / "Dockerfile").read_text()
    assert re.search(r"^FROM rayproject/ray:[\d.]+-py3\d+-cpu$", docker, re.MULTILINE)
    needed = (tmp_path / "k" / "requirements.txt").read_text().split("\n")
    assert needed[0].startswith("ray[default]==") and "torch>=2.13" in needed
    assert not any("extra" in line or "pytest" in line for line in needed)
    error = deploy("kuberay", config, "--module", module, "-o", tmp_path / "k", status=2)
    assert "is there already" in error


def test_gpus_and_runs_by_uri_on_kubernetes(tmp_path):
    documents = kuberay(
        tmp_path, "vae-digits", "scheduler.learner_gpus=1", "run.dir=s3://bucket/runs"
    )
    assert "PersistentVolumeClaim" not in documents
    spec = documents["RayJob"]["spec"]
    assert "run.dir" not in spec["entrypoint"]  # as the configuration says
    assert "workerGroupSpecs" not in spec["rayClusterSpec"]
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert head["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "-gpu\n" in (tmp_path / "Dockerfile").read_text()
    assert "pyarrow" in (tmp_path / "requirements.txt").read_text()


def test_a_quantity_that_is_none_is_refused(tmp_path):
    error = deploy("kuberay", "dqn-cartpole", "-o", tmp_path, "--memory", "8 GB", status=2)
    assert "--memory: expected a quantity" in error


# --- ray up -------------------------------------------------------------------------------------


def ray_up(folder, *arguments):
    deploy("ray-up", *arguments, "-o", folder)
    cluster = yaml.safe_load((folder / "cluster.yaml").read_text())
    ray = Path(importlib.util.find_spec("ray").origin).parent
    schema = json.loads((ray / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "token_mode": True}, schema)  # the schema is a closed one
    return cluster


def test_a_cluster_file_for_ray_up(tmp_path):
    cluster = ray_up(
        tmp_path,
        "dqn-cartpole",
        "scheduler.workers=9",
        "--cpus-per-node",
        "8",
        "--region",
        "eu-west-1",
    )
    assert cluster["provider"] == {"type": "aws", "region": "eu-west-1"}
    types = cluster["available_node_types"]
    assert types["head"]["node_config"]["InstanceType"] == "m5.2xlarge"
    assert types["worker"]["min_workers"] == cluster["max_workers"] == 2
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in cluster[commands][-1]
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    (install,) = (c for c in cluster["setup_commands"] if c.startswith("pip"))
    assert "'ray[default]==" in install


def test_a_cluster_file_for_machines_of_ones_own(tmp_path):
    few = ("dqn-cartpole", "scheduler.workers=3", "--provider", "local")
    cluster = ray_up(tmp_path, *few, "--hosts", "10.0.0.1,10.0.0.2", "--ssh-user", "me")
    assert cluster["provider"] == {
        "type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]
    }  # fmt: skip
    assert cluster["auth"] == {"ssh_user": "me"}
    error = deploy("ray-up", *few, "--hosts", "10.0.0.1", "-o", tmp_path, status=2)
    assert "needs 2 machines of 4 CPUs, got 1" in error
    error = deploy("ray-up", *few, "-o", tmp_path, status=2)
    assert "--hosts: needed for --provider local" in error
    error = deploy("ray-up", "dqn-cartpole", "--provider", "azure", "-o", tmp_path, status=2)
    assert "--provider: expected aws or local" in error


# --- SLURM --------------------------------------------------------------------------------------


def test_a_slurm_script_hands_the_command_to_ray_on_every_node(tmp_path):
    folder, tools = tmp_path / "s", tmp_path / "bin"
    tools.mkdir()
    deploy(
        *("slurm", "dqn-cartpole", "scheduler.workers=9", "scheduler.learner_gpus=1", "-o", folder),
        *("--partition", "short", "--time", "1-00:00:00", "--module", HERE / "own_algorithm.py"),
        *("--bin", tools),
    )
    script = folder / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    options = re.findall(r"^#SBATCH (.*)$", script.read_text(), re.MULTILINE)
    assert {"--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=4", "--gpus-per-node=1"} <= {
        *options
    }
    assert {"--partition=short", "--time=1-00:00:00", "--exclusive"} <= {*options}

    # Run it, with SLURM's and Ray's commands replaced by ones that write down how they are called.
    fakes = {
        "scontrol": "echo n1; echo n2",
        "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"',
        "ray": f'cd {tmp_path}; env > environment; stat -c %a "$RAY_AUTH_TOKEN_PATH" > mode; '
        'wc -c < "$RAY_AUTH_TOKEN_PATH" > size; printf "%s\\n" "$@" > words',
    }
    for name, text in fakes.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    (tools / "python").symlink_to(sys.executable)
    given = {
        "PATH": f"{Path(shutil.which('stat')).parent}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }
    subprocess.run(["bash", script], env=given, cwd=folder, check=True)
    words = (tmp_path / "words").read_text().splitlines()
    assert words == [
        *("symmetric-run", "--address", "n1:23456", "--min-nodes", "2", "--num-cpus=4"),
        *("--num-gpus=1", "--", "rlgen", "train", "dqn-cartpole.yaml", "scheduler.backend=ray"),
        *("scheduler.address=auto", f"run.dir={folder}/runs"),
    ]
    environment = (tmp_path / "environment").read_text()
    assert "RAY_AUTH_MODE=token\n" in environment
    assert f"PYTHONPATH={HERE}:" in environment
    assert (tmp_path / "mode").read_text() == "600\n" and int((tmp_path / "size").read_text()) == 64
    assert not list(folder.glob(".rlgen-token*"))  # it goes with the job
    experiment = load_experiment(str(folder / words[-5 + 1]), words[-3:])
    assert experiment.scheduler.workers == 9
