"""`check`: what can be known before a run: access, schema, rules, an estimate of time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tabvae_core import lake as store
from tabvae_core.budget import CTGAN_BATCH, copula_budget, ctgan_epochs, diffusion_budget, training_budget
from tabvae_core.checks import (
    check_columns,
    check_learnable,
    check_method,
    check_settings,
    check_size,
    decisions,
)
from tabvae_core.errors import TabvaeError
from tabvae_core.lake import ParquetSource
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.source_rows import measured_rows, open_source, part_of
from tabvae_core.spec import ModelSpec, RefreshSpec

__all__ = ["CheckReport", "Estimate", "Finding", "check"]

# Seen on two cores of a small server: rows x columns x epochs a second while training, rows x columns a second while
# sampling, seconds for the rest. They tell minutes from hours and one gigabyte from ten, no more.
_TRAIN_CELLS = {
    "vae": 100_000.0, "vae_basic": 500_000.0, "gaussian_copula": 600_000.0, "copula_vae": 500_000.0, "ctgan": 300_000.0,
    "tabddpm": 150_000.0,
}  # fmt: skip
_SAMPLE_CELLS = {
    "vae": 300_000.0, "vae_basic": 1_300_000.0, "gaussian_copula": 1_300_000.0, "copula_vae": 1_300_000.0,
    "ctgan": 1_000_000.0, "tabddpm": 20_000.0,
}  # fmt: skip
_FIXED_SECONDS = 25.0
_BASIC_EPOCHS = 30
_FIXED_BYTES = 900e6
_CELL_BYTES = 24
_TIME_UNITS = (("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Finding(_Part):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    exit_code: int = 0
    """What a run that fails on it would end with; 0 where it is well."""


class Estimate(_Part):
    """Orders of magnitude, from rows x columns: they tell minutes from hours and one gigabyte from ten."""

    seconds: float
    memory_bytes: float

    def text(self) -> str:
        """The figures in words, to one significant digit."""
        seconds, gigabytes = _rough(self.seconds), _rough(self.memory_bytes / 1e9)
        unit, size = next((unit, size) for unit, size in _TIME_UNITS if seconds >= size)
        count = _rough(seconds / size)
        return f"about {count:g} {unit}{'' if count == 1 else 's'}, {gigabytes:g} GB of memory"


class CheckReport(_Part):
    """What is known before a run."""

    ok: bool
    findings: tuple[Finding, ...]
    rows: int | None = None
    columns: int | None = None
    decisions: tuple[str, ...] = ()
    """What will be done with text, nested and identifier columns."""
    estimate: Estimate | None = None

    @property
    def exit_code(self) -> int:
        """Code of the first failure; 0 where all is well."""
        return next((finding.exit_code for finding in self.findings if not finding.ok), 0)

    def text(self) -> str:
        """Lines for a terminal."""
        lines = [_line(finding) for finding in self.findings]
        if self.decisions:
            lines += ["decisions:", *(f"  {line}" for line in self.decisions)]
        if self.estimate is not None:
            lines.append(f"estimate: {self.estimate.text()} (orders of magnitude)")
        return "\n".join(lines)


def _line(finding: Finding) -> str:
    line = f"{'ok  ' if finding.ok else 'FAIL'} {finding.name:<10} {finding.detail}"
    return f"{line}\n     {'':<10} hint: {finding.hint}" if finding.hint and not finding.ok else line


@dataclass
class _Findings:
    """Collects what was found; a failure of one thing does not keep the others from being looked at."""

    items: list[Finding] = field(default_factory=list)

    @contextmanager
    def looking_at(self, name: str) -> Iterator[Callable[[str], None]]:
        details: list[str] = []
        try:
            yield details.append
        except TabvaeError as error:
            finding = Finding(name=name, ok=False, detail=error.message, hint=error.hint, exit_code=error.exit_code)
            self.items.append(finding)
        else:
            self.items.append(Finding(name=name, ok=True, detail="; ".join(details)))


def check(spec: RefreshSpec, *, progress: Progress = silent) -> CheckReport:
    """Look at everything a refresh needs. Reads the source once, writes only probes, which it removes.

    Args:
        spec: The refresh.
        progress: Told of the pass over the source.

    Returns:
        Findings, decisions and estimate; what is wrong is in the findings, not raised.

    """
    found = _Findings()
    source: ParquetSource | None = None
    schema: TableSchema | None = None
    with found.looking_at("method") as say:
        check_method(spec)
        say(f"{spec.model.method}, device {spec.model.device}")
    with found.looking_at("source") as say:
        source = open_source(spec)
        say(f"{source.num_rows:,} rows, {len(source.schema)} columns, {len(source.files)} files")
    if source is not None:
        schema = _look_at_columns(spec, source, found, progress)
    for name, uri, storage in (
        ("target", spec.target.uri, spec.target.storage),
        ("workspace", spec.workspace.uri, spec.workspace.storage),
    ):
        with found.looking_at(name) as say:
            store.check_writable(uri, storage)
            say(f"{store.safe_uri(uri)} can be written")
    return CheckReport(
        ok=all(finding.ok for finding in found.items),
        findings=tuple(found.items),
        rows=source.num_rows if source else None,
        columns=len(source.schema) if source else None,
        decisions=tuple(decisions(schema)) if schema else (),
        estimate=_estimate(spec, source.num_rows, source.schema) if source and schema else None,
    )


def _look_at_columns(
    spec: RefreshSpec, source: ParquetSource, found: _Findings, progress: Progress
) -> TableSchema | None:
    from tabvae_core.inference import infer_schema

    schema: TableSchema | None = None
    with found.looking_at("columns") as say:
        check_columns(spec, source.schema)
        say("as expected" if spec.expect_columns is not None else "no expect_columns: whatever the source has")
    with found.looking_at("rows") as say:
        check_size(spec, source)
        held = part_of(spec, source, "holdout").num_rows
        say(f"{source.num_rows - held:,} to learn, {held:,} held out")
    with found.looking_at("schema") as say:
        schema = infer_schema(
            source,
            overrides=spec.columns,
            unlearnable=spec.unlearnable,
            privacy=spec.privacy,
            progress=progress,
        )
        counts = {kind: len(schema.of_kind(kind)) for kind in sorted({c.kind for c in schema.columns})}
        say(", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count))
    if schema is not None:
        with found.looking_at("settings") as say:
            check_settings(spec, schema)
            check_learnable(spec, source, schema, source.num_rows)
            say(f"{len(spec.rules)} rules, {len(spec.sample.given)} given values")
    return schema


def _rough(value: float) -> float:
    """Round to one significant digit."""
    return float(f"{value:.1g}")


def _epochs(model: ModelSpec, rows: int, schema: pa.Schema) -> int:
    """Passes over the rows, of all networks together."""
    if model.method == "gaussian_copula":
        return 1
    if model.method == "copula_vae":
        return copula_budget(rows, model).epochs
    if model.method == "ctgan":
        return model.epochs or ctgan_epochs(rows, model.batch_size or CTGAN_BATCH)
    if model.method == "tabddpm":
        return diffusion_budget(rows, model).epochs
    if model.method == "vae_basic":
        return model.epochs or _BASIC_EPOCHS
    numbers = sum(pa.types.is_floating(field.type) or pa.types.is_decimal(field.type) for field in schema)
    budget = training_budget(rows, len(schema), numbers, model)
    return budget.epochs * budget.members


def _estimate(spec: RefreshSpec, rows: int, schema: pa.Schema) -> Estimate:
    columns = len(schema)
    learned = min(rows * (1 - spec.gates.holdout), spec.model.max_rows)
    drawn = spec.sample.rows or rows
    epochs = _epochs(spec.model, round(learned), schema)
    training = learned * columns * epochs / _TRAIN_CELLS.get(spec.model.method, _TRAIN_CELLS["vae"])
    if spec.model.max_seconds is not None:
        training = min(training, spec.model.max_seconds)
    sampling = drawn * columns / _SAMPLE_CELLS.get(spec.model.method, _SAMPLE_CELLS["vae"])
    held = learned + 3 * min(rows, measured_rows(columns))
    return Estimate(
        seconds=round(_FIXED_SECONDS + training + sampling),
        memory_bytes=_FIXED_BYTES + held * columns * _CELL_BYTES,
    )
