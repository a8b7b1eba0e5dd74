"""The command ``rlgen play``: an agent's episodes as a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlgen.command import AsJson, Debug, RunDir, check_output, replying, writing
from rlgen.errors import ConfigError


def play(
    run: RunDir,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The GIF or MP4 file to write")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Show a window in place of a file")] = False,
    episodes: Annotated[int, typer.Option(min=1, help="How many, one after another")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the episodes")] = 0,
    max_steps: Annotated[int, typer.Option(min=1, help="After which an episode is cut")] = 1_000,
    fps: Annotated[
        float | None,
        typer.Option(min=0.1, help="Steps in a second; as fast as the environment says by default"),
    ] = None,
    explore: Annotated[
        bool, typer.Option("--explore", help="Act as at the end of the training, not greedily")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Play episodes of an agent: into a GIF or an MP4, or in a window."""
    with replying(as_json, debug) as answer:
        if live == (output is not None):
            raise ConfigError("play: give either -o FILE.gif (or .mp4), or --live for a window")
        if output is not None:
            check_output(output, ".gif", ".mp4")
        from rlgen.api import load
        from rlgen.display import number, plural

        format_ = "window" if output is None else output.suffix.lower().removeprefix(".")
        video = load(run).play(episodes, seed, format_, max_steps, fps, explore)
        answer |= {
            "run_dir": str(run),
            "file": None if output is None else str(output),
            "seed": seed,
            "returns": video.returns,
            "lengths": video.lengths,
            "cut": video.cut,
        }
        told = ", ".join(number(value) for value in video.returns) or "none to its end"
        count, steps = len(video.returns), sum(video.lengths)
        where = ""
        if output is not None:
            with writing(output):
                video.save(output)
            where = f" in {output} ({number(len(video.content) // 1000)} kB)"
        print(f"{count} {plural('episode', count)}, {steps:,} steps, return {told}{where}")
        if video.cut:
            more = "it" if video.cut == 1 else "them"
            print(
                f"{video.cut} cut after {max_steps:,} steps; a larger --max-steps lets {more} go on"
            )
