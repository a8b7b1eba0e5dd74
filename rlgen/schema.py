"""The command ``rlgen schema``: the JSON Schema of configurations, for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rlgen.command import AsJson, Debug, check_output, replying, writing

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The JSON file to write; else printed")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of configurations: an editor completes and checks the YAML by it."""
    with replying(as_json, debug) as answer:
        if output is not None:
            check_output(output, ".json")
        made = experiment_schema()
        if output is None:
            answer |= {"schema": made}
            print(json.dumps(made, indent=1))
            return
        with writing(output):
            output.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        answer |= {"file": str(output)}
        print(f"{output}; begin a configuration with")
        print(f"# yaml-language-server: $schema={output.absolute().as_uri()}")


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a configuration, of a run or of a sweep.

    Which hyper-parameters there are, and which sections, follows the algorithm. What only all
    settings together decide, `rlgen.config` alone knows.
    """
    from pydantic import TypeAdapter

    from rlgen import outline, registry
    from rlgen.config import Experiment, Hyperparameters, used_sections
    from rlgen.search import KINDS, Search

    known = registry.AGENTS | registry.MODELS
    classes = {name: registry.resolve(name) for name in known}
    made = Experiment.model_json_schema()
    definitions = made["$defs"]
    search = Search.model_json_schema()
    definitions |= search.pop("$defs")
    pairs = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}
    definitions["Dimension"] = {
        "title": "Dimension",
        "description": "a list of values, or one of the kinds with its lowest and highest value",
        "oneOf": [
            {"type": "array", "minItems": 1},
            {
                "type": "object",
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {
                    kind: {"type": "array", "minItems": 1} if kind == "choice" else pairs
                    for kind in KINDS
                },
            },
        ],
    }
    definitions["Search"] = search
    properties = made["properties"]
    properties["search"] = {"$ref": "#/$defs/Search"}
    properties["name"]["description"] = "of the experiment; the file's name by default"
    described = {name: outline.describe(target) for name, target in known.items()}
    properties["algorithm"] = {
        "title": "Algorithm",
        "anyOf": [
            {"oneOf": [{"const": n, "description": text} for n, text in described.items()]},
            {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "package.module:Class"},
        ],
    }
    properties["hyperparameters"] = {"type": ["object", "null"]}
    rules = []
    for name, algorithm in classes.items():
        key = f"hyperparameters of {name}"
        definitions[key] = _commented(TypeAdapter(algorithm.Config).json_schema(), known[name])
        definitions |= definitions[key].pop("$defs", {})
        definitions[key]["type"] = ["object", "null"]
        used = used_sections(algorithm)
        sections: dict[str, Any] = {s: {"type": "null"} for s, wanted in used.items() if not wanted}
        sections["hyperparameters"] = {"$ref": f"#/$defs/{key}"}
        needed = [s for s in ("env", "data", "demonstrations") if used[s]]
        sections |= {s: {"type": "object"} for s in needed}
        if algorithm.source != "model":
            needed.append("stop")
        rules.append(
            {
                "if": {"properties": {"algorithm": {"const": name}}},
                "then": {"properties": sections, "required": needed},
            }
        )
    definitions.pop(Hyperparameters.__name__, None)
    return {
        "$schema": DIALECT,
        "title": "rlgen configuration",
        "type": "object",
        "additionalProperties": False,
        "required": ["algorithm"],
        "properties": properties,
        "allOf": rules,
        "$defs": definitions,
    }


def _commented(made: dict[str, Any], target: str) -> dict[str, Any]:
    """With the comments of the source as descriptions."""
    from rlgen import outline

    for name, setting in outline.settings(target).items():
        if setting.comment and name in made["properties"]:
            made["properties"][name].setdefault("description", setting.comment)
    return made
