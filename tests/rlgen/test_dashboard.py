"""The dashboard: what it reads, what it draws, whom it serves, and the page in a browser."""

import contextlib
import fcntl
import importlib.util
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from experiments import train as train_run
from PIL import Image
from recorded import append, evaluation, train, write_run
from typer.testing import CliRunner

from rlgen import history
from rlgen.cli import app as cli
from rlgen.dashboard import charts, page, server, views
from rlgen.dashboard import runs as reading
from rlgen.dashboard.runs import Runs

DOCS = Path(__file__).parents[2] / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_MS = 60_000  # only what is broken takes so long


def look(runs):
    """All that is new, however lately it was looked."""
    runs._looked = -np.inf
    runs.refresh()
    return runs


@pytest.fixture
def three(tmp_path):
    """Two seeds of one experiment and another one, by their ids."""
    write_run(tmp_path / "demo/a-seed0", seed=0, evaluations=(1.0, 3.0))
    write_run(tmp_path / "demo/b-seed1", seed=1, evaluations=(2.0, 5.0))
    write_run(tmp_path / "other/c-seed0", name="other", algorithm="sarsa", evaluations=(7.0,))
    return look(Runs(tmp_path))


# --- reading --------------------------------------------------------------------------------------


def test_the_table_says_what_the_runs_reached(three):
    rows = {row["id"]: row for row in three.rows}
    assert set(rows) == {"demo/a-seed0", "demo/b-seed1", "other/c-seed0"}
    row = rows["demo/b-seed1"]
    assert (row["status"], row["experiment"], row["task"]) == ("ended", "demo", "rlgen/Cliff-v0")
    assert (row["seed"], row["steps"], row["result"], row["metric"]) == (1, 400, 5.0, "return")
    assert row["speed"] == pytest.approx(200.0)
    groups = {row["id"]: row for row in three.summaries()}
    assert groups["demo"]["runs"] == 2 and groups["demo"]["result"] == 4.0
    assert groups["demo"]["result_text"] == "4.00 ± 12.71"  # t(0.975, 1) = 12.706, error 1
    assert groups["other"]["result_text"] == "7.00"


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "demo/a", ended=False)
    runs = look(Runs(tmp_path))
    seen, version = [], runs.version
    read_end = reading._read_end
    monkeypatch.setattr(
        reading, "_read_end", lambda run, *rest: seen.append(run.read) or read_end(run, *rest)
    )
    assert look(runs).version == version and seen == []
    size = (folder / "metrics.jsonl").stat().st_size
    append(folder, train(9), evaluation(9, 8.0))
    (row,) = look(runs).rows
    assert seen == [size] and runs.version != version
    assert (row["steps"], row["result"], row["status"]) == (900, 8.0, "broken off")
    assert [record["kind"] for record in runs.history("demo/a").records[-2:]] == [
        "train",
        "evaluation",
    ]


def test_the_end_of_long_records_is_enough(tmp_path):
    folder = write_run(tmp_path / "demo/a", ended=False, evaluations=(4.0,))
    append(folder, *[train(10 + i) for i in range(400)])  # no evaluation in the last 8 kB
    assert (folder / "metrics.jsonl").stat().st_size > 8 * reading.TAIL
    (row,) = look(Runs(tmp_path)).rows
    assert (row["result"], row["steps"]) == (4.0, 40_900)
    assert row["started"] == pytest.approx(2e5)  # by the first record


def test_a_run_in_progress_is_known_by_its_lock(tmp_path):
    folder = write_run(tmp_path / "demo/a")  # it had ended, and was resumed
    with (folder / "metrics.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        append(folder, train(5) | {"time": time.time() + 1})
        (row,) = look(Runs(tmp_path)).rows
        assert row["status"] == "running" and row["status_text"] == "running 50%"
    (row,) = look(Runs(tmp_path)).rows
    assert row["status"] == "broken off"  # the summary is of the time before
    (tmp_path / "empty/run").mkdir(parents=True)
    assert len(look(Runs(folder)).rows) == 1  # the folder of one run


def test_what_is_no_run_is_named_and_why(tmp_path):
    write_run(tmp_path / "demo/a")
    for name, text in {"bad": "name: [", "none": "- 1\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
        (tmp_path / name / "metrics.jsonl").write_text("")
    (tmp_path / "nothing").mkdir()
    runs = look(Runs(tmp_path))
    assert [row["id"] for row in runs.rows] == ["demo/a"]
    assert set(runs.refused) == {"bad", "none"}
    assert "no configuration of a run: it has no keys" in runs.refused["none"]


@pytest.mark.parametrize(
    "odd",
    [
        {"env": "CartPole-v1"},
        {"stop": [1]},
        {"evaluations": ("high",)},
        {"evaluations": (None, {})},
    ],
)
def test_an_odd_run_leaves_the_others_be(tmp_path, odd):
    write_run(tmp_path / "demo/a")
    folder = write_run(tmp_path / "odd/b", **odd)
    append(folder, {"kind": "train", "time": None, "seconds": "1", "env_steps": "many"})
    with (folder / "metrics.jsonl").open() as file:  # which makes it a run in progress
        fcntl.flock(file, fcntl.LOCK_EX)
        runs = look(Runs(tmp_path))
    assert "demo/a" in [row["id"] for row in runs.rows] and runs.refused.keys() == {"odd/b"}
    assert "demo/a" in str(client(runs).get("/_dash-layout").json)


def test_experiments_are_told_apart_anew_only_where_there_is_a_new_run(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "demo/a", ended=False)
    runs = look(Runs(tmp_path))
    monkeypatch.setattr(reading.history, "experiments", None)
    append(folder, train(9))
    assert look(runs).rows[0]["steps"] == 900  # and nothing has asked for the experiments
    monkeypatch.undo()
    write_run(tmp_path / "other/b", name="other")
    assert set(look(runs).experiments) == {"demo", "other"}


def test_damaged_lines_are_left_out_counted_and_told(tmp_path):
    folder = write_run(tmp_path / "demo/a", evaluations=(1.0, 2.0))
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:20]
    lines.insert(2, "\x00\x00")
    path.write_text("\n".join(lines) + "\n")
    runs = look(Runs(tmp_path))
    history = runs.history("demo/a")
    assert history.skipped == 2 and runs.rows[0]["result"] == 2.0
    said = str(views.events_view(runs, {"demo": [history]}))
    assert "2 damaged lines were left out of metrics.jsonl" in said


# --- drawing --------------------------------------------------------------------------------------


def test_thinned_lines_keep_every_spike_and_invent_nothing():
    y = np.zeros(12_103)
    y[[17, 8_000]], y[12_000] = 5.0, -3.0
    x = np.arange(len(y)) * 2.0
    thin_x, thin_y = charts.thin(x, y)
    assert len(thin_x) <= charts.MOST and thin_x[0] == x[0] and thin_x[-1] == x[-1]
    assert np.array_equal(y[(thin_x / 2).astype(int)], thin_y)
    assert sorted(thin_y[thin_y != 0]) == [-3.0, 5.0, 5.0]
    assert (
        charts.thin(x[:900], y[:900])[1] is not None
        and len(charts.thin(x[:900], y[:900])[0]) == 900
    )


def test_curves_are_the_records(three):
    groups = {"demo": [three.history("demo/a-seed0"), three.history("demo/b-seed1")]}
    drawn = charts.curves(groups, ["evaluation/mean", "train/loss"], "updates", True, [], 0.0)
    lines = [(trace["x"], trace["y"], trace["yaxis"]) for trace in drawn["data"]]
    assert lines[:2] == [([20.0, 40.0], [1.0, 3.0], "y"), ([20.0, 40.0], [2.0, 5.0], "y")]
    assert lines[2] == ([10.0, 20.0, 30.0, 40.0], [1.0, 1 / 2, 1 / 3, 1 / 4], "y2")
    high, low, mean = charts.curves(groups, ["evaluation/mean"], "env_steps", False, [], 0.0)[
        "data"
    ]
    assert (mean["x"][0], mean["y"][0]) == (200.0, 1.5) and mean["y"][-1] == 4.0
    assert high["y"][0] == pytest.approx(1.5 + 12.706 * 0.5, abs=1e-3)
    assert low["y"][-1] == pytest.approx(4 - 12.706, abs=1e-3)


def test_counters_and_rates_are_not_what_one_sees_first(tmp_path):
    folder = write_run(tmp_path / "demo/a")
    append(folder, *[train(9 + i) | {"rows_learned": 64 * i, "restarts": 1} for i in (1, 2)])
    groups = {"demo": [look(Runs(tmp_path)).history("demo/a")]}
    figures = charts.figures_of(groups)
    assert {"train/rows_learned", "train/env_steps_per_s"} < set(figures)
    assert charts.first_choice(groups, figures) == [
        "evaluation/mean", "train/episode_return", "train/loss",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "room", "shape"),
    [
        (1, 3, (1, 1)),
        (3, 3, (1, 3)),
        (4, 3, (2, 2)),
        (5, 3, (2, 3)),
        (3, 1, (3, 1)),
        (4, 1, (4, 1)),
    ],
)
def test_charts_stand_side_by_side_where_there_is_room(count, room, shape):
    assert charts.grid_shape(count, room) == shape


def test_a_run_that_is_deleted_meanwhile_is_gone(three):
    chosen = {"runs": ["demo/a-seed0", "demo/b-seed1", "other/c-seed0"], "experiments": []}
    for name in ("demo/a-seed0", "other/c-seed0"):
        shutil.rmtree(three.folder(name))
    found = three.chosen(**chosen)  # as they were a moment ago
    look(three)
    three.chosen = lambda **_: found
    groups, left_out = page._histories(three, chosen)
    assert [run.folder.name for run in groups.pop("demo")] == ["b-seed1"]
    assert not groups and left_out == 0 and three.summary("other/c-seed0") == {}


def test_what_is_measured_differently_is_drawn_apart(three, tmp_path):
    folder = write_run(tmp_path / "vae/d", name="vae", evaluations=(), ended=False)
    append(folder, *[evaluation(i, -80.0 - i) | {"metric": "elbo"} for i in (1, 2)])
    look(three)
    groups = {name: [three.history(id_)] for name, id_ in
              {"other": "other/c-seed0", "vae": "vae/d"}.items()}  # fmt: skip
    drawn = charts.curves(groups, ["evaluation/mean"], "updates", False, [], 0.0)
    assert [trace["yaxis"] for trace in drawn["data"]] == ["y", "y2"]
    assert [trace["line"]["color"] for trace in drawn["data"]] == [
        charts.colour(0),
        charts.colour(1),
    ]
    titles = [note["text"] for note in drawn["layout"]["annotations"]]
    assert titles == ["<b>return · evaluation</b>", "<b>elbo · evaluation</b>"]


def test_what_is_not_above_zero_is_not_drawn_on_a_logarithmic_axis(tmp_path):
    folder = write_run(tmp_path / "vae/d", evaluations=(), ended=False)
    append(folder, *[evaluation(i, -80.0 - i) | {"mean_length": 3.0 + i} for i in (1, 2)])
    groups = {"vae": [look(Runs(tmp_path)).history("vae/d")]}
    figures = ["evaluation/mean", "evaluation/mean_length"]
    layout = charts.curves(groups, figures, "updates", False, ["y"], 0.0)["layout"]
    assert (layout["yaxis"]["type"], layout["yaxis2"]["type"]) == ("linear", "log")
    first, second = (note["text"] for note in layout["annotations"])
    assert "linear, for not all of it is above 0" in first and "linear" not in second


def test_an_axis_is_as_high_as_the_seeds_not_as_the_interval_of_two(three):
    groups = {"demo": [three.history("demo/a-seed0"), three.history("demo/b-seed1")]}
    drawn = charts.curves(groups, ["evaluation/mean"], "updates", False, [], 0.0)
    assert min(drawn["data"][1]["y"]) < -8  # of seeds between 1 and 5
    bounds = drawn["layout"]["yaxis"]["autorangeoptions"]
    assert bounds == {"clipmin": pytest.approx(0.6), "clipmax": pytest.approx(5.4)}


def test_times_of_other_days_are_short(monkeypatch):
    now = datetime.now()
    assert len(reading.when(now.timestamp())) == len("12:34:56")
    assert reading.when(datetime(2020, 2, 3, 4, 5).timestamp()) == "2020-02-03"
    other = now.replace(month=1 if now.month > 1 else 2, day=3, hour=4, minute=5)
    assert reading.when(other.timestamp()) == other.strftime("%d %b 04:05")


def test_a_summary_whose_record_was_cut_short_still_counts(tmp_path):
    folder = write_run(tmp_path / "demo/a")
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text()[:-9])
    (row,) = look(Runs(tmp_path)).rows
    assert row["status"] == "ended" and history.read(folder).status == history.ENDED


def test_smoothing_shows_what_it_is_of(three):
    groups = {"demo": [three.history("demo/a-seed0")]}
    raw, smooth = charts.curves(groups, ["evaluation/mean"], "updates", True, [], 0.9)["data"]
    assert raw["y"] == [1.0, 3.0] and raw["opacity"] < 0.5
    assert smooth["y"] == pytest.approx([1.0, (0.9 * 1.0 + 3.0) / 1.9])
    assert np.allclose(charts.smooth(np.full(50, 7.0), 0.97), 7.0)


def test_names_of_runs_are_no_markup(tmp_path):
    write_run(tmp_path / "x/a", name="<img src=x onerror=alert(1)>")
    runs = look(Runs(tmp_path))
    groups = {row["experiment"]: [runs.history(row["id"])] for row in runs.rows}
    drawn = json.dumps(charts.curves(groups, ["evaluation/mean"], "updates", True, [], 0.0))
    assert "<img" not in drawn and "&lt;img" in drawn


def test_workers_are_drawn_one_by_one(tmp_path):
    folder = write_run(tmp_path / "demo/a")
    for tick in (1, 2):
        append(
            folder,
            {
                "kind": "workers", "time": 2e5, "seconds": float(tick), "unit": "env_steps",
                "per_s": [100.0 * tick, 50.0], "busy": [0.5, 0.25], "lag": [1.5, None],
                "restarts": [0, 2], "away": [1], "time_share": {"worker": {"waiting": 0.5}},
            },
        )  # fmt: skip
    runs = look(Runs(tmp_path))
    history = runs.history("demo/a")
    drawn = charts.workers(history)["data"]
    assert [(t["name"], t["x"], t["y"]) for t in drawn[:2]] == [
        ("worker 0", [1.0, 2.0], [100.0, 200.0]),
        ("worker 1", [1.0, 2.0], [50.0, 50.0]),
    ]
    said = str(views.workers_view(runs, {"demo": [history]}))
    assert "away" in said and "1.50" in said
    append(folder, history.records[-1] | {"per_s": [None, 50.0], "busy": [None, 0.25]})
    later = views.workers_view(
        runs, {"demo": [runs.history("demo/a")]}
    )  # one that is slow to begin
    assert str(later).count(repr(views.NOTHING)) == 3
    old = look(Runs(write_run(tmp_path / "old/b")))
    without = views.workers_view(old, {"demo": [old.history("b")]})
    assert "without a record of each worker" in str(without)


def test_configurations_are_compared(three):
    first, second = three.history("demo/a-seed0"), three.history("other/c-seed0")
    said = str(views.config_view(three, {"demo": [first], "other": [second]}))
    assert "2 settings differ" in said  # name, algorithm; the seed is the same
    assert said.index("sarsa") < said.index("the same in all")
    assert "differ" not in str(views.config_view(three, {"demo": [first]}))


# --- serving --------------------------------------------------------------------------------------


def client(runs, token=None, host="127.0.0.1"):
    return server.make_app(runs, token, host, 8470, pytest.fail).test_client()


@pytest.fixture
def with_pictures(three):
    folder = three.folder("demo/a-seed0")
    (folder / "pictures").mkdir()
    for name in ("samples.png", "samples-200.png", "samples-1000.png", "notes.txt"):
        (folder / "pictures" / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "secret.png").write_bytes(b"no")
    outside = three.root.parent / f"{three.root.name}-outside.png"
    outside.write_bytes(b"outside")
    (folder / "pictures" / "link.png").symlink_to(outside)
    return three


def test_pictures_are_served_in_order(with_pictures):
    listed = reading.frames(with_pictures.folder("demo/a-seed0"))["samples"]
    assert [said for said, _ in listed] == ["200", "1,000", ""]
    answer = client(with_pictures).get("/files/demo/a-seed0/pictures/samples-200.png")
    assert answer.status_code == 200 and answer.mimetype == "image/png"
    assert answer.data.endswith(b"samples-200.png")


@pytest.mark.parametrize(
    "path",
    [
        "demo/a-seed0/config.yaml",
        "demo/a-seed0/pictures/notes.txt",
        "demo/a-seed0/pictures/link.png",
        "demo/a-seed0/checkpoints/secret.png",
        "demo/a-seed0/pictures/../config.yaml",
        "demo/a-seed0/pictures/..%2f..%2fconfig.yaml",
        "demo/a-seed0/pictures/%2e%2e/checkpoints/secret.png",
        "demo/../../pictures/samples.png",
        "/etc/passwd",
        "nobody/pictures/samples.png",
    ],
)
def test_nothing_else_is_served(with_pictures, path):
    answer = client(with_pictures).get(f"/files/{path}")
    # Two slashes are no path of ours, and Dash answers with its page.
    assert answer.status_code == 404 or b"react-entry-point" in answer.data


def test_another_name_for_this_machine_is_refused(three):
    ours = client(three)
    for host in ("localhost:8470", "127.0.0.1:8470", "[::1]:8470", "localhost"):
        assert ours.get("/", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "evil.example:8470", "127.0.0.1.evil.example:8470"):
        for path in ("/", "/_dash-layout"):
            answer = ours.get(path, headers={"Host": host})
            assert answer.status_code == 403 and b"--token auto" in answer.data
    given = client(three, host="127.0.0.2")
    assert given.get("/", headers={"Host": "127.0.0.2:8470"}).status_code == 200
    policy = ours.get("/").headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")


def test_a_token_is_asked_for(three):
    token = "correct horse battery"
    page = client(three, token)
    for path in ("/", "/_dash-layout", "/assets/dashboard.css", "/files/x/pictures/y.png"):
        answer = page.get(path)
        assert answer.status_code == 401 and token.encode() not in answer.data
    assert page.get("/?token=wrong").status_code == 401
    assert page.post("/enter", data={"token": "wrong"}).status_code == 403
    answer = page.get("/?token=correct+horse+battery&run=demo/a-seed0")
    assert answer.status_code == 303 and answer.headers["Location"] == "/?run=demo%2Fa-seed0"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "horse" not in cookie
    assert page.get("/", headers={"Host": "box.example"}).status_code == 401  # not for that name
    assert page.get("/").status_code == 200
    other = client(three, token)
    assert other.post("/enter", data={"token": token}).status_code == 303
    assert other.get("/_dash-layout").status_code == 200


def test_a_port_in_use_is_left_to_whoever_has_it():
    told = []
    with server.listen("127.0.0.1", 0, told.append) as first:
        port = first.getsockname()[1]
        with server.listen("127.0.0.1", port, told.append) as second:
            assert second.getsockname()[1] != port
    assert len(told) == 1 and told[0].startswith(f"port {port} is in use; using ")


def run_cli(*arguments):
    done = CliRunner().invoke(cli, ["dashboard", *map(str, arguments)])
    return done.exit_code, done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}", "--host", "0.0.0.0"], "a token is needed: add --token auto"),
        (["{}", "--host", "::"], "a token is needed"),
        (["{}", "--host", "example.com"], "a token is needed"),
        (["{}", "--host", "0.0.0.0", "--token", "short"], "expected at least 16 characters, got 5"),
        (["{}/nowhere"], "there is no folder"),
        (["{}/file"], "there is no folder"),
        (["{}", "--host", "203.0.113.7", "--token", "auto"], "cannot listen on '203.0.113.7'"),
    ],
)
def test_bad_use_is_one_message(tmp_path, arguments, message):
    (tmp_path / "file").touch()
    status, said = run_cli(*(argument.format(tmp_path) for argument in arguments))
    assert status == 2 and message in said and "\n" not in said


def test_a_missing_extra_names_the_pip_line(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    missing = {"dash_ag_grid"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )
    assert run_cli(tmp_path) == (
        2,
        "rlgen: dashboard: dash_ag_grid is not installed; install it with: "
        "pip install 'rlgen[dashboard]'",
    )


@contextlib.contextmanager
def serving(folder, *arguments):
    """The command as users start it; yields its process and the first line, its url."""
    command = [sys.executable, "-m", "rlgen", "dashboard", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # A job in the background ignores SIGINT, and so would the command if the tests are one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_the_command_serves_until_ctrl_c(tmp_path):
    with serving(tmp_path) as (process, answer):
        assert answer["url"].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(answer["url"] + "_dash-layout") as response:
            layout = response.read().decode()
        assert "No runs yet" in layout and "rlgen train" in layout
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.splitlines()[-1] == "rlgen: the dashboard has ended" and "Traceback" not in said


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


DRAWN = "[...document.querySelectorAll('#graph .js-plotly-plot')].flatMap(g => g.data)"
SHOWN = "document.querySelector('#graph .js-plotly-plot').layout.xaxis.range"


def test_a_person_finds_and_compares_runs(tmp_path, browser):
    for seed in (0, 1):
        train_run("q-learning", tmp_path, {"seed": seed, "evaluation.every": 400})
    train_run("vae", tmp_path, {"name": "digits-vae"})
    folders = {path.parent.parent.name for path in tmp_path.glob("*/*/config.yaml")}
    assert folders == {"q-learning", "digits-vae"}
    one = next(tmp_path.glob("q-learning/*seed1"))
    records = [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
    scores = [(r["updates"], r["mean"]) for r in records if r["kind"] == "evaluation"]
    assert len(scores) > 2
    with serving(tmp_path) as (_, answer):
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT_MS)
        failures, foreign = [], []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda m: failures.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: foreign.append(r.url) if answer["url"] not in r.url and
                not r.url.startswith(("data:", "blob:")) else None)  # fmt: skip

        def rows():
            return page.locator("#runs .ag-center-cols-container .ag-row").count()

        def lines():
            return page.evaluate(DRAWN)

        def until(so):
            for _ in range(WAIT_MS // 100):
                if so():
                    return
                page.wait_for_timeout(100)  # Playwright's own wait needs eval, which is forbidden
            pytest.fail(f"not so after {WAIT_MS // 1000} s: {so}; {failures}")

        # It opens with the latest experiment, and has all three runs in the table.
        page.goto(answer["url"])
        page.wait_for_selector("#graph .scatterlayer .trace")
        assert rows() == 3 and "3 runs · 2 experiments" in page.inner_text("header")
        assert "digits-vae" in page.inner_text("#legend")

        # What it has chosen for this one gives way to what suits the next.
        run = one.relative_to(tmp_path).as_posix()
        page.click(f"#runs .ag-row[row-id='{run}'] [col-id='task']")
        until(lambda: [t["x"][-1] for t in lines()][:1] == [records[-1]["env_steps"]])
        assert page.inner_text("#x").strip() == "environment steps" and "x=" not in page.url

        # The run, by a link: the curve's points are those of metrics.jsonl.
        page.goto(f"{answer['url']}?run={run}&figure=evaluation/mean&x=updates&seeds=each")
        until(lambda: len(lines()) == 1 and lines()[0]["x"][-1] == scores[-1][0])
        (line,) = lines()
        assert list(zip(line["x"], line["y"], strict=True)) == scores

        # The filter leaves what it names.
        page.fill("#find", "digits")
        until(lambda: rows() == 1)
        page.fill("#find", "")

        # A second run is laid over the first, and joined with it.
        until(lambda: rows() == 3)
        other = next(tmp_path.glob("q-learning/*seed0")).relative_to(tmp_path).as_posix()
        page.click(f"#runs .ag-pinned-left-cols-container .ag-row[row-id='{other}'] input")
        until(lambda: len(lines()) == 2)
        page.click("text=Mean and 95 %")
        until(lambda: [line.get("fill") for line in lines()] == [None, "tonexty", None])
        assert "run=" in page.url and other in page.url and "seeds=each" not in page.url

        # What is chosen is seen in the other list too, and still when one comes back.
        page.click("#list >> text=Experiments")
        ticked = "#experiments .ag-center-cols-container .ag-row-selected"
        until(lambda: page.locator(ticked).all_inner_texts()[:1] != [])
        assert page.inner_text("#selected") == "1 experiment chosen"
        page.click("#list >> text=Runs")
        until(lambda: page.inner_text("#selected") == "2 runs chosen")
        until(lambda: page.locator("#runs .ag-center-cols-container .ag-row-selected").count() == 2)

        # What differs between them; then the pictures of the model.
        page.click("text=Configuration")
        page.wait_for_selector("text=1 setting differs")
        assert "seed" in page.inner_text("#view .settings")
        vae = next(tmp_path.glob("digits-vae/*")).relative_to(tmp_path).as_posix()
        page.goto(f"{answer['url']}?run={vae}&view=pictures")
        page.wait_for_selector("#view img")
        until(lambda: page.evaluate("document.querySelector('#view img').naturalWidth") > 50)

        # A run that goes on is followed, and what was zoomed in to stays.
        page.goto(f"{answer['url']}?run={run}&figure=evaluation/mean&x=updates&seeds=each")
        until(lambda: len(lines()) == 1)
        area = page.locator("#graph .nsewdrag").first.bounding_box()
        page.mouse.move(area["x"] + area["width"] / 4, area["y"] + area["height"] / 2)
        page.mouse.down()
        page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2, steps=5)
        page.mouse.up()
        zoomed = page.evaluate(SHOWN)
        assert scores[0][0] < zoomed[0] < zoomed[1] < scores[-1][0]
        append(
            one,
            records[-2] | {"kind": "evaluation", "metric": "return", "updates": 10**6, "mean": 1.5},
        )
        until(lambda: len(lines()[0]["y"]) == len(scores) + 1)
        assert page.evaluate(SHOWN) == zoomed
        assert not failures and not foreign


def test_the_picture_of_the_readme_is_of_what_make_train_leaves(tmp_path, browser):
    settings = [f"run.dir={tmp_path}", "stop.env_steps=40000", "evaluation.every=8000"]
    command = [sys.executable, "-m", "rlgen", "train", "a3c-cartpole", "--quiet", *settings]
    subprocess.run(command, check=True, capture_output=True)
    page = browser.new_page()
    page.set_default_timeout(WAIT_MS)
    script = runpy.run_path(str(DOCS / "draw_dashboard.py"))
    picture = tmp_path / "dashboard.png"
    script["draw"](page, str(tmp_path), str(picture), "experiment=a3c-cartpole")
    assert "a3c-cartpole" in page.inner_text("#legend")
    (line,) = (line for line in page.evaluate(DRAWN) if line["yaxis"] == "y")
    records = (next(tmp_path.glob("a3c-cartpole/*")) / "metrics.jsonl").read_text().splitlines()
    scores = [r for r in map(json.loads, records) if r["kind"] == "evaluation"]
    assert line["x"] == [record["env_steps"] for record in scores]
    assert line["y"] == [record["mean"] for record in scores]
    with Image.open(picture) as image:
        assert image.size == (1440, 860)
        assert len(image.convert("RGB").getcolors(2**20)) > 50  # text and curves, not a blank page
