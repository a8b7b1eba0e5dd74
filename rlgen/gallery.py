"""Pictures of a model, or videos of an agent, on its way: the evaluator makes them meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen.config import Experiment
from rlgen.crew import Crew
from rlgen.errors import RlgenError, WorkerDied
from rlgen.generative import pictures
from rlgen.rundir import PICTURES, VIDEOS, write_whole
from rlgen.videos import Video


class Gallery:
    """Has ``pictures/NAME-<ticks>.png`` or ``videos/<ticks>.gif`` made of evaluated weights.

    The last pictures are also ``pictures/NAME.png``. All are drawn with the same random numbers, so
    that what changes from one to the next is the model; the ticks seed the episode of a video. What
    goes wrong is told once, and the run goes on without.
    """

    def __init__(
        self,
        experiment: Experiment,
        shape: tuple[int, ...],
        run_dir: Path,
        record: Callable[[str, dict[str, Any]], None],
        warn: Callable[[str], None],
    ) -> None:
        if experiment.data is not None:
            self._kind, self._setting = PICTURES, "pictures_every"
            every = experiment.tracking.pictures_every
            self._on = pictures.drawable(shape)
        else:
            self._kind, self._setting = VIDEOS, "video_every"
            every = experiment.tracking.video_every
            self._on = every > 0
        self._interval = experiment.evaluation.every
        self._every = every if self._interval else 0
        self._clock = experiment.clock
        self._run_dir = run_dir
        self._record = record
        self._warn = warn
        self._pending: tuple[Any, dict[str, Any]] | None = None  # the future, and the counters
        self._shown: Any = None  # the weights of the latest
        self._latest: dict[str, Path] = {}  # their pictures, by name

    def ask(self, crew: Crew, weights: Any, counters: dict[str, Any], last: bool = False) -> None:
        """Have weights that have been evaluated shown, where that is due.

        Args:
            crew: whose evaluator shows them.
            weights: a future of them.
            counters: of the run, at them.
            last: these are the final ones, which always are shown and waited for.
        """
        self.collect(crew, wait=True)  # the evaluator was asked for it before it evaluated these
        ticks = int(counters[self._clock])
        due = last or (self._every and ticks // self._interval % self._every == 0)
        if self._on and due and self._shown is not weights:
            self._shown, self._latest = weights, {}
            request = ("pictures", weights) if self._kind == PICTURES else ("video", weights, ticks)
            self._pending = crew.backend.call(crew.evaluator, *request), counters
            self.collect(crew, wait=last)

    def collect(self, crew: Crew, wait: bool = False) -> None:
        """Write what was asked for, if it is there."""
        if self._pending is None or not (wait or crew.backend.wait([self._pending[0]], 0)):
            return
        future, counters = self._pending
        self._pending = None
        try:
            self._write(crew.answer(future, "the evaluator"), counters)
        except WorkerDied as error:
            when = f"{self._clock} {counters[self._clock]}"
            self._warn(f"the {self._kind} at {when} are lost: {error}")
        except (RlgenError, OSError) as error:
            self._on = False
            self._warn(f"tracking.{self._setting}: {error}; going on without {self._kind}")

    def forget(self) -> None:
        """The evaluator has been dismissed: what it was asked for will not come."""
        self._pending = self._shown = None

    def _write(self, made: Video | dict[str, bytes], counters: dict[str, Any]) -> None:
        stamp = f"{int(counters[self._clock]):010d}"
        if isinstance(made, Video):
            told = {"return": made.returns[0], "length": made.lengths[0], "cut": bool(made.cut)}
            self._put(f"{stamp}.gif", made.content, "video", counters | told)
            return
        for name, content in made.items():
            file = f"{name}-{stamp}.png" if self._every else f"{name}.png"
            self._latest[name] = self._put(file, content, "picture", counters | {"name": name})

    def _put(self, name: str, content: bytes, kind: str, values: dict[str, Any]) -> Path:
        path = self._run_dir / self._kind / name
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)
        self._record(kind, values | {"file": str(path.relative_to(self._run_dir))})
        return path

    def finish(self) -> None:
        """Give the latest pictures their final names too."""
        for name, path in self._latest.items() if self._every else ():
            shutil.copyfile(path, path.with_stem(name))
