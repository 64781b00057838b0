"""Rows as ranks: what the copula methods make of a table's slots, and how ranks become rows again.

A column gives one variable for each of its slots, and one that says whether a cell is null. A category of two slots is
one variable. Values beside null, categories too rare to be drawn, and the time of a day that is null are not observed;
what else follows from the codecs, privacy among it, stays as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from tabvae_core.codecs.base import Codec, FloatArray, IntArray
from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.restrict import SlotLimit, slot_limits
from tabvae_core.codecs.table import TableCodec
from tabvae_core.given import GivenColumn
from tabvae_core.models.copula import Margin, informative_order
from tabvae_core.progress import Progress
from tabvae_core.tables import TableSource

if TYPE_CHECKING:
    from tabvae_core.rules import Bounds

__all__ = ["Margins"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS_A_BIN, _LEAST_BINS, _MOST_BINS = 50, 8, 400
_ORDERING_ROWS, _ORDERING_ROUNDS = 50_000, 4
_NEVER = -1


class Variable(ABC):
    """Part of a column, as integer codes; a code of -1 is a cell that is not observed."""

    slot: int
    """First slot that it reads."""
    ordered: ClassVar[bool]
    """Whether the codes are in order; else the order is up to the other variables."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Codes lie below."""

    @abstractmethod
    def pieces(self, counts: npt.NDArray[np.int64]) -> Codes:
        """Codes that may be drawn, ascending, of all codes' counts (size,)."""

    @abstractmethod
    def encode(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Codes:
        """Codes of rows (n,), from tokens and values (n, slots)."""

    @abstractmethod
    def decode(self, codes: Codes, within: Floats, tokens: IntArray, values: FloatArray) -> None:
        """Write the tokens and values of codes (n,); `within`, in (0, 1), says where within its piece a row lies."""

    def within(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Floats:
        """Where within their pieces rows lie, shape (n,); NaN where a piece is all that is known."""
        return np.full(len(tokens), np.nan)

    def allowed(self, codes: Codes, limit: SlotLimit) -> npt.NDArray[np.bool_]:
        """Which pieces hold something that a limit allows."""
        return np.ones(len(codes), dtype=np.bool_)


@dataclass(frozen=True)
class Presence(Variable):
    """Whether a cell is there (0) or null (1).

    Args:
        slot: The column's first slot.
        nulls: Token of each slot of the column in a row that is null.

    """

    slot: int
    nulls: tuple[int, ...]
    ordered: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """Two."""
        return 2

    def pieces(self, counts: npt.NDArray[np.int64]) -> Codes:
        """Both."""
        return np.arange(2)

    def encode(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Codes:
        """1 for null."""
        return np.asarray(tokens[:, self.slot] == self.nulls[0], dtype=np.int64)

    def decode(self, codes: Codes, within: Floats, tokens: IntArray, values: FloatArray) -> None:
        """Set the tokens of null rows; comes after the column's other variables."""
        tokens[codes == 1, self.slot : self.slot + len(self.nulls)] = self.nulls

    def allowed(self, codes: Codes, limit: SlotLimit) -> npt.NDArray[np.bool_]:
        """Null, if its token is allowed; there, if another is."""
        null = bool(limit.tokens[self.nulls[0]])
        return np.where(codes == 1, null, int(limit.tokens.sum()) > null)


@dataclass(frozen=True)
class Nominal(Variable):
    """A category: its token, or the tokens of its two slots as one number.

    Args:
        slot: First slot.
        sizes: Tokens of each of its slots.
        drawable: Codes of the categories that may be drawn.

    """

    slot: int
    sizes: tuple[int, ...]
    drawable: tuple[int, ...]
    ordered: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """Number of codes."""
        return int(np.prod(self.sizes))

    def pieces(self, counts: npt.NDArray[np.int64]) -> Codes:
        """Those that may be drawn, however rare among these rows."""
        return np.array(self.drawable, dtype=np.int64)

    def encode(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Codes:
        """Number of the category."""
        own = tuple(tokens[:, self.slot + k].astype(np.int64) for k in range(len(self.sizes)))
        return np.asarray(np.ravel_multi_index(own, self.sizes), dtype=np.int64)

    def decode(self, codes: Codes, within: Floats, tokens: IntArray, values: FloatArray) -> None:
        """Write the tokens."""
        tokens[:, self.slot : self.slot + len(self.sizes)] = np.stack(np.unravel_index(codes, self.sizes), axis=1)

    def allowed(self, codes: Codes, limit: SlotLimit) -> npt.NDArray[np.bool_]:
        """Categories whose token is allowed."""
        return limit.tokens[codes] if len(self.sizes) == 1 else np.ones(len(codes), dtype=np.bool_)


@dataclass(frozen=True)
class Ordered(Variable):
    """A number: bins of equal probability in the codec's quantile space, and within each bin its tokens in order.

    A row of a level may lie anywhere in its bin, spikes and weekdays have their place. So codes ascend as values do, up
    to the width of a bin, in which spikes keep exactly their share, and each level its own.

    Args:
        slot: The slot.
        n_tokens: Its tokens.
        n_levels: Those that carry a value.
        places: Place of each other token in (0, 1), NaN for tokens without one; shape (n_tokens,).
        drawable: Tokens that may be drawn, shape (n_tokens,).
        bins: Number of bins.

    """

    slot: int
    n_tokens: int
    n_levels: int
    places: Floats
    drawable: npt.NDArray[np.bool_]
    bins: int
    ordered: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """Number of codes."""
        return self.n_tokens * self.bins

    def pieces(self, counts: npt.NDArray[np.int64]) -> Codes:
        """Those that some rows have; where none has any, the first token's."""
        return np.flatnonzero(counts) if counts.any() else np.flatnonzero(self.drawable)[:1]

    def _rank(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Floats:
        own = tokens[:, self.slot]
        rank = np.where(own < self.n_levels, ndtr(values[:, self.slot].astype(np.float64)), self.places[own])
        return np.asarray(np.where(self.drawable[own], rank, np.nan) * self.bins)

    def encode(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Codes:
        """Bin and token as one number."""
        rank = self._rank(tokens, values)
        bins = np.clip(np.nan_to_num(rank), 0, self.bins - 1).astype(np.int64)
        return np.where(np.isnan(rank), _NEVER, bins * self.n_tokens + tokens[:, self.slot])

    def within(self, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> Floats:
        """Place of a level's value in its bin."""
        rank = self._rank(tokens, values)
        return np.where(tokens[:, self.slot] < self.n_levels, np.minimum(rank - np.floor(rank), 1.0), np.nan)

    def decode(self, codes: Codes, within: Floats, tokens: IntArray, values: FloatArray) -> None:
        """Write token and value; within a bin, values are as a standard normal's."""
        bins, own = np.divmod(codes, self.n_tokens)
        tokens[:, self.slot] = own
        values[:, self.slot] = ndtri(np.clip((bins + within) / self.bins, 1e-9, 1 - 1e-9))

    def allowed(self, codes: Codes, limit: SlotLimit) -> npt.NDArray[np.bool_]:
        """Tokens that are allowed, of levels in bins that reach into the range."""
        bins, own = np.divmod(codes, self.n_tokens)
        inside = (bins + 1 > ndtr(limit.low) * self.bins) & (bins < ndtr(limit.high) * self.bins)
        return np.asarray(limit.tokens[own] & (inside | (own >= self.n_levels)))


@dataclass(frozen=True)
class Margins:
    """Variables of a table, with their margins.

    Args:
        codec: The table's codecs.
        variables: d of them.
        margins: As many.
        bins: Bins of the numbers among them.

    """

    codec: TableCodec
    variables: tuple[Variable, ...]
    margins: tuple[Margin, ...]
    bins: int

    @classmethod
    def fit(cls, codec: TableCodec, source: TableSource, *, seed: int, progress: Progress) -> tuple[Margins, IntArray]:
        """Learn the margins of rows, and find an order for categories.

        Returns:
            The margins, and the piece of every cell, -1 where it is not observed: int32, shape (n, d).

        """
        bins = int(np.clip(source.num_rows // _ROWS_A_BIN, _LEAST_BINS, _MOST_BINS))
        variables, rng = _variables(codec, bins), np.random.default_rng(seed)
        parts = []
        for _, cells in codec.encode_batches(source, progress=progress):
            values = cells.low + (cells.high - cells.low) * rng.random(cells.low.shape, np.float32)
            parts.append(_codes(variables, cells.tokens, values))
        places, margins = np.concatenate(parts), []
        for j, variable in enumerate(variables):
            own = places[:, j]
            counts = np.bincount(own[own >= 0], minlength=variable.size)
            codes = variable.pieces(counts)
            margins.append(Margin.of_counts(codes, counts[codes]))
            places[:, j] = margins[j].find(own)
        self = cls(codec, variables, tuple(margins), bins)
        return self._arranged(places, rng), places

    def _arranged(self, places: IntArray, rng: np.random.Generator) -> Margins:
        """Order the categories, each by the others' order, a few times over; renumbers the pieces in `places`."""
        margins = list(self.margins)
        chosen = np.sort(rng.permutation(len(places))[:_ORDERING_ROWS])
        scores = np.stack([_standard_scores(m, places[chosen, j]) for j, m in enumerate(margins)], axis=1)
        free = [j for j, variable in enumerate(self.variables) if not variable.ordered and len(margins[j].codes) > 2]
        for _ in range(_ORDERING_ROUNDS):
            for j in free:
                order = informative_order(places[chosen, j], np.delete(scores, j, axis=1), len(margins[j].codes))
                margins[j] = margins[j].reordered(order)
                renumbered = np.append(np.argsort(order), _NEVER)  # a place of -1 reads the last
                places[:, j] = renumbered[places[:, j]]
                scores[:, j] = _standard_scores(margins[j], places[chosen, j])
        return Margins(self.codec, self.variables, tuple(margins), self.bins)

    def scores(self, places: IntArray) -> Floats:
        """Normal scores of pieces (n, d); 0 where a cell is not observed."""
        columns = [np.append(m.scores(), 0.0)[places[:, j]] for j, m in enumerate(self.margins)]
        return np.stack(columns, axis=1) if columns else np.zeros(places.shape)

    def decode(self, ranks: Floats) -> tuple[IntArray, FloatArray]:
        """Turn ranks in (0, 1), shape (n, d), into tokens and values, both (n, slots)."""
        shape = (len(ranks), len(self.codec.slots))
        tokens, values = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for j, (variable, margin) in enumerate(zip(self.variables, self.margins, strict=True)):
            variable.decode(*margin.pick(ranks[:, j]), tokens, values)
        return tokens, values

    def null_of(self, j: int) -> int | None:
        """Variable that says whether variable j is there, if there is one; it is not its own."""
        column = self.codec.columns[self.variables[j].slot]
        for k, other in enumerate(self.variables):
            if k != j and isinstance(other, Presence) and self.codec.columns[other.slot] == column:
                return k
        return None

    def between(
        self, cells: Mapping[str, GivenColumn], bounds: Mapping[str, Bounds], rows: int
    ) -> tuple[Floats, Floats] | None:
        """Intervals of ranks that given cells, nulls to be filled and bounds leave; both (n, d), None for no limits.

        A bound leaves one interval around all that it allows: rows outside are left to re-sampling.

        Raises:
            SpecError: A fixed value was never learned.

        """
        codec, shape = self.codec, (rows, len(self.codec.slots))
        known, tokens, values = np.zeros(shape, np.bool_), np.zeros(shape, np.int64), np.zeros(shape)
        for slot, mask, token, value in codec.encode_given(cells):
            known[:, slot], tokens[:, slot], values[:, slot] = mask, token, value
        limits = slot_limits(codec, bounds)
        low, high = np.zeros((rows, len(self.variables))), np.ones((rows, len(self.variables)))
        for j, (variable, margin) in enumerate(zip(self.variables, self.margins, strict=True)):
            limit = limits.get(variable.slot)
            if limit is not None:
                low[:, j], high[:, j] = _hull(margin, variable.allowed(margin.codes, limit))
            name = codec.schema.names[codec.columns[variable.slot]]
            if name in cells and isinstance(variable, Presence) and margin.edges[1] > 0:
                low[:, j], high[:, j] = 0.0, margin.edges[1]
            given = np.flatnonzero(known[:, variable.slot])
            if len(given):
                low[given, j], high[given, j] = _intervals(variable, margin, tokens[given], values[given])
        return (low, high) if bool((low > 0.0).any() or (high < 1.0).any()) else None

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a bundle stores."""
        return {
            f"margin.{j}.{part}": getattr(m, part) for j, m in enumerate(self.margins) for part in ("codes", "edges")
        }

    @classmethod
    def restore(cls, codec: TableCodec, bins: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Margins:
        """Rebuild from `bins` and `arrays`; a KeyError says that some are missing."""
        variables = _variables(codec, bins)
        margins = [Margin(arrays[f"margin.{j}.codes"], arrays[f"margin.{j}.edges"]) for j in range(len(variables))]
        return cls(codec, variables, tuple(margins), bins)


def _codes(variables: tuple[Variable, ...], tokens: IntArray, values: FloatArray) -> IntArray:
    """Codes of rows, shape (n, d)."""
    columns = [variable.encode(tokens, values).astype(np.int32) for variable in variables]
    return np.stack(columns, axis=1) if columns else np.zeros((len(tokens), 0), np.int32)


def _standard_scores(margin: Margin, places: IntArray) -> Floats:
    """Normal scores of rows (n,), of variance 1 where they vary; 0 where a cell is not observed."""
    return np.asarray(np.append(margin.scores(), 0.0)[places] / max(margin.deviation(), 1e-9))


def _hull(margin: Margin, allowed: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Interval from the first to the last of the pieces that are allowed and have rows; all, if none is."""
    some = np.flatnonzero(allowed & (np.diff(margin.edges) > 0))
    return (float(margin.edges[some[0]]), float(margin.edges[some[-1] + 1])) if len(some) else (0.0, 1.0)


def _intervals(
    variable: Variable, margin: Margin, tokens: npt.NDArray[Any], values: npt.NDArray[Any]
) -> tuple[Floats, Floats]:
    """Ranks that given rows may have: a number's own, a category's interval, any where the cell is not observed."""
    piece = margin.find(variable.encode(tokens, values), nearest=variable.ordered)
    below, above = margin.edges[piece], margin.edges[piece + 1]
    within = variable.within(tokens, values)
    point = below + (above - below) * within
    exact = ~np.isnan(within)
    low = np.where(piece < 0, 0.0, np.where(exact, np.clip(point, 1e-9, 1 - 1e-9), below))
    high = np.where(piece < 0, 1.0, np.where(exact, np.clip(point, 1e-9, 1 - 1e-9), above))
    return low, high


def _variables(codec: TableCodec, bins: int) -> tuple[Variable, ...]:
    """Variables of a table; the presence of a column's cells comes after what they hold."""
    variables: list[Variable] = []
    for name, column in zip(codec.schema.names, codec.codecs, strict=True):
        if column.slots:
            variables += _of_column(column, codec.slots_of(name)[0], bins)
    return tuple(variables)


def _of_column(column: Codec, slot: int, bins: int) -> Iterator[Variable]:
    """Variables of one column, whose first slot is number `slot` of the table."""
    slots, priors, values, null = column.slots, column.log_prior(), column.token_values(), column.null_token
    drawable = [np.ones(one.n_tokens, np.bool_) for one in slots]
    if priors[0] is not None:
        drawable[0] = ~np.isneginf(priors[0])
    draws_null = null is not None and bool(drawable[0][null]) and drawable[0].sum() > 1
    if draws_null:
        drawable[0][null] = False
    if isinstance(column, CategoryCodec) and column.two_level:
        assert priors[1] is not None
        pairs = np.flatnonzero(drawable[0][:, None] & ~np.isneginf(priors[1]))
        yield Nominal(slot, (slots[0].n_tokens, slots[1].n_tokens), tuple(pairs.tolist()))
    else:
        for k, (own, place) in enumerate(zip(slots, values, strict=True)):
            ranks = np.full(own.n_tokens, np.nan) if place is None else ndtr(place.astype(np.float64))
            placed = drawable[k] & (~np.isnan(ranks) | (np.arange(own.n_tokens) < own.n_levels))
            if placed.any():
                yield Ordered(slot + k, own.n_tokens, own.n_levels, ranks, placed, bins)
            else:
                yield Nominal(slot + k, (own.n_tokens,), tuple(np.flatnonzero(drawable[k]).tolist()))
    if draws_null:
        absent = [0 if prior is None else int(np.argmax(prior[null])) for prior in priors[1:]]
        yield Presence(slot, (int(null or 0), *absent))
