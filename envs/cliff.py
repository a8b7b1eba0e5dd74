"""The slippery cliff of the book (Fig 14.1): 7 columns, 3 rows, a cliff between start and goal.

The book gives the grid and leaves the rest open; here every step costs 1, falling costs 100 and
ends the episode, reaching the goal ends it, a wall stops the step, and a step slips with
probability ``slip`` into one of the three other directions. (Gymnasium's CliffWalking is another
world: 4 x 12, where falling leads back to the start and the episode goes on.)
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROWS, COLUMNS = 3, 7
START, GOAL = 14, 20  # state = row * COLUMNS + column, rows from the top
CLIFF = range(15, 20)
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right, as (rows, columns)
Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


def transition_table(slip: float) -> Table:
    """``table[s][a] = [(probability, successor, reward, terminated), ...]`` for 21 states.

    Args:
        slip: probability in [0, 1] of moving in one of the three other directions.
    """
    table: Table = {}
    for state in range(ROWS * COLUMNS):
        arrivals = [_arrival(state, move) for move in MOVES]
        table[state] = {
            action: [
                (1.0 - slip if move == action else slip / 3.0, *arrivals[move])
                for move in range(len(MOVES))
            ]
            for action in range(len(MOVES))
        }
    return table


def _arrival(state: int, move: tuple[int, int]) -> tuple[int, float, bool]:
    """Successor, reward and termination of a move that does not slip."""
    row, column = divmod(state, COLUMNS)
    down, right = move
    row = min(max(row + down, 0), ROWS - 1)
    column = min(max(column + right, 0), COLUMNS - 1)
    successor = row * COLUMNS + column
    if successor in CLIFF:
        return successor, -100.0, True
    return successor, -1.0, successor == GOAL


class CliffEnv(gym.Env[Any, Any]):
    """``rlgen/Cliff-v0``: observations are the 21 cells, actions up, down, left, right.

    Args:
        slip: probability in [0, 1] that a step goes in one of the other directions.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture, ``(240, 560, 3)`` uint8).

    Raises:
        ValueError: ``slip`` is not a probability.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, slip: float = 0.0, render_mode: str | None = None) -> None:
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"slip must be in [0, 1], got {slip}")
        self.P = transition_table(slip)
        self.initial_state_distrib = np.zeros(ROWS * COLUMNS)
        self.initial_state_distrib[START] = 1.0
        self.observation_space = gym.spaces.Discrete(ROWS * COLUMNS)
        self.action_space = gym.spaces.Discrete(len(MOVES))
        self.render_mode = render_mode
        self.state = START

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin at the start."""
        super().reset(seed=seed)
        self.state = START
        return self.state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Move one cell."""
        outcomes = self.P[self.state][int(action)]
        drawn = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        _, self.state, reward, terminated = outcomes[drawn]
        return self.state, reward, terminated, False, {}

    def render(self) -> Any:
        """The grid as text or as a picture, by ``render_mode``."""
        if self.render_mode == "ansi":
            cells = [self._letter(state) for state in range(ROWS * COLUMNS)]
            lines = (cells[row * COLUMNS : (row + 1) * COLUMNS] for row in range(ROWS))
            return "\n".join(" ".join(line) for line in lines) + "\n"
        if self.render_mode == "rgb_array":
            return self._picture()
        return None

    def _letter(self, state: int) -> str:
        if state == self.state:
            return "@"
        return {START: "S", GOAL: "G"}.get(state, "x" if state in CLIFF else ".")

    def _picture(self, size: int = 80) -> np.ndarray:
        image = Image.new("RGB", (COLUMNS * size, ROWS * size), "#f4f1e8")
        draw = ImageDraw.Draw(image)
        font = ImageFont.load_default(size * 0.4)
        labels = {START: ("S", "#dbe9f6", "#2b5c8a"), GOAL: ("G", "#d5ecd4", "#2f6b2d")}
        for state in range(ROWS * COLUMNS):
            row, column = divmod(state, COLUMNS)
            left, top = column * size, row * size
            box = (left, top, left + size - 1, top + size - 1)
            label, fill, ink = labels.get(state, ("", "#f4f1e8", "black"))
            if state in CLIFF:
                fill = "#4a3b35"
            draw.rectangle(box, fill=fill, outline="#b9b2a3")
            if state in CLIFF:  # rock: three diagonal cracks
                for k in (1, 2, 3):
                    draw.line(
                        (left + k * size // 4, top + 8, left + k * size // 4 - 14, top + size - 9),
                        fill="#7d675c",
                        width=4,
                    )
            draw.text((left + size * 0.2, top + size * 0.22), label, ink, font, anchor="mm")
        row, column = divmod(self.state, COLUMNS)
        x, y, r = (column + 0.5) * size, (row + 0.5) * size, size * 0.26
        draw.ellipse((x - r, y - r, x + r, y + r), fill="#e4572e", outline="white", width=4)
        return np.array(image)
