"""Schedules, by hand."""

import numpy as np
import pytest

from rlgen.schedules import glie, linear, power_law


@pytest.mark.parametrize(
    ("now", "expected"), [(0, 1.0), (2_000, 0.76), (4_000, 0.52), (8_000, 0.04), (10**9, 0.04)]
)
def test_linear_is_a_line_then_flat(now: int, expected: float) -> None:
    assert linear(1.0, 0.04, 8_000, now) == pytest.approx(expected)


def test_linear_may_rise() -> None:
    assert linear(0.0, 2.0, 4, 1) == 0.5


def test_glie_falls_by_half_and_then_as_one_over_the_visits() -> None:
    visits = np.array([0, 10, 30, 10**9])
    np.testing.assert_allclose(glie(0.8, 10, visits), [0.8, 0.4, 0.2, 8e-9], rtol=1e-7)


@pytest.mark.parametrize(
    ("power", "expected"), [(0.0, [0.5, 0.5]), (0.5, [0.5, 0.25]), (1.0, [0.5, 0.125])]
)
def test_power_law(power: float, expected: list[float]) -> None:
    assert [power_law(0.5, power, count) for count in (1.0, 4.0)] == expected
