"""How the flow run that is running is named and tagged: by table from the start, by version at the end."""

from __future__ import annotations

from collections.abc import Iterable

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

__all__ = ["label_run"]


def label_run(tags: Iterable[str], *, suffix: str = "") -> None:
    """Add tags to the flow run, and a suffix to its name, once; nothing outside a run.

    Args:
        tags: Such as `table:customers`.
        suffix: What the name ends with from now on, such as the version.

    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(context.flow_run.id)
            name = run.name if not suffix or run.name.endswith(suffix) else f"{run.name} {suffix}"
            client.update_flow_run(run.id, name=name, tags=sorted({*run.tags, *tags}))
    except Exception as error:
        # Labels are a courtesy: an API that does not answer must not fail a run of hours.
        get_run_logger().warning("the run was not labelled: %s", type(error).__name__)
