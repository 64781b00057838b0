"""One version of a release becomes the rows of one table, or nothing happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import pyarrow as pa

from tabvae_core import release
from tabvae_core import storage as store
from tabvae_core.errors import SpecError, StorageError
from tabvae_core.feed.address import Address, address_of
from tabvae_core.feed.checking import check_values, pair_columns
from tabvae_core.feed.database import FEEDS, Column, Database, Fed, TableName
from tabvae_core.plain import plain_batches, plain_type
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.references import FeedRef
from tabvae_core.release import Manifest
from tabvae_core.spec import RefreshSpec, StorageSpec
from tabvae_core.tables import TableSource

__all__ = ["feed"]

_UNNAMED = RefreshSpec.model_fields["name"].default


def feed(
    target: str,
    into: str,
    *,
    table: str | None = None,
    version: str | None = None,
    storage: StorageSpec | None = None,
    wait_seconds: float = 60.0,
    progress: Progress = silent,
) -> FeedRef:
    """Load a release into a database, in one transaction.

    A table that exists keeps its definition, keys, indexes, grants and comments; one that does not is created. Loading
    the version that the table holds already does nothing.

    Args:
        target: Folder of the releases.
        into: URL of the database without password, `env:NAME` or `block:NAME`.
        table: `name` or `schema.name`; None: the refresh's name.
        version: The version; None: the current one.
        storage: Access to the target.
        wait_seconds: How long another load of the same table, or a writer to it, is waited for.
        progress: Told of the rows.

    Raises:
        DataError: No such version, or one that was refused; the table's columns are not the release's; the rows break
            a constraint.
        PublishConflict: Another load of the same table, or a writer to it, did not end in time.
        SpecError: Address or table cannot be read, or a driver is missing.
        StorageError: Database or target cannot be reached, or refuse.

    """
    started = time.monotonic()
    address = address_of(into)
    manifest = release.published_manifest(target, version, storage)
    name = TableName.parse(table) if table is not None else TableName(_default_name(manifest, target))
    if name.name == FEEDS:
        raise SpecError(f"the table must not be {FEEDS}, which says what was loaded", hint="name another table")
    with _open(address, wait_seconds) as database:
        database.lock(name)
        # Another load may have gone on for long: what is current now counts.
        manifest = release.published_manifest(target, version, storage)
        columns = database.columns(name)
        wanted = Fed(_full(target), manifest.version, manifest.rows)
        unchanged = columns is not None and database.fed(name) == wanted
        if not unchanged:
            source = release.read_release(target, manifest.version, storage)
            where, schema = f"{address.shown}: {name}", _schema(manifest, source.schema)
            _load(database, name, columns, source, schema, where, progress)
            database.record(name, wanted)
    return FeedRef(
        into=address.shown,
        table=str(name),
        target=target,
        version=manifest.version,
        rows=manifest.rows,
        created=columns is None,
        unchanged=unchanged,
        seconds=round(time.monotonic() - started, 3),
    )


def _open(address: Address, wait_seconds: float) -> AbstractContextManager[Database]:
    """Connect to a database and begin a transaction."""
    if address.scheme in ("postgresql", "postgres"):
        from tabvae_core.feed.postgresql import open_postgresql

        return open_postgresql(address, wait_seconds)
    if address.scheme == "sqlite":
        from tabvae_core.feed.sqlite import open_sqlite

        return open_sqlite(address, wait_seconds)
    if address.scheme == "duckdb":
        from tabvae_core.feed.duck_db import open_duckdb

        return open_duckdb(address)
    from tabvae_core.feed.alchemy import open_any

    return open_any(address)


def _load(
    database: Database,
    name: TableName,
    columns: Sequence[Column] | None,
    source: TableSource,
    schema: pa.Schema,
    where: str,
    progress: Progress,
) -> None:
    if columns is None:
        database.create(name, schema)
        columns = database.columns(name) or ()
    pairs = pair_columns(where, schema, columns)
    check_values(where, pairs, source)
    stored = pa.schema([pa.field(pair.column.name, pair.stored) for pair in pairs])
    batches = plain_batches(source, [pair.field.name for pair in pairs], stored)
    database.replace(name, stored, _told(batches, source.num_rows, progress))
    if (rows := database.count(name)) != source.num_rows:
        raise StorageError(
            f"{where} has {rows:,} rows after the load, the release has {source.num_rows:,}; the table is as it was",
            hint="look for triggers or policies that hold rows back",
        )


def _told(batches: Iterator[pa.RecordBatch], total: int, progress: Progress) -> Iterator[pa.RecordBatch]:
    done = 0
    progress(ProgressEvent("feed", 0, total, "rows"))
    for batch in batches:
        yield batch
        done += batch.num_rows
        progress(ProgressEvent("feed", done, total, "rows"))


def _default_name(manifest: Manifest, target: str) -> str:
    """Name of the refresh; the last part of the target where its spec gave none."""
    name = manifest.spec.get("name")
    return str(name) if name and name != _UNNAMED else target.rstrip("/").rsplit("/", 1)[-1]


def _full(target: str) -> str:
    """Name a target alike from wherever it is fed."""
    return store.filesystem(target)[1] if store.is_local(target) else store.safe_uri(target.rstrip("/"))


def _schema(manifest: Manifest, schema: pa.Schema) -> pa.Schema:
    """Schema of a release: not nullable where its spec says so."""
    overrides = manifest.spec.get("columns") or {}
    required = {name for name, override in overrides.items() if override.get("nullable") is False}
    fields = [pa.field(f.name, plain_type(f.type), f.nullable and f.name not in required) for f in schema]
    return pa.schema(fields)
