"""PostgreSQL, through psycopg and COPY."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pyarrow as pa

from tabvae_core.errors import DataError, PublishConflict, StorageError, TabvaeError
from tabvae_core.feed.address import Address
from tabvae_core.feed.database import FEEDS, Column, SqlDatabase, TableName, cascades, driver_missing, quote
from tabvae_core.feed.types import SqlType, parse_type
from tabvae_core.feed.values import as_csv

if TYPE_CHECKING:
    import psycopg

__all__ = ["open_postgresql"]

_TYPES = {"boolean": "boolean", "text": "text", "date": "date", "time": "time", "bytes": "bytea"}
_TYPES |= {"timestamp": "timestamp", "timestamptz": "timestamp with time zone"}
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull,
       atthasdef OR attidentity <> '', attgenerated <> ''
FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CASCADING = """
SELECT conrelid::regclass::text FROM pg_constraint
WHERE contype = 'f' AND confrelid = to_regclass(%s) AND conrelid <> confrelid AND confdeltype IN ('c', 'n', 'd')
"""
_SEQUENCES = """
SELECT column_name, sequence FROM (SELECT attname AS column_name, pg_get_serial_sequence(%s, attname) AS sequence
    FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
    AND atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)) AS owned
WHERE sequence IS NOT NULL
    AND has_sequence_privilege(sequence, 'UPDATE') AND has_sequence_privilege(sequence, 'SELECT')
"""


@contextmanager
def open_postgresql(address: Address, wait_seconds: float) -> Iterator[SqlDatabase]:
    """Connect, and hold one transaction open while the block runs.

    Raises:
        SpecError: psycopg is not installed.
        StorageError: The server cannot be reached, or refuses.

    """
    try:
        import psycopg
    except ImportError:
        raise driver_missing(address.shown, "psycopg") from None
    settings = {"client_encoding": "utf8", **_defaults(address.url)}
    # Closed without a commit, a connection rolls back. The driver's own block would leave it open where a commit fails.
    with _plain_errors(address.shown), closing(psycopg.connect(address.url, **settings)) as connection:
        milliseconds = max(1, int(wait_seconds * 1000))
        # Policies that hide rows would leave some of the old ones behind: better refused by the server.
        connection.execute("SET row_security = off")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(cast("Any", f"SET lock_timeout = {milliseconds}"))
        connection.commit()
        yield _PostgreSQL(address.shown, connection)
        connection.commit()


def _defaults(url: str) -> dict[str, Any]:
    """Report a server that does not answer within seconds, and be found in its list of sessions."""
    known = "connect_timeout" in url or "PGCONNECT_TIMEOUT" in os.environ
    named = "application_name" in url or "PGAPPNAME" in os.environ
    return ({} if known else {"connect_timeout": 10}) | ({} if named else {"application_name": "tabvae feed"})


class _PostgreSQL(SqlDatabase):
    mark: ClassVar[str] = "%s"
    overriding: ClassVar[str] = "OVERRIDING SYSTEM VALUE "

    def __init__(self, shown: str, connection: psycopg.Connection[Any]) -> None:
        super().__init__(shown)
        self._connection = connection

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(cast("Any", sql), values or None)
        return cursor.fetchall() if cursor.description else []

    def type_name(self, kind: SqlType) -> str:
        if kind.family == "integer":
            return {16: "smallint", 32: "integer"}.get(kind.size or 64, "bigint")
        if kind.family == "float":
            return "real" if kind.size == 32 else "double precision"
        return f"numeric({kind.size},{kind.scale})" if kind.family == "decimal" else _TYPES[kind.family]

    def lock(self, table: TableName) -> None:
        """Loads of one table stand in line; the table itself is locked when the rows are swapped."""
        feeds = table.beside(FEEDS)
        if not self.columns(feeds):
            # By itself, and not at the end: two first loads of different tables would stop each other until one ends.
            self.run("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", FEEDS)
            self.create_feeds(feeds)
            self._connection.commit()
        self.run("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", f"tabvae feed {self.quoted(table)}")

    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        found = self.run("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", self.quoted(table))
        if not found:
            return None
        if found[0][0] not in ("r", "p"):
            raise DataError(f"{self.shown}: {table} is no table", hint="name a table, not a view")
        rows = self.run(_COLUMNS, self.quoted(table))
        return tuple(Column(name, shown, parse_type(shown), *flags) for name, shown, *flags in rows)

    def fill(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        columns = ", ".join(quote(column) for column in schema.names)
        copy = f"COPY {name} ({columns}) FROM STDIN (FORMAT csv)"
        with self._connection.cursor().copy(cast("Any", copy)) as stream:
            for batch in batches:
                stream.write(as_csv(batch))

    def before_swap(self, table: TableName) -> None:
        """Keep writers out, but no reader, so that no row of theirs survives among those of the release."""
        name = self.quoted(table)
        self.run(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
        others = [row[0] for row in self.run(_CASCADING, name)]
        if filled := [other for other in others if self.run(f"SELECT 1 FROM {other} LIMIT 1")]:
            raise cascades(self.shown, table, filled)
        # Foreign keys that may wait until the end see the new rows then.
        self.run("SET CONSTRAINTS ALL DEFERRED")

    def replace(self, table: TableName, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        super().replace(table, schema, batches)
        name = self.quoted(table)
        for column, sequence in self.run(_SEQUENCES, name, name):
            largest = f"SELECT greatest((SELECT max({quote(column)}) FROM {name}), (SELECT last_value FROM {sequence}))"
            self.run(f"SELECT setval(%s, ({largest}))", sequence)


@contextmanager
def _plain_errors(shown: str) -> Iterator[None]:
    """Say the server's errors in plain words; its own would quote values."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise _translate(error, shown) from None


def _translate(error: psycopg.Error, shown: str) -> TabvaeError:
    state, said = error.sqlstate or "", error.diag
    if state in ("55P03", "40P01", "40001"):
        return PublishConflict(
            f"{shown}: another load of this table, or a writer to it, did not end in time",
            hint="run again when it has ended",
        )
    if state == "23503":
        return DataError(
            f"{shown}: rows of {said.table_name} break its foreign key {said.constraint_name}",
            hint="empty that table first, or declare the key DEFERRABLE where its rows find their keys again",
        )
    if state[:2] == "23":
        what = f"constraint {said.constraint_name}" if said.constraint_name else f"NOT NULL of {said.column_name}"
        return DataError(
            f"{shown}: rows of the release break {what} of table {said.table_name}",
            hint="add it to the refresh's rules, or take it off the table; the table is as it was",
        )
    if state[:2] == "22":
        column = re.search(r", column (.+?)(:|$)", said.context or "")
        where = f" of column {column[1]}" if column else ""
        return DataError(
            f"{shown}: values{where} do not fit their type ({type(error).__name__})",
            hint="alter the column; the table is as it was",
        )
    if state[:2] == "53":
        return StorageError(f"{shown}: the server has no room left ({type(error).__name__})", hint="see its log")
    if state == "42501":
        return StorageError(
            f"{shown}: {said.message_primary}", hint="grant SELECT, INSERT, DELETE on the table and on tabvae_feeds"
        )
    if state in ("3F000", "3D000", "28P01", "28000") or "authentication failed" in str(error):
        return StorageError(
            f"{shown}: the server refused ({said.message_primary or 'user or password'})",
            hint="check database, schema and user, and the password in PGPASSWORD or .pgpass",
        )
    if not state or state[:2] in ("08", "57"):
        return StorageError(
            f"{shown}: the server cannot be reached, or ended the connection",
            hint="check host and port, that it runs, and the password in PGPASSWORD or .pgpass",
        )
    return StorageError(f"{shown}: the server refused ({type(error).__name__})", hint="see its log")
