"""The flows: a whole refresh, its first half and second half by themselves, and a comparison of methods.

Tasks exchange references, never tables; a run's state says in one line what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Any, ParamSpec

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

import tabvae_tasks as tasks
from tabvae_core.comparison import Comparison
from tabvae_core.dates import dated
from tabvae_core.errors import GateRefused, TabvaeError
from tabvae_core.evaluation.recommendation import MethodResult
from tabvae_core.references import ModelRef, ReleaseRef, TableRef
from tabvae_core.spec import RefreshSpec
from tabvae_flows.blocks import register_resolver
from tabvae_flows.remote import train_elsewhere
from tabvae_flows.states import FAILED_NAMES

__all__ = ["compare_methods", "said_in_state", "sample_table", "synthetic_refresh", "train_model"]

P = ParamSpec("P")


def said_in_state(function: Callable[P, Any]) -> Callable[P, Any]:
    """Turn an error of ours into a failed state whose message is the error's own; callers still get the error.

    The run is tagged with its table, and in the end with the version that readers get.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        register_resolver()  # a worker's process begins here: nobody else lets specs name blocks
        spec = signature(function).bind(*args, **kwargs).arguments.get("spec")
        if isinstance(spec, RefreshSpec):
            tasks.label_run([f"table:{spec.name}"])
        try:
            state = function(*args, **kwargs)
        except TabvaeError as error:
            name = next((name for kind, name in FAILED_NAMES.items() if isinstance(error, kind)), "Failed")
            return Failed(name=name, message=_said(error), data=error)
        if isinstance(state.data, ReleaseRef):
            tasks.label_run([f"version:{state.data.version}"], suffix=state.data.version)
        return state

    return wrapped


def _said(error: TabvaeError) -> str:
    """Say what happened first: "refused: age > 0 broken by 12 rows"."""
    if not isinstance(error, GateRefused) or not error.failures:
        return str(error)
    failures, more = error.failures[:3], len(error.failures) - 3
    first = "refused: " + "; ".join(failures) + (f"; and {more} more" if more > 0 else "")
    return f"{first}\n  hint: {error.hint}" if error.hint else first


@flow(
    name="synthetic-refresh",
    flow_run_name="refresh-{spec.name}",
    result_serializer="json",
    log_prints=False,
    validate_parameters=True,
)
@said_in_state
def synthetic_refresh(
    spec: RefreshSpec, force: bool = False, wait: bool = True, train_on: str | None = None
) -> State[ReleaseRef]:
    """Refresh the synthetic copy of a table: learn, sample, prove, publish.

    Args:
        spec: Source, target, model, gates: the whole refresh.
        force: Publish a new version even where source and spec have not changed.
        wait: Wait for a refresh of the same target that is running; else fail with a conflict.
        train_on: Deployment whose worker trains, such as train-model/gpu; this run's own process where left out.

    """
    spec = dated(spec)
    train = partial(train_elsewhere, deployment=train_on) if train_on else tasks.train_model
    with tasks.hold_target(spec, wait):
        snapshot = tasks.take_snapshot(spec, force)
        if (current := tasks.find_release(spec, snapshot)) is not None:
            return Completed(name="Unchanged", message=f"unchanged: version {current.version} stays", data=current)
        choice = tasks.choose_model(spec, snapshot)
        model = choice.model or train(spec, snapshot)
        table = tasks.sample_table(spec, snapshot, model)
        validation = tasks.validate_table(spec, snapshot, model, table)
        evaluation = tasks.evaluate_table(spec, snapshot, model, table, validation)
        release = tasks.publish_release(spec, snapshot, model, table, validation, evaluation)
    drawn = f", from the model of run {choice.trained_by}: {choice.reason}" if choice.model else ""
    return Completed(message=f"published version {release.version}: {release.rows:,} rows{drawn}", data=release)


@flow(name="train-model", flow_run_name="train-{spec.name}", result_serializer="json")
@said_in_state
def train_model(spec: RefreshSpec, run_id: str | None = None) -> State[ModelRef]:
    """Pin the source and learn it; the model stays in the workspace, where a refresh of the same spec finds it.

    Args:
        spec: Source, model, privacy; the target is not touched.
        run_id: Run of the workspace whose snapshot is learned; the source as it is now where left out.

    """
    spec = dated(spec)
    snapshot = tasks.find_snapshot(spec, run_id) if run_id else tasks.take_snapshot(spec)
    model = tasks.train_model(spec, snapshot)
    return Completed(message=f"learned {model.rows:,} rows in {model.seconds:,.0f} s: {model.uri}", data=model)


@flow(name="sample-table", flow_run_name="sample-{spec.name}", result_serializer="json")
@said_in_state
def sample_table(spec: RefreshSpec) -> State[TableRef]:
    """Draw a table into the workspace, training first where there is no model yet; nothing is published.

    Args:
        spec: Source, model, sample; the target is not touched.

    """
    spec = dated(spec)
    snapshot = tasks.take_snapshot(spec)
    table = tasks.sample_table(spec, snapshot, tasks.train_model(spec, snapshot))
    return Completed(message=f"drew {table.rows:,} rows: {table.uri}", data=table)


@flow(name="compare-methods", flow_run_name="compare-{spec.name}", result_serializer="json")
@said_in_state
def compare_methods(spec: RefreshSpec, methods: list[str] | None = None) -> State[Comparison]:
    """Learn the source by several methods, measure each against the same held-out rows, recommend one.

    Args:
        spec: Source, model, sample, privacy; model.max_seconds is divided among the methods. Nothing is published.
        methods: Names of the methods; all that are installed where left out.

    """
    plan = tasks.plan_comparison(spec, methods)
    results: list[MethodResult] = []
    for method in plan.methods:
        results.append(tasks.measure_method(spec, plan, method, results))
    comparison = tasks.conclude_comparison(spec, plan, results)
    return Completed(message=f"recommended: {comparison.recommendation.method or 'none'}", data=comparison)
