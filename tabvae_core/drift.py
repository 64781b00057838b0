"""Drift: how far the rows of a source are from those that a model learned, column by column.

Beside a model stands a *profile* of its training rows: for each column the edges of its bins, or its frequent
categories, and how many rows fell into each. It holds no row: an edge is the mean of as many cells as the spec protects
at the ends of a range, and a category of few rows has no bin of its own. Distances are those of the gates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from tabvae_core.codecs.ordinal import plain
from tabvae_core.evaluation.divergence import (
    QUANTILE_BINS,
    Counts,
    ReferenceBins,
    chance_distance,
    jensen_shannon_distance,
)
from tabvae_core.references import ColumnDrift
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, PrivacySpec

__all__ = ["ColumnProfile", "Profile", "drift_of", "profile_of"]

_MOST_CATEGORIES = 256
"""Categories with a bin of their own; the others share one."""
_ROWS_A_BIN = 4
"""Bins of a measure hold about so many times the cells that an edge is the mean of."""
_FALSE_ALARMS = 0.01
"""Share of the measurements of an unchanged table in which chance alone leaves any column beyond its floor."""

_CLASSES = (Kind.CATEGORY, Kind.BOOLEAN, Kind.CONSTANT)
_MEASURES = (Kind.NUMBER, Kind.DATETIME)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnProfile(_Document):
    """One column of the training rows."""

    edges: tuple[float, ...] | None = None
    """Inner edges of a measure's bins; None: a column of classes, or one of which only the nulls are counted."""
    categories: tuple[str, ...] | None = None
    """Classes with a bin of their own, as text; None: a measure, or only the nulls are counted."""
    counts: tuple[int, ...]
    """Rows of each bin; the last but one of classes counts all others, the last of any column its nulls."""


class Profile(_Document):
    """What the training rows of a model look like, and which source they came from."""

    format: Literal[1] = 1
    rows: int
    """Training rows counted, of which there may have been more."""
    schema_fingerprint: str
    """Of the source's columns."""
    files: int
    """Objects of the source."""
    files_digest: str
    """sha256 over the objects' names, sizes and versions, in order."""
    columns: dict[str, ColumnProfile]


def profile_of(rows: pa.Table, schema: TableSchema, privacy: PrivacySpec) -> dict[str, ColumnProfile]:
    """Count the training rows in bins that hold none of them.

    Args:
        rows: Training rows.
        schema: What their columns mean.
        privacy: Rows below which a category is none of its own; cells that an edge is the mean of.

    """
    found = {}
    for column in schema.columns:
        if column.name not in rows.schema.names:
            continue
        cells = rows.column(column.name)
        if column.kind in _CLASSES:
            least = 1 if column.kind is Kind.BOOLEAN else privacy.min_category_rows
            frequent = [name for name, count in _classes(cells).most_common(_MOST_CATEGORIES) if count >= least]
            found[column.name] = _counted(ColumnProfile(categories=tuple(sorted(frequent)), counts=()), cells)
        elif column.kind in _MEASURES:
            shared = privacy.protect_extremes
            bins = int(np.clip(len(cells) // (_ROWS_A_BIN * shared), 1, QUANTILE_BINS))
            edges = ReferenceBins.fit(cells, bins=bins, shared=shared).edges
            assert edges is not None
            found[column.name] = _counted(ColumnProfile(edges=tuple(edges.tolist()), counts=()), cells)
        else:
            found[column.name] = _counted(ColumnProfile(counts=()), cells)
    return found


def _counted(profile: ColumnProfile, cells: pa.ChunkedArray) -> ColumnProfile:
    return profile.model_copy(update={"counts": tuple(_counts(profile, cells).tolist())})


def _counts(profile: ColumnProfile, cells: pa.ChunkedArray) -> Counts:
    """Count cells in the bins of a profile, int64, shape (bins,)."""
    if profile.edges is not None:
        return ReferenceBins(np.asarray(profile.edges, dtype=np.float64), pa.nulls(0)).counts(cells)
    if profile.categories is None:
        return np.array([len(cells) - cells.null_count, cells.null_count], dtype=np.int64)
    seen = _classes(cells)
    known = [seen[name] for name in profile.categories]
    return np.array([*known, seen.total() - sum(known), len(cells) - seen.total()], dtype=np.int64)


def _classes(cells: pa.ChunkedArray) -> Counter[str]:
    """Count the cells that are not null, by their text."""
    found = pc.value_counts(plain(cells).drop_null())
    texts = (str(value) for value in found.field("values").to_pylist())
    counted: Counter[str] = Counter()
    for text, count in zip(texts, found.field("counts").to_pylist(), strict=True):
        counted[text] += count
    return counted


def drift_of(profiles: Mapping[str, ColumnProfile], rows: pa.Table, max_drift: float) -> tuple[ColumnDrift, ...]:
    """Measure how far rows are from those of a profile, the furthest column first.

    Args:
        profiles: The training rows, by column.
        rows: Other rows of the same columns.
        max_drift: Largest change beyond chance that is no drift.

    """
    level = 1 - _FALSE_ALARMS / max(len(profiles), 1)
    found = [_column_drift(name, one, rows.column(name), level, max_drift) for name, one in profiles.items()]
    return tuple(sorted(found, key=lambda one: -one.beyond))


def _column_drift(
    name: str, profile: ColumnProfile, cells: pa.ChunkedArray, level: float, max_drift: float
) -> ColumnDrift:
    before, now = np.asarray(profile.counts, dtype=np.int64), _counts(profile, cells)
    nulls_before, nulls_now = (float(counts[-1] / max(counts.sum(), 1)) for counts in (before, now))
    distance, floor = jensen_shannon_distance(before, now), chance_distance(before, now, level=level)
    change = abs(nulls_now - nulls_before)
    beyond = max(distance - floor, change - _chance_of_share(before, now, level), 0.0)
    return ColumnDrift(
        column=name,
        distance=distance,
        floor=floor,
        nulls_before=nulls_before,
        nulls_now=nulls_now,
        beyond=beyond,
        drifted=beyond > max_drift,
    )


def _chance_of_share(before: Counts, now: Counts, level: float) -> float:
    """Difference of two shares of nulls that chance alone stays below with probability `level`: the normal limit."""
    from scipy.stats import norm

    rows = before.sum(), now.sum()
    if not all(rows):
        return 0.0
    share = (before[-1] + now[-1]) / sum(rows)
    return float(norm.ppf(0.5 + level / 2) * np.sqrt(share * (1 - share) * (1 / rows[0] + 1 / rows[1])))
