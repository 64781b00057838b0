"""The flow that fills a test environment with a release, and the blocks that name its database."""

# Without postponed annotations: behind `said_in_state` Prefect would look their names up in that function's module.
from typing import Any

from prefect import flow
from prefect.blocks.core import Block
from prefect.client.schemas.objects import State
from prefect.states import Completed

import tabvae_tasks as tasks
from tabvae_core.errors import SpecError
from tabvae_core.feed import register_databases
from tabvae_core.references import FeedRef
from tabvae_core.spec import StorageSpec
from tabvae_flows.blocks import register_resolver
from tabvae_flows.refresh import said_in_state

__all__ = ["feed_environment", "know_database_blocks"]


@flow(name="feed-environment", flow_run_name="feed-{target}", result_serializer="json")
@said_in_state
def feed_environment(
    target: str,
    into: str,
    table: str | None = None,
    version: str | None = None,
    storage: StorageSpec | None = None,
) -> State[FeedRef]:
    """Load a release into a database, in one transaction; a version that is there already is not loaded again.

    Args:
        target: Folder of the releases.
        into: Database: a URL without password, env:NAME, or block:NAME.
        table: Table to fill, `name` or `schema.name`; the refresh's name where left out.
        version: Version to load; the current one where left out.
        storage: Access to the releases.

    """
    register_resolver()
    know_database_blocks()
    fed = tasks.feed_table(target, into, table, version, storage)
    return Completed(name="Unchanged" if fed.unchanged else None, message=fed.sentence, data=fed)


def know_database_blocks() -> None:
    """Let `block:NAME` be read from Prefect's `tabvae-database` blocks in this process."""
    register_databases("block", _from_block)


def _from_block(name: str) -> str:
    try:
        block: Any = Block.load(f"tabvae-database/{name}")
    except ValueError:
        raise SpecError(
            f"the database is block:{name}, however Prefect has no such tabvae-database block",
            hint="create it in Prefect's UI",
        ) from None
    return str(block.url())
