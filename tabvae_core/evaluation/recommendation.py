"""Methods measured side by side, and the rule that recommends one of them, with its reasons in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from tabvae_core.evaluation.result import Evaluation, Metric
from tabvae_core.evaluation.verdict import is_close

__all__ = ["RULE", "MethodResult", "Recommendation", "recommend"]

NEARLY = 0.02
"""AUC behind the best that counts as nearly the same quality."""
FASTER = 3.0
"""How many times less time counts as much faster."""
RULE = (
    "The rule: of the methods whose copied rows are not above their floor, the one with the lowest AUC of the "
    "real-or-synthetic test."
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MethodResult(_Part):
    """One method of a comparison. A method that failed has a reason, and no figures."""

    method: str
    failed: str | None = None
    """Why there are no figures, in one line; None: all went well."""
    fit_seconds: float | None = None
    """Wall-clock time of the training."""
    stopped_by: str = ""
    """What ended training; names "max_seconds" where it would have gone on."""
    sample_seconds: float | None = None
    """Wall-clock time of drawing `sample_rows` rows into Parquet."""
    sample_rows: int | None = None
    model_bytes: int | None = None
    """Size of the model's files."""
    peak_mib: int | None = None
    """Most memory of the process while it learned and drew; None where the system does not tell."""
    evaluation: Evaluation | None = None
    """Figures of its sample, each beside its floor."""

    def metric(self, name: str) -> Metric:
        """A figure; one without value where it was not measured."""
        found = None if self.evaluation is None else self.evaluation.metrics.get(name)
        return Metric(value=None) if found is None else found

    @property
    def auc(self) -> float | None:
        """AUC of the real-or-synthetic test; below 0.5 is chance, and no better than 0.5."""
        value = self.metric("c2st").value
        return None if value is None else max(0.5, value)

    @property
    def seconds(self) -> float:
        """Time to learn and draw."""
        return (self.fit_seconds or 0.0) + (self.sample_seconds or 0.0)

    @property
    def copies_rows(self) -> bool:
        """Whether more of its rows are copies of training rows than their floor allows."""
        return is_close("copies", self.metric("copies")) is False


class Recommendation(_Part):
    """What to use, and why."""

    method: str | None
    """None: no method could be measured, or each copies training rows."""
    reasons: tuple[str, ...]
    """Sentences, the first of which says why."""
    faster: str | None = None
    """Another method, much faster at nearly the same quality."""


def recommend(results: Sequence[MethodResult]) -> Recommendation:
    """Choose a method: of those that do not copy training rows, the one that trees tell from real rows least well.

    Of equals the quicker one is chosen, then the first.
    """
    measured = sorted((r for r in results if r.auc is not None), key=_rank)
    sound = [result for result in measured if not result.copies_rows]
    if not sound:
        return Recommendation(method=None, reasons=(_nothing(results, measured),))
    best = sound[0]
    reasons = [_why(best, sound[1:])]
    reasons += [_copier(one) for one in measured if one.copies_rows and _auc(one) < _auc(best)]
    quick = [one for one in sound[1:] if _auc(one) <= _auc(best) + NEARLY and FASTER * one.seconds <= best.seconds]
    quickest = min(quick, key=lambda one: one.seconds, default=None)
    if quickest is not None:
        reasons.append(_trade(quickest, best))
    return Recommendation(
        method=best.method, reasons=tuple(reasons), faster=None if quickest is None else quickest.method
    )


def _auc(result: MethodResult) -> float:
    return 1.0 if result.auc is None else result.auc


def _rank(result: MethodResult) -> Any:
    return _auc(result), result.seconds


def _nothing(results: Sequence[MethodResult], measured: Sequence[MethodResult]) -> str:
    if measured:
        return "Each method copies more training rows than real rows repeat: none is recommended."
    if any(result.evaluation is not None for result in results):
        return "There are too few rows or columns to tell synthetic rows from real ones: none is recommended."
    return "No method could be measured."


def _why(best: MethodResult, others: Sequence[MethodResult]) -> str:
    floor = best.metric("c2st").floor
    beside = "" if floor is None else f"; real rows score {floor:.3f}"
    start = (
        f"Trees tell rows of {best.method} from held-out ones with AUC {_auc(best):.3f}, where 0.5 is chance{beside}."
    )
    if not others:
        return f"{start} No other method was left to choose from."
    second = others[0]
    return f"{start} {second.method} comes next with {_auc(second):.3f}, {_auc(second) - _auc(best):.3f} more."


def _copier(result: MethodResult) -> str:
    copies = result.metric("copies")
    return (
        f"{result.method} scores {_auc(result):.3f}, but {copies.value:.2f} % of its rows are copies of training rows, "
        f"where {copies.floor:.2f} % of the held-out rows are."
    )


def _trade(quick: MethodResult, best: MethodResult) -> str:
    times = best.seconds / max(quick.seconds, 0.1)
    return (
        f"{quick.method} is {times:,.0f} times faster, {quick.seconds:,.0f} s in place of {best.seconds:,.0f} s "
        f"to learn and draw, and {_auc(quick) - _auc(best):.3f} behind."
    )
