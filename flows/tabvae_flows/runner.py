"""Run a refresh now: through Prefect where it is installed, else as plain steps."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from tabvae_core.progress import Progress, silent
from tabvae_flows.console import notice
from tabvae_flows.environment import quiet_prefect

if TYPE_CHECKING:
    from tabvae_core.references import ReleaseRef
    from tabvae_core.spec import RefreshSpec

__all__ = ["prefect_installed", "run_refresh"]


def prefect_installed() -> bool:
    """Say whether Prefect can be imported, without importing it."""
    return find_spec("prefect") is not None


def run_refresh(
    spec: RefreshSpec,
    *,
    force: bool = False,
    wait: bool = True,
    use_prefect: bool = True,
    listener: Progress = silent,
) -> ReleaseRef:
    """Run a refresh in this process.

    Args:
        spec: The refresh.
        force: Publish a new version of an unchanged source.
        wait: Wait for a refresh of the same target that is running.
        use_prefect: False runs the plain steps even where Prefect is installed.
        listener: Told what each step does.

    Raises:
        TabvaeError: As the steps raise it.

    """
    if not use_prefect or not prefect_installed():
        from tabvae_core import steps

        return steps.refresh(spec, force=force, wait=wait, progress=listener)
    quiet_prefect()
    if not os.environ.get("PREFECT_API_URL"):
        notice("starting Prefect's temporary server; PREFECT_API_URL names a running one, --no-prefect for none")
    from tabvae_flows.blocks import register_resolver
    from tabvae_flows.refresh import synthetic_refresh
    from tabvae_tasks.listening import also_tell

    register_resolver()
    with also_tell(listener):
        return cast("ReleaseRef", synthetic_refresh(spec, force=force, wait=wait))
