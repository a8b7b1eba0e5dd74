"""What README and docs tell a reader to type: their blocks of code, and the commands in these."""

import itertools
import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("", "bash", "console", "sh", "shell", "text")
FENCE = re.compile(r"\s*(```+|~~~+)\s*(\w*)")
LIST_ITEM = re.compile(r"\s*([-*+]|\d+\.)\s")
ASSIGNMENT = re.compile(r"[A-Z_]+=")

#: Programs of others that appear beside rlgen. They are neither run nor checked.
OTHERS = {
    "cd": "goes to a folder",
    "docker": "builds an image",
    "git": "gets the sources",
    "jupyter": "serves notebooks",
    "kubectl": "talks to a cluster",
    "pip": "installs",
    "python": "serves a folder, or runs a script of this repository",
    "ray": "starts a cluster",
    "sbatch": "talks to a cluster",
    "scp": "goes to another machine",
    "ssh": "goes to another machine",
    "tensorboard": "serves a page",
    "trackio": "serves a page",
    "wandb": "needs an account",
}
PROGRAMS = ("rlgen", "make", *OTHERS)


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the number of its first line, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README, in English, and the docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """The fenced and the indented blocks of a page, in their order."""
    found: list[Block] = []
    page = str(path.relative_to(ROOT))
    lines = path.read_text().splitlines()
    number, in_list, blank = 0, False, True
    while number < len(lines):
        line = lines[number]
        fence = FENCE.match(line)
        start = number
        if fence:
            number += 1
            while not lines[number].strip().startswith(fence[1]):
                number += 1
            body = lines[start + 1 : number]
            found.append(Block(page, start + 2, fence[2], textwrap.dedent("\n".join(body))))
        elif line.startswith("    ") and line.strip() and blank and not in_list:
            while number + 1 < len(lines) and (
                lines[number + 1].startswith("    ") or not lines[number + 1].strip()
            ):
                number += 1
            body = lines[start : number + 1]
            found.append(Block(page, start + 1, "", textwrap.dedent("\n".join(body)).strip("\n")))
        elif line.strip() and not line.startswith(" "):
            in_list = bool(LIST_ITEM.match(line)) or line.startswith(("!!!", "???", "==="))
        blank = not lines[number].strip()
        number += 1
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a block, as words, without comments; none where it shows something else.

    In a block with prompts (``$ rlgen list``), only the lines with a prompt are commands.
    """
    if block.language not in SHELLS:
        return []
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    lines = prompted or [line for line in lines if not line.startswith("#")]
    first = re.match(r"([A-Z_]+=\S+ )*(?:\.venv/bin/)?(\S+)", lines[0]) if lines else None
    if first is None or first[2] not in PROGRAMS:
        return []
    return [piece for line in lines for piece in pieces(line)]


def refusals(block: Block) -> list[tuple[list[str], str]]:
    """Commands that are shown with the error that answers them, and that error."""
    lines = block.text.splitlines()
    return [
        (pieces(line[2:])[0], answer)
        for line, answer in itertools.pairwise(lines)
        if line.startswith("$ rlgen ") and answer.startswith("rlgen: ")
    ]


def pieces(line: str) -> list[list[str]]:
    """The commands of one line, which ``&``, ``&&``, ``;`` and pipes part."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            found.append([])
        elif found[-1] or not ASSIGNMENT.match(word):  # not one of NAME=value before a command
            found[-1].append(word.removeprefix(".venv/bin/"))
    return [words for words in found if words]


def mentions(path: Path) -> list[str]:
    """The commands within the text of a page: `rlgen ...` between backticks, on one line."""
    text = path.read_text()
    for block in blocks(path):
        text = text.replace(block.text, "") if "`" in block.text else text
    return re.findall(r"(?<!`)`(rlgen [a-z][^`\n]*)`(?!`)", text)
