"""Methods side by side on one table: how true each is, and at what cost.

    prepare → measure, for each method → conclude

Each method is a refresh of its own up to its figures, by the same steps: they share the snapshot, so the held-out rows
and those that are learned, and the floors, which are measured once. A method that fails is a row with its reason. What
has been measured stands in the workspace, and is not measured again when the comparison is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tabvae_core import lake as store
from tabvae_core import memory, steps
from tabvae_core.errors import DataError, SourceChanged, SpecError, StorageError, TabvaeError
from tabvae_core.evaluation.recommendation import MethodResult, Recommendation, recommend
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.references import SnapshotRef, TableRef
from tabvae_core.source_rows import rows_of
from tabvae_core.spec import PrivacySpec, RefreshSpec
from tabvae_core.workspace import Run, run_id_of

if TYPE_CHECKING:
    from tabvae_core.evaluation import Evaluation
    from tabvae_core.evaluation.view import TableView

__all__ = ["Comparison", "Plan", "chosen_methods", "compare", "conclude", "measure", "prepare"]

_log = logging.getLogger(__name__)


class _Reference(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Plan(_Reference):
    """What is compared: the pinned source, the methods, and what each may cost."""

    snapshot: SnapshotRef
    methods: tuple[str, ...]
    max_seconds: float | None
    """Training of each method at most; None: as long as each takes."""
    train_rows: int
    """Rows that each method learns."""
    sample_rows: int
    """Rows that each method draws."""


class Comparison(_Reference):
    """Methods side by side."""

    name: str
    rows: int
    """Rows of the source."""
    train_rows: int
    results: tuple[MethodResult, ...]
    """In the order of the methods."""
    recommendation: Recommendation
    interrupted: bool = False
    """True: it was stopped before all methods were measured."""
    report_uri: str
    """The HTML report in the workspace."""


def chosen_methods(
    names: Sequence[str] | None = None,
    privacy: PrivacySpec = PrivacySpec(),  # noqa: B008 (frozen)
) -> tuple[str, ...]:
    """Check names of methods; where none is given, all that are installed and fit the privacy that is asked for.

    Raises:
        SpecError: There is no such method, or the list is empty.

    """
    from tabvae_core.synthesizers.registry import find, methods

    if names is None:
        asked = privacy.epsilon is not None
        return tuple(name for name in methods() if (find(name).private if asked else not find(name).needs_epsilon))
    chosen = tuple(dict.fromkeys(names))
    if not chosen:
        raise SpecError("no method is named to compare", hint="leave the list out to compare all that are installed")
    for name in chosen:
        find(name)
    return chosen


def compare(spec: RefreshSpec, methods: Sequence[str] | None = None, *, progress: Progress = silent) -> Comparison:
    """Compare methods on the source of a spec; nothing is published.

    Args:
        spec: Source, columns, rules, model, sample, privacy. `model.max_seconds` is divided among the methods, and
            `model.options` are those of `model.method`. A sample has as many rows as are learned, or `sample.rows`.
        methods: Their names; all that are installed where left out.
        progress: Told what each method does, as a step of its name.

    Raises:
        DataError: The source is missing, malformed, or has too few rows to hold some out; or no method can learn it.
        KeyboardInterrupt: It was stopped before one method was measured; later, what was measured is returned.
        SpecError: There is no such method, or the spec does not fit the source.
        StorageError: Source or workspace cannot be reached.

    """
    plan = prepare(spec, methods, progress=progress)
    results: list[MethodResult] = []
    try:
        for method in plan.methods:
            results.append(measure(spec, plan, method, results, progress=progress))
    except KeyboardInterrupt:
        if not any(result.evaluation for result in results):
            raise
    return conclude(spec, plan, results, progress=progress)


def prepare(spec: RefreshSpec, methods: Sequence[str] | None = None, *, progress: Progress = silent) -> Plan:
    """Pin the source, and see what can be seen before anything is learned; raises as `compare` does."""
    chosen = chosen_methods(methods, spec.privacy)
    snapshot = steps.snapshot(spec, progress=progress)
    learned = rows_of(spec, snapshot, "train")
    limit = None if spec.model.max_seconds is None else spec.model.max_seconds / len(chosen)
    drawn = spec.sample.rows or learned
    return Plan(snapshot=snapshot, methods=chosen, max_seconds=limit, train_rows=learned, sample_rows=drawn)


def measure(
    spec: RefreshSpec, plan: Plan, method: str, known: Sequence[MethodResult] = (), *, progress: Progress = silent
) -> MethodResult:
    """Fit one method, draw a sample and measure it.

    Args:
        spec: The spec of the comparison.
        plan: What `prepare` returned for it.
        method: One of the plan's methods.
        known: Results of other methods of the same plan, whose floors are taken over.
        progress: Told what happens, as a step of the method's name.

    Returns:
        The figures; where the method failed or refused, its reason.

    Raises:
        SourceChanged: The source is no longer the one that was pinned.
        StorageError: Source or workspace cannot be reached: no other method would do better.

    """
    own, snapshot = _own(spec, plan, method)
    run = Run(own, snapshot.run_id)
    if (done := run.record("measured", MethodResult)) is not None:
        progress(ProgressEvent(method, 1, 1, message="measured before"))
        return done
    try:
        result = _measured(own, snapshot, known, _as_step(method, progress))
    except (SourceChanged, StorageError):
        raise
    except Exception as error:
        result = MethodResult(method=method, failed=_reason(error))
        _log.debug("method %s failed", method, exc_info=True)
        progress(ProgressEvent(method, 1, 1, message=f"failed: {result.failed}"))
        return result
    progress(ProgressEvent(method, 1, 1, message=_in_short(result)))
    return run.complete("measured", result)


def _own(spec: RefreshSpec, plan: Plan, method: str) -> tuple[RefreshSpec, SnapshotRef]:
    """A method's own spec and run."""
    options = spec.model.options if method == spec.model.method else {}
    model = spec.model.model_copy(update={"method": method, "max_seconds": plan.max_seconds, "options": options})
    drawn = spec.sample.model_copy(update={"rows": plan.sample_rows})
    own = spec.model_copy(update={"model": model, "sample": drawn})
    run_id = run_id_of(own, plan.snapshot.fingerprint)
    return own, plan.snapshot.model_copy(update={"run_id": run_id})


def _measured(
    spec: RefreshSpec, snapshot: SnapshotRef, known: Sequence[MethodResult], progress: Progress
) -> MethodResult:
    from tabvae_core.evaluation import evaluate

    can_tell = memory.reset_peak()
    model = steps.train(spec, snapshot, charged=False, progress=progress)
    table = steps.sample(spec, snapshot, model, progress=progress)
    peak = memory.peak_mib() if can_tell else None
    proof = steps.proof_of(spec, snapshot, table)
    evaluation = evaluate(
        proof.holdout,
        proof.synthetic,
        proof.schema,
        train=proof.train,
        target_column=spec.target_column,
        floors_of=next((result.evaluation for result in known if result.evaluation is not None), None),
        progress=progress,
    )
    files = store.list_folder(model.uri, spec.workspace.storage)
    return MethodResult(
        method=model.method,
        fit_seconds=model.seconds,
        stopped_by=_stopped_by(spec, snapshot),
        sample_seconds=table.seconds,
        sample_rows=table.rows,
        model_bytes=sum(files.values()),
        peak_mib=peak,
        evaluation=evaluation,
    )


def _stopped_by(spec: RefreshSpec, snapshot: SnapshotRef) -> str:
    from tabvae_core.bundle import read_header

    with Run(spec, snapshot.run_id).local("model") as bundle:
        return str(read_header(bundle)["record"].get("stopped_by", ""))


def _as_step(method: str, progress: Progress) -> Progress:
    """Say what a method does as one step of its name, whatever steps it is made of."""

    def hear(event: ProgressEvent) -> None:
        count = f"{event.done:,.0f}" + ("" if event.total is None else f"/{event.total:,.0f}")
        counted = f"{count} {event.unit}" if event.unit else ""
        progress(ProgressEvent(method, 0, None, message=" ".join(filter(None, (event.step, counted, event.message)))))

    return hear


def _in_short(result: MethodResult) -> str:
    figure = result.metric("c2st")
    known = "" if figure.value is None else f"AUC {figure.value:.3f}, "
    floor = "" if figure.floor is None else f"floor {figure.floor:.3f}, "
    return f"{known}{floor}{result.seconds:,.0f} s to learn and draw"


def _reason(error: Exception) -> str:
    """Say in one line why a method failed; a foreign error's own text stays out, for it could quote cells."""
    if isinstance(error, TabvaeError):
        return error.message
    if isinstance(error, MemoryError):
        return "not enough memory"
    return f"unexpected {type(error).__name__}"


def conclude(
    spec: RefreshSpec, plan: Plan, results: Sequence[MethodResult], *, progress: Progress = silent
) -> Comparison:
    """Recommend a method and write the report.

    Args:
        spec: The spec of the comparison.
        plan: What `prepare` returned for it.
        results: What was measured; methods of the plan without a result are listed as not measured.
        progress: Told of the report.

    Raises:
        DataError: No method could be measured.
        StorageError: The workspace cannot be written.

    """
    from tabvae_core.evaluation.comparison_report import render_comparison

    if not any(result.evaluation for result in results):
        raise DataError(
            f"no method could be measured: {'; '.join(f'{one.method}: {one.failed}' for one in results)}",
            hint="`tabvae synthesize --method M` says more of a method M",
        )
    progress(ProgressEvent("report", 0, message=f"{len(results)} methods"))
    run = Run(spec, plan.snapshot.run_id)
    of_method = {result.method: result for result in results}
    listed = tuple(of_method.get(m, MethodResult(method=m, failed="not measured: interrupted")) for m in plan.methods)
    comparison = Comparison(
        name=spec.name,
        rows=plan.snapshot.rows,
        train_rows=plan.train_rows,
        results=listed,
        recommendation=recommend(listed),
        interrupted=len(of_method) < len(plan.methods),
        report_uri=run.place("comparison", "report.html"),
    )
    subtitle = f"{plan.train_rows:,} of {plan.snapshot.rows:,} rows learned, the others held out"
    if plan.max_seconds is not None:
        subtitle += f"; at most {plan.max_seconds:,.0f} s of training each"
    with run.output("comparison") as folder:
        render_comparison(
            listed,
            comparison.recommendation,
            {one.method: _view(spec, plan, one.method, one.evaluation) for one in listed if one.evaluation is not None},
            title=spec.name,
            subtitle=subtitle,
            path=folder / "report.html",
        )
        store.write_json(str(folder / "comparison.json"), comparison.model_dump(mode="json"))
    progress(ProgressEvent("report", 1, 1, message=f"recommended: {comparison.recommendation.method or 'none'}"))
    return comparison


_PICTURE_CELLS = 2_000_000
"""Cells of each table that pictures are made of: all methods are held in memory at once."""


def _view(spec: RefreshSpec, plan: Plan, method: str, evaluation: Evaluation) -> TableView:
    """Read a method's sample again, for its pictures."""
    from tabvae_core.evaluation.view import picture_view

    own, snapshot = _own(spec, plan, method)
    table = Run(own, snapshot.run_id).record("sample", TableRef)
    if table is None:
        raise StorageError(f"the sample of {method} is no longer in {spec.workspace.uri}", hint="compare again")
    proof = steps.proof_of(own, snapshot, table)
    view = picture_view(
        proof.holdout, proof.synthetic, proof.schema, max_rows=evaluation.max_rows, seed=evaluation.seed
    )
    return view.thinned(_PICTURE_CELLS, evaluation.seed)
