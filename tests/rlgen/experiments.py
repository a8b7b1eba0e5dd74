"""Small experiments, one per algorithm, that the tests of the platform run."""

from typing import Any

import rlgen

TINY: dict[str, dict[str, Any]] = {
    "value-iteration": {
        "algorithm": "value-iteration",
        "env": {"id": "FrozenLake-v1"},
        "stop": {"updates": 60},
    },
    "q-learning": {
        "algorithm": "q-learning",
        "hyperparameters": {"gamma": 1.0},
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 3, "kwargs": {"slip": 0.1}},
        "stop": {"env_steps": 3000},
    },
    "dqn": {
        "algorithm": "dqn",
        "hyperparameters": {"learning_starts": 200, "buffer_size": 700, "batch_size": 32},
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "stop": {"env_steps": 1500},
    },
    "a3c": {
        "algorithm": "a3c",
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 4, "normalize_observation": True},
        "stop": {"env_steps": 3000},
    },
    "own_algorithm:RandomSearch": {
        "algorithm": "own_algorithm:RandomSearch",
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "vae": {
        "algorithm": "vae",
        "hyperparameters": {"latent": 2, "batch_size": 50},
        "network": {"hidden": [16]},
        "data": {"name": "digits"},
        "stop": {"epochs": 2},
    },
    "rbm": {
        "algorithm": "rbm",
        "hyperparameters": {"hidden": 8, "batch_size": 50},
        "data": {"name": "digits", "binarize": True},
        "stop": {"epochs": 2},
    },
}


def train(name: str, runs_dir: Any, changes: dict[str, Any] | None = None) -> rlgen.Run:
    """Run a small experiment with two workers, three evaluation episodes, and dotted changes."""
    plain = {"name": name.replace(":", "-"), "scheduler": {"workers": 2}, **TINY[name]}
    if "env" in plain:
        plain["evaluation"] = {"episodes": 3}
    return rlgen.train(plain, {"run.dir": str(runs_dir), **(changes or {})})
