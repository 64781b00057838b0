"""What a private model knows of columns: nothing that is neither declared nor paid for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables_made import people
from tabvae_core.codecs.binned import BinnedCodec, Scale
from tabvae_core.codecs.category import CategoryCodec
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError, SpecError
from tabvae_core.inference import declared_schema, infer_schema
from tabvae_core.privacy.accounting import Budget
from tabvae_core.privacy.domain import PrivateDomain, on_simplex, private_domain
from tabvae_core.privacy.noise import Noise
from tabvae_core.schema import TableSchema
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import as_source

SHARES = {"bounds": 0.2, "domains": 0.8}


def found(
    table: pa.Table, *, epsilon: float = 20.0, columns: dict[str, ColumnOverride] | None = None, seed: int = 0
) -> PrivateDomain:
    schema = declared_schema(table.schema, columns or {})
    budget = Budget(epsilon, 1e-5, SHARES)
    return private_domain(as_source(table), schema, budget, Noise(rng=np.random.default_rng(seed)))


def decoded(codec: TableCodec, tokens: npt.NDArray[Any]) -> pa.Table:
    zeros = np.zeros(tokens.shape, np.float32)
    return codec.decode(tokens, zeros, rows=np.arange(len(tokens), dtype=np.uint64), seed=0)


class Unread:
    """A source that must not be read."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.num_rows = schema, 100

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        raise AssertionError("a row was read")


def test_a_declared_schema_reads_no_row() -> None:
    table = people(50)
    schema = infer_schema(Unread(table.schema), privacy=PrivacySpec(epsilon=1.0))
    assert schema.public
    assert schema.rows == 0
    assert {column.kind for column in schema.columns} == {Kind.CATEGORY, Kind.NUMBER, Kind.DATETIME, Kind.BOOLEAN}
    assert schema == declared_schema(people(3000, seed=5).schema)


def test_a_schema_of_the_rows_is_refused() -> None:
    table = people(100)
    with pytest.raises(SpecError, match="inferred from the rows"):
        private_domain(as_source(table), infer_schema(as_source(table)), Budget(1, 1e-5, SHARES), Noise())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 299), st.floats(0.2, 10), st.booleans())
def test_neighbours_pay_the_same_before_a_row_is_read(row: int, epsilon: float, bounded: bool) -> None:
    """The record, noise and rounds follow from the public schema alone."""
    table = people(300)
    fewer = pa.concat_tables([table.slice(0, row), table.slice(row + 1)])
    columns = {"age": ColumnOverride(minimum=18, maximum=80)} if bounded else {}
    schema, records = declared_schema(table.schema, columns), []
    for one in (table, fewer, table.slice(0, 0)):
        budget = Budget(epsilon, 1e-5, SHARES)
        private_domain(as_source(one), schema, budget, Noise(rng=np.random.default_rng(0)))
        records.append(budget.record())
    assert records[0] == records[1] == records[2]
    budget = Budget(epsilon, 1e-5, SHARES)
    with pytest.raises(AssertionError, match="a row was read"):
        private_domain(Unread(table.schema), schema, budget, Noise())
    assert budget.record() == records[0]


def test_one_row_never_shows_its_category() -> None:
    """Of 200 tables with one category of a single row, at a delta of 1e-5, none shows it; frequent ones are there."""
    table = pa.table({"name": ["a"] * 300 + ["b"] * 300 + ["only one"]})
    for seed in range(200):
        codec = found(table, epsilon=5.0, seed=seed).codec.codecs[0]
        assert isinstance(codec, CategoryCodec)
        assert codec.categories.to_pylist() == ["a", "b"]


def test_declared_categories_and_bounds_are_taken_as_they_are() -> None:
    table = pa.table({"name": ["a"] * 90 + ["z"] * 10, "size": np.arange(100)})
    columns = {
        "name": ColumnOverride(categories=("c", "a", "b")),
        "size": ColumnOverride(minimum=-50, maximum=400),
    }
    codec = found(table, columns=columns).codec
    name, size = codec.codecs
    assert isinstance(name, CategoryCodec)
    assert isinstance(size, BinnedCodec)
    assert name.categories.to_pylist() == ["a", "b", "c"]
    assert (size.edges[0], size.edges[-1]) == (-50, 401)
    drawn = decoded(codec, codec.encode(table).tokens)
    assert set(drawn["name"].to_pylist()) <= {"a", "b", "c"}
    assert codec.schema.column("size").maximum == 400


def test_shared_values_get_a_bin_of_their_own() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(3000, 0), np.full(1000, 77_777), rng.integers(1, 100_000, 4000)])
    codec = found(pa.table({"gain": values})).codec.codecs[0]
    assert isinstance(codec, BinnedCodec)
    for value in (0, 77_777):
        token = int(codec.encode(pa.array([value])).tokens[0, 0])
        low, high = codec.bins[token], np.append(codec.bins, codec.edges[-1])[token + 1]
        assert (low, high) == (value, value + 1)


def test_bounds_are_found_near_the_data() -> None:
    values = np.random.default_rng(0).integers(1_000_000, 1_500_000, 20_000)
    codec = found(pa.table({"n": values}), epsilon=3.0).codec.codecs[0]
    assert isinstance(codec, BinnedCodec)
    assert 900_000 < codec.edges[0] <= 1_010_000
    assert 1_490_000 <= codec.edges[-1] < 1_600_000


TYPES = {
    "int8": pa.array(np.arange(-100, 100, dtype=np.int8)),
    "uint64": pa.array(np.arange(2**61, 2**61 + 200, dtype=np.uint64)),
    "small uint64": pa.array(np.arange(200, dtype=np.uint64)),
    "int64": pa.array(np.arange(-100, 100, dtype=np.int64) * (2**53 + 7)),
    "float32": pa.array(np.linspace(-1.5, 1e6, 200, dtype=np.float32)),
    "float64": pa.array([float("inf"), float("-inf"), float("nan"), 1e-300, *np.linspace(0, 1, 196)]),
    "decimal": pa.array([Decimal(k).scaleb(-2) for k in range(200)], pa.decimal128(9, 2)),
    "date": pa.array(np.arange("2020-01-01", "2020-07-19", dtype="datetime64[D]")[:200]),
    "stamp": pa.array(
        [datetime(2021, 1, 1 + k % 28, k % 24, tzinfo=UTC) for k in range(200)], pa.timestamp("ns", "UTC")
    ),
    "time": pa.array((np.arange(200) * 400).astype(np.int32), pa.time32("s")),
    "text": pa.array(["x", "y"] * 100).dictionary_encode(),
    "bytes": pa.array([b"x", None] * 100),
    "bool": pa.array([True, None] * 100),
    "empty": pa.nulls(200, pa.int32()),
    "null": pa.nulls(200),
    "list": pa.array([[1]] * 200),
}


def test_every_type_comes_back_with_its_type() -> None:
    table = pa.table(TYPES)
    for epsilon in (0.1, 300.0):
        domain = found(table, epsilon=epsilon)
        codec = TableCodec.restore(domain.codec.schema, domain.codec.states())
        tokens = codec.encode(table).tokens
        back = decoded(codec, tokens)
        assert back.schema.equals(table.schema)
        back.validate(full=True)
        np.testing.assert_array_equal(codec.encode(back).tokens, tokens)
    assert back["uint64"].to_numpy().min() > 0.99 * 2**61
    assert back["empty"].null_count == 200


def test_declared_decimals_are_kept() -> None:
    values = np.round(np.random.default_rng(0).uniform(0, 10, 500), 1)
    codec = found(pa.table({"x": values}), columns={"x": ColumnOverride(decimals=1, minimum=0, maximum=10)}).codec
    drawn = decoded(codec, codec.encode(pa.table({"x": values})).tokens)["x"].to_numpy()
    np.testing.assert_array_equal(drawn, np.round(drawn, 1))
    assert Scale(pa.float64(), 1).number(0.3) == 3


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(0.1, 1e3))
def test_projection_keeps_the_total(counts: list[float], total: float) -> None:
    mass = on_simplex(np.array(counts), total)
    assert mass.sum() == pytest.approx(total)
    assert (mass >= 0).all()


@pytest.mark.parametrize(
    ("column", "override", "message"),
    [
        ("age", ColumnOverride(categories=(1, 2)), "categories needs a category"),
        ("age", ColumnOverride(decimals=1), "decimals needs a number of a floating type"),
        ("age", ColumnOverride(kind=Kind.TEXT), "kind must be"),
        ("segment", ColumnOverride(minimum=1), "minimum needs a number"),
        ("nobody", ColumnOverride(), "no column 'nobody'"),
    ],
)
def test_declarations_that_do_not_fit_are_refused(column: str, override: ColumnOverride, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        declared_schema(people(20).schema, {column: override})


def test_free_text_and_keys_are_declared() -> None:
    table = pa.table({"note": ["a b", "c d"], "key": ["1", "2"], "n": [1, 2]})
    columns = {
        "note": ColumnOverride(kind=Kind.TEXT),
        "key": ColumnOverride(kind=Kind.IDENTIFIER),
        "n": ColumnOverride(kind=Kind.IDENTIFIER),
    }
    schema: TableSchema = declared_schema(table.schema, columns)
    assert schema.column("note").unlearnable == "null"
    codec = found(table, columns=columns).codec
    drawn = decoded(codec, np.zeros((5, 0), np.int32))
    assert drawn["note"].null_count == 5
    assert len(set(drawn["key"].to_pylist())) == 5
    assert drawn["n"].to_pylist() == [1, 2, 3, 4, 5]


def test_numbers_called_a_category_need_declared_ones_where_none_is_frequent() -> None:
    table = pa.table({"code": np.arange(300)})
    with pytest.raises(DataError, match="no category that enough rows share"):
        found(table, epsilon=0.5, columns={"code": ColumnOverride(kind=Kind.CATEGORY)})
