from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabvae_core.dates import dated, parse_dates
from tabvae_core.errors import SpecError
from tabvae_core.spec import RefreshSpec, parse_spec

DAYS = st.dates(date(1990, 1, 1), date(2100, 1, 1))


def spec_of(uri: str = "lake/day={date}/", **source: Any) -> RefreshSpec:
    return parse_spec({"source": {"uri": uri} | source, "target": {"uri": "out"}})


@given(st.lists(st.tuples(DAYS, st.integers(0, 40)), min_size=1, max_size=8))
def test_dates_are_those_of_all_ranges_in_order_and_once(ranges: list[tuple[date, int]]) -> None:
    parts, named = [], set()
    for begin, days in ranges:
        parts.append(f"{begin}..{begin + timedelta(days=days)}" if days else str(begin))
        named |= {begin + timedelta(days=k) for k in range(days + 1)}
    assert parse_dates(", ".join(parts)) == tuple(sorted(named))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2026-02-30", "'2026-02-30' is no date"),
        ("01.02.2026", "is no date"),
        ("20260101", "is no date"),
        ("", "'' is no date"),
        ("2026-01-01..", "'' is no date"),
        ("2026-01-01...2026-01-02", "is no date"),
        ("2026-01-07..2026-01-01", "ends before it begins"),
        ("2020-01-01..2026-01-01", "more than 1,000 dates"),
    ],
)
def test_wrong_dates_are_one_clear_error(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        parse_dates(text)


def test_a_date_is_put_in_its_places() -> None:
    spec = dated(spec_of(filters=["day == '{date}'", "x > 0"]), date(2026, 1, 7))
    assert spec.source.uri == "lake/day=2026-01-07/"
    assert spec.source.filters == ("day == '2026-01-07'", "x > 0")
    assert spec.source.date == "2026-01-07"
    assert dated(spec) == spec
    assert RefreshSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_relative_dates_and_none() -> None:
    today = datetime.now(UTC).date()
    assert dated(spec_of(date="2026-01-07")).source.uri == "lake/day=2026-01-07/"
    near = {(today - timedelta(days=k)).isoformat() for k in (1, 0, -1)}  # midnight may pass in between
    assert dated(spec_of(date="today")).source.date in near
    assert dated(spec_of(date="yesterday")).source.date in {(today - timedelta(days=k)).isoformat() for k in (2, 1, 0)}
    assert dated(spec_of("plain.parquet")) == spec_of("plain.parquet")
    with pytest.raises(SpecError, match=r"there is no source\.date"):
        dated(spec_of())
    with pytest.raises(SpecError, match="2026-13-01"):
        dated(spec_of(date="2026-13-01"))
    with pytest.raises(SpecError, match=r"neither source\.uri nor source\.filters holds"):
        dated(spec_of("plain.parquet"), today)
