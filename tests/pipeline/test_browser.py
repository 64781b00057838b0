"""A run started by the form in a real browser; what is seen is kept as pictures.

    pytest tests/pipeline/test_browser.py -m slow --screenshots=DIR

Needs `playwright` and Debian's `chromium`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client

from prefect_servers import PrefectStack
from tabvae_core.spec import parse_spec
from tabvae_flows.customers import customers
from tabvae_flows.deploying import deploy

pytest.importorskip("playwright", reason="playwright drives the browser")
from browsing import CHROMIUM, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="there is no chromium"),
]
LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100}


def until(found: Callable[[], Any], seconds: float = 900.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(1)
    return result


def test_a_run_by_the_form(prefect_stack: PrefectStack, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pq.write_table(customers(3000), tmp_path / "source.parquet")
    spec = {
        "name": "customers",
        "source": {"uri": str(tmp_path / "source.parquet")},
        "target": {"uri": str(tmp_path / "releases")},
        "workspace": {"uri": str(tmp_path / "work")},
        "rules": ["age > 0", "closed_at >= signup_at"],
        "model": {"epochs": 3},
        "gates": LAX,
    }
    pictures = Path(request.config.getoption("--screenshots") or tmp_path / "screenshots")
    with prefect_stack.active():
        # Before the browser opens: it brings an event loop, within which Prefect would deploy asynchronously.
        made = deploy([parse_spec(spec)], work_pool="cpu", train_pool="gpu")
        deployment = UUID(next(one["id"] for one in made.deployments if one["name"] == "synthetic-refresh/customers"))
    with (
        prefect_stack.active(),
        browser(prefect_stack.ui_url, pictures) as window,
        get_client(sync_client=True) as client,
    ):
        window.open_form(str(deployment))
        window.field("Epochs").fill("20")
        window.keep("1-form")

        def mine() -> list[Any]:
            return [run for run in client.read_flow_runs() if run.deployment_id == deployment]

        def submitted() -> list[Any]:
            """A busy server's SQLite may be locked: the form stays then, and a person clicks again."""
            window.page.get_by_role("button", name="Submit").click()
            window.page.wait_for_timeout(20_000)
            return mine()

        def shown(of: Any) -> dict[str, Any]:
            return {str(a.key): a for a in client.read_artifacts() if a.flow_run_id == of}

        def training() -> Any:
            tasks = {task.id for task in client.read_task_runs() if task.flow_run_id == run.id}
            return next((one for one in client.read_flow_runs() if one.parent_task_run_id in tasks), None)

        (run,) = until(lambda: mine() or submitted())
        assert run.parameters["spec"]["model"]["epochs"] == 20, "the form's number, not the deployment's"
        trained = until(training)
        until(lambda: "customers-train" in shown(trained.id))
        assert client.read_flow_run(trained.id).work_pool_name == "gpu"
        window.open(f"/runs/flow-run/{trained.id}?tab=Artifacts")
        window.page.get_by_text("epochs").first.wait_for()
        window.keep("2-running")
        state = until(lambda: (s := client.read_flow_run(run.id).state) and s.is_final() and s)
        assert state.is_completed(), state.message

        window.open(f"/runs/flow-run/{run.id}?tab=Artifacts")
        window.page.get_by_text("customers-release").first.wait_for()
        window.keep("3-finished")
        for name in ("quality", "pictures", "release"):
            window.open(f"/artifacts/artifact/{shown(run.id)[f'customers-{name}'].id}")
            window.page.get_by_text("Show Raw Data").first.wait_for()
            window.keep(f"4-{name}")
        window.open(f"/artifacts/artifact/{shown(run.id)['customers-pictures'].id}")
        picture = window.page.locator("img[src^='data:image/svg']").first
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 300, "the browser drew it"
        window.keep("4-pictures")  # once more, now that it stands there
    assert {path.stem for path in pictures.glob("*.png")} >= {"1-form", "2-running", "3-finished", "4-pictures"}
