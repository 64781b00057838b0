"""The tasks. Steps keep their own completion records, so Prefect caches and persists nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task

from tabvae_core import comparison, policy, steps
from tabvae_core.comparison import Comparison, Plan
from tabvae_core.errors import GateRefused, StorageError
from tabvae_core.evaluation.recommendation import MethodResult
from tabvae_core.feed import feed
from tabvae_core.references import (
    EvaluationRef,
    FeedRef,
    ModelChoice,
    ModelRef,
    ReleaseRef,
    SnapshotRef,
    TableRef,
    ValidationRef,
)
from tabvae_core.spec import RefreshSpec, StorageSpec
from tabvae_tasks.artifacts import (
    show_choice,
    show_comparison,
    show_feed,
    show_pictures,
    show_quality,
    show_refusal,
    show_release,
    show_validation,
)
from tabvae_tasks.assets import making, model_asset, release_asset, snapshot_asset, source_asset, tell
from tabvae_tasks.events import emit_drifted, emit_published, emit_refused
from tabvae_tasks.listening import task_progress

__all__ = [
    "choose_model",
    "conclude_comparison",
    "evaluate_table",
    "feed_table",
    "find_model",
    "find_release",
    "find_snapshot",
    "measure_method",
    "plan_comparison",
    "publish_release",
    "sample_table",
    "take_snapshot",
    "train_model",
    "validate_table",
]

P = ParamSpec("P")
R = TypeVar("R")


def _storage_failed(task: Task[..., Any], run: Any, state: Any) -> bool:
    """Only storage gets better by waiting: a refused table or a wrong spec would fail again."""
    return isinstance(state.result(raise_on_failure=False), StorageError)


def _step(name: str, run_name: str = "") -> Callable[[Callable[P, R]], Task[P, R]]:
    return task(
        name=name,
        task_run_name=run_name or name + " {spec.name}",
        retries=2,
        retry_delay_seconds=[1, 10],
        retry_condition_fn=_storage_failed,
        persist_result=False,
        result_serializer="json",
        cache_result_in_memory=False,
    )


@_step("snapshot")
def take_snapshot(spec: RefreshSpec, force: bool = False) -> SnapshotRef:
    """Pin the source's objects, rows and schema."""
    made = snapshot_asset(spec)
    making(made, of=source_asset(spec))
    with task_progress(spec.name) as progress:
        snapshot = steps.snapshot(spec, force=force, progress=progress)
    tell(made, snapshot.model_dump(include={"run_id", "rows", "columns", "fingerprint"}))
    return snapshot


@_step("look for current release")
def find_release(spec: RefreshSpec, snapshot: SnapshotRef) -> ReleaseRef | None:
    """Find the current release if it came from this source, spec and code."""
    return steps.up_to_date(spec, snapshot)


@_step("choose model")
def choose_model(spec: RefreshSpec, snapshot: SnapshotRef) -> ModelChoice:
    """Measure drift, and say whether the last model draws the new table or one is trained."""
    with task_progress(spec.name) as progress:
        choice = policy.choose_model(spec, snapshot, progress=progress)
    show_choice(spec.name, choice)
    if drifted := {column.column: column.beyond for column in choice.columns if column.drifted}:
        emit_drifted(spec, drift=max(drifted.values()), threshold=choice.max_drift, columns=drifted)
    return choice


@_step("look for snapshot")
def find_snapshot(spec: RefreshSpec, run_id: str) -> SnapshotRef:
    """Find the snapshot that another process took."""
    return steps.find_snapshot(spec, run_id)


@_step("look for model")
def find_model(spec: RefreshSpec, snapshot: SnapshotRef) -> ModelRef | None:
    """Find the model that a run has trained already."""
    return steps.find_model(spec, snapshot)


@_step("train")
def train_model(spec: RefreshSpec, snapshot: SnapshotRef) -> ModelRef:
    """Learn the rows that are not held out."""
    made = model_asset(spec)
    making(made, of=snapshot_asset(spec))
    with task_progress(spec.name, f"{snapshot.rows:,} rows") as progress:
        model = steps.train(spec, snapshot, progress=progress)
    tell(made, model.model_dump(mode="json"))
    return model


@_step("sample")
def sample_table(spec: RefreshSpec, snapshot: SnapshotRef, model: ModelRef) -> TableRef:
    """Draw the synthetic table into the workspace."""
    with task_progress(spec.name) as progress:
        return steps.sample(spec, snapshot, model, progress=progress)


@_step("validate")
def validate_table(spec: RefreshSpec, snapshot: SnapshotRef, model: ModelRef, table: TableRef) -> ValidationRef:
    """Check schema and rules."""
    with task_progress(spec.name) as progress:
        validation = steps.validate(spec, snapshot, model, table, progress=progress)
    show_validation(spec.name, validation)
    return validation


@_step("evaluate")
def evaluate_table(
    spec: RefreshSpec, snapshot: SnapshotRef, model: ModelRef, table: TableRef, validation: ValidationRef
) -> EvaluationRef:
    """Measure the table against held-out rows."""
    with task_progress(spec.name) as progress:
        evaluation = steps.evaluate(spec, snapshot, model, table, validation, progress=progress)
    show_quality(spec.name, evaluation, steps.last_release(spec))
    show_pictures(spec.name, steps.read_evaluation(spec, evaluation))
    return evaluation


@_step("publish")
def publish_release(
    spec: RefreshSpec,
    snapshot: SnapshotRef,
    model: ModelRef,
    table: TableRef,
    validation: ValidationRef,
    evaluation: EvaluationRef,
) -> ReleaseRef:
    """Publish the accepted table, or quarantine the refused one."""
    made, results = release_asset(spec), (*validation.results, *evaluation.results)
    making(made, of=model_asset(spec))
    with task_progress(spec.name) as progress:
        try:
            release = steps.publish(spec, snapshot, model, table, validation, evaluation, progress=progress)
        except GateRefused as refusal:
            show_refusal(spec.name, refusal)
            emit_refused(spec, refusal, evaluation.metrics)
            raise
    tell(made, {"version": release.version, "uri": release.uri, "rows": release.rows, "gates_passed": len(results)})
    show_release(spec.name, release, results, docs=validation.docs_uri is not None)
    emit_published(spec, release, evaluation.metrics)
    return release


@_step("plan comparison")
def plan_comparison(spec: RefreshSpec, methods: Sequence[str] | None = None) -> Plan:
    """Pin the source, and say what is compared on it."""
    with task_progress(spec.name) as progress:
        return comparison.prepare(spec, methods, progress=progress)


@_step("measure method", "measure {method} on {spec.name}")
def measure_method(spec: RefreshSpec, plan: Plan, method: str, known: Sequence[MethodResult] = ()) -> MethodResult:
    """Fit one method, draw a sample and measure it; a method that fails is a result with its reason."""
    with task_progress(spec.name) as progress:
        return comparison.measure(spec, plan, method, known, progress=progress)


@_step("conclude comparison")
def conclude_comparison(spec: RefreshSpec, plan: Plan, results: Sequence[MethodResult]) -> Comparison:
    """Recommend a method and write the report."""
    with task_progress(spec.name) as progress:
        found = comparison.conclude(spec, plan, results, progress=progress)
    show_comparison(spec.name, found)
    return found


@_step("feed", "feed {target}")
def feed_table(
    target: str, into: str, table: str | None = None, version: str | None = None, storage: StorageSpec | None = None
) -> FeedRef:
    """Load a release into a database; a version that is there already is not loaded again."""
    with task_progress(table or target) as progress:
        fed = feed(target, into, table=table, version=version, storage=storage, progress=progress)
    show_feed(fed)
    return fed
