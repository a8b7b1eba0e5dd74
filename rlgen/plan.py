"""The plan: how many of what run, on which resources."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from rlgen.algorithm import Problem
from rlgen.config import AUTO, Experiment, resolve_experiment, set_keys
from rlgen.errors import ConfigError
from rlgen.problem import load_problem, role_seed

WORKERS = {
    "environment": "rlgen.rollout:RolloutWorker",
    "data": "rlgen.sources:DataWorker",
    "model": "rlgen.sources:ModelWorker",
}
LEARNERS = {False: "rlgen.learner:Learner", True: "rlgen.peers:PeerLearner"}  # alone, or not
EVALUATOR_CPUS = 1.0
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
    place: int  # in the plan, of the first of them


def make_plan(experiment: Experiment) -> list[Role]:
    """The actors of a run: the learners, their workers, the evaluator.

    Workers whose number is not known yet (see `fill`) count as one, the least. The workers' places
    are the last, so that the learners and the evaluator get theirs beside one another.

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
            0,
        ),
        Role(
            "worker", WORKERS[source], scheduler.workers or 1, scheduler.worker_cpus,
            0, scheduler.worker_threads, TASKS[task].format(experiment),
            scheduler.learners + 1,
        ),
        Role(
            "evaluator", "rlgen.evaluation:Evaluator", 1, EVALUATOR_CPUS, 0, 1,
            f"{experiment.evaluation.episodes} greedy episodes"
            if experiment.env else "figures and pictures on held-out data",
            scheduler.learners,
        ),
    ]  # fmt: skip


def fill(experiment: Experiment, problem: Problem | None = None) -> Experiment:
    """The experiment with a number in the place of ``scheduler.workers: auto``.

    Inline it is 1: there workers take turns in one process, and more of them make nothing faster.
    On a private cluster, the cores of this machine that the learners and the evaluator leave. On a
    given one, which must be connected, what is free there beside them, node by node. At least 1;
    and no more than there are rows in a minibatch, or states in a model, to share among them.
    """
    scheduler = experiment.scheduler
    if scheduler.workers != AUTO:
        return experiment
    problem = problem or load_problem(experiment)
    if scheduler.backend == "inline":
        count = 1
    elif scheduler.address == "local":
        needed = scheduler.learners * scheduler.learner_cpus + EVALUATOR_CPUS
        count = math.floor((cores() - needed) / scheduler.worker_cpus)
    else:
        from rlgen.backends import placement

        count = placement.beside(make_plan(experiment), "worker")
    if experiment.source == "data":
        size: int = experiment.hyperparameters.batch_size  # type: ignore[attr-defined]
        count = min(count, size, problem.data_count or size)
    elif problem.model is not None and experiment.source == "model":
        count = min(count, len(problem.model.terminal))
    count = min(count, scheduler.max_workers or count)
    return resolve_experiment(set_keys(experiment.dump(), {"scheduler.workers": max(count, 1)}))


def connect(experiment: Experiment, plan: list[Role]) -> Any:
    """The backend that the plan runs on; Ray is only imported where it is asked for.

    Raises:
        ConfigError: no cluster at the address.
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


def survey(experiment: Experiment) -> tuple[Experiment, list[Any]]:
    """Look at the cluster of an experiment, without starting anything there.

    Returns:
        The experiment with its number of workers, and the cluster's `placement.Node`s.

    Raises:
        ConfigError: no cluster at the address.
    """
    from rlgen.backends import placement

    backend = connect(experiment, [])
    try:
        return fill(experiment), placement.nodes()
    finally:
        backend.shutdown()


def spawn(
    backend: Any,
    experiment: Experiment,
    role: Role,
    index: int = 0,
    life: int = 0,
    avoid: Any = None,
) -> Any:
    """Start one actor of a role; ``life`` counts its restarts and renews its random stream.

    One beyond the plan's number (an elastic worker) has no place of its own in it. Where ``avoid``
    is given, an actor whose node is cut off, it starts on another node.
    """
    seed = role_seed(experiment.seed, role.name, index, life)
    several = role.name == "worker" or role.target == LEARNERS[True]
    args = (experiment, index, seed) if several else (experiment, seed)
    place = role.place + index if index < role.count else None
    return backend.spawn(
        role.target, args, seed, role.threads, cpus=role.cpus, gpus=role.gpus, place=place,
        avoid=avoid,
    )  # fmt: skip


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
