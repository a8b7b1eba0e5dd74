"""The command ``rlgen report``: runs as one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from rlgen.command import AsJson, Debug, check_output, damaged, replying, writing
from rlgen.errors import ConfigError, RlgenError

TOGETHER = 8  # experiments in one figure or table
VIDEOS = 3  # of the training: the first, a middle and the last one; so many of other names
FILMS = (".gif", ".mp4")
NOT_SETTINGS = ("name", "seed", "run", "tracking", "checkpoint")
HALF = 60  # letters of a legend's line for which half the width of a figure is enough
FILMED = 500  # most steps of an episode that is played for the report


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUNS ...", help="Runs, folders of runs, experiments in runs/; also URIs"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write")],
    title: Annotated[str | None, typer.Option(help="Of the page; the experiments' names")] = None,
    play: Annotated[
        bool, typer.Option("--play", help="Film an episode of each agent that has no videos")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one page of runs, with curves, tables, pictures and videos, to send to a colleague."""
    with replying(as_json, debug) as answer:
        check_output(output, ".html", ".htm")
        from rlgen import history
        from rlgen.api import warn
        from rlgen.display import number, plural

        histories = history.read_all(runs, warn)
        page, notes = write_page(histories, title, play)
        with writing(output):
            output.write_text(page, encoding="utf-8")
        folders = [str(run.folder) for run in histories]
        answer |= {"file": str(output), "runs": folders, "notes": notes}
        count = len(histories)
        print(f"{count} {plural('run', count)} in {output} ({number(len(page) // 1000)} kB)")
        for note in notes:
            print(f"  {note}")


def write_page(
    histories: Sequence[Any], title: str | None = None, play: bool = False
) -> tuple[str, list[str]]:
    """The page of runs (`rlgen.history.History`), with everything in it escaped.

    Args:
        histories: of the runs.
        title: of the page.
        play: whether agents without videos are filmed now.

    Returns:
        The page, and what its reader should know of it.
    """
    import jinja2

    import rlgen
    from rlgen import history
    from rlgen.display import plural

    named = history.experiments(histories)
    notes = _notes(histories)
    experiments = [
        _experiment(f"experiment-{i}", name, group, play, notes)
        for i, (name, group) in enumerate(named.items(), 1)
    ]
    count, several = len(histories), len(experiments)
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).from_string(importlib.resources.files("rlgen").joinpath("report.html").read_text())
    page = template.render(
        title=title or _title(list(named)),
        told=f"{count} {plural('run', count)} of {several} {plural('experiment', several)}.",
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=rlgen.__version__,
        notes=notes,
        experiments=experiments,
        curves=_curves(named, notes),
        differences=_differences(named),
        versions=_versions(histories),
    )
    return page, notes


def _title(names: list[str]) -> str:
    if len(names) <= 3:
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{names[0]}, {names[1]} and {len(names) - 2} more experiments"


def _notes(histories: Sequence[Any]) -> list[str]:
    from rlgen.display import plural
    from rlgen.history import RUNNING

    notes = []
    for run in histories:
        if run.skipped:
            notes.append(f"{damaged(run.name, run.skipped)}.")
        if not run.records:
            notes.append(f"{run.name} has recorded nothing.")
    running = sum(run.status == RUNNING for run in histories)
    if running:
        goes = f"{running} {plural('run', running)}"
        notes.append(f"{goes} had not ended when this was written.")
    return notes


# --- one experiment -----------------------------------------------------------------------------


def _experiment(
    id_: str, name: str, runs: Sequence[Any], play: bool, notes: list[str]
) -> dict[str, Any]:
    """What the template says of one experiment: runs that differ in their seeds."""
    import numpy as np
    import yaml

    from rlgen import history
    from rlgen.display import number

    runs = sorted(runs, key=lambda run: (run.config["seed"], run.folder.name))
    config = runs[0].config
    seeds = history.one_per_seed(runs)
    if again := len(runs) - len(seeds):
        left = f"{again} earlier ones of the same seeds are left out of the mean"
        notes.append(f"{name}: of {len(runs)} runs {left}.")
    scores = [score for run in seeds if (score := run.latest("evaluation/mean")) is not None]
    told = {"mean": "–", "interval": "–", "extremes": "–"}
    if scores:
        mean, low, high = (float(value) for value in history.band(np.array(scores)))
        told["mean"] = number(mean)
        if len(scores) > 1:
            told["interval"] = f"{number(low)} to {number(high)}"
            told["extremes"] = f"{number(min(scores))}, {number(max(scores))}"
    ticks = [value for run in runs if (value := _ticks(run)) is not None]
    seconds = [value for run in runs if (value := run.latest("train/seconds")) is not None]
    command, file = _command(config, [run.config["seed"] for run in runs])
    return {
        "id": id_,
        "name": name,
        "algorithm": config["algorithm"],
        "task": _task(config),
        "about": _about(config),
        "seeds": [run.config["seed"] for run in seeds],
        "clock": _words(runs[0].clock),
        "used": f"{number(int(np.mean(ticks)))} {_unit(runs[0].clock)}" if ticks else "–",
        "metric": _metric(runs),
        "time": _duration(float(np.mean(seconds))) if seconds else "–",
        **told,
        "runs": [_run(run) for run in runs],
        "images": _images(runs, play, notes),
        "command": command,
        "file": file,
        "events": _events(runs),
        "config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    }


def _run(run: Any) -> dict[str, Any]:
    from rlgen.display import number

    score, ticks = run.latest("evaluation/mean"), _ticks(run)
    seconds = run.latest("train/seconds")
    reason = run.summary.get("stop_reason")
    return {
        "seed": run.config["seed"],
        "name": run.folder.name,
        "status": f"{run.status} ({reason})" if reason not in (None, run.status) else run.status,
        "ticks": "–" if ticks is None else number(int(ticks)),
        "score": "–" if score is None else number(score),
        "time": "–" if seconds is None else _duration(seconds),
    }


def _ticks(run: Any) -> float | None:
    ticks: float | None = run.latest(f"train/{run.clock}")
    return ticks


def _words(clock: str) -> str:
    return clock.replace("env_steps", "environment steps")


def _unit(clock: str) -> str:
    return clock.removeprefix("env_")


def _metric(runs: Sequence[Any]) -> str:
    """What the evaluations measure."""
    found = {record["metric"]: 0 for run in runs for record in run.of("evaluation")}
    words = ("greedy return" if name == "return" else name.replace("_", " ") for name in found)
    return " or ".join(words) or "–"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _task(config: dict[str, Any]) -> str:
    """The environment with its arguments, or the data set."""
    section = config.get("env") or config.get("data") or {}
    name = section.get("id") or section.get("name") or "–"
    told = [f"{key}={value}" for key, value in (section.get("kwargs") or {}).items()]
    return f"{name} ({', '.join(told)})" if told else str(name)


def _about(config: dict[str, Any]) -> str:
    target = config["stop"].get("target")
    return "" if target is None else f"Training was to end at a score of {target:g}."


def _events(runs: Sequence[Any]) -> list[str]:
    """What the runs told on their way, equal messages of one run counted."""
    told = []
    for run in runs:
        counted = Counter(str(record.get("message")) for record in run.of("event"))
        for message, count in counted.items():
            times = f" ({count} times)" if count > 1 else ""
            told.append(f"{run.folder.name}: {message}{times}")
    return told


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that make an experiment, flat."""
    from rlgen import history

    return history.flat({k: v for k, v in config.items() if k not in NOT_SETTINGS})


def _command(config: dict[str, Any], seeds: Sequence[int]) -> tuple[str, str]:
    """The command that does it again, and the name of the file that it needs, if any."""
    from rlgen import history
    from rlgen.config import config_names, read_config, resolve_experiment

    name, file, changes = config["name"], "", []
    if name in config_names():
        ready = _settings(resolve_experiment(read_config(name)).dump())
        own = _settings(config)
        changes = [
            shlex.quote(f"{key}={json.dumps(own[key])}")
            for key in history.differing([ready, own])
            if key in own  # else of an rlgen that had no such setting
        ]
    else:
        file = f"{name}.yaml"
        name = shlex.quote(file)
    words = ["rlgen", "train", name, *changes]
    different = sorted(set(seeds))
    if len(different) == 1:
        return " ".join([*words, f"seed={different[0]}"]), file
    listed = " ".join(map(str, different))
    return f"for seed in {listed}; do\n  {' '.join(words)} seed=$seed\ndone", file


# --- pictures -----------------------------------------------------------------------------------


def _images(runs: Sequence[Any], play: bool, notes: list[str]) -> list[dict[str, Any]]:
    """Pictures and videos of the first run that has any, those not of its training too."""
    from rlgen import rundir

    images: list[dict[str, Any]] = []
    for run in runs:
        for path in _latest(run.folder / rundir.PICTURES):
            told = f"{path.stem.partition('-')[0]}, seed {run.config['seed']}"
            images.append(_image(path.read_bytes(), "png", told, pixels=True))
        films = sorted(p for p in (run.folder / rundir.VIDEOS).glob("*") if p.suffix in FILMS)
        timed = [path for path in films if path.stem.isdecimal()]  # of the training
        other = [path for path in films if path not in timed]
        for path in [*_spread(timed, VIDEOS), *_spread(other, VIDEOS)]:
            what = f"{int(path.stem):,} {_words(run.clock)}" if path in timed else path.stem
            told = f"{what}, seed {run.config['seed']}"
            images.append(_image(path.read_bytes(), path.suffix[1:], told))
        if images:
            return images
    if play and runs[0].config.get("env"):
        return _played(runs[0], notes)
    return []


def _played(run: Any, notes: list[str]) -> list[dict[str, Any]]:
    """An episode of the run's agent, filmed now."""
    from rlgen.api import load
    from rlgen.display import number

    try:
        video = load(run.folder).play(max_steps=FILMED)
    except RlgenError as error:
        notes.append(f"{run.name} could not be filmed: {error}")
        return []
    told = f"seed {run.config['seed']}: return {number(video.returns[0])}"
    told += f", cut after {FILMED} steps" if video.cut else f" in {video.lengths[0]:,} steps"
    return [_image(video.content, "gif", told)]


def _image(content: bytes, kind: str, caption: str, pixels: bool = False) -> dict[str, Any]:
    family = "video" if kind == "mp4" else "image"
    source = f"data:{family}/{kind};base64,{base64.b64encode(content).decode()}"
    return {"source": source, "caption": caption, "pixels": pixels, "video": family == "video"}


def _latest(folder: Path) -> list[Path]:
    """The newest picture of each name: ``NAME.png``, or before the end ``NAME-<ticks>.png``."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png"), key=lambda path: ("-" not in path.stem, path.stem)):
        found[path.stem.partition("-")[0]] = path
    return list(found.values())


def _spread(paths: list[Path], count: int) -> list[Path]:
    """The first, the last, and some evenly between them."""
    if len(paths) <= count:
        return paths
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


# --- experiments together -----------------------------------------------------------------------


def _together(named: dict[str, list[Any]]) -> list[tuple[str, dict[str, list[Any]]]]:
    """Experiments on one task, measured alike: a few at a time, as figures can show them."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for name, runs in named.items():
        key = _task(runs[0].config), _metric(runs), runs[0].clock
        alike.setdefault(key, []).append(name)
    parts = []
    for (task, _, _), names in alike.items():
        for first in range(0, len(names), TOGETHER):
            chosen = names[first : first + TOGETHER]
            parts.append((task, {name: named[name] for name in chosen}))
    return parts


def _curves(named: dict[str, list[Any]], notes: list[str]) -> list[dict[str, str]]:
    """Learning curves over the clock and over the time, as pictures of lines."""
    from rlgen import curves, history
    from rlgen.drawing import panels

    drawn = []
    for task, group in _together(named):
        runs = [run for some in group.values() for run in some if run.figures()]
        told = {n: [run for run in some if run.figures()] for n, some in group.items()}
        told = {name: history.one_per_seed(some) for name, some in told.items() if some}
        if not told:
            continue
        figure = curves.choose_figure(runs)
        picture, axes = panels(2, 5.4, 3.9)
        try:
            for panel, x in zip(axes, (runs[0].clock, "seconds"), strict=True):
                curves.draw_curves(panel, told, figure, x)
        except ConfigError as error:  # they have no figure in common
            notes.append(f"{task}: no curves, for {error}")
            continue
        handles, labels = axes[0].get_legend_handles_labels()
        columns = 2 if len(labels) > 1 and max(map(len, labels)) <= HALF else 1
        legend = picture.legend(
            handles, labels, loc="outside lower center", ncols=columns, frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name may have a $ in it
        file = io.BytesIO()
        picture.savefig(file, format="svg", metadata={"Date": None})
        words = curves.words(figure, runs)
        drawn.append(
            {
                "image": "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode(),
                "caption": f"{task}: {words}; the mean over the seeds and its 95 % interval. Left "
                f"over {_words(runs[0].clock)}, right over seconds.",
            }
        )
    return drawn


def _differences(named: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The settings that set the experiments on one task apart."""
    from rlgen import history

    tables = []
    for task, group in _together(named):
        configs = [_settings(runs[0].config) for runs in group.values()]
        rows = [
            (key, [_plain(config[key]) if key in config else "–" for config in configs])
            for key in history.differing(configs)
        ]
        shared = [row for row in rows if all(row[0] in config for config in configs)]
        partial = [row for row in rows if row not in shared]
        if rows:
            tables.append(
                {"task": task, "names": list(group), "shared": shared, "partial": partial}
            )
    return tables


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _versions(histories: Sequence[Any]) -> list[tuple[str, str]]:
    """Every package with the versions that the runs were made with; machines and commits."""
    from rlgen import rundir

    found: dict[str, dict[str, None]] = {}
    for run in histories:
        for package, version in rundir.read_versions(run.folder).items():
            found.setdefault(package, {})[version] = None
    return [(package, "; ".join(versions)) for package, versions in found.items()]
