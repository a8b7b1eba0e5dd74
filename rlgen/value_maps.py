"""The values and the policy that a tabular agent has learned, drawn as its states lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text.blackjack import BlackjackEnv
from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.envs.toy_text.taxi import TaxiEnv

from rlgen.agents import planning, tabular
from rlgen.agents.max_ent_irl import MaxEntIRL
from rlgen.agents.options import Options
from rlgen.algorithm import Algorithm
from rlgen.api import Run
from rlgen.drawing import panels
from rlgen.envs.examples import CarRentalEnv, GamblerEnv
from rlgen.envs.grid import CLIFF, GOAL, START, WALL, GridEnv
from rlgen.envs.gridworlds import RandomWalkEnv, WindyGridEnv
from rlgen.envs.mdp import load_mdp
from rlgen.envs.single import find_spec, make_single
from rlgen.errors import ConfigError
from rlgen.palette import COLOURS

HOLE = "H"
ENDS = (GOAL, CLIFF, HOLE)  # cells of which there is nothing to know
VALUES, DIFFERENCES = "viridis", "PuOr"  # colour maps that the colour-blind can read
STONE, UNKNOWN = "#4d4d4d", "#d9d9d9"
LEAST_SUM = 12  # in Blackjack: below, no card can be too much
DRAWN = (
    "cliffs, FrozenLake, four rooms, windy grids, random walks, the gambler, car rental, Blackjack"
)


@dataclass(frozen=True)
class Learned:
    """What an agent knows of S states and A actions.

    Attributes:
        values: ``(S,)`` float64; NaN where nothing is known yet.
        best: ``(S, A)`` bool, the actions that its policy takes, ties included; none where it is
            uniform, or nothing is known yet.
        given: whether the values are those of a policy that was given, not learned.
    """

    values: np.ndarray
    best: np.ndarray
    given: bool


def learned(run: Run) -> Learned:
    """The values and the policy of a run's final weights.

    Raises:
        ConfigError: the run has no table over the states of an environment.
    """
    algorithm, env = run.algorithm, run.experiment.env
    action = algorithm.problem.action_space
    if env is None or algorithm.on_tensors or not isinstance(action, gym.spaces.Discrete):
        raise _refused(run, "has no table of values")
    if find_spec(env).entry_point is None:
        raise _refused(run, "knows arms of bandits and no states")
    states, actions = int(np.prod(tabular.sizes(algorithm.problem))), int(action.n)
    values, q = _values(algorithm, states, actions)
    if values is None:
        raise _refused(run, "has no values of states")
    policy = getattr(algorithm.config, "policy", None)
    if policy in ("uniform", "random"):
        best = np.zeros((states, actions), np.bool_)
    elif policy is not None:
        best = np.eye(actions, dtype=np.bool_)[np.asarray(policy)]
    elif q is not None:
        # What is nearer than the values are exact counts as equal; of NaN nothing is.
        exact = algorithm.shared == "values" and hasattr(algorithm.config, "tolerance")
        slack = float(algorithm.config.tolerance) if exact else 0.0
        best = q >= planning.nearly(q.max(axis=1))[:, None] - slack
    else:
        algorithm.starts = np.ones(states, np.bool_)
        chosen = algorithm.act(np.arange(states), greedy=True)["action"]
        best = np.eye(actions, dtype=np.bool_)[chosen]
    return Learned(np.where(np.isfinite(values), values, np.nan), best, policy is not None)


def _refused(run: Run, why: str) -> ConfigError:
    return ConfigError(
        f"values: {run.dir} trained {run.experiment.algorithm}, which {why}; give a run of a "
        "tabular agent, such as q-learning or value-iteration"
    )


def _values(
    algorithm: Algorithm, states: int, actions: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """V ``(S,)``, and Q ``(S, A)`` where it is known too; None and None of other tables."""
    table = getattr(algorithm, algorithm.shared)
    if isinstance(algorithm, Options):  # it chooses options, not actions
        return np.where(algorithm.table.starts.T, table, -np.inf).max(axis=1)[:states], None
    if isinstance(algorithm, MaxEntIRL):
        return table[1, :states], algorithm.action_values(0, table.shape[1])[:states]
    if table.ndim == 1 and len(table) >= states:  # a model may have a last state, of having ended
        if (model := algorithm.problem.model) is None:
            return table[:states], None
        q = planning.Backups.of(model).action_values(table, float(algorithm.config.gamma))
        return table[:states], q[:states]
    if table.ndim == 3 and table.shape[1:] == (states, actions):  # of double Q-learning, both
        table = table[: getattr(algorithm, "tables", 1)].mean(axis=0)
        table = np.where(table.any(axis=1, keepdims=True), table, np.nan)  # never learned of
    if table.shape == (states, actions):
        return table.max(axis=1), table
    return None, None


def draw(run: Run) -> Any:
    """A matplotlib figure of the values and the policy of a run.

    Raises:
        ConfigError: the run has no table of values, or its states lie in no plane.
    """
    known = learned(run)
    assert run.experiment.env is not None  # else it had no table
    env = make_single(run.experiment.env).unwrapped
    if isinstance(env, BlackjackEnv):
        return _blackjack(run, known)
    if isinstance(env, RandomWalkEnv):
        return _walk(run, known)
    if isinstance(env, GamblerEnv):
        return _gambler(run, known, env)
    if isinstance(env, CarRentalEnv):
        return _car_rental(run, known, env)
    if isinstance(env, GridEnv):
        moves = WindyGridEnv.KINGS[: known.best.shape[1]]
        return _grid(run, known, env.grid.layout, env.grid.cells, moves)
    if isinstance(env, FrozenLakeEnv):
        layout = ["".join(letter.decode() for letter in row) for row in np.asarray(env.desc)]
        return _grid(run, known, layout, _cells(layout), ((0, -1), (1, 0), (0, 1), (-1, 0)))
    if isinstance(env, CliffWalkingEnv):
        layout = ["............"] * 3 + ["SxxxxxxxxxxG"]
        return _grid(run, known, layout, _cells(layout), ((-1, 0), (0, 1), (1, 0), (0, -1)))
    why = (
        "a state is the taxi's place with the passenger's and where to, which no plane shows"
        if isinstance(env, TaxiEnv)
        else f"it is not known how its states lie; drawn are {DRAWN}"
    )
    raise ConfigError(f"values: {run.experiment.env.id} has no map: {why}")


def _cells(layout: Sequence[str]) -> list[tuple[int, int]]:
    return [(row, column) for row, line in enumerate(layout) for column in range(len(line))]


def _title(run: Run, known: Learned) -> str:
    of = "values of the policy given" if known.given else "values and policy"
    return f"{run.experiment.name}, seed {run.experiment.seed}: {of}"


def _grid(
    run: Run,
    known: Learned,
    layout: Sequence[str],
    cells: Sequence[tuple[int, int]],
    moves: Sequence[tuple[int, int]],
) -> Any:
    """A map: each cell in its value's colour and number, with arrows along the best moves."""
    rows, columns = len(layout), len(layout[0])
    side = min(0.95, 9.0 / columns)  # of a cell, in inches
    figure, (axes,) = panels(1, columns * side + 1.2, rows * side + 0.8)
    values = np.full((rows, columns), np.nan)
    for (row, column), value in zip(cells, known.values, strict=True):
        if layout[row][column] not in ENDS:
            values[row, column] = value
    largest = np.nanmax(np.abs(values), initial=0.0)
    decimals = 0 if largest >= 100 else 1 if largest >= 10 else 2
    image = axes.imshow(values, cmap=VALUES)
    image.set_cmap(image.cmap.with_extremes(bad=UNKNOWN))
    figure.colorbar(image, ax=axes, label="value", shrink=0.9)
    title = _title(run, known)
    axes.set(title=title.replace(": ", ":\n") if columns < 8 else title, xticks=[], yticks=[])
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    _draw_letters(axes, layout, side)
    arrows, stays = [], []
    for state, (row, column) in enumerate(cells):
        if not np.isfinite(values[row, column]):
            continue
        ink = _ink(image, values[row, column])
        text = f"{values[row, column]:.{decimals}f}"
        axes.text(column, row + 0.31, text, color=ink, fontsize=13 * side, ha="center", va="center")
        best = np.flatnonzero(known.best[state]).tolist()
        for action in best if len(best) < len(moves) else ():
            down, right = np.array(moves[action], np.float64)
            if down == right == 0:
                stays.append((column, row - 0.12, ink))
                continue
            # One arrow lies in the middle of its cell, several begin there.
            down, right = 0.48 / np.hypot(down, right) * np.array([down, right])
            whole = len(best) == 1
            tail = (column - whole * right / 2, row - 0.12 - whole * down / 2)
            length = 1.0 if whole else 0.62
            arrows.append((*tail, length * right, length * down, ink))
    if arrows:
        x, y, u, v, inks = zip(*arrows, strict=True)
        axes.quiver(
            x, y, u, v, color=inks, angles="xy", scale_units="xy", scale=1.0, units="xy",
            width=0.045, headwidth=4.5, headlength=4, headaxislength=3.6,
        )  # fmt: skip
    if stays:
        x, y, inks = zip(*stays, strict=True)
        axes.scatter(x, y, c=inks, s=(10 * side) ** 2)
    return figure


def _draw_letters(axes: Any, layout: Sequence[str], side: float) -> None:
    """Walls, ends and starts."""
    from matplotlib.patches import Rectangle

    fills = {WALL: STONE, CLIFF: STONE, HOLE: STONE, GOAL: "white"}
    for row, line in enumerate(layout):
        for column, letter in enumerate(line):
            if letter in fills:
                corner = (column - 0.5, row - 0.5)
                axes.add_patch(Rectangle(corner, 1, 1, facecolor=fills[letter], edgecolor="white"))
            if letter in (GOAL, HOLE):
                ink = "black" if letter == GOAL else "white"
                style = {"ha": "center", "va": "center", "fontsize": 20 * side, "weight": "bold"}
                axes.text(column, row, letter, color=ink, **style)
            if letter == START:
                corner = (column - 0.45, row - 0.45)
                frame = Rectangle(corner, 0.9, 0.9, fill=False, edgecolor=COLOURS[1], linewidth=2.5)
                axes.add_patch(frame)


def _ink(image: Any, value: float) -> str:
    """Black or white, which of them is read on the colour of a value."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _walk(run: Run, known: Learned) -> Any:
    """A line of values over the states between the ends, beside the true ones."""
    assert run.experiment.env is not None
    model = load_mdp(run.experiment.env)
    states = len(known.values)
    inner = np.arange(1, states - 1)
    flow = model.transitions[inner][:, inner].toarray()  # of the one action; the ends are worth 0
    gamma = float(run.algorithm.config.gamma)
    true = np.linalg.solve(np.eye(len(inner)) - gamma * flow, model.rewards[inner, 0])
    figure, (axes,) = panels(1, 6.5, 4.0)
    axes.plot(inner, true, "--", color="black", linewidth=1.2, label="true values")
    axes.plot(inner, known.values[inner], "o-", color=COLOURS[0], label="found")
    axes.set(title=_title(run, known), xlabel="state, from the left", ylabel="value")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def _gambler(run: Run, known: Learned, env: GamblerEnv) -> Any:
    """Values over the capital, and the best stakes: all, and the smallest of each."""
    figure, (left, right) = panels(2, 5.5, 4.0)
    capital = np.arange(1, env.goal)
    left.plot(capital, known.values[capital], color=COLOURS[0])
    left.set(title=_title(run, known), xlabel="capital", ylabel="value: chance to win")
    where, action = np.nonzero(known.best[capital])
    stake = np.minimum(action + 1, np.minimum(capital[where], env.goal - capital[where]))
    right.scatter(capital[where], stake, s=14, color="0.7", linewidths=0, label="equally good")
    smallest = np.full(env.goal + 1, env.goal)
    np.minimum.at(smallest, capital[where], stake)
    chosen = capital[smallest[capital] < env.goal]
    right.scatter(chosen, smallest[chosen], s=14, color=COLOURS[1], linewidths=0, label="smallest")
    right.set(title="best stakes", xlabel="capital", ylabel="stake")
    right.legend(markerscale=2)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def _car_rental(run: Run, known: Learned, env: CarRentalEnv) -> Any:
    """Values and cars to move over the cars at both places."""
    figure, panes = panels(2, 5.5, 4.8)
    shape = (env.size, env.size)
    moves = np.arange(-env.MOST_MOVED, env.MOST_MOVED + 1)
    # Of equally good numbers of cars the smallest.
    least = np.where(known.best, np.abs(moves), 2 * env.MOST_MOVED).argmin(axis=1)
    drawn = {
        _title(run, known): (known.values, VALUES, None),
        "cars moved from the first place\nto the second": (moves[least], DIFFERENCES, 5),
    }
    for axes, (title, (numbers, colours, most)) in zip(panes, drawn.items(), strict=True):
        edges = {} if most is None else {"vmin": -most, "vmax": most}
        image = axes.imshow(numbers.reshape(shape), origin="lower", cmap=colours, **edges)
        figure.colorbar(image, ax=axes, shrink=0.9)
        axes.set(title=title, xlabel="cars at the second place", ylabel="cars at the first place")
        axes.title.set_fontsize(11)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
    return figure


def _blackjack(run: Run, known: Learned) -> Any:
    """A map for hands with and without a usable ace, with H for another card and S for none."""
    figure, panes = panels(2, 5.2, 5.0)
    shape = tabular.sizes(run.algorithm.problem)  # the player's sum, the card shown, the ace
    values = known.values.reshape(shape)[LEAST_SUM:22, 1:11]
    best = known.best.reshape(*shape, -1)[LEAST_SUM:22, 1:11]
    low, high = np.nanmin(values), np.nanmax(values)
    for axes, ace in zip(panes, (1, 0), strict=True):
        image = axes.imshow(
            values[..., ace], cmap=VALUES, vmin=low, vmax=high, origin="lower",
            extent=(0.5, 10.5, LEAST_SUM - 0.5, 21.5),
        )  # fmt: skip
        for (row, column), value in np.ndenumerate(values[..., ace]):
            stands, hits = best[row, column, ace]
            if stands != hits:
                style = {"color": _ink(image, value), "ha": "center", "va": "center"}
                axes.text(column + 1, row + LEAST_SUM, "S" if stands else "H", **style)
        axes.set_xticks(range(1, 11), ["A", *map(str, range(2, 11))])
        axes.set_yticks(range(LEAST_SUM, 22))
        axes.set(
            title="usable ace" if ace else "no usable ace",
            xlabel="card that the dealer shows",
            ylabel="sum of the player",
        )
    figure.colorbar(image, ax=panes, label="value; S: stand, H: hit", shrink=0.9)
    figure.suptitle(_title(run, known))
    return figure
