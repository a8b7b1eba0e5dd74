"""The typed configuration of an experiment, its YAML files and its overrides.

An experiment is one YAML file: an algorithm with its hyper-parameters, an environment or a data
set, and how to run, stop, evaluate, store and track it. `load_experiment` merges the file with
``key=value`` overrides, refuses what is unknown, out of range or contradictory, and fills in every
default, so that the resolved configuration that a run stores leaves nothing implicit.
"""

from __future__ import annotations

import importlib.resources
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from rlgen import registry
from rlgen.errors import ConfigError, did_you_mean

# What the values of settings may be.
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # what is left of a unit after a step

#: What an experiment may be called: a folder is named after it, and it stands in titles and tables.
NAME = re.compile(r"[^\W_]([\w .,+=@()-]*[\w,+=@()-])?")
AUTO = 0  # in the place of a number of workers that is not known yet


def _count_or_auto(given: Any, count: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(given, str) and not given.strip().lstrip("+-").isdecimal():
        if given != "auto":
            raise ValueError("expected a positive integer, or 'auto'")
        return AUTO
    return count(given)


#: A count, or `AUTO` until the run knows how many fit; ``auto`` in YAML and JSON.
Workers = Annotated[
    Count, WrapValidator(_count_or_auto), PlainSerializer(lambda count: count or "auto")
]


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyperparameters(Section):
    """Base of every algorithm's own hyper-parameters: one typed field each."""

    def refuse_idle(self, keys: Iterable[str], needed: str) -> None:
        """Refuse changes of settings that have no effect as the others are.

        Raises:
            ValueError: one of ``keys`` is not at its default, but needs ``needed`` to count.
        """
        for key in keys:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has an effect only with {needed}")


def check_learning_starts(learning_starts: int, buffer_size: int) -> None:
    """Refuse a replay that never holds what learning waits for.

    Raises:
        ValueError: names both hyper-parameters.
    """
    if learning_starts > buffer_size:
        raise ValueError(
            f"learning_starts={learning_starts} is more than buffer_size={buffer_size} holds, so "
            "learning would never start"
        )


class EnvConfig(Section):
    """The environment that the workers step."""

    id: str = Field(description="a Gymnasium id, also as 'package:Env-v0'")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="passed to the environment")
    num_envs: Count = Field(8, description="environments per rollout worker")
    observed: list[Whole] | None = Field(
        None, description="components of the observation that are seen; none given: all"
    )
    frame_stack: Count = Field(1, description="latest observations joined into one")
    normalize_observation: bool = Field(False, description="by running mean and deviation")


class DataConfig(Section):
    """The data set that the workers read."""

    name: str = Field(
        description="digits, mnist or another IDX folder, openml:NAME, FILE.npz, a 2-D density; "
        "of text: fables, or FILE.txt"
    )
    root: Path | None = Field(None, description="folder of the IDX data sets; else RLGEN_DATA")
    binarize: bool = Field(False, description="pixels above one half become 1, the others 0")
    size: Count = Field(10_000, description="rows drawn of a synthetic density")
    tokens: Literal["characters", "words"] = Field("characters", description="of a text")
    window: Annotated[int, Field(ge=3)] = Field(64, description="tokens of one row of a text")
    validation: Share = Field(0.1, description="share of the training rows held out")
    test: Share = Field(0.1, description="share held out where there is no test set of its own")

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, given: Any) -> Any:
        """Paths mean the same in every process and after a resume from elsewhere."""
        if not isinstance(given, dict):
            return given
        return _absolute_paths(given)


class DemonstrationsConfig(Section):
    """The expert's recorded episodes that an algorithm learns from."""

    path: str = Field(
        description="FILE.npz of 'rlgen record', minari:NAME, or a recording of rlgen's own"
    )
    episodes: Count | None = Field(None, description="the first so many; none given: all")

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, given: Any) -> Any:
        """As of a data set."""
        return _absolute_paths(given) if isinstance(given, dict) else given


def _absolute_paths(given: dict[str, Any]) -> dict[str, Any]:
    paths = {k: v for k, v in given.items() if isinstance(v, str | Path) and _is_path(k, v)}
    return {**given, **{k: str(Path(v).expanduser().absolute()) for k, v in paths.items()}}


def _is_path(key: str, value: str | Path) -> bool:
    return key == "root" or (key in ("name", "path") and str(value).endswith((".npz", ".txt")))


class NetworkConfig(Section):
    """A network: torso, memory where there is one, hidden layers."""

    hidden: list[Count] = Field(default_factory=lambda: [64, 64], description="layer widths")
    activation: Literal["tanh", "relu", "leaky_relu", "elu", "silu", "sigmoid"] = "tanh"
    layer_norm: bool = Field(False, description="before the activation of every hidden layer")
    initialization: Literal["orthogonal", "xavier"] = "orthogonal"
    torso: Literal["auto", "mlp", "small_cnn", "nature_cnn", "residual_cnn", "attention"] = Field(
        "auto", description="what observations go through first; auto: by their shape"
    )
    memory: Literal["none", "gru", "lstm"] = Field(
        "none", description="of the episode so far, between torso and hidden layers"
    )
    memory_size: Count = Field(64, description="units of the memory")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.memory == "none" and self.memory_size != 64:
            raise ValueError(f"memory_size={self.memory_size} needs memory=gru or lstm")
        return self


class SchedulerConfig(Section):
    """How many of what run where."""

    backend: Literal["inline", "ray"] = "inline"
    workers: Workers = Field(1, description="rollout, data or model workers; auto: as many as fit")
    elastic: bool = Field(
        False, description="async: workers join where there is room, and leave with their nodes"
    )
    max_workers: Count | None = Field(None, description="elastic: never more; none: all that fit")
    learners: Count = Field(1, description="which share every batch and their gradients")
    mode: Literal["sync", "async"] = "sync"
    address: str = Field("local", description="'local', 'auto' or host:port of a Ray cluster")
    max_lag: Count | None = Field(None, description="async: older batches are dropped (versions)")
    worker_threads: Count = 1
    learner_threads: Count = 1
    worker_cpus: Positive = Field(1.0, description="logical CPUs per worker")
    learner_cpus: Positive = 1.0
    learner_gpus: Annotated[int, Field(ge=0, le=1)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.backend == "inline" and self.address != "local":
            raise ValueError(f"address={self.address} needs backend=ray, not inline")
        if self.backend == "inline" and self.learners > 1:
            raise ValueError(f"learners={self.learners} needs backend=ray, not inline")
        if self.max_lag is not None and self.mode == "sync":
            raise ValueError("max_lag belongs to mode=async; a sync batch is never late")
        self._check_elastic()
        return self

    def _check_elastic(self) -> None:
        if self.elastic and self.address == "local":
            raise ValueError(
                "elastic=true needs backend=ray and the address of a cluster that nodes may join"
            )
        if self.elastic and self.mode == "sync":
            raise ValueError(
                "elastic=true needs mode=async: what a sync run learns depends on how many workers "
                "it has, so their number stays"
            )
        if self.max_workers is not None and not self.elastic:
            raise ValueError(f"max_workers={self.max_workers} needs elastic=true")
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers={self.max_workers} is less than workers={self.workers}, with which "
                "the run begins"
            )


class FaultConfig(Section):
    """What a run survives."""

    timeout_s: Positive = Field(
        300.0, description="an actor that is silent for longer counts as dead (seconds)"
    )
    max_restarts: Whole = Field(3, description="dead actors replaced before the run ends")
    restart_learner: bool = Field(
        False, description="go on from the last checkpoint when a learner dies; else the run ends"
    )
    backoff_s: NotNegative = Field(
        1.0, description="async: a dead worker begins anew after so long, twice as long each time"
    )
    min_healthy: Count = Field(
        1, description="async: workers that must be alive for the others to go on"
    )
    not_finite: Literal["error", "drop", "clip"] = Field(
        "error", description="of a NaN or an infinity in an observation, a reward or a gradient"
    )
    largest: Positive = Field(1e6, description="clip: what infinities become; NaN becomes 0")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.largest != 1e6 and self.not_finite != "clip":
            raise ValueError(f"largest={self.largest:g} needs not_finite=clip")
        return self


class StopConfig(Section):
    """The run ends at the first of these that holds."""

    env_steps: Count | None = None
    updates: Count | None = None
    epochs: Count | None = None
    seconds: Positive | None = Field(None, description="wall clock")
    target: float | None = Field(None, description="mean score of an evaluation")
    target_evaluations: Count = Field(1, description="evaluations in a row that must reach it")


class EvaluationConfig(Section):
    """Greedy episodes, or held-out data. ``every`` counts the run's clock (see `Experiment`)."""

    every: Whole = Field(0, description="clock ticks; 0: only at the end")
    episodes: Count = 20
    max_steps: Count = Field(10_000, description="an episode is cut after so many steps")


class CheckpointConfig(Section):
    """``every`` counts the run's clock; a checkpoint is always written at the end."""

    every: Whole = Field(0, description="clock ticks; 0: only at the end")
    keep: Annotated[int, Field(ge=2)] = Field(2, description="latest ones kept")
    replay: bool = Field(True, description="with the replay (a resumed run needs it to be equal)")


class TrackingConfig(Section):
    """``metrics.jsonl`` is always written; the others get the same records when asked."""

    every_s: NotNegative = Field(
        0.2, description="least time between records, or a 5,000th of the run's so far; 0: none"
    )
    wandb: Literal["off", "offline", "online"] = Field(
        "off", description="Weights & Biases; online without an API key is offline"
    )
    tensorboard: bool = Field(False, description="event files in the run's folder")
    trackio: bool = Field(False, description="trackio's local database")
    project: str = Field("rlgen", description="of Weights & Biases and trackio")
    pictures_every: Whole = Field(
        1, description="evaluations from one set of a model's pictures to the next; 0: at the end"
    )
    video_every: Whole = Field(
        0, description="evaluations from one video of an agent to the next; 0: none"
    )


class RunConfig(Section):
    """Where runs are written: ``<dir>/<experiment>/<run>/``."""

    dir: str = Field("runs", description="a folder, or file://..., s3://..., gs://...")

    @field_validator("dir", mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        return str(given) if isinstance(given, Path) else given

    @field_validator("dir")
    @classmethod
    def _no_slash_at_the_end(cls, given: str) -> str:
        if not given:
            raise ValueError("expected a folder or a URI; '.' is the present folder")
        return given.rstrip("/") or "/"


#: Sections that a resumed run may change; the others would make it another experiment.
RESUMABLE = ("scheduler", "fault", "stop", "evaluation", "checkpoint", "tracking")

Source = Literal["environment", "data", "model"]
CLOCKS: dict[Source, str] = {"environment": "env_steps", "data": "epochs", "model": "updates"}

SWEEPS = "sweep-"  # begins the names of ready configurations with a section 'search'

#: The hyper-parameter that says how much a worker produces at a time.
BATCH_SIZES: dict[Source, str] = {"environment": "rollout_steps", "data": "batch_size"}


class Experiment(Section):
    """One experiment, whole.

    Intervals (``evaluation.every``, ``checkpoint.every``) count the run's clock: environment steps
    where workers step environments, epochs where they read data, updates where they sweep a model.
    """

    name: str = Field(description="what the experiment is called, such as my-cartpole")
    algorithm: str = Field(description="a registered name, or package.module:Class")
    hyperparameters: Hyperparameters
    env: EnvConfig | None = None
    data: DataConfig | None = None
    demonstrations: DemonstrationsConfig | None = None
    network: NetworkConfig | None = None
    scheduler: SchedulerConfig = SchedulerConfig()
    fault: FaultConfig = FaultConfig()
    stop: StopConfig = StopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    run: RunConfig = RunConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of all that is random")

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, given: str) -> str:
        if not NAME.fullmatch(given):
            raise ValueError(
                "expected letters, digits, spaces and any of - _ . , + = @ ( ), a letter or digit "
                "first"
            )
        return given

    @property
    def source(self) -> Source:
        """What the workers produce batches from."""
        source: Source = registry.resolve(self.algorithm).source
        return source

    @property
    def clock(self) -> str:
        """The counter that intervals count."""
        return CLOCKS[self.source]

    def dump(self) -> dict[str, Any]:
        """Plain data for YAML and JSON, with every default; `Experiment` of it is equal."""
        plain = self.model_dump(mode="json", exclude={"hyperparameters"})
        plain["hyperparameters"] = self.hyperparameters.model_dump(mode="json")
        return {key: plain[key] for key in type(self).model_fields if plain[key] is not None}


def config_names() -> list[str]:
    """The ready configurations of single runs, in order."""
    return [name for name in _ready() if not name.startswith(SWEEPS)]


def sweep_names() -> list[str]:
    """The ready configurations of sweeps, in order."""
    return [name for name in _ready() if name.startswith(SWEEPS)]


def _ready() -> list[str]:
    folder = importlib.resources.files("rlgen.configs")
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def comment(name: str) -> str:
    """The first line of a ready configuration, a comment by custom."""
    text = importlib.resources.files("rlgen.configs").joinpath(f"{name}.yaml").read_text()
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def read_config(name: str) -> dict[str, Any]:
    """The plain data of a ready configuration, or of a YAML file given by its path.

    Raises:
        ConfigError: there is no such configuration, or it is not a YAML mapping.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"there is no configuration file {name!r}")
        text, stem = path.read_text(), path.stem
    else:
        if name not in _ready():
            raise ConfigError(f"there is no configuration {name!r}{did_you_mean(name, _ready())}")
        stem = name
        text = importlib.resources.files("rlgen.configs").joinpath(f"{name}.yaml").read_text()
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{name}: expected a mapping of sections, found {type(plain).__name__}")
    return {"name": stem, **plain}


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """``["a.b=1", ...]`` as ``{"a.b": 1, ...}``; values are read as YAML.

    Raises:
        ConfigError: an override without '=', or a value that is not YAML.
    """
    parsed = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: expected key=value, such as seed=3")
        try:
            parsed[key] = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}: {text!r} is not a YAML value") from error
    return parsed


def set_keys(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``plain`` with each dotted key of ``values`` set.

    Raises:
        ConfigError: a key that goes into a plain value.
    """
    result: dict[str, Any] = dict(plain)
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            child = node.get(parent)
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"{key}: {parent!r} is a value, not a section")
            node[parent] = dict(child or {})
            node = node[parent]
        node[leaf] = value
    return result


def load_experiment(name: str, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment of a ready configuration or a YAML file, with overrides, checked and complete.

    Raises:
        ConfigError: anything unknown, of the wrong type, out of range or contradictory.
    """
    return resolve_experiment(set_keys(read_config(name), parse_overrides(overrides)))


def resolve_experiment(plain: Mapping[str, Any]) -> Experiment:
    """The experiment of plain data, checked and complete.

    Raises:
        ConfigError: as `load_experiment`.
    """
    plain = dict(plain)
    if "search" in plain:
        raise ConfigError(
            "search: this configuration is of a sweep, for 'rlgen sweep'; a single run has no use "
            "for this section"
        )
    if not isinstance(plain.get("algorithm"), str):
        raise ConfigError("algorithm: missing; give the name of one (see 'rlgen list')")
    algorithm = registry.resolve(plain["algorithm"])
    _fill_sections(plain, algorithm)
    size = BATCH_SIZES.get(algorithm.source)
    if size is not None and size not in algorithm.Config.model_fields:
        raise ConfigError(
            f"algorithm: {plain['algorithm']} has no hyper-parameter {size!r}, which says how much "
            "a worker produces at a time; add it to its Config"
        )
    given = plain.get("hyperparameters")
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"hyperparameters: expected a section, got {given!r}")
    plain["hyperparameters"] = _validate(algorithm.Config, given or {}, "hyperparameters")
    experiment: Experiment = _validate(Experiment, plain, "")
    _check_stop(experiment)
    _check_used(experiment, algorithm)
    if experiment.scheduler.mode not in algorithm.modes:
        raise ConfigError(
            f"scheduler.mode: {experiment.algorithm} runs only in mode {'/'.join(algorithm.modes)}"
        )
    if experiment.scheduler.elastic and experiment.source != "environment":
        raise ConfigError(
            f"scheduler.elastic: the workers of {experiment.algorithm} share out "
            f"{'every minibatch' if experiment.source == 'data' else 'the states'} by their "
            "number, which therefore stays; use false (scheduler.workers=auto fills the cluster)"
        )
    if experiment.scheduler.learners > 1 and not algorithm.data_parallel:
        raise ConfigError(
            f"scheduler.learners: {experiment.algorithm} does not learn by gradients of a mean "
            "over rows alone, which several learners could share; use 1"
        )
    return experiment


def used_sections(algorithm: Any) -> dict[str, bool]:
    """Which of the sections that not every algorithm has a use for this class uses."""
    imitates = algorithm.uses_demonstrations  # with a source of data, those are the data
    return {
        "env": algorithm.source in ("environment", "model") or imitates,
        "data": algorithm.source == "data" and not imitates,
        "demonstrations": imitates,
        "network": algorithm.uses_network,
    }


def _fill_sections(plain: dict[str, Any], algorithm: Any) -> None:
    """Refuse the sections that the algorithm has no use for; add those that it needs."""
    uses = used_sections(algorithm)
    for key, used in uses.items():
        if not used and plain.get(key) is not None:
            raise ConfigError(f"{key}: {plain['algorithm']} has no use for this section; remove it")
    if uses["network"] and plain.get("network") is None:
        plain["network"] = {}
    for key in ("env", "data", "demonstrations"):
        if uses[key] and plain.get(key) is None:
            raise ConfigError(f"{key}: missing; {plain['algorithm']} needs one")


def _check_stop(experiment: Experiment) -> None:
    stop, source = experiment.stop, experiment.source
    for key, owner in (("env_steps", "environment"), ("epochs", "data")):
        if getattr(stop, key) is not None and source != owner:
            raise ConfigError(
                f"stop.{key}: {experiment.algorithm} counts {CLOCKS[source]}, not {key}"
            )
    if source != "model" and not stop.model_dump(exclude_none=True, exclude={"target_evaluations"}):
        raise ConfigError("stop: give at least one condition, such as stop.seconds=60")
    if stop.target is None and stop.target_evaluations > 1:
        raise ConfigError(
            f"stop.target_evaluations: {stop.target_evaluations} of what? Give stop.target too"
        )
    if stop.target is not None and experiment.evaluation.every == 0:
        raise ConfigError("stop.target: needs evaluation.every, or it would never be looked at")


def _check_used(experiment: Experiment, algorithm: Any) -> None:
    """Refuse settings that would be ignored."""
    unused: list[tuple[str, Section | None, tuple[str, ...]]] = []
    if experiment.source == "model":
        keys: tuple[str, ...] = ("num_envs", "observed", "frame_stack", "normalize_observation")
        unused.append(("env", experiment.env, keys))
    elif not algorithm.uses_network:
        unused.append(("env", experiment.env, ("normalize_observation",)))
    if experiment.data is not None:
        unused.append(("evaluation", experiment.evaluation, ("episodes", "max_steps")))
        unused.append(("tracking", experiment.tracking, ("video_every",)))
    else:
        unused.append(("tracking", experiment.tracking, ("pictures_every",)))
        if experiment.source == "data":
            unused.append(("env", experiment.env, ("num_envs", "normalize_observation")))
    if algorithm.uses_network:
        settings = {"torso": ("torso",), "memory": ("memory", "memory_size")}
        for option, names in settings.items():
            if option not in algorithm.network_options:
                unused.append(("network", experiment.network, names))
    for name, section, keys in unused:
        for key in keys:
            if section and getattr(section, key) != type(section).model_fields[key].default:
                raise ConfigError(
                    f"{name}.{key}: {experiment.algorithm} has no use for it; remove it"
                )


def _validate(model: type[BaseModel], plain: Any, prefix: str) -> Any:
    """``model`` of ``plain``; the first error as a short message with the nearest valid name."""
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        # An unknown key often explains the missing one beside it: say that first.
        details = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        # Where a value may be of several kinds, there is an error for each, whose location has the
        # kind in it ("literal['uniform']"): the kinds that the value got furthest in explain it.
        whole = _before_kind(details[0]["loc"])
        same = [d for d in details if _before_kind(d["loc"]) == whole]
        furthest = max(len(d["loc"]) for d in same)
        detail, *others = [d for d in same if len(d["loc"]) == furthest]
        location = [str(part) for part in detail["loc"] if "[" not in str(part)]
        key = ".".join([prefix, *location] if prefix else location) or prefix
        if detail["type"] == "extra_forbidden":
            fields = _fields_at(model, location[:-1])
            raise ConfigError(f"{key}: unknown key{did_you_mean(location[-1], fields)}") from None
        if detail["type"] == "missing":
            what = _fields_at(model, location[:-1])[location[-1]].description
            raise ConfigError(f"{key}: missing" + (f"; give {what}" if what else "")) from None
        message = detail["msg"].removeprefix("Value error, ")
        if len(location) == len(whole):
            message += "".join(d["msg"].replace("Input should be", " or") for d in others)
        given = detail["input"]
        shown = "" if isinstance(given, (Mapping, BaseModel)) else f" (got {given!r})"
        raise ConfigError(f"{key}: {message[0].lower()}{message[1:]}{shown}") from None


def _before_kind(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of an error's location before the first kind of value, such as ``"list[int]"``."""
    return tuple(itertools.takewhile(lambda part: "[" not in str(part), location))


def _fields_at(model: type[BaseModel], location: list[str]) -> dict[str, FieldInfo]:
    """The fields of the section at ``location``, by their keys."""
    for part in location:
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return dict(model.model_fields)
