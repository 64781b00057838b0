"""Mode-specific normalisation: there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tabvae_core.codecs.modes import Modes

RANDOM = np.random.default_rng(0)


def fitted(values: np.ndarray, most: int = 10, min_rows: int = 5) -> Modes:
    return Modes.fit(values, most=most, min_rows=min_rows, seed=0)


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-3, 1e9),
    st.integers(1, 10),
)
def test_values_come_back_where_their_mode_reaches(values: np.ndarray, scale: float, most: int) -> None:
    values = values * scale
    modes = fitted(values, most)
    assert 1 <= len(modes) <= most
    places, which = modes.encode(values, np.random.default_rng(1))
    assert (np.abs(places) <= 1).all()
    back = modes.decode(places.astype(np.float64), which)
    error = np.abs(back - values)
    inside = (np.abs(places) < 1) & (modes.deviation[which] > 0)
    # Places are float32: what they lose is a share of the mode's width.
    assert (error[inside] <= 1e-6 * (modes.deviation[which][inside] + np.abs(values[inside]))).all()
    np.testing.assert_array_equal(back[modes.deviation[which] == 0], modes.mean[which][modes.deviation[which] == 0])


def test_finds_modes_and_their_shares() -> None:
    values = np.concatenate([RANDOM.normal(-10, 1, 3000), RANDOM.normal(30, 2, 1000)])
    modes = fitted(values)
    left = modes.mean < 10
    assert modes.weight[left].sum() == pytest.approx(0.75, abs=0.01)
    assert modes.mean[left] @ modes.weight[left] / modes.weight[left].sum() == pytest.approx(-10, abs=0.2)


def test_a_value_that_many_rows_share_is_a_mode_that_decodes_to_it() -> None:
    values = np.where(RANDOM.random(3000) < 0.6, 0.1, RANDOM.lognormal(3, 1, 3000))
    modes = fitted(values)
    places, which = modes.encode(values, RANDOM)
    shared = modes.decode(places + 0.01, which)[values == 0.1]
    assert (shared == 0.1).mean() > 0.99


def test_no_mode_is_of_few_rows() -> None:
    values = np.concatenate([RANDOM.normal(0, 1, 500), [900.0, 5000.0]])
    modes = fitted(values)
    assert (np.abs(modes.mean - 900) > 100).all()
    assert (np.abs(modes.mean - 5000) > 100).all()
    few = fitted(np.array([1.0, 2.0, 100.0]))
    assert len(few) == 1


def test_modes_are_drawn_by_their_likelihood() -> None:
    modes = Modes(np.array([-1.0, 1.0]), np.array([1.0, 1.0]), np.array([0.25, 0.75]))
    _, which = modes.encode(np.zeros(20_000), RANDOM)
    assert which.mean() == pytest.approx(0.75, abs=0.02)
    _, which = modes.encode(np.full(20_000, -1.0), RANDOM)
    assert which.mean() == pytest.approx(0.75 * np.exp(-2) / (0.25 + 0.75 * np.exp(-2)), abs=0.02)


def test_null_is_at_the_centre_of_the_most_frequent_mode() -> None:
    modes = Modes(np.array([-1.0, 1.0]), np.array([0.1, 0.1]), np.array([0.25, 0.75]))
    places, which = modes.encode(np.array([np.nan]), RANDOM)
    assert (places.tolist(), which.tolist()) == ([0.0], [1])
