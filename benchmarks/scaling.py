"""What a run costs, what that makes of 64, 512 and 4,096 workers, and a check of both.

Measures the parts (a worker's batch, the learner's update, the driver's requests), puts them
together by the formulas of `queueing.py`, and runs the driver's own code over hundreds of fake
workers (`fakes.py`) to see whether the sum is right. `docs/scaling.md` explains it:

    python benchmarks/scaling.py --write docs/scaling.md --picture docs/images/scaling.svg

The parts are measured in processors' time, which other processes hardly change; the simulation
needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

sys.path.insert(0, str(Path(__file__).parent))
from driving import (
    Calls,
    RayFakes,
    driver_of,
    measure_calls,
    measure_code,
    measure_looks,
    simulate,
    timed,
)
from fakes import Costs
from queueing import Driver, Fit, async_rate, bound, fit, sync_cycle

import rlgen
from rlgen.algorithm import read_weights, write_weights
from rlgen.config import load_experiment
from rlgen.learner import Learner
from rlgen.recall import REQUESTS
from rlgen.rollout import RolloutWorker, Worker
from rlgen.sources import DataWorker

#: Ready configurations, and what is changed of them: the mode, or a replay that begins at once.
CASES: dict[str, tuple[str, ...]] = {
    "a3c-cartpole": (),
    "impala-cartpole": (),
    "a2c-cartpole": (),
    "dqn-cartpole": (),
    "ppo-cartpole": (),
    "vae-digits": (),
    "dqn-pong": ("scheduler.mode=async", "hyperparameters.learning_starts=64",
                 "hyperparameters.buffer_size=2000"),
}  # fmt: skip
SLOW = "a3c, slow environment"  # the same, but that a batch takes its worker so much longer
SLOWER = 30
WORKERS = (64, 512, 4096)  # predicted
GBIT = (1, 10, 25)
JOINED = (1, 2, 4, 8)  # batches of an update
DRIVEN = (2, 8, 32, 128, 512, 2048, 4096)  # workers that the driver's code is timed with
SIMULATED = (2, 8, 32, 100, 200)


@dataclass
class Work:
    """What one configuration costs.

    Attributes:
        mode: sync or async.
        rows: environment steps or samples of one batch.
        batch_bytes, weights_bytes: of one batch of one worker alone, and of the flat weights.
        work: seconds of a worker, as a function of its share of a whole batch.
        cv: coefficient of variation of those.
        update: seconds of the learner, as a function of the batches joined.
        fetch: seconds of a worker to take new weights; part of ``work``.
        most: workers that there is work for.
    """

    mode: str
    rows: int
    batch_bytes: int
    weights_bytes: int
    work: Fit
    cv: float
    update: Fit
    fetch: float
    most: int | None


# --- measuring --------------------------------------------------------------------------------


def measure_work(name: str, budget: float) -> Work:
    """Time a configuration's worker and learner in this process, each for some seconds."""
    overrides = CASES[name]
    experiment = load_experiment(name, overrides)
    data, clock = experiment.source == "data", time.process_time
    learner = Learner(experiment, 0)
    weights = read_weights(learner.algorithm)

    def crew_of(count: int) -> list[Worker]:
        if not data:
            return [RolloutWorker(experiment, 0, 0)]
        shared = load_experiment(name, (*overrides, f"scheduler.workers={count}"))
        return [DataWorker(shared, index, index) for index in range(count)]

    joined = JOINED if experiment.env is None or "Pong" not in experiment.env.id else JOINED[:2]
    versions = itertools.count(1)
    shares, working, update = [], [], []
    spread = 0.0
    single: Any = None
    for count in joined:
        workers = crew_of(count)
        worker = workers[0]
        worker.produce(weights, next(versions), 0)
        if data or count == 1:
            seconds = timed(
                lambda worker=worker: worker.produce(weights, next(versions), 0), clock, budget
            )
            shares.append(1.0 / count)
            working.append(statistics.median(seconds))
            spread = spread or deviation(seconds)
        made = [worker.produce(weights, 0, 0) for worker in workers]
        made = made if data else made * count
        single = single or made[0]
        infos, batches = [info | {"version": 0} for _, info in made], [batch for batch, _ in made]
        while learner.replay is not None and learner.updates == 0:
            learner.update(infos, *batches)  # until the replay is full enough
        learner.update(infos, *batches)
        seconds = timed(lambda i=infos, b=batches: learner.update(i, *b), clock, budget)
        update.append(statistics.median(seconds))
    batch, info = single
    fetching = timed(lambda: write_weights(worker.algorithm, weights), clock, budget)
    size = getattr(experiment.hyperparameters, "batch_size", None)
    return Work(
        experiment.scheduler.mode, info.get("env_steps") or info["samples"],
        sum(column.nbytes for column in batch.values()), weights.nbytes,
        fit(shares, working) if data else Fit((working[0],)), spread,
        fit(joined, update), statistics.median(fetching), size if data else None,
    )  # fmt: skip


def deviation(seconds: list[float]) -> float:
    """Coefficient of variation, by the quartiles: others on the machine leave a long tail."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 1.35 / middle


# --- the model --------------------------------------------------------------------------------


def predict(
    work: Work, calls: Calls, driver: Driver, workers: int, recall: bool = True
) -> dict[str, float]:
    """What so many workers come to.

    Returns:
        ``rate`` (batches/s), ``learner`` and ``driver`` (their shares), ``lag`` (versions) and
        ``waits``, the seconds from an answer's arrival at the driver until it is dealt with.
    """
    share = 1.0 / workers if work.most else 1.0
    busy = work.work(share) + calls.worker
    if work.mode == "async":
        service = work.update(1) + calls.learner
        rate = async_rate(workers, busy, [service], calls.delay, driver)
        return {
            "rate": rate, "learner": rate * service, "driver": driver.share(workers, rate),
            "lag": 2.0 * workers - 1.0, "waits": driver.response(workers, rate),
        }  # fmt: skip
    update = work.update(workers) + calls.gather(workers)
    cycle, own = sync_cycle(workers, busy, update, driver, calls.delay / 2.0, work.cv)
    if recall:  # every so many cycles, two more questions to each worker, one after the other
        often = 2 * workers / REQUESTS
        cycle += often * (driver.ask + driver.take + calls.delay / 2.0 + calls.worker)
        own += often * (driver.ask + driver.take)
    return {
        "rate": workers / cycle, "learner": update / cycle, "driver": own / cycle, "lag": 0.0,
        "waits": 0.0,
    }  # fmt: skip


def needed(work: Work, calls: Calls, driver: Driver) -> dict[str, float]:
    """From how many workers on each part is busy all the time (async)."""
    busy = work.work(1.0) + calls.worker
    service = work.update(1) + calls.learner
    count = 1
    # The driver takes more at each look the more there is, so only its answers bound the rate.
    while count < 2**20 and count / busy < driver_rate(driver, count):
        count *= 2
    low = count // 2
    while count - low > 1:
        middle = (low + count) // 2
        low, count = (low, middle) if middle / busy >= driver_rate(driver, middle) else (
            middle, count)  # fmt: skip
    network = {f"{g} Gbit": busy * g * 1.25e8 / most_bytes(work) for g in GBIT}
    return {"learner": busy / service, "driver": float(count), **network}


def driver_rate(driver: Driver, workers: int) -> float:
    """Batches per second at which the driver has no rest, one answer at a look."""
    return 1.0 / (2.0 * (driver.look(workers) + driver.answer(workers)))


def most_bytes(work: Work) -> int:
    """Per batch, in the direction that has more of them: batches in, weights out."""
    return max(work.batch_bytes, work.weights_bytes)


# --- the simulation ---------------------------------------------------------------------------


def simulated(
    backend: RayFakes, works: dict[str, Work], calls: dict[str, Calls], drivers: dict[str, Driver],
    counts: Iterable[int], seconds: float, names: Iterable[str],
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Simulations beside their predictions, per configuration."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        work = works[name]
        first, *more = work.update.coefficients
        costs = Costs(work.work(1.0), (first, more[0]), work.batch_bytes, work.weights_bytes)
        rows = []
        for count in counts:
            run = simulate(backend, costs, count, work.mode, seconds)
            # A sleep ends late on a busy machine; what the fakes say they took is what counts.
            slept = replace(work, work=Fit((run["work"],)), update=Fit((run["update"],)))
            told = predict(slept, calls[name], drivers[name], count, recall=False)
            asked = work.update(1 if work.mode == "async" else count)
            late = {
                "late_work": run["work"] / costs.work - 1.0,
                "late_update": run["update"] / asked - 1.0,
            }
            error = told["rate"] / run["rate"] - 1.0
            rows.append(run | late | {"predicted": told, "error": error})
            say(
                f"{name}, {count} workers: {run['rate']:.1f} batches/s, predicted "
                f"{told['rate']:.1f} ({rows[-1]['error']:+.0%}); driver {run['driver']:.0%}, "
                f"predicted {told['driver']:.0%}"
            )
        results[name] = rows
    return results


# --- what is written --------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What all of it was measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rlgen": rlgen.__version__,
        "load": os.getloadavg()[0],
    }


def table(head: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table; the first column is text, the others numbers."""
    columns = head.split("|")
    yield "| " + " | ".join(column.strip() for column in columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def ms(seconds: float) -> str:
    """Milliseconds with three figures."""
    return f"{1e3 * seconds:#.3g}".rstrip(".") if seconds < 0.9995 else f"{1e3 * seconds:,.0f}"


def size(count: float) -> str:
    """Bytes with their unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def percent(share: float) -> str:
    """A share, in per cent."""
    return f"{share:.0%}" if share >= 0.0095 else f"{share:.1%}"


def markdown(results: dict[str, Any], works: dict[str, Work], calls: dict[str, Calls],
             drivers: dict[str, Driver]) -> dict[str, str]:  # fmt: skip
    """The tables of the page, by the names of their marks."""
    on = results["machine"]
    every = [row for rows in results["simulation"].values() for row in rows]
    example = drivers["impala-cartpole"]
    costs = (
        [
            name, w.mode, f"{w.rows:,}", size(w.batch_bytes), size(w.batch_bytes / w.rows),
            ms(w.work(1.0)), line(w.update), percent(w.update.error), size(w.weights_bytes),
            ms(w.fetch), f"{1.0 / (w.update(1) + calls[name].learner):,.0f}",
        ]
        for name, w in works.items()
    )  # fmt: skip
    asked = (
        [
            name, ms(c.ask), ms(c.take), ms(c.learn), ms(c.told), ms(c.free), ms(c.look),
            ms(c.worker), ms(c.learner), ms(c.delay), line(c.join), line(c.gather),
        ]
        for name, c in calls.items()
    )  # fmt: skip
    driver = (
        [
            f"{n:,}", ms(example.look(n)), ms(example.answer(n)),
            f"{driver_rate(example, n):,.0f}", f"{0.5 / example.answer(n):,.0f}",
        ]
        for n in (2, 32, 200, *WORKERS)
    )  # fmt: skip
    checked = (
        [
            name, str(r["workers"]), f"{r['rate']:.1f}", f"{r['predicted']['rate']:.1f}",
            f"{r['error']:+.0%}", percent(r["driver"]), percent(r["predicted"]["driver"]),
            ms(r["driver"] / r["rate"]), ms(r["predicted"]["driver"] / r["predicted"]["rate"]),
            f"{r['answers']:.1f}", f"{r['lag']:.1f}", f"{r['predicted']['lag']:.0f}",
        ]
        for name, rows in results["simulation"].items()
        for r in rows
    )  # fmt: skip
    full = (
        [name, *(f"{value:,.3g}" for value in needed(w, calls[name], drivers[name]).values())]
        for name, w in works.items()
        if w.mode == "async"
    )
    networks = " | ".join(f"{g} Gbit" for g in GBIT)
    texts = {
        "machine": [
            f"{on['cores']} cores, {on['system']}, Python {on['python']}, Ray {on['ray']}, torch "
            f"{on['torch']}, rlgen {on['rlgen']}; load average at the start {on['load']:.1f}."
        ],
        "late": [
            "The sleeps took "
            + " and ".join(
                f"{statistics.median(r[f'late_{who}'] for r in every):.0%} longer (the {who}'s)"
                for who in ("work", "update")
            )
            + " than they were asked for, in the median."
        ],
        "costs": table(
            "configuration | mode | rows per batch | batch | per row | worker, ms | update, ms | "
            "residual | weights | fetch, ms | weights/s at most", costs,
        ),
        "calls": table(
            "configuration | ask | take | learn | told | free | look | worker's actor | learner's "
            "actor | delay | driver, n batches | learner, n batches", asked,
        ),
        "driver": table(
            "workers | a look, ms | an answer, ms | batches/s without a rest | at most", driver
        ),
        "simulation": table(
            "configuration | workers | batches/s, measured | predicted | error | driver, "
            "measured | predicted | ms per batch, measured | predicted | answers per look | lag, "
            "measured | predicted", checked,
        ),
        "prediction": table(
            "configuration | workers | batches/s | rows/s | learner | driver | bytes/s to the "
            f"learner | from it | {networks} | in flight | lag | waits, s | what holds it up",
            prediction_rows(works, calls, drivers),
        ),
        "saturation": table(f"configuration | learner | driver | {networks}", full),
    }  # fmt: skip
    return {mark: "\n".join(lines) for mark, lines in texts.items()}


def line(of: Fit) -> str:
    """A fit of the first degree, in milliseconds."""
    return f"{ms(of.coefficients[0])} + {ms(of.coefficients[1])} n"


def prediction_rows(
    works: dict[str, Work], calls: dict[str, Calls], drivers: dict[str, Driver]
) -> Iterator[list[str]]:
    for name, work in works.items():
        for count in WORKERS:
            first = [f"{name} ({work.mode})", f"{count:,}"]
            if work.most and count > work.most:
                yield [*first, *["-"] * 12, f"refused: a minibatch has {work.most} rows"]
                continue
            told = predict(work, calls[name], drivers[name], count)
            part = 1.0 / count if work.most else 1.0
            bytes_in = told["rate"] * work.batch_bytes * part
            bytes_out = told["rate"] * work.weights_bytes
            shares = [max(bytes_in, bytes_out) / (1.25e8 * g) for g in GBIT]
            limits = {
                "learner": told["learner"], "driver": told["driver"],
                **{f"network of {g} Gbit": s for g, s in zip(GBIT[1:], shares[1:], strict=True)},
            }  # fmt: skip
            held, most = max(limits.items(), key=lambda pair: pair[1])
            waits = f"{told['waits']:.2g}" if told["waits"] else "-"
            in_flight = (2 if work.mode == "async" else 1) * count * work.batch_bytes * part
            yield [
                *first, f"{told['rate']:,.0f}", f"{told['rate'] * work.rows * part:,.0f}",
                percent(told["learner"]), percent(told["driver"]),
                f"{size(bytes_in)}/s", f"{size(bytes_out)}/s",
                *(percent(s) for s in shares),
                size(in_flight), f"{told['lag']:,.0f}", waits,
                held if most > 0.9 or work.mode == "sync" else "workers",
            ]  # fmt: skip


def write_between(path: Path, texts: dict[str, str]) -> None:
    """Put texts between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->``, paragraphs of a page.

    Raises:
        SystemExit: a mark is missing.
    """
    page = path.read_text()
    for mark, text in texts.items():
        begin, end = f"<!-- {mark} -->\n\n", f"\n\n<!-- /{mark} -->"
        before, there, rest = page.partition(begin)
        _, ends, after = rest.partition(end)
        if not there or not ends:
            raise SystemExit(f"{path}: no place for the table {mark!r}")
        page = before + begin + text + end + after
    path.write_text(page)


def draw(path: Path, results: dict[str, Any], works: dict[str, Work], calls: dict[str, Calls],
         drivers: dict[str, Driver]) -> None:  # fmt: skip
    """Batches per second over the workers: predicted (lines), measured (marks), bounds (dots)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's
    with rc_context({"svg.hashsalt": "scaling"}):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        counts = sorted({round(2 ** (x / 4)) for x in range(4, 49)})
        marks = zip(results["simulation"].items(), colours, "osD^", strict=False)
        for (name, rows), colour, mark in marks:
            told = [
                predict(works[name], calls[name], drivers[name], n, recall=False)["rate"]
                for n in counts
            ]
            axes.plot(counts, told, color=colour, linewidth=1.4)
            if (work := works[name]).mode == "async":
                busy = work.work(1.0) + calls[name].worker
                service = work.update(1) + calls[name].learner
                most = [bound(n, busy, [service], calls[name].delay) for n in counts]
                axes.plot(counts, most, ":", color=colour, linewidth=1.0)
            axes.plot(
                [row["workers"] for row in rows], [row["rate"] for row in rows], mark,
                color=colour, markersize=6, label=f"{name} ({work.mode})",
            )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="batches per second")
        axes.set_title("Lines: the model. Marks: the driver over fake workers.", fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=9)
        figure.savefig(path, metadata={"Date": None})


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, predict, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats and workers: a minute")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    parser.add_argument("--picture", type=Path, help="draw predicted and measured rates (SVG)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quick = arguments.quick
    repeats, seconds, budget = (10, 1.5, 0.1) if quick else (40, 6.0, 1.0)
    results: dict[str, Any] = {"machine": machine()}
    names = [name for name in CASES if not (quick and name == "dqn-pong")]

    works = {}
    for name in names:
        say(f"{name}: worker and learner")
        works[name] = measure_work(name, budget)
    slow = works["a3c-cartpole"]
    works[SLOW] = replace(slow, work=Fit((SLOWER * slow.work(1.0),)))
    driven = DRIVEN[:4] if quick else DRIVEN
    counts = SIMULATED[:3] if quick else SIMULATED
    say("the driver's own code")
    code = measure_code(driven, 0.1)
    say("fake actors")
    backend = RayFakes(max(counts))
    try:
        looks = measure_looks(backend, driven, 0.1)
        calls = {}
        for name, work in works.items():
            say(f"{name}: calls")
            joined = (1, 4, 8) if work.batch_bytes > 2**20 else (1, 8, 64)
            sizes = work.batch_bytes, work.weights_bytes
            calls[name] = measure_calls(backend, *sizes, repeats, joined)
        drivers = {name: driver_of(code, looks, calls[name]) for name in works}
        chosen = [SLOW, "a3c-cartpole", "impala-cartpole", "a2c-cartpole"]
        results["simulation"] = simulated(backend, works, calls, drivers, counts, seconds, chosen)
    finally:
        backend.shutdown()
    results |= {
        "costs": {name: asdict(work) for name, work in works.items()},
        "calls": {name: asdict(call) for name, call in calls.items()},
        "drivers": {name: asdict(driver) for name, driver in drivers.items()},
        "predictions": {
            name: {
                str(n): predict(work, calls[name], drivers[name], n)
                for n in WORKERS
                if not work.most or n <= work.most
            }
            for name, work in works.items()
        },
    }
    texts = markdown(results, works, calls, drivers)
    for mark, text in texts.items():
        print(f"{mark}\n\n{text}\n")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.write:
        write_between(arguments.write, texts)
    if arguments.picture:
        draw(arguments.picture, results, works, calls, drivers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
