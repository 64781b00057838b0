"""Jensen-Shannon distance of two columns, on bins that reference rows define.

Measures (numbers, dates, times, durations) fall into quantile bins of the reference, everything else into its
categories; nulls have a bin of their own. Counts of batches add up, so a table can be measured while it
streams.

The distance is the square root of the Jensen-Shannon divergence in bits (Endres and Schindelin, 2003): a
metric, 0 for equal shares and 1 for shares without overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["QUANTILE_BINS", "Counts", "Histogram", "ReferenceBins", "chance_distance", "jensen_shannon_distance"]

QUANTILE_BINS = 30
"""Bins of a measure: fine enough to see a spike, few enough that a thousand rows fill them."""

Counts = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


def jensen_shannon_distance(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Measure how far two histograms over the same bins are apart, in [0, 1].

    Args:
        p: Counts or shares, shape (bins,); they need not add up to 1.
        q: The same of the other side.

    Returns:
        0.0 where both are empty, 1.0 where one is.

    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"histograms must have the same bins, however: {first.shape} and {second.shape}")
    if not first.sum() or not second.sum():
        return float(first.sum() != second.sum())
    first, second = first / first.sum(), second / second.sum()
    middle = (first + second) / 2
    return float(np.sqrt(np.clip((_divergence(first, middle) + _divergence(second, middle)) / 2, 0.0, 1.0)))


def chance_distance(reference: npt.ArrayLike, other: npt.ArrayLike, *, level: float = 0.99) -> float:
    """Distance that two samples of one distribution stay below with probability `level`: what chance alone explains.

    For few rows the divergence is close to a scaled chi-square: 8 ln 2 JSD / (1/n + 1/m) has about as many degrees of
    freedom as there are occupied bins, less one.

    Args:
        reference: Counts of one side, shape (bins,).
        other: Counts of the other side, shape (bins,).
        level: Probability, in (0, 1).

    """
    from scipy.stats import chi2

    first, second = np.asarray(reference, dtype=np.float64), np.asarray(other, dtype=np.float64)
    occupied = int(((first + second) > 0).sum())
    if occupied < 2 or not first.sum() or not second.sum():
        return 0.0
    spread = (1 / first.sum() + 1 / second.sum()) / (8 * np.log(2))
    return float(min(1.0, np.sqrt(chi2.ppf(level, occupied - 1) * spread)))


def _divergence(p: _Floats, q: _Floats) -> float:
    """Kullback-Leibler divergence in bits; a bin that is empty in `p` adds nothing."""
    some = p > 0
    return float(np.sum(p[some] * np.log2(p[some] / q[some])))


@dataclass(frozen=True, eq=False)
class ReferenceBins:
    """Bins of one column. The last one counts nulls, the NaN of floats among them.

    Args:
        edges: Inner edges of a measure's bins, each closed on the left, float64, shape (size - 2,); None:
            categories.
        categories: Values that have a bin of their own; the one after them counts all other values. Empty for
            a measure.

    """

    edges: _Floats | None
    categories: pa.Array

    @classmethod
    def fit(cls, array: pa.Array | pa.ChunkedArray, *, bins: int = QUANTILE_BINS, shared: int = 1) -> ReferenceBins:
        """Define bins by reference cells of any Arrow type.

        Args:
            array: The reference cells.
            bins: Quantile bins of a measure; equal quantiles make one bin.
            shared: Each edge of a measure is the mean of so many cells, for bins that are kept and must hold no cell.

        """
        array = _decoded(array)
        if _is_measure(array.type):
            return cls(_inner_edges(_numbers(array), bins, shared), pa.nulls(0))
        if not _has_categories(array.type):
            return cls(None, pa.nulls(0))
        return cls(None, pc.unique(array.drop_null()))

    @property
    def size(self) -> int:
        """Number of bins."""
        if self.edges is not None:
            return len(self.edges) + 2
        return len(self.categories) + 2

    def counts(self, array: pa.Array | pa.ChunkedArray) -> Counts:
        """Count the cells of each bin, int64, shape (size,)."""
        array = _decoded(array)
        if self.edges is not None:
            numbers = _numbers(array)
            codes = np.searchsorted(self.edges, numbers, side="right")
            codes[np.isnan(numbers)] = self.size - 1
        else:
            codes = self._category_codes(array)
        return np.bincount(codes, minlength=self.size).astype(np.int64)

    def _category_codes(self, array: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        other = self.size - 2
        if len(self.categories):
            found = pc.fill_null(pc.index_in(array, value_set=self.categories.cast(array.type)), other)
        else:
            found = pa.chunked_array([pa.repeat(pa.scalar(other, pa.int32()), len(array))])
        codes = pc.if_else(array.is_valid(), found, self.size - 1)
        return np.asarray(codes.to_numpy(), dtype=np.int64)

    def chance(self, reference: pa.Array | pa.ChunkedArray, other: pa.Array | pa.ChunkedArray) -> float:
        """Distance that chance alone explains for columns of these sizes."""
        return chance_distance(self.counts(reference), self.counts(other))

    def distance(self, reference: pa.Array | pa.ChunkedArray, other: pa.Array | pa.ChunkedArray) -> float:
        """Jensen-Shannon distance of two columns on these bins."""
        return jensen_shannon_distance(self.counts(reference), self.counts(other))


@dataclass(frozen=True, eq=False)
class Histogram:
    """A column of the reference rows: its bins, and how many rows fell into each.

    Args:
        bins: The bins.
        counts: int64, shape (bins.size,).

    """

    bins: ReferenceBins
    counts: Counts

    @classmethod
    def of(cls, array: pa.Array | pa.ChunkedArray, *, bins: int = QUANTILE_BINS) -> Histogram:
        """Build the histogram of reference cells."""
        fitted = ReferenceBins.fit(array, bins=bins)
        return cls(fitted, fitted.counts(array))

    def distance(self, counts: Counts) -> float:
        """Jensen-Shannon distance of other rows, counted on the same bins."""
        return jensen_shannon_distance(self.counts, counts)


def _decoded(array: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo dictionaries and extension types; texts and bytes become the wide ones."""
    chunked = array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])
    kind = chunked.type
    if isinstance(kind, pa.BaseExtensionType):
        return _decoded(pa.chunked_array([chunk.storage for chunk in chunked.chunks], type=kind.storage_type))
    if pa.types.is_dictionary(kind):
        return _decoded(chunked.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return chunked.cast(pa.large_string())
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return chunked.cast(pa.large_binary())
    return chunked


def _is_measure(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    return any(test(kind) for test in tests)


def _has_categories(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_null(kind))


def _numbers(array: pa.ChunkedArray) -> _Floats:
    """Cells as float64, shape (n,); NaN for nulls. Times in the type's own unit."""
    kind: Any = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _inner_edges(numbers: _Floats, bins: int, shared: int) -> _Floats:
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return np.empty(0)
    steps = np.linspace(0.0, 1.0, bins + 1)
    edges = np.unique(np.quantile(finite, steps) if shared == 1 else _local_means(finite, steps, shared))
    return edges[1:-1] if len(edges) > 2 else edges[:1]


def _local_means(numbers: _Floats, steps: _Floats, shared: int) -> _Floats:
    """Means of the `shared` cells around each quantile; exact where these are equal."""
    ordered = np.sort(numbers)
    last = max(len(ordered) - shared, 0)
    starts = np.clip(np.round(steps * (len(ordered) - 1)).astype(np.int64) - shared // 2, 0, last)
    windows = ordered[starts[:, None] + np.arange(min(shared, len(ordered)))]
    means: _Floats = np.where(windows[:, 0] == windows[:, -1], windows[:, 0], windows.mean(axis=1))
    return means
