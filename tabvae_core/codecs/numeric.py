"""How numbers become tokens and continuous values: the engine under the number and the datetime codec.

Detectors tell synthetic numbers by what a smooth density blurs. So each cell is one of three things:

- exact: a null, or a *spike* (a value shared by many rows), a token of its own;
- round: a multiple of 10, 100, 1,000 … (or of a minute, an hour, a day) where such values are more frequent than
  chance, a *level* token that carries a value, rounded to that multiple when it is decoded;
- anything else, the finest level.

Values of levels live in Gaussian-quantile space: the empirical distribution mapped to N(0, 1), the way of
scikit-learn's `QuantileTransformer`, here fitted from a bounded uniform sample and with knots that are means of at
least `protect_extremes` cells, so that no knot is a single row's value. Each level has a finer map of its own into
that space: a value that `min_category_rows` share gets a piece as wide as it is frequent, and values with tokens of
their own get none, so a smooth density there is as lumpy as the real values are (99 and 149 are prices, 101 is not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from tabvae_core.tables import row_hash

__all__ = ["NumericFitter", "NumericTable"]

SAMPLE_ROWS = 200_000
MAX_TOKENS = 128
SPIKE_SHARE = 0.005
KNOTS = 400
DECIMALS = 6
_MOST_ERROR = 0.004
"""Share of a step that a multiple of it may be off, being a float; multiples of a finer step are off by hundredths."""
_MOVES = (1.0, -1.0, 2.0, -2.0, 3.0, -3.0)
_MOST_TRIED = 1_000
"""Values looked at, from each end of a bound, for one that is the level's own."""
_MAP_PARTS = ("values", "z", "atoms")
_MOST_ATOMS, _MOST_ANCHORS = 2_000, 48
_LEAST_WIDTH, _NARROW = 1e-7, 1e-4
"""Width in N(0, 1) below which a cell has none, and the width that stands for it."""
_PIECE_WIDTH = 2.0
"""Width of a map's pieces in N(0, 1), times the cube root of the rows (Freedman & Diaconis, 1981)."""
_NEIGHBOURS, _OWN_TIMES, _STRONG, _LEAST_SPREAD, _FEW_VALUES = 200, 10, 4.0, 0.1, 50
"""Rows of a value's neighbourhood, at least and times its own; deviations that chance does not make; least spread of
counts beyond chance, as a share of it; values of which counts are plenty."""

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class LevelMap:
    """A monotone, piecewise linear map between the values of a level and N(0, 1).

    Args:
        values: Knots, ascending, shape (k,).
        z: Their places, ascending, shape (k,).
        atoms: Values of a continuous level that many rows share exactly; empty where values are rounded anyway.

    """

    values: npt.NDArray[np.float64]
    z: npt.NDArray[np.float64]
    atoms: npt.NDArray[np.float64]

    def cell(self, offsets: npt.NDArray[np.float64], half: float) -> tuple[Values, Values]:
        """Edges in N(0, 1) of the cells from half a step below values to half a step above."""
        if half > 0 or not len(self.atoms):
            return np.interp(offsets - half, self.values, self.z), np.interp(offsets + half, self.values, self.z)
        width = np.where(self._nearest(offsets) == offsets, self._width(offsets), 0.0)
        return np.interp(offsets - width, self.values, self.z), np.interp(offsets + width, self.values, self.z)

    def edges(
        self, offsets: npt.NDArray[np.float64], half: float
    ) -> tuple[tuple[Values, Values], tuple[Values, Values]]:
        """Edges of the same cells as values, and in N(0, 1); of a cell without width, those of a narrow one."""
        low, high = self.cell(offsets, half)
        narrow = high - low < _LEAST_WIDTH
        middle = (low + high) / 2
        low, high = (np.where(narrow, middle + sign * _NARROW, edge) for sign, edge in ((-0.5, low), (0.5, high)))
        reach = half if half > 0 or not len(self.atoms) else self._width(offsets)
        below, above = (
            np.where(narrow, np.interp(edge, self.z, self.values), offsets + sign * reach)
            for sign, edge in ((-1, low), (1, high))
        )
        return (below, above), (low, high)

    def value(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Values at places in N(0, 1), not yet rounded."""
        raw = np.interp(z, self.z, self.values)
        if len(self.atoms):
            nearest = self._nearest(raw)
            raw = np.where(np.abs(raw - nearest) <= 1.5 * self._width(nearest), nearest, raw)
        return np.asarray(raw, dtype=np.float64)

    def _nearest(self, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        right = np.clip(np.searchsorted(self.atoms, offsets), 0, len(self.atoms) - 1)
        left = np.maximum(right - 1, 0)
        nearer = np.abs(self.atoms[left] - offsets) < np.abs(self.atoms[right] - offsets)
        return np.asarray(np.where(nearer, self.atoms[left], self.atoms[right]), dtype=np.float64)

    def _width(self, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return _atom_width(offsets, self.values)


def _atom_width(offsets: npt.NDArray[np.float64], knots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half the width that shared values of a continuous level take up: none that values between the knots differ by."""
    least = 1e-3 * min(1.0, max(abs(float(knots[0])), abs(float(knots[-1]))))
    return np.asarray(1e-10 * np.maximum(np.abs(offsets), least), dtype=np.float64)


@dataclass(frozen=True)
class NumericTable:
    """Fitted tables of one number. All values are offsets from `base` as float64, in the column's ordinal units.

    Args:
        base: Subtracted from integers before they become float64, so that 64-bit values keep their low digits.
        integer: Whether the ordinal domain is int64.
        steps: Granularity of each level, coarse to fine, shape (levels,); 0 for a continuous level.
        spikes: Values that are tokens, ascending, shape (spikes,).
        knots_value: Values of the quantile transform, ascending, shape (knots,).
        knots_z: Their places in N(0, 1), ascending, shape (knots,).
        lowest: Protected minimum.
        highest: Protected maximum.
        has_null: Whether a token stands for null.
        counts: Training cells of each token, shape (n_tokens,).
        maps: Finer map of each level into N(0, 1), as long as `steps`.

    """

    base: int
    integer: bool
    steps: npt.NDArray[np.float64]
    spikes: npt.NDArray[np.float64]
    knots_value: npt.NDArray[np.float64]
    knots_z: npt.NDArray[np.float64]
    lowest: float
    highest: float
    has_null: bool
    counts: npt.NDArray[np.float64] = field(compare=False)
    maps: tuple[LevelMap, ...] = ()

    @property
    def n_levels(self) -> int:
        """Tokens that carry a value."""
        return len(self.steps)

    @property
    def n_tokens(self) -> int:
        """Levels, null if there is one, spikes."""
        return len(self.steps) + int(self.has_null) + len(self.spikes)

    @property
    def null_token(self) -> int:
        """Token of null; only meaningful with `has_null`."""
        return len(self.steps)

    @property
    def _first_spike(self) -> int:
        return len(self.steps) + int(self.has_null)

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest offset that any token stands for."""
        low, high = self.lowest, self.highest
        if len(self.spikes):
            outer = float(self.spikes[0]), float(self.spikes[-1])
            low, high = (min(low, outer[0]), max(high, outer[1])) if self.n_levels else outer
        return low, high

    def to_z(self, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map values to N(0, 1), linearly between knots and beyond them along the last piece."""
        return _interpolate(offsets, self.knots_value, self.knots_z)

    def token_values(self) -> npt.NDArray[np.float32]:
        """Place of each spike in N(0, 1), shape (n_tokens,); NaN for levels and null."""
        values = np.full(self.n_tokens, np.nan, dtype=np.float32)
        values[self._first_spike :] = self._spike_z()
        return values

    def _spike_z(self) -> npt.NDArray[np.float64]:
        return np.clip(self.to_z(self.spikes), -6.0, 6.0)

    def offsets(self, values: Values) -> npt.NDArray[np.float64]:
        """Ordinal values as float64 offsets from `base`."""
        if self.integer:
            with np.errstate(over="ignore"):
                return (values.astype(np.int64) - np.int64(self.base)).astype(np.float64)
        return values.astype(np.float64)

    def encode(self, values: Values, valid: npt.NDArray[np.bool_]) -> tuple[Values, Values, Values]:
        """Encode cells to (tokens int32, low float32, high float32), each of shape (n,)."""
        return self._encode(self.offsets(np.where(valid, values, values.dtype.type(self.base))), valid)

    def encode_drawn(self, offsets: npt.NDArray[np.float64]) -> tuple[Values, Values, Values]:
        """Encode numbers that a smooth model drew, as training cells of their rounded values would be; finite, (n,)."""
        if self.n_levels and self.steps[-1] > 0:
            offsets = _round_to(offsets, np.full(len(offsets), self.steps[-1]), self.base, *self.ends)
        return self._encode(offsets, np.ones(len(offsets), dtype=np.bool_))

    def _encode(self, offsets: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> tuple[Values, Values, Values]:
        offsets = np.where(valid, offsets, 0.0)
        n = len(offsets)
        tokens, low, high = np.zeros(n, np.int32), np.zeros(n), np.zeros(n)
        is_spike = np.zeros(n, dtype=np.bool_)
        if len(self.spikes):
            place = np.minimum(np.searchsorted(self.spikes, offsets), len(self.spikes) - 1)
            is_spike = valid & (self.spikes[place] == offsets)
            if not self.n_levels:  # a value that was never learned goes to its nearest neighbour
                left = np.maximum(place - 1, 0)
                nearer = np.abs(self.spikes[left] - offsets) < np.abs(self.spikes[place] - offsets)
                place = np.where(nearer & ~is_spike, left, place)
                is_spike = valid.copy()
            tokens[is_spike] = (place + self._first_spike)[is_spike]
            low[is_spike] = high[is_spike] = self._spike_z()[place[is_spike]]
        rest = valid & ~is_spike
        if self.n_levels and rest.any():
            tokens[rest] = self.level_of(offsets[rest])
            low[rest], high[rest] = self._cells(tokens[rest], offsets[rest])
        if self.has_null:
            tokens[~valid] = self.null_token
        return tokens, low.astype(np.float32), high.astype(np.float32)

    def level_of(self, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Coarsest level of whose granularity each value is a multiple."""
        level = np.full(len(offsets), len(self.steps) - 1, dtype=np.int64)
        some = offsets != -self.base  # zero is a multiple of everything, which says nothing
        for index in range(len(self.steps) - 2, -1, -1):
            level[some & _is_multiple(offsets, self.steps[index], self.base)] = index
        return level

    def decode(self, tokens: Values, z: Values) -> tuple[Values, npt.NDArray[np.bool_]]:
        """Decode to (ordinal values, valid), each of shape (n,)."""
        offsets = np.zeros(len(tokens))
        is_level = tokens < self.n_levels
        if is_level.any():
            offsets[is_level] = self._of_level(tokens[is_level], z[is_level])
        is_spike = tokens >= self._first_spike
        offsets[is_spike] = self.spikes[tokens[is_spike] - self._first_spike]
        valid = is_level | is_spike
        if self.integer:
            return np.rint(offsets).astype(np.int64) + np.int64(self.base), valid
        return offsets, valid

    def _cells(self, levels: Values, offsets: npt.NDArray[np.float64]) -> tuple[Values, Values]:
        """Edges in N(0, 1) of the cells of values at their levels."""
        low, high = np.zeros(len(offsets)), np.zeros(len(offsets))
        for level, (step, finer) in enumerate(zip(self.steps, self.maps, strict=True)):
            at = levels == level
            if at.any():
                inside = np.clip(offsets[at], self.lowest, self.highest)
                if step and not self.integer:  # as the map's knots, whose cells meet where they are a grid
                    inside = np.rint(2 * inside / step) * (step / 2)
                low[at], high[at] = finer.cell(inside, step / 2)
        return low, high

    def edges(
        self, levels: Values, offsets: npt.NDArray[np.float64]
    ) -> tuple[tuple[Values, Values], tuple[Values, Values]]:
        """Edges of the cells of values at their levels, as offsets and in N(0, 1), each of shape (n,)."""
        found = np.zeros((4, len(offsets)))
        for level, (step, finer) in enumerate(zip(self.steps, self.maps, strict=True)):
            at = levels == level
            if at.any():
                values, places = finer.edges(np.clip(offsets[at], self.lowest, self.highest), step / 2)
                found[:, at] = (*values, *places)
        return (found[0], found[1]), (found[2], found[3])

    def places(self, levels: Values, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Places in N(0, 1) of values at their levels, shape (n,)."""
        found = np.zeros(len(offsets))
        for level, finer in enumerate(self.maps):
            at = levels == level
            if at.any():
                found[at] = np.interp(np.clip(offsets[at], self.lowest, self.highest), finer.values, finer.z)
        return found

    def drawn_offsets(self, tokens: Values, z: Values) -> npt.NDArray[np.float64]:
        """Offsets that cells of levels are decoded to, shape (n,); zero of other cells."""
        found, is_level = np.zeros(len(tokens)), tokens < self.n_levels
        if is_level.any():
            found[is_level] = self._of_level(tokens[is_level], z[is_level])
        return found

    def _of_level(self, tokens: Values, z: Values) -> npt.NDArray[np.float64]:
        """Offsets of cells of levels: rounded, and moved off values that the training rows would tell otherwise."""
        raw = np.zeros(len(tokens))
        for level, finer in enumerate(self.maps):
            at = tokens == level
            if at.any():
                raw[at] = finer.value(z[at].astype(np.float64))
        step = self.steps[tokens]
        raw = np.clip(raw, self.lowest, self.highest)
        rounded = _round_to(raw, step, self.base, self.lowest, self.highest)
        wrong = np.flatnonzero((step > 0) & self._is_foreign(rounded, tokens))
        toward = np.where(raw[wrong] >= rounded[wrong], 1.0, -1.0)
        for move in _MOVES:
            if not len(wrong):
                break
            target = rounded[wrong] + move * toward * step[wrong]
            moved = _round_to(target, step[wrong], self.base, self.lowest, self.highest)
            better = ~self._is_foreign(moved, tokens[wrong]) & (np.abs(moved - target) < step[wrong] / 2)
            rounded[wrong[better]] = moved[better]
            wrong, toward = wrong[~better], toward[~better]
        return rounded

    def _is_foreign(self, offsets: npt.NDArray[np.float64], tokens: Values) -> npt.NDArray[np.bool_]:
        """Whether values have a token other than the given levels': a spike's, or a coarser level's."""
        foreign = self.level_of(offsets) != tokens
        if len(self.spikes):
            right = np.minimum(np.searchsorted(self.spikes, offsets), len(self.spikes) - 1)
            reach = np.minimum(
                _float_error(self.spikes), _MOST_ERROR * float(self.steps[self.steps > 0].min(initial=1.0))
            )
            for place in (right, np.maximum(right - 1, 0)):
                foreign |= np.abs(self.spikes[place] - offsets) <= reach[place]
        return np.asarray(foreign)

    def settle(self, tokens: Values, z: Values) -> npt.NDArray[np.float32]:
        """Move drawn values to the middle of the cells that they will be decoded to, where training rows lie."""
        settled = z.astype(np.float32)
        is_level = tokens < self.n_levels
        if is_level.any():
            low, high = self._cells(tokens[is_level], self._of_level(tokens[is_level], z[is_level]))
            settled[is_level] = (low.astype(np.float32) + high.astype(np.float32)) / 2
        return settled

    def z_between(self, level: int, low: float, high: float) -> tuple[float, float] | None:
        """Interval of N(0, 1) that a level decodes to values between two offsets alone; None where it has none.

        It begins and ends at values of the level itself: what is moved off another kind's value never passes those.
        """
        step = float(self.steps[level])
        low, high = max(low, self.lowest), min(high, self.highest)
        if step > 0:
            shift = self.base % int(step) if self.base else 0
            first, last = np.ceil((low + shift) / step - 1e-9), np.floor((high + shift) / step + 1e-9)
            inside = np.arange(min(_MOST_TRIED, max(0, int(last - first) + 1)))
            ends = []
            for grid in (first + inside, last - inside):
                values = _round_to(grid * step - shift, np.full(len(grid), step), self.base, self.lowest, self.highest)
                own = values[~self._is_foreign(values, np.full(len(values), level))]
                ends.append(own[0] if len(own) else np.nan)
            low, high = ends
        if not low <= high:
            return None
        below, above = self._cells(np.full(2, level), np.array([low, high]))
        # A little within the outer cells: their very edges may round either way.
        margin = 2e-3 * (above - below)
        return float(below[0] + margin[0]), float(above[1] - margin[1])

    def z_range(self) -> tuple[float, float]:
        """Interval of N(0, 1) between the protected ends, half a step of the finest level beyond them."""
        if self.maps:
            low, high = min(m.z[0] for m in self.maps), max(m.z[-1] for m in self.maps)
        else:
            low, high = self.to_z(np.array([self.lowest, self.highest]))
        return float(low), float(max(high, low + 1e-6))

    def to_json(self) -> dict[str, Any]:
        """Scalars for the bundle."""
        return {
            "base": self.base,
            "integer": self.integer,
            "lowest": self.lowest,
            "highest": self.highest,
            "has_null": self.has_null,
        }

    def to_arrays(self) -> dict[str, Values]:
        """Arrays for the bundle."""
        names = ("steps", "spikes", "knots_value", "knots_z", "counts")
        arrays = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in names}
        for level, finer in enumerate(self.maps):
            arrays |= {f"level{level}_{part}": getattr(finer, part) for part in _MAP_PARTS}
        return arrays

    @classmethod
    def restore(cls, values: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """Rebuild from `to_json` and `to_arrays`."""
        own = {name: array for name, array in arrays.items() if not name.startswith("level")}
        maps = tuple(
            LevelMap(*(arrays[f"level{level}_{part}"] for part in _MAP_PARTS)) for level in range(len(own["steps"]))
        )
        return cls(**values, **own, maps=maps)


def _interpolate(x: Values, xs: Values, ys: Values) -> npt.NDArray[np.float64]:
    """Piecewise linear through (xs, ys), the outer pieces continued beyond the ends."""
    if len(xs) == 1:
        return np.asarray(ys[0] + (x - xs[0]), dtype=np.float64)
    piece = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, len(xs) - 2)
    slope = (ys[piece + 1] - ys[piece]) / (xs[piece + 1] - xs[piece])
    return np.asarray(ys[piece] + (x - xs[piece]) * slope, dtype=np.float64)


def _float_error(values: Values) -> npt.NDArray[np.float64]:
    """What values may be off from the decimals that they stand for: much, where they are float32."""
    with np.errstate(over="ignore"):
        is_single = values == values.astype(np.float32)
    return np.asarray(np.where(is_single, 2e-7, 4e-15) * np.abs(values), dtype=np.float64)


def _is_multiple(offsets: Values, step: float, base: int) -> npt.NDArray[np.bool_]:
    if step <= 0:
        return np.ones(len(offsets), dtype=np.bool_)
    if base or 1 <= step <= np.abs(offsets).max(initial=step) < 2.0**53:
        whole = int(step)
        rounded = np.where(np.abs(offsets) < 2.0**62, np.rint(offsets), 0.0)
        divides = (rounded.astype(np.int64) % whole + base % whole) % whole == 0
        return np.asarray(divides & (rounded == offsets))
    told = np.abs(offsets) < 2.0**52 * step  # beyond, floats lie farther apart than multiples
    ratio = np.where(told, offsets, 0.0) / step
    tolerance = np.minimum(1e-5 + _float_error(ratio * step) / step, _MOST_ERROR)
    some = (np.rint(ratio) != 0.0) | (offsets == 0.0)  # a small number is no zero
    return np.asarray(told & some & (np.abs(ratio - np.rint(ratio)) < tolerance))


def _on_grid(end: float, steps: Values) -> float:
    """Take an end that is a decimal but for its error as a float as that decimal, which would else lie beyond it."""
    grids = steps[steps > 0]
    if not len(grids) or grids[-1] >= 1 or (steps[-1] == 0 and not _is_multiple(np.array([end]), grids[-1], 0)[0]):
        return end
    nearest = float(np.round(np.rint(end / grids[-1]) * grids[-1], DECIMALS))
    return nearest if abs(nearest - end) <= 0.1 * grids[-1] else end


def _round_to(raw: Values, step: Values, base: int, lowest: float, highest: float) -> Values:
    """Round to the nearest multiple of each step (of the value, not of the offset) that lies within the bounds."""
    safe = np.where(step > 0, step, 1.0)
    # In whole numbers: a base beyond 2^53 is no float64.
    shift = np.where(step > 0, np.int64(base) % safe.astype(np.int64), 0) if base else np.zeros(len(raw))
    rounded = np.rint((raw + shift) / safe) * safe - shift
    slack = 4 * np.spacing(max(abs(lowest), abs(highest)))  # 0.1 * 3 is more than 0.3
    rounded = np.where((rounded > highest + slack) & (rounded - safe >= lowest - slack), rounded - safe, rounded)
    rounded = np.where((rounded < lowest - slack) & (rounded + safe <= highest + slack), rounded + safe, rounded)
    decimal = step < 1
    if decimal.any():  # 0.1 * 3 is not 0.3: settle on the float nearest to the decimal
        with np.errstate(over="ignore"):
            rounded = np.where(decimal & (step > 0), np.round(rounded, DECIMALS), rounded)
    return np.where(step > 0, np.clip(rounded, lowest, highest), raw)


class NumericFitter:
    """Mergeable partial result over a number's cells; memory does not grow with rows.

    Args:
        integer: Whether values come as int64 (else float64).
        units: Candidates for round values above the finest granularity, ascending, such as (10, 100, 1000).
        min_rows: A spike needs at least so many rows.
        protect: Each knot is the mean of at least so many cells.
        relative_error: Rounding error of the column's type: about 6e-8 for float32, 1e-15 for float64.

    """

    def __init__(
        self,
        *,
        integer: bool,
        units: Sequence[int],
        min_rows: int,
        protect: int,
        relative_error: float = 1e-15,
    ) -> None:
        self.integer, self.units = integer, tuple(units)
        self.min_rows, self.protect, self.relative_error = min_rows, protect, relative_error
        self._hashes = np.zeros(0, dtype=np.uint64)
        self._values: Values = np.zeros(0, dtype=np.int64 if integer else np.float64)
        self._valid = self._nulls = 0

    def observe(self, values: Values, valid: npt.NDArray[np.bool_], first_row: int) -> None:
        """Take in cells of consecutive rows."""
        hashes = row_hash(np.arange(first_row, first_row + len(values), dtype=np.uint64), 7)
        self._nulls += int((~valid).sum())
        self._take(values[valid], hashes[valid], int(valid.sum()))

    def merge(self, other: NumericFitter) -> None:
        """Take in another partial result."""
        self._nulls += other._nulls
        self._take(other._values, other._hashes, other._valid)

    def _take(self, values: Values, hashes: Values, valid: int) -> None:
        self._valid += valid
        self._values = np.concatenate([self._values, values])
        self._hashes = np.concatenate([self._hashes, hashes])
        if len(self._hashes) > SAMPLE_ROWS:  # bottom-k by hash: a uniform sample that merges in any order
            kept = np.argpartition(self._hashes, SAMPLE_ROWS)[:SAMPLE_ROWS]
            self._values, self._hashes = self._values[kept], self._hashes[kept]

    def finish(self) -> NumericTable:
        """Decide spikes, levels and knots."""
        base = int(self._values.min()) if self.integer and len(self._values) else 0
        offsets = np.sort(self._offsets(self._values, base))
        has_null = self._nulls > 0
        if not len(offsets):
            empty = np.zeros(0)
            counts = np.array([float(self._nulls)]) if has_null else empty
            return NumericTable(base, self.integer, empty, empty, np.zeros(1), np.zeros(1), 0.0, 0.0, has_null, counts)
        unique, counts = np.unique(offsets, return_counts=True)
        spikes = self._spikes(unique, counts, len(offsets))
        rest = offsets[~np.isin(offsets, spikes)]
        if 0 < len(rest) < max(self.min_rows, 0.0005 * len(offsets)) and len(spikes) > 1:
            rest = rest[:0]  # a handful of odd values: their nearest spikes stand for them
        steps = self._levels(rest, base) if len(rest) else np.zeros(0)
        if not len(steps) and not len(spikes):
            steps = np.zeros(1)
        ranged = rest if len(rest) >= 2 * self.protect else offsets
        lowest, highest = (_on_grid(end, steps) for end in self._bounds(ranged))
        knots_value, knots_z = self._knots(ranged, lowest, highest)
        table = NumericTable(
            base, self.integer, steps, spikes, knots_value, knots_z, lowest, highest, has_null, np.zeros(0)
        )
        table = replace(table, maps=self._maps(table, np.clip(ranged, lowest, highest)))
        tokens, _, _ = table.encode(self._values, np.ones(len(self._values), dtype=np.bool_))
        per_token = np.bincount(tokens, minlength=table.n_tokens).astype(np.float64)
        if has_null:
            per_token[table.null_token] = self._nulls * len(self._values) / max(self._valid, 1)
        return replace(table, counts=per_token)

    def _maps(self, table: NumericTable, cells: Values) -> tuple[LevelMap, ...]:
        """Finer maps of the levels, from their cells."""
        if not table.n_levels:
            return ()
        levels = table.level_of(cells)
        own = ~np.isin(cells, table.spikes)
        if not own.any():
            own[:] = True
        return tuple(
            self._level_map(table, float(step), cells[own & (levels == level)])
            for level, step in enumerate(table.steps)
        )

    def _level_map(self, table: NumericTable, step: float, cells: Values) -> LevelMap:
        half, (low, high) = step / 2, (table.lowest - step / 2, table.highest + step / 2)
        if high <= low:
            high = low + 1e-9 * max(1.0, abs(low))
        unique, counts = np.unique(cells, return_counts=True)
        shared, mass = counts >= max(self.min_rows, 1), counts.astype(np.float64)
        if half:
            coarser = min((float(other) for other in table.steps if other > step), default=np.inf)
            mass = _believable(unique, counts, step, 1 - step / coarser)
            shared &= mass > 0
        if shared.sum() > _MOST_ATOMS:
            shared &= counts > np.sort(counts)[-_MOST_ATOMS]
        atoms, mass = unique[shared], mass[shared]
        smooth = cells[~np.isin(cells, atoms)]
        knots = np.array([low, high])
        share = np.array([0.0, 1.0])
        if len(smooth) >= 2 * self.protect:
            middles, sizes = self._pieces(smooth)
            knots = np.concatenate([[low], middles, [high]])
            share = np.concatenate([[0.0], (np.cumsum(sizes) - sizes / 2) / len(smooth), [1.0]])
        near = table.spikes[(table.spikes >= low) & (table.spikes <= high)]
        taken = np.union1d(atoms, near[_is_multiple(near, step, table.base)]) if half else atoms
        width = np.full(len(taken), half) if half else _atom_width(taken, np.array([low, high]))
        edges = np.concatenate([knots, np.clip(np.r_[taken - width, taken + width], low, high)])
        if half and not self.integer:  # neighbours share an edge, which floats would give two readings
            edges = np.rint(edges / half) * half
        edges = np.unique(edges)
        middle = (edges[1:] + edges[:-1]) / 2
        # The smooth part has no share in cells that are taken: by spikes, or by atoms, which bring their own.
        place = np.minimum(np.searchsorted(taken, middle), max(len(taken) - 1, 0))
        left = np.maximum(place - 1, 0)
        inside = np.zeros(len(middle), dtype=np.bool_)
        for at in (place, left) if len(taken) else ():
            inside |= np.abs(middle - taken[at]) < width[at]
        pieces_mass = np.where(inside, 0.0, np.diff(np.interp(edges, knots, share)))
        total = pieces_mass.sum()
        pieces_mass *= len(smooth) / total if total > 0 else 0.0
        is_atom = np.zeros(len(middle), dtype=np.bool_)
        if len(atoms):
            owner = np.searchsorted(atoms, middle)
            for at in (np.minimum(owner, len(atoms) - 1), np.maximum(owner - 1, 0)):
                reach = half if half else _atom_width(atoms[at], np.array([low, high]))
                hit = inside & (np.abs(middle - atoms[at]) < reach)
                first = hit & np.concatenate([[True], ~(hit[1:] & hit[:-1] & (at[1:] == at[:-1]))])
                pieces_mass[first] += mass[at[first]]
                is_atom |= first
                inside &= ~hit
        if pieces_mass.sum() <= 0:
            pieces_mass = np.diff(edges)
        filled = np.concatenate([[0.0], np.cumsum(pieces_mass)])
        filled /= filled[-1]
        # Anchors tie the map to the common one: a place means about the same value at every level.
        n = int(np.clip(len(cells) / (4 * max(self.protect, 1)), 2, _MOST_ANCHORS))
        anchors = np.arange(1, n) / n
        # An anchor in a frequent value, or close to it, would narrow that value's piece to its width in the common map.
        portion = np.diff(filled)
        wide = is_atom & (portion > 0.5 / n)
        first_place, last_place = filled[:-1][wide] - portion[wide] / 2, filled[1:][wide] + portion[wide] / 2
        anchors = anchors[~((anchors[:, None] > first_place) & (anchors[:, None] < last_place)).any(axis=1)]
        finest = float(table.steps[-1]) / 2
        common = table.to_z(
            np.clip(
                np.concatenate([[low], np.interp(anchors, filled, edges), [high]]),
                table.lowest - finest,
                table.highest + finest,
            )
        )
        z = np.interp(filled, np.concatenate([[0.0], anchors, [1.0]]), np.maximum.accumulate(common))
        return LevelMap(edges, z + 1e-7 * np.arange(len(z)), atoms if not half else np.zeros(0))

    def _pieces(self, cells: Values) -> tuple[Values, Values]:
        """Means and sizes of runs of sorted cells, as wide in N(0, 1) as so many rows can tell apart."""
        values, counts = np.unique(cells, return_counts=True)
        z = ndtri((np.cumsum(counts) - counts / 2) / len(cells))
        of_value = np.floor((z - z[0]) / (_PIECE_WIDTH / np.cbrt(len(cells)))).astype(np.int64)
        of_value = _merge_small(np.unique(of_value, return_inverse=True)[1], counts, max(self.protect, 1))
        sizes = np.bincount(of_value, weights=counts)
        return np.bincount(of_value, weights=values * (counts / sizes[of_value])), sizes

    def _offsets(self, values: Values, base: int) -> npt.NDArray[np.float64]:
        return (values - base).astype(np.float64) if self.integer else values.astype(np.float64)

    def _bounds(self, offsets: Values) -> tuple[float, float]:
        """Mean of the outermost cells at each end, unless enough rows share the outermost value to make it nobody's."""
        ends = []
        for outer, cells in ((offsets[0], offsets[: self.protect]), (offsets[-1], offsets[-self.protect :])):
            if self.protect == 1 or int((offsets == outer).sum()) >= self.min_rows:
                ends.append(float(outer))
            else:
                mean = float(cells.mean())
                ends.append(float(np.rint(mean)) if self.integer else mean)
        return ends[0], max(ends[1], ends[0])

    def _spikes(self, unique: Values, counts: Values, total: int) -> npt.NDArray[np.float64]:
        least = max(self.min_rows, 1)
        if len(unique) <= MAX_TOKENS and total / len(unique) >= 10:
            return np.asarray(unique[counts >= least], dtype=np.float64)
        common = counts >= max(least, SPIKE_SHARE * total, 4 * total / len(unique) if len(unique) < 1000 else 0)
        if common.sum() > MAX_TOKENS:
            common &= counts >= np.sort(counts)[-MAX_TOKENS]
        return np.asarray(unique[common], dtype=np.float64)

    def _finest(self, rest: Values) -> float:
        """Granularity of the values: 1 for integers, a power of ten for decimals, 0 for continuous ones."""
        largest = float(np.abs(rest).max(initial=0.0))
        if self.integer or bool(np.all(rest == np.rint(rest))):
            if largest < 2.0**53 or self.integer:
                return 1.0 if largest < 2.0**53 else 0.0
            # Decimals of many digits, of which float64 has the first ones.
            coarse = 10.0 ** np.ceil(np.log10(np.spacing(largest) / _MOST_ERROR))
            return float(coarse) if _is_multiple(rest, coarse, 0).all() else 0.0
        for decimals in range(1, DECIMALS + 1):
            if largest >= 10.0 ** ((6 if self.relative_error > 1e-9 else 15) - decimals):
                break
            nearest = np.round(rest, decimals)
            some = (nearest != 0.0) | (rest == 0.0)  # 1e-19 is no zero
            if np.all(some & (np.abs(rest - nearest) <= 1e-12 + self.relative_error * np.abs(rest))):
                return float(10.0**-decimals)
        return 0.0

    def _levels(self, rest: Values, base: int) -> npt.NDArray[np.float64]:
        finest = self._finest(rest)
        if finest == 0.0 and (self.integer or bool(np.all(rest == np.rint(rest)))):
            return np.zeros(1)  # wider than float64 counts: no value is rounder than others
        if finest == 0.0:  # most values may still be round, as amounts are beside computed ones
            grids = [10.0**-k for k in range(4)]
            shares = [float(_is_multiple(rest, grid, base).mean()) for grid in grids]
            common = [grid for grid, share in zip(grids, shares, strict=True) if share >= max(shares) - 0.01]
            return np.array([common[0], 0.0]) if max(shares) >= 0.05 else np.zeros(1)
        candidates = self.units if finest == 1.0 else tuple(finest * 10**k for k in range(1, 9))
        steps, share = [finest], 1.0
        rest = rest[rest != -base]
        if not len(rest):
            return np.array(steps)
        for candidate in candidates:
            multiple = float(_is_multiple(rest, candidate, base).mean())
            if multiple < max(0.01, self.min_rows / len(rest)):
                continue
            if multiple >= 1.0:  # nothing is finer than this
                steps, share = [float(candidate)], 1.0
            elif multiple > 1.5 * share * steps[-1] / candidate:
                steps.append(float(candidate))
                share = multiple
        return np.array(steps[::-1])

    def _knots(self, values: Values, lowest: float, highest: float) -> tuple[Values, Values]:
        values = np.clip(values, lowest, highest)
        n = len(values)
        unique, first, counts = np.unique(values, return_index=True, return_counts=True)
        if len(unique) < 2:
            return np.array([unique[0]]), np.zeros(1)
        z = ndtri((first + counts / 2) / n)
        cells = np.floor((z - z[0]) / max((z[-1] - z[0]) / KNOTS, 1e-9)).astype(np.int64)
        cells = _merge_small(cells, counts, self.protect)
        weight = np.bincount(cells, weights=counts)
        # Shares, not counts: the sum of numbers near the largest float would overflow.
        knots_value = np.bincount(cells, weights=unique * (counts / weight[cells]))
        knots_z = np.bincount(cells, weights=counts * z) / weight
        if len(knots_value) < 2:
            spread = max(float(highest - lowest), 1e-9)
            return np.array([lowest, lowest + spread]), np.array([-2.0, 2.0])
        # The outer knots stand half a cell inside the range: carry the scale to its protected ends.
        value = np.concatenate([[lowest], knots_value, [highest]])
        place = np.concatenate([[min(z[0], knots_z[0]) - 1e-3], knots_z, [max(z[-1], knots_z[-1]) + 1e-3]])
        keep = np.concatenate([[True], np.diff(value) > np.maximum(1e-12 * np.abs(value[1:]), 1e-305)])
        return value[keep], place[keep]


def _believable(values: Values, counts: Values, step: float, own: float) -> npt.NDArray[np.float64]:
    """How much of the counts of single values a new sample would show again, as expected counts.

    That 4.37 was seen 60 times and 4.38 50 times is mostly chance, which a model must not repeat; that 99 was seen 600
    times is not. Counts far beyond their neighbourhood's are taken as they are, the others shrunk towards it by as much
    as chance explains their spread (empirical Bayes: Robbins, 1956; James & Stein, 1961).

    Args:
        values: Values on a grid, ascending, shape (n,).
        counts: Rows of each.
        step: The grid.
        own: Share of the grid's values that belong to this level.

    Returns:
        Expected counts, shape (n,); 0 where a value is not told from its neighbourhood.

    """
    weights: npt.NDArray[np.float64] = counts.astype(np.float64)
    strong = np.zeros(len(values), dtype=np.bool_)
    if len(values) < _FEW_VALUES:
        return weights
    expected = weights
    for _ in range(2):
        weak = np.where(strong, 0.0, weights)
        total = np.cumsum(weak)
        reach = np.maximum(_NEIGHBOURS, _OWN_TIMES * weights) / 2
        first = np.searchsorted(total, total - weak / 2 - reach)
        last = np.minimum(np.searchsorted(total, total - weak / 2 + reach), len(values) - 1)
        rows = total[last] - total[first] + weak[first] - weak
        before = np.cumsum(strong.astype(np.int64))
        gone = before[last] - before[first] + strong[first].astype(np.int64) - strong.astype(np.int64)
        places = np.maximum(1.0, ((values[last] - values[first]) / step) * own - gone)
        expected = rows / places
        strong = weights - expected > _STRONG * np.sqrt(np.maximum(expected, 1.0))
    rest = ~strong & (expected > 0)
    if not rest.any():
        return weights
    # Of the spread around a mean over some places, chance makes so much; the rest is the values' own.
    chance = float(np.mean(1 + 1 / places[rest]))
    own_spread = float(np.mean((weights[rest] - expected[rest]) ** 2 / expected[rest])) - chance
    if own_spread < _LEAST_SPREAD + _STRONG * np.sqrt(2 / rest.sum()):
        return np.where(strong, weights, 0.0)
    kept = own_spread / (own_spread + chance)
    shrunk = expected + kept * (weights - expected)
    shrunk *= weights[~strong].sum() / max(shrunk[~strong].sum(), 1e-9)
    return np.asarray(np.where(strong, weights, shrunk))


def _merge_small(cells: Values, counts: Values, least: int) -> npt.NDArray[np.int64]:
    """Renumber runs of cells so that each holds at least `least` rows, the last one joined to its neighbour."""
    totals = np.bincount(cells, weights=counts)
    group, filled, of_cell = 0, 0.0, np.zeros(len(totals), dtype=np.int64)
    for index, total in enumerate(totals):
        of_cell[index] = group
        filled += total
        if filled >= least:
            group, filled = group + 1, 0.0
    if filled and group:
        of_cell[of_cell == group] = group - 1
    merged: npt.NDArray[np.int64] = of_cell[cells]
    return merged
