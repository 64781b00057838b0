"""Databases that are a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tabvae_core.errors import SpecError
from tabvae_core.feed.address import Address

__all__ = ["fresh_file"]


@contextmanager
def fresh_file(address: Address) -> Iterator[None]:
    """Remove a database's file again where the block made it and failed.

    Raises:
        SpecError: The address names no file.

    """
    if not address.path or address.path == ":memory:":
        raise SpecError(
            f"{address.shown} names no file: what is loaded into memory is gone with the command",
            hint=f"for example {address.scheme}:///file.db, with four slashes for an absolute path",
        )
    stood = os.path.exists(address.path)
    try:
        yield
    except BaseException:
        if not stood:
            for end in ("", "-journal", "-wal", "-shm", ".wal"):
                if os.path.exists(address.path + end):
                    os.remove(address.path + end)
        raise
