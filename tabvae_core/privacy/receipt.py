"""The privacy receipt of a release: what was protected, spent, attacked and found, and what is not promised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tabvae_core.privacy.result import PrivacyFigures
from tabvae_core.references import GateResult
from tabvae_core.schema import TableSchema
from tabvae_core.spec import Kind, RefreshSpec

__all__ = ["PrivacyReceipt", "Protection", "Spent", "receipt_of"]

NOT_PROMISED = (
    "The attacks are those that are named here. That they found little does not say that no better one exists.",
    "An advantage is measured on a sample of rows and has an interval; a single person's risk may be above it.",
    "What is true of a whole group stays true in the synthetic table: whoever knows that a person belongs to the group"
    " can still conclude it. That is what the table is for, and no attack on a row.",
    "Rows are protected one by one. Of a person with many rows, more may be learned than of one with a single row.",
    "Every release of one source tells a little more. Attacks look at one release alone.",
)
_NO_DIFFERENTIAL_PRIVACY = (
    "None. This release has no differential privacy: nothing bounds by proof what it tells about one person, and what"
    " is said below rests on the attacks that were tried."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Protection(_Part):
    """One measure, and how it was applied."""

    name: str
    applied: bool
    said: str
    """For a person who reads no code."""


class Spent(_Part):
    """Differential privacy: what this release spent, and what all releases of the source have."""

    epsilon: float
    delta: float
    said: str
    """How it was accounted for."""
    total_epsilon: float | None = None
    """Of all releases of the source, this one included; None where no ledger is kept."""
    total_delta: float | None = None


class PrivacyReceipt(_Part):
    """What a data-protection officer is to know about one release. Holds figures and column names, never a cell."""

    format: Literal[1] = 1
    table: str
    run_id: str
    method: str
    learned_rows: int
    held_out_rows: int
    synthetic_rows: int
    protections: tuple[Protection, ...]
    spent: Spent | None = None
    """None: no differential privacy."""
    differential_privacy: str = _NO_DIFFERENTIAL_PRIVACY
    """`spent` in words."""
    attacks: PrivacyFigures | None = None
    """None: the table was not attacked."""
    gates: tuple[GateResult, ...] = ()
    """The limits on what attacks may prove, and whether they held."""
    not_promised: tuple[str, ...] = NOT_PROMISED

    @property
    def refused(self) -> tuple[GateResult, ...]:
        """Limits that did not hold."""
        return tuple(gate for gate in self.gates if not gate.passed)


def receipt_of(
    spec: RefreshSpec,
    schema: TableSchema,
    record: Mapping[str, Any],
    *,
    run_id: str,
    learned_rows: int,
    held_out_rows: int,
    synthetic_rows: int,
    redrawn_rows: int | None = None,
    attacks: PrivacyFigures | None = None,
    gates: Iterable[GateResult] = (),
    spent: Spent | None = None,
) -> PrivacyReceipt:
    """Put a receipt together.

    Args:
        spec: The refresh.
        schema: The columns and their kinds.
        record: The model's training record.
        run_id: The run.
        learned_rows: Rows that the model learned.
        held_out_rows: Rows that it never saw.
        synthetic_rows: Rows of the table.
        redrawn_rows: Rows that were near copies and were drawn again; None where none were looked for.
        attacks: What the attacks found.
        gates: Their verdicts.
        spent: What differential privacy spent.

    """
    said = _NO_DIFFERENTIAL_PRIVACY
    if spent is not None:
        said = f"Epsilon {spent.epsilon:g}, delta {spent.delta:g}. {spent.said}"
    return PrivacyReceipt(
        table=spec.name,
        run_id=run_id,
        method=spec.model.method,
        learned_rows=learned_rows,
        held_out_rows=held_out_rows,
        synthetic_rows=synthetic_rows,
        protections=tuple(_protections(spec, schema, record, synthetic_rows, redrawn_rows)),
        spent=spent,
        differential_privacy=said,
        attacks=attacks,
        gates=tuple(gates),
    )


def _protections(
    spec: RefreshSpec, schema: TableSchema, record: Mapping[str, Any], rows: int, redrawn: int | None
) -> Iterator[Protection]:
    least, outermost = spec.privacy.min_category_rows, spec.privacy.protect_extremes
    yield Protection(
        name="rare categories",
        applied=least > 1,
        said=f"Values of categories that fewer than {least} training rows have are not in the model."
        if least > 1
        else "Off: every category is in the model, however rare (privacy.min_category_rows is 1).",
    )
    yield Protection(
        name="extremes",
        applied=outermost > 1,
        said=f"The ends of each number's range are means of the {outermost} outermost rows: no person's own value."
        if outermost > 1
        else "Off: ranges end at exact values of single rows (privacy.protect_extremes is 1).",
    )
    for name, kinds, made in (
        ("identifiers", (Kind.IDENTIFIER,), "made anew in their format; no key of a real row is in the model"),
        ("free text", (Kind.TEXT, Kind.NESTED), "not learned: left empty, dropped, or made of words that many share"),
    ):
        names = [column.name for column in schema.columns if column.kind in kinds]
        yield Protection(
            name=name, applied=bool(names), said=f"{', '.join(names)}: {made}." if names else "No such column."
        )
    stops = bool(record.get("validation_loss"))
    yield Protection(
        name="early stopping",
        applied=stops,
        said="Training ended when rows set aside from the training rows were no longer described better, before single"
        " rows are learned by heart."
        if stops
        else "Not needed or not done by this method.",
    )
    yield Protection(name="near copies", applied=redrawn is not None, said=_near_copies(rows, redrawn))


def _near_copies(rows: int, redrawn: int | None) -> str:
    if redrawn is None:
        return (
            "Not filtered (privacy.near_copies is keep): a filter would hide memorised rows from measurement and leave"
            " holes where real rows are. Attacks count copies instead, and gates refuse a table that has too many."
        )
    share = 100 * redrawn / max(rows, 1)
    return (
        f"{redrawn:,} drawn rows all but equalled a training row unlike any other and were drawn again ({share:.3f} %):"
        f" no share of the table can have moved by more than {share:.3f} percentage points by that."
    )
