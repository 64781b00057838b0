"""What scenarios change: means, medians and shares of every column beside those of the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tabvae_core.evaluation.charts import format_value
from tabvae_core.evaluation.view import ColumnView, Side, Unit, modelled, table_view
from tabvae_core.schema import TableSchema

__all__ = ["Difference", "Differences", "differences", "render_differences"]

MAX_CLASSES = 10
"""Classes shown of a column, those most frequent in the base."""

FigureUnit = Unit | Literal["share"]


class Difference(BaseModel):
    """One figure of one column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    figure: str
    """mean, median, nulls, or `share of` a class."""
    unit: FigureUnit
    """What the numbers mean; times are in seconds, shares in [0, 1]."""
    base: float | None
    """None where the base has no value."""
    scenarios: dict[str, float | None]

    def cells(self) -> dict[str, str]:
        """The figure as texts: the base, and for each scenario its value and the difference."""
        cells = {"column": self.column, "figure": self.figure, "base": _text(self.base, self.unit)}
        for name, value in self.scenarios.items():
            cells[name] = _text(value, self.unit)
            cells[f"{name} - base"] = _difference(value, self.base, self.unit)
        return cells


class Differences(BaseModel):
    """Scenarios beside the base."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    """Rows of each table that were drawn."""
    figures: tuple[Difference, ...]
    beyond: dict[str, dict[str, float]]
    """By scenario and column: share of the changed numbers beyond what was learned; those that are not zero."""


def differences(
    base: pa.Table,
    scenarios: Mapping[str, pa.Table],
    schema: TableSchema,
    *,
    rows: int,
    beyond: Mapping[str, Mapping[str, float]],
) -> Differences:
    """Compare tables of scenarios with the base, column by column.

    Args:
        base: Rows without changes.
        scenarios: Rows of each scenario.
        schema: Their columns and kinds; identifiers, text, nested and constant columns are left out.
        rows: Rows that were drawn of each, of which the tables may be a uniform sample.
        beyond: What `draw_scenario` said of every scenario.

    """
    found: dict[tuple[str, str], Difference] = {}
    for name, table in scenarios.items():
        view = table_view({Side.HOLDOUT: base, Side.SYNTHETIC: table}, modelled(schema))
        for column in view.columns:
            for figure, unit, before, after in _figures(column):
                known = found.setdefault(
                    (column.name, figure),
                    Difference(column=column.name, figure=figure, unit=unit, base=before, scenarios={}),
                )
                known.scenarios[name] = after
    told = {name: dict(shares) for name, shares in beyond.items() if shares}
    return Differences(rows=rows, figures=tuple(found.values()), beyond=told)


def _figures(column: ColumnView) -> Iterator[tuple[str, FigureUnit, float | None, float | None]]:
    """Figures of a column as (name, unit, base, scenario)."""
    base, changed = column.values[Side.HOLDOUT], column.values[Side.SYNTHETIC]
    known = [values[~np.isnan(values)] for values in (base, changed)]
    if column.is_measure:
        for name, figure in (("mean", np.mean), ("median", np.median)):
            before, after = (float(figure(values)) if len(values) else None for values in known)
            yield name, column.unit, before, after
    else:
        labels, sizes = column.labels or (), (len(base), len(changed))
        counts = [np.bincount(values.astype(np.int64), minlength=len(labels)) for values in known]
        for code in np.argsort(-counts[0], kind="stable")[:MAX_CLASSES]:
            before, after = (float(count[code] / max(rows, 1)) for count, rows in zip(counts, sizes, strict=True))
            yield f"share of {labels[code]}", "share", before, after
    nulls = [float(np.isnan(values).mean()) for values in (base, changed)]
    if any(nulls):
        yield "nulls", "share", nulls[0], nulls[1]


def _text(value: float | None, unit: FigureUnit) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if unit == "share" else format_value(value, unit)


def _difference(value: float | None, base: float | None, unit: FigureUnit) -> str:
    if value is None or base is None:
        return "-"
    change = value - base
    if unit == "share":
        return f"{100 * change:+.1f}"
    sign = "-" if change < 0 else "+"
    return sign + format_value(abs(change), "number" if unit == "number" else "duration")


def render_differences(found: Differences, *, title: str, path: Path) -> None:
    """Write a page that shows the differences, self-contained."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath("differences.html").read_text(encoding="utf-8"))
    lines = [figure.cells() for figure in found.figures]
    path.write_text(template.render(title=title, found=found, lines=lines), encoding="utf-8")
