"""How numbers become tokens and continuous values: the engine under the number and the datetime codec.

Detectors tell synthetic numbers by what a smooth density blurs. So each cell is one of three things:

- exact: a null, or a *spike* (a value shared by many rows), a token of its own;
- round: a multiple of 10, 100, 1,000 … (or of a minute, an hour, a day) where such values are more frequent than
  chance, a *level* token that carries a value, rounded to that multiple when it is decoded;
- anything else, the finest level.

Values of levels live in Gaussian-quantile space: the empirical distribution mapped to N(0, 1), the way of
scikit-learn's `QuantileTransformer`, here fitted from a bounded uniform sample and with knots that are means of at
least `protect_extremes` cells, so that no knot is a single row's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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

Values = npt.NDArray[Any]


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

    def to_z(self, offsets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Map values to N(0, 1), linearly between knots and beyond them along the last piece."""
        return _interpolate(offsets, self.knots_value, self.knots_z)

    def from_z(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Invert `to_z`."""
        return _interpolate(z, self.knots_z, self.knots_value)

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
        offsets = np.where(valid, self.offsets(np.where(valid, values, values.dtype.type(self.base))), 0.0)
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
            level = self.level_of(offsets[rest])
            half = self.steps[level] / 2
            tokens[rest] = level
            ends = self.z_range()
            low[rest] = np.clip(self.to_z(offsets[rest] - half), *ends)
            high[rest] = np.clip(self.to_z(offsets[rest] + half), *ends)
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
            step = self.steps[tokens[is_level]]
            raw = np.clip(self.from_z(z[is_level].astype(np.float64)), self.lowest, self.highest)
            offsets[is_level] = _round_to(raw, step, self.base, self.lowest, self.highest)
        is_spike = tokens >= self._first_spike
        offsets[is_spike] = self.spikes[tokens[is_spike] - self._first_spike]
        valid = is_level | is_spike
        if self.integer:
            return np.rint(offsets).astype(np.int64) + np.int64(self.base), valid
        return offsets, valid

    def z_range(self) -> tuple[float, float]:
        """Interval of N(0, 1) between the protected ends, half a step of the finest level beyond them."""
        half = float(self.steps[-1]) / 2 if self.n_levels else 0.0
        low, high = self.to_z(np.array([self.lowest - half, self.highest + half]))
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
        return {name: np.asarray(getattr(self, name), dtype=np.float64) for name in names}

    @classmethod
    def restore(cls, values: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """Rebuild from `to_json` and `to_arrays`."""
        return cls(**values, **arrays)


def _interpolate(x: Values, xs: Values, ys: Values) -> npt.NDArray[np.float64]:
    """Piecewise linear through (xs, ys), the outer pieces continued beyond the ends."""
    if len(xs) == 1:
        return np.asarray(ys[0] + (x - xs[0]), dtype=np.float64)
    piece = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, len(xs) - 2)
    slope = (ys[piece + 1] - ys[piece]) / (xs[piece + 1] - xs[piece])
    return np.asarray(ys[piece] + (x - xs[piece]) * slope, dtype=np.float64)


def _is_multiple(offsets: Values, step: float, base: int) -> npt.NDArray[np.bool_]:
    if step <= 0:
        return np.ones(len(offsets), dtype=np.bool_)
    if base or step >= 1:
        whole = int(step)
        rounded = np.rint(offsets)
        divides = (rounded.astype(np.int64) % whole + base % whole) % whole == 0
        return np.asarray(divides & (rounded == offsets))
    ratio = offsets / step
    # Values already lie on a decimal grid, so a candidate's remainders are tenths: float32's error stays far below.
    tolerance = np.minimum(1e-5 + 2e-7 * np.abs(ratio), 0.01)
    return np.asarray(np.abs(ratio - np.rint(ratio)) < tolerance)


def _round_to(raw: Values, step: Values, base: int, lowest: float, highest: float) -> Values:
    """Round to the nearest multiple of each step (of the value, not of the offset) that lies within the bounds."""
    safe = np.where(step > 0, step, 1.0)
    shift = np.where(step > 0, np.mod(float(base), safe), 0.0) if base else np.zeros(len(raw))
    rounded = np.rint((raw + shift) / safe) * safe - shift
    rounded = np.where((rounded > highest) & (rounded - safe >= lowest), rounded - safe, rounded)
    rounded = np.where((rounded < lowest) & (rounded + safe <= highest), rounded + safe, rounded)
    decimal = step < 1
    if decimal.any():  # 0.1 * 3 is not 0.3: settle on the float nearest to the decimal
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
        lowest, highest = self._bounds(ranged)
        knots_value, knots_z = self._knots(ranged, lowest, highest)
        table = NumericTable(
            base, self.integer, steps, spikes, knots_value, knots_z, lowest, highest, has_null, np.zeros(0)
        )
        tokens, _, _ = table.encode(self._values, np.ones(len(self._values), dtype=np.bool_))
        per_token = np.bincount(tokens, minlength=table.n_tokens).astype(np.float64)
        if has_null:
            per_token[table.null_token] = self._nulls * len(self._values) / max(self._valid, 1)
        return NumericTable(
            base, self.integer, steps, spikes, knots_value, knots_z, lowest, highest, has_null, per_token
        )

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
        if self.integer or bool(np.all(rest == np.rint(rest))):
            return 1.0 if np.abs(rest).max(initial=0) < 2.0**53 else 0.0
        for decimals in range(1, DECIMALS + 1):
            error = np.abs(rest - np.round(rest, decimals))
            if np.all(error <= 1e-12 + self.relative_error * np.abs(rest)) and np.abs(rest).max() < 10.0 ** (
                (6 if self.relative_error > 1e-9 else 15) - decimals
            ):
                return float(10.0**-decimals)
        return 0.0

    def _levels(self, rest: Values, base: int) -> npt.NDArray[np.float64]:
        finest = self._finest(rest)
        if finest == 0.0:
            return np.zeros(1)
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
        keep = np.concatenate([[True], np.diff(value) > 1e-12 * max(1.0, float(np.abs(value).max()))])
        return value[keep], place[keep]


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
