"""Trials of a sweep on Ray Tune: who runs when, and who is stopped.

Tune is told of the results only. The runs, their checkpoints and the journal from which a sweep
goes on are ours (`rlgen.sweeps`): what Tune itself writes holds pickles, and is never read.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from rlgen.backends import cluster
from rlgen.errors import ConfigError
from rlgen.search import Dimension, Point, Search

SCORE, TICKS = "mean", "ticks"
OWN = ".tune"  # Tune's own folder in a sweep's
CRASHES = 2  # of a trial's process that are made good by starting it again
QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may fail before its first evaluation
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a trial to leave its process, within one report
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
#: What earlier trials have come to: the (ticks, mean) of their evaluations, and their points.
Past = tuple[Point, list[tuple[float, float]]]


def check_installed(bayesian: bool) -> None:
    """Refuse to begin without the packages.

    Raises:
        ConfigError: with the line that installs them.
    """
    try:
        importlib.import_module("ray.tune")
        if bayesian:
            importlib.import_module("optuna")
    except ImportError as error:
        raise ConfigError(
            f"sweep: {error.name or error} is missing; install it with: pip install 'rlgen[sweep]'"
        ) from error


def run(
    target: str,
    folder: Path,
    search: Search,
    seed: int,
    todo: Sequence[tuple[int, Point]],
    fresh: Sequence[int],
    more: Callable[[], list[tuple[int, Point]]],
    past: Sequence[Past],
    every: int,
    budget: int,
    gpus: int,
    address: str,
    began: Callable[[int, Point], None],
    ended: Callable[[int, str | None], None],
) -> None:
    """Run trials until all have ended.

    Args:
        target: ``module:function`` of a trial; it is given folder, number, point and a function
            that takes ``(ticks, mean)`` of every evaluation.
        folder: of the sweep; Tune's own files go into ``.tune`` there.
        search: the method and its space.
        seed: of what the method draws.
        todo: numbers and points of trials to run.
        fresh: numbers of those whose points Optuna has yet to choose.
        more: what to run once all of those have ended; nothing: that was all.
        past: of the trials that have ended in an earlier part of the sweep.
        every: ticks of the clock between evaluations.
        budget: ticks of a whole trial.
        gpus: per trial.
        address: of the cluster.
        began: told of every trial's number and point.
        ended: told of every trial's number and, of one whose process failed, the reason.

    Raises:
        ConfigError: there is no such cluster.
        KeyboardInterrupt: as it comes; what trials have reached is kept.
    """
    parallel = search.parallel or os.cpu_count() or 1
    everyone = search.trials if search.method == "population" else len(todo) + len(fresh)
    parallel = min(parallel, everyone)
    os.environ.update(QUIET)
    cluster.connect(address, parallel, parallel * gpus)
    cluster.check_total(parallel, parallel * gpus)
    try:
        with _quietly():
            _fit(
                target, folder, search, seed, list(todo), list(fresh), more, past, every, budget,
                parallel, gpus, began, ended,
            )  # fmt: skip
    finally:
        ray.shutdown()
        shutil.rmtree(folder / OWN, ignore_errors=True)


def _fit(
    target: str,
    folder: Path,
    search: Search,
    seed: int,
    todo: list[tuple[int, Point]],
    fresh: list[int],
    more: Callable[[], list[tuple[int, Point]]],
    past: Sequence[Past],
    every: int,
    budget: int,
    parallel: int,
    gpus: int,
    began: Callable[[int, Point], None],
    ended: Callable[[int, str | None], None],
) -> None:
    from ray import tune

    bayesian = search.method == "bayesian"
    waiting = list(todo)
    if bayesian:
        chooser = _bayesian(search, seed, [point for _, point in todo], past)
    else:
        chooser = _in_order(todo, more)

    def name(trial: Any) -> str:
        """The trial's number: a new point of Optuna's gets the next one."""
        point = _point(trial.config, search)
        if not bayesian:
            known: int = trial.config["number"]
        elif (asked := next((n for n, p in waiting if p == point), None)) is not None:
            known = asked
            waiting.remove((known, point))
        elif fresh:
            known = fresh.pop(0)
        else:  # Optuna gave back a point a little otherwise
            known, _ = waiting.pop(0)
        began(known, point)
        return f"{known:04d}"

    class Told(tune.Callback):  # type: ignore[misc]
        """Tells of trials that have ended."""

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            ended(int(str(trial)), None)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            error = trial.get_error()
            cause = getattr(error, "cause", None) or error
            text = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
            ended(int(str(trial)), text)

    def trial(config: dict[str, Any]) -> None:
        module, _, function = target.partition(":")

        def report(ticks: float, mean: float) -> None:
            tune.report({TICKS: ticks, SCORE: mean})

        number = int(tune.get_context().get_trial_name())
        run_trial = getattr(importlib.import_module(module), function)
        run_trial(folder, number, _point(config, search), report)

    resources = {"cpu": 1.0} | ({"gpu": float(gpus)} if gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=chooser,
            scheduler=_scheduler(search, past, every, budget),
            num_samples=len(todo) + len(fresh) if bayesian else -1,
            max_concurrent_trials=parallel,
            trial_name_creator=name,
            trial_dirname_creator=lambda trial: f"{trial}-{trial.trial_id}",
            reuse_actors=True,  # a process that has imported everything takes the next trial
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.absolute() / OWN),
            failure_config=tune.FailureConfig(max_failures=CRASHES),
            callbacks=[Told()],
            verbose=0,
        ),
    )
    tuner.fit()


def _scheduler(search: Search, past: Sequence[Past], every: int, budget: int) -> Any:
    """What stops trials while they run; None where the method does not."""
    from ray.tune.schedulers import ASHAScheduler

    if search.method != "halving":
        return None
    halving = ASHAScheduler(
        time_attr=TICKS, metric=SCORE, mode="max", max_t=budget,
        grace_period=min(search.grace * every, budget),
        reduction_factor=search.reduction, stop_last_trials=False,
    )  # fmt: skip
    for number, (_, evaluations) in enumerate(past):
        # The rungs remember what earlier trials had reached.
        earlier = SimpleNamespace(trial_id=f"earlier-{number}")
        halving.on_trial_add(None, earlier)
        for ticks, mean in evaluations:
            halving.on_trial_result(None, earlier, {TICKS: ticks, SCORE: mean})
    return halving


def _in_order(
    todo: Sequence[tuple[int, Point]], more: Callable[[], list[tuple[int, Point]]]
) -> Any:
    """Gives out trials in order, and more once all of those have ended."""
    from ray.tune.search import Searcher

    class InOrder(Searcher):  # type: ignore[misc]
        """Numbers and points, as they were given."""

        def __init__(self) -> None:
            super().__init__(metric=SCORE, mode="max")
            self.waiting = list(todo)
            self.at_work: set[str] = set()

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if not self.waiting and not self.at_work:
                self.waiting = more()
                if not self.waiting:
                    return str(Searcher.FINISHED)
            if not self.waiting:
                return None  # for now
            number, values = self.waiting.pop(0)
            self.at_work.add(trial_id)
            return {"number": number, "values": values}

        def on_trial_complete(self, trial_id: str, *about: Any, **more_about: Any) -> None:
            self.at_work.discard(trial_id)

    return InOrder()


def _bayesian(search: Search, seed: int, points: list[Point], past: Sequence[Past]) -> Any:
    """Optuna's tree of Parzen estimators, which knows what earlier trials had reached."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = OptunaSearch.convert_search_space(
        {key: _domain(dimension) for key, dimension in search.space.items()}
    )
    chooser = OptunaSearch(
        space, metric=SCORE, mode="max", seed=seed + len(past),
        points_to_evaluate=[_encode(point, search) for point in points] or None,
    )  # fmt: skip
    for point, evaluations in past:
        if evaluations:
            chooser.add_evaluated_point(_encode(point, search), evaluations[-1][1])
    return chooser


def _domain(dimension: Dimension) -> Any:
    """A dimension as Tune's; its choices as text, for they may be lists."""
    from ray import tune

    if dimension.kind == "choice":
        return tune.choice([json.dumps(value) for value in dimension.values])
    low, high = dimension.values
    if dimension.kind == "uniform":
        return tune.uniform(low, high)
    if dimension.kind == "log_uniform":
        return tune.loguniform(low, high)
    if dimension.kind == "integer":
        return tune.randint(low, high + 1)
    return tune.lograndint(low, high + 1)


def _encode(point: Point, search: Search) -> Point:
    choices = {key for key, dimension in search.space.items() if dimension.kind == "choice"}
    return {k: json.dumps(v) if k in choices else v for k, v in point.items()}


def _point(config: dict[str, Any], search: Search) -> Point:
    """The point of a trial's configuration in Tune."""
    if "values" in config:
        values: Point = config["values"]
        return values
    choices = {key for key, dimension in search.space.items() if dimension.kind == "choice"}
    return {k: json.loads(config[k]) if k in choices else config[k] for k in search.space}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Tune's own remarks: `rlgen.sweeps` says what matters."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
