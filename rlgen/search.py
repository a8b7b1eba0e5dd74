"""What a sweep looks for: the section ``search:`` of its configuration, and the points drawn of it.

search:
  method: halving
  trials: 16
  space:
    hyperparameters.learning_rate: {log_uniform: [0.0001, 0.01]}
    hyperparameters.latent: {integer: [2, 16]}
    network.hidden: [[64], [128, 128]]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from rlgen.config import Count, Experiment, Section, resolve_experiment, set_keys
from rlgen.errors import ConfigError, did_you_mean

Point = dict[str, Any]  # dotted key to value
Kind = Literal["choice", "uniform", "log_uniform", "integer", "log_integer"]
KINDS = ("choice", "uniform", "log_uniform", "integer", "log_integer")
SEARCHED = ("hyperparameters", "env", "data", "demonstrations", "network", "seed")
#: Settings that only some methods have a use for.
OWN = {
    "reduction": ("halving",),
    "grace": ("halving",),
    "interval": ("population",),
    "quantile": ("population",),
    "resample": ("population",),
}


class Dimension(Section):
    """The values that one setting may have: a list of them, or ``{kind: [low, high]}``."""

    kind: Kind
    values: list[Any] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        """The two forms in which it is written."""
        if isinstance(given, list):
            return {"kind": "choice", "values": given}
        if isinstance(given, Mapping) and set(given) != {"kind", "values"}:
            if len(given) != 1 or next(iter(given)) not in KINDS:
                raise ValueError(f"expected a list of values, or one of {', '.join(KINDS)}")
            ((kind, values),) = given.items()
            return {"kind": kind, "values": values}
        return given

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.kind == "choice":
            return self
        whole = self.kind.endswith("integer")
        numbers = all(
            isinstance(v, int if whole else (int, float)) and not isinstance(v, bool)
            for v in self.values
        )
        if len(self.values) != 2 or not numbers or not self.values[0] < self.values[1]:
            what = "two whole numbers" if whole else "two numbers (write 1.0e-4, not 1e-4, in YAML)"
            raise ValueError(f"{self.kind}: expected [low, high], {what}, got {self.values}")
        if self.kind.startswith("log") and self.values[0] <= 0:
            raise ValueError(f"{self.kind}: low must be above 0, got {self.values[0]}")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """A value at random."""
        if self.kind == "choice":
            return self.values[rng.integers(len(self.values))]
        low, high = self.values
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        if self.kind == "log_uniform":
            return self.clip(math.exp(rng.uniform(math.log(low), math.log(high))))
        if self.kind == "integer":
            return int(rng.integers(low, high + 1))
        return self.clip(math.floor(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))

    def change(self, value: Any, rng: np.random.Generator) -> Any:
        """Another value nearby: the next one of a list, a number a fifth more or less.

        A whole number changes by 1 at least; at a bound the way that is left is taken.
        """
        for step in rng.permutation((-1, 1)).tolist():
            if self.kind == "choice":
                place = self.values.index(value) + step
                other = self.values[place] if 0 <= place < len(self.values) else value
            elif self.kind.endswith("integer"):
                by = max(1, round(abs(value) / 5))
                other = self.clip(value + step * by)
            else:
                other = self.clip(value * (1 + step / 5))
            if other != value:
                return other
        return value

    def clip(self, value: Any) -> Any:
        """The nearest value within the bounds; choices stay."""
        return value if self.kind == "choice" else min(max(value, self.values[0]), self.values[1])


class Search(Section):
    """How a sweep chooses its trials. The mean of an evaluation is what it maximises."""

    method: Literal["grid", "random", "halving", "population", "bayesian"] = "random"
    trials: Count = Field(16, description="how many; of a grid, as many as it has points")
    parallel: Count | None = Field(None, description="at a time; none given: one per core")
    reduction: Annotated[float, Field(gt=1)] = Field(
        4.0, description="halving: one of so many goes on at each rung"
    )
    grace: Count = Field(1, description="halving: evaluations before the first rung")
    interval: Count = Field(2, description="population: evaluations from one change to the next")
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25, description="population: the worst such part goes on from the best such part"
    )
    resample: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="population: how often a value is drawn anew, not changed by a fifth"
    )
    space: dict[str, Dimension] = Field(min_length=1)

    @field_validator("space")
    @classmethod
    def _known(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        for key in space:
            if key.partition(".")[0] not in SEARCHED:
                raise ValueError(
                    f"{key!r} cannot be searched; what can is in {', '.join(SEARCHED)}"
                )
        return space

    @model_validator(mode="after")
    def _used(self) -> Self:
        for key, methods in OWN.items():
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.method not in methods:
                raise ValueError(f"{key} has an effect only with method={'/'.join(methods)}")
        if self.method == "grid":
            for key, dimension in self.space.items():
                if dimension.kind != "choice":
                    raise ValueError(f"space.{key}: a grid needs a list of values")
            if "trials" in self.model_fields_set:
                raise ValueError("trials has no effect with method=grid, which tries every point")
        if self.method == "population" and self.trials < 2:
            raise ValueError("trials: a population needs 2 at least")
        return self

    def points(self, seed: int) -> list[Point]:
        """The points of a sweep whose method knows them beforehand; they depend on the seed."""
        if self.method == "grid":
            values = [dimension.values for dimension in self.space.values()]
            return [dict(zip(self.space, p, strict=True)) for p in itertools.product(*values)]
        rng = np.random.default_rng(seed)
        return [{k: d.draw(rng) for k, d in self.space.items()} for _ in range(self.trials)]


def evolve(
    search: Search, seed: int, generation: int, standing: Sequence[tuple[int, Point, float]]
) -> dict[int, tuple[int, Point]]:
    """Who of a population goes on from whom, and with which values: exploit and explore.

    It depends on the arguments alone, not on which trial was quick (Jaderberg et al. 2017,
    arXiv:1711.09846, with truncation selection; their asynchronous form needs a machine on which
    all trials run at once).

    Args:
        search: with method ``population``.
        seed: of the sweep.
        generation: the one that begins, from 1.
        standing: number, point and latest mean of every trial that goes on.

    Returns:
        For every one of the worst quantile the number of the one of the best quantile from whose
        weights it goes on, and its new point.
    """

    def key(entry: tuple[int, Point, float]) -> tuple[float, int]:
        return (entry[2] if math.isfinite(entry[2]) else -math.inf), -entry[0]

    order = sorted(standing, key=key)
    count = min(math.ceil(len(order) * search.quantile), len(order) // 2)
    rng = np.random.default_rng([seed, generation])
    changed = {}
    for number, _, _ in order[:count]:
        donor, values, _ = order[-1 - int(rng.integers(count))]
        point = {
            name: dimension.draw(rng)
            if rng.random() < search.resample
            else dimension.change(values[name], rng)
            for name, dimension in search.space.items()
        }
        changed[number] = donor, point
    return changed


def parse(plain: Any) -> Search:
    """The section ``search``, checked.

    Raises:
        ConfigError: names the key, what was given and what was expected.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(
            "search: missing; a sweep needs this section, in its configuration or by --search FILE"
        )
    try:
        return Search.model_validate(dict(plain))
    except ValidationError as error:
        detail = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
        key = ".".join(["search", *(str(part) for part in detail["loc"])])
        if detail["type"] == "extra_forbidden":
            hint = did_you_mean(str(detail["loc"][-1]), Search.model_fields)
            raise ConfigError(f"{key}: unknown key{hint}") from None
        if detail["type"] == "missing":
            raise ConfigError(f"{key}: missing") from None
        message = detail["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{key}: {message[0].lower()}{message[1:]}") from None


def check(search: Search, experiment: Experiment) -> None:
    """Refuse what could only fail once trials run.

    Raises:
        ConfigError: a value that the experiment cannot have, or intervals that a method needs.
    """
    plain = experiment.dump()
    for key, dimension in search.space.items():
        for value in dimension.values:
            try:
                resolve_experiment(set_keys(plain, {key: value}))
            except ConfigError as error:
                if search.method == "grid" and str(error).partition(":")[0] != key:
                    continue  # another setting of the grid may go with it
                raise ConfigError(f"search.space.{key}: {value!r} cannot be: {error}") from error
    if search.method in ("halving", "population"):
        if experiment.evaluation.every == 0:
            raise ConfigError(
                f"evaluation.every: {search.method} compares trials while they run; give how often "
                f"they are evaluated, in {experiment.clock}"
            )
        if getattr(experiment.stop, experiment.clock, None) is None:
            raise ConfigError(
                f"stop.{experiment.clock}: {search.method} needs this budget of a whole trial"
            )
