from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from tabvae_core import release
from tabvae_core import storage as store
from tabvae_core.errors import DataError, PublishConflict, SpecError, StorageError, TabvaeError
from tabvae_core.lake import ParquetSink, ParquetSource, probe_conditional_puts
from tabvae_core.references import GateResult, ModelRef, ReleaseRef, TableRef
from tabvae_core.schema import schema_fingerprint
from tabvae_core.spec import TargetSpec
from tabvae_core.tables import collect

MODEL = ModelRef(run_id="r", uri="w/model", sha256="0" * 64, method="vae", rows=10, seconds=1.0)
FIELDS = {
    "spec": {"name": "customers"},
    "source_fingerprint": "f" * 64,
    "model": MODEL,
    "gates": (GateResult(name="jsd", column="age", passed=True, value=0.1, limit=0.2),),
    "metrics": {"auc": {"value": 0.6, "floor": float("nan")}},
}


def data(start: int, count: int = 25) -> pa.Table:
    return pa.table({"id": pa.array(range(start, start + count), pa.int64())})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def target(place) -> TargetSpec:
    return TargetSpec(uri=store.join_uri(place.uri, "customers"), keep=3, storage=place.storage)


@pytest.fixture
def local(tmp_path: Path) -> TargetSpec:
    return TargetSpec(uri=str(tmp_path / "local" / "customers"), keep=3)


def sampled(workspace: Path, start: int, run_id: str = "0123456789abcdef") -> TableRef:
    folder = str(workspace / f"table-{start}")
    with ParquetSink(folder, data(0).schema, rows_per_file=10) as sink:
        sink.write(data(start))
    fingerprint = schema_fingerprint(data(0).schema)
    return TableRef(run_id=run_id, uri=folder, files=sink.files, rows=sink.rows, schema_fingerprint=fingerprint)


def published(workspace: Path, target: TargetSpec, start: int, version: str, **options) -> ReleaseRef:
    table = sampled(workspace, start, options.pop("run_id", "0123456789abcdef"))
    return release.publish(table, target=target, manifest_fields=FIELDS, version=version, **options)


def ids(target: TargetSpec, version: str | None = None) -> list[int]:
    return collect(release.read_release(target, version))["id"].to_pylist()


class TestPublish:
    def test_a_first_release(self, workspace, target, place):
        report = workspace / "report.html"
        store.write_bytes(str(report), b"<html>")
        store.write_bytes(str(workspace / "docs/static/style.css"), b"css")
        assert release.current(target) is None
        assert release.releases(target) == []
        extra = {"report.html": str(report), "data_docs": str(workspace / "docs")}
        done = release.publish(
            sampled(workspace, 0), target=target, manifest_fields=FIELDS, extra_files=extra, expected=None
        )
        assert done.version.endswith("-01234567")
        assert done.rows == 25
        assert not done.unchanged
        assert done.report_uri == store.join_uri(target.uri, "versions", done.version, "report.html")
        assert store.read_bytes(done.report_uri, target.storage) == b"<html>"
        assert ids(target) == list(range(25))
        assert release.current(target) == done
        assert set(store.list_folder(target.uri, target.storage)) - {".current.json.lock"} == {
            "current.json",
            *(
                f"versions/{done.version}/{name}"
                for name in ("manifest.json", "report.html", "data_docs/static/style.css")
            ),
            *(f"versions/{done.version}/part-0000{i}.parquet" for i in range(3)),
        }

    def test_the_manifest_says_how_it_came_to_be(self, workspace, target, place):
        done = published(workspace, target, 0, "v1")
        manifest = release.read_manifest(target)
        assert manifest == release.read_manifest(target, "v1")
        assert manifest.status == "accepted"
        assert manifest.model == MODEL
        assert manifest.gates == FIELDS["gates"]
        assert manifest.spec == {"name": "customers"}
        assert manifest.metrics == {"auc": {"value": 0.6, "floor": None}}
        assert manifest.pointer == ("conditional" if place.conditional else "compare-then-write")
        assert [f.rows for f in manifest.files] == [10, 10, 5]
        for file in manifest.files:
            assert store.file_sha256(store.join_uri(done.uri, file.path), target.storage) == file.sha256
        assert datetime.fromisoformat(manifest.created_at).tzinfo == UTC

    def test_a_second_release_and_its_history(self, workspace, target):
        published(workspace, target, 0, "v1", run_id="first-run")
        published(workspace, target, 100, "v2")
        assert ids(target) == list(range(100, 125))
        assert ids(target, "v1") == list(range(25))
        history = release.releases(target)
        assert [(r.version, r.current, r.rows, r.run_id) for r in history] == [
            ("v2", True, 25, "0123456789abcdef"),
            ("v1", False, 25, "first-run"),
        ]
        assert release.read_pointer(target).pointer.published == ("v1", "v2")

    def test_publishing_a_version_again_changes_nothing(self, workspace, local):
        first = published(workspace, local, 0, "v1")
        before = store.list_folder(local.uri, local.storage)
        state = release.read_pointer(local)
        assert published(workspace, local, 0, "v1") == first
        assert release.read_pointer(local) == state
        assert store.list_folder(local.uri, local.storage) == before

    def test_a_try_that_died_before_the_pointer_is_completed(self, workspace, local):
        published(workspace, local, 0, "v1")
        published(workspace, local, 100, "v2")
        release.rollback(local, "v1")
        assert published(workspace, local, 100, "v2").version == "v2"
        assert ids(local) == list(range(100, 125))

    def test_old_versions_are_removed_but_never_the_current_one(self, workspace, local):
        for number in range(1, 5):
            published(workspace, local, number, f"v{number}")
        assert [r.version for r in release.releases(local)] == ["v4", "v3", "v2"]
        release.rollback(local, "v2")
        published(workspace, local.model_copy(update={"keep": 2}), 5, "v5")
        # Version 2 was rolled back to, so it is the one to fall back on; 3 and 4 were not good enough.
        assert [r.version for r in release.releases(local)] == ["v5", "v2"]
        assert store.list_names(store.join_uri(local.uri, "versions"), local.storage) == ["v2", "v5"]
        published(workspace, local.model_copy(update={"keep": 1}), 6, "v6")
        assert [r.version for r in release.releases(local)] == ["v6"]

    def test_what_a_killed_writer_left_goes_after_a_day(self, workspace, local):
        now = datetime.now(UTC)
        old, young = (f"{(now - timedelta(hours=h)):%Y%m%dT%H%M%SZ}-dead" for h in (25, 1))
        for name in (old, young, "by-hand"):
            uri = store.join_uri(local.uri, "versions", name, "part-00000.parquet")
            store.write_bytes(uri, b"half", local.storage)
        published(workspace, local, 0, "v1")
        assert store.list_names(store.join_uri(local.uri, "versions"), local.storage) == sorted(
            [young, "by-hand", "v1"]
        )
        assert [r.version for r in release.releases(local)] == ["v1"]

    @pytest.mark.parametrize("version", ["../up", "", "a/b", ".hidden", "x" * 101])
    def test_names_that_leave_the_folder_are_refused(self, workspace, tmp_path, version):
        target = TargetSpec(uri=str(tmp_path / "target"))
        with pytest.raises(SpecError, match="a version's name"):
            release.quarantine(sampled(workspace, 0), target=target, manifest_fields=FIELDS, version=version or " ")
        assert not (tmp_path / "target").exists()


class TestConflict:
    def test_a_release_since_the_run_began(self, workspace, target):
        began = release.read_pointer(target)
        published(workspace, target, 0, "v1")
        before = store.list_folder(target.uri, target.storage)
        with pytest.raises(PublishConflict, match="version v1 is current now") as caught:
            published(workspace, target, 100, "v2", expected=began)
        assert caught.value.exit_code == 5
        assert store.list_folder(target.uri, target.storage) == before
        assert ids(target) == list(range(25))

    def test_a_writer_that_comes_between_wins(self, workspace, target, monkeypatch):
        """The other writer publishes after our files are staged and before our pointer moves."""
        published(workspace, target, 0, "v1")
        prove = release._prove

        def slow(table: TableRef, *rest) -> None:
            monkeypatch.setattr(release, "_prove", prove)
            prove(table, *rest)
            published(workspace, target, 200, "v3", run_id="other")

        monkeypatch.setattr(release, "_prove", slow)
        with pytest.raises(PublishConflict, match="version v3 is current now"):
            published(workspace, target, 100, "v2")
        assert ids(target) == list(range(200, 225))
        assert [r.version for r in release.releases(target)] == ["v3", "v1"]
        assert store.list_names(store.join_uri(target.uri, "versions"), target.storage) == ["v1", "v3"]

    @pytest.mark.parametrize("place", ["file", "moto"], indirect=True)
    def test_of_two_writers_at_once_exactly_one_wins(self, workspace, target):
        published(workspace, target, 0, "v1")
        began = release.read_pointer(target)
        tables = {f"w{number}": sampled(workspace, number * 100, f"run-{number}") for number in (1, 2, 3)}
        outcomes: dict[str, str] = {}
        barrier = threading.Barrier(len(tables))

        def writer(version: str) -> None:
            barrier.wait()
            try:
                release.publish(tables[version], target=target, manifest_fields=FIELDS, version=version, expected=began)
                outcomes[version] = "won"
            except TabvaeError as error:
                outcomes[version] = type(error).__name__

        threads = [threading.Thread(target=writer, args=(version,)) for version in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes.values()) == ["PublishConflict", "PublishConflict", "won"]
        winner = next(version for version, outcome in outcomes.items() if outcome == "won")
        assert release.current(target).version == winner
        assert [r.version for r in release.releases(target)] == [winner, "v1"]

    def test_a_version_that_stands_with_another_table(self, workspace, local):
        published(workspace, local, 0, "v1")
        published(workspace, local, 1, "v2")
        with pytest.raises(PublishConflict, match="v1 stands already, with another table"):
            published(workspace, local, 100, "v1")
        assert ids(local, "v1") == list(range(25))


class TestProof:
    """What arrives must be the table that was accepted."""

    def test_a_file_that_changed_after_its_record(self, workspace, local):
        table = sampled(workspace, 0)
        other = sampled(workspace, 300)
        Path(table.uri, "part-00001.parquet").write_bytes(Path(other.uri, "part-00001.parquet").read_bytes())
        with pytest.raises(StorageError, match=r"part-00001\.parquet is not the file that was accepted"):
            release.publish(table, target=local, manifest_fields=FIELDS, version="v1")
        assert [n for n in store.list_folder(local.uri, local.storage) if not n.startswith(".")] == []

    @pytest.mark.parametrize("lie", ["rows of a file", "rows", "schema"])
    def test_a_record_that_is_wrong(self, workspace, tmp_path, lie):
        table, target = sampled(workspace, 0), TargetSpec(uri=str(tmp_path / "target"))
        first, *rest = table.files
        change = {
            "rows of a file": {"files": (first.model_copy(update={"rows": 9}), *rest)},
            "rows": {"rows": 26},
            "schema": {"schema_fingerprint": "0" * 64},
        }[lie]
        with pytest.raises(DataError, match="record"):
            release.publish(table.model_copy(update=change), target=target, manifest_fields=FIELDS)
        assert release.releases(target) == []
        assert release.current(target) is None

    def test_a_workspace_file_that_is_gone(self, workspace, local):
        published(workspace, local, 0, "v1")
        table = sampled(workspace, 100)
        Path(table.uri, "part-00002.parquet").unlink()
        with pytest.raises(DataError, match=r"part-00002\.parquet does not exist"):
            release.publish(table, target=local, manifest_fields=FIELDS, version="v2")
        assert ids(local) == list(range(25))
        assert store.list_names(store.join_uri(local.uri, "versions"), local.storage) == ["v1"]


class TestQuarantine:
    def test_a_refused_table_is_kept_and_the_pointer_stays(self, workspace, target):
        published(workspace, target, 0, "v1")
        uri = release.quarantine(
            sampled(workspace, 100), target=target, manifest_fields=FIELDS, version="q1", extra_files={}
        )
        assert uri == store.join_uri(target.uri, "quarantine", "q1")
        assert collect(ParquetSource(uri, target.storage))["id"].to_pylist() == list(range(100, 125))
        assert store.read_json(store.join_uri(uri, "manifest.json"), target.storage)["status"] == "refused"
        assert ids(target) == list(range(25))
        assert [r.version for r in release.releases(target)] == ["v1"]

    def test_only_the_newest_are_kept(self, workspace, local):
        for number in range(5):
            table = sampled(workspace, number)
            release.quarantine(table, target=local, manifest_fields=FIELDS, version=f"q{number}")
        folder = store.join_uri(local.uri, "quarantine")
        assert store.list_names(folder, local.storage) == ["q2", "q3", "q4"]


class TestRollback:
    def test_back_and_forth(self, workspace, target):
        published(workspace, target, 0, "v1")
        published(workspace, target, 100, "v2")
        back = release.rollback(target, "v1")
        assert (back.version, back.unchanged) == ("v1", False)
        assert ids(target) == list(range(25))
        assert release.rollback(target.uri, "v1", target.storage).unchanged
        release.rollback(target.uri, "v2", target.storage)
        assert ids(target) == list(range(100, 125))

    def test_unknown_version(self, workspace, local):
        published(workspace, local, 0, "v1")
        for ask in (release.rollback, release.read_release):
            with pytest.raises(DataError, match=r"has no version 'v7'(.|\n)*versions: v1"):
                ask(local, "v7")

    def test_a_version_that_lost_a_file(self, workspace, local):
        gone = published(workspace, local, 0, "v1")
        published(workspace, local, 100, "v2")
        store.remove_file(store.join_uri(gone.uri, "part-00001.parquet"), local.storage)
        with pytest.raises(DataError, match=r"part-00001\.parquet is missing"):
            release.rollback(local, "v1")
        assert ids(local) == list(range(100, 125))


class TestReaders:
    def test_only_the_files_of_the_manifest_are_read(self, workspace, local):
        done = published(workspace, local, 0, "v1")
        stray = store.join_uri(done.uri, "part-99999.parquet")
        store.copy_file(str(workspace / "table-0/part-00000.parquet"), stray, target_storage=local.storage)
        assert len(ids(local)) == 25
        assert stray not in release.release_uris(local)
        assert len(release.release_uris(local.uri, "v1", local.storage)) == 3

    def test_a_truncated_file_is_noticed(self, workspace, local):
        done = published(workspace, local, 0, "v1")
        victim = store.join_uri(done.uri, "part-00001.parquet")
        store.write_bytes(victim, store.read_bytes(victim, local.storage)[:-10], local.storage)
        with pytest.raises(DataError, match="has another size than its manifest says"):
            release.read_release(local)

    def test_nothing_published(self, target):
        with pytest.raises(DataError, match="nothing was published"):
            release.read_release(target)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"{", "not JSON|Invalid JSON"), (b"{}", "status: Field required"), (b'{"format": 2}', "format")],
    )
    def test_a_damaged_manifest(self, workspace, tmp_path, content, message):
        target = TargetSpec(uri=str(tmp_path / "target"))
        published(workspace, target, 0, "v1")
        published(workspace, target, 100, "v2")
        (tmp_path / "target/versions/v1/manifest.json").write_bytes(content)
        with pytest.raises(DataError, match=rf"v1/manifest\.json is damaged \(.*({message})"):
            release.read_release(target, "v1")
        damaged, whole = sorted(release.releases(target), key=lambda one: one.version)
        assert "is damaged" in damaged.problem
        assert whole.problem == ""
        assert ids(target) == list(range(100, 125))

    def test_unknown_keys_of_a_manifest(self, workspace, tmp_path):
        target = TargetSpec(uri=str(tmp_path / "target"))
        published(workspace, target, 0, "v1")
        place = tmp_path / "target/versions/v1/manifest.json"
        place.write_text(json.dumps({**json.loads(place.read_text()), "surprise": 1}))
        with pytest.raises(DataError, match="surprise"):
            release.read_manifest(target)

    def test_a_damaged_pointer(self, workspace, tmp_path):
        target = TargetSpec(uri=str(tmp_path / "target"))
        published(workspace, target, 0, "v1")
        (tmp_path / "target/current.json").write_text("?")
        with pytest.raises(DataError, match=r"current\.json is damaged"):
            release.current(target)
        assert ids(target, "v1") == list(range(25))


def test_the_probe_leaves_nothing_in_the_target(workspace, target):
    published(workspace, target, 0, "v1")
    names = set(store.list_folder(target.uri, target.storage))
    probe_conditional_puts(target.uri, target.storage)
    assert set(store.list_folder(target.uri, target.storage)) == names
    assert not any("probe" in name for name in names)
