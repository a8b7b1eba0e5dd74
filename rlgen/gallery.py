"""Pictures of a model on its way: asked of the evaluator between evaluations, never waited for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen.config import Experiment
from rlgen.crew import Crew
from rlgen.errors import RlgenError, WorkerDied
from rlgen.generative import pictures
from rlgen.rundir import PICTURES, write_whole


class Gallery:
    """Writes ``pictures/NAME-<ticks>.png`` of a run as its evaluator delivers them.

    The last ones are also ``pictures/NAME.png``. All are drawn with the same random numbers, so
    that what changes from one to the next is the model.
    """

    def __init__(
        self,
        experiment: Experiment,
        shape: tuple[int, ...],
        run_dir: Path,
        record: Callable[[str, dict[str, Any]], None],
        warn: Callable[[str], None],
    ) -> None:
        self._on = experiment.data is not None and pictures.drawable(shape)
        self._interval = experiment.evaluation.every
        self._every = experiment.tracking.pictures_every if self._interval else 0
        self._clock = experiment.clock
        self._folder = run_dir / PICTURES
        self._record = record
        self._warn = warn
        self._pending: tuple[Any, dict[str, Any]] | None = None  # the future, and the counters
        self._shown: Any = None  # the weights of the latest
        self._files: list[Path] = []  # of them

    def ask(
        self, backend: Any, crew: Crew, weights: Any, counters: dict[str, Any], last: bool = False
    ) -> None:
        """Have pictures made of weights that have been evaluated, where they are due.

        Args:
            backend: of the crew.
            crew: whose evaluator makes them.
            weights: a future of them.
            counters: of the run, at them.
            last: these are the final ones, of which there always are some.
        """
        due = last or (
            self._every and int(counters[self._clock]) // self._interval % self._every == 0
        )
        if self._on and due and self._pending is None and self._shown is not weights:
            self._shown, self._files = weights, []
            self._pending = backend.call(crew.evaluator, "pictures", weights), counters

    def collect(self, backend: Any, crew: Crew, wait: bool = False) -> None:
        """Write the pictures that were asked for, if they are there."""
        if self._pending is None or not (wait or backend.wait([self._pending[0]], 0)):
            return
        future, counters = self._pending
        self._pending = None
        try:
            self._write(crew.answer(future, "the evaluator"), counters)
        except WorkerDied as error:
            self._warn(f"the pictures at {self._clock} {counters[self._clock]} are lost: {error}")
        except (RlgenError, OSError) as error:
            self._on = False
            self._warn(f"pictures: {error}; going on without them")

    def forget(self) -> None:
        """The evaluator has been dismissed: what it was asked for will not come."""
        self._pending = self._shown = None

    def _write(self, contents: dict[str, bytes], counters: dict[str, Any]) -> None:
        self._folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            path = self._folder / f"{name}.png"
            if self._every:
                path = path.with_stem(f"{name}-{int(counters[self._clock]):010d}")
            write_whole(path, content)
            self._files.append(path)
            named = {"name": name, "file": str(path.relative_to(self._folder.parent))}
            self._record("picture", counters | named)

    def finish(self) -> None:
        """Give the latest pictures their final names too."""
        for path in self._files if self._every else ():
            shutil.copyfile(path, path.with_stem(path.stem.partition("-")[0]))
