"""What the ready configurations reach, measured: seeds trained, curves drawn, one page written.

``rlgen bench results`` trains every agent's ready configuration over several seeds, and every
model's (`rlgen.model_results`), and writes the page whose numbers this project claims, and nothing
else. Finished runs are kept and used again, so that it can be interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlgen import curves, history, model_results, registry, rundir
from rlgen.api import load
from rlgen.config import Experiment, config_names, read_config, resolve_experiment, set_keys
from rlgen.drawing import panels, save
from rlgen.errors import ConfigError
from rlgen.scheduler import Summary

PAGE, PICTURES = "results.md", "images/results"
EPISODES = 100  # that score the weights in the end, or more where the evaluations have more
FRESH = 2**31  # the tick of these episodes, which no evaluation of a training has
QUICK = 20  # a quick look has this part of every budget
QUICK_LEAST = 2_000  # but no fewer ticks of the clock than this
#: These take hours without a GPU, and are measured only where they are asked for.
LONG = (
    "dqn-minatar-breakout",
    "dqn-pong",
    "ppo-breakout",
    "sac-bipedalwalker",
    "sac-halfcheetah",
    "td3-hopper",
)


@dataclass(frozen=True)
class Result:
    """One configuration, measured.

    Attributes:
        experiment: of the first seed.
        summaries: one per seed.
        scores: ``(seeds,)`` mean returns of the final weights, over fresh episodes.
    """

    experiment: Experiment
    summaries: list[Summary]
    scores: np.ndarray


def agent_configs() -> list[str]:
    """The ready configurations of agents."""
    return [name for name in config_names() if read_config(name)["algorithm"] in registry.AGENTS]


def experiment_of(name: str, seed: int, quick: bool, runs_dir: Path) -> Experiment:
    """What is run of a ready configuration: its own settings, and a record of every stretch."""
    plain = read_config(name)
    changes: dict[str, Any] = {"seed": seed, "run.dir": str(runs_dir)}
    experiment = resolve_experiment(set_keys(plain, changes))
    changes["tracking.every_s"] = 0.0 if experiment.source == "model" else 0.05
    budget = getattr(experiment.stop, experiment.clock)
    if quick and budget is not None:
        least = QUICK_LEAST if experiment.clock == "env_steps" else 1
        changes[f"stop.{experiment.clock}"] = min(budget, max(budget // QUICK, least))
    return resolve_experiment(set_keys(plain, changes))


def find_run(experiment: Experiment) -> Path | None:
    """An earlier run of exactly this experiment, ended or interrupted; None where there is none."""
    return rundir.find(experiment, lambda plain: plain)


def measure(
    name: str, seeds: Iterable[int], quick: bool, runs_dir: Path, train: model_results.Train
) -> Result | None:
    """Train the seeds of a configuration that have not been yet.

    Args:
        name: of a ready configuration.
        seeds: of the runs.
        quick: cut the budgets.
        runs_dir: where the runs are, and finished ones are looked for.
        train: runs an experiment, from the start or (given its folder) from where it was stopped.

    Returns:
        None where a run was interrupted.

    Raises:
        RlgenError: the configuration cannot be run here.
    """
    experiments = [experiment_of(name, seed, quick, runs_dir) for seed in seeds]
    summaries = []
    for experiment in experiments:
        summary = model_results.ended(experiment, find_run(experiment), train)
        if summary is None:
            return None
        summaries.append(summary)
    # Of fresh episodes, for the evaluation that first passes a target flatters.
    runs = [load(summary["run_dir"]) for summary in summaries]
    episodes = max(EPISODES, experiments[0].evaluation.episodes)
    scores = np.array([run.evaluate(episodes, tick=FRESH)["mean"] for run in runs])
    return Result(experiments[0], summaries, scores)


def draw(result: Result, path: Path) -> None:
    """Every seed's curve, their mean, and its 95 % interval."""
    figure, (axes,) = panels(1, 5.6, 3.0)
    name = result.experiment.name
    histories = [history.read(Path(summary["run_dir"])) for summary in result.summaries]
    clock = result.experiment.clock
    curves.draw_curves(axes, {name: histories}, curves.choose_figure(histories), clock)
    axes.set_title(f"{name} ({len(histories)} seeds)", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def row(result: Result) -> list[str]:
    """The line of the table: what was reached, and after how much."""
    experiment, summaries = result.experiment, result.summaries
    clock, scores = experiment.clock, result.scores
    _, low, high = history.band(scores)
    spread = f" [{low:.4g}, {high:.4g}]" if len(scores) > 1 else ""
    target, reached = experiment.stop.target, "-"
    if target is not None:
        count = sum(summary["stop_reason"] == "target" for summary in summaries)
        reached = f"{count} of {len(summaries)} ({target:g})"
    ticks = sorted(summary[clock] for summary in summaries)
    span = f"{np.median(ticks):,.0f}"
    if ticks[0] != ticks[-1]:
        span += f" ({ticks[0]:,.0f} to {ticks[-1]:,.0f})"
    environment = experiment.env.id if experiment.env else "-"
    name = f"[{experiment.name}](#{experiment.name.lower()})"
    score = f"{scores.mean():.4g}{spread}"
    span += f" {curves.UNITS[clock]}"
    return [name, experiment.algorithm, environment, score, reached, span]


def write(
    results: Sequence[Result],
    models: Sequence[model_results.ModelResult],
    missing: dict[str, str],
    folder: Path,
    seeds: int,
    quick: bool,
) -> Path:
    """Write the page and its pictures into a folder; the page's path.

    Raises:
        ConfigError: the folder cannot be written.
    """
    lines = [
        "# Results",
        "",
        f"Made by `rlgen bench results{' --quick' if quick else ''}` from the ready configurations "
        "as they are, with "
        + ", ".join(f"{name} {version}" for name, version in rundir.versions().items())
        + ".",
        "",
    ]
    if quick:
        lines += ["**A quick look: budgets cut short. These numbers claim nothing.**", ""]
    if missing:
        lines += ["Not measured:", "", *(f"- {n}: {why}" for n, why in missing.items()), ""]
    try:
        lines += _agents(results, folder, seeds) if results else []
        if models:
            lines += model_results.table(models)
        for model in models:
            lines += model_results.section(model, folder, PICTURES)
        page = folder / PAGE
        page.write_text("\n".join(lines))
    except OSError as error:
        raise ConfigError(f"-o: cannot write to {str(folder)!r}: {error.strerror}") from error
    return page


def _agents(results: Sequence[Result], folder: Path, seeds: int) -> list[str]:
    """The table and the pictures of the agents."""
    heading = ("config", "algorithm", "environment", "score", "target reached", "ended after")
    lines = [
        "## Agents",
        "",
        f"{seeds} seed{'s' if seeds > 1 else ''} each. "
        f"*Score*: the mean return of at least {EPISODES} fresh greedy episodes with the final "
        "weights, its mean over the seeds with the 95 % interval of that mean (Student's t). "
        "*Ended after*: median, with the least and the most, at the target or at the end of the "
        "budget. In the pictures: "
        "each seed in grey (a run that has ended keeps its last value), their mean with its "
        "95 % interval in blue, the target dashed.",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
        *(f"| {' | '.join(row(result))} |" for result in results),
        "",
    ]
    for result in results:
        name = result.experiment.name
        draw(result, folder / PICTURES / f"{name}.png")
        lines += [f"### {name}", "", f"![{name}]({PICTURES}/{name}.png)", ""]
    return lines
