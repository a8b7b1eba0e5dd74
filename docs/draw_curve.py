"""Draw learning curves of runs: ``python docs/draw_curve.py OUT.png RUN...`` (one line a run)."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlgen.rundir import read_experiment
from rlgen.tracking import read_metrics


def draw(out: Path, runs: list[Path]) -> None:
    """Training episodes as a line, greedy evaluations as dots, over environment steps."""
    figure = Figure(figsize=(7.2, 3.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, run in enumerate(runs):
        records = read_metrics(run)
        train = [r for r in records if r["kind"] == "train" and "episode_return" in r]
        evaluations = [r for r in records if r["kind"] == "evaluation"]
        experiment = read_experiment(run)
        colour = f"C{index}"
        axes.plot(
            [r["env_steps"] for r in train],
            [r["episode_return"] for r in train],
            color=colour,
            linewidth=1.4,
            label=f"{experiment.name}, seed {experiment.seed}: training episodes",
        )
        axes.errorbar(
            [r["env_steps"] for r in evaluations],
            [r["mean"] for r in evaluations],
            [r["std"] for r in evaluations],
            fmt="o",
            markersize=4,
            capsize=2,
            color=colour,
            alpha=0.8,
            label="greedy evaluations, mean and deviation" if index == 0 else None,
        )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [Path(run) for run in sys.argv[2:]])
