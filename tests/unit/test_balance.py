"""Classes in chosen numbers: exactly so many rows, mixed, the same for any number of shards, and judged fairly."""

from __future__ import annotations

import hashlib
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

from tables_made import people
from tabvae_core import release, steps
from tabvae_core.balance import apportion, class_rows, split_balance
from tabvae_core.checks import check_method
from tabvae_core.errors import DataError, SpecError
from tabvae_core.evaluation import evaluate, reweighted
from tabvae_core.evaluation.classes import at_equal_shares
from tabvae_core.evaluation.view import Side
from tabvae_core.given import column_codecs
from tabvae_core.inference import infer_schema
from tabvae_core.lake import ParquetSink
from tabvae_core.schema import TableSchema
from tabvae_core.spec import BalanceSpec, ModelSpec, PrivacySpec, RefreshSpec, parse_spec
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import as_source, resampled_rows

LEVELS = [3, 5, 9]


def with_level(rows: int = 600, seed: int = 0) -> pa.Table:
    """People, and a number of few values."""
    rng = np.random.default_rng(seed)
    level = pa.array(rng.choice(LEVELS, rows, p=[0.7, 0.2, 0.1]), pa.int8())
    return people(rows, seed).append_column("level", level)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return with_level()


@pytest.fixture(scope="module")
def schema(table: pa.Table) -> TableSchema:
    return infer_schema(as_source(table))


@pytest.fixture(scope="module")
def bundle(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "bundle"
    create("vae", ModelSpec(epochs=1, options={"members": 1}), PrivacySpec()).fit(table).save(folder)
    return folder


def spec_of(**sample: Any) -> RefreshSpec:
    return parse_spec({"source": {"uri": "people.parquet"}, "target": {"uri": "out"}, "sample": sample})


def rows_of(balance: dict[str, Any], table: pa.Table, schema: TableSchema, rows: int) -> dict[Any, int]:
    asked = BalanceSpec.model_validate(balance)
    codecs = column_codecs([asked.column], as_source(table), schema, PrivacySpec())
    plan = class_rows(asked, codecs[asked.column], schema, rows)
    return dict(zip(plan.values.to_pylist(), plan.rows.tolist(), strict=True))


# ---------------------------------------------------------------- dividing rows


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda weights: sum(weights) > 1e-3),
    st.integers(0, 10**7),
)
def test_rows_are_divided_to_within_one(weights: list[float], rows: int) -> None:
    shares = np.array(weights) / np.sum(weights)
    divided = apportion(np.array(weights), rows)
    assert divided.sum() == rows
    assert (np.abs(divided - shares * rows) < 1 + 1e-6).all()
    assert not divided[shares == 0].any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000).map(lambda n: n / 1000), st.integers(0, 1000), st.integers(1, 10**6))
def test_named_shares_are_met_and_others_keep_their_proportions(
    table: pa.Table, schema: TableSchema, pro: float, part: int, rows: int
) -> None:
    plus = (1 - pro) * part / 1000
    one = rows_of({"column": "segment", "shares": {"pro": pro}}, table, schema, rows)
    assert sum(one.values()) == rows
    assert abs(one["pro"] - pro * rows) < 1
    learned = [pc.sum(pc.equal(table["segment"].cast(pa.string()), name)).as_py() for name in ("basic", "plus")]
    assert abs(one["basic"] - (rows - pro * rows) * learned[0] / sum(learned)) < 1
    two = rows_of({"column": "segment", "shares": {"pro": pro, "plus": plus}}, table, schema, rows)
    assert sum(two.values()) == rows
    assert abs(two["plus"] - plus * rows) < 1


def test_counts_are_exact(table: pa.Table, schema: TableSchema) -> None:
    found = rows_of({"column": "segment", "counts": {"pro": 777, "basic": 0}}, table, schema, 1000)
    assert found == {"basic": 0, "plus": 223, "pro": 777}
    assert rows_of({"column": "level", "counts": {3: 1, "9": 4}}, table, schema, 6) == {3: 1, 5: 1, 9: 4}
    assert rows_of({"column": "active", "counts": {True: 7}}, table, schema, 7) == {False: 0, True: 7}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.integers(1, 500), st.integers(0, 3))
def test_resampling_meets_weights(weights: list[int], rows: int, seed: int) -> None:
    if not sum(weights):
        return
    strata = np.arange(len(weights)) % 3
    chosen = resampled_rows(np.array(weights, dtype=np.float64), strata, rows, seed)
    assert len(chosen) == rows
    assert (np.diff(chosen) >= 0).all()
    expected = rows * np.array(weights) / sum(weights)
    assert (np.abs(np.bincount(chosen, minlength=len(weights)) - expected) < 1 + 1e-6).all()
    for part in range(3):
        assert abs((strata[chosen] == part).sum() - expected[strata == part].sum()) < 1 + 1e-6


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ({"balance": {"column": "segment"}}, "sample.balance: must have shares or counts"),
        ({"balance": {"column": "segment", "shares": {"a": 0.5}, "counts": {"b": 1}}}, "one of both"),
        ({"balance": {"column": "segment", "shares": {"a": 0.6, "b": 0.6}}}, "shares add up to 1.2"),
        ({"balance": {"column": "segment", "shares": {"a": 1.5}}}, "sample.balance.shares.a: input should be less"),
        ({"balance": {"column": "segment", "counts": {"a": -1}}}, "sample.balance.counts.a: input should be greater"),
        ({"balance": {"shares": {"a": 0.5}}}, "sample.balance.column: field required"),
        ({"balance": {"column": "segment", "shares": {"a": 0.5}}, "given": {"age": 3}}, "exclude each other"),
    ],
)
def test_a_balance_that_says_no_numbers(sample: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        spec_of(**sample)


def test_a_balance_of_a_column_that_the_source_leaves_out() -> None:
    with pytest.raises(SpecError, match=r"sample\.balance names columns that source\.columns leaves out: segment"):
        parse_spec(
            {
                "source": {"uri": "a", "columns": ["age"]},
                "target": {"uri": "b"},
                "sample": {"balance": {"column": "segment", "shares": {"pro": 0.5}}},
            }
        )


@pytest.mark.parametrize(
    ("balance", "says"),
    [
        ({"column": "segment", "shares": {"gold": 0.5}}, "'gold' is no class of column 'segment', or too rare"),
        ({"column": "segment", "shares": {True: 0.5}}, "'true' is no class[\\s\\S]*unless they are quoted"),
        ({"column": "level", "shares": {"4": 0.5}}, "'4' is no class of column 'level'"),
        (
            {"column": "level", "shares": {"low": 0.5}},
            "the value for column 'level' is not of its type",
        ),
        ({"column": "income", "shares": {"0": 0.5}}, "'income' is of kind number, and not one of classes"),
        ({"column": "key", "shares": {"P-000001": 0.5}}, "'key' is of kind identifier, and not one of classes"),
        ({"column": "opened", "shares": {"2020-01-01": 0.5}}, "'opened' is of kind datetime"),
        ({"column": "segment", "counts": {"pro": 101}}, "counts add up to 101 rows, however 100 are drawn"),
        ({"column": "active", "counts": {True: 1, False: 2}}, "names all classes .* and 97 rows are left over"),
        ({"column": "active", "shares": {True: 0.1, False: 0.2}}, "names all classes .* and adds up to 0.3"),
    ],
)
def test_a_balance_that_does_not_fit_the_table(
    table: pa.Table, schema: TableSchema, balance: dict[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        rows_of(balance, table, schema, 100)


def test_a_constant_column_has_no_classes(table: pa.Table) -> None:
    constant = table.append_column("one", pa.array(["x"] * table.num_rows))
    with pytest.raises(SpecError, match="column 'one' has one class only"):
        rows_of({"column": "one", "shares": {"x": 0.5}}, constant, infer_schema(as_source(constant)), 100)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["segment=0.5"], "COLUMN:VALUE=SHARE"),
        (["segment:pro"], "COLUMN:VALUE=SHARE"),
        (["segment:pro=half"], "COLUMN:VALUE=SHARE"),
        (["segment:pro=-0.5"], "COLUMN:VALUE=SHARE"),
        (["segment:pro=0.5", "segment:pro=0.4"], "names class 'pro' twice"),
        (["segment:pro=0.5", "active:true=0.4"], "columns segment and active"),
    ],
)
def test_options_that_cannot_be_read(options: list[str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        split_balance(options)


def test_options() -> None:
    assert split_balance(["a:b:c=.5", "a:x=y=0.25"]) == {"column": "a", "shares": {"b:c": 0.5, "x=y": 0.25}}
    assert split_balance(["a:b=1"]) == {"column": "a", "counts": {"b": 1}}


# ---------------------------------------------------------------- drawing


def drawn(bundle: Path, schema: TableSchema, path: Path, rows: int, **sample: Any) -> pa.Table:
    with ParquetSink(str(path), schema.arrow) as sink:
        steps.draw(spec_of(**sample), schema, sink, bundle, rows)
    return pq.read_table(path)


def test_exactly_these_rows_mixed_and_the_same_for_any_shards(
    bundle: Path, schema: TableSchema, tmp_path: Path
) -> None:
    balance = {"column": "segment", "shares": {"pro": 0.5}}
    tables = [
        drawn(bundle, schema, tmp_path / f"{shards}.parquet", 4201, seed=4, shards=shards, balance=balance)
        for shards in (1, 3)
    ]
    bytes_of = [hashlib.sha256((tmp_path / f"{shards}.parquet").read_bytes()).hexdigest() for shards in (1, 3)]
    assert bytes_of[0] == bytes_of[1]
    assert tables[0].schema.equals(schema.arrow)
    is_pro = np.array([cell == "pro" for cell in tables[0]["segment"].to_pylist()])
    assert is_pro.sum() in (2100, 2101)
    assert 0.4 < is_pro[:500].mean() < 0.6, "classes are mixed, not one after the other"
    assert tables[0]["segment"].null_count == 0
    assert len(pc.unique(tables[0]["key"])) == 4201
    other = drawn(bundle, schema, tmp_path / "o.parquet", 4201, seed=5, balance=balance)
    assert not other["segment"].equals(tables[0]["segment"]), "the order follows from the seed"


@pytest.mark.parametrize(("column", "value", "name"), [("active", True, "true"), ("level", 9, "9")])
def test_booleans_and_numbers_of_few_values(
    bundle: Path, schema: TableSchema, tmp_path: Path, column: str, value: Any, name: str
) -> None:
    balance = {"column": column, "counts": {name: 61}}
    found = drawn(bundle, schema, tmp_path / "t.parquet", 80, balance=balance)[column].to_pylist()
    assert (found.count(value), len(found)) == (61, 80)
    assert set(found) <= {True, False, *LEVELS}


def test_a_method_that_cannot_condition_is_told_before_training() -> None:
    spec = spec_of(balance={"column": "segment", "shares": {"pro": 0.5}})
    spec = spec.model_copy(update={"model": ModelSpec(method="vae_basic")})
    with pytest.raises(SpecError, match=r"sample\.balance: method 'vae_basic' cannot fix values"):
        check_method(spec)


# ---------------------------------------------------------------- judging


def two_classes(rows: int, rare: float, seed: int) -> pa.Table:
    """A class, and a number that goes with it."""
    rng = np.random.default_rng(seed)
    y = rng.random(rows) < rare
    return pa.table({"y": np.where(y, "yes", "no"), "x": np.where(y, 3.0, 0.0) + rng.normal(size=rows)})


@pytest.mark.parametrize(
    ("rows", "holdout_rows", "words"), [(20_000, 4000, "held-out and training"), (6000, 600, "synthetic rows were")]
)
def test_classes_are_equally_frequent_on_all_sides(rows: int, holdout_rows: int, words: str) -> None:
    tables = {
        Side.HOLDOUT: two_classes(rows, 0.1, 1),
        Side.SYNTHETIC: two_classes(rows, 0.5, 2),
        Side.TRAIN: two_classes(rows, 0.1, 3),
    }
    schema = infer_schema(as_source(tables[Side.TRAIN]))
    found, said = at_equal_shares(tables | {Side.HOLDOUT: two_classes(holdout_rows, 0.13, 1)}, schema.column("y"), 0)
    assert words in said
    shares = [pc.mean(pc.equal(table["y"], "yes").cast(pa.float64())).as_py() for table in found.values()]
    assert max(shares) - min(shares) < 0.005
    kept = found[Side.TRAIN]["x"].to_pylist()
    assert len(set(kept)) == len(kept), "no row is there twice"


def test_a_balanced_table_of_real_rows_is_at_its_floor() -> None:
    """Without equal shares its columns differ, rightly; with them nothing does."""
    holdout, train, other = two_classes(6000, 0.2, 1), two_classes(6000, 0.2, 2), two_classes(6000, 0.6, 3)
    schema = infer_schema(as_source(train))
    blind = evaluate(holdout, other, schema, train=train)
    fair = evaluate(holdout, other, schema, train=train, balanced="y")
    assert {"shape", "c2st"} <= set(blind.verdict.apart)
    assert fair.verdict.apart == ()
    assert fair.balanced == "y"
    assert "equally frequent" in fair.notes[0]


def test_a_wrong_column_within_the_classes_is_still_found() -> None:
    holdout, train, other = two_classes(6000, 0.2, 1), two_classes(6000, 0.2, 2), two_classes(6000, 0.6, 3)
    other = other.set_column(1, "x", pc.add(other["x"], 0.5))
    found = evaluate(holdout, other, infer_schema(as_source(train)), train=train, balanced="y")
    assert {"shape", "c2st"} <= set(found.verdict.apart)


def test_copies_are_looked_for_among_all_training_rows() -> None:
    holdout, train = two_classes(4000, 0.2, 1), two_classes(4000, 0.1, 2)
    copied = train.filter(pc.equal(train["y"], "yes"))
    other = pa.concat_tables([copied, two_classes(copied.num_rows, 0.0, 3)])
    found = evaluate(holdout, other, infer_schema(as_source(train)), train=train, balanced="y")
    assert found.metrics["copies"].value == pytest.approx(50, abs=0.1)


def test_reference_rows_are_reweighted() -> None:
    real, other = two_classes(3000, 0.1, 1), two_classes(1000, 0.7, 2)
    column = infer_schema(as_source(real)).column("y")
    found = reweighted(real, other.select(["y"]), column, 0)
    assert found.num_rows == 3000
    share, wanted = (pc.mean(pc.equal(t["y"], "yes").cast(pa.float64())).as_py() for t in (found, other))
    assert share == pytest.approx(wanted, abs=0.001)


def test_a_class_that_real_rows_hardly_have_cannot_be_proven() -> None:
    real, other = two_classes(900, 0.0, 1), two_classes(900, 0.3, 2)
    column = infer_schema(as_source(other)).column("y")
    with pytest.raises(DataError, match=r"column 'y': a class of 3\d% of the synthetic rows has only 0 held-out"):
        at_equal_shares({Side.HOLDOUT: real, Side.SYNTHETIC: other}, column, 0)


def test_a_class_that_is_rare_by_nature_stops_nothing() -> None:
    real, other = two_classes(400, 0.0, 1), two_classes(400, 0.5, 2)
    few = pa.table({"y": ["yes"] * 200 + ["other"] * 5, "x": pa.array(np.zeros(205))})
    real, other = pa.concat_tables([real, few]), pa.concat_tables([other, few.slice(200)])
    column = infer_schema(as_source(other)).column("y")
    found, _ = at_equal_shares({Side.HOLDOUT: real, Side.SYNTHETIC: other}, column, 0)
    assert found[Side.HOLDOUT].num_rows > 300


def test_refresh_publishes_a_balanced_table_with_what_it_gains(tmp_path: Path) -> None:
    table = two_classes(1500, 0.2, 0)
    pq.write_table(table, tmp_path / "source.parquet")
    spec = parse_spec(
        {
            "source": {"uri": str(tmp_path / "source.parquet")},
            "target": {"uri": str(tmp_path / "target")},
            "workspace": {"uri": str(tmp_path / "work")},
            "model": {"epochs": 2, "options": {"members": 1}},
            "sample": {"balance": {"column": "y", "shares": {"yes": 0.5}}},
            "gates": {"data_docs": False, "max_auc": 1.0, "max_column_jsd": 0.4, "max_trend": 60},
        }
    )
    done = steps.refresh(spec)
    published = pa.Table.from_batches(release.read_release(done.target).batches(["y"]))
    assert pc.sum(pc.equal(published["y"], "yes")).as_py() == 750
    folder = Path(done.report_uri).parent
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    gain = found["augmentation"]
    assert (found["balanced"], gain["column"], gain["value"]) == ("y", "y", "yes")
    assert gain["real"]["of_class"] + gain["added"] == gain["synthetic"]["of_class"]
    assert gain["synthetic"]["of_class"] / gain["synthetic"]["rows"] == pytest.approx(0.5, abs=0.01)
    assert "Does the rare class gain?" in Path(done.report_uri).read_text(encoding="utf-8")
    jsd = next(column for column in found["columns"] if column["name"] == "y")["jsd"]
    assert jsd < 0.02, "real rows were brought to the same classes"
