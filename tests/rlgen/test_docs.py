"""What README and docs tell a reader to type works: every command and all Python in them.

Commands run in the order of their block, in an empty folder, with the numbers of steps cut and with
small runs in the place of RUN and of paths such as ``runs/dqn-cartpole/...``. What cannot be run is
parsed, its configuration resolved, and listed here with the reason.
"""

import functools
import gzip
import inspect
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from documented import OTHERS, ROOT, blocks, commands, mentions, pages, refusals
from typer.testing import CliRunner

import rlgen
from rlgen import api, cli, registry
from rlgen.algorithm import Algorithm
from rlgen.config import (
    Hyperparameters,
    StopConfig,
    config_names,
    load_experiment,
    resolve_experiment,
    sweep_names,
)

#: Commands that are only parsed, and why; where others run them.
PARSED = {
    "chaos": "starts Ray and kills: test_chaos.py",
    "dashboard": "serves until it is stopped: test_dashboard.py",
    "deploy": "is for a cluster: test_deploy.py",
    "jobs": "needs a cluster: test_jobs.py",
    "logs": "needs a cluster: test_jobs.py",
    "pull": "needs a cluster: test_jobs.py",
    "push": "needs storage: test_storage.py",
    "status": "needs a cluster: test_jobs.py",
    "stop": "needs a cluster: test_jobs.py",
    "submit": "needs a cluster: test_jobs.py",
    "sweep": "starts Ray Tune: test_sweeps.py",
    "token": "writes into the home folder: test_jobs.py",
}
#: The same of commands with such a word.
PARSED_WITH = {
    "--install-completion": "writes into the home folder",
    "--live": "needs a screen: test_play.py",
    "--push": "needs an account",
    "--sweep": "needs a sweep: test_sweeps.py",
    "HOST": "needs a cluster: test_jobs.py",
    "s3://": "needs a bucket: test_storage.py",
    "scheduler.address=": "needs a cluster: test_chaos.py",
    "tracking.wandb=online": "needs an account: test_tracking.py",
}
#: Configurations that stand for the reader's own.
OWN = ("my-robot",)
#: Of which small run RUN is, by command.
RUN_OF = {
    "export": "dqn-cartpole",
    "plot filters": "rbm-digits",
    "plot latent": "vae-latent2-digits",
    "plot modes": "gaussian-mixture-grid",
    "plot reconstructions": "vae-digits",
    "plot regret": "thompson-bernoulli",
    "sample": "vae-digits",
}
#: The same where a word begins so.
RUN_WITH = {
    "--label": "vae-conditional-digits",
    "--length": "ngram-fables",
    "--method": "ngram-fables",
    "--prompt": "ngram-fables",
    "--rows": "vae-digits",
    "--split": "vae-digits",
    "--temperature": "ngram-fables",
    "chain.gif": "rbm-digits",
}
AGENT = "q-learning-cliff"  # in all other places
BUDGETS = {"env_steps": 400, "epochs": 1, "updates": 5}
BLOCKS = [block for path in pages() for block in blocks(path)]
WITH_COMMANDS = [block for block in BLOCKS if commands(block)]
TOP = typer.main.get_command(cli.app)


def parse(words):
    """The names of the command, and its context with every option and argument read."""
    command, context, names = TOP, TOP.make_context("rlgen", list(words)), []
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        names.append(name)
    return " ".join(names), context


def why_not(words):
    """The reason why a command is only parsed; none where it is run."""
    if words[0] in PARSED:
        return PARSED[words[0]]
    if any(own in word.split("/") for word in words for own in OWN):
        return "is of the reader's own"
    found = [why for start, why in PARSED_WITH.items() if any(start in w for w in words)]
    return found[0] if found else None


def cut(config, overrides=()):
    """Overrides that make a configuration's run a short one."""
    given = {o.partition("=")[0] for o in overrides}
    experiment = load_experiment(config, [o for o in overrides if "demonstrations" not in o])
    short = {f"stop.{experiment.clock}": BUDGETS[experiment.clock], "stop.target": ""}
    short["stop.target_evaluations"] = 1
    short |= {} if experiment.data is not None else {"evaluation.episodes": 2}
    if "scheduler.backend" not in given:
        short |= {"scheduler.backend": "inline", "scheduler.workers": 1}
    for key in given & {"scheduler.workers"}:
        short.pop(key, None)
    return [f"{key}={value}" for key, value in short.items()]


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A function: the folder of a short run of a configuration, which is trained once."""
    folder = tmp_path_factory.mktemp("documented") / "runs"

    @functools.cache
    def of(config):
        run = api.train(config, overrides_of([*cut(config), f"run.dir={folder}"]))
        return run.dir

    return of


@pytest.fixture
def folder(in_tmp, monkeypatch):
    """An empty folder to work in; modules that are imported from it are forgotten."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield in_tmp
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(in_tmp)):
            del sys.modules[name]


def overrides_of(words):
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in words)}


@pytest.fixture(scope="session")
def mnist(tmp_path_factory):
    """A folder with IDX files of MNIST's names and sizes, but few rows."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    rng = np.random.default_rng(0)
    for part, rows in (("train", 100), ("t10k", 30)):
        pictures = rng.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            path = folder / "mnist" / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + values.tobytes()))
    return folder


def filled(words, small_run, mnist):
    """A command with what its placeholders stand for."""
    command = " ".join(words[:2]) if words[0] in ("plot", "bench", "new") else words[0]
    stand_in = RUN_OF.get(command, AGENT)
    for start, config in RUN_WITH.items():
        if any(word.startswith(start) for word in words):
            stand_in = config
    values = {"CONFIG": AGENT, "DATA": str(mnist), "NAME": "mine"}
    for word in words:
        run = re.fullmatch(r"runs/(?:bench/)?([\w-]+)(/[\w.-]+)?/?", word)
        if word in ("...", "[key=value", "...]"):
            continue
        if word in ("RUN", "RUNS", "runs/NAME/RUN"):
            yield str(small_run(stand_in).parent if word == "RUNS" else small_run(stand_in))
        elif run and not Path(word).exists():
            here = sorted(Path("runs", run[1]).glob("*")) if run[2] else []
            found = here[-1] if here else small_run(run[1])
            yield str(found if run[2] else found.parent)
        elif word.startswith("data.root="):
            yield word.replace("DATA", str(mnist))
        else:
            yield values.get(word, word.partition("|")[0])


def ready(words, small_run, mnist):
    """What is run in the place of a documented command: short, and in this folder."""
    words = list(filled(words, small_run, mnist))
    if words[0] == "train":
        return [*words, *cut(words[1], [w for w in words[2:] if "=" in w])]
    if words[0] == "resume":
        # A copy, since it is changed; the small runs have ended, so each needs a later end.
        copy = Path(f"resumed-{len(list(Path().glob('resumed-*')))}")
        shutil.copytree(words[1], copy)
        return ["resume", str(copy), *words[2:], "stop.env_steps=800"]
    if words[:2] == ["bench", "results"]:
        return [*words, "--quick"]
    return words


def is_slow(block):
    """Whether a block is a slow test: all but README's, and there what starts Ray."""
    text = " ".join(word for words in commands(block) for word in words)
    return block.page != "README.md" or "backend=ray" in text


def parameter(block, slow):
    return pytest.param(block, id=str(block), marks=[pytest.mark.slow] if slow else [])


def test_blocks_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("documented.ROOT", tmp_path)
    page = tmp_path / "page.md"
    listed = "    rlgen list   # all\n    A=1 rlgen token && ray up x &\n"
    python = "```python\nimport x\n```\n"
    prompted = "```\n$ rlgen show \\\n  y\n$ rlgen list\nrlgen: no\n```\n"
    page.write_text(f"Text `rlgen list`.\n\n{listed}\n- item\n\n    none\n\n{python}\n{prompted}")
    listed, python, prompted = blocks(page)
    assert commands(listed) == [["rlgen", "list"], ["rlgen", "token"], ["ray", "up", "x"]]
    assert (python.line, python.language, commands(python)) == (11, "python", [])
    assert commands(prompted) == [["rlgen", "show", "y"], ["rlgen", "list"]]
    assert refusals(prompted) == [(["rlgen", "list"], "rlgen: no")]
    assert mentions(page) == ["rlgen list"]
    assert len(WITH_COMMANDS) > 15 and len({block.page for block in WITH_COMMANDS}) > 6


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_one_of_ours_with_options_that_it_has(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for block in blocks(path):
        refused = [words for words, _ in refusals(block)]
        for program, *words in commands(block):
            if program == "make":
                assert words and words[0] in targets, f"{block}: make {words}"
                continue
            assert program in ("rlgen", *OTHERS), f"{block}: {program} is not known here"
            if program != "rlgen":
                continue
            name, context = parse(words)
            config, own = context.params.get("config"), context.params.get("search")
            if [program, *words] in refused or config in (*OWN, "CONFIG"):
                continue
            made = config and config.endswith(".yaml")  # by a command before it
            if config and name != "sweep" and not made:
                overrides = [o for o in context.params.get("overrides") or () if ".npz" not in o]
                load_experiment(config, overrides)
            elif name == "sweep" and config:
                assert config in (sweep_names() if own is None else config_names()), str(block)


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_within_the_text_exist(path):
    for mention in mentions(path):
        command, options = TOP, set()
        for word in mention.split()[1:]:
            if hasattr(command, "commands"):
                if word.isupper():  # KIND
                    break
                names = word.split("|")
                assert all(name in command.commands for name in names), mention
                command = command.commands[names[-1]]
            elif word.strip("[]").startswith("-"):
                options.add(word.strip("[],").partition("=")[0])
        else:
            known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            assert options <= {*known, "--help", "-h", "--version"}, mention
            if mention.startswith("rlgen train ") and mention.split()[2] in config_names():
                load_experiment(mention.split()[2])


@pytest.mark.parametrize("block", [parameter(b, is_slow(b)) for b in WITH_COMMANDS])
def test_the_commands_of_a_block_run(block, folder, small_run, mnist, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    errors = {tuple(words): error for words, error in refusals(block)}
    for program, *words in commands(block):
        if program != "rlgen" or why_not(words):
            continue
        if (program, *words) in errors:
            result = CliRunner().invoke(cli.app, words)
            assert (result.exit_code, result.stderr.strip()) == (2, errors[program, *words])
            continue
        words = ready(words, small_run, mnist)
        result = CliRunner().invoke(cli.app, words)
        # A machine may have a problem that 'rlgen doctor' then rightly tells.
        assert result.exit_code == 0 or words[0] == "doctor", f"{words}\n{result.output}"


def test_every_exception_is_of_a_command_and_names_a_test_that_is_there():
    assert set(PARSED) <= set(TOP.commands)
    for why in (*PARSED.values(), *PARSED_WITH.values()):
        for name in re.findall(r"test_\w+\.py", why):
            assert (ROOT / "tests" / "rlgen" / name).is_file(), why


PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", [parameter(b, b.page != "README.md") for b in PYTHON])
def test_the_python_of_a_page_runs(block, folder, monkeypatch):
    def train(experiment, overrides=None, **more):
        short = overrides_of(cut(experiment)) if isinstance(experiment, str) else {}
        return api.train(experiment, {**(overrides or {}), **short}, **more)

    monkeypatch.setattr(rlgen, "train", train, raising=False)
    names = {
        "__name__": "documented",
        "Algorithm": Algorithm,
        "RandomSearchConfig": Hyperparameters,
    }
    exec(compile(block.text, str(block), "exec", dont_inherit=True), names)
    for name, made in names.items():  # an algorithm that is shown has the methods of the contract
        if inspect.isclass(made) and issubclass(made, Algorithm) and name != "Algorithm":
            for method in ("act", "process", "update"):
                if method in vars(made) and made.has(method):
                    shown = inspect.signature(vars(made)[method])
                    assert list(shown.parameters) == list(
                        inspect.signature(getattr(Algorithm, method)).parameters
                    ), f"{block}: {name}.{method}"


def test_every_experiment_that_is_shown_is_one():
    shown = [yaml.safe_load(b.text) for b in BLOCKS if b.language == "yaml"]
    experiments = [e for e in shown if isinstance(e, dict) and "algorithm" in e]
    assert experiments
    for plain in experiments:
        if ":" not in plain["algorithm"]:  # the reader's own
            resolve_experiment({"name": "shown", **plain})


def code(path):
    """The blocks of a page without their comments."""
    return [
        (b.language, [re.sub(r"\s*#.*", "", line).rstrip() for line in b.text.splitlines()])
        for b in blocks(path)
    ]


def test_the_chinese_readme_has_the_same_commands():
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert code(english) == code(chinese)
    assert "(README.zh.md)" in english.read_text() and "(README.md)" in chinese.read_text()

    def links(path):
        return set(re.findall(r"\]\(((?!README)[^)]+)\)", path.read_text()))

    assert links(english) == links(chinese)


def configs_in(page):
    """The configurations that the commands within the text of a page train."""
    return re.findall(r"`rlgen train ([\w-]+)", (ROOT / "docs" / page).read_text())


def test_the_map_of_the_book_has_every_algorithm():
    named = configs_in("book.md")
    assert set(named) <= set(config_names())
    algorithms = {load_experiment(name).algorithm for name in named}
    assert algorithms == set(registry.AGENTS | registry.MODELS)


@pytest.mark.parametrize(
    ("page", "names"), [("agents.md", registry.AGENTS), ("generative.md", registry.MODELS)]
)
def test_every_algorithm_has_a_section(page, names):
    headings = re.findall(r"^###? (\S+)$", (ROOT / "docs" / page).read_text(), re.M)
    assert set(names) <= set(headings)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "README.zh.md"], ids=lambda p: p.name)
def test_the_links_of_a_readme_lead_somewhere(path):
    """The site's own are checked when it is built."""
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link_and_asks_the_network_for_nothing(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.html")}
    expected = {f"algorithms/{name}.html" for name in registry.AGENTS | registry.MODELS}
    assert {*expected, "index.html", "zh.html", "configuration.html", "api.html"} <= set(pages)
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]* src=\"?(?:https?:)?//|<link[^>]*stylesheet[^>]*//"
    )
    assert [name for name, path in pages.items() if loaded.search(path.read_text())] == []
    styles = "".join(path.read_text() for path in tmp_path.rglob("*.css"))
    assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", styles)
    settings = pages["configuration.html"].read_text()
    assert all(f"<code>stop.{key}</code>" in settings for key in StopConfig.model_fields)
    assert "scheduler.workers" in settings and "rlgen train dqn-pong" in pages[
        "algorithms/dqn.html"
    ].read_text()  # fmt: skip
