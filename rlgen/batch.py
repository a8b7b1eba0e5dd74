"""Batches: flat dictionaries of NumPy columns of fixed shape and dtype.

A rollout's columns are time-major, ``(T, B, ...)``; a data batch's are ``(n, ...)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

Batch = dict[str, np.ndarray]
Spec = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def spec_of(columns: Mapping[str, np.ndarray], leading: tuple[int, ...]) -> Spec:
    """Declare columns like the given rows ``(B, ...)``, with ``leading`` in front."""
    return {name: ((*leading, *rows.shape), rows.dtype) for name, rows in columns.items()}


def allocate(spec: Spec) -> Batch:
    """Uninitialised columns of the declared shapes and dtypes."""
    return {name: np.empty(shape, dtype) for name, (shape, dtype) in spec.items()}


def concatenate(batches: Sequence[Batch], axis: int) -> Batch:
    """The batches of several workers as one, in the order given; a single one is not copied.

    Raises:
        ValueError: the batches do not have the same columns.
    """
    if len(batches) == 1:
        return batches[0]
    names = batches[0].keys()
    if any(batch.keys() != names for batch in batches):
        raise ValueError(f"batches differ in their columns: {[sorted(b) for b in batches]}")
    return {name: np.concatenate([batch[name] for batch in batches], axis) for name in names}


def to_tensors(columns: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Columns as torch tensors on a device; on the CPU they share the arrays' memory."""
    return {
        name: torch.from_numpy(column).to(device, non_blocking=True)
        for name, column in columns.items()
    }


def to_arrays(columns: dict[str, Any]) -> Batch:
    """Columns as NumPy arrays, whether they were tensors or arrays."""
    return {
        name: column.detach().cpu().numpy() if isinstance(column, torch.Tensor) else column
        for name, column in columns.items()
    }
