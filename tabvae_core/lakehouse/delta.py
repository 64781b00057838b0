"""A Delta table in TARGET/delta, through delta-rs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa

from tabvae_core import storage as store
from tabvae_core.errors import StorageError
from tabvae_core.lakehouse.following import VERSION, LakeTable, Overtaken, package_missing, stream
from tabvae_core.plain import plain_type
from tabvae_core.spec import TargetSpec
from tabvae_core.tables import TableSource

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

__all__ = ["open_delta"]


def open_delta(spec: TargetSpec) -> LakeTable:
    """Open the table, or prepare for its first commit.

    Raises:
        SpecError: deltalake is not installed.
        StorageError: It cannot be read.

    """
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise package_missing(spec, "deltalake") from None
    uri, options = store.join_uri(spec.uri, "delta"), _options(spec)
    if store.is_local(uri):
        # delta-rs asks for a folder that exists.
        uri = store.filesystem(uri)[1]
    with _plain_errors(uri):
        known = DeltaTable.is_deltatable(uri, options)
        return _Delta(uri, options, DeltaTable(uri, storage_options=options) if known else None)


class _Delta:
    def __init__(self, uri: str, options: dict[str, str], table: DeltaTable | None) -> None:
        self._uri, self._options, self._table = uri, options, table

    def holds(self) -> str | None:
        if self._table is None:
            return None
        with _plain_errors(self._uri):
            last = self._table.history(1)
        return last[0].get(VERSION) if last else None

    def go_back(self, version: str) -> bool:
        from deltalake.exceptions import DeltaError

        if self._table is None:
            return False
        with _plain_errors(self._uri):
            had = next((commit["version"] for commit in self._table.history() if commit.get(VERSION) == version), None)
            if had is None:
                return False
            try:
                self._table.restore(had, commit_properties=_named(version))
            except (DeltaError, FileNotFoundError) as error:
                if _is_conflict(error):
                    raise
                # Its files were vacuumed.
                return False
        return True

    def replace(self, version: str, source: TableSource) -> None:
        from deltalake import DeltaTable, write_deltalake

        schema = pa.schema([pa.field(field.name, _delta_type(field.type)) for field in source.schema])
        with _plain_errors(self._uri):
            write_deltalake(
                self._uri if self._table is None else self._table,
                stream(source, schema),
                # The first commit must not fall on a table that another writer made meanwhile.
                mode="error" if self._table is None else "overwrite",
                schema_mode=None if self._table is None else "overwrite",
                storage_options=self._options,
                commit_properties=_named(version),
            )
            self._table = DeltaTable(self._uri, storage_options=self._options)

    def forget(self, kept: Sequence[str]) -> None:
        """Vacuum, where there is something to remove: the vacuum's own entries in the log are no releases."""
        if self._table is None:
            return
        with _plain_errors(self._uri):
            commits = self._table.history()
            current = commits[0].get(VERSION)
            keep = [commit["version"] for commit in commits if commit.get(VERSION) in kept]
            if self._vacuum(keep, current, dry_run=True):
                self._vacuum(keep, current, dry_run=False)

    def _vacuum(self, keep: list[int], current: str | None, *, dry_run: bool) -> list[str]:
        assert self._table is not None
        # Not "full": files of a commit that is being written are in no log yet, and stay.
        return self._table.vacuum(
            retention_hours=0,
            dry_run=dry_run,
            enforce_retention_duration=False,
            keep_versions=keep,
            commit_properties=_named(current),
        )


def _named(version: str | None) -> CommitProperties:
    from deltalake import CommitProperties

    # No retries within: a commit that was overtaken must read the pointer again.
    return CommitProperties(custom_metadata={VERSION: version} if version else {}, max_commit_retries=0)


def _delta_type(kind: pa.DataType) -> pa.DataType:
    """Delta has no time of day."""
    plain = plain_type(kind)
    return pa.string() if pa.types.is_time(plain) else plain


def _options(spec: TargetSpec) -> dict[str, str]:
    """Access as delta-rs takes it."""
    if store.is_local(spec.uri) or not spec.uri.startswith(("s3://", "s3a://")):
        return {}
    access = store.s3_access(spec.storage)
    keys = access.credentials
    options = {
        "aws_endpoint": access.endpoint_url,
        "aws_region": access.region,
        "aws_access_key_id": keys and keys.access_key_id,
        "aws_secret_access_key": keys and keys.secret_access_key,
        "aws_session_token": keys and keys.session_token,
        "aws_allow_http": "true" if (access.endpoint_url or "").startswith("http://") else None,
        "aws_skip_signature": "true" if access.anonymous else None,
        "aws_conditional_put": "etag",
    }
    return {name: value for name, value in options.items() if value}


def _is_conflict(error: Exception) -> bool:
    return type(error).__name__ == "CommitFailedError" or "already exists" in str(error)


@contextmanager
def _plain_errors(uri: str) -> Iterator[None]:
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        if _is_conflict(error):
            raise Overtaken from None
        raise StorageError(
            f"the Delta table {store.safe_uri(uri)} cannot be read or written ({type(error).__name__})",
            hint="check access to it; the release stands, and the next run or rollback commits it to the table",
        ) from None
