"""Exact relations between the columns of a table: copies, sums, products, orders, and what follows from what.

A relation may hold in some rows only (a bill that is paid in full), so the question is always the same: are cells what
other cells predict more often than they would be without a relation?

    telling rows    the prediction is right, and being right says something: the target's value is rare, and no cell
                    makes the relation a simpler one (a + 0 is a copy of a)
    chance          how often that would come about anyway: what independent columns give, which is much for shared
                    values, or twice what lies a step beside the prediction, which is much for columns that are
                    merely close; the larger of the two

A relation is listed where telling rows exceed chance by a share of all rows. One that holds in every row needs no rare
values, as long as it could have failed. Of several that say the same about the same rows, one is listed.

All of it looks at a bounded sample of rows. Pairs and triples of columns are screened on fewer rows, so that tables of
many columns take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.ordinal import base_type, is_orderable, is_temporal, plain, to_ordinal
from tabvae_core.dependence import FEW_VALUES, Coded, find_dependences
from tabvae_core.errors import ModelFileError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.reals import decimals_of, real_of, real_values, rounded
from tabvae_core.rules.syntax import write_name
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind
from tabvae_core.tables import RowSample, TableSource

__all__ = [
    "MAX_ORDERS",
    "MAX_ROWS",
    "Relation",
    "RelationKind",
    "apply",
    "decimals_of",
    "find_relations",
    "real_values",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[Any]
_Any = TypeVar("_Any")

MAX_ROWS = 20_000
"""Rows looked at, unless told otherwise."""
MAX_ORDERS = 50
"""Orders listed at most, the tightest ones."""

_MOST_MEASURES = 500
"""Numbers, dates and times that are compared in pairs; of more, those with the most values."""
_MOST_CODED = 300
_MOST_IN_TRIPLES = 40
_MOST_CONFIRMED = 2_000
"""Screened pairs or triples that are looked at on all sampled rows."""
_PAIR_CELLS = 150_000_000
_TRIPLE_CELLS = 60_000_000
_ORDER_CELLS = 60_000_000
"""Cells that a screening compares; its rows follow from this and from the number of columns."""
_LEAST_SCREENED = 300

_FREQUENT = 0.005
_ALWAYS = 0.999
_ALWAYS_ROWS = 100
_COULD_FAIL = 0.02
"""Share of rows, at least, in which a relation that always holds would fail between independent columns."""
_OVERLAP = 0.05
_EXACT_INTEGERS = 2.0**53
_NUMBERS = "numbers"


class RelationKind(StrEnum):
    """What a relation says about its target; the simpler ones first."""

    COPY = "copy"
    SUM = "sum"
    DIFFERENCE = "difference"
    PRODUCT = "product"
    RATIO = "ratio"
    ORDER = "order"
    DETERMINES = "determines"


_OPERATORS = {
    RelationKind.SUM: "+",
    RelationKind.DIFFERENCE: "-",
    RelationKind.PRODUCT: "*",
    RelationKind.RATIO: "/",
}
_ADDITIVE = (RelationKind.SUM, RelationKind.DIFFERENCE)
_RANK = {kind: rank for rank, kind in enumerate(RelationKind)}
_FORMS = (
    (RelationKind.SUM, False),
    (RelationKind.DIFFERENCE, False),
    (RelationKind.DIFFERENCE, True),
    (RelationKind.PRODUCT, False),
    (RelationKind.RATIO, False),
    (RelationKind.RATIO, True),
)
"""What a third column can be of two others, the second of them first where true."""


@dataclass(frozen=True)
class Relation:
    """A relation between the cells of a row.

    Args:
        kind: What it says.
        target: The column whose cell follows; later in the table than `columns`, but for DETERMINES.
        columns: What it follows from: two for SUM, DIFFERENCE (the first less the second), PRODUCT and RATIO
            (the first by the second), one for the others.
        share: Share of the rows in which it holds, of those where all of its cells are there.
        at_least: Direction of an ORDER: the target is at least (else at most) the other column.

    """

    kind: RelationKind
    target: str
    columns: tuple[str, ...]
    share: float
    at_least: bool = True

    def formula(self) -> str:
        """Write what it says, such as "total = net + tax"; that of an ORDER is a rule of the spec."""
        target, columns = write_name(self.target), [write_name(name) for name in self.columns]
        match self.kind:
            case RelationKind.COPY:
                return f"{target} = {columns[0]}"
            case RelationKind.ORDER:
                return f"{target} {'>=' if self.at_least else '<='} {columns[0]}"
            case RelationKind.DETERMINES:
                return f"{target} follows from {columns[0]}"
            case kind:
                return f"{target} = {columns[0]} {_OPERATORS[kind]} {columns[1]}"

    def text(self) -> str:
        """Write it for a person, such as "total = net + tax (100 %)"; names columns, never a cell."""
        percent = min(99.9, round(100 * self.share, 1))
        return f"{self.formula()} ({'100 %' if self.share >= 1.0 else f'{percent:.1f} % of rows'})"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a bundle."""
        return {
            "kind": self.kind.value,
            "target": self.target,
            "columns": list(self.columns),
            "share": self.share,
            "at_least": self.at_least,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`.

        Raises:
            ModelFileError: The values describe no relation.

        """
        try:
            kind, columns = RelationKind(data["kind"]), tuple(str(name) for name in data["columns"])
            if len(columns) != (2 if kind in _OPERATORS else 1):
                raise ValueError("number of columns")
            return cls(kind, str(data["target"]), columns, float(data["share"]), bool(data.get("at_least", True)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"a stored relation cannot be read: {error.__class__.__name__}") from None


def apply(relation: Relation, operands: Sequence[Floats], decimals: int | None) -> Floats:
    """Compute the values that a relation predicts.

    Args:
        relation: A COPY, SUM, DIFFERENCE, PRODUCT or RATIO.
        operands: Real values of its columns in their order (see `real_values`), each of shape (n,).
        decimals: Decimals of the target, to which predictions are rounded (see `decimals_of`); None: not rounded.

    Returns:
        Shape (n,); NaN where an operand is NaN, or the result no finite number.

    Raises:
        ValueError: An ORDER or DETERMINES, which predict no value.

    """
    if relation.kind in (RelationKind.ORDER, RelationKind.DETERMINES):
        raise ValueError(f"a relation of kind {relation.kind.value} predicts no value")
    return rounded(_computed(relation.kind, *(np.asarray(cells, dtype=np.float64) for cells in operands)), decimals)


def _computed(kind: RelationKind, *operands: Floats) -> Floats:
    first, last = operands[0], operands[-1]
    with np.errstate(all="ignore"):
        match kind:
            case RelationKind.SUM:
                return np.asarray(first + last)
            case RelationKind.DIFFERENCE:
                return np.asarray(first - last)
            case RelationKind.PRODUCT:
                return np.asarray(first * last)
            case RelationKind.RATIO:
                return np.asarray(first / last)
            case _:
                return first


def find_relations(
    source: TableSource,
    schema: TableSchema,
    *,
    min_share: float = 0.01,
    min_rows: int = 20,
    max_rows: int = MAX_ROWS,
    progress: Progress = silent,
) -> tuple[Relation, ...]:
    """Find the exact relations between the columns of a table.

    Args:
        source: The table; for a model, its training rows.
        schema: What each column is. Identifiers, text, nested and constant columns take no part.
        min_share: Share of the rows that must speak for a relation, beyond chance.
        min_rows: Rows that must speak for it.
        max_rows: Rows looked at, chosen uniformly.
        progress: Told of every batch, as step "relations".

    Returns:
        First values that are computed from others, the largest share first; then what follows from what, in the order
        of the table; then orders, the tightest first. The same source gives the same relations.

    """
    measures, coded = _read(source, schema, max_rows, progress)
    need = _Need(min_share, min_rows)
    copies = _copies(measures, need)
    # A column that always equals an earlier one has no relations of its own.
    same = {found.target.name for found in copies if found.is_full}
    measures = [column for column in measures if column.name not in same]
    computed = _chosen([*copies, *_equations(measures, need)], need)
    followed = find_dependences([column for column in coded if column.name not in same], min_rows=min_rows)
    follows = [Relation(RelationKind.DETERMINES, found.target, (found.column,), found.share) for found in followed]
    return (*computed, *follows, *_orders(measures, need))


# What the search looks at


@dataclass(frozen=True)
class _Need:
    """What makes a relation worth listing: a share of the rows, and a number of rows."""

    share: float
    rows: int


@dataclass(frozen=True, eq=False)
class _Measure:
    """A number, or a date and time, over the sampled rows.

    Args:
        name: Name of the column.
        place: Its place in the table.
        family: Columns of one family compare with each other.
        values: float64 real values, NaN where missing; or int64 ordinals, 0 where missing; shape (n,).
        there: Which cells are there, shape (n,).
        rare: Which of them hold a value that few rows share, shape (n,).
        distinct: Different values.
        dominant: Share of the most frequent value.
        decimals: Decimals of real values; None where they are continuous, and for ordinals.
        unit: Step of the grid on which the values lie; 0 where they are continuous.
        tolerance: Relative difference at which continuous values still count as equal.

    """

    name: str
    place: int
    family: str
    values: Values
    there: Mask
    rare: Mask
    distinct: int
    dominant: float
    decimals: int | None
    unit: float
    tolerance: float

    @property
    def is_real(self) -> bool:
        """Whether the values are real numbers, which can be computed with."""
        return self.family == _NUMBERS


@dataclass(frozen=True, eq=False)
class _Evidence:
    """A relation with the rows that speak for it.

    Args:
        relation: The relation.
        target: Its target.
        places: Places of its operands in the table.
        holds: Rows in which it holds, shape (n,).
        telling: Those of them that say something, shape (n,).
        rows: Rows where all of its cells are there.
        chance: Share of these rows that would tell without a relation.

    """

    relation: Relation
    target: _Measure
    places: tuple[int, ...]
    holds: Mask
    telling: Mask
    rows: int
    chance: float

    @property
    def is_full(self) -> bool:
        """Whether the relation leaves nothing to say about its target."""
        return self.relation.share >= _ALWAYS

    def suffices(self, need: _Need, *, without: Mask) -> bool:
        """Whether the telling rows, less those that are explained already, are enough."""
        found = int((self.telling & ~without).sum())
        return found >= need.rows and found / self.rows - self.chance >= need.share


def _read(
    source: TableSource, schema: TableSchema, max_rows: int, progress: Progress
) -> tuple[list[_Measure], list[Coded]]:
    """Read the sample; columns come in the order of the table."""
    wanted = _wanted(schema)
    if len(wanted) < 2:
        return [], []
    pieces: dict[str, list[Any]] = {column.name: [] for column in wanted}
    sample, done = RowSample(source, max_rows, seed=0), 0
    for batch in sample.batches(list(pieces)):
        for name, cells in zip(pieces, batch.columns, strict=True):
            pieces[name].append(to_ordinal(cells) if is_orderable(cells.type) else plain(cells))
        done += batch.num_rows
        progress(ProgressEvent("relations", done, sample.num_rows, "rows", "comparing columns"))
    if done == 0:
        return [], []
    measures: list[_Measure] = []
    coded: list[Coded] = []
    for column in wanted:
        parts, place = pieces.pop(column.name), source.schema.get_field_index(column.name)
        kind = base_type(source.schema.field(place).type)
        if not is_orderable(kind):
            coded.append(_coded_text(column.name, place, parts))
            continue
        ordinals, there = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        measure, codes = _measure(column.name, place, ordinals, there, kind)
        is_measure = column.kind in (Kind.NUMBER, Kind.DATETIME)
        if is_measure:
            measures.append(measure)
        if not is_measure or measure.distinct < FEW_VALUES * int(there.sum()):
            coded.append(Coded(column.name, place, codes, measure.distinct))
    return measures, _most(coded, _MOST_CODED, lambda column: -column.distinct)


def _wanted(schema: TableSchema) -> list[ColumnSchema]:
    measures = _most(schema.of_kind(Kind.NUMBER, Kind.DATETIME), _MOST_MEASURES, lambda column: column.distinct)
    categories = _most(schema.of_kind(Kind.CATEGORY, Kind.BOOLEAN), _MOST_CODED, lambda column: -column.distinct)
    names = {column.name for column in (*measures, *categories)}
    return [column for column in schema.columns if column.name in names]


def _most(items: Iterable[_Any], limit: int, figure: Callable[[_Any], float]) -> list[_Any]:
    """Keep the items with the largest figures, in their order."""
    every = list(items)
    kept = sorted(range(len(every)), key=lambda k: (-figure(every[k]), k))[:limit]
    return [every[k] for k in sorted(kept)]


def _measure(
    name: str, place: int, ordinals: Values, there: Mask, kind: pa.DataType
) -> tuple[_Measure, npt.NDArray[np.int64]]:
    """Prepare a column of ordinals; the values are numbered on the way, for `dependence`."""
    family, values, decimals, unit = _comparable(ordinals, there, kind)
    _, inverse, counts = np.unique(values[there], return_inverse=True, return_counts=True)
    total = max(1, len(inverse))
    codes = np.full(len(there), -1, dtype=np.int64)
    codes[there] = inverse
    rare = np.zeros(len(there), dtype=np.bool_)
    # In a small table one row is more than 0.5 %: there, a value of three rows counts as rare.
    rare[there] = (counts <= max(3.0, _FREQUENT * total))[inverse]
    measure = _Measure(
        name=name,
        place=place,
        family=family,
        values=values,
        there=there,
        rare=rare,
        distinct=len(counts),
        dominant=float(counts.max(initial=0)) / total,
        decimals=decimals,
        unit=unit,
        tolerance=2e-3 if pa.types.is_float16(kind) else 1e-6 if pa.types.is_float32(kind) else 1e-9,
    )
    return measure, codes


def _comparable(ordinals: Values, there: Mask, kind: pa.DataType) -> tuple[str, Values, int | None, float]:
    """Find the family of a column, its values within the family, their decimals and the step of their grid."""
    real = real_of(ordinals, there, kind)
    wide = ordinals.dtype == np.int64 and bool(np.any(np.abs(real[there]) > _EXACT_INTEGERS))
    if wide or is_temporal(kind):
        # Float64 would blur nanoseconds and long integers, so these stay ordinals and compare with their like.
        known = ordinals[there]
        step = int(np.gcd.reduce(known - known[0])) if len(known) else 0
        return str(kind), np.where(there, ordinals, 0), None, float(max(1, abs(step)))
    decimals = decimals_of(real, kind)
    return _NUMBERS, rounded(real, decimals), decimals, 0.0 if decimals is None else 10.0**-decimals


def _coded_text(name: str, place: int, parts: list[pa.Array]) -> Coded:
    encoded = pa.concat_arrays(parts).dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    return Coded(name, place, codes, len(encoded.dictionary))


def _families(measures: Sequence[_Measure]) -> Iterator[list[_Measure]]:
    """Columns that compare with each other, in the order of the table."""
    families: dict[str, list[_Measure]] = {}
    for column in measures:
        families.setdefault(column.family, []).append(column)
    yield from (columns for columns in families.values() if len(columns) > 1)


# Is a prediction right more often than by chance?


def _weigh(kind: RelationKind, target: _Measure, operands: Sequence[_Measure], need: _Need) -> _Evidence | None:
    """Weigh a relation that computes its target, on all sampled rows; None where too little speaks for it."""
    predicted = operands[0].values
    if target.is_real:
        predicted = rounded(_computed(kind, *(column.values for column in operands)), target.decimals)
    complete = target.there & np.logical_and.reduce([column.there for column in operands])
    rows = int(complete.sum())
    holds = complete & _equal(target, predicted, operands)
    share = int(holds.sum()) / max(rows, 1)
    if share < need.share:
        return None
    usable = complete & ~np.isnan(predicted) if target.is_real else complete
    usable &= _is_telling(kind, target, operands)
    relation = Relation(kind, target.name, tuple(column.name for column in operands), share)
    places = tuple(column.place for column in operands)
    if share >= _ALWAYS and rows >= _ALWAYS_ROWS and _could_fail(target, predicted, usable, need):
        return _Evidence(relation, target, places, holds, holds & usable, rows, 0.0)
    usable_rare = usable & target.rare
    evidence = _Evidence(relation, target, places, holds, holds & usable_rare, rows, 0.0)
    nothing = np.zeros(len(holds), dtype=np.bool_)
    for chance in (_beside, _independent):  # the cheaper one first
        if not evidence.suffices(need, without=nothing):
            return None
        by_chance = chance(target, predicted, operands, usable_rare, usable) / rows
        evidence = replace(evidence, chance=max(evidence.chance, by_chance))
    return evidence if evidence.suffices(need, without=nothing) else None


def _equal(target: _Measure, predicted: Values, operands: Sequence[_Measure]) -> Mask:
    """Which predictions are the target's value: exactly on a grid, else but for the rounding of floats."""
    if not target.is_real:
        return np.asarray(target.values == predicted)
    with np.errstate(all="ignore"):
        limit = target.unit / 4 if target.unit else _slack(target, operands)
        return np.asarray(np.abs(target.values - predicted) <= limit)


def _slack(target: _Measure, operands: Sequence[_Measure]) -> Floats:
    """Errors of rounded floats, which a sum takes over from its largest term; shape (n,)."""
    tolerance = max(column.tolerance for column in (target, *operands) if not column.unit)
    terms = [np.abs(column.values) for column in (target, *operands)]
    return np.asarray(tolerance * np.maximum.reduce(terms))


def _is_telling(kind: RelationKind, target: _Measure, operands: Sequence[_Measure]) -> Mask:
    """Rows in which a relation is not a simpler one: a + 0 and a * 1 are copies of a."""
    if kind is RelationKind.COPY:
        return target.there
    trivial = [0.0] if kind in _ADDITIVE else [0.0, 1.0, -1.0]
    return np.asarray(~np.logical_or.reduce([np.isin(column.values, trivial) for column in (target, *operands)]))


def _could_fail(target: _Measure, predicted: Values, usable: Mask, need: _Need) -> bool:
    """Whether a relation that always holds says something: between independent columns it would often fail."""
    rows = int(usable.sum())
    if rows < need.rows:
        return False
    failures = rows - _independent(target, predicted, (), usable, usable)
    return failures >= max(need.rows, _COULD_FAIL * rows)


def _independent(target: _Measure, predicted: Values, operands: Sequence[_Measure], among: Mask, usable: Mask) -> float:
    """Rows of `among` that would be right if their predictions were those of any `usable` rows."""
    actual, expected = target.values[among], predicted[usable]
    if target.is_real and target.unit:
        actual, expected = np.rint(actual / target.unit), np.rint(expected / target.unit)
    values, counts = np.unique(expected, return_counts=True)
    if not len(values):
        return 0.0
    found = np.minimum(np.searchsorted(values, actual), len(values) - 1)
    return float(counts[found][values[found] == actual].sum()) / len(expected)


def _beside(target: _Measure, predicted: Values, operands: Sequence[_Measure], among: Mask, usable: Mask) -> float:
    """Twice the rows of `among` that lie one step beside their prediction, or 10, 100 ... where values are round.

    Columns that are merely close are equal now and then, but hardly more often than they differ by a step.
    """
    with np.errstate(all="ignore"):
        gap = (target.values[among] - predicted[among]).astype(np.float64)
        if not target.unit:
            ratio = np.abs(gap) / _slack(target, operands)[among]
            return 2.0 * int(((ratio > 1.0) & (ratio <= 2.0)).sum())
        steps = np.rint(gap / target.unit)
    return 2.0 * max(int((steps == sign * 10.0**power).sum()) for power in range(9) for sign in (1, -1))


def _chosen(candidates: Sequence[_Evidence], need: _Need) -> list[Relation]:
    """Choose, for each target, relations of which each explains rows that those before it do not."""
    by_target: dict[int, list[_Evidence]] = {}
    for evidence in candidates:
        by_target.setdefault(evidence.target.place, []).append(evidence)
    chosen: list[_Evidence] = []
    for found in by_target.values():
        explained = np.zeros(len(found[0].holds), dtype=np.bool_)
        for evidence in sorted(found, key=lambda e: (-e.relation.share, _RANK[e.relation.kind], e.places)):
            if evidence.suffices(need, without=explained):
                chosen.append(evidence)
                explained |= evidence.holds
            if evidence.is_full:
                break
    chosen.sort(key=lambda e: (-e.relation.share, e.target.place, e.places))
    return [evidence.relation for evidence in chosen]


# Copies, sums and products


class _Shortlist:
    """What a screening leaves: for each target its most promising candidates, in the order in which they came.

    Args:
        targets: Columns that can be targets; they share the number of candidates that are confirmed.

    """

    def __init__(self, targets: int) -> None:
        self._most = max(1, _MOST_CONFIRMED // targets)
        self._of_target: dict[int, list[tuple[float, Any]]] = {}

    def add(self, target: int, candidate: Any, figure: float) -> None:
        """Take in a candidate; the higher its figure, the more promising."""
        self._of_target.setdefault(target, []).append((figure, candidate))

    def best(self) -> Iterator[tuple[int, Any]]:
        """Candidates with their targets, first target first."""
        for target in sorted(self._of_target):
            for _, candidate in _most(self._of_target[target], self._most, lambda pair: pair[0]):
                yield target, candidate


@dataclass(frozen=True, eq=False)
class _Screen:
    """Columns over some of the sampled rows, each array of shape (columns, rows)."""

    values: Values
    there: Mask
    rare: Mask

    @classmethod
    def of(cls, columns: Sequence[_Measure], rows: int) -> Self:
        """Take about so many rows, the same at each call."""
        total = len(columns[0].values)
        wanted = max(rows, _LEAST_SCREENED)
        some = np.arange(total)
        if total > wanted:
            some = np.sort(np.random.default_rng(0).permutation(total)[:wanted])
        arrays = [[c.values[some], c.there[some], c.rare[some]] for c in columns]
        values, there, rare = (np.stack(parts) for parts in zip(*arrays, strict=True))
        return cls(values, there, rare)

    def together(self) -> npt.NDArray[np.float32]:
        """Rows in which both of two columns are there, shape (columns, columns)."""
        present = self.there.astype(np.float32)
        return np.asarray(present @ present.T)


def _promising(hits: Values, holds: Values, complete: Values, need: _Need) -> Mask:
    """Which screened candidates may be enough on all rows: half of the share needed, or right nearly always."""
    some = hits >= np.maximum(1.0, 0.5 * need.share * complete)
    return np.asarray(some | (holds >= np.maximum(1.0, 0.99 * complete)))


def _bands(columns: Sequence[_Measure]) -> tuple[Floats, Floats]:
    """How far from a target a screened prediction may lie: so much, and so much of the size; each (columns, 1)."""
    half = np.array([[column.unit * (0.5 + 1e-6)] for column in columns])
    tolerance = max(column.tolerance for column in columns)
    return half, np.array([[0.0 if column.unit else tolerance] for column in columns])


def _copies(measures: Sequence[_Measure], need: _Need) -> list[_Evidence]:
    """Weigh columns against earlier ones; one that always equals another is compared no further."""
    copies: list[_Evidence] = []
    for columns in _families(measures):
        same: set[int] = set()
        for late, early in _screened_copies(columns, need).best():
            if same & {late, early}:
                continue
            evidence = _weigh(RelationKind.COPY, columns[late], [columns[early]], need)
            if evidence is not None:
                copies.append(evidence)
                same |= {late} if evidence.is_full else set()
    return copies


def _screened_copies(columns: Sequence[_Measure], need: _Need) -> _Shortlist:
    screen, found = _Screen.of(columns, 2 * _PAIR_CELLS // len(columns) ** 2), _Shortlist(len(columns))
    together, (half, relative) = screen.together(), _bands(columns)
    for late in range(1, len(columns)):
        near = _near(columns[late], screen.values[late], screen.values[:late], half[late], relative[late])
        near &= screen.there[:late]
        hits, complete = (near & screen.rare[late]).sum(axis=1), together[late, :late]
        # Among columns of hardly more than one value, being equal says nothing.
        varies = columns[late].dominant <= 1.0 - _COULD_FAIL / 2
        holds = (near & screen.there[late]).sum(axis=1) if varies else np.zeros(late)
        for early in np.flatnonzero(_promising(hits, holds, complete, need)):
            found.add(late, int(early), float(max(hits[early], holds[early])))
    return found


def _near(target: _Measure, values: Values, others: Values, half: Floats, relative: Floats) -> Mask:
    if not target.is_real:
        return np.asarray(others == values)
    with np.errstate(all="ignore"):
        return np.asarray(np.abs(others - values) <= half + relative * np.abs(values))


def _equations(measures: Sequence[_Measure], need: _Need) -> Iterator[_Evidence]:
    """Weigh sums, differences, products and ratios of two numbers against each later one."""
    numbers = [column for column in measures if column.is_real]
    columns = _most(numbers, _MOST_IN_TRIPLES, lambda column: column.distinct)
    if len(columns) < 3:
        return
    for late, (kind, first, second) in _screened_triples(columns, need).best():
        evidence = _weigh(kind, columns[late], [columns[first], columns[second]], need)
        if evidence is not None:
            yield evidence


def _screened_triples(columns: Sequence[_Measure], need: _Need) -> _Shortlist:
    """Triples whose target comes last in the table: a sum is also two differences, and one of the three is enough."""
    screen, found = _Screen.of(columns, _TRIPLE_CELLS // len(columns) ** 3), _Shortlist(len(columns))
    half, relative = _bands(columns)
    sizes = np.abs(screen.values)
    useful = {True: screen.there & (sizes != 0), False: screen.there & (sizes != 0) & (sizes != 1)}
    for first, second in combinations(range(len(columns) - 1), 2):
        later = slice(second + 1, None)
        complete = (screen.there[later] & screen.there[first] & screen.there[second]).sum(axis=1)
        largest = np.fmax(sizes[first], sizes[second])
        for kind, is_turned in _FORMS:
            a, b = (second, first) if is_turned else (first, second)
            predicted = _computed(kind, screen.values[a], screen.values[b])
            with np.errstate(all="ignore"):
                band = half[later] + relative[later] * np.fmax(sizes[later], largest)
                near = np.abs(screen.values[later] - predicted) <= band
            kept = useful[kind in _ADDITIVE]
            usable = near & kept[later] & (kept[first] & kept[second])
            hits, holds = (usable & screen.rare[later]).sum(axis=1), near.sum(axis=1)
            likely = _promising(hits, np.where(usable.any(axis=1), holds, 0), complete, need)
            for late in np.flatnonzero(likely):
                found.add(second + 1 + int(late), (kind, a, b), float(max(hits[late], holds[late])))
    return found


# Orders


@dataclass(frozen=True)
class _Order:
    """Cells of one column are never below those of another.

    Args:
        high: The one column.
        low: The other.
        gap: Mean distance, against that of cells of independent rows: the smaller, the tighter.

    """

    high: _Measure
    low: _Measure
    gap: float


def _orders(measures: Sequence[_Measure], need: _Need) -> list[Relation]:
    """Find orders, less those that follow over a third column."""
    orders: dict[tuple[int, int], _Order] = {}
    for columns in _families(measures):
        for first, second in _screened_orders(columns).best():
            order = _order(columns[first], columns[second], need)
            if order is not None:
                orders[order.high.place, order.low.place] = order
    below: dict[int, set[int]] = {}
    for high, low in orders:
        below.setdefault(high, set()).add(low)
    direct = [
        order
        for (high, low), order in orders.items()
        if not any(low in below.get(between, ()) for between in below[high])
    ]
    direct.sort(key=lambda order: (order.gap, order.high.place, order.low.place))
    relations = []
    for order in direct[:MAX_ORDERS]:
        is_later = order.high.place > order.low.place
        target, column = (order.high, order.low) if is_later else (order.low, order.high)
        relations.append(Relation(RelationKind.ORDER, target.name, (column.name,), 1.0, at_least=is_later))
    return relations


def _screened_orders(columns: Sequence[_Measure]) -> _Shortlist:
    """Pairs of places whose ranges overlap and whose cells, in the screened rows, are never in the wrong order."""
    columns_there = [column.values[column.there] for column in columns]
    lows = np.array([cells.min() if len(cells) else 0 for cells in columns_there])
    highs = np.array([cells.max() if len(cells) else 0 for cells in columns_there])
    screen, found = _Screen.of(columns, _ORDER_CELLS // len(columns) ** 2), _Shortlist(len(columns))
    together = screen.together()
    for late in range(1, len(columns)):
        values, others = screen.values[late], screen.values[:late]
        both = screen.there[late] & screen.there[:late]
        low, high = np.maximum(lows[late], lows[:late])[:, None], np.minimum(highs[late], highs[:late])[:, None]
        inside = (both & (values >= low) & (values <= high) & (others >= low) & (others <= high)).sum(axis=1)
        is_mixed = (both & (values < others)).any(axis=1) & (both & (values > others)).any(axis=1)
        likely = ~is_mixed & (inside >= np.maximum(1.0, _OVERLAP / 2 * together[late, :late]))
        for early in np.flatnonzero(likely):
            found.add(late, int(early), float(inside[early]))
    return found


def _order(first: _Measure, second: _Measure, need: _Need) -> _Order | None:
    """Compare two columns on all sampled rows."""
    both = first.there & second.there
    rows, x, y = int(both.sum()), first.values[both], second.values[both]
    if rows < _ALWAYS_ROWS:
        return None
    if bool(np.all(y >= x)):
        first, second, x, y = second, first, y, x
    elif not np.all(x >= y):
        return None
    low, high = max(x.min(), y.min()), min(x.max(), y.max())
    inside = int(((x >= low) & (x <= high) & (y >= low) & (y <= high)).sum())
    other = y[np.random.default_rng(0).permutation(rows)]  # what an order would be without a relation
    if inside < _OVERLAP * rows or int((x < other).sum()) < max(need.rows, need.share * rows):
        return None
    with np.errstate(all="ignore"):
        near, far = (np.abs(x.astype(np.float64) - cells.astype(np.float64)).mean() for cells in (y, other))
        gap = float(near / far) if far > 0 and np.isfinite(far) else 1.0
    return _Order(first, second, gap)
