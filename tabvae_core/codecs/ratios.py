"""Ratios: numbers that keep close to a multiple of an earlier number of their row.

A card's payment is often a little more than its bill, or 3.6 % of it, which is the least that may be paid. In N(0, 1)
of the payments that is a sliver whose place and width differ from row to row, so a density there smears it out. Where
the logs of the ratios of two columns have peaks, the target's density gets components of its own: in the log of its
ratio to the other column, begun at the peaks. The network learns their weights, places and widths with all the rest.

A ratio may also be that of what a number exceeds a sum or a difference of two others by (see `edges`), or to a multiple
that further columns say (see `rates`).

A link (see `links`) is exact and computed; a ratio is near and drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.edges import Edge
from tabvae_core.codecs.links import Links
from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.ordinal import plain, to_ordinal
from tabvae_core.codecs.rates import Key, Rates, find_rates
from tabvae_core.codecs.table import TableCodec
from tabvae_core.reals import has_real_values, real_values
from tabvae_core.rules.syntax import write_name

__all__ = ["CENTRES", "LEAST_FOLLOWING", "Ratio", "Ratios", "log_of", "share_tied"]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CENTRES = 4
"""Components of each ratio."""
LEAST_FOLLOWING = 10
"""Rows that a rate is known from at least."""
_MOST_A_SLOT = 3
_MOST_MEASURES = 40
"""Columns compared in pairs; of more, the first ones."""
_MOST_KEYS = 100
"""Columns looked at that rates may be by; of more, the first ones."""
_BIN, _AROUND = 0.02, 15
"""Width of a bin of log ratios, and how many bins to either side are around it: a peak is narrow beside them."""
_REACH = 12.0
"""Log ratios looked at lie within this of 0."""
_TIMES, _DEVIATIONS, _FEW = 1.5, 3.0, 3.0
"""A peak holds more rows than so many times what is expected, and so many deviations and rows more than that."""
_MOST_CELLS = 30_000_000
"""Cells in logs of ratios that are kept for training."""
_NO_LOG = -30.0
"""Stands for the log of nothing."""
_LEAST_SHARE = 0.005
_LEAST_SPREAD = 5e-4
_LEAST_ROWS = 500
_SHUFFLES = 4


@dataclass(frozen=True)
class Ratio:
    """A number whose ratios to an earlier one have peaks.

    Args:
        target: The column that keeps close to multiples.
        column: The column that they are multiples of.
        share: Share of the rows in the peaks, beyond what is expected.
        centres: Logs of the ratios at the highest peaks, `CENTRES` of them.
        spread: Scale in logs at which the components begin.
        start: Two columns; the ratio is that of what the target exceeds their sum or difference by. Empty: of itself.
        minus: Whether it is the difference.
        rates: What the ratio is counted from, by further columns; None: from one.

    """

    target: str
    column: str
    share: float
    centres: tuple[float, ...]
    spread: float
    start: tuple[str, ...] = ()
    minus: bool = True
    rates: Rates | None = None

    def text(self) -> str:
        """Write what it says, such as "paid ≈ 0.036 or 1.01 * owed (9.5 % of rows)"."""
        if self.rates is not None:
            by = " and ".join(map(write_name, self.rates.columns))
            multiple = f"{write_name(self.column)} at a rate by {by}"
            return f"{write_name(self.target)} ≈ {multiple} ({100 * self.share:.1f} % of rows)"
        places = " or ".join(f"{math.exp(centre):.3g}" for centre in sorted(dict.fromkeys(self.centres)))
        sign = "-" if self.minus else "+"
        origin = f" {sign} ".join(write_name(name) for name in self.start) + " + " if self.start else ""
        multiple = f"{places} * {write_name(self.column)}"
        return f"{write_name(self.target)} ≈ {origin}{multiple} ({100 * self.share:.1f} % of rows)"

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns but the target."""
        by = () if self.rates is None else self.rates.columns
        return tuple(dict.fromkeys((self.column, *self.start, *by)))

    def frame(self, number: NumberCodec, real: Mapping[str, Floats]) -> Floats:
        """In which the target is seen, row by row.

        Args:
            number: The target's codec.
            real: Values of all other columns, shape (n,) each; of categories their tokens.

        Returns:
            Shape (n, 4): the log of what ratios are to, NaN where they have no meaning; the value that the target is
            counted from; and the logs of the ratios at the least and the largest value that it can have.

        """
        multiple, origin = log_of(real[self.column]), np.zeros(len(real[self.column]))
        if self.rates is not None:
            multiple = multiple + self.rates.of(real)
        if self.start:
            first, second = (real[name] for name in self.start)
            origin = first - second if self.minus else first + second
        low, high = (end - origin for end in number.real_ends())
        there = ~np.isnan(multiple) & (high > 0)
        ends = [np.where(end > 0, np.log(np.where(end > 0, end, 1.0)) - multiple, _NO_LOG) for end in (low, high)]
        frame = np.stack([multiple, origin, *ends], axis=1)
        frame[~there] = (np.nan, 0.0, 0.0, 0.0)
        return frame


class Ratios:
    """All ratios of a table, in the order of their targets' slots.

    Args:
        ratios: The ratios.
        codec: Fitted codecs.

    """

    def __init__(self, ratios: Iterable[Ratio] = (), codec: TableCodec | None = None) -> None:
        ratios = tuple(ratios)
        slots = {} if codec is None else {ratio.target: codec.slots_of(ratio.target)[0] for ratio in ratios}
        self.ratios = tuple(sorted(ratios, key=lambda ratio: slots[ratio.target]))
        self.slots = tuple(slots[ratio.target] for ratio in self.ratios)
        self.of_slot: dict[int, list[Ratio]] = {}
        for slot, ratio in zip(self.slots, self.ratios, strict=True):
            self.of_slot.setdefault(slot, []).append(ratio)

    @classmethod
    def fit(
        cls,
        codec: TableCodec,
        links: Links,
        rows: pa.Table,
        edges: Iterable[Edge] = (),
        *,
        n_rows: int = 0,
        least_rows: int = LEAST_FOLLOWING,
    ) -> Self:
        """Find the ratios of a table.

        Args:
            codec: Fitted codecs, columns in the order in which they are drawn.
            links: Links between the columns: a cell that follows exactly needs no ratio.
            rows: Some training rows.
            edges: Edges between the columns.
            n_rows: Rows that are learned; many have room for the strongest ratios alone, 20 bytes each.
            least_rows: Rows that a rate is known from.

        """
        edges = tuple(edges)
        names = [name for name in codec.schema.names if _is_measure(codec, name)][:_MOST_MEASURES]
        if len(names) < 2 or rows.num_rows < _LEAST_ROWS:
            return cls()
        encoded = codec.encode(rows.select(list(codec.schema.names)))
        targets = links.targets(codec, rows, encoded.tokens)
        countable = [name for name in codec.schema.names if _is_key(codec, name)][:_MOST_KEYS]
        real = _real(codec, rows, encoded.tokens, {*names, *countable})
        keys = {name: key for name in countable if (key := Key.of(real[name])) is not None}
        found: list[Ratio] = []
        for place, target in enumerate(names):
            slot = codec.slots_of(target)[0]
            free = targets[:, slot] < codec.slots[slot].n_levels
            earlier = [name for name in countable if codec.slots_of(name)[0] < slot]
            numbers = [name for name in earlier if isinstance(codec.codec_of(name), NumberCodec)][:_MOST_MEASURES]
            by = {name: keys[name] for name in earlier if name in keys}
            rate, free = _at_a_rate(real, target, numbers, by, free, least_rows)
            found += [*rate, *_of_one(real, target, names[:place], free)]
            found += [
                _of_edge(edge)
                for edge in edges
                if edge.target == target and {edge.first, edge.second} <= {*names[:place]}
            ]
        found.sort(key=lambda ratio: -ratio.share)
        return cls(found[: _MOST_CELLS // max(n_rows, 1)], codec)

    @property
    def columns(self) -> frozenset[str]:
        """Columns that targets are multiples of, or counted from."""
        return frozenset(name for ratio in self.ratios for name in ratio.columns)

    def arranged(self, order: Iterable[str]) -> tuple[str, ...]:
        """Order columns so that what has a rate comes after all that it follows from, else as they are."""
        order = list(order)
        for ratio in self.ratios:
            last = max(map(order.index, ratio.columns))
            if ratio.rates is not None and order.index(ratio.target) < last:
                order.remove(ratio.target)
                order.insert(last, ratio.target)
        return tuple(order)

    def centres(self) -> npt.NDArray[np.float32]:
        """Where the components of each ratio begin, shape (ratios, CENTRES)."""
        return np.array([ratio.centres for ratio in self.ratios], np.float32).reshape(-1, CENTRES)

    def spreads(self) -> npt.NDArray[np.float32]:
        """Scales at which they begin, shape (ratios,)."""
        return np.array([ratio.spread for ratio in self.ratios], np.float32)

    def cells(
        self, codec: TableCodec, data: pa.Table | pa.RecordBatch, tokens: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Cells of n rows in the logs of ratios.

        Args:
            codec: The table's codecs.
            data: n rows.
            tokens: Their own tokens, int32, shape (n, slots).

        Returns:
            Shape (n, ratios, 5): middle and width of each cell, log of its width in N(0, 1), and the ends of what the
            target can be. Where a ratio has no meaning the width is negative; where the target has none, it is zero.

        """
        result = np.zeros((len(tokens), len(self.ratios), 5), np.float32)
        real = _real(codec, data, tokens, self.columns)
        for index, (slot, ratio) in enumerate(zip(self.slots, self.ratios, strict=True)):
            number = codec.codec_of(ratio.target)
            assert isinstance(number, NumberCodec)
            multiple, origin, *ends = ratio.frame(number, real).T
            there = ~np.isnan(multiple)
            offsets = number.table.offsets(to_ordinal(plain(data.column(ratio.target)))[0])
            middle, width, place_width = number.log_cells(tokens[:, slot], offsets, origin)
            result[:, index, 0] = np.where(there & (width > 0), middle - multiple, 0.0)
            result[:, index, 1] = np.where(there, width, -1.0)
            result[:, index, 2] = np.log(place_width)
            result[:, index, 3:] = np.stack(ends, axis=1)
        return result

    def to_json(self) -> list[dict[str, Any]]:
        """What a bundle stores."""
        return [asdict(ratio) for ratio in self.ratios]

    @classmethod
    def from_json(cls, stored: Sequence[Mapping[str, Any]], codec: TableCodec) -> Self:
        """Rebuild from a bundle."""
        return cls(map(_from_json, stored), codec)


def share_tied(rows: pa.Table, target: str, others: Iterable[str]) -> float:
    """Share of the rows in which a column is close to a multiple of one of others, beyond chance.

    Args:
        rows: Some training rows.
        target: The column.
        others: The others, of which the first numbers are looked at; what is no number counts for nothing.

    """

    def logs(name: str) -> Floats | None:
        cells = rows.column(name)
        return log_of(real_values(cells)[0]) if has_real_values(cells.type) else None

    own, shares = logs(target), [0.0]
    if own is not None:
        numbers = (other for other in map(logs, others) if other is not None)
        shares += [_peaks(own, other, ~np.isnan(own)).rows / rows.num_rows for other in islice(numbers, _MOST_MEASURES)]
    return max(shares)


def log_of(real: Floats) -> Floats:
    """Logs of values above zero, NaN of all others."""
    there = real > 0
    return np.where(there, np.log(np.where(there, real, 1.0)), np.nan)


def _is_measure(codec: TableCodec, name: str) -> bool:
    number = codec.codec_of(name)
    if not isinstance(number, NumberCodec) or not number.slots or not number.table.n_levels:
        return False
    return has_real_values(number.arrow_type)


def _is_key(codec: TableCodec, name: str) -> bool:
    """Whether rates may be by a column."""
    column = codec.codec_of(name)
    if isinstance(column, NumberCodec):
        return bool(column.slots) and has_real_values(column.arrow_type)
    return isinstance(column, CategoryCodec) and len(column.slots) == 1


def _real(
    codec: TableCodec, data: pa.Table | pa.RecordBatch, tokens: npt.NDArray[np.int32], names: Iterable[str]
) -> dict[str, Floats]:
    """Values of columns, (n,) each; of categories their tokens."""
    return {
        name: real_values(data.column(name))[0]
        if isinstance(codec.codec_of(name), NumberCodec)
        else tokens[:, codec.slots_of(name)[0]].astype(np.float64)
        for name in names
    }


def _from_json(stored: Mapping[str, Any]) -> Ratio:
    rates = stored.get("rates")
    tuples = {name: tuple(stored[name]) for name in ("centres", "start")}
    return Ratio(**{**stored, **tuples, "rates": None if rates is None else Rates.from_json(rates)})


def _at_a_rate(
    real: Mapping[str, Floats],
    target: str,
    others: Sequence[str],
    keys: Mapping[str, Key],
    free: Mask,
    least_rows: int,
) -> tuple[list[Ratio], Mask]:
    """Find the column that a target is so many times of as further columns say; and the rows that are still free."""
    own, logs = log_of(real[target]), {other: log_of(real[other]) for other in others}
    found = find_rates(own, logs, keys, free, least_rows)
    if found is None:
        return [], free
    column, rates, follows = found
    beside = np.abs(own - logs[column] - rates.of(real))[follows]
    spread = max(float(np.median(beside)), _LEAST_SPREAD)
    return [Ratio(target, column, float(follows.mean()), (0.0,) * CENTRES, spread, rates=rates)], free & ~follows


def _of_one(real: Mapping[str, Floats], target: str, others: Sequence[str], free: Mask) -> list[Ratio]:
    """Find the columns whose multiples a target keeps close to."""
    own, logs = log_of(real[target]), {other: log_of(real[other]) for other in others}
    found: list[Ratio] = []
    free = free & ~np.isnan(own)
    while others and len(found) < _MOST_A_SLOT:
        peaks = {other: _peaks(own, logs[other], free) for other in others}
        best = max(others, key=lambda other: peaks[other].rows)
        share = peaks[best].rows / len(free)
        if share < _LEAST_SHARE:
            break
        found.append(Ratio(target, best, share, peaks[best].centres, _BIN))
        others, free = [other for other in others if other != best], free & ~peaks[best].inside
    return found


def _of_edge(edge: Edge) -> Ratio:
    """A ratio that begins at the quartiles of an edge's excess."""
    low, middle, high = edge.quartiles
    centres = np.interp((np.arange(CENTRES) + 0.5) / CENTRES, [0.25, 0.5, 0.75], [low, middle, high])
    spread = max((high - low) / CENTRES, _BIN)
    start = (edge.first, edge.second)
    return Ratio(edge.target, edge.first, edge.share, tuple(centres.tolist()), spread, start, edge.minus)


@dataclass(frozen=True)
class _Peaks:
    """Peaks of the log ratios of two columns.

    Args:
        rows: Rows in them, beyond what is expected.
        centres: The highest ones.
        inside: The rows that lie in them.

    """

    rows: float
    centres: tuple[float, ...]
    inside: Mask


def _peaks(target: Floats, other: Floats, free: Mask) -> _Peaks:
    """Find bins of log ratios that hold far more rows than their neighbourhood, and than unrelated columns give.

    Unrelated ones have peaks, too: of round values many pairs have the same ratio. Shuffling tells how high those are.
    """
    there = free & ~np.isnan(other)
    inside = np.zeros(len(there), np.bool_)
    nothing = _Peaks(0.0, (), inside)
    if there.sum() < _LEAST_ROWS:
        return nothing
    own, others, rng = target[there], other[there], np.random.default_rng(0)
    counts, bins = _histogram(own - others)
    shuffled = np.mean([_histogram(own - rng.permutation(others))[0] for _ in range(_SHUFFLES)], axis=0)
    expected = _TIMES * np.maximum(_around(counts), shuffled)
    excess = counts - expected - _DEVIATIONS * np.sqrt(expected) - _FEW
    centres: list[float] = []
    left = np.maximum(excess, 0.0)
    while len(centres) < CENTRES and left.max() > 0:
        top = int(left.argmax())
        centres.append((top + 0.5) * _BIN - _REACH)
        left[max(0, top - 2) : top + 3] = 0.0
    if not centres:
        return nothing
    centres += centres[:1] * (CENTRES - len(centres))
    inside[there] = (excess > 0)[bins]
    return _Peaks(float(np.maximum(excess, 0.0).sum()), tuple(centres), inside)


def _histogram(ratios: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    bins = np.clip(((ratios + _REACH) / _BIN).astype(np.int64), 0, int(2 * _REACH / _BIN) - 1)
    return np.bincount(bins, minlength=int(2 * _REACH / _BIN)).astype(np.float64), bins


def _around(counts: Floats) -> Floats:
    """Mean count of the bins around each, without itself and the next ones."""

    def total(reach: int) -> Floats:
        return np.convolve(counts, np.ones(2 * reach + 1), mode="same")

    return np.asarray((total(_AROUND) - total(1)) / (2 * (_AROUND - 1)), dtype=np.float64)
