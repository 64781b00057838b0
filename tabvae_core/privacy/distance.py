"""Membership by distance: rows that the model learned may lie nearer to synthetic rows than rows that it did not."""

from __future__ import annotations

from tabvae_core.privacy.ground import Ground
from tabvae_core.privacy.membership import membership
from tabvae_core.privacy.result import AttackResult

__all__ = ["distance_attack"]


def distance_attack(ground: Ground) -> AttackResult:
    """Score rows by their distance to the closest synthetic record.

    The black-box attack of Chen et al., "GAN-Leaks" (CCS 2020), on points of mixed columns.
    """
    return membership(
        "membership_distance",
        "Who was learned: nearest synthetic row",
        "a person's whole row",
        -ground.to_synthetic[:, 0],
        ground,
    )
