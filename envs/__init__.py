"""Environments, their vectorisation, and exact models."""

import gymnasium as gym

#: Environments that are exact models: id, class, steps after which an episode is cut.
TABULAR: dict[str, tuple[str, int | None]] = {
    "rlgen/CarRental-v0": ("rlgen.envs.examples:CarRentalEnv", 100),
    "rlgen/Cliff-v0": ("rlgen.envs.gridworlds:CliffEnv", 200),
    "rlgen/FourRooms-v0": ("rlgen.envs.gridworlds:FourRoomsEnv", 1000),
    "rlgen/Gambler-v0": ("rlgen.envs.examples:GamblerEnv", None),
    "rlgen/RandomMDP-v0": ("rlgen.envs.tabular:RandomMDPEnv", 100),
    "rlgen/RandomWalk-v0": ("rlgen.envs.gridworlds:RandomWalkEnv", None),
    "rlgen/WindyGrid-v0": ("rlgen.envs.gridworlds:WindyGridEnv", 2000),
}

for name, (entry_point, limit) in TABULAR.items():
    gym.register(id=name, entry_point=entry_point, max_episode_steps=limit)

for _kind in ("gaussian", "bernoulli"):
    gym.register(
        id=f"rlgen/{_kind.capitalize()}Bandit-v0",
        vector_entry_point="rlgen.envs.bandits:BanditVectorEnv",
        kwargs={"kind": _kind},
    )
