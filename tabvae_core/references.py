"""The small frozen values that steps exchange. A table never passes through an orchestrator; these do, as JSON."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "ColumnDrift",
    "EvaluationRef",
    "FeedRef",
    "FileRecord",
    "GateResult",
    "ModelChoice",
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
    """Run that trained it."""
    uri: str
    sha256: str
    """Of the weights file."""
    method: str
    rows: int
    """Training rows, of which some were set aside to stop training early."""
    seconds: float
    """Wall-clock time of the training."""


class ColumnDrift(_Reference):
    """How far a column of the source is from the rows that a model learned."""

    column: str
    distance: float
    """Jensen-Shannon distance, base 2, nulls included."""
    floor: float
    """What chance alone explains of it."""
    nulls_before: float
    """Share of nulls in the rows that were learned."""
    nulls_now: float
    beyond: float
    """The change of distribution or of the share of nulls, whichever is larger, beyond its floor; at least 0."""
    drifted: bool
    """Whether that is more than the policy allows."""


class ModelChoice(_Reference):
    """Whether a refresh trains anew or draws from the last model, and why."""

    run_id: str
    decision: Literal["train", "reuse"]
    reason: str
    """One line for a person."""
    trained_by: str | None = None
    """Run that trained the last model; None: there is none that could be used."""
    max_drift: float
    columns: tuple[ColumnDrift, ...] = ()
    """The furthest first; empty where nothing was measured."""
    model: ModelRef | None = None
    """The last model, taken over into this run; None: one must be trained."""
    sides_kept: bool | None = None
    """True: every row that the last model learned or was tested by is still on its side of the split. False: rows may
    have changed sides, so held-out rows may be rows that it learned. None: it is not used."""
    sample_seed: int | None = None
    """Seed that a table from the last model is drawn with."""

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The columns that drifted."""
        return tuple(column for column in self.columns if column.drifted)


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


class FeedRef(_Reference):
    """A release loaded into a database."""

    into: str
    """URL of the database, without user, password and options."""
    table: str
    target: str
    version: str
    rows: int
    created: bool
    """Whether the table was made."""
    unchanged: bool
    """True: the table held this version already, nothing was done."""
    seconds: float

    @property
    def sentence(self) -> str:
        """What happened, in one line."""
        where = f"{self.table} in {self.into}"
        if self.unchanged:
            return f"unchanged: {where} holds version {self.version} already"
        return f"loaded version {self.version}: {self.rows:,} rows into {'new table ' if self.created else ''}{where}"
