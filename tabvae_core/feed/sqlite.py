"""SQLite, through the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa

from tabvae_core.errors import DataError, PublishConflict, StorageError, TabvaeError
from tabvae_core.feed.address import Address
from tabvae_core.feed.database import Column, SqlDatabase, TableName, cascades, quote
from tabvae_core.feed.files import fresh_file
from tabvae_core.feed.types import SqlType, parse_type
from tabvae_core.feed.values import as_rows

__all__ = ["open_sqlite"]

# SQLite has no exact decimals: as text they stay what they are.
_TYPES = {"integer": "BIGINT", "float": "DOUBLE", "decimal": "TEXT", "boolean": "BOOLEAN", "text": "TEXT"}
_TYPES |= {"date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMP", "bytes": "BLOB"}


@contextmanager
def open_sqlite(address: Address, wait_seconds: float) -> Iterator[SqlDatabase]:
    """Open a file, and hold one transaction open while the block runs.

    Raises:
        StorageError: The file cannot be opened or written, or is no database.

    """
    with _plain_errors(address.shown), fresh_file(address), closing(_connect(address, wait_seconds)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA defer_foreign_keys = ON")
        yield _SQLite(address.shown, connection)
        connection.execute("COMMIT")


def _connect(address: Address, wait_seconds: float) -> sqlite3.Connection:
    """Transactions are begun and ended by this module, not by the library."""
    return sqlite3.connect(address.path, timeout=wait_seconds, isolation_level=None)


class _SQLite(SqlDatabase):
    def __init__(self, shown: str, connection: sqlite3.Connection) -> None:
        super().__init__(shown)
        self._connection = connection

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def type_name(self, kind: SqlType) -> str:
        return _TYPES[kind.family]

    def lock(self, table: TableName) -> None:
        """The transaction began as the only one that may write."""

    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        schema, name = quote(table.schema or "main"), quote(table.name)
        kinds = self.run(f"SELECT type FROM {schema}.sqlite_master WHERE lower(name) = lower(?)", table.name)
        if not kinds:
            return None
        if kinds[0][0] != "table":
            raise DataError(f"{self.shown}: {table} is no table", hint="name a table, not a view")
        rows = self.run(f"PRAGMA {schema}.table_xinfo({name})")
        keys = [row[1] for row in rows if row[5]]
        return tuple(
            Column(
                column,
                shown or "no type",
                _affine(shown),
                nullable=not required,
                # A single INTEGER PRIMARY KEY numbers itself.
                filled=default is not None or hidden > 1 or ([column] == keys and shown.upper() == "INTEGER"),
                computed=hidden > 1,
            )
            for _, column, shown, required, default, _, hidden in rows
            if hidden != 1
        )

    def fill(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        insert = f"INSERT INTO {name} VALUES ({', '.join('?' * len(schema))})"
        text = [kind for kind in set(schema.types) if pa.types.is_temporal(kind) or pa.types.is_decimal(kind)]
        for batch in batches:
            self._connection.executemany(insert, as_rows(batch, text=text))

    def before_swap(self, table: TableName) -> None:
        others = []
        for (other,) in self.run("SELECT name FROM sqlite_master WHERE type = 'table'"):
            keys = self.run(f"PRAGMA foreign_key_list({quote(other)})")
            acts = any(k[2].lower() == table.name.lower() and k[6] not in ("NO ACTION", "RESTRICT") for k in keys)
            if acts and other.lower() != table.name.lower() and self.run(f"SELECT 1 FROM {quote(other)} LIMIT 1"):
                others.append(other)
        if others:
            raise cascades(self.shown, table, others)


def _affine(shown: str) -> SqlType:
    """A declared type says what values become, not what goes in: whole numbers have 64 bits, texts no limit."""
    kind = parse_type(shown)
    if kind.family == "integer":
        return SqlType("integer", 64)
    return SqlType("any") if kind.family in ("text", "decimal") else kind


@contextmanager
def _plain_errors(shown: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, shown) from None


def _translate(error: sqlite3.Error, shown: str) -> TabvaeError:
    name = str(getattr(error, "sqlite_errorname", type(error).__name__))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return PublishConflict(f"{shown}: another writer or a long reader did not end in time", hint="run again")
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return DataError(
            f"{shown}: rows of other tables refer to rows that the release does not have",
            hint="empty these tables first; the table is as it was",
        )
    if name.startswith("SQLITE_CONSTRAINT"):
        return DataError(
            f"{shown}: rows of the release break a constraint ({error})",
            hint="add it to the refresh's rules, or take it off the table; the table is as it was",
        )
    if name == "SQLITE_FULL":
        return StorageError(f"{shown}: no space is left", hint="free space, then run again")
    if name == "SQLITE_NOTADB":
        return StorageError(f"{shown} is no SQLite database", hint="check the path")
    return StorageError(f"{shown} cannot be opened or written ({name})", hint="check the path and its permissions")
