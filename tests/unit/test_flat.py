"""Slots as a plain table of numbers and categories, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables_made import people
from tabvae_core.codecs.flat import MAX_FEATURES, FlatTable
from tabvae_core.codecs.table import TableCodec
from tabvae_core.errors import DataError
from tabvae_core.inference import infer_schema
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import as_source

OPEN = PrivacySpec(min_category_rows=1, protect_extremes=1)


def flat_of(table: pa.Table, privacy: PrivacySpec = OPEN, **overrides: ColumnOverride) -> FlatTable:
    schema = infer_schema(as_source(table), overrides=overrides, privacy=privacy)
    return FlatTable(TableCodec.fit(as_source(table), schema, privacy))


def round_trip(flat: FlatTable, table: pa.Table, *, spikes: bool = True) -> pa.Table:
    tokens, values = flat.decode(*_finite(flat.flatten(flat.codec.encode(table))), spikes=spikes)
    return flat.codec.decode(tokens, values, rows=np.arange(table.num_rows, dtype=np.uint64), seed=0)


def _finite(rows: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.nan_to_num(rows[0]), rows[1]


def test_rows_come_back() -> None:
    table = people(500)
    assert round_trip(flat_of(table), table).drop_columns("key").equals(table.drop_columns("key"))


def test_numbers_are_in_units_of_the_column_and_nan_for_null() -> None:
    table = people(500)
    flat = flat_of(table)
    numbers, categories = flat.flatten(flat.codec.encode(table))
    place = [s.name for s in flat.codec.slots if s.name in ("age", "income")].index("income")
    income = table["income"].to_numpy(zero_copy_only=False)
    base = flat.codec.tables()[flat.codec.slots_of("income")[0]].base  # type: ignore[union-attr]
    np.testing.assert_allclose(numbers[:, place] + base, income, rtol=1e-6)
    null = flat.null_of[place]
    assert null is not None
    np.testing.assert_array_equal(categories[:, null] == 1, np.isnan(income))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-5_000, 5_000), st.sampled_from([0, 40])), min_size=30, max_size=80))
def test_whole_numbers_come_back_exactly(cells: list[int | None]) -> None:
    table = pa.table({"n": pa.array(cells, pa.int32()), "half": pa.array([k % 2 == 0 for k in range(len(cells))])})
    flat = flat_of(table, n=ColumnOverride(kind=Kind.NUMBER))
    assert round_trip(flat, table).equals(table)


def test_a_smooth_density_leaves_out_what_many_rows_share() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"hours": np.where(rng.random(2000) < 0.5, 40, rng.integers(0, 1000, 2000))})
    flat = flat_of(table)
    assert round_trip(flat, table)["hours"].to_pylist().count(40) > 900
    assert round_trip(flat, table, spikes=False)["hours"].to_pylist().count(40) == 0


def test_a_null_date_is_null_in_all_its_numbers() -> None:
    when = np.datetime64("2021-01-01T00:00:00", "us") + np.random.default_rng(0).integers(0, 10**15, 300)
    table = pa.table({"when": pa.array(when, mask=np.arange(300) % 5 == 0)})
    flat = flat_of(table)
    assert flat.n_numbers == 2
    assert flat.null_of == (0, 0)
    numbers, categories = flat.flatten(flat.codec.encode(table))
    np.testing.assert_array_equal(np.isnan(numbers), np.repeat(categories[:, :1] == 1, 2, axis=1))
    assert round_trip(flat, table).equals(table)


def test_what_must_not_be_drawn() -> None:
    table = pa.table(
        {
            "number": pa.array([None if k % 4 == 0 else k / 7 for k in range(200)]),
            "category": pa.array(["rare" if k == 7 else "ab"[k % 2] for k in range(200)]),
        }
    )
    flat = flat_of(table, PrivacySpec(), number=ColumnOverride(nullable=False))
    assert flat.cardinalities == (2, 3)
    assert [allowed.tolist() for allowed in flat.drawable] == [[True, False], [True, True, False]]
    assert flat_of(table, OPEN).drawable[0].tolist() == [True, True]


def test_a_column_without_a_single_number_is_a_category_of_one() -> None:
    table = pa.table({"when": pa.nulls(60, pa.timestamp("us")), "half": [1.5, 2.5] * 30})
    flat = flat_of(table, when=ColumnOverride(kind=Kind.DATETIME))
    assert (flat.n_numbers, flat.cardinalities) == (1, (1,))
    assert flat.drawable[0].tolist() == [True]
    assert round_trip(flat, table).equals(table)


def test_width_counts_features_and_has_a_limit() -> None:
    flat = flat_of(people(500))
    assert flat.width() == flat.n_numbers + sum(flat.cardinalities)
    assert flat.width(11) == 11 * flat.n_numbers + sum(flat.cardinalities)
    with pytest.raises(DataError, match="one-hot"):
        flat.width(MAX_FEATURES)
    with pytest.raises(DataError, match="no column can be learned"):
        flat_of(pa.table({"same": [7] * 60})).width()
