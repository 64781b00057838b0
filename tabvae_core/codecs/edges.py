"""Edges: sums and differences of two numbers that a third exceeds by little, and hardly ever falls short of.

Accounts add up nearly: this month's bill is last month's less what was paid, plus interest and what was bought since,
which is at least nothing. Nothing but a relation makes such an edge: what is only close lies to both sides.

The column with the most values of its own is drawn last, counted from the other two (`ratios`): payments have round
values, and were they drawn from two bills, they would be as smooth as the difference of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.ordering import ADDITIVE, NEARLY_ALWAYS, solved
from tabvae_core.reals import has_real_values, real_values
from tabvae_core.relations import Relation, RelationKind
from tabvae_core.rules.syntax import write_name
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind

__all__ = ["Edge", "find_edges", "with_edges"]

Floats = npt.NDArray[np.float64]

_MOST_COLUMNS, _SCREENED_ROWS, _LEAST_ROWS = 40, 1_000, 500
"""Columns that are looked at in threes; rows on which threes are screened; and rows that a table needs."""
_LITTLE, _TELLING = 0.1, 0.01
"""Share of the first column that counts as little, and below which a part says nothing."""
_LEAST_SHARE, _MOST_SHORT, _LEAST_BY_CHANCE = 0.05, 0.03, 0.1
"""Share of the rows that exceed by little, at least; for each of them, rows that fall short by little, at most; and
rows that would, at least, were the target that of another row of the same size."""


@dataclass(frozen=True)
class Edge:
    """A number that exceeds a sum or a difference by little.

    Args:
        target: The number.
        first: First part of the sum, or what the second is taken from; excess is measured in it.
        second: The other part.
        minus: Whether it is the difference.
        share: Share of all rows that exceed by little, less those that fall short.
        quartiles: Quartiles of the logs of the excess, as shares of the first column.

    """

    target: str
    first: str
    second: str
    minus: bool
    share: float
    quartiles: tuple[float, float, float]

    def text(self) -> str:
        """Write what it says, such as "owed ≥ owed_before - paid, often by little (27 % of rows)"."""
        target, first, second = (write_name(name) for name in (self.target, self.first, self.second))
        sign = "-" if self.minus else "+"
        return f"{target} ≥ {first} {sign} {second}, often by little ({100 * self.share:.0f} % of rows)"


def find_edges(rows: pa.Table, schema: TableSchema, relations: Iterable[Relation]) -> tuple[Edge, ...]:
    """Find the edges of a table, at most one for each target.

    Args:
        rows: Some training rows.
        schema: Their schema.
        relations: Exact relations. Where one nearly always ties two of three columns to another, what is an edge to the
            third follows from it.

    """
    tied = [
        {relation.target, *relation.columns}
        for relation in relations
        if relation.share >= NEARLY_ALWAYS and relation.kind in ADDITIVE
    ]
    names = [
        name
        for name in schema.names
        if schema.column(name).kind is Kind.NUMBER and has_real_values(schema.arrow.field(name).type)
    ][:_MOST_COLUMNS]
    if len(names) < 3 or rows.num_rows < _LEAST_ROWS:
        return ()
    real = {name: real_values(rows.column(name))[0] for name in names}
    screened = {name: values[:_SCREENED_ROWS] for name, values in real.items()}
    best: dict[str, Edge] = {}
    for target, first, second, minus in _candidates(real):
        if any(len(group & {target, first, second}) > 1 for group in tied):
            continue
        if _measured(screened, target, first, second, minus) is None:
            continue
        found = _measured(real, target, first, second, minus)
        if found is not None and (target not in best or found.share > best[target].share):
            best[target] = found
    return tuple(best.values())


def _candidates(real: Mapping[str, Floats]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (target, first, second, minus) of all that could be edges: differences, then sums."""
    names = list(real)
    distinct = {name: len(np.unique(values)) for name, values in real.items()}
    for first in names:
        for pair in combinations([name for name in names if name != first], 2):
            second, target = sorted(pair, key=lambda name: (distinct[name], names.index(name)))
            yield target, first, second, True
    for target in names:
        for first, second in combinations([name for name in names if name != target], 2):
            yield target, first, second, False


def _measured(real: Mapping[str, Floats], target: str, first: str, second: str, minus: bool) -> Edge | None:
    own, one, other = real[target], real[first], real[second]
    with np.errstate(invalid="ignore", over="ignore"):
        origin = one - other if minus else one + other
        least = _TELLING * one
        tells = (one > 0) & (other > least) & (own > least) & (origin > least)
        if minus:  # the same, with target and second exchanged
            tells &= one - own > least
    if tells.sum() < _LEAST_SHARE * len(own):
        return None
    share, part = own[tells] / one[tells], other[tells] / one[tells]
    excess, chance = (mine - (1 - part if minus else 1 + part) for mine in (share, np.roll(share, 1)))
    above = (excess > 0) & (excess < _LITTLE)
    n_above, n_below, n_by_chance = int(above.sum()), _n_short(excess), _n_short(chance)
    if n_above < _LEAST_SHARE * len(tells) or n_below > _MOST_SHORT * n_above:
        return None
    if n_by_chance < _LEAST_BY_CHANCE * n_above:
        return None
    low, middle, high = np.quantile(np.log(excess[above]), [0.25, 0.5, 0.75]).tolist()
    return Edge(target, first, second, minus, (n_above - n_below) / len(tells), (low, middle, high))


def _n_short(excess: Floats) -> int:
    return int(((excess < 0) & (excess > -_LITTLE)).sum())


def with_edges(
    edges: Iterable[Edge], relations: Sequence[Relation], order: Sequence[str]
) -> tuple[tuple[Relation, ...], tuple[str, ...]]:
    """Order columns so that those of an edge come before its target, and turn relations so that the last is computed.

    Args:
        edges: Edges; of those in a circle, the last ones are not served.
        relations: Exact relations, as `arrange` turned them.
        order: The order in which they can be computed.

    Returns:
        The relations and the order.

    """
    edges = tuple(edges)
    if not edges:
        return tuple(relations), tuple(order)
    needs: dict[str, list[str]] = {}
    placed = {name: place for place, name in enumerate(order)}
    for relation in relations:  # what is computed stays so
        names = [name for name in relation.columns if name in placed]
        target = relation.target
        computed = relation.kind is not RelationKind.COPY and target in placed
        if computed and all(placed[name] < placed[target] for name in names):
            needs.setdefault(target, []).extend(names)
    served = {edge.target for edge in edges}
    needs = {target: names for target, names in needs.items() if target not in served and not served & set(names)}
    for edge in edges:
        needs[edge.target] = [edge.first, edge.second]
    result: list[str] = []
    under_way: set[str] = set()

    def place(name: str) -> None:
        if name in result or name in under_way:
            return
        under_way.add(name)
        for other in needs.get(name, ()):
            place(other)
        result.append(name)

    for name in order:
        place(name)
    at = {name: k for k, name in enumerate(result)}
    return tuple(_turned(relation, at) for relation in relations), tuple(result)


def _turned(relation: Relation, at: Mapping[str, int]) -> Relation:
    """Make the last column of a copy, a sum or a difference the target."""
    names = (relation.target, *relation.columns)
    if any(name not in at for name in names):
        return relation
    last = max(names, key=lambda name: at[name])
    return solved(relation, last) if relation.kind in ADDITIVE else relation
