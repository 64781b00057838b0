"""Scenarios: what is changed is exactly so, what depends on it follows, and the rest stays."""

from __future__ import annotations

import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.errors import ImpossibleRule, SpecError
from tabvae_core.evaluation import differences
from tabvae_core.given import column_codecs
from tabvae_core.inference import infer_schema
from tabvae_core.local import partial_spec
from tabvae_core.scenarios import changed_rows
from tabvae_core.schema import TableSchema
from tabvae_core.simulate import SimulateSummary, simulate
from tabvae_core.spec import ModelSpec, PrivacySpec, ScenarioSpec, parse_spec
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import as_source


def shops(rows: int = 1500, seed: int = 0) -> pa.Table:
    """Rent follows region, size is by itself, and a shop is big where its size says so."""
    rng = np.random.default_rng(seed)
    region = rng.choice(["north", "south", "west"], rows, p=[0.5, 0.3, 0.2])
    coast = np.where(rng.random(rows) < np.where(region == "north", 0.8, 0.1), "yes", "no")
    size = np.round(rng.normal(100, 20, rows), 1)
    return pa.table(
        {
            "region": region,
            "coast": coast,
            "size": pa.array(size, mask=rng.random(rows) < 0.05),
            "big": pa.array(size > 100),
            "staff": pa.array(rng.integers(20, 60, rows), pa.int8()),
        }
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return shops()


@pytest.fixture(scope="module")
def schema(table: pa.Table) -> TableSchema:
    return infer_schema(as_source(table))


@pytest.fixture(scope="module")
def model(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shops") / "model"
    options = {"members": 1, "width": 64, "hidden": 64}
    create("vae", ModelSpec(epochs=12, options=options), PrivacySpec()).fit(table).save(folder)
    return folder


def run(model: Path, out: Path, rows: int = 2000, **spec: Any) -> tuple[SimulateSummary, dict[str, pa.Table]]:
    loaded = partial_spec(str(model), {"sample": {"rows": rows, "seed": 3}} | spec)
    done = simulate(loaded, str(model), str(out))
    return done, {path.stem: pq.read_table(path) for path in out.glob("*.parquet")}


def share(table: pa.Table, column: str, value: Any) -> float:
    return float(pc.mean(pc.equal(table[column], value).cast(pa.float64())).as_py())


def mean(table: pa.Table, column: str) -> float:
    return float(pc.mean(table[column]).as_py())


# ---------------------------------------------------------------- semantics, by a model


def test_a_shifted_number_takes_along_what_depends_on_it(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, tables = run(model, tmp_path, scenarios={"bigger": {"margins": {"size": {"scale": 1.2, "shift": 10}}}})
    base, bigger = tables["base"], tables["bigger"]
    expected = [None if cell is None else round(cell * 1.2 + 10, 1) for cell in base["size"].to_pylist()]
    assert bigger["size"].to_pylist() == pytest.approx(expected, abs=1e-6, nan_ok=True), "exactly so, nulls as before"
    assert share(base, "big", True) == pytest.approx(0.5, abs=0.08)
    assert share(bigger, "big", True) > 0.8, "follows"
    assert share(bigger, "region", "north") == pytest.approx(share(base, "region", "north"), abs=0.05), "stays"
    assert bigger.schema.equals(base.schema)
    beyond = done.differences.beyond["bigger"]["size"]
    outside = [cell for cell in bigger["size"].to_pylist() if cell is not None and cell > 165]
    assert len(outside) / 1900 < 2 * beyond
    assert 0 < beyond < 0.5
    assert f"scenario bigger: {100 * beyond:.1f} % of size lie beyond what was learned of it" in caplog.text


def test_new_shares_take_along_what_depends_on_them(model: Path, tmp_path: Path) -> None:
    _, tables = run(model, tmp_path, scenarios={"west": {"margins": {"region": {"shares": {"north": 0.1}}}}})
    base, west = tables["base"], tables["west"]
    assert share(west, "region", "north") == pytest.approx(0.1, abs=1 / 2000)
    proportion = share(west, "region", "south") / share(west, "region", "west")
    assert proportion == pytest.approx(share(base, "region", "south") / share(base, "region", "west"), rel=0.02)
    assert share(west, "coast", "yes") < share(base, "coast", "yes") - 0.15, "follows"
    assert share(west, "big", True) == pytest.approx(share(base, "big", True), abs=0.05), "stays"


def test_fixed_values_beside_margins(model: Path, tmp_path: Path) -> None:
    scenario = {"given": {"region": "south"}, "margins": {"staff": {"shift": 5}, "coast": {"shares": {"yes": 0.5}}}}
    done, tables = run(model, tmp_path, scenarios={"mixed": scenario, "plain": {"given": {"region": "south"}}})
    assert set(tables["mixed"]["region"].to_pylist()) == set(tables["plain"]["region"].to_pylist()) == {"south"}
    assert share(tables["mixed"], "coast", "yes") == pytest.approx(0.5, abs=1 / 2000)
    assert share(tables["plain"], "coast", "yes") < 0.25
    assert mean(tables["mixed"], "staff") == pytest.approx(mean(tables["plain"], "staff") + 5, abs=1.5)
    assert done.files == ("base.parquet", "differences.html", "differences.json", "mixed.parquet", "plain.parquet")
    stored = json.loads((tmp_path / "differences.json").read_text(encoding="utf-8"))
    line = next(one for one in stored["figures"] if (one["column"], one["figure"]) == ("coast", "share of yes"))
    assert line["scenarios"]["mixed"] == pytest.approx(0.5, abs=1 / 2000)
    page = (tmp_path / "differences.html").read_text(encoding="utf-8")
    assert "mixed - base" in page
    assert "share of yes" in page


def test_the_same_seed_gives_the_same_tables_for_any_shards(model: Path, tmp_path: Path) -> None:
    scenario = {"all": {"margins": {"size": {"scale": 1.1}, "region": {"shares": {"west": 0.5}}}}}
    for shards in (1, 3):
        sample = {"rows": 5000, "seed": 3, "shards": shards}
        run(model, tmp_path / str(shards), sample=sample, scenarios=scenario)
    for name in ("base", "all"):
        assert len({(tmp_path / str(shards) / f"{name}.parquet").read_bytes() for shards in (1, 3)}) == 1


def test_rules_hold_and_a_change_that_breaks_one_is_named(model: Path, tmp_path: Path) -> None:
    scenario = {"north": {"margins": {"region": {"shares": {"north": 0.7}}}}}
    _, tables = run(model, tmp_path / "a", rules=["region != 'west' or coast == 'no'"], scenarios=scenario)
    west = tables["north"].filter(pc.equal(tables["north"]["region"], "west"))
    assert set(west["coast"].to_pylist()) == {"no"}
    with pytest.raises(ImpossibleRule, match="size < 110"):
        run(model, tmp_path / "b", rules=["size < 110"], scenarios={"big": {"margins": {"size": {"shift": 60}}}})
    assert not (tmp_path / "b").exists(), "nothing half-written"


# ---------------------------------------------------------------- changes alone


def changed(table: pa.Table, schema: TableSchema, **margins: Any) -> pa.Table:
    scenario = ScenarioSpec.model_validate({"margins": margins})
    codecs = column_codecs(list(margins), as_source(table), schema, PrivacySpec())
    return changed_rows(table.select(list(margins)), scenario, codecs, schema, 0, "scenarios.x")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_shares_of_two_columns_hold_at_once(
    table: pa.Table, schema: TableSchema, north: int, south: int, coast: int
) -> None:
    if north + south > 100:
        return
    asked = {"north": north / 100, "south": south / 100}
    found = changed(table, schema, region={"shares": asked}, coast={"shares": {"yes": coast / 100}})
    assert found.num_rows == table.num_rows
    for column, value, wanted in (("region", "north", north), ("region", "south", south), ("coast", "yes", coast)):
        assert share(found, column, value) == pytest.approx(wanted / 100, abs=0.006)


def test_shares_that_exclude_each_other(table: pa.Table, schema: TableSchema) -> None:
    same = table.set_column(1, "coast", table["region"])
    asked = {"region": {"shares": {"north": 0.9}}, "coast": {"shares": {"north": 0.2}}}
    with pytest.raises(SpecError, match="the shares of region and coast cannot hold together"):
        changed(same, infer_schema(as_source(same)), **asked)


def test_raking_keeps_what_goes_together(table: pa.Table, schema: TableSchema) -> None:
    found = changed(table, schema, region={"shares": {"north": 0.3}}, coast={"shares": {"yes": 0.5}})
    north = pc.equal(found["region"], "north")
    assert share(found.filter(north), "coast", "yes") > 2 * share(found.filter(pc.invert(north)), "coast", "yes")


@pytest.mark.parametrize(
    ("kind", "before", "margin", "after"),
    [
        (pa.int16(), [1, 2, None, 4], {"scale": 1.5}, [2, 3, None, 6]),
        (pa.float64(), [0.1, 0.2, None, 0.3], {"scale": 3.0}, [0.3, 0.6, None, 0.9]),
        (pa.float32(), [1.0, 2.0, None, 3.0], {"shift": 0.0, "scale": 2}, [2.0, 4.0, None, 6.0]),
        (pa.float64(), [1 / 3, 2 / 3], {"shift": 1}, [1 / 3 + 1, 2 / 3 + 1]),
        (pa.decimal128(9, 2), [decimal.Decimal("1.10"), None], {"shift": 0.05}, [decimal.Decimal("1.15"), None]),
        (pa.uint8(), [200, 10], {"shift": -10}, [190, 0]),
    ],
)
def test_numbers_keep_their_type_and_decimals(
    kind: pa.DataType, before: list[Any], margin: dict[str, float], after: list[Any]
) -> None:
    table = pa.table({"n": pa.array(before * 20, kind)})
    found = changed(table, infer_schema(as_source(table)), n=margin)["n"]
    assert found.type == kind
    assert found.slice(0, len(after)).to_pylist() == after


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("scenarios", "says"),
    [
        ({"a": {}}, "scenarios.a: must have given or margins"),
        (
            {"a": {"margins": {"size": {}}}},
            "a.margins.size: must have scale and shift of a number, or shares",
        ),
        ({"a": {"margins": {"size": {"scale": 2, "shares": {"x": 0.1}}}}}, "scenarios.a.margins.size: must have"),
        ({"a": {"margins": {"c": {"shares": {"x": 0.7, "y": 0.7}}}}}, "shares add up to 1.4"),
        ({"a": {"given": {"c": "x"}, "margins": {"c": {"scale": 2}}}}, "scenarios.a: given and margins both name c"),
        ({"base": {"given": {"c": "x"}}}, "no scenario may be named 'base'"),
        ({"a/b": {"given": {"c": "x"}}}, "scenarios.a/b"),
        (
            {"a": {"margins": {"size": {"scale": float("inf")}}}},
            "a.margins.size.scale: input should be a finite",
        ),
    ],
)
def test_scenarios_that_say_nothing_clear(scenarios: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_spec({"source": {"uri": "a"}, "target": {"uri": "b"}, "scenarios": scenarios})


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ({"given": {"sise": 3}}, "scenarios.x names 'sise', which is no column"),
        ({"margins": {"sise": {"scale": 2}}}, "scenarios.x names 'sise', which is no column"),
        ({"given": {"staff": "many"}}, "scenarios.x.given: the value for column 'staff' is not of its type"),
        ({"given": {"region": "east"}}, "scenarios.x.given: the value for column 'region' is none of its categories"),
        ({"margins": {"region": {"shares": {"east": 0.4}}}}, "scenarios.x.margins: 'east' is no class of column"),
        ({"margins": {"region": {"scale": 2}}}, "column 'region' is of kind category and cannot be scaled"),
        ({"margins": {"size": {"shares": {"100": 0.5}}}}, "column 'size' is of kind number, and not one of classes"),
        ({"margins": {"coast": {"shares": {"yes": 0.2, "no": 0.2}}}}, "add up to 0.4, and no other class is left"),
        ({"margins": {"staff": {"scale": 50}}}, "column 'staff', scaled and shifted, does not fit its type, int8"),
    ],
)
def test_scenarios_that_do_not_fit_the_table(model: Path, tmp_path: Path, scenario: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        run(model, tmp_path / "out", 50, scenarios={"x": scenario})
    assert not (tmp_path / "out").exists()


def test_a_class_that_no_base_row_has(table: pa.Table, schema: TableSchema) -> None:
    without = table.filter(pc.not_equal(table["region"], "west"))
    scenario = ScenarioSpec.model_validate({"margins": {"region": {"shares": {"west": 0.5}}}})
    codecs = column_codecs(["region"], as_source(table), schema, PrivacySpec())
    with pytest.raises(SpecError, match="so rare that no base row is of it"):
        changed_rows(without.select(["region"]), scenario, codecs, schema, 0, "scenarios.x")


def test_differences_of_every_kind_of_figure(table: pa.Table, schema: TableSchema) -> None:
    other = table.filter(pc.equal(table["region"], "north"))
    found = differences(table, {"north": other}, schema, rows=1500, beyond={"north": {}})
    by = {(one.column, one.figure): one for one in found.figures}
    assert by["region", "share of north"].scenarios["north"] == 1.0
    assert by["region", "share of north"].cells()["north - base"].startswith("+")
    assert by["size", "median"].base == pytest.approx(np.median(table["size"].drop_null().to_numpy()))
    assert by["size", "nulls"].base == pytest.approx(table["size"].null_count / 1500)
    assert found.beyond == {}
