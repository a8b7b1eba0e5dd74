"""What the dashboard draws, as plotly's plain dictionaries (its own classes check for seconds)."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlgen import history
from rlgen.counters import Counters
from rlgen.history import History
from rlgen.palette import COLOURS

Chart = dict[str, Any]
Groups = Mapping[str, Sequence[History]]

MOST = 1_000  # points of a line; beyond that the extremes of stretches stand for them
COLUMNS = 3  # charts side by side on a wide page
PANEL, GAP, TOP, FOOT = 250, 74, 34, 46  # pixels of a chart, and around it
LATE = 3  # from this rank on figures are listed, but not drawn unless asked for
COUNTERS = {field.name for field in dataclasses.fields(Counters)}
DASHES = ("solid", "dash", "dot", "dashdot")
TARGET = "#8A8F98"
CLOCKS = {
    "env_steps": "environment steps",
    "updates": "updates",
    "epochs": "epochs",
    "seconds": "time in s",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"


def colour(index: int) -> str:
    """Of the experiment of this number."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """How its lines are drawn: once the colours are used up, another way."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """At most so many of a line's points: the least and the greatest of equal stretches.

    So no spike is lost, and none is invented: every point that is left was recorded.
    """
    if len(x) <= most:
        return x, y
    edges = np.linspace(1, len(x) - 1, (most - 2) // 2 + 1).astype(int)
    kept = {0, len(x) - 1}
    for begin, end in itertools.pairwise(edges):
        part = y[begin:end]
        if len(part) and not np.isnan(part).all():
            kept |= {begin + int(np.nanargmin(part)), begin + int(np.nanargmax(part))}
    chosen = np.array(sorted(kept))
    return x[chosen], y[chosen]


def smooth(y: np.ndarray, weight: float) -> np.ndarray:
    """The exponential moving average of a line, without the pull of its beginning to zero."""
    if weight == 0.0 or not len(y):
        return y
    averaged, total, norm = np.empty_like(y), 0.0, 0.0
    for i, value in enumerate(y):
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        averaged[i] = total / norm
    return averaged


def label(figure: str, metric: str = "") -> str:
    """What a figure is called over its chart."""
    kind, _, name = figure.partition("/")
    said = metric if name == "mean" and metric else name
    return f"{said.replace('_', ' ')} · {'evaluation' if kind == 'evaluation' else 'training'}"


def figures_of(groups: Groups) -> list[str]:
    """All figures of some runs, the most telling first."""
    found: dict[str, int] = {}
    for runs in groups.values():
        for run in runs:
            for figure in run.figures():
                found[figure] = found.get(figure, 0) + 1
    return sorted(found, key=lambda name: (_rank(name), list(found).index(name)))


def _rank(figure: str) -> int:
    if figure == "evaluation/mean":
        return 0
    if figure.startswith("train/episode_return"):
        return 1
    kind, _, name = figure.partition("/")
    if name in COUNTERS or name.endswith("_per_s") or name in ("episode_length", "workers"):
        return LATE + 1
    return 2 if kind == "train" else LATE


def first_choice(groups: Groups, figures: Sequence[str]) -> list[str]:
    """The figures shown where none were chosen: the score over time, and what was learned from."""
    runs = [run for members in groups.values() for run in members]

    def points(figure: str) -> int:
        return max((len(run.curve(figure, "seconds")[0]) for run in runs), default=0)

    telling = [figure for figure in figures if _rank(figure) < LATE] or list(figures)
    drawn = [figure for figure in telling[:12] if points(figure) > 1]
    return (drawn or telling)[:3]


def clocks_of(groups: Groups) -> list[str]:
    """The x axes on which some of the runs have come on."""
    latest = [run.records for members in groups.values() for run in members if run.records]
    return [
        name
        for name in CLOCKS
        if any(record.get(name) for records in latest for record in records[-3:])
    ]


def own_clock(groups: Groups, clocks: Sequence[str]) -> str:
    """What the runs count; their time where they count different things."""
    counted = {run.clock for members in groups.values() for run in members if run.records}
    if len(counted) == 1 and (own := counted.pop()) in clocks:
        return own
    return "seconds"


def curves(
    groups: Groups, figures: Sequence[str], x: str, each: bool, logs: Sequence[str], weight: float,
    columns: int = COLUMNS,
) -> Chart:  # fmt: skip
    """Small multiples: a chart of every figure, in each a line of every experiment.

    Of a figure of evaluations, which measure different things, there is a chart for each of them.

    Args:
        groups: the runs drawn, by experiment.
        figures: as `History.figures` names them.
        x: one of `CLOCKS`.
        each: draw every run by itself, not the mean over them with its 95 % interval.
        logs: which axes are logarithmic: ``x``, ``y``.
        weight: of the past in the moving average; 0 for none.
        columns: of charts that there is room for.
    """
    traces: list[Chart] = []
    titles, targets = [], []
    indices = {name: index for index, name in enumerate(groups)}
    panels = [(figure, alike) for figure in figures for alike in _measured_alike(groups, figure)]
    least = [math.inf] * len(panels)
    reached: list[list[float]] = [[] for _ in panels]  # by runs that are drawn as a band
    for number, (figure, alike) in enumerate(panels):
        axes = {"xaxis": _axis("x", number), "yaxis": _axis("y", number)}
        titles.append(label(figure, metric(alike)))
        for name, runs in alike.items():
            index = indices[name]
            lines = [(run, *run.curve(figure, x)) for run in runs]
            lines = [line for line in lines if len(line[1])]
            least[number] = min([least[number], *(ys.min() for _, _, ys in lines)])
            if each or len(lines) == 1:
                for run, xs, ys in lines:
                    traces += _line(name, run, xs, ys, index, weight, axes)
            elif lines:
                traces += _band(name, lines, index, weight, axes)
                reached[number] += [value for _, _, ys in lines for value in (ys.min(), ys.max())]
        goals = {_target(run) for runs in alike.values() for run in runs}
        targets.append(goals.pop() if len(goals) == 1 and figure == "evaluation/mean" else None)
    layout = _layout(titles, CLOCKS[x], targets, logs, weight, columns)
    for number, values in enumerate(reached):
        own = layout[_axis("y", number).replace("y", "yaxis")]
        if "y" in logs and least[number] <= 0:  # of which there is no logarithm
            own["type"] = "linear"
            layout["annotations"][number]["text"] += " · linear, for not all of it is above 0"
        # The interval of a few seeds may be far wider than what they reached.
        if own["type"] == "linear" and values and (room := 0.1 * (max(values) - min(values))):
            bounds = {"clipmin": float(min(values) - room), "clipmax": float(max(values) + room)}
            own["autorangeoptions"] = bounds
    return {"data": traces, "layout": layout}


def _measured_alike(groups: Groups, figure: str) -> list[Groups]:
    """The experiments whose figure can stand on one axis."""
    if not figure.startswith("evaluation/"):
        return [groups]
    found: dict[str, dict[str, Sequence[History]]] = {}
    for name, runs in groups.items():
        found.setdefault(metric({name: runs}), {})[name] = runs
    return list(found.values())


def _line(
    name: str, run: History, x: np.ndarray, y: np.ndarray, index: int, weight: float, axes: Chart
) -> list[Chart]:
    """One run's points; beneath a moving average, what it is of."""
    shown = html.escape(name), f"seed {run.config.get('seed')}"
    base: Chart = {
        "type": "scatter",
        "mode": "lines+markers" if len(x) == 1 else "lines",
        "name": f"{shown[0]}, {shown[1]}",
        "meta": run.folder.name,
        "line": {"color": colour(index), "dash": dash(index), "width": 1.8},
        "hovertemplate": f"<b>{shown[0]}</b>, {shown[1]}<br>%{{x:,}}: %{{y:.6g}}<extra></extra>",
        **axes,
    }
    xs, ys = thin(x, y)
    raw = base | {"x": xs.tolist(), "y": ys.tolist()}
    if weight == 0.0 or len(x) < 2:
        return [raw]
    xs, ys = thin(x, smooth(y, weight))
    return [raw | {"opacity": 0.25, "hoverinfo": "skip", "hovertemplate": None},
            base | {"x": xs.tolist(), "y": ys.tolist()}]  # fmt: skip


def _band(
    name: str, lines: Sequence[tuple[History, np.ndarray, np.ndarray]], index: int, weight: float,
    axes: Chart,
) -> list[Chart]:  # fmt: skip
    """The mean of several seeds, and around it Student's interval of 95 %."""
    folders = [run.folder for run in history.one_per_seed(run for run, *_ in lines)]
    lines = [line for line in lines if line[0].folder in folders]
    ended = [run.status == history.ENDED for run, *_ in lines]
    grid, values = history.join([(x, smooth(y, weight)) for _, x, y in lines], ended)
    mean, low, high = history.band(values)
    base: Chart = {"type": "scatter", "x": grid.tolist(), **axes}
    shown = html.escape(name)
    edge = base | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        edge | {"y": high.tolist(), "name": f"{shown}, high"},
        edge | {
            "y": low.tolist(), "name": f"{shown}, low",
            "fill": "tonexty", "fillcolor": _transparent(colour(index)),
        },
        base | {
            "y": mean.tolist(),
            "mode": "lines",
            "name": shown,
            "line": {"color": colour(index), "dash": dash(index), "width": 2.2},
            "customdata": np.stack([low, high], axis=1).tolist(),
            "hovertemplate": f"<b>{shown}</b>, mean of {len(lines)}<br>%{{x:,.6~g}}: %{{y:.6g}} "
            "[%{customdata[0]:.5g}, %{customdata[1]:.5g}]<extra></extra>",
        },
    ]  # fmt: skip


def _transparent(colour_: str) -> str:
    red, green, blue = (int(colour_[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"


def workers(run: History) -> Chart:
    """Throughput, busyness and lag of each worker over the time of a run, a line of each."""
    records = run.of("workers")
    unit = str(records[-1].get("unit", "")).replace("_", " ")
    panels = {"per_s": f"{unit} per second, each worker", "busy": "share of time busy"}
    if any(lag for record in records for lag in record.get("lag") or ()):
        panels["lag"] = "lag of its batches, in updates"
    traces = []
    for number, name in enumerate(panels):
        axes = {"xaxis": _axis("x", number), "yaxis": _axis("y", number)}
        for worker in range(len(records[-1].get(name) or ())):
            told = [
                (record["seconds"], record[name][worker])
                for record in records
                if worker < len(record.get(name) or ()) and record[name][worker] is not None
            ]
            points = np.array(told, dtype=np.float64).reshape(-1, 2)
            x, y = thin(points[:, 0], points[:, 1])
            traces.append(_plain(f"worker {worker}", x, y, worker, axes))
    layout = _layout(list(panels.values()), CLOCKS["seconds"])
    for number in range(len(panels)):
        layout[_axis("y", number).replace("y", "yaxis")]["rangemode"] = "tozero"
    layout[_axis("y", 1).replace("y", "yaxis")] |= {"tickformat": ".0%", "range": [0, 1]}
    return {"data": traces, "layout": layout}


def throughput(run: History) -> Chart:
    """What is known of the workers of a run that has no record of each: all of them together."""
    figures = [f"train/{run.clock}_per_s", "train/lag_mean", "train/lag_max"]
    lines = {figure: run.curve(figure, "seconds") for figure in figures} if run.records else {}
    lines = {figure: line for figure, line in lines.items() if len(line[0])}
    traces = []
    for number, (figure, line) in enumerate(lines.items()):
        axes = {"xaxis": _axis("x", number), "yaxis": _axis("y", number)}
        traces.append(_plain(label(figure), *thin(*line), 0, axes))
    return {"data": traces, "layout": _layout([label(name) for name in lines], CLOCKS["seconds"])}


def _plain(name: str, x: np.ndarray, y: np.ndarray, index: int, axes: Chart) -> Chart:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) == 1 else "lines",
        "name": name,
        "x": x.tolist(),
        "y": y.tolist(),
        "line": {"color": colour(index), "dash": dash(index), "width": 1.6},
        "hovertemplate": f"<b>{name}</b><br>%{{x:,.1f}} s: %{{y:.4g}}<extra></extra>",
        **axes,
    }


def _axis(letter: str, number: int) -> str:
    return letter if number == 0 else f"{letter}{number + 1}"


def metric(groups: Groups) -> str:
    """What evaluations of these runs measure; ``score`` where they measure different things."""
    found = {
        str(next((record["metric"] for record in run.of("evaluation") if "metric" in record), ""))
        for runs in groups.values()
        for run in runs
    } - {""}
    return found.pop() if len(found) == 1 else "score"


def _target(run: History) -> float | None:
    target = (run.config.get("stop") or {}).get("target")
    return None if target is None else float(target)


def grid_shape(count: int, most: int = COLUMNS) -> tuple[int, int]:
    """Rows and columns of small multiples, of which at most so many fit side by side."""
    columns = min(max(count, 1), most) if (count, most) != (4, 3) else 2
    return max(math.ceil(count / columns), 1), columns


def _height(rows: int) -> int:
    """Of so many rows of charts, in pixels."""
    return TOP + rows * PANEL + (rows - 1) * GAP + FOOT


def _layout(
    titles: Sequence[str], x: str, targets: Sequence[float | None] = (), logs: Sequence[str] = (),
    weight: float = 0.0, most: int = COLUMNS,
) -> Chart:  # fmt: skip
    rows, columns = grid_shape(len(titles), most)
    height = _height(rows)
    inner = height - TOP - FOOT
    gap = 0.055 if columns > 1 else 0.0
    wide = (1 - gap * (columns - 1)) / columns
    layout: Chart = {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": TOP, "b": FOOT},
        "font": {"family": FONT, "size": 12},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"font": {"family": FONT, "size": 12}, "align": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "annotations": [],
        "shapes": [],
        # A zoom stays while this does: when points arrive, but not with other charts.
        "uirevision": "|".join([*titles, x, *logs, str(columns)]),
    }
    for number, (title, target) in enumerate(itertools.zip_longest(titles, targets)):
        row, column = divmod(number, columns)
        left, top = column * (wide + gap), 1 - row * (PANEL + GAP) / inner
        bottom = max(top - PANEL / inner, 0.0)
        own = {"x": _axis("x", number), "y": _axis("y", number)}
        shared: Chart = {
            "showgrid": True, "zeroline": False, "ticks": "outside", "ticklen": 4,
            "exponentformat": "SI", "automargin": False, "nticks": 6, "showline": False,
        }  # fmt: skip
        layout[own["x"].replace("x", "xaxis")] = shared | {
            "domain": [left, left + wide], "anchor": own["y"],
            "type": "log" if "x" in logs else "linear",
            "title": {"text": x, "standoff": 6, "font": {"size": 11}},
        }  # fmt: skip
        layout[own["y"].replace("y", "yaxis")] = shared | {
            "domain": [bottom, top], "anchor": own["x"],
            "type": "log" if "y" in logs else "linear",
        }  # fmt: skip
        smoothed = f" · smoothed {weight:g}" if weight else ""
        layout["annotations"].append({
            "text": f"<b>{html.escape(title)}</b>{smoothed}", "showarrow": False,
            "xref": f"{own['x']} domain", "yref": f"{own['y']} domain",
            "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "yshift": 6,
            "font": {"size": 13},
        })  # fmt: skip
        if target is not None:
            layout["shapes"].append({
                "type": "line", "xref": f"{own['x']} domain", "yref": own["y"], "x0": 0, "x1": 1,
                "y0": target, "y1": target, "line": {"color": TARGET, "dash": "dot", "width": 1.2},
            })  # fmt: skip
            layout["annotations"].append({
                "text": f"target {target:g}".replace("-", "\N{MINUS SIGN}"), "showarrow": False,
                "xref": f"{own['x']} domain", "yref": own["y"], "x": 0,
                "y": math.log10(target) if "y" in logs and target > 0 else target,
                "xanchor": "left", "yanchor": "bottom", "xshift": 4,
                "font": {"size": 11},
            })  # fmt: skip
    return layout


def bars(title: str, rows: Sequence[tuple[str, Mapping[str, float]]]) -> Chart:
    """Shares of time, a bar of each role, its parts in the order of the largest ones."""
    parts: dict[str, float] = {}
    for _, shares in rows:
        for name, share in shares.items():
            parts[name] = parts.get(name, 0.0) + share
    order = sorted(parts, key=lambda name: (name == "waiting", -parts[name]))
    traces = []
    for index, name in enumerate(order):
        shades = "#B8BEC7" if name == "waiting" else colour(index)
        traces.append({
            "type": "bar", "orientation": "h", "name": html.escape(name),
            "y": [html.escape(row) for row, _ in rows],
            "x": [shares.get(name, 0.0) for _, shares in rows],
            "marker": {"color": shades},
            "hovertemplate": f"<b>%{{y}}</b><br>{html.escape(name)}: %{{x:.1%}}<extra></extra>",
        })  # fmt: skip
    return {
        "data": traces,
        "layout": {
            "barmode": "stack",
            "height": 92 + 30 * len(rows),
            "margin": {"l": 8, "r": 12, "t": TOP, "b": 40},
            "font": {"family": FONT, "size": 12},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right",
                       "traceorder": "normal"},
            "xaxis": {"tickformat": ".0%", "range": [0, 1], "zeroline": False},
            "yaxis": {"automargin": True, "autorange": "reversed", "ticksuffix": "  "},
            "annotations": [{
                "text": f"<b>{html.escape(title)}</b>", "showarrow": False, "xref": "paper",
                "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom",
                "yshift": 6, "font": {"size": 13},
            }],
        },
    }  # fmt: skip
