"""The grid worlds: the book's cliff, four rooms, the windy grid, and the random walk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlgen.envs.grid import CLIFF, FREE, GOAL, MOVES, START, Arrival, Grid, GridEnv, starting
from rlgen.envs.mdp import Outcomes

_BREEZE = "#9dbfd8"


class CliffEnv(GridEnv):
    """``rlgen/Cliff-v0``: the slippery cliff of the book (Fig 14.1), 7 columns and 3 rows.

    The book gives the grid and leaves the rest open; here every step costs 1, falling costs 100 and
    ends the episode, reaching the goal ends it, a wall stops the step, and a step slips with
    probability ``slip`` into one of the three other directions. (Gymnasium's CliffWalking is
    another world: 4 x 12, where falling leads back to the start and the episode goes on.)

    Observations are the 21 cells, row by row from the top; actions up, down, left, right.

    Args:
        slip: probability in [0, 1] that a step goes in one of the other directions.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: ``slip`` is not a probability.
    """

    def __init__(self, slip: float = 0.0, render_mode: str | None = None) -> None:
        grid = Grid([".......", ".......", "SxxxxxG"])

        def arrive(cell: int) -> Arrival:
            letter = grid.letter(cell)
            return Arrival(cell, -100.0 if letter == CLIFF else -1.0, letter in (CLIFF, GOAL))

        super().__init__(grid, grid.slippery(arrive, slip, starting(grid, START)), render_mode)


class FourRoomsEnv(GridEnv):
    """``rlgen/FourRooms-v0``: four rooms joined by four hallways, 104 cells in 13 x 13.

    Sutton, Precup and Singh, *Between MDPs and semi-MDPs*, 1999, figure 2: a step goes the way it
    is meant with probability ``1 - slip`` (there 2/3) and else in one of the three other
    directions; a wall stops it. Reaching the goal pays 1 and ends the episode, nothing else pays,
    so that the discount makes ways short (there gamma is 0.9).

    Observations are the 104 cells, row by row from the top; actions up, down, left, right. The
    hallways are the cells (3, 6), (6, 2), (7, 9) and (10, 6), as (row, column) with the outer wall
    counted: states 25, 51, 62 and 88.

    Args:
        goal: (row, column) of a free cell; the right hallway is the paper's first goal.
        start: (row, column) of a free cell, or None for any cell but the goal.
        slip: probability in [0, 1] that a step goes in one of the other directions.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: a goal or start in a wall, or on each other; ``slip`` is not a probability.
    """

    LAYOUT = (
        "#############",
        "#.....#.....#",
        "#.....#.....#",
        "#...........#",
        "#.....#.....#",
        "#.....#.....#",
        "##.####.....#",
        "#.....###.###",
        "#.....#.....#",
        "#.....#.....#",
        "#...........#",
        "#.....#.....#",
        "#############",
    )

    def __init__(
        self,
        goal: Sequence[int] = (7, 9),
        start: Sequence[int] | None = None,
        slip: float = 1.0 / 3.0,
        render_mode: str | None = None,
    ) -> None:
        layout = [list(letters) for letters in self.LAYOUT]
        for name, place, letter in (("goal", goal, GOAL), ("start", start, START)):
            if place is None:
                continue
            free = {(r, c) for r, line in enumerate(layout) for c in range(13) if line[c] == FREE}
            if tuple(place) not in free:
                raise ValueError(
                    f"{name} must be a (row, column) of a free cell, such as (3, 6), and not where "
                    f"the other is; got {tuple(place)}"
                )
            layout[place[0]][place[1]] = letter
        grid = Grid(["".join(letters) for letters in layout])
        end = grid.find(GOAL)[0]

        def arrive(cell: int) -> Arrival:
            return Arrival(cell, float(cell == end), cell == end)

        first = starting(grid, FREE if start is None else START)
        super().__init__(grid, grid.slippery(arrive, slip, first), render_mode)


class WindyGridEnv(GridEnv):
    """``rlgen/WindyGrid-v0``: 7 x 10 cells with a wind upwards in the middle columns.

    Sutton and Barto, *Reinforcement Learning*, 2018, example 6.5 and exercises 6.9 and 6.10. Every
    step costs 1 until the goal, and the wind of the column that is left pushes it by that many
    cells; the edges stop it. With 4 moves the best way takes 15 steps, with 8 or 9 it takes 7.

    Observations are the 70 cells, row by row from the top.

    Args:
        moves: 4 (up, down, left, right), 8 (and the diagonals: up-left, up-right, down-left,
            down-right; king's moves) or 9 (and staying, but for the wind).
        gusts: whether a wind that is not 0 varies by -1, 0 or 1, each with probability 1/3.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: another number of moves.
    """

    WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)
    KINGS = (*MOVES, (-1, -1), (-1, 1), (1, -1), (1, 1), (0, 0))

    def __init__(self, moves: int = 4, gusts: bool = False, render_mode: str | None = None) -> None:
        if moves not in (4, 8, 9):
            raise ValueError(f"moves must be 4, 8 or 9, got {moves}")
        grid = Grid([*[".........."] * 3, "S......G..", *[".........."] * 3])
        end = grid.find(GOAL)[0]
        rows: list[tuple[int, float, int, float, bool]] = []
        for state, (_, column) in enumerate(grid.cells):
            wind = self.WIND[column]
            winds = (wind - 1, wind, wind + 1) if gusts and wind else (wind,)
            for action, (down, right) in enumerate(self.KINGS[:moves]):
                for strength in winds:
                    cell = grid.move(state, down - strength, right)
                    outcome = (1.0 / len(winds), cell, -1.0, cell == end)
                    rows.append((state * moves + action, *outcome))
        table = Outcomes.from_rows(70, moves, zip(*rows, strict=True), starting(grid, START))
        super().__init__(grid, table, render_mode)

    def draw_cell(self, draw: Any, corner: tuple[int, int], size: int, letter: str) -> None:
        """A cell with as many chevrons as the wind is strong."""
        super().draw_cell(draw, corner, size, letter)
        left, top = corner
        for k in range(self.WIND[left // size]):
            x, y, arm = left + size * 0.82, top + size * (0.72 - 0.16 * k), size * 0.1
            draw.line((x - arm, y + arm, x, y, x + arm, y + arm), fill=_BREEZE, width=3)


class RandomWalkEnv(GridEnv):
    """``rlgen/RandomWalk-v0``: a row of states, left or right by chance, until either end.

    Sutton and Barto, *Reinforcement Learning*, 2018, example 6.2; with 19 states and -1 at the left
    end, of example 7.1 and section 12.1. It begins in the middle. Nothing is to be chosen (there is
    one action): it is a task of prediction, where V(i) = left + (right - left) * i / (n + 1).

    Observations are 0 to n + 1 from left to right, the ends included.

    Args:
        states: n, odd, without the ends.
        left, right: the rewards of the two ends; nothing else pays.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: ``states`` is even or not positive.
    """

    def __init__(
        self,
        states: int = 5,
        left: float = 0.0,
        right: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        if states < 1 or states % 2 == 0:
            raise ValueError(f"states must be odd, so that one is in the middle; got {states}")
        side = FREE * (states // 2)
        grid = Grid([f"{GOAL}{side}{START}{side}{GOAL}"])
        pays = {0: left, states + 1: right}
        rows = [
            (state, 0.5, to, 0.0 if state in pays else pays.get(to, 0.0), to in pays)
            for state in range(states + 2)
            for to in (grid.move(state, 0, -1), grid.move(state, 0, 1))
        ]
        table = Outcomes.from_rows(states + 2, 1, zip(*rows, strict=True), starting(grid, START))
        super().__init__(grid, table, render_mode)
