"""Environments, their vectorisation, and exact models."""

import gymnasium as gym

gym.register(
    id="rlgen/Cliff-v0",
    entry_point="rlgen.envs.cliff:CliffEnv",
    max_episode_steps=200,
)
