"""`tabvae train`: the other side of a refresh whose orchestrator sends training elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tabvae_flows.console import watching
from tabvae_flows.options import Endpoint, Json, example, know_blocks, print_result

if TYPE_CHECKING:
    from tabvae_core.spec import StorageSpec

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=example("tabvae train s3://lake/tabvae-workspace/runs/0d1f5a5e8c7b3a21"))(train)


def train(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of the run: WORKSPACE/runs/RUN_ID.")],
    endpoint_url: Endpoint = None,
    region: Annotated[str | None, typer.Option("--region", help="Region of the workspace's bucket.")] = None,
    credentials: Annotated[
        str, typer.Option("--credentials", help="Keys of the workspace: environment, env:LAKE, anonymous.")
    ] = "environment",
    as_json: Json = False,
) -> None:
    """Train a run that an orchestrator began elsewhere.

    Spec and snapshot are read from the run's folder, and the model is left there.
    """
    from tabvae_core.remote import open_run, train_run

    spec, snapshot = open_run(run, _storage(endpoint_url, region, credentials))
    know_blocks(spec)
    with watching() as progress:
        model = train_run(spec, snapshot, progress=progress)
    print_result(
        model.model_dump(mode="json"), f"learned {model.rows:,} rows in {model.seconds:,.0f} s: {model.uri}", as_json
    )


def _storage(endpoint_url: str | None, region: str | None, credentials: str) -> StorageSpec:
    from pydantic import ValidationError

    from tabvae_core.errors import SpecError
    from tabvae_core.spec import StorageSpec

    try:
        return StorageSpec(endpoint_url=endpoint_url, region=region, credentials=credentials)
    except ValidationError:
        raise SpecError(
            f"--credentials must be environment, anonymous, env:NAME or block:NAME, however: {credentials!r}",
            hint="env:LAKE reads LAKE_ACCESS_KEY_ID and LAKE_SECRET_ACCESS_KEY",
        ) from None
