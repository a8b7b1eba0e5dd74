"""Imports go down the floors of the design, never up, and never from one algorithm to another."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

from rlgen import registry

ROOT = Path(__file__).parents[2]
FOLDERS = {"rlgen": "rlgen"} | {f: f"rlgen.{f}" for f in ("agents", "envs", "generative")}
FLOORS = {
    0: "errors config counters registry batch returns networks schedules moments demonstrations "
    "parcel search workload palette",
    1: "algorithm replay linked_replay priorities links frames finite state recall checkpoint "
    "tracking sinks storage rundir history videos backends",
    2: "agents envs generative configs",
    3: "problem rollout sources learner peers evaluation assessment",
    4: "plan crew cycle gallery scheduler",
    5: "api cli command play report sync chaos jobs shipping deploy plots figures curves "
    "value_maps drawing display doctor results dashboard model_results sweeps sweeping "
    "new schema export card outline completion examples __init__ __main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
OWNERS = {"ray": "rlgen.backends.", "wandb": "rlgen.sinks"}
ALGORITHMS = {target.partition(":")[0] for target in (registry.AGENTS | registry.MODELS).values()}
LONGEST = 160  # lines of an algorithm's file


def python_files():
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join((package, *parts))


def imported(source):
    """Every module that a source names in an import, wherever it stands, as absolute names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{'.' * node.level}{node.module or ''}"
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(module, source):
    floor, folder = FLOOR_OF[module.split(".")[1]], module.split(".")[1]
    for name in imported(source):
        top, *rest = name.split(".")
        if not module.startswith(OWNERS.get(top, "")):
            yield f"{module} imports {name}: only {OWNERS[top]}* may"
        if top == "":
            yield f"{module} imports {name}: write it absolutely"
        if top != "rlgen" or not rest or rest[0] not in FLOOR_OF:  # 'import rlgen', its version
            continue
        if FLOOR_OF[rest[0]] > floor:
            yield f"{module} imports {name}: upwards, {floor} to {FLOOR_OF[rest[0]]}"
        elif floor == 2 and FLOOR_OF[rest[0]] == 2:
            if rest[0] != folder:
                yield f"{module} imports {name}: sideways, {folder} to {rest[0]}"
            elif any(name.startswith(other) for other in ALGORITHMS - {module}):
                yield f"{module} imports {name}: sideways, one algorithm to another"


def test_every_import_goes_down():
    files = list(python_files())
    assert len(files) > 30  # it looked where the code is
    without = [m for _, m in files if m.split(".")[1] not in FLOOR_OF]
    assert not without, "give these modules a floor"
    assert [v for path, m in files for v in violations(m, path.read_text())] == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("rlgen.config", "from rlgen import scheduler", "upwards, 0 to 4"),
        ("rlgen.replay", "def f():\n    from rlgen.learner import Learner", "upwards, 1 to 3"),
        ("rlgen.agents.dqn", "import rlgen.cli", "upwards, 2 to 5"),
        ("rlgen.agents.dqn", "from rlgen.envs.vector import Environments", "agents to envs"),
        ("rlgen.agents.dqn", "from rlgen.agents.a3c import A3C", "one algorithm to another"),
        ("rlgen.agents.dqn", "from rlgen.agents import a3c", "one algorithm to another"),
        ("rlgen.agents.dqn", "from . import a3c", "absolutely"),
        ("rlgen.scheduler", "import ray", "only rlgen.backends.* may"),
        ("rlgen.generative.vae", "from wandb.sdk import init", "only rlgen.sinks* may"),
    ],
)
def test_a_wrong_import_is_found(module, source, message):
    assert message in " ".join(violations(module, source))


@pytest.mark.parametrize("module", sorted(ALGORITHMS))
def test_an_algorithm_is_read_on_a_few_pages(module):
    _, folder, name = module.split(".")
    assert len((ROOT / folder / f"{name}.py").read_text().splitlines()) <= LONGEST


def code_lines(source):
    """The lines that hold code: no blank ones, no comments, no docstrings."""
    tree = ast.parse(source)
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                documented |= set(range(first.lineno, first.end_lineno + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def test_the_way_of_one_transition_is_under_600_lines():
    lines = ['"""Two', 'lines."""', "x = 1  # one", "# none", "", "def f():", '    """None."""']
    source = "\n".join([*lines, "    return (", "        x", "    )"])
    assert code_lines(source) == 5
    way = [
        "envs/vector.py",
        "rlgen/rollout.py",
        "rlgen/cycle.py",
        "rlgen/backends/ray.py",
        "rlgen/backends/host.py",
        "rlgen/learner.py",
        "rlgen/replay.py",
    ]
    walked = (ROOT / "docs" / "architecture.md").read_text()
    assert all(path in walked or Path(path).name in walked for path in way)
    assert sum(code_lines((ROOT / path).read_text()) for path in way) < 600
