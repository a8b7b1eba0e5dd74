"""The commands ``rlgen plot ...``: figures of runs and of the book."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlgen.command import AsJson, Debug, RunDir, check_output, replying
from rlgen.errors import ConfigError, did_you_mean

plot = typer.Typer(no_args_is_help=True, help="Draw figures of runs, and those of the book.")

Picture = Annotated[Path, typer.Option("-o", "--output", help="The PNG file to write")]
SPLITS = ("train", "validation", "test")


@plot.command()
def latent(
    run: RunDir,
    output: Picture,
    rows: Annotated[int, typer.Option(min=2, help="How many")] = 5000,
    split: Annotated[str, typer.Option(help="Of them: train, validation or test")] = "train",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw a model's codes by their labels and, of two values, what they decode to (fig 13.5)."""
    with replying(as_json, debug) as answer:
        from rlgen.api import load

        check_output(output, ".png")
        if split not in SPLITS:
            raise ConfigError(f"--split: there is no {split!r}{did_you_mean(split, SPLITS)}")
        loaded = load(run)
        name, config = loaded.experiment.algorithm, loaded.experiment.data
        model = loaded.algorithm
        if config is None or not model.has("encode"):
            raise ConfigError(f"latent: {run} trained {name}, which has no codes of rows")
        import numpy as np
        import torch

        from rlgen import figures
        from rlgen.batch import to_tensors
        from rlgen.generative import data, pictures

        dataset = data.load(config, loaded.experiment.seed)
        count = min(rows, dataset.count(split))
        # Evenly spaced: a test set may be sorted by where its rows come from, as MNIST's is.
        chosen = np.linspace(0, dataset.count(split) - 1, count).astype(np.int64)
        columns = dataset.columns(split, chosen)
        with torch.no_grad():
            codes = model.encode(to_tensors(columns)["x"]).numpy()
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
        answer |= {"run_dir": str(run), "file": str(output), "split": split, "rows": count}
        print(f"codes of {count:,} {split} rows in {output}")


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

        check_output(output, ".png")
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

        check_output(output, ".png")
        js = figures.save_vanishing_gradient(output)
        answer |= {"file": str(output), "js": js}
        print(f"JS = {js:.4f} nats (log 2 = 0.6931) in {output}")


@plot.command()
def kl(output: Picture, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw a Gaussian fitted to two by forward and by reverse KL divergence (fig 13.10)."""
    with replying(as_json, debug) as answer:
        from rlgen import figures

        check_output(output, ".png")
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
