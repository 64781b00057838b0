"""Airflow's own home, configured before Airflow is imported; where Airflow is not installed nothing happens here.

The folder is not called `airflow`: tests/ lies on the import path, and a folder of that name would be found as Airflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from s3_servers import Store
from tabvae_core.storage import write_bytes
from tabvae_flows.customers import customers

ROOT = Path(__file__).parents[2]
HOME = Path(tempfile.mkdtemp(prefix="tabvae-airflow-"))
EVENTS = HOME / "lineage.json"
if find_spec("airflow") is not None:
    os.environ |= {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(EVENTS), "append": True}),
    }


@pytest.fixture(scope="session", autouse=True)
def airflow_home() -> Path:
    """Airflow's database, and its DAGs folder with the example DAG."""
    (HOME / "dags").mkdir()
    example = ROOT / "deployments" / "airflow" / "tabvae_refresh_dag.py"
    (HOME / "dags" / example.name).write_bytes(example.read_bytes())
    airflow("db", "migrate")
    return HOME


def airflow(*arguments: str) -> str:
    """Run Airflow's command line."""
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def spec(s3: Store, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A quick refresh that no gate refuses, of a table in an object store, all in the store."""
    bucket = f"{s3.bucket_uri('lake')}/{s3.name}/{request.node.originalname}"
    pq.write_table(customers(300), tmp_path / "customers.parquet")
    storage = s3.storage.model_dump(exclude_defaults=True)
    write_bytes(f"{bucket}/customers/0.parquet", (tmp_path / "customers.parquet").read_bytes(), s3.storage)
    return {
        "name": "customers",
        "source": {"uri": f"{bucket}/customers/", "storage": storage},
        "target": {"uri": f"{bucket}/synthetic", "storage": storage},
        "workspace": {"uri": f"{bucket}/work", "storage": storage},
        "model": {"method": "vae_basic", "epochs": 1},
        "gates": {"max_column_jsd": 1, "max_trend": 100, "max_auc": 1, "max_copies": 100, "data_docs": False},
    }


@pytest.fixture
def spec_file(spec: dict[str, Any], tmp_path: Path) -> Path:
    """The same as a file."""
    file = tmp_path / "customers.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return file
