"""Texts as windows of tokens: reading, the vocabulary, and the way back to a string."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from rlgen.errors import DataError, did_you_mean

Tokens = Literal["characters", "words"]

OWN = {path.stem: path for path in sorted((Path(__file__).parent / "texts").glob("*.txt"))}
UNKNOWN = "<unk>"
SEEN = 2  # times that a token must be in the training part to be in the vocabulary
_WORD = re.compile(r"\n+|\w+(?:['’]\w+)*|[^\w\s]")
_BEFORE, _AFTER = re.compile(r" ([,.;:!?”’)\]\n])"), re.compile(r"([“‘(\[\n]) ")


def is_text(name: str) -> bool:
    """Whether a data set's name is that of a text: a file ``*.txt``, or one of ours."""
    return name.endswith(".txt") or name in OWN


def read(name: str) -> str:
    """The text of a file, or one of ours.

    Raises:
        DataError: there is no such file, or it is not text in UTF-8.
    """
    path = OWN.get(name, Path(name))
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"data.name: there is no file {name!r}{did_you_mean(name, OWN)}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: expected text in UTF-8, found the byte {error.object[error.start]:#04x} at "
            f"offset {error.start}; convert the file, with iconv say"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def tokenize(text: str, tokens: Tokens) -> list[str]:
    """Characters; or words, marks of punctuation and, as one token each, the ends of lines."""
    if tokens == "characters":
        return list(text)
    return [token if token[0] != "\n" else "\n" for token in _WORD.findall(text)]


def detokenize(tokens: Iterable[str], kind: Tokens) -> str:
    """The string of tokens; words are set as is usual, with a space between them."""
    if kind == "characters":
        return "".join("\N{REPLACEMENT CHARACTER}" if t == UNKNOWN else t for t in tokens)
    return _AFTER.sub(r"\1", _BEFORE.sub(r"\1", " ".join(tokens)))


def make_vocabulary(tokens: Iterable[str]) -> tuple[str, ...]:
    """``<unk>`` and, sorted, the tokens that are there at least twice.

    So ``<unk>`` is itself learned, from the tokens that are there once.
    """
    counts = Counter(tokens)
    return (UNKNOWN, *sorted(token for token, count in counts.items() if count >= SEEN))


def encode(tokens: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """The places ``(len(tokens),)`` int64 of tokens in a vocabulary; 0 for those not in it."""
    places = {token: place for place, token in enumerate(vocabulary)}
    return np.fromiter((places.get(token, 0) for token in tokens), np.int64, len(tokens))


def windows(ids: np.ndarray, size: int, vocabulary: Sequence[str]) -> np.ndarray:
    """Consecutive windows ``(n, size)`` of tokens, as small integers; what is left over is cut."""
    kind = np.min_scalar_type(len(vocabulary) - 1)
    return ids[: len(ids) // size * size].reshape(-1, size).astype(kind)
