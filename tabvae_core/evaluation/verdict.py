"""The figures in words."""

from __future__ import annotations

from collections.abc import Mapping

from tabvae_core.evaluation.result import Metric, Verdict

__all__ = ["LABELS", "is_close", "verdict"]

LABELS = {
    "shape": "column shapes",
    "trend": "pair associations",
    "jsd": "column distributions",
    "c2st": "real-or-synthetic test",
    "utility": "usefulness",
    "copies": "copied rows",
    "nulls": "null shares",
}

_SLACK = {"shape": 1.0, "trend": 1.0, "jsd": 0.02, "c2st": 0.05, "utility": 0.02, "copies": 0.5, "nulls": 0.5}
"""How far beyond its floor a figure may be and still be called close, in its own unit."""

_ALONE = {"shape": 3.0, "trend": 4.0, "jsd": 0.08, "c2st": 0.6, "nulls": 1.0}
"""Without a floor: what is called close."""


def is_close(name: str, metric: Metric) -> bool | None:
    """Whether a figure is close to its floor: within twice the floor, or within a small slack of it.

    Returns:
        None where there is nothing to compare with.

    """
    if metric.value is None:
        return None
    if metric.floor is None:
        return metric.value <= _ALONE[name] if name in _ALONE else None
    slack = _SLACK.get(name, 0.0)
    if name == "utility":
        return metric.value >= metric.floor - slack
    if name in ("c2st", "copies"):
        return metric.value <= metric.floor + slack
    return metric.value <= max(2 * metric.floor, metric.floor + slack)


def verdict(metrics: Mapping[str, Metric]) -> Verdict:
    """Say in one sentence how close the synthetic table is."""
    judged = {name: is_close(name, metric) for name, metric in metrics.items()}
    close = tuple(name for name, near in judged.items() if near)
    apart = tuple(name for name, near in judged.items() if near is False)
    return Verdict(sentence=_sentence(metrics, close, apart), close=close, apart=apart)


def _sentence(metrics: Mapping[str, Metric], close: tuple[str, ...], apart: tuple[str, ...]) -> str:
    if not close and not apart:
        return "Nothing could be compared: the table has no column that the figures count."
    measure = (
        "as real rows are to each other" if any(m.floor is not None for m in metrics.values()) else "of the limits"
    )
    if apart:
        start = f"{len(close)} of {len(close) + len(apart)} figures are about as close {measure}"
        if measure.startswith("of"):
            start = f"{len(close)} of {len(close) + len(apart)} figures are close to the held-out rows"
        start += f"; {_listing([LABELS[name] for name in apart])} {'is' if len(apart) == 1 else 'are'} not"
    elif measure.startswith("of"):
        start = f"All {len(close)} figures are close to the held-out rows"
    else:
        start = f"All {len(close)} figures are about as close {measure}"
    return f"{start}{_detection(metrics.get('c2st'))}."


def _detection(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return ""
    return f". Trees tell synthetic rows from real ones with AUC {metric.value:.2f}, where 0.50 is chance"


def _listing(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
