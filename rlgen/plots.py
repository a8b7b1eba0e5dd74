"""The commands ``rlgen plot ...``: figures of runs and of the book."""

from __future__ import annotations

import typer

plot = typer.Typer(no_args_is_help=True, help="Draw figures of runs, and those of the book.")
