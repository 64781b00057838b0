"""What all attacks share: the rows that are attacked, what attackers know, and which rows are rare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.evaluation.view import Floats, Side, TableView, modelled, sampled, table_view
from tabvae_core.privacy.intervals import Mask, precision_gain, risk
from tabvae_core.privacy.points import Encoding, nearest
from tabvae_core.privacy.result import Estimate
from tabvae_core.schema import TableSchema
from tabvae_core.tables import row_hash, take_rows

__all__ = ["LEAST", "NEIGHBOURS", "Ground", "ground_of", "risk_of"]

NEIGHBOURS = 5
"""Nearest rows behind a density."""
LEAST = 20
"""Trials of each side below which nothing is said."""
_TARGETS = 10_000
_FEWEST_TARGETS = 1_000
_REFERENCE = 20_000
_PAIRS = 4_000_000_000
"""Distances computed for one attack at most: about a minute on one core. Fewer rows are attacked in larger tables."""
_EXPOSED = 0.01
_UNUSUAL = 0.1


@dataclass(frozen=True)
class Ground:
    """Rows of all sides. Members are the first half of the targets, controls the second, of equal size.

    Args:
        schema: The columns and their kinds.
        tables: The rows: TRAIN holds the members, HOLDOUT the controls and, after them, the reference rows.
        view: Their modelled columns.
        encoding: Makes points of them.
        targets: Rows of each half.
        to_synthetic: Distances of every target to its nearest synthetic rows, shape (2 n, neighbours).
        to_reference: Distances to its nearest reference rows, likewise.
        seed: Of every random choice.

    """

    schema: TableSchema
    tables: dict[Side, pa.Table]
    view: TableView
    encoding: Encoding
    targets: int
    to_synthetic: Floats
    to_reference: Floats
    seed: int

    @property
    def reference(self) -> int:
        """Number of reference rows."""
        return self.view.rows[Side.HOLDOUT] - self.targets

    @property
    def is_member(self) -> Mask:
        """Which targets were learned, shape (2 n,)."""
        return np.repeat([True, False], self.targets)

    @property
    def rarity(self) -> Floats:
        """How far each target is from its nearest reference rows; it does not hang on who is a member."""
        means: Floats = self.to_reference.mean(axis=1)
        return means

    @property
    def exposed(self) -> Mask:
        """The rarest 1 % of the targets, at least 60, shape (2 n,)."""
        return self.highest(self.rarity, _EXPOSED)

    @property
    def unusual(self) -> Mask:
        """The rarest 10 % of the targets, shape (2 n,)."""
        return self.highest(self.rarity, _UNUSUAL)

    def highest(self, scores: Floats, share: float = _EXPOSED) -> Mask:
        """The targets with the highest scores, at least 60 where there are as many; ties are broken at random."""
        wanted = min(len(scores), max(3 * LEAST, round(share * len(scores))))
        ties = row_hash(np.arange(len(scores), dtype=np.uint64), self.seed)
        chosen = np.zeros(len(scores), dtype=np.bool_)
        chosen[np.lexsort((ties, -scores))[:wanted]] = True
        return chosen

    def called(self, scores: Floats) -> Estimate | None:
        """The gain of calling members the targets with the highest scores."""
        return precision_gain(self.is_member[self.highest(scores)]) if self.targets >= 3 * LEAST else None

    def few(self) -> npt.NDArray[np.int64]:
        """Numbers of targets, equally many members and controls: all, or as many as further distances may cost."""
        most = max(_FEWEST_TARGETS, _PAIRS // (4 * self.view.rows[Side.SYNTHETIC]))
        mine = np.arange(min(most, self.targets))
        return np.concatenate([mine, mine + self.targets])


def ground_of(
    train: pa.Table,
    holdout: pa.Table,
    synthetic: pa.Table,
    schema: TableSchema,
    *,
    seed: int,
    tick: Callable[[float], None],
) -> Ground | None:
    """Choose the rows that are attacked; None where there are too few, or no column to attack them by.

    Of the held-out rows one half are controls, the other reference rows: what attackers know of the population.

    Args:
        train: Rows that the model learned.
        holdout: Rows that it never saw.
        synthetic: Synthetic rows.
        schema: The columns.
        seed: Of every random choice.
        tick: Told which share is done.

    Raises:
        DataError: A table lacks a column, or holds it in a type that does not compare.

    """
    columns = modelled(schema)
    most = min(_TARGETS, max(_FEWEST_TARGETS, _PAIRS // (2 * max(synthetic.num_rows, 1))))
    targets = min(most, train.num_rows, holdout.num_rows // 2)
    if targets < LEAST or not columns or not synthetic.num_rows:
        return None
    known = np.random.default_rng([seed, 1]).permutation(holdout.num_rows)[: targets + _REFERENCE]
    tables = {
        Side.HOLDOUT: take_rows(holdout, known.astype(np.int64)),
        Side.SYNTHETIC: synthetic,
        Side.TRAIN: sampled(train, targets, seed),
    }
    view = table_view(tables, columns)
    encoding = Encoding(view.columns, [c.values[Side.HOLDOUT][targets:] for c in view.columns], seed)
    points = np.concatenate(
        [encoding.points(Side.TRAIN), encoding.points(Side.HOLDOUT, np.arange(targets, dtype=np.int64))]
    )
    reference = encoding.points(Side.HOLDOUT, np.arange(targets, len(known), dtype=np.int64))
    to_synthetic, _ = nearest(points, encoding.points(Side.SYNTHETIC), NEIGHBOURS, tick=tick)
    to_reference, _ = nearest(points, reference, NEIGHBOURS)
    return Ground(schema, tables, view, encoding, targets, to_synthetic, to_reference, seed)


def risk_of(
    succeeded: Mask, among: Mask, is_member: Mask, rows: npt.NDArray[np.int64] | None = None
) -> Estimate | None:
    """The risk among some of the targets; None where they are too few.

    Args:
        succeeded: Which guesses were right, shape (n,).
        among: Which of them count, shape (n,).
        is_member: Which of them are about learned rows, shape (n,).
        rows: The rows that they are about, shape (n,), where there are several about one; None: one about each.

    """
    sides = among & is_member, among & ~is_member
    if min(np.count_nonzero(side) for side in sides) < LEAST:
        return None
    members, controls = (succeeded[side] for side in sides)
    return risk(members, controls, None if rows is None else (rows[sides[0]], rows[sides[1]]))
