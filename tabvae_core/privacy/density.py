"""Membership by density: where synthetic rows are denser than the population, a row may have been learned by heart."""

from __future__ import annotations

import numpy as np

from tabvae_core.privacy.ground import Ground
from tabvae_core.privacy.membership import membership
from tabvae_core.privacy.result import AttackResult

__all__ = ["density_attack"]

_NEAREST = 1e-4
"""Distances count as no smaller: an exact copy is near, and not infinitely so."""


def density_attack(ground: Ground) -> AttackResult:
    """Score rows by the density of synthetic rows over that of reference rows.

    DOMIAS of van Breugel et al. (AISTATS 2023). Densities are estimated from nearest neighbours (Loftsgaarden &
    Quesenberry, 1965), which mixed columns allow and which one copy moves; the logarithms of the distances to the first
    five are averaged, and the number of dimensions, a factor common to all rows, is left out.
    """
    synthetic, reference = (
        np.log(np.maximum(distances, _NEAREST)).mean(axis=1) for distances in (ground.to_synthetic, ground.to_reference)
    )
    return membership(
        "membership_density",
        "Who was learned: local overfitting",
        "a person's whole row, and real rows of other people",
        reference - synthetic,
        ground,
    )
