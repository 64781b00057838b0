"""Accounting of differential privacy against what is published and what must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from tabvae_core.errors import BudgetExceeded
from tabvae_core.privacy.accounting import ORDERS, Budget, Loss, rho_of
from tabvae_core.privacy.noise import Noise

rhos = st.floats(1e-6, 10)
deltas = st.floats(1e-9, 1e-2)
epsilons = st.floats(0.05, 20)


def exact_delta(sigma: float, epsilon: float) -> float:
    """Delta of one Gaussian mechanism of sensitivity 1, exactly (Balle & Wang, 2018, theorem 8)."""
    low, high = 0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma
    return float(ndtr(low) - math.exp(epsilon + float(log_ndtr(high))))


@given(rhos, rhos, deltas)
def test_costs_only_add(one: float, other: float, delta: float) -> None:
    both = (Loss.zcdp(one) + Loss.zcdp(other)).epsilon(delta)
    assert both >= Loss.zcdp(max(one, other)).epsilon(delta)
    assert both == pytest.approx(Loss.zcdp(one + other).epsilon(delta))
    # Two releases at half the delta each, added as they are, are no better.
    assert both <= Loss.zcdp(one).epsilon(delta / 2) + Loss.zcdp(other).epsilon(delta / 2) + 1e-9


@given(rhos, deltas)
def test_conversion_is_sound_and_no_worse_than_the_simple_one(rho: float, delta: float) -> None:
    """Bun & Steinke (2016): rho + 2 sqrt(rho log(1 / delta)); exact for one Gaussian mechanism: Balle & Wang (2018)."""
    epsilon = Loss.zcdp(rho).epsilon(delta)
    assert epsilon <= rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-9
    assert exact_delta(math.sqrt(0.5 / rho), epsilon) <= delta * (1 + 1e-6) + 1e-15


@given(epsilons, deltas)
def test_rho_inverts_the_conversion(epsilon: float, delta: float) -> None:
    assert Loss.zcdp(rho_of(epsilon, delta)).epsilon(delta) == pytest.approx(epsilon, rel=1e-6)


def test_published_value() -> None:
    """Canonne, Kamath & Steinke (2020): noise of variance 1/(2 rho) with rho = 0.5 ε²/8 … as their figure has it.

    At (1, 1e-6) the simple conversion allows rho = 0.0176; theirs is ahead of it, and exact accounting bounds both.
    """
    simple = (math.sqrt(math.log(1e6) + 1) - math.sqrt(math.log(1e6))) ** 2
    ours = rho_of(1.0, 1e-6)
    assert simple < ours < 1.5 * simple
    assert exact_delta(math.sqrt(0.5 / ours), 1.0) < 1e-6


@given(epsilons, deltas, st.floats(0, 0.9))
def test_calibrated_noise_uses_what_is_left_and_no_more(epsilon: float, delta: float, used: float) -> None:
    budget = Budget(epsilon, delta, {"domains": 0.9})
    budget.spend("domains", "counts", Loss.zcdp(used * budget.rho))
    sigma = budget.calibrated(Loss.gaussian)
    whole = budget.loss + Loss.gaussian(sigma)
    assert whole.epsilon(delta) <= epsilon
    assert (budget.loss + Loss.gaussian(sigma * 0.99)).epsilon(delta) > epsilon


def test_a_budget_refuses_to_be_overspent() -> None:
    budget = Budget(1.0, 1e-5, {"counts": 0.5, "training": 0.5})
    budget.spend("counts", "counts", Loss.zcdp(budget.left("counts")))
    with pytest.raises(BudgetExceeded, match="share 'counts'"):
        budget.spend("counts", "more counts", Loss.zcdp(1e-3 * budget.rho))
    with pytest.raises(BudgetExceeded, match="epsilon would be"):
        budget.spend("training", "DP-SGD", Loss(budget.rho * ORDERS**1.01))
    assert len(budget.spent) == 1
    with pytest.raises(ValueError, match="add up to 1"):
        Budget(1.0, 1e-5, {"counts": 0.6, "training": 0.5})


def test_a_record_says_all_and_comes_back() -> None:
    budget = Budget(2.0, 1e-5, {"counts": 1.0})
    budget.spend("counts", "counts", Loss.zcdp(budget.rho, 1e-6), histograms=3)
    record = budget.record()
    assert record["spending"] == [
        {"share": "counts", "mechanism": "counts", "rho": pytest.approx(budget.rho), "delta": 1e-6, "histograms": 3}
    ]
    again = Loss.from_json(record["loss"])
    assert again.epsilon(1e-5) == pytest.approx(record["spent_epsilon"], abs=1e-6)
    curve = Loss(0.01 * ORDERS**1.5)
    np.testing.assert_array_equal(Loss.from_json(curve.to_json()).rdp, curve.rdp)
    for damaged in ({}, {"rho": 1.0}, {"rho": -1.0, "delta": 0}, {"rdp": [1.0], "delta": 0}):
        with pytest.raises(ValueError, match="not a cost"):
            Loss.from_json(damaged)


def test_delta_that_is_used_up_leaves_no_epsilon() -> None:
    assert Loss.zcdp(0.1, 1e-5).epsilon(1e-5) == math.inf
    assert Loss().epsilon(1e-5) == 0.0


@pytest.mark.parametrize("secure", [False, True])
def test_noise_has_its_spread(secure: bool) -> None:
    noise = Noise(secure=secure, rng=np.random.default_rng(0))
    drawn = noise.gaussian(np.full(2000, 5), 3.0)
    assert drawn.mean() == pytest.approx(5, abs=0.35)
    assert drawn.std() == pytest.approx(3, rel=0.12)
    assert (drawn == np.rint(drawn)).all() == secure


@pytest.mark.parametrize("secure", [False, True])
def test_choices_follow_their_weights(secure: bool) -> None:
    noise = Noise(secure=secure, rng=np.random.default_rng(0))
    scores = np.array([0.0, 1.0, 2.0])
    chosen = np.bincount([noise.choose(scores, 2.0, 1.0) for _ in range(2000)], minlength=3) / 2000
    np.testing.assert_allclose(chosen, np.exp(scores) / np.exp(scores).sum(), atol=0.05)


def test_noise_has_no_seed() -> None:
    assert not np.array_equal(Noise().gaussian(np.zeros(8), 1.0), Noise().gaussian(np.zeros(8), 1.0))
