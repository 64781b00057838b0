from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tabvae_flows.customers import customers


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return customers(50_000)


def test_business_rules_hold(table: pa.Table) -> None:
    table.validate(full=True)
    assert pc.all(pc.greater(table["age"], 0)).as_py()
    assert pc.all(pc.greater_equal(table["income"], 0)).as_py()
    assert pc.all(pc.greater_equal(table["closed_at"], table["signup_at"])).as_py()


def test_same_seed_same_table_and_other_seed_another() -> None:
    assert customers(500, seed=1).equals(customers(500, seed=1))
    assert not customers(500, seed=1).equals(customers(500, seed=2))


def test_looks_like_a_production_table(table: pa.Table) -> None:
    assert table.schema.field("signup_at").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("balance").type == pa.decimal128(12, 2)
    assert table["customer_id"][0].as_py() == "C-000001"
    assert pc.count_distinct(table["customer_id"]).as_py() == table.num_rows
    assert pc.count_distinct(table["city"]).as_py() == 500
    for name in ("age", "income", "score", "city", "closed_at", "referred"):
        assert 0 < table[name].null_count < table.num_rows
    assert pc.sum(pc.equal(table["visits"], 0)).as_py() > 0.1 * table.num_rows


def test_city_decides_region_and_age_follows_segment(table: pa.Table) -> None:
    pairs = table.group_by(["city", "region"]).aggregate([]).filter(pc.field("city").is_valid())
    assert pairs.num_rows == 500
    means = dict(zip(*table.group_by("segment").aggregate([("age", "mean")]).to_pydict().values(), strict=True))
    assert means["student"] < 26 < means["premium"]


@pytest.mark.parametrize("rows", [1, 7])
def test_small_tables(rows: int) -> None:
    assert customers(rows).num_rows == rows
