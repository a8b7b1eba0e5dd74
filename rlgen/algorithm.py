"""The contract between one algorithm file and the platform.

An algorithm file subclasses `Algorithm` once and fills in what its source needs:

===========  =====================================================================
every one    ``Config``, ``check``, ``__init__`` (the network or table), ``update``
environment  ``act``; ``process`` where a rollout is not yet the batch
data         ``evaluate``; of ``sample``, ``reconstruct``, ``encode``, ``decode``, ``prior``,
             ``chain``, ``sample_labelled``, ``decode_labelled``, ``next_log_prob`` and
             ``measure`` those that it has
model        ``sweep`` (a slice of the states), ``act`` for the evaluation
===========  =====================================================================

The platform gives it everything else: where it runs, when it is called, its random numbers, its
device, its replay, its checkpoints (every attribute, see `rlgen.state`) and its metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import gymnasium as gym
import numpy as np
import scipy.sparse
import torch
from torch import nn

from rlgen.config import Hyperparameters, NetworkConfig, Source
from rlgen.demonstrations import Demonstrations
from rlgen.errors import CheckpointError, ConfigError
from rlgen.replay import ReplayPlan

Metrics = Mapping[str, "float | torch.Tensor"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the figure.
        low, high: its interval: plus or minus one standard error where the note says no other.
        note: how it was found, where that is not plain, such as the base of an AIS estimate.
    """

    value: float
    low: float
    high: float
    note: str = ""


class Model(Protocol):
    """An exact Markov decision process of S states and A actions (`rlgen.envs.mdp.MDP`)."""

    @property
    def transitions(self) -> scipy.sparse.csr_array:
        """P as ``(S * A, S)`` float64: row ``s * A + a`` holds p(. | s, a)."""

    @property
    def rewards(self) -> np.ndarray:
        """Expected reward r(s, a) as ``(S, A)`` float64."""

    @property
    def terminal(self) -> np.ndarray:
        """``(S,)`` bool; the value of a terminal state is 0."""

    @property
    def start(self) -> np.ndarray:
        """``(S,)`` float64, the distribution of the first state."""


@dataclass(frozen=True)
class Problem:
    """What an algorithm is set: spaces of one environment, an exact model, or a data set."""

    observation_space: gym.Space[Any] | None = None
    action_space: gym.Space[Any] | None = None
    model: Model | None = None
    data_mean: np.ndarray | None = None  # (d,) float32 mean of the training rows, in [0, 1]
    data_range: tuple[float, float] = (0.0, 1.0)  # least and largest value of the training rows
    #: The first value of the data that is bad, and its place, in words for a message; "" if none
    #: is. Bad ones are told by a function: of values ``(...)`` float32, ``(...)`` bool.
    data_first: Callable[[Callable[[np.ndarray], np.ndarray]], str] | None = None
    data_shape: tuple[int, ...] = ()  # of one row before flattening, such as (28, 28)
    data_count: int = 0  # training rows, those of one epoch
    data_vocabulary: tuple[str, ...] = ()  # of a text, whose rows hold places in it
    data_classes: int = 0  # labels are 0 <= y < data_classes; 0 where the rows have none
    network: NetworkConfig | None = None
    normalize_observation: bool = False
    demonstrations: Demonstrations | None = None  # of an expert in that environment

    def outside(self, low: float, high: float) -> str:
        """The first value of the data not in [low, high] and its place, in words; "" if none.

        For `Algorithm.check`: "needs values in [0, 1], not -0.5 in row 3, column 7".
        """
        least, most = self.data_range
        if self.data_first is not None:
            return self.data_first(lambda x: (x < low) | (x > high))
        return "" if low <= least and most <= high else f"in [{least:g}, {most:g}]"

    def check_unit_interval(self, name: str) -> None:
        """Refuse data that are not in [0, 1], for the `Algorithm.check` of the model ``name``.

        Raises:
            ConfigError: names the model, and the first value outside with its place.
        """
        if outside := self.outside(0, 1):
            raise ConfigError(
                f"data.name: {name} needs values in [0, 1], such as binarised pixels, not {outside}"
            )


class Algorithm:
    """Base of every algorithm; one level of inheritance, no more.

    Attributes:
        config: its hyper-parameters.
        problem: what it is set.
        rng: its own NumPy random stream. Torch's global generator is its own too: the platform
            swaps it in around every call, so ``torch.randn`` gives the same on every backend.
        env_steps: environment steps of the whole run: on a worker when this rollout began, on the
            learner with the batch in hand (for schedules).
        starts: ``(B,)`` bool, set before every `act`: the rows in which an episode begins with this
            observation. What an algorithm remembers of an episode ends there.
        converged: set by ``update`` to end the run.
        replay: set in ``__init__`` by algorithms that learn from a replay; ``update`` then
            receives its minibatches, as often as the plan owes them.
        priorities: ``(batch_size,)`` float, > 0: what ``update`` sets for the rows of its minibatch
            where the plan asks for prioritised ones.
        part: gives this learner's part of a minibatch, ``part(columns, axis)`` with the axis of its
            rows; all of it with one learner. Set by `rlgen.peers`; see `whole_batch`.
    """

    Config: ClassVar[type[Hyperparameters]] = Hyperparameters
    source: ClassVar[Source] = "environment"
    modes: ClassVar[tuple[str, ...]] = ("sync",)
    uses_network: ClassVar[bool] = False
    #: Whether it learns from recorded episodes (`Problem.demonstrations`); with the source "data",
    #: the batches are their rows, and the evaluation plays episodes.
    uses_demonstrations: ClassVar[bool] = False
    #: Whether it models texts: rows of `Problem.data_shape[0]` tokens of a vocabulary.
    uses_text: ClassVar[bool] = False
    #: Whether it needs the environment's model too (`Problem.model`), where that is not its source.
    uses_model: ClassVar[bool] = False
    #: Whether several learners may share its batches (`rlgen.peers`): all that an update learns
    #: goes through the gradients of means over rows.
    data_parallel: ClassVar[bool] = False
    #: Whether `update` needs the whole batch on each of them: it then hands the rows of every step,
    #: such as a minibatch that it cuts by itself, through `part`.
    whole_batch: ClassVar[bool] = False
    #: What it uses of the network section beyond its layers: "torso" (by `make_encoder`), "memory".
    network_options: ClassVar[tuple[str, ...]] = ("torso",)
    #: The attribute that travels to the workers as the flat weights: a module, or an array. With
    #: a module, batches and observations arrive as torch tensors; with an array, as NumPy arrays.
    shared: ClassVar[str] = "network"
    #: Whether `chain` ends by itself, at a sample.
    chain_ends: ClassVar[bool] = False
    #: Axis along which the batches of several workers are joined.
    batch_axis: ClassVar[int] = 1

    def __init__(self, config: Any, problem: Problem, rng: np.random.Generator) -> None:
        self.config = config
        self.problem = problem
        self.rng = rng
        self.env_steps = 0
        self.starts = np.ones(1, np.bool_)
        self.converged = False
        self.replay: ReplayPlan | None = None
        self.priorities: np.ndarray | torch.Tensor | None = None
        self.part: Callable[[dict[str, Any], int], dict[str, Any]] = whole

    @classmethod
    def check(cls, problem: Problem) -> None:
        """Refuse a problem that the algorithm cannot solve, before anything is started.

        Raises:
            ConfigError: names the key, what was given and what was expected.
        """

    def act(self, observation: Any, greedy: bool) -> dict[str, Any]:
        """Choose actions for observations ``(B, ...)``.

        Returns columns of B rows: ``"action"``, and whatever else the batch should carry (such as
        ``"log_prob"``). ``greedy`` is set by the evaluation: no exploration.
        """
        raise ConfigError(f"{type(self).__name__} does not act in environments")

    def process(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn what a worker produced into the batch that the learner receives (on the worker)."""
        return batch

    def sweep(self, first: int, last: int) -> dict[str, np.ndarray]:
        """Columns for the states ``first <= s < last`` of the model (on the worker)."""
        raise ConfigError(f"{type(self).__name__} does not sweep a model")

    def update(self, batch: dict[str, Any]) -> Metrics:
        """Learn from one batch (on the learner) and return metrics."""
        raise ConfigError(f"{type(self).__name__} does not learn")

    def evaluate(self, batch: dict[str, Any]) -> Metrics:
        """Per-row figures of held-out rows, ``{"metric": (n,)}``; the first one is the score."""
        raise ConfigError(f"{type(self).__name__} does not evaluate data")

    def sample(self, n: int) -> torch.Tensor:
        """Draw ``(n, d)`` rows in data space."""
        raise ConfigError(f"{type(self).__name__} does not sample")

    def sample_labelled(self, labels: torch.Tensor) -> torch.Tensor:
        """Draw one row ``(n, d)`` of each label ``(n,)`` int64, by a model that learned them."""
        raise ConfigError(f"{type(self).__name__} does not sample by label")

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruct rows ``(n, d)``."""
        raise ConfigError(f"{type(self).__name__} does not reconstruct")

    def next_log_prob(self, prefix: torch.Tensor) -> torch.Tensor:
        """Log probabilities ``(n, V)`` of the token after prefixes ``(n, t)`` int64, t >= 0."""
        raise ConfigError(f"{type(self).__name__} does not go on with a text")

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The codes ``(n, k)`` of rows ``(n, d)``; the means, where codes are random."""
        raise ConfigError(f"{type(self).__name__} does not encode")

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The rows ``(n, d)`` of codes ``(n, k)``; the means, where rows are random."""
        raise ConfigError(f"{type(self).__name__} does not decode")

    def decode_labelled(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """As `decode`, of labels ``(n,)`` int64, by a model that is told them (``conditional``)."""
        raise ConfigError(f"{type(self).__name__} does not decode by label")

    def prior(self, n: int) -> torch.Tensor:
        """Draw codes ``(n, k)`` as the model assumes them to be distributed."""
        raise ConfigError(f"{type(self).__name__} has no prior of codes")

    def chain(self, n: int) -> Iterator[torch.Tensor]:
        """The states ``(n, d)`` of n chains that sample, one after the other; may be endless."""
        raise ConfigError(f"{type(self).__name__} does not sample by a chain")

    def measure(self, batch: dict[str, Any]) -> Mapping[str, torch.Tensor | Estimate]:
        """Figures too dear for the evaluations of a run, of some held-out rows.

        ``(n,)`` figures of the rows, or estimates with an interval of their own.
        """
        raise ConfigError(f"{type(self).__name__} measures no more than evaluate does")

    @classmethod
    def has(cls, method: str) -> bool:
        """Whether this algorithm fills in an optional method."""
        return getattr(cls, method) is not getattr(Algorithm, method)

    @property
    def replayed(self) -> int:
        """Rows that one update draws from the replay; 0 where there is none."""
        return 0 if self.replay is None else self.replay.batch_size * self.replay.sequence

    @property
    def on_tensors(self) -> bool:
        """Whether the shared weights are a module, so that batches arrive as tensors."""
        return isinstance(getattr(self, self.shared), nn.Module)


def whole(columns: dict[str, Any], axis: int) -> dict[str, Any]:
    """What a single learner's part of a minibatch is."""
    return columns


def read_weights(algorithm: Algorithm) -> np.ndarray:
    """The shared weights as a flat vector of their own dtype (a copy)."""
    shared = getattr(algorithm, algorithm.shared)
    if isinstance(shared, nn.Module):
        tensors = [t.detach().reshape(-1) for t in _tensors(shared)]
        return torch.cat(tensors).cpu().numpy() if tensors else np.empty(0, np.float32)
    return np.array(shared).reshape(-1)


def write_weights(algorithm: Algorithm, weights: np.ndarray) -> None:
    """Set the shared weights from a flat vector.

    Raises:
        CheckpointError: the vector has another length.
    """
    shared = getattr(algorithm, algorithm.shared)
    tensors = list(_tensors(shared)) if isinstance(shared, nn.Module) else []
    sizes = [t.numel() for t in tensors] if isinstance(shared, nn.Module) else [shared.size]
    if weights.size != sum(sizes):
        raise CheckpointError(
            f"found {weights.size:,} weights, but {type(algorithm).__name__} has {sum(sizes):,}: "
            "was it another version of it, or were its data others? Train it again"
        )
    if not isinstance(shared, nn.Module):
        shared[...] = weights.reshape(shared.shape)
        return
    flat = torch.tensor(weights)  # a copy: the vector may be read-only shared memory
    with torch.no_grad():
        for tensor, part in zip(tensors, flat.split(sizes), strict=True):
            tensor.copy_(part.view_as(tensor))


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and floating-point buffers, in a fixed order."""
    return [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
