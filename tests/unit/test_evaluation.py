"""Figures: at their floor for real rows, away from it for each way of being wrong, and never a crash."""

from __future__ import annotations

import base64
import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tabvae_core.errors import DataError
from tabvae_core.evaluation import Evaluation, evaluate
from tabvae_core.evaluation.association import correlation, trend
from tabvae_core.evaluation.classifier import column_auc, roc_auc
from tabvae_core.evaluation.kept_relations import kept_share
from tabvae_core.evaluation.metrics import kolmogorov_smirnov, total_variation
from tabvae_core.evaluation.utility import utility
from tabvae_core.evaluation.view import ColumnView, Side, modelled, table_view
from tabvae_core.progress import ProgressEvent
from tabvae_core.relations import Relation, RelationKind
from tabvae_core.schema import ColumnSchema, TableSchema
from tabvae_core.spec import Kind


def kind_of(type_: pa.DataType) -> Kind:
    if pa.types.is_boolean(type_):
        return Kind.BOOLEAN
    if pa.types.is_temporal(type_):
        return Kind.DATETIME
    if pa.types.is_nested(type_):
        return Kind.NESTED
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    return Kind.NUMBER if number else Kind.CATEGORY


def schema_of(table: pa.Table, **kinds: Kind) -> TableSchema:
    columns = tuple(
        ColumnSchema(
            name=field.name,
            kind=kinds.get(field.name, kind_of(field.type)),
            arrow_type=str(field.type),
            nulls=0.0,
            nullable=True,
            distinct=1,
        )
        for field in table.schema
    )
    message = base64.b64encode(table.schema.serialize().to_pybytes()).decode()
    return TableSchema(columns=columns, rows=table.num_rows, arrow_ipc=message)


def people(rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    income = np.round(900 * np.exp(0.02 * age + 0.4 * rng.standard_normal(rows)))
    segment = np.where(income > 2500, "gold", rng.choice(["basic", "plus"], rows))
    return pa.table(
        {
            "key": pa.array([f"C-{seed}-{k}" for k in range(rows)]),
            "age": pa.array(age),
            "income": pa.array(income, mask=rng.random(rows) < 0.1),
            "segment": pa.array(segment),
            "active": pa.array(rng.random(rows) < 0.3),
            "since": pa.array(1_600_000_000 + 86_400 * age + rng.integers(0, 10_000, rows), pa.timestamp("s")),
        }
    )


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns = {name: table[name].take(pa.array(rng.permutation(table.num_rows))) for name in table.schema.names}
    return pa.table(columns)


@pytest.fixture(scope="module")
def holdout() -> pa.Table:
    return people(700, 1)


@pytest.fixture(scope="module")
def train() -> pa.Table:
    return people(700, 2)


@pytest.fixture(scope="module")
def schema(holdout: pa.Table) -> TableSchema:
    return schema_of(holdout, key=Kind.IDENTIFIER)


@pytest.fixture(scope="module")
def real(holdout: pa.Table, train: pa.Table, schema: TableSchema) -> Evaluation:
    """New real rows in the place of synthetic ones."""
    return evaluate(holdout, people(700, 3), schema, train=train, target_column="segment")


def test_real_rows_are_at_their_floor(real: Evaluation) -> None:
    assert set(real.metrics) == {"shape", "trend", "jsd", "c2st", "utility", "copies", "nulls"}
    assert real.verdict.apart == ()
    assert real.telling == ()
    assert real.metrics["c2st"].value == pytest.approx(0.5, abs=0.05)
    assert real.metrics["copies"].value == pytest.approx(0.0, abs=0.5)
    for name in ("shape", "trend", "jsd"):
        metric = real.metrics[name]
        assert metric.value == pytest.approx(metric.floor, rel=0.6)
    assert "All 7 figures" in real.verdict.sentence


def test_an_identical_table_has_no_error(holdout: pa.Table, schema: TableSchema) -> None:
    found = evaluate(holdout, holdout, schema)
    for name in ("shape", "trend", "jsd", "nulls"):
        assert found.metrics[name].value == 0.0
        assert found.metrics[name].floor is None
    assert found.metrics["copies"].value is None
    assert "utility" not in found.metrics
    assert any("no floor" in note for note in found.notes)


def test_the_same_rows_give_the_same_figures(
    real: Evaluation, holdout: pa.Table, train: pa.Table, schema: TableSchema
) -> None:
    again = evaluate(holdout, people(700, 3), schema, train=train, target_column="segment")
    assert again == real
    assert Evaluation.model_validate_json(real.model_dump_json()) == real


def test_trend_and_trees_find_columns_that_lost_each_other(
    holdout: pa.Table, train: pa.Table, schema: TableSchema
) -> None:
    found = evaluate(holdout, shuffled(train, 5), schema, train=train)
    assert found.metrics["shape"].value == pytest.approx(found.metrics["shape"].floor)
    assert found.metrics["trend"].value > 4 * found.metrics["trend"].floor
    assert found.metrics["c2st"].value > 0.9
    assert {"trend", "c2st"} <= set(found.verdict.apart)
    assert {found.pairs.worst[0].first, found.pairs.worst[0].second} <= {"age", "since", "income", "segment"}
    assert {column.name for column in found.telling[:2]} <= {"age", "since", "income", "segment"}


def test_a_shifted_column_is_found_and_named(holdout: pa.Table, train: pa.Table, schema: TableSchema) -> None:
    place = train.schema.get_field_index("active")
    wrong = train.set_column(place, "active", pa.array(np.ones(train.num_rows, dtype=bool)))
    found = evaluate(holdout, wrong, schema, train=train)
    column = next(c for c in found.columns if c.name == "active")
    assert column.shape == pytest.approx(70, abs=5)
    assert column.jsd > 0.4 > 10 * column.jsd_floor
    assert column.auc > 0.8
    assert found.telling[0].name == "active"
    assert found.metrics["c2st"].value > 0.8


def test_nulls_that_vanished_are_found(holdout: pa.Table, schema: TableSchema) -> None:
    place = holdout.schema.get_field_index("income")
    filled = holdout.set_column(place, "income", holdout["income"].fill_null(2000.0))
    found = evaluate(holdout, filled, schema)
    column = next(c for c in found.columns if c.name == "income")
    assert column.nulls_real == pytest.approx(0.1, abs=0.03)
    assert column.nulls_synthetic == 0.0
    assert column.shape >= 100 * column.nulls_real - 0.01
    assert found.metrics["nulls"].value == pytest.approx(100 * column.nulls_real / 5, abs=0.01)


def test_copies_are_counted_over_all_rows_without_keys(holdout: pa.Table, train: pa.Table, schema: TableSchema) -> None:
    mixed = pa.concat_tables([train.slice(0, 100), people(300, 4)])
    renamed = mixed.set_column(0, "key", pa.array([f"new-{k}" for k in range(mixed.num_rows)]))
    found = evaluate(holdout, renamed, schema, train=train, max_rows=100)
    assert found.metrics["copies"].value == pytest.approx(25.0, abs=0.5)
    assert found.metrics["copies"].floor == pytest.approx(0.0, abs=0.5)
    assert found.rows.synthetic == 100
    assert any("chosen uniformly" in note for note in found.notes)


@pytest.mark.parametrize("target", ["segment", "age"])
def test_usefulness_is_lost_with_the_relations(
    holdout: pa.Table, train: pa.Table, schema: TableSchema, target: str
) -> None:
    sides = {Side.HOLDOUT: holdout, Side.SYNTHETIC: shuffled(train, 6), Side.TRAIN: train}
    view = table_view(sides, modelled(schema))
    value, floor = (utility(view, target, side) for side in (Side.SYNTHETIC, Side.TRAIN))
    assert floor > 0.8
    assert value < floor - 0.2


def test_a_target_that_is_not_counted_is_said(holdout: pa.Table, schema: TableSchema) -> None:
    found = evaluate(holdout, holdout, schema, target_column="key")
    assert found.metrics["utility"].value is None
    assert any("'key'" in note for note in found.notes)


def test_identifiers_text_constants_and_nested_are_listed_only() -> None:
    table = pa.table({"a": ["x"] * 30, "b": [[1]] * 30, "c": ["some text"] * 30, "d": [f"{k}" for k in range(30)]})
    schema = schema_of(table, a=Kind.CONSTANT, b=Kind.NESTED, c=Kind.TEXT, d=Kind.IDENTIFIER)
    found = evaluate(table, table, schema, train=table)
    assert [column.modelled for column in found.columns] == [False] * 4
    assert all(metric.value is None for metric in found.metrics.values())
    assert "Nothing could be compared" in found.verdict.sentence


def test_sides_are_cut_to_the_same_number_of_rows(holdout: pa.Table, schema: TableSchema) -> None:
    found = evaluate(holdout, people(150, 8), schema, train=people(400, 9))
    assert (found.rows.holdout, found.rows.synthetic, found.rows.train) == (700, 150, 150)


def test_wide_tables_measure_a_sample_of_their_pairs() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"c{k:03}": rng.integers(0, 9, 60) for k in range(110)})
    found = evaluate(table, shuffled(table, 1), schema_of(table), train=table)
    assert (found.pairs.measured, found.pairs.total) == (5000, 5995)
    assert len(found.pairs.columns) == 40
    assert any("5,000 of 5,995 column pairs" in note for note in found.notes)


def test_models_see_fewer_rows_of_a_wide_table() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"c{k}": rng.random(1500) for k in range(5)})
    view = table_view({Side.HOLDOUT: table, Side.SYNTHETIC: table.slice(0, 40)}, modelled(schema_of(table)))
    thin = view.thinned(6_000, seed=0)
    assert dict(thin.rows) == {Side.HOLDOUT: 1200, Side.SYNTHETIC: 40}
    assert thin.matrix(Side.HOLDOUT).shape == (1200, 5)
    assert set(thin.matrix(Side.HOLDOUT)[:, 0]) <= set(view.matrix(Side.HOLDOUT)[:, 0])
    assert view.thinned(10_000_000, seed=0) is view


def test_ten_thousand_categories() -> None:
    rng = np.random.default_rng(0)
    tables = [pa.table({"code": rng.integers(0, 10_000, 1000).astype(str), "x": rng.random(1000)}) for _ in range(3)]
    found = evaluate(tables[0], tables[1], schema_of(tables[0]), train=tables[2], target_column="code")
    assert found.metrics["shape"].value == pytest.approx(found.metrics["shape"].floor, rel=0.2)
    assert found.metrics["utility"].value == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("rows", [1, 2, 9, 20])
def test_tiny_tables(rows: int) -> None:
    table = people(rows, 1)
    found = evaluate(table, people(rows, 2), schema_of(table), train=people(rows, 3), target_column="segment")
    assert (found.metrics["c2st"].value is None) == (rows < 10)


def test_one_column_has_no_pairs() -> None:
    table = pa.table({"x": np.arange(50)})
    found = evaluate(table, table, schema_of(table))
    assert found.metrics["trend"].value is None
    assert found.metrics["shape"].value == 0.0


def test_types_that_differ_compare_where_they_mean_the_same() -> None:
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=k) for k in range(40)]
    first = pa.table({"n": pa.array(range(40), pa.int32()), "d": pa.array(days), "s": ["a", "b"] * 20})
    second = pa.table(
        {
            "n": pa.array([float(k) for k in range(40)]),
            "d": pa.array(days).cast(pa.timestamp("ns")),
            "s": pa.array(["a", "b"] * 20).dictionary_encode(),
        }
    )
    found = evaluate(first, second, schema_of(first))
    assert [column.shape for column in found.columns] == [0.0, 0.0, 0.0]
    assert any("int32 became double" in note for note in found.notes)


def test_errors_name_table_and_column() -> None:
    table = pa.table({"x": [1, 2, 3], "y": ["a", "b", "c"]})
    schema = schema_of(table)
    with pytest.raises(DataError, match="synthetic table has no column 'y'"):
        evaluate(table, table.select(["x"]), schema)
    with pytest.raises(DataError, match="column 'y' has types that do not compare: held-out string, synthetic int64"):
        evaluate(table, pa.table({"x": [1], "y": [2]}), schema)
    with pytest.raises(DataError, match="synthetic table has no rows"):
        evaluate(table, table.slice(0, 0), schema)


def test_progress_ends_where_it_said(holdout: pa.Table, schema: TableSchema) -> None:
    events: list[ProgressEvent] = []
    evaluate(holdout.slice(0, 50), holdout.slice(50, 50), schema, progress=events.append)
    assert [event.step for event in events] == ["evaluate"] * len(events)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total


def test_closed_forms() -> None:
    assert kolmogorov_smirnov(np.array([0.0, 1.0]), np.array([2.0, 3.0, np.nan])) == 1.0
    assert kolmogorov_smirnov(np.array([np.nan]), np.array([])) == 0.0
    assert total_variation(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == 0.25
    assert total_variation(np.array([0, 10**9]), np.array([0, 5])) == 0.5
    assert roc_auc(np.array([False, True, True]), np.array([0.1, 0.1, 0.9])) == 0.75
    assert roc_auc(np.array([True, True]), np.array([0.1, 0.9])) == 0.5


def test_correlation_is_pairwise_complete() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3)) + 1e9
    x[:, 1] += 2 * x[:, 0] - 2e9
    x[rng.random(300) < 0.3, 1] = np.nan
    found = correlation(np.column_stack([x, np.full(300, 7.0)]))
    known = ~np.isnan(x[:, 1])
    assert found[0, 1] == pytest.approx(np.corrcoef(x[known, 0], x[known, 1])[0, 1], abs=1e-6)
    assert np.all(found[3] == 0)


def test_one_column_alone_tells_what_differs() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(2000), rng.standard_normal(2000)
    assert column_auc(a, b) == pytest.approx(0.5, abs=0.04)
    assert column_auc(a, np.round(b)) > 0.95
    assert column_auc(a[:5], b) is None


def test_trend_floor_is_that_of_the_training_rows(holdout: pa.Table, train: pa.Table, schema: TableSchema) -> None:
    sides = {Side.HOLDOUT: holdout, Side.SYNTHETIC: train, Side.TRAIN: train}
    found = trend(table_view(sides, modelled(schema)))
    assert found.value == found.floor


_STAMPS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1))
_INT64 = st.integers(-(2**63), 2**63 - 1)
_TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int64": (pa.int64(), _INT64),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float16": (pa.float16(), st.floats(width=16)),
    "float32": (pa.float32(), st.floats(width=32)),
    "float64": (pa.float64(), st.floats()),
    "decimal128": (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3).map(Decimal)),
    "decimal256": (pa.decimal256(50, 2), st.decimals(-(10**8), 10**8, places=2).map(Decimal)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text(max_size=4)),
    "string_view": (pa.string_view(), st.text(max_size=4)),
    "binary": (pa.binary(), st.binary(max_size=3)),
    "fixed": (pa.binary(2), st.binary(min_size=2, max_size=2)),
    "date32": (pa.date32(), st.dates()),
    "date64": (pa.date64(), st.dates()),
    "time32": (pa.time32("ms"), st.times().map(lambda t: t.replace(microsecond=0))),
    "time64": (pa.time64("us"), st.times()),
    "stamp_s": (pa.timestamp("s"), _STAMPS.map(lambda t: t.replace(microsecond=0))),
    "stamp_ns": (pa.timestamp("ns"), _STAMPS),
    "stamp_zone": (pa.timestamp("us", "Europe/Berlin"), _STAMPS.map(lambda t: t.replace(tzinfo=dt.UTC))),
    "duration": (pa.duration("ms"), _INT64.map(lambda v: v % 10**12)),
    "null": (pa.null(), st.none()),
    "list": (pa.list_(pa.int8()), st.lists(st.integers(0, 9), max_size=2)),
}


@st.composite
def _tables(draw: st.DrawFn) -> tuple[pa.Table, pa.Table, pa.Table]:
    names = draw(st.lists(st.sampled_from(sorted(_TYPES)), min_size=1, max_size=5, unique=True))
    tables = []
    for rows in (draw(st.integers(1, 25)) for _ in range(3)):
        columns = {}
        for name in names:
            type_, cells = _TYPES[name]
            column = pa.array(draw(st.lists(st.none() | cells, min_size=rows, max_size=rows)), type_)
            columns[name] = column.dictionary_encode() if name == "string" else column
        tables.append(pa.table(columns))
    return tables[0], tables[1], tables[2]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(_tables(), st.booleans())
def test_any_arrow_table_can_be_measured(tables: tuple[pa.Table, pa.Table, pa.Table], floors: bool) -> None:
    holdout, synthetic, train = tables
    found = evaluate(
        holdout,
        synthetic,
        schema_of(holdout),
        train=train if floors else None,
        target_column=holdout.schema.names[0],
    )
    assert [column.name for column in found.columns] == holdout.schema.names
    for metric in found.metrics.values():
        assert metric.value is None or np.isfinite(metric.value)
    for name in ("shape", "trend", "nulls"):
        assert found.metrics[name].value is None or 0 <= found.metrics[name].value <= 100
    assert Evaluation.model_validate_json(found.model_dump_json()) == found


# ---------------------------------------------------------------- exact relations


def bills(rows: int, seed: int, *, broken: float = 0.0) -> pa.Table:
    """A total, a country that follows from its city, an end after a start; some rows break all three."""
    rng = np.random.default_rng(seed)
    net, tax = rng.integers(100, 90_000, rows) / 100, rng.integers(10, 9_000, rows) / 100
    city, start = rng.integers(0, 12, rows), rng.integers(0, 10_000, rows)
    wrong = rng.random(rows) < broken
    return pa.table(
        {
            "net": net,
            "tax": tax,
            "total": np.round(net + tax, 2) + wrong,
            "city": [f"city {k}" for k in city],
            "country": [f"land {k}" for k in (city // 3 + wrong) % 4],
            "start": start,
            "end": start + np.where(wrong, -1, rng.integers(0, 500, rows)),
        }
    )


def test_broken_relations_are_counted() -> None:
    real = bills(1500, 1)
    schema = schema_of(real)
    found = evaluate(bills(600, 2), bills(800, 3, broken=0.3), schema, train=real)
    kept = {relation.formula: relation for relation in found.relations}
    for formula in ("total = net + tax", "country follows from city", "end >= start"):
        relation = kept[formula]
        assert relation.real == 1.0
        assert relation.synthetic == pytest.approx(0.7, abs=0.06)
    whole = evaluate(bills(600, 2), bills(800, 4), schema, train=real)
    assert {relation.synthetic for relation in whole.relations} == {1.0}


def test_relations_are_counted_where_all_cells_are_there() -> None:
    kinds = {"kind": RelationKind.SUM, "target": "c", "columns": ("a", "b"), "share": 1.0}
    nan = np.nan

    def column(*values: float) -> ColumnView:
        return ColumnView("x", Kind.NUMBER, "number", None, dict.fromkeys(Side, np.array(values)))

    involved = [column(3, 5, nan, 9), column(1, 2, 1, 4), column(2, 4, 1, 5)]
    assert kept_share(Relation(**kinds), involved, Side.SYNTHETIC, Side.TRAIN) == pytest.approx(2 / 3, abs=1e-6)
    empty = [column(nan), column(1), column(2)]
    assert kept_share(Relation(**kinds), empty, Side.SYNTHETIC, Side.TRAIN) is None
    order = Relation(RelationKind.ORDER, "c", ("a",), 1.0, at_least=False)
    assert kept_share(order, [column(1, 2, 3), column(2, 2, 2)], Side.SYNTHETIC, Side.TRAIN) == pytest.approx(
        2 / 3, abs=1e-6
    )


def test_what_follows_is_what_the_origin_says_most_often() -> None:
    origin, drawn = np.array([7.0, 7.0, 8.0, 9.0]), np.array([7.0, 8.0, 9.0, 1.0])
    keys, others = np.array([1.0, 1.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0, 3.0])
    target = ColumnView("t", Kind.CATEGORY, "number", ("",) * 10, {Side.TRAIN: origin, Side.SYNTHETIC: drawn})
    column = ColumnView("k", Kind.CATEGORY, "number", ("",) * 10, {Side.TRAIN: keys, Side.SYNTHETIC: others})
    follows = Relation(RelationKind.DETERMINES, "t", ("k",), 1.0)
    assert kept_share(follows, [target, column], Side.SYNTHETIC, Side.TRAIN) == 0.5, (
        "7 and 9, not 8, nor an unknown key"
    )
