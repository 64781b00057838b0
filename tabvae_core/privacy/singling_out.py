"""Singling out: a condition read off the synthetic table that holds for exactly one real person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tabvae_core.evaluation.view import ColumnView, Floats, Side
from tabvae_core.privacy.ground import LEAST, Ground
from tabvae_core.privacy.intervals import Mask, risk
from tabvae_core.privacy.points import nearest
from tabvae_core.privacy.result import AttackResult

__all__ = ["singling_out_multivariate", "singling_out_univariate"]

_GUESSES = 2_000
_TRIES = 5
"""Rows tried for each guess that singles out a synthetic row."""
_BY_RARE_ROW = 5
"""Guesses read off each of the rarest rows: more of one row would be the same guess again."""
_MOST_COLUMNS = 8

Rows = npt.NDArray[np.int64]


def singling_out_univariate(ground: Ground) -> AttackResult:
    """Guess that a value of one synthetic row alone, or beyond all others, is one real person's alone.

    After Giomi et al. (PoPETs 2023), section 4.1. Members, controls and the synthetic rows that are read are equally
    many, so that a condition isolates one row of either side by chance equally often.
    """
    rows = _synthetic_rows(ground)
    rng = np.random.default_rng([ground.seed, 2])
    guesses = [guess for column in ground.view.columns for guess in _single_guesses(column, rows, ground.targets)]
    order = rng.permutation(len(guesses))
    attacked, control, source = (np.array([guesses[k][part] for k in order]) for part in (0, 1, 2))
    return _result(
        "singling_out_univariate",
        "Singling out, by one column",
        attacked[:_GUESSES].astype(np.bool_),
        control[:_GUESSES].astype(np.bool_),
        *_of_rows(attacked, control, source, _rare_synthetic(ground, rows)),
    )


def _single_guesses(column: ColumnView, rows: Rows, targets: int) -> Iterator[tuple[bool, bool, int]]:
    """Conditions on one column: whether each isolates a member, a control, and the synthetic row it is read off."""
    drawn = column.values[Side.SYNTHETIC][rows]
    real = [column.values[Side.TRAIN], column.values[Side.HOLDOUT][:targets]]
    values, first, counts = np.unique(drawn[~np.isnan(drawn)], return_index=True, return_counts=True)
    known = rows[~np.isnan(drawn)]
    alone = counts == 1
    held = [_occurrences(side, values[alone]) == 1 for side in real]
    yield from zip(*held, known[first[alone]].tolist(), strict=True)
    if column.is_measure and len(values):
        for end, beyond in ((0, np.less_equal), (-1, np.greater_equal)):
            if counts[end] == 1:
                hits = [int(beyond(side, values[end]).sum()) == 1 for side in real]
                yield hits[0], hits[1], int(known[first[end]])
    if np.isnan(drawn).sum() == 1:
        hits = [int(np.isnan(side).sum()) == 1 for side in real]
        yield hits[0], hits[1], int(rows[np.isnan(drawn)][0])


def _occurrences(values: Floats, wanted: Floats) -> npt.NDArray[np.int64]:
    ordered = np.sort(values[~np.isnan(values)])
    counts: npt.NDArray[np.int64] = np.searchsorted(ordered, wanted, "right") - np.searchsorted(ordered, wanted, "left")
    return counts


def singling_out_multivariate(ground: Ground) -> AttackResult:
    """Guess that conditions on two to eight columns, which one synthetic row alone meets, are met by one real person.

    After Giomi et al. (PoPETs 2023), section 4.1: a category must be that of the row, a number at most or at least that
    of the row, whichever is rarer. Columns are taken in random order until one synthetic row is left.
    The baseline draws each condition from another row.
    """
    rows = _synthetic_rows(ground)
    rng = np.random.default_rng([ground.seed, 3])
    attacked, control, baseline = _guess(ground, rows, rows, min(_GUESSES, ground.targets), rng)
    rare = _rare_synthetic(ground, rows)
    exposed = _guess(ground, rows, rare, _BY_RARE_ROW * len(rare), rng)
    result = _result(
        "singling_out_multivariate", "Singling out, by several columns", attacked, control, exposed[0], exposed[1]
    )
    return result.model_copy(update={"baseline_rate": float(baseline.mean()) if len(baseline) else None})


def _guess(ground: Ground, rows: Rows, sources: Rows, wanted: int, rng: np.random.Generator) -> tuple[Mask, Mask, Mask]:
    """Guesses read off some synthetic rows: which isolate a member, a control, and which of the baseline a member."""
    columns = ground.view.columns
    sides: Mapping[str, list[Floats]] = {
        "drawn": [c.values[Side.SYNTHETIC][rows] for c in columns],
        "member": [c.values[Side.TRAIN] for c in columns],
        "control": [c.values[Side.HOLDOUT][: ground.targets] for c in columns],
    }
    medians = [float(np.nanmedian(v)) if c.is_measure and not np.isnan(v).all() else np.nan
               for c, v in zip(columns, sides["drawn"], strict=True)]  # fmt: skip
    attacked, control, baseline = [], [], []
    if len(columns) < 2 or not len(sources):
        return (np.zeros(0, np.bool_),) * 3
    for _ in range(_TRIES * wanted):
        row, order = int(rng.choice(sources)), rng.permutation(len(columns))[:_MOST_COLUMNS]
        whole = [(int(k), columns[k].values[Side.SYNTHETIC][row], medians[k]) for k in order]
        if (guess := _isolating(sides["drawn"], whole)) is None:
            continue
        others = rng.choice(rows, len(guess))
        other = [(k, columns[k].values[Side.SYNTHETIC][o], m) for (k, _, m), o in zip(guess, others, strict=True)]
        attacked.append(_matches(sides["member"], guess) == 1)
        control.append(_matches(sides["control"], guess) == 1)
        baseline.append(_matches(sides["member"], other) == 1)
        if len(attacked) == wanted:
            break
    return np.array(attacked, np.bool_), np.array(control, np.bool_), np.array(baseline, np.bool_)


_Guess = list[tuple[int, float, float]]
"""Conditions as (column, value, median); without a median the column is a category."""


def _isolating(columns: Sequence[Floats], guess: _Guess) -> _Guess | None:
    """The first conditions, two at least, that one row alone meets; None where all together do not isolate one."""
    left = np.arange(len(columns[0]))
    for taken, condition in enumerate(guess, 1):
        left = _meeting(columns, condition, left)
        if len(left) <= 1 and taken > 1:
            return guess[:taken] if len(left) else None
    return None


def _matches(columns: Sequence[Floats], guess: _Guess) -> int:
    """Rows that meet all conditions."""
    left = np.arange(len(columns[0]))
    for condition in guess:
        left = _meeting(columns, condition, left)
    return len(left)


def _meeting(columns: Sequence[Floats], condition: tuple[int, float, float], rows: Rows) -> Rows:
    """Those of the rows that meet a condition."""
    k, value, median = condition
    values = columns[k][rows]
    if np.isnan(value):
        met = np.isnan(values)
    elif np.isnan(median):
        met = values == value
    else:
        met = values >= value if value >= median else values <= value
    left: Rows = rows[met]
    return left


def _synthetic_rows(ground: Ground) -> Rows:
    rows = ground.view.rows[Side.SYNTHETIC]
    chosen = np.random.default_rng([ground.seed, 4]).permutation(rows)[: ground.targets]
    return np.sort(chosen).astype(np.int64)


def _rare_synthetic(ground: Ground, rows: Rows) -> Rows:
    """The rarest 1 % of these synthetic rows, at least 20: the furthest from reference rows."""
    reference = np.arange(ground.targets, ground.view.rows[Side.HOLDOUT], dtype=np.int64)
    encoding = ground.encoding
    distance, _ = nearest(encoding.points(Side.SYNTHETIC, rows), encoding.points(Side.HOLDOUT, reference), 1)
    rarest: Rows = rows[np.argsort(-distance[:, 0], kind="stable")[: max(LEAST, len(rows) // 100)]]
    return rarest


def _of_rows(attacked: Mask, control: Mask, source: Rows, rows: Rows) -> tuple[Mask, Mask]:
    mine = np.isin(source, rows)
    return attacked[mine].astype(np.bool_), control[mine].astype(np.bool_)


def _result(
    name: str, title: str, attacked: Mask, control: Mask, exposed_attacked: Mask, exposed_control: Mask
) -> AttackResult:
    return AttackResult(
        name=name,
        title=title,
        knows="nothing",
        advantage=risk(attacked, control) if len(attacked) >= LEAST else None,
        exposed=risk(exposed_attacked, exposed_control) if len(exposed_attacked) >= LEAST else None,
        attack_rate=float(attacked.mean()) if len(attacked) else None,
        control_rate=float(control.mean()) if len(control) else None,
    )
