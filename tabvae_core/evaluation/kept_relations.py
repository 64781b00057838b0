"""Exact relations between columns, and how often synthetic rows keep them.

They are found on training rows (held-out ones where there are none), as a model finds them, and counted on each table.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tabvae_core.evaluation.result import KeptRelation
from tabvae_core.evaluation.view import ColumnView, Floats, Side, TableView
from tabvae_core.reals import decimals_of
from tabvae_core.relations import Relation, RelationKind, apply, find_relations
from tabvae_core.schema import TableSchema
from tabvae_core.tables import InMemoryTable

__all__ = ["kept_relations", "kept_share"]

MAX_LISTED = 40


def kept_relations(view: TableView, rows: pa.Table, schema: TableSchema) -> tuple[KeptRelation, ...]:
    """Find relations and measure in which share of each table's rows they hold.

    Args:
        view: The tables.
        rows: Real rows to find them on, of the side that `view` calls training rows where it has some.
        schema: The columns and their kinds.

    Returns:
        At most 40, those that synthetic rows break most often first.

    """
    columns = {column.name: column for column in view.columns}
    origin = Side.TRAIN if view.has_train else Side.HOLDOUT
    known = schema.model_copy(update={"columns": tuple(c for c in schema.columns if c.name in columns)})
    kept = []
    for relation in find_relations(InMemoryTable(rows), known):
        involved = [columns[name] for name in (relation.target, *relation.columns)]
        real, synthetic = (kept_share(relation, involved, side, origin) for side in (Side.HOLDOUT, Side.SYNTHETIC))
        if real is not None:
            kept.append(KeptRelation(formula=relation.formula(), real=real, synthetic=synthetic))
    return tuple(sorted(kept, key=lambda k: (k.synthetic or 0.0) - k.real)[:MAX_LISTED])


def kept_share(relation: Relation, involved: Sequence[ColumnView], side: Side, origin: Side) -> float | None:
    """Share of a side's rows in which a relation holds, of those where all its cells are there; None without any.

    Args:
        relation: The relation.
        involved: Its target and its columns, in this order.
        side: Whose rows are counted.
        origin: Whose rows say which value follows from which.

    """
    cells = [column.values[side] for column in involved]
    there = ~np.isnan(np.stack(cells)).any(axis=0)
    if not there.any():
        return None
    target, *operands = (values[there] for values in cells)
    if relation.kind is RelationKind.ORDER:
        holds = target >= operands[0] if relation.at_least else target <= operands[0]
    elif relation.kind is RelationKind.DETERMINES:
        holds = _follows([column.values[origin] for column in involved], operands[0]) == target
    else:
        decimals = decimals_of(involved[0].values[origin], pa.float64())
        predicted = apply(relation, operands, decimals)
        unit = 1e-9 * np.abs(predicted) if decimals is None else 0.25 * 10.0**-decimals
        holds = np.abs(target - predicted) <= unit
    return round(float(holds.mean()), 6)


def _follows(origin: Sequence[Floats], keys: Floats) -> Floats:
    """What follows from each key: the value that the rows of origin have most often beside it; NaN for unknown keys."""
    target, column = origin
    there = ~np.isnan(target) & ~np.isnan(column)
    pairs, counts = np.unique(np.stack([column[there], target[there]]), axis=1, return_counts=True)
    order = np.lexsort((-counts, pairs[0]))
    known, first = np.unique(pairs[0][order], return_index=True)
    if not len(known):
        return np.full(len(keys), np.nan)
    place = np.searchsorted(known, keys).clip(max=len(known) - 1)
    return np.where(known[place] == keys, pairs[1][order][first][place], np.nan)
