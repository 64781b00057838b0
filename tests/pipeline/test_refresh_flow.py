"""The flows on a real Prefect server, against both kinds of object store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.testing.utilities import prefect_test_harness
from pydantic import SecretStr

from databases import PASSWORD, PostgreSQL
from released import put
from s3_servers import Store
from tabvae_core import release
from tabvae_core.errors import DataError, GateRefused, SpecError, StorageError, TabvaeError
from tabvae_core.feed.address import Address, address_of
from tabvae_core.lake import Credentials, ParquetSink
from tabvae_core.spec import RefreshSpec, StorageSpec, TargetSpec, parse_spec
from tabvae_core.storage import exists
from tabvae_flows.blocks import TabvaeLakeCredentials, register_resolver
from tabvae_flows.customers import customers
from tabvae_flows.feeding import feed_environment, know_database_blocks
from tabvae_flows.refresh import compare_methods, sample_table, synthetic_refresh, train_model
from tabvae_flows.refresh_set import refresh_set
from tabvae_tasks.listening import also_tell, artifact_key

LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def spec(s3: Store, tmp_path: Path) -> RefreshSpec:
    """A refresh of a small customers table in a folder of its own."""
    place = f"{s3.bucket_uri('flows')}/{uuid.uuid4().hex}"
    table = customers(600)
    with ParquetSink(f"{place}/customers", table.schema, s3.storage, rows_per_file=200) as sink:
        sink.write(table)
    storage = s3.storage.model_dump()
    return parse_spec(
        {
            "name": "customers",
            "source": {"uri": f"{place}/customers", "storage": storage},
            "target": {"uri": f"{place}/synthetic", "storage": storage},
            "workspace": {"uri": str(tmp_path / "work")},
            "rules": ["age > 0", "closed_at >= signup_at"],
            "model": {"method": "vae_basic", "epochs": 2},
            "gates": LAX,
        }
    )


def states() -> list[Any]:
    """States of all flow runs, newest first."""
    with get_client(sync_client=True) as client:
        runs = sorted(client.read_flow_runs(), key=lambda run: run.created or 0, reverse=True)
        return [run.state for run in runs]


def test_refresh_then_unchanged(spec: RefreshSpec) -> None:
    heard: list[str] = []
    with also_tell(lambda event: heard.append(event.step)):
        first = synthetic_refresh(spec)
    assert first.rows == 600
    assert {"snapshot", "train", "sample", "publish"} <= set(heard)
    published = release.read_release(spec.target)
    assert published.schema.equals(customers(1).schema)
    assert pa.Table.from_batches(published.batches()).num_rows == 600
    assert f"published version {first.version}" in states()[0].message

    again = synthetic_refresh(spec)
    assert (again.unchanged, again.version) == (True, first.version)
    assert states()[0].name == "Unchanged"

    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert {"customers-quality", "customers-report", "customers-train", "customers-release"} <= set(found)
    assert "floor" in str(found["customers-quality"].data)


def test_notices_reach_the_log_in_the_api(spec: RefreshSpec) -> None:
    """The console is quiet; what is done with keys and text must still stand in the run's log."""
    train_model(spec.model_copy(update={"name": "noticed"}))
    deadline = time.monotonic() + 20  # log lines are sent in batches, every few seconds
    lines: list[str] = []
    while time.monotonic() < deadline and not any("customer_id" in line for line in lines):
        time.sleep(0.5)
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/logs/filter", json={"limit": 200, "sort": "TIMESTAMP_DESC"})
        lines = [log["message"] for log in answer.json()]
    assert "column customer_id (identifier): made anew in the same format, unique" in lines


def test_refused_run_says_so_and_pointer_stays(spec: RefreshSpec) -> None:
    strict = spec.model_copy(update={"gates": spec.gates.model_copy(update={"max_column_jsd": 0.0, "max_auc": 0.5})})
    with pytest.raises(GateRefused) as refused:
        synthetic_refresh(strict)
    assert refused.value.quarantine
    assert release.current(spec.target) is None
    state = states()[0]
    assert (state.type.value, state.name) == ("FAILED", "Refused")
    assert state.message.startswith("refused: ")


def test_model_and_sample_flows_publish_nothing(tmp_path: Path, s3_rclone: Store) -> None:
    place = f"{s3_rclone.bucket_uri('flows')}/{uuid.uuid4().hex}"
    table = customers(300)
    with ParquetSink(f"{place}/customers", table.schema, s3_rclone.storage) as sink:
        sink.write(table)
    storage = s3_rclone.storage.model_dump()
    spec = parse_spec(
        {
            "source": {"uri": f"{place}/customers", "storage": storage},
            "target": {"uri": f"{place}/synthetic", "storage": storage},
            "workspace": {"uri": f"{place}/work", "storage": storage},
            "model": {"method": "vae_basic", "epochs": 1},
            "sample": {"rows": 50},
        }
    )
    model = train_model(spec)
    assert model.uri.startswith("s3://")
    drawn = sample_table(spec)
    assert (drawn.rows, drawn.run_id) == (50, model.run_id), "the model of the same spec was found and used"
    assert release.current(spec.target) is None


def test_methods_are_compared(spec: RefreshSpec) -> None:
    heard: list[str] = []
    with also_tell(lambda event: heard.append(event.step)):
        found = compare_methods(spec.model_copy(update={"name": "compared"}), ["vae_basic"])
    assert found.recommendation.method == "vae_basic"
    assert states()[0].message == "recommended: vae_basic"
    assert {"snapshot", "vae_basic", "report"} <= set(heard)
    assert exists(found.report_uri, spec.workspace.storage)
    assert release.current(spec.target) is None, "nothing is published"
    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert "vae_basic" in str(artifacts["compared-comparison"].data)
    assert "compared-report" in artifacts

    with pytest.raises(SpecError, match="there is no method"):
        compare_methods(spec, ["nope"])
    assert states()[0].name == "SpecFailed"


def local_spec(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A quick refresh on a disk."""
    spec: dict[str, Any] = {
        "name": name,
        "source": {"uri": str(folder / "customers.parquet")},
        "target": {"uri": str(folder / "out" / name)},
        "workspace": {"uri": str(folder / "work")},
        "model": {"method": "gaussian_copula"},
        "gates": LAX,
    }
    return spec | changes


def test_a_source_without_drift_is_sampled_from_the_last_model(tmp_path: Path) -> None:
    spec = parse_spec(local_spec(tmp_path, "drifting", policy={"retrain": "drifted", "max_drift": 0.1}))
    pq.write_table(customers(400, seed=1), tmp_path / "customers.parquet")
    first = synthetic_refresh(spec)
    pq.write_table(customers(400, seed=2), tmp_path / "customers.parquet")
    second = synthetic_refresh(spec)
    assert second.version != first.version
    assert f"from the model of run {first.run_id}: no column drifted by more than 0.1" in states()[0].message
    with get_client(sync_client=True) as client:
        drift = {artifact.key: artifact for artifact in client.read_artifacts()}["drifting-drift-columns"]
    assert drift.description is not None
    assert drift.description.startswith("The run draws from the last model: ")
    assert "as learned" in str(drift.data)


def test_a_set_is_a_flow_run_a_table_and_one_summary(tmp_path: Path) -> None:
    pq.write_table(customers(200), tmp_path / "customers.parquet")
    (tmp_path / "specs").mkdir()
    for name, gates in (("alpha", LAX), ("beta", LAX | {"max_shape": 0})):
        spec = local_spec(tmp_path, name, gates=gates)
        (tmp_path / "specs" / f"{name}.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(SpecError, match="parallel must be at least 1"):
        refresh_set(str(tmp_path / "specs"), parallel=0)
    with pytest.raises(TabvaeError, match="1 published, 1 refused: beta"):
        refresh_set(str(tmp_path / "specs"), parallel=2)
    assert release.current(str(tmp_path / "out" / "alpha")) is not None
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(sort=FlowRunSort.START_TIME_ASC)
        # A run that has published bears the version behind its name.
        runs = {run.name.split(" ")[0]: run for run in found}
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert (runs["refresh-alpha"].state_name, runs["refresh-beta"].state_name) == ("Completed", "Refused")
    assert runs["refresh-alpha"].parent_task_run_id is not None
    assert runs[f"refresh-set-{tmp_path / 'specs'}"].state_name == "SomeFailed"
    assert artifacts["set-specs"].description == "1 published, 1 refused: beta"


def test_storage_that_does_not_answer_is_tried_again(spec: RefreshSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    import tabvae_tasks.steps as tasks

    calls: list[int] = []

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise StorageError("the store did not answer")
        return snapshot(*args, **kwargs)

    snapshot = tasks.steps.snapshot
    monkeypatch.setattr(tasks.steps, "snapshot", fail_once)
    train_model(spec.model_copy(update={"name": "again"}))
    assert len(calls) == 2


def test_credentials_from_a_block(s3_rclone: Store, spec: RefreshSpec) -> None:
    block = TabvaeLakeCredentials(access_key_id="AK", secret_access_key=SecretStr("hush"), region="eu-central-1")
    block.save("lake-of-a-test", overwrite=True)
    assert "hush" not in repr(block)
    register_resolver()
    from tabvae_core import storage

    found = storage._resolve("block:lake-of-a-test")
    assert found == Credentials("AK", "hush", region="eu-central-1")
    bad = spec.model_copy(
        update={"source": spec.source.model_copy(update={"storage": StorageSpec(credentials="block:gone")})}
    )
    with pytest.raises(Exception, match="no such tabvae-lake-credentials block"):
        train_model(bad)


def test_a_release_fills_a_database(postgresql: PostgreSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test environment on PostgreSQL: each release brings its rows, once; what happened stands in the run's state."""
    monkeypatch.setenv("TEST_SHOP", postgresql.url.replace("tester@", f"tester:{PASSWORD}@"))
    target = TargetSpec(uri=str(tmp_path / "customers"))
    shop = {"target": target.uri, "into": "env:TEST_SHOP", "table": "flow_customers"}
    put(customers(100), target, "v1", tmp_path)
    fed = feed_environment(**shop)
    assert (fed.version, fed.rows, fed.created) == ("v1", 100, True)
    assert states()[0].message == fed.sentence
    assert feed_environment(**shop).unchanged
    assert states()[0].name == "Unchanged"
    put(customers(150, seed=1), target, "v2", tmp_path)
    assert (feed_environment(**shop).version, feed_environment(**shop, version="v1").version) == ("v2", "v1")
    with psycopg.connect(postgresql.url, autocommit=True) as connection:
        held = connection.execute("SELECT version, rows FROM tabvae_feeds WHERE table_name = 'flow_customers'")
        assert held.fetchall() == [("v1", 100)]
        assert connection.execute("SELECT count(*) FROM flow_customers").fetchall() == [(100,)]
        connection.execute("ALTER TABLE flow_customers DROP COLUMN age")
    with pytest.raises(DataError, match="lacks age"):
        feed_environment(**shop)
    assert states()[0].name == "DataFailed"
    with get_client(sync_client=True) as client:
        told = "".join(a.model_dump_json() for a in client.read_artifacts()) + "".join(str(s) for s in states())
    assert "loaded version v1" in told
    assert PASSWORD not in told


def test_a_database_from_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    know_database_blocks()
    with pytest.raises(SpecError, match="no such tabvae-database block"):
        address_of("block:gone")
    monkeypatch.setattr(Block, "load", lambda name: SimpleNamespace(url=lambda: f"postgresql://u:hush@host/{name}"))
    assert address_of("block:shop") == Address(
        "postgresql://u:hush@host/tabvae-database/shop", "postgresql://host/tabvae-database/shop"
    )


@pytest.mark.parametrize(("parts", "key"), [(("My Table.v2", "Ä"), "my-table-v2"), (("a__b",), "a-b")])
def test_artifact_keys(parts: tuple[str, ...], key: str) -> None:
    assert artifact_key(*parts) == key
