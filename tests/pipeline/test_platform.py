"""A whole platform, set up as the documentation says: every way to start a refresh, and test databases that fill.

    pytest tests/pipeline/test_platform.py -m slow

Prefect's server keeps its records in PostgreSQL, the lake is an S3 server, and the test environment is a PostgreSQL
database with a reader that polls it. The browser's way to start a run is `test_browser.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import EntrypointType
from pydantic import SecretStr

from databases import PASSWORD, PostgreSQL, postgresql_binaries, postgresql_server
from prefect_servers import ROOT, PrefectStack, prefect_server_and_workers
from s3_servers import Store
from tabvae_core.storage import filesystem
from tabvae_flows.blocks import TabvaeDatabase, TabvaeLakeCredentials
from tabvae_flows.customers import customers
from tabvae_flows.feeding import feed_environment

psycopg = pytest.importorskip("psycopg")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgresql_binaries() is None, reason="PostgreSQL is not installed"),
]
LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100}


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    binaries = postgresql_binaries()
    assert binaries is not None
    with postgresql_server(binaries) as server, psycopg.connect(server.url, autocommit=True) as connection:
        for name in ("prefect", "shop"):
            connection.execute(f"CREATE DATABASE {name}")
        yield server


@pytest.fixture(scope="module")
def stack(database: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectStack]:
    records = f"postgresql+asyncpg://tester:{PASSWORD}@127.0.0.1:{database.port}/prefect"
    with prefect_server_and_workers(tmp_path_factory.mktemp("platform"), records) as started, started.active():
        yield started


def until(found: Callable[[], Any], seconds: float = 600.0) -> Any:
    """Wait for something to be found; its absence after so long is the failure."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.5)
    return result


@dataclass
class Reader:
    """Somebody's tests: they read the table all the time, with no right to more, and keep what they saw."""

    url: str
    seen: list[str] = field(default_factory=list)
    error: Exception | None = None
    _stopped: threading.Event = field(default_factory=threading.Event)

    CONTENT = "SELECT count(*) || ' ' || md5(string_agg(c::text, '|' ORDER BY c::text)) FROM customers c"

    def __enter__(self) -> Reader:
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=30)

    def _poll(self) -> None:
        try:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute("SET ROLE reader")
                connection.execute("SET statement_timeout = '20s'")
                while not self._stopped.is_set():
                    (content,) = connection.execute(self.CONTENT).fetchone()
                    if not self.seen or self.seen[-1] != content:
                        self.seen.append(content)
                    time.sleep(0.01)
        except Exception as error:  # seen by the test, which runs in another thread
            self.error = error


@dataclass(frozen=True)
class Platform:
    """What an operator has set up."""

    stack: PrefectStack
    client: SyncPrefectClient
    folder: Path

    def tabvae(self, *arguments: str) -> str:
        return self._run("-m", "tabvae_flows.cli", *arguments)

    def prefect(self, *arguments: str) -> str:
        return self._run("-m", "prefect", *arguments)

    def python(self, code: str) -> str:
        return self._run("-c", code)

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self.stack.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def automate(self, template: str, deployment: UUID) -> None:
        """As docs/events.md says."""
        text = (ROOT / "deployments" / "automations" / template).read_text(encoding="utf-8")
        file = self.folder / template
        file.write_text(text.replace("DEPLOYMENT_ID", str(deployment)), encoding="utf-8")
        self.prefect("automation", "create", "--from-file", str(file))

    def runs(self, deployment: UUID) -> list[FlowRun]:
        """Runs that have begun, oldest first."""
        mine = [run for run in self.client.read_flow_runs() if run.deployment_id == deployment and run.start_time]
        return sorted(mine, key=lambda run: run.start_time)

    def ended(self, run: UUID) -> FlowRun | None:
        found = self.client.read_flow_run(run)
        return found if found.state is not None and found.state.is_final() else None

    def trained_on(self, refresh: FlowRun) -> str:
        """The work pool where the training of a refresh ran, by the run and by the log of that pool's worker."""
        tasks = {task.id for task in self.client.read_task_runs() if task.flow_run_id == refresh.id}
        (training,) = [run for run in self.client.read_flow_runs() if run.parent_task_run_id in tasks]
        assert training.state is not None
        assert training.state.is_completed(), training.state.message
        pool = str(training.work_pool_name)
        assert str(training.id) in self.stack.log(pool)
        return pool


def test_every_way_to_start_a_refresh_fills_the_test_environment(
    stack: PrefectStack, database: PostgreSQL, s3_moto: Store, tmp_path: Path
) -> None:
    shop = database.url.removesuffix("/postgres") + "/shop"
    storage = {"endpoint_url": s3_moto.storage.endpoint_url, "region": s3_moto.storage.region}
    lake = s3_moto.bucket_uri("platform")
    fs, bucket = filesystem(lake, s3_moto.storage)

    def load(rows: int, seed: int) -> None:
        """What the platform's own loader does."""
        pq.write_table(customers(rows, seed=seed), f"{bucket}/customers/part-0.parquet", filesystem=fs)

    load(800, 0)
    access = {"storage": storage | {"credentials": "block:lake"}}
    spec = tmp_path / "refresh.yaml"
    spec.write_text(
        yaml.safe_dump(
            {
                "name": "customers",
                "source": {"uri": f"{lake}/customers/"} | access,
                "target": {"uri": f"{lake}/synthetic/customers"} | access,
                "workspace": {"uri": f"{lake}/work"} | access,
                "rules": ["age > 0", "closed_at >= signup_at"],
                "model": {"epochs": 2},
                "gates": LAX,
            }
        ),
        encoding="utf-8",
    )
    with get_client(sync_client=True) as client:
        platform = Platform(stack, client, tmp_path)
        platform.prefect("block", "register", "-m", "tabvae_flows.blocks")
        key, secret = (os.environ[f"TEST_MOTO_{part}"] for part in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        TabvaeLakeCredentials(access_key_id=key, secret_access_key=SecretStr(secret)).save("lake")
        TabvaeDatabase(address=shop, password=SecretStr(PASSWORD)).save("test-env")
        feeding = _deploy_feeding(access["storage"])
        platform.automate("feed-on-publish.yaml", feeding)

        # (a) By the schedule.
        said = json.loads(platform.tabvae("deploy", str(spec), "--train-pool", "gpu", "--cron", "* * * * *", "--json"))
        refresh = client.read_deployment_by_name("synthetic-refresh/customers")
        assert "synthetic-refresh/customers" in {one["name"] for one in said["deployments"]}
        scheduled = until(lambda: platform.runs(refresh.id))[0]
        assert scheduled.auto_scheduled
        client.update_deployment_schedule(refresh.id, refresh.schedules[0].id, active=False)
        first = until(lambda: platform.ended(scheduled.id))
        assert first.state.is_completed(), first.state.message
        assert platform.trained_on(first) == "gpu"
        _fed(platform, feeding, 1)
        for run in platform.runs(refresh.id)[1:]:  # one more may have begun in the same minute
            until(lambda run=run: platform.ended(run.id))
        with psycopg.connect(shop, autocommit=True) as admin:
            admin.execute("CREATE ROLE reader")
            admin.execute("GRANT SELECT ON customers TO reader")
            versions = [_version(admin)]
            contents = [_content(admin)]
            with Reader(shop) as reader:
                # (c) By the REST API, sent twice by a client that lost the first answer.
                load(850, 1)
                ids = {_start_by_rest(stack, "tonight") for _ in range(2)}
                assert len(ids) == 1
                second = until(lambda: platform.ended(UUID(ids.copy().pop())))
                assert second.state.is_completed(), second.state.message
                assert platform.trained_on(second) == "gpu"
                _fed(platform, feeding, 2)
                versions.append(_version(admin))
                contents.append(_content(admin))

                # (d) By an event: the loader says that there are new rows.
                platform.automate("refresh-on-load.yaml", refresh.id)
                load(900, 2)
                before = {run.id for run in platform.runs(refresh.id)}
                announced = f"emit_event('lake.table.loaded', resource={{'prefect.resource.id': '{lake}/customers'}})"
                platform.python(f"from prefect.events import emit_event; {announced}")
                started = until(lambda: [run for run in platform.runs(refresh.id) if run.id not in before])[0]
                third = until(lambda: platform.ended(started.id))
                assert third.state.is_completed(), third.state.message
                assert platform.trained_on(third) == "gpu"
                _fed(platform, feeding, 3)
                versions.append(_version(admin))
                contents.append(_content(admin))
                until(lambda: reader.error or (reader.seen and reader.seen[-1] == contents[-1]), seconds=30)
        assert reader.error is None
        assert len(set(versions)) == 3, "each start published a version, which the test environment holds"
        assert reader.seen == contents, "old or new rows, nothing else, in this order"
        assert [content.split()[0] for content in contents] == ["800", "850", "900"]
        for run, version in zip((first, second, third), versions, strict=True):
            assert f"version:{version}" in client.read_flow_run(run.id).tags


def _deploy_feeding(storage: dict[str, Any]) -> UUID:
    return UUID(
        str(
            feed_environment.deploy(
                "test-env",
                work_pool_name="cpu",
                parameters={"storage": storage, "table": "customers"},
                entrypoint_type=EntrypointType.MODULE_PATH,
                build=False,
                push=False,
                print_next_steps=False,
            )
        )
    )


def _fed(platform: Platform, feeding: UUID, times: int) -> None:
    """Wait until the automation has loaded as many releases."""

    def done() -> list[FlowRun] | None:
        ended = [found for run in platform.runs(feeding) if (found := platform.ended(run.id))]
        return ended if len(ended) >= times else None

    for run in until(done):
        assert run.state.is_completed(), run.state.message


def _start_by_rest(stack: PrefectStack, key: str) -> str:
    """As docs/deploying.md says, without curl."""
    with urllib.request.urlopen(f"{stack.api_url}/deployments/name/synthetic-refresh/customers") as answer:
        deployment = json.load(answer)["id"]
    body = json.dumps({"parameters": {"force": True}, "idempotency_key": key}).encode()
    request = urllib.request.Request(
        f"{stack.api_url}/deployments/{deployment}/create_flow_run",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return str(json.load(answer)["id"])


def _version(connection: Any) -> str:
    (version,) = connection.execute("SELECT version FROM tabvae_feeds").fetchone()
    return str(version)


def _content(connection: Any) -> str:
    (content,) = connection.execute(Reader.CONTENT).fetchone()
    return str(content)
