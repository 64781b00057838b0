"""Scenarios: some columns are changed, and all others follow from them as they were learned to.

A scenario begins with rows as they were learned, or with its given values in all of them. Classes get new shares by
weights, so that what goes together stays together: classes of several columns are raked to all of their shares at once
(Deming & Stephan, 1940). Numbers are scaled and shifted. These columns are then held, and the others drawn anew beside
them. What follows is what was learned of rows that are like this, which need not be what causes what.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tabvae_core.balance import class_indices
from tabvae_core.codecs._nulls import is_null
from tabvae_core.codecs.base import Codec
from tabvae_core.codecs.ordinal import base_type, plain, restore_type
from tabvae_core.errors import SpecError
from tabvae_core.given import given_values
from tabvae_core.progress import Progress, silent
from tabvae_core.schema import TableSchema
from tabvae_core.spec import MarginSpec, RefreshSpec, ScenarioSpec
from tabvae_core.tables import InMemoryTable, TableSource, resampled_rows, take_rows

if TYPE_CHECKING:
    from tabvae_core.sampling import TableSink

__all__ = ["changed_rows", "draw_scenario", "find_scenarios"]

_log = logging.getLogger(__name__)

_MOST_ROUNDS = 200
_NEAR = 0.005
"""Share by which a class may miss what was asked for, where shares of several columns are raked."""
_MOST_DECIMALS = 6

Floats = npt.NDArray[np.float64]


def find_scenarios(spec: RefreshSpec, names: Sequence[str]) -> dict[str, ScenarioSpec]:
    """Choose scenarios of a spec by name; all of them, where none is named.

    Raises:
        SpecError: There are none, or none of a name.

    """
    if not spec.scenarios:
        raise SpecError("the spec has no scenarios", hint="write some under `scenarios:`, see docs/augmentation.md")
    for name in names:
        if name not in spec.scenarios:
            raise SpecError(f"there is no scenario {name!r}", hint=f"scenarios: {', '.join(spec.scenarios)}")
    return {name: spec.scenarios[name] for name in names or spec.scenarios}


def draw_scenario(
    spec: RefreshSpec,
    name: str,
    bundle: Path,
    base: TableSource,
    schema: TableSchema,
    codecs: Mapping[str, Codec],
    sink: TableSink,
    *,
    progress: Progress = silent,
) -> dict[str, float]:
    """Draw the table of a scenario, of as many rows as the base.

    Args:
        spec: Scenario, rules, seed and shards.
        name: The scenario.
        bundle: Local folder of the model.
        base: The table without changes, drawn with the same seed.
        schema: What the model learned.
        codecs: What it learned of the columns whose classes get new shares.
        sink: Takes the rows.
        progress: Told of every block.

    Returns:
        By column, the share of the changed numbers, in [0, 1], that lie beyond the learned range; columns without any
        are left out. Such cells are kept, and others follow from them as from the nearest that was learned.

    Raises:
        ImpossibleRule: Changed cells break a rule, or too few drawn rows satisfy one.
        SpecError: A class was not learned, or the shares cannot hold.

    """
    from tabvae_core.steps import draw

    scenario = spec.scenarios[name]
    fixed = spec.model_copy(
        update={"sample": spec.sample.model_copy(update={"given": scenario.given, "balance": None})}
    )
    if not scenario.margins:
        draw(fixed, schema, sink, bundle, base.num_rows, progress=progress)
        return {}
    kept = _Kept(list(scenario.margins))
    if scenario.given:
        draw(fixed, schema, kept, bundle, base.num_rows, progress=progress)
    else:
        kept.write(pa.Table.from_batches(base.batches(kept.names)))
    held = changed_rows(kept.table, scenario, codecs, schema, spec.sample.seed, f"scenarios.{name}")
    given = _with_fixed(held, given_values(scenario.given, schema), schema)
    draw(fixed, schema, _NullsBack(sink, given), bundle, base.num_rows, given=InMemoryTable(given), progress=progress)
    return _beyond(held, scenario, schema, name)


class _Kept:
    """Takes rows, keeps some columns."""

    def __init__(self, names: list[str]) -> None:
        self.names, self._tables = names, list[pa.Table]()

    def write(self, data: pa.Table) -> None:
        self._tables.append(data.select(self.names))

    @property
    def table(self) -> pa.Table:
        return pa.concat_tables(self._tables)


class _NullsBack:
    """Passes rows on, and empties the cells that are null in the given table, where nulls are drawn."""

    def __init__(self, sink: TableSink, given: pa.Table) -> None:
        self._sink, self._at = sink, 0
        self._null = {name: is_null(plain(given.column(name))) for name in given.schema.names}

    def write(self, data: pa.Table) -> None:
        for name, mask in self._null.items():
            here = mask[self._at : self._at + data.num_rows]
            if here.any():
                index, cells = data.schema.get_field_index(name), plain(data.column(name))
                emptied = pc.if_else(pa.array(here), pa.scalar(None, cells.type), cells)
                field = data.schema.field(index)
                data = data.set_column(index, field, restore_type(emptied, field.type))
        self._at += data.num_rows
        self._sink.write(data)


def changed_rows(
    base: pa.Table, scenario: ScenarioSpec, codecs: Mapping[str, Codec], schema: TableSchema, seed: int, where: str
) -> pa.Table:
    """Change the columns of `scenario.margins`.

    Args:
        base: These columns of n drawn rows.
        scenario: What changes.
        codecs: What was learned of the columns that get new shares.
        schema: The learned table.
        seed: Decides which rows are repeated where shares change.
        where: Place in the spec, for errors.

    Returns:
        n rows; nulls stay nulls.

    Raises:
        SpecError: A class was not learned or not drawn, or the shares of several columns cannot hold together.

    """
    shares = {name: margin.shares for name, margin in scenario.margins.items() if margin.shares}
    if shares:
        base = take_rows(base, _rows_at(base, shares, codecs, schema, seed, where))
    for name, margin in scenario.margins.items():
        if not margin.shares:
            index = base.schema.get_field_index(name)
            field = base.schema.field(index)
            base = base.set_column(index, field, _shifted(base.column(name), margin, field.type, name, where))
    return base


def _rows_at(
    base: pa.Table,
    shares: Mapping[str, Mapping[str, float]],
    codecs: Mapping[str, Codec],
    schema: TableSchema,
    seed: int,
    where: str,
) -> npt.NDArray[np.int64]:
    """Numbers of rows, some repeated and some left out, whose classes have the shares."""
    weights, codes, targets = np.ones(base.num_rows), [], []
    for name, asked in shares.items():
        values, _ = codecs[name].classes() or (pa.nulls(0), None)
        found = pc.index_in(plain(base.column(name)), value_set=values)
        code = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        weights[code < 0] = 0.0
        named = class_indices(asked, name, codecs[name], schema, where)
        counts = np.bincount(code[code >= 0], minlength=len(values)).astype(np.float64)
        targets.append(_target(counts, dict(zip(named, asked.values(), strict=True)), name, where))
        codes.append(code)
    _rake(weights, codes, targets, tuple(shares), where)
    _, strata = np.unique(np.stack(codes), axis=1, return_inverse=True)
    return resampled_rows(weights, strata.ravel(), base.num_rows, seed)


def _target(counts: Floats, asked: Mapping[int, float], name: str, where: str) -> Floats:
    """Share of every class (k,): those asked for, and what is left in the proportions of the base."""
    target, rest = np.zeros(len(counts)), counts.copy()
    for index, share in asked.items():
        if share and not counts[index]:
            raise SpecError(
                f"{where}: a class of column {name!r} is so rare that no base row is of it", hint="raise --rows"
            )
        target[index], rest[index] = share, 0.0
    left = 1 - target.sum()
    if left > 1e-9 and not rest.any():
        raise SpecError(
            f"{where}: shares of column {name!r} add up to {target.sum():.6g}, and no other class is left",
            hint="let the shares add up to 1",
        )
    return target + max(left, 0.0) * rest / rest.sum() if rest.any() else target


def _rake(
    weights: Floats,
    codes: Sequence[npt.NDArray[np.int64]],
    targets: Sequence[Floats],
    names: Sequence[str],
    where: str,
) -> None:
    """Scale weights of rows, column after column, until the classes of all columns have their shares."""
    furthest = 0.0
    for _ in range(_MOST_ROUNDS):
        furthest = 0.0
        for code, target in zip(codes, targets, strict=True):
            now = np.bincount(code.clip(0), weights, minlength=len(target)) / max(weights.sum(), 1e-300)
            furthest = max(furthest, float(np.abs(now - target).max()))
            factors = np.divide(target, now, out=np.zeros(len(target)), where=now > 0)
            weights *= factors[code.clip(0)]
        if furthest < 1e-9:
            return
    if furthest > _NEAR:
        raise SpecError(
            f"{where}: the shares of {' and '.join(names)} cannot hold together: they depend on each other",
            hint="change fewer of them at a time",
        )


def _shifted(cells: pa.ChunkedArray, margin: MarginSpec, kind: pa.DataType, name: str, where: str) -> pa.Array:
    """Scale, shift and round to what the column's values are multiples of."""
    cells = plain(cells)
    there = ~is_null(cells)
    before = np.where(there, pc.fill_null(cells.cast(pa.float64(), safe=False), 0.0).to_numpy(), 0.0)
    scale = 1.0 if margin.scale is None else margin.scale
    after = before * scale + (margin.shift or 0.0)
    decimals = _decimals(before, base_type(kind))
    after = after if decimals is None else np.round(after, decimals)
    try:
        return restore_type(pa.array(after, mask=~there).cast(base_type(kind)), kind)
    except pa.ArrowException:
        raise SpecError(
            f"{where}: column {name!r}, scaled and shifted, does not fit its type, {kind}",
            hint="scale or shift it by less",
        ) from None


def _decimals(values: Floats, kind: pa.DataType) -> int | None:
    """Decimals that all values are rounded to; None where they are not rounded."""
    if pa.types.is_integer(kind):
        return 0
    if pa.types.is_decimal(kind):
        return int(kind.scale)
    return next((n for n in range(_MOST_DECIMALS + 1) if np.array_equal(np.round(values, n), values)), None)


def _with_fixed(held: pa.Table, fixed: Mapping[str, object], schema: TableSchema) -> pa.Table:
    """Append columns of fixed values."""
    for name, value in fixed.items():
        kind = schema.arrow.field(name).type
        held = held.append_column(name, restore_type(plain(pa.array([value] * held.num_rows, base_type(kind))), kind))
    return held


def _beyond(held: pa.Table, scenario: ScenarioSpec, schema: TableSchema, name: str) -> dict[str, float]:
    """Shares of changed numbers outside the learned range; those that are not zero are said."""
    found = {}
    for column, margin in scenario.margins.items():
        low, high = schema.column(column).minimum, schema.column(column).maximum
        if margin.shares or low is None or high is None:
            continue
        cells = plain(held.column(column)).cast(pa.float64(), safe=False).drop_null().to_numpy()
        outside = float(((cells < float(low)) | (cells > float(high))).mean()) if len(cells) else 0.0
        if outside:
            found[column] = outside
            _log.warning(
                "scenario %s: %.1f %% of %s lie beyond what was learned of it; others follow as from its ends",
                name, 100 * outside, column,
            )  # fmt: skip
    return found
