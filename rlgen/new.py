"""The command ``rlgen new``: a working agent, environment or model of one's own to begin with."""

from __future__ import annotations

import importlib.util
import keyword
import string
import sys
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from rlgen.command import AsJson, Debug, replying
from rlgen.errors import ConfigError

#: What is written, in the order in which it is read.
FILES = {"{kind}.py.txt": "{name}.py", "test_{kind}.py.txt": "test_{name}.py"} | {
    "{kind}.yaml.txt": "{name}.yaml"
}


class Kind(StrEnum):
    """What there are skeletons of."""

    agent = "agent"
    env = "env"
    model = "model"


def new(
    kind: Annotated[Kind, typer.Argument(metavar="agent|env|model", help="What it is to be")],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Of the module: my_agent has the class MyAgent"),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder, which is made where it is missing")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Replace existing files")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a working skeleton with a test and a configuration, to make your own of."""
    with replying(as_json, debug) as answer:
        written = write(kind, name, output, force)
        answer |= {"kind": kind.value, "files": [str(path) for path in written]}
        for path in written:
            print(path)
        print("next:")
        if output != Path():
            print(f"  cd {output}")
        print(f"  rlgen train {name}.yaml")
        print(f"  python -m pytest test_{name}.py")
        print(f"then change {name}.py; what it may fill in is in docs/extending.md")


def write(kind: Kind, name: str, folder: Path, force: bool = False) -> list[Path]:
    """Write the files of a skeleton.

    Args:
        kind: of what.
        name: a module's name.
        folder: where to, made where it is missing.
        force: whether existing files are replaced.

    Returns:
        The files: the code, its test, its configuration.

    Raises:
        ConfigError: the name cannot be a module's or is taken; a file exists or cannot be written.
    """
    check_name(name, folder)
    names = {"name": name, "Name": camel(name)}
    written = {}
    for template, target in FILES.items():
        text = (files("rlgen") / "skeletons" / template.format(kind=kind.value)).read_text("utf-8")
        written[folder / target.format(name=name)] = string.Template(text).substitute(names)
    existing = [str(path) for path in written if path.exists()]
    if existing and not force:
        raise ConfigError(
            f"new: there is {', '.join(existing)} already; give another name or folder (-o), or "
            "--force to replace what is there"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in written.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"-o: cannot write to {str(folder)!r}: {error.strerror}") from error
    return list(written)


def check_name(name: str, folder: Path) -> None:
    """Refuse what cannot be a module of one's own.

    Raises:
        ConfigError: says what was expected.
    """
    if not name.isascii() or not name.isidentifier() or keyword.iskeyword(name):
        near = "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_").lower()
        hint = f", such as {near!r}" if near.isidentifier() and not keyword.iskeyword(near) else ""
        raise ConfigError(
            f"NAME: expected the name of a Python module, letters, digits and underscores{hint}; "
            f"got {name!r}"
        )
    if not camel(name):
        raise ConfigError(f"NAME: {name!r} has no letter that a class could be called by")
    if name.lower() in sys.stdlib_module_names or name.startswith("test_"):
        raise ConfigError(
            f"NAME: {name!r} is a module of Python's own or a test's name; choose another"
        )
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    ours = (folder / f"{name}.py").absolute()
    if spec is not None and (spec.origin is None or Path(spec.origin).absolute() != ours):
        raise ConfigError(
            f"NAME: a package {name!r} is installed already, and would be imported in its place; "
            "choose another name"
        )


def camel(name: str) -> str:
    """``my_agent`` as a class is called: ``MyAgent``."""
    joined = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return joined if joined[:1].isalpha() else ""
