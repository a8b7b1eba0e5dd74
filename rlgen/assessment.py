"""What can be said of a trained model: its own figures, its samples, its codes, with their errors.

These are too dear for the evaluations during a training; `rlgen eval RUN` asks for them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from rlgen.algorithm import Algorithm, Estimate
from rlgen.batch import to_tensors
from rlgen.generative import features, metrics
from rlgen.generative.data import DataSet
from rlgen.generative.densities import MODE_SCALES, modes

ROWS = 2_000  # per call of a model; bounds the memory
FEWEST = 30  # rows from which a distance between sets of rows says something
CODED = 5_000  # training rows whose codes are learned from


def assess(
    algorithm: Algorithm, dataset: DataSet, name: str, split: str, rows: int
) -> dict[str, Estimate]:
    """All figures that apply to a model.

    ======================  ==================================================================
    the model has           figures
    ======================  ==================================================================
    ``measure``             its own
    ``sample``              `mmd`, `sliced_wasserstein`, `frechet`, `precision`, `recall`, and on
                            the densities of known modes `modes`, `high_quality`
    ``encode``, and labels  `code_accuracy`
    ======================  ==================================================================

    Samples are as many as rows. Of binary data, values between 0 and 1 are taken as probabilities
    and drawn. A text has no distances, nor have fewer than 30 rows.

    Args:
        algorithm: the model, with its weights; its random streams and torch's are drawn from.
        dataset: what it was trained on.
        name: of the data set.
        split: ``"validation"`` or ``"test"``.
        rows: how many of the split, at random; all where it has no more.
    """
    rng = np.random.default_rng(algorithm.rng.integers(2**63))
    chosen = rng.permutation(dataset.count(split))[:rows]
    held_out = dataset.columns(split, chosen)
    found: dict[str, Estimate] = {}
    with torch.no_grad():
        if algorithm.has("measure"):
            found |= _measured(algorithm, held_out)
        if algorithm.has("sample") and not dataset.vocabulary and len(chosen) >= FEWEST:
            other = "validation" if split == "test" else "test"
            pick = rng.permutation(dataset.count(other))[: len(chosen)]
            others = dataset.rows(other, pick)
            samples = _draw(algorithm, dataset, len(chosen))
            found |= _distances(dataset, samples, held_out["x"], others, other)
            if name in MODE_SCALES:
                found |= _modes(samples, name)
        if algorithm.has("encode") and dataset.classes > 1:
            found |= _coded(algorithm, dataset, held_out, rng)
    return found


def mean_and_error(values: np.ndarray, note: str = "") -> Estimate:
    """The mean of the figures of rows ``(n,)``, plus or minus its standard error."""
    mean = float(values.mean(dtype=np.float64))
    if len(values) < 2:
        return Estimate(mean, mean, mean, note or "one row")
    error = float(values.std(ddof=1, dtype=np.float64) / math.sqrt(len(values)))
    return Estimate(mean, mean - error, mean + error, note)


def _measured(algorithm: Algorithm, columns: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """The model's own figures; estimates of several chunks are averaged by their rows."""
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    estimates: dict[str, list[Estimate]] = defaultdict(list)
    sizes = []
    for part in _chunks(len(columns["x"])):
        chunk = to_tensors({name: column[part] for name, column in columns.items()})
        sizes.append(len(chunk["x"]))
        for name, figure in algorithm.measure(chunk).items():
            if isinstance(figure, Estimate):
                estimates[name].append(figure)
            else:
                rows[name].append(np.asarray(figure.cpu()))
    found = {name: mean_and_error(np.concatenate(parts)) for name, parts in rows.items()}
    for name, parts in estimates.items():
        bounds = np.array([[e.value, e.low, e.high] for e in parts])
        value, low, high = map(float, np.average(bounds, axis=0, weights=sizes))
        found[name] = Estimate(value, low, high, parts[0].note)
    return found


def _draw(algorithm: Algorithm, dataset: DataSet, count: int) -> np.ndarray:
    """Samples ``(count, d)`` of the model."""
    parts = [algorithm.sample(part.stop - part.start) for part in _chunks(count)]
    drawn = torch.cat(parts).cpu().reshape(count, -1)
    return (torch.bernoulli(drawn.clamp(0, 1)) if dataset.binarize else drawn).numpy()


def _distances(
    dataset: DataSet, samples: np.ndarray, data: np.ndarray, others: np.ndarray, other: str
) -> dict[str, Estimate]:
    """Distances of samples to held-out rows; the notes say what ``others`` get."""
    on_features = features.available(dataset)
    extract = features.extractor(dataset) if on_features else lambda rows: rows
    width = metrics.median_distance(data)

    def compare(x: np.ndarray, y: np.ndarray, fx: np.ndarray, fy: np.ndarray) -> tuple[float, ...]:
        return (
            metrics.squared_mmd(x, y, width),
            metrics.sliced_wasserstein(x, y, np.random.default_rng(0)),
            metrics.frechet_distance(fx, fy),
            *metrics.precision_recall(fx, fy),
        )

    seen = extract(data)
    values, errors = metrics.jackknife(compare, samples, data, extract(samples), seen)
    enough = len(others) >= FEWEST
    best = compare(others, data, extract(others), seen) if enough else ()
    names = ("mmd", "sliced_wasserstein", "frechet", "precision", "recall")
    found: dict[str, Estimate] = {}
    for i, (name, value, error) in enumerate(zip(names, values, errors, strict=True)):
        notes = ["features"] if on_features and i > 1 else []
        notes += [f"{other} rows {best[i]:.4g}"] if enough else []
        low, high = float(value - error), float(value + error)
        if name in ("precision", "recall"):  # which are shares
            low, high = max(low, 0.0), min(high, 1.0)
        found[name] = Estimate(float(value), low, high, ", ".join(notes))
    return found


def _modes(samples: np.ndarray, name: str) -> dict[str, Estimate]:
    """What the samples of a density whose modes are known found of them."""
    count, share = metrics.count_modes(samples, name)
    error = math.sqrt(share * (1 - share) / len(samples))
    note = f"share within {metrics.NEAR:g} deviations of a mode; of the density itself 0.989"
    return {
        "modes": Estimate(count, count, count, f"found of {len(modes(name))}"),
        "high_quality": Estimate(share, share - error, share + error, note),
    }


def _coded(
    algorithm: Algorithm,
    dataset: DataSet,
    columns: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """How well a logistic regression reads the labels off the codes."""
    chosen = rng.permutation(dataset.count("train"))[:CODED]
    trained = dataset.columns("train", chosen)
    if len(np.unique(trained["y"])) < 2:
        return {}
    codes = [_encode(algorithm, rows["x"]) for rows in (trained, columns)]
    if not codes[0].shape[1]:  # a Boltzmann machine without hidden units
        return {}
    right = metrics.classify(codes[0], trained["y"], codes[1], columns["y"])
    note = f"logistic regression on the codes of {len(chosen)} training rows"
    return {"code_accuracy": mean_and_error(right, note)}


def _encode(algorithm: Algorithm, x: np.ndarray) -> np.ndarray:
    parts = [algorithm.encode(torch.from_numpy(x[part])) for part in _chunks(len(x))]
    return np.concatenate([part.cpu().numpy() for part in parts])


def _chunks(count: int) -> Iterator[slice]:
    """Slices of at most `ROWS` rows that cover ``count`` rows."""
    for first in range(0, count, ROWS):
        yield slice(first, min(first + ROWS, count))
