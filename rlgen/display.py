"""What a person sees of a run: live progress, and at the end what was reached and where time went.

On a terminal the progress is redrawn in place; into a pipe or a file go plain lines, few enough to
be read afterwards.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlgen.algorithm import Estimate
from rlgen.config import AUTO, Experiment
from rlgen.scheduler import Progress, Summary

SECONDS_PER_LINE = 2.0  # between plain lines
REFRESHES = 4.0  # per second, on a terminal
FIGURES = 6  # latest figures shown
SPARKS = 24  # latest values in a sparkline
BLOCKS = "▁▂▃▄▅▆▇█"
LEAST_BAR = 10  # columns of a progress bar beside its run's name
LEAST_SHARE = 0.05  # of a role's time that is shown

#: Counters that say nothing while they are zero, or that another figure shows.
HIDDEN = ("cycles", "rows_learned", "seconds")


class Display:
    """Show the progress of a run; call it with the latest `Progress`, as often as there is one.

    Args:
        experiment: the run's.
        console: where to; looked at once, for whether it is a terminal.
        quiet: show nothing.
    """

    def __init__(self, experiment: Experiment, console: Console, quiet: bool = False) -> None:
        self.experiment = experiment
        self.console = console
        self.quiet = quiet
        self.progress: Progress | None = None
        self._returns: deque[float] = deque(maxlen=SPARKS)  # of the latest training episodes
        self._scores: deque[float] = deque(maxlen=SPARKS)  # of the latest evaluations
        self._live: Live | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            # The live display asks for the picture itself: a cycle may take a millisecond.
            self._live = Live(
                console=self.console,
                get_renderable=self._picture,
                refresh_per_second=REFRESHES,
                transient=True,
            )
            self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Take note of the progress, and print a line of it where one is due."""
        before, self.progress = self.progress, progress
        if before is None:
            self._last_line = time.monotonic()  # starting up does not count
        return_ = progress.latest.get("episode_return")
        if return_ is not None and (not self._returns or return_ != self._returns[-1]):
            self._returns.append(return_)
        if progress.evaluation and (before is None or progress.evaluation is not before.evaluation):
            self._scores.append(progress.evaluation["mean"])
        if self.quiet or self._live is not None:
            return
        if time.monotonic() - self._last_line >= SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            print("  ".join(self._parts(progress)), flush=True)

    def _picture(self) -> Group:
        """The live display: a bar, and below it lines that are broken between their parts."""
        progress, scheduler = self.progress, self.experiment.scheduler
        if progress is None:
            begun = f"starting {scheduler.workers} {plural('worker', scheduler.workers)}"
            if scheduler.workers == AUTO:
                begun = "starting as many workers as fit"
            return Group(Text(f"{self.experiment.name}: {begun} ({scheduler.backend}) ..."))
        width = self.console.width
        said = f"{progress.fraction:4.0%}  {time_left(progress)}"
        bar = min(36, width - len(self.experiment.name) - len(said) - 4)
        head = Table.grid(padding=(0, 2))
        if bar >= LEAST_BAR:
            head.add_row(
                Text(self.experiment.name, style="bold"),
                ProgressBar(total=1.0, completed=progress.fraction, width=bar),
                said,
            )
        else:  # on two lines
            head.add_row(Text(self.experiment.name, style="bold", overflow="ellipsis"))
            bar = max(width - len(said) - 3, 4)
            head.add_row(
                Columns([ProgressBar(total=1.0, completed=progress.fraction, width=bar), said])
            )
        lines = [*self._counters(progress), self._rate(progress)]
        styled = [(lines, ""), ([*self._workers(progress), *shares(progress.time_share)], "dim")]
        # A list, for the run goes on meanwhile, and may come to know a figure more.
        shown = {k: v for k, v in list(progress.latest.items()) if not k.startswith("lag_")}
        if len(self._returns) > 1:
            return_ = shown.pop("episode_return")
            line = f"return {sparkline(self._returns)} {number(return_)}"
            styled.append(([line], "cyan"))
        styled.append((figures(shown), "cyan"))
        if progress.evaluation:
            line = f"evaluation: {score(progress.evaluation)}"
            target = self.experiment.stop.target
            aim = [] if target is None else [f"target {target:g}"]
            trend = [sparkline(self._scores)] if len(self._scores) > 1 else []
            styled.append(([line, *aim, *trend], "green"))
        texts = (Text(line, style) for parts, style in styled for line in packed(parts, width))
        return Group(head, *texts)

    def _parts(self, progress: Progress) -> Iterable[str]:
        yield from self._counters(progress)
        yield f"({progress.fraction:.0%})"
        yield self._rate(progress)
        yield time_left(progress)
        count = self.experiment.scheduler.workers
        if progress.present < count:
            yield f"{progress.present} of {count} workers"
        yield from figures(progress.latest)
        if progress.evaluation:
            yield f"evaluation: {score(progress.evaluation)}"

    def _counters(self, progress: Progress) -> Iterable[str]:
        for name, value in progress.counters.items():
            if value and name not in HIDDEN:
                yield f"{name} {number(value)}"

    def _workers(self, progress: Progress) -> Iterable[str]:
        count = self.experiment.scheduler.workers
        yield f"{progress.present} of {count} {plural('worker', count)}"
        if "lag_mean" in progress.latest:
            lag, most = progress.latest["lag_mean"], progress.latest["lag_max"]
            yield f"lag {number(lag)}, at most {most}"

    def _rate(self, progress: Progress) -> str:
        return f"{number(progress.rate)} {self.experiment.clock}/s"


def sparkline(values: Iterable[float]) -> str:
    """Values as blocks of their height, the least the lowest; those that are not finite blank."""
    found = list(values)
    finite = [value for value in found if math.isfinite(value)]
    if not finite:
        return " " * len(found)
    low, span = min(finite), max(finite) - min(finite)
    heights = ((value - low) / span * (len(BLOCKS) - 1) if span else 0.0 for value in found)
    return "".join(BLOCKS[round(height)] if math.isfinite(height) else " " for height in heights)


def packed(parts: Iterable[str], width: int) -> list[str]:
    """Parts side by side, in as many lines as they need; one that is too long breaks at words."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines += textwrap.wrap(part, width) or [""]
    return lines


def shares(time_share: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Where each role's time goes, the largest shares first; none below a twentieth."""
    for role, parts in time_share.items():
        large = sorted(parts.items(), key=lambda part: -part[1])
        said = " ".join(f"{what} {share:.0%}" for what, share in large if share >= LEAST_SHARE)
        if said:
            yield f"{role}: {said}"


def plural(noun: str, count: int) -> str:
    """The noun, with an s where there is not just one."""
    return noun if count == 1 else f"{noun}s"


def number(value: float) -> str:
    """A number to be read at a glance: four significant digits, thousands apart."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def time_left(progress: Progress) -> str:
    """The time to the nearest budget, at the rate so far."""
    if progress.seconds_left is None:
        return "time left unknown"
    try:
        return f"{timedelta(seconds=round(progress.seconds_left))} left"
    except OverflowError:  # a budget that stands for none at all, such as 10**18 steps
        return "time left unknown"


def figures(latest: Mapping[str, Any]) -> list[str]:
    """The latest figures by name, the return of episodes first."""
    names = sorted(latest, key=lambda name: not name.startswith("episode_"))
    return [f"{name} {number(latest[name])}" for name in names[:FIGURES]]


def score(evaluation: Mapping[str, Any]) -> str:
    """An evaluation in words: episodes with their deviation, rows with the mean's error.

    Of one episode or row neither is known.
    """
    what = "greedy return" if evaluation["metric"] == "return" else evaluation["metric"]
    unit = "episode" if "episodes" in evaluation else "row"
    count = evaluation[f"{unit}s"]
    if not math.isfinite(evaluation["mean"]):
        return f"{what} {infinite(evaluation['mean'])} over {count:,} {plural(unit, count)}"
    spread, kind = evaluation["std"], "standard deviation"
    if unit == "row":
        spread /= math.sqrt(max(count - 1, 1))  # std is of the count rows, not of n - 1
        kind = "standard error"
        digits = 2 if abs(evaluation["mean"]) >= 10 else 4
    else:
        digits = 1 if abs(evaluation["mean"]) >= 10 else 3
    known = count > 1 and math.isfinite(spread)
    error = f" ± {spread:.{digits}f} ({kind})" if known else ""
    return f"{what} {evaluation['mean']:.{digits}f}{error} over {count:,} {plural(unit, count)}"


def infinite(value: float) -> str:
    """A figure that is no finite number, and what that may mean."""
    if math.isnan(value):
        return "is not a number (the model has diverged)"
    return f"is {value} (rows are impossible to the model, or it has diverged)"


def estimates(found: Mapping[str, Estimate]) -> Iterator[str]:
    """A line for each estimate: name, value, what is known of its error, note."""
    width = max(map(len, found), default=0)
    for name, e in found.items():
        error = (e.high - e.low) / 2
        note = f"  ({e.note})" if e.note else ""
        if not math.isfinite(e.value):
            yield f"  {name:{width}}  {infinite(e.value)}{note}"
            continue
        # Two digits of the error, and no more of the value; two decimals where an end is infinite.
        decimals = max(1 - math.floor(math.log10(error)), 0) if 0 < error < math.inf else 2
        if error == 0 or math.isnan(error):
            value = f"{e.value:.6g}"
        elif math.isclose(e.high - e.value, e.value - e.low, rel_tol=1e-3):
            value = f"{e.value:.{decimals}f} ± {error:.{decimals}f}"
        else:
            value = f"{e.value:.{decimals}f} [{e.low:.{decimals}f}, {e.high:.{decimals}f}]"
        yield f"  {name:{width}}  {value}{note}"


def outcome(experiment: Experiment, summary: Summary) -> str:
    """Why the run ended, and what it had reached by then."""
    reason, evaluation = summary["stop_reason"], summary["evaluation"]
    reached = f"; {score(evaluation)}" if evaluation else ""
    stop = experiment.stop
    if reason == "target" and evaluation:
        return f"reached the target: {score(evaluation)} (target {stop.target:g})"
    if reason == "converged":
        return f"converged after {summary['updates']:,} updates{reached}"
    if reason == "interrupted":
        return f"interrupted{reached}"
    words = {"env_steps": "environment steps", "seconds": "seconds of wall clock"}
    limit = getattr(stop, reason)
    unit = words.get(reason) or plural(reason.removesuffix("s"), limit)
    budget = f"{number(limit)} {unit} (stop.{reason})"
    missed = f" (target {stop.target:g} not reached)" if stop.target is not None else ""
    return f"ended after {budget}{reached}{missed}"


def time_table(summary: Summary) -> Table:
    """Where the time of every role went, as shares of the wall clock."""
    table = Table(box=None, padding=(0, 1, 0, 2))
    for heading in ("role", "share", "at"):
        table.add_column(heading, justify="right" if heading == "share" else "left")
    for role, parts in summary["time_share"].items():
        for index, (what, share) in enumerate(sorted(parts.items(), key=lambda p: -p[1])):
            table.add_row(role if index == 0 else "", f"{share:.0%}", what)
    return table
