"""A table of another format is brought to the version that the pointer names, however far behind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from tabvae_core import storage as store
from tabvae_core.errors import PublishConflict, SpecError, TabvaeError
from tabvae_core.plain import plain_batches
from tabvae_core.spec import StorageSpec, TargetSpec
from tabvae_core.tables import TableSource

__all__ = ["VERSION", "LakeTable", "Overtaken", "follow", "package_missing", "stream"]

VERSION = "tabvae.version"
"""Key of a commit's metadata, or of a snapshot's summary, that names the release."""
_TRIES = 3


class Overtaken(Exception):
    """Another writer committed since the table was opened."""


class LakeTable(Protocol):
    """A table as it stood when it was opened; commits fail where it has changed since."""

    def holds(self) -> str | None:
        """Name the release that readers get; None where the table is none of ours, or new."""
        ...

    def go_back(self, version: str) -> bool:
        """Make a state current that the table had before, in one commit; False where it no longer can.

        Raises:
            Overtaken: Another writer committed.

        """
        ...

    def replace(self, version: str, source: TableSource) -> None:
        """Put a release in place of all rows, in one commit.

        Raises:
            Overtaken: Another writer committed.

        """
        ...

    def forget(self, kept: Sequence[str]) -> None:
        """Remove what only releases need that are no longer kept."""
        ...


def follow(target: TargetSpec | str, storage: StorageSpec | None = None) -> None:
    """Bring the Delta or Iceberg table of a target, where it has one, to the version that the pointer names.

    The pointer decides and moves first. So a reader of the table gets an accepted release at any moment: after a crash
    between the two commits the one before, until this is called again.

    Args:
        target: The target; where it is a URI, the releases' own specs say whether a table follows them.
        storage: Access, where `target` is a URI.

    Raises:
        PublishConflict: Other writers kept committing to the table.
        SpecError: The format's package is missing, or an Iceberg table in a store has no catalog.
        StorageError: The table cannot be read or written. The release stands.

    """
    from tabvae_core import release

    spec = target if isinstance(target, TargetSpec) else _described(target, storage)
    if spec.format == "parquet":
        return
    for _ in range(_TRIES):
        table = _open(spec)
        # Read after the table was opened: a commit by one who saw a newer pointer then makes ours fail.
        pointer = release.read_pointer(spec).pointer
        if pointer is None:
            return
        try:
            if table.holds() != pointer.version and not table.go_back(pointer.version):
                table.replace(pointer.version, release.read_release(spec, pointer.version))
            table.forget(pointer.published)
        except Overtaken:
            continue
        return
    raise PublishConflict(
        f"other writers keep committing to the {spec.format} table of {store.safe_uri(spec.uri)}",
        hint="nobody else should write to it; the release stands, run again",
    )


def _described(uri: str, storage: StorageSpec | None) -> TargetSpec:
    """Read from the newest release that can be read which format its target has."""
    from tabvae_core import release

    pointer = release.read_pointer(uri, storage).pointer
    manifests = []
    for version in pointer.published if pointer else ():
        try:
            manifests.append(release.read_manifest(uri, version, storage))
        except TabvaeError:
            continue
    newest = max(manifests, key=lambda manifest: manifest.created_at, default=None)
    said = (newest.spec.get("target") or {}) if newest else {}
    settings = {key: said[key] for key in ("format", "catalog", "catalog_table") if key in said}
    return TargetSpec(uri=uri, storage=storage or StorageSpec(), **settings)


def _open(spec: TargetSpec) -> LakeTable:
    if spec.format == "delta":
        from tabvae_core.lakehouse.delta import open_delta

        return open_delta(spec)
    from tabvae_core.lakehouse.iceberg import open_iceberg

    return open_iceberg(spec)


def stream(source: TableSource, schema: pa.Schema) -> pa.RecordBatchReader:
    """Read a release as a stream of a format's types."""
    return pa.RecordBatchReader.from_batches(schema, plain_batches(source, schema.names, schema))


def package_missing(spec: TargetSpec, package: str) -> TabvaeError:
    """Say which extra brings a format's package."""
    return SpecError(
        f"target.format is {spec.format}, which needs the package {package}, and it is not installed",
        hint=f'pip install "tabvae[{spec.format}]"',
    )
