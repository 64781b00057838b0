"""Relations between columns: what was put into a table is found, and nothing is found where nothing was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arrow_tables import arrow_tables
from tabvae_core.errors import ModelFileError
from tabvae_core.inference import infer_schema
from tabvae_core.progress import ProgressEvent
from tabvae_core.relations import (
    MAX_ORDERS,
    Relation,
    RelationKind,
    apply,
    decimals_of,
    find_relations,
    real_values,
)
from tabvae_core.spec import ColumnOverride, Kind
from tabvae_core.tables import InMemoryTable, TableSource

N = 4_000
COMPUTED = (
    RelationKind.COPY,
    RelationKind.SUM,
    RelationKind.DIFFERENCE,
    RelationKind.PRODUCT,
    RelationKind.RATIO,
)


def found_in(table: pa.Table, *, kinds: dict[str, Kind] | None = None, **options: Any) -> tuple[Relation, ...]:
    source = InMemoryTable(table)
    overrides = {name: ColumnOverride(kind=kind) for name, kind in (kinds or {}).items()}
    return find_relations(source, infer_schema(source, overrides=overrides), **options)


def texts_in(table: pa.Table, **options: Any) -> list[str]:
    return [relation.text() for relation in found_in(table, **options)]


def table_of(columns: Sequence[Any]) -> pa.Table:
    return pa.table({f"c{number:03d}": column for number, column in enumerate(columns)})


class Batches:
    """The rows of a table in batches of one size."""

    def __init__(self, table: pa.Table, rows: int) -> None:
        self._table, self._rows = table, rows
        self.schema, self.num_rows = table.schema, table.num_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        table = self._table if columns is None else self._table.select(list(columns))
        yield from table.combine_chunks().to_batches(max_chunksize=self._rows)


# ---------------------------------------------------------------- copies


def test_copies_in_a_quarter_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    bill, other = rng.integers(100, 500_000, N), rng.integers(0, 400_000, N)
    paid = np.where(rng.random(N) < 0.25, bill, rng.integers(0, 100_000, N))
    [relation] = found_in(pa.table({"bill": bill, "other": other, "paid": paid}))
    assert relation == Relation(RelationKind.COPY, "paid", ("bill",), float((paid == bill).mean()))
    assert relation.text().startswith("paid = bill (2")


def test_the_target_comes_later_in_the_table() -> None:
    rng = np.random.default_rng(0)
    bill = rng.integers(100, 500_000, N)
    paid = np.where(rng.random(N) < 0.25, bill, rng.integers(0, 100_000, N))
    [relation] = found_in(pa.table({"paid": paid, "bill": bill}))
    assert (relation.target, relation.columns) == ("bill", ("paid",))


def test_copies_between_types_and_scales() -> None:
    rng = np.random.default_rng(1)
    cents = rng.integers(100, 10**6, N)
    decimal = pa.array(cents).cast(pa.decimal128(19, 0)).cast(pa.decimal128(30, 4))
    table = pa.table(
        {
            "whole": cents,
            "float": cents.astype(np.float64),
            "decimal": decimal,
            "single": pa.array(cents.astype(np.float32)),
            "unsigned": pa.array(cents, pa.uint64()),
        }
    )
    assert texts_in(table) == [f"{name} = whole (100 %)" for name in ("float", "decimal", "single", "unsigned")]
    scaled = pa.table({"two": pa.array(cents / 100), "four": pa.array(np.round(cents / 100, 2)).cast(pa.float32())})
    assert texts_in(scaled) == ["four = two (100 %)"]


def test_a_column_that_always_equals_another_has_no_relations_of_its_own() -> None:
    rng = np.random.default_rng(2)
    net, tax = rng.integers(100, 9_000, N), rng.integers(10, 900, N)
    table = pa.table({"net": net, "again": net, "tax": tax, "total": net + tax, "same": net + tax})
    assert [r.text() for r in found_in(table) if r.kind in COMPUTED] == [
        "again = net (100 %)",
        "total = net + tax (100 %)",
        "same = total (100 %)",
    ]


def test_copies_of_few_values_need_to_hold_always() -> None:
    rng = np.random.default_rng(3)
    code = rng.integers(0, 5, N)
    mostly = np.where(rng.random(N) < 0.9, code, rng.integers(0, 5, N))
    assert texts_in(pa.table({"code": code, "same": code})) == ["same = code (100 %)"]
    assert found_in(pa.table({"code": code, "mostly": mostly})) == ()
    # Two columns of nearly one value agree by themselves.
    flags = [(rng.random(N) < 0.0005).astype(np.int64) for _ in range(5)]
    assert found_in(table_of(flags)) == ()


def test_columns_that_are_merely_close_are_no_copies() -> None:
    rng = np.random.default_rng(4)
    planned = rng.integers(0, 100_000, N)
    arrived = planned + np.rint(rng.laplace(0, 3, N)).astype(np.int64)
    assert (planned == arrived).mean() > 0.1
    assert [r for r in found_in(pa.table({"planned": planned, "arrived": arrived})) if r.kind in COMPUTED] == []


def test_round_amounts_are_no_copies() -> None:
    rng = np.random.default_rng(5)
    size = rng.normal(50, 10, N)
    first, second = (np.rint(size + rng.normal(0, 3, N)).astype(np.int64) * 1000 for _ in range(2))
    noise = rng.integers(1, 1000, (2, N)) * (rng.random((2, N)) < 0.9)
    assert [r for r in found_in(pa.table({"a": first + noise[0], "b": second + noise[1]})) if r.kind in COMPUTED] == []


# ---------------------------------------------------------------- sums, differences, products, ratios


def test_a_sum_with_nulls() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(1, 5_000, N), rng.integers(1, 5_000, N)
    gone = rng.random((3, N)) < 0.2
    table = pa.table({name: pa.array(v, mask=m) for name, v, m in zip("abc", (a, b, a + b), gone, strict=True)})
    assert "c = a + b (100 %)" in texts_in(table)


def test_the_last_column_decides_how_a_sum_is_written() -> None:
    rng = np.random.default_rng(7)
    net, tax = np.round(rng.lognormal(4, 1, N), 2), np.round(rng.lognormal(1, 1, N), 2)
    columns = {"net": net, "tax": tax, "total": np.round(net + tax, 2)}

    def computed(*order: str) -> list[str]:
        table = pa.table({name: columns[name] for name in order})
        return [r.text() for r in found_in(table) if r.kind in COMPUTED]

    assert computed("net", "tax", "total") == ["total = net + tax (100 %)"]
    assert computed("net", "total", "tax") == ["tax = total - net (100 %)"]
    assert computed("total", "net", "tax") == ["tax = total - net (100 %)"]


def test_decimals_of_different_scales_add_up() -> None:
    rng = np.random.default_rng(8)
    tenths, cents = rng.integers(1, 90_000, N), rng.integers(1, 90_000, N)
    table = pa.table(
        {
            "a": pa.array(tenths / 10).cast(pa.decimal128(12, 1)),
            "b": pa.array(cents / 100).cast(pa.decimal64(15, 3)),
            "c": pa.array((10 * tenths + cents) / 100),
        }
    )
    assert "c = a + b (100 %)" in texts_in(table)


def test_products_and_ratios_are_rounded_to_the_targets_decimals() -> None:
    rng = np.random.default_rng(9)
    price, pieces = np.round(rng.lognormal(3, 1, N), 2), rng.integers(2, 40, N)
    amount = np.round(price * pieces, 1)
    assert "amount = price * pieces (100 %)" in texts_in(pa.table({"price": price, "pieces": pieces, "amount": amount}))
    total = rng.integers(1_000, 10**7, N)
    each = np.round(total / pieces, 2)
    assert "each = total / pieces (100 %)" in texts_in(pa.table({"pieces": pieces, "total": total, "each": each}))


def test_continuous_floats_are_equal_but_for_rounding() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.normal(0, 1, N), rng.normal(0, 1, N)
    table = pa.table({"a": a, "b": b, "difference": (a - b) * (1 + 1e-15), "product": a * b})
    assert texts_in(table) == ["difference = a - b (100 %)", "product = a * b (100 %)"]
    single = pa.table(
        {
            name: pa.array(column.to_numpy().astype(np.float32))
            for name, column in zip("abcd", table.columns, strict=True)
        }
    )
    assert {"c = a - b (100 %)", "d = a * b (100 %)"} <= set(texts_in(single))


def test_a_sum_of_few_values_that_always_holds() -> None:
    rng = np.random.default_rng(11)
    adults, children = rng.integers(1, 5, N), rng.integers(0, 4, N)
    table = pa.table({"adults": adults, "children": children, "guests": adults + children})
    assert [r.text() for r in found_in(table) if r.kind in COMPUTED] == ["guests = adults + children (100 %)"]


def test_what_a_copy_explains_is_no_sum() -> None:
    rng = np.random.default_rng(12)
    net = rng.integers(100, 90_000, N)
    fee = np.where(rng.random(N) < 0.7, 0, rng.integers(1, 9_000, N))
    # The fee is never added: where it is zero, net + fee is net.
    paid = np.where(rng.random(N) < 0.6, net, rng.integers(100, 90_000, N))
    assert [r.columns for r in found_in(pa.table({"net": net, "fee": fee, "paid": paid})) if r.kind in COMPUTED] == [
        ("net",)
    ]
    # It is always added: the copy says nothing that the sum does not.
    table = pa.table({"net": net, "fee": fee, "total": net + fee})
    assert [r.text() for r in found_in(table) if r.kind in COMPUTED] == ["total = net + fee (100 %)"]


def test_of_sums_that_say_the_same_one_is_listed() -> None:
    rng = np.random.default_rng(13)
    a, b = rng.integers(1, 50_000, N), rng.integers(1, 50_000, N)
    copied = np.where(rng.random(N) < 0.5, a, rng.integers(1, 50_000, N))
    table = pa.table({"a": a, "b": b, "copied": copied, "sum": a + b})
    assert [r.formula() for r in found_in(table) if r.kind in COMPUTED] == ["sum = a + b", "copied = a"]


# ---------------------------------------------------------------- dates and orders


def instants(seconds: Any, mask: Any = None) -> pa.Array:
    return pa.array(seconds, pa.int64(), mask=mask).cast(pa.timestamp("s")).cast(pa.timestamp("us", "UTC"))


def test_order_of_timestamps() -> None:
    rng = np.random.default_rng(14)
    opened = 1_600_000_000 + rng.integers(0, 10**8, N)
    closed = opened + rng.integers(0, 10**7, N)
    still_open = rng.random(N) < 0.3
    [relation] = found_in(pa.table({"opened_at": instants(opened), "closed_at": instants(closed, still_open)}))
    assert relation.text() == "closed_at >= opened_at (100 %)"
    [relation] = found_in(pa.table({"closed_at": instants(closed, still_open), "opened_at": instants(opened)}))
    assert relation.text() == "opened_at <= closed_at (100 %)"


def test_copies_of_nanoseconds_are_exact() -> None:
    rng = np.random.default_rng(15)
    first = 1_600_000_000 * 10**9 + rng.integers(0, 10**17, N)
    second = np.where(rng.random(N) < 0.4, first, first + rng.integers(1, 20, N))
    table = pa.table(
        {name: pa.array(v, pa.int64()).cast(pa.timestamp("ns")) for name, v in (("a", first), ("b", second))}
    )
    copy, order = found_in(table)
    assert (copy.kind, copy.share) == (RelationKind.COPY, float((first == second).mean()))
    assert order.text() == "b >= a (100 %)"
    assert found_in(pa.table({"a": table["a"], "b": table["b"].cast(pa.timestamp("us"), safe=False)})) == ()


def test_orders_need_ranges_that_overlap() -> None:
    rng = np.random.default_rng(16)
    low, high = rng.integers(0, 100, N), rng.integers(200, 300, N)
    assert found_in(pa.table({"low": low, "high": high})) == ()
    touching = pa.table({"low": rng.integers(0, 2, N), "high": rng.integers(1, 4, N)})
    assert found_in(touching) == ()


def test_orders_that_follow_from_others_are_left_out() -> None:
    rng = np.random.default_rng(17)
    steps = np.cumsum(rng.exponential(10, (3, N)), axis=0)
    table = pa.table({"first": steps[0], "last": steps[2], "second": steps[1]})
    assert sorted(texts_in(table)) == ["second <= last (100 %)", "second >= first (100 %)"]
    many = found_in(table_of(list(np.cumsum(rng.exponential(10, (70, N)), axis=0))))
    assert len(many) == MAX_ORDERS


# ---------------------------------------------------------------- what determines what


def test_a_zip_code_determines_its_city() -> None:
    rng = np.random.default_rng(18)
    row = rng.integers(0, 300, N)
    zips, cities = (
        np.array([f"{10_000 + 37 * k}" for k in range(300)]),
        np.array([f"city {k % 80}" for k in range(300)]),
    )
    table = pa.table({"zip": zips[row], "city": cities[row], "other": rng.integers(0, 9, N).astype(str)})
    assert texts_in(table) == ["city follows from zip (100 %)"]
    assert texts_in(table.select(["city", "other", "zip"])) == ["city follows from zip (100 %)"]
    numeric = table.set_column(0, "zip", table["zip"].cast(pa.int32()))
    assert texts_in(numeric, kinds={"zip": Kind.NUMBER}) == ["city follows from zip (100 %)"]


def test_columns_that_follow_from_each_other_are_listed_once() -> None:
    rng = np.random.default_rng(19)
    row = rng.integers(0, 12, N)
    quarter = np.array(["Q1", "Q2", "Q3", "Q4"])[row // 3]
    table = pa.table({"month": row, "name": [f"m{k}" for k in row], "quarter": quarter, "half": quarter >= "Q3"})
    assert texts_in(table) == [
        "name follows from month (100 %)",
        "quarter follows from month (100 %)",
        "half follows from quarter (100 %)",
    ]


def test_few_exceptions_are_allowed_in_large_groups_only() -> None:
    rng = np.random.default_rng(20)
    row = rng.integers(0, 3, N)
    target = np.array(["x", "y", "y"])[row]
    exact = pa.table({"a": [f"a{k}" for k in row], "b": target})
    assert texts_in(exact) == ["b follows from a (100 %)"]
    target[:1] = "z"
    assert texts_in(exact.set_column(1, "b", pa.array(target))) == ["b follows from a (99.9 % of rows)"]
    target[:40] = "z"
    assert texts_in(exact.set_column(1, "b", pa.array(target))) == []


def test_what_hardly_varies_follows_from_nothing() -> None:
    rng = np.random.default_rng(21)
    group = rng.integers(0, 10, N)
    rare = np.where(group == 0, rng.random(N) < 0.3, False)
    assert texts_in(pa.table({"group": [f"g{k}" for k in group], "rare": rare})) == []
    # Keys of one row each determine everything, which says nothing.
    keys = np.array([f"k {k}" for k in rng.integers(0, N, N)])
    assert texts_in(pa.table({"key": keys, "b": rng.choice(["x", "y"], N)}), kinds={"key": Kind.CATEGORY}) == []


# ---------------------------------------------------------------- nothing where nothing is


UNRELATED = {
    "few integers": lambda rng, n: rng.integers(0, 11, n),
    "hundreds": lambda rng, n: rng.integers(0, 300, n),
    "floats": lambda rng, n: rng.normal(0, 1, n),
    "money": lambda rng, n: np.round(rng.lognormal(3, 1, n), 2),
    "zero-inflated": lambda rng, n: np.where(rng.random(n) < rng.uniform(0.5, 0.99), 0, rng.integers(1, 500, n)),
    "categories": lambda rng, n: rng.integers(0, rng.integers(2, 200), n).astype(str),
    "flags": lambda rng, n: rng.random(n) < rng.uniform(0.001, 0.5),
    "days": lambda rng, n: pa.array(rng.integers(18_000, 19_000, n).astype(np.int32)).cast(pa.date32()),
}


@pytest.mark.parametrize("shape", UNRELATED)
def test_a_hundred_unrelated_columns_have_no_relation(shape: str) -> None:
    rng = np.random.default_rng(22)
    assert found_in(table_of([UNRELATED[shape](rng, N) for _ in range(100)])) == ()


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.sampled_from(sorted(UNRELATED)), min_size=2, max_size=12),
    rows=st.integers(20, 3_000),
    seed=st.integers(0, 2**32 - 1),
)
def test_unrelated_columns_of_any_shape_have_no_relation(shapes: list[str], rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert found_in(table_of([UNRELATED[shape](rng, rows) for shape in shapes])) == ()


def test_columns_that_move_together_have_no_relation() -> None:
    rng = np.random.default_rng(23)
    factor = rng.normal(0, 1, N)
    assert found_in(table_of([np.rint(1_000 + 300 * factor + rng.normal(0, 40, N)) for _ in range(30)])) == ()


def test_five_hundred_columns_take_seconds() -> None:
    rng = np.random.default_rng(24)
    columns = [rng.integers(1, 3_000, N) for _ in range(499)]
    table = table_of([*columns, np.where(rng.random(N) < 0.2, columns[7], columns[8])])
    source = InMemoryTable(table)
    schema = infer_schema(source)
    start = time.process_time()
    relations = find_relations(source, schema)
    assert [relation.formula() for relation in relations] == ["c499 = c008", "c499 = c007"]
    assert time.process_time() - start < 20  # 2 on an idle core


# ---------------------------------------------------------------- any table


def exceeds_chance(relation: Relation, table: pa.Table) -> bool:
    """Whether a relation is to be listed, by the rule that `tabvae_core.relations` states for those that may fail.

    At least 20 rows tell, and their share is at least 1 % more than chance. A row tells where the prediction is right,
    the target's value is that of at most 0.5 % of the rows, and no cell makes the relation a simpler one.
    """
    target, *operands = (real_values(table[name])[0] for name in (relation.target, *relation.columns))
    decimals = decimals_of(target, pa.float64())
    assert decimals is not None
    predicted = apply(relation, operands, decimals)
    cells = np.stack([target, *operands])
    complete = ~np.isnan(cells).any(axis=0)
    is_product = relation.kind in (RelationKind.PRODUCT, RelationKind.RATIO)
    trivial = [] if relation.kind is RelationKind.COPY else [-1.0, 0.0, 1.0] if is_product else [0.0]
    usable = complete & ~np.isin(cells, trivial).any(axis=0) & ~np.isnan(predicted)
    actual, expected = (np.rint(values[usable] * 10.0**decimals) for values in (target, predicted))
    present = np.sort(np.rint(target[~np.isnan(target)] * 10.0**decimals))
    shared_by = np.searchsorted(present, actual, "right") - np.searchsorted(present, actual, "left")
    rare = shared_by <= max(3.0, 0.005 * len(present))
    gap = (actual - expected)[rare]
    beside = 2 * max(int((gap == sign * 10.0**power).sum()) for power in range(9) for sign in (1, -1))
    independent = float((actual[rare][:, None] == expected).mean(axis=1).sum())
    telling, rows = int((gap == 0).sum()), int(complete.sum())
    return telling >= 20 and (telling - max(beside, independent)) / rows >= 0.01


@st.composite
def planted(draw: st.DrawFn) -> tuple[pa.Table, RelationKind, float]:
    """A table whose last column is computed from the others in a share of the rows, in more than chance explains."""
    kind = draw(st.sampled_from(COMPUTED))
    share = draw(st.sampled_from([0.05, 0.3, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1_500, 3_000))
    decimals = draw(st.integers(0, 3))
    a, b = (np.round(rng.lognormal(5, 1, rows) + 2, decimals) for _ in range(2))
    relation = Relation(kind, "c", ("a",) if kind is RelationKind.COPY else ("a", "b"), share)
    value = apply(relation, [a, b][: len(relation.columns)], decimals + 2)
    gone = rng.random((3, rows)) < draw(st.sampled_from([0.0, 0.2]))
    # The share is that of the complete rows, in which alone the relation can be seen.
    complete, right = ~gone[[*range(len(relation.columns)), 2]].any(axis=0), np.zeros(rows, dtype=np.bool_)
    for part in (complete, ~complete):
        places = rng.permutation(np.flatnonzero(part))
        right[places[: round(share * len(places))]] = True
    value = np.where(right, value, rng.permutation(value))
    arrays = [pa.array(v, mask=m) for v, m in zip((a, b, value), gone, strict=True)]
    if draw(st.booleans()):
        arrays[0] = arrays[0].cast(pa.decimal128(20, decimals))
    table = pa.table(dict(zip("abc", arrays, strict=True)))
    # Where quotients of whole numbers share their values, fewer than 20 of the rows with nulls may tell.
    assume(share == 1.0 or exceeds_chance(relation, table))
    return table, kind, share


@settings(max_examples=25, deadline=None)
@given(planted())
def test_a_planted_relation_is_found_and_its_share_is_exact(made: tuple[pa.Table, RelationKind, float]) -> None:
    table, kind, share = made
    [relation] = [r for r in found_in(table) if r.kind is kind]
    assert (relation.target, relation.columns) == ("c", ("a",) if kind is RelationKind.COPY else ("a", "b"))
    values = {name: real_values(table[name])[0] for name in table.column_names}
    predicted = apply(relation, [values[name] for name in relation.columns], decimals_of(values["c"], pa.float64()))
    complete = ~np.isnan(values["c"] + sum(values[name] for name in relation.columns))
    right = np.isclose(predicted, values["c"], rtol=1e-12, atol=0) & complete
    assert relation.share == pytest.approx(right.sum() / complete.sum())
    assert relation.share == pytest.approx(share, abs=0.05)


@settings(max_examples=60, deadline=None)
@given(arrow_tables(max_rows=150), st.integers(1, 40))
def test_any_table_gives_the_same_relations_however_it_is_cut(table: pa.Table, rows: int) -> None:
    schema = infer_schema(InMemoryTable(table))
    sources: list[TableSource] = [InMemoryTable(table), Batches(table, rows)]
    first, second = (find_relations(source, schema, min_rows=3) for source in sources)
    assert first == second
    for relation in first:
        assert 0.0 < relation.share <= 1.0
        places = [table.column_names.index(name) for name in (*relation.columns, relation.target)]
        assert relation.kind is RelationKind.DETERMINES or places[-1] > max(places[:-1])
        assert Relation.from_json(relation.to_json()) == relation
        assert all(name in relation.text() for name in (*relation.columns, relation.target))


def test_identifiers_text_and_dropped_columns_take_no_part() -> None:
    rng = np.random.default_rng(25)
    number = rng.permutation(N) + 10**6
    table = pa.table({"customer_id": number, "copy": number + 0.0, "x": rng.normal(0, 1, N)})
    assert found_in(table) == ()
    source = InMemoryTable(pa.table({"a": number + 0.5, "b": number + 0.5}))
    schema = infer_schema(source, overrides={"b": ColumnOverride(unlearnable="drop")})
    assert find_relations(source, schema) == ()


def test_rows_are_sampled_and_progress_is_told() -> None:
    rng = np.random.default_rng(26)
    bill = rng.integers(100, 500_000, 3 * N)
    table = pa.table({"bill": bill, "paid": np.where(rng.random(3 * N) < 0.25, bill, rng.permutation(bill))})
    events: list[ProgressEvent] = []
    [relation] = found_in(table, max_rows=1_000, progress=events.append)
    assert relation.share == pytest.approx(0.25, abs=0.06)
    assert (events[-1].step, events[-1].done, events[-1].total) == ("relations", 1_000, 1_000)
    assert found_in(table, min_share=0.5) == ()
    assert found_in(table.slice(0, 60), min_rows=30) == ()


# ---------------------------------------------------------------- one relation


def test_texts_write_names_as_rules_do() -> None:
    relation = Relation(RelationKind.SUM, "total due", ("net", "from"), 0.2471)
    assert relation.text() == "`total due` = net + `from` (24.7 % of rows)"
    assert replace(relation, share=0.99999).text().endswith("(99.9 % of rows)")
    assert replace(relation, kind=RelationKind.RATIO, share=1.0).text() == "`total due` = net / `from` (100 %)"


def test_predictions() -> None:
    a, b = np.array([1.0, 0.1, 5.0, np.nan, 1e308]), np.array([3.0, 0.2, 0.0, 1.0, 1e308])

    def predicted(kind: RelationKind, decimals: int | None) -> list[float]:
        relation = Relation(kind, "c", ("a", "b"), 1.0)
        return np.nan_to_num(apply(relation, [a, b], decimals), nan=-1.0).tolist()

    assert predicted(RelationKind.SUM, 2) == [4.0, 0.3, 5.0, -1.0, -1.0]
    assert predicted(RelationKind.DIFFERENCE, None) == [-2.0, -0.1, 5.0, -1.0, 0.0]
    assert predicted(RelationKind.PRODUCT, 1) == [3.0, 0.0, 0.0, -1.0, -1.0]
    assert predicted(RelationKind.RATIO, 2) == [0.33, 0.5, -1.0, -1.0, 1.0]
    copy = Relation(RelationKind.COPY, "c", ("a",), 1.0)
    assert apply(copy, [a], None)[:3].tolist() == [1.0, 0.1, 5.0]
    for kind in (RelationKind.ORDER, RelationKind.DETERMINES):
        with pytest.raises(ValueError, match="predicts no value"):
            apply(Relation(kind, "c", ("a",), 1.0), [a], None)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "power", "target": "c", "columns": ["a"], "share": 1.0},
        {"kind": "sum", "target": "c", "columns": ["a"], "share": 1.0},
        {"kind": "copy", "target": "c", "columns": 5, "share": 1.0},
        {"kind": "copy", "target": "c", "columns": ["a"], "share": "all"},
    ],
)
def test_a_damaged_relation_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="relation"):
        Relation.from_json(data)


@pytest.mark.parametrize(
    ("cells", "decimals"),
    [
        (pa.array([1, 2, None]), 0),
        (pa.array([1.0, 2.0, float("nan")]), 0),
        (pa.array([1.25, 2.5]), 2),
        (pa.array([0.1 + 0.2, 0.7]), 1),
        (pa.array([1.25, 1 / 3]), None),
        (pa.array([1e300, 0.5]), None),
        (pa.array([12.34, 9.99], pa.float32()), 2),
        (pa.array([12.34, 1e6 + 0.5], pa.float32()), None),
        (pa.array([12.5, 9.0], pa.float64()).cast(pa.decimal128(10, 4)), 1),
        (pa.array([], pa.float64()), 0),
    ],
)
def test_decimals(cells: pa.Array, decimals: int | None) -> None:
    assert decimals_of(real_values(cells)[0], cells.type) == decimals
