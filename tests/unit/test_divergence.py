"""The Jensen-Shannon distance, and bins of any Arrow type."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from tabvae_core.evaluation.divergence import Histogram, ReferenceBins, chance_distance, jensen_shannon_distance


def test_distance_of_known_histograms() -> None:
    assert jensen_shannon_distance([1, 1], [2, 2]) == 0.0
    assert jensen_shannon_distance([1, 0], [0, 5]) == 1.0
    # half of the mass moved: JSD = 1 - 0.75 log2(3) + ... = 0.3113 bits
    assert jensen_shannon_distance([1, 1], [1, 0]) == pytest.approx(np.sqrt(0.31127812), abs=1e-6)
    assert jensen_shannon_distance([3, 1, 0], [1, 2, 3]) == jensen_shannon_distance([1, 2, 3], [3, 1, 0])
    assert (jensen_shannon_distance([0], [0]), jensen_shannon_distance([0], [2])) == (0.0, 1.0)
    with pytest.raises(ValueError, match="same bins"):
        jensen_shannon_distance([1, 2], [1])


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, 2, None, 2**60]),
        pa.array([1.5, float("nan"), float("inf"), None]),
        pa.array([0.5, None], pa.float16()),
        pa.array([Decimal("1.25"), None]),
        pa.array([True, None, False]),
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array([b"a", None]),
        pa.array([dt.date(2024, 1, 1), None]),
        pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC), None], pa.timestamp("ns", "Europe/Berlin")),
        pa.array([dt.time(8), None]),
        pa.array([5, None], pa.duration("s")),
        pa.nulls(3),
        pa.array([[1], None]),
        pa.array([], pa.int64()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_type_has_bins_and_nulls_have_their_own(array: pa.Array) -> None:
    histogram = Histogram.of(array)
    assert histogram.counts.sum() == len(array)
    assert histogram.counts[-1] >= array.null_count
    assert histogram.distance(histogram.counts) == 0.0
    halves = histogram.bins.counts(array.slice(0, 1)) + histogram.bins.counts(array.slice(1))
    assert (halves == histogram.counts).all()


def test_quantile_bins_see_shifts_and_spikes() -> None:
    real = pa.array(np.random.default_rng(0).normal(size=6000))
    bins = ReferenceBins.fit(real.slice(0, 3000))
    assert bins.size == 31
    assert bins.distance(real.slice(0, 3000), real.slice(3000)) < 0.08
    shifted = pa.array(real.to_numpy() + 1.0)
    assert bins.distance(real, shifted) > 0.3


def test_new_categories_and_lost_nulls_count() -> None:
    bins = ReferenceBins.fit(pa.array(["a", "b", None, None]))
    assert bins.counts(pa.array(["a", "x", "y", None])).tolist() == [1, 0, 2, 1]
    assert bins.distance(pa.array(["a", "b"]), pa.array(["x", "y"])) == 1.0


def test_chance_is_exceeded_once_in_a_hundred() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(12))
    beyond = 0
    for _ in range(2000):
        a, b = rng.multinomial(300, shares), rng.multinomial(500, shares)
        beyond += jensen_shannon_distance(a, b) > chance_distance(a, b)
    assert 2 <= beyond <= 50
