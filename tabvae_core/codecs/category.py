"""Categories: one slot up to 256 of them, two slots (group, member) beyond, so that 100,000 cost two small softmaxes.

Categories of fewer than `min_category_rows` rows are counted, then forgotten: neither codec nor bundle holds them.
They share one token that the model learns and never draws; the other categories take its place, in context.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.codecs.base import Codec, CodecState, Encoded, Fitter, FloatArray, IntArray, Slot
from tabvae_core.codecs.ordinal import base_type, plain, restore_type
from tabvae_core.errors import DataError
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import PrivacySpec

__all__ = ["CategoryCodec", "CategoryFitter"]

ONE_LEVEL = 256
MAX_DISTINCT = 5_000_000
_COMPACT_AT = 1_000_000


class CategoryCodec(Codec):
    """Codec of one categorical column.

    Args:
        name: Column.
        arrow_type: Exact type of the cells.
        categories: Plain values, sorted, shape (c,).
        counts: Training rows of each, shape (c,).
        nulls: Training rows that are null.
        rare: Training rows whose category is too rare to be learned.
        draw_null: Whether nulls may be generated.

    """

    kind = "category"

    def __init__(
        self,
        name: str,
        arrow_type: pa.DataType,
        categories: pa.Array,
        counts: npt.NDArray[np.float64],
        *,
        nulls: float,
        rare: float,
        draw_null: bool,
    ) -> None:
        self.name, self.arrow_type, self.categories = name, arrow_type, categories
        self.counts, self.nulls, self.rare, self.draw_null = counts, nulls, rare, draw_null
        n = len(categories)
        self._members = math.ceil(math.sqrt(n)) if n > ONE_LEVEL else max(n, 1)
        groups = -(-n // self._members) if n > ONE_LEVEL else 0
        self._special = groups or n  # null, then rare, follow the groups or categories
        self._null_token = self._special
        self._rare_token = self._special + int(nulls > 0)
        size = self._special + int(nulls > 0) + int(rare > 0)
        first = Slot(name, size)
        if groups:
            self.slots: tuple[Slot, ...] = (first, Slot(f"{name}.member", self._members, parent=0))
        else:
            self.slots = (first,) if size > 1 else ()

    @property
    def two_level(self) -> bool:
        """Whether a group and a member token stand for a category."""
        return len(self.slots) == 2

    def encode(self, array: pa.Array) -> Encoded:
        """Encode cells; a category that was never learned becomes the rare token, or else the most frequent one."""
        cells = plain(array)
        index = pc.fill_null(pc.index_in(cells, value_set=self.categories), -1).to_numpy(zero_copy_only=False)
        null = pc.is_null(cells).to_numpy(zero_copy_only=False)
        usual = int(np.argmax(self.counts)) if len(self.counts) else 0
        known = (index >= 0) & ~null
        if not self.slots:
            tokens = np.zeros((len(index), 0), np.int32)
        elif self.two_level:
            filled = np.where(known, index, usual)
            tokens = np.stack([filled // self._members, filled % self._members], axis=1).astype(np.int32)
            tokens[~known, 0] = self._rare_token if self.rare > 0 else tokens[~known, 0]
            tokens[~known & (self.rare > 0), 1] = 0
            if self.nulls > 0:
                tokens[null] = (self._null_token, 0)
        else:
            filled = np.where(known, index, self._rare_token if self.rare > 0 else usual)
            if self.nulls > 0:
                filled = np.where(null, self._null_token, filled)
            tokens = filled.astype(np.int32)[:, None]
        zeros = np.zeros(tokens.shape, np.float32)
        return Encoded(tokens, zeros, zeros)

    def decode(self, tokens: IntArray, values: FloatArray, *, rows: npt.NDArray[np.uint64], seed: int) -> pa.Array:
        """Decode to cells of exactly the column's type."""
        first = tokens[:, 0] if self.slots else np.zeros(len(rows), np.int32)
        index = first.astype(np.int64)
        if self.two_level:
            index = np.minimum(first.astype(np.int64) * self._members + tokens[:, 1], len(self.categories) - 1)
        mask = (first == self._null_token) if self.nulls > 0 else np.zeros(len(first), dtype=np.bool_)
        if not len(self.categories):
            mask = np.ones(len(first), dtype=np.bool_)
            return pa.nulls(len(first), self.arrow_type)
        index = np.where(mask | (first >= self._special), 0, index)
        return restore_type(self.categories.take(pa.array(index, mask=mask)), self.arrow_type)

    def log_prior(self) -> list[npt.NDArray[np.float32] | None]:
        """Log frequencies; rare is never drawn, nor a member that its group does not have."""
        if not self.slots:
            return []
        special = [self.nulls] * (self.nulls > 0) + [self.rare] * (self.rare > 0)
        if not self.two_level:
            return [self._first_prior(np.concatenate([self.counts, special]))]
        groups = self._special
        flat = np.zeros(groups * self._members)
        flat[: len(self.counts)] = self.counts
        grid = flat.reshape(groups, self._members)
        member = np.full((self.slots[0].n_tokens, self._members), -np.inf)
        with np.errstate(divide="ignore"):
            member[:groups] = np.log(grid / grid.sum(axis=1, keepdims=True))
        member[groups:, 0] = 0.0
        return [self._first_prior(np.concatenate([grid.sum(axis=1), special])), member.astype(np.float32)]

    def _first_prior(self, counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        prior = np.log(np.maximum(counts, 1e-3) / max(counts.sum(), 1e-3))
        if self.nulls > 0 and not self.draw_null and len(self.categories):
            prior[self._null_token] = -np.inf
        if self.rare > 0 and np.isfinite(np.delete(prior, self._rare_token)).any():
            prior[self._rare_token] = -np.inf
        result: npt.NDArray[np.float32] = prior.astype(np.float32)
        return result

    def state(self) -> CodecState:
        """Categories as an Arrow stream, whatever their type."""
        sink = pa.BufferOutputStream()
        batch = pa.record_batch([self.categories], names=["category"])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        stream = np.frombuffer(sink.getvalue(), dtype=np.uint8)
        values = {"name": self.name, "nulls": self.nulls, "rare": self.rare, "draw_null": self.draw_null}
        return CodecState(self.kind, values, {"categories": stream, "counts": self.counts})

    @classmethod
    def restore(cls, state: CodecState, arrow_type: pa.DataType) -> Self:
        """Rebuild from a bundle."""
        with pa.ipc.open_stream(pa.py_buffer(state.arrays["categories"].tobytes())) as reader:
            categories = reader.read_all().column(0).combine_chunks()
        if isinstance(categories, pa.ChunkedArray):
            categories = pa.concat_arrays(categories.chunks)
        values = state.values
        return cls(
            values["name"], arrow_type, categories, np.asarray(state.arrays["counts"], dtype=np.float64),
            nulls=values["nulls"], rare=values["rare"], draw_null=values["draw_null"],
        )  # fmt: skip

    @property
    def null_token(self) -> int | None:
        """Token of null; None where there was none, or nothing else."""
        return self._null_token if self.slots and self.nulls > 0 else None

    def known(self, array: pa.Array) -> npt.NDArray[np.bool_]:
        """Which cells are learned categories, or nulls where there were some."""
        cells = plain(array)
        known = pc.is_in(cells, value_set=self.categories).to_numpy(zero_copy_only=False)
        null = cells.is_null().to_numpy(zero_copy_only=False)
        return np.asarray(np.where(null, self.nulls > 0, known), dtype=np.bool_)

    def classes(self) -> tuple[pa.Array, npt.NDArray[np.float64]] | None:
        """The categories."""
        return self.categories, self.counts

    def notes(self) -> tuple[str, ...]:
        """Say how many rows held categories that were too rare."""
        if not self.rare:
            return ()
        return (
            f"{self.name}: {self.rare:.0f} rows hold categories too rare to be learned; frequent ones replace them",
        )


class CategoryFitter(Fitter):
    """Counts of categories; merging adds them up."""

    def __init__(self, column: ColumnSchema, arrow_type: pa.DataType, privacy: PrivacySpec) -> None:
        self.column, self.arrow_type = column, arrow_type
        # Both values of a boolean are public knowledge: only how often they occur is learned.
        self._least = 1 if pa.types.is_boolean(arrow_type) else privacy.min_category_rows
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._nulls = 0

    def observe(self, array: pa.Array, first_row: int) -> None:
        """Count cells."""
        cells = plain(array)
        self._nulls += cells.null_count
        counted = cells.drop_null().value_counts()
        self._add(pa.table({"value": counted.field("values"), "count": counted.field("counts").cast(pa.int64())}))

    def merge(self, other: Self) -> None:
        """Add the counts of another partial result."""
        self._nulls += other._nulls
        for part in other._pending:
            self._add(part)

    def _add(self, part: pa.Table) -> None:
        self._pending.append(part)
        self._pending_rows += part.num_rows
        if self._pending_rows > _COMPACT_AT:
            self._pending = [self._total()]
            self._pending_rows = self._pending[0].num_rows
            if self._pending_rows > MAX_DISTINCT:
                raise DataError(
                    f"column {self.column.name!r} has more than {MAX_DISTINCT:,} categories",
                    hint=f"say what it is under columns.{self.column.name}.kind: identifier, text or number",
                )

    def _total(self) -> pa.Table:
        merged = pa.concat_tables(self._pending).group_by("value").aggregate([("count", "sum")])
        return merged.rename_columns({"count_sum": "count"}).select(["value", "count"])

    def finish(self) -> CategoryCodec:
        """Drop the rare, sort the rest by value, so that neighbours in spelling share a group."""
        total = self._total() if self._pending else pa.table({"value": pa.nulls(0), "count": pa.array([], pa.int64())})
        counts = total["count"].to_numpy()
        kept = total.filter(pa.array(counts >= self._least))
        rare = float(counts.sum() - (kept["count"].to_numpy().sum() if kept.num_rows else 0))
        if kept.num_rows:
            kept = kept.take(pc.sort_indices(kept["value"]))
        values = kept["value"].combine_chunks() if kept.num_rows else pa.array([], type=total["value"].type)
        if isinstance(values, pa.ChunkedArray):
            values = pa.concat_arrays(values.chunks)
        counted = kept["count"].to_numpy().astype(np.float64)
        if not len(values) and rare:
            values, counted, rare = self._neutral(total), np.ones(min(total.num_rows, 8)), 0.0
        return CategoryCodec(
            self.column.name, self.arrow_type, values, counted,
            nulls=float(self._nulls), rare=rare, draw_null=self.column.nullable,
        )  # fmt: skip

    def _neutral(self, total: pa.Table) -> pa.Array:
        """Stand-ins where no category is shared by enough rows to be learned."""
        kind, n = total["value"].type, min(total.num_rows, 8)
        if pa.types.is_large_string(kind):
            return pa.array([f"{self.column.name} {k + 1}" for k in range(n)], type=kind)
        if pa.types.is_large_binary(kind):
            stored = base_type(self.arrow_type)
            width = int(stored.byte_width) if pa.types.is_fixed_size_binary(stored) else 4
            return pa.array([k.to_bytes(width, "big") for k in range(n)], type=kind)
        raise DataError(
            f"column {self.column.name!r} has no category that {self._least} rows share",
            hint=f"set columns.{self.column.name}.kind to number or identifier, or privacy.min_category_rows lower",
        )
