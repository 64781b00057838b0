"""Thresholds on what attacks prove. A refusal needs proof: chance alone refuses next to no honest table."""

from __future__ import annotations

from collections.abc import Iterator

from tabvae_core.privacy.result import AttackResult, Estimate, PrivacyFigures
from tabvae_core.references import GateResult
from tabvae_core.spec import GateSpec

__all__ = ["ATTACK", "gate_attacks"]

ATTACK = "attack:"
"""What names of these gates begin with."""
_COPIES = ("rare_copies", "rare_near_copies")
_LEAST_TRIALS = 200
"""Rows or guesses below which an attack is reported and refuses nothing: its interval holds for many, not for few."""
_GUESSING, _LEAST_GUESSES = "singling_out", 1_000
"""Attacks whose guesses meet the same few outliers again and again, where rows are few: no intervals hold for these."""
_BY_COLUMN = "memorised_values"
"""The attack whose columns are gated one by one: one memorised column is lost among many others."""


def gate_attacks(figures: PrivacyFigures, gates: GateSpec) -> tuple[GateResult, ...]:
    """Hold what attacks proved against the thresholds of a spec.

    The value of each gate is the end of the 95 % interval that is nearer to no advantage, in either direction: a table
    that keeps away from its training rows tells who they are, too.

    Args:
        figures: What the attacks found. One without figures, or of few rows, refuses nothing.
        gates: The thresholds.

    Returns:
        For each attack one result, one for its most exposed rows, and one for each column of memorised values.

    """
    return tuple(result for attack in figures.attacks for result in _of(attack, gates))


def _of(attack: AttackResult, gates: GateSpec) -> Iterator[GateResult]:
    name = f"{ATTACK} {attack.name}"
    if attack.auc is not None:
        yield _auc(name, attack.title, attack.auc, gates.max_membership_auc)
    else:
        limit = gates.max_rare_copies if attack.name in _COPIES else gates.max_risk
        yield _risk(name, attack.title, attack.advantage, limit, few=_few_guesses(attack))
    exposed = f"{attack.title}, most exposed 1 %"
    yield _risk(f"{name} exposed", exposed, attack.exposed, gates.max_exposed_risk, few=_few_guesses(attack))
    if attack.name == _BY_COLUMN:
        for column, found in attack.columns.items():
            yield _risk(name, f"{attack.title}, column {column}", found, gates.max_exposed_risk, column)


def _few_guesses(attack: AttackResult) -> bool:
    guesses = attack.advantage.trials if attack.advantage is not None else 0
    return attack.name.startswith(_GUESSING) and guesses < _LEAST_GUESSES


def _auc(name: str, title: str, found: Estimate, limit: float) -> GateResult:
    if found.trials < _LEAST_TRIALS:
        return _too_few(name, f"{title}: AUC {found.text()}", limit, None)
    proven = max(0.5, found.low, 1 - found.high)
    return _result(name, f"{title}: AUC {found.text()}", proven, limit, None)


def _risk(
    name: str, title: str, found: Estimate | None, limit: float, column: str | None = None, *, few: bool = False
) -> GateResult:
    if found is None:
        return _too_few(name, f"{title}: could not be measured", limit, column)
    if few:
        return _too_few(name, f"{title}: advantage {found.text()}", limit, column)
    return _result(name, f"{title}: advantage {found.text()}", found.proven, limit, column)


def _too_few(name: str, said: str, limit: float, column: str | None) -> GateResult:
    return GateResult(
        name=name, column=column, passed=True, limit=limit, detail=f"{said}; too few rows to prove anything"
    )


def _result(name: str, said: str, proven: float, limit: float, column: str | None) -> GateResult:
    passed = proven <= limit
    detail = f"{'' if passed else 'refused: '}{said}; proven {proven:.3f}, limit {limit:.3f}"
    return GateResult(name=name, column=column, passed=passed, value=round(proven, 6), limit=limit, detail=detail)
