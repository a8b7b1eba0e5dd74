"""What the source of an algorithm says, read without importing it: an import costs torch."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

BASE = "rlgen.config:Hyperparameters"
COMMENT = re.compile(r"\s#\s(.*)$")


@dataclass(frozen=True)
class Setting:
    """One hyper-parameter, as it is written.

    Attributes:
        type: its annotation.
        default: the default's source; "" where there is none.
        comment: what stands behind it in the line.
    """

    type: str
    default: str
    comment: str


def describe(target: str) -> str:
    """The first line of the docstring of ``module:Class``."""
    module, _, name = target.partition(":")
    source = _parsed(module)
    if source is not None:
        node = _classes(source[0]).get(name)
        if node is not None:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return f"(missing: {target})"


def settings(target: str) -> dict[str, Setting]:
    """The hyper-parameters of the algorithm ``module:Class``, those of its bases first."""
    module, _, name = target.partition(":")
    source = _parsed(module)
    node = None if source is None else _classes(source[0]).get(name)
    if source is None or node is None:
        return {}
    for part in node.body:
        if isinstance(part, ast.ClassDef) and part.name == "Config":
            return _fields(module, part)
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == "Config":
            return _of_class(_resolve(module, ast.unparse(part.value)))
    return {}


def _of_class(target: str) -> dict[str, Setting]:
    module, _, name = target.partition(":")
    source = _parsed(module) if target != BASE else None
    node = None if source is None else _classes(source[0]).get(name)
    return {} if node is None else _fields(module, node)


def _fields(module: str, node: ast.ClassDef) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for base in node.bases:
        found |= _of_class(_resolve(module, ast.unparse(base)))
    source = _parsed(module)
    assert source is not None
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            default = "" if part.value is None else ast.unparse(part.value)
            line = source[1][(part.end_lineno or part.lineno) - 1]
            said = COMMENT.search(line[part.end_col_offset or 0 :])
            comment = "" if said is None else said.group(1)
            found[part.target.id] = Setting(ast.unparse(part.annotation), default, comment)
    return found


def _resolve(module: str, name: str) -> str:
    """``module:Class`` of a name, as it is written in a module."""
    source = _parsed(module)
    assert source is not None
    first, _, rest = name.partition(".")
    for node in source[0].body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    if rest:
                        return f"{node.module}.{alias.name}:{rest}"
                    return f"{node.module}:{alias.name}"
    return f"{module}:{name}"


@functools.cache
def _parsed(module: str) -> tuple[ast.Module, list[str]] | None:
    """The syntax tree and the lines of a module; None where there is none that can be read."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        text = Path(spec.origin).read_text(encoding="utf-8")
        return ast.parse(text), text.splitlines()
    except (OSError, ValueError, SyntaxError):
        return None


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
