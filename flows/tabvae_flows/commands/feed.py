"""`tabvae feed`: a release into a database."""

from __future__ import annotations

from typing import Annotated

import typer

from tabvae_flows.console import watching
from tabvae_flows.options import Endpoint, Json, example, print_result, storage_of

__all__ = ["register"]

_EXAMPLE = example(
    "tabvae feed s3://lake/synthetic/customers --into postgresql://tester@db.test/shop",
    "tabvae feed releases/customers --into sqlite:///shop.db --table customers --version VERSION",
)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EXAMPLE)(feed)


def feed(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Folder of the releases: a path or URL.")],
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="DATABASE",
            help="URL without password (PGPASSWORD has it), env:NAME, or block:NAME.",
        ),
    ],
    table: Annotated[
        str | None, typer.Option("--table", metavar="[SCHEMA.]NAME", help="Table to fill; else the refresh's name.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="Load this version; else the current one.")
    ] = None,
    endpoint_url: Endpoint = None,
    as_json: Json = False,
) -> None:
    """Load a release into a database, in one transaction.

    A table that exists keeps its definition, keys and grants; one that does not is created. PostgreSQL, SQLite, DuckDB,
    and what else SQLAlchemy reaches.
    """
    from tabvae_core.feed import feed as run_feed

    if into.startswith("block:"):
        _know_database_blocks()
    with watching() as progress:
        fed = run_feed(target, into, table=table, version=version, storage=storage_of(endpoint_url), progress=progress)
    print_result(fed.model_dump(mode="json"), fed.sentence, as_json)


def _know_database_blocks() -> None:
    from tabvae_flows.runner import prefect_installed

    if prefect_installed():
        from tabvae_flows.feeding import know_database_blocks

        know_database_blocks()
