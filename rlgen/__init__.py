"""rlgen: reinforcement learning and generative modelling under one scheduler.

import rlgen

run = rlgen.train("dqn-cartpole", seed=3)
run.evaluate()
rlgen.load(run.dir).act(observation)
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Run", "load", "resume", "train"]


def __getattr__(name: str) -> Any:
    # Lazily, so that 'rlgen --help' and the workers need not import what they do not use.
    if name in __all__:
        from rlgen import api

        return getattr(api, name)
    raise AttributeError(f"module 'rlgen' has no attribute {name!r}")
