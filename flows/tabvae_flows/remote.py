"""Training on another work pool: a run of a deployment of its own, waited for, and cancelled with who waits for it."""

from __future__ import annotations

import time
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling

import tabvae_tasks as tasks
from tabvae_core.errors import SpecError, TabvaeError
from tabvae_core.references import ModelRef, SnapshotRef
from tabvae_core.spec import RefreshSpec
from tabvae_flows.states import error_of

__all__ = ["train_elsewhere"]

_POLL_SECONDS = 2.0
_PATIENCE_SECONDS = 60.0
"""How long a run may wait for a worker before the log says so."""


def train_elsewhere(spec: RefreshSpec, snapshot: SnapshotRef, deployment: str) -> ModelRef:
    """Train by a run of a deployment of `train_model`, a subflow of the run that calls.

    What goes there are the spec and the name of the run, whose records stand in the workspace; the model comes back
    the same way. An error there is raised here.

    Args:
        spec: The refresh.
        snapshot: The pinned source.
        deployment: Name of the deployment, such as `train-model/gpu`.

    Raises:
        SpecError: There is no such deployment, or its worker does not see the workspace.
        TabvaeError: The training failed, crashed, or was cancelled by itself.

    """
    if (model := tasks.find_model(spec, snapshot)) is not None:
        return model
    if (earlier := _under_way(snapshot)) is not None:
        _waited_for(earlier)
        if (model := tasks.find_model(spec, snapshot)) is not None:
            return model
    run = _waited_for(_begun(spec, snapshot, deployment))
    assert run.state is not None
    if not run.state.is_completed():
        raise error_of(run.state) or TabvaeError(
            f"training run {run.name!r} of deployment {deployment} ended as {run.state.name}: {run.state.message}",
            hint="look at its log in Prefect; the next refresh goes on from its last checkpoint",
        )
    if (model := tasks.find_model(spec, snapshot)) is None:
        raise SpecError(
            f"training run {run.name!r} left no model in workspace {spec.workspace.uri}",
            hint="name a workspace that all workers reach, such as a folder of an object store",
        )
    return model


def _under_way(snapshot: SnapshotRef) -> FlowRun | None:
    """Find a training of the same run that has not ended: the refresh that began it was killed, or just cancelled.

    Two at once would write over each other's checkpoints.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[_tag(snapshot)]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))),
            ),
            limit=1,
        )
    if found:
        get_run_logger().info("waiting for %r, which trains on the same snapshot already", found[0].name)
    return found[0] if found else None


def _tag(snapshot: SnapshotRef) -> str:
    return f"run:{snapshot.run_id}"


def _begun(spec: RefreshSpec, snapshot: SnapshotRef, deployment: str) -> FlowRun:
    parameters = {"spec": spec.model_dump(mode="json", exclude_unset=True), "run_id": snapshot.run_id}
    try:
        begun = run_deployment(deployment, parameters=parameters, timeout=0, tags=["tabvae", spec.name, _tag(snapshot)])
        run = cast(FlowRun, begun)  # a coroutine only where the caller is one
    except (ObjectNotFound, ValueError):
        raise SpecError(
            f"train_on is {deployment!r}, however there is no such deployment",
            hint="`tabvae deploy SPEC --train-pool POOL` makes train-model/POOL",
        ) from None
    get_run_logger().info("training runs as %r, on work pool %r", run.name, run.work_pool_name)
    return run


def _waited_for(run: FlowRun) -> FlowRun:
    """Wait for the end of a run; whatever ends the waiting, such as the signal of a cancellation, cancels the run."""
    started, said = time.monotonic(), False
    try:
        while run.state is None or not run.state.is_final():
            time.sleep(_POLL_SECONDS)
            run = _read(run)
            if not said and run.start_time is None and time.monotonic() - started > _PATIENCE_SECONDS:
                get_run_logger().warning("no worker of pool %r has taken %r yet", run.work_pool_name, run.name)
                said = True
    except BaseException:
        _cancel(run.id)
        raise
    return run


def _read(run: FlowRun) -> FlowRun:
    """A training of hours outlives a server that is started anew: while it does not answer, nothing has changed."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(run.id)
    except httpx.TransportError:
        return run
    except PrefectHTTPStatusError as error:
        if error.response.status_code < 500:
            raise
        return run


def _cancel(run: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run, Cancelling(message="The refresh that waits for this training was ended."))
