"""The latent space of a model, to look into: rows as points, lines between them, what each axis does.

    space = latent_space("model/")
    encode_rows(space, table)            # a point and its spread for each row
    interpolate(space, table, (3, 17))   # made-up rows on the way from one to the other
    traverse(space)                      # how columns move along each axis

A point is not a whole row: the decoder of `vae` draws what the point leaves open. So all that is drawn is drawn alike
for the rows that are compared, and only the point differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.errors import DataError, SpecError
from tabvae_core.evaluation.view import ColumnView, Side, Unit, modelled, table_view
from tabvae_core.given import given_column
from tabvae_core.progress import Progress, ProgressEvent, silent
from tabvae_core.schema import TableSchema
from tabvae_core.synthesizers.base import BLOCK_ROWS, Synthesizer
from tabvae_core.tables import RowSample, TableSource, as_source

__all__ = [
    "AxisMoves",
    "ColumnMoves",
    "LatentSpace",
    "Latents",
    "Traversal",
    "encode_rows",
    "encoded_schema",
    "interpolate",
    "latent_space",
    "traverse",
]

Floats = npt.NDArray[np.float64]

OUTERMOST = 0.95
"""A traversal goes from the 5 % to the 95 % quantile of the prior: beyond, a network has seen few rows."""


@dataclass(frozen=True)
class Latents:
    """Posteriors of n rows over D dimensions: independent normal distributions.

    Args:
        mean: Shape (n, D).
        spread: Standard deviations, shape (n, D).

    """

    mean: Floats
    spread: Floats


class LatentSpace(Protocol):
    """The latent space of one network of a model, of D dimensions."""

    @property
    def schema(self) -> TableSchema:
        """Schema of the rows that it reads and makes."""
        ...

    @property
    def dimensions(self) -> int:
        """D."""
        ...

    @property
    def member(self) -> int:
        """Number of the network in its ensemble."""
        ...

    @property
    def members(self) -> int:
        """Networks of the ensemble; each has a space of its own, whose axes say nothing about those of others."""
        ...

    def encode(self, rows: pa.Table | pa.RecordBatch) -> Latents:
        """Posteriors of rows that have the columns and types of the schema."""
        ...

    def decode(self, z: Floats, *, numbers: npt.NDArray[np.int64] | None = None, seed: int = 0) -> pa.Table:
        """Draw a row at each point.

        Args:
            z: Shape (n, D).
            numbers: Below 4,096, shape (n,): rows of one number share everything that is drawn, keys too, so that they
                differ by their points alone; None: rows share nothing, and are at most 4,096.
            seed: Of what is drawn.

        """
        ...

    def draw(self, n: int, *, seed: int = 0) -> Floats:
        """Draw points from the prior, shape (n, D)."""
        ...

    def quantiles(self, shares: Floats) -> Floats:
        """Quantiles of the prior's margins at shares (q,) in (0, 1), shape (q, D)."""
        ...


def latent_space(model: Synthesizer | str | Path, member: int = 0) -> LatentSpace:
    """The latent space of a fitted model, or of a folder that holds one.

    Raises:
        ModelFileError: There is no bundle, or it is damaged.
        SpecError: The method has no latent space to look into, or the model no such member.

    """
    from tabvae_core.synthesizers.registry import load_bundle

    return (model if isinstance(model, Synthesizer) else load_bundle(Path(model))).latent_space(member)


# Encoding -----------------------------------------------------------------------------------------------------------


def encoded_schema(space: LatentSpace) -> pa.Schema:
    """Columns of `encode_rows`: row, then z0_mean, z0_spread, z1_mean and so on."""
    axes = [f"z{axis}_{part}" for axis in range(space.dimensions) for part in ("mean", "spread")]
    return pa.schema([("row", pa.int64()), *((name, pa.float64()) for name in axes)])


def encode_rows(
    space: LatentSpace, table: pa.Table | TableSource, *, progress: Progress = silent
) -> Iterator[pa.Table]:
    """Yield the latents of rows batch by batch: their numbers from 0 on, means, spreads, and nothing else of them.

    Raises:
        DataError: The table lacks a column that the model learned, or has cells that do not fit its type.

    """
    source, schema, row = as_source(table), encoded_schema(space), 0
    for rows in _readable(space, source):
        latents = space.encode(rows)
        parts = np.stack([latents.mean, latents.spread], axis=2).reshape(rows.num_rows, -1)
        numbers = np.arange(row, row + rows.num_rows)
        yield pa.Table.from_arrays([pa.array(numbers), *(pa.array(part) for part in parts.T)], schema=schema)
        row += rows.num_rows
        progress(ProgressEvent("encode", row, source.num_rows, "rows"))


def _readable(space: LatentSpace, source: TableSource) -> Iterator[pa.Table]:
    """Yield batches with the model's columns and types; a table may have more columns, in any order.

    Raises:
        DataError: A column is missing, or has cells that do not fit its type.

    """
    names = space.schema.names
    missing = [name for name in names if name not in source.schema.names]
    if missing:
        raise DataError(
            f"the table lacks columns that the model learned: {', '.join(missing)}",
            hint="encode rows of the table that was learned, or of one with its columns",
        )
    arrow = space.schema.arrow
    for batch in source.batches(list(names)):
        table = pa.Table.from_batches([batch])
        cells = [given_column(table[name], arrow.field(name), "the table").cells for name in names]
        yield pa.Table.from_arrays(cells, schema=arrow)


# Lines between rows -------------------------------------------------------------------------------------------------


def interpolate(
    space: LatentSpace, table: pa.Table | TableSource, rows: Sequence[int], *, steps: int = 9, seed: int = 0
) -> pa.Table:
    """Draw made-up rows on the straight line between the posterior means of two rows.

    The line is straight, not an arc: an arc keeps points at the distance from the origin where draws from N(0, I) lie
    in many dimensions, but the prior here is a mixture fitted to the rows, in few dimensions and around no origin.

    Args:
        space: Where the line lies.
        table: Real or made-up rows with the columns that were learned.
        rows: Numbers of the two rows, from 0 on.
        steps: Rows to draw, ends included; at least 2.
        seed: Of what the points leave open, which is drawn once for all steps: so keys do not change on the way.

    Returns:
        `steps` rows with the schema that was learned: the first is decoded at the first row's point, the last at the
        other's. They are drawn, like all synthetic rows: neither end is the real row.

    Raises:
        DataError: The table lacks columns, or has cells that do not fit their types.
        SpecError: There are not two rows, or not these.

    """
    if len(rows) != 2 or rows[0] == rows[1]:
        raise SpecError("a line goes between two different rows", hint="name two row numbers, such as 3,17")
    if steps < 2:
        raise SpecError(f"a line has at least 2 steps, however: {steps}", hint="both ends are steps")
    first, last = _points_of(space, as_source(table), rows)
    along = np.linspace(0.0, 1.0, steps)[:, None]
    return space.decode((1 - along) * first + along * last, numbers=np.zeros(steps, dtype=np.int64), seed=seed)


def _points_of(space: LatentSpace, source: TableSource, rows: Sequence[int]) -> list[Floats]:
    """Posterior means of single rows, found in one pass."""
    for row in rows:
        if not 0 <= row < source.num_rows:
            raise SpecError(
                f"row {row} is asked for, but the table has {source.num_rows:,} rows",
                hint=f"rows are counted from 0 to {source.num_rows - 1}",
            )
    found: dict[int, Floats] = {}
    start = 0
    for batch in _readable(space, source):
        for row in rows:
            if start <= row < start + batch.num_rows:
                found[row] = space.encode(batch.slice(row - start, 1)).mean[0]
        start += batch.num_rows
    return [found[row] for row in rows]


# What each axis does ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnMoves:
    """How a column moves along an axis.

    Args:
        name: The column.
        unit: What a measure's means are in; times in seconds.
        labels: Categories, nulls among them; None for a measure.
        values: Means of a measure, shape (steps,); shares of its rows by category, shape (steps, labels).
        spread: Standard deviation of a measure over all rows drawn, or 1 for shares: what a move is to be seen against.
        effect: How much of the column hangs on the step, in [0, 1]: the square root of the share of variance that lies
            between steps, of a measure's ranks or of its categories as indicators.

    """

    name: str
    unit: Unit
    labels: tuple[str, ...] | None
    values: Floats
    spread: float
    effect: float


@dataclass(frozen=True)
class AxisMoves:
    """What an axis does.

    Args:
        axis: Number of the axis, from 0 on.
        z: Where its steps lie, shape (steps,).
        columns: The columns, those first that it moves most.

    """

    axis: int
    z: Floats
    columns: tuple[ColumnMoves, ...]

    @property
    def effect(self) -> float:
        """Mean effect on the columns."""
        return float(np.mean([column.effect for column in self.columns])) if self.columns else 0.0


@dataclass(frozen=True)
class Traversal:
    """What each axis of a latent space does.

    Args:
        axes: The axes, those first that move the columns most.
        shares: The prior's quantiles that the steps lie at, shape (steps,).
        draws: Rows at each step.
        member: The network.
        members: Networks of the ensemble.

    """

    axes: tuple[AxisMoves, ...]
    shares: Floats
    draws: int
    member: int
    members: int

    def table(self) -> pa.Table:
        """The figures, one a row: axis, quantile, z, column, category (null for a mean), value, effect."""
        rows = [
            (axis.axis, share, z, column.name, label, value, column.effect)
            for axis in self.axes
            for column in axis.columns
            for share, z, values in zip(self.shares, axis.z, column.values.reshape(len(axis.z), -1), strict=True)
            for label, value in zip(column.labels or (None,), values, strict=True)
        ]
        names = ("axis", "quantile", "z", "column", "category", "value", "effect")
        types = (pa.int64(), pa.float64(), pa.float64(), pa.string(), pa.string(), pa.float64(), pa.float64())
        parts = zip(*rows, strict=True) if rows else ((),) * len(names)
        return pa.table({n: pa.array(part, kind) for n, part, kind in zip(names, parts, types, strict=True)})


def traverse(
    space: LatentSpace,
    *,
    table: pa.Table | TableSource | None = None,
    axis: int | None = None,
    steps: int = 9,
    draws: int = 256,
    seed: int = 0,
    progress: Progress = silent,
) -> Traversal:
    """Move one axis at a time over the prior's quantiles, and see what each column does.

    Many points are moved alike, and everything else about them, other axes and all that is drawn, is held fixed
    (partial dependence: Friedman, 2001). So a column that an axis does not move, does not move at all.

    Args:
        space: Whose axes.
        table: Rows whose points are moved; None: points drawn from the prior.
        axis: The only axis to move; None: each in turn.
        steps: Quantiles from 5 % to 95 %; at least 2.
        draws: Points to move; of a table at most its rows.
        seed: Of the points and of what they leave open.
        progress: Told of every axis.

    Raises:
        DataError: The table has no rows, lacks columns, or has cells that do not fit their types.
        SpecError: There is no such axis; steps or draws out of range.

    """
    if axis is not None and not 0 <= axis < space.dimensions:
        raise SpecError(
            f"there is no axis {axis}: the latent space has {space.dimensions} dimensions",
            hint=f"axes are counted from 0 to {space.dimensions - 1}",
        )
    if steps < 2 or not 1 <= draws <= BLOCK_ROWS:
        raise SpecError(
            f"a traversal has 2 steps or more and 1 to {BLOCK_ROWS:,} draws, however: {steps} and {draws}",
            hint="leave them out: 9 and 256",
        )
    points = space.draw(draws, seed=seed) if table is None else _some_points(space, as_source(table), draws, seed)
    shares = np.linspace(1 - OUTERMOST, OUTERMOST, steps)
    places, axes = space.quantiles(shares), range(space.dimensions) if axis is None else (axis,)
    moved = []
    for done, number in enumerate(axes):
        moved.append(_move(space, points, number, places[:, number], seed))
        progress(ProgressEvent("traverse", done + 1, len(axes), "axes"))
    ordered = sorted(moved, key=lambda one: (-one.effect, one.axis))
    return Traversal(tuple(ordered), shares, len(points), space.member, space.members)


def _some_points(space: LatentSpace, source: TableSource, most: int, seed: int) -> Floats:
    """Posterior means of at most so many rows, chosen uniformly."""
    if source.num_rows == 0:
        raise DataError("the table has no rows", hint="leave it out to move points of the prior")
    parts = [space.encode(rows).mean for rows in _readable(space, RowSample(source, most, seed=seed))]
    return np.concatenate(parts)


def _move(space: LatentSpace, points: Floats, axis: int, places: Floats, seed: int) -> AxisMoves:
    z = np.tile(points, (len(places), 1))
    z[:, axis] = np.repeat(places, len(points))
    rows = space.decode(z, numbers=np.tile(np.arange(len(points)), len(places)), seed=seed)
    view = table_view({Side.SYNTHETIC: rows}, modelled(space.schema))
    step = np.repeat(np.arange(len(places)), len(points))
    columns = sorted((_column_moves(column, step) for column in view.columns), key=lambda one: (-one.effect, one.name))
    return AxisMoves(axis, places, tuple(columns))


def _column_moves(column: ColumnView, step: npt.NDArray[np.int64]) -> ColumnMoves:
    values, steps = column.values[Side.SYNTHETIC], int(step.max()) + 1
    null = np.isnan(values)
    if column.labels is None:
        known, at = values[~null], step[~null]
        spread = float(known.std()) if len(known) else 0.0
        effect = _effect(_ranks(known)[:, None], at)
        return ColumnMoves(column.name, column.unit, None, _means(known[:, None], at, steps)[:, 0], spread, effect)
    codes = np.where(null, len(column.labels), values).astype(np.int64)
    labels = (*column.labels, "(null)") if null.any() else column.labels
    is_label = np.eye(len(labels))[codes]
    return ColumnMoves(column.name, column.unit, labels, _means(is_label, step, steps), 1.0, _effect(is_label, step))


def _ranks(values: Floats) -> Floats:
    """Ranks of values (n,); equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[inverse]
    return ranks


def _means(cells: Floats, step: npt.NDArray[np.int64], steps: int) -> Floats:
    """Mean of cells (n, p) at each step, (steps, p); not a number where a step has none."""
    sums = np.zeros((steps, cells.shape[1]))
    np.add.at(sums, step, cells)
    counts = np.bincount(step, minlength=steps)[:, None]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _effect(cells: Floats, step: npt.NDArray[np.int64]) -> float:
    """Square root of the share of the variance of cells (n, p) that lies between steps."""
    if not len(cells):
        return 0.0
    whole = cells.mean(axis=0)
    total = float(((cells - whole) ** 2).sum())
    between = float(((_means(cells, step, int(step.max()) + 1)[step] - whole) ** 2).sum())
    return float(np.sqrt(between / total)) if total > 0 else 0.0
