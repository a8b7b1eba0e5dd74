"""Grid worlds: a layout of letters as states, moves between them, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rlgen.envs.mdp import Outcomes
from rlgen.envs.tabular import TabularEnv

WALL, FREE, START, GOAL, CLIFF = "#", ".", "S", "G", "x"
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))  # up, down, left, right, as (rows, columns)

_PAPER, _LINE, _AGENT = "#f4f1e8", "#b9b2a3", "#e4572e"
_FILLS = {START: "#dbe9f6", GOAL: "#d5ecd4", CLIFF: "#4a3b35", WALL: "#5c6670"}
_INKS = {START: "#2b5c8a", GOAL: "#2f6b2d"}
_CRACK = "#7d675c"


class Arrival(NamedTuple):
    """What one move leads to when nothing slips."""

    successor: int
    reward: float
    terminated: bool


class Grid:
    """The cells of a layout; its states are those that are no wall, numbered as one reads.

    Args:
        layout: rows of equal length, from the top, of the letters above.
    """

    def __init__(self, layout: Sequence[str]) -> None:
        self.layout = tuple(layout)
        self.shape = len(layout), len(layout[0])
        self.cells = [
            (row, column)
            for row, letters in enumerate(layout)
            for column, letter in enumerate(letters)
            if letter != WALL
        ]
        self.number = {cell: state for state, cell in enumerate(self.cells)}

    def letter(self, state: int) -> str:
        """The letter of a state's cell."""
        row, column = self.cells[state]
        return self.layout[row][column]

    def find(self, letter: str) -> list[int]:
        """The states with a letter."""
        return [state for state in range(len(self.cells)) if self.letter(state) == letter]

    def move(self, state: int, rows: int, columns: int) -> int:
        """Where a move leads: the edge stops it in that direction, a wall altogether."""
        row, column = self.cells[state]
        row = min(max(row + rows, 0), self.shape[0] - 1)
        column = min(max(column + columns, 0), self.shape[1] - 1)
        return self.number.get((row, column), state)

    def slippery(
        self, arrive: Callable[[int], Arrival], slip: float, start: np.ndarray
    ) -> Outcomes:
        """The table of the four `MOVES`: each of the three others happens with ``slip / 3``.

        Args:
            arrive: what happens to one who comes to a state.
            slip: in [0, 1].
            start: ``(S,)``, the distribution of the first state.

        Raises:
            ValueError: ``slip`` is not a probability.
        """
        if not 0.0 <= slip <= 1.0:
            raise ValueError(f"slip must be in [0, 1], got {slip}")
        rows: list[tuple[int, float, int, float, bool]] = []
        for state in range(len(self.cells)):
            arrivals = [arrive(self.move(state, *move)) for move in MOVES]
            for action in range(4):
                chances = [1.0 - slip if move == action else slip / 3.0 for move in range(4)]
                pair = state * 4 + action
                rows += [(pair, chances[move], *arrivals[move]) for move in range(4)]
        return Outcomes.from_rows(len(self.cells), 4, zip(*rows, strict=True), start)


class GridEnv(TabularEnv):
    """A tabular environment whose states are the cells of a grid."""

    def __init__(self, grid: Grid, outcomes: Outcomes, render_mode: str | None = None) -> None:
        super().__init__(outcomes, render_mode)
        self.grid = grid

    def text(self) -> str:
        """The layout, with ``@`` where the agent is."""
        lines = [list(letters) for letters in self.grid.layout]
        row, column = self.grid.cells[self.state]
        lines[row][column] = "@"
        return "\n".join(" ".join(line) for line in lines) + "\n"

    def picture(self) -> np.ndarray:
        """The layout in colours, with a dot where the agent is."""
        rows, columns = self.grid.shape
        size = min(80, max(8, 640 // columns))
        image = Image.new("RGB", (columns * size, rows * size), _PAPER)
        draw = ImageDraw.Draw(image)
        for row, letters in enumerate(self.grid.layout):
            for column, letter in enumerate(letters):
                self.draw_cell(draw, (column * size, row * size), size, letter)
        row, column = self.grid.cells[self.state]
        x, y, r = (column + 0.5) * size, (row + 0.5) * size, size * 0.26
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_AGENT, outline="white", width=size // 20)
        return np.array(image)

    def draw_cell(self, draw: Any, corner: tuple[int, int], size: int, letter: str) -> None:
        """Draw one cell with its upper left ``corner`` (x, y)."""
        left, top = corner
        edge = _FILLS[WALL] if letter == WALL else _LINE
        box = (left, top, left + size - 1, top + size - 1)
        draw.rectangle(box, fill=_FILLS.get(letter, _PAPER), outline=edge)
        if letter == CLIFF:  # rock: three diagonal cracks
            for k in (1, 2, 3):
                x = left + k * size // 4
                draw.line((x, top + 8, x - 14, top + size - 9), fill=_CRACK, width=4)
        if letter in _INKS:
            font = ImageFont.load_default(size * 0.4)
            place = (left + size * 0.2, top + size * 0.24)
            draw.text(place, letter, _INKS[letter], font, anchor="mm")


def starting(grid: Grid, letter: str) -> np.ndarray:
    """A uniform distribution over the states with a letter, ``(S,)``."""
    start = np.zeros(len(grid.cells))
    states = grid.find(letter)
    start[states] = 1.0 / len(states)
    return start
