"""Addresses of databases. Passwords come from the environment or a block, never from the address that is written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tabvae_core.errors import SpecError

__all__ = ["Address", "address_of", "register_databases"]

_RESOLVERS: dict[str, Callable[[str], str]] = {}
_EXAMPLE = "for example postgresql://user@host/database, sqlite:///file.db, duckdb:///file.duckdb"


@dataclass(frozen=True)
class Address:
    """A database, and how it may be named in messages."""

    url: str = field(repr=False)
    """May hold a password."""
    shown: str
    """Without user, password and options."""

    @property
    def scheme(self) -> str:
        """What stands before ://, in lower case."""
        return self.url.partition("://")[0].lower()

    @property
    def path(self) -> str:
        """Path of a database that is a file; empty: one in memory."""
        return self.url.partition("://")[2].partition("?")[0].removeprefix("/")


def register_databases(kind: str, resolver: Callable[[str], str]) -> None:
    """Teach this process where databases of the form `kind:NAME` stand.

    Args:
        kind: Part before the colon, such as "block".
        resolver: Takes the part after the colon, returns the URL with its password; a `TabvaeError` it raises passes
            unchanged.

    """
    _RESOLVERS[kind] = resolver


def address_of(into: str) -> Address:
    """Find out which database is meant.

    Args:
        into: A URL without password, `env:NAME` for a variable that holds a URL, or `block:NAME`.

    Raises:
        SpecError: None of these, a URL that holds a password, or a name that nothing is known of.

    """
    kind, _, name = into.partition(":")
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://.*", into, re.S):
        return _checked(into)
    if kind == "env" and name:
        if not os.environ.get(name):
            raise SpecError(
                f"the database is {into}, however the environment has no variable {name}",
                hint="set it to the database's URL where the load runs",
            )
        return _named(os.environ[name], into)
    if kind in _RESOLVERS:
        return _named(_RESOLVERS[kind](name), into)
    if kind == "block" and name:
        raise SpecError(
            f"the database is {into}: blocks need Prefect, which is not in use here",
            hint='run it through the flow, `pip install "tabvae[prefect]"`, or use env:NAME',
        )
    # What was written may hold a password, so it is not repeated.
    raise SpecError("the database must be a URL, env:NAME or block:NAME", hint=_EXAMPLE)


def _checked(url: str) -> Address:
    user = "" if _is_file(url) else url.partition("://")[2].rpartition("@")[0]
    if ":" in user or "password=" in url.lower():
        raise SpecError(
            f"the URL of {_shown(url)} must not hold a password",
            hint="leave it to the environment (PGPASSWORD, .pgpass), or put the URL in a variable and name it env:NAME",
        )
    return Address(url, _shown(url))


def _named(url: str, reference: str) -> Address:
    if "://" not in url:
        raise SpecError(f"what {reference} holds is no URL of a database", hint=_EXAMPLE)
    return Address(url, _shown(url))


def _is_file(url: str) -> bool:
    return url.partition("://")[2].startswith("/")


def _shown(url: str) -> str:
    """Leave out user, password and options; a password may hold any sign, so all before the last @ goes."""
    scheme, _, rest = url.partition("://")
    place = rest if _is_file(url) else rest.rpartition("@")[2]
    return f"{scheme}://{place.partition('?')[0]}"
