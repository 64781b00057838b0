"""The order in which columns are drawn: the table's, but for columns that others determine.

Of three columns with balance = loan - repaid, one is computed from the other two. Computed should be the one that is
large and unrounded: were a small one the difference of two large ones, their errors would be all there is of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from tabvae_core.reals import real_values
from tabvae_core.relations import Relation, RelationKind

__all__ = ["ADDITIVE", "NEARLY_ALWAYS", "arrange", "solved"]

NEARLY_ALWAYS = 0.9
"""Share of the rows in which a relation holds that stands for all of them."""
ADDITIVE = (RelationKind.COPY, RelationKind.SUM, RelationKind.DIFFERENCE)
"""Kinds that can be solved for any of their columns."""
_AS_DETAILED = 0.5
_TIED = 0.4
"""Share of the rows in which a column is close to multiples of others, from which on it is not computed."""


def arrange(
    relations: Iterable[Relation],
    rows: pa.Table,
    names: Sequence[str],
    tied: Callable[[str, Collection[str]], float] = lambda target, others: 0.0,
) -> tuple[tuple[Relation, ...], tuple[str, ...]]:
    """Choose what each relation computes, and an order of columns in which that can be done.

    Args:
        relations: Relations of the training rows.
        rows: Some training rows.
        names: Columns in the table's order.
        tied: Share of the rows in which a column is close to a multiple of one of others.

    Returns:
        The relations, those that nearly always hold perhaps turned around; and the order of the columns. A relation
        whose target still comes before one of its columns cannot be used.

    """
    known = set(names)

    def is_free(relation: Relation) -> bool:
        """Whether any of its columns may be the computed one."""
        sums = relation.kind in (RelationKind.SUM, RelationKind.DIFFERENCE)
        return sums and relation.share >= NEARLY_ALWAYS and {relation.target, *relation.columns} <= known

    relations = tuple(relations)
    beside = {
        relation: [name for name in names if not _related(name, relation, relations)]
        for relation in filter(is_free, relations)
    }
    turned = [
        _turned(relation, rows, {name: tied(name, beside[relation]) for name in (relation.target, *relation.columns)})
        if relation in beside
        else relation
        for relation in relations
    ]
    order = list(names)
    for _ in range(len(turned) + 1):
        moved = False
        for relation in filter(is_free, turned):
            last = max(order.index(name) for name in relation.columns)
            if order.index(relation.target) < last:
                order.remove(relation.target)
                order.insert(last, relation.target)
                moved = True
        if not moved:
            return tuple(turned), tuple(order)
    return tuple(turned), tuple(names)  # relations in a circle: the table's own order serves as well as any


def _related(name: str, relation: Relation, relations: Iterable[Relation]) -> bool:
    """Whether a column takes part in a relation, or in another one with its columns."""
    own = {relation.target, *relation.columns}
    return any(
        name in (one.target, *one.columns) and not own.isdisjoint((one.target, *one.columns))
        for one in relations
        if one.kind in ADDITIVE
    )


def _turned(relation: Relation, rows: pa.Table, tied: Mapping[str, float]) -> Relation:
    """Make the largest of the finely valued columns the target, unless it is tied to others."""
    columns = (relation.target, *relation.columns)
    values = {name: real_values(rows.column(name))[0] for name in columns}
    there = ~np.any([np.isnan(cells) for cells in values.values()], axis=0)
    if there.sum() < 2:
        return relation
    distinct = {name: len(np.unique(cells[there])) for name, cells in values.items()}
    spread = {name: float(np.subtract(*np.percentile(cells[there], [90, 10]))) for name, cells in values.items()}
    fine = [name for name in columns if distinct[name] >= _AS_DETAILED * max(distinct.values())]
    loose = [name for name in fine if tied[name] < _TIED] or fine
    return solved(relation, max(loose, key=lambda name: (spread[name], name == relation.target)))


def solved(relation: Relation, target: str) -> Relation:
    """Solve target = a ± b, or target = a, for another of its columns."""
    if target == relation.target:
        return relation
    if relation.kind is RelationKind.COPY:
        return replace(relation, target=target, columns=(relation.target,))
    first, second = relation.columns
    forms: Mapping[tuple[RelationKind, bool], tuple[RelationKind, tuple[str, str]]] = {
        (RelationKind.SUM, True): (RelationKind.DIFFERENCE, (relation.target, second)),
        (RelationKind.SUM, False): (RelationKind.DIFFERENCE, (relation.target, first)),
        (RelationKind.DIFFERENCE, True): (RelationKind.SUM, (relation.target, second)),
        (RelationKind.DIFFERENCE, False): (RelationKind.DIFFERENCE, (first, relation.target)),
    }
    kind, columns = forms[relation.kind, target == first]
    return replace(relation, kind=kind, target=target, columns=columns)
