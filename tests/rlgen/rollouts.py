"""Random rollouts such as the platform makes, for the tests of algorithms that learn from them."""

from typing import Any

import numpy as np
import torch


def random_rollout(
    algorithm: Any, steps: int = 7, envs: int = 5, features: int = 3, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Columns ``(T, B, ...)`` with actions of the algorithm's own.

    An episode ends in about four of ten rows; the row after it is not valid, as in Gymnasium's
    NEXT_STEP mode.
    """
    rng = np.random.default_rng(seed)
    observation, following = rng.normal(size=(2, steps, envs, features)).astype(np.float32)
    terminated = np.zeros((steps, envs), bool)
    truncated, valid = terminated.copy(), ~terminated
    for t in range(steps):
        if t:
            valid[t] = ~(terminated[t - 1] | truncated[t - 1])
        ended = rng.random(envs)
        terminated[t] = valid[t] & (ended < 0.2)
        truncated[t] = valid[t] & (ended > 0.8)
    reward = np.where(valid, rng.normal(size=(steps, envs)), 0.0).astype(np.float32)
    columns = {
        "observation": observation,
        "next_observation": following,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }
    assert truncated.any() and terminated.any() and not valid.all()
    return acted(algorithm, columns)


def acted(algorithm: Any, columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The columns as tensors, with what the algorithm's `act` adds to the observations' rows."""
    batch = {name: torch.from_numpy(column) for name, column in columns.items()}
    ended, rows = columns["terminated"] | columns["truncated"] | ~columns["valid"], []
    with torch.no_grad():
        for t, observation in enumerate(batch["observation"]):
            algorithm.starts = ended[t - 1] if t else np.ones(ended.shape[1], bool)
            rows.append(algorithm.act(observation, greedy=False))
    return batch | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
