"""What a run tells the rest of the platform: events that start other flows, assets with their lineage, labels."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments.runner import EntrypointType

from downstream import take_release
from prefect_servers import ROOT, PrefectStack
from tabvae_flows.customers import customers
from tabvae_tasks.assets import asset_key

TEMPLATES = ROOT / "deployments" / "automations"
LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}


@pytest.fixture(autouse=True)
def stack(prefect_stack: PrefectStack) -> Iterator[PrefectStack]:
    with prefect_stack.active():
        yield prefect_stack


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


def until(found: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait for something to be found; its absence after so long is the failure."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)
    return result


def events(client: SyncPrefectClient, name: str, resource: str) -> list[dict[str, Any]]:
    """Events of a name about a resource, newest first."""
    wanted = {"event": {"name": [name]}, "resource": {"id": [resource]}}
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def spec_file(folder: Path, name: str, gates: dict[str, Any]) -> Path:
    pq.write_table(customers(400), folder / "source.parquet")
    file = folder / "refresh.yaml"
    spec = {
        "name": name,
        "source": {"uri": str(folder / "source.parquet")},
        "target": {"uri": str(folder / "releases")},
        "workspace": {"uri": str(folder / "work")},
        "model": {"method": "vae_basic", "epochs": 1},
        "gates": gates,
    }
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return file


def refresh(file: Path, stack: PrefectStack) -> subprocess.CompletedProcess[str]:
    """Run a refresh as a person does who has set PREFECT_API_URL."""
    command = [sys.executable, "-m", "tabvae_flows.cli", "refresh", str(file), "--json"]
    return subprocess.run(command, env=stack.environment, capture_output=True, text=True, check=False)


def prefect(stack: PrefectStack, *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_starts_a_deployment_by_the_template(
    stack: PrefectStack, client: SyncPrefectClient, tmp_path: Path
) -> None:
    deployment = take_release.deploy(
        "downstream",
        work_pool_name="cpu",
        entrypoint_type=EntrypointType.MODULE_PATH,
        build=False,
        push=False,
        print_next_steps=False,
    )
    target = str(tmp_path / "releases")
    template = (TEMPLATES / "feed-on-publish.yaml").read_text(encoding="utf-8")
    automation = yaml.safe_load(template.replace("DEPLOYMENT_ID", str(deployment)))
    automation["trigger"]["match"] = {"prefect.resource.id": asset_key(target)}
    (tmp_path / "automation.yaml").write_text(yaml.safe_dump(automation), encoding="utf-8")
    prefect(stack, "automation", "create", "--from-file", str(tmp_path / "automation.yaml"))

    done = refresh(spec_file(tmp_path, "eventful", LAX), stack)
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)["version"]

    (event,) = until(lambda: events(client, "tabvae.release.published", asset_key(target)))
    payload = event["payload"]
    assert (payload["table"], payload["version"], payload["rows"]) == ("eventful", version, 400)
    assert payload["uri"] == f"{target}/versions/{version}"
    assert payload["figures"]["shape"]["value"] is not None
    assert {related["prefect.resource.role"] for related in event["related"]} >= {"flow-run", "flow"}

    (run,) = until(lambda: [run for run in client.read_flow_runs() if run.deployment_id == deployment])
    state = until(lambda: (s := client.read_flow_run(run.id).state) and s.is_final() and s)
    assert state.message == f"{target} {version} block:test-env"

    (asset,) = until(lambda: events(client, "prefect.asset.materialization.succeeded", asset_key(target)))
    assert asset["payload"]["version"] == version
    model = asset_key(str(tmp_path / "work" / "models" / "eventful"))
    assert model in [related["prefect.resource.id"] for related in asset["related"]]
    (learned,) = events(client, "prefect.asset.materialization.succeeded", model)
    assert learned["payload"]["method"] == "vae_basic"
    snapshot = asset_key(str(tmp_path / "work" / "snapshots" / "eventful"))
    assert snapshot in [related["prefect.resource.id"] for related in learned["related"]]
    (pinned,) = events(client, "prefect.asset.materialization.succeeded", snapshot)
    assert pinned["payload"]["rows"] == 400
    assert asset_key(str(tmp_path / "source.parquet")) in [r["prefect.resource.id"] for r in pinned["related"]]

    (mine,) = [run for run in client.read_flow_runs() if "table:eventful" in run.tags]
    assert f"version:{version}" in mine.tags
    assert mine.name == f"refresh-eventful {version}"
    shown = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert "data:image/svg+xml;base64," in str(shown["eventful-pictures"].data)
    assert "There is no release yet" in str(shown["eventful-quality"].description)
    assert "400 rows" in str(shown["eventful-train"].description)


def test_a_refusal_is_told_and_nothing_is_materialised(
    stack: PrefectStack, client: SyncPrefectClient, tmp_path: Path
) -> None:
    target = asset_key(str(tmp_path / "releases"))
    done = refresh(spec_file(tmp_path, "refused", {**LAX, "max_column_jsd": 0.0, "max_auc": 0.5}), stack)
    assert done.returncode == 4, done.stderr
    (event,) = until(lambda: events(client, "tabvae.release.refused", target))
    assert event["payload"]["failures"]
    assert Path(event["payload"]["report"]).is_file()
    assert until(lambda: events(client, "prefect.asset.materialization.failed", target))
    assert not events(client, "prefect.asset.materialization.succeeded", target)
    assert not events(client, "tabvae.release.published", target)
    (run,) = [run for run in client.read_flow_runs() if "table:refused" in run.tags]
    assert run.state is not None
    assert run.state.name == "Refused"
    assert str(run.state.message).startswith(f"refused: {event['payload']['failures'][0]}")
    assert "refused-refusal" in {artifact.key for artifact in client.read_artifacts()}


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.yaml")), ids=lambda path: path.stem)
def test_templates_are_automations(template: Path) -> None:
    from prefect.events.schemas.automations import AutomationCore

    text = template.read_text(encoding="utf-8")
    for placeholder in ("DEPLOYMENT_ID", "BLOCK_ID"):
        text = text.replace(placeholder, "00000000-0000-0000-0000-000000000001")
    automation = AutomationCore.model_validate(yaml.safe_load(text))
    known = {"tabvae.release.published", "tabvae.release.refused", "lake.table.loaded"}
    assert automation.trigger.model_dump()["expect"] <= known
