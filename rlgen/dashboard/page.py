"""The page: its layout, and what answers to its controls."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import dash
import dash_ag_grid as dag
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update

from rlgen import history
from rlgen.dashboard import charts, views
from rlgen.dashboard import runs as reading
from rlgen.dashboard.runs import Runs
from rlgen.history import History

EVERY_MS = 1_500  # between questions of a page for what is new
TABS = {
    "curves": "Curves",
    "workers": "Workers",
    "pictures": "Pictures",
    "values": "Values",
    "config": "Configuration",
    "events": "Events",
}
STROKES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}
THEME = {
    "function": "themeQuartz.withParams({backgroundColor: 'var(--paper)', foregroundColor: "
    "'var(--ink)', accentColor: 'var(--accent)', borderColor: 'var(--line)', "
    "chromeBackgroundColor: 'var(--paper)', headerBackgroundColor: 'var(--paper)', "
    "headerTextColor: 'var(--soft)', headerFontWeight: 600, fontFamily: 'inherit', fontSize: 13, "
    "headerFontSize: 12, rowHeight: 32, headerHeight: 34, wrapperBorder: false, "
    "wrapperBorderRadius: 0, rowHoverColor: 'var(--hover)', "
    "selectedRowBackgroundColor: 'var(--chosen)', browserColorScheme: 'inherit', "
    "menuBackgroundColor: 'var(--raised)', columnBorder: false})"
}


# --- the layout -----------------------------------------------------------------------------------


def _text(field: str, heading: str, width: int, **more: Any) -> dict[str, Any]:
    return {
        "field": field,
        "headerName": heading,
        "width": width,
        "filter": "agTextColumnFilter",
        **more,
    }


def _number(field: str, heading: str, width: int, shown: str = "", **more: Any) -> dict[str, Any]:
    """A column that is sorted and filtered as numbers, and shown as another field says."""
    formatted = {"valueFormatter": {"function": f"params.data.{shown}"}} if shown else {}
    return {
        "field": field,
        "headerName": heading,
        "width": width,
        "type": "rightAligned",
        "filter": "agNumberColumnFilter",
        **formatted,
        **more,
    }


STATUS = {
    "field": "status_text",
    "headerName": "Status",
    "width": 124,
    "filter": "agTextColumnFilter",
    "cellClass": {"function": "'status ' + params.data.status.replace(' ', '-')"},
}
EXPERIMENT = _text("experiment", "Experiment", 250, flex=2, minWidth=170, tooltipField="experiment")
SHARED = [
    _number("steps", "Steps", 144, "steps_text"),
    _number("result", "Result", 138, "result_text", cellClass="ag-right-aligned-cell strong"),
    _text("metric", "Metric", 150, cellClass="soft", flex=1, minWidth=124, tooltipField="metric"),
    _number("speed", "Speed", 144, "speed_text"),
    {
        "field": "started",
        "headerName": "Started",
        "width": 122,
        "type": "rightAligned",
        "valueFormatter": {"function": "params.data.started_text"},
        "filter": False,
    },
]
RUN_COLUMNS = [
    STATUS,
    EXPERIMENT,
    _text("algorithm", "Algorithm", 152, tooltipField="algorithm"),
    _text("task", "Task", 144, tooltipField="task"),
    _number("seed", "Seed", 84),
    *SHARED,
]
EXPERIMENT_COLUMNS = [
    EXPERIMENT,
    _text("algorithm", "Algorithm", 165, tooltipField="algorithm"),
    _text("task", "Task", 152, tooltipField="task"),
    _number("runs", "Runs", 84),
    _text("status_text", "Status", 132, tooltipField="status_text"),
    *SHARED,
]


def _grid(id_: str, columns: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Any:
    return dag.AgGrid(
        id=id_,
        columnDefs=columns,
        rowData=rows,
        getRowId="params.data.id",
        defaultColDef={"sortable": True, "resizable": True, "suppressHeaderMenuButton": False},
        dashGridOptions={
            "theme": THEME,
            "rowSelection": {
                "mode": "multiRow",
                "selectAll": "filtered",
                "enableClickSelection": True,
            },
            "selectionColumnDef": {"width": 44, "pinned": "left"},
            "animateRows": False,
            "tooltipShowDelay": 400,
            "suppressCellFocus": True,
        },
        style={"height": "100%", "width": "100%"},
    )


def _choice(id_: str, options: Mapping[str, str], value: str, named: str) -> Any:
    """One of a few, as buttons side by side."""
    shown = [{"label": label, "value": key} for key, label in options.items()]
    items = dcc.RadioItems(id=id_, options=shown, value=value, className="segments", inline=True)
    return html.Div(items, title=named)


def layout(runs: Runs) -> Any:
    """The whole page, with the table as it is now."""
    runs.refresh()
    return html.Div(
        className="page",
        children=[
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=EVERY_MS),
            dcc.Store(id="version", data=runs.version),
            dcc.Store(id="pulse", data=""),
            dcc.Store(id="chosen", data=None),
            dcc.Store(id="kept"),
            dcc.Store(id="chart"),
            dcc.Store(id="offered", data={}),
            dcc.Store(id="columns", data=charts.COLUMNS),
            html.Header(
                [
                    html.H1("rlgen"),
                    html.Span(runs.named, className="where", title=str(runs.root)),
                    html.Span(id="counts", className="counts", children=_counts(runs)),
                ]
            ),
            html.Div(id="notices", children=_notices(runs)),
            html.Div(id="empty", children=_empty(runs), hidden=bool(runs.rows)),
            html.Main(
                id="main",
                hidden=not runs.rows,
                children=[
                    html.Section(
                        className="table",
                        children=[
                            html.Div(
                                className="bar",
                                children=[
                                    _choice(
                                        "list",
                                        {"runs": "Runs", "experiments": "Experiments"},
                                        "runs",
                                        "what is listed",
                                    ),
                                    dcc.Input(
                                        id="find",
                                        type="search",
                                        debounce=0.15,
                                        value="",
                                        placeholder="Filter: dqn, running, CartPole ...",
                                    ),
                                    html.Span(id="selected", className="soft"),
                                    html.Button("Clear", id="clear", n_clicks=0),
                                ],
                            ),
                            html.Div(
                                _grid("runs", RUN_COLUMNS, runs.rows),
                                id="runs-box",
                                className="grid",
                            ),
                            html.Div(
                                _grid("experiments", EXPERIMENT_COLUMNS, runs.summaries()),
                                id="experiments-box",
                                className="grid",
                                hidden=True,
                            ),
                        ],
                    ),
                    html.Section(
                        className="views",
                        children=[
                            _choice("tab", TABS, "curves", "view"),
                            html.Div(id="legend", className="legend"),
                            _curves_view(),
                            dcc.Loading(
                                html.Div(id="view", className="view"),
                                delay_show=700,
                                overlay_style={"visibility": "visible", "opacity": 0.6},
                            ),
                        ],
                    ),
                ],
            ),
        ],
    )


def _curves_view() -> Any:
    return html.Div(
        id="curves-view",
        children=[
            html.Div(
                className="bar controls",
                children=[
                    dcc.Dropdown(
                        id="figures",
                        multi=True,
                        options=[],
                        value=[],
                        clearable=False,
                        placeholder="Figures ...",
                        maxHeight=360,
                    ),
                    html.Label(
                        [
                            "over",
                            dcc.Dropdown(
                                id="x", options=[], value=None, clearable=False, searchable=False
                            ),
                        ]
                    ),
                    _choice(
                        "each", {"joined": "Mean and 95 %", "each": "Every run"}, "joined", "seeds"
                    ),
                    dcc.Checklist(
                        id="logs",
                        value=[],
                        inline=True,
                        className="checks",
                        options=[
                            {"label": "log x", "value": "x"},
                            {"label": "log y", "value": "y"},
                        ],
                    ),
                    html.Label(
                        [
                            "smoothing",
                            dcc.Dropdown(
                                id="weight",
                                value=0.0,
                                clearable=False,
                                searchable=False,
                                options=[
                                    {"label": "none", "value": 0.0},
                                    {"label": "0.6", "value": 0.6},
                                    {"label": "0.9", "value": 0.9},
                                    {"label": "0.97", "value": 0.97},
                                ],
                            ),
                        ]
                    ),
                ],
            ),
            html.Div(id="plot"),
            html.Div(id="note", className="soft note"),
        ],
    )


def _counts(runs: Runs) -> str:
    states = [row["status"] for row in runs.rows]
    running = states.count(history.RUNNING)
    said = [
        f"{len(states):,} runs" if len(states) != 1 else "1 run",
        f"{len(runs.experiments):,} experiments" if len(runs.experiments) != 1 else "1 experiment",
    ]
    return " · ".join([*said, f"{running} running"] if running else said)


def _notices(runs: Runs) -> list[Any]:
    if not runs.refused:
        return []
    count = len(runs.refused)
    return [
        html.Details(
            className="notice",
            children=[
                html.Summary(
                    "1 folder is no run" if count == 1 else f"{count} folders are no runs"
                ),
                html.Ul(
                    [html.Li([html.Code(path), f": {why}"]) for path, why in runs.refused.items()]
                ),
            ],
        )
    ]


def _empty(runs: Runs) -> Any:
    return html.Div(
        className="first",
        children=[
            html.H2("No runs yet"),
            html.P(
                [
                    "Nothing below ",
                    html.Code(runs.named),
                    " is a run. Make a first one, in another terminal:",
                ]
            ),
            html.Pre(f"rlgen train a3c-cartpole run.dir={runs.named}"),
            html.P(
                [
                    "It shows up here by itself within seconds. ",
                    html.Code("rlgen list"),
                    " names more.",
                ]
            ),
        ],
    )


# --- what answers ---------------------------------------------------------------------------------


def connect(app: Dash, runs: Runs, failed: Callable[[Exception], str] | None) -> None:
    """Make the page's controls work.

    Args:
        app: the application.
        runs: what it shows.
        failed: told of what could not be drawn; returns what the page says instead. None lets the
            error through.
    """
    app.layout = lambda: layout(runs)

    def instead(answer: Callable[[str], tuple[Any, ...]]) -> Callable[[Exception], Any] | None:
        return None if failed is None else lambda error: answer(failed(error))

    @app.callback(
        Output("runs", "selectedRows"),
        Output("experiments", "selectedRows"),
        Output("chosen", "data"),
        Output("pulse", "data"),
        Output("tab", "value"),
        Output("list", "value"),
        Output("figures", "options"),
        Output("figures", "value"),
        Output("x", "options"),
        Output("x", "value"),
        Output("each", "value"),
        Output("logs", "value"),
        Output("weight", "value"),
        Output("find", "value"),
        Input("url", "search"),
    )
    def begin(search: str | None) -> tuple[Any, ...]:
        """What the URL asks for, or the experiment that was begun last."""
        asked = parse_qs((search or "").removeprefix("?"))
        one = {key: values[-1] for key, values in asked.items()}
        chosen = {
            "runs": sorted(asked.get("run", [])),
            "experiments": sorted(asked.get("experiment", [])),
        }
        if not any(chosen.values()) and "view" not in one:
            chosen["runs"] = sorted(runs.latest())
        x, figures = one.get("x"), asked.get("figure", [])
        return (
            {"ids": chosen["runs"]},
            {"ids": chosen["experiments"]},
            chosen,
            _stamp(runs, chosen),
            one.get("view") if one.get("view") in TABS else "curves",
            "experiments" if one.get("list") == "experiments" else "runs",
            _figure_options(figures, ""),  # a list forgets values that it does not offer
            figures,
            _clock_options(charts.CLOCKS),
            x if x in charts.CLOCKS else None,
            "each" if one.get("seeds") == "each" else "joined",
            [axis for axis in ("x", "y") if axis in one.get("log", "")],
            next((w for w in (0.6, 0.9, 0.97) if str(w) == one.get("smoothing")), 0.0),
            one.get("find", ""),
        )

    @app.callback(
        Output("runs", "rowData"),
        Output("experiments", "rowData"),
        Output("counts", "children"),
        Output("notices", "children"),
        Output("empty", "hidden"),
        Output("main", "hidden"),
        Output("version", "data"),
        Output("pulse", "data", allow_duplicate=True),
        Input("tick", "n_intervals"),
        State("version", "data"),
        State("pulse", "data"),
        State("chosen", "data"),
        prevent_initial_call=True,
    )
    def look(ticks: int, version: str, pulse: str, chosen: Any) -> tuple[Any, ...]:
        """What is new: nothing at all, most times."""
        runs.refresh()
        stamp = _stamp(runs, chosen)
        new = no_update if stamp == pulse else stamp
        if runs.version == version:
            if new is no_update:
                raise dash.exceptions.PreventUpdate
            return (*[no_update] * 7, new)
        return (
            runs.rows,
            runs.summaries(),
            _counts(runs),
            _notices(runs),
            bool(runs.rows),
            not runs.rows,
            runs.version,
            new,
        )

    @app.callback(
        Output("chart", "data"),
        Output("note", "children"),
        Output("figures", "options", allow_duplicate=True),
        Output("figures", "value", allow_duplicate=True),
        Output("x", "options", allow_duplicate=True),
        Output("x", "value", allow_duplicate=True),
        Output("offered", "data"),
        Input("chosen", "data"),
        Input("pulse", "data"),
        Input("tab", "value"),
        Input("figures", "value"),
        Input("x", "value"),
        Input("each", "value"),
        Input("logs", "value"),
        Input("weight", "value"),
        Input("columns", "data"),
        State("offered", "data"),
        prevent_initial_call=True,
        on_error=instead(lambda said: (None, [said], *[no_update] * 5)),
    )
    def draw(
        chosen: Any,
        pulse: str,
        tab: str,
        figures: list[str],
        x: str | None,
        each: str,
        logs: list[str],
        weight: float,
        columns: int,
        offered: dict[str, Any],
    ) -> tuple[Any, ...]:
        """The curves; of figures and over a clock that the runs have.

        What was offered for other runs, and nobody has changed, gives way to what suits these.
        """
        if tab != "curves" or chosen is None:
            raise dash.exceptions.PreventUpdate
        groups, left_out = _histories(runs, chosen)
        found, clocks = charts.figures_of(groups), charts.clocks_of(groups)
        asked = [] if figures == offered.get("figures") else figures or []
        kept = [figure for figure in asked if figure in found] or charts.first_choice(groups, found)
        own = charts.own_clock(groups, clocks)
        over = x if x in clocks and x != offered.get("x") else own
        plot = None
        if kept:
            chart = charts.curves(groups, kept, over, each == "each", logs, weight, columns)
            plot = views.graph("graph", chart).to_plotly_json()
        return (
            plot,
            _note(groups, left_out, each == "each", weight, kept),
            _figure_options(found, charts.metric(groups)),
            no_update if kept == figures else kept,
            _clock_options(clocks),
            no_update if over == x else over,
            {"figures": kept if kept != asked else None, "x": over if over == own else None},
        )

    @app.callback(
        Output("view", "children"),
        Output("legend", "children"),
        Input("chosen", "data"),
        Input("pulse", "data"),
        Input("tab", "value"),
        prevent_initial_call=True,
        on_error=instead(lambda said: (html.P(said, className="notice"), no_update)),
    )
    def show(chosen: Any, pulse: str, tab: str) -> tuple[Any, Any]:
        """The other views, and whose colours are whose."""
        if chosen is None:
            raise dash.exceptions.PreventUpdate
        if tab == "curves":
            return None, _legend(runs, runs.chosen(**chosen))
        groups, _ = _histories(runs, chosen)
        if not groups:
            return html.P("Choose runs in the table above.", className="soft"), None
        view = views.VIEWS[tab](runs, groups)
        # A view's own controls (a slider) keep their state until something has changed.
        return view, _legend(runs, runs.chosen(**chosen))

    _connect_in_browser(app)


def _connect_in_browser(app: Dash) -> None:
    """What needs no server: see assets/dashboard.js."""
    register: Any = app.clientside_callback

    def inside(name: str, *arguments: Any, **options: Any) -> None:
        register(ClientsideFunction("rlgen", name), *arguments, **options)

    inside(
        "choose",
        Output("chosen", "data", allow_duplicate=True),
        Input("runs", "selectedRows"),
        Input("experiments", "selectedRows"),
        State("chosen", "data"),
        prevent_initial_call=True,
    )
    inside(
        "clear",
        Output("runs", "selectedRows", allow_duplicate=True),
        Output("experiments", "selectedRows", allow_duplicate=True),
        Input("clear", "n_clicks"),
        prevent_initial_call=True,
    )
    inside("plot", Output("plot", "children"), Input("chart", "data"), prevent_initial_call=True)
    inside("selected", Output("selected", "children"), Input("chosen", "data"))
    inside(
        "list",
        Output("runs-box", "hidden"),
        Output("experiments-box", "hidden"),
        Output("runs", "selectedRows", allow_duplicate=True),
        Output("experiments", "selectedRows", allow_duplicate=True),
        Input("list", "value"),
        State("chosen", "data"),
        State("runs", "rowData"),
        prevent_initial_call=True,
    )
    inside("tab", Output("curves-view", "hidden"), Output("view", "hidden"), Input("tab", "value"))
    inside(
        "find",
        Output("runs", "dashGridOptions"),
        Output("experiments", "dashGridOptions"),
        Input("find", "value"),
        State("runs", "dashGridOptions"),
        prevent_initial_call=True,
    )
    inside("columns", Output("columns", "data"), Input("url", "search"))
    inside(
        "keep",
        Output("kept", "data"),
        Input("chosen", "data"),
        Input("tab", "value"),
        Input("list", "value"),
        Input("figures", "value"),
        Input("x", "value"),
        Input("each", "value"),
        Input("logs", "value"),
        Input("weight", "value"),
        Input("find", "value"),
        Input("offered", "data"),
        prevent_initial_call=True,
    )
    frame = {"type": "frame", "key": dash.MATCH}
    inside(
        "frame",
        Output(frame, "src"),
        Output({"type": "at", "key": dash.MATCH}, "children"),
        Input({"type": "slider", "key": dash.MATCH}, "value"),
        State({"type": "frames", "key": dash.MATCH}, "data"),
        prevent_initial_call=True,
    )


def _stamp(runs: Runs, chosen: Mapping[str, Any] | None) -> str:
    """Another string once anything of the chosen runs has changed, or others are chosen."""
    return runs.stamp(itertools.chain(*runs.chosen(**chosen).values())) if chosen else ""


def _figure_options(figures: Iterable[str], metric: str) -> list[dict[str, str]]:
    return [{"label": charts.label(name, metric), "value": name} for name in figures]


def _clock_options(clocks: Iterable[str]) -> list[dict[str, str]]:
    return [{"label": charts.CLOCKS[name], "value": name} for name in clocks]


def _histories(runs: Runs, chosen: Mapping[str, Any]) -> tuple[dict[str, list[History]], int]:
    """The records of what is chosen, by experiment, and how many runs are too many."""
    groups = runs.chosen(**chosen)
    wanted = sum(map(len, groups.values()))
    room = reading.KEPT
    read: dict[str, list[History]] = {}
    for name, ids in groups.items():
        found = [runs.history(id_) for id_ in ids[: max(room, 0)]]
        there = [run for run in found if run is not None]  # which may have been deleted
        if there:
            read[name] = there
        room -= len(ids)
    return read, max(wanted - reading.KEPT, 0)


def _note(
    groups: charts.Groups, left_out: int, each: bool, weight: float, figures: Sequence[str]
) -> list[Any]:
    """What has to be known to read the curves."""
    if not groups:
        return ["Choose runs in the table above."]
    if not figures:
        return ["Nothing has been recorded yet."]
    said = []
    if not each and any(len(runs) > 1 for runs in groups.values()):
        said.append(
            "Line and band: mean and 95 % interval (Student's t) over the seeds; a seed that has "
            "ended keeps its last value, one that has not is left out from there on. Of several "
            "runs of one seed the latest counts."
        )
    if weight:
        said.append(
            f"Smoothed: moving average that keeps {weight:g} of the past, of every run before runs "
            "are joined" + ("; the pale lines are what was recorded." if each else ".")
        )
    if any(len(run.records) > charts.MOST for runs in groups.values() for run in runs):
        said.append(
            f"Lines of more than {charts.MOST:,} points show the least and the greatest of equal "
            "stretches."
        )
    if left_out:
        said.append(f"{left_out:,} more chosen runs are not drawn: {reading.KEPT} are at most.")
    damaged = sum(run.skipped for runs in groups.values() for run in runs)
    if damaged:
        said.append(f"{views.damaged_lines(damaged)} left out (see Events).")
    return [" ".join(said)]


def _legend(runs: Runs, groups: Mapping[str, Sequence[str]]) -> list[Any]:
    def counted(ids: Sequence[str]) -> str:
        seeds = runs.seeds(ids)
        said = f"{len(ids)} {'run' if len(ids) == 1 else 'runs'}"
        return said if seeds == len(ids) else f"{said}, {seeds} {'seed' if seeds == 1 else 'seeds'}"

    return [
        html.Span(
            className="key",
            children=[
                html.I(style={"borderTop": f"3px {STROKES[charts.dash(i)]} {charts.colour(i)}"}),
                name,
                html.Small(counted(ids)),
            ],
        )
        for i, (name, ids) in enumerate(groups.items())
    ]
