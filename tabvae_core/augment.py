"""`augment`: rows of a rare class to be added to a table, and what they gain a classifier on held-out rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tabvae_core.balance import class_indices
from tabvae_core.checks import check_conditions, check_settings
from tabvae_core.errors import DataError, SpecError
from tabvae_core.evaluation import evaluate, render_report
from tabvae_core.evaluation.augmentation import MIN_OF_CLASS, augmentation, missing_rows, of_class
from tabvae_core.evaluation.result import Augmentation
from tabvae_core.given import column_codecs, given_values
from tabvae_core.inference import infer_schema
from tabvae_core.lake import ParquetSink
from tabvae_core.local import check_out, checked_source, report_page, save_model
from tabvae_core.progress import Progress, silent
from tabvae_core.sampling import TableSink
from tabvae_core.schema import TableSchema
from tabvae_core.source_rows import measured_rows
from tabvae_core.spec import RefreshSpec, StorageSpec
from tabvae_core.steps import draw, learn
from tabvae_core.synthesizers import registry
from tabvae_core.tables import Part, RowSplit, TableSource, collect

__all__ = ["AugmentSummary", "augment_table"]


class AugmentSummary(BaseModel):
    """Rows of a class that were drawn, and what they gain."""

    model_config = ConfigDict(frozen=True)

    out: str
    rows: int
    columns: int
    gain: Augmentation


def augment_table(
    spec: RefreshSpec,
    out: str,
    *,
    column: str,
    value: str,
    share: float,
    html: str | None = None,
    endpoint_url: str | None = None,
    progress: Progress = silent,
) -> AugmentSummary:
    """Draw rows of a class to be added to a table, and measure what they gain a classifier.

    `gates.holdout` of the rows are held out, the others learned, and rows of the class drawn. Classifiers that learned
    real rows alone, with these rows, and with rows by SMOTE are tested on the held-out rows.

    Args:
        spec: Source, columns, rules, model, sample seed, privacy, gates.holdout.
        out: `.parquet` file or folder for the drawn rows, and only those.
        column: Column of the classes.
        value: The class.
        share: Share of the class in the whole table and the drawn rows together, in (0, 1).
        html: Where to write a report: drawn rows beside held-out rows of the class, and the gain.
        endpoint_url: Endpoint of the object store of `out` and `html`.
        progress: Told of every epoch and block.

    Raises:
        DataError: The table cannot be learned, or has too few rows of the class.
        ImpossibleRule: Too few drawn rows satisfy a rule.
        SpecError: There is no such class, it has the share already, or the method cannot fix values.

    """
    fixed = spec.sample.model_copy(update={"given": {column: value}, "balance": None})
    spec, storage = spec.model_copy(update={"sample": fixed}), StorageSpec(endpoint_url=endpoint_url)
    source = checked_source(spec, split=True)
    check_conditions(registry.find(spec.model.method), "augment")
    check_out(out, source.schema, spec.source.uri, endpoint_url)
    sides: dict[Part, TableSource] = {
        part: RowSplit(source, part, holdout=spec.gates.holdout, seed=spec.model.seed) for part in ("train", "holdout")
    }
    wanted = _wanted(spec, sides, column, value, share, progress)
    with tempfile.TemporaryDirectory(prefix="tabvae-") as folder:
        synthesizer = learn(spec, sides["train"], checkpoint=Path(folder) / "checkpoint", progress=progress)
        save_model(synthesizer, Path(folder) / "bundle", tempfile.gettempdir())
        schema = synthesizer.schema
        with ParquetSink(out, schema.arrow, storage, rows_per_file=spec.sample.rows_per_file) as sink:
            drawn = _Tee(sink)
            draw(spec, schema, drawn, Path(folder) / "bundle", wanted.rows, progress=progress)
            train, holdout = (collect(rows, max_rows=measured_rows(len(source.schema))) for rows in sides.values())
            source.verify()
            gain = augmentation(
                train, holdout, drawn.table, schema,
                column=column, value=wanted.value, share=share, seed=spec.sample.seed, progress=progress,
            )  # fmt: skip
            if gain is None:
                raise DataError("too few rows of the class were measured", hint="ask for a larger --share")
            if html is not None:
                real = [table.filter(pa.array(of_class(table, column, wanted.value))) for table in (holdout, train)]
                _report(html, storage, gain, real[0], drawn.table, real[1], schema, progress)
    return AugmentSummary(out=out, rows=sink.rows, columns=len(schema.names), gain=gain)


@dataclass(frozen=True)
class _Wanted:
    """Rows to draw of a class, given as a value of its column's type."""

    value: Any
    rows: int


def _wanted(
    spec: RefreshSpec, sides: Mapping[Part, TableSource], column: str, value: str, share: float, progress: Progress
) -> _Wanted:
    """Find the class, and how many rows of it are missing; known before anything is learned."""
    schema = infer_schema(
        sides["train"], overrides=spec.columns, unlearnable=spec.unlearnable, privacy=spec.privacy, progress=progress
    )
    check_settings(spec, schema)
    codec = column_codecs([column], sides["train"], schema, spec.privacy)[column]
    class_indices([value], column, codec, schema, "augment")
    typed = given_values({column: value}, schema)[column]
    counts = {part: _count(rows, column, typed) for part, rows in sides.items()}
    rows, of_it = sum(side.num_rows for side in sides.values()), sum(counts.values())
    missing = missing_rows(rows, of_it, share)
    if not missing:
        raise SpecError(
            f"{of_it / rows:.1%} of the rows have {column} = {value}, no less than the {share:.1%} asked for",
            hint="ask for a larger --share",
        )
    for part, count in counts.items():
        if count < MIN_OF_CLASS:
            side = "training" if part == "train" else "held-out"
            raise DataError(
                f"only {count} {side} rows have {column} = {value}, too few to learn or to measure a gain by",
                hint=f"at least {MIN_OF_CLASS} are needed: name a more frequent class, or change gates.holdout",
            )
    return _Wanted(typed, missing)


def _count(rows: TableSource, column: str, value: Any) -> int:
    batches = (pa.Table.from_batches([batch]) for batch in rows.batches([column]))
    return sum(int(of_class(table, column, value).sum()) for table in batches)


class _Tee:
    """Takes rows, keeps them and passes them on."""

    def __init__(self, sink: TableSink) -> None:
        self._sink, self._tables = sink, list[pa.Table]()

    def write(self, data: pa.Table) -> None:
        self._tables.append(data)
        self._sink.write(data)

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self._tables)


def _report(
    html: str,
    storage: StorageSpec,
    gain: Augmentation,
    holdout: pa.Table,
    drawn: pa.Table,
    train: pa.Table,
    schema: TableSchema,
    progress: Progress,
) -> None:
    """Write the report of rows of one class: how true they are, and what they gain."""
    found = evaluate(holdout, drawn, schema, train=train, progress=progress)
    found = found.model_copy(update={"augmentation": gain})
    with report_page(html, storage) as page:
        render_report(
            found, holdout, drawn, schema, title=f"{gain.column} = {gain.value}",
            subtitle="synthetic rows of the class, measured against held-out rows of it", path=page,
        )  # fmt: skip
