"""`tabvae drift`: how far the source is from what the last model learned, and what a refresh would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tabvae_flows.options import Json, Settings, example, know_blocks, print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    lines = "tabvae drift refresh.yaml", "tabvae drift refresh.yaml --set policy.max_drift=0.1"
    app.command(epilog=example(*lines))(drift)


def drift(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Spec file.")],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Measure how far the source has drifted.

    Each column stands beside what chance alone explains, and the last line says what a refresh would do now. Nothing is
    written.
    """
    from tabvae_core.policy import outlook
    from tabvae_core.spec import load_spec
    from tabvae_flows.console import print_table, watching

    loaded = load_spec(spec, tuple(settings or ()))
    know_blocks(loaded)
    with watching() as progress:
        found = outlook(loaded, progress=progress)
    if as_json:
        choice = found.choice.model_dump(mode="json", exclude={"model"})
        print_json({**choice, "standing": found.standing, "says": found.sentence})
        return
    rows = [
        {
            "column": one.column,
            "distance": one.distance,
            "floor": one.floor,
            "nulls before": one.nulls_before,
            "nulls now": one.nulls_now,
            "verdict": "drifted" if one.drifted else "as learned",
        }
        for one in found.choice.columns
    ]
    print_table(rows)
    print(found.sentence)
