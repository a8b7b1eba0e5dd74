"""Trials of a sweep on Ray Tune: who runs when, who is stopped, who goes on from whom.

Tune is told of the results only. The runs, their checkpoints and the journal from which a sweep
goes on are ours (`rlgen.sweeps`): what Tune itself writes holds pickles, and is never read.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
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
        target: ``module:function`` of a trial; it is given folder, number, point, a function that
            takes ``(ticks, mean, checkpoint)`` of every evaluation, and a checkpoint to go on from.
        folder: of the sweep; Tune's own files go into ``.tune`` there.
        search: the method and its space.
        seed: of what the method draws.
        todo: numbers and points of trials to run.
        fresh: numbers of those whose points the method has yet to choose.
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
    parallel = min(parallel, len(todo) + len(fresh))
    os.environ.update(QUIET)
    cluster.connect(address, parallel, parallel * gpus)
    try:
        with _quietly():
            _fit(
                target, folder, search, seed, list(todo), list(fresh), past, every, budget,
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
    past: Sequence[Past],
    every: int,
    budget: int,
    parallel: int,
    gpus: int,
    began: Callable[[int, Point], None],
    ended: Callable[[int, str | None], None],
) -> None:
    from ray import tune

    random.seed(seed)
    np.random.seed(seed)
    chooser = None
    if search.method == "bayesian":
        chooser = _bayesian(search, seed, [point for _, point in todo], past)
        space: dict[str, Any] = {}
    else:
        points = [{"number": number, "values": point} for number, point in todo]
        space = {"point": tune.grid_search(points)}
    waiting = list(todo)

    def name(trial: Any) -> str:
        """The trial's number: a new point gets the next one."""
        point = _point(trial.config, search)
        known = next((n for n, p in waiting if p == point), None)
        if known is None and fresh:
            known = fresh.pop(0)
        elif known is None:  # the method gave back a point a little otherwise
            known, _ = waiting.pop(0)
        else:
            waiting.remove((known, point))
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

    passes = search.method == "population"  # checkpoints from one trial to another

    def trial(config: dict[str, Any]) -> None:
        module, _, function = target.partition(":")

        def report(ticks: float, mean: float, checkpoint: Path | None) -> None:
            given = None
            if passes and checkpoint is not None:
                given = tune.Checkpoint.from_directory(str(checkpoint))
            tune.report({TICKS: ticks, SCORE: mean}, checkpoint=given)

        number = int(tune.get_context().get_trial_name())
        run_trial = getattr(importlib.import_module(module), function)
        earlier = tune.get_checkpoint() if passes else None
        if earlier is None:
            run_trial(folder, number, _point(config, search), report, None)
        else:
            with earlier.as_directory() as path:
                run_trial(folder, number, _point(config, search), report, Path(path))

    resources = {"cpu": 1.0} | ({"gpu": float(gpus)} if gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=chooser,
            scheduler=_scheduler(search, past, every, budget),
            num_samples=len(todo) + len(fresh) if chooser else 1,
            max_concurrent_trials=parallel,
            trial_name_creator=name,
            trial_dirname_creator=str,
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
    """What stops trials or changes them while they run; None where the method does neither."""
    from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

    if search.method == "halving":
        grace = min(search.grace * every, budget)
        halving = ASHAScheduler(
            time_attr=TICKS, metric=SCORE, mode="max", max_t=budget, grace_period=grace,
            reduction_factor=search.reduction, stop_last_trials=False,
        )  # fmt: skip
        for number, (_, evaluations) in enumerate(past):
            # The rungs remember what earlier trials had reached.
            earlier = SimpleNamespace(trial_id=f"earlier-{number}")
            halving.on_trial_add(None, earlier)
            for ticks, mean in evaluations:
                halving.on_trial_result(None, earlier, {TICKS: ticks, SCORE: mean})
        return halving
    if search.method == "population":

        def keep_within(config: dict[str, Any]) -> dict[str, Any]:
            values = config["point"]["values"]
            for key, dimension in search.space.items():
                values[key] = dimension.clip(values[key])
            return config

        mutations = {key: _domain(dimension) for key, dimension in search.space.items()}
        return PopulationBasedTraining(
            time_attr=TICKS, metric=SCORE, mode="max",
            perturbation_interval=search.interval * every,
            hyperparam_mutations={"point": {"values": mutations}},
            quantile_fraction=search.quantile, resample_probability=search.resample,
            custom_explore_fn=keep_within, log_config=False,
        )  # fmt: skip
    return None


def _bayesian(search: Search, seed: int, points: list[Point], past: Sequence[Past]) -> Any:
    """Optuna's tree of Parzen estimators, which knows what earlier trials had reached."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = OptunaSearch.convert_search_space(
        {key: _domain(dimension, encoded=True) for key, dimension in search.space.items()}
    )
    chooser = OptunaSearch(
        space, metric=SCORE, mode="max", seed=seed + len(past),
        points_to_evaluate=[_encode(point, search) for point in points] or None,
    )  # fmt: skip
    for point, evaluations in past:
        if evaluations:
            chooser.add_evaluated_point(_encode(point, search), evaluations[-1][1])
    return chooser


def _domain(dimension: Dimension, encoded: bool = False) -> Any:
    """A dimension as Tune's; its choices as text where they would not be understood."""
    from ray import tune

    if dimension.kind == "choice":
        if encoded:
            return tune.choice([json.dumps(value) for value in dimension.values])
        return list(dimension.values)
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
    if "point" in config:
        values: Point = config["point"]["values"]
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
