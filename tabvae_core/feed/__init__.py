"""Releases loaded into databases: `feed` fills one table with one version, in one transaction.

address     what `--into` says, without its secrets
types       which SQL type a column needs, and whether the one it has will do
checking    a release held against a table that exists
values      Arrow batches in the form that databases take
database    what is asked of a database, and the SQL that most of them share
postgresql, sqlite, duck_db, alchemy   one family each
loading     the order in which it is done
"""

from __future__ import annotations

from tabvae_core.feed.address import register_databases
from tabvae_core.feed.loading import feed

__all__ = ["feed", "register_databases"]
