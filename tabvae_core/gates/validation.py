"""`validate`: a synthetic table held against schema, rules and references with Great Expectations."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tabvae_core.evaluation.divergence import Histogram
from tabvae_core.gates.checks import Desk, open_desk
from tabvae_core.gates.docs import add_site, make_offline
from tabvae_core.gates.frames import chunks_of, frame_of
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.references import GateResult
from tabvae_core.rules import Rule, as_rules
from tabvae_core.schema import TableSchema
from tabvae_core.tables import TableSource, as_source

if TYPE_CHECKING:
    from tabvae_core.gates.suite import Demands

__all__ = ["validate"]


def validate(
    table: pa.Table | TableSource,
    schema: TableSchema,
    rules: Iterable[Rule | str] = (),
    *,
    rows: int | None = None,
    categories: Mapping[str, tuple[Any, ...]] | None = None,
    formats: Mapping[str, str] | None = None,
    references: Mapping[str, Histogram] | None = None,
    jsd_limits: float | Mapping[str, float] = 0.15,
    docs: Path | None = None,
    name: str = "synthetic table",
    max_rows: int = 1_000_000,
    progress: Progress = silent,
) -> tuple[GateResult, ...]:
    """Check a synthetic table. A refusal is a result, not an error.

    Columns and their order, Arrow types, nullability, ranges, categories, uniqueness and format of keys,
    distributions and rules become a Great Expectations suite, which runs on batches of bounded size.

    Args:
        table: The synthetic rows.
        schema: What the columns must be.
        rules: Conditions that every row satisfies.
        rows: Rows that the table must have; None: any number.
        categories: By column, the values that may occur.
        formats: By column, a regular expression for its texts or whole numbers, from end to end.
        references: By column, what held-out rows look like (`reference_histograms`).
        jsd_limits: Largest Jensen-Shannon distance to a reference, for all columns or by column.
        docs: Folder for Data Docs; None: none are written.
        name: Name of the suite in the Data Docs.
        max_rows: Rows checked in one batch; a larger table is checked in batches of 250,000.
        progress: Told of every batch.

    Returns:
        One result an expectation, in the order of the suite. They hold names and counts, never cells.

    Raises:
        SpecError: A rule cannot be read.

    """
    source = as_source(table)
    found = references or {}
    limits = jsd_limits if isinstance(jsd_limits, Mapping) else dict.fromkeys(found, jsd_limits)
    parsed = as_rules(rules)
    with _quiet():
        from tabvae_core.gates.suite import Demands

        demands = Demands(schema, parsed, categories or {}, formats or {}, found, limits, rows)
        with open_desk() as desk:
            return _run(source, demands, desk, docs, _slug(name), max_rows, progress)


def _slug(name: str) -> str:
    """A name that is safe in paths and links of the Data Docs."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "table"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Great Expectations from calling home, from printing, and from warning about itself."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _run(
    source: TableSource,
    demands: Demands,
    desk: Desk,
    docs: Path | None,
    name: str,
    max_rows: int,
    progress: Progress,
) -> tuple[GateResult, ...]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from tabvae_core.gates.suite import is_unique, suite_of

    single = source.num_rows <= max_rows
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    sites = [] if docs is None else [add_site(context, docs)]
    asset = context.data_sources.add_pandas("synthetic").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("rows")
    suite = context.suites.add(suite_of(name, demands, desk, count_rows=single))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    tally = _Tally([_Line.of(expectation) for expectation in suite.expectations])
    tally.explain("columns", _columns_differ(demands.schema.names, source.schema.names))
    keys = _Keys([] if single else [c.name for c in demands.schema.columns if is_unique(c, demands.schema.rows)])
    for chunk in chunks_of(source, max_rows=max_rows):
        answer = definition.run(batch_parameters={"dataframe": frame_of(chunk)}, result_format="SUMMARY")
        tally.add(answer.results, chunk.num_rows)
        keys.add(chunk)
        progress(ProgressEvent("validate", tally.rows, source.num_rows, "rows"))
    if docs is not None:
        context.build_data_docs(site_names=sites)
        make_offline(docs)
    tally.add_repeats(keys.repeats())
    counted = () if single or demands.rows is None else (_row_count(tally.rows, demands.rows),)
    return (*counted, *tally.results())


# From expectations to gate results


@dataclass
class _Line:
    """One expectation over all batches."""

    gate: str
    column: str | None
    is_rule: bool
    limit: float | None
    passed: bool = True
    value: float = 0.0
    problem: str = ""

    @classmethod
    def of(cls, expectation: Any) -> _Line:
        meta = expectation.meta or {}
        limit = meta.get("limit")
        return cls(meta["gate"], getattr(expectation, "column", None), meta.get("rule", False), limit)

    @property
    def key(self) -> tuple[str, str | None]:
        return self.gate, self.column


class _Tally:
    """Adds up the answers of batches, expectation by expectation."""

    def __init__(self, lines: list[_Line]) -> None:
        self._lines = {line.key: line for line in lines}
        self.rows = 0

    def add(self, answers: Iterable[Any], rows: int) -> None:
        self.rows += rows
        for answer in answers:
            config = answer.expectation_config
            line = self._lines[config.meta["gate"], config.kwargs.get("column")]
            line.passed &= bool(answer.success)
            line.problem = line.problem or _problem(answer, line)
            figure = _figure(answer.result)
            line.value = max(line.value, figure) if line.limit is not None else line.value + figure

    def explain(self, gate: str, problem: str) -> None:
        """Say beforehand why a gate on the whole table refuses, if it does."""
        self._lines[gate, None].problem = problem

    def add_repeats(self, repeats: Mapping[str, int]) -> None:
        """Take in keys that occur in more than one batch."""
        for column, count in repeats.items():
            line = self._lines["unique", column]
            line.value, line.passed = max(line.value, float(count)), line.passed and not count

    def results(self) -> tuple[GateResult, ...]:
        return tuple(
            GateResult(
                name=line.gate,
                column=line.column,
                passed=line.passed,
                value=line.value,
                limit=0.0 if line.limit is None else line.limit,
                detail=_detail(line, self.rows),
            )
            for line in self._lines.values()
        )


def _figure(result: Mapping[str, Any]) -> float:
    """Rows that break an expectation, or the figure that it measured."""
    details = result.get("details") or {}
    return float(details["value"] if "value" in details else result.get("unexpected_count") or 0)


def _problem(answer: Any, line: _Line) -> str:
    """Why an expectation could not be computed, or what an aggregate one saw; empty for a count of rows."""
    if answer.success:
        return ""
    messages = [text for text in _exceptions(answer.exception_info) if text]
    if any("does not exist" in text for text in messages):
        return "the column is missing"
    if messages:
        return "could not be checked"
    observed = answer.result.get("observed_value")
    if line.gate == "rows":
        return f"the table has {observed} rows"
    if line.gate == "type" or "cannot be" in str(observed):
        return f"the type is {observed}" if line.gate == "type" else str(observed)
    return ""


def _exceptions(info: Mapping[str, Any] | None) -> list[str]:
    """Messages of the exceptions behind an answer, which stands alone or as one a metric."""
    if not info:
        return []
    if "raised_exception" in info:
        return [str(info.get("exception_message"))] if info["raised_exception"] else []
    return [str(each.get("exception_message")) for each in info.values() if each.get("raised_exception")]


_BROKEN = {
    "nulls": "nulls where none are allowed",
    "range": "cells outside the range",
    "categories": "cells of unknown categories",
    "unique": "cells that are not unique",
    "format": "cells of another format",
}


def _detail(line: _Line, rows: int) -> str:
    where = "" if line.column is None else f"{line.column}: "
    if line.limit is not None and not line.problem:
        said = f"Jensen-Shannon distance {line.value:.3g}, limit {line.limit:.3g}"
        return f"{where}{said}" if line.passed else f"refused: {line.column} differs, {said}"
    if line.passed:
        return f"{line.gate} holds in {rows:,} rows" if line.is_rule else f"{where}{line.gate} as expected"
    if line.problem:
        where = f"{line.gate}: " if line.is_rule else where
        return f"refused: {where}{line.problem}"
    if line.is_rule:
        return f"refused: {line.gate} broken by {line.value:,.0f} rows"
    return f"refused: {where}{line.value:,.0f} {_BROKEN.get(line.gate, 'cells')}"


def _columns_differ(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Name missing and unexpected columns; empty where columns and order are the same."""
    parts = [
        f"{what} {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for what, names in (
            ("missing", [name for name in wanted if name not in found]),
            ("unexpected", [name for name in found if name not in wanted]),
        )
        if names
    ]
    if parts:
        return f"columns {'; '.join(parts)}"
    return "" if list(wanted) == list(found) else "the order of the columns differs"


def _row_count(found: int, wanted: int) -> GateResult:
    passed = found == wanted
    detail = "rows as expected" if passed else f"refused: the table has {found} rows"
    return GateResult(name="rows", passed=passed, value=float(found), limit=float(wanted), detail=detail)


# Uniqueness over batches


class _Keys:
    """64-bit hashes of key columns, since no batch sees the keys of another; 8 bytes a row.

    Two of n keys share a hash by chance with probability n² / 2⁶⁵: three in a million for ten million rows.
    """

    def __init__(self, columns: list[str]) -> None:
        self._hashes: dict[str, list[npt.NDArray[Any]]] = {column: [] for column in columns}

    def add(self, chunk: pa.Table) -> None:
        for column, hashes in self._hashes.items():
            if column in chunk.schema.names:
                cells = pd.Series(chunk.column(column).drop_null().to_pandas())
                hashes.append(pd.util.hash_pandas_object(cells, index=False, categorize=False).to_numpy(np.uint64))

    def repeats(self) -> dict[str, int]:
        """Cells of each column that repeat an earlier one."""
        found = {}
        for column, parts in self._hashes.items():
            hashes = np.concatenate(parts) if parts else np.empty(0, np.uint64)
            found[column] = len(hashes) - len(np.unique(hashes))
        return found
