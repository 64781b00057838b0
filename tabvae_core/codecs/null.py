"""Columns that are kept with nulls only."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["NullCodec", "NullFitter", "encode_nothing"]


def encode_nothing(rows: int) -> Encoded:
    """Encode cells of a codec without slots."""
    empty = np.zeros((rows, 0), dtype=np.float32)
    return Encoded(np.zeros((rows, 0), dtype=np.int32), empty, empty)


class NullCodec(Codec):
    """Null in every row, of any Arrow type."""

    kind: ClassVar[str] = "null"
    slots = ()

    def __init__(self, arrow_type: pa.DataType) -> None:
        self.arrow_type = arrow_type

    def encode(self, array: pa.Array) -> Encoded:
        """Encode nothing: the column has no slot."""
        return encode_nothing(len(array))

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Make nulls."""
        return pa.nulls(len(rows), type=self.arrow_type)

    def state(self) -> CodecState:
        """Nothing to store."""
        return CodecState(self.kind, {})

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild the codec."""
        return cls(arrow_type)


class NullFitter(Fitter):
    """Learns nothing: for columns that are kept with nulls only.

    Args:
        column: The column.
        arrow_type: Exact type of the cells.
        privacy: Of no effect here.

    """

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self._type = arrow_type

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Look away."""

    def merge(self, other: Self) -> None:
        """Take in nothing."""

    def finish(self) -> NullCodec:
        """Make the codec."""
        return NullCodec(self._type)
