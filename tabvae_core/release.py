"""Releases: versions of a synthetic table side by side, and one pointer that says which is current.

    TARGET/
      versions/<id>/part-00000.parquet ...  report.html  manifest.json
      quarantine/<id>/...                   tables that a gate refused, laid out alike
      current.json                          the pointer

A version's files come first, then its manifest, then the pointer, which moves only if it is still the one
that was read (see `lake.conditional`). So a reader sees a whole accepted version or the one before it,
whenever a writer dies.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tabvae_core import storage as store
from tabvae_core.errors import DataError, PublishConflict, SpecError, StorageError, TabvaeError
from tabvae_core.lake import Guarantee, ParquetSource, probe_conditional_puts, put_if_match, read_with_etag
from tabvae_core.references import FileRecord, GateResult, ModelChoice, ModelRef, ReleaseRef, TableRef
from tabvae_core.schema import schema_fingerprint
from tabvae_core.spec import StorageSpec, TargetSpec
from tabvae_core.workspace import code_version

__all__ = [
    "Manifest",
    "Pointer",
    "PointerState",
    "ReleaseInfo",
    "current",
    "last_refused",
    "new_version",
    "publish",
    "published_manifest",
    "quarantine",
    "read_manifest",
    "read_pointer",
    "read_release",
    "release_uris",
    "releases",
    "rollback",
]

_log = logging.getLogger(__name__)

REPORT = "report.html"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STAMP = "%Y%m%dT%H%M%SZ"
# A version folder that the pointer does not list is what a killed writer left, or is still being written: only
# those that no run can still be writing are removed.
_ABANDONED = timedelta(days=1)
M = TypeVar("M", bound=BaseModel)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Manifest(_Document):
    """What a version is, and how it came to be. A folder without one is no version: it is written last."""

    format: Literal[1] = 1
    status: Literal["accepted", "refused"]
    version: str
    run_id: str
    created_at: str
    """ISO 8601, UTC."""
    tabvae_version: str
    rows: int
    files: tuple[FileRecord, ...]
    """The table's files, relative to the version's folder."""
    schema_fingerprint: str
    """sha256 over column names and Arrow types."""
    source_fingerprint: str
    """sha256 over the source's objects and schema."""
    spec: dict[str, Any]
    """The refresh spec."""
    model: ModelRef | None = None
    drift: ModelChoice | None = None
    """How the model was chosen, where the spec's policy measures drift."""
    gates: tuple[GateResult, ...] = ()
    metrics: dict[str, Any] = {}
    privacy: dict[str, Any] | None = None
    """What a private training spent (`Budget.record`), and the ledger's line of it."""
    extra: tuple[str, ...] = ()
    """Further files and folders beside the table, such as the report."""
    pointer: Guarantee
    """How the pointer moves here. "conditional": of two writers exactly one wins. "compare-then-write": the
    store ignores conditions, and of two writers within the same moments the first can go unnoticed."""


class Pointer(_Document):
    """Which version readers get."""

    version: str
    run_id: str
    moved_at: str
    """ISO 8601, UTC, to the microsecond: no two moves write the same bytes."""
    published: tuple[str, ...]
    """The versions that are kept, in the order in which they last became current; the last one is `version`. A
    folder that is not among them is being written, or its writer died or lost."""


class PointerState(_Document):
    """The pointer as it was read, to be moved only from there. JSON, so that it can travel between steps."""

    pointer: Pointer | None
    """None: nothing was published yet."""
    etag: str | None


class ReleaseInfo(_Document):
    """One line of a target's history."""

    version: str
    uri: str
    rows: int
    run_id: str
    published_at: str
    current: bool
    problem: str = ""
    """Why the version cannot be used, where its manifest is damaged."""


# ---------------------------------------------------------------- reading


def read_pointer(target: TargetSpec | str, storage: StorageSpec | None = None) -> PointerState:
    """Read the pointer, with the tag that a later conditional write needs.

    Raises:
        DataError: The pointer is damaged.
        StorageError: The target cannot be reached.

    """
    place = _place(target, storage)
    found = read_with_etag(place.pointer, place.storage)
    if found is None:
        return PointerState(pointer=None, etag=None)
    hint = "remove it and publish anew, or restore an older copy of it"
    return PointerState(pointer=_parse(Pointer, found[0], place.pointer, hint), etag=found[1])


def current(target: TargetSpec | str, storage: StorageSpec | None = None) -> ReleaseRef | None:
    """Find the release that readers get; None where nothing was published yet.

    Raises:
        DataError: Pointer or manifest is damaged, or the version it names is gone.
        StorageError: The target cannot be reached.

    """
    pointer = read_pointer(target, storage).pointer
    if pointer is None:
        return None
    place = _place(target, storage)
    return _reference(place, _manifest(place, pointer.version))


def read_manifest(target: TargetSpec | str, version: str | None = None, storage: StorageSpec | None = None) -> Manifest:
    """Read the manifest of a version.

    Args:
        target: Folder of the releases.
        version: The version; None: the current one.
        storage: Access, where `target` is a URI.

    Raises:
        DataError: Nothing was published, there is no such version, or its manifest is damaged.

    """
    place = _place(target, storage)
    return _manifest(place, version or _current_version(place))


def published_manifest(
    target: TargetSpec | str, version: str | None = None, storage: StorageSpec | None = None
) -> Manifest:
    """Read the manifest of a version that was published and is still kept; None: the current one.

    Raises:
        DataError: Nothing was published, the version was refused or is unknown, or its manifest is damaged.

    """
    place = _place(target, storage)
    pointer = read_pointer(target, storage).pointer
    if pointer is None:
        raise _nothing_published(place)
    version = _checked(version or pointer.version)
    if version in pointer.published:
        return _manifest(place, version)
    if store.exists(store.join_uri(place.uri, "quarantine", version), place.storage):
        raise DataError(
            f"version {version} of {store.safe_uri(place.uri)} was refused by its gates and stands in quarantine",
            hint="name a version that `tabvae releases` lists",
        )
    raise _unknown(place, version, pointer)


def releases(target: TargetSpec | str, storage: StorageSpec | None = None) -> list[ReleaseInfo]:
    """List the published versions, newest first; one with a damaged manifest is listed with its problem."""
    place = _place(target, storage)
    pointer = read_pointer(target, storage).pointer
    if pointer is None:
        return []
    return [_info(place, version, pointer) for version in sorted(pointer.published, reverse=True)]


def last_refused(target: TargetSpec) -> Manifest | None:
    """Find the newest refused table; None where there is none, or its manifest is damaged."""
    place = _place(target)
    refused = store.join_uri(place.uri, "quarantine")
    names = sorted(store.list_names(refused, place.storage))
    found = read_with_etag(store.join_uri(refused, names[-1], "manifest.json"), place.storage) if names else None
    with suppress(ValidationError):
        return None if found is None else Manifest.model_validate_json(found[0])
    return None


def release_uris(
    target: TargetSpec | str, version: str | None = None, storage: StorageSpec | None = None
) -> tuple[str, ...]:
    """Name the Parquet files of a version, for readers such as DuckDB.

    Args:
        target: Folder of the releases.
        version: The version, to pin it; None: the current one.
        storage: Access, where `target` is a URI.

    """
    place, manifest = _place(target, storage), read_manifest(target, version, storage)
    return tuple(store.join_uri(place.version(manifest.version), file.path) for file in manifest.files)


def read_release(
    target: TargetSpec | str, version: str | None = None, storage: StorageSpec | None = None
) -> ParquetSource:
    """Open a version as a table: the files that its manifest lists, and no others.

    Args:
        target: Folder of the releases.
        version: The version, to pin it; None: the current one.
        storage: Access, where `target` is a URI.

    Raises:
        DataError: No such version, or its files are not those of its manifest.

    """
    place, manifest = _place(target, storage), read_manifest(target, version, storage)
    _check_present(place, manifest)
    names = [file.path for file in manifest.files]
    return ParquetSource(place.version(manifest.version), place.storage, only=names)


# ---------------------------------------------------------------- writing


def new_version(run_id: str) -> str:
    """Name a version after the time and its run: names sort by age."""
    return f"{datetime.now(UTC).strftime(_STAMP)}-{run_id[:8]}"


def publish(
    table: TableRef,
    *,
    target: TargetSpec,
    manifest_fields: Mapping[str, Any],
    workspace_storage: StorageSpec | None = None,
    extra_files: Mapping[str, str] | None = None,
    version: str | None = None,
    expected: PointerState | None = None,
) -> ReleaseRef:
    """Make a table the current release.

    Publishing the same version again is safe, whatever became of the first try.

    Args:
        table: The accepted table in the workspace.
        target: Where releases stand, and how many are kept.
        manifest_fields: `spec`, `source_fingerprint`, `model`, `gates` and `metrics` of the manifest.
        workspace_storage: Access to the workspace.
        extra_files: Name beside the table, such as "report.html", and URI of the file or folder to copy.
        version: Name of the version; None: a new one.
        expected: The pointer as it was when the run began; None: as it is now.

    Raises:
        PublishConflict: Another writer moved the pointer since; this version is removed again.
        DataError: The table's files are not those of its reference.
        StorageError: Workspace or target failed. The current release stays.

    """
    place = _place(target)
    version = _checked(version or new_version(table.run_id))
    now = read_pointer(target)
    if now.pointer is not None and now.pointer.version == version:
        return _followed(target, None, _reference(place, _manifest(place, version)))
    if expected is not None and expected.etag != now.etag:
        raise _overtaken(place, now)
    guarantee = _guarantee(place)
    folder = place.version(version)
    manifest = _existing(folder, table, place.storage)
    staged_here = manifest is None
    if manifest is None:
        fields = {**manifest_fields, "status": "accepted", "pointer": guarantee}
        manifest = _stage(table, folder, fields, extra_files or {}, workspace_storage, place)
    try:
        kept = _move_pointer(place, manifest, now, guarantee=guarantee, keep=target.keep)
    except PublishConflict:
        after = read_pointer(target)
        if after.pointer is None or version not in after.pointer.published:
            if staged_here:
                _discard(place, folder)
            raise _overtaken(place, after) from None
    else:
        _tidy(place, now, kept)
    return _followed(target, None, _reference(place, manifest))


def quarantine(
    table: TableRef,
    *,
    target: TargetSpec,
    manifest_fields: Mapping[str, Any],
    workspace_storage: StorageSpec | None = None,
    extra_files: Mapping[str, str] | None = None,
    version: str | None = None,
) -> str:
    """Keep a refused table with its report. The pointer does not move; `target.keep` refused tables are kept.

    Args:
        table: The refused table in the workspace.
        target: Where releases stand.
        manifest_fields: As for `publish`.
        workspace_storage: Access to the workspace.
        extra_files: As for `publish`.
        version: Name of the folder; None: a new one.

    Returns:
        URI of the folder.

    """
    place = _place(target)
    version = _checked(version or new_version(table.run_id))
    folder = store.join_uri(place.uri, "quarantine", version)
    if _existing(folder, table, place.storage) is None:
        fields = {**manifest_fields, "status": "refused", "pointer": _guarantee(place)}
        _stage(table, folder, fields, extra_files or {}, workspace_storage, place)
    refused = store.join_uri(place.uri, "quarantine")
    older = [name for name in store.list_names(refused, place.storage) if name != version]
    for name in sorted(older, reverse=True)[target.keep - 1 :]:
        _discard(place, store.join_uri(refused, name))
    return folder


def rollback(target: TargetSpec | str, version: str, storage: StorageSpec | None = None) -> ReleaseRef:
    """Make an older version the current one. Nothing but the pointer changes, and the table that follows it.

    Raises:
        DataError: No such version, or its files are not those of its manifest.
        PublishConflict: Another writer moved the pointer meanwhile.

    """
    place = _place(target, storage)
    now = read_pointer(target, storage)
    if now.pointer is not None and version not in now.pointer.published:
        raise _unknown(place, version, now.pointer)
    manifest = _manifest(place, version)
    if now.pointer is not None and now.pointer.version == version:
        return _followed(target, storage, _reference(place, manifest).model_copy(update={"unchanged": True}))
    _check_present(place, manifest)
    _move_pointer(place, manifest, now)
    return _followed(target, storage, _reference(place, manifest))


def _followed(target: TargetSpec | str, storage: StorageSpec | None, reference: ReleaseRef) -> ReleaseRef:
    """Bring the target's Delta or Iceberg table, where it has one, to where the pointer is now."""
    from tabvae_core.lakehouse import follow

    follow(target, storage)
    return reference


# ---------------------------------------------------------------- places and documents


class _Place:
    """A target's folders."""

    def __init__(self, uri: str, storage: StorageSpec) -> None:
        self.uri = uri.rstrip("/") or "/"
        self.storage = storage
        self.pointer = store.join_uri(self.uri, "current.json")
        self.versions = store.join_uri(self.uri, "versions")

    def version(self, version: str) -> str:
        return store.join_uri(self.versions, version)


def _place(target: TargetSpec | str, storage: StorageSpec | None = None) -> _Place:
    if isinstance(target, TargetSpec):
        return _Place(target.uri, storage or target.storage)
    return _Place(target, storage or StorageSpec())


def _checked(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise SpecError(
            f"a version's name must be letters, digits, dots, dashes and underscores, however: {version!r}",
            hint="`tabvae releases TARGET` lists the versions",
        )
    return version


def _parse(kind: type[M], data: bytes, uri: str, hint: str) -> M:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        what = f"{field}: {first['msg']}" if field else "it is not JSON"
        raise DataError(f"{store.safe_uri(uri)} is damaged ({what})", hint=hint) from None


def _manifest(place: _Place, version: str) -> Manifest:
    uri = store.join_uri(place.version(_checked(version)), "manifest.json")
    data = read_with_etag(uri, place.storage)
    if data is None:
        raise _unknown(place, version, read_pointer(place.uri, place.storage).pointer)
    return _parse(Manifest, data[0], uri, "choose another version with `tabvae rollback`, or publish anew")


def _current_version(place: _Place) -> str:
    pointer = read_pointer(place.uri, place.storage).pointer
    if pointer is None:
        raise _nothing_published(place)
    return pointer.version


def _unknown(place: _Place, version: str, pointer: Pointer | None) -> DataError:
    if pointer is None:
        return _nothing_published(place)
    known = ", ".join(sorted(pointer.published, reverse=True))
    return DataError(f"{store.safe_uri(place.uri)} has no version {version!r}", hint=f"versions: {known}")


def _nothing_published(place: _Place) -> DataError:
    return DataError(
        f"nothing was published to {store.safe_uri(place.uri)} yet",
        hint="check the address; `tabvae refresh SPEC` publishes",
    )


def _info(place: _Place, version: str, pointer: Pointer) -> ReleaseInfo:
    uri = place.version(version)
    try:
        found = _manifest(place, version)
    except DataError as error:
        known: dict[str, Any] = {"rows": 0, "run_id": "", "published_at": "", "problem": error.message}
    else:
        known = {"rows": found.rows, "run_id": found.run_id, "published_at": found.created_at}
    return ReleaseInfo(version=version, uri=uri, current=version == pointer.version, **known)


def _reference(place: _Place, manifest: Manifest) -> ReleaseRef:
    folder = place.version(manifest.version)
    return ReleaseRef(
        run_id=manifest.run_id,
        target=place.uri,
        version=manifest.version,
        uri=folder,
        rows=manifest.rows,
        published_at=manifest.created_at,
        report_uri=store.join_uri(folder, REPORT) if REPORT in manifest.extra else "",
    )


def _check_present(place: _Place, manifest: Manifest) -> None:
    folder = place.version(manifest.version)
    found = store.list_folder(folder, place.storage)
    for file in manifest.files:
        if found.get(file.path) != file.bytes:
            what = "is missing" if file.path not in found else "has another size than its manifest says"
            raise DataError(
                f"{store.safe_uri(folder)}: {file.path} {what}", hint="use another version, or publish anew"
            )


# ---------------------------------------------------------------- steps of a publish


def _existing(folder: str, table: TableRef, storage: StorageSpec) -> Manifest | None:
    """Find what an earlier try of the same publish completed."""
    uri = store.join_uri(folder, "manifest.json")
    found = read_with_etag(uri, storage)
    if found is None:
        return None
    manifest = _parse(Manifest, found[0], uri, "remove the folder, or publish under another version")
    if manifest.run_id != table.run_id or manifest.files != table.files:
        raise PublishConflict(
            f"{store.safe_uri(folder)} stands already, with another table",
            hint="publish under another version",
        )
    return manifest


def _stage(
    table: TableRef,
    folder: str,
    fields: Mapping[str, Any],
    extra_files: Mapping[str, str],
    workspace_storage: StorageSpec | None,
    place: _Place,
) -> Manifest:
    """Copy the table and its company into a version's folder, prove the copy, and write the manifest last."""
    manifest = Manifest(
        version=folder.rsplit("/", 1)[-1],
        run_id=table.run_id,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        tabvae_version=code_version(),
        rows=table.rows,
        files=table.files,
        schema_fingerprint=table.schema_fingerprint,
        extra=tuple(sorted(extra_files)),
        **fields,
    )
    try:
        tables = {file.path: store.join_uri(table.uri, file.path) for file in table.files}
        for name, uri in {**tables, **extra_files}.items():
            copy = store.join_uri(folder, name)
            store.copy_tree(uri, copy, source_storage=workspace_storage, target_storage=place.storage)
        _prove(table, folder, place.storage)
        document = manifest.model_dump_json(indent=2) + "\n"
        store.write_bytes(store.join_uri(folder, "manifest.json"), document.encode(), place.storage)
    except BaseException:
        # The pointer was not touched, so nobody reads this folder.
        _discard(place, folder)
        raise
    return manifest


def _prove(table: TableRef, folder: str, storage: StorageSpec) -> None:
    """Read the copies back: bytes, rows and schema are those of the table that passed its gates."""
    copied = ParquetSource(folder, storage, only=[file.path for file in table.files])
    rows = copied.file_rows
    for file in table.files:
        uri = store.join_uri(folder, file.path)
        if file.path not in rows or store.file_sha256(uri, storage) != file.sha256:
            raise StorageError(
                f"{store.safe_uri(uri)} is not the file that was accepted: its sha256 differs",
                hint="the workspace or the copy is damaged; run again",
            )
        if rows[file.path] != file.rows:
            raise DataError(
                f"{store.safe_uri(uri)} has {rows[file.path]:,} rows, the table's record says {file.rows:,}",
                hint="the table was cut short when it was written; run again",
            )
    if sum(rows.values()) != table.rows or schema_fingerprint(copied.schema) != table.schema_fingerprint:
        raise DataError(
            f"{store.safe_uri(folder)}: rows or schema are not those of the table's record", hint="run again"
        )


def _guarantee(place: _Place) -> Guarantee:
    return "conditional" if probe_conditional_puts(place.uri, place.storage) else "compare-then-write"


def _move_pointer(
    place: _Place,
    manifest: Manifest,
    now: PointerState,
    *,
    guarantee: Guarantee | None = None,
    keep: int | None = None,
) -> tuple[str, ...]:
    """Make a version current; return the versions that are kept, the last `keep` that were current."""
    version = manifest.version
    earlier = now.pointer.published if now.pointer else ()
    published = (*(name for name in earlier if name != version), version)
    kept = published if keep is None else published[-keep:]
    moved_at = datetime.now(UTC).isoformat(timespec="microseconds")
    pointer = Pointer(version=version, run_id=manifest.run_id, moved_at=moved_at, published=kept)
    data = (pointer.model_dump_json(indent=2) + "\n").encode()
    put_if_match(place.pointer, data, now.etag, place.storage, guarantee=guarantee)
    return kept


def _overtaken(place: _Place, now: PointerState) -> PublishConflict:
    by = f"version {now.pointer.version} is current now" if now.pointer else "the pointer was removed"
    return PublishConflict(
        f"another writer published to {store.safe_uri(place.uri)} since this run began: {by}",
        hint="look at `tabvae releases`; run again to publish on top of it",
    )


def _tidy(place: _Place, before: PointerState, kept: tuple[str, ...]) -> None:
    """Remove the versions that are no longer kept, and what killed writers left."""
    # The release stands; a failure to tidy up is no failure of the publish.
    with suppress(TabvaeError):
        dropped = set(before.pointer.published if before.pointer else ()) - set(kept)
        for name in store.list_names(place.versions, place.storage):
            if name in dropped or (name not in kept and _is_abandoned(name)):
                _discard(place, place.version(name))


def _is_abandoned(name: str) -> bool:
    try:
        began = datetime.strptime(name.split("-", 1)[0], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - began > _ABANDONED


def _discard(place: _Place, folder: str) -> None:
    """Remove a version's folder, its manifest first: a removal that is cut short leaves no version behind."""
    try:
        store.remove_file(store.join_uri(folder, "manifest.json"), place.storage)
        store.remove_tree(folder, place.storage)
    except TabvaeError as error:
        _log.warning("%s could not be removed: %s", store.safe_uri(folder), error.message)
