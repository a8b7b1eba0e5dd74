"""Pages that the site has beside those in this folder; mkdocs calls it ('make docs').

README and changelog, a page for every algorithm (its section of agents.md or generative.md, and
its ready configurations), the notebooks as they were last run, and the table of all settings.
"""

from __future__ import annotations

import json
import posixpath
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from annotated_types import Ge, Gt, Le, Lt
from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlgen import registry
from rlgen.config import Experiment

ROOT = Path(__file__).parents[1]
ALGORITHMS = {"agents.md": registry.AGENTS, "generative.md": registry.MODELS}
NAV_TITLES = {"agents.md": "Agents", "generative.md": "Models"}
COPIED = {"README.md": "index.md", "README.zh.md": "zh.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
SETTINGS = """# Configuration

An experiment is a YAML file with these keys; `key=value` on the command line changes one, with dots
into sections: `stop.seconds=60`. Unknown keys are errors, and so are settings that would have no
effect. `rlgen show CONFIG` prints all with their values. The keys of `hyperparameters` are the
algorithm's own: see its page. `search` belongs to [sweeps](clusters.md)."""
HEADING = re.compile(r"(#+) (.+)")


@dataclass
class Part:
    """A heading with what is below it, up to the next one."""

    level: int
    title: str
    lines: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """What a link to it ends in."""
        return slugify(self.title.replace("`", ""), "-")


def parts(text: str) -> list[Part]:
    """A page by its headings; those within blocks of code are none."""
    found, fenced = [Part(0, "")], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else HEADING.match(line)
        if heading:
            found.append(Part(len(heading[1]), heading[2]))
        else:
            found[-1].lines.append(line)
    return found


def split(page: str, names: typing.Iterable[str]) -> dict[str, list[Part]]:
    """The parts of a page by the page of the site that they go to."""
    home, level, pages = page, 0, {page: list[Part]()}
    for part in parts((ROOT / "docs" / page).read_text()):
        if home != page and part.level <= level:
            home = page
        if part.title in names:
            home, level = f"algorithms/{part.title}.md", part.level
            says = (registry.resolve(part.title).__doc__ or "").partition("\n")[0]
            pages[page].append(Part(0, "", [f"- [{part.title}]({home}): {says}"]))
        pages.setdefault(home, []).append(part)
    return pages


def written(page: str, found: list[Part], homes: dict[tuple[str, str], str], source: str) -> str:
    """The text of a page, whose links lead to where things are on the site."""
    shift = min((part.level for part in found if part.level), default=1) - 1
    lines = []
    for part in found:
        if part.level:
            lines += ["", f"{'#' * (part.level - shift)} {part.title}"]
        lines += part.lines
    return relinked("\n".join(lines), page, source, homes)


def relinked(text: str, page: str, source: str, homes: dict[tuple[str, str], str]) -> str:
    """``text``, written as ``source``, as ``page`` of the site."""

    def replace(link: re.Match[str]) -> str:
        mark, label, target = link.groups()
        if re.match(r"[a-z]+:", target):
            return link[0]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), path or source))
        place = posixpath.basename(source) if not path else place
        if path and source in COPIED:
            if place in COPIED:
                place = COPIED[place]
            elif place.startswith("docs/"):
                place = place.removeprefix("docs/")
            else:  # the sources are no part of the site
                return f"`{label}`" if "`" not in label else label
        if place.startswith("notebooks/"):
            place = place.replace(".ipynb", ".md")
        place = homes.get((place, anchor), place)
        if label == target:  # a path says little where there are titles
            label = posixpath.basename(path).removesuffix(".md").replace("-", " ")
        there = posixpath.relpath(place, posixpath.dirname(page) or ".")
        there = "" if place == page and anchor else there
        return f"{mark}[{label}]({there}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(replace, text)


def configurations(name: str) -> str:
    """The ready configurations of an algorithm, as a section of its page."""
    rows = ["", "## Ready configurations", "", "| command | what |", "|---|---|"]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = path.read_text()
        plain = yaml.safe_load(text)
        if plain["algorithm"] == name:
            verb = "sweep" if "search" in plain else "train"
            says = text.partition("\n")[0].removeprefix("#").strip()
            rows.append(f"| `rlgen {verb} {path.stem}` | {says} |")
    return "\n".join(rows)


def notebook(content: dict[str, typing.Any]) -> str:
    """The cells of a notebook with their outputs, as a page."""
    lines = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        lines.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                picture = "".join(data["image/png"].split())
                lines.append(f'<img alt="output" src="data:image/png;base64,{picture}">')
            elif "text/html" in data:
                lines.append("".join(data["text/html"]))
            elif text := "".join(data.get("text/plain", output.get("text", ""))).strip():
                lines.append(f"```text\n{text}\n```")
    return "\n\n".join(lines) + "\n"


def settings() -> str:
    """Every section of a configuration with its keys, as a page."""
    lines = [SETTINGS]
    sections: dict[str, type[BaseModel]] = {"": Experiment}
    for key, found in Experiment.model_fields.items():
        kinds = [found.annotation, *typing.get_args(found.annotation)]
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if model is not None and model.model_fields:
            sections[key] = model
    for key, model in sections.items():
        says = " ".join((model.__doc__ or "").split()).replace("``", "`")
        lines += ["", f"## {key or 'experiment'}", "", says, ""]
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        for name, setting in model.model_fields.items():
            if key or name not in sections:
                whole = f"{key}.{name}" if key else name
                value = kind(setting.annotation, setting.metadata)
                meaning = setting.description or ""
                lines.append(f"| `{whole}` | {value} | {default(setting)} | {meaning} |")
    return "\n".join(lines) + "\n"


def default(setting: FieldInfo) -> str:
    """The default of a key, as YAML says it."""
    if setting.is_required():
        return "required"
    value = setting.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "a section"
    text = yaml.safe_dump(str(value) if isinstance(value, Path) else value, default_flow_style=True)
    return "none" if value is None else f"`{text.removesuffix('...' + chr(10)).strip()}`"


def kind(annotation: object, metadata: typing.Iterable[object] = ()) -> str:
    """What values a key takes, in words."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        return kind(inner, [m for one in more for m in getattr(one, "metadata", [one])])
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        kinds = [kind(a, metadata) for a in arguments if a is not type(None)]
        return " or ".join(kinds)
    if typing.get_origin(annotation) is list:
        return f"list of {kind(arguments[0])}"
    if typing.get_origin(annotation) is dict:
        return "mapping"
    names = {int: "integer", float: "number", bool: "`true`, `false`", str: "text", Path: "path"}
    name = names.get(annotation, "section")  # type: ignore[call-overload]
    bounds = [
        f"{sign} {getattr(limit, letters):,}"
        for limit in metadata
        for bound, letters, sign in (
            (Ge, "ge", "≥"),
            (Gt, "gt", ">"),
            (Le, "le", "≤"),
            (Lt, "lt", "<"),
        )
        if isinstance(limit, bound)
    ]
    return " ".join([name, ", ".join(bounds)]).strip()


def site_pages() -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Every page to be made, and where the sections that moved are: (page, anchor) to page."""
    found = {page: split(page, names) for page, names in ALGORITHMS.items()}
    homes = {
        (source, part.anchor): page
        for source, pages in found.items()
        for page, sections in pages.items()
        for part in sections
        if page != source and part.level
    }
    texts = {
        page: written(page, sections, homes, source)
        for source, pages in found.items()
        for page, sections in pages.items()
    }
    for name in registry.AGENTS | registry.MODELS:
        texts[f"algorithms/{name}.md"] += configurations(name) + "\n"
    for source, page in COPIED.items():
        texts[page] = relinked((ROOT / source).read_text(), page, source, homes)
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        texts[page] = relinked(notebook(json.loads(path.read_text())), page, page, homes)
    return texts | {"configuration.md": settings()}, homes


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and put the shortened ones in the places of the long ones."""
    texts, homes = site_pages()
    for page, text in texts.items():
        there = files.get_file_from_path(page)
        if there is not None:
            files.remove(there)
        files.append(File.generated(config, page, content=text))
    for file in files.documentation_pages():
        if file.src_uri not in texts:
            file.content_string = relinked(file.content_string, file.src_uri, file.src_uri, homes)
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Say which page is Chinese, for the glyphs and for whoever has it read aloud."""
    chinese = page.file.src_uri == COPIED["README.zh.md"]
    return output.replace('lang="en"', 'lang="zh-CN"', 1) if chinese else output


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the algorithms below their overviews."""
    for tab in config.nav or ():
        for entries in tab.values():
            for entry in entries:
                for page, names in ALGORITHMS.items():
                    if isinstance(entry, dict) and entry.get(NAV_TITLES[page]) == page:
                        each = [f"algorithms/{name}.md" for name in names]
                        entry[NAV_TITLES[page]] = [{"Overview": page}, *each]
    return config
