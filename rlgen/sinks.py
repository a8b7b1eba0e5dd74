"""Where the records of a run go beside its own file: Weights & Biases, TensorBoard, trackio.

A sink is fed by one writer, in the order of the records. Two things feed sinks: a run while it
lasts (`rlgen.tracking`), and ``rlgen sync`` from the file later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlgen import rundir
from rlgen.config import TrackingConfig
from rlgen.counters import Counters
from rlgen.errors import ConfigError

Record = Mapping[str, Any]
Summary = dict[str, Any]
#: Sinks that come with an extra of the same name, and the package behind it.
EXTRAS = {"tensorboard": "tensorboard", "trackio": "trackio"}
MEDIA = ("picture", "video")  # kinds of records that name a file of the run
LONGEST_TAG = 64  # characters, of Weights & Biases
COUNTERS = tuple(field.name for field in dataclasses.fields(Counters))
START_S = 60.0  # for Weights & Biases to answer


@dataclass(frozen=True)
class About:
    """What a sink is told of a run.

    Attributes:
        folder: the run's.
        id: of its own, the same whenever its records are sent.
        name: experiment and run.
        group: what the seeds of an experiment, or the trials of a sweep, have in common.
        project: of ``tracking.project``.
        tags: algorithm, and environment or data set.
        config: plain.
        clock: the counter that the run's intervals count.
        replay: the records are of a run that has ended, not of one that begins.
    """

    folder: Path
    id: str
    name: str
    group: str
    project: str
    tags: tuple[str, ...]
    config: dict[str, Any]
    clock: str
    replay: bool

    @property
    def steps(self) -> str:
        """The whole-numbered counter that is nearest to the clock."""
        return "updates" if self.clock == "epochs" else self.clock


def about(folder: Path, config: dict[str, Any], clock: str, replay: bool = False) -> About:
    """What sinks are told of the run in a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    name = group = str(config["name"])
    if folder.parent.name == "trials":  # of a sweep
        group = f"{name}/{folder.parent.parent.name}"
    task = config.get("env", {}).get("id") or config.get("data", {}).get("name")
    given = os.environ.get("WANDB_TAGS", "").split(",")
    tags = [str(tag)[:LONGEST_TAG] for tag in (config["algorithm"], task, *given) if tag]
    return About(
        folder=folder,
        id=rundir.identity(folder),
        name=f"{group}/{folder.name}",
        group=group,
        project=config.get("tracking", {}).get("project", TrackingConfig().project),
        tags=tuple(dict.fromkeys(tags)),
        config=config,
        clock=clock,
        replay=replay,
    )


def wanted(config: TrackingConfig) -> list[str]:
    """The sinks that a run's settings ask for."""
    asked = {
        "wandb": config.wandb != "off",
        "tensorboard": config.tensorboard,
        "trackio": config.trackio,
    }
    return [name for name, on in asked.items() if on]


def check_installed(name: str, key: str) -> None:
    """Refuse a sink whose package is missing.

    Raises:
        ConfigError: with the line that installs it.
    """
    extra = EXTRAS.get(name)
    if extra is not None and importlib.util.find_spec(extra) is None:
        raise ConfigError(
            f"{key}: {extra} is missing; install it with: pip install 'rlgen[{name}]'"
        )


def open_sink(name: str, about: About, mode: str, say: Callable[[str], None]) -> Sink:
    """Begin to track a run.

    Args:
        name: ``"wandb"``, ``"tensorboard"`` or ``"trackio"``.
        about: the run.
        mode: of Weights & Biases, ``"offline"`` or ``"online"``.
        say: told what the user should know.
    """
    if name == "wandb":
        return WandB(about, mode, say)
    return TensorBoard(about) if name == "tensorboard" else Trackio(about)


def numbers(record: Record) -> dict[str, float]:
    """The finite numbers of a record, by ``kind/name``; those of lists and sections too.

    The run's counters only as ``train/name``, for they would be the same figures again.
    """
    kind = record["kind"]
    known = {"kind", "time"} if kind == "train" else {"kind", "time", *COUNTERS}
    own = ((k, v) for k, v in record.items() if k not in known or isinstance(v, list))
    found = _flat(f"{kind}/", own)
    return {name: value for name, value in found if math.isfinite(value)}


def _flat(prefix: str, values: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, float]]:
    for name, value in values:
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}/", value.items())
        elif isinstance(value, (list, tuple)):
            yield from _flat(f"{prefix}{name}/", enumerate(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def medium(record: Record, folder: Path) -> tuple[str, Path] | None:
    """What to call the file of a record that has one in the run's folder, and where it is."""
    if record["kind"] not in MEDIA:
        return None
    path = folder / str(record.get("file"))
    # A run may be somebody else's: no file of this machine goes to a service because it names it.
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None
    return f"{record['kind']}s/{record.get('name', 'episode')}", path


class Sink:
    """What the sinks share. Whatever one raises, the run does without it from there on.

    Attributes:
        about: the run.
        where: the records can be seen: an address, or a line that shows them.
    """

    where = ""

    def __init__(self, about: About) -> None:
        self.about = about
        self._ticks: float = 0  # of the run's clock, at the latest record that tells it
        self._step = 0
        self._time = 0.0

    def record(self, record: Record) -> None:
        """Take one record, as it stands in the run's file."""
        self._ticks = record.get(self.about.clock, self._ticks)
        self._step = int(record.get(self.about.steps, self._step))
        self._time = record.get("time", self._time)
        if record["kind"] != "summary":  # which `close` gives
            found = medium(record, self.about.folder)
            self._log(numbers(record), record.get("message"), found)

    def close(self, summary: Summary | None) -> None:
        """Send what is left, and the run's summary; there is none where the run was broken off."""
        raise NotImplementedError

    def _log(
        self, values: dict[str, float], message: str | None, file: tuple[str, Path] | None
    ) -> None:
        raise NotImplementedError


class WandB(Sink):
    """A run of Weights & Biases, online or in a folder of the run."""

    def __init__(self, about: About, mode: str, say: Callable[[str], None]) -> None:
        super().__init__(about)
        import wandb

        self._wandb = wandb
        if mode == "online":
            wandb.setup(wandb.Settings(silent=True))
            if not wandb.login(prompt=False, verify=False):
                mode = "offline"
                again = f"rlgen sync {shlex.quote(str(about.folder))} --to wandb"
                advice = f"after 'wandb login', '{again}' uploads it"
                say(f"wandb: there is no API key, so the run is kept offline; {advice}")
        if about.replay and mode == "offline":
            for earlier in (about.folder / "wandb").glob("offline-run-*"):
                if earlier.name.endswith(f"-{about.id}"):
                    shutil.rmtree(earlier)
        self._run = wandb.init(
            project=about.project,
            id=about.id,
            name=about.name,
            group=about.group,
            tags=about.tags,
            config=about.config,
            dir=str(about.folder),
            mode=mode,  # type: ignore[arg-type]
            # A replay begins anew, in place of what is there; a run that goes on adds to it.
            resume=None if about.replay or mode == "offline" else "allow",
            reinit="create_new",  # not the run of whoever calls us
            settings=wandb.Settings(
                silent=True,
                console="off",  # a display that is redrawn makes no log
                init_timeout=START_S,
                x_disable_stats=about.replay,
                x_disable_meta=about.replay,
            ),
        )
        # The run's own clock is the x axis: wandb drops rows whose step goes backwards.
        self._run.define_metric("*", step_metric=about.clock)
        self.where = self._run.url or str(self._run.settings.sync_dir)

    def _log(
        self, values: dict[str, Any], message: str | None, file: tuple[str, Path] | None
    ) -> None:
        values |= {self.about.clock: self._ticks, "_timestamp": self._time}
        if message is not None:
            values["event/message"] = message
        if file is not None:
            name, path = file
            kind = self._wandb.Image if path.suffix == ".png" else self._wandb.Video
            values[name] = kind(str(path))
        self._run.log(values)

    def close(self, summary: Summary | None) -> None:
        """Finish the run; without a summary as one that failed."""
        self._run.summary.update(summary or {})
        self._run.finish(exit_code=0 if summary else 1)


class TensorBoard(Sink):
    """Event files in the run's folder; those of a replay take the place of earlier ones."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary as Values
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._values, self._text = Event, Values, text_pb
        self._folder = self._written = about.folder / "tensorboard"
        if about.replay:  # beside it until all is there
            for broken_off in about.folder.glob(".tensorboard-*"):
                shutil.rmtree(broken_off)
            self._written = Path(tempfile.mkdtemp(prefix=".tensorboard-", dir=about.folder))
        self._writer = EventFileWriter(str(self._written), flush_secs=5)
        self._configured = False
        self.where = (
            f"{self._folder} (to see it: tensorboard --logdir {shlex.quote(str(about.folder))})"
        )

    def _log(
        self, values: dict[str, float], message: str | None, file: tuple[str, Path] | None
    ) -> None:
        if not self._configured:
            self._configured = True
            self._write_text("config", self.about.config)
        found = self._values()
        for name, number in values.items():
            found.value.add(tag=name, simple_value=number)
        if message is not None:
            found.MergeFrom(self._text("event", message))
        if file is not None and file[1].suffix != ".mp4":  # which it cannot show
            found.value.add(tag=file[0], image=self._picture(file[1]))
        self._write(found)

    def _picture(self, path: Path) -> Any:
        from PIL import Image

        content = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size
        return self._values.Image(
            width=width, height=height, colorspace=3, encoded_image_string=content
        )

    def _write_text(self, name: str, values: Mapping[str, Any]) -> None:
        lines = json.dumps(values, indent=1, default=str).splitlines()
        code = "\n".join(f"    {line}" for line in lines)  # as Markdown has it
        self._write(self._text(name, code))

    def _write(self, values: Any) -> None:
        event = self._event(wall_time=self._time, step=self._step, summary=values)
        self._writer.add_event(event)

    def close(self, summary: Summary | None) -> None:
        """Write the summary as a text, and all that is left."""
        if summary:
            self._write_text("summary", summary)
        self._writer.close()
        if self._written != self._folder:
            self._written.chmod(0o755)  # a temporary folder is its maker's only
            shutil.rmtree(self._folder, ignore_errors=True)
            self._written.rename(self._folder)


class Trackio(Sink):
    """A run in trackio's local database, or where its own environment variables say."""

    def __init__(self, about: About) -> None:
        super().__init__(about)
        if about.replay:
            for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
                if os.environ.get(name):
                    raise ConfigError(
                        f"{name}: runs are synced to the local database only; unset it, and "
                        f"publish them with: trackio sync --project {about.project} --space-id ..."
                    )
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = lambda *_, **__: None  # it would print into our display
        if about.replay:
            _forget(trackio, about)
        self._trackio = trackio
        watched = {"auto_log_cpu": False, "auto_log_gpu": False} if about.replay else {}
        self._run = trackio.init(
            project=about.project,
            name=about.name,
            group=about.group,
            config=about.config,
            resume="allow",
            embed=False,
            **watched,  # type: ignore[arg-type]
        )
        self.where = f"trackio's database (to see it: trackio show --project {about.project})"

    def _log(
        self, values: dict[str, Any], message: str | None, file: tuple[str, Path] | None
    ) -> None:
        if message is not None:
            values["event/message"] = message
        if file is not None:
            name, path = file
            kind = self._trackio.Image if path.suffix == ".png" else self._trackio.Video
            values[name] = kind(path)
        self._run.log(values, step=self._step)

    def close(self, summary: Summary | None) -> None:
        """Finish the run; it has no place of its own for a summary's figures."""
        if summary:
            self._run.log(numbers({"kind": "summary", **summary}), step=self._step)
        self._run.finish()  # type: ignore[no-untyped-call]


def _forget(trackio: Any, about: About) -> None:
    """Take a run that is replayed out of trackio's database.

    Raises:
        ConfigError: its names lead elsewhere, as a path would: a run may be somebody else's.
    """
    for name in (about.project, about.name):
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise ConfigError(f"trackio: {name!r} is no name, but a path; change it in config.yaml")
    with contextlib.suppress(ValueError):  # there is no such project
        for run in trackio.Api().runs(about.project):
            if run.name == about.name:
                run.delete()
        shutil.rmtree(trackio.media.get_project_media_path(about.project, about.name))
