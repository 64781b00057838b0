"""What can be refused before a model learns: a source's columns and size, a spec that does not fit them."""

from __future__ import annotations

import difflib
import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from tabvae_core import lake as store
from tabvae_core.errors import DataError, SchemaDrift, SpecError
from tabvae_core.lake import ParquetSource
from tabvae_core.schema import ColumnSchema, TableSchema, type_name
from tabvae_core.source_rows import part_of
from tabvae_core.spec import Kind, RefreshSpec
from tabvae_core.tables import TableSource

if TYPE_CHECKING:
    from tabvae_core.synthesizers.base import Synthesizer

__all__ = [
    "check_columns",
    "check_conditions",
    "check_learnable",
    "check_method",
    "check_names",
    "check_settings",
    "check_size",
    "decisions",
]

_log = logging.getLogger(__name__)

_NOT_LEARNED = (Kind.TEXT, Kind.NESTED, Kind.IDENTIFIER)
_DECISIONS = {
    "drop": "left out of the synthetic table",
    "null": "kept, with nulls only",
    "refuse": "stops the run",
    "generate": "new text from words that many rows share",
}


def check_columns(spec: RefreshSpec, schema: pa.Schema) -> None:
    """Compare a source's columns with `expect_columns`.

    Raises:
        SchemaDrift: Columns were added, removed or changed, and the spec does not accept that.

    """
    if spec.expect_columns is None:
        return
    expected, actual = spec.expect_columns, {field.name: type_name(field.type) for field in schema}
    parts = [
        ("added", [name for name in actual if name not in expected]),
        ("missing", [name for name in expected if name not in actual]),
        (
            "changed",
            [f"{n} ({expected[n]} became {t})" for n, t in actual.items() if expected.get(n, t) != t],
        ),
    ]
    differences = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    if not differences:
        return
    if spec.drift == "accept":
        _log.info(
            "the columns of %s changed and drift is accepted: %s",
            store.safe_uri(spec.source.uri),
            differences,
        )
        return
    raise SchemaDrift(
        f"the columns of {store.safe_uri(spec.source.uri)} are not those of expect_columns: {differences}",
        hint="write expect_columns anew (`tabvae init` shows them), leave columns out by source.columns, "
        "or set drift: accept",
    )


def check_size(spec: RefreshSpec, source: ParquetSource, *, split: bool = True) -> None:
    """Refuse a source that is too small to be learned or split, or for the rows that are asked for of some classes.

    Args:
        spec: The refresh.
        source: The table.
        split: Whether rows are held out.

    Raises:
        DataError: There is no row, too few to learn from, or none on the held-out side of the split.
        SpecError: `sample.balance.counts` are more than the rows to draw.

    """
    from tabvae_core.inference import MIN_ROWS

    where, rows = store.safe_uri(spec.source.uri), source.num_rows
    filtered = " that pass source.filters" if spec.source.filters else ""
    if rows == 0:
        raise DataError(f"{where} has no rows{filtered}", hint="a table is learned from its rows")
    learned = part_of(spec, source, "train").num_rows if split else rows
    if learned < MIN_ROWS:
        held_out = f", {learned} of them to learn from when {spec.gates.holdout:.0%} are held out" if split else ""
        count = f"{rows} row{'' if rows == 1 else 's'}"
        raise DataError(
            f"{where} has only {count}{filtered}{held_out}: at least {MIN_ROWS} are needed",
            hint="a synthetic copy of so few rows would be the rows themselves",
        )
    if split and learned == rows:
        raise DataError(
            f"{where} has {rows} rows{filtered}, of which none falls to the held-out {spec.gates.holdout:.0%}",
            hint="raise gates.holdout, or use a larger table",
        )
    if spec.sample.balance is not None:
        spec.sample.balance.check_rows(spec.sample.rows or rows)


def check_method(spec: RefreshSpec) -> None:
    """Find out whether the method can do what the spec asks of it, before a row is read.

    Raises:
        SpecError: No such method, option or device, or a method that cannot fix given values or classes.

    """
    from tabvae_core.synthesizers import registry
    from tabvae_core.synthesizers.options import choose_device

    kind = registry.find(spec.model.method)
    registry.create(spec.model.method, spec.model, spec.privacy)
    choose_device(spec.model.device)
    if spec.sample.given or spec.sample.balance is not None:
        check_conditions(kind, "given" if spec.sample.given else "sample.balance")


def check_conditions(kind: type[Synthesizer], where: str) -> None:
    """Refuse a method that cannot fix values of columns; `where` is the place in the spec that asks for it.

    Raises:
        SpecError: It cannot.

    """
    if not kind.conditions:
        raise SpecError(
            f"{where}: method {kind.method!r} cannot fix values of columns", hint="use a method that can, such as vae"
        )


def check_names(spec: RefreshSpec, schema: pa.Schema) -> None:
    """Compare the columns that a spec names with those of its source: what is known before a row is read.

    Raises:
        SpecError: `columns`, `target_column`, `sample`, `scenarios` or a rule names none of them, or a rule does not
            fit.

    """
    from tabvae_core.conditions import named_columns
    from tabvae_core.rules import as_rules

    named = [("columns", name) for name in spec.columns]
    named += [("target_column", spec.target_column)] if spec.target_column is not None else []
    named += named_columns(spec)
    for where, name in named:
        if name not in schema.names:
            close = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(schema.names)}"
            raise SpecError(
                f"{where} names {name!r}, which is no column of {store.safe_uri(spec.source.uri)}", hint=hint
            )
    for rule in as_rules(spec.rules):
        rule.evaluate(pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], names=schema.names))


def check_settings(spec: RefreshSpec, schema: TableSchema) -> None:
    """Compare everything in a spec that depends on what the columns mean with what was found out about them.

    Raises:
        SpecError: `columns`, `rules`, `sample`, `scenarios` or `target_column` do not fit.
        ImpossibleRule: Rules exclude each other.

    """
    from tabvae_core.conditions import check_values, named_columns
    from tabvae_core.rules import bounds_of, check_rules

    known = [column.name for column in schema.columns]
    named = [("columns", name) for name in spec.columns]
    named += [("target_column", spec.target_column)] if spec.target_column is not None else []
    named += named_columns(spec)
    for where, name in named:
        if name not in known:
            raise SpecError(f"{where} names {name!r}, which is no column", hint=f"columns: {', '.join(known)}")
    check_rules(spec.rules, schema)
    bounds_of(spec.rules, schema, spec.columns)
    check_values(spec, schema)


def check_learnable(spec: RefreshSpec, rows: TableSource, schema: TableSchema, drawn: int) -> None:
    """Refuse classes that a model of these rows will not know, in one pass over their columns.

    Args:
        spec: Given values, balance, scenarios.
        rows: The training rows.
        schema: Their schema.
        drawn: Rows that will be drawn where the spec does not say.

    Raises:
        SpecError: Names the column.

    """
    from tabvae_core.conditions import check_classes, class_columns
    from tabvae_core.given import column_codecs

    if schema.public:  # what a private model will know is not found out on the side; sampling says what it lacks
        return
    codecs = column_codecs(class_columns(spec, schema), rows, schema, spec.privacy)
    check_classes(spec, codecs, schema, spec.sample.rows or drawn)


def decisions(schema: TableSchema) -> list[str]:
    """Say what is done with columns that are not learned: text, nested values, identifiers."""
    columns = [column for column in schema.columns if column.kind in _NOT_LEARNED]
    return [f"column {c.name} ({c.kind.value}): {_decision(c, public=schema.public)}" for c in columns]


def _decision(column: ColumnSchema, *, public: bool) -> str:
    if column.kind is Kind.IDENTIFIER:
        return "made anew in a format of our own, unique" if public else "made anew in the same format, unique"
    return _DECISIONS.get(column.unlearnable or "", "not learned")
