"""What the ready generative models reach: one run each, its figures on the test rows, its samples.

The second half of the page of `rlgen.results`. An agent's return depends on its seed, and is
measured over several; a model's likelihood hardly does, and its doubt is that of the held-out rows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlgen import registry, rundir
from rlgen.algorithm import Estimate
from rlgen.api import load
from rlgen.config import Experiment, config_names, read_config, resolve_experiment, set_keys
from rlgen.display import number
from rlgen.scheduler import Summary

Train = Callable[[Experiment, Path | None], Summary]

FIGURES = "figures.json"  # of the test rows, in a run's folder
ROWS = 1_000  # test rows of the figures that are dear
#: What may differ between a run and the configuration that it is counted for.
APART = ("run", "checkpoint", "tracking")
HEADING = ("config", "model", "data", "score", "test", "training rows", "ended after")
PICTURES_SHOWN = ("samples", "reconstructions")


@dataclass(frozen=True)
class ModelResult:
    """One configuration, measured.

    Attributes:
        experiment: of the run.
        folder: of the run.
        summary: of the run.
        evaluation: the score and the like on the test rows, as `Run.evaluate`.
        figures: all the others, as `Run.assess`.
    """

    experiment: Experiment
    folder: Path
    summary: Summary
    evaluation: dict[str, Any]
    figures: dict[str, Estimate]

    @property
    def summaries(self) -> list[Summary]:
        """Of its one run."""
        return [self.summary]


def model_configs() -> list[str]:
    """The ready configurations of models."""
    return [name for name in config_names() if read_config(name)["algorithm"] in registry.MODELS]


def find_run(experiment: Experiment) -> Path | None:
    """An earlier run of this experiment, ended or interrupted; None where there is none."""
    return rundir.find(experiment, lambda plain: {k: v for k, v in plain.items() if k not in APART})


def measure(name: str, quick: bool, runs_dir: Path, train: Train) -> ModelResult | None:
    """Train a configuration, unless that has been done, and measure it on the test rows.

    Args:
        name: of a ready configuration.
        quick: only the first epoch.
        runs_dir: where the runs are, and finished ones are looked for.
        train: runs an experiment, from the start or (given its folder) from where it was stopped.

    Returns:
        None where the run was interrupted.

    Raises:
        RlgenError: the configuration cannot be run here.
    """
    changes: dict[str, Any] = {"run.dir": str(runs_dir)} | ({"stop.epochs": 1} if quick else {})
    experiment = resolve_experiment(set_keys(read_config(name), changes))
    earlier = find_run(experiment)
    summary = ended(experiment, earlier, train)
    if summary is None:
        return None
    folder = earlier or Path(summary["run_dir"])
    return ModelResult(experiment, folder, summary, *_figures(folder))


def ended(experiment: Experiment, earlier: Path | None, train: Train) -> Summary | None:
    """The summary of an earlier run, run to its end, or of a new one; None if interrupted."""
    summary = rundir.read_summary(earlier) if earlier else {}
    if not earlier or summary["stop_reason"] == "interrupted":
        summary = train(experiment, earlier)
    return None if summary["stop_reason"] == "interrupted" else summary


def _figures(folder: Path) -> tuple[dict[str, Any], dict[str, Estimate]]:
    """The evaluation and the figures of a run on its test rows, found once and kept beside it."""
    run, path = load(folder), folder / FIGURES
    asked = {"checkpoint": run.checkpoint.name, "rows": ROWS}
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("asked") != asked:
        figures = {name: asdict(e) for name, e in run.assess(rows=ROWS).items()}
        kept = {"asked": asked, "evaluation": run.evaluate(split="test"), "figures": figures}
        path.write_text(json.dumps(kept, indent=1))
    return kept["evaluation"], {name: Estimate(**e) for name, e in kept["figures"].items()}


def row(result: ModelResult) -> list[str]:
    """The line of the table."""
    experiment, evaluation = result.experiment, result.evaluation
    assert experiment.data is not None
    metric = evaluation["metric"]
    error = evaluation["std"] / evaluation["rows"] ** 0.5
    return [
        f"[{experiment.name}](#{experiment.name.lower()})",
        experiment.algorithm,
        Path(experiment.data.name).name,
        metric.replace("_", " "),
        f"{evaluation['mean']:.5g} ± {error:.2g}",
        f"{evaluation[f'train_{metric}']:.5g}",
        f"{number(result.summary['epochs'])} epochs",
    ]


def section(result: ModelResult, folder: Path, pictures: str) -> list[str]:
    """What the page says of one model; copies its pictures into ``folder/pictures``."""
    name = result.experiment.name
    lines = [f"### {name}", ""]
    if result.figures:
        lines += ["| figure | value | interval | how |", "|---|---|---|---|"]
        lines += [
            f"| {key.replace('_', ' ')} | {e.value:.5g} | {e.low:.5g} to {e.high:.5g} | {e.note} |"
            for key, e in result.figures.items()
        ]
        lines.append("")
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for shown in PICTURES_SHOWN:
        source = result.folder / rundir.PICTURES / f"{shown}.png"
        if source.is_file():
            path = f"{pictures}/{name}-{shown}.png"
            shutil.copyfile(source, folder / path)
            lines += [f"![{shown} of {name}]({path})", ""]
    return lines


def table(results: Sequence[ModelResult]) -> list[str]:
    """The heading, what its columns mean, and a line for each model."""
    return [
        "## Generative models",
        "",
        "One run each. *Test* is the mean of the score over all test rows with its standard error; "
        f"the figures below are of {ROWS:,} test rows, as `rlgen eval RUN` prints them. Scores "
        "compare only among models of the same data, prepared alike (binary, gray, dequantised).",
        "",
        f"| {' | '.join(HEADING)} |",
        f"|{'---|' * len(HEADING)}",
        *(f"| {' | '.join(row(result))} |" for result in results),
        "",
    ]
