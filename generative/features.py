"""Features of images in which distances mean something: those of a small classifier.

The classifier is trained here, on the training rows and their labels, once for each data set: its
weights are kept in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from rlgen.generative.data import DataSet

FEATURES = 64
VERSION = 1  # of the network: another number, other features
_SEED, _BATCH, _RATE = 0, 128, 3e-3
DROPPED = 0.3
_SEEN = 40_000  # rows that the training goes through at least, in whole epochs
_CHUNK = 2_000  # rows per forward; bounds the memory


class Classifier(nn.Module):
    """Three convolutions of stride 2, a layer of `FEATURES` units, and the logits.

    Args:
        shape: of an image, ``(h, w)`` or ``(h, w, channels)``.
        classes: labels.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape = (*shape, 1)[:3]
        height, width, channels = self.shape
        layers: list[nn.Module] = []
        for before, after in ((channels, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
            height, width = (height + 1) // 2, (width + 1) // 2
        layers += [nn.Flatten(), nn.Linear(64 * height * width, FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The features ``(n, FEATURES)`` of rows ``(n, d)``."""
        features: Tensor = self.body(x.reshape(-1, *self.shape).movedim(3, 1))
        return features


def available(dataset: DataSet) -> bool:
    """Whether the rows are images ``(h, w)`` or ``(h, w, channels)`` with labels of two kinds."""
    return len(dataset.shape) in (2, 3) and dataset.classes > 1


def classifier(dataset: DataSet) -> Classifier:
    """The trained classifier of a data set for which it is `available`.

    A function of the training rows and labels alone: from the cache folder, or trained anew. It
    leaves torch's random state as it is.
    """
    path = _cache_file(dataset)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(_SEED)
        model = Classifier(dataset.shape, dataset.classes)
        if path is not None:
            # Whatever is wrong with a kept file, training mends it.
            with contextlib.suppress(OSError, SafetensorError, RuntimeError):
                model.load_state_dict(load_file(path))
                return model
        _train(model, dataset)
    if path is not None:
        with contextlib.suppress(OSError):  # a folder that cannot be written costs time only
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            save_file(model.state_dict(), part)
            part.replace(path)
    return model


def extractor(dataset: DataSet) -> Callable[[np.ndarray], np.ndarray]:
    """From rows ``(n, d)`` to their features ``(n, FEATURES)`` by the `classifier`."""
    model = classifier(dataset)

    def features(rows: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.asarray(rows, np.float32))
        with torch.no_grad():
            return torch.cat([model(part) for part in x.split(_CHUNK)]).numpy()

    return features


def _train(model: Classifier, dataset: DataSet) -> None:
    count, labels = dataset.count("train"), torch.from_numpy(dataset.labels["train"].copy())
    epochs = -(-_SEEN // count)
    steps = epochs * -(-count // _BATCH)
    optimizer = torch.optim.Adam(model.parameters(), _RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(count).split(_BATCH):
            x = torch.from_numpy(dataset.rows("train", chosen.numpy()))
            optimizer.zero_grad()
            features = dropout(model(x), DROPPED)
            torch.autograd.backward(cross_entropy(model.head(features), labels[chosen]))
            optimizer.step()
            schedule.step()


def _cache_file(dataset: DataSet) -> Path | None:
    """Where the weights are kept; None where there is no home folder."""
    key = hashlib.sha256(dataset.train.tobytes())
    key.update(dataset.labels["train"].tobytes())
    training = (VERSION, _SEED, _BATCH, _RATE, _SEEN, DROPPED)
    rows = (dataset.shape, dataset.classes, dataset.scale, dataset.binarize)
    key.update(repr((training, rows)).encode())
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return root / "rlgen" / f"features-{key.hexdigest()[:32]}.safetensors"
