"""A nightly refresh of the customers table, and a DAG that runs when a new version was published.

Copy it into the DAGs folder with the spec beside it. Needs `pip install "tabvae[airflow]"` on the workers.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, task

from tabvae_airflow.refresh import refresh_group, release_asset

SPEC = os.environ.get("TABVAE_SPEC", str(Path(__file__).with_name("customers.yaml")))
RELEASE = release_asset(SPEC)

with DAG(
    "tabvae_refresh",
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params={"force": Param(False, type="boolean", description="Publish anew where nothing has changed.")},
    tags=["tabvae"],
) as refresh:
    refresh_group(
        SPEC,
        force="{{ params.force }}",
        outlets=[RELEASE],
        retries=2,
        retry_delay=timedelta(minutes=5),
        # A GPU worker of this Airflow: train={"queue": "gpu"}. A trainer elsewhere, while no worker slot is taken:
        # train={"submit": ["ssh", "gpu-1", "nohup {train} > train.log 2>&1 &"]}
    )

with DAG("tabvae_readers", schedule=[RELEASE], catchup=False, tags=["tabvae"]):

    @task
    def read_release(triggering_asset_events: dict | None = None) -> str:
        """Say which version is new; here the test environments would be filled."""
        event = triggering_asset_events[RELEASE][-1]
        print(f"version {event.extra['version']}: {event.extra['rows']} rows at {event.extra['uri']}")
        return event.extra["uri"]

    read_release()
