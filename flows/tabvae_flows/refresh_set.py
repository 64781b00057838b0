"""The flow of a refresh set: a folder of specs, some tables at a time, each a flow run of its own below this one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ProcessPoolTaskRunner

from tabvae_core.errors import SpecError, TabvaeError
from tabvae_core.outcomes import Outcome, attempt, failed, summary
from tabvae_core.spec import RefreshSpec
from tabvae_flows.refresh import said_in_state, synthetic_refresh
from tabvae_flows.sets import load_set, threads_each
from tabvae_tasks.artifacts import show_outcomes

if TYPE_CHECKING:
    from tabvae_core.references import ReleaseRef

__all__ = ["refresh_set"]


@flow(name="refresh-set", flow_run_name="refresh-set-{folder}", result_serializer="json")
@said_in_state
def refresh_set(folder: str, parallel: int = 4, force: bool = False) -> State[list[Outcome]]:
    """Refresh the tables of a folder of specs; one that fails or is refused does not stop the others.

    Args:
        folder: Folder of spec files, as the worker sees it.
        parallel: Refreshes that run at the same time, each in a process of its own.
        force: Publish new versions even where source and spec have not changed.

    """
    if parallel < 1:
        raise SpecError(f"parallel must be at least 1, however: {parallel}", hint="it is the number of processes")
    members = load_set(Path(folder))
    with ProcessPoolTaskRunner(parallel, initializer=_share_threads, initargs=(threads_each(parallel),)) as runner:
        futures = [runner.submit(refresh_table, {"table": t, "spec": spec, "force": force}) for t, _, spec in members]
        ended = [future.result(raise_on_failure=False) for future in futures]
    outcomes = [_outcome(label, result) for (label, _, _), result in zip(members, ended, strict=True)]
    show_outcomes(Path(folder).name, outcomes)
    said = summary(outcomes)
    if any(one.exit_code for one in outcomes):
        return Failed(name="SomeFailed", message=said, data=TabvaeError(said, hint="the set's artifact says why"))
    return Completed(message=said, data=outcomes)


@task(name="refresh table", task_run_name="refresh {table}", persist_result=False)
def refresh_table(table: str, spec: RefreshSpec, force: bool) -> Outcome:
    """Run the refresh of one table as a flow below this task; a refusal is an outcome, not an error."""
    return attempt(table, lambda: cast("ReleaseRef", synthetic_refresh(spec, force=force)))


def _outcome(table: str, result: object) -> Outcome:
    """What a task returned, or what stopped it: a fault, or a process that was killed."""
    if isinstance(result, Outcome):
        return result
    return failed(table, f"unexpected {type(result).__name__}; its log says more", TabvaeError.exit_code, 0.0)


def _share_threads(threads: int) -> None:
    """Runs in each process before torch is loaded."""
    from tabvae_flows.blocks import register_resolver

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    register_resolver()
