"""Two problems of Sutton and Barto that are no grids: Jack's car rental and the gambler."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.special import gammaln, pdtrc

from rlgen.envs.mdp import Outcomes
from rlgen.envs.tabular import TabularEnv

_PAPER, _INK, _LINE = "#f4f1e8", "#4a4a4a", "#b9b2a3"
_CAR, _FREE, _GOLD = "#2b5c8a", "#e6e1d3", "#d9a441"


class CarRentalEnv(TabularEnv):
    """``rlgen/CarRental-v0``: cars are moved by night between two places that rent them out by day.

    Sutton and Barto, *Reinforcement Learning*, 2018, example 4.2; the discount is 0.9. A rented car
    earns $10 and can be rented again the day after it comes back; a car moved costs $2; a place
    holds 20 cars. Requests are Poisson of mean 3 and 4, returns of mean 3 and 2. Probabilities are
    exact: nobody counts the customers who find no car, nor the cars beyond 20. The reward of a day
    is its expectation, given how many cars there are at the end of it.

    Observations are ``first * (max_cars + 1) + second``, the cars at the two places in the
    evening, action a moves a - 5 cars from the first to the second. Who asks for more cars
    than there are pays for what was asked, so that this is never best. An episode begins with both
    places half full, and is cut after 100 days (``max_episode_steps``).

    Args:
        max_cars: that a place holds.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: ``max_cars`` is not positive.
    """

    MOST_MOVED, RENT, COST = 5, 10.0, 2.0
    REQUESTS, RETURNS = (3.0, 4.0), (3.0, 2.0)

    def __init__(self, max_cars: int = 20, render_mode: str | None = None) -> None:
        if max_cars < 1:
            raise ValueError(f"max_cars must be positive, got {max_cars}")
        self.size = size = max_cars + 1
        cars = np.arange(size)
        first, second = (a.ravel() for a in np.meshgrid(cars, cars, indexing="ij"))
        days = [_day(max_cars, *rates) for rates in zip(self.REQUESTS, self.RETURNS, strict=True)]
        moves = np.arange(-self.MOST_MOVED, self.MOST_MOVED + 1)
        moved = np.clip(moves, -second[:, None], first[:, None])  # (S, A)
        mornings = [
            np.minimum(first[:, None] - moved, max_cars),
            np.minimum(second[:, None] + moved, max_cars),
        ]
        # Of every state, action and evening: (S, A, evenings of the first, of the second).
        chance, rented = zip(
            *((p[m], rents[m]) for (p, rents), m in zip(days, mornings, strict=True)), strict=True
        )
        probability = chance[0][..., :, None] * chance[1][..., None, :]
        reward = self.RENT * (rented[0][..., :, None] + rented[1][..., None, :])
        reward -= self.COST * np.abs(moves)[:, None, None]
        states, actions = size**2, moves.size
        columns = (
            np.repeat(np.arange(states * actions), states),
            probability.ravel(),
            np.tile(np.arange(states), states * actions),
            reward.ravel(),
            np.zeros(states * actions * states, np.bool_),
        )
        start = np.zeros(states)
        start[max_cars // 2 * size + max_cars // 2] = 1.0
        super().__init__(Outcomes.from_rows(states, actions, columns, start), render_mode)

    def text(self) -> str:
        """The cars at both places."""
        first, second = divmod(self.state, self.size)
        return f"first place: {first} cars, second place: {second} cars\n"

    def picture(self) -> np.ndarray:
        """Both places as rows of parking lots."""
        lot, columns = 48, min(self.size - 1, 10)
        lines = -(-(self.size - 1) // columns)
        height = (lines + 1) * lot
        image = Image.new("RGB", (columns * lot + 40, 2 * height + 20), _PAPER)
        draw = ImageDraw.Draw(image)
        font = ImageFont.load_default(20)
        for place, cars in enumerate(divmod(self.state, self.size)):
            top = 10 + place * height
            name = ("first", "second")[place]
            draw.text((20, top + 12), f"{name} place: {cars} cars", _INK, font)
            for k in range(self.size - 1):
                x, y = 20 + k % columns * lot, top + lot * (0.9 + k // columns)
                draw.rectangle((x, y, x + lot - 4, y + lot - 6), _FREE, _LINE)
                if k < cars:
                    draw.rounded_rectangle((x + 9, y + 4, x + lot - 13, y + lot - 10), 7, _CAR)
                    draw.rectangle((x + 13, y + 12, x + lot - 17, y + 18), _PAPER)
        return np.array(image)


def _day(max_cars: int, requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
    """One place by day, from n cars in the morning to m in the evening.

    Returns:
        ``(n, m)`` probability of m, and ``(n, m)`` expected number of cars rented, given m.
    """
    cars = np.arange(max_cars + 1)
    probability = np.zeros((cars.size, cars.size))
    rented = np.zeros((cars.size, cars.size))
    for morning in range(max_cars + 1):
        for rents in range(morning + 1):
            left = morning - rents
            p = _at_least(rents, requests) if left == 0 else _exactly(rents, requests)
            back = _exactly(cars - left, returns)
            back[-1] = _at_least(max_cars - left, returns)
            probability[morning] += p * back
            rented[morning] += p * back * rents
    return probability, np.divide(rented, probability, where=probability > 0, out=rented)


def _exactly(count: np.ndarray | int, mean: float) -> np.ndarray:
    """P(N = count) of a Poisson number N."""
    n = np.maximum(count, 0)
    p: np.ndarray = np.exp(n * np.log(mean) - mean - gammaln(n + 1.0))
    return np.where(np.asarray(count) >= 0, p, 0.0)


def _at_least(count: int, mean: float) -> float:
    """P(N >= count) of a Poisson number N."""
    return float(pdtrc(count - 1, mean)) if count > 0 else 1.0


class GamblerEnv(TabularEnv):
    """``rlgen/Gambler-v0``: stake capital on heads until it is gone or has reached the goal.

    Sutton and Barto, *Reinforcement Learning*, 2018, example 4.3: heads wins the stake, tails loses
    it; reaching the goal pays 1. Where heads is less likely than tails, bold play is optimal: stake
    all that one has or all that is missing (Dubins and Savage, *How to gamble if you must*, 1965).
    Many stakes are equally good.

    Observations are the capital, 0 to ``goal``; action a stakes a + 1, or as much as one has or
    needs, if that is less. It begins with any capital in between.

    Args:
        p_heads: probability in (0, 1).
        goal: at least 2.
        render_mode: ``"ansi"`` (text) or ``"rgb_array"`` (a picture).

    Raises:
        ValueError: ``p_heads`` or ``goal`` out of range.
    """

    def __init__(
        self, p_heads: float = 0.4, goal: int = 100, render_mode: str | None = None
    ) -> None:
        if not 0.0 < p_heads < 1.0 or goal < 2:
            raise ValueError(
                f"p_heads must be in (0, 1) and goal at least 2; got {p_heads} and {goal}"
            )
        self.goal, stakes = goal, goal // 2
        capital, wish = np.divmod(np.arange((goal + 1) * stakes), stakes)
        stake = np.minimum(wish + 1, np.minimum(capital, goal - capital))
        successor = np.stack([capital + stake, capital - stake], axis=1)
        won = (successor == goal) & (capital < goal)[:, None]
        columns = (
            np.repeat(np.arange(capital.size), 2),
            np.tile([p_heads, 1.0 - p_heads], capital.size),
            successor.ravel(),
            won.ravel().astype(np.float64),
            ((successor == 0) | (successor == goal)).ravel(),
        )
        start = np.zeros(goal + 1)
        start[1:goal] = 1.0 / (goal - 1)
        super().__init__(Outcomes.from_rows(goal + 1, stakes, columns, start), render_mode)

    def text(self) -> str:
        """The capital."""
        return f"capital {self.state} of {self.goal}\n"

    def picture(self) -> np.ndarray:
        """The capital as a bar that has to fill the frame."""
        image = Image.new("RGB", (640, 160), _PAPER)
        draw = ImageDraw.Draw(image)
        draw.text((20, 24), self.text().strip(), _INK, ImageFont.load_default(26))
        draw.rectangle((20, 80, 620, 130), _FREE, _LINE)
        if self.state:
            draw.rectangle((22, 82, 22 + round(596 * self.state / self.goal), 128), _GOLD)
        return np.array(image)
