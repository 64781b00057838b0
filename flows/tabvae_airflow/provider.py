"""What `airflow providers list` shows; found by the entry point `apache_airflow_provider`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """Describe the provider as Airflow's schema of provider metadata has it."""
    return {
        "package-name": "tabvae",
        "name": "tabvae",
        "description": "Synthetic copies of production tables: learn, sample, prove, publish.",
        "versions": [version("tabvae")],
        "integrations": [
            {"integration-name": "tabvae", "external-doc-url": "https://pypi.org/project/tabvae/", "tags": ["software"]}
        ],
        "operators": [{"integration-name": "tabvae", "python-modules": ["tabvae_airflow.operators"]}],
        "triggers": [{"integration-name": "tabvae", "python-modules": ["tabvae_airflow.triggers"]}],
    }
