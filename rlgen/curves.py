"""Figures of what runs recorded: learning curves over seeds, throughput, regret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlgen import history
from rlgen.drawing import panels
from rlgen.errors import ConfigError, did_you_mean
from rlgen.history import History
from rlgen.palette import COLOURS

SCORE = "evaluation/mean"
UNITS = {
    "env_steps": "environment steps",
    "updates": "updates",
    "epochs": "epochs",
    "samples": "rows of data",
    "seconds": "seconds",
}
#: What a curve shows where evaluations are few or all the same, in order of preference.
TRAINED = ("optimal_action", "episode_return", "episode_length", "residual", "start_value")
ENOUGH = 6  # evaluations that make a curve
FEW = 30  # points of a line that are marked
LOGARITHMIC = ("train/residual",)
Named = Mapping[str, Sequence[History]]  # runs that differ in their seeds, by their experiment


def choose_figure(runs: Sequence[History]) -> str:
    """The figure that shows best how runs went: the score of the evaluations, as a rule.

    Where they are fewer than `ENOUGH` or all the same, it is the first of `TRAINED` that changes,
    or else the first of all figures that does in all of the runs.
    """
    if all(len(run.of("evaluation")) >= ENOUGH and _changes(run, SCORE) for run in runs):
        return SCORE
    for figure in (f"train/{name}" for name in TRAINED):
        if all(_changes(run, figure) for run in runs):
            return figure
    known = [run.figures() for run in runs]
    shared = [figure for figure in known[0] if all(figure in found for found in known)]
    moving = (figure for figure in shared if all(_changes(run, figure) for run in runs))
    return next(moving, next(iter(shared), SCORE))


def _changes(run: History, figure: str) -> bool:
    """Whether a figure has more than one value in a run."""
    return len(set(run.curve(figure)[1])) > 1


def words(figure: str, runs: Sequence[History]) -> str:
    """What a figure's axis says."""
    kind, _, name = figure.partition("/")
    if figure == SCORE:
        metrics = {record["metric"] for run in runs for record in run.of(kind)}
        named = sorted("greedy return" if m == "return" else m for m in metrics)
        return " or ".join(named).replace("_", " ")
    if kind == "evaluation":
        return f"{name} of the evaluations".replace("_", " ")
    return "return while training" if name == "episode_return" else name.replace("_", " ")


def draw_curves(axes: Any, named: Named, figure: str, x: str) -> None:
    """Draw a figure over a clock: the mean over the seeds of each experiment, and its 95 % band.

    A single experiment's seeds are drawn too, in grey; a run that has ended keeps its last value.
    The axis is as high as the seeds are: an interval of few seeds may be far wider.

    Args:
        axes: matplotlib's.
        named: runs by experiment.
        figure: ``kind/name``, as `History.figures` has them.
        x: one of `UNITS`.

    Raises:
        ConfigError: runs that did not record the figure, or do not count the clock.
    """
    targets: dict[float, str] = {}
    reached: list[float] = []
    for index, (name, runs) in enumerate(named.items()):
        colour, count = COLOURS[index % len(COLOURS)], len(runs)
        curves = [run.curve(figure, x) for run in runs]
        for run, (ticks, _) in zip(runs, curves, strict=True):
            if ticks.any():
                continue
            known = run.figures()
            if figure in known:
                raise ConfigError(f"--x: {run.folder} counts no {x}; it counts {run.clock}")
            if not len(ticks):
                hint = did_you_mean(figure, known) if known else "; nothing is recorded yet"
                raise ConfigError(f"--figure: {run.folder} has no {figure!r} over {x}{hint}")
        ticks, values = history.join(curves, [run.status == history.ENDED for run in runs])
        mean, low, high = history.band(values)
        reached += [float(np.nanmin(values)), float(np.nanmax(values))]
        label = name if count == 1 else f"{name} ({count} seeds)"
        if len(named) == 1 and count > 1:
            lines = axes.plot(ticks, values.T, color="0.6", linewidth=0.7)
            lines[0].set_label("each seed")
            label = f"mean of {count} seeds"
        if count == 1:  # as it was recorded, every point seen where there are few
            ((ticks, mean),) = curves
        marker = "o" if count == 1 and len(ticks) <= FEW else None
        axes.plot(
            ticks, mean, color=colour, linewidth=1.8, label=label, marker=marker, markersize=4
        )
        if count > 1:
            said = "95 % interval of the mean (Student's t)" if index == len(named) - 1 else None
            axes.fill_between(ticks, low, high, color=colour, alpha=0.22, linewidth=0, label=said)
        target = runs[0].config["stop"].get("target")
        if figure == SCORE and target is not None:
            targets.setdefault(float(target), colour)
    for target, colour in targets.items():
        colour = colour if len(targets) > 1 else "0.25"
        axes.axhline(target, color=colour, linestyle="--", linewidth=1, label=f"target {target:g}")
    if figure in LOGARITHMIC:
        axes.set_yscale("log")
    elif max(reached) > min(reached):
        room = 0.06 * (max([*reached, *targets]) - min([*reached, *targets]))
        axes.set_ylim(min([*reached, *targets]) - room, max([*reached, *targets]) + room)
    finish(axes, UNITS[x], words(figure, [run for runs in named.values() for run in runs]))


def finish(axes: Any, x: str, y: str) -> None:
    """Label the axes, with k and M for thousands and millions."""
    if axes.get_xscale() == "linear":
        axes.xaxis.set_major_formatter(_short)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.25)


def _short(value: float, _: int | None = None) -> str:
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{sign}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def learning(named: Named, figure: str = "", x: str = "") -> Any:
    """A matplotlib figure of learning curves (`draw_curves`), by default of `choose_figure`.

    Raises:
        ConfigError: experiments that do not go on one plot, or have no such figure.
    """
    runs = [run for group in named.values() for run in group]
    figure = figure or choose_figure(runs)
    clocks = {run.clock: run for run in runs}
    if not x and len(clocks) > 1:
        (one, first), (two, second) = list(clocks.items())[:2]
        raise ConfigError(
            f"--x: {first.folder} counts {one}, {second.folder} counts {two}; give --x updates or "
            "--x seconds"
        )
    scores = {record["metric"]: run for run in runs for record in run.of("evaluation")}
    if figure.startswith("evaluation/") and len(scores) > 1:
        (one, first), (two, second) = list(scores.items())[:2]
        raise ConfigError(
            f"--figure: {first.folder} evaluates {one}, {second.folder} evaluates {two}; draw them "
            "apart, or give another figure"
        )
    drawn, (axes,) = panels(1, 7.2, 4.2)
    draw_curves(axes, named, figure, x or next(iter(clocks)))
    _legend(axes, loc="best", framealpha=0.85, fontsize=9)
    if len(named) == 1:
        axes.set_title(next(iter(named))).set_parse_math(False)
    return drawn


def _legend(axes: Any, **options: Any) -> None:
    """A legend of names, in which a $ begins no formula."""
    for text in axes.legend(**options).get_texts():
        text.set_parse_math(False)


def throughput(runs: Sequence[History]) -> tuple[Any, dict[str, dict[int, list[float]]]]:
    """A matplotlib figure of the rate over the number of workers, and the rates by experiment.

    Runs that differ in nothing but their seeds and `scheduler.workers` are one line: the mean of
    its runs of so many workers, with the 95 % interval where there are several. The rate is of the
    run's clock a second, from its first cycle to its last, evaluations included. Dashed is what it
    would be if the workers of the smallest run could be multiplied at no cost.

    Raises:
        ConfigError: all runs have the same number of workers.
    """
    named = history.experiments(runs, (*history.APART, "scheduler.workers"))
    rates: dict[str, dict[int, list[float]]] = {}
    for name, group in named.items():
        for run in group:
            ticks, seconds = run.latest(f"train/{run.clock}"), run.latest("train/seconds")
            if ticks and seconds:
                workers = run.config["scheduler"]["workers"]
                rates.setdefault(name, {}).setdefault(workers, []).append(ticks / seconds)
    clocks = {group[0].clock for group in named.values()}
    counts = sorted({workers for found in rates.values() for workers in found})
    if all(len(found) < 2 for found in rates.values()) or len(clocks) > 1:
        what = (
            f"the runs count {' and '.join(sorted(clocks))}, which no axis shows together"
            if len(clocks) > 1
            else "the runs of an experiment have to differ in scheduler.workers (found: "
            f"{', '.join(map(str, counts)) or 'nothing recorded'}); train it with others, such as "
            f"scheduler.workers={1 if 1 not in counts else 2}"
        )
        raise ConfigError(f"throughput: {what}")
    figure, (axes,) = panels(1, 6.0, 4.2)
    for index, (name, found) in enumerate(rates.items()):
        colour, workers = COLOURS[index % len(COLOURS)], sorted(found)
        # A mean and its interval of each number of workers, which may have any number of seeds.
        mean, low, high = np.array([history.band(np.array(found[w])) for w in workers]).T
        axes.errorbar(
            workers, mean, (mean - low, high - mean), fmt="o-", color=colour, capsize=3, label=name
        )
        ideal = mean[0] / workers[0] * np.array(workers)
        said = "ideal" if index == len(rates) - 1 else None
        axes.plot(workers, ideal, "--", color=colour if len(rates) > 1 else "0.4", label=said)
    axes.set_xticks(counts)
    axes.set_ylim(bottom=0)
    finish(axes, "workers", f"{UNITS[clocks.pop()]} per second")
    axes.yaxis.set_major_formatter(_short)
    _legend(axes)
    return figure, rates


def cumulative_regret(run: History) -> tuple[np.ndarray, np.ndarray]:
    """Pulls ``(n,)`` of each bandit, and the regret ``(n,)`` of them all together, its mean.

    Every record holds the mean regret of the pulls since the one before.

    Raises:
        ConfigError: the run has not recorded any regret.
    """
    steps, regret = run.curve("train/regret", "env_steps")
    if not len(steps):
        raise ConfigError(
            f"regret: {run.folder} recorded no regret, which only bandits have; give a run of one, "
            "such as thompson-bernoulli"
        )
    bandits = run.config["env"]["kwargs"].get("bandits", 1)
    return steps / bandits, np.cumsum(regret * np.diff(steps, prepend=0.0)) / bandits


def lai_robbins(env: Mapping[str, Any]) -> float | None:
    """The least regret per unit of ln t, as t grows, of a bandit whose means were given.

    The sum over the worse arms of (mu* - mu) / KL(mu, mu*) (Lai and Robbins, *Asymptotically
    efficient adaptive allocation rules*, 1985). It is about t without end: where arms are drawn,
    some are so close to the best that their part is met after no time at all that is ever played.

    Args:
        env: the section of the configuration.

    Returns:
        None where the arms were drawn.
    """
    means = env["kwargs"].get("means")
    if means is None:
        return None
    mu = np.asarray(means, np.float64)
    best, worse = mu.max(), mu[mu < mu.max()]
    if "Bernoulli" in env["id"]:
        p, q = np.clip(worse, 1e-12, 1.0), min(max(best, 1e-12), 1.0 - 1e-12)
        divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    else:
        divergence = np.square(best - worse) / 2  # of unit variance
    return float(((best - worse) / divergence).sum())


def regret(named: Named) -> Any:
    """A matplotlib figure of the cumulative regret over the pulls, on a logarithmic axis.

    The mean over the seeds with its 95 % band, and dashed the slope of `lai_robbins`, through the
    last point of the curve that it is the bound of.

    Raises:
        ConfigError: as `cumulative_regret`.
    """
    figure, (axes,) = panels(1, 7.2, 4.2)
    axes.set_xscale("log")
    bounds: dict[float, tuple[np.ndarray, np.ndarray]] = {}
    for index, (name, runs) in enumerate(named.items()):
        colour = COLOURS[index % len(COLOURS)]
        curves = [(np.log(t), total) for t, total in map(cumulative_regret, runs)]
        ticks, values = history.join(curves, [run.status == history.ENDED for run in runs])
        mean, low, high = history.band(values)
        seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
        if len(runs) > 1:
            axes.fill_between(np.exp(ticks), low, high, color=colour, alpha=0.22, linewidth=0)
        axes.plot(np.exp(ticks), mean, color=colour, linewidth=1.8, label=f"{name}{seeds}")
        slope = lai_robbins(runs[0].config["env"])
        if slope is not None:
            bounds.setdefault(slope, (ticks, mean))
    for slope, (ticks, mean) in bounds.items():
        line = mean[-1] + slope * (ticks - ticks[-1])
        shown = line >= 0
        label = f"Lai and Robbins: {slope:.2f} ln t + c"
        axes.plot(np.exp(ticks[shown]), line[shown], "--", color="0.25", linewidth=1.2, label=label)
    finish(axes, "pulls of each bandit", "regret since the first pull, mean of all bandits")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return figure
