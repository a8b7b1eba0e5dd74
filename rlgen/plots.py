"""The commands ``rlgen plot ...``: figures of runs and of the book.

Whatever is drawn stands in `rlgen.curves` (what runs recorded), `rlgen.value_maps` (what tabular
agents know) and `rlgen.figures` (what models do, and the book's).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlgen.command import AsJson, Debug, RunDir, check_output, damaged, replying
from rlgen.drawing import ENDINGS, save
from rlgen.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from rlgen.algorithm import Algorithm
    from rlgen.api import Run
    from rlgen.history import History

plot = typer.Typer(no_args_is_help=True, help="Draw figures of runs, and those of the book.")

Picture = Annotated[Path, typer.Option("-o", "--output", help="The PNG or SVG file to write")]
Runs = Annotated[
    list[str],
    typer.Argument(metavar="RUNS ...", help="Runs, folders of runs, or experiments in runs/"),
]
SPLITS = ("train", "validation", "test")
Split = Annotated[str, typer.Option(help="Of them: train, validation or test")]


def _recorded(places: list[str]) -> list[History]:
    """The runs at some places that have recorded anything; of the others the user is told."""
    from rlgen import history
    from rlgen.api import warn

    found = history.read_all(places, warn)
    told = [run for run in found if run.figures()]
    for run in found:
        if run.skipped:
            warn(damaged(run.folder, run.skipped))
        if told and run not in told:
            warn(f"left out: {run.folder} has recorded nothing yet")
    return told or found


@plot.command("curves")
def learning_curves(
    runs: Runs,
    output: Picture,
    figure: Annotated[
        str, typer.Option(help="Such as evaluation/mean or train/episode_return; what shows most")
    ] = "",
    x: Annotated[
        str, typer.Option("--x", help="env_steps, updates, epochs or seconds; what the runs count")
    ] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw learning curves: the mean over the seeds of each experiment, and its 95 % interval."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        from rlgen import curves as drawing
        from rlgen import history
        from rlgen.api import warn

        if x and x not in drawing.UNITS:
            raise ConfigError(f"--x: there is no clock {x!r}{did_you_mean(x, drawing.UNITS)}")
        named = history.by_seed(history.experiments(_recorded(runs)), warn)
        figure = figure or drawing.choose_figure([run for group in named.values() for run in group])
        save(drawing.learning(named, figure, x), output)
        answer |= {"file": str(output), "figure": figure}
        answer["experiments"] = {
            name: [str(r.folder) for r in group] for name, group in named.items()
        }
        for name, group in named.items():
            print(f"{name}: {figure} of {len(group)} {'run' if len(group) == 1 else 'runs'}")
        print(f"in {output}")


@plot.command()
def throughput(runs: Runs, output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw the rate of runs over their numbers of workers, beside the ideal."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        from rlgen import curves

        drawn, rates = curves.throughput(_recorded(runs))
        save(drawn, output)
        answer |= {"file": str(output), "rates": rates}
        for name, found in rates.items():
            said = (f"{sum(found[w]) / len(found[w]):,.0f} with {w}" for w in sorted(found))
            print(f"{name}: per second {', '.join(said)}")
        print(f"in {output}")


@plot.command()
def regret(runs: Runs, output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw the cumulative regret of bandits, and the slope of the bound of Lai and Robbins."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        from rlgen import curves, history
        from rlgen.api import warn

        named = history.by_seed(history.experiments(_recorded(runs)), warn)
        save(curves.regret(named), output)
        answer |= {"file": str(output), "regret": {}}
        for name, group in named.items():
            last = [float(curves.cumulative_regret(run)[1][-1]) for run in group]
            answer["regret"][name] = last
            print(f"{name}: {sum(last) / len(last):.4g} a bandit")
        print(f"in {output}")


@plot.command()
def values(run: RunDir, output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw the values and the policy of a tabular agent as a map of its states."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        from rlgen import value_maps
        from rlgen.api import load

        save(value_maps.draw(load(run)), output)
        answer |= {"run_dir": str(run), "file": str(output)}
        print(f"values and policy in {output}")


@plot.command()
def filters(
    run: RunDir,
    output: Picture,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="The strongest")] = 64,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw what the units of a model's first layer look for, as pictures."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        loaded = _load_model(run, "filters")
        from torch import nn

        from rlgen import figures
        from rlgen.generative import pictures

        model = loaded.algorithm
        shape, network = model.problem.data_shape, getattr(model, model.shared)
        if shape == (2,) or not pictures.drawable(shape):
            raise ConfigError(f"filters: the rows of {run} are of shape {shape}, no pictures")
        size = len(model.problem.data_mean) if model.problem.data_mean is not None else 0
        weights = figures.filters(network, size) if isinstance(network, nn.Module) else None
        if weights is None:
            name = loaded.experiment.algorithm
            raise ConfigError(
                f"filters: {run} trained {name}, which has no layer of one weight for each of "
                f"{size} pixels; give a run of an RBM, DBN, DBM, auto-encoder or sparse coding"
            )
        figures.save_filters(output, weights[:count], shape, len(weights))
        answer |= {"run_dir": str(run), "file": str(output), "filters": len(weights)}
        print(f"{min(count, len(weights))} of {len(weights)} filters in {output}")


@plot.command()
def reconstructions(
    run: RunDir,
    output: Picture,
    rows: Annotated[int, typer.Option(min=1, help="How many")] = 40,
    split: Split = "test",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw rows of data, and below them what a model makes of them (samples: 'rlgen sample')."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        lacks = "makes none; see 'rlgen sample'"
        model, columns = _model_and_rows(run, "reconstructions", "reconstruct", lacks, split, rows)
        import torch

        from rlgen import figures
        from rlgen.generative import pictures

        x, shape = columns["x"], model.problem.data_shape
        if not pictures.drawable(shape):
            raise ConfigError(
                f"reconstructions: the rows of {run} are of shape {shape}, neither images nor "
                "points"
            )
        torch.manual_seed(0)
        with torch.no_grad():
            made = model.reconstruct(torch.from_numpy(x)).numpy()
        error = figures.save_reconstructions(output, x, made, shape)
        answer |= {"run_dir": str(run), "file": str(output), "split": split, "rows": len(x)}
        answer["mean_squared_error"] = error
        print(f"{len(x)} {split} rows and their reconstructions in {output}")


@plot.command()
def latent(
    run: RunDir,
    output: Picture,
    rows: Annotated[int, typer.Option(min=2, help="How many")] = 5000,
    split: Split = "train",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw a model's codes by their labels and, of two values, what they decode to (fig 13.5)."""
    with replying(as_json, debug) as answer:
        check_output(output, *ENDINGS)
        lacks = "has no codes of rows"
        model, columns = _model_and_rows(run, "latent", "encode", lacks, split, rows)
        import torch

        from rlgen import figures
        from rlgen.generative import pictures

        with torch.no_grad():
            codes = model.encode(torch.from_numpy(columns["x"])).numpy()
            if codes.shape[1] < 2:
                raise ConfigError(f"latent: the codes of {run} are of one value, a plane needs two")
            manifold, shape = None, model.problem.data_shape
            if (
                codes.shape[1] == 2
                and model.has("decode")
                and model.has("prior")
                and len(shape) > 1
            ):
                decoded = model.decode(torch.from_numpy(figures.manifold_codes())).numpy()
                manifold = pictures.grid(decoded, shape, figures.SIDE)
        figures.save_latent(output, codes, columns.get("y"), manifold)
        count = len(codes)
        answer |= {"run_dir": str(run), "file": str(output), "split": split, "rows": count}
        print(f"codes of {count:,} {split} rows in {output}")


def _load_model(run: str, command: str) -> Run:
    """A run of a generative model of rows.

    Raises:
        ConfigError: it is one of an agent.
    """
    from rlgen.api import load

    loaded = load(run)
    if loaded.experiment.data is None:
        raise ConfigError(
            f"{command}: {run} trained the agent {loaded.experiment.algorithm}; give a run of a "
            "generative model"
        )
    return loaded


def _model_and_rows(
    run: str, command: str, method: str, lacks: str, split: str, most: int
) -> tuple[Algorithm, dict[str, np.ndarray]]:
    """A run's model, and at most so many rows of a split of its data.

    The rows are evenly spaced, for a split may be sorted by where they come from.

    Raises:
        ConfigError: there is no such split, or the model lacks the method.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split: there is no {split!r}{did_you_mean(split, SPLITS)}")
    loaded = _load_model(run, command)
    if not loaded.algorithm.has(method):
        name = loaded.experiment.algorithm
        raise ConfigError(f"{command}: {run} trained {name}, which {lacks}")
    import numpy as np

    from rlgen.generative import data

    assert loaded.experiment.data is not None
    dataset = data.load(loaded.experiment.data, loaded.experiment.seed)
    count = dataset.count(split)
    chosen = np.linspace(0, count - 1, min(most, count)).astype(np.int64)
    return loaded.algorithm, dataset.columns(split, chosen)


@plot.command()
def modes(
    run: RunDir,
    output: Picture,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Samples")] = 2500,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw samples of a model over the known modes of its data, and count those found."""
    with replying(as_json, debug) as answer:
        from rlgen.api import load
        from rlgen.generative.densities import MODE_SCALES

        check_output(output, *ENDINGS)
        loaded = load(run)
        config = loaded.experiment.data
        if config is None or config.name not in MODE_SCALES:
            raise ConfigError(
                f"modes: {run} is not of the data {' or '.join(MODE_SCALES)}, whose modes are known"
            )
        import torch

        from rlgen import figures

        torch.manual_seed(seed)
        found, good = figures.save_modes(output, loaded.sample(count), config.name)
        answer |= {
            "run_dir": str(run),
            "file": str(output),
            "count": count,
            "seed": seed,
            "modes": found,
            "near": good,
        }
        print(f"{found} modes, {good:.1%} of {count:,} samples near one, in {output}")


@plot.command("vanishing-gradient")
def vanishing_gradient(output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw why the gradient of a GAN vanishes where its data and the real ones part (fig 13.9)."""
    with replying(as_json, debug) as answer:
        from rlgen import figures

        check_output(output, *ENDINGS)
        js = figures.save_vanishing_gradient(output)
        answer |= {"file": str(output), "js": js}
        print(f"JS = {js:.4f} nats (log 2 = 0.6931) in {output}")


@plot.command()
def kl(output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw a Gaussian fitted to two by forward and by reverse KL divergence (fig 13.10)."""
    with replying(as_json, debug) as answer:
        from rlgen import figures

        check_output(output, *ENDINGS)
        answer["file"] = str(output)
        for name, fit in figures.save_kl_directions(output).items():
            answer[name] = {
                "kl": fit.divergence,
                "mean": fit.mean.tolist(),
                "covariance": fit.covariance.tolist(),
            }
            mean = ", ".join(f"{value:.3f}" for value in fit.mean)
            print(f"{name}: KL = {fit.divergence:.4f} nats, mean ({mean})")
        print(f"in {output}")
