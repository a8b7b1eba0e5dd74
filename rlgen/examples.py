"""The help of the commands: in what panel each stands, and examples of its use."""

from __future__ import annotations

import typer

TRAIN, LOOK, USE = "Train", "Look", "Use what was learned"
OWN, FAR = "What there is, and your own", "Clusters, storage, services"

#: By the words of the command.
PANELS = {
    "train": TRAIN, "resume": TRAIN, "sweep": TRAIN, "chaos": TRAIN, "bench": TRAIN,
    "dashboard": LOOK, "runs": LOOK, "plot": LOOK, "report": LOOK, "play": LOOK, "sample": LOOK,
    "eval": USE, "record": USE, "export": USE,
    "new": OWN, "list": OWN, "show": OWN, "schema": OWN, "doctor": OWN,
    "submit": FAR, "jobs": FAR, "logs": FAR, "status": FAR, "stop": FAR, "pull": FAR,
    "token": FAR, "deploy": FAR, "push": FAR, "sync": FAR,
}  # fmt: skip

RUN = "runs/NAME/RUN"
EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "rlgen train dqn-cartpole",
        "rlgen train dqn-cartpole seed=3 hyperparameters.double=true stop.seconds=60",
        "rlgen train a3c-cartpole scheduler.backend=ray scheduler.workers=4",
        "rlgen train mine.yaml",
    ),
    "resume": (f"rlgen resume {RUN}", f"rlgen resume {RUN} stop.env_steps=100000"),
    "sweep": ("rlgen sweep sweep-dqn-cartpole", "rlgen sweep sweep-vae-digits search.trials=4"),
    "chaos": ("rlgen chaos a3c-cartpole --kill worker --every 5s",),
    "bench results": ("rlgen bench results --quick", "rlgen bench results dqn-cartpole --seeds 3"),
    "dashboard": ("rlgen dashboard", "rlgen dashboard RUNS_DIR --port 8100"),
    "runs": ("rlgen runs", "rlgen runs s3://BUCKET/runs"),
    "plot curves": ("rlgen plot curves dqn-cartpole ppo-cartpole -o curves.png",),
    "plot throughput": ("rlgen plot throughput runs -o throughput.svg",),
    "plot regret": ("rlgen plot regret ucb1-testbed thompson-bernoulli -o regret.png",),
    "plot values": (f"rlgen plot values {RUN} -o values.png",),
    "plot filters": (f"rlgen plot filters {RUN} -o filters.png",),
    "plot reconstructions": (f"rlgen plot reconstructions {RUN} -o pairs.png",),
    "plot latent": (f"rlgen plot latent {RUN} -o latent.png",),
    "plot modes": (f"rlgen plot modes {RUN} -o modes.png",),
    "plot vanishing-gradient": ("rlgen plot vanishing-gradient -o figure.png",),
    "plot kl": ("rlgen plot kl -o figure.png",),
    "report": ("rlgen report runs/dqn-cartpole runs/ppo-cartpole -o report.html",),
    "play": (f"rlgen play {RUN} -o episode.gif", f"rlgen play {RUN} --live --episodes 3"),
    "sample": (
        f"rlgen sample {RUN} -o samples.png",
        f"rlgen sample {RUN} -o chain.gif",
        f"rlgen sample {RUN} --prompt 'a fox' --method beam",
    ),
    "eval": (f"rlgen eval {RUN}", f"rlgen eval {RUN} --episodes 100 --json"),
    "record": (f"rlgen record {RUN} -o expert.npz --episodes 50",),
    "export": (
        f"rlgen export {RUN} -o exported",
        f"rlgen export {RUN} -o exported --format onnx --push USER/REPO",
    ),
    "new": ("rlgen new agent my_agent", "rlgen new env my_world -o worlds"),
    "list": ("rlgen list", "rlgen list configs cartpole", "rlgen list --json"),
    "show": ("rlgen show dqn-cartpole seed=3",),
    "schema": ("rlgen schema -o rlgen.schema.json",),
    "doctor": ("rlgen doctor --ray",),
    "submit": ("rlgen submit dqn-cartpole --address http://HOST:8265 --follow",),
    "jobs": ("rlgen jobs --address http://HOST:8265",),
    "logs": ("rlgen logs JOB --address http://HOST:8265 --follow",),
    "status": ("rlgen status JOB --address http://HOST:8265",),
    "stop": ("rlgen stop JOB --address http://HOST:8265",),
    "pull": ("rlgen pull JOB --address http://HOST:8265",),
    "token": ("rlgen token",),
    "deploy kuberay": ("rlgen deploy kuberay dqn-cartpole -o kuberay --image IMAGE",),
    "deploy ray-up": ("rlgen deploy ray-up dqn-cartpole -o cluster",),
    "deploy slurm": ("rlgen deploy slurm dqn-cartpole -o slurm",),
    "push": (f"rlgen push {RUN} s3://BUCKET/runs",),
    "sync": (f"rlgen sync {RUN} --to tensorboard",),
}


def dress(app: typer.Typer) -> None:
    """Put every command of the application in its panel, with its examples below its help."""
    for command in app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        command.rich_help_panel = PANELS[name]
        command.epilog = _told(name)
    for group in app.registered_groups:
        assert group.name is not None and group.typer_instance is not None
        group.rich_help_panel = PANELS[group.name]
        for command in group.typer_instance.registered_commands:
            name = command.name or command.callback.__name__  # type: ignore[union-attr]
            command.epilog = _told(f"{group.name} {name}")
    # The order in which the panels appear is that of their first commands.
    app.registered_commands.sort(
        key=lambda c: list(PANELS).index(c.name or c.callback.__name__)  # type: ignore[union-attr]
    )


def _told(name: str) -> str:
    return "\n".join(["Examples:", *(f"  {example}" for example in EXAMPLES[name])])
