from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tabvae_core import release, steps
from tabvae_core.draft import init_spec, sibling, table_name
from tabvae_core.errors import DataError, GateRefused, SchemaDrift, SourceChanged, SpecError
from tabvae_core.given import given_values, split_pairs
from tabvae_core.inference import infer_schema
from tabvae_core.preflight import check
from tabvae_core.progress import ProgressEvent
from tabvae_core.references import ReleaseRef
from tabvae_core.spec import RefreshSpec, WorkspaceSpec, load_spec, parse_spec
from tabvae_core.synthesizers.vae_basic import BasicVAESynthesizer
from tabvae_core.tables import InMemoryTable, RowSample
from tabvae_core.workspace import run_id_of
from tabvae_flows.customers import customers

LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}


def spec_for(folder: Path, **changes: Any) -> RefreshSpec:
    data: dict[str, Any] = {
        "name": "customers",
        "source": {"uri": str(folder / "customers.parquet")},
        "target": {"uri": str(folder / "synthetic")},
        "workspace": {"uri": str(folder / "work")},
        "rules": ["age > 0", "closed_at >= signup_at"],
        "model": {"method": "vae_basic", "epochs": 2},
        "gates": LAX,
    }
    return parse_spec(data | changes)


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return customers(800)


@pytest.fixture
def folder(tmp_path: Path, table: pa.Table) -> Path:
    pq.write_table(table, tmp_path / "customers.parquet")
    return tmp_path


# ---------------------------------------------------------------- the whole loop


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table
) -> tuple[Path, ReleaseRef, list[ProgressEvent]]:
    folder = tmp_path_factory.mktemp("loop")
    pq.write_table(table, folder / "customers.parquet")
    events: list[ProgressEvent] = []
    return folder, steps.refresh(spec_for(folder), progress=events.append), events


def test_refresh_publishes_a_table_of_the_same_schema(
    published: tuple[Path, ReleaseRef, list[ProgressEvent]], table: pa.Table
) -> None:
    folder, done, events = published
    synthetic = pa.concat_tables(pq.read_table(f) for f in sorted(Path(done.uri).glob("part-*.parquet")))
    assert synthetic.schema.equals(table.schema)
    assert synthetic.num_rows == done.rows == table.num_rows
    assert pc.all(pc.greater_equal(synthetic["closed_at"], synthetic["signup_at"])).as_py() in (True, None)
    assert Path(done.report_uri).read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    current = release.current(str(folder / "synthetic"))
    assert current is not None
    assert current.version == done.version
    assert {"snapshot", "train", "sample", "validate", "evaluate", "publish"} <= {event.step for event in events}
    run = folder / "work" / "runs" / done.run_id
    assert (run / "model" / "weights.safetensors").is_file()
    assert not (run / "table").exists(), "the accepted table stands in the target; a second copy is only cost"


def test_no_real_row_is_copied_to_the_workspace(
    published: tuple[Path, ReleaseRef, list[ProgressEvent]],
) -> None:
    folder, _, _ = published
    assert not list((folder / "work").rglob("*.parquet"))


def test_second_refresh_does_nothing_then_force_then_rollback_stays(
    published: tuple[Path, ReleaseRef, list[ProgressEvent]],
) -> None:
    folder, first, _ = published
    spec = spec_for(folder)
    again = steps.refresh(spec)
    assert (again.unchanged, again.version) == (True, first.version)
    forced = steps.refresh(spec, force=True)
    assert not forced.unchanged
    assert forced.version != first.version
    release.rollback(spec.target, first.version)
    assert steps.refresh(spec).version == first.version
    assert len(release.releases(spec.target)) == 2


def test_killed_run_goes_on_where_it_stopped(folder: Path) -> None:
    spec = spec_for(folder)
    pinned = steps.snapshot(spec)
    model = steps.train(spec, pinned)
    weights = Path(model.uri) / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    events: list[ProgressEvent] = []
    assert steps.train(spec, pinned, progress=events.append) == model
    assert [event.message for event in events] == ["done before"]
    assert weights.stat().st_mtime_ns == before
    drawn = steps.sample(spec, pinned, model)
    Path(drawn.uri, drawn.files[0].path).unlink()
    again = steps.sample(spec, pinned, model)
    assert again.files == drawn.files, "a table that was lost is drawn again, byte for byte"
    assert steps.sample(spec, pinned, model) == again


def test_refused_table_is_quarantined_and_pointer_stays(folder: Path) -> None:
    spec = spec_for(folder, gates=LAX | {"max_auc": 0.5, "max_column_jsd": 0.0})
    with pytest.raises(GateRefused) as refused:
        steps.refresh(spec)
    assert refused.value.failures
    assert Path(refused.value.quarantine, "report.html").is_file()
    assert release.current(spec.target) is None
    with pytest.raises(GateRefused, match=r"gates refused") as again:
        steps.refresh(spec)
    assert again.value.quarantine == refused.value.quarantine


def test_source_that_changes_under_a_run_stops_it(folder: Path, table: pa.Table) -> None:
    spec = spec_for(folder)
    pinned = steps.snapshot(spec)
    pq.write_table(table.slice(1), folder / "customers.parquet")
    with pytest.raises(SourceChanged, match=r"customers\.parquet"):
        steps.train(spec, pinned)


def test_free_text_decision_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [
        "parcel came late and the box was open",
        "friendly call, all good now",
        "asks for a refund of the fee",
    ]
    notes = [f"{words[k % 3]} number {k} of {k * 7 % 113}" for k in range(300)]
    pq.write_table(pa.table({"note": notes, "n": [k % 7 for k in range(300)]}), tmp_path / "customers.parquet")
    spec = spec_for(tmp_path, rules=[], columns={"note": {"kind": "text", "unlearnable": "null"}})
    with caplog.at_level("INFO", logger="tabvae_core"):
        steps.train(spec, steps.snapshot(spec))
    assert "column note (text): kept, with nulls only" in caplog.text


# ---------------------------------------------------------------- before anything runs


def test_run_id_depends_on_what_changes_the_result(tmp_path: Path) -> None:
    spec = spec_for(tmp_path)
    same = spec.model_copy(update={"sample": spec.sample.model_copy(update={"shards": 8})})
    other = spec.model_copy(update={"sample": spec.sample.model_copy(update={"seed": 8})})
    assert run_id_of(spec, "f") == run_id_of(same, "f")
    assert run_id_of(spec, "f") == run_id_of(spec_for(tmp_path, workspace={"uri": "elsewhere"}), "f")
    assert len({run_id_of(spec, "f"), run_id_of(other, "f"), run_id_of(spec, "g")}) == 3


def test_drift_names_added_missing_and_changed_columns(folder: Path, table: pa.Table) -> None:
    expected = {field.name: str(field.type) for field in table.schema if field.name != "visits"}
    expected |= {"age": "int64", "gone": "string"}
    spec = spec_for(folder, expect_columns=expected)
    with pytest.raises(SchemaDrift, match=r"added: visits; missing: gone; changed: age \(int64 became int32\)"):
        steps.snapshot(spec)
    assert steps.snapshot(spec_for(folder, expect_columns=expected, drift="accept")).rows == 800


@pytest.mark.parametrize("rows", [0, 1])
def test_too_small_tables(folder: Path, table: pa.Table, rows: int) -> None:
    pq.write_table(table.slice(0, rows), folder / "customers.parquet")
    with pytest.raises(DataError, match="no rows" if rows == 0 else "only 1 row, 1 of them to learn"):
        steps.snapshot(spec_for(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"nope": {"kind": "number"}}}, "columns names 'nope', which is no column"),
        ({"target_column": "nope"}, "target_column names 'nope'"),
        ({"sample": {"given": {"nope": 1}}}, "given names 'nope', which is no column"),
        ({"rules": ["nope > 1"]}, "nope"),
    ],
)
def test_settings_that_name_no_column(folder: Path, changes: dict[str, Any], message: str) -> None:
    spec = spec_for(folder, **changes)
    with pytest.raises(SpecError, match=message):
        steps.train(spec, steps.snapshot(spec))


def test_memory_of_a_gpu_that_ends_is_an_error_that_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(BasicVAESynthesizer, "fit", full)
    spec = spec_for(folder)
    with pytest.raises(DataError, match="the memory of the GPU does not hold"):
        steps.train(spec, steps.snapshot(spec))


def test_another_process_finds_the_snapshot_of_a_run(folder: Path) -> None:
    spec = spec_for(folder)
    taken = [steps.snapshot(spec), steps.snapshot(spec, force=True)]
    assert [steps.find_snapshot(spec, one.run_id) for one in taken] == taken
    assert steps.find_model(spec, taken[0]) is None
    elsewhere = spec.model_copy(update={"workspace": WorkspaceSpec(uri=str(folder / "other"))})
    with pytest.raises(SpecError, match=f"workspace {folder / 'other'}, as .* sees it, has no run {taken[0].run_id}"):
        steps.find_snapshot(elsewhere, taken[0].run_id)
    with pytest.raises(SpecError, match="begun with another spec, or by another version of tabvae"):
        steps.find_snapshot(spec_for(folder, target_column="segment"), taken[0].run_id)


def test_check_reports_all_that_is_wrong_and_leaves_nothing(folder: Path) -> None:
    report = check(spec_for(folder))
    assert report.ok, report.text()
    assert report.estimate is not None
    assert "customer_id" in " ".join(report.decisions)
    assert not (folder / "synthetic").exists()
    assert not (folder / "work").exists()
    bad = check(spec_for(folder, rules=["nope > 1"], model={"method": "nope"}, target={"uri": "/proc/nowhere"}))
    assert {f.name for f in bad.findings if not f.ok} == {"method", "settings", "target"}
    assert bad.exit_code == 2
    missing = check(spec_for(folder, source={"uri": str(folder / "gone.parquet")}))
    assert missing.exit_code == 3


# ---------------------------------------------------------------- given values


@pytest.fixture(scope="module")
def schema(table: pa.Table) -> Any:
    return infer_schema(InMemoryTable(table))


def test_given_values_are_of_the_columns_types(schema: Any) -> None:
    texts = split_pairs(("age=35", "segment=premium", "is_active=yes", "balance=1.50", "income="))
    values = given_values(texts | {"signup_at": "2024-05-01T08:00:00+02:00"}, schema)
    assert (values["age"], values["segment"], values["is_active"], values["income"]) == (
        35,
        "premium",
        True,
        None,
    )
    assert str(values["balance"]) == "1.50"
    assert values["signup_at"].isoformat() == "2024-05-01T06:00:00+00:00"
    assert given_values({"signup_at": "2024-05-01"}, schema)["signup_at"].isoformat() == "2024-05-01T00:00:00+00:00"
    assert given_values({"age": 35, "income": None}, schema) == {"age": 35, "income": None}


@pytest.mark.parametrize("given", [{"age": "x"}, {"age": "1.5"}, {"is_active": "perhaps"}, {"customer_id": "C-1"}])
def test_given_values_of_another_type_are_refused(schema: Any, given: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=next(iter(given))):
        given_values(given, schema)


@pytest.mark.parametrize("pairs", [("age",), ("=1",), ("age=1", "age=2")])
def test_given_pairs_are_well_formed(pairs: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="--given"):
        split_pairs(pairs)


# ---------------------------------------------------------------- drafts


def test_init_spec_loads_unchanged_and_suggests_rules(folder: Path, table: pa.Table) -> None:
    text = init_spec(str(folder / "customers.parquet"))
    file = folder / "refresh.yaml"
    file.write_text(text, encoding="utf-8")
    spec = load_spec(file)
    assert spec.expect_columns == {field.name: str(field.type) for field in table.schema}
    assert spec.target.uri == str(folder / "customers-synthetic")
    for line in ('"closed_at >= signup_at"', '"age > 0"', '"income >= 0"'):
        assert f"#   - {line}" in text
    # What is commented can be uncommented: the whole of it is still a spec.
    heads = ("# columns:", "# rules:", "# gates:", "# model:", "# sample:")
    lines, on = [], False
    for line in text.splitlines():
        on = line.startswith(heads) or (on and line.startswith("#   "))
        lines.append(line[2:] if on else line)
    file.write_text("\n".join(lines), encoding="utf-8")
    assert len(load_spec(file).rules) >= 3


def test_init_spec_survives_hostile_column_names(tmp_path: Path) -> None:
    names = ["a: b", "- x", "#", "yes", "1", "tab\tname", "quote\"'", "line\nbreak", "hours per week"]
    table = pa.table({name: pa.array(range(20)) for name in names})
    pq.write_table(table, tmp_path / "t.parquet")
    text = init_spec(str(tmp_path / "t.parquet"))
    (tmp_path / "refresh.yaml").write_text(text, encoding="utf-8")
    assert list(load_spec(tmp_path / "refresh.yaml").expect_columns or {}) == names
    assert "`hours per week` >= 0" in text


def test_init_spec_shows_relations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, sample = 30_000, 20_000
    city, net, tax = rng.integers(0, 200, rows), rng.integers(100, 90_000, rows), rng.integers(1, 9_000, rows)
    paid = np.where(rng.random(rows) < 0.25, net + tax, rng.integers(100, 90_000, rows))
    used = rng.integers(0, 5_000, rows)
    limit = used + rng.integers(0, 5_000, rows)
    nearly = used + rng.integers(0, 5_000, rows)
    chosen = {
        row
        for batch in RowSample(InMemoryTable(pa.table({"row": range(rows)})), sample, seed=0).batches()
        for row in batch.column("row").to_pylist()
    }
    nearly[next(row for row in range(rows) if row not in chosen)] = -1  # holds in the sample, not in the table
    table = pa.table(
        {
            "zip": [f"z{k}" for k in city],
            "city": [f"c{k // 3}" for k in city],
            "net": net,
            "tax": tax,
            "total\ndue": net + tax,
            "paid": paid,
            "used": used,
            "limit": limit,
            "nearly": nearly,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    text = init_spec(str(tmp_path / "t.parquet"))
    start = text.index("# What was found between columns, in at most 20,000 rows")
    lines = text[start:].split("\n\n", 1)[0].splitlines()[1:]
    assert lines[0] == "#   `total due` = net + tax (100 %)"
    assert lines[1].startswith("#   paid = `total due` (2")
    assert lines[2:] == ["#   city follows from zip (100 %)"]
    assert '#   - "limit >= used"' in text
    assert '#   - "`total\\ndue` >= net"' in text
    assert "nearly >= used" not in text
    (tmp_path / "refresh.yaml").write_text(text, encoding="utf-8")
    assert load_spec(tmp_path / "refresh.yaml").rules == ()
    # Of many relations the first are shown.
    wide = pa.table({f"n{k}": net + (k % 2) for k in range(50)})
    pq.write_table(wide, tmp_path / "wide.parquet")
    text = init_spec(str(tmp_path / "wide.parquet"))
    assert text.count("(100 %)") == 20
    assert "#   and 28 more" in text


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("data/customers.parquet", "data/customers-synthetic"),
        ("customers", "customers-synthetic"),
        ("/customers/", "/customers-synthetic"),
        ("s3://lake/customers/", "s3://lake/customers-synthetic"),
        ("s3://lake", "s3://lake-synthetic"),
    ],
)
def test_target_is_a_sibling(uri: str, target: str) -> None:
    assert sibling(uri) == target
    parse_spec({"source": {"uri": uri}, "target": {"uri": target}})


@pytest.mark.parametrize(("uri", "name"), [("a/b c.parquet", "b-c"), ("s3://x/t/", "t"), ("...", "table")])
def test_table_name(uri: str, name: str) -> None:
    assert table_name(uri) == name


def test_given_values_are_proven_by_held_out_rows_that_have_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"region": rng.choice(["north", "south"], 600), "size": rng.normal(0, 1, 600)})
    pq.write_table(table, tmp_path / "source.parquet")
    spec = parse_spec(
        {
            "source": {"uri": str(tmp_path / "source.parquet")},
            "target": {"uri": str(tmp_path / "target")},
            "workspace": {"uri": str(tmp_path / "work")},
            "model": {"epochs": 1},
            "sample": {"given": {"region": "north"}},
            "gates": {"data_docs": False, "max_auc": 1.0},
        }
    )
    released = steps.refresh(spec)
    assert set(release.read_release(released.target).schema.names) == {"region", "size"}
    batches = release.read_release(released.target).batches(["region"])
    assert {value for batch in batches for value in batch.column(0).to_pylist()} == {"north"}
