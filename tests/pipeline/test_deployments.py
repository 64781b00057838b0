"""Refreshes by deployments, on a real server with a worker for each of two pools: what an operator sets up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Cancelling

from prefect_servers import ROOT, PrefectStack
from tabvae_core import release, steps
from tabvae_core.errors import DataError, SpecError
from tabvae_core.spec import RefreshSpec, load_spec, parse_spec
from tabvae_flows.cli import _run
from tabvae_flows.customers import customers
from tabvae_flows.deploying import deploy
from tabvae_flows.refresh import synthetic_refresh, train_model

LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}
LONG = {"method": "vae_basic", "epochs": 10_000, "learning_rate": 1e-5}
"""Some minutes: so slow a learner improves with every epoch, and patience never ends it."""


@pytest.fixture(autouse=True)
def stack(prefect_stack: PrefectStack) -> Iterator[PrefectStack]:
    with prefect_stack.active():
        yield prefect_stack


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def spec_in(folder: Path, name: str, **changes: Any) -> RefreshSpec:
    """A refresh of a small local table; workspace, source and target in one folder."""
    folder.mkdir(exist_ok=True)
    pq.write_table(customers(400), folder / "source.parquet")
    return parse_spec(
        {
            "name": name,
            "source": {"uri": str(folder / "source.parquet")},
            "target": {"uri": str(folder / "releases")},
            "workspace": {"uri": str(folder / "work")},
            "model": {"method": "vae_basic", "epochs": 1},
            "gates": LAX,
        }
        | changes
    )


def until(found: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait for something to be found; its absence after so long is the failure."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)
    return result


def final(client: SyncPrefectClient, run: UUID) -> FlowRun | None:
    found = client.read_flow_run(run)
    return found if found.state is not None and found.state.is_final() else None


# ---------------------------------------------------------------- what is deployed


def shown(one: DeploymentResponse) -> dict[str, Any]:
    """What makes a deployment what it is; the spec as it is meant, however much of it is written out."""
    limit = one.global_concurrency_limit
    return {
        "entrypoint": one.entrypoint,
        "code": (one.path, one.pull_steps),
        "spec": parse_spec(one.parameters["spec"]) if "spec" in one.parameters else None,
        "parameters": {key: value for key, value in one.parameters.items() if key != "spec"},
        "form": one.parameter_openapi_schema,
        "description": one.description,
        "tags": one.tags,
        "schedules": [(item.active, item.schedule.model_dump()) for item in one.schedules],
        "limit": None if limit is None else limit.limit,
        "collision": one.concurrency_options and one.concurrency_options.collision_strategy,
        "work_pool": one.work_pool_name,
        "job_variables": one.job_variables,
    }


def test_the_command_and_the_file_give_the_same_deployments(
    stack: PrefectStack, client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("synthetic-refresh/customers", "train-model/gpu")
    parts = ("source", "target", "workspace")
    file = ROOT / "deployments" / "specs" / "customers.yaml"
    settings = tuple(f"{part}.storage.credentials=block:lake" for part in parts)
    spec = load_spec(file, settings)
    options = [option for setting in settings for option in ("--set", setting)]
    assert _run(["deploy", str(file), *options, "--train-pool", "gpu", "--cron", "0 3 * * *", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in said["deployments"]} == set(names)
    by_command = [shown(client.read_deployment_by_name(name)) for name in names]
    for name in names:
        client.delete_deployment(client.read_deployment_by_name(name).id)
    command = ["-m", "prefect", "--no-prompt", "deploy", "--prefect-file", "deployments/prefect.yaml", "--all"]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    by_file = [shown(client.read_deployment_by_name(name)) for name in names]
    for name in (*names, "sample-table/sample", "compare-methods/compare"):
        client.delete_deployment(client.read_deployment_by_name(name).id)
    assert by_file == by_command
    assert by_command[0]["limit"] == 1
    assert by_command[0]["spec"] == spec


def test_deploying_again_changes_the_spec_and_keeps_the_schedule(tmp_path: Path, client: SyncPrefectClient) -> None:
    first = spec_in(tmp_path, "twice")
    made = deploy([first], work_pool="cpu", cron="0 3 1 1 *", timezone="Europe/Berlin")
    assert made.new_pools == ()
    assert str(tmp_path / "work") in made.local
    again = deploy([spec_in(tmp_path, "twice", target_column="segment")], work_pool="cpu")
    assert again.deployments[0]["id"] == made.deployments[0]["id"]
    found = client.read_deployment(UUID(again.deployments[0]["id"]))
    assert found.parameters["spec"]["target_column"] == "segment"
    assert [item.schedule.model_dump(exclude={"day_or"}) for item in found.schedules] == [
        {"cron": "0 3 1 1 *", "timezone": "Europe/Berlin"}
    ]
    # The server's scheduler works by itself, and says only in its own log when it cannot.
    mine = DeploymentFilter(name=DeploymentFilterName(any_=["twice"]))
    run = until(lambda: client.read_flow_runs(deployment_filter=mine))[0]
    assert run.state.is_scheduled()
    client.delete_deployment(found.id)


def test_missing_pools_are_made_and_local_paths_become_absolute(
    tmp_path: Path, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = spec_in(tmp_path, "relative").model_copy(update={"workspace": parse_spec(
        {"source": {"uri": "a"}, "target": {"uri": "b"}}).workspace})  # fmt: skip
    made = deploy([spec], work_pool="new-pool")
    assert made.new_pools == ("new-pool",)
    assert client.read_work_pool("new-pool").type == "process"
    found = client.read_deployment(UUID(made.deployments[0]["id"]))
    assert found.parameters["spec"]["workspace"]["uri"] == str(tmp_path / ".tabvae")
    client.delete_deployment(found.id)
    client.delete_work_pool("new-pool")


# ---------------------------------------------------------------- training on another pool


def test_a_training_that_fails_elsewhere_fails_as_at_home(tmp_path: Path, client: SyncPrefectClient) -> None:
    spec = spec_in(tmp_path, "failing", unlearnable="refuse")
    deploy([spec], work_pool="cpu", train_pool="gpu")
    told: list[tuple[type, str, str | None, str | None]] = []
    for train_on in (None, "train-model/gpu"):
        with pytest.raises(DataError) as failed:
            synthetic_refresh(spec, train_on=train_on)
        newest = client.read_flow_runs(limit=50)
        mine = [run for run in newest if run.name == "refresh-failing"]
        state = max(mine, key=lambda run: run.start_time).state
        told.append((type(failed.value), str(failed.value), state.name, state.message))
    assert told[0] == told[1]
    assert "column 'city' is free text" in told[0][1]


def test_a_worker_that_does_not_see_the_workspace_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no run 0123456789abcdef") as failed:
        train_model(spec_in(tmp_path, "blind"), run_id="0123456789abcdef")
    assert "that all workers reach" in failed.value.hint
    with pytest.raises(SpecError, match="train_on is 'train-model/nowhere'"):
        synthetic_refresh(spec_in(tmp_path, "blind"), train_on="train-model/nowhere")


def test_a_training_that_is_under_way_is_waited_for(tmp_path: Path, client: SyncPrefectClient) -> None:
    """As after a refresh that was killed: its training went on, and a second one would write over its checkpoints."""
    spec = spec_in(tmp_path, "orphan")
    deploy([spec], work_pool="cpu", train_pool="gpu")
    run_id = steps.snapshot(spec).run_id
    orphan = client.create_flow_run_from_deployment(
        client.read_deployment_by_name("train-model/gpu").id,
        parameters={"spec": spec.model_dump(mode="json", exclude_unset=True), "run_id": run_id},
        tags=[f"run:{run_id}"],
    )
    assert synthetic_refresh(spec, train_on="train-model/gpu").rows == 400
    trained = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[f"run:{run_id}"])))
    assert [(run.id, run.state.is_completed()) for run in trained] == [(orphan.id, True)]
    assert trained[0].work_pool_name == "gpu"


class Trainer:
    """A refresh that is training by a worker: its runs, its process, its checkpoint."""

    def __init__(self, client: SyncPrefectClient, spec: RefreshSpec, deployment: str, *, elsewhere: bool) -> None:
        self._client, self._spec = client, spec
        self.refresh = client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id).id
        self.training = until(lambda: self._begun("gpu")) if elsewhere else self.refresh

    def _begun(self, pool: str) -> UUID | None:
        mine = FlowRunFilter(tags=FlowRunFilterTags(all_=[self._spec.name]))
        runs = self._client.read_flow_runs(flow_run_filter=mine)
        alive = [run.id for run in runs if run.work_pool_name == pool and not run.state.is_final()]
        return alive[0] if alive else None

    @property
    def checkpoint(self) -> Path | None:
        work = Path(self._spec.workspace.uri)
        return next(work.glob("runs/*/checkpoint/checkpoint.safetensors"), None)

    @property
    def process(self) -> int:
        return int(self._client.read_flow_run(self.training).infrastructure_pid or 0)

    def said(self, text: str) -> bool:
        """Whether the log of the training run holds a text."""
        wanted = {"logs": {"flow_run_id": {"any_": [str(self.training)]}}, "sort": "TIMESTAMP_DESC"}
        return any(text in log["message"] for log in self._client.request("POST", "/logs/filter", json=wanted).json())

    def cancel(self) -> None:
        """As the UI's button does."""
        self._client.set_flow_run_state(self.refresh, Cancelling())


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_cancelling_ends_the_trainers_and_the_next_run_resumes(tmp_path: Path, client: SyncPrefectClient) -> None:
    """One refresh trains in its own process, the other on the gpu pool; both are cancelled while they train."""
    home, away = (spec_in(tmp_path / name, name, model=LONG) for name in ("home", "away"))
    deploy([home], work_pool="cpu")
    deploy([away], work_pool="cpu", train_pool="gpu")

    def start() -> list[Trainer]:
        return [
            Trainer(client, home, "synthetic-refresh/home", elsewhere=False),
            Trainer(client, away, "synthetic-refresh/away", elsewhere=True),
        ]

    trainers = start()
    assert trainers[1].training != trainers[1].refresh
    for trainer in trainers:
        until(lambda one=trainer: one.checkpoint)
    processes = [trainer.process for trainer in trainers]
    assert all(alive(process) for process in processes)
    for trainer in trainers:
        trainer.cancel()
    until(lambda: not any(alive(process) for process in processes), seconds=30)
    for trainer in trainers:
        assert until(lambda one=trainer: final(client, one.refresh)).state.is_cancelled()
        assert until(lambda one=trainer: final(client, one.training)).state.is_cancelled()
        assert trainer.checkpoint is not None
    for spec in (home, away):
        assert release.current(spec.target) is None
        assert not list(Path(spec.target.uri).rglob("*")), "nothing of a release was written"

    resumed = start()
    for trainer in resumed:
        until(lambda one=trainer: one.said("resumed from the checkpoint of epoch"))
        trainer.cancel()
    for trainer in resumed:
        until(lambda one=trainer: final(client, one.training))
