"""Numbers that are not finite: where they come from, and what becomes of them.

A NaN or an infinity in an observation or a reward would go through every batch into the weights;
one in a gradient would end in them at once. Both are looked for where they come in, and
``fault.not_finite`` says what happens: ``error`` ends the run and names the place, ``drop`` leaves
the transition or the optimiser's step out, ``clip`` puts 0 for NaN and plus or minus
``fault.largest`` for infinities. What is dropped or clipped is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rlgen.algorithm import Algorithm, Metrics
from rlgen.config import FaultConfig
from rlgen.errors import BadGradient, NotFinite

NO_ROWS = np.zeros(0, np.int64)
FINE = 1e30  # a sum of squares below this has no number in it that is worth a closer look
MOST = float(np.finfo(np.float32).max)  # what a batch can hold
IN_A_ROW = 1000  # steps without one transition that counts, after which dropping is no help
Told = tuple[int, str]  # how many numbers were found since the last report, and the first of all


class Tally:
    """How much was not finite, and the first of it in words."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def add(self, count: int, first: str) -> None:
        """Count so many more."""
        self.count += count
        self.first = self.first or first

    def take(self) -> Told | None:
        """What has come since the last call; None where nothing has."""
        taken = (self.count, self.first) if self.count else None
        self.count = 0
        return taken


class Finite:
    """Steps environments and looks at what they give.

    With ``drop`` a transition with such a number in its reward or its successor does not count, nor
    does one from an observation that had to be mended. The environment begins a new episode, so to
    the algorithm this is an episode that was cut before the step. One that only resets by itself
    (NEXT_STEP, SAME_STEP) goes on until then, and counts again once its observations are finite.

    Attributes:
        tally: what was dropped or clipped.
    """

    def __init__(self, who: str, fault: FaultConfig | None = None) -> None:
        self.who = who
        self.fault = fault or FaultConfig()
        self.tally = Tally()
        self._mended = NO_ROWS  # rows whose latest observation is not the environment's own
        self._in_vain = 0  # steps in a row without one transition that counts

    def step(self, envs: Any, action: np.ndarray, resetting: np.ndarray, taken: np.ndarray) -> Any:
        """Step environments and mend what they give.

        Args:
            envs: the `rlgen.envs.vector.Environments`.
            action: ``(B, ...)``.
            resetting: rows that only reset in this step, whatever reward they name.
            taken: ``(B,)`` steps of the running episodes so far.

        Returns:
            What came (successors ``(B, ...)`` in the numbering of the spaces, rewards, terminations
            and truncations ``(B,)``), infos, and the rows whose transition does not count.

        Raises:
            NotFinite: names the environment, the row and the step, unless told to go on.
        """
        raw, given, ended, cut, info = envs.env.step(envs.to_env(action))
        successor, reward = envs.from_env(raw), np.array(given)
        terminated, truncated = np.array(ended, np.bool_), np.array(cut, np.bool_)
        void = NO_ROWS
        closer = self._mended.size or "learning" in info or "final_obs" in info
        if closer or not (fine(successor) and fine(reward)):
            reward[resetting] = 0.0
            void = self._look(successor, reward, info, taken + 1)
        return (successor, reward, terminated, truncated), info, void

    def first(self, observation: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The first observations ``(n, ...)`` of new episodes in these rows, mended.

        Raises:
            NotFinite: as `step`.
        """
        if self._mended.size or not fine(observation):
            bad = self._mend(observation, "observation", rows, None)
            kept = np.setdiff1d(self._mended, rows)
            self._mended = np.union1d(kept, bad) if self.fault.not_finite == "drop" else NO_ROWS
        return observation

    def _look(
        self, successor: np.ndarray, reward: np.ndarray, info: Mapping[str, Any], steps: np.ndarray
    ) -> np.ndarray:
        """Mend what a step gave; the rows that do not count."""
        rows = np.arange(len(reward))
        unseen = self._mend(successor, "observation", rows, steps)
        unpaid = self._mend(reward, "reward", rows, steps)
        learned = info.get("learning")
        if learned is not None:
            unpaid = np.union1d(unpaid, self._mend(learned["reward"], "reward", rows, steps))
        last = NO_ROWS
        if "final_obs" in info:
            last = self._mend_last(info["final_obs"], steps)
        if self.fault.not_finite != "drop":
            return NO_ROWS
        void = np.unique(np.concatenate([unseen, unpaid, last, self._mended]))
        self._mended = unseen  # until `first` has others for them
        reward[void] = 0.0
        self._in_vain = self._in_vain + 1 if len(void) == len(reward) else 0
        if self._in_vain > IN_A_ROW:
            raise NotFinite(
                f"{self.who}: nothing but numbers that are not finite in {IN_A_ROW:,} steps, the "
                f"first: {self.tally.first}; fault.not_finite=drop cannot help here"
            )
        return void

    def _mend_last(self, observations: Any, steps: np.ndarray) -> np.ndarray:
        """As `_mend`, of an object array whose rows are observations or None."""
        bad = []
        for row, last in enumerate(observations):
            if isinstance(last, np.ndarray) and last.dtype.kind == "f":
                whole = last[None]
                bad += self._mend(whole, "observation", np.array([row]), steps).tolist()
        return np.array(bad, np.int64)

    def _mend(
        self, values: np.ndarray, what: str, rows: np.ndarray, steps: np.ndarray | None
    ) -> np.ndarray:
        """Mend ``(n, ...)`` values in place; those of ``rows`` that had to be."""
        if fine(values):
            return NO_ROWS
        wrong = ~(np.abs(values) <= MOST)
        if not wrong.any():
            return NO_ROWS
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        row = int(rows[place[0]])
        when = "as an episode begins" if steps is None else f"at step {steps[row]} of its episode"
        part = f"[{', '.join(map(str, place[1:]))}]" if len(place) > 1 else ""
        found = f"{what}{part} is {values[place]} in environment {row} {when}"
        if self.fault.not_finite == "error":
            raise NotFinite(f"{self.who}: {found} (fault.not_finite: error, drop or clip)")
        self.tally.add(int(wrong.sum()), f"{self.who}: {found}")
        largest = self.fault.largest
        np.nan_to_num(values, copy=False, nan=0.0, posinf=largest, neginf=-largest)
        np.clip(values, -MOST, MOST, out=values)
        return rows[wrong.reshape(len(wrong), -1).any(axis=1)]


def fine(values: np.ndarray) -> bool:
    """Whether numbers are finite at a glance; False says to look closer."""
    return values.dtype.kind != "f" or bool(np.vdot(values, values) < FINE)


def cut_before(batch: dict[str, np.ndarray]) -> None:
    """Have the episodes of a rollout ``(T, B)`` end before the transitions that were dropped."""
    dropped = batch["truncated"] & ~batch["valid"]
    open_ = batch["valid"][:-1] & ~batch["terminated"][:-1]
    batch["truncated"][:-1] |= dropped[1:] & open_


class Gradients:
    """Looks at the gradients of an algorithm before every step of its optimisers.

    With ``drop`` the optimiser's step is left out; with ``clip`` a gradient is mended as soon as it
    is there, before a norm is taken of it.

    Attributes:
        tally: what was dropped (optimiser steps) or clipped (numbers).
    """

    def __init__(self, algorithm: Algorithm, fault: FaultConfig) -> None:
        self.algorithm = algorithm
        self.fault = fault
        self.tally = Tally()
        self._update = 0
        self._names = {
            parameter: f"{attribute}.{name}"
            for attribute, module in vars(algorithm).items()
            if isinstance(module, nn.Module)
            for name, parameter in module.named_parameters()
        }
        self._handles: list[Any] = []
        self.watch()

    def watch(self) -> None:
        """Look at gradients after whatever else was hooked to the optimisers so far."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for optimizer in optimizers(vars(self.algorithm).values()):
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            if self.fault.not_finite == "clip":
                self._handles += [
                    parameter.register_post_accumulate_grad_hook(self._clip)
                    for group in optimizer.param_groups
                    for parameter in group["params"]
                    if parameter.requires_grad
                ]

    def update(self, columns: dict[str, Any], number: int, latest: Metrics) -> Metrics:
        """Have the algorithm learn; its metrics, as they were before where they are not numbers.

        Args:
            columns: the batch.
            number: of this update, for messages.
            latest: the metrics before.

        Raises:
            BadGradient: names the parameter and the update, unless told to go on.
        """
        self._update, before = number, self.tally.count
        metrics = self.algorithm.update(columns)
        if self.tally.count == before:
            return metrics
        return {**latest, **{k: v for k, v in metrics.items() if math.isfinite(float(v))}}

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not parameters or _all_fine([p.grad for p in parameters]):
            return
        wrong = [p for p in parameters if not torch.isfinite(p.grad).all()]
        if not wrong:
            return
        if self.fault.not_finite == "clip":
            for parameter in wrong:
                self._clip(parameter)
            return
        found = self._found(wrong[0], len(wrong) - 1)
        if self.fault.not_finite == "error":
            raise BadGradient(found)
        self.tally.add(1, found)
        for parameter in parameters:
            parameter.grad = None

    def _clip(self, parameter: torch.Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or _all_fine([gradient]):
            return
        wrong = int((~torch.isfinite(gradient)).sum())
        if wrong:
            self.tally.add(wrong, self._found(parameter, 0))
            largest = self.fault.largest
            gradient.nan_to_num_(nan=0.0, posinf=largest, neginf=-largest)

    def _found(self, parameter: torch.Tensor, others: int) -> str:
        gradient = parameter.grad
        assert gradient is not None
        value = gradient[~torch.isfinite(gradient)][0].item()
        name = self._names.get(parameter, "a parameter")  # type: ignore[call-overload]
        more = f" (and those of {others} other parameters)" if others else ""
        return f"the gradient of {name}{more} is {value} in update {self._update:,}"


def _all_fine(gradients: list[Any]) -> bool:
    """Whether all are finite at a glance; False says to look closer."""
    norms = torch._foreach_norm(gradients)  # which may overflow where they do not
    return math.isfinite(torch.stack(norms).sum().item())


def optimizers(values: Iterable[Any]) -> Iterator[torch.optim.Optimizer]:
    """The optimisers among an algorithm's attributes, also in lists and dicts."""
    for value in values:
        if isinstance(value, torch.optim.Optimizer):
            yield value
        elif isinstance(value, dict):
            yield from optimizers(value.values())
        elif isinstance(value, list | tuple):
            yield from optimizers(value)
