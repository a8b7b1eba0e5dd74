"""Runs that are kept by URI: ``run.dir=s3://bucket/runs``, ``gs://...``, ``file://...``.

A run is always written to a folder of this machine first, so that storage that is slow or away for
a while never holds it up. A thread uploads what is new every few seconds: small files whole, a
checkpoint file by file with its manifest last, so that what can be read there is complete. Reading
goes the other way, into the same folder (`fetch`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from rlgen import checkpoint
from rlgen.errors import CheckpointError, ConfigError, RlgenError

CACHE_VARIABLE = "RLGEN_CACHE"
EVERY_S = 5.0  # between uploads
LONGEST_PAUSE_S = 60.0  # between attempts while the storage is away
LAST_ATTEMPTS = 4  # at the end of a run, 1, 2 and 4 s apart
CHECKPOINTS = "checkpoints"
ORIGIN, PENDING = ".uri", ".uploading"  # where a folder belongs; that not all of it is there yet
URI = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://(.*)$")
SENDING = ".sending-"  # a checkpoint that is being uploaded
ARROW = ("gs", "s3")  # read and written by pyarrow, which brings the clients along
HINTS = {
    r"credential|access.?denied|forbidden|permission|unauthor|ACCESS_DENIED|\b40[13]\b": (
        "are there credentials that may write there (for s3 AWS_ACCESS_KEY_ID or ~/.aws; for gs "
        "GOOGLE_APPLICATION_CREDENTIALS)?"
    ),
    r"bucket.*not (exist|found)|NO_SUCH_BUCKET|NoSuchBucket|\b404\b": "make the bucket first",
    r"resolve|connect|timeout|timed out|network|unreachable": "is the network there?",
}


def is_uri(where: str | Path) -> bool:
    """Whether this is a URI, not a path."""
    return isinstance(where, str) and URI.match(where) is not None


def join(uri: str, *parts: str) -> str:
    """The URI of something below another."""
    return "/".join([uri.rstrip("/"), *parts])


def check(uri: str) -> None:
    """Refuse a URI of which there is no file system here.

    Raises:
        ConfigError: says what to install, or that there is no such protocol.
    """
    import fsspec

    protocol = uri.partition("://")[0].lower()
    if protocol in ARROW:
        _arrow(protocol)
    elif protocol not in fsspec.available_protocols():
        raise ConfigError(
            f"run.dir: nothing is known of {protocol}:// in {uri!r}; use s3://, gs:// or file://"
        )


def workspace(uri: str, number: int = 0) -> Path:
    """The folder of this machine for what belongs to a URI; others for other numbers."""
    root = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "rlgen"
    match = URI.match(uri)
    assert match is not None
    parts = [part for part in match[2].split("/") if part not in ("", ".", "..")]
    return Path(root, f"runs-{number}" if number else "runs", match[1].lower(), *parts).absolute()


def local_root(where: str) -> Path:
    """The folder in which runs of ``run.dir`` are written on this machine."""
    return workspace(where) if is_uri(where) else Path(where)


def belongs(folder: Path, uri: str) -> None:
    """Note where a folder's content is to be kept."""
    (folder / ORIGIN).write_text(uri)


def origin(folder: Path) -> str | None:
    """The URI that a folder's content belongs to; None where the folder is all there is."""
    path = folder / ORIGIN
    return path.read_text() if path.is_file() else None


def localized(where: str | Path, warn: Callable[[str], None], needed: str = "config.yaml") -> Path:
    """The folder of a run: the given one, or one into which the run of a URI is fetched.

    Raises:
        CheckpointError: as `fetch`.
    """
    return fetch(str(where), warn, needed) if is_uri(where) else Path(where)


def fetch(uri: str, warn: Callable[[str], None], needed: str = "config.yaml") -> Path:
    """Bring what is kept at a URI into its folder on this machine.

    Of every run's checkpoints the latest good one is read. A folder that holds what was not
    uploaded (or a run that is still going on) is left alone, and another one used.

    Raises:
        CheckpointError: ``needed`` is not there, so it is not a run.
        ConfigError: the storage cannot be read.
    """
    uri = uri.rstrip("/")
    number = 0
    while (folder := workspace(uri, number) / PENDING).exists():
        warn(f"{folder.parent} holds what was not uploaded yet; reading what is at {uri}")
        number += 1
    folder = folder.parent
    with _explained(uri, "read"):
        filesystem, root = _open(uri)
        try:
            filesystem.info(f"{root.rstrip('/')}/{needed}")  # which fails where find finds nothing
        except FileNotFoundError:
            raise CheckpointError(f"{uri!r} is not a run: it has no {needed}") from None
        found = {_below(name, root): name for name in filesystem.find(root)}
        folder.mkdir(parents=True, exist_ok=True)
        belongs(folder, uri)
        checkpoints: dict[PurePosixPath, dict[str, str]] = {}
        for name, path in found.items():
            relative = PurePosixPath(name)
            if ".." in relative.parts or any(part.startswith(".") for part in relative.parts):
                continue
            if _of_checkpoint(relative):
                checkpoints.setdefault(relative.parent, {})[relative.name] = path
                continue
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(path, str(target))
        _fetch_checkpoints(filesystem, checkpoints, folder)
    return folder


def _fetch_checkpoints(
    filesystem: Any, checkpoints: dict[PurePosixPath, dict[str, str]], folder: Path
) -> None:
    """Fetch the latest good checkpoint of each run; what is damaged stays, to be told of."""
    whole: dict[PurePosixPath, list[PurePosixPath]] = {}
    for path, files in checkpoints.items():
        if checkpoint.MANIFEST in files:  # else it was never finished
            whole.setdefault(path.parent, []).append(path)
    for here in [path for path in folder.rglob(CHECKPOINTS) if path.is_dir()]:
        if PurePosixPath(here.relative_to(folder).as_posix()) not in whole:
            shutil.rmtree(here)  # of an earlier fetch
    for parent, paths in whole.items():
        names = {path.name for path in paths}
        for earlier in checkpoint.candidates(folder / parent):
            if earlier.name not in names:
                shutil.rmtree(earlier)
        for path in sorted(paths, key=lambda path: path.name, reverse=True):
            files, target = checkpoints[path], folder / path
            manifest = filesystem.cat_file(files[checkpoint.MANIFEST])
            present = target / checkpoint.MANIFEST
            if not (present.is_file() and present.read_bytes() == manifest):
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                for name, file in files.items():
                    filesystem.get_file(file, str(target / name))
            if checkpoint.damage(target) is None:
                break


def runs(where: str) -> list[tuple[str, dict[str, Any]]]:
    """The runs below the URI of a ``run.dir``, each with its summary (empty: not ended).

    Raises:
        ConfigError: the storage cannot be read.
    """
    import json

    with _explained(where, "read"):
        filesystem, root = _open(where)
        try:
            filesystem.ls(root)  # which fails where find finds nothing
        except FileNotFoundError:
            return []
        found = {_below(name, root): name for name in filesystem.find(root, maxdepth=3)}
        listed = []
        for name in sorted(found):
            path = PurePosixPath(name)
            if path.name != "config.yaml" or len(path.parts) != 3:
                continue
            summary = found.get(str(path.parent / "summary.json"))
            content = json.loads(filesystem.cat_file(summary)) if summary else {}
            listed.append((join(where, *path.parent.parts), content))
        return listed


class Mirror:
    """Keeps what is at a URI like a folder that a run writes.

    Args:
        folder: of a run, or with runs anywhere below it. Names that begin with a dot are left out.
        uri: where it goes.
        warn: told when the storage is away, and when it is back.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, folder: Path, uri: str, warn: Callable[[str], None]) -> None:
        self.folder, self.uri, self.warn = folder, uri, warn
        self._sent: dict[Path, Any] = {}
        self._away = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        with _explained(uri, "written"):
            self._filesystem, self._root = _open(uri)
            (folder / PENDING).touch()
            for left in folder.glob(f"{SENDING}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            self.push()
        self._thread.start()

    def push(self) -> None:
        """Upload what is new.

        Raises:
            Exception: whatever the storage's client raises.
        """
        checkpoints = set()
        walk = os.walk(self.folder)  # which does not mind that folders go meanwhile
        for path in sorted(Path(at, name) for at, _, names in walk for name in names):
            relative = path.relative_to(self.folder)
            if any(part.startswith(".") for part in relative.parts):
                continue
            if _of_checkpoint(relative):
                checkpoints.add(relative.parent)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._send(relative)
        for relative in sorted(checkpoints):
            self._send_checkpoint(relative)
        for parent in sorted({relative.parent for relative in checkpoints}):
            self._prune(parent)

    def close(self) -> bool:
        """Upload the rest, if need be in several attempts; what fails stays in the folder.

        Returns:
            Whether all is there.
        """
        self._end.set()
        self._thread.join()
        for attempt in range(LAST_ATTEMPTS):
            try:
                self.push()
            except Exception as error:
                if attempt + 1 < LAST_ATTEMPTS:
                    time.sleep(2**attempt)
                    continue
                self.warn(
                    f"run.dir: not all could be uploaded to {self.uri}: {_reason(error)}; the run "
                    f"is whole in {self.folder}; 'rlgen push {shlex.quote(str(self.folder))}' "
                    "uploads the rest"
                )
                return False
            break
        (self.folder / PENDING).unlink(missing_ok=True)
        return True

    def _work(self) -> None:
        pause = EVERY_S
        while not self._end.wait(pause):
            try:
                self.push()
            except Exception as error:
                pause = min(2 * pause, LONGEST_PAUSE_S)
                if not self._away:
                    self._away = True
                    self.warn(
                        f"run.dir: uploads to {self.uri} fail: {_reason(error)}; the run goes on "
                        f"in {self.folder}, and they are tried again"
                    )
                continue
            pause = EVERY_S
            if self._away:
                self._away = False
                self.warn(f"run.dir: uploads to {self.uri} work again")

    def _send(self, relative: Path) -> None:
        """Upload one file, where it has changed."""
        path = self.folder / relative
        status = path.stat()
        version = (status.st_size, status.st_mtime_ns)
        if self._sent.get(relative) != version:
            self._put(path, self._remote(relative))
            self._sent[relative] = version

    def _send_checkpoint(self, relative: Path) -> None:
        """Upload a checkpoint, its manifest last.

        A run may let go of it before slow storage has taken it: it is held by links of our own.
        """
        path, remote = self.folder / relative, self._remote(relative)
        with tempfile.TemporaryDirectory(prefix=SENDING, dir=self.folder) as folder:
            held = Path(folder, relative.name)
            try:
                version = (path / checkpoint.MANIFEST).read_bytes()
                if self._sent.get(relative) == version:
                    return
                shutil.copytree(path, held, copy_function=_link)
            except (FileNotFoundError, shutil.Error):
                if path.is_dir():
                    raise
                return  # gone already
            version = (held / checkpoint.MANIFEST).read_bytes()
            manifest = f"{remote}/{checkpoint.MANIFEST}"
            if self._filesystem.exists(manifest):
                if self._filesystem.cat_file(manifest) == version:
                    self._sent[relative] = version
                    return
                self._filesystem.rm_file(manifest)  # of the same cycle, written earlier
            files = sorted(held.iterdir(), key=lambda file: file.name == checkpoint.MANIFEST)
            for file in files:
                self._put(file, f"{remote}/{file.name}")
            self._sent[relative] = version

    def _prune(self, parent: Path) -> None:
        """Remove the checkpoints that the run has let go of, once a newer one is there."""
        here = {path.name for path in checkpoint.candidates(self.folder / parent)}
        if not here or any(self._sent.get(parent / name) is None for name in here):
            return
        known = (self._sent.get(parent), tuple(sorted(here)))
        if known[0] == known[1]:
            return
        for path in self._filesystem.ls(self._remote(parent), detail=False):
            if PurePosixPath(path).name not in here:
                manifest = f"{path.rstrip('/')}/{checkpoint.MANIFEST}"
                if self._filesystem.exists(manifest):
                    self._filesystem.rm_file(manifest)
                self._filesystem.rm(path, recursive=True)
        self._sent[parent] = known[1]

    def _remote(self, relative: Path) -> str:
        return f"{self._root.rstrip('/')}/{relative.as_posix()}"

    def _put(self, path: Path, remote: str) -> None:
        _put(self._filesystem, path, remote)


def mirror(folder: Path, warn: Callable[[str], None]) -> Mirror | None:
    """The uploads of a folder that belongs to a URI; None for any other.

    Raises:
        ConfigError: nothing can be written there.
    """
    uri = origin(folder)
    return None if uri is None else Mirror(folder, uri, warn)


def _put(filesystem: Any, path: Path, remote: str) -> None:
    """Upload a file; under its name there is never a part of it."""
    parent = remote.rpartition("/")[0]
    if "file" not in filesystem.protocol:  # objects appear when they are whole
        filesystem.makedirs(parent, exist_ok=True)
        filesystem.put_file(str(path), remote)
        return
    os.makedirs(parent, exist_ok=True)
    aside = f"{parent}/.{path.name}.{os.getpid()}.partial"
    try:
        shutil.copyfile(path, aside)
        os.replace(aside, remote)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(aside)


def _link(source: str, target: str) -> None:
    """Another name of a file; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _open(uri: str) -> tuple[Any, str]:
    """The file system of a URI, as fsspec's, and the path in it."""
    import fsspec

    check(uri)
    protocol, _, path = uri.partition("://")
    if protocol.lower() not in ARROW:
        filesystem, root = fsspec.core.url_to_fs(uri)
        return filesystem, root
    fs = _arrow(protocol)
    from fsspec.implementations.arrow import ArrowFSWrapper

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if protocol.lower() == "s3" and (region or endpoint):
        given = {"region": region or "us-east-1", "endpoint_override": endpoint}
        return ArrowFSWrapper(fs.S3FileSystem(**given)), path
    filesystem, root = fs.FileSystem.from_uri(uri)  # which asks where the bucket is
    return ArrowFSWrapper(filesystem), root


def _arrow(protocol: str) -> Any:
    try:
        from pyarrow import fs
    except ImportError as error:
        raise ConfigError(
            f"run.dir: {protocol}:// needs pyarrow; install it with: pip install 'rlgen[storage]'"
        ) from error
    return fs


def _below(name: str, root: str) -> str:
    return name.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/")


def _of_checkpoint(relative: Path | PurePosixPath) -> bool:
    """Whether this is a file of a checkpoint: ``.../checkpoints/NAME/FILE``."""
    return len(relative.parts) >= 3 and relative.parts[-3] == CHECKPOINTS


@contextlib.contextmanager
def _explained(uri: str, done: str) -> Iterator[None]:
    """Around what a user waits for: whatever a storage's client raises becomes one message."""
    try:
        yield
    except RlgenError:
        raise
    except Exception as error:
        raise ConfigError(f"run.dir: {uri!r} cannot be {done}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What went wrong, and what may help, on one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    hint = next((h for pattern, h in HINTS.items() if re.search(pattern, text, re.I)), None)
    return f"{text}; {hint}" if hint else text
