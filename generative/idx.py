"""IDX files, the format of MNIST and its relatives, read with every byte accounted for.

Source: Y. LeCun, "The MNIST database of handwritten digits": two zero bytes, a byte for the type
(0x08: unsigned bytes), a byte for the number of dimensions, each size as a big-endian 32-bit
integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from rlgen.errors import DataError

UNSIGNED_BYTES = 0x08
PARTS = {"train": "train", "test": "t10k"}


def find_idx(folder: Path, split: str, kind: str) -> Path | None:
    """The file of ``"images"`` or ``"labels"`` of a split, in any of its usual spellings."""
    dims = 3 if kind == "images" else 1
    stem = f"{PARTS[split]}-{kind}"
    for name in (f"{stem}-idx{dims}-ubyte", f"{stem}.idx{dims}-ubyte"):
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    return None


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of ``dims`` dimensions that an IDX file holds, gzipped or not.

    Raises:
        DataError: unreadable, damaged, of another type or number of dimensions, or with more or
            fewer bytes than its header says; names the file, what was found, what was expected.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, f"its gzip data are damaged ({error})", "a whole gzip file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    header = 4 + 4 * dims
    if len(content) < header:
        raise _damaged(path, f"{len(content)} bytes", f"a header of {header} bytes")
    if content[:4] != bytes([0, 0, UNSIGNED_BYTES, dims]):
        raise _damaged(
            path,
            f"magic number 0x{content[:4].hex()}",
            f"0x0000{UNSIGNED_BYTES:02x}{dims:02x} (unsigned bytes in {dims} dimensions)",
        )
    shape = struct.unpack(f">{dims}I", content[4:header])
    if len(content) - header != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise _damaged(
            path, f"{len(content) - header} values", f"{math.prod(shape)} ({sizes}) by its header"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _damaged(path: Path, found: str, expected: str) -> DataError:
    return DataError(f"{path}: found {found}, expected {expected}; download the file again")
