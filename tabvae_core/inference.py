"""What each column of a table is: kind, bounds and nulls, from one streaming pass and the overrides."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tabvae_core.codecs.identifier import is_key_type
from tabvae_core.codecs.ordinal import (
    base_type,
    bound_of,
    is_binary_like,
    is_orderable,
    is_string_like,
    is_temporal,
    ordinal_of,
)
from tabvae_core.column_stats import ColumnStats, DistinctCounter, Extremes
from tabvae_core.errors import DataError, SpecError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import ColumnSchema, TableSchema, Unlearnable
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import TableSource

__all__ = ["MIN_ROWS", "check_columns", "declared_schema", "infer_schema"]

MIN_ROWS = 10
"""Rows that a table must have."""

_DISTINCT_CAP = 1_000_000
_DISTINCT_BUDGET = 2**27
"""Hashes that all columns together hold: 1 GiB."""
_DENSE = 0.5
_DENSE_ROWS = 100
_WIDE_ROWS = 1_000
_MIN_KEYS = 10
_TEXT_ROWS = 100
_LONG_TEXT = 50
_SMALL_INDEX_BITS = 16

_KEY_WORDS = frozenset(
    {
        "id", "ids", "no", "nr", "nbr", "number", "nummer", "key", "pk", "sk", "code", "uuid",
        "guid", "index", "idx", "hash", "ref", "reference", "serial", "account", "acct", "ssn",
        "imei", "isbn", "sku", "ean", "row", "rowid", "ordinal", "recno",
    }
)  # fmt: skip
_MEASURE_WORDS = frozenset(
    {
        "age", "amount", "amt", "average", "avg", "balance", "cost", "count", "cnt", "day", "date",
        "days", "distance", "duration", "fare", "height", "hour", "income", "length", "mean",
        "minute", "month", "num", "of", "percent", "population", "price", "qty", "quantity", "rate",
        "ratio", "revenue", "salary", "score", "second", "seconds", "size", "speed", "sum",
        "temperature", "time", "timestamp", "total", "ts", "value", "volume", "weight", "width",
        "year",
    }
)  # fmt: skip
_NOT_IDS = frozenset(
    {
        "acid", "aid", "avoid", "bid", "covid", "fluid", "grid", "hybrid", "kid", "liquid", "lid",
        "mid", "paid", "prepaid", "said", "solid", "valid",
    }
)  # fmt: skip


@dataclass(frozen=True)
class _Decision:
    """The kind of a column, and why."""

    kind: Kind
    note: str


def check_columns(schema: pa.Schema) -> None:
    """Refuse a table without columns, or with two of one name.

    Raises:
        DataError: Naming the columns.

    """
    if len(schema) == 0:
        raise DataError("the table has no columns", hint="point at a table with at least one column")
    repeated = sorted(name for name, count in Counter(schema.names).items() if count > 1)
    if repeated:
        raise DataError(
            f"column names stand more than once: {', '.join(map(repr, repeated))}",
            hint="rename the columns at the source; a name must say which column is meant",
        )


def infer_schema(
    source: TableSource,
    *,
    overrides: Mapping[str, ColumnOverride] = {},
    unlearnable: Unlearnable = "generate",
    privacy: PrivacySpec = PrivacySpec(),  # noqa: B008 (frozen)
    progress: Progress = silent,
) -> TableSchema:
    """Find out what each column is, in one pass over the rows.

    Memory is bounded: distinct values are counted exactly up to 1,000,000 a column, up to fewer in tables
    of more than 134 columns, whose counters share 1 GiB.

    Args:
        source: The table.
        overrides: What the spec says about columns.
        unlearnable: Decision for free text and nested columns without one of their own.
        privacy: How bounds are protected. With an epsilon, no row is read: see `declared_schema`.
        progress: Told of every batch, as step "read".

    Returns:
        The schema. It holds no category and no cell, and no exact bound unless `privacy` allows it.

    Raises:
        DataError: The table has too few rows, no or repeated columns, or a column that the decision refuses.
        SpecError: An override names no column, or does not fit the column's type.

    """
    arrow = source.schema
    check_columns(arrow)
    _check_names(overrides, arrow.names)
    if privacy.epsilon is not None:
        return declared_schema(arrow, overrides, unlearnable)
    _check_rows(source.num_rows)
    stats = _gather(source, privacy, progress)
    columns = []
    for arrow_field, seen in zip(arrow, stats, strict=True):
        override = overrides.get(arrow_field.name, ColumnOverride())
        columns.append(_column(arrow_field, seen, override, unlearnable, privacy))
    return TableSchema(columns=tuple(columns), rows=stats[0].rows, arrow_ipc=_ipc(arrow, columns))


def _ipc(arrow: pa.Schema, columns: Sequence[ColumnSchema]) -> str:
    kept = [column.name for column in columns if column.unlearnable != "drop"]
    if not kept:
        raise DataError("every column is dropped, no table is left", hint="keep at least one column")
    return _encoded(_output_schema(arrow, kept))


def declared_schema(
    arrow: pa.Schema, overrides: Mapping[str, ColumnOverride] = {}, unlearnable: Unlearnable = "generate"
) -> TableSchema:
    """Say what each column is from its type and the spec alone: what differential privacy may take as known.

    Text without a declaration is a category, and nothing is a key or free text unless it is declared to be. Counts and
    shares are 0, to be estimated privately (`privacy.domain`).

    Raises:
        DataError: A column must be decided on.
        SpecError: An override names no column, or does not fit the column's type.

    """
    check_columns(arrow)
    _check_names(overrides, arrow.names)
    columns = [_declared_column(field, overrides.get(field.name, ColumnOverride()), unlearnable) for field in arrow]
    return TableSchema(columns=tuple(columns), rows=0, arrow_ipc=_ipc(arrow, columns), public=True)


def _declared_column(field: pa.Field, override: ColumnOverride, unlearnable: Unlearnable) -> ColumnSchema:
    decision = _Decision(_kind_of_type(field.type), f"type {field.type}")
    if override.kind is not None:
        constant = override.categories is not None and len(override.categories) == 1
        _check_kind(field, _allowed_kinds(field.type, constant=constant), override.kind)
        decision = _Decision(override.kind, "set in the spec")
    _check_declared(field, decision.kind, override)
    # Words of free text cannot be learned privately.
    without_words = {"generate": "null"}
    own = override.model_copy(
        update={"unlearnable": without_words.get(str(override.unlearnable), override.unlearnable)}
    )
    action = _action(field, decision, own, "null" if unlearnable == "generate" else unlearnable)
    if override.nullable and not field.nullable:
        raise _forbids_nulls(field)
    minimum, maximum = _bounds(field, decision.kind, override, None)
    return ColumnSchema(
        name=field.name,
        kind=decision.kind,
        arrow_type=str(field.type),
        nulls=0.0,
        nullable=field.nullable if override.nullable is None else override.nullable,
        distinct=0,
        minimum=minimum,
        maximum=maximum,
        unlearnable=action,
        note=decision.note,
        categories=override.categories,
        decimals=override.decimals,
    )


def _kind_of_type(arrow_type: pa.DataType) -> Kind:
    kind = base_type(arrow_type)
    if pa.types.is_null(kind):
        return Kind.CONSTANT
    if pa.types.is_boolean(kind):
        return Kind.BOOLEAN
    if is_string_like(kind) or is_binary_like(kind) or _has_narrow_index(arrow_type):
        return Kind.CATEGORY
    if not is_orderable(kind):
        return Kind.NESTED
    return Kind.DATETIME if is_temporal(kind) else Kind.NUMBER


def _check_declared(field: pa.Field, kind: Kind, override: ColumnOverride) -> None:
    if override.categories is not None and kind not in (Kind.CATEGORY, Kind.BOOLEAN, Kind.CONSTANT):
        raise SpecError(
            f"columns.{field.name}.categories needs a category, however: the column is a {kind.value}",
            hint=f"set columns.{field.name}.kind: category, or leave the categories out",
        )
    if override.decimals is not None and not (kind is Kind.NUMBER and pa.types.is_floating(base_type(field.type))):
        raise SpecError(
            f"columns.{field.name}.decimals needs a number of a floating type, however: {kind.value} of type"
            f" {field.type}",
            hint="leave it out: the digits of other types are known",
        )


def _check_names(overrides: Mapping[str, ColumnOverride], names: list[str]) -> None:
    for name in overrides:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            meant = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(names)}"
            raise SpecError(f"columns: the table has no column {name!r}", hint=meant)


def _check_rows(rows: int) -> None:
    if rows == 0:
        raise DataError("the table has no rows", hint="point at a table with rows, or loosen source.filters")
    if rows < MIN_ROWS:
        raise DataError(
            f"too few rows to learn from: {rows}, at least {MIN_ROWS} are needed",
            hint="a synthetic copy of so few rows would be the rows themselves",
        )


def _gather(source: TableSource, privacy: PrivacySpec, progress: Progress) -> list[ColumnStats]:
    fields, total = source.schema, source.num_rows
    cap = min(_DISTINCT_CAP, _DISTINCT_BUDGET // len(fields))
    stats = [ColumnStats(field.type, DistinctCounter(cap), Extremes(privacy.protect_extremes)) for field in fields]
    done = 0
    for batch in source.batches():
        for seen, cells in zip(stats, batch.columns, strict=True):
            seen.observe(cells)
        done += batch.num_rows
        progress(ProgressEvent("read", done, total, "rows", "looking at columns"))
    _check_rows(done)
    return stats


def _column(
    field: pa.Field,
    stats: ColumnStats,
    override: ColumnOverride,
    unlearnable: Unlearnable,
    privacy: PrivacySpec,
) -> ColumnSchema:
    decision = _decide(field.name, stats)
    if override.kind is not None and override.kind is not decision.kind:
        constant = stats.there == 0 or (stats.nulls == 0 and stats.distinct.count() == 1)
        _check_kind(field, _allowed_kinds(stats.arrow_type, constant=constant), override.kind)
        decision = _Decision(override.kind, f"set in the spec; the data looks like {decision.kind.value}")
    action = _action(field, decision, override, unlearnable)
    seen = stats.extremes.protected(privacy.min_category_rows)
    minimum, maximum = _bounds(field, decision.kind, override, seen)
    return ColumnSchema(
        name=field.name,
        kind=decision.kind,
        arrow_type=str(field.type),
        nulls=stats.nulls / stats.rows,
        nullable=_nullable(field, stats, override, action),
        distinct=stats.distinct.count(),
        minimum=minimum,
        maximum=maximum,
        unlearnable=action,
        note=decision.note,
    )


_REFERENCE_ROWS = 100
_REFERENCE_SHARE = 0.5
"""A key of another table: seen twice at most on average, so each value belongs to hardly more than one row."""


def _decide(name: str, stats: ColumnStats) -> _Decision:
    kind = base_type(stats.arrow_type)
    if stats.there == 0:
        return _Decision(Kind.CONSTANT, "all cells are null")
    if not (is_orderable(kind) or is_string_like(kind) or is_binary_like(kind)):
        return _Decision(Kind.NESTED, f"cells of type {kind} are not learned")
    if stats.nulls == 0 and stats.distinct.count() == 1:
        return _Decision(Kind.CONSTANT, "one value in all rows")
    if pa.types.is_boolean(kind):
        return _Decision(Kind.BOOLEAN, "true or false")
    if _has_narrow_index(stats.arrow_type):
        return _Decision(Kind.CATEGORY, "a dictionary whose index counts few values")
    if is_temporal(kind):
        return _Decision(Kind.DATETIME, f"type {kind}")
    return _decide_number(name, stats) if is_orderable(kind) else _decide_text(stats)


def _has_narrow_index(arrow_type: pa.DataType) -> bool:
    """Whether a dictionary's index has 16 bits or fewer: a block of new cells may not fit."""
    if isinstance(arrow_type, pa.BaseExtensionType):
        return _has_narrow_index(arrow_type.storage_type)
    return bool(pa.types.is_dictionary(arrow_type) and arrow_type.index_type.bit_width <= _SMALL_INDEX_BITS)


def _decide_number(name: str, stats: ColumnStats) -> _Decision:
    kind, words = base_type(stats.arrow_type), _words(name)
    if not is_key_type(kind) or stats.there < _MIN_KEYS:
        return _Decision(Kind.NUMBER, f"type {kind}")
    if not stats.is_unique:
        refers = stats.there >= _REFERENCE_ROWS and stats.share_distinct > _REFERENCE_SHARE
        if refers and _is_key_name(words) and _MEASURE_WORDS.isdisjoint(words):
            return _Decision(Kind.IDENTIFIER, "whole numbers, mostly different, and the name of a key")
        return _Decision(Kind.NUMBER, f"type {kind}")
    if _is_key_name(words):
        return _Decision(Kind.IDENTIFIER, "whole numbers, all different, and the name of a key")
    if not _MEASURE_WORDS.isdisjoint(words):
        return _Decision(Kind.NUMBER, "all different, but the name of a measure")
    if stats.there >= _DENSE_ROWS and _density(stats) >= _DENSE:
        return _Decision(Kind.IDENTIFIER, "whole numbers, all different, nearly without gaps")
    digits = stats.digits
    wide = digits is not None and digits[1] >= 8 and (digits[0] == digits[1] or digits[1] >= 16)
    if stats.there >= _WIDE_ROWS and wide:
        return _Decision(Kind.IDENTIFIER, "whole numbers, all different, of many digits")
    return _Decision(Kind.NUMBER, "all different, but not like keys")


def _density(stats: ColumnStats) -> float:
    exact = stats.extremes.exact
    return 0.0 if exact is None else stats.there / (exact[1] - exact[0] + 1)


def _words(name: str) -> list[str]:
    """The words of a column's name: "customerID" and "customer_id" are "customer", "id"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]


def _is_key_name(words: list[str]) -> bool:
    if "of" in words:
        return False
    return any(word in _KEY_WORDS or (word.endswith("id") and word not in _NOT_IDS) for word in words)


def _decide_text(stats: ColumnStats) -> _Decision:
    unique, share = stats.is_unique, stats.share_distinct
    if unique and stats.there >= _MIN_KEYS and stats.is_key_like and _has_room(stats):
        return _Decision(Kind.IDENTIFIER, "all different, in the format of keys")
    if stats.there < _TEXT_ROWS:
        if share >= 0.9 or (share > 0.5 and stats.mean_length > _LONG_TEXT):
            return _Decision(Kind.TEXT, "nearly all different")
        return _Decision(Kind.CATEGORY, f"{stats.distinct.count():,} different values")
    if share > 0.5:
        return _Decision(Kind.TEXT, f"{share:.0%} of the cells differ, without the format of keys")
    return _Decision(Kind.CATEGORY, f"{stats.distinct.count():,} different values")


def _has_room(stats: ColumnStats) -> bool:
    """Whether bytes of a fixed width can name ten times as many rows."""
    kind = base_type(stats.arrow_type)
    return not pa.types.is_fixed_size_binary(kind) or 256 ** int(kind.byte_width) >= 10 * stats.there


def _check_kind(field: pa.Field, allowed: list[Kind], wanted: Kind) -> None:
    """Refuse a kind that the column's type cannot have.

    Raises:
        SpecError: Naming column, type and the kinds that it can have.

    """
    if wanted not in allowed:
        choices = " or ".join(kind.value for kind in allowed)
        reason = " (it has several values, or nulls beside one)" if wanted is Kind.CONSTANT else ""
        raise SpecError(
            f"columns.{field.name}.kind must be {choices} for type {field.type}, however: {wanted.value}{reason}",
            hint="leave the kind out to have it inferred",
        )


def _allowed_kinds(arrow_type: pa.DataType, *, constant: bool) -> list[Kind]:
    kind = base_type(arrow_type)
    allowed = [Kind.CONSTANT] if constant else []
    if pa.types.is_boolean(kind):
        return [*allowed, Kind.BOOLEAN, Kind.CATEGORY]
    fresh = not _has_narrow_index(arrow_type)
    if is_orderable(kind):
        if fresh:
            allowed.append(Kind.DATETIME if is_temporal(kind) else Kind.NUMBER)
        allowed.append(Kind.CATEGORY)
        return [*allowed, Kind.IDENTIFIER] if fresh and is_key_type(kind) else allowed
    if is_string_like(kind) or is_binary_like(kind):
        return [*allowed, Kind.CATEGORY, *([Kind.IDENTIFIER, Kind.TEXT] if fresh else [])]
    return [*allowed, *([] if pa.types.is_null(kind) else [Kind.NESTED])]


def _action(
    field: pa.Field, decision: _Decision, override: ColumnOverride, unlearnable: Unlearnable
) -> Unlearnable | None:
    """What is done about a column that is not learned; a column may be dropped whatever its kind."""
    if decision.kind not in (Kind.TEXT, Kind.NESTED):
        return "drop" if override.unlearnable == "drop" else None
    action: Unlearnable = override.unlearnable or unlearnable
    what = "free text" if decision.kind is Kind.TEXT else "nested"
    if action == "refuse":
        choices = "drop, null or generate" if decision.kind is Kind.TEXT else "drop or null"
        raise DataError(
            f"column {field.name!r} is {what} ({field.type}) and is not learned",
            hint=f"decide with columns.{field.name}.unlearnable: {choices}",
        )
    if decision.kind is Kind.NESTED and action == "generate":
        action = "null"
    if action == "null" and not field.nullable:
        raise DataError(
            f"column {field.name!r} is {what} ({field.type}), to be kept with nulls only, but allows none",
            hint=f"set columns.{field.name}.unlearnable: drop",
        )
    return action


def _nullable(field: pa.Field, stats: ColumnStats, override: ColumnOverride, action: Unlearnable | None) -> bool:
    if action == "null":
        if override.nullable is False:
            raise SpecError(
                f"columns.{field.name}.nullable must be true: the column is kept with nulls only",
                hint=f"leave it out, or set columns.{field.name}.unlearnable: drop",
            )
        return True
    if override.nullable is None:
        return stats.nulls > 0
    if override.nullable and not field.nullable:
        raise _forbids_nulls(field)
    if not override.nullable and stats.there == 0:
        raise SpecError(
            f"columns.{field.name}.nullable must be true: every cell of the column is null",
            hint="leave it out",
        )
    return override.nullable


def _forbids_nulls(field: pa.Field) -> SpecError:
    return SpecError(
        f"columns.{field.name}.nullable must be false: the table's schema forbids nulls there", hint="leave it out"
    )


Bound = float | int | str | None
Ends = tuple[int | float, int | float] | None


def _bounds(field: pa.Field, kind: Kind, override: ColumnOverride, seen: Ends) -> tuple[Bound, Bound]:
    """Protected bounds in the order of the type, those of the spec before those of the data."""
    ordered = kind in (Kind.NUMBER, Kind.DATETIME) or (kind is Kind.IDENTIFIER and is_orderable(field.type))
    if not ordered:
        for name in ("minimum", "maximum"):
            if getattr(override, name) is not None:
                raise SpecError(
                    f"columns.{field.name}.{name} needs a number or a date and time, however: the column is a"
                    f" {kind.value}",
                    hint="leave it out",
                )
        return None, None
    # Of few cells both ends are the mean of the same ones, which floats may add up to two values.
    low, high = (min(seen), max(seen)) if seen is not None else (None, None)
    low = _override_ordinal(field, "minimum", override.minimum, low)
    high = _override_ordinal(field, "maximum", override.maximum, high)
    if low is not None and high is not None and low > high:
        if override.minimum is not None and override.maximum is not None:
            raise SpecError(f"columns.{field.name}: minimum must not lie above maximum", hint="exchange them")
        raise SpecError(
            f"columns.{field.name}: the given bound leaves none of the column's values",
            hint="check the bound",
        )
    return (
        None if low is None else bound_of(low, field.type),
        None if high is None else bound_of(high, field.type),
    )


def _override_ordinal(
    field: pa.Field, name: str, value: float | str | None, seen: int | float | None
) -> int | float | None:
    if value is None:
        return seen
    try:
        return ordinal_of(value, field.type)
    except ValueError as error:
        raise SpecError(
            f"columns.{field.name}.{name}: {error}", hint="write a number, or ISO 8601 for a date or time"
        ) from None


def _output_schema(arrow: pa.Schema, kept: list[str]) -> pa.Schema:
    """The source's schema less the dropped columns, its metadata without what counts rows."""
    schema = pa.schema([arrow.field(name) for name in kept], metadata=arrow.metadata)
    if not arrow.metadata or b"pandas" not in arrow.metadata:
        return schema
    metadata = dict(arrow.metadata)
    try:
        metadata[b"pandas"] = _pandas_metadata(json.loads(metadata[b"pandas"]), kept)
    except (ValueError, TypeError, AttributeError):
        return schema
    return schema.with_metadata(metadata)


def _pandas_metadata(stored: dict[str, object], kept: list[str]) -> bytes:
    """Keep what restores pandas' types; a stored RangeIndex has the source's length and would not fit."""
    names = set(kept)
    index = stored.get("index_columns") or []
    columns = stored.get("columns") or []
    if not isinstance(index, list) or not isinstance(columns, list):
        raise TypeError("not pandas' metadata")
    changed = dict(stored)
    changed["index_columns"] = [name for name in index if isinstance(name, str) and name in names]
    changed["columns"] = [c for c in columns if c.get("field_name", c.get("name")) in names]
    return json.dumps(changed).encode()


def _encoded(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize().to_pybytes()).decode()
