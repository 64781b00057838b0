"""Every other database that SQLAlchemy reaches: MariaDB, Oracle, SQL Server and so on, through its own driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tabvae_core.errors import DataError, PublishConflict, SpecError, StorageError, TabvaeError
from tabvae_core.feed.address import Address
from tabvae_core.feed.database import FEEDS, Column, Database, Fed, TableName, driver_missing
from tabvae_core.feed.types import SqlType, needed_type, parse_type
from tabvae_core.feed.values import as_rows

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["open_any"]

_BATCH_ROWS = 5_000


@contextmanager
def open_any(address: Address) -> Iterator[Database]:
    """Connect, and hold one transaction open while the block runs.

    Raises:
        SpecError: SQLAlchemy or the driver is not installed, or it knows no such database.
        StorageError: The database cannot be reached, or refuses.

    """
    try:
        import sqlalchemy as sa
    except ImportError:
        raise driver_missing(address.shown, "sqlalchemy") from None
    with _plain_errors(address.shown):
        try:
            engine = sa.create_engine(address.url, poolclass=sa.NullPool)
        except ImportError as error:
            raise driver_missing(address.shown, error.name or address.scheme) from None
        except sa.exc.NoSuchModuleError:
            raise SpecError(
                f"{address.shown}: SQLAlchemy knows no database called {address.scheme}://",
                hint="install the package that brings it, or check the address",
            ) from None
        with engine.connect() as connection, connection.begin():
            yield _AnyDatabase(address.shown, connection)


class _AnyDatabase:
    """A database that is spoken to through SQLAlchemy.

    Some databases end a transaction when a table is made, so a table that could be made and not filled may stay, empty.
    The rows themselves are replaced in one transaction everywhere.
    """

    def __init__(self, shown: str, connection: sa.Connection) -> None:
        self.shown, self._connection = shown, connection

    def lock(self, table: TableName) -> None:
        """Change the table's line of the bookkeeping, which nobody else can then until the transaction ends."""
        import sqlalchemy as sa

        feeds = self._feeds(table)
        feeds.create(self._connection, checkfirst=True)
        line = feeds.update().where(feeds.c.table_name == table.name).values(loaded_at=_now())
        if self._connection.execute(line).rowcount == 0:
            blank = {"table_name": table.name, "target": "-", "version": "-", "rows": 0, "loaded_at": _now()}
            try:
                self._connection.execute(feeds.insert(), blank)
            except sa.exc.IntegrityError:
                raise _busy(self.shown) from None

    def columns(self, table: TableName) -> tuple[Column, ...] | None:
        import sqlalchemy as sa

        inspector = sa.inspect(self._connection)
        if table.name in inspector.get_view_names(schema=table.schema):
            raise DataError(f"{self.shown}: {table} is no table", hint="name a table, not a view")
        if not inspector.has_table(table.name, schema=table.schema):
            return None
        return tuple(self._column(found) for found in inspector.get_columns(table.name, schema=table.schema))

    def _column(self, found: Any) -> Column:
        shown = found["type"].compile(self._connection.dialect)
        computed = found.get("computed") is not None
        filled = computed or found.get("default") is not None or found.get("identity") is not None
        filled = filled or found.get("autoincrement") is True
        return Column(found["name"], shown, parse_type(shown), found["nullable"], filled, computed)

    def create(self, table: TableName, schema: pa.Schema) -> None:
        import sqlalchemy as sa

        columns = [
            sa.Column(f.name, _type_of(needed_type(f.type)), nullable=f.nullable, autoincrement=False) for f in schema
        ]
        sa.Table(table.name, sa.MetaData(), *columns, schema=table.schema).create(self._connection)
        self.lock(table)

    def replace(self, table: TableName, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        import sqlalchemy as sa

        columns = [sa.column(field.name, _type_of(needed_type(field.type))) for field in schema]
        into = sa.table(table.name, *columns, schema=table.schema)
        self._connection.execute(sa.delete(into))
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                rows = as_rows(batch.slice(start, _BATCH_ROWS))
                self._connection.execute(sa.insert(into), [dict(zip(schema.names, row, strict=True)) for row in rows])

    def count(self, table: TableName) -> int:
        import sqlalchemy as sa

        rows = sa.select(sa.func.count()).select_from(sa.table(table.name, schema=table.schema))
        return int(self._connection.execute(rows).scalar_one())

    def fed(self, table: TableName) -> Fed | None:
        import sqlalchemy as sa

        feeds = self._feeds(table)
        columns = (feeds.c.target, feeds.c.version, feeds.c.rows)
        found = self._connection.execute(sa.select(*columns).where(feeds.c.table_name == table.name)).first()
        return Fed(*found) if found else None

    def record(self, table: TableName, fed: Fed) -> None:
        feeds = self._feeds(table)
        values = {"target": fed.target, "version": fed.version, "rows": fed.rows, "loaded_at": _now()}
        self._connection.execute(feeds.update().where(feeds.c.table_name == table.name).values(values))

    @staticmethod
    def _feeds(table: TableName) -> sa.Table:
        import sqlalchemy as sa

        return sa.Table(
            FEEDS,
            sa.MetaData(),
            sa.Column("table_name", sa.String(200), primary_key=True),
            sa.Column("target", sa.String(1000), nullable=False),
            sa.Column("version", sa.String(100), nullable=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("loaded_at", sa.DateTime(timezone=True), nullable=False),
            schema=table.schema,
        )


def _now() -> datetime:
    return datetime.now(UTC)


def _type_of(kind: SqlType) -> Any:
    import sqlalchemy as sa

    if kind.family == "integer":
        return {16: sa.SmallInteger(), 32: sa.Integer()}.get(kind.size or 64, sa.BigInteger())
    if kind.family == "decimal":
        return sa.Numeric(kind.size, kind.scale)
    return {
        "float": sa.Double(),
        "boolean": sa.Boolean(),
        "date": sa.Date(),
        "time": sa.Time(),
        "timestamp": sa.DateTime(),
        "timestamptz": sa.DateTime(timezone=True),
        "bytes": sa.LargeBinary(),
    }.get(kind.family, sa.Text())


@contextmanager
def _plain_errors(shown: str) -> Iterator[None]:
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise _translate(error, shown) from None


def _translate(error: Exception, shown: str) -> TabvaeError:
    name, text = type(error).__name__, str(getattr(error, "orig", "")).lower()
    if "lock" in text and name == "OperationalError":
        return _busy(shown)
    if name == "IntegrityError":
        return DataError(
            f"{shown}: rows of the release break a constraint, or rows of other tables refer to those they replace",
            hint="look at the table's constraints and keys; the table is as it was",
        )
    if name == "DataError":
        return DataError(f"{shown}: values do not fit the table's types", hint="alter the table")
    return StorageError(f"{shown}: the database cannot be reached, or refused ({name})", hint="see its log")


def _busy(shown: str) -> PublishConflict:
    return PublishConflict(f"{shown}: another load or writer did not end in time", hint="run again")
