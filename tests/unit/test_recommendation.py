"""The rule that recommends a method: the lowest AUC among those that copy no training rows, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabvae_core.evaluation.recommendation import MethodResult, recommend
from tabvae_core.evaluation.result import Evaluation, Metric, RowCounts, Verdict


def result(
    method: str, auc: float | None, *, copies: float = 0.0, seconds: float = 10.0, floor: float = 0.0
) -> MethodResult:
    metrics = {"c2st": Metric(value=auc, floor=0.502), "copies": Metric(value=copies, floor=floor)}
    evaluation = Evaluation(
        rows=RowCounts(holdout=9, synthetic=9), max_rows=9, seed=0, metrics=metrics, verdict=Verdict(sentence="")
    )
    return MethodResult(
        method=method, fit_seconds=seconds, sample_seconds=0.0, sample_rows=9, model_bytes=1, evaluation=evaluation
    )


FAILED = MethodResult(method="failed", failed="too many features")


@pytest.mark.parametrize(
    ("results", "method", "faster", "says"),
    [
        ([result("a", 0.61), result("b", 0.53)], "b", None, ["AUC 0.530", "rows score 0.502", "0.610, 0.080 more"]),
        ([result("a", 0.53), FAILED], "a", None, ["No other method was left"]),
        ([result("a", 0.51, copies=9, floor=0.2), result("b", 0.6)], "b", None, ["a scores 0.510", "9.00 %", "0.20 %"]),
        ([result("a", 0.51, copies=0.6, floor=0.2), result("b", 0.6)], "a", None, []),
        ([result("a", 0.7, copies=9.0), result("b", 0.6)], "b", None, []),
        ([result("a", 0.53, seconds=90), result("b", 0.54, seconds=3)], "a", "b", ["30 times faster", "0.010 behind"]),
        ([result("a", 0.53, seconds=90), result("b", 0.56, seconds=3)], "a", None, []),
        ([result("a", 0.53, seconds=90), result("b", 0.54, seconds=40)], "a", None, []),
        ([result("a", 0.48, seconds=90), result("b", 0.50, seconds=40)], "b", None, []),
        ([result("a", 0.53, copies=9.0)], None, None, ["copies more training rows"]),
        ([result("a", None)], None, None, ["too few rows"]),
        ([FAILED], None, None, ["No method could be measured"]),
        ([], None, None, ["No method could be measured"]),
    ],
)  # fmt: skip
def test_the_rule(results: list[MethodResult], method: str | None, faster: str | None, says: list[str]) -> None:
    found = recommend(results)
    assert (found.method, found.faster) == (method, faster)
    text = " ".join(found.reasons)
    for part in says:
        assert part in text


METHODS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(0.3, 1.0)), st.floats(0.0, 5.0), st.floats(0.0, 1000.0)
    ),
    max_size=6,
)  # fmt: skip


@given(METHODS)
def test_nothing_sound_is_better_than_what_is_recommended(methods: list[tuple[float | None, float, float]]) -> None:
    results = [result(f"m{k}", auc, copies=c, seconds=s) for k, (auc, c, s) in enumerate(methods)]
    found = recommend(results)
    sound = {r.method: r for r in results if r.auc is not None and not r.copies_rows}
    assert (found.method is None) == (not sound)
    if found.method is None:
        return
    best = sound[found.method]
    assert all((best.auc or 1) <= (other.auc or 1) for other in sound.values())
    if found.faster is not None:
        quick = sound[found.faster]
        assert quick.seconds * 3 <= best.seconds
        assert (quick.auc or 1) - (best.auc or 1) <= 0.02 + 1e-9
    turned = sound[recommend(results[::-1]).method or ""]
    assert (turned.auc, turned.seconds) == (best.auc, best.seconds), (
        "the order of the methods decides between equals only"
    )
