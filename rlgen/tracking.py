"""Metrics of a run: ``metrics.jsonl`` is the truth, and what other sinks are fed from."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen.config import Experiment

METRICS = "metrics.jsonl"


class Tracker:
    """Appends one JSON line per record, flushed at once, so that a kill loses nothing.

    A sink that fails warns once and is left out; it never stops a run.
    """

    def __init__(self, run_dir: Path, experiment: Experiment, warn: Callable[[str], None]) -> None:
        # Unbuffered: a line that the disk has no room for is left out, and does not wait.
        self._file = (run_dir / METRICS).open("ab", buffering=0)
        with contextlib.suppress(OSError):  # so that others see that the run goes on
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._torn = False  # the last line of the file has no end
        self._full = False  # and the user knows
        self._warn = warn
        self._wandb: Any = None
        if experiment.tracking.wandb != "off":
            self._guarded(lambda: self._start_wandb(run_dir, experiment))

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """Write one record of a kind (``train``, ``evaluation``, ``event``, ``summary``)."""
        self._write(json.dumps({"kind": kind, "time": round(time.time(), 3), **values}))
        if self._wandb is not None:
            # The run's own counters are the x axes: wandb drops rows whose step goes backwards.
            flat = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, (int, float))}
            self._guarded(lambda: self._wandb.log(flat))

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
        """Close the file and finish the sinks."""
        if self._wandb is not None:
            self._guarded(lambda: self._finish_wandb(summary))
        self._file.close()

    def _start_wandb(self, run_dir: Path, experiment: Experiment) -> None:
        import wandb

        run = wandb.init(
            project=experiment.tracking.project,
            name=run_dir.name,
            group=experiment.name,
            dir=str(run_dir),
            mode=experiment.tracking.wandb,  # type: ignore[arg-type]
            config=experiment.dump(),
            settings=wandb.Settings(silent=True),
        )
        run.define_metric("*", step_metric=f"train/{experiment.clock}")
        self._wandb = run

    def _finish_wandb(self, summary: dict[str, Any] | None) -> None:
        self._wandb.summary.update(summary or {})
        self._wandb.finish()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a third party's sink may raise
            self._wandb = None
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._warn(f"tracking.wandb: {reason}; going on without it")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run, oldest first; a last line cut short by a kill is left out."""
    records = []
    for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
