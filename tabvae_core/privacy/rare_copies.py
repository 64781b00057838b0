"""Copies of rare rows: a row like no other, found again in the synthetic table, was remembered."""

from __future__ import annotations

import numpy as np

from tabvae_core.evaluation.metrics import row_keys
from tabvae_core.evaluation.view import Side, modelled
from tabvae_core.privacy.ground import Ground, risk_of
from tabvae_core.privacy.intervals import Mask
from tabvae_core.privacy.result import AttackResult

__all__ = ["NEAR", "exact_copies", "near_copies"]

NEAR = 0.1
"""A near copy is closer to a row than this share of its distance to the nearest of the population."""


def exact_copies(ground: Ground) -> AttackResult:
    """How many of the rarest 10 % of rows stand in the synthetic table, equal in every counted column.

    Held-out rare rows are the control: what the population repeats by itself.
    """
    keys = row_keys(ground.tables, modelled(ground.schema))
    real = np.concatenate([keys[Side.TRAIN], keys[Side.HOLDOUT][: ground.targets]])
    return _copies("rare_copies", "Rare rows, copied exactly", np.isin(real, keys[Side.SYNTHETIC]), ground)


def near_copies(ground: Ground) -> AttackResult:
    """How many of the rarest 10 % of rows have a synthetic row ten times nearer than the nearest reference row."""
    near = ground.to_synthetic[:, 0] <= NEAR * ground.to_reference[:, 0]
    return _copies("rare_near_copies", "Rare rows, copied nearly", near, ground)


def _copies(name: str, title: str, copied: Mask, ground: Ground) -> AttackResult:
    rare, is_member = ground.unusual, ground.is_member
    return AttackResult(
        name=name,
        title=title,
        knows="that a row is rare",
        advantage=risk_of(copied, rare, is_member),
        exposed=risk_of(copied, ground.exposed, is_member),
        attack_rate=float(copied[rare & is_member].mean()) if (rare & is_member).any() else None,
        control_rate=float(copied[rare & ~is_member].mean()) if (rare & ~is_member).any() else None,
    )
