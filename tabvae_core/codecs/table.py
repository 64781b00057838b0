"""All codecs of a table: columns of Arrow to arrays of slots, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, Slot
from tabvae_core.codecs.binned import BinnedCodec
from tabvae_core.codecs.category import CategoryCodec, CategoryFitter
from tabvae_core.codecs.constant import ConstantCodec, ConstantFitter
from tabvae_core.codecs.datetime import DatetimeCodec, DatetimeFitter
from tabvae_core.codecs.identifier import IdentifierCodec, IdentifierFitter
from tabvae_core.codecs.null import NullCodec, NullFitter
from tabvae_core.codecs.number import NumberCodec, NumberFitter
from tabvae_core.codecs.numeric import NumericTable
from tabvae_core.codecs.ordinal import as_field, base_type
from tabvae_core.codecs.text import TextCodec, TextFitter
from tabvae_core.errors import ModelFileError, SpecError
from tabvae_core.given import GivenColumn
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind, PrivacySpec
from tabvae_core.tables import TableSource

__all__ = ["TableCodec", "fitter_for"]

_CODECS: dict[str, type[Codec]] = {
    codec.kind: codec
    for codec in (
        BinnedCodec, CategoryCodec, ConstantCodec, DatetimeCodec, IdentifierCodec, NullCodec, NumberCodec, TextCodec,
    )
}  # fmt: skip


def fitter_for(column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> Fitter:
    """Choose the fitter of a column by its kind and type."""
    if column.unlearnable == "null":
        return NullFitter(column, arrow_type, privacy)
    if column.kind is Kind.DATETIME:
        kind = base_type(arrow_type)
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            return NumberFitter(column, arrow_type, privacy)  # times of day and durations are plain numbers
    fitters: dict[Kind, type[Any]] = {
        Kind.NUMBER: NumberFitter, Kind.CATEGORY: CategoryFitter, Kind.BOOLEAN: CategoryFitter,
        Kind.DATETIME: DatetimeFitter, Kind.IDENTIFIER: IdentifierFitter, Kind.TEXT: TextFitter,
        Kind.CONSTANT: ConstantFitter, Kind.NESTED: NullFitter,
    }  # fmt: skip
    fitter: Fitter = fitters[column.kind](column, arrow_type, privacy)
    return fitter


@dataclass(frozen=True)
class TableCodec:
    """Fitted codecs of the columns that the synthetic table has, in order.

    Args:
        schema: The table's schema.
        codecs: One codec for each of `schema.names`.

    """

    schema: TableSchema
    codecs: tuple[Codec, ...]

    @classmethod
    def fit(
        cls, source: TableSource, schema: TableSchema, privacy: PrivacySpec, *, progress: Progress = silent
    ) -> Self:
        """Fit all codecs in one streaming pass.

        Raises:
            DataError: A column cannot be learned.

        """
        arrow, names = schema.arrow, schema.names
        fitters = [fitter_for(schema.column(name), arrow.field(name).type, privacy) for name in names]
        row = 0
        for batch in source.batches(names):
            for fitter, array in zip(fitters, batch.columns, strict=True):
                fitter.observe(array, row)
            row += batch.num_rows
            progress(ProgressEvent("read", row, source.num_rows, "rows", "fitting codecs"))
        return cls(schema, tuple(fitter.finish() for fitter in fitters))

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Slots of all columns, in order."""
        return tuple(slot for codec in self.codecs for slot in codec.slots)

    @property
    def columns(self) -> tuple[int, ...]:
        """Index of each slot's column."""
        return tuple(index for index, codec in enumerate(self.codecs) for _ in codec.slots)

    @property
    def parents(self) -> tuple[int, ...]:
        """Global index of each slot's parent, or -1."""
        result: list[int] = []
        for codec in self.codecs:
            first = len(result)
            result += [-1 if slot.parent is None else first + slot.parent for slot in codec.slots]
        return tuple(result)

    def codec_of(self, column: str) -> Codec:
        """A column's codec."""
        return self.codecs[self.schema.names.index(column)]

    def slots_of(self, column: str) -> range:
        """Global indices of a column's slots."""
        index = self.schema.names.index(column)
        first = sum(len(codec.slots) for codec in self.codecs[:index])
        return range(first, first + len(self.codecs[index].slots))

    def slots_like(self, other: TableCodec) -> list[int]:
        """Global indices of the slots in the order in which another codec of the same columns has them."""
        return [slot for name in other.schema.names for slot in self.slots_of(name)]

    def reordered(self, order: Sequence[str]) -> Self:
        """The same codecs, their columns in another order."""
        return type(self)(self.schema.reordered(tuple(order)), tuple(self.codec_of(name) for name in order))

    def encode(self, data: pa.Table | pa.RecordBatch) -> Encoded:
        """Encode rows, columns found by name; arrays of shape (n, slots)."""
        parts = [codec.encode(data.column(name)) for name, codec in zip(self.schema.names, self.codecs, strict=True)]
        return _joined(parts, data.num_rows)

    def encode_source(self, source: TableSource, *, progress: Progress = silent) -> Encoded:
        """Encode all rows of a source."""
        parts = [encoded for _, encoded in self.encode_batches(source, progress=progress)]
        return Encoded(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("tokens", "low", "high")))

    def encode_batches(
        self, source: TableSource, *, progress: Progress = silent
    ) -> Iterator[tuple[pa.RecordBatch, Encoded]]:
        """Yield the batches of a source, each with its rows encoded."""
        rows = 0
        for batch in source.batches(self.schema.names):
            yield batch, self.encode(batch)
            rows += batch.num_rows
            progress(ProgressEvent("read", rows, source.num_rows, "rows", "encoding"))

    def decode(
        self,
        tokens: npt.NDArray[np.int32],
        values: npt.NDArray[np.float32],
        *,
        rows: npt.NDArray[np.uint64],
        seed: int,
    ) -> pa.Table:
        """Decode arrays of shape (n, slots) to a table with the learned Arrow schema."""
        arrays, at, arrow = [], 0, self.schema.arrow
        for codec, field in zip(self.codecs, arrow, strict=True):
            part = slice(at, at + len(codec.slots))
            cells = codec.decode(tokens[:, part], values[:, part], rows=rows, seed=seed)
            arrays.append(as_field(cells, field))
            at = part.stop
        return pa.Table.from_arrays(arrays, schema=arrow)

    def log_priors(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies of every slot's tokens."""
        return [prior for codec in self.codecs for prior in codec.log_prior()]

    def token_values(self) -> list[npt.NDArray[np.float32] | None]:
        """Continuous values of every slot's exact tokens."""
        return [values for codec in self.codecs for values in codec.token_values()]

    def value_ranges(self) -> npt.NDArray[np.float32]:
        """Range of every slot's values in quantile space, shape (slots, 2)."""
        return np.array([pair for codec in self.codecs for pair in codec.value_ranges()], np.float32).reshape(-1, 2)

    def tables(self) -> list[NumericTable | None]:
        """Tables behind every slot that holds numbers."""
        return [table for codec in self.codecs for table in codec.tables()]

    def notes(self) -> tuple[str, ...]:
        """Decisions of all codecs."""
        return tuple(note for codec in self.codecs for note in codec.notes())

    def states(self) -> list[CodecState]:
        """What a bundle stores."""
        return [codec.state() for codec in self.codecs]

    @classmethod
    def restore(cls, schema: TableSchema, states: Sequence[CodecState]) -> Self:
        """Rebuild from a bundle.

        Raises:
            ModelFileError: A codec of an unknown kind, or not one for each column.

        """
        arrow = schema.arrow
        if len(states) != len(schema.names):
            raise ModelFileError(f"the bundle has {len(states)} codecs for {len(schema.names)} columns")
        codecs = []
        for name, state in zip(schema.names, states, strict=True):
            if state.kind not in _CODECS:
                raise ModelFileError(f"the bundle's codec of column {name!r} is of unknown kind {state.kind!r}")
            codecs.append(_CODECS[state.kind].restore(state, arrow.field(name).type))
        return cls(schema, tuple(codecs))

    def encode_given(
        self, given: Mapping[str, GivenColumn]
    ) -> Iterator[tuple[int, npt.NDArray[np.bool_], npt.NDArray[Any], npt.NDArray[Any]]]:
        """Encode given cells as (slot, mask, tokens, values), n each, for the slots of the given columns.

        Of keys and texts, only that they are there is encoded. Values that were never learned are masked out.

        Raises:
            SpecError: A value was never learned, and its column is strict.

        """
        for name, part in given.items():
            codec = self.codec_of(name)
            if not part.mask.any() or not codec.slots:
                continue
            known = part.mask & codec.known(part.cells)
            if part.strict and not known.all():
                value = part.cells[int(np.argmin(known))].as_py()
                raise SpecError(
                    f"given: column {name!r} never had the value {value!r} in enough rows to be learned",
                    hint="give a more frequent value, or lower privacy.min_category_rows and fit again",
                )
            cells = codec.encode(part.cells)
            for k, slot in enumerate(self.slots_of(name)):
                yield slot, known, cells.tokens[:, k], (cells.low[:, k] + cells.high[:, k]) / 2

    def unlearned(self, given: Mapping[str, GivenColumn]) -> dict[str, int]:
        """Count the given cells of values that were never learned, by column; columns without any are left out."""
        counts = {name: int((part.mask & ~self.codec_of(name).known(part.cells)).sum()) for name, part in given.items()}
        return {name: count for name, count in counts.items() if count}


def _joined(parts: Sequence[Encoded], rows: int) -> Encoded:
    if not parts:
        empty = np.zeros((rows, 0))
        return Encoded(empty.astype(np.int32), empty.astype(np.float32), empty.astype(np.float32))
    return Encoded(*(np.concatenate([getattr(p, f) for p in parts], axis=1) for f in ("tokens", "low", "high")))
