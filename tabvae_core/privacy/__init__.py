"""Privacy: attacks on a synthetic table, differential privacy, and what a release says of both.

`attack` plays an adversary who has the synthetic table and something more, once against rows that the model learned and
once against rows that it never saw. What the adversary gains on the former beyond the latter is what the table gives
away; each gain has a 95 % interval. One file holds one attack, after the paper that it names. Differential privacy is
in `accounting`, `noise`, `domain` (what a model may know of columns), `dpsgd`, `ledger` over refreshes, and `audit`.
"""

from __future__ import annotations

from tabvae_core.privacy.attack import attack
from tabvae_core.privacy.result import AttackResult, Estimate, PrivacyFigures
from tabvae_core.privacy.shadow import drawn_by, shadow_attack

__all__ = ["AttackResult", "Estimate", "PrivacyFigures", "attack", "drawn_by", "shadow_attack"]
