"""Linkability: two records of one person, from two sources, brought together by way of the synthetic table."""

from __future__ import annotations

import numpy as np

from tabvae_core.evaluation.view import Side
from tabvae_core.privacy.ground import NEIGHBOURS, Ground, risk_of
from tabvae_core.privacy.points import nearest
from tabvae_core.privacy.result import AttackResult

__all__ = ["linkability"]


def linkability(ground: Ground) -> AttackResult:
    """Link the halves of a row where both have a nearest synthetic row in common, among the nearest five of each.

    After Giomi et al. (PoPETs 2023), section 4.2; the columns are dealt to the two halves at random. The baseline
    links rows at random.
    """
    columns = np.random.default_rng([ground.seed, 5]).permutation(len(ground.view.columns))
    sides = [sorted(columns[k::2].tolist()) for k in (0, 1)]
    if not all(sides):
        return _result(ground, None, None)
    targets, own = ground.few(), np.arange(ground.targets)
    found = []
    for half in sides:
        points = [ground.encoding.some(side, half, own) for side in (Side.TRAIN, Side.HOLDOUT)]
        _, rows = nearest(np.concatenate(points)[targets], ground.encoding.some(Side.SYNTHETIC, half), NEIGHBOURS)
        found.append(rows)
    linked = (found[0][:, :, None] == found[1][:, None, :]).any(axis=(1, 2))
    return _result(ground, targets, linked)


def _result(ground: Ground, targets: np.ndarray | None, linked: np.ndarray | None) -> AttackResult:
    known = {"name": "linkability", "title": "Linking two sources", "knows": "a person's columns, in two parts"}
    if targets is None or linked is None:
        return AttackResult(**known, advantage=None)
    is_member = ground.is_member[targets]
    synthetic = ground.view.rows[Side.SYNTHETIC]
    return AttackResult(
        **known,
        advantage=risk_of(linked, np.ones(len(linked), np.bool_), is_member),
        exposed=risk_of(linked, ground.exposed[targets], is_member),
        attack_rate=float(linked[is_member].mean()),
        control_rate=float(linked[~is_member].mean()),
        baseline_rate=1 - (1 - min(1.0, NEIGHBOURS / synthetic)) ** NEIGHBOURS,
    )
