"""Settings of other libraries that must stand before these are imported."""

from __future__ import annotations

import os
import warnings

__all__ = ["quiet", "quiet_prefect"]


def quiet() -> None:
    """Keep other libraries' warnings and telemetry away from the user; TABVAE_DEBUG=1 shows the warnings."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    if os.environ.get("TABVAE_DEBUG") != "1":
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")


def quiet_prefect() -> None:
    """Prepare Prefect for a run in this process: time for its temporary server to start, no log lines of its own.

    The log lines still go to Prefect's API, where its UI shows them.
    """
    quiet()
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    if os.environ.get("TABVAE_DEBUG") != "1":
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
