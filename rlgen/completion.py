"""What a shell completes: configurations, runs, and overrides with their values.

Answered while somebody waits with a finger on the key, so nothing heavy is imported: what an
algorithm's hyper-parameters are is read from its source.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

Found = list[tuple[str, str]]  # what to insert, and a line of help
RUNS = Path("runs")


def configs(incomplete: str) -> Found:
    """Ready configurations by name, and YAML files."""
    from rlgen.config import comment, config_names

    paths = _below(incomplete, "*.yaml", "*.yml")
    found = [(str(path), "") for path in paths if str(path).startswith(incomplete)]
    names = [name for name in config_names() if name.startswith(incomplete)]
    return [(name, comment(name)) for name in names] + found


def runs(incomplete: str) -> Found:
    """The runs in ``runs/``, or in the folder whose name was begun."""
    inside = incomplete.startswith(f"{RUNS}/") or "/" not in incomplete
    root = RUNS if inside else Path(incomplete).parent
    paths = sorted({p.parent for depth in ("*", "*/*") for p in root.glob(f"{depth}/config.yaml")})
    return [(str(path), "") for path in paths if str(path).startswith(incomplete)]


def overrides(ctx: typer.Context, incomplete: str) -> Found:
    """``key=`` of every setting that the configuration has; after it, the values there are."""
    from rlgen.config import read_config
    from rlgen.errors import RlgenError

    config, run = ctx.params.get("config"), ctx.params.get("run")
    try:
        if config:
            plain = read_config(config)
        else:
            plain = yaml.safe_load((Path(str(run)) / "config.yaml").read_text())
    except (RlgenError, OSError, ValueError, yaml.YAMLError):
        plain = {}
    settings = dict(_settings(plain if isinstance(plain, dict) else {}, resumed=not config))
    before, key, given = "", "", ctx.params.get("overrides") or []
    if given and "=" not in given[-1]:  # bash takes key=value for three words
        key, value = given[-1], incomplete
    elif given and given[-1] == "=":
        key, value = given[-2], incomplete
    elif "=" in incomplete:
        key, _, value = incomplete.partition("=")
        before = f"{key}="
    if key:
        choices = settings.get(key, ((), ""))[0]
        return [(before + choice, "") for choice in choices if choice.startswith(value)]
    return [(f"{k}=", text) for k, (_, text) in settings.items() if k.startswith(incomplete)]


def _settings(plain: dict[str, Any], resumed: bool) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Dotted names of settings, each with the values that there are (if few) and its help."""
    from rlgen import outline, registry
    from rlgen.config import RESUMABLE, Experiment, Section

    def of(section: type[Section], prefix: str) -> Iterator[tuple[str, tuple[Any, str]]]:
        for name, field in section.model_fields.items():
            kinds = (field.annotation, *typing.get_args(field.annotation))
            inner = [k for k in kinds if isinstance(k, type) and issubclass(k, Section)]
            if not inner:
                yield f"{prefix}{name}", (_choices(field.annotation), field.description or "")
            elif name != "hyperparameters" and (not resumed or name in RESUMABLE):
                yield from of(inner[0], f"{prefix}{name}.")

    every = of(Experiment, "")
    yield from (pair for pair in every if not resumed or "." in pair[0])
    name = str(plain.get("algorithm"))
    target = (registry.AGENTS | registry.MODELS).get(name, name)
    for key, setting in {} if resumed else outline.settings(target).items():
        yield f"hyperparameters.{key}", (_written_choices(setting.type), setting.comment)


def _choices(annotation: Any) -> list[str]:
    """The values of a type that has few."""
    if annotation is bool:
        return ["false", "true"]
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    return []


def _written_choices(annotation: str) -> list[str]:
    """The same, of a type as it is written in the source."""
    if annotation == "bool":
        return ["false", "true"]
    if annotation.startswith("Literal["):
        values = ast.literal_eval(annotation.removeprefix("Literal"))
        return [str(value) for value in values]
    return []


def _below(incomplete: str, *patterns: str) -> list[Path]:
    folder = Path(incomplete.rpartition("/")[0] or ("/" if incomplete.startswith("/") else "."))
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
