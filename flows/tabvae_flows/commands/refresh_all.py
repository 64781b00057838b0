"""`tabvae refresh-all`: a folder of specs, some at a time, and one summary."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tabvae_flows.options import Force, Json, NoPrefect, Settings, example, print_outcomes

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    lines = "tabvae refresh-all specs/ --parallel 4", "tabvae refresh-all specs/ --set model.method=gaussian_copula"
    app.command("refresh-all", epilog=example(*lines))(refresh_all)


def refresh_all(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of spec files (.yaml, .yml).")],
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, max=64, help="Refreshes at a time.")] = 4,
    settings: Settings = None,
    force: Force = False,
    no_prefect: NoPrefect = False,
    as_json: Json = False,
) -> None:
    """Run the refreshes of a folder.

    One that fails or is refused does not stop the others; the exit code is that of the worst. They are recorded by a
    Prefect server where PREFECT_API_URL names one, and run as plain steps else.
    """
    from tabvae_flows.sets import load_set, run_set

    members = load_set(folder, tuple(settings or ()))
    options = [part for setting in settings or () for part in ("--set", setting)]
    options += ["--force"] if force else []
    options += ["--no-prefect"] if no_prefect or not os.environ.get("PREFECT_API_URL") else []
    outcomes = run_set(members, parallel=parallel, options=options, say=_say)
    print_outcomes(outcomes, as_json)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
