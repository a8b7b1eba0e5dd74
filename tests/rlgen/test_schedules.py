"""The linear schedule, by hand."""

import pytest

from rlgen.schedules import linear


@pytest.mark.parametrize(
    ("now", "expected"), [(0, 1.0), (2_000, 0.76), (4_000, 0.52), (8_000, 0.04), (10**9, 0.04)]
)
def test_linear_is_a_line_then_flat(now: int, expected: float) -> None:
    assert linear(1.0, 0.04, 8_000, now) == pytest.approx(expected)


def test_linear_may_rise() -> None:
    assert linear(0.0, 2.0, 4, 1) == 0.5
