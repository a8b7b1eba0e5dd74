"""The host of one actor: its own random stream and thread count, whatever process it shares."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch


class Host:
    """Hold one actor and call its methods.

    Both backends run every actor inside a Host, which swaps the actor's own torch random state and
    its number of threads in around each call. So an algorithm may use torch's global generator,
    and sharing a process with other actors (inline) changes no result.
    """

    def __init__(self, target: str, args: tuple[Any, ...], seed: int, threads: int) -> None:
        self.target, self.args, self.threads = target, args, threads
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        self.actor: Any = None

    def start(self) -> None:
        """Construct the actor; apart from ``__init__``, so that its errors arrive as they are."""
        module, _, name = self.target.partition(":")
        constructor = getattr(importlib.import_module(module), name)
        self.actor = self._inside(constructor, self.args)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the actor."""
        return self._inside(getattr(self.actor, method), args)

    def random(self) -> np.ndarray:
        """The actor's torch random state, for a checkpoint (uint8)."""
        return self.random_state.numpy()

    def set_random(self, state: np.ndarray) -> None:
        """Set the actor's torch random state."""
        self.random_state = torch.from_numpy(state.copy())

    def _inside(self, function: Any, args: tuple[Any, ...]) -> Any:
        outside, threads = torch.get_rng_state(), torch.get_num_threads()
        torch.set_rng_state(self.random_state)
        if threads != self.threads:
            torch.set_num_threads(self.threads)
        try:
            return function(*args)
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(outside)
            if threads != self.threads:
                torch.set_num_threads(threads)
