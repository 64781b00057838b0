"""What a private model knows of columns: declared in the spec, or paid for out of the budget. Nothing else.

Public are the Arrow schema with its metadata, and what the spec says of columns: kind, bounds, categories, decimals,
whether there are nulls. Everything else that a codec needs is estimated from noisy counts here:

- how many rows there are;
- the categories of a column that has none declared: those of which enough rows are counted, noise included, that a
  category of one row stays out but for a share of delta (stability; Bun, Nissim & Stemmer, 2016);
- the bounds of a number that has none declared: from noisy counts of its powers of two;
- the bins of a number: a histogram whose heavy pieces are split again and again, so that a value that many rows share
  gets a bin of its own (in the manner of Zhang, Xiao & Xie's PrivTree, 2016, with a fixed number of rounds);
- the share of nulls.

Each count is of disjoint cells, of which a row is in one: its L2 sensitivity is 1. All mechanisms and their noise
follow from the public schema alone and are charged before a row is read.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri

from tabvae_core.codecs.base import Codec
from tabvae_core.codecs.binned import BinnedCodec, Scale
from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.constant import ConstantCodec
from tabvae_core.codecs.formats import DIGITS, KeyMaker, Variant
from tabvae_core.codecs.identifier import IdentifierCodec
from tabvae_core.codecs.null import NullCodec
from tabvae_core.codecs.ordinal import (
    base_type,
    bound_of,
    is_binary_like,
    is_orderable,
    is_string_like,
    ordinal_of,
    plain,
)
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError, SpecError
from tabvae_core.given import given_values
from tabvae_core.privacy.accounting import Budget, Loss
from tabvae_core.privacy.noise import Noise
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind
from tabvae_core.tables import TableSource

__all__ = ["BOUNDS", "DOMAINS", "PrivateDomain", "on_simplex", "private_domain"]

Floats = npt.NDArray[np.float64]

BOUNDS, DOMAINS = "bounds", "domains"
"""Shares of the budget that are used here."""

_ROUNDS = 3
"""Rounds of splitting after the first histogram."""
_PIECES, _CHILDREN = 64, 64
"""Pieces of the first histogram between declared bounds, and of a piece that is split."""
_BINS = 32
_HEAVY, _LIKELY, _TAIL = 4.0, 3.0, 3.5
"""Standard deviations of the noise: what a piece must hold to be split, nulls to be believed in, a tail to be kept."""
_MOST_CATEGORIES = 255
_CATEGORY_WEIGHT = 4.0
"""Part of the budget that a column of categories gets, in rounds of a number."""
_KEY_DIGITS = 12


@dataclass(frozen=True)
class PrivateDomain:
    """What was found, all of it private or public.

    Args:
        codec: Codecs of the table. At most one slot a column, whose tokens carry no values.
        rows: Noisy number of rows.

    """

    codec: TableCodec
    rows: float


def private_domain(
    source: TableSource,
    schema: TableSchema,
    budget: Budget,
    noise: Noise,
    *,
    bins: Callable[[float, float], int] = lambda rows, rho: _BINS,
    progress: Progress = silent,
) -> PrivateDomain:
    """Find what there is to know of the columns, at the cost of the budget's shares "bounds" and "domains".

    Args:
        source: The training rows.
        schema: Made by `declared_schema`.
        budget: Pays.
        noise: Randomness.
        bins: Bins of a number, at most, from the noisy number of rows and the budget's rho; 32.
        progress: Told of every batch.

    Raises:
        DataError: No category of a column that needs some was found.
        SpecError: The schema was made from rows, or a declared value does not fit its column.

    """
    if not schema.public:
        raise SpecError(
            "the schema was inferred from the rows, which a private model must not see",
            hint="leave the schema out, or make it by infer_schema(source, privacy=privacy)",
        )
    finders = {name: _finder(schema, name) for name in schema.names}
    asked = {name: finder for name, finder in finders.items() if finder is not None}
    sigmas = _charge(list(asked.values()), budget)
    rows, count, most = 0.0, 0, _BINS
    for number in range(max((finder.rounds for finder in asked.values()), default=1)):
        now = {name: finder for name, finder in asked.items() if number < finder.rounds}
        count = 0
        for batch in source.batches(list(now)):
            for finder, cells in zip(now.values(), batch.columns, strict=True):
                finder.observe(cells)
            count += batch.num_rows
            progress(ProgressEvent("read", count, source.num_rows, "rows", "private domains"))
        if number == 0:
            rows = max(1.0, float(noise.gaussian(np.array([count]), sigmas.count)[0]))
            most = bins(rows, budget.rho)
        for finder in now.values():
            finder.close(noise, sigmas.of(finder, number), rows / most)
    arrow = schema.arrow
    codecs = []
    for name in schema.names:
        own, column = finders[name], schema.column(name)
        codecs.append(_public_codec(column, arrow.field(name).type, schema) if own is None else own.codec(rows, most))
    columns = [_estimated(column, dict(zip(schema.names, codecs, strict=True))) for column in schema.columns]
    known = schema.model_copy(update={"columns": tuple(columns), "rows": round(rows)})
    return PrivateDomain(TableCodec(known, tuple(codecs)), rows)


# ---------------------------------------------------------------- what it costs


@dataclass(frozen=True)
class _Sigmas:
    """Standard deviations of the noise.

    Args:
        unit: Of a count of weight 1 of the share "domains"; one of weight w has unit / sqrt(w).
        bounds: Of the counts that find bounds.
        count: Of the number of rows.

    """

    unit: float
    bounds: float
    count: float

    def of(self, finder: _Finder, number: int) -> float:
        """The noise of a column's histogram in a round."""
        return self.bounds if finder.seeks_bounds and number == 0 else self.unit / math.sqrt(finder.weight)


def _charge(finders: list[_Finder], budget: Budget) -> _Sigmas:
    """Spend both shares whole, whatever the rows will say."""
    seeking = sum(finder.seeks_bounds for finder in finders)
    if not seeking:
        budget.pass_on(BOUNDS, DOMAINS)
    bounds = math.sqrt(seeking / (2 * budget.left(BOUNDS))) if seeking else math.inf
    if seeking:
        loss = Loss.zcdp(budget.left(BOUNDS))
        budget.spend(BOUNDS, "Gaussian noise on histograms of powers of two", loss, histograms=seeking, sigma=bounds)
    weight = 1.0 + sum(finder.weight * (finder.rounds - finder.seeks_bounds) for finder in finders)
    unit = math.sqrt(weight / (2 * budget.left(DOMAINS)))
    open_domains = sum(isinstance(finder, _Categories) and finder.open for finder in finders)
    for finder in finders:
        finder.delta = budget.threshold_delta / max(open_domains, 1)
    loss = Loss.zcdp(budget.left(DOMAINS), budget.threshold_delta if open_domains else 0.0)
    histograms = 1 + sum(finder.rounds - finder.seeks_bounds for finder in finders)
    budget.spend(DOMAINS, "Gaussian noise on histograms", loss, histograms=histograms, sigma=unit)
    return _Sigmas(unit, bounds, unit)


def on_simplex(counts: Floats, total: float) -> Floats:
    """The nearest counts that are not negative and add up to a total (Wang et al., 2020: norm-sub), shape (k,)."""
    descending = np.sort(counts)[::-1]
    excess = (np.cumsum(descending) - total) / np.arange(1, len(counts) + 1)
    last = int(np.flatnonzero(descending - excess > 0)[-1]) if total > 0 else 0
    return np.asarray(np.maximum(counts - excess[last], 0.0), dtype=np.float64)


# ---------------------------------------------------------------- columns that need no row


def _finder(schema: TableSchema, name: str) -> _Finder | None:
    """What looks at a column; None for one of which everything is public."""
    column, field = schema.column(name), schema.arrow.field(name)
    if column.unlearnable == "null" or column.kind in (Kind.IDENTIFIER, Kind.CONSTANT, Kind.NESTED, Kind.TEXT):
        return None
    if column.kind in (Kind.CATEGORY, Kind.BOOLEAN):
        return _Categories(column, field, _declared_values(column, schema))
    return _Numbers(column, field)


def _declared_values(column: ColumnSchema, schema: TableSchema) -> pa.Array | None:
    """Declared categories, sorted, as plain cells; both values of a boolean; None where there are none."""
    arrow_type = schema.arrow.field(column.name).type
    if column.categories is None:
        return pa.array([False, True]) if pa.types.is_boolean(base_type(arrow_type)) else None
    where = f"columns.{column.name}.categories"
    values = [given_values({column.name: raw}, schema, where)[column.name] for raw in column.categories]
    cells = plain(pa.array(values, type=base_type(arrow_type))).drop_null().unique()
    return cells.take(pc.sort_indices(cells))


def _public_codec(column: ColumnSchema, arrow_type: pa.DataType, schema: TableSchema) -> Codec:
    if column.kind is Kind.IDENTIFIER:
        if is_orderable(arrow_type):
            return IdentifierCodec(column.name, arrow_type, nulls=None, start=1)
        maker = KeyMaker([Variant((DIGITS,) * _KEY_DIGITS)])
        binary = is_binary_like(arrow_type)
        return IdentifierCodec(column.name, arrow_type, nulls=None, maker=maker, as_bytes=binary)
    if column.kind is Kind.CONSTANT and column.categories:
        return ConstantCodec(_declared_values(column, schema), arrow_type)
    return NullCodec(arrow_type)


def _estimated(column: ColumnSchema, codecs: dict[str, Codec]) -> ColumnSchema:
    """A column's schema with what was found of it."""
    codec = codecs.get(column.name)
    if isinstance(codec, NullCodec):
        return column.model_copy(update={"nulls": 1.0})
    if isinstance(codec, CategoryCodec):
        total = max(1.0, float(codec.counts.sum()) + codec.nulls + codec.rare)
        return column.model_copy(update={"nulls": codec.nulls / total, "distinct": len(codec.categories)})
    if isinstance(codec, BinnedCodec):
        total = max(1.0, float(np.maximum(codec.counts, 0).sum()))
        nulls = float(max(codec.counts[-1], 0)) / total if codec.has_null else 0.0
        last = codec.edges[-1] - 1 if codec.scale.whole else codec.edges[-1]
        low, high = (
            bound_of(codec.scale.ordinal(end), codec.arrow_type) for end in (codec.edges[0].item(), last.item())
        )
        return column.model_copy(
            update={"nulls": nulls, "distinct": len(codec.starts), "minimum": low, "maximum": high}
        )
    return column


# ---------------------------------------------------------------- columns that are counted


class _Finder(ABC):
    """Counts a column in one or several rounds, of each of which only noisy counts are kept."""

    rounds = 1
    weight = 1.0
    seeks_bounds = False
    delta = 0.0

    @abstractmethod
    def observe(self, array: pa.Array) -> None:
        """Count cells."""

    @abstractmethod
    def close(self, noise: Noise, sigma: float, share: float) -> None:
        """End a round, with the rows of a bin: make the counts noisy, and forget the true ones."""

    @abstractmethod
    def codec(self, rows: float, most: int) -> Codec:
        """Make the codec of what was found."""


class _Categories(_Finder):
    """Declared categories, or those that enough rows share."""

    weight = _CATEGORY_WEIGHT

    def __init__(self, column: ColumnSchema, field: pa.Field, declared: pa.Array | None) -> None:
        self._column, self._field, self._declared = column, field, declared
        self.open = declared is None
        self._seen: Counter[Any] = Counter()
        self._nulls = 0

    def observe(self, array: pa.Array) -> None:
        """Count cells."""
        cells = plain(array)
        self._nulls += cells.null_count
        counted = cells.drop_null().value_counts()
        values = counted.field("values").to_pylist()
        self._seen.update(dict(zip(values, counted.field("counts").to_pylist(), strict=True)))

    def close(self, noise: Noise, sigma: float, share: float) -> None:
        """Add noise; of open categories, keep those above the threshold."""
        self._values = list(self._seen) if self._declared is None else self._declared.to_pylist()
        counts = [self._seen[value] for value in self._values]
        inside = sum(counts)
        # With an open domain the rest is what the threshold keeps out, and known from the noisy counts alone.
        rest = 0 if self._declared is None else sum(self._seen.values()) - inside
        noisy = noise.gaussian(np.array([*counts, self._nulls, rest]), sigma)
        self._counts, self._null, self._sigma = noisy[:-2], float(noisy[-2]), sigma
        self._seen, self._nulls = Counter(), 0
        if self._declared is None:
            # A category of one row passes with probability `delta`; 2 allows for noise in whole numbers.
            least = 2.0 + sigma * float(ndtri(1.0 - self.delta))
            kept = [k for k in np.argsort(-self._counts)[:_MOST_CATEGORIES] if self._counts[k] > least]
            self._values = [self._values[k] for k in kept]
            self._counts = self._counts[kept]

    def codec(self, rows: float, most: int) -> Codec:
        """Categories in the order of their values."""
        name, arrow_type = self._column.name, self._field.type
        nulls = self._null if self._null > _LIKELY * self._sigma and self._field.nullable else 0.0
        kind = plain(pa.array([], type=base_type(arrow_type))).type
        if not self._values:
            if nulls > rows / 2:
                return NullCodec(arrow_type)
            return CategoryCodec(
                name, arrow_type, self._stand_in(kind), np.array([rows - nulls]), nulls=nulls, rare=0.0,
                draw_null=self._column.nullable,
            )  # fmt: skip
        values = pa.array(self._values, type=kind)
        order = pc.sort_indices(values)
        counts = np.maximum(self._counts[order.to_numpy()], 0.0)
        rare = max(0.0, float(rows - nulls - counts.sum())) if self.open else 0.0
        rare = rare if rare > self._sigma else 0.0
        return CategoryCodec(
            name, arrow_type, values.take(order), np.maximum(counts, 0.5), nulls=nulls, rare=rare,
            draw_null=self._column.nullable,
        )  # fmt: skip

    def _stand_in(self, kind: pa.DataType) -> pa.Array:
        """The one category where too few rows share any."""
        if is_string_like(kind):
            return pa.array(["other"], type=kind)
        stored = base_type(self._field.type)
        if is_binary_like(kind):
            width = int(stored.byte_width) if pa.types.is_fixed_size_binary(stored) else 0
            return pa.array([b"\0" * width], type=kind)
        raise DataError(
            f"column {self._column.name!r} has no category that enough rows share for this privacy budget",
            hint=f"declare columns.{self._column.name}.categories, or set its kind to number",
        )


class _Numbers(_Finder):
    """A histogram whose heavy pieces are split, round after round."""

    def __init__(self, column: ColumnSchema, field: pa.Field) -> None:
        self._column, self._field = column, field
        self._scale = Scale(field.type, column.decimals)
        low, high = (
            None if end is None else self._scale.number(ordinal_of(end, field.type))
            for end in (column.minimum, column.maximum)
        )
        self.seeks_bounds = low is None or high is None
        self.rounds = self._left = _ROUNDS + 1
        self._edges = _powers(self._scale, low, high) if low is None or high is None else self._between(low, high)
        self._counts = np.zeros(len(self._edges), dtype=np.int64)

    def _between(self, low: float, high: float) -> npt.NDArray[Any]:
        """First edges between declared bounds, both included."""
        top = high + 1 if self._scale.whole else math.nextafter(high, math.inf)
        return _with_zero(_split(low, top, _PIECES, self._scale), self._scale)

    def observe(self, array: pa.Array) -> None:
        """Count cells: pieces, then nulls."""
        numbers, valid = self._scale.numbers(array)
        piece = np.searchsorted(self._edges, numbers[valid], side="right") - 1
        last = len(self._edges) - 2
        self._counts[:-1] += np.bincount(np.clip(piece, 0, last), minlength=last + 1)
        self._counts[-1] += int((~valid).sum())

    def close(self, noise: Noise, sigma: float, share: float) -> None:
        """Add noise, leave out what lies beyond the outermost pieces that hold rows, split the heavy ones."""
        noisy = noise.gaussian(self._counts, sigma)
        self._mass, self._null, self._sigma = noisy[:-1], float(noisy[-1]), sigma
        self._left -= 1
        if self.seeks_bounds:
            self._trim()
        if self._left:
            self._edges = self._refined(share)
            self._counts = np.zeros(len(self._edges), dtype=np.int64)

    def _trim(self) -> None:
        """Leave out the pieces at either end that do not, together, hold more than noise."""
        first, last = _quiet(self._mass, self._sigma), len(self._mass) - _quiet(self._mass[::-1], self._sigma)
        below = int(np.searchsorted(self._edges[:-1], 0))
        if first < below and self._mass[first:below].sum() < _TAIL * self._sigma * math.sqrt(below - first):
            first = below  # hardly a number is negative, so that none is taken to be
        self._empty = first >= last
        if not self._empty:
            self._edges, self._mass = self._edges[first : last + 1], self._mass[first:last]

    def _refined(self, share: float) -> npt.NDArray[Any]:
        """Edges with those of the split pieces."""
        heavy = self._mass > max(_HEAVY * self._sigma, share / 2)
        pieces = [(self._edges[k].item(), self._edges[k + 1].item()) for k in np.flatnonzero(heavy)]
        split = [_split(low, high, _CHILDREN, self._scale) for low, high in pieces]
        return np.unique(np.concatenate([self._edges, *split]))

    def codec(self, rows: float, most: int) -> Codec:
        """Bins of about equal mass; a piece that is as heavy as a bin is one."""
        null = self._null if self._null > _LIKELY * self._sigma and self._field.nullable else 0.0
        if self.seeks_bounds and self._empty:
            if null > rows / 2:
                return NullCodec(self._field.type)
            self._edges = _split(0, 1, 1, self._scale)
            self._mass = np.ones(1)
        mass = on_simplex(self._mass, max(1.0, rows - null))
        starts = _bins(mass, most)
        counts = np.add.reduceat(mass, starts)
        return BinnedCodec(
            self._column.name, self._scale, self._edges, mass, starts, np.append(counts, [null] if null else []),
            draw_null=self._column.nullable,
        )  # fmt: skip


def _quiet(mass: Floats, sigma: float) -> int:
    """Pieces from the first on that hold nothing but noise: once their sums leave it, up to where that began."""
    number = np.arange(len(mass) + 1)
    sums = np.concatenate([[0.0], np.cumsum(mass)])
    loud = np.flatnonzero(sums > _TAIL * sigma * np.sqrt(number))
    # Noise sums up to anything; less half a deviation a piece it falls, and turns where the mass begins.
    return int(np.argmin((sums - 0.5 * sigma * number)[: loud[0]])) if len(loud) else len(mass)


def _bins(mass: Floats, most: int) -> npt.NDArray[np.int64]:
    """First pieces of bins: neighbours together up to an equal share of the mass, heavy pieces by themselves."""
    share, starts, held = mass.sum() / most, [0], 0.0
    for k, one in enumerate(mass):
        if k and (held >= share or (held > 0 and one >= share)):
            starts.append(k)
            held = 0.0
        held += one
    return np.array(starts, dtype=np.int64)


def _powers(scale: Scale, low: float | None, high: float | None) -> npt.NDArray[Any]:
    """Edges at 0, its neighbour and the powers of two of either sign, as far as type and declared bounds allow."""
    exponents = range(62) if scale.whole else range(-40, 128, 2)
    sizes = [2**e if scale.whole else 2.0**e for e in exponents]
    edges = np.array(sorted({*(-size for size in sizes), 0, *sizes}), dtype=np.int64 if scale.whole else np.float64)
    top = None if high is None else high + 1 if scale.whole else math.nextafter(high, math.inf)
    edges = edges[(edges > (-math.inf if low is None else low)) & (edges < (math.inf if top is None else top))]
    ends = [end for end in (low, top) if end is not None]
    return _with_zero(np.unique(np.concatenate([edges, np.array(ends, dtype=edges.dtype)])), scale)


def _with_zero(edges: npt.NDArray[Any], scale: Scale) -> npt.NDArray[Any]:
    """Edges that give zero, which many rows tend to share, a piece of its own."""
    if not edges[0] <= 0 < edges[-1]:
        return edges
    zero = np.array([0, 1 if scale.whole else math.nextafter(0.0, 1.0)], dtype=edges.dtype)
    return np.unique(np.concatenate([edges, zero]))


def _split(low: float, high: float, parts: int, scale: Scale) -> npt.NDArray[Any]:
    """Edges of equal parts from low to high, fewer where there are not as many numbers between."""
    if not scale.whole:
        return np.unique(np.linspace(low, high, parts + 1))
    width = int(high) - int(low)
    parts = min(parts, width)
    return np.array([int(low) + width * k // parts for k in range(parts + 1)], dtype=np.int64)
