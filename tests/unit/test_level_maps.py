from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.numeric import NumericFitter, NumericTable


def fit(values: np.ndarray, *, units: tuple[int, ...] = (10, 100, 1000), protect: int = 1) -> NumericTable:
    integer = values.dtype.kind == "i"
    fitter = NumericFitter(integer=integer, units=units, min_rows=5, protect=protect)
    fitter.observe(values, np.ones(len(values), dtype=np.bool_), 0)
    return fitter.finish()


def there(values: np.ndarray) -> np.ndarray:
    return np.ones(len(values), dtype=np.bool_)


@st.composite
def numbers(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(20, 3_000))
    kind = draw(st.sampled_from(["lumpy integers", "integers", "cents", "rounded", "negative"]))
    if kind == "lumpy integers":
        common = rng.choice(5_000, 60)
        return np.where(rng.random(n) < 0.6, rng.choice(common, n), rng.integers(0, 5_000, n)).astype(np.int64)
    if kind == "integers":
        return rng.integers(-(10**6), 10**6, n)
    if kind == "cents":
        return rng.gamma(2, 40, n).round(2)
    if kind == "rounded":
        step = rng.choice([1, 10, 100, 1000], n)
        return (rng.lognormal(7, 1, n) // step * step).astype(np.int64)
    return rng.normal(0, 3, n).round(1)


@settings(max_examples=60, deadline=None)
@given(numbers())
def test_cells_come_back_from_the_middle_of_their_place(values: np.ndarray) -> None:
    table = fit(values)
    tokens, low, high = table.encode(values, there(values))
    assert (high >= low).all()
    decoded, valid = table.decode(tokens, (low + high) / 2)
    # A value that no other row is near shares its place with its neighbours where float32 has no room for both.
    roomy = (tokens >= table.n_levels) | (high - low > 1e-5)
    assert valid.all()
    assert np.array_equal(decoded[roomy], values[roomy])
    assert np.allclose(decoded, values, rtol=0, atol=max(1e-3 * np.ptp(values), 3.0 * table.steps[-1:].sum()))


@settings(max_examples=60, deadline=None)
@given(numbers(), st.integers(0, 2**32))
def test_what_is_drawn_has_a_token_of_no_other_kind(values: np.ndarray, seed: int) -> None:
    table = fit(values)
    if not table.n_levels:
        return
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, table.n_levels, 500).astype(np.int32)
    decoded, valid = table.decode(tokens, rng.uniform(*table.z_range(), 500))
    assert valid.all()
    steps = table.steps[tokens]
    assert np.allclose(np.rint(decoded / steps) * steps, decoded, atol=1e-6)
    again = table.encode(decoded, valid)[0]
    lonely = np.abs(decoded - np.clip(decoded, values.min() + 4 * steps, values.max() - 4 * steps)) > 0
    # Where all neighbours have tokens of their own too, there is nowhere else to go.
    assert (again == tokens)[~lonely].mean() > 0.5 if (~lonely).any() else True


def test_shares_of_common_values_are_reproduced() -> None:
    rng = np.random.default_rng(3)
    common = np.array([99, 149, 199, 249, 301, 333])
    values = np.where(rng.random(20_000) < 0.02, rng.choice(common, 20_000), rng.integers(50, 2_000, 20_000))
    table = fit(values.astype(np.int64), units=())
    assert not set(common) & set((table.spikes + table.base).astype(int)), "too rare for tokens of their own"
    _, low, high = table.encode(values, there(values))
    place = low + rng.random(len(low)) * (high - low)  # what a perfect model would draw
    decoded, _ = table.decode(np.zeros(len(place), np.int32), rng.permutation(place))
    for value in common:
        real, drawn = (values == value).mean(), (decoded == value).mean()
        assert drawn == pytest.approx(real, rel=0.25)
        assert drawn > 3 * (decoded == value + 1).mean()


def test_settled_values_lie_where_training_rows_lie() -> None:
    values = np.random.default_rng(4).integers(0, 400, 5_000) * 10
    table = fit(values)
    drawn = np.linspace(*table.z_range(), 300).astype(np.float32)
    tokens = np.zeros(300, np.int32)
    settled = table.settle(tokens, drawn)
    decoded, valid = table.decode(tokens, settled)
    _, low, high = table.encode(decoded, valid)
    assert np.allclose(settled, (low + high) / 2, atol=1e-6)


def test_bundles_bring_the_maps_back() -> None:
    table = fit(np.random.default_rng(5).gamma(2, 30, 2_000).round(2))
    again = NumericTable.restore(table.to_json(), table.to_arrays())
    z = np.linspace(-3, 3, 100)
    assert np.array_equal(again.decode(np.zeros(100, np.int32), z)[0], table.decode(np.zeros(100, np.int32), z)[0])
    assert len(again.maps) == table.n_levels
