"""What is installed, and how the repository's plumbing holds together."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlgen import __version__
from rlgen.config import config_names, sweep_names

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {"rlgen": "rlgen"} | {
    f: f"rlgen/{f}" for f in ("agents", "configs", "envs", "generative")
}


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_dependency_is_pinned_to_one_version_that_it_allows():
    pinned = {canonicalize_name(pin.name): pin for pin in pins()}
    wanted = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(line) for lines in wanted for line in lines):
        if requirement.name == "rlgen":  # its own extras, which are among these
            continue
        pin = pinned[canonicalize_name(requirement.name)]
        (specifier,) = pin.specifier
        assert specifier.operator == "==" and "+" not in specifier.version, pin
        assert specifier.version in requirement.specifier, (pin, requirement)


def test_the_changelog_speaks_of_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(__version__)}\b", text, re.MULTILINE)
    assert importlib.metadata.version("rlgen") == __version__


def test_make_names_what_python_it_needs(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = subprocess.run(
        ["make", "-C", tmp_path, "test", f"PYTHON={old}"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "rlgen needs Python 3.11 to 3.13" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_has_nothing_to_do_once_it_is_set_up(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".ready").touch()

    def question():  # 'make -q' answers 0 where all is up to date
        return subprocess.run(["make", "-q", "-C", tmp_path, ".venv/.ready"]).returncode

    assert question() == 0
    stamp = (tmp_path / ".venv" / ".ready").stat().st_mtime
    os.utime(tmp_path / "constraints.txt", (stamp + 1, stamp + 1))
    assert question() == 1


@pytest.mark.slow
def test_the_wheel_holds_every_source_and_configuration(tmp_path):
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would add old files
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True
    )
    (wheel,) = tmp_path.glob("rlgen-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in SOURCES.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    ready = [*config_names(), *sweep_names()]
    expected |= {f"rlgen/configs/{name}.yaml" for name in ready}
    expected |= {"rlgen/py.typed", "rlgen/report.html"}
    expected |= {f"rlgen/configs/{path.name}" for path in (ROOT / "configs").glob("*.npz")}
    assets = (ROOT / "rlgen" / "dashboard" / "assets").glob("*")
    expected |= {f"rlgen/dashboard/assets/{path.name}" for path in assets}
    texts = (ROOT / "generative" / "texts").glob("*.txt")
    expected |= {f"rlgen/generative/texts/{path.name}" for path in texts}
    assert {name for name in held if ".dist-info/" not in name} == expected
