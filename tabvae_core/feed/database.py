"""What a load asks of a database, and the SQL that PostgreSQL, SQLite and DuckDB share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from tabvae_core.errors import DataError, SpecError, TabvaeError
from tabvae_core.feed.types import SqlType, needed_type

__all__ = ["FEEDS", "Column", "Database", "Fed", "SqlDatabase", "TableName", "cascades", "driver_missing"]

FEEDS = "tabvae_feeds"
"""Table that says which version each table holds; it stands in the schema of the tables."""
_STAGE = "tabvae_stage"


@dataclass(frozen=True)
class TableName:
    """A table of a database."""

    name: str
    schema: str | None = None

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read `name` or `schema.name`.

        Raises:
            SpecError: A part is empty, or there are more than two.

        """
        *schema, name = text.split(".")
        if not name or len(schema) > 1 or "" in schema:
            raise SpecError(f"table must be name or schema.name, however: {text!r}", hint="such as public.customers")
        return cls(name, schema[0] if schema else None)

    def beside(self, name: str) -> TableName:
        """Name another table of the same schema."""
        return TableName(name, self.schema)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass(frozen=True)
class Column:
    """A column of a table that exists."""

    name: str
    shown: str
    """Its type as the database writes it."""
    type: SqlType
    nullable: bool = True
    filled: bool = False
    """Whether it has a value of its own where a row brings none: a default, an identity, a formula."""
    computed: bool = False
    """Whether it takes no value at all: a formula."""


@dataclass(frozen=True)
class Fed:
    """What the bookkeeping says that a table holds."""

    target: str
    version: str
    rows: int


class Database(Protocol):
    """A database with one transaction open, which its context manager commits or rolls back."""

    def lock(self, table: TableName) -> None:
        """Keep other loads of the same table out until the transaction ends; readers go on.

        Raises:
            PublishConflict: Another load did not end in time.

        """
        ...

    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        """Describe a table; None where there is none."""
        ...

    def create(self, table: TableName, schema: pa.Schema) -> None:
        """Create a table; fields that are not nullable become NOT NULL."""
        ...

    def replace(self, table: TableName, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Make batches of plain types the rows of a table, in place of those it has."""
        ...

    def count(self, table: TableName) -> int:
        """Count the rows of a table."""
        ...

    def fed(self, table: TableName) -> Fed | None:
        """Read the bookkeeping; None where the table was never fed."""
        ...

    def record(self, table: TableName, fed: Fed) -> None:
        """Write the bookkeeping."""
        ...


class SqlDatabase(ABC):
    """A database that is spoken to in SQL with double quotes around names."""

    mark: ClassVar[str] = "?"
    """Stands for a value in a statement."""
    overriding: ClassVar[str] = ""
    """What lets a statement give values to columns that number themselves."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    @abstractmethod
    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""

    @abstractmethod
    def fill(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Append batches of plain types to a table; `name` is written with its quotes."""

    @abstractmethod
    def type_name(self, kind: SqlType) -> str:
        """Write a type as this database does."""

    @abstractmethod
    def lock(self, table: TableName) -> None:
        """See `Database`."""

    @abstractmethod
    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        """See `Database`."""

    @abstractmethod
    def before_swap(self, table: TableName) -> None:
        """Do what is needed after the rows were staged and before they are swapped."""

    def quoted(self, table: TableName) -> str:
        """Write a table's name with its quotes."""
        return ".".join(quote(part) for part in (table.schema, table.name) if part)

    def create(self, table: TableName, schema: pa.Schema) -> None:
        """See `Database`."""
        columns = [
            f"{quote(field.name)} {self.type_name(needed_type(field.type))}{'' if field.nullable else ' NOT NULL'}"
            for field in schema
        ]
        self.run(f"CREATE TABLE {self.quoted(table)} ({', '.join(columns)})")

    def replace(self, table: TableName, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Stage the rows in a temporary table, and swap them in by two statements.

        The slow part, reading a release from a store, thus holds no lock on the table.
        """
        name, columns = self.quoted(table), ", ".join(quote(column) for column in schema.names)
        self.run(f"CREATE TEMPORARY TABLE {_STAGE} AS SELECT {columns} FROM {name} WHERE 1 = 0")
        self.fill(_STAGE, schema, batches)
        self.before_swap(table)
        self.run(f"DELETE FROM {name}")
        self.run(f"INSERT INTO {name} ({columns}) {self.overriding}SELECT {columns} FROM {_STAGE}")
        self.run(f"DROP TABLE {_STAGE}")

    def count(self, table: TableName) -> int:
        """See `Database`."""
        return int(self.run(f"SELECT count(*) FROM {self.quoted(table)}")[0][0])

    def fed(self, table: TableName) -> Fed | None:
        """See `Database`."""
        feeds = table.beside(FEEDS)
        if self.columns(feeds) is None:
            return None
        found = self.run(
            f"SELECT target, version, rows FROM {self.quoted(feeds)} WHERE table_name = {self.mark}", table.name
        )
        return Fed(*found[0]) if found else None

    def record(self, table: TableName, fed: Fed) -> None:
        """See `Database`."""
        self.create_feeds(table.beside(FEEDS))
        feeds = self.quoted(table.beside(FEEDS))
        self.run(f"DELETE FROM {feeds} WHERE table_name = {self.mark}", table.name)
        marks = ", ".join([self.mark] * 5)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        self.run(f"INSERT INTO {feeds} VALUES ({marks})", table.name, fed.target, fed.version, fed.rows, now)

    def create_feeds(self, feeds: TableName) -> None:
        """Create the table of the bookkeeping where there is none."""
        text, stamp = self.type_name(SqlType("text")), self.type_name(SqlType("timestamptz"))
        self.run(
            f"CREATE TABLE IF NOT EXISTS {self.quoted(feeds)} (table_name {text} PRIMARY KEY, target {text} NOT NULL, "
            f"version {text} NOT NULL, rows {self.type_name(SqlType('integer', 64))} NOT NULL, "
            f"loaded_at {stamp} NOT NULL)"
        )


def quote(name: str) -> str:
    """Write a name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def cascades(shown: str, table: TableName, others: Sequence[str]) -> DataError:
    """Refuse a load that would reach into other tables."""
    return DataError(
        f"{shown}: replacing the rows of {table} would delete or change rows of {', '.join(others)}, whose foreign "
        "keys say ON DELETE CASCADE, SET NULL or SET DEFAULT",
        hint="empty these tables first, or declare the keys without it, DEFERRABLE where rows stay",
    )


def driver_missing(shown: str, module: str) -> TabvaeError:
    """Say which extra brings a driver."""
    return SpecError(
        f"{shown} needs the package {module}, which is not installed",
        hint='pip install "tabvae[sql]", or the driver that SQLAlchemy names for this database',
    )
