"""A folder as lines of text, for a job's log: how a run comes home from a cluster.

``python -m parcel FOLDER`` packs a folder on the head, where this file alone was sent; `unpack`
takes it out here. A parcel is a gzipped tar in base64, with its sha256 at its end; only plain files
and folders, below the folder that it is unpacked into, are taken out of it. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import shutil
import signal
import stat
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

BEGIN, END, MISSING = "parcel-begin", "parcel-end", "parcel-missing"
LINE = 30_000  # bytes in one line
PATIENCE_S = 900  # for whoever takes the parcel


class _Lines:
    """A file that writes itself as lines of base64."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self.rest = b""
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.rest += data
        while len(self.rest) >= LINE:
            self._line(LINE)
        return len(data)

    def _line(self, size: int) -> None:
        print(base64.b64encode(self.rest[:size]).decode(), file=self.out)
        self.rest = self.rest[size:]

    def end(self) -> str:
        if self.rest:
            self._line(len(self.rest))
        return self.hash.hexdigest()


def pack(folder: Path, out: IO[str]) -> None:
    """Write a folder as a parcel.

    Hidden files stay behind, as what is not whole yet has such names; files that vanish meanwhile
    are left out, as an old checkpoint of a run that goes on.
    """
    if not folder.is_dir():
        print(MISSING, folder, file=out, flush=True)
        return
    print(BEGIN, file=out)
    lines = _Lines(out)
    sink: Any = lines  # a stream only writes
    with tarfile.open(mode="w|gz", fileobj=sink) as tar:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_symlink() or any(part.startswith(".") for part in name.parts):
                continue
            try:
                # Read whole first: a file that grew would not fit its header.
                data = path.read_bytes() if path.is_file() else None
                info = tar.gettarinfo(path, arcname=name.as_posix())
            except FileNotFoundError:
                continue
            if data is not None:
                info.size = len(data)
            tar.addfile(info, None if data is None else io.BytesIO(data))
    print(END, lines.end(), file=out, flush=True)


def unpack(lines: Iterable[str], target: Path, spare: IO[bytes]) -> bool:
    """Take a parcel out into a folder.

    Args:
        lines: of a log; those before and after the parcel are passed over.
        target: the folder, which is made.
        spare: an empty file, written and read.

    Returns:
        False where the folder to pack was not there.

    Raises:
        ValueError: the parcel is damaged or cut short, or holds what it must not.
    """
    digest, begun = hashlib.sha256(), False
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == MISSING:
            return False
        if word == BEGIN:
            begun = True
        elif word == END and begun:
            if rest != digest.hexdigest():
                raise ValueError("the parcel was damaged on its way (its sha256 differs)")
            break
        elif begun:
            try:
                data = base64.b64decode(word, validate=True)
            except binascii.Error as error:
                raise ValueError(f"the parcel was damaged on its way ({error})") from None
            digest.update(data)
            spare.write(data)
    else:
        raise ValueError("the parcel was cut short")
    spare.seek(0)
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=spare, mode="r:gz") as tar:
        for member in tar:
            path = target / _checked(member)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            source = tar.extractfile(member)
            assert source is not None
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(source, file)
    return True


def _checked(member: tarfile.TarInfo) -> PurePosixPath:
    """The relative path of what a parcel holds."""
    name = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()):
        raise ValueError(f"the parcel holds {member.name!r}, which is no plain file or folder")
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise ValueError(f"the parcel holds {member.name!r}, which lies outside of it")
    return name


def main() -> None:
    """Pack a folder into this job's log, and empty the log once the parcel is taken."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        pack(Path(sys.argv[1]), sys.stdout)
        time.sleep(PATIENCE_S)
    finally:
        if stat.S_ISREG(os.fstat(1).st_mode):
            os.ftruncate(1, 0)


if __name__ == "__main__":
    main()
