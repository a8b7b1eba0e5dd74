"""The formulas of the scaling model, and the driver over a few fake workers."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from driving import InlineFakes, NullBackend, RayFakes, make_cycle, simulate
from fakes import Costs
from queueing import Driver, Fit, async_rate, bound, fit, response, sync_cycle
from scaling import write_between

FREE = Fit((0.0,))


def exact(demands, think, customers):
    """Mean value analysis of one class, exponential times: Reiser and Lavenberg's recursion."""
    queues = [0.0] * len(demands)
    for n in range(1, customers + 1):
        times = [d * (1.0 + q) for d, q in zip(demands, queues, strict=True)]
        rate = n / (think + sum(times))
        queues = [rate * t for t in times]
    return rate


def repairman(think, service, machines):
    """M/M/1//N in closed form: the rate at which machines that break are repaired."""
    terms = [
        math.factorial(machines) / math.factorial(machines - k) * (service / think) ** k
        for k in range(machines + 1)
    ]
    return (1.0 - terms[0] / sum(terms)) / service


def a_driver(look=0.0, square=0.0, answer=0.0, ask=0.0, take=0.0):
    return Driver(Fit((look, 0.0, square)), Fit((answer,)), ask, take, FREE)


def test_the_exact_recursion_knows_its_textbook():
    # Lazowska et al., chapter 6: a processor and two disks, 15 s of thought, 3 users.
    assert exact([0.605, 2.1, 1.35], 15.0, 3) == pytest.approx(0.152, abs=5e-4)
    assert exact([2.0] * 4, 0.0, 7) == pytest.approx(7 / (2.0 * (7 + 4 - 1)))  # balanced
    assert exact([0.5], 4.0, 9) == pytest.approx(repairman(4.0, 0.5, 9))


@pytest.mark.parametrize("workers", [1, 3, 10, 100])
def test_one_request_each_is_the_machine_repairmans_problem(workers):
    approximated = async_rate(workers, 4.0, [0.5], in_flight=1, scv=1.0)
    assert approximated == pytest.approx(repairman(4.0, 0.5, workers), rel=0.06)
    textbook = async_rate(workers, 15.0, [0.605, 2.1, 1.35], in_flight=1, scv=1.0)
    assert textbook == pytest.approx(exact([0.605, 2.1, 1.35], 15.0, workers), rel=0.06)


def test_a_station_of_many_customers_is_an_open_one():
    many = 10**9
    assert response(0.1, 8.0, many, scv=1.0) == pytest.approx(0.1 / (1 - 0.8))  # M/M/1
    assert response(0.1, 8.0, many) == pytest.approx(0.1 + 0.8 * 0.1 / (2 * 0.2))  # M/D/1
    assert response(0.1, 8.0, 1) == 0.1  # nobody else is there
    assert response(0.1, 11.0, many) == math.inf


def test_limits_of_an_async_run():
    assert async_rate(1, 0.25, []) == pytest.approx(4.0)
    assert async_rate(1, 0.25, [0.05], in_flight=1) == pytest.approx(1 / 0.3)
    assert async_rate(1, 0.25, [0.05]) == pytest.approx(4.0)  # the second request hides the wait
    assert async_rate(8, 0.25, [0.01]) == pytest.approx(32.0)
    assert async_rate(1000, 0.25, [0.01]) == pytest.approx(100.0)  # the learner's limit
    assert async_rate(1, 0.01, [], delay=0.09) == pytest.approx(2 / 0.1)
    rates = [async_rate(n, 0.25, [0.01], 0.1) for n in range(1, 60)]
    assert rates == sorted(rates)
    assert all(r <= bound(n, 0.25, [0.01], 0.1) * (1 + 1e-9) for n, r in enumerate(rates, 1))


def test_a_driver_that_never_rests_takes_more_at_a_look():
    driver = a_driver(look=1e-3, answer=1e-4)
    assert driver.answers_per_look(8, 10.0) == 1.0
    assert driver.share(8, 10.0) == pytest.approx(20 * 1.1e-3)
    busy = driver.answers_per_look(8, 2000.0)
    assert busy == pytest.approx(4000 * (1e-3 + busy * 1e-4))  # as many as come during one look
    assert driver.share(8, 2000.0) == pytest.approx(1.0)
    # It never answers faster than its answers cost; with few requests, looks count as well.
    assert async_rate(10**5, 1.0, [], driver=driver) == pytest.approx(5000.0, rel=0.05)
    assert async_rate(2, 1e-4, [], driver=driver) < 2500.0
    square = a_driver(square=1e-6, answer=1e-4)
    assert async_rate(4096, 1.0, [], driver=square) < 500.0  # a look of 17 s


def test_a_cycle_in_step():
    driver = a_driver(ask=1e-3, take=2e-3)
    assert sync_cycle(1, 0.5, 0.1, driver) == pytest.approx((0.602, 0.003))
    assert sync_cycle(10, 0.5, 0.1, driver)[0] == pytest.approx(0.62)  # answers hide the asking
    assert sync_cycle(10**4, 0.5, 0.1, driver)[0] == pytest.approx(30.1)  # only asks and takes
    late = sync_cycle(100, 0.5, 0.0, a_driver(), cv=0.1)[0]
    assert late == pytest.approx(0.5 * (1 + 0.1 * math.sqrt(2 * math.log(100))))


def test_fits():
    of = fit([1, 2, 4, 8], [3.0, 5.0, 9.0, 17.0])
    assert of.coefficients == pytest.approx((1.0, 2.0))
    assert of.error < 1e-9
    assert fit([1, 2, 4], [4.0, 3.0, 2.0], 2).coefficients[1:] == (0.0, 0.0)  # none below zero
    assert fit([1, 10], [1.0, 100.0], 2)(20) == pytest.approx(400.0)


def test_the_drivers_code_over_a_few_fakes():
    costs = Costs(0.002, (0.001, 0.001), 100, 10)
    run = simulate(InlineFakes(costs), costs, 3, "async", 0.1)
    assert run["work"] >= 0.002 and run["update"] >= 0.002
    assert run["rate"] <= 1 / 0.004  # inline, they take turns
    assert 0.0 < run["driver"] < 1.0
    assert run["answers"] == pytest.approx(6.0, abs=2.0)  # three batches and three updates
    together = simulate(InlineFakes(costs), costs, 3, "sync", 0.1)
    assert together["lag"] == 0.0 and together["update"] >= 0.004
    assert together["rate"] <= 3 / 0.01


def test_the_null_backend_answers_as_many_as_it_should():
    for answers, updates in ((1, 8), (8, 80)):
        cycle = make_cycle(4, NullBackend(answers), "async")
        for _ in range(20):
            cycle.asynchronous()
        # Eight requests are under way: eight batches, then their eight updates, and again.
        assert cycle.counters.cycles == updates


def test_tables_go_between_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one -->\n\nold\n\n<!-- /one -->\nb\n")
    write_between(page, {"one": "new"})
    write_between(page, {"one": "newer"})
    assert page.read_text() == "a\n<!-- one -->\n\nnewer\n\n<!-- /one -->\nb\n"
    with pytest.raises(SystemExit, match="no place for the table 'two'"):
        write_between(page, {"two": ""})


@pytest.mark.slow
def test_two_requests_each_are_what_a_batch_is_late_by():
    """On Ray: every batch is learned from one update after each other request under way."""
    backend = RayFakes(12)
    try:
        costs = Costs(0.02, (0.002, 0.0), 1000, 1000)
        run = simulate(backend, costs, 12, "async", 2.0)
        assert run["lag"] == pytest.approx(2 * 12 - 1, abs=0.5)
        assert run["rate"] <= bound(12, 0.02, [0.002])
        assert simulate(backend, costs, 12, "sync", 1.0)["lag"] == 0.0
    finally:
        backend.shutdown()
