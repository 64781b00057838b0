"""Train anew, or draw from the last model: what `RefreshSpec.policy` decides.

The last model is that of the target's current release: a table drawn from it passed every gate while held-out rows were
rows that it had never seen. It is used again only for a spec that would train the same, by the same version of tabvae,
and while the source has the same columns; not after a table drawn from it was refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pydantic import ValidationError

from tabvae_core import lake as store
from tabvae_core import release, steps
from tabvae_core.bundle import WEIGHTS_FILE
from tabvae_core.checks import check_columns, check_names, check_size
from tabvae_core.drift import Profile, drift_of
from tabvae_core.errors import DataError, ModelFileError
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.references import ColumnDrift, ModelChoice, ModelRef, SnapshotRef, SourceFile
from tabvae_core.schema import schema_fingerprint
from tabvae_core.source_rows import compared_rows, files_digest, open_source, pinned_source
from tabvae_core.spec import RefreshSpec
from tabvae_core.workspace import Run, code_version, run_id_of

__all__ = ["Outlook", "choose_model", "outlook"]

_log = logging.getLogger(__name__)

_STEP = "drift"


@dataclass(frozen=True)
class Outlook:
    """What a refresh would do now.

    Args:
        choice: The measured drift, and the choice of a model where one is needed.
        standing: Version that is current and came from this source and spec, so that nothing would be done.

    """

    choice: ModelChoice
    standing: str | None

    @property
    def sentence(self) -> str:
        """Say what a refresh would do, and why."""
        if self.standing is not None:
            return f"a refresh would do nothing: source and spec are those of version {self.standing}"
        does = {"train": "train anew", "reuse": "draw a new table from the last model"}[self.choice.decision]
        return f"a refresh would {does}: {self.choice.reason}"


@dataclass(frozen=True)
class _Last:
    """A model that could be used again.

    Args:
        model: The model.
        profile: The rows that it learned.
        filters: Conditions under which they were read.

    """

    model: ModelRef
    profile: Profile
    filters: tuple[str, ...]


def choose_model(spec: RefreshSpec, snapshot: SnapshotRef, *, progress: Progress = silent) -> ModelChoice:
    """Decide whether the last model draws the new table, and take it over into this run if it does.

    Args:
        spec: The refresh; `policy` decides.
        snapshot: The pinned source.
        progress: Told of the drift.

    Returns:
        The choice; its `model` is None where one must be trained.

    Raises:
        DataError: The target's pointer or manifest is damaged.
        SourceChanged: The source is no longer the one that was pinned.
        StorageError: Source, target or workspace cannot be reached.

    """
    run = Run(spec, snapshot.run_id)
    if (done := run.record(_STEP, ModelChoice)) is not None:
        return steps.skipped(_STEP, done, progress)
    if spec.policy.retrain == "changed":
        return _train(spec, snapshot.run_id, _ALWAYS)
    progress(ProgressEvent(_STEP, 0, message="against the rows that the last model learned"))

    def rows() -> pa.Table:
        with pinned_source(spec, snapshot) as source:
            return compared_rows(spec, source)

    choice = _decide(spec, run.run_id, snapshot.files, snapshot.schema_fingerprint, rows)
    if choice.model is not None:
        choice = _take_over(spec, run, choice, choice.model)
    does = "the last model draws the new table" if choice.model else "training anew"
    _log.info("%s: %s", does, choice.reason)
    progress(ProgressEvent(_STEP, 1, 1, message=does))
    return run.complete(_STEP, choice)


def outlook(spec: RefreshSpec, *, progress: Progress = silent) -> Outlook:
    """Measure drift and say what a refresh would do; nothing is written.

    Raises:
        DataError: The source is missing, malformed or too small; the target's pointer or manifest is damaged.
        SpecError: The spec does not fit the source.
        StorageError: Source, target or workspace cannot be reached.

    """
    source = open_source(spec)
    check_columns(spec, source.schema)
    check_names(spec, source.schema)
    check_size(spec, source)
    progress(ProgressEvent(_STEP, 0, message="against the rows that the last model learned"))
    run_id = run_id_of(spec, source.fingerprint)

    def rows() -> pa.Table:
        return compared_rows(spec, source)

    choice = _decide(spec, run_id, source.files, schema_fingerprint(source.schema), rows)
    source.verify()
    progress(ProgressEvent(_STEP, 1, 1, message=choice.reason))
    standing = steps.released_by(spec, run_id)
    return Outlook(choice.model_copy(update={"model": None}), None if standing is None else standing.version)


_ALWAYS = "policy.retrain is changed, so every change of the source trains anew"


def _train(
    spec: RefreshSpec, run_id: str, reason: str, *, last: _Last | None = None, columns: tuple[ColumnDrift, ...] = ()
) -> ModelChoice:
    return ModelChoice(
        run_id=run_id,
        decision="train",
        reason=reason,
        trained_by=None if last is None else last.model.run_id,
        max_drift=spec.policy.max_drift,
        columns=columns,
    )


def _decide(
    spec: RefreshSpec,
    run_id: str,
    files: Sequence[SourceFile],
    fingerprint: str,
    rows: Callable[[], pa.Table],
) -> ModelChoice:
    last = _last_model(spec)
    if isinstance(last, str):
        return _train(spec, run_id, last)
    if last.profile.schema_fingerprint != fingerprint:
        return _train(spec, run_id, "the columns of the source changed since the last model was trained", last=last)
    policy, columns = spec.policy, drift_of(last.profile.columns, rows(), spec.policy.max_drift)
    if policy.retrain == "changed":
        return _train(spec, run_id, _ALWAYS, last=last, columns=columns)
    drifted = [column for column in columns if column.drifted]
    if policy.retrain == "drifted" and drifted:
        reason = f"{_count(drifted)} drifted by more than {policy.max_drift:g}: {_named(drifted)}"
        return _train(spec, run_id, reason, last=last, columns=columns)
    kept = policy.retrain == "required" and drifted
    moved = [column for column in columns[:1] if round(column.beyond, 3) > 0]
    furthest = f", the furthest is {_named(moved)}" if moved else ""
    return ModelChoice(
        run_id=run_id,
        decision="reuse",
        reason=f"policy.retrain is required, although {_count(drifted)} drifted: {_named(drifted)}"
        if kept
        else f"no column drifted by more than {policy.max_drift:g}{furthest}",
        trained_by=last.model.run_id,
        max_drift=policy.max_drift,
        columns=columns,
        model=last.model,
        sides_kept=_sides_kept(spec, last, files),
        sample_seed=steps.seed_of(spec, run_id, last.model),
    )


def _count(columns: Sequence[ColumnDrift]) -> str:
    return f"{len(columns)} column{'' if len(columns) == 1 else 's'}"


def _named(columns: Sequence[ColumnDrift]) -> str:
    more = f" and {len(columns) - 3} more" if len(columns) > 3 else ""
    return ", ".join(f"{column.column} by {column.beyond:.3f}" for column in columns[:3]) + more


def _sides_kept(spec: RefreshSpec, last: _Last, files: Sequence[SourceFile]) -> bool:
    """Say whether every row that the model learned still has its number, which decides its side of the split.

    It has where the objects that were read then are the first ones now, unchanged: rows were only appended.
    """
    known = last.profile.files
    same = files_digest(files[:known]) == last.profile.files_digest
    return len(files) >= known and same and spec.source.filters == last.filters


# ---------------------------------------------------------------- the last model

_TRAINED_BY = ("columns", "unlearnable", "model", "privacy")
"""Parts of the spec that decide what is learned, beside `source.columns` and `gates.holdout`."""


def _last_model(spec: RefreshSpec) -> _Last | str:
    """Find the model of the current release; where it cannot be used again, why."""
    current = release.current(spec.target)
    if current is None:
        return "nothing was published yet"
    manifest = release.read_manifest(spec.target, current.version)
    if manifest.model is None:
        return f"version {manifest.version} names no model"
    if manifest.tabvae_version != code_version():
        return f"the last model was trained by tabvae {manifest.tabvae_version}"
    try:
        before = RefreshSpec.model_validate(manifest.spec)
    except ValidationError:
        return "the spec of the last release is that of another version of tabvae"
    if changed := _changed(before, spec):
        return f"{', '.join(changed)} changed in the spec since the last model was trained"
    if _refused_since(spec, manifest.version, manifest.model):
        return "the last table that was drawn from the last model was refused"
    profile = _profile_of(spec, manifest.model)
    if profile is None:
        return "the last model is no longer in the workspace"
    return _Last(manifest.model, profile, before.source.filters)


def _refused_since(spec: RefreshSpec, version: str, model: ModelRef) -> bool:
    """Whether a table of this model was refused after a version: joint distributions drift where no column does."""
    refused = release.last_refused(spec.target)
    if refused is None or refused.model is None or refused.version < version:
        return False
    return refused.model.sha256 == model.sha256


def _changed(before: RefreshSpec, now: RefreshSpec) -> list[str]:
    """Name the parts of the spec by which another model would be trained."""
    changed = [name for name in _TRAINED_BY if getattr(before, name) != getattr(now, name)]
    changed += ["source.columns"] if before.source.columns != now.source.columns else []
    return changed + (["gates.holdout"] if before.gates.holdout != now.gates.holdout else [])


def _profile_of(spec: RefreshSpec, model: ModelRef) -> Profile | None:
    """Read what a model learned from; None where model or profile are gone, or are not what they were."""
    storage = spec.workspace.storage
    profile, weights = (store.join_uri(model.uri, name) for name in (steps.PROFILE_FILE, WEIGHTS_FILE))
    if not store.exists(profile, storage) or not store.exists(weights, storage):
        return None
    if store.file_sha256(weights, storage) != model.sha256:
        return None
    try:
        return Profile.model_validate(store.read_json(profile, storage))
    except (DataError, ValidationError):
        return None


def _take_over(spec: RefreshSpec, run: Run, choice: ModelChoice, model: ModelRef) -> ModelChoice:
    """Copy the model into this run's folder, so that the run is whole by itself; `train`'s record says whose it is.

    A model that turns out to be damaged is trained anew.
    """
    copy = model.model_copy(update={"uri": run.place("model")})
    run.remove("model")
    store.copy_tree(model.uri, copy.uri, source_storage=run.storage, target_storage=run.storage)
    try:
        with run.local("model") as bundle:
            schema = steps.codecs_of(bundle).schema
    except ModelFileError as error:
        run.remove("model")
        return _train(spec, run.run_id, f"the last model cannot be used: {error.message}")
    steps.keep_schema(run, schema)
    return choice.model_copy(update={"model": run.complete("train", copy)})
