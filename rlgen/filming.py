"""Videos of an agent on its way: asked of the evaluator between evaluations, never waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlgen.config import Experiment
from rlgen.crew import Crew
from rlgen.errors import RlgenError, WorkerDied
from rlgen.rundir import VIDEOS, write_whole
from rlgen.videos import Video


class Filming:
    """Writes ``videos/<ticks>.gif`` of a run as its evaluator delivers them.

    A video costs the evaluator's time, not the training's: one that is still being made when the
    next is due lets that one fall out. What goes wrong is told once, and the run goes on without.
    """

    def __init__(
        self,
        experiment: Experiment,
        run_dir: Path,
        record: Callable[[str, dict[str, Any]], None],
        warn: Callable[[str], None],
    ) -> None:
        self._every = experiment.tracking.video_every
        self._interval = experiment.evaluation.every
        self._clock = experiment.clock
        self._folder = run_dir / VIDEOS
        self._record = record
        self._warn = warn
        self._pending: tuple[Any, int] | None = None  # the future, and when its weights were
        self._latest = -1  # ticks of the last one asked for

    def ask(self, backend: Any, crew: Crew, weights: Any, ticks: int, last: bool = False) -> None:
        """Have the weights that are being evaluated filmed, where that is due.

        Args:
            backend: of the crew.
            crew: whose evaluator plays.
            weights: a future of them.
            ticks: the run's clock at them, which seeds the episode.
            last: these are the final ones, which always are filmed.
        """
        number = ticks // self._interval if self._interval else 0
        due = self._every and ticks != self._latest and (last or number % self._every == 0)
        if due and self._pending is None:
            self._latest = ticks
            self._pending = backend.call(crew.evaluator, "video", weights, ticks), ticks

    def collect(self, backend: Any, crew: Crew, wait: bool = False) -> None:
        """Write the video that was asked for, if it is there."""
        if self._pending is None:
            return
        future, ticks = self._pending
        if not wait and not backend.wait([future], 0):
            return
        self._pending = None
        try:
            self._write(crew.answer(future, "the evaluator"), ticks)
        except WorkerDied as error:
            self._warn(f"the video at {self._clock} {ticks} is lost: {error}")
        except (RlgenError, OSError) as error:
            self._every = 0
            self._warn(f"tracking.video_every: {error}; going on without videos")

    def forget(self) -> None:
        """The evaluator has been dismissed: what it was asked for will not come."""
        self._pending = None

    def _write(self, video: Video, ticks: int) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{ticks:010d}.gif"
        write_whole(path, video.content)
        values = {self._clock: ticks, "file": str(path.relative_to(self._folder.parent))}
        told = {"return": video.returns[0], "length": video.lengths[0], "cut": bool(video.cut)}
        self._record("video", values | told)
