"""What membership attacks say alike: from a score of every row to AUC, advantage, and the most exposed rows."""

from __future__ import annotations

from tabvae_core.evaluation.view import Floats
from tabvae_core.privacy.ground import Ground
from tabvae_core.privacy.intervals import auc_interval
from tabvae_core.privacy.result import AttackResult, Estimate

__all__ = ["advantage_of", "membership"]


def membership(name: str, title: str, knows: str, scores: Floats, ground: Ground) -> AttackResult:
    """Judge the scores of an attack.

    Args:
        name: Name of the attack.
        title: What it is called.
        knows: What the attacker has.
        scores: Of every target, higher for likelier members, shape (2 n,).
        ground: The targets. The most exposed 1 % are those with the highest scores.

    """
    auc = auc_interval(scores[: ground.targets], scores[ground.targets :])
    return AttackResult(
        name=name, title=title, knows=knows, auc=auc, advantage=advantage_of(auc), exposed=ground.called(scores)
    )


def advantage_of(auc: Estimate) -> Estimate:
    """The advantage of an AUC: 0 for guessing, 1 for knowing."""
    return Estimate(
        value=round(2 * auc.value - 1, 6), low=round(2 * auc.low - 1, 6), high=round(2 * auc.high - 1, 6),
        trials=auc.trials,
    )  # fmt: skip
