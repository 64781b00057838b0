"""Attacks as the report and the privacy receipt show them: rows of a table, and one picture with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabvae_core.evaluation.page import Figures, render, write_page
from tabvae_core.privacy.receipt import PrivacyReceipt
from tabvae_core.privacy.result import AttackResult, Estimate, PrivacyFigures
from tabvae_core.references import GateResult

__all__ = ["attack_context", "render_receipt"]


def attack_context(figures: PrivacyFigures | None, gates: Sequence[GateResult], page: Figures) -> dict[str, Any] | None:
    """What the template `attacks.html` shows; None where the table was not attacked."""
    from tabvae_core.evaluation.figures import whiskers_figure

    if figures is None:
        return None
    passed: dict[str, bool] = {}
    for gate in gates:
        attacked = gate.name.removeprefix("attack: ").removesuffix(" exposed")
        passed[attacked] = passed.get(attacked, True) and gate.passed
    drawn = [(result.title, _drawn(result.advantage), _drawn(result.exposed)) for result in figures.attacks]
    return {
        "figures": figures,
        "rows": [_row(result, passed.get(result.name)) for result in figures.attacks],
        "place": page.add(whiskers_figure(drawn)) if drawn else None,
    }


def _drawn(found: Estimate | None) -> tuple[float, float, float] | None:
    return None if found is None else (found.value, found.low, found.high)


def _row(result: AttackResult, passed: bool | None) -> dict[str, Any]:
    rates = (result.attack_rate, result.control_rate, result.baseline_rate)
    return {
        "result": result,
        "passed": passed,
        "advantage": _text(result.advantage),
        "exposed": _text(result.exposed),
        "auc": _text(result.auc) if result.auc else "",
        "rates": " / ".join("–" if rate is None else f"{100 * rate:.1f} %" for rate in rates)
        if result.attack_rate is not None
        else "",
    }


def _text(found: Estimate | None) -> str:
    return "too few rows" if found is None else found.text()


def render_receipt(receipt: PrivacyReceipt, path: Path) -> Path:
    """Write the receipt as one self-contained HTML page; its folder is created.

    Raises:
        StorageError: The file cannot be written.

    """
    page = Figures()
    refused = receipt.refused
    if receipt.attacks is None or not receipt.attacks.attacks:
        state, head, why = "measured", "Not attacked", "No attack was tried on this table."
    elif refused:
        state, head = "refused", "Refused"
        why = f"{len(refused)} of {len(receipt.gates)} limits on what attacks prove did not hold."
    else:
        state, head = "accepted", "Attacked, and held"
        why = f"All {len(receipt.gates)} limits on what attacks prove held."
    banner = {
        "state": state,
        "head": head,
        "why": why,
        "failures": [gate.detail.removeprefix("refused: ") for gate in refused[:10]],
        "more": max(0, len(refused) - 10),
        "sentence": receipt.attacks.sentence if receipt.attacks else "",
    }
    context = {
        "title": f"Privacy receipt: {receipt.table}",
        "subtitle": f"{receipt.synthetic_rows:,} synthetic rows by {receipt.method}, learned from"
        f" {receipt.learned_rows:,} rows; {receipt.held_out_rows:,} rows were never learned. Run {receipt.run_id}.",
        "seed": receipt.attacks.seed if receipt.attacks else 0,
        "banner": banner,
        "receipt": receipt,
        "attacks": attack_context(receipt.attacks, receipt.gates, page),
    }
    return write_page(render("receipt.html", page, context), path)
