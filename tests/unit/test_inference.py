from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from arrow_tables import arrow_tables
from tabvae_core.column_stats import DistinctCounter, Extremes
from tabvae_core.errors import DataError, SpecError
from tabvae_core.inference import check_columns, infer_schema
from tabvae_core.progress import ProgressEvent
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import InMemoryTable, RowSplit, row_hash

RNG = np.random.default_rng(5)
EXACT = PrivacySpec(protect_extremes=1)


class Batches:
    """A source of batches of any size, empty ones too."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = list(batches)
        self.schema = batches[0].schema
        self.num_rows = sum(batch.num_rows for batch in batches)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            yield batch if columns is None else batch.select(list(columns))


def _infer(table: pa.Table, **settings: Any) -> TableSchema:
    return infer_schema(InMemoryTable(table), **settings)


def _column(cells: Any, name: str = "x", **settings: Any) -> ColumnSchema:
    array = cells if isinstance(cells, pa.Array) else pa.array(cells)
    return _infer(pa.table({name: array}), **settings).columns[0]


def _kind(cells: Any, name: str = "x") -> Kind:
    return _column(cells, name).kind


@settings(max_examples=80, deadline=None)
@given(arrow_tables())
def test_any_table_keeps_its_arrow_schema(table: pa.Table) -> None:
    schema = _infer(table)
    assert schema.arrow.equals(table.schema, check_metadata=True)
    assert TableSchema.model_validate_json(schema.model_dump_json()) == schema
    for column, field in zip(schema.columns, table.schema, strict=True):
        assert column.note
        assert not column.nullable or field.nullable


def test_ends_of_five_cells_are_in_order() -> None:
    """Both ends are the mean of the same five cells, added up in another order."""
    cells = [-45360.4168565537, 96913.5862191179, -8776.2801934667, -14706.1098066959, 8814.0894278018]
    column = _column(pa.array([*[None] * 5, *(Decimal(f"{cell:.10f}") for cell in cells)], pa.decimal128(38, 10)))
    assert float(str(column.minimum)) <= float(str(column.maximum))


@settings(max_examples=25, deadline=None)
@given(arrow_tables())
def test_batches_do_not_change_the_schema(table: pa.Table) -> None:
    rows = [table.slice(start, 7) for start in range(0, table.num_rows, 7)]
    batches = [batch for part in [table.slice(0, 0), *rows] for batch in part.combine_chunks().to_batches()]
    assert infer_schema(Batches(batches)).columns == _infer(table).columns


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("No", list(range(1, 400)), Kind.IDENTIFIER),
        ("encounter_id", RNG.choice(10**9, 300, replace=False), Kind.IDENTIFIER),
        ("customerID", RNG.choice(10**4, 60, replace=False), Kind.IDENTIFIER),
        ("__index_level_0__", RNG.permutation(50), Kind.IDENTIFIER),
        ("snowflake", RNG.integers(10**18, 2 * 10**18, 1500), Kind.IDENTIFIER),
        ("customer", [f"C-{i:06d}" for i in range(200)], Kind.IDENTIFIER),
        ("key", [RNG.bytes(16).hex() for _ in range(50)], Kind.IDENTIFIER),
        ("order", pa.array(range(200)).cast(pa.decimal128(38, 0)), Kind.IDENTIFIER),
        ("population", RNG.choice(10**9, 1500, replace=False), Kind.NUMBER),
        ("number_of_rooms", list(range(20)), Kind.NUMBER),
        ("year", list(range(1900, 2020)), Kind.NUMBER),
        ("measure", RNG.choice(10**6, 50, replace=False), Kind.NUMBER),
        ("fare_id", RNG.random(300), Kind.NUMBER),
        ("account_id", [1, *range(1, 300)], Kind.IDENTIFIER),
        ("email", [f"a{i}.b@x.com" for i in range(200)], Kind.TEXT),
        ("name", ["".join(RNG.choice(list("abcdefghij"), 6 + i % 4)) for i in range(200)], Kind.TEXT),
        ("segment", ["a", "b"] * 100, Kind.CATEGORY),
        ("answer", ["yes", "no", "perhaps"] * 5, Kind.CATEGORY),
        ("rating", pa.array([1, 2, 3] * 20), Kind.NUMBER),
        ("flag", [True, False] * 10, Kind.BOOLEAN),
        ("flag", [True] * 20, Kind.CONSTANT),
        ("some", [5, None] * 20, Kind.NUMBER),
        ("some", ["a", None] * 20, Kind.CATEGORY),
        ("none", pa.nulls(20, pa.string()), Kind.CONSTANT),
        ("none", pa.nulls(20), Kind.CONSTANT),
        ("nan", [float("nan")] * 20, Kind.CONSTANT),
        ("at", [dt.datetime(2024, 1, 1) + dt.timedelta(i) for i in range(30)], Kind.DATETIME),
        ("took", [dt.timedelta(i) for i in range(30)], Kind.DATETIME),
        ("coded", pa.array([f"{i}" for i in range(110)], pa.dictionary(pa.int8(), pa.string())), Kind.CATEGORY),
        ("items", pa.array([[1]] * 20), Kind.NESTED),
    ],
)  # fmt: skip
def test_kinds(name: str, cells: Any, kind: Kind) -> None:
    assert _kind(cells, name) is kind


def test_a_train_split_of_a_sequence_is_still_one() -> None:
    table = pa.table({"x": pa.array(range(1, 1001))})
    split = RowSplit(InMemoryTable(table), "train", holdout=0.2, seed=0)
    assert infer_schema(split).columns[0].kind is Kind.IDENTIFIER


def test_bounds_are_no_single_cell() -> None:
    column = _column(pa.array([0, 1000, 2000, 3000, 4000, *[10_000] * 30, 99_991, 99_992, 99_993, 99_994, 99_995]))
    assert (column.minimum, column.maximum) == (2000, 99_993)


def test_a_bound_that_many_rows_share_is_kept() -> None:
    column = _column(pa.array([0] * 5 + list(range(10, 40)) + [1000]))
    assert column.minimum == 0
    assert column.maximum < 1000
    assert _column(pa.array([*range(10, 40), 1000]), privacy=EXACT).maximum == 1000


def test_bounds_of_dates_are_iso() -> None:
    days = pa.array([dt.date(2024, 1, 1)] * 5 + [dt.date(2024, 1, 2 + i) for i in range(20)])
    column = _column(days, privacy=EXACT)
    assert (column.minimum, column.maximum) == ("2024-01-01", "2024-01-21")


def test_64_bit_bounds_are_exact() -> None:
    cells = pa.array([2**63 + i for i in range(0, 300, 3)], pa.uint64())
    column = _column(cells, privacy=EXACT)
    assert (column.minimum, column.maximum) == (2**63, 2**63 + 297)


def test_extremes_over_batches() -> None:
    extremes = Extremes(2)
    for part in ([5.0, 1.0], [1.0, 9.0, 9.0], [7.0]):
        extremes.add(np.array(part))
    assert extremes.exact == (1.0, 9.0)
    assert extremes.protected(2) == (1.0, 9.0)


def test_overrides() -> None:
    column = _column(
        pa.array([1, 2, None] * 10),
        overrides={"x": ColumnOverride(minimum=0, maximum=7, nullable=False)},
    )
    assert (column.minimum, column.maximum, column.nullable, column.nulls) == (
        0,
        7,
        False,
        pytest.approx(1 / 3),
    )
    forced = _column(["a", "b"] * 20, overrides={"x": ColumnOverride(kind=Kind.TEXT)})
    assert forced.kind is Kind.TEXT
    assert forced.unlearnable == "generate"
    dates = pa.array([dt.date(2024, 1, 1 + i) for i in range(20)])
    assert _column(dates, overrides={"x": ColumnOverride(maximum="2030-01-01")}).maximum == "2030-01-01"


@pytest.mark.parametrize(
    ("cells", "override", "message"),
    [
        (
            ["a", "b"] * 10,
            ColumnOverride(kind=Kind.NUMBER),
            "columns.x.kind must be category or identifier or text",
        ),
        ([1.5, 2.5] * 10, ColumnOverride(kind=Kind.IDENTIFIER), "columns.x.kind must be number or category"),
        ([1, 2] * 10, ColumnOverride(kind=Kind.CONSTANT), "several values"),
        (["a", "b"] * 10, ColumnOverride(minimum=1), "the column is a category"),
        (
            [1, 2] * 10,
            ColumnOverride(minimum="soon"),
            "columns.x.minimum: 'soon' is not a value of type int64",
        ),
        ([1, 2] * 10, ColumnOverride(minimum=5, maximum=3), "minimum must not lie above maximum"),
        ([1, 2] * 10, ColumnOverride(minimum=5), "leaves none"),
        ([None] * 10, ColumnOverride(nullable=False), "every cell of the column is null"),
    ],
)
def test_overrides_that_do_not_fit(cells: Any, override: ColumnOverride, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        _column(cells, overrides={"x": override})


def test_an_override_of_no_column_suggests_one() -> None:
    with pytest.raises(SpecError, match="no column 'incme'") as caught:
        _column([1, 2] * 10, "income", overrides={"incme": ColumnOverride(kind=Kind.NUMBER)})
    assert "'income'" in caught.value.hint


def test_decisions_for_nested_columns() -> None:
    table = pa.table({"x": [[1]] * 20, "y": list(range(20))})
    assert _infer(table).column("x").unlearnable == "null"
    dropped = _infer(table, overrides={"x": ColumnOverride(unlearnable="drop")})
    assert dropped.arrow.names == ["y"]
    assert dropped.names == ("y",)
    with pytest.raises(DataError, match=r"'x' is nested \(list<") as caught:
        _infer(table, unlearnable="refuse")
    assert "drop or null" in caught.value.hint
    with pytest.raises(DataError, match="every column is dropped"):
        _infer(table.select(["x"]), unlearnable="drop")


def test_a_nested_column_that_forbids_nulls_must_be_dropped() -> None:
    schema = pa.schema([pa.field("x", pa.list_(pa.int64()), nullable=False)])
    with pytest.raises(DataError, match="allows none") as caught:
        _infer(pa.Table.from_arrays([pa.array([[1]] * 20)], schema=schema))
    assert "drop" in caught.value.hint


@pytest.mark.parametrize(("rows", "message"), [(0, "has no rows"), (1, "too few rows.*: 1"), (9, "too few rows.*: 9")])
def test_tables_that_are_too_small(rows: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _column(pa.array(range(rows), pa.int64()))


def test_columns_are_checked() -> None:
    with pytest.raises(DataError, match="no columns"):
        check_columns(pa.schema([]))
    with pytest.raises(DataError, match="more than once: 'a'"):
        check_columns(pa.schema([("a", pa.int8()), ("b", pa.int8()), ("a", pa.string())]))


def test_pandas_reads_the_same_types_back() -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3] * 5, dtype="Int64"),
            "c": pd.Categorical(["a", "b", "a"] * 5),
            "t": pd.date_range("2024", periods=15, tz="Europe/Berlin"),
        }
    )
    table = pa.Table.from_pandas(frame)
    schema = _infer(table).arrow
    stored = json.loads(schema.metadata[b"pandas"])
    assert stored["index_columns"] == []
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_batches(table.slice(0, 11).to_batches(), schema=schema), sink)
    again = pd.read_parquet(io.BytesIO(sink.getvalue()))
    assert again.dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(again) == 11


def test_distinct_values_are_exact_then_bounded() -> None:
    counter = DistinctCounter(1000)
    hashes = row_hash(np.arange(200_000, dtype=np.uint64), 1)
    counter.add(hashes[:900])
    assert (counter.count(), counter.estimate(), counter.has_repeats) == (900, 900, False)
    for start in range(0, 200_000, 20_000):
        counter.add(hashes[max(start, 900) : start + 20_000])
    assert counter.count() == 1000
    assert counter.estimate() == pytest.approx(200_000, rel=0.2)
    assert not counter.has_repeats
    counter.add(hashes)
    counter.count()
    assert counter.has_repeats


def test_progress_counts_rows() -> None:
    events: list[ProgressEvent] = []
    _column(list(range(100)), progress=events.append)
    assert [(event.step, event.done, event.total) for event in events] == [("read", 100, 100)]


def test_no_cell_is_kept() -> None:
    table = pa.table({"who": [f"Secret Person {chr(65 + i)}" for i in range(20)], "n": [1.5] * 19 + [123.456]})
    text = _infer(table).model_dump_json()
    assert "Secret" not in text
    assert "123.456" not in text
