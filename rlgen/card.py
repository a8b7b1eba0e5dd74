"""The card of an exported run: what it is, how it was trained, what it reached, how to load it."""

from __future__ import annotations

import contextlib
import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import scipy.special
import yaml

from rlgen import history, outline, registry, rundir
from rlgen.errors import RlgenError

if TYPE_CHECKING:
    from rlgen.api import Run

LEVEL = 0.95  # of intervals
COUNTED = ("env_steps", "epochs", "updates")


def render(run: Run, file: str, shape: tuple[int, ...]) -> str:
    """The card of a run.

    Args:
        run: what is exported.
        file: the exported file's name.
        shape: of one input of an exported function, or of a table.
    """
    experiment, summary = run.experiment, run.summary
    versions = rundir.read_versions(run.dir)
    versions.pop("machine", None)  # nobody else's
    task = experiment.env.id if experiment.env else getattr(experiment.data, "name", "")
    task = Path(task).name if Path(task).is_absolute() else task
    results = figures(run)
    pixels = experiment.data is not None and len(run.algorithm.problem.data_shape) > 1
    front: dict[str, Any] = {
        "library_name": "rlgen",
        "tags": ["rlgen", experiment.algorithm.rpartition(":")[2], str(task)],
    }
    if experiment.data is None:
        front["tags"].insert(0, "reinforcement-learning")
        front["pipeline_tag"] = "reinforcement-learning"
    elif pixels:
        front["pipeline_tag"] = "unconditional-image-generation"
    if results:
        kind = front.get("pipeline_tag", "other")
        metric = {"type": results[0][0], "name": results[0][0], "value": round(results[0][1], 6)}
        front["model-index"] = [
            {
                "name": experiment.name,
                "results": [
                    {
                        "task": {"type": kind, "name": kind.replace("-", " ")},
                        "dataset": {"type": str(task), "name": str(task)},
                        "metrics": [metric],
                    }
                ],
            }
        ]
    target = (registry.AGENTS | registry.MODELS).get(experiment.algorithm, experiment.algorithm)
    template = importlib.resources.files("rlgen").joinpath("card.md").read_text("utf-8")
    shared, space = run.algorithm.shared, run.algorithm.problem.observation_space
    return (
        jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
            name=experiment.name, algorithm=experiment.algorithm, task=task,
            about=outline.describe(target), file=file, kind=file.partition(".")[2],
            what=Path(file).stem, shape=shape, shared=shared,
            network=run.algorithm.on_tensors, agent=experiment.data is None,
            observed=experiment.env and experiment.env.observed,
            stacked=experiment.env.frame_stack if experiment.env else 1,
            dtype="float32" if space is None else str(space.dtype),
            row=run.algorithm.problem.data_shape if space is None else space.shape or (),
            samples=run.algorithm.has("sample"),
            asynchronous=experiment.scheduler.mode == "async",
            results=results, seed=experiment.seed,
            clocks={k: summary[k] for k in COUNTED if summary.get(k)},
            seconds=summary.get("seconds"), versions=versions,
        )
    )  # fmt: skip


def figures(run: Run) -> list[tuple[str, float, float | None, float | None, str]]:
    """What was reached: name, mean, its 95 % interval (Student's t) where known, and of what.

    Of the last evaluation's episodes or rows, and over the seeds beside the run, if any.
    """
    found: list[tuple[str, float, float | None, float | None, str]] = []
    last = run.summary.get("evaluation")
    if last:
        count = int(last.get("episodes") or last.get("rows") or 0)
        what = "greedy episodes" if "episodes" in last else "held-out rows"
        mean, name = float(last["mean"]), str(last["metric"])
        if count > 1:
            half = float(scipy.special.stdtrit(count - 1, (1 + LEVEL) / 2))
            half *= float(last["std"]) / np.sqrt(count - 1)  # std is the population's
            found.append((name, mean, mean - half, mean + half, f"{count} {what} of this run"))
        else:
            found.append((name, mean, None, None, f"1 of its {what}"))
    beside = []
    for path in sorted(run.dir.parent.glob(f"*/{rundir.CONFIG}")):
        with contextlib.suppress(RlgenError):  # a damaged one
            beside.append(history.read(path.parent))
    groups = history.experiments(beside).values()
    same = next((g for g in groups if run.dir.name in [h.folder.name for h in g]), [])
    seeds = history.one_per_seed(same)
    scores = [h.latest("evaluation/mean") for h in seeds if h.status == history.ENDED]
    values = np.array([score for score in scores if score is not None])
    if found and len(values) > 1:
        mean, low, high = (float(v) for v in history.band(values))
        found.append((found[0][0], mean, low, high, f"{len(values)} seeds of this experiment"))
    return found
