"""Data sets: where they come from, how they are split, and how workers share their minibatches.

Every split, epoch and minibatch is a function of the seed alone: no number of workers, backend or
process changes which rows the learner sees in which update.
"""

from __future__ import annotations

import functools
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlgen.config import DataConfig
from rlgen.errors import ConfigError, DataError, did_you_mean
from rlgen.generative import text
from rlgen.generative.densities import DENSITIES
from rlgen.generative.idx import find_idx, read_idx

ROOT_VARIABLE = "RLGEN_DATA"
SPLITS = ("train", "validation", "test")
# First words of the random streams, so that splits, epochs and densities never share one.
_SPLIT, _EPOCH, _DENSITY = 10, 11, 12
_SHADES = np.arange(256, dtype=np.float32)  # what a pixel can be, before it is scaled
_LOOKED_AT = 4_096  # rows at a time


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows of d values in three disjoint splits.

    Pixels stay ``uint8`` (a quarter of the memory) and are scaled to [0, 1] when rows are read.

    Attributes:
        train: ``(n, d)`` uint8 pixels or float32 values; so are ``validation`` and ``test``.
        shape: of one row before flattening, such as ``(28, 28)``.
        scale: what the stored values are divided by (255 for pixels, 1 for float32).
        binarize: whether values above one half become 1 and the others 0.
        labels: ``(n,)`` int64 of each split; empty where the set has none.
        origin: ``(n,)`` int64 of each split, the row of the source (or of its test files) that each
            row was; empty where they are in the source's order.
        vocabulary: of a text, whose rows are windows of tokens, given as their places in it.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    shape: tuple[int, ...]
    scale: float
    binarize: bool
    labels: dict[str, np.ndarray]
    origin: dict[str, np.ndarray] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        """The number of rows of ``"train"``, ``"validation"`` or ``"test"``."""
        return len(self._stored(split))

    @property
    def classes(self) -> int:
        """The number of labels, those from 0 to the largest one; 0 where the rows have none."""
        return 1 + max(int(y.max(initial=-1)) for y in self.labels.values()) if self.labels else 0

    def columns(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """What a model gets of some rows: ``x``, as `rows`, and labels ``y`` where there are."""
        columns = {"x": self.rows(split, indices)}
        if self.labels:
            columns["y"] = self.labels[split][indices]
        return columns

    def _stored(self, split: str) -> np.ndarray:
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def rows(self, split: str, indices: np.ndarray) -> np.ndarray:
        """The rows ``(len(indices), d)`` float32, scaled and, if so configured, binarised."""
        stored = self._stored(split)[indices]
        result = np.empty(stored.shape, np.float32)
        if self.binarize:
            return np.greater(stored, self.scale / 2, out=result)
        return np.divide(stored, np.float32(self.scale), out=result)

    def mean(self) -> np.ndarray:
        """The mean ``(d,)`` float32 of the training rows, as `rows` returns them."""
        if self.binarize:
            mean = (self.train > self.scale / 2).mean(axis=0)
        else:
            mean = self.train.mean(axis=0, dtype=np.float64) / self.scale
        return np.asarray(mean, np.float32)

    def range(self) -> tuple[float, float]:
        """The least and the largest value of the training rows, as `rows` returns them."""
        if self.binarize:
            return 0.0, 1.0
        return float(self.train.min() / self.scale), float(self.train.max() / self.scale)

    def first(self, bad: Callable[[np.ndarray], np.ndarray]) -> str:
        """The first value of the source that is ``bad``, in words; "" where none is.

        Rows of every split count: the held-out ones are scored too.

        Args:
            bad: which of ``(...)`` float32 values are, ``(...)`` bool.
        """
        if self.binarize:
            return "0 and 1" if bad(np.array([0, 1], np.float32)).any() else ""
        if self.train.dtype == np.uint8 and not bad(_SHADES / np.float32(self.scale)).any():
            return ""  # whatever pixels there are
        found: list[tuple[int, int, float]] = []
        for split in SPLITS:
            count = self.count(split)
            origin = self.origin.get(split, np.arange(count))
            for first in range(0, count, _LOOKED_AT):
                x = self.rows(split, np.arange(first, min(first + _LOOKED_AT, count)))
                wrong = bad(x)
                rows = np.flatnonzero(wrong.any(axis=1))
                if len(rows):
                    row = rows[origin[first + rows].argmin()]
                    column = int(wrong[row].argmax())
                    found.append((int(origin[first + row]), column, float(x[row, column])))
        if not found:
            return ""
        row, column, value = min(found)
        return _place((row, *np.unravel_index(column, self.shape)), value)


def load(config: DataConfig, seed: int) -> DataSet:
    """The data set that a configuration names, split by the seed.

    Validation rows are a random share of the training rows. The test rows are the set's own test
    files where it has them, and else a random share as well.

    Raises:
        DataError: it does not exist or is damaged; names the key or file and what to do.
        ConfigError: a setting that this data set would ignore.
    """
    _check_used(config)
    name, root = config.name, config.root or os.environ.get(ROOT_VARIABLE)
    source = Path(name) if name.endswith((".npz", ".txt")) else Path(root or "") / name
    # The time of the last change is part of the key: a file that is written again is read again.
    stamp = source.stat().st_mtime_ns if source.exists() else 0
    return _load(config, seed, Path(root) if root else None, stamp)


def _check_used(config: DataConfig) -> None:
    if text.is_text(config.name):
        _refuse(config, ("binarize", "size", "root"), "a text has no use for it; remove it")
        return
    _refuse(
        config, ("tokens", "window"), f"only for texts, which {config.name!r} is not; remove it"
    )
    own_rows = config.name not in DENSITIES
    if own_rows and config.size != DataConfig.model_fields["size"].default:
        raise ConfigError(
            f"data.size: only for the densities {', '.join(DENSITIES)}; {config.name!r} has rows "
            "of its own"
        )
    in_files = own_rows and config.name != "digits" and ":" not in config.name
    if config.root and (not in_files or config.name.endswith(".npz")):
        raise ConfigError(
            f"data.root: only for data sets in IDX files; remove it for {config.name}"
        )


def _refuse(config: DataConfig, keys: tuple[str, ...], reason: str) -> None:
    """Refuse settings that are not at their defaults."""
    for key in keys:
        if getattr(config, key) != DataConfig.model_fields[key].default:
            raise ConfigError(f"data.{key}: {reason}")


@dataclass(frozen=True)
class _Raw:
    """One source's rows ``(n, ...)`` and, where it has them, labels ``(n,)``."""

    x: np.ndarray
    y: np.ndarray | None = None
    scale: float = 1.0


@functools.lru_cache(maxsize=2)
def _load(config: DataConfig, seed: int, root: Path | None, stamp: int) -> DataSet:
    """As `load`; the actors of one process share the (read-only) arrays."""
    name, test = config.name, None
    if text.is_text(name):
        return _text(config)
    if name == "digits":
        raw = _digits()
    elif name in DENSITIES:
        sequence = np.random.SeedSequence(seed, spawn_key=(_DENSITY,))
        raw = _Raw(*DENSITIES[name](config.size, np.random.default_rng(sequence)))
    elif name.startswith("openml:"):
        raw = _openml(name.removeprefix("openml:"))
    elif name.endswith(".npz"):
        raw = _npz(Path(name))
    else:
        raw, test = _idx(name, root)
    if not np.isfinite([raw.x.min(), raw.x.max()]).all():
        place = _first(raw.x, ~np.isfinite(raw.x))
        raise DataError(f"data.name: {name!r} needs finite values, not {place}")
    if config.binarize and not 0 <= raw.x.min() <= raw.x.max() <= raw.scale:
        place = _first(raw.x, (raw.x < 0) | (raw.x > raw.scale))
        raise DataError(
            f"data.binarize: the values of {name!r} are not in [0, 1], such as {place}; set it "
            "to false"
        )
    _check_labels(name, raw, test)
    return _split(config, seed, raw, test)


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    """The first offending value of ``(n, ...)``, in words."""
    place = np.unravel_index(int(bad.argmax()), bad.shape)
    return _place(place, values[place])


def _place(index: Sequence[int | np.integer], value: float) -> str:
    """A value and where it stands, counted from 0."""
    row, *rest = map(int, index)
    column = f"column {rest[0]}" if len(rest) == 1 else f"pixel {tuple(rest)}"
    return f"{value:g} in row {row}, {column}"


def _check_labels(name: str, raw: _Raw, test: _Raw | None) -> None:
    """Labels are 0, 1, 2 and so on: a model's tables are as long as the largest one.

    Raises:
        DataError: a label that cannot be one of so many rows, or that only the test rows have.
    """
    if raw.y is None:
        return
    bad = (raw.y < 0) | (raw.y >= len(raw.y))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"data.name: {name!r} has the label {raw.y[row]} in row {row}; expected 0, 1, 2 and "
            f"so on, less than its {len(raw.y)} rows"
        )
    if test is None or test.y is None:
        return
    most = int(raw.y.max())
    bad = (test.y < 0) | (test.y > most)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"data.name: {name!r} has the label {test.y[row]} in test row {row}; those of the "
            f"training rows go from 0 to {most}"
        )


def _text(config: DataConfig) -> DataSet:
    """Windows of a text, in its order: first those to train on, then validation, then test."""
    tokens = text.tokenize(text.read(config.name), config.tokens)
    count = len(tokens) // config.window
    tested = _share(config.test, count)
    held_out = _share(config.validation, count - tested)
    trained = count - tested - held_out
    if trained < 1:
        raise DataError(
            f"data.window: {config.name!r} has {len(tokens)} {config.tokens}, which make {count} "
            f"windows of {config.window}; with {held_out} for validation and {tested} for the test "
            "none is left to train on; use a longer text or shorter windows"
        )
    vocabulary = text.make_vocabulary(tokens[: trained * config.window])
    if len(vocabulary) < 2:
        raise DataError(
            f"data.name: in the training part of {config.name!r}, {trained * config.window} "
            f"{config.tokens} long, none occurs twice; use a longer text"
        )
    rows = text.windows(text.encode(tokens, vocabulary), config.window, vocabulary)
    rows.flags.writeable = False
    train, validation, test = np.split(rows, [trained, trained + held_out])
    shape = (config.window,)
    return DataSet(train, validation, test, shape, 1.0, False, {}, vocabulary=vocabulary)


def _split(config: DataConfig, seed: int, raw: _Raw, test: _Raw | None) -> DataSet:
    count = len(raw.x)
    tested = 0 if test else _share(config.test, count)
    held_out = _share(config.validation, count - tested)
    trained = count - tested - held_out
    if trained < 1:
        raise DataError(
            f"data.name: {config.name!r} has {count} rows; with {held_out} for validation and "
            f"{tested} for the test none is left to train on"
        )
    sequence = np.random.SeedSequence(seed, spawn_key=(_SPLIT,))
    order = np.random.default_rng(sequence).permutation(count)
    parts = np.split(order, [trained, trained + held_out])
    x = [raw.x[part] for part in parts]
    y = [raw.y[part].astype(np.int64) for part in parts] if raw.y is not None else []
    if test:
        x[2] = test.x
        y = [*y[:2], test.y.astype(np.int64)] if y and test.y is not None else []
    width = math.prod(raw.x.shape[1:])
    flat = [np.ascontiguousarray(part).reshape(-1, width) for part in x]
    for array in (*flat, *y):
        array.flags.writeable = False
    labels = dict(zip(SPLITS, y, strict=False))
    if test:
        parts[2] = np.arange(len(test.x))
    origin = dict(zip(SPLITS, parts, strict=True))
    return DataSet(
        flat[0], flat[1], flat[2], raw.x.shape[1:], raw.scale, config.binarize, labels, origin
    )


def _share(share: float, count: int) -> int:
    """The nearest whole number of rows, at least one of a share above zero."""
    return max(round(share * count), 1 if share else 0)


def _digits() -> _Raw:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return _Raw(bunch.images.astype(np.uint8), bunch.target.astype(np.int64), scale=16.0)


def _openml(name: str) -> _Raw:
    """A data set of openml.org, kept in scikit-learn's cache; whole numbers 0..255 are pixels."""
    from sklearn.datasets import fetch_openml

    try:
        bunch: Any = fetch_openml(name, as_frame=False, parser="liac-arff")
        x = np.asarray(bunch.data.todense() if hasattr(bunch.data, "todense") else bunch.data)
        x = x.astype(np.float32)
    except Exception as error:
        # Whatever the network, the server or the file did: the user can only try another way.
        raise DataError(
            f"data.name: openml gave no numeric data set {name!r} ({error}); check the name and "
            "the network, or save the data as FILE.npz with an array 'x'"
        ) from error
    y = None if bunch.target is None else np.unique(bunch.target, return_inverse=True)[1]
    if x.min() == 0 and x.max() == 255 and (x == np.floor(x)).all():
        return _Raw(x.astype(np.uint8), y, scale=255.0)
    return _Raw(x, y)


def _npz(path: Path) -> _Raw:
    """``x`` of a NumPy archive: ``(n, ...)``, uint8 pixels or numbers; ``y``: ``(n,)`` integers."""
    expected = "expected a NumPy archive with an array 'x' of at least 2 dimensions and numbers"
    try:
        archive = np.load(path, allow_pickle=False)
        arrays = {key: archive[key] for key in ("x", "y") if key in archive}
    except FileNotFoundError:
        raise DataError(f"data.name: there is no file {str(path)!r}") from None
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = error if zipfile.is_zipfile(path) else "it is no archive of arrays"
        raise DataError(f"{path}: cannot be read ({reason}); {expected}") from error
    if "x" not in arrays:
        raise DataError(f"{path}: there is no array 'x' in it; {expected}")
    x, y = arrays["x"], arrays.get("y")
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "buif":
        raise DataError(f"{path}: found 'x' of shape {x.shape} and dtype {x.dtype}; {expected}")
    if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in "ui"):
        raise DataError(
            f"{path}: found 'y' of shape {y.shape} and dtype {y.dtype}, expected "
            f"{x.shape[:1]} integers"
        )
    if x.dtype == np.uint8:
        return _Raw(x, y, scale=255.0)
    return _Raw(x.astype(np.float32), y)


def _idx(name: str, root: Path | None) -> tuple[_Raw, _Raw | None]:
    """Training rows, and test rows where there are, of the IDX files in ``root/name``."""
    if root is None or find_idx(root / name, "train", "images") is None:
        raise _missing(name, root)
    train, test = _idx_split(root / name, "train"), _idx_split(root / name, "test")
    assert train is not None
    if test is not None and test.x.shape[1:] != train.x.shape[1:]:
        raise DataError(
            f"{root / name}: test images of {test.x.shape[1:]} pixels, training images of "
            f"{train.x.shape[1:]}; they are not of one data set"
        )
    return train, test


def _idx_split(folder: Path, split: str) -> _Raw | None:
    images, labels = (find_idx(folder, split, kind) for kind in ("images", "labels"))
    if images is None:
        return None
    x = read_idx(images, 3)
    if x.size == 0:
        raise DataError(f"{images}: holds no images")
    if labels is None:
        return _Raw(x, scale=255.0)
    y = read_idx(labels, 1)
    if len(y) != len(x):
        raise DataError(f"{labels}: found {len(y)} labels, expected {len(x)}, one for each image")
    return _Raw(x, y, scale=255.0)


def _missing(name: str, root: Path | None) -> DataError:
    """Say where the set was looked for; the name or the folder may be the mistake."""
    found = [p.name for p in root.iterdir() if p.is_dir()] if root and root.is_dir() else []
    key = "data.name" if found else "data.root"
    if root is None:
        looked = f"data.root and {ROOT_VARIABLE} are not set"
    elif not root.is_dir():
        looked = f"there is no folder {root}"
    else:
        looked = f"no train-images-idx3-ubyte(.gz) in {root / name}"
    return DataError(
        f"{key}: there is no data set {name!r}: {looked} (set data.root or {ROOT_VARIABLE} to the "
        f"folder that holds {name}/){did_you_mean(name, ['digits', *DENSITIES, *found])}"
    )


@functools.lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order ``(count,)`` in which an epoch visits the training rows (read-only).

    A function of its arguments alone: every worker computes the same one.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_EPOCH, epoch))
    order = np.random.default_rng(sequence).permutation(count)
    order.flags.writeable = False
    return order


def minibatch_part(
    order: np.ndarray, batch_size: int, index: int, worker: int, workers: int
) -> np.ndarray:
    """The indices that one worker reads of minibatch ``index`` of an epoch.

    Joined in the order of the workers, the parts are ``order[index * batch_size :][:batch_size]``
    whatever their number. The last minibatch of an epoch is as short as the rows that are left:
    every row is visited exactly once per epoch.
    """
    minibatch = order[index * batch_size : (index + 1) * batch_size]
    first, last = (len(minibatch) * part // workers for part in (worker, worker + 1))
    return minibatch[first:last]


class Rows(Protocol):
    """What minibatches are taken of: a `DataSet`, or recorded steps."""

    def count(self, split: str) -> int:
        """How many rows a split has."""

    def columns(self, split: str, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Some rows of a split, by the names of their columns."""


class Shard:
    """One worker's part of every minibatch, one after the other, epoch by epoch.

    Attributes:
        epoch: epochs completed by all workers together.
        position: minibatches completed of the present epoch.
    """

    def __init__(
        self, dataset: Rows, seed: int, batch_size: int, worker: int = 0, workers: int = 1
    ) -> None:
        """Start at the first minibatch of epoch 0.

        Raises:
            ConfigError: more workers than rows of a minibatch.
        """
        size = min(batch_size, dataset.count("train"))
        if workers > size:
            raise ConfigError(
                f"scheduler.workers: {workers} workers cannot share minibatches of {size} rows; "
                "use fewer workers or a larger hyperparameters.batch_size"
            )
        self.dataset = dataset
        self.seed = seed
        self.batch_size = size
        self.worker = worker
        self.workers = workers
        self.epoch = 0
        self.position = 0

    def next(self) -> dict[str, np.ndarray]:
        """This worker's rows of the next minibatch, by the names of their columns.

        Empty for some workers where the last minibatch of an epoch has fewer rows than workers.
        """
        count = self.dataset.count("train")
        order = epoch_order(count, self.seed, self.epoch)
        indices = minibatch_part(order, self.batch_size, self.position, self.worker, self.workers)
        self.position += 1
        if self.position * self.batch_size >= count:
            self.epoch, self.position = self.epoch + 1, 0
        return self.dataset.columns("train", indices)

    def seek(self, minibatches: int) -> None:
        """Go on after so many minibatches since the start."""
        per_epoch = -(-self.dataset.count("train") // self.batch_size)
        self.epoch, self.position = divmod(minibatches, per_epoch)

    @property
    def epochs(self) -> float:
        """Epochs completed by all workers together, with the fraction of the present one."""
        return self.epoch + self.position * self.batch_size / self.dataset.count("train")
