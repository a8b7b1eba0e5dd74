"""Small experiments, one per algorithm, that the tests of the platform run."""

from typing import Any

import rlgen

TINY: dict[str, dict[str, Any]] = {
    "value-iteration": {
        "algorithm": "value-iteration",
        "env": {"id": "FrozenLake-v1"},
        "stop": {"updates": 60},
    },
    "policy-iteration": {
        "algorithm": "policy-iteration",
        "hyperparameters": {"evaluation": "modified", "sweeps": 2},
        "env": {"id": "FrozenLake-v1"},
        "stop": {"updates": 20},
    },
    "policy-evaluation": {
        "algorithm": "policy-evaluation",
        "env": {"id": "rlgen/Cliff-v0", "kwargs": {"slip": 0.1}},
        "stop": {"updates": 60},
    },
    "rmax": {
        "algorithm": "rmax",
        "hyperparameters": {"gamma": 0.9, "r_max": -1.0, "known_after": 5},
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 3, "kwargs": {"slip": 0.1}},
        "stop": {"env_steps": 1200},
    },
    "rmax, random": {
        "algorithm": "rmax",
        "hyperparameters": {"gamma": 0.9, "exploration": "random", "rollout_steps": 5},
        "env": {"id": "FrozenLake-v1", "num_envs": 3},
        "stop": {"env_steps": 1200},
    },
    "q-learning": {
        "algorithm": "q-learning",
        "hyperparameters": {"gamma": 1.0},
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 3, "kwargs": {"slip": 0.1}},
        "stop": {"env_steps": 3000},
    },
    "sarsa": {
        "algorithm": "sarsa",
        "hyperparameters": {"steps": 3, "epsilon_schedule": "glie", "epsilon_visits": 20},
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 3, "kwargs": {"slip": 0.1}},
        "stop": {"env_steps": 2000},
    },
    "sarsa-lambda": {
        "algorithm": "sarsa-lambda",
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 3, "kwargs": {"slip": 0.1}},
        "stop": {"env_steps": 2000},
    },
    "monte-carlo": {
        "algorithm": "monte-carlo",
        "hyperparameters": {"exploring_starts": True},
        "env": {"id": "FrozenLake-v1", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "off-policy-monte-carlo": {
        "algorithm": "off-policy-monte-carlo",
        "env": {"id": "Blackjack-v1", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "td-lambda": {
        "algorithm": "td-lambda",
        "hyperparameters": {"trace_decay": 0.8},
        "env": {"id": "rlgen/RandomWalk-v0", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "dqn": {
        "algorithm": "dqn",
        "hyperparameters": {"learning_starts": 200, "buffer_size": 700, "batch_size": 32},
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "stop": {"env_steps": 1500},
    },
    "dqn with every option": {
        "algorithm": "dqn",
        "hyperparameters": {
            "learning_starts": 200,
            "buffer_size": 700,
            "batch_size": 32,
            "double": True,
            "duelling": True,
            "prioritised": True,
            "n_step": 3,
            "loss": "huber",
            "polyak": 0.05,
        },
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 3, "normalize_observation": True},
        "stop": {"env_steps": 1500},
    },
    "drqn": {
        "algorithm": "drqn",
        "hyperparameters": {
            "learning_starts": 200,
            "buffer_size": 700,
            "batch_size": 8,
            "sequence": 6,
            "burn_in": 2,
        },
        "network": {"hidden": [], "memory": "lstm", "memory_size": 8},
        "env": {"id": "CartPole-v1", "num_envs": 3, "observed": [0, 2]},
        "stop": {"env_steps": 1200},
    },
    "a3c": {
        "algorithm": "a3c",
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 4, "normalize_observation": True},
        "stop": {"env_steps": 3000},
    },
    "epsilon-greedy": {
        "algorithm": "epsilon-greedy",
        "hyperparameters": {"rollout_steps": 2, "step_size": 0.1},
        "env": {
            "id": "rlgen/GaussianBandit-v0",
            "kwargs": {"bandits": 20, "max_episode_steps": 30},
            "num_envs": 20,
        },
        "stop": {"env_steps": 3200},
    },
    "gradient-bandit": {
        "algorithm": "gradient-bandit",
        "env": {
            "id": "rlgen/GaussianBandit-v0",
            "kwargs": {"bandits": 20, "max_episode_steps": 30},
            "num_envs": 20,
        },
        "stop": {"env_steps": 3200},
    },
    "ucb1": {
        "algorithm": "ucb1",
        "env": {
            "id": "rlgen/BernoulliBandit-v0",
            "kwargs": {"bandits": 20, "max_episode_steps": 30},
            "num_envs": 20,
        },
        "stop": {"env_steps": 3200},
    },
    "thompson": {
        "algorithm": "thompson",
        "env": {
            "id": "rlgen/BernoulliBandit-v0",
            "kwargs": {"bandits": 20, "max_episode_steps": 30},
            "num_envs": 20,
        },
        "stop": {"env_steps": 3200},
    },
    "behaviour-cloning": {
        "algorithm": "behaviour-cloning",
        "network": {"hidden": [16]},
        "demonstrations": {"path": "cartpole-expert", "episodes": 2},
        "env": {"id": "CartPole-v1"},
        "stop": {"epochs": 2},
    },
    "gail": {
        "algorithm": "gail",
        "hyperparameters": {"rollout_steps": 16, "epochs": 2, "minibatch_size": 64},
        "network": {"hidden": [16]},
        "demonstrations": {"path": "cartpole-expert", "episodes": 2},
        "env": {"id": "CartPole-v1", "num_envs": 4},
        "stop": {"env_steps": 1000},
    },
    "max-ent-irl": {
        "algorithm": "max-ent-irl",
        "hyperparameters": {"gamma": 0.5},
        "demonstrations": {"path": "grid-expert", "episodes": 20},
        "env": {
            "id": "FrozenLake-v1",
            "kwargs": {"desc": ["SFFFF", "FHFHF", "FFFFF", "HFFHF", "FFFFG"]},
        },
        "stop": {"updates": 60},
    },
    "options": {
        "algorithm": "options",
        "env": {"id": "rlgen/FourRooms-v0", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "a2c-gru": {
        "algorithm": "a2c",
        "network": {"hidden": [16], "memory": "gru", "memory_size": 8},
        "env": {"id": "CartPole-v1", "num_envs": 3, "observed": [0, 2]},
        "stop": {"env_steps": 1500},
    },
    "ppo-lstm": {
        "algorithm": "ppo",
        "hyperparameters": {"epochs": 2, "minibatch_size": 64},
        "network": {"hidden": [16], "memory": "lstm", "memory_size": 8},
        "env": {
            "id": "CartPole-v1",
            "num_envs": 3,
            "observed": [0, 2],
            "normalize_observation": True,
        },
        "stop": {"env_steps": 1500},
    },
    "a2c": {
        "algorithm": "a2c",
        "hyperparameters": {"annealing_steps": 2000},
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 4},
        "stop": {"env_steps": 1500},
    },
    "ppo": {
        "algorithm": "ppo",
        "hyperparameters": {"minibatch_size": 64, "epochs": 2, "annealing_steps": 2000},
        "network": {"hidden": [16]},
        "env": {"id": "Pendulum-v1", "num_envs": 4, "normalize_observation": True},
        "stop": {"env_steps": 1500},
    },
    "impala": {
        "algorithm": "impala",
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 4},
        "stop": {"env_steps": 1500},
    },
    "reinforce": {  # episodes run on over the ends of rollouts, and wait for others
        "algorithm": "reinforce",
        "hyperparameters": {"baseline": True, "rollout_steps": 8, "episodes": 5},
        "network": {"hidden": [16]},
        "env": {"id": "CartPole-v1", "num_envs": 3, "normalize_observation": True},
        "stop": {"env_steps": 1500},
    },
    "actor-critic": {
        "algorithm": "actor-critic",
        "network": {"hidden": []},
        "env": {"id": "rlgen/Cliff-v0", "num_envs": 2},
        "stop": {"env_steps": 1000},
    },
    "ddpg": {
        "algorithm": "ddpg",
        "hyperparameters": {
            "learning_starts": 60,
            "buffer_size": 150,
            "batch_size": 16,
            "random_steps": 40,
            "noise_reversion": 0.15,
        },
        "network": {"hidden": [8]},
        "env": {"id": "Pendulum-v1", "num_envs": 3, "normalize_observation": True},
        "stop": {"env_steps": 240},
    },
    "td3": {
        "algorithm": "td3",
        "hyperparameters": {
            "learning_starts": 60,
            "buffer_size": 150,
            "batch_size": 16,
            "random_steps": 40,
        },
        "network": {"hidden": [8]},
        "env": {"id": "Pendulum-v1", "num_envs": 3},
        "stop": {"env_steps": 240},
    },
    "sac": {
        "algorithm": "sac",
        "hyperparameters": {
            "learning_starts": 60,
            "buffer_size": 150,
            "batch_size": 16,
            "random_steps": 40,
        },
        "network": {"hidden": [8]},
        "env": {"id": "Pendulum-v1", "num_envs": 3},
        "stop": {"env_steps": 240},
    },
    "cross-entropy": {
        "algorithm": "cross-entropy",
        "hyperparameters": {"population": 10, "extra_variance": 0.5},
        "network": {"hidden": [4]},
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "stop": {"env_steps": 2000},
    },
    "evolution-strategies": {
        "algorithm": "evolution-strategies",
        "hyperparameters": {"population": 10},
        "network": {"hidden": [4]},
        "env": {"id": "CartPole-v1", "num_envs": 3},
        "stop": {"env_steps": 2000},
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
    "autoencoder": {
        "algorithm": "autoencoder",
        "hyperparameters": {"latent": 4, "mask": 0.3, "kl": 0.1, "batch_size": 50},
        "network": {"hidden": [16]},
        "data": {"name": "digits"},
        "stop": {"epochs": 2},
    },
    "bernoulli-mixture": {
        "algorithm": "bernoulli-mixture",
        "hyperparameters": {"components": 4, "batch_size": 300, "tolerance": 0.0},
        "data": {"name": "digits", "binarize": True},
        "stop": {"epochs": 6},
    },
    "gaussian": {
        "algorithm": "gaussian",
        "hyperparameters": {"batch_size": 300},
        "data": {"name": "two_moons", "size": 2000},
        "stop": {"epochs": 2},
    },
    "gaussian-mixture": {
        "algorithm": "gaussian-mixture",
        "hyperparameters": {"components": 4, "batch_size": 300, "tolerance": 0.0},
        "data": {"name": "two_moons", "size": 2000},
        "stop": {"epochs": 6},
    },
    "histogram": {
        "algorithm": "histogram",
        "hyperparameters": {"bins": 10, "batch_size": 300},
        "data": {"name": "two_moons", "size": 2000},
        "stop": {"epochs": 2},
    },
    "kernel-density": {
        "algorithm": "kernel-density",
        "hyperparameters": {"batch_size": 300},
        "data": {"name": "two_moons", "size": 2000},
        "stop": {"epochs": 2},
    },
    "sparse-coding": {
        "algorithm": "sparse-coding",
        "hyperparameters": {"atoms": 20, "steps": 20, "batch_size": 200},
        "data": {"name": "digits"},
        "stop": {"epochs": 2},
    },
    "stacked-autoencoder": {
        "algorithm": "stacked-autoencoder",
        "hyperparameters": {"sizes": [16, 8], "layer_epochs": 1, "mask": 0.2, "batch_size": 50},
        "data": {"name": "digits"},
        "stop": {"epochs": 4},
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
