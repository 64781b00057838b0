"""`TableSchema`: what each column is, inferred from Arrow metadata and one streaming pass, overridable by the spec."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tabvae_core.errors import DataError, ModelFileError
from tabvae_core.spec import Kind, Scalar

__all__ = ["ColumnSchema", "TableSchema", "schema_fingerprint", "type_name"]

Unlearnable = Literal["drop", "null", "refuse", "generate"]


class ColumnSchema(BaseModel):
    """One column: its kind, its exact Arrow type, and what the data says about it.

    Holds no category and no cell of the data: `minimum` and `maximum` are protected bounds (see `PrivacySpec`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Kind
    arrow_type: str
    """The type as Arrow prints it; the exact one stands in `TableSchema.arrow`."""
    nulls: float
    """Share of nulls, in [0, 1]."""
    nullable: bool
    """Whether nulls may be generated."""
    distinct: int
    """Distinct values seen, exact up to 1,000,000, then a lower bound."""
    minimum: float | int | str | None = None
    """Protected lower bound: a number, or ISO 8601 for dates and times; None where it has no order."""
    maximum: float | int | str | None = None
    """Protected upper bound."""
    unlearnable: Unlearnable | None = None
    """The decision for free text and nested columns."""
    note: str = ""
    """Why the kind was chosen, for a person."""
    categories: tuple[Scalar, ...] | None = None
    """Values declared in the spec, for differential privacy; never values found in the data."""
    decimals: int | None = None
    """Digits after the point, declared in the spec."""


class TableSchema(BaseModel):
    """The columns of a table, and the exact Arrow schema that a synthetic copy has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[ColumnSchema, ...]
    rows: int
    arrow_ipc: str
    """Base64 of Arrow's own IPC schema message: exact types, nullability, metadata."""
    public: bool = False
    """Whether it was made from types and declarations alone, and no row was read: see `privacy.domain`."""

    @property
    def arrow(self) -> pa.Schema:
        """Arrow schema of the synthetic table: the source's, less the columns that are dropped."""
        try:
            return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow_ipc)))
        except (ValueError, OSError, pa.ArrowException) as error:
            raise ModelFileError(f"the stored Arrow schema cannot be read: {error.__class__.__name__}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that the synthetic table has, in order."""
        return tuple(column.name for column in self.columns if column.unlearnable != "drop")

    def reordered(self, names: Sequence[str]) -> TableSchema:
        """The same columns in another order; `names` are all of `self.names`."""
        dropped = tuple(column for column in self.columns if column.unlearnable == "drop")
        arrow = self.arrow
        fields = pa.schema([arrow.field(name) for name in names], metadata=arrow.metadata)
        encoded = base64.b64encode(fields.serialize().to_pybytes()).decode("ascii")
        columns = tuple(self.column(name) for name in names) + dropped
        return self.model_copy(update={"columns": columns, "arrow_ipc": encoded})

    def column(self, name: str) -> ColumnSchema:
        """Find a column by name.

        Raises:
            DataError: There is no such column.

        """
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(f"there is no column {name!r}", hint=f"columns: {', '.join(c.name for c in self.columns)}")

    def of_kind(self, *kinds: Kind) -> tuple[ColumnSchema, ...]:
        """Columns of the given kinds that the synthetic table has, in order."""
        return tuple(c for c in self.columns if c.kind in kinds and c.unlearnable != "drop")


def type_name(kind: pa.DataType) -> str:
    """Name an Arrow type as specs write it.

    The name that a writer gave to a map's entries is left out: Parquet keeps it, Arrow's own messages do not.
    """
    return re.sub(r" \('[^']*'\)(?=>)", "", str(kind))


def schema_fingerprint(schema: pa.Schema) -> str:
    """sha256 over the names and types of a schema, in order; nullability and metadata do not count."""
    text = "\n".join(f"{field.name}\t{type_name(field.type)}" for field in schema)
    return hashlib.sha256(text.encode()).hexdigest()
