"""The small frozen values that steps exchange. A table never passes through an orchestrator; these do, as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = [
    "EvaluationRef",
    "FileRecord",
    "GateResult",
    "ModelRef",
    "ReleaseRef",
    "SnapshotRef",
    "SourceFile",
    "TableRef",
    "ValidationRef",
]


class _Reference(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Reference):
    """One object of the source as it stood when the snapshot was taken."""

    uri: str
    size: int
    """Bytes."""
    version: str
    """ETag, version id, or modification time and size: whatever the store has that changes with the content."""


class SnapshotRef(_Reference):
    """The source pinned: its objects, rows and schema."""

    run_id: str
    """hash(source fingerprint, spec, code version): names the run's folder in the workspace."""
    uri: str
    files: tuple[SourceFile, ...]
    rows: int
    columns: int
    fingerprint: str
    """sha256 over files and schema."""
    schema_fingerprint: str
    """sha256 over column names and Arrow types."""


class ModelRef(_Reference):
    """A trained model bundle."""

    run_id: str
    uri: str
    sha256: str
    """Of the weights file."""
    method: str
    rows: int
    """Training rows, of which some were set aside to stop training early."""
    seconds: float
    """Wall-clock time of the training."""


class FileRecord(_Reference):
    """One Parquet file of a synthetic table."""

    path: str
    """Relative to the table's folder."""
    rows: int
    bytes: int
    sha256: str


class TableRef(_Reference):
    """A sampled table in the workspace, not yet accepted."""

    run_id: str
    uri: str
    files: tuple[FileRecord, ...]
    rows: int
    schema_fingerprint: str
    seconds: float = 0.0
    """Wall-clock time of the drawing."""
    redrawn: int | None = None
    """Rows drawn again because they were near copies of a rare training row; None where none were looked for."""


class GateResult(_Reference):
    """One gate's verdict. Holds figures and names, never cells of real data."""

    name: str
    """What was checked: an expectation, a rule, or a figure such as "jsd"."""
    column: str | None = None
    """The column concerned; None: the whole table."""
    passed: bool
    value: float | None = None
    limit: float | None = None
    detail: str = ""
    """One line for a person: "refused: age > 0 broken by 12 rows"."""


class ValidationRef(_Reference):
    """What the gates said of a table."""

    run_id: str
    passed: bool
    results: tuple[GateResult, ...]
    docs_uri: str | None = None
    """Folder of the Data Docs in the workspace."""


class EvaluationRef(_Reference):
    """The table measured against held-out rows."""

    run_id: str
    passed: bool
    results: tuple[GateResult, ...]
    metrics: dict[str, Any]
    """The figures, each {"value": v, "floor": f}."""
    report_uri: str
    """The HTML report in the workspace."""


class ReleaseRef(_Reference):
    """A published version."""

    run_id: str
    target: str
    version: str
    uri: str
    """Folder of the version."""
    rows: int
    published_at: str
    """ISO 8601, UTC."""
    report_uri: str
    unchanged: bool = False
    """True: the current release already came from this source and spec, nothing was done."""
