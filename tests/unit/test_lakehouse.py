"""Delta and Iceberg tables that follow the release pointer, read back by their own libraries and DuckDB.

DuckDB's extensions for the two formats are downloads, so it reads the files that the format's library lists as active.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyiceberg.catalog import load_catalog
from pyiceberg.table import Table
from pyiceberg.utils.config import Config

from released import put
from s3_servers import Store
from tabvae_core import release, steps
from tabvae_core import storage as store
from tabvae_core.errors import SpecError
from tabvae_core.lakehouse import delta, follow, iceberg
from tabvae_core.spec import TargetSpec, parse_spec

# A SQL catalog of pyiceberg keeps its connections until it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def people(start: int, rows: int = 30) -> pa.Table:
    """Columns of the types that the formats do not have, too."""
    return pa.table(
        {
            "id": pa.array(range(start, start + rows), pa.int64()),
            "age": pa.array([k % 90 for k in range(rows)], pa.uint8()),
            "segment": pa.array(["a", "b", None] * (rows // 3)).dictionary_encode(),
            "seen": pa.array([1_700_000_000_000_000_000 + k for k in range(rows)], pa.timestamp("ns", "UTC")),
        }
    )


@dataclass(frozen=True)
class Lake:
    """A target with a table of a format, and how that format's own library reads it."""

    target: TargetSpec
    read: Callable[[str | None], pa.Table]
    """Take a release, None for the current state."""
    commits: Callable[[], list[str]]
    """Releases in the order in which the table had them."""
    files: Callable[[], list[str]]
    """Active data files."""

    def rows(self, version: str | None = None) -> pa.Table:
        """Rows by id: the formats keep no order of rows."""
        return self.read(version).sort_by("id")

    def ids(self, version: str | None = None) -> list[int]:
        return list(self.rows(version)["id"].to_pylist())


def delta_lake(target: TargetSpec) -> Lake:
    uri = store.join_uri(target.uri, "delta")

    def table() -> DeltaTable:
        return DeltaTable(uri, storage_options=delta._options(target))

    def read(version: str | None) -> pa.Table:
        found = table()
        if version is not None:
            states = [commit["version"] for commit in found.history() if commit.get("tabvae.version") == version]
            found.load_as_version(states[0])
        return pa.table(found.to_pyarrow_table())

    def commits() -> list[str]:
        log = [c for c in reversed(table().history()) if not c["operation"].startswith("VACUUM")]
        return [commit["tabvae.version"] for commit in log]

    return Lake(target, read, commits, lambda: table().file_uris())


def iceberg_lake(target: TargetSpec, load: Callable[[], Table]) -> Lake:
    def read(version: str | None) -> pa.Table:
        table = load()
        if version is None:
            return table.scan().to_arrow()
        states = [one for one in table.snapshots() if one.summary["tabvae.version"] == version]
        return table.scan(snapshot_id=states[-1].snapshot_id).to_arrow()

    def commits() -> list[str]:
        table = load()
        return [table.snapshot_by_id(line.snapshot_id).summary["tabvae.version"] for line in table.history()]

    def files() -> list[str]:
        return [task.file.file_path.removeprefix("file://") for task in load().scan().plan_files()]

    return Lake(target, read, commits, files)


@pytest.fixture(params=["delta", "iceberg"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A lake on a disk."""
    target = TargetSpec(uri=str(tmp_path / "people"), format=request.param)
    if request.param == "delta":
        return delta_lake(target)
    return iceberg_lake(target, lambda: local_catalog(target).load_table("tabvae.people"))


def local_catalog(target: TargetSpec) -> Any:
    return load_catalog("tabvae", type="sql", uri=f"sqlite:///{target.uri}/iceberg/catalog.db")


def test_a_release_is_one_commit_and_time_travel_leads_to_the_one_before(lake: Lake, tmp_path: Path) -> None:
    put(people(0), lake.target, "v1", tmp_path)
    put(people(100), lake.target, "v2", tmp_path)
    assert lake.ids() == list(range(100, 130))
    assert lake.ids("v1") == list(range(30))
    assert list(dict.fromkeys(lake.commits())) == ["v1", "v2"]
    table = lake.rows()
    assert table["age"].to_pylist() == [k % 90 for k in range(30)]
    assert table["segment"].null_count == 10
    rows = duckdb.sql(f"SELECT count(*), min(id), max(id) FROM read_parquet({lake.files()!r})").fetchall()
    assert rows == [(30, 100, 129)]
    # The release itself is as ever.
    assert release.read_release(lake.target).num_rows == 30


def test_publishing_again_commits_nothing(lake: Lake, tmp_path: Path) -> None:
    for _ in range(2):
        put(people(0), lake.target, "v1", tmp_path)
        follow(lake.target)
    assert lake.commits() == ["v1"]


@pytest.mark.parametrize("known_by", ["spec", "address"])
def test_a_rollback_moves_it_too(lake: Lake, tmp_path: Path, known_by: str) -> None:
    put(people(0), lake.target, "v1", tmp_path)
    put(people(100), lake.target, "v2", tmp_path)
    before = set(lake.files())
    release.rollback(lake.target if known_by == "spec" else lake.target.uri, "v1")
    assert lake.ids() == list(range(30))
    assert not before & set(lake.files())
    put(people(200), lake.target, "v3", tmp_path)
    assert lake.ids() == list(range(200, 230))


def test_columns_may_change_and_change_back(lake: Lake, tmp_path: Path) -> None:
    put(people(0), lake.target, "v1", tmp_path)
    other = people(100).drop_columns(["segment"]).append_column("city", pa.array(["x"] * 30))
    put(other.set_column(1, "age", pa.array(["old"] * 30)), lake.target, "v2", tmp_path)
    assert set(lake.rows().column_names) == {"id", "age", "seen", "city"}
    assert set(lake.rows()["age"].to_pylist()) == {"old"}
    release.rollback(lake.target, "v1")
    assert set(lake.rows().column_names) == set(people(0).column_names)
    assert lake.rows()["segment"].null_count == 10
    assert lake.rows()["age"].to_pylist() == [k % 90 for k in range(30)]


def test_releases_that_are_no_longer_kept_go(lake: Lake, tmp_path: Path) -> None:
    keep = lake.target.model_copy(update={"keep": 2})
    put(people(0), keep, "v1", tmp_path)
    first = lake.files()
    put(people(100), keep, "v2", tmp_path)
    put(people(200), keep, "v3", tmp_path)
    assert not any(Path(file).exists() for file in first)
    assert lake.ids() == list(range(200, 230))
    assert lake.ids("v2") == list(range(100, 130))


_DIES = """
import os, sys
from pathlib import Path
from released import put
from test_lakehouse import people
from tabvae_core import lakehouse
from tabvae_core.spec import TargetSpec
lakehouse.follow = lambda *a: os.kill(os.getpid(), 9)
put(people(100), TargetSpec.model_validate_json(sys.argv[1]), "v2", Path(sys.argv[2]))
"""


def test_a_crash_between_the_two_commits(lake: Lake, tmp_path: Path) -> None:
    """Readers of the table see the release before, and the next run brings it up, even one that has nothing to do."""
    put(people(0), lake.target, "v1", tmp_path)
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", _DIES, lake.target.model_dump_json(), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == -9
    assert release.read_pointer(lake.target).pointer.version == "v2"
    assert lake.ids() == list(range(30))

    spec = parse_spec(
        {
            "source": {"uri": str(tmp_path / "source.parquet")},
            "target": lake.target.model_dump(),
            "workspace": {"uri": str(tmp_path / "work")},
        }
    )
    pq.write_table(people(0, 60), spec.source.uri)
    steps.up_to_date(spec, steps.snapshot(spec))
    assert lake.ids() == list(range(100, 130))
    assert list(dict.fromkeys(lake.commits())) == ["v1", "v2"]


def test_a_commit_that_was_overtaken_is_tried_again(lake: Lake, tmp_path: Path, monkeypatch: Any) -> None:
    """Another run publishes and commits after this one has opened the table: the newer release stays."""
    put(people(0), lake.target, "v1", tmp_path)
    plain = lake.target.model_copy(update={"format": "parquet"})
    put(people(100), plain, "v2", tmp_path)
    read = release.read_pointer
    calls = []

    def overtaken(target: Any, storage: Any = None) -> Any:
        found = read(target, storage)
        if not calls:
            calls.append(1)
            put(people(200), lake.target, "v3", tmp_path)
        return found

    monkeypatch.setattr(release, "read_pointer", overtaken)
    follow(lake.target)
    assert lake.ids() == list(range(200, 230))


def test_delta_in_a_store(s3_moto: Store, tmp_path: Path) -> None:
    uri = f"{s3_moto.bucket_uri('lakehouse')}/{uuid.uuid4().hex}"
    lake = delta_lake(TargetSpec(uri=uri, storage=s3_moto.storage, format="delta"))
    put(people(0), lake.target, "v1", tmp_path)
    put(people(100), lake.target, "v2", tmp_path)
    release.rollback(uri, "v1", s3_moto.storage)
    assert lake.ids() == list(range(30))
    assert lake.ids("v2") == list(range(100, 130))
    assert lake.commits() == ["v1", "v2", "v1"]


def test_iceberg_in_a_store_with_a_catalog(s3_moto: Store, tmp_path: Path, monkeypatch: Any) -> None:
    uri = f"{s3_moto.bucket_uri('lakehouse')}/{uuid.uuid4().hex}"
    monkeypatch.setenv("PYICEBERG_CATALOG__SHELF__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHELF__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__SHELF__WAREHOUSE", f"{uri}/iceberg")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # pyiceberg reads the environment once
    target = TargetSpec(
        uri=uri, storage=s3_moto.storage, format="iceberg", catalog="shelf", catalog_table="tests.people"
    )
    lake = iceberg_lake(target, lambda: load_catalog("shelf", **iceberg._options(target)).load_table("tests.people"))
    put(people(0), target, "v1", tmp_path)
    put(people(100), target, "v2", tmp_path)
    release.rollback(uri, "v1", s3_moto.storage)
    assert lake.ids() == list(range(30))
    assert lake.ids("v2") == list(range(100, 130))


def test_iceberg_in_a_store_needs_a_catalog(s3_moto: Store) -> None:
    target = TargetSpec(uri=s3_moto.bucket_uri("lakehouse"), storage=s3_moto.storage, format="iceberg")
    with pytest.raises(SpecError, match="needs a catalog"):
        follow(target)
