"""What a run says while it goes on and when it has ended, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.assets import Asset

from tabvae_core.errors import DataError, GateRefused
from tabvae_core.progress import ProgressEvent
from tabvae_core.references import EvaluationRef, GateResult
from tabvae_flows.refresh import _said
from tabvae_tasks.artifacts import quality_rows
from tabvae_tasks.assets import asset_key
from tabvae_tasks.listening import Pace, progress_line


def test_a_pace_is_that_of_this_run_alone() -> None:
    """A training that goes on from its checkpoint begins at epoch 10."""
    pace = Pace()
    assert pace.seconds_left(ProgressEvent("train", 10, 30), 100.0) is None
    assert pace.seconds_left(ProgressEvent("train", 15, 30), 110.0) == pytest.approx(30.0)
    assert pace.seconds_left(ProgressEvent("train", 30, 30), 140.0) == 0.0
    assert Pace().seconds_left(ProgressEvent("read", 5, None), 1.0) is None


@pytest.mark.parametrize(
    ("event", "left", "line"),
    [
        (ProgressEvent("sample", 500, 1000, "rows"), 4.4, "500/1,000 rows, 4 s left, of 9"),
        (
            ProgressEvent("train", 2, 4, "epochs", "loss 1.5, 9 s left"),
            4.0,
            "2/4 epochs, 9 s left, loss 1.5, of 9",
        ),
        (ProgressEvent("train", 4, 4, "epochs", "loss 1.5, 0 s left"), 0.0, "4/4 epochs, loss 1.5, of 9"),
        (ProgressEvent("read", 7, None, "rows"), None, "7 rows, of 9"),
    ],
)
def test_time_left_stands_where_a_card_shows_it(event: ProgressEvent, left: float | None, line: str) -> None:
    assert progress_line(event, left, "of 9") == line


def test_figures_stand_beside_those_of_the_last_release() -> None:
    evaluation = EvaluationRef(
        run_id="r",
        passed=False,
        results=(
            GateResult(name="auc", passed=False, value=0.95, limit=0.9),
            GateResult(name="jsd", column="age", passed=True, value=0.1, limit=0.2),
        ),
        metrics={"c2st": {"value": 0.95, "floor": 0.5}, "shape": {"value": 3.0, "floor": None}},
        report_uri="/r",
    )
    auc, shape, worst = quality_rows(evaluation, {"c2st": {"value": 0.75, "floor": 0.5}})
    assert auc == {
        "figure": "c2st", "value": 0.95, "floor": 0.5, "limit": 0.9, "verdict": "refused",
        "last release": 0.75, "change": "+0.2000",
    }  # fmt: skip
    assert (shape["verdict"], shape["last release"], shape["change"]) == ("reported", "", "")
    assert worst["figure"] == "jsd of age"
    assert all(row["change"] == "" for row in quality_rows(evaluation))


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (("age > 0 broken by 12 rows",), "refused: age > 0 broken by 12 rows\n  hint: look"),
        (("a", "b", "c", "d"), "refused: a; b; c; and 1 more\n  hint: look"),
    ],
)
def test_a_refusal_names_what_broke_first(failures: tuple[str, ...], said: str) -> None:
    assert _said(GateRefused("4 of 9 gates refused", failures=failures, hint="look")) == said
    assert _said(DataError("no rows", hint="look")) == "no rows\n  hint: look"


@given(st.text(max_size=600))
def test_any_place_has_a_key_that_prefect_takes(path: str) -> None:
    key = asset_key(f"s3://lake/{path}")
    assert Asset(key=key).key.startswith("s3://lake")


def test_places_have_the_same_key_however_they_are_written() -> None:
    assert asset_key("s3://lake/a/") == asset_key("S3://lake/a") == "s3://lake/a"
    assert asset_key("/data/a b") == asset_key("file:///data/a b/") == "file:///data/a_b"
    assert asset_key("s3://user:pw@lake/a") == "s3://lake/a"
    long = [asset_key("s3://lake/" + "x" * 600 + end) for end in "ab"]
    assert len(set(long)) == 2
