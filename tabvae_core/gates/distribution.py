"""Reference histograms: what the columns of held-out rows look like, for the distribution expectations."""

from __future__ import annotations

import pyarrow as pa

from tabvae_core.evaluation.divergence import Histogram, chance_distance
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind

__all__ = ["floors_of", "reference_histograms"]

_COMPARED = (Kind.NUMBER, Kind.CATEGORY, Kind.BOOLEAN, Kind.DATETIME)


def reference_histograms(holdout: pa.Table, schema: TableSchema) -> dict[str, Histogram]:
    """Build the histogram of each column that is learned; identifiers, text, nested and constant ones have
    none.

    Args:
        holdout: Held-out real rows.
        schema: Kinds of the columns.

    """
    names = [column.name for column in schema.of_kind(*_COMPARED) if column.name in holdout.schema.names]
    return {name: Histogram.of(holdout.column(name)) for name in names}


def floors_of(references: dict[str, Histogram], train: pa.Table) -> dict[str, float]:
    """Jensen-Shannon distance of the training rows to each reference: as far apart as real rows are.

    Where there are few rows, it is at least the distance that chance alone explains.
    """
    floors = {}
    for name, reference in references.items():
        counts = reference.bins.counts(train.column(name))
        floors[name] = max(reference.distance(counts), chance_distance(reference.counts, counts))
    return floors
