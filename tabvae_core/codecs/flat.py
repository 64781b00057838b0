"""Slots as a plain table, for methods that know only numbers and categories: no levels, no spikes, no null tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tabvae_core.codecs.base import Codec, Encoded, FloatArray, IntArray
from tabvae_core.codecs.numeric import NumericTable
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError

__all__ = ["MAX_FEATURES", "FlatTable"]

MAX_FEATURES = 20_000
_LARGEST = 1e150
"""Numbers beyond stand for infinities, whose squares would leave a scaler nothing to scale by."""


class FlatTable:
    """N numbers and C categories of each row, from the slots of a table's codecs and back.

    Numbers are in the column's own units, NaN for null: values of number columns, days or weeks and times of day of
    dates. The first of the categories say which are null, one for each column of numbers that has nulls (0: it is
    there, 1: null); the others are the tokens of all other slots. What numbers decode to is rounded and kept within the
    protected ends by the codecs.

    Args:
        codec: The table's fitted codecs.

    """

    codec: TableCodec
    n_numbers: int
    """N, numbers of a row."""
    cardinalities: tuple[int, ...]
    """Of each of the C categories."""
    drawable: tuple[npt.NDArray[np.bool_], ...]
    """Which values of each category may be drawn, shape (cardinality,): not the stand-in for rare categories, nor
    nulls that the spec forbids. Training rows may hold the others."""
    null_of: tuple[int | None, ...]
    """For each number, the category that says whether it is null (a date's day and time share one); None where none
    is."""

    def __init__(self, codec: TableCodec) -> None:
        self.codec = codec
        self._tables = {slot: table for slot, table in enumerate(codec.tables()) if table is not None and _some(table)}
        self._others = [slot for slot in range(len(codec.slots)) if slot not in self._tables]
        self._nulls = {
            first: column.null_token
            for first, column in _first_slots(codec)
            if first in self._tables and column.null_token is not None
        }
        drawable = [
            _drawable(prior, slot.n_tokens) for prior, slot in zip(codec.log_priors(), codec.slots, strict=True)
        ]
        self.drawable = (
            *(np.array([True, drawable[slot][null]]) for slot, null in self._nulls.items()),
            *(drawable[slot] for slot in self._others),
        )
        self.cardinalities = tuple(len(allowed) for allowed in self.drawable)
        columns = codec.columns
        indicators = {columns[slot]: index for index, slot in enumerate(self._nulls)}
        self.null_of = tuple(indicators.get(columns[slot]) for slot in self._tables)
        self.n_numbers = len(self._tables)

    def width(self, features_of_number: int = 1) -> int:
        """Features of a row: some for each number, categories one-hot.

        Raises:
            DataError: There are none, or more than `MAX_FEATURES`.

        """
        if not self.n_numbers and not self.cardinalities:
            raise DataError("no column can be learned: all are keys, constants or left null", hint="use method vae")
        width = features_of_number * self.n_numbers + sum(self.cardinalities)
        if width > MAX_FEATURES:
            raise DataError(
                f"one-hot encoding would make {width:,} features, more than {MAX_FEATURES:,}",
                hint="use method vae, which needs none, or drop columns of many categories",
            )
        return width

    def flatten(self, encoded: Encoded) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Numbers, float64 (n, N), NaN for null, and categories, int64 (n, C), of encoded rows."""
        tokens, middle = encoded.tokens, (encoded.low + encoded.high) / 2
        numbers = np.zeros((len(tokens), self.n_numbers))
        for k, (slot, table) in enumerate(self._tables.items()):
            numbers[:, k] = _offsets(table, tokens[:, slot], middle[:, slot])
        nulls = [tokens[:, slot] == null for slot, null in self._nulls.items()]
        columns = [*nulls, *(tokens[:, slot] for slot in self._others)]
        categories = np.zeros((len(tokens), len(columns)), np.int64)
        for k, column in enumerate(columns):
            categories[:, k] = column
        return numbers, categories

    def decode(
        self, numbers: npt.NDArray[np.float64], categories: npt.NDArray[np.integer[Any]], *, spikes: bool = True
    ) -> tuple[IntArray, FloatArray]:
        """Tokens, int32, and values, float32, each (n, slots), which the codec decodes.

        Args:
            numbers: Shape (n, N), finite; of those that their category calls null, any.
            categories: Shape (n, C), below their cardinalities, and `drawable`.
            spikes: Whether rounded numbers can be values that many rows share. False keeps the smooth density's own:
                each number moves to a nearby value that few rows share, where the column has any.

        """
        encode = _cells if spikes else _smooth_cells
        n = len(categories)
        tokens = np.zeros((n, self.n_numbers + len(self._others)), np.int32)
        values = np.zeros(tokens.shape, np.float32)
        for k, (slot, table) in enumerate(self._tables.items()):
            tokens[:, slot], values[:, slot] = encode(table, numbers[:, k])
        for k, (slot, null) in enumerate(self._nulls.items()):
            tokens[categories[:, k] == 1, slot] = null
        for k, slot in enumerate(self._others, start=len(self._nulls)):
            tokens[:, slot] = categories[:, k]
        return tokens, values


def _some(table: NumericTable) -> bool:
    """Whether there was any number, and not nulls alone."""
    return bool(table.n_levels or len(table.spikes))


def _first_slots(codec: TableCodec) -> Iterator[tuple[int, Codec]]:
    """Index of the first slot of each column that has any, and the column's codec."""
    at = 0
    for column in codec.codecs:
        if column.slots:
            yield at, column
        at += len(column.slots)


def _drawable(prior: npt.NDArray[np.float32] | None, n_tokens: int) -> npt.NDArray[np.bool_]:
    if prior is None or prior.ndim == 2:
        return np.ones(n_tokens, dtype=np.bool_)
    allowed = ~np.isneginf(prior)
    return np.asarray(allowed if allowed.any() else ~allowed)


def _offsets(table: NumericTable, tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Values of cells as offsets from the table's base; NaN for null, and for what follows a null day."""
    decoded, valid = table.decode(np.minimum(tokens, table.n_tokens - 1), values)
    offsets = np.clip(table.offsets(decoded), -_LARGEST, _LARGEST)
    return np.where(valid & (tokens < table.n_tokens), offsets, np.nan)


def _cells(table: NumericTable, offsets: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tokens and values that decode to the offsets, rounded."""
    tokens, low, high = table.encode_drawn(offsets)
    return tokens, (low + high) / 2


def _smooth_cells(table: NumericTable, offsets: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tokens of the finest level, if there is any, and values that decode to (nearly) the offsets."""
    if table.n_levels:
        return np.full(len(offsets), table.n_levels - 1), table.to_z(offsets)
    nearest = np.abs(offsets[:, None] - table.spikes[None]).argmin(axis=1)
    return nearest + table.n_tokens - len(table.spikes), np.zeros(len(offsets))
