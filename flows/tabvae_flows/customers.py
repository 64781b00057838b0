"""A customers table that looks like a production one and holds nobody: what the demo refreshes.

Every dependence is written down here, so that a reader of the report knows what the synthetic table should show.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["RULES", "customers"]

RULES = ("age > 0", "income >= 0", "closed_at >= signup_at")
"""Business rules that every row satisfies."""

_SEGMENTS = ("student", "standard", "premium", "business")
_REGIONS = ("north", "south", "east", "west", "centre", "coast", "islands", "abroad")
_CITIES = 500
_FIRST_DAY = datetime(2019, 1, 1, tzinfo=UTC)
_DAYS = 6 * 365
_DAY = 86_400_000_000
"""Microseconds of a day."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


def customers(rows: int = 50_000, *, seed: int = 7) -> pa.Table:
    """Make a table of customers.

    Segment follows age; income follows segment, region and age, is zero for most students and rounded as people round;
    score follows income and visits; visits are zero-inflated and grow with tenure; cities belong to regions; sign-ups
    keep working hours and a December peak; closed accounts have a balance of zero.

    Args:
        rows: Number of customers, at least 1.
        seed: Same seed, same table.

    Returns:
        13 columns: a string key, integers, floats, decimals, booleans, strings and UTC timestamps, with
        nulls.

    """
    rng = np.random.default_rng(seed)
    signup = np.sort(_signups(rng, rows))
    age = _ages(rng, rows)
    segment = _segments(rng, age)
    region = rng.choice(len(_REGIONS), rows, p=[0.2, 0.17, 0.15, 0.14, 0.13, 0.11, 0.06, 0.04])
    income = _incomes(rng, age, segment, region)
    tenure = (_DAYS * _DAY - signup) / (365 * _DAY)
    visits = _visits(rng, segment, tenure)
    score = _scores(rng, income, visits)
    closed_at, closed = _closings(rng, signup, score)
    start = int(_FIRST_DAY.timestamp() * 1e6)
    instant = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "customer_id": pa.array([f"C-{number:06d}" for number in range(1, rows + 1)]),
            "age": _with_nulls(rng, age, 0.01, pa.int32()),
            "income": _with_nulls(rng, income, 0.03 + 0.05 * (segment == 3), pa.float64()),
            "score": _with_nulls(rng, score, 0.04, pa.float64()),
            "visits": pa.array(visits, pa.int64()),
            "segment": _strings(_SEGMENTS, segment),
            "region": _strings(_REGIONS, region),
            "city": _cities(rng, region),
            "signup_at": pa.array(start + signup, pa.int64()).cast(instant),
            "closed_at": pa.array(start + closed_at, pa.int64(), mask=~closed).cast(instant),
            "balance": _decimals(_balances(rng, income, closed)),
            "is_active": pa.array(~closed & (rng.random(rows) < np.where(visits > 0, 0.97, 0.45))),
            "referred": _with_nulls(rng, rng.random(rows) < np.where(segment == 0, 0.35, 0.12), 0.08, pa.bool_()),
        }
    )


def _signups(rng: np.random.Generator, rows: int) -> _Ints:
    """Microseconds since the first day: more each year, in December, on weekdays, in working hours."""
    days = np.arange(_DAYS)
    season = 1 + 0.35 * np.cos(2 * np.pi * (days % 365 - 345) / 365)
    weekday = np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.45, 0.35])[(days + _FIRST_DAY.weekday()) % 7]
    weight = season * weekday * (1 + days / _DAYS)
    day = rng.choice(_DAYS, rows, p=weight / weight.sum())
    by_hour = np.array([1, 1, 1, 1, 1, 2, 5, 15, 40, 80, 95, 90, 60, 75, 90, 85, 75, 55, 35, 30, 25, 15, 6, 2])
    hour = rng.choice(24, rows, p=by_hour / by_hour.sum())
    second = rng.integers(0, 3600, rows)
    return (day * _DAY + (hour * 3600 + second) * 1_000_000).astype(np.int64)


def _ages(rng: np.random.Generator, rows: int) -> _Ints:
    young = rng.random(rows) < 0.22
    age = np.where(young, rng.normal(22, 2.5, rows), rng.gamma(9.0, 5.2, rows))
    return np.clip(np.round(age), 18, 95).astype(np.int64)


def _segments(rng: np.random.Generator, age: _Ints) -> _Ints:
    student = 1 / (1 + np.exp((age - 25) / 1.6))
    premium = 0.10 + 0.20 / (1 + np.exp((48 - age) / 8))
    business = np.full(age.shape, 0.08)
    weight = np.stack([student, (1 - student) * (1 - premium - business), (1 - student) * premium,
                       (1 - student) * business], axis=1)  # fmt: skip
    bounds = np.cumsum(weight, axis=1)
    chosen: _Ints = (rng.random((len(age), 1)) * bounds[:, -1:] > bounds[:, :-1]).sum(axis=1).astype(np.int64)
    return chosen


def _incomes(rng: np.random.Generator, age: _Ints, segment: _Ints, region: _Ints) -> _Floats:
    by_segment = np.array([8.9, 10.35, 11.1, 11.4])[segment]
    by_region = np.array([0.10, -0.12, -0.05, 0.02, 0.15, 0.05, -0.2, 0.12])[region]
    career = -0.0006 * (age - 50) ** 2
    income = np.exp(by_segment + by_region + career + rng.normal(0, 0.38, len(age)))
    step = np.where(rng.random(len(age)) < 0.6, 1000.0, 100.0)
    income = np.round(income / step) * step
    return np.where((segment == 0) & (rng.random(len(age)) < 0.55), 0.0, income)


def _visits(rng: np.random.Generator, segment: _Ints, tenure: _Floats) -> _Ints:
    mean = np.array([6.0, 9.0, 20.0, 30.0])[segment] * np.sqrt(tenure + 0.05)
    counts = rng.negative_binomial(2.0, 2.0 / (2.0 + mean))
    idle = rng.random(len(segment)) < np.array([0.30, 0.22, 0.08, 0.12])[segment]
    return np.where(idle, 0, counts).astype(np.int64)


def _scores(rng: np.random.Generator, income: _Floats, visits: _Ints) -> _Floats:
    raw = 45 + 9 * np.log10(income + 1000) - 20 + 4 * np.log1p(visits) + rng.normal(0, 6, len(income))
    rounded: _Floats = np.clip(np.round(raw, 1), 0, 100)
    return rounded


def _closings(rng: np.random.Generator, signup: _Ints, score: _Floats) -> tuple[_Ints, _Bools]:
    """Closing times and who closed; low scores close more often."""
    closed = rng.random(len(signup)) < 0.28 / (1 + np.exp((score - 60) / 8))
    after = rng.exponential(400.0, len(signup)) * _DAY
    moment = signup + (after // 1_000_000).astype(np.int64) * 1_000_000
    return moment, closed & (moment < _DAYS * _DAY)


def _balances(rng: np.random.Generator, income: _Floats, closed: _Bools) -> _Ints:
    """Balances in cents: some overdrawn, a fifth in whole hundreds, zero once closed."""
    amount = rng.normal(0.15, 0.25, len(income)) * (income + 2_000)
    cents = np.round(amount * 100).astype(np.int64)
    cents = np.where(rng.random(len(income)) < 0.2, cents // 10_000 * 10_000, cents)
    return np.where(closed, 0, cents)


def _cities(rng: np.random.Generator, region: _Ints) -> pa.Array:
    """Cities of the customer's own region, a few large and many small; 1 % unknown."""
    owner = np.arange(_CITIES) % len(_REGIONS)
    city = np.zeros(len(region), dtype=np.int64)
    for number in range(len(_REGIONS)):
        own = np.flatnonzero(owner == number)
        weight = 1.0 / np.arange(1, len(own) + 1) ** 0.8
        here = region == number
        city[here] = rng.choice(own, int(here.sum()), p=weight / weight.sum())
    names = [f"{_REGIONS[number % len(_REGIONS)].title()} {_syllables(number)}" for number in range(_CITIES)]
    return pa.array(np.array(names, dtype=object)[city], pa.string(), mask=rng.random(len(region)) < 0.01)


def _syllables(number: int) -> str:
    """Name a city; distinct for distinct numbers below 1,000."""
    first, second, third = number % 10, number // 10 % 10, number // 100 % 10
    start = ("Bal", "Cor", "Dun", "Fal", "Gar", "Hal", "Kel", "Lin", "Mor", "Tor")[first]
    middle = ("a", "be", "di", "en", "ga", "in", "lo", "mar", "o", "ri")[second]
    return start + middle + ("bury", "ford", "gate", "ham", "mouth", "port", "stead", "ton", "wick", "worth")[third]


def _with_nulls(
    rng: np.random.Generator, values: npt.NDArray[Any], share: float | _Floats, kind: pa.DataType
) -> pa.Array:
    return pa.array(values, kind, mask=rng.random(len(values)) < share, from_pandas=False)


def _strings(names: tuple[str, ...], codes: _Ints) -> pa.Array:
    return pa.array(np.array(names, dtype=object)[codes], pa.string())


def _decimals(cents: _Ints) -> pa.Array:
    """Build decimal(12, 2) from cents: Arrow stores the unscaled number as 128 bits, two's complement."""
    words = np.stack([cents.astype("<i8"), np.where(cents < 0, -1, 0).astype("<i8")], axis=1)
    return pa.Array.from_buffers(pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(words.tobytes())])
