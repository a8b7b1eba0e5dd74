"""The views of chosen runs beside their curves: workers, pictures, values, settings, events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from rlgen import history, rundir
from rlgen.dashboard import charts
from rlgen.dashboard import runs as reading
from rlgen.dashboard.runs import Runs
from rlgen.errors import RlgenError
from rlgen.history import History

SIDE_BY_SIDE = 4  # runs whose configurations stand in columns of their own
SHOWN, MAPS, LOADS = 12, 4, 6  # runs of which pictures, values and workers are shown
EVENTS = 300  # the latest ones
NOTHING = "–"
GRAPH: Any = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}

Groups = dict[str, list[History]]


def pictures_view(runs: Runs, groups: Groups) -> Any:
    """Pictures and videos of every run, those over its training with a slider."""
    cards = []
    chosen = [run for members in groups.values() for run in members]
    for run in chosen:
        media = [
            _sequence(runs, run, name, listed)
            for name, listed in reading.frames(run.folder).items()
        ]
        media += [_video(runs, run, name, path) for name, path in reading.videos(run.folder)]
        if media:
            cards.append(html.Article([html.H3(run.name), html.Div(media, className="media")]))
    if not cards:
        return html.P(
            "No pictures or videos. Models of pictures leave samples and reconstructions; agents "
            "leave videos with tracking.video_every, or by 'rlgen play RUN -o FILE.gif'.",
            className="soft",
        )
    more = len(cards) - SHOWN
    said = [html.P(f"{more} more runs have pictures.", className="soft")] if more > 0 else []
    return [html.Div(cards[:SHOWN], className="cards"), *said]


def _url(runs: Runs, run: History, file: str) -> str:
    """Of a file of a run; another one once the file has changed."""
    path = run.folder / file
    changed = path.stat().st_mtime_ns if path.is_file() else 0  # it has just been deleted
    return f"/files/{quote(_id(runs, run))}/{quote(file)}?v={changed:x}"


def _id(runs: Runs, run: History) -> str:
    return run.folder.relative_to(runs.base).as_posix()


def _sequence(runs: Runs, run: History, name: str, listed: list[tuple[str, str]]) -> Any:
    key = f"{_id(runs, run)}/{name}".replace(".", "_")
    sources = [[said or "the end", _url(runs, run, file)] for said, file in listed]
    last = len(sources) - 1
    parts: list[Any] = [html.Img(id={"type": "frame", "key": key}, src=sources[last][1], alt=name)]
    said = sources[last][0]
    if last:
        parts.append(
            html.Div(
                className="slider",
                children=dcc.Slider(
                    id={"type": "slider", "key": key},
                    min=0,
                    max=last,
                    step=1,
                    value=last,
                    marks=None,
                    updatemode="drag",
                    allow_direct_input=False,
                    included=False,
                ),
            )
        )
        parts.append(dcc.Store(id={"type": "frames", "key": key}, data=sources))
    title = html.B(name.replace("_", " "))
    at = html.Span(said, id={"type": "at", "key": key})
    return html.Figure([*parts, html.Figcaption([title, " at ", at] if last else title)])


def _video(runs: Runs, run: History, name: str, file: str) -> Any:
    source = _url(runs, run, file)
    shown = (
        html.Video(src=source, controls=True, loop=True, muted=True)
        if file.endswith(".mp4")
        else html.Img(src=source, alt=f"video {name}")
    )
    return html.Figure([shown, html.Figcaption([html.B("video"), f" {name}"])])


def config_view(runs: Runs, groups: Groups) -> Any:
    """One configuration, or what differs between several."""
    chosen = [run for members in groups.values() for run in members]
    alone = len(chosen) <= SIDE_BY_SIDE
    columns = {run.name: [run] for run in chosen} if alone else dict(groups)
    told = {name: [_settings(run) for run in members] for name, members in columns.items()}
    found = dict.fromkeys(key for members in told.values() for one in members for key in one)
    sections = ["", *dict.fromkeys(key.rpartition(".")[0] for key in found)]
    keys = sorted(found, key=lambda key: sections.index(key.rpartition(".")[0]))
    lines = {
        key: [_joined([one.get(key) for one in members]) for members in told.values()]
        for key in keys
    }
    apart = [key for key, cells in lines.items() if len(set(cells)) > 1]
    same = [key for key in keys if key not in apart]
    head = html.Thead(html.Tr([html.Th("setting"), *[html.Th(name) for name in columns]]))

    def table(wanted: Sequence[str]) -> Any:
        rows, section = [], ""
        for key in wanted:
            if key.rpartition(".")[0] != section:
                section = key.rpartition(".")[0]
                title = html.Th(section, colSpan=len(columns) + 1)
                rows.append(html.Tr(title, className="section"))
            rows.append(html.Tr([html.Th(key.rpartition(".")[2]), *map(html.Td, lines[key])]))
        return html.Div(
            html.Table([head, html.Tbody(rows)], className="settings"), className="wide"
        )

    if len(columns) == 1:
        return table(keys)
    return [
        html.H3(f"{len(apart)} settings differ" if len(apart) != 1 else "1 setting differs"),
        table(apart) if apart else html.P("These runs were configured alike.", className="soft"),
        html.Details([html.Summary(f"the same in all: {len(same)}"), table(same)]),
    ]


def _settings(run: History) -> dict[str, str]:
    """The configuration and the versions of a run."""
    found = {key: _said(value) for key, value in history.flat(run.config).items()}
    versions = rundir.read_versions(run.folder)
    return found | {f"versions.{name}": version for name, version in versions.items()}


def _said(value: Any) -> str:
    """As a configuration has it, to be copied from here."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(values: Sequence[str | None]) -> str:
    return ", ".join(dict.fromkeys(NOTHING if value is None else value for value in values))


def damaged_lines(count: int) -> str:
    """So many lines of metrics.jsonl, with their verb."""
    return f"{count:,} damaged {'line was' if count == 1 else 'lines were'}"


def events_view(runs: Runs, groups: Groups) -> Any:
    """What was warned of, what broke and was replaced, the latest first."""
    rows, damaged = [], []
    for members in groups.values():
        for run in members:
            if run.skipped:
                damaged.append(
                    html.P(
                        className="notice",
                        children=(
                            f"{run.name}: {damaged_lines(run.skipped)} left out of metrics.jsonl"
                        ),
                    )
                )
            rows += [
                (event.get("time", 0.0), run.name, str(event.get("message", "")))
                for event in run.of("event")
            ]
    rows.sort(reverse=True)
    if not rows:
        return [*damaged, html.P("No warnings, no restarts.", className="soft")]
    body = [
        html.Tr([html.Td(reading.when(at), className="number"), html.Td(name), html.Td(message)])
        for at, name, message in rows[:EVENTS]
    ]
    head = html.Thead(html.Tr([html.Th("when"), html.Th("run"), html.Th("what")]))
    more = len(rows) - EVENTS
    return [
        *damaged,
        html.Div(html.Table([head, html.Tbody(body)], className="events"), className="wide"),
        *([html.P(f"{more:,} earlier ones are not shown.", className="soft")] * (more > 0)),
    ]


def values_view(runs: Runs, groups: Groups) -> Any:
    """The values and the policy of a run of each experiment that keeps a table of them."""
    drawn: list[Any] = []
    for members in groups.values():
        run = next((run for run in members if _may_have_values(run)), None)
        if run is None or len(drawn) >= MAPS:
            continue
        try:
            version = runs.maps.draw(run)
        except RlgenError as error:
            drawn.append(html.P(f"{run.name}: {error}", className="soft"))
            continue
        except Exception as error:  # whatever an environment of the user's may raise
            said = f"{run.name} cannot be drawn: {type(error).__name__}: {error}"
            drawn.append(html.P(said, className="soft"))
            continue
        source = f"/values/{quote(_id(runs, run))}?v={version}"
        picture = html.Img(src=source, alt="values and policy")
        caption = html.Figcaption(f"{run.name}, after {int(version):,} cycles")
        drawn.append(html.Figure([picture, caption], className="values"))
    if drawn:
        return html.Div(drawn, className="media")
    return html.P(
        "Values and policies are drawn of runs that keep a table of them: planning, Monte Carlo, "
        "SARSA, Q-learning and their kin.",
        className="soft",
    )


def _may_have_values(run: History) -> bool:
    """Whether it could be a table: there are states, and no network stands for them."""
    network = run.config.get("network")
    return bool(run.config.get("env")) and (network is None or network == {})


def workers_view(runs: Runs, groups: Groups) -> Any:
    """Throughput, lag and health of every worker, and where the time of each role went."""
    chosen = [run for members in groups.values() for run in members]
    cards = [_load(runs, run) for run in chosen[:LOADS]]
    more = len(chosen) - LOADS
    if more > 0:
        cards.append(html.P(f"Of {more} more chosen runs nothing is shown here.", className="soft"))
    return cards


def _load(runs: Runs, run: History) -> Any:
    records = run.of("workers")
    summary = runs.summary(_id(runs, run))
    parts: list[Any] = [html.H3([run.name, html.Small(_machinery(run, summary))])]
    if records:
        parts.append(_health(run, records[-1]))
    chart = charts.workers(run) if records else charts.throughput(run)
    if chart["data"]:
        parts.append(_graph(f"load/{_id(runs, run)}", chart))
    share = summary.get("time_share") or (records[-1].get("time_share") if records else None)
    if share:
        over = "all of the run" if summary.get("time_share") else "the last seconds"
        rows = [(role, spent) for role, spent in share.items() if spent]
        if rows:
            bars = charts.bars(f"share of time, {over}", rows)
            parts.append(_graph(f"share/{_id(runs, run)}", bars))
    if not records:
        parts.append(
            html.P("This run was recorded without a record of each worker.", className="soft")
        )
    return html.Article(parts)


def graph(id_: str | dict[str, str], chart: charts.Chart) -> Any:
    """A chart, as high as it wants to be."""
    return dcc.Graph(
        id=id_,
        figure=chart,
        responsive=True,
        style={"height": f"{chart['layout']['height']}px"},
        config=GRAPH,
        className="graph",
    )


def _graph(key: str, chart: charts.Chart) -> Any:
    return graph({"type": "chart", "key": key.replace(".", "_")}, chart)


def _machinery(run: History, summary: Mapping[str, Any]) -> str:
    """How the run is set up, and what held it up."""
    scheduler = run.config.get("scheduler") or {}
    count = scheduler.get("workers", 1)
    said = [
        f"{count} {'worker' if count == 1 else 'workers'}",
        str(scheduler.get("backend", "")),
        str(scheduler.get("mode", "")),
    ]
    if summary.get("bottleneck"):
        said.append(f"held up most by {summary['bottleneck']}")
    for name in ("restarts", "dropped"):
        if count := run.latest(f"train/{name}"):
            said.append(f"{reading.number(count)} {name}")
    return ", ".join(part for part in said if part)


def _health(run: History, record: Mapping[str, Any]) -> Any:
    """The latest of each worker."""
    unit = str(record.get("unit", "")).replace("env_steps", "steps")
    away = set(record.get("away") or ())
    head = ["worker", "state", f"{unit}/s", "busy", "lag", "restarts"]
    rows = []
    columns = [record.get(name) or [] for name in ("per_s", "busy", "lag", "restarts")]
    for worker, (speed, busy, lag, restarts) in enumerate(zip(*columns, strict=False)):
        state = "away" if worker in away else "works" if run.status == history.RUNNING else "ended"
        kind = {"away": "broken-off", "works": "running", "ended": "ended"}[state]
        rows.append(
            html.Tr(
                [
                    html.Td(
                        [
                            html.I(className="swatch", style={"background": charts.colour(worker)}),
                            str(worker),
                        ]
                    ),
                    html.Td(state, className=f"status {kind}"),
                    html.Td(NOTHING if speed is None else _rate(speed), className="number"),
                    html.Td(NOTHING if busy is None else f"{busy:.0%}", className="number"),
                    html.Td(NOTHING if lag is None else f"{lag:.2f}", className="number"),
                    html.Td(f"{restarts:,}", className="number"),
                ]
            )
        )
    return html.Div(
        html.Table(
            [
                html.Thead(
                    html.Tr(
                        [
                            html.Th(name, className="number" if i > 1 else "")
                            for i, name in enumerate(head)
                        ]
                    )
                ),
                html.Tbody(rows),
            ],
            className="health",
        ),
        className="wide",
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


VIEWS = {
    "workers": workers_view,
    "pictures": pictures_view,
    "values": values_view,
    "config": config_view,
    "events": events_view,
}
