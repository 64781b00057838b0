"""Attribute inference: all of a person's columns but one are known, and the synthetic table tells the last."""

from __future__ import annotations

import numpy as np

from tabvae_core.evaluation.view import ColumnView, Floats, Side
from tabvae_core.privacy.ground import LEAST, Ground, risk_of
from tabvae_core.privacy.intervals import Mask, risk
from tabvae_core.privacy.points import nearest
from tabvae_core.privacy.result import AttackResult, Estimate

__all__ = ["attribute_inference"]

_TOLERANCE = 0.05
"""A guessed number counts as right within this share of the true one."""


def attribute_inference(ground: Ground) -> AttackResult:
    """Guess a secret column by the synthetic row that is nearest in all others.

    After Giomi et al. (PoPETs 2023), section 4.3: a category must be right, a number within 5 %. Columns are secret in
    turn, one for each target, so that guesses are independent and all columns are tried. The baseline guesses by a
    random synthetic row.
    """
    columns = ground.view.columns
    known = {
        "name": "attribute_inference",
        "title": "Inferring a column",
        "knows": "all of a person's columns but one",
    }
    if len(columns) < 2:
        return AttackResult(**known, advantage=None)
    targets = ground.few()
    succeeded, baseline = np.zeros(len(targets), np.bool_), np.zeros(len(targets), np.bool_)
    is_member, secret = ground.is_member[targets], (targets % ground.targets) % len(columns)
    rng = np.random.default_rng([ground.seed, 6])
    by_column: dict[str, Estimate] = {}
    for k, column in enumerate(columns):
        mine = np.flatnonzero(secret == k)
        truth = np.concatenate([column.values[Side.TRAIN], column.values[Side.HOLDOUT][: ground.targets]])
        drawn = column.values[Side.SYNTHETIC]
        found = _nearest_rows(ground, targets[mine], k)
        succeeded[mine] = _right(column, drawn[found], truth[targets[mine]])
        baseline[mine] = _right(column, drawn[rng.integers(len(drawn), size=len(mine))], truth[targets[mine]])
        members = is_member[mine]
        if min(members.sum(), (~members).sum()) >= LEAST:
            by_column[column.name] = risk(succeeded[mine][members], succeeded[mine][~members])
    return AttackResult(
        **known,
        advantage=risk_of(succeeded, np.ones(len(targets), np.bool_), is_member),
        exposed=risk_of(succeeded, ground.exposed[targets], is_member),
        attack_rate=float(succeeded[is_member].mean()),
        control_rate=float(succeeded[~is_member].mean()),
        baseline_rate=float(baseline[is_member].mean()),
        columns=by_column,
    )


def _nearest_rows(ground: Ground, targets: np.ndarray, secret: int) -> np.ndarray:
    """The synthetic row nearest to each target in all columns but one."""
    n, encoding = ground.targets, ground.encoding
    points = [
        encoding.points(Side.TRAIN, targets[targets < n], without=secret),
        encoding.points(Side.HOLDOUT, targets[targets >= n] - n, without=secret),
    ]
    _, rows = nearest(np.concatenate(points), encoding.points(Side.SYNTHETIC, without=secret), 1)
    return rows[:, 0] if len(rows) else np.zeros(0, np.int64)


def _right(column: ColumnView, guess: Floats, truth: Floats) -> Mask:
    near = np.abs(guess - truth) <= (_TOLERANCE * np.abs(truth) if column.is_measure else 0.0)
    right: Mask = near | (np.isnan(guess) & np.isnan(truth))
    return right
