"""An Iceberg table, through pyiceberg: in a catalog of its own beside the releases, or in one that is named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tabvae_core import storage as store
from tabvae_core.errors import SpecError, StorageError, TabvaeError
from tabvae_core.lakehouse.following import VERSION, LakeTable, Overtaken, package_missing, stream
from tabvae_core.plain import plain_type
from tabvae_core.spec import TargetSpec
from tabvae_core.tables import TableSource

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["open_iceberg"]

# pyiceberg would try a commit again on top of what overtook it; ours must read the pointer again.
_NO_RETRIES = {"commit.retry.num-retries": "0"}


def open_iceberg(spec: TargetSpec) -> LakeTable:
    """Open the table, or prepare for its first commit.

    Raises:
        SpecError: pyiceberg is not installed, or a table in a store has no catalog.
        StorageError: Catalog or table cannot be read.

    """
    try:
        from pyiceberg.exceptions import NoSuchTableError
    except ImportError:
        raise package_missing(spec, "pyiceberg") from None
    name = spec.catalog_table or f"tabvae.{spec.uri.rstrip('/').rsplit('/', 1)[-1]}"
    with _plain_errors(spec):
        catalog = _catalog(spec)
        try:
            return _Iceberg(spec, catalog, name, catalog.load_table(name))
        except NoSuchTableError:
            return _Iceberg(spec, catalog, name, None)


class _Iceberg:
    def __init__(self, spec: TargetSpec, catalog: Catalog, name: str, table: Table | None) -> None:
        self._spec, self._catalog, self._name, self._table = spec, catalog, name, table

    def holds(self) -> str | None:
        return _release_of(self._table.current_snapshot()) if self._table is not None else None

    def go_back(self, version: str) -> bool:
        if self._table is None:
            return False
        found = self._last_of(version)
        # Readers of the current state see it with the newest columns: one of other columns is written anew.
        if found is None or found.schema_id != self._table.schema().schema_id:
            return False
        with _plain_errors(self._spec):
            self._table.manage_snapshots().set_current_snapshot(found.snapshot_id).commit()
        return True

    def replace(self, version: str, source: TableSource) -> None:
        schema = pa.schema([pa.field(field.name, _iceberg_type(field.type)) for field in source.schema])
        with _plain_errors(self._spec):
            table = self._table or self._create(schema)
            if not _NO_RETRIES.items() <= table.properties.items():
                with table.transaction() as transaction:
                    transaction.set_properties(_NO_RETRIES)
            with table.transaction() as transaction:
                with transaction.update_schema(allow_incompatible_changes=True) as columns:
                    columns.union_by_name(schema)
                    for gone in set(table.schema().column_names) - set(schema.names):
                        columns.delete_column(gone)
                write = transaction.overwrite if table.current_snapshot() else transaction.append
                write(stream(source, schema), snapshot_properties={VERSION: version})
            self._table = table

    def _create(self, schema: pa.Schema) -> Table:
        """Make the table, empty: its first release is a commit like any other."""
        self._catalog.create_namespace_if_not_exists(self._name.rpartition(".")[0])
        return self._catalog.create_table_if_not_exists(self._name, schema=schema, properties=_NO_RETRIES)

    def forget(self, kept: Sequence[str]) -> None:
        if self._table is None:
            return
        needed = [snapshot for version in kept if (snapshot := self._last_of(version)) is not None]
        named = {snapshot.snapshot_id for snapshot in needed}
        dropped = [one for one in self._table.snapshots() if one.snapshot_id not in named]
        if not any(_release_of(one) not in kept for one in dropped):
            return
        with _plain_errors(self._spec):
            files = self._files(dropped) - self._files(needed)
            self._table.maintenance.expire_snapshots().by_ids([one.snapshot_id for one in dropped]).commit()
            for file in files:
                self._table.io.delete(file)

    def _files(self, snapshots: Sequence[Snapshot]) -> set[str]:
        assert self._table is not None
        scans = [self._table.scan(snapshot_id=snapshot.snapshot_id) for snapshot in snapshots]
        return {task.file.file_path for scan in scans for task in scan.plan_files()}

    def _last_of(self, version: str) -> Snapshot | None:
        """Find a release's state: an overwrite leaves two snapshots, of which the second has the rows."""
        assert self._table is not None
        return next((one for one in reversed(self._table.snapshots()) if _release_of(one) == version), None)


def _release_of(snapshot: Snapshot | None) -> str | None:
    return snapshot.summary.get(VERSION) if snapshot is not None and snapshot.summary is not None else None


def _catalog(spec: TargetSpec) -> Catalog:
    from pyiceberg.catalog import load_catalog

    if spec.catalog is not None:
        return load_catalog(spec.catalog, **_options(spec))
    if not store.is_local(spec.uri):
        raise SpecError(
            f"target.format is iceberg, and {store.safe_uri(spec.uri)} lies in a store: it needs a catalog",
            hint="name it as target.catalog, and set it up as pyiceberg's configuration says (PYICEBERG_CATALOG__...)",
        )
    folder = store.filesystem(store.join_uri(spec.uri, "iceberg"))[1]
    os.makedirs(folder, exist_ok=True)
    return load_catalog("tabvae", type="sql", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")


def _options(spec: TargetSpec) -> dict[str, Any]:
    """Access as pyiceberg takes it."""
    if store.is_local(spec.uri):
        return {}
    access = store.s3_access(spec.storage)
    keys = access.credentials
    options = {
        "s3.endpoint": access.endpoint_url,
        "s3.region": access.region,
        "s3.access-key-id": keys and keys.access_key_id,
        "s3.secret-access-key": keys and keys.secret_access_key,
        "s3.session-token": keys and keys.session_token,
    }
    return {name: value for name, value in options.items() if value}


def _iceberg_type(kind: pa.DataType) -> pa.DataType:
    """Whole numbers of Iceberg have 32 bits at least."""
    plain = plain_type(kind)
    return pa.int32() if pa.types.is_int8(plain) or pa.types.is_int16(plain) else plain


@contextmanager
def _plain_errors(spec: TargetSpec) -> Iterator[None]:
    from pyiceberg.exceptions import CommitFailedException, ValidationException

    try:
        with warnings.catch_warnings():
            # An overwrite of an empty table says that it had nothing to delete.
            warnings.simplefilter("ignore")
            yield
    except (TabvaeError, Overtaken):
        raise
    except (CommitFailedException, ValidationException):
        raise Overtaken from None
    except Exception as error:
        # Catalogs of every kind raise their own: HTTP, SQL, configuration.
        raise StorageError(
            f"the Iceberg table of {store.safe_uri(spec.uri)} cannot be read or written ({type(error).__name__})",
            hint="check catalog and access; the release stands, and the next run or rollback commits it to the table",
        ) from None
