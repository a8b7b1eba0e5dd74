"""The plan: how many of what run, on which resources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from rlgen.config import Experiment
from rlgen.errors import ConfigError
from rlgen.problem import role_seed

WORKERS = {
    "environment": "rlgen.rollout:RolloutWorker",
    "data": "rlgen.sources:DataWorker",
    "model": "rlgen.sources:ModelWorker",
}
LEARNERS = {False: "rlgen.learner:Learner", True: "rlgen.peers:PeerLearner"}  # alone, or not
TASKS = {
    "environment": "rollouts of {0.env.num_envs} x {0.env.id}",
    "data": "minibatches of {0.data.name}",
    "demonstrations": "minibatches of {0.demonstrations.path}",
    "model": "sweeps of the model of {0.env.id}",
}


@dataclass(frozen=True)
class Role:
    """One kind of actor in the plan."""

    name: str
    target: str  # package.module:Class
    count: int
    cpus: float
    gpus: float
    threads: int
    task: str


def make_plan(experiment: Experiment) -> list[Role]:
    """The actors of a run: the learners, their workers, the evaluator.

    Raises:
        ConfigError: a GPU is asked for where there is none.
    """
    scheduler, source = experiment.scheduler, experiment.source
    if scheduler.learner_gpus and scheduler.address == "local" and not torch.cuda.is_available():
        raise ConfigError(
            "scheduler.learner_gpus: 1 asked for, but torch finds no GPU here; use 0, or install a "
            "CUDA build of torch"
        )
    task = "demonstrations" if source == "data" and experiment.data is None else source
    return [
        Role(
            "learner", LEARNERS[scheduler.learners > 1], scheduler.learners, scheduler.learner_cpus,
            scheduler.learner_gpus, scheduler.learner_threads, f"updates of {experiment.algorithm}",
        ),
        Role(
            "worker", WORKERS[source], scheduler.workers, scheduler.worker_cpus,
            0, scheduler.worker_threads, TASKS[task].format(experiment),
        ),
        Role(
            "evaluator", "rlgen.evaluation:Evaluator", 1, 1.0, 0, 1,
            f"{experiment.evaluation.episodes} greedy episodes"
            if experiment.env else "figures and pictures on held-out data",
        ),
    ]  # fmt: skip


def connect(experiment: Experiment, plan: list[Role]) -> Any:
    """The backend that the plan runs on; Ray is only imported where it is asked for.

    Raises:
        ConfigError: no cluster at the address, or too small a one.
    """
    if experiment.scheduler.backend == "inline":
        from rlgen.backends.inline import InlineBackend

        return InlineBackend()
    from rlgen.backends.ray import RayBackend

    return RayBackend(
        experiment.scheduler.address,
        sum(role.count * role.cpus for role in plan),
        sum(role.count * role.gpus for role in plan),
    )


def spawn(backend: Any, experiment: Experiment, role: Role, index: int = 0, life: int = 0) -> Any:
    """Start one actor of a role; ``life`` counts its restarts and renews its random stream."""
    seed = role_seed(experiment.seed, role.name, index, life)
    several = role.name == "worker" or role.target == LEARNERS[True]
    args = (experiment, index, seed) if several else (experiment, seed)
    return backend.spawn(role.target, args, seed, role.threads, cpus=role.cpus, gpus=role.gpus)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
