"""Tables whose holes are filled: given cells stay as they are, nulls are drawn to fit them."""

from __future__ import annotations

import datetime as dt
import decimal
import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from arrow_tables import ALL_TYPES, column
from tables_made import people
from tabvae_core.codecs.ordinal import plain
from tabvae_core.errors import DataError, ImpossibleRule, SpecError
from tabvae_core.given import given_blocks, given_cells, with_given
from tabvae_core.inference import infer_schema
from tabvae_core.lake import ParquetSink, ParquetSource
from tabvae_core.models.drawing import generate
from tabvae_core.sampling import sample_to, valid_blocks
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers import vae
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import TableSource, as_source, take_rows

BERLIN = ZoneInfo("Europe/Berlin")
WORDS = np.array(["late", "box", "open", "call", "good", "refund", "fee", "asks", "crate", "again"])


def every_kind(rows: int, seed: int) -> pa.Table:
    """A column of every kind, a fifth of all cells null."""
    rng = np.random.default_rng(seed)
    start = dt.datetime(2023, 3, 1, tzinfo=BERLIN)
    columns = {
        "key": pa.array([f"Q-{k:06d}" for k in rng.permutation(rows)]),
        "big": pa.array(2**60 + rng.integers(0, 10**6, rows) * 2 + 1, pa.int64()),
        "at": pa.array([start + dt.timedelta(minutes=int(k)) for k in rng.integers(0, 400_000, rows)]).cast(
            pa.timestamp("us", "Europe/Berlin")
        ),
        "price": pa.array([decimal.Decimal(int(k)).scaleb(-4) for k in rng.integers(1, 10**15, rows)]).cast(
            pa.decimal128(25, 4)
        ),
        "city": pa.array(rng.choice(["Köln", "Bonn", "Trier"], rows)).dictionary_encode(),
        "note": pa.array([" ".join(rng.choice(WORDS, 9)) + f" {k}" for k in range(rows)]),
        "tags": pa.array([[int(k) % 3, 1] for k in range(rows)]),
        "ok": pa.array(rng.random(rows) < 0.5),
        "day": pa.array(rng.integers(18_000, 19_000, rows).astype(np.int32)).cast(pa.date32()),
        "ratio": pa.array(rng.normal(size=rows)),
        "one": pa.array(np.full(rows, 7), pa.int8()),
    }
    return with_holes(pa.table(columns), 0.2, rng)


def with_holes(table: pa.Table, share: float, rng: np.random.Generator) -> pa.Table:
    def holes(column: pa.ChunkedArray) -> pa.Array:
        cells, gone = column.combine_chunks(), rng.random(table.num_rows) < share
        return cells.take(pa.array(np.where(gone, 0, np.arange(len(cells))), mask=gone))

    return pa.table({name: holes(table[name]) for name in table.column_names}, schema=table.schema)


@pytest.fixture(scope="module", params=["vae", "gaussian_copula"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def everything(method: str) -> Synthesizer:
    table = every_kind(400, 0)
    table = table.set_column(10, table.schema.field("one"), pa.array([7] * 400, pa.int8()))
    kinds = {"big": Kind.NUMBER, "key": Kind.IDENTIFIER, "note": Kind.TEXT}
    overrides = {name: ColumnOverride(kind=kind) for name, kind in kinds.items()}
    overrides["tags"] = ColumnOverride(unlearnable="null")
    schema = infer_schema(as_source(table), overrides=overrides)
    return create(method, ModelSpec(method=method, epochs=2), PrivacySpec()).fit(table, schema)


@pytest.fixture(scope="module")
def model(method: str) -> Synthesizer:
    return create(method, ModelSpec(method=method, epochs=4), PrivacySpec()).fit(people())


def filled(
    model: Synthesizer, given: pa.Table | TableSource, *rules: str, shards: int = 1, tries: int = 100
) -> pa.Table:
    blocks = valid_blocks(model, given.num_rows, seed=3, shards=shards, given=given, rules=rules, max_tries=tries)
    return pa.concat_tables(table for table, _ in blocks)


def cells(column: pa.ChunkedArray) -> list[Any]:
    return column.to_pylist()


# ---------------------------------------------------------------- what is kept, what is filled


def test_given_cells_are_kept_and_nulls_filled(everything: Synthesizer) -> None:
    partial = every_kind(5000, 1)
    result = filled(everything, partial)
    assert result.schema.equals(everything.schema.arrow)
    assert result.num_rows == 5000
    for name in partial.column_names:
        before, after = cells(partial[name]), cells(result[name])
        assert [a for b, a in zip(before, after, strict=True) if b is not None] == [b for b in before if b is not None]
        if name != "tags":  # nothing is learned of nested values
            assert result[name].null_count == 0, name
    result.validate(full=True)


@pytest.mark.parametrize("name", ["key", "big", "at", "price", "city", "note", "tags", "ok", "day", "ratio", "one"])
def test_one_column_alone(everything: Synthesizer, name: str) -> None:
    partial = every_kind(60, 2).select([name])
    result = everything.sample(60, seed=0, given=partial)
    there = partial[name].is_valid()
    assert result[name].filter(there).to_pylist() == partial[name].filter(there).to_pylist()
    others = [other for other in result.column_names if other not in (name, "one")]
    assert any(result[other].null_count for other in others), "columns that the table lacks are drawn as ever"


@pytest.mark.parametrize("kind", ALL_TYPES, ids=str)
def test_cells_of_every_type_are_kept(kind: pa.DataType) -> None:
    rng = np.random.default_rng(1)
    partial, drawn = (pa.table({"c": column(kind, 30, shape, rng)}) for shape in ("nulls", "free"))
    schema = infer_schema(as_source(drawn), overrides={"c": ColumnOverride(unlearnable="null")})
    found = plain(with_given(drawn, given_cells(partial, schema, 30))["c"])
    before = plain(partial["c"])
    there = before.is_valid()
    assert found.filter(there).equals(before.filter(there))
    assert found.filter(pc.invert(there)).equals(plain(drawn["c"]).filter(pc.invert(there)))


@pytest.mark.parametrize("kind", ALL_TYPES, ids=str)
def test_rows_of_every_type_are_chosen(kind: pa.DataType) -> None:
    """Rows that are drawn again go through it, whether or not Arrow can take cells of their types."""
    table = pa.table({"c": column(kind, 9, "nulls", np.random.default_rng(2))})
    chosen = take_rows(table, np.array([8, 0, 0]))
    assert chosen.schema.equals(table.schema)
    assert chosen["c"].to_pylist() == [table["c"][k].as_py() for k in (8, 0, 0)]


def test_filled_columns_are_drawn_as_given_ones_say() -> None:
    """Each row follows its own cells: what is exact among the training rows is exact in filled ones."""
    rng = np.random.default_rng(0)
    net, tax = np.round(rng.lognormal(4, 1, 2000), 2), np.round(rng.lognormal(2, 1, 2000), 2)
    table = with_holes(pa.table({"net": net, "tax": tax, "total": np.round(net + tax, 2)}), 0.1, rng)
    model = create("vae", ModelSpec(epochs=10), PrivacySpec()).fit(table)
    assert model.record["relations"]
    partial = pa.table({"net": net[:500] + 0.01, "tax": tax[:500], "total": pa.nulls(500)})
    result = model.sample(500, seed=0, given=partial)
    exact = np.isclose(result["total"].to_numpy(), np.round(net[:500] + 0.01 + tax[:500], 2), rtol=1e-9)
    assert result["total"].null_count == 0
    assert exact.mean() > 0.8


def test_candidates_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces bound the memory of wide tables' candidates; rows are drawn as they are at once."""
    model = create("vae", ModelSpec(epochs=2, options={"members": 2}), PrivacySpec()).fit(people())
    given = pa.table({"segment": pa.array((["pro", None, "basic"] * 70)[:200])})
    drawn = []

    def watched(*args: Any, **more: Any) -> Any:
        drawn.append(len(args[2].tokens))
        return generate(*args, **more)

    monkeypatch.setattr(vae, "generate", watched)
    at_once = model.sample(200, seed=4, given=given)
    monkeypatch.setattr(vae, "_PIECE_CELLS", 16 * 8 * 30)
    in_pieces = model.sample(200, seed=4, given=given)
    assert drawn[:2] == [100 * 16, 100 * 16], "half of all candidates by each member"
    assert len(drawn) > 6
    assert max(drawn[2:]) < 100 * 16
    same = [a == b for a, b in zip(at_once.to_pylist(), in_pieces.to_pylist(), strict=True)]
    assert np.mean(same) > 0.98, "all but rounding"


def test_rows_without_cells_are_drawn_freely(model: Synthesizer) -> None:
    empty = pa.table({"age": pa.nulls(300, pa.int16())})
    assert model.sample(300, seed=5, given=empty).equals(model.sample(300, seed=5)), "ages have no nulls to forbid"


def test_other_layouts_of_the_same_cells(model: Synthesizer) -> None:
    """Types that a CSV file or pandas leaves behind: whole floats, NaN for null, texts, plain strings."""
    partial = pa.table(
        {
            "age": pa.array([30.0, np.nan, 40.0, None]),
            "income": pa.array([1000, None, 3000, 0]),
            "segment": pa.array(["pro", "basic", None, "plus"]),
            "opened": pa.array(["2020-05-01", None, "2021-01-01", "2020-02-02"]),
            "active": pa.nulls(4),
        }
    )
    result = model.sample(4, seed=0, given=partial)
    assert result.schema.equals(model.schema.arrow)
    ages, incomes, segments, opened = (cells(result[name]) for name in ("age", "income", "segment", "opened"))
    assert (ages[0], ages[2]) == (30, 40)
    assert ages[1] is not None
    assert ages[3] is not None
    assert (incomes[0], incomes[2], incomes[3]) == (1000.0, 3000.0, 0.0)
    assert (segments[0], segments[1], segments[3]) == ("pro", "basic", "plus")
    assert opened[0] == dt.date(2020, 5, 1)
    assert opened[1] is not None


# ---------------------------------------------------------------- shards and rules


def test_same_bytes_for_any_number_of_shards(model: Synthesizer, tmp_path: Path) -> None:
    """Read as a stream whose batches are no blocks, rows drawn again and all."""
    partial = with_holes(people(4500, seed=4), 0.5, np.random.default_rng(1)).drop_columns(["income"])
    pq.write_table(partial, tmp_path / "partial.parquet", row_group_size=900)
    source = ParquetSource(str(tmp_path / "partial.parquet"))
    digests = set()
    for shards, given in ((1, source), (4, source), (2, partial)):
        path = tmp_path / f"{shards}.parquet"
        with ParquetSink(str(path), model.schema.arrow) as sink:
            drawn = sample_to(
                sink, model, 4500, seed=7, shards=shards, given=given, rules=("income >= age * 1000",), max_tries=1000
            )
        assert drawn > 4500
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_rows_drawn_again_keep_their_cells_and_keys(model: Synthesizer) -> None:
    partial = pa.table({"segment": ["pro", "basic", "plus", None] * 1100})
    result = filled(model, partial, "income >= age * 1000", tries=1000)
    assert not pc.any(pc.less(result["income"], pc.multiply(result["age"].cast(pa.float64()), 1000.0))).as_py()
    segments = cells(result["segment"])
    assert segments[0::4] == ["pro"] * 1100
    assert segments[1::4] == ["basic"] * 1100
    first = filled(model, partial)
    assert result["key"].equals(first["key"])
    assert len(pc.unique(result["key"])) == 4400


def test_given_cells_that_break_a_rule_are_named_at_once(model: Synthesizer) -> None:
    partial = pa.table({"age": pa.array([30] * 5000 + [70] * 2, pa.int16())})
    with pytest.raises(ImpossibleRule, match=r"given cells make rows break rule 'age < 50'.* row 5,001,") as caught:
        filled(model, partial, "age < 50")
    assert caught.value.rule == "age < 50"
    assert "70" not in str(caught.value)


@pytest.mark.parametrize("tries", [1, 7])
def test_a_rule_that_cannot_be_met_beside_given_cells(model: Synthesizer, tries: int) -> None:
    partial = pa.table({"age": pa.array([20, 79], pa.int16())})
    with pytest.raises(ImpossibleRule, match=f"beside given cells: no draw of {tries} served row 1,") as caught:
        filled(model, partial, "income < age - 1000", "age > 0", tries=tries)
    assert (caught.value.rule, caught.value.acceptance) == ("income < age - 1000", 0.0)


def test_nulls_that_a_rule_forbids_are_drawn_again_where_the_column_is_not_given(model: Synthesizer) -> None:
    result = filled(model, pa.table({"age": pa.array([30] * 500, pa.int16())}), "income is not null")
    assert result["income"].null_count == 0


# ---------------------------------------------------------------- values that were never learned


def test_unlearned_values_are_kept_and_counted(model: Synthesizer, caplog: pytest.LogCaptureFixture) -> None:
    """They condition nothing: the rest of their rows is drawn as if they were not given."""
    strange = pa.table({"segment": ["Aubergine", None] * 40 + ["Brinjal"], "active": pa.array([True] * 81)})
    with caplog.at_level(logging.WARNING, "tabvae_core"):
        result = filled(model, strange)
    assert [record.getMessage() for record in caplog.records] == [
        "segment: 41 given cells hold values that were not learned; they are kept and condition nothing"
    ]
    assert cells(result["segment"])[0::2] == [*["Aubergine"] * 40, "Brinjal"]
    plain = model.sample(81, seed=3, given=strange.set_column(0, "segment", pa.nulls(81, pa.string())))
    assert result.drop_columns(["segment"]).equals(plain.drop_columns(["segment"]))


def test_unlearned_value_of_a_constant(everything: Synthesizer) -> None:
    given = pa.table({"one": pa.array([7, 8, None], pa.int8())})
    assert everything.unlearned(given) == {"one": 1}
    assert cells(everything.sample(3, given=given)["one"]) == [7, 8, 7]


def test_unlearned_fixed_values_stay_errors(model: Synthesizer) -> None:
    with pytest.raises(SpecError, match="column 'segment' never had the value 'Aubergine'"):
        model.sample(5, given={"segment": "Aubergine"})


# ---------------------------------------------------------------- tables that do not fit


@pytest.mark.parametrize(
    ("partial", "says"),
    [
        (pa.table({"age": pa.array([], pa.int16())}), "no rows"),
        (pa.table({}), "no columns"),
        (pa.table({"age": ["old"]}), "'age' has type string, and cells that do not fit int16"),
        (pa.table({"age": [40.5]}), "'age' has type double, and cells that do not fit int16"),
        (pa.table({"age": [2**40]}), "'age' has type int64, and cells that do not fit int16"),
        (pa.table({"income": [2**60 + 1]}), "'income' has type int64, and cells that do not fit double"),
        (pa.table({"active": [2]}), "'active' has type int64, and cells that do not fit bool"),
        (pa.table({"opened": [dt.datetime(2020, 1, 1, 5)]}), "cells that do not fit date32"),
        (pa.table({"segment": [[1]]}), "'segment' has type list<item: int64>, and cells"),
    ],
)
def test_tables_that_do_not_fit(model: Synthesizer, partial: pa.Table, says: str) -> None:
    with pytest.raises(DataError, match=says.replace("<", "[<]")) as caught:
        filled(model, partial)
    text = str(caught.value)
    assert not [word for word in ("old", "40.5", str(2**40), str(2**60), "2020", "[1]") if word in text]


@pytest.mark.parametrize(
    ("kind", "partial"),
    [
        (pa.timestamp("us", "Europe/Berlin"), pa.array([dt.datetime(2024, 1, 1)])),
        (pa.timestamp("us"), pa.array([dt.datetime(2024, 1, 1, tzinfo=BERLIN)])),
        (pa.timestamp("s"), pa.array([dt.datetime(2024, 1, 1, microsecond=1)])),
        (pa.decimal128(10, 2), pa.array([1.234])),
        (pa.decimal128(10, 2), pa.array([decimal.Decimal("1.234")])),
        (pa.float32(), pa.array([1e300])),
        (pa.float64(), pa.array([decimal.Decimal("1.2345678901234567890123")])),
        (pa.dictionary(pa.int8(), pa.string()), pa.array([str(k) for k in range(300)])),
    ],
)
def test_casts_that_would_lose_something(kind: pa.DataType, partial: pa.Array) -> None:
    schema = infer_schema(as_source(pa.table({"c": pa.nulls(20, kind)})))
    with pytest.raises(DataError, match="column 'c'"):
        given_cells(pa.table({"c": partial}), schema, len(partial))


@pytest.mark.parametrize(
    ("kind", "partial", "expected"),
    [
        (pa.timestamp("us", "Europe/Berlin"), pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]), None),
        (pa.timestamp("us", "Europe/Berlin"), pa.nulls(1, pa.timestamp("us")), [None]),
        (pa.decimal128(10, 2), pa.array([12.34]), [decimal.Decimal("12.34")]),
        (pa.float32(), pa.array([0.1]), [float(np.float32(0.1))]),
        (pa.string(), pa.array([35]), ["35"]),
        (pa.uint64(), pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.string_view(), pa.array(["x", None]), ["x", None]),
        (pa.run_end_encoded(pa.int32(), pa.string()), pa.array(["x", None]), ["x", None]),
        (pa.uuid(), pa.array([b"0123456789abcdef"], pa.uuid()), None),
        (pa.list_(pa.int64()), pa.array([[1]], pa.list_(pa.int32())), [[1]]),
    ],
)
def test_casts_that_lose_nothing(kind: pa.DataType, partial: pa.Array, expected: list[Any] | None) -> None:
    schema = infer_schema(
        as_source(pa.table({"c": pa.nulls(20, kind)})), overrides={"c": ColumnOverride(unlearnable="null")}
    )
    found = given_cells(pa.table({"c": partial}), schema, len(partial))["c"]
    assert found.cells.type == kind
    assert found.cells.to_pylist() == (partial.to_pylist() if expected is None else expected)
    assert found.mask.tolist() == partial.is_valid().to_pylist()


def test_unknown_columns_and_other_numbers_of_rows(model: Synthesizer) -> None:
    with pytest.raises(SpecError, match=r"no column 'agee'[\s\S]*columns: key, age"):
        filled(model, pa.table({"agee": [1]}))
    with pytest.raises(SpecError, match="1 rows, however 5 are asked for"):
        next(valid_blocks(model, 5, seed=0, given=pa.table({"age": [30]})))
    with pytest.raises(SpecError, match="1 rows, however 5"):
        model.sample(5, given=pa.table({"age": [30]}))


def test_a_method_that_cannot_condition_refuses() -> None:
    basic = create("vae_basic", ModelSpec(method="vae_basic", epochs=1), PrivacySpec()).fit(people(100))
    with pytest.raises(SpecError, match="cannot fix given values"):
        basic.sample(1, given=pa.table({"age": [30]}))


def test_blocks_of_a_stream(model: Synthesizer) -> None:
    class Ragged:
        schema = pa.schema([("age", pa.int16())])
        num_rows = 23

        def batches(self, columns: Iterable[str] | None = None) -> Iterable[pa.RecordBatch]:
            for size in (1, 10, 0, 12):
                yield pa.record_batch([pa.array([size] * size, pa.int16())], schema=self.schema)

    parts = list(given_blocks(Ragged(), model.schema, 23, 5))
    assert [part.num_rows for part in parts] == [5, 5, 5, 5, 3]
    assert [age for part in parts for age in cells(part["age"])] == [1, *[10] * 10, *[12] * 12]
    assert list(given_blocks({"age": 3}, model.schema, 11, 5)) == [{"age": 3}] * 3
