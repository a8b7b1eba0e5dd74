"""Metrics of a run: ``metrics.jsonl`` is the truth, and what the sinks are fed from."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import queue
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

from rlgen import sinks
from rlgen.config import Experiment
from rlgen.errors import ConfigError

METRICS = "metrics.jsonl"
WAITING = 10_000  # records that a slow sink may be behind
LOCK_ATTEMPTS = 50  # a hundredth of a second apart
FINISH_S = 60.0  # for a sink to send what is left when the run has ended


class Tracker:
    """Appends one JSON line per record, flushed at once, so that a kill loses nothing.

    Raises:
        ConfigError: another process writes this run.
    """

    def __init__(self, run_dir: Path, experiment: Experiment, warn: Callable[[str], None]) -> None:
        # Unbuffered: a line that the disk has no room for is left out, and does not wait.
        self._file = (run_dir / METRICS).open("a+b", buffering=0)
        _lock(self._file, run_dir)
        self._torn = _is_torn(self._file)  # the last line of the file has no end
        self._full = False  # and the user knows
        self._warn = warn
        self._feeds: list[Feed] = []
        if names := sinks.wanted(experiment.tracking):
            try:
                about = sinks.about(run_dir, experiment.dump(), experiment.clock)
            except OSError as error:
                warn(f"tracking: {error}; going on without {', '.join(names)}")
                return
            self._feeds = [Feed(name, about, experiment.tracking.wandb) for name in names]

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """Write one record of a kind: ``train``, ``evaluation``, ``workers``, ``event`` ..."""
        record = {"kind": kind, "time": round(time.time(), 3), **values}
        self._write(json.dumps(record))
        for feed in self._feeds:
            feed.put(record)
        self._tell()

    def _write(self, line: str) -> None:
        """Append one line; without room for it the run goes on."""
        content = f"{chr(10) if self._torn else ''}{line}\n".encode()
        try:
            written = self._file.write(content)
            self._torn = written < len(content) if written else self._torn
            if written == len(content):
                return
            reason = "the disk is full"
        except OSError as error:
            reason = error.strerror or str(error)
        if not self._full:
            self._full = True
            self._warn(f"{METRICS}: {reason}; records are left out until there is room again")

    def close(self, summary: dict[str, Any] | None) -> None:
        """Finish the sinks and close the file."""
        deadline = time.monotonic() + FINISH_S
        for feed in self._feeds:
            feed.finish(summary, deadline)
        for feed in self._feeds:
            feed.join(deadline)
        self._tell()
        self._file.close()

    def _tell(self) -> None:
        """Pass on what the sinks have to say, in the thread of the run."""
        for feed in self._feeds:
            while feed.messages:
                self._warn(f"tracking.{feed.messages.popleft()}")


def _lock(file: FileIO, run_dir: Path) -> None:
    """Lock a run's records, so that others see that the run goes on.

    Raises:
        ConfigError: another process holds the lock.
    """
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # whoever looks whether it is locked holds it for a moment too
            time.sleep(0.01)
        except OSError:  # a file system without locks
            return
        else:
            return
    file.close()
    raise ConfigError(f"{run_dir}: another process writes this run; wait for its end, or stop it")


def _is_torn(file: FileIO) -> bool:
    """Whether a file's last line was cut short: the disk was full, or the power went."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


class Feed:
    """Hands records to one sink in a thread of its own: the run neither fails nor waits with it.

    A sink that fails says so once and is left out. One that is slow is given no more than it can
    take, and says so at the end; the run's file has everything, and ``rlgen sync`` brings it there.

    Attributes:
        messages: for the user, and not yet told.
    """

    def __init__(self, name: str, about: sinks.About, mode: str) -> None:
        self.name = name
        self.messages: deque[str] = deque()
        again = f"rlgen sync {shlex.quote(str(about.folder))} --to {name}"
        self._later = f"'{again}' brings it there"
        self._queue: queue.Queue[sinks.Record | None] = queue.Queue(WAITING)
        self._left_out = 0
        self._failed = False
        self._summary: dict[str, Any] | None = None
        opened = functools.partial(sinks.open_sink, name, about, mode, self.messages.append)
        self._thread = threading.Thread(
            target=self._work, args=(opened,), name=f"sink {name}", daemon=True
        )
        self._thread.start()

    def put(self, record: sinks.Record) -> None:
        """Have a record taken, sooner or later."""
        if self._failed:
            return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._left_out += 1

    def finish(self, summary: dict[str, Any] | None, deadline: float) -> None:
        """Say that nothing follows but the summary."""
        self._summary = summary
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))

    def join(self, deadline: float) -> None:
        """Wait until the sink is through, but no longer."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive() and not self._failed:
            self.messages.append(f"{self.name}: not through after {FINISH_S:g} s; {self._later}")
        elif self._left_out and not self._failed:  # of which the user knows
            count = f"{self._left_out:,} records were left out"
            self.messages.append(f"{self.name}: too slow, {count}; {self._later}")

    def _work(self, opened: Callable[[], sinks.Sink]) -> None:
        try:
            sink = opened()
            while (record := self._queue.get()) is not None:
                sink.record(record)
            sink.close(self._summary)
        except Exception as error:  # whatever a third party's sink may raise
            self._failed = True
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.messages.append(f"{self.name}: {reason}; going on without it; {self._later}")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line cut short by a kill is left out."""
    records = []
    for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
