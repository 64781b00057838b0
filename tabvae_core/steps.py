"""The steps of a refresh as plain functions, reference in and reference out. No orchestrator is needed or known.

    snapshot → train, or the last model → sample → validate → evaluate → publish

Every step is idempotent: its completion record stands in the run's folder of the workspace and is written last, and a
step whose record stands is skipped. So a killed run goes on where it stopped when it is started again.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core import lake as store
from tabvae_core import release
from tabvae_core.bundle import WEIGHTS_FILE
from tabvae_core.checks import (
    check_columns,
    check_conditions,
    check_learnable,
    check_method,
    check_names,
    check_settings,
    check_size,
    decisions,
)
from tabvae_core.codecs.ordinal import plain
from tabvae_core.dates import dated
from tabvae_core.errors import DataError, GateRefused, SpecError
from tabvae_core.lake import ParquetSink, ParquetSource
from tabvae_core.lakehouse import follow
from tabvae_core.lease import turn
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.references import (
    EvaluationRef,
    GateResult,
    ModelChoice,
    ModelRef,
    ReleaseRef,
    SnapshotRef,
    TableRef,
    ValidationRef,
)
from tabvae_core.schema import TableSchema, schema_fingerprint
from tabvae_core.source_rows import (
    PARTS,
    REFERENCE_ROWS,
    compared_rows,
    files_digest,
    measured_rows,
    open_source,
    part_of,
    pinned_source,
)
from tabvae_core.spec import BalanceSpec, RefreshSpec
from tabvae_core.tables import InMemoryTable, Part, RowSample, RowSplit, TableSource, collect
from tabvae_core.workspace import Run, code_version, run_id_of

__all__ = [
    "PROFILE_FILE",
    "Proof",
    "check_begun_alike",
    "codecs_of",
    "draw",
    "evaluate",
    "find_model",
    "find_snapshot",
    "keep_schema",
    "last_release",
    "learn",
    "proof_of",
    "publish",
    "read_evaluation",
    "refresh",
    "released_by",
    "sample",
    "seed_of",
    "skipped",
    "snapshot",
    "train",
    "up_to_date",
    "validate",
]

if TYPE_CHECKING:
    from tabvae_core.codecs.table import TableCodec
    from tabvae_core.drift import Profile
    from tabvae_core.evaluation import Augmentation, Evaluation
    from tabvae_core.privacy.near_copies import NearCopies
    from tabvae_core.privacy.receipt import Spent
    from tabvae_core.sampling import TableSink
    from tabvae_core.synthesizers.base import Synthesizer

R = TypeVar("R")

_log = logging.getLogger(__name__)

PROFILE_FILE = "profile.json"
"""Beside a model: what the rows that it learned look like; see `tabvae_core.drift`."""

_COMPANY = ("evaluation.json", "privacy.json", "privacy.html")
"""Files that stand beside the report, in the workspace and in a release."""
_LEAST_MATCHING = 10
_MOST_AUGMENTED = 0.9
"""Share of a class to which training rows are brought at most, where a table is of that class alone."""


def refresh(spec: RefreshSpec, *, force: bool = False, wait: bool = True, progress: Progress = silent) -> ReleaseRef:
    """Run a whole refresh in this process, one of a target at a time.

    Args:
        spec: The refresh.
        force: Make and publish a new version even where source and spec are those of the current release.
        wait: Wait for a refresh of the same target that is running; else fail.
        progress: Told what each step does.

    Returns:
        The published release; the current one, marked `unchanged`, where there was nothing to do.

    Raises:
        PublishConflict: Another refresh of the target is running and `wait` is false, or another writer was first.
        TabvaeError: See the steps. The last published version stays whatever fails.

    """
    spec = dated(spec)
    with turn(spec.target, wait=wait, progress=progress):
        return _refresh(spec, force, progress)


def _refresh(spec: RefreshSpec, force: bool, progress: Progress) -> ReleaseRef:
    from tabvae_core.policy import choose_model

    pinned = snapshot(spec, force=force, progress=progress)
    if (release_ref := up_to_date(spec, pinned)) is not None:
        return release_ref
    model = choose_model(spec, pinned, progress=progress).model or train(spec, pinned, progress=progress)
    table = sample(spec, pinned, model, progress=progress)
    validation = validate(spec, pinned, model, table, progress=progress)
    evaluation = evaluate(spec, pinned, model, table, validation, progress=progress)
    return publish(spec, pinned, model, table, validation, evaluation, progress=progress)


def snapshot(spec: RefreshSpec, *, force: bool = False, progress: Progress = silent) -> SnapshotRef:
    """Pin the source: its objects, rows and schema. Nothing is copied.

    Args:
        spec: The refresh.
        force: Start a run of its own, beside any that this source and spec had.
        progress: Told of the files.

    Raises:
        DataError: The source is missing, malformed, or has too few rows to hold some out.
        SchemaDrift: Its columns are not those of `expect_columns`.
        SpecError: The spec names a column that there is not, or has a rule that cannot be read.
        StorageError: It cannot be reached.

    """
    progress(ProgressEvent("snapshot", 0, message=f"reading {spec.source.uri}"))
    source = open_source(spec)
    check_columns(spec, source.schema)
    check_names(spec, source.schema)
    check_size(spec, source)
    run_id = run_id_of(spec, source.fingerprint) + (f"-{secrets.token_hex(4)}" if force else "")
    reference = SnapshotRef(
        run_id=run_id,
        uri=spec.source.uri,
        files=tuple(source.files),
        rows=source.num_rows,
        columns=len(source.schema),
        fingerprint=source.fingerprint,
        schema_fingerprint=schema_fingerprint(source.schema),
    )
    run = Run(spec, run_id)
    store.write_bytes(run.place("spec.yaml"), spec.to_yaml().encode(), run.storage)
    run.complete("snapshot", reference)
    size = f"{reference.rows:,} rows, {reference.columns} columns, {len(reference.files)} files"
    progress(ProgressEvent("snapshot", 1, 1, message=size))
    return reference


def up_to_date(spec: RefreshSpec, snapshot: SnapshotRef) -> ReleaseRef | None:
    """Find the current release if this source, spec and code version already led to a release; else None.

    A version that this run published and that was rolled back since stays rolled back: the current release is then
    returned as well, because only a changed source or spec, or `force`, asks for a new one. A source of a date is
    released once, and what was released then is returned, current or not: the release of another date is no older one.

    Raises:
        StorageError: There is something to publish, and the target cannot be written: better known before a training
            of hours than after.

    """
    # A run that was killed after it moved the pointer left a Delta or Iceberg table behind it.
    follow(spec.target)
    pointer = release.read_pointer(spec.target)
    run = Run(spec, snapshot.run_id)
    store.write_json(run.place("pointer.json"), pointer.model_dump(mode="json"), run.storage)
    done = run.record("publish", ReleaseRef) if spec.source.date is not None else None
    if (standing := done or released_by(spec, snapshot.run_id)) is not None:
        return standing.model_copy(update={"unchanged": True})
    store.check_writable(spec.target.uri, spec.target.storage)
    return None


def released_by(spec: RefreshSpec, run_id: str) -> ReleaseRef | None:
    """Find the release that stands and needs no other by a run of this name; None where one is to be made."""
    current = release.current(spec.target)
    if current is None or run_id in (current.run_id, _origin(current.run_id)):
        return current
    newest = release.releases(spec.target)[0]
    if newest.version != current.version and _origin(newest.run_id) == run_id:
        _log.info("version %s of this source was rolled back; %s stays", newest.version, current.version)
        return current
    return None


def _origin(run_id: str) -> str:
    """Name the run of the same source, spec and code without the part that `force` adds."""
    return run_id.split("-")[0]


def train(spec: RefreshSpec, snapshot: SnapshotRef, *, charged: bool = True, progress: Progress = silent) -> ModelRef:
    """Learn the rows that are not held out.

    Args:
        spec: The refresh.
        snapshot: The pinned source.
        charged: Whether a private training is written into the ledger; not where nothing leaves the workspace.
        progress: Told of every epoch.

    Raises:
        BudgetExceeded: The trainings of this source would spend more than `privacy.total_epsilon`.
        DataError: The table cannot be learned, or the ledger was tampered with.
        SourceChanged: The source is no longer the one that was pinned.
        SpecError: A rule or a given value does not fit the columns.

    """
    run = Run(spec, snapshot.run_id)
    if charged:
        _reserve(spec, run)
    if (done := run.record("train", ModelRef)) is not None:
        return skipped("train", done, progress)
    writing = store.storage_errors(run.place("checkpoint"))
    with pinned_source(spec, snapshot) as source, run.checkpoint() as checkpoint, writing:
        rows = RowSplit(source, "train", holdout=spec.gates.holdout, seed=spec.model.seed)
        synthesizer = learn(spec, rows, drawn=snapshot.rows, checkpoint=checkpoint, progress=progress)
    with run.output("model") as folder:
        with store.storage_errors(str(folder)):
            synthesizer.save(folder)
        if spec.privacy.epsilon is None:
            profile = _profile(spec, snapshot, synthesizer.schema)
            store.write_json(str(folder / PROFILE_FILE), profile.model_dump(mode="json"))
        digest = store.file_sha256(str(folder / WEIGHTS_FILE))
    keep_schema(run, synthesizer.schema)
    _settle(spec, run, synthesizer.record, charged=charged)
    reference = ModelRef(
        run_id=run.run_id,
        uri=run.place("model"),
        sha256=digest,
        method=spec.model.method,
        rows=synthesizer.schema.rows if synthesizer.schema.public else rows.num_rows,
        seconds=float(synthesizer.record.get("seconds", 0.0)),
    )
    return run.complete("train", reference)


def keep_schema(run: Run, schema: TableSchema) -> None:
    """Write what the model of a run knows of the columns, for the steps after it."""
    store.write_json(run.place("schema.json"), schema.model_dump(mode="json"), run.storage)


def _profile(spec: RefreshSpec, snapshot: SnapshotRef, schema: TableSchema) -> Profile:
    """Describe the rows that were learned, so that a later source can be held against them."""
    from tabvae_core.drift import Profile, profile_of

    with pinned_source(spec, snapshot) as source:
        rows = compared_rows(spec, source)
    return Profile(
        rows=rows.num_rows,
        schema_fingerprint=snapshot.schema_fingerprint,
        files=len(snapshot.files),
        files_digest=files_digest(snapshot.files),
        columns=profile_of(rows, schema, spec.privacy),
    )


def find_snapshot(spec: RefreshSpec, run_id: str) -> SnapshotRef:
    """Find the snapshot of a run that another process began, perhaps on another machine.

    Raises:
        SpecError: The workspace does not have it, or it is of another spec or of another version of tabvae.

    """
    run = Run(spec, run_id)
    found = run.record("snapshot", SnapshotRef)
    if found is None:
        where = f"{store.safe_uri(spec.workspace.uri)}, as {socket.gethostname()} sees it,"
        raise SpecError(
            f"workspace {where} has no run {run_id}",
            hint="name a workspace that all workers reach, such as a folder of an object store",
        )
    check_begun_alike(spec, found)
    return found


def check_begun_alike(spec: RefreshSpec, snapshot: SnapshotRef) -> None:
    """Refuse a run that another spec or other code has begun: a run's name holds both, and a model belongs to its run.

    Raises:
        SpecError: It was begun so.

    """
    if run_id_of(spec, snapshot.fingerprint) != _origin(snapshot.run_id):
        raise SpecError(
            f"run {snapshot.run_id} was begun with another spec, or by another version of tabvae than {code_version()}"
            " here",
            hint="install the same version of tabvae on all workers",
        )


def find_model(spec: RefreshSpec, snapshot: SnapshotRef) -> ModelRef | None:
    """Find the model that a run has trained; None where it has not yet."""
    return Run(spec, snapshot.run_id).record("train", ModelRef)


def _reserve(spec: RefreshSpec, run: Run) -> None:
    """Write into the ledger what a private training may cost, before it begins."""
    if spec.privacy.epsilon is None:
        return
    from tabvae_core.privacy.ledger import Ledger, Mark
    from tabvae_core.synthesizers import registry

    check_method(spec)
    whole = [one.version for one in release.releases(spec.target) if not one.problem]
    stated = (release.read_manifest(spec.target, version).privacy for version in whole)
    marks = [Mark.model_validate(one["ledger"]) for one in stated if one is not None and "ledger" in one]
    Ledger.of(spec).reserve(run.run_id, spec, registry.find(spec.model.method).planned_loss(spec.privacy), marks)


def _settle(spec: RefreshSpec, run: Run, record: Mapping[str, Any], *, charged: bool) -> None:
    """Keep what a private training has spent, in the ledger and for the release."""
    spending = record.get("privacy")
    if spec.privacy.epsilon is None or spending is None:
        return
    from tabvae_core.privacy.accounting import Loss
    from tabvae_core.privacy.ledger import Ledger

    if charged:
        Ledger.of(spec).settle(run.run_id, spec, Loss.from_json(spending["loss"]))
    store.write_json(run.place("privacy.json"), spending, run.storage)


def learn(
    spec: RefreshSpec,
    rows: TableSource,
    *,
    drawn: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Synthesizer:
    """Infer the schema of rows, check the spec against it, and learn them.

    Args:
        spec: Columns, rules, given values, classes, model, privacy.
        rows: The training rows.
        drawn: Rows that will be drawn where the spec does not say; as many as are learned, where left out.
        checkpoint: Folder for checkpoints.
        progress: Told of every epoch.

    Raises:
        DataError: The rows cannot be learned, or the GPU's memory does not hold them.
        SpecError: A column, rule or given value of the spec does not fit the table.

    """
    import torch

    from tabvae_core.inference import infer_schema
    from tabvae_core.synthesizers import registry

    check_method(spec)
    synthesizer = registry.create(spec.model.method, spec.model, spec.privacy)
    schema = infer_schema(
        rows, overrides=spec.columns, unlearnable=spec.unlearnable, privacy=spec.privacy, progress=progress
    )
    check_settings(spec, schema)
    check_learnable(spec, rows, schema, rows.num_rows if drawn is None else drawn)
    for line in decisions(schema):
        _log.info("%s", line)
    try:
        return synthesizer.fit(rows, schema, progress=progress, checkpoint=checkpoint)
    except torch.OutOfMemoryError:
        raise DataError(
            "the memory of the GPU does not hold the table or the model",
            hint="lower model.max_rows or model.batch_size, or set model.device: cpu",
        ) from None


def draw(
    spec: RefreshSpec,
    schema: TableSchema,
    sink: TableSink,
    bundle: Path,
    rows: int,
    *,
    given: TableSource | None = None,
    learned: TableSource | None = None,
    progress: Progress = silent,
) -> int | None:
    """Draw rows from a model bundle into an open sink: exactly as many as asked for, all of which satisfy the rules.

    Args:
        spec: Rules, columns' bounds, and `sample`.
        schema: What the model learned.
        sink: Takes the rows.
        bundle: Local folder of the model.
        rows: Rows wanted.
        given: Table whose cells are kept and whose nulls are filled, in place of `sample.given` and `sample.balance`.
        learned: The training rows, where there are any to hold near copies against.
        progress: Told of every block.

    Returns:
        Rows that were near copies of rare training rows and were drawn again; None where none were looked for.

    Raises:
        DataError: The given table is empty, or holds cells that cannot become what the columns hold.
        ImpossibleRule: Too few drawn rows satisfy a rule.
        SpecError: A given value, column or rule does not fit the columns.

    """
    from tabvae_core.balance import class_rows
    from tabvae_core.given import given_values
    from tabvae_core.rules import bounds_of
    from tabvae_core.sampling import sample_to
    from tabvae_core.synthesizers.registry import load_bundle

    check_settings(spec, schema)
    model, balance = load_bundle(bundle), spec.sample.balance
    near = _near_copies(spec, schema, learned, progress)
    if spec.sample.given or balance is not None or given is not None:
        check_conditions(type(model), "given" if balance is None else "sample.balance")
    if balance is not None and given is None:
        codec = codecs_of(bundle).codec_of(balance.column)
        given = InMemoryTable(class_rows(balance, codec, schema, rows).table(spec.sample.seed))
    sample_to(
        sink,
        model,
        rows,
        seed=spec.sample.seed,
        shards=spec.sample.shards,
        given=given_values(spec.sample.given, schema) if given is None else given,
        rules=spec.rules,
        conditions=() if near is None else (near,),
        bounds=bounds_of(spec.rules, schema, spec.columns),
        max_tries=spec.sample.max_tries,
        progress=progress,
    )
    return None if near is None else near.redrawn


def _near_copies(
    spec: RefreshSpec, schema: TableSchema, learned: TableSource | None, progress: Progress
) -> NearCopies | None:
    """What finds near copies of training rows; None where the spec keeps them.

    Raises:
        SpecError: There are no training rows to compare with.

    """
    from tabvae_core.privacy.near_copies import NearCopies

    if spec.privacy.near_copies == "keep":
        return None
    if learned is None:
        raise SpecError(
            "privacy.near_copies: redraw needs the training rows, and a model holds none",
            hint="draw by `tabvae refresh` or `tabvae synthesize`, or leave near_copies at keep",
        )
    rows = RowSample(learned, spec.model.max_rows, seed=spec.model.seed)
    return NearCopies.fit(rows, schema, progress=progress)


def sample(spec: RefreshSpec, snapshot: SnapshotRef, model: ModelRef, *, progress: Progress = silent) -> TableRef:
    """Draw the synthetic table into the workspace: exactly the rows asked for, all of which satisfy the rules.

    A model that another run trained draws with a seed of its own, see `seed_of`.

    Raises:
        ImpossibleRule: Too few drawn rows satisfy a rule.

    """
    run = Run(spec, snapshot.run_id)
    if (done := run.record("sample", TableRef)) is not None and _table_stands(run, done):
        return skipped("sample", done, progress)
    drawn = spec.sample.model_copy(update={"seed": seed_of(spec, snapshot.run_id, model)})
    spec = spec.model_copy(update={"sample": drawn})
    schema = _schema_of(run)
    run.remove("table")
    started = time.monotonic()
    sink = ParquetSink(run.place("table"), schema.arrow, storage=run.storage, rows_per_file=spec.sample.rows_per_file)
    with run.local("model") as bundle, _learned(spec, snapshot) as learned, sink:
        rows = _rows_to_draw(spec, snapshot, schema)
        redrawn = draw(spec, schema, sink, bundle, rows, learned=learned, progress=progress)
    reference = TableRef(
        run_id=run.run_id,
        uri=run.place("table"),
        files=sink.files,
        rows=sink.rows,
        schema_fingerprint=schema_fingerprint(schema.arrow),
        seconds=round(time.monotonic() - started, 3),
        redrawn=redrawn,
    )
    return run.complete("sample", reference)


def seed_of(spec: RefreshSpec, run_id: str, model: ModelRef) -> int:
    """Choose the seed that a run draws with: the spec's own, or one that follows from it and the run's name.

    The same model and seed draw the same bytes: a new release from the model of an older one needs another seed. A run
    that is started again draws the same rows, because its name is the same.
    """
    if model.run_id == run_id:
        return spec.sample.seed
    return int.from_bytes(hashlib.sha256(f"{spec.sample.seed} {run_id}".encode()).digest()[:4]) >> 1


def _rows_to_draw(spec: RefreshSpec, snapshot: SnapshotRef, schema: TableSchema) -> int:
    """As many as the source has; where that is private, as the noisy count of the rows that were learned says."""
    if spec.sample.rows is not None:
        return spec.sample.rows
    return max(1, round(schema.rows / (1 - spec.gates.holdout))) if schema.public else snapshot.rows


def validate(
    spec: RefreshSpec,
    snapshot: SnapshotRef,
    model: ModelRef,
    table: TableRef,
    *,
    progress: Progress = silent,
) -> ValidationRef:
    """Check the synthetic table against schema and rules. A refusal is a result, not an error."""
    run = Run(spec, snapshot.run_id)
    if (done := run.record("validate", ValidationRef)) is not None:
        return skipped("validate", done, progress)
    from tabvae_core import gates
    from tabvae_core.evaluation import reweighted

    progress(ProgressEvent("validate", 0, message="schema, ranges, rules, distributions"))
    schema = _schema_of(run)
    train, holdout = (_measured(spec, snapshot, part, REFERENCE_ROWS) for part in PARTS)
    drawn = ParquetSource(table.uri, storage=run.storage)
    if spec.sample.balance is not None:
        column = schema.column(spec.sample.balance.column)
        classes = pa.Table.from_batches(drawn.batches([column.name]))
        train, holdout = (reweighted(part, classes, column, spec.sample.seed) for part in (train, holdout))
    references = gates.reference_histograms(holdout, schema)
    floors = gates.floors_of(references, train)
    with run.local("model") as bundle:
        codecs = codecs_of(bundle)
    with run.output("docs") as folder:
        results = gates.validate(
            drawn,
            schema,
            spec.rules,
            rows=_rows_to_draw(spec, snapshot, schema),
            categories=_categories(codecs),
            formats=_formats(codecs),
            references=references,
            jsd_limits={name: min(1.0, spec.gates.max_column_jsd + floor) for name, floor in floors.items()},
            docs=folder if spec.gates.data_docs else None,
            name=spec.name,
            progress=progress,
        )
    passed = all(result.passed for result in results)
    reference = ValidationRef(
        run_id=run.run_id,
        passed=passed,
        results=tuple(results),
        docs_uri=run.place("docs") if spec.gates.data_docs else None,
    )
    progress(ProgressEvent("validate", 1, 1, message=_verdict(reference.results)))
    return run.complete("validate", reference)


def evaluate(
    spec: RefreshSpec,
    snapshot: SnapshotRef,
    model: ModelRef,
    table: TableRef,
    validation: ValidationRef,
    *,
    progress: Progress = silent,
) -> EvaluationRef:
    """Measure the synthetic table against held-out rows, attack it, and write the report and the privacy receipt."""
    run = Run(spec, snapshot.run_id)
    if (done := run.record("evaluate", EvaluationRef)) is not None:
        return skipped("evaluate", done, progress)
    from tabvae_core import evaluation, gates, privacy
    from tabvae_core.bundle import read_header
    from tabvae_core.privacy.receipt import receipt_of

    progress(ProgressEvent("evaluate", 0, message="against held-out rows"))
    proof, balance = proof_of(spec, snapshot, table), spec.sample.balance
    with run.output("report") as folder:
        figures = evaluation.evaluate(
            proof.holdout, proof.synthetic, proof.schema, train=proof.train, target_column=spec.target_column,
            balanced=balance.column if balance else None, progress=progress,
        )  # fmt: skip
        if balance is not None:
            figures = figures.model_copy(update={"augmentation": _gain(balance, proof, progress)})
        results = gates.gate_metrics(figures.metrics, figures.columns, spec.gates, rows=figures.rows)
        attacked: tuple[GateResult, ...] = ()
        if spec.gates.attacks:
            found = privacy.attack(proof.train, proof.holdout, proof.synthetic, proof.schema, progress=progress)
            figures = figures.model_copy(update={"privacy": found})
            attacked = gates.gate_attacks(found, spec.gates)
        results = (*results, *attacked)
        evaluation.render_report(
            figures,
            proof.holdout,
            proof.synthetic,
            proof.schema,
            title=spec.name,
            subtitle=f"{table.rows:,} synthetic rows by {model.method}, learned from {model.rows:,} rows",
            gates=(*validation.results, *results),
            path=folder / "report.html",
        )
        store.write_json(str(folder / "evaluation.json"), figures.model_dump(mode="json"))
        with run.local("model") as bundle:
            record = read_header(bundle)["record"]
        receipt = receipt_of(
            spec, proof.schema, record, run_id=run.run_id, learned_rows=model.rows,
            held_out_rows=snapshot.rows - model.rows, synthetic_rows=table.rows, redrawn_rows=table.redrawn,
            attacks=figures.privacy, gates=attacked, spent=_spent(spec, run),
        )  # fmt: skip
        store.write_json(str(folder / "privacy.json"), receipt.model_dump(mode="json"))
        evaluation.render_receipt(receipt, folder / "privacy.html")
    reference = EvaluationRef(
        run_id=run.run_id,
        passed=all(result.passed for result in results),
        results=results,
        metrics=figures.model_dump(mode="json")["metrics"],
        report_uri=run.place("report", "report.html"),
    )
    progress(ProgressEvent("evaluate", 1, 1, message=_verdict(results)))
    return run.complete("evaluate", reference)


@dataclass(frozen=True)
class Proof:
    """The rows that a synthetic table is measured by, and its own, as many as fit into memory.

    Args:
        schema: The columns that were learned.
        train: Rows that were learned.
        holdout: Rows that were held out.
        synthetic: The table.

    """

    schema: TableSchema
    train: pa.Table
    holdout: pa.Table
    synthetic: pa.Table


def proof_of(spec: RefreshSpec, snapshot: SnapshotRef, table: TableRef) -> Proof:
    """Read what a sampled table is measured by.

    Raises:
        DataError: The model's schema is not in the workspace, or too few rows have the given values.
        SourceChanged: The source is no longer the one that was pinned.

    """
    run = Run(spec, snapshot.run_id)
    schema = _schema_of(run)
    most = measured_rows(len(schema.columns))
    train, holdout = (_measured(spec, snapshot, part, most) for part in PARTS)
    return Proof(schema, train, holdout, collect(ParquetSource(table.uri, storage=run.storage), max_rows=most))


def _gain(balance: BalanceSpec, proof: Proof, progress: Progress) -> Augmentation | None:
    """What the class that was made more frequent than any other gains a classifier; None where none was."""
    from tabvae_core.evaluation.augmentation import augmentation, of_class
    from tabvae_core.given import given_values

    raised = []
    for name in (*balance.shares, *balance.counts):
        value = given_values({balance.column: name}, proof.schema)[balance.column]
        real, drawn = (float(of_class(table, balance.column, value).mean()) for table in (proof.train, proof.synthetic))
        raised += [(drawn / real, drawn, value)] if drawn > real > 0 else []
    if not raised:
        return None
    _, share, value = max(raised, key=lambda one: one[0])
    gain = augmentation(
        proof.train, proof.holdout, proof.synthetic, proof.schema,
        column=balance.column, value=value, share=min(share, _MOST_AUGMENTED), seed=0, progress=progress,
    )  # fmt: skip
    if gain is not None:
        _log.info("%s", gain.sentence)
    return gain


def publish(
    spec: RefreshSpec,
    snapshot: SnapshotRef,
    model: ModelRef,
    table: TableRef,
    validation: ValidationRef,
    evaluation: EvaluationRef,
    *,
    progress: Progress = silent,
) -> ReleaseRef:
    """Publish an accepted table; quarantine a refused one, with its report.

    A private table goes without report, figures and fingerprint of the source: they are made of real rows, and nothing
    pays for them. They stay in the workspace.

    Raises:
        GateRefused: A gate refused; the pointer did not move.
        PublishConflict: Another writer moved the pointer first.
        StorageError: The target cannot be written.

    """
    run = Run(spec, snapshot.run_id)
    done = run.record("publish", ReleaseRef)
    if done is not None and _is_current(spec, done):
        return skipped("publish", done, progress)
    _raise_if_refused(run)
    private = spec.privacy.epsilon is not None
    fields: dict[str, Any] = {"spec": spec.model_dump(mode="json"), "source_fingerprint": "", "model": model}
    if private:
        fields["privacy"] = _spending(spec, run)
    else:
        fields["source_fingerprint"] = snapshot.fingerprint
        fields |= {"gates": (*validation.results, *evaluation.results), "metrics": evaluation.metrics}
        fields["drift"] = run.record("drift", ModelChoice)
    company: dict[str, Any] = {
        "target": spec.target,
        "manifest_fields": fields,
        "workspace_storage": run.storage,
        "extra_files": {} if private else _beside_the_table(run, validation, evaluation),
        "version": _version(spec, run, done),
    }
    if not (validation.passed and evaluation.passed):
        progress(ProgressEvent("publish", 0, message="refused, to quarantine"))
        quarantine = release.quarantine(table, **company)
        report = evaluation.report_uri if private else f"{quarantine}/report.html"
        _refuse(run, quarantine, report, validation, evaluation)
    progress(ProgressEvent("publish", 0, message=f"to {store.safe_uri(spec.target.uri)}"))
    expected = run.read("pointer")
    state = None if expected is None else release.PointerState.model_validate(expected)
    reference = release.publish(table, **company, expected=state)
    if private:  # it was made of held-out rows, and stays where they may be seen
        reference = reference.model_copy(update={"report_uri": evaluation.report_uri})
    run.complete("publish", reference)
    run.remove("table")
    progress(ProgressEvent("publish", 1, 1, message=f"version {reference.version}"))
    return reference


def last_release(spec: RefreshSpec) -> release.Manifest | None:
    """Read what is known of the release that readers have now; None where nothing was published yet."""
    pointer = release.read_pointer(spec.target).pointer
    return None if pointer is None else release.read_manifest(spec.target, pointer.version)


def read_evaluation(spec: RefreshSpec, evaluation: EvaluationRef) -> Evaluation:
    """Read an evaluation in full, column by column and pair by pair."""
    from tabvae_core.evaluation import Evaluation

    run = Run(spec, evaluation.run_id)
    return Evaluation.model_validate(store.read_json(run.place("report", "evaluation.json"), run.storage))


@contextmanager
def _learned(spec: RefreshSpec, snapshot: SnapshotRef) -> Iterator[TableSource | None]:
    """Open the training rows for a step that looks at them only where near copies are drawn again."""
    if spec.privacy.near_copies == "keep":
        yield None
        return
    with pinned_source(spec, snapshot) as source:
        yield part_of(spec, source, "train")


def _measured(spec: RefreshSpec, snapshot: SnapshotRef, part: Part, max_rows: int) -> pa.Table:
    """Read one side of the split into memory, as many rows as are measured at most; those with the given values only.

    Raises:
        DataError: So few rows have the given values that nothing can be proven by them.

    """
    from tabvae_core.given import given_values

    with pinned_source(spec, snapshot) as source:
        table = collect(part_of(spec, source, part), max_rows=max_rows)
    for name, value in given_values(spec.sample.given, _schema_of(Run(spec, snapshot.run_id))).items():
        column = plain(table[name])
        same = column.is_null() if value is None else pc.equal(column, pa.scalar(value).cast(column.type))
        table = table.filter(pc.fill_null(same, False))
    if spec.sample.given and table.num_rows < _LEAST_MATCHING:
        raise DataError(
            f"only {table.num_rows} {part} rows have the values of sample.given, too few to prove the table by",
            hint="give more frequent values, or raise gates.holdout",
        )
    return table


def codecs_of(bundle: Path) -> TableCodec:
    """Read the codecs of a bundle alone: what the model knows of each column."""
    from tabvae_core.bundle import read_bundle
    from tabvae_core.codecs.table import TableCodec

    stored = read_bundle(bundle)
    return TableCodec.restore(stored.schema, stored.codecs)


def _categories(codecs: TableCodec) -> dict[str, tuple[Any, ...]]:
    """The learned values of the categorical columns."""
    from tabvae_core.codecs.category import CategoryCodec

    named = zip(codecs.schema.names, codecs.codecs, strict=True)
    return {name: tuple(codec.categories.to_pylist()) for name, codec in named if isinstance(codec, CategoryCodec)}


def _formats(codecs: TableCodec) -> dict[str, str]:
    """Regular expressions of the columns whose keys are made anew in the source's format."""
    from tabvae_core.codecs.identifier import IdentifierCodec

    named = zip(codecs.schema.names, codecs.codecs, strict=True)
    return {
        name: codec.regex for name, codec in named if isinstance(codec, IdentifierCodec) and codec.regex is not None
    }


def _schema_of(run: Run) -> TableSchema:
    data = run.read("schema")
    if data is None:
        raise DataError(
            f"run {run.run_id} has no schema in {run.uri}", hint="train first; `tabvae refresh` does it all"
        )
    return TableSchema.model_validate(data)


def _table_stands(run: Run, table: TableRef) -> bool:
    """Say whether the sampled files are needed no more, or are still there."""
    if run.read("refused") is not None:
        return True
    sizes = store.list_folder(table.uri, run.storage)
    return all(sizes.get(file.path) == file.bytes for file in table.files)


def _is_current(spec: RefreshSpec, published: ReleaseRef) -> bool:
    pointer = release.read_pointer(spec.target).pointer
    return pointer is not None and pointer.version == published.version


def _version(spec: RefreshSpec, run: Run, done: ReleaseRef | None) -> str:
    """Name the version, the same for every try: a try whose outcome is unknown must not publish a second one.

    A version that was published before and still stands only needs the pointer back; one that retention has removed is
    published under a new name, because names sort by age.
    """
    known = run.read("version")
    if known is not None and (done is None or any(r.version == known for r in release.releases(spec.target))):
        return str(known)
    version = release.new_version(run.run_id)
    store.write_json(run.place("version.json"), version, run.storage)
    return version


def _spending(spec: RefreshSpec, run: Run) -> dict[str, Any]:
    """What a release says of its privacy: what was spent, and on which line of the ledger it stands."""
    from tabvae_core.privacy.ledger import Ledger

    return {**(run.read("privacy") or {}), "ledger": Ledger.of(spec).mark(run.run_id).model_dump(mode="json")}


def _spent(spec: RefreshSpec, run: Run) -> Spent | None:
    """What the receipt says of differential privacy; None where there is none."""
    if spec.privacy.epsilon is None:
        return None
    from tabvae_core.privacy.ledger import Ledger, total, total_delta
    from tabvae_core.privacy.receipt import Spent

    own, entries = run.read("privacy") or {}, Ledger.of(spec).entries()
    delta = total_delta(entries, spec.privacy)
    return Spent(
        epsilon=float(own.get("spent_epsilon", spec.privacy.epsilon)),
        delta=float(own.get("delta", spec.privacy.delta)),
        said=f"{own.get('accounting', 'Epsilons added up')}; the ledger adds up all trainings on the source.",
        total_epsilon=total(entries, delta),
        total_delta=delta,
    )


def _beside_the_table(run: Run, validation: ValidationRef, evaluation: EvaluationRef) -> dict[str, str]:
    files = {name: run.place("report", name) for name in ("report.html", *_COMPANY)}
    return files if validation.docs_uri is None else {**files, "docs": validation.docs_uri}


def _refuse(run: Run, quarantine: str, report: str, validation: ValidationRef, evaluation: EvaluationRef) -> NoReturn:
    """Record a refusal, so that the next run of the same spec says the same at once, and raise it."""
    results = (*validation.results, *evaluation.results)
    failures = [_failure(result) for result in results if not result.passed]
    more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
    refused = {
        "message": f"{len(failures)} of {len(results)} gates refused: {'; '.join(failures[:3])}{more}",
        "failures": failures,
        "quarantine": quarantine,
        "hint": f"see {report}; the last published version stays. Train longer "
        "(model.epochs), change gates or rules in the spec, or run again with --force",
    }
    store.write_json(run.place("refused.json"), refused, run.storage)
    run.remove("table")
    _raise_if_refused(run)
    raise GateRefused(str(refused["message"]))


def _raise_if_refused(run: Run) -> None:
    refused = run.read("refused")
    if refused is not None:
        raise GateRefused(
            refused["message"],
            failures=tuple(refused["failures"]),
            quarantine=refused["quarantine"],
            hint=refused["hint"],
        )


def _failure(result: GateResult) -> str:
    where = f"{result.name} of column {result.column}" if result.column else result.name
    return result.detail.removeprefix("refused: ") or where


def _verdict(results: tuple[GateResult, ...]) -> str:
    refused = sum(not result.passed for result in results)
    return f"{len(results)} gates, {refused} refused" if refused else f"all {len(results)} gates passed"


def skipped(step: str, reference: R, progress: Progress) -> R:
    """Give the result of a step that was done before, and say so."""
    progress(ProgressEvent(step, 1, 1, message="done before"))
    return reference
