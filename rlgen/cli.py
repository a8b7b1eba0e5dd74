"""The command line: ``rlgen train CONFIG key=value ...`` and its relatives.

Everything heavy is imported inside the commands, so that ``rlgen --help`` and mistakes are
answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlgen import __version__
from rlgen.chaos import add_to as add_chaos
from rlgen.command import (
    INTERRUPTED,
    TERMINATED,
    AsJson,
    ConfigName,
    Debug,
    Overrides,
    Quiet,
    RunDir,
    Terminated,
    Trace,
    check_output,
    console,
    replying,
    writing,
)
from rlgen.dashboard.command import add_to as add_dashboard
from rlgen.deploy import deploy
from rlgen.errors import ConfigError, RlgenError, did_you_mean
from rlgen.examples import dress
from rlgen.export import export
from rlgen.jobs import add_to as add_jobs
from rlgen.new import new
from rlgen.play import play
from rlgen.plots import plot
from rlgen.report import report
from rlgen.schema import schema
from rlgen.sweeping import add_to as add_sweeps
from rlgen.sync import add_to as add_sync

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from rlgen.api import Run
    from rlgen.config import Experiment
    from rlgen.scheduler import Scheduler, Summary

SPLITS = ("validation", "test")

#: What Gymnasium registers whether or not the package behind it is installed.
NEEDED_BY = {
    "gymnasium.envs.box2d": "Box2D",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium.envs.phys2d": "jax",
    "gymnasium.envs.tabular": "jax",
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reinforcement learning and generative modelling under one scheduler.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure what the ready configurations reach.")
app.add_typer(bench, name="bench")
app.add_typer(plot, name="plot")
app.add_typer(deploy, name="deploy")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rlgen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """What comes before a command (its help is the application's)."""


@app.command()
def train(
    config: ConfigName,
    overrides: Overrides = None,
    trace: Trace = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a configuration until it stops; Ctrl-C ends it with a checkpoint."""
    with replying(as_json, debug) as answer:
        from rlgen.config import load_experiment

        _run(answer, load_experiment(config, overrides or ()), quiet, trace=trace)


@app.command()
def resume(
    run: RunDir,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Go on with a run from its latest checkpoint."""
    with replying(as_json, debug) as answer:
        from rlgen.api import prepare_resume
        from rlgen.config import parse_overrides

        experiment, checkpoint = prepare_resume(run, parse_overrides(overrides or ()), _warn)
        _run(answer, experiment, quiet, checkpoint.parent.parent, checkpoint)


@app.command("eval")
def evaluate(
    run: RunDir,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Greedy episodes; as many as in training by default"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a data set: test (the default) or validation")
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="Of a data set: held-out rows, and samples, of the dear figures"),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Of a data set: only the score, no dear figures")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Evaluate the latest weights of a run: greedy episodes, or held-out data."""
    with replying(as_json, debug) as answer:
        from rlgen.api import load
        from rlgen.assessment import FEWEST
        from rlgen.display import estimates, score

        if split is not None and split not in SPLITS:
            raise ConfigError(f"--split: there is no {split!r}{did_you_mean(split, SPLITS)}")
        loaded = load(run)
        on_data = loaded.experiment.data is not None
        if on_data and episodes is not None:
            raise ConfigError(f"--episodes: {run} trains on data and has none; use --split")
        if not on_data and split is not None:
            raise ConfigError(f"--split: {run} trains in an environment; use --episodes")
        if not on_data and (rows is not None or quick):
            key = "--quick" if quick else "--rows"
            raise ConfigError(f"{key}: {run} trains in an environment; use --episodes")
        if quick and rows is not None:
            raise ConfigError("--rows: are of the figures that --quick leaves out; give one")
        evaluation = loaded.evaluate(episodes, split or "test")
        answer |= {
            "run_dir": str(run),
            "checkpoint": str(loaded.checkpoint),
            **evaluation,
        }
        print(score(evaluation))
        found = {
            name: value
            for name, value in evaluation.items()
            if isinstance(value, float) and name not in ("mean", "std")
        }
        width = max(map(len, found), default=0)
        for name, value in found.items():
            print(f"  {name:{width}}  {value:.4f}")
        if on_data and not quick:
            assessed = loaded.assess(rows or 1_000, split or "test")
            answer["figures"] = {k: dataclasses.asdict(v) for k, v in assessed.items()}
            print("\n".join(estimates(assessed)))
            if any(e.high > e.low for e in assessed.values()):
                print("  (each interval is of one standard error, where its note says no other)")
            compared = loaded.algorithm.has("sample") and not loaded.algorithm.uses_text
            if compared and "mmd" not in assessed:
                answer["note"] = f"distances of samples to rows need {FEWEST} rows (--rows, data)"
                print(f"  ({answer['note']})")


@app.command()
def sample(
    run: RunDir,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The PNG or GIF to write; of texts, a TXT")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, help="How many: 64, or 8 walks, or one text"),
    ] = None,
    label: Annotated[
        int | None, typer.Option(min=0, help="Of a conditional model: samples, or walks, of one")
    ] = None,
    walk: Annotated[
        bool, typer.Option("--walk", help="Walks from code to code, one to a line of the PNG")
    ] = False,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Of a GIF: 48; steps of a walk in a PNG: 12")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Of a GIF of a chain: states a frame; 1, or to see its end"),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a text: what it begins with")] = None,
    method: Annotated[
        str | None, typer.Option(help="Of a text: ancestral (the default), greedy or beam")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Of a text: tokens; a training window's by default")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=1e-3, help="Of ancestral texts: below 1, likelier tokens")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Of a beam search: its width, 4 by default")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw samples of a model: into a picture, its sampling chain into a GIF, texts as they are."""
    with replying(as_json, debug) as answer:
        from rlgen.api import load

        loaded = load(run)
        if loaded.experiment.data is None:
            raise ConfigError(
                f"sample: {run} trained the agent {loaded.experiment.algorithm}; only models of "
                "data have samples (see 'rlgen eval' for an agent)"
            )
        of_texts: dict[str, Any] = {"prompt": prompt, "method": method, "length": length}
        of_texts |= {"temperature": temperature, "beams": beams}
        of_pictures = {"label": label, "walk": walk or None, "frames": frames, "every": every}
        texts = loaded.algorithm.uses_text
        for option, value in (of_pictures if texts else of_texts).items():
            if value is not None:
                kind = "texts" if texts else "numbers"
                raise ConfigError(f"--{option}: {run} trained a model of {kind}; leave it out")
        if texts:
            _write_texts(loaded, answer, output, count or 1, seed, of_texts)
            return
        if output is None:
            raise ConfigError("-o: missing; give the PNG or GIF file to write")
        check_output(output, ".png", ".gif")
        animated = output.suffix.lower() == ".gif"
        import torch

        from rlgen.display import plural
        from rlgen.generative import pictures

        shape = loaded.algorithm.problem.data_shape
        if not pictures.drawable(shape):
            raise ConfigError(f"sample: rows of shape {shape} are neither images nor points")
        torch.manual_seed(seed)
        chained = animated and not walk and loaded.algorithm.has("chain")
        if label is not None and chained:
            raise ConfigError("--label: chains are of no label; draw samples into a PNG, or --walk")
        if every is not None and not chained:
            raise ConfigError("--every: only a GIF of a sampling chain leaves out states")
        if frames is not None and not (animated or walk):
            raise ConfigError("--frames: samples in a PNG have none; use --walk, or write a GIF")
        count = count or (8 if walk else 64)
        frames = frames or (48 if animated else 12)
        if chained:
            states = loaded.chain(count, frames, every)
            with writing(output):
                pictures.save_animation(output, states, shape)
            shown = len(states)
            made = f"{shown} {plural('state', shown)} of {count} {plural('chain', count)}"
        elif animated:
            walks = loaded.walk(count, frames, label)
            with writing(output):
                pictures.save_animation(output, walks.swapaxes(0, 1), shape)
            made = f"{count} {plural('walk', count)} of {frames} steps{_labels(loaded, label)}"
        elif walk:
            walks = loaded.walk(count, frames, label)
            with writing(output):
                pictures.save_walks(output, walks, shape)
            made = f"{count} {plural('walk', count)} of {frames} steps{_labels(loaded, label)}"
        else:
            rows = loaded.sample(count, label)
            with writing(output):
                pictures.save_grid(output, rows.reshape(count, -1), shape)
            made = f"{count} {plural('sample', count)}"
        answer |= {"run_dir": str(run), "file": str(output), "count": count, "seed": seed}
        print(f"{made} in {output}")


def _labels(loaded: Run, label: int | None) -> str:
    """Of which labels the walks of a model are that is told labels, in words."""
    if not loaded.conditional:
        return ""
    return f", of label {label}" if label is not None else ", of the labels 0, 1, 2, ... in turn"


def _write_texts(
    loaded: Run,
    answer: dict[str, Any],
    output: Path | None,
    count: int,
    seed: int,
    options: dict[str, Any],
) -> None:
    """Print the texts of a language model, or write them into a file."""
    import torch

    from rlgen.generative import text

    if output is not None:
        check_output(output, ".txt")
    method = options["method"] or "ancestral"
    for option, needed in (("temperature", "ancestral"), ("beams", "beam")):
        if options[option] is not None and method != needed:
            raise ConfigError(f"--{option}: has an effect only with --method {needed}")
    unknown = loaded.unknown(options["prompt"] or "")
    if unknown:
        told = ", ".join(map(repr, unknown))
        _warn(f"--prompt: the model does not know {told}, and reads {text.UNKNOWN}")
    torch.manual_seed(seed)
    texts = loaded.texts(count, **{k: v for k, v in options.items() if v is not None})
    written = "\n---\n".join(texts) + "\n"
    answer |= {"run_dir": str(loaded.dir), "texts": texts, "seed": seed}
    if output is None:
        print(written, end="")
        return
    with writing(output):
        output.write_text(written, encoding="utf-8")
    answer["file"] = str(output)
    print(f"{count} {'text' if count == 1 else 'texts'} in {output}")


@app.command()
def record(
    run: RunDir,
    output: Annotated[Path, typer.Option("-o", "--output", help="The NPZ file to write")],
    episodes: Annotated[int, typer.Option(min=1, help="Greedy episodes")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Record episodes of an agent, for others to learn from (see docs/agents.md, imitation)."""
    with replying(as_json, debug) as answer:
        from rlgen.api import load
        from rlgen.display import score

        evaluation = load(run).record(output, episodes, seed, overwrite=force)
        answer |= {"run_dir": str(run), "file": str(output), "seed": seed, **evaluation}
        print(f"{evaluation['steps']:,} steps, {score(evaluation)} in {output}")


@app.command("list")
def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD ...]",
            help="Only what has all these words; agents, configs ...: only these",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the agents, models, environments and ready configurations."""
    with replying(as_json, debug) as answer:
        from rlgen import registry
        from rlgen.config import comment, config_names, sweep_names
        from rlgen.outline import describe

        listed = {
            "agents": {name: describe(registry.AGENTS[name]) for name in registry.AGENTS},
            "models": {name: describe(registry.MODELS[name]) for name in registry.MODELS},
            "environments": _environments(),
            "configs": {name: comment(name) for name in config_names()},
            "sweeps": {name: comment(name) for name in sweep_names()},
        }
        wanted = {word.casefold() for word in words or ()}
        headings = wanted & listed.keys() or listed.keys()
        for heading, lines in listed.items():
            answer[heading] = {
                name: text
                for name, text in lines.items()
                if heading in headings
                and all(word in f"{name} {text}".casefold() for word in wanted - headings)
            }
        if not any(answer[heading] for heading in listed):
            raise ConfigError(f"list: nothing has {' and '.join(map(repr, words or ()))} in it")
        for heading in listed:
            if answer[heading]:
                more = " (or any other Gymnasium id, also as package:Env-v0)"
                print(heading + (more if heading == "environments" else ""))
            width = max(map(len, answer[heading]), default=0)
            for name, text in answer[heading].items():
                print(f"  {name:{width}}  {text}")


@app.command()
def show(
    config: ConfigName,
    overrides: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="A Ray cluster: would the plan fit there, and beside what others use now?",
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a configuration with every default, and the plan: how many of what run where."""
    with replying(as_json, debug) as answer:
        import yaml

        from rlgen.config import AUTO, load_experiment
        from rlgen.plan import cores, fill, make_plan, survey

        there = [] if address is None else _there(address)
        experiment = load_experiment(config, [*(overrides or ()), *there])
        auto = experiment.scheduler.workers == AUTO
        nodes: list[Any] = []
        if address is not None:
            experiment, nodes = survey(experiment)
        elif experiment.scheduler.address == "local":
            experiment = fill(experiment)
        plan = make_plan(experiment)
        answer |= {
            "config": experiment.dump(),
            "plan": [dataclasses.asdict(role) for role in plan],
            "cores": cores(),
            "auto": auto,
        }
        print(yaml.safe_dump(answer["config"], sort_keys=False))
        table = Table("role", "count", "CPUs", "GPUs", "threads", "task", box=None, pad_edge=False)
        for role in plan:
            sizes = (role.count, role.cpus, role.gpus, role.threads)
            table.add_row(role.name, *(f"{size:g}" for size in sizes), role.task)
        console.print(table)
        scheduler = experiment.scheduler
        if scheduler.backend == "inline":
            print(f"inline: all in one process; this machine has {cores()} cores")
        else:
            where = "a private cluster here" if scheduler.address == "local" else scheduler.address
            cpus = sum(role.count * role.cpus for role in plan)
            print(f"ray on {where}: {cpus:g} CPUs in all; this machine has {cores()} cores")
        if scheduler.workers == AUTO:
            print(
                "scheduler.workers: auto: as many as fit there; at least this one (see --address)"
            )
        elif auto:
            print(f"scheduler.workers: auto: {scheduler.workers}")
        if address is not None:
            answer["cluster"] = _show_cluster(nodes, plan)


@app.command()
def doctor(
    ray: Annotated[
        bool, typer.Option("--ray", help="Also start a Ray cluster, and end it")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check this machine: versions, Ray, GPU, data sets, whether runs can be written."""
    with replying(as_json, debug) as answer:
        from rlgen.doctor import examine

        answer |= {"ok": True, "findings": []}
        for finding in examine(start_ray=ray):
            answer["ok"] &= finding.ok
            entry = {"name": finding.name, "ok": finding.ok, "found": finding.found}
            answer["findings"].append(
                entry | ({"advice": finding.advice} if finding.advice else {})
            )
            print(f"{'ok' if finding.ok else 'problem':8} {finding.name}: {finding.found}")
            if finding.advice:
                print(f"{'':8} -> {finding.advice}")
        if not answer["ok"]:
            raise typer.Exit(1)


@bench.command()
def results(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG ...",
            help="Only these; all but for some that want a GPU, by default",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each agent; models: one")] = 5,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed and small budgets, to see that all runs")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="The folder for results.md and its pictures: docs, or RUNS/quick with --quick",
        ),
    ] = None,
    runs: Annotated[
        Path, typer.Option(help="Where the runs go; finished ones there are used again")
    ] = Path("runs/bench"),
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the ready configurations, agents over several seeds, and write what they reached."""
    with replying(as_json, debug) as answer:
        from rlgen import model_results
        from rlgen import results as measuring

        agents, models = measuring.agent_configs(), model_results.model_configs()
        for name in configs or ():
            if name not in agents + models:
                hint = did_you_mean(name, agents + models)
                raise ConfigError(f"bench results: no ready configuration {name!r}{hint}")
        wanted = configs or [n for n in agents + models if n not in measuring.LONG]
        missing = {} if configs else dict.fromkeys(measuring.LONG, "takes hours without a GPU")
        names = [name for name in agents + models if name in wanted]
        count = 1 if quick else seeds
        measured: dict[str, Any] = {}
        for number, name in enumerate(names, 1):
            print(f"{name} ({number} of {len(names)})")

            def train(experiment: Experiment, earlier: Path | None) -> Summary:
                return _train(experiment, earlier, quiet)

            try:
                if name in models:
                    measured[name] = model_results.measure(name, quick, runs, train)
                else:
                    measured[name] = measuring.measure(name, range(count), quick, runs, train)
            except RlgenError as error:
                missing[name] = str(error)
                _warn(f"{name}: {error}")
                continue
            if measured[name] is None:
                raise KeyboardInterrupt("stopped; the same command goes on from here")
        if not measured:
            raise ConfigError("bench results: none of the configurations could be run")
        folder = output or (runs / "quick" if quick else Path("docs"))
        page = measuring.write(
            [measured[name] for name in agents if name in measured],
            [measured[name] for name in models if name in measured],
            missing, folder, count, quick,
        )  # fmt: skip
        answer |= {
            "page": str(page),
            "measured": {name: found.summaries for name, found in measured.items()},
            "missing": missing,
        }
        print(f"{len(measured)} configurations in {page}")


app.command()(play)
app.command()(report)
app.command()(new)
app.command()(schema)
app.command()(export)
add_dashboard(app)
add_jobs(app)
add_sweeps(app)
add_sync(app)


def _there(address: str) -> list[str]:
    """The overrides of a run on a cluster.

    Raises:
        ConfigError: the address is of another kind.
    """
    if "://" in address:
        raise ConfigError(
            f"--address: expected auto or HOST:PORT, where the cluster's nodes join (port 6379 by "
            f"default), got {address!r}"
        )
    return ["scheduler.backend=ray", f"scheduler.address={address}"]


def _show_cluster(nodes: list[Any], plan: list[Any]) -> dict[str, Any]:
    """Print a cluster's nodes and whether a plan fits there; the same as plain data."""
    from rlgen.backends import placement

    whole = placement.placed([node.total for node in nodes], plan)
    now = placement.placed([node.free for node in nodes], plan)
    table = Table("node", "CPUs", "free", "GPUs", "free", box=None, pad_edge=False)
    for node in nodes:
        sizes = (node.cpus, node.free_cpus, node.gpus, node.free_gpus)
        table.add_row(node.address, *(f"{size:g}" for size in sizes))
    console.print(table)
    table = Table("role", "asked", "fit", "fit now", box=None, pad_edge=False)
    for role in plan:
        counts = (role.count, whole[role.name], now[role.name])
        table.add_row(role.name, *(str(count) for count in counts))
    console.print(table)
    fits = all(whole[role.name] == role.count for role in plan)
    fits_now = all(now[role.name] == role.count for role in plan)
    if fits_now:
        print("the plan fits")
    elif fits:
        print("the plan fits, but not beside what others use now: a run would wait")
    else:
        print(f"the plan does not fit: {placement.lack(nodes, plan)}")
    return {
        "nodes": [dataclasses.asdict(node) for node in nodes],
        "fits": fits,
        "fits_now": fits_now,
        "places": whole,
        "places_now": now,
    }


# --- running ------------------------------------------------------------------------------------


def _run(
    answer: dict[str, Any],
    experiment: Experiment,
    quiet: bool,
    run_dir: Path | None = None,
    checkpoint: Path | None = None,
    trace: bool = False,
) -> None:
    """Train, and say what came of it."""
    summary = _schedule(experiment, quiet, run_dir, checkpoint, trace)
    answer |= summary
    _report(experiment, summary)
    if summary["stop_reason"] == "interrupted":
        raise typer.Exit(TERMINATED if summary["signal"] == "SIGTERM" else INTERRUPTED)


def _schedule(
    experiment: Experiment,
    quiet: bool,
    run_dir: Path | None,
    checkpoint: Path | None,
    trace: bool = False,
    beside: Callable[[Scheduler], contextlib.AbstractContextManager[None]] | None = None,
) -> Summary:
    """Run an experiment with its progress shown; a signal ends it after the cycle in hand.

    ``beside`` is a context around the run that is told of its scheduler.
    """
    from rlgen.display import Display
    from rlgen.scheduler import Scheduler

    display = Display(experiment, console, quiet)
    scheduler = Scheduler(experiment, display, _warn, _trace if trace else None)
    around = beside(scheduler) if beside else contextlib.nullcontext()
    with _interruptible(scheduler), display, around:
        try:
            return scheduler.run(run_dir, checkpoint)
        except KeyboardInterrupt:
            stopped = Terminated if scheduler.interrupted is signal.SIGTERM else KeyboardInterrupt
            if scheduler.run_dir == Path():
                raise stopped("stopped before the training began") from None
            raise stopped(
                f"stopped at once; {scheduler.run_dir} keeps its checkpoints, if any was written"
            ) from None


add_chaos(app, _schedule)
dress(app)


def _train(experiment: Experiment, earlier: Path | None, quiet: bool) -> Summary:
    """Run an experiment, or go on with an earlier run of it."""
    from rlgen.api import prepare_resume

    checkpoint = None
    if earlier is not None:
        experiment, checkpoint = prepare_resume(earlier, say=_warn)
    return _schedule(experiment, quiet, earlier, checkpoint)


@contextlib.contextmanager
def _interruptible(scheduler: Scheduler) -> Iterator[None]:
    """The first Ctrl-C, or SIGTERM, ends the run after the cycle in hand, the second at once.

    While the actors are still starting there is nothing to save, and the first ends it at once;
    but not while Ray itself starts, which an exception would leave in pieces.
    """

    def stop(number: int, frame: object) -> None:
        # From here on both are the system's again: even a clean-up that hangs can be left, and
        # Ray's processes end with this one.
        handle(signal.SIG_DFL)
        scheduler.interrupt(signal.Signals(number))
        raise KeyboardInterrupt

    def finish(number: int, frame: object) -> None:
        on_ray = scheduler.experiment.scheduler.backend == "ray"
        connecting = on_ray and scheduler.backend is None
        if scheduler.run_dir == Path() and not connecting:
            stop(number, frame)
        handle(stop)
        by = signal.Signals(number)
        scheduler.interrupt(by)
        first = "waiting until Ray has started" if connecting else "finishing the cycle in hand"
        _warn(f"{first}; {'Ctrl-C' if by is signal.SIGINT else by.name} again stops at once")

    def handle(function: Any) -> list[Any]:
        return [signal.signal(number, function) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handle(finish)
    try:
        yield
    finally:
        for number, function in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, function)


def _report(experiment: Experiment, summary: Summary) -> None:
    """What was reached, how fast, where the time went, and what to do next."""
    from rlgen.display import number, outcome, plural, time_table
    from rlgen.generative.text import is_text

    clock, run_dir = experiment.clock, summary["run_dir"]
    per_second = summary[clock] / max(summary["seconds"], 1e-9)
    print(f"{experiment.name}: {outcome(experiment, summary)}")
    counts = [
        f"{number(summary[name])} {plural(name.removesuffix('s'), summary[name])}"
        for name in dict.fromkeys((clock, "updates"))
    ]
    print(f"{', '.join(counts)} in {summary['seconds']:.1f} s ({number(per_second)} {clock}/s)")
    print(", ".join(f"{name} {value:.7g}" for name, value in summary["metrics"].items()))
    print("where the time went")
    console.print(time_table(summary))
    driver = summary["bottleneck"] == "driver"
    print(
        f"bottleneck: {summary['bottleneck']}{', while no other role was busy' if driver else ''}"
    )
    if driver and experiment.scheduler.backend == "ray":
        print("  so small a problem is faster with scheduler.backend=inline")
    print(f"run: {run_dir}")
    called = "rlgen"
    if shutil.which(called) is None and Path(sys.argv[0]).name == called:  # as from `make train`
        called = shlex.quote(os.path.relpath(sys.argv[0]))
    run = shlex.quote(str(run_dir))
    if summary["stop_reason"] == "interrupted":
        print(f"resume with: {called} resume {run}")
        return
    print(f"next: {called} eval {run}")
    print(f"      {called} plot curves {run} -o curves.png")
    if experiment.data is not None:
        drawn = "" if is_text(experiment.data.name) else " -o samples.png"
        print(f"      {called} sample {run}{drawn}")
    else:
        print(f"      {called} play {run} -o episode.gif")
    print(f"      {called} dashboard {shlex.quote(experiment.run.dir)}")
    if summary["stop_reason"] in ("env_steps", "updates", "epochs", "seconds"):
        print(f"      {called} resume {run} stop.{summary['stop_reason']}=...")


def _trace(line: str) -> None:
    console.print(line, soft_wrap=True)


def _warn(message: str) -> None:
    """Tell the user; on stderr, so that a piped answer stays clean."""
    print(f"rlgen: {message}", file=sys.stderr, flush=True)


# --- listing ------------------------------------------------------------------------------------


def _environments() -> dict[str, str]:
    """What can be made here, each in its newest version: ours by what they are, others by whose."""
    import gymnasium as gym

    import rlgen.envs  # noqa: F401  (registers ours)

    newest: dict[tuple[str | None, str], EnvSpec] = {}
    for spec in gym.registry.values():
        key = (spec.namespace, spec.name)
        if key not in newest or (spec.version or 0) > (newest[key].version or 0):
            newest[key] = spec
    found = [spec for spec in newest.values() if _installed(spec)]
    found.sort(key=lambda spec: (spec.namespace != "rlgen", spec.id))
    return {spec.id: _described(spec) for spec in found}


def _described(spec: EnvSpec) -> str:
    from rlgen.outline import describe

    entry = str(spec.entry_point or spec.vector_entry_point)
    if spec.namespace == "rlgen":
        text = describe(entry).rpartition("``: ")[2]
        return text[:1].upper() + text[1:]
    package, *folders = entry.partition(":")[0].split(".")
    return f"Gymnasium, {folders[1].replace('_', ' ')}" if package == "gymnasium" else package


def _installed(spec: EnvSpec) -> bool:
    """Whether the package behind an environment is there."""
    if not isinstance(spec.entry_point, str):  # Gymnasium's stand-ins that only raise
        return not getattr(spec.entry_point, "__name__", "").startswith("_raise")
    folder = spec.entry_point.partition(":")[0]
    needed = next((n for prefix, n in NEEDED_BY.items() if folder.startswith(prefix)), None)
    return needed is None or importlib.util.find_spec(needed) is not None


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a ± must not end a run
    app()
