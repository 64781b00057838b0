"""Columns that say the same in every row."""

from __future__ import annotations

import base64
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs._nulls import is_null
from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray
from tabvae_core.codecs.null import NullCodec, encode_nothing
from tabvae_core.codecs.ordinal import is_orderable, plain, restore_type, to_ordinal
from tabvae_core.errors import DataError, ModelFileError
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["ConstantCodec", "ConstantFitter"]


class ConstantCodec(Codec):
    """The same value in every row. A value that all rows share says nothing about any of them.

    Args:
        value: The value, one cell of the plain type.
        arrow_type: Exact type of the cells.

    """

    kind: ClassVar[str] = "constant"
    slots = ()

    def __init__(self, value: pa.Array, arrow_type: pa.DataType) -> None:
        self._value, self.arrow_type = value, arrow_type

    def encode(self, array: pa.Array) -> Encoded:
        """Encode nothing: the column has no slot."""
        return encode_nothing(len(array))

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Repeat the value."""
        return restore_type(self._value.take(pa.array(np.zeros(len(rows), dtype=np.int64))), self.arrow_type)

    def known(self, array: pa.Array) -> npt.NDArray[np.bool_]:
        """Which cells are the value."""
        return np.array([cell.equals(self._value[0]) for cell in plain(array)], dtype=np.bool_)

    def state(self) -> CodecState:
        """The value, as an Arrow IPC stream in base64."""
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([self._value], names=["value"])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return CodecState(self.kind, {"ipc": base64.b64encode(sink.getvalue()).decode()})

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild the codec.

        Raises:
            ModelFileError: The stored value cannot be read.

        """
        try:
            stored = pa.ipc.open_stream(base64.b64decode(state.values["ipc"])).read_all()
            value = stored.column(0).chunk(0)
        except (pa.ArrowException, KeyError, ValueError, IndexError) as error:
            raise ModelFileError(f"the value of a constant column cannot be read: {type(error).__name__}") from None
        return cls(value, arrow_type)


def _has_several(cells: pa.Array) -> bool:
    """Whether plain cells hold more than one value, nulls left out."""
    if is_orderable(cells.type):
        # Some decimals have no kernel that finds unique cells; their ordinals do.
        ordinals, valid = to_ordinal(cells)
        return len(np.unique(ordinals[valid])) > 1
    if pa.types.is_large_string(cells.type) or pa.types.is_large_binary(cells.type):
        return len(cells.drop_null().unique()) > 1
    return len({str(cell) for cell in cells.drop_null().to_pylist()}) > 1


class ConstantFitter(Fitter):
    """Learns the one value of a column, or that it has none.

    Args:
        column: The column.
        arrow_type: Exact type of the cells.
        privacy: Of no effect here.

    """

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self._column, self._type = column, arrow_type
        self._value: pa.Array | None = None

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Compare the cells that are there with the one value.

        Raises:
            DataError: There is a second value.

        """
        there = np.flatnonzero(~is_null(array))
        if len(there) == 0:
            return
        cells = plain(array)
        if _has_several(cells):
            raise self._several()
        self._take(cells.slice(int(there[0]), 1))

    def _take(self, value: pa.Array) -> None:
        if self._value is not None and self._value.to_pylist() != value.to_pylist():
            raise self._several()
        self._value = value

    def _several(self) -> DataError:
        return DataError(
            f"column {self._column.name!r} is called constant, but has several values",
            hint="leave its kind out to have it inferred",
        )

    def merge(self, other: Self) -> None:
        """Compare with the value of another fitter."""
        if other._value is not None:
            self._take(other._value)

    def finish(self) -> Codec:
        """Make the codec."""
        return NullCodec(self._type) if self._value is None else ConstantCodec(self._value, self._type)
