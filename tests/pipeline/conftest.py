"""What the tests of flows share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_servers import PrefectStack, prefect_server_and_workers


@pytest.fixture(scope="session")
def prefect_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectStack]:
    """A Prefect server and two process workers (pools `cpu`, `gpu`), started once for all tests that ask for them."""
    with prefect_server_and_workers(tmp_path_factory.mktemp("prefect")) as stack:
        yield stack
