"""The report: what it says is what the runs recorded, and it needs nothing but itself."""

import base64
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from datetime import datetime
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from experiments import train
from PIL import Image
from typer.testing import CliRunner

from rlgen import cli, rundir
from rlgen.config import config_names, load_experiment
from rlgen.history import band
from rlgen.tracking import METRICS

NASTY = '<script>alert("x")</script> & $\\frac{1}{2}$'


def command(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


class Page(HTMLParser):
    """The text, the tables, the images and the addresses of a page."""

    def __init__(self, path):
        super().__init__()
        self.text, self.rows, self.images, self.addresses, self.tags = [], [], [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "data")]
        if tag == "img":
            self.images.append(given["src"])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self.rows.append([])

    def handle_data(self, data):
        self.text.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def row(self, first):
        return next(row for row in self.rows if row and row[0] == first)


def make_run(folder, name, seed, score, hyperparameters=None, lines=()):
    """A run as it lies on a disk: six evaluations that end at a score."""
    ready = load_experiment("q-learning-cliff", [f"seed={seed}"]).dump()
    ready["name"] = name
    ready["hyperparameters"] |= hyperparameters or {}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(ready, sort_keys=False))
    (folder / "versions.json").write_text(json.dumps({"rlgen": "0.1.0", "torch": "9.9"}))
    records = []
    for i in range(1, 7):
        counters = {"env_steps": 1000 * i, "updates": i, "seconds": float(i)}
        records.append({"kind": "train", "time": i, **counters, "env_steps_per_s": 1000.0})
        value = score - 6 + i
        evaluated = {"metric": "return", "mean": value, "std": 0.0, "episodes": 5}
        records.append({"kind": "evaluation", "time": i, **counters, **evaluated})
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / METRICS).write_text(text + "".join(f"{line}\n" for line in lines))
    summary = {"stop_reason": "env_steps", "evaluation": records[-1]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two experiments of three seeds, that differ in one setting."""
    for seed, score in enumerate((-13.0, -12.0, -17.0)):
        make_run(tmp_path / "runs/a" / f"r{seed}", "a", seed, score)
        make_run(tmp_path / "runs/b" / f"r{seed}", "b", seed, 2 * score, {"gamma": 0.5})
    return tmp_path / "runs"


def test_the_tables_hold_what_the_runs_reached(runs, tmp_path):
    output = tmp_path / "report.html"
    result = command(runs, "-o", output, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["notes"] == []
    page = Page(output)
    mean, low, high = band(np.array([-13.0, -12.0, -17.0]))
    row = page.row("aq-learning on rlgen/Cliff-v0")  # on two lines
    assert row[1:4] == ["3", "6,000 steps", "greedy return"]
    assert row[4:7] == ["-14", f"{low:.4g} to {high:.4g}", "-17, -12"]
    assert mean == -14.0
    assert page.row("hyperparameters.gamma")[1:] == ["1.0", "0.5"]
    differing = [row[0] for row in page.rows if row and row[0].startswith("hyperparameters")]
    assert differing == ["hyperparameters.gamma"]
    assert page.row("torch") == ["torch", "9.9"]
    assert ["2", "r2", "ended (env_steps)", "6,000", "-17", "6.0 s"] in page.rows


def test_the_page_needs_no_network_and_no_other_file(runs, tmp_path):
    output = tmp_path / "report.html"
    assert command(runs, "-o", output).exit_code == 0
    page = Page(output)
    ids = re.findall(r'id="([^"]+)"', output.read_text())
    for address in page.addresses:
        assert address.startswith("data:image/") or address.removeprefix("#") in ids
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in output.read_text() and "url(" not in output.read_text()
    svg = base64.b64decode(page.images[0].partition("base64,")[2]).decode()
    assert svg.startswith("<?xml") and page.images[0].startswith("data:image/svg+xml")


def test_names_are_text_and_nothing_else(tmp_path):
    folder = make_run(tmp_path / "r0", NASTY, 0, -13.0)
    record = {"kind": "event", "time": 1.0, "message": "<img src=x onerror=alert(1)>"}
    with (folder / METRICS).open("a") as file:
        file.write(json.dumps(record) + "\n")
    output = tmp_path / "report.html"
    result = command(folder, "-o", output, "--title", "<b>mine</b>")
    assert result.exit_code == 0, result.stderr
    page = Page(output)
    assert not {"script", "b"} & set(page.tags)
    assert all(image.startswith("data:") for image in page.images)
    text = "".join(page.text)
    assert NASTY in text and "<b>mine</b>" in text and "<img src=x onerror=alert(1)>" in text


def test_the_command_trains_the_same_experiment(tmp_path):
    changes = ["hyperparameters.gamma=0.9", "env.kwargs={slip: 0.25}", "stop.env_steps=5000"]
    wanted = load_experiment("q-learning-cliff", changes)
    assert wanted.name in config_names()
    for seed in (3, 5):
        folder = make_run(tmp_path / f"runs/r{seed}", wanted.name, seed, -13.0)
        plain = wanted.dump() | {"seed": seed}
        (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    output = tmp_path / "report.html"
    assert command(tmp_path / "runs", "-o", output).exit_code == 0
    text = "".join(Page(output).text)
    loop = re.search(r"for seed in 3 5; do\n  rlgen train (.+) seed=\$seed\ndone", text)
    name, *overrides = shlex.split(loop[1])
    assert load_experiment(name, overrides) == wanted


def test_an_experiment_of_ones_own_names_the_file_that_its_configuration_goes_into(runs, tmp_path):
    output = tmp_path / "report.html"
    assert command(runs / "a/r1", "-o", output).exit_code == 0
    text = "".join(Page(output).text)
    assert "rlgen train a.yaml seed=1" in text and "Configuration (a.yaml)" in text
    saved = re.search(r"name: a\n.*?seed: 1\n", text, re.DOTALL)
    path = tmp_path / "a.yaml"
    path.write_text(saved[0])
    assert load_experiment(str(path)).dump() == yaml.safe_load(
        (runs / "a/r1/config.yaml").read_text()
    )


def test_pictures_and_videos_are_in_the_page(runs, tmp_path):
    pictures, films = runs / "a/r0/pictures", runs / "a/r0/videos"
    pictures.mkdir()
    films.mkdir()
    for name in ("samples-0000001000", "samples-0000002000", "reconstructions"):
        Image.new("L", (len(name), 5)).save(pictures / f"{name}.png")
    for ticks in (1000, 2000, 3000, 4000, 5000):
        Image.new("P", (ticks // 100, 5)).save(films / f"{ticks:010d}.gif")
    output = tmp_path / "report.html"
    assert command(runs, "-o", output).exit_code == 0
    images = [base64.b64decode(i.partition("base64,")[2]) for i in Page(output).images]
    shown = [pictures / "samples-0000002000.png", pictures / "reconstructions.png"]
    shown += [films / f"{ticks:010d}.gif" for ticks in (1000, 3000, 5000)]
    assert sorted(images[1:]) == sorted(path.read_bytes() for path in shown)
    assert "5,000 environment steps, seed 0" in output.read_text()


def test_videos_of_any_name_and_both_kinds_are_in_the_page(runs, tmp_path):
    films = runs / "a/r0/videos"
    films.mkdir()
    Image.new("P", (8, 5)).save(films / "0000001000.gif")
    Image.new("P", (9, 5)).save(films / "best.gif")
    (films / "at-last.mp4").write_bytes(b"a film")
    (films / "notes.txt").write_text("mine")
    output = tmp_path / "report.html"
    result = command(runs, "-o", output)
    assert result.exit_code == 0, result.stderr
    text = output.read_text()
    shown = re.findall(r"<figcaption>([^<]+), seed 0</figcaption>", text)
    assert shown == ["1,000 environment steps", "at-last", "best"]
    film = base64.b64encode(b"a film").decode()
    assert f'<video controls loop muted src="data:video/mp4;base64,{film}"' in text
    assert "media-src data:" in text


def test_the_page_says_when_it_was_written_and_on_what_the_runs_were_made(runs, tmp_path):
    for folder, machine in (("a/r0", "one, 2 cores"), ("b/r0", "two, 8 cores")):
        found = {"rlgen": "0.1.0", "torch": "9.9", "machine": machine, "commit": "abc-dirty"}
        (runs / folder / "versions.json").write_text(json.dumps(found))
    output = tmp_path / "report.html"
    assert command(runs, "-o", output).exit_code == 0
    page = Page(output)
    assert page.row("machine") == ["machine", "one, 2 cores; two, 8 cores"]
    assert page.row("commit") == ["commit", "abc-dirty"]
    zone = datetime.now().astimezone().tzname()
    assert re.search(rf"Written \d+-\d\d-\d\d \d\d:\d\d {re.escape(zone)} by", "".join(page.text))


def test_a_run_records_its_machine_and_of_a_checkout_the_commit(tmp_path):
    machine = rundir.read_versions(train("sarsa", tmp_path / "runs").dir)["machine"]
    assert f", {os.cpu_count()} cores, " in machine and platform.system() in machine
    assert rundir._commit(tmp_path) == ""
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "first"]):
        (tmp_path / "a").write_text("1")
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True)
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True)
    commit = found.stdout.decode()[:10]
    assert rundir._commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert rundir._commit(tmp_path) == f"{commit}-dirty"


def test_an_agent_can_be_filmed_for_the_report(tmp_path):
    run = train("sarsa", tmp_path)
    output = tmp_path / "report.html"
    result = command(run.dir, "-o", output, "--play")
    assert result.exit_code == 0, result.stderr
    assert [i for i in Page(output).images if i.startswith("data:image/gif;base64,R0lGOD")]


def test_what_cannot_be_filmed_is_said(runs, tmp_path):
    result = command(runs / "a/r0", "-o", tmp_path / "report.html", "--play")
    assert result.exit_code == 0, result.stderr
    assert "a/r0 could not be filmed" in result.stdout  # it has no checkpoint


def test_damaged_lines_are_counted_and_said(runs, tmp_path):
    with (runs / "a/r0" / METRICS).open("a") as file:
        file.write('{"kind": "train", "env\nnothing\n')
    output = tmp_path / "report.html"
    result = command(runs, "-o", output)
    assert "a/r0: 2 damaged lines of metrics.jsonl left out." in result.stdout
    assert "a/r0: 2 damaged lines of metrics.jsonl left out." in "".join(Page(output).text)


def test_a_run_that_has_recorded_nothing_does_not_spoil_the_others(runs, tmp_path):
    (runs / "b/r0" / METRICS).write_text("")
    (runs / "b/r0/summary.json").unlink()
    output = tmp_path / "report.html"
    result = command(runs, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert "b/r0 has recorded nothing." in result.stdout
    page = Page(output)
    assert ["0", "r0", "broken off", "–", "–", "–"] in page.rows
    assert (
        page.images and page.row("bq-learning on rlgen/Cliff-v0")[4] == "-29"
    )  # of the two others


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nothing", "-o", "r.html"],
            "'nothing': there is no such folder or experiment; give runs",
        ),
        (["empty", "-o", "r.html"], "'empty': it holds no run; give runs (runs/NAME/RUN)"),
        (["empty", "-o", "r.pdf"], "-o: expected a name that ends in .html or .htm, got 'r.pdf'"),
        (["empty", "-o", "no/r.html"], "-o: there is no folder 'no'"),
    ],
)
def test_what_is_no_run_or_no_page_is_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = command(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.slow
def test_a_browser_shows_every_image_and_asks_for_nothing(runs, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    browser = next((p for p in map(shutil.which, ("chromium", "google-chrome")) if p), None)
    if browser is None:
        pytest.skip("needs Chromium")
    output = tmp_path / "report.html"
    assert command(runs, "-o", output).exit_code == 0
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = driver.chromium.launch(executable_path=browser, args=options)
        page = opened.new_page()
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(output.as_uri())
        widths = page.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
        opened.close()
    assert said == []  # such as what the page's own policy refused
    assert widths and all(widths)
    assert [url for url in asked if not url.startswith("data:")] == [output.as_uri()]
