"""DuckDB, which reads Arrow batches as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tabvae_core.errors import DataError, PublishConflict, StorageError, TabvaeError
from tabvae_core.feed.address import Address
from tabvae_core.feed.database import Column, SqlDatabase, TableName, driver_missing, quote
from tabvae_core.feed.files import fresh_file
from tabvae_core.feed.types import SqlType, parse_type

if TYPE_CHECKING:
    import duckdb

__all__ = ["open_duckdb"]

_TYPES = {"boolean": "BOOLEAN", "text": "VARCHAR", "date": "DATE", "time": "TIME", "bytes": "BLOB"}
_TYPES |= {"timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ"}


@contextmanager
def open_duckdb(address: Address) -> Iterator[SqlDatabase]:
    """Open a file, and hold one transaction open while the block runs.

    Raises:
        PublishConflict: Another process has the file open.
        SpecError: DuckDB is not installed.
        StorageError: The file cannot be opened or written, or is no database.

    """
    try:
        import duckdb
    except ImportError:
        raise driver_missing(address.shown, "duckdb") from None
    with _plain_errors(address.shown), fresh_file(address), closing(duckdb.connect(address.path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("BEGIN")
        yield _DuckDB(address.shown, connection)
        connection.execute("COMMIT")


class _DuckDB(SqlDatabase):
    def __init__(self, shown: str, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(shown)
        self._connection = connection

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self._connection.execute(sql, list(values)).fetchall()
        return found

    def type_name(self, kind: SqlType) -> str:
        if kind.family == "integer":
            return {16: "SMALLINT", 32: "INTEGER"}.get(kind.size or 64, "BIGINT")
        if kind.family == "float":
            return "FLOAT" if kind.size == 32 else "DOUBLE"
        return f"DECIMAL({kind.size},{kind.scale})" if kind.family == "decimal" else _TYPES[kind.family]

    def lock(self, table: TableName) -> None:
        """Only one process opens the file; of two loads within it, the second fails when it changes the same rows."""

    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        where = "lower(table_name) = lower(?) AND table_schema = coalesce(?, current_schema())"
        where += " AND table_catalog = current_database()"
        kinds = self.run(f"SELECT table_type FROM information_schema.tables WHERE {where}", table.name, table.schema)
        if not kinds:
            return None
        if kinds[0][0] != "BASE TABLE":
            raise DataError(f"{self.shown}: {table} is no table", hint="name a table, not a view")
        rows = self.run(
            "SELECT column_name, data_type, is_nullable = 'YES', column_default IS NOT NULL, is_generated = 'ALWAYS' "
            f"FROM information_schema.columns WHERE {where} ORDER BY ordinal_position",
            table.name,
            table.schema,
        )
        return tuple(
            Column(name, shown, parse_type(shown), nullable, filled or bool(computed), bool(computed))
            for name, shown, nullable, filled, computed in rows
        )

    def before_swap(self, table: TableName) -> None:
        """No foreign key of DuckDB changes rows of other tables."""

    def replace(self, table: TableName, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Fill the table itself.

        Nobody else writes to the file, so a stage would win nothing; and DuckDB 2.0.0 takes no row from a temporary
        table of more than one row group into a table that was emptied in the same transaction.
        """
        self.run(f"DELETE FROM {self.quoted(table)}")
        self.fill(self.quoted(table), schema, batches)

    def fill(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        columns = ", ".join(quote(column) for column in schema.names)
        self._connection.register("tabvae_batches", pa.RecordBatchReader.from_batches(schema, batches))
        self._connection.execute(f"INSERT INTO {name} ({columns}) SELECT * FROM tabvae_batches")
        self._connection.unregister("tabvae_batches")


@contextmanager
def _plain_errors(shown: str) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise _translate(error, shown) from None


def _translate(error: duckdb.Error, shown: str) -> TabvaeError:
    name, text = type(error).__name__, str(error)
    if "lock on file" in text or name == "TransactionException":
        return PublishConflict(f"{shown}: another process or load has it open", hint="run again when it has ended")
    if name == "ConstraintException":
        return DataError(
            f"{shown}: rows of the release break a constraint of the table",
            hint="add it to the refresh's rules, or take it off the table; the table is as it was",
        )
    if name in ("ConversionException", "OutOfRangeException", "InvalidInputException"):
        return DataError(f"{shown}: values do not fit the table's types ({name})", hint="alter the table")
    return StorageError(f"{shown} cannot be opened or written ({name})", hint="check the path and its permissions")
