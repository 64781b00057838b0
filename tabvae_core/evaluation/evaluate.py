"""`evaluate`: a synthetic table measured against held-out rows, every figure beside its floor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tabvae_core.errors import DataError
from tabvae_core.evaluation.association import association_pairs, trend
from tabvae_core.evaluation.classes import at_equal_shares
from tabvae_core.evaluation.classifier import Detection, column_auc, detect
from tabvae_core.evaluation.divergence import ReferenceBins
from tabvae_core.evaluation.kept_relations import kept_relations
from tabvae_core.evaluation.metrics import copies, shape_error
from tabvae_core.evaluation.result import (
    ColumnEvaluation,
    Evaluation,
    Metric,
    Pairs,
    RowCounts,
    TellingColumn,
)
from tabvae_core.evaluation.utility import utility
from tabvae_core.evaluation.verdict import verdict
from tabvae_core.evaluation.view import (
    ColumnView,
    Side,
    TableView,
    aligned,
    modelled,
    null_share,
    plain,
    sampled,
    table_view,
)
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import ColumnSchema, TableSchema

__all__ = ["evaluate"]

_STEPS = ("columns", "pairs", "relations", "detection", "detection floor", "utility", "copies")
_DIGITS = 6


@dataclass(frozen=True)
class _Inputs:
    """The tables cut to the rows that are measured, and the whole ones for what needs every row."""

    whole: dict[Side, pa.Table]
    compared: dict[Side, pa.Table]
    """The whole tables, or where classes are balanced, rows of them in which these are equally frequent."""
    measured: dict[Side, pa.Table]
    view: TableView
    thin: TableView
    """The view for models: fewer rows where there are many columns."""
    schema: TableSchema
    seed: int
    said: tuple[str, ...]
    """How rows were chosen, where classes are balanced."""

    @property
    def others(self) -> tuple[Side, ...]:
        """What is compared with held-out rows: synthetic ones for the value, training ones for the floor."""
        return (Side.SYNTHETIC, Side.TRAIN) if self.view.has_train else (Side.SYNTHETIC,)


def evaluate(
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    train: pa.Table | None = None,
    target_column: str | None = None,
    balanced: str | None = None,
    max_rows: int = 20_000,
    seed: int = 0,
    floors_of: Evaluation | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a synthetic table against real rows that its model has never seen.

    Args:
        holdout: Held-out real rows.
        synthetic: Synthetic rows.
        schema: The columns and their kinds. Identifiers, text, nested and constant columns are listed, but do
            not count.
        train: Real rows that the model learned; the same figures with them in the place of `synthetic` are
            the floor.
        target_column: Column to predict when usefulness is measured.
        balanced: Column whose classes the synthetic table holds in chosen numbers: rows of all tables are chosen so
            that its classes are equally frequent (`classes.at_equal_shares`). Copies are looked for in all rows.
        max_rows: Rows of each table that are measured at most; copies are looked for in all of them.
        seed: Seed of every random choice; the same tables and seed give the same figures.
        floors_of: What was found for another synthetic table of as many rows beside the same real rows: the floors that
            take long to measure are taken over from it.
        progress: Told of every part.

    Raises:
        DataError: A table is empty, lacks a column, or holds one in a type that does not compare; or a balanced
            class is too rare among real rows.
        ValueError: `floors_of` is of other rows, or of other settings.

    """
    inputs = _prepare(holdout, synthetic, schema, train, balanced, max_rows, seed)
    floors = _floors(floors_of, inputs, max_rows, seed, target_column)
    notes = _notes(inputs)
    report = _reporter(progress)

    report(0)
    columns = _columns(inputs)
    metrics = _column_metrics(columns)
    report(1)
    errors = trend(inputs.view, seed=seed)
    metrics["trend"] = _metric(errors.value, errors.floor)
    pairs = association_pairs(inputs.view, errors)
    report(2)
    relations = kept_relations(inputs.view, inputs.measured[inputs.others[-1]], schema) if inputs.view.columns else ()
    report(3)
    found = _detection(inputs, columns)
    report(4)
    metrics["c2st"] = _metric(found.auc if found else None, floors("c2st", lambda: _detection_floor(inputs)))
    report(5)
    if target_column is not None:
        value = utility(inputs.thin, target_column, Side.SYNTHETIC, seed=seed)
        metrics["utility"] = _metric(value, floors("utility", lambda: _utility_floor(inputs, target_column)))
    report(6)
    metrics["copies"] = _copies(inputs, floors)
    report(7)
    ordered = {name: metrics[name] for name in _ORDER if name in metrics}
    return Evaluation(
        rows=_row_counts(inputs.view),
        max_rows=max_rows,
        seed=seed,
        target_column=target_column,
        balanced=balanced,
        metrics=ordered,
        columns=columns,
        pairs=pairs,
        relations=relations,
        telling=_telling(inputs.thin, columns, found),
        verdict=verdict(ordered),
        notes=(*notes, *_late_notes(ordered, pairs, target_column)),
    )


_ORDER = ("shape", "trend", "jsd", "c2st", "utility", "copies", "nulls")


def _prepare(
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    train: pa.Table | None,
    balanced: str | None,
    max_rows: int,
    seed: int,
) -> _Inputs:
    whole = {Side.HOLDOUT: holdout, Side.SYNTHETIC: synthetic}
    if train is not None:
        whole[Side.TRAIN] = train
    for side, table in whole.items():
        if not table.num_rows:
            raise DataError(f"the {side.value} table has no rows", hint="an evaluation needs rows on every side")
    compared, said = whole, ""
    if balanced is not None:
        compared, said = at_equal_shares(whole, schema.column(balanced), seed)
    equal = min([max_rows, *(table.num_rows for side, table in compared.items() if side is not Side.HOLDOUT)])
    limits = {Side.HOLDOUT: max_rows, Side.SYNTHETIC: equal, Side.TRAIN: equal}
    measured = {side: sampled(table, limits[side], seed) for side, table in compared.items()}
    view = table_view(measured, modelled(schema))
    thin = view.thinned(_MODEL_CELLS, seed)
    return _Inputs(whole, compared, measured, view, thin, schema, seed, tuple(filter(None, [said])))


_MODEL_CELLS = 600_000
"""Cells of a side that trees learn from at most: 20,000 rows of 30 columns."""


def _reporter(progress: Progress) -> Callable[[int], None]:
    def report(done: int) -> None:
        message = _STEPS[done] if done < len(_STEPS) else ""
        progress(ProgressEvent("evaluate", done, len(_STEPS), "parts", message))

    return report


def _metric(value: float | None, floor: float | None = None) -> Metric:
    return Metric(value=_rounded(value), floor=_rounded(floor))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), _DIGITS)


def _columns(inputs: _Inputs) -> tuple[ColumnEvaluation, ...]:
    views = {column.name: column for column in inputs.view.columns}
    listed = (column for column in inputs.schema.columns if column.unlearnable != "drop")
    return tuple(_column(inputs, column, views.get(column.name)) for column in listed)


def _column(inputs: _Inputs, column: ColumnSchema, view: ColumnView | None) -> ColumnEvaluation:
    shares = {side: _null_share(table, column.name) for side, table in inputs.measured.items()}
    figures: dict[str, float | None] = {}
    if view is not None:
        cells = aligned(inputs.measured, column.name)
        bins = ReferenceBins.fit(cells[Side.HOLDOUT])
        for side, suffix in zip(inputs.others, ("", "_floor"), strict=False):
            figures[f"shape{suffix}"] = _rounded(shape_error(view, side))
            figures[f"jsd{suffix}"] = _rounded(bins.distance(cells[Side.HOLDOUT], cells[side]))
        figures["jsd_chance"] = _rounded(bins.chance(cells[Side.HOLDOUT], cells[Side.SYNTHETIC]))
        real, synthetic = view.values[Side.HOLDOUT], view.values[Side.SYNTHETIC]
        figures["auc"] = _rounded(column_auc(real, synthetic, seed=inputs.seed))
    return ColumnEvaluation(
        name=column.name,
        kind=column.kind,
        modelled=view is not None,
        nulls_real=round(shares[Side.HOLDOUT], _DIGITS),
        nulls_synthetic=round(shares[Side.SYNTHETIC], _DIGITS),
        nulls_train=round(shares[Side.TRAIN], _DIGITS) if Side.TRAIN in shares else None,
        **figures,
    )


def _null_share(table: pa.Table, name: str) -> float:
    if name not in table.schema.names:
        return 1.0  # a text or nested column that another tool left out: as good as empty
    return null_share(plain(table.column(name)))


def _column_metrics(columns: Sequence[ColumnEvaluation]) -> dict[str, Metric]:
    counted = [column for column in columns if column.modelled]
    gaps = [100 * abs(c.nulls_real - c.nulls_synthetic) for c in counted]
    gap_floors = [100 * abs(c.nulls_real - c.nulls_train) for c in counted if c.nulls_train is not None]
    return {
        "shape": _metric(_mean([c.shape for c in counted]), _mean([c.shape_floor for c in counted])),
        "jsd": _metric(_mean([c.jsd for c in counted]), _mean([c.jsd_floor for c in counted])),
        "nulls": _metric(_mean(gaps), _mean(gap_floors)),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


_Floors = Callable[[str, Callable[[], float | None]], float | None]
"""Gives a figure's floor: one that is known, else what the function measures."""


def _floors(known: Evaluation | None, inputs: _Inputs, max_rows: int, seed: int, target_column: str | None) -> _Floors:
    if known is None:
        return lambda name, measure: measure()
    rows = _row_counts(inputs.view)
    if (known.rows, known.max_rows, known.seed, known.target_column) != (rows, max_rows, seed, target_column):
        raise ValueError("floors are shared by evaluations of as many rows with the same settings, however: not these")
    metrics = known.metrics
    return lambda name, measure: metrics[name].floor if name in metrics else measure()


def _row_counts(view: TableView) -> RowCounts:
    return RowCounts(**{side.value: rows for side, rows in view.rows.items()})


def _detection(inputs: _Inputs, columns: Sequence[ColumnEvaluation]) -> Detection | None:
    alone = {column.name: column.auc or 0.5 for column in columns}
    singles = {k: alone[column.name] for k, column in enumerate(inputs.view.columns)}
    return detect(inputs.thin, Side.SYNTHETIC, seed=inputs.seed, singles=singles)


def _detection_floor(inputs: _Inputs) -> float | None:
    found = detect(inputs.thin, Side.TRAIN, seed=inputs.seed) if inputs.view.has_train else None
    return found.auc if found else None


def _utility_floor(inputs: _Inputs, target_column: str) -> float | None:
    return utility(inputs.thin, target_column, Side.TRAIN, seed=inputs.seed) if inputs.view.has_train else None


_MAX_TELLING = 10
_TELLING_AUC = 0.03
"""Closer to 0.5, or within chance, the classifier has found next to nothing, and so has no column to name."""
_TELLING_DROP = 0.002
"""A smaller loss of AUC is noise."""


def _telling(
    view: TableView, columns: Sequence[ColumnEvaluation], found: Detection | None
) -> tuple[TellingColumn, ...]:
    rows = min(view.rows[Side.HOLDOUT], view.rows[Side.SYNTHETIC])
    if found is None or found.auc < 0.5 + max(_TELLING_AUC, 3 * _chance_error(rows)):
        return ()
    alone = {column.name: column.auc for column in columns}
    order = sorted((k for k, drop in found.drops.items() if drop > _TELLING_DROP), key=lambda k: -found.drops[k])
    return tuple(
        TellingColumn(
            name=view.columns[k].name,
            auc_drop=round(found.drops[k], _DIGITS),
            auc=alone[view.columns[k].name],
        )
        for k in order[:_MAX_TELLING]
    )


def _chance_error(rows: int) -> float:
    """Standard error of the AUC of a guess, for so many rows of each side (Mann & Whitney, 1947)."""
    return float(np.sqrt((2 * rows + 1) / 12) / rows)


def _copies(inputs: _Inputs, floors: _Floors) -> Metric:
    """Over all rows, not only the measured ones: one copy is one too many to overlook."""
    train = inputs.whole.get(Side.TRAIN)
    if train is None:
        return Metric(value=None)
    columns = modelled(inputs.schema)
    return _metric(
        copies(train, inputs.whole[Side.SYNTHETIC], columns, is_synthetic=True),
        floors("copies", lambda: copies(train, inputs.whole[Side.HOLDOUT], columns, is_synthetic=False)),
    )


def _notes(inputs: _Inputs) -> tuple[str, ...]:
    notes = list(inputs.said)
    left_out = [c for c in inputs.schema.columns if c.unlearnable != "drop" and c not in modelled(inputs.schema)]
    if left_out:
        names = ", ".join(f"{c.name} ({c.kind.value})" for c in left_out)
        notes.append(f"Listed, but not counted in the figures: {names}.")
    for side, table in inputs.measured.items():
        if table.num_rows < inputs.compared[side].num_rows:
            notes.append(
                f"{table.num_rows:,} of {inputs.compared[side].num_rows:,} {_WORDS[side]} rows were measured, "
                "chosen uniformly; copies were looked for in all of them."
            )
    if inputs.thin is not inputs.view:
        rows = f"{max(inputs.thin.rows.values()):,}"
        notes.append(
            f"Trees saw at most {rows} rows of each table, chosen uniformly, "
            f"to stay quick on {len(inputs.view.columns)} columns."
        )
    if not inputs.view.has_train:
        notes.append("No training rows were given: figures have no floor, and copies could not be looked for.")
    notes += [
        f"Column {name}: {what} in the synthetic table."
        for name in inputs.measured[Side.HOLDOUT].schema.names
        if (what := _type_change(inputs, name))
    ]
    return tuple(notes)


_WORDS = {Side.HOLDOUT: "held-out", Side.SYNTHETIC: "synthetic", Side.TRAIN: "training"}


def _type_change(inputs: _Inputs, name: str) -> str:
    schemas = {side: inputs.measured[side].schema for side in (Side.HOLDOUT, Side.SYNTHETIC)}
    if any(len(schema.get_all_field_indices(name)) != 1 for schema in schemas.values()):
        return ""
    real, synthetic = (schema.field(name).type for schema in schemas.values())
    return f"type {real} became {synthetic}" if real != synthetic else ""


def _late_notes(metrics: dict[str, Metric], pairs: Pairs, target_column: str | None) -> tuple[str, ...]:
    notes = []
    if pairs.measured < pairs.total:
        notes.append(f"Trend was measured on {pairs.measured:,} of {pairs.total:,} column pairs, chosen uniformly.")
    if metrics["c2st"].value is None:
        notes.append("Too few rows or columns for the real-or-synthetic test: it needs 10 rows on each side.")
    if target_column is not None and metrics["utility"].value is None:
        notes.append(
            f"Usefulness could not be measured on {target_column!r}: it must be a counted column that "
            "varies, beside at least one other, in at least 10 rows."
        )
    return tuple(notes)
