"""The rows of a refresh: the source as its snapshot saw it, the two sides of the split, and how many are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from tabvae_core import lake as store
from tabvae_core.dates import dated
from tabvae_core.errors import SourceChanged
from tabvae_core.lake import ParquetSource
from tabvae_core.references import SnapshotRef, SourceFile
from tabvae_core.spec import RefreshSpec
from tabvae_core.tables import Part, RowSplit, TableSource, collect

__all__ = [
    "PARTS",
    "REFERENCE_ROWS",
    "compared_rows",
    "files_digest",
    "measured_rows",
    "open_source",
    "part_of",
    "pinned_source",
    "rows_of",
]

PARTS: tuple[Part, ...] = ("train", "holdout")
REFERENCE_ROWS = 200_000
"""Rows of each side of the split behind a column's reference distribution and its floor."""
_MEASURED_ROWS = 1_000_000
_LEAST_MEASURED_ROWS = 20_000
_MEASURED_CELLS = 40_000_000
"""Rows and cells of each table held in memory while it is measured. Copies are counted in all of them."""


def open_source(spec: RefreshSpec) -> ParquetSource:
    """Open the source that a spec describes, as it stands now."""
    source = dated(spec).source
    return ParquetSource(source.uri, storage=source.storage, columns=source.columns, filters=source.filters)


@contextmanager
def pinned_source(spec: RefreshSpec, snapshot: SnapshotRef) -> Iterator[ParquetSource]:
    """Open the source as the snapshot saw it, and make sure afterwards that it stayed so.

    Raises:
        SourceChanged: It is not, or did not.

    """
    source = open_source(spec)
    if source.fingerprint != snapshot.fingerprint:
        source.verify(snapshot.files)
        raise SourceChanged(f"{store.safe_uri(snapshot.uri)} changed since the snapshot", hint="run the refresh again")
    yield source
    source.verify()


def files_digest(files: Sequence[SourceFile]) -> str:
    """Hash names, sizes and versions of objects, in order."""
    return hashlib.sha256("\n".join(f"{f.uri} {f.size} {f.version}" for f in files).encode()).hexdigest()


def part_of(spec: RefreshSpec, source: TableSource, part: Part) -> RowSplit:
    """One side of the split of a source."""
    return RowSplit(source, part, holdout=spec.gates.holdout, seed=spec.model.seed)


def rows_of(spec: RefreshSpec, snapshot: SnapshotRef, part: Part) -> int:
    """Count the rows of one side of the split."""
    with pinned_source(spec, snapshot) as source:
        return part_of(spec, source, part).num_rows


def compared_rows(spec: RefreshSpec, source: ParquetSource) -> pa.Table:
    """Read training rows, as many as distributions are compared by at most; held-out rows decide over no training."""
    most = min(REFERENCE_ROWS, measured_rows(len(source.schema)))
    return collect(part_of(spec, source, "train"), max_rows=most)


def measured_rows(columns: int) -> int:
    """Rows of each table that are measured at most: a million, fewer of wide tables, so that memory stays bounded."""
    return min(_MEASURED_ROWS, max(_LEAST_MEASURED_ROWS, _MEASURED_CELLS // max(columns, 1)))
