"""Gates on real Great Expectations: what passes, what is refused, and how it is said."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tabvae_core.gates import floors_of, gate_metrics, reference_histograms, validate
from tabvae_core.gates.checks import CategoryCheck, range_check
from tabvae_core.inference import infer_schema
from tabvae_core.progress import ProgressEvent
from tabvae_core.references import GateResult
from tabvae_core.schema import TableSchema
from tabvae_core.spec import GateSpec, PrivacySpec
from tabvae_core.tables import InMemoryTable

ROWS = 400
MONEY = pa.decimal128(12, 2)
LATE = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
RULES = ("age > 0", "closed >= opened", "income >= 0 or isnull(income)")


def customers(rows: int = ROWS, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    opened = rng.integers(0, 1000, rows)
    return pa.table(
        {
            "id": pa.array([f"C-{seed}{i:06d}" for i in range(rows)]),
            "key": pa.array(np.arange(rows) + 2**53 + 1 + seed * 10**6),
            "age": pa.array(rng.integers(18, 90, rows), pa.int16()),
            "income": pa.array(np.where(rng.random(rows) < 0.1, None, rng.normal(50_000, 9_000, rows)), pa.float64()),
            "segment": pa.array(rng.choice(["gold", "silver", "none"], rows)).dictionary_encode(),
            "opened": pa.array(opened, pa.int32()).cast(pa.date32()),
            "closed": pa.array(opened + rng.integers(0, 90, rows), pa.int32()).cast(pa.date32()),
            "balance": pa.array(
                [Decimal(int(cents)) / 100 for cents in rng.integers(0, 10**6, rows)], pa.decimal128(12, 2)
            ),
            "seen": pa.array(rng.integers(0, 10**9, rows), pa.timestamp("us", "Europe/Berlin")),
            "active": pa.array(rng.random(rows) < 0.5),
        }
    )


@pytest.fixture(scope="module")
def schema() -> TableSchema:
    return infer_schema(InMemoryTable(customers()), privacy=PrivacySpec(protect_extremes=1))


def demands() -> dict[str, Any]:
    return {
        "categories": {"segment": ("gold", "silver", "none"), "active": (True, False)},
        "formats": {"id": r"C-\d{7}", "key": r"9\d{15}"},
        "references": None,
    }


def check(table: pa.Table, schema: TableSchema, **more: Any) -> tuple[GateResult, ...]:
    return validate(table, schema, RULES, rows=ROWS, **{**demands(), **more})


def refusals(results: tuple[GateResult, ...]) -> dict[tuple[str, str | None], str]:
    return {(result.name, result.column): result.detail for result in results if not result.passed}


def replaced(table: pa.Table, name: str, cells: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    array = cells if isinstance(cells, pa.Array) else pa.array(cells, table.schema.field(name).type)
    return table.set_column(place, name, array)


def test_a_good_table_passes_everything(schema: TableSchema, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[ProgressEvent] = []
    table = customers()
    results = check(table, schema, references=reference_histograms(table, schema), progress=events.append)
    assert refusals(results) == {}
    names = {(result.name, result.column) for result in results}
    assert names >= {
        ("columns", None),
        ("rows", None),
        ("type", "balance"),
        ("nulls", "age"),
        ("range", "seen"),
        ("range", "balance"),
        ("categories", "segment"),
        ("categories", "active"),
        ("unique", "id"),
        ("unique", "key"),
        ("format", "id"),
        ("format", "key"),
        ("distribution", "income"),
        ("closed >= opened", None),
    }
    assert ("nulls", "income") not in names
    assert [event.done for event in events] == [ROWS]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("column", "cells", "gate", "detail"),
    [
        ("age", [-5, *[30] * (ROWS - 1)], "age > 0", "refused: age > 0 broken by 1 rows"),
        ("age", [200] * 3 + [30] * (ROWS - 3), "range", "refused: age: 3 cells outside the range"),
        ("age", [None] * 2 + [30] * (ROWS - 2), "nulls", "refused: age: 2 nulls where none are allowed"),
        ("age", pa.array([30] * ROWS, pa.int64()), "type", "refused: age: the type is int64"),
        ("segment", ["gold"] * (ROWS - 1) + ["tin"], "categories", "refused: segment: 1 cells of unknown categories"),
        ("id", ["C-0000001"] * ROWS, "unique", "refused: id: 400 cells that are not unique"),
        ("id", [f"C_{i:07d}" for i in range(ROWS)], "format", "refused: id: 400 cells of another format"),
        ("closed", [dt.date(1969, 1, 1)] * ROWS, "closed >= opened", "refused: closed >= opened broken by 400 rows"),
        ("balance", [Decimal("99999.99")] * ROWS, "range", "refused: balance: 400 cells outside the range"),
        (
            "seen",
            [dt.datetime(2030, 1, 1, tzinfo=dt.UTC)] * ROWS,
            "range",
            "refused: seen: 400 cells outside the range",
        ),
    ],
)
def test_a_broken_column_is_refused_by_name(
    schema: TableSchema, column: str, cells: Any, gate: str, detail: str
) -> None:
    found = refusals(check(replaced(customers(), column, cells), schema))
    place = column if gate in ("range", "nulls", "type", "categories", "unique", "format") else None
    assert found[gate, place] == detail


def test_missing_and_extra_columns_and_rows(schema: TableSchema) -> None:
    table = customers().drop_columns(["age"]).append_column("extra", pa.array([1] * ROWS)).slice(1)
    found = refusals(check(table, schema))
    assert found["columns", None] == "refused: columns missing age; unexpected extra"
    assert found["rows", None] == "refused: the table has 399 rows"
    assert found["type", "age"] == "refused: age: the column is missing"
    assert found["age > 0", None].startswith("refused: age > 0: cannot be evaluated: ")
    assert ("type", "id") not in found
    turned = customers().select(["key", "id", *customers().column_names[2:]])
    assert refusals(check(turned, schema)) == {("columns", None): "refused: the order of the columns differs"}


def test_details_hold_no_cells(schema: TableSchema) -> None:
    table = replaced(customers(), "segment", ["secret value"] * ROWS)
    assert "secret" not in str(check(table, schema))


def test_distribution_catches_a_shifted_column(schema: TableSchema) -> None:
    references = reference_histograms(customers(2000, seed=1), schema)
    assert set(references) == {"age", "income", "segment", "opened", "closed", "balance", "seen", "active"}
    floors = floors_of(references, customers(2000, seed=2))
    assert all(0 < floor < 0.15 for floor in floors.values())
    limits = {name: floor + 0.15 for name, floor in floors.items()}
    shifted = replaced(customers(), "age", [min(89, 60 + i % 30) for i in range(ROWS)])
    found = refusals(check(shifted, schema, references=references, jsd_limits=limits))
    assert list(found) == [("distribution", "age")]
    assert re.fullmatch(
        r"refused: age differs, Jensen-Shannon distance 0\.\d+, limit 0\.\d+", found["distribution", "age"]
    )


def test_large_tables_are_checked_in_batches(schema: TableSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tabvae_core.gates.frames.CHUNK_ROWS", 150)
    table = customers()
    assert refusals(check(table, schema, max_rows=150)) == {}
    twice = [*table["id"].to_pylist()[: ROWS - 1], table["id"][0].as_py()]
    broken = replaced(replaced(table, "id", twice), "age", [-1] * 10 + [30] * (ROWS - 20) + [-1] * 10)
    found = refusals(check(broken.slice(0, ROWS), schema, max_rows=150))
    assert found["unique", "id"] == "refused: id: 1 cells that are not unique"
    assert found["age > 0", None] == "refused: age > 0 broken by 20 rows"
    short = refusals(check(table.slice(3), schema, max_rows=150))
    assert short == {("rows", None): "refused: the table has 397 rows"}


def test_data_docs_open_without_a_network(schema: TableSchema, tmp_path: Path) -> None:
    check(customers(), schema, docs=tmp_path / "docs", name="customers (eu)")
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) >= 3
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<style>" in text
        assert not re.search(r"<(link|script|img)\b[^>]*(https?:)?//", text)
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    for link in re.findall(r'href="([^"]+)"', index):
        assert (tmp_path / "docs" / link).is_file()
    assert any("every row satisfies: age" in page.read_text(encoding="utf-8") for page in pages)


EVERY_TYPE = pa.table(
    {
        "u64": pa.array([2**64 - 1, None], pa.uint64()),
        "f16": pa.array([1.5, None], pa.float16()),
        "big": pa.array([Decimal(10**40), None], pa.decimal256(60, 0)),
        "time": pa.array([dt.time(8), None], pa.time64("ns")),
        "span": pa.array([5, None], pa.duration("ns")),
        "date": pa.array([dt.date(2024, 1, 1), None], pa.date64()),
        "text": pa.array(["a", None], pa.large_string()),
        "view": pa.array(["a", None], pa.string_view()),
        "bytes": pa.array([b"a", None], pa.binary(1)),
        "nothing": pa.nulls(2),
        "list": pa.array([[1], None]),
        "far": pa.array([2**60, None], pa.timestamp("s")),
    }
)


def test_every_arrow_type_passes_unchanged() -> None:
    table = pa.concat_tables([EVERY_TYPE] * 20)
    schema = infer_schema(InMemoryTable(table))
    kept = table.select(schema.names)
    results = validate(kept, schema, references=reference_histograms(kept, schema), rows=40)
    assert [r for r in results if not r.passed and r.name != "unique"] == []


def test_categories_beyond_json_are_compared_on_arrow() -> None:
    check = CategoryCheck(pa.array([dt.date(2024, 1, 1)]))
    assert check.measure(pa.chunked_array([[dt.date(2024, 1, 1), None]])).passed
    assert check.measure(pa.chunked_array([[dt.date(2024, 1, 2), None]])).value == 1.0
    assert not check.measure(pa.chunked_array([["2024"]])).passed


def test_ranges_end_on_a_step_of_the_type(schema: TableSchema) -> None:
    column = schema.column("age").model_copy(update={"minimum": 17.6, "maximum": 89.4})
    found = range_check(column, pa.int16())
    assert found is not None
    assert (found.low, found.high) == (17, 90)


# Figures of an evaluation


@dataclass(frozen=True)
class Figure:
    value: float | None
    floor: float | None = None


@dataclass(frozen=True)
class ColumnFigures:
    name: str
    jsd: float | None
    jsd_floor: float | None = None
    jsd_chance: float | None = None


@dataclass(frozen=True)
class Rows:
    holdout: int
    synthetic: int


GOOD = {"shape": Figure(1.0), "trend": Figure(2.0, 1.0), "c2st": Figure(0.6, 0.5), "copies": Figure(0.0, 0.0)}


def test_good_figures_pass() -> None:
    results = gate_metrics(GOOD, [ColumnFigures("age", 0.05, 0.03), ColumnFigures("id", None)], GateSpec())
    assert all(result.passed for result in results)
    assert [(result.name, result.column) for result in results] == [
        ("jsd", "age"),
        ("trend", None),
        ("auc", None),
        ("copies", None),
    ]


def test_a_column_is_refused_beyond_its_floor() -> None:
    columns = [ColumnFigures("income", 0.31), ColumnFigures("city", 0.31, 0.2)]
    income, city, *_ = gate_metrics(GOOD, columns, GateSpec())
    assert (income.passed, city.passed) == (False, True)
    assert income.detail == "refused: income differs, Jensen-Shannon distance 0.31, limit 0.15"
    assert city.limit == pytest.approx(0.35)


@pytest.mark.parametrize(
    ("name", "figure", "gates", "gate"),
    [
        ("shape", Figure(3.0), GateSpec(max_shape=2.0), "shape"),
        ("trend", Figure(12.0, 1.0), GateSpec(), "trend"),
        ("c2st", Figure(0.95, 0.5), GateSpec(), "auc"),
        ("copies", Figure(3.0, 1.5), GateSpec(), "copies"),
    ],
)
def test_figures_beyond_their_threshold_are_refused(name: str, figure: Figure, gates: GateSpec, gate: str) -> None:
    results = {result.name: result for result in gate_metrics({**GOOD, name: figure}, [], gates)}
    assert [name for name, result in results.items() if not result.passed] == [gate]
    assert results[gate].detail.startswith("refused: ")


def test_what_was_not_measured_refuses_nothing() -> None:
    results = gate_metrics({"trend": Figure(None)}, [], GateSpec())
    assert all(result.passed and "could not be measured" in result.detail for result in results)


def test_few_rows_are_given_what_chance_explains() -> None:
    figures = {**GOOD, "copies": Figure(35.0, 30.0)}
    few = gate_metrics(figures, [ColumnFigures("a", 0.30, 0.10, 0.20)], GateSpec(), rows=Rows(263, 263))
    many = gate_metrics(figures, [ColumnFigures("a", 0.30, 0.10, 0.01)], GateSpec(), rows=Rows(26_300, 26_300))
    assert {result.name: result.passed for result in few} == {"jsd": True, "trend": True, "auc": True, "copies": True}
    assert {result.name for result in many if not result.passed} == {"jsd", "copies"}
