from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import binom

from tabvae_core.privacy.accounting import Budget, Loss, rho_of
from tabvae_core.privacy.audit import Audit, Scores, attack_counts, attack_training, gaussian_bound, one_run_bound
from tabvae_core.privacy.dpsgd import PrivatePlan, SecretRandomness, sampled_gaussian
from tabvae_core.privacy.noise import Noise

DELTA = 1e-5
CANARIES = 20_000


def gaussian_scores(mu: float, canaries: int, seed: int = 0) -> Scores:
    """What an attack on a mechanism of mu-Gaussian differential privacy sees."""
    rng = np.random.default_rng(seed)
    included = rng.random(canaries) < 0.5
    return Scores(included, included * mu + rng.normal(size=canaries), mu / 2)


class TestBounds:
    def test_guessing_at_random_refutes_nothing(self) -> None:
        for seed in range(5):
            attack = gaussian_scores(0.0, 4_000, seed)
            assert one_run_bound(attack, DELTA, 0.999) == 0.0
            assert gaussian_bound(attack, DELTA, 0.999) == 0.0

    def test_a_mechanism_without_noise_is_found_out(self) -> None:
        included = np.random.default_rng(0).random(4_000) < 0.5
        attack = Scores(included, included.astype(np.float64), 0.5)
        # All of 160 guesses are right: p^160 = 5 %.
        p = 0.05 ** (1 / 160)
        assert one_run_bound(attack, 0.0, 0.95) == pytest.approx(np.log(p / (1 - p)), rel=1e-6)
        assert gaussian_bound(attack, DELTA, 0.95) > 20

    def test_without_delta_the_chance_is_the_binomial_tail(self) -> None:
        attack = gaussian_scores(1.0, 5_000)
        found = one_run_bound(attack, 0.0, 0.95)
        order = np.argsort(attack.scores)
        right = attack.included[order[-100:]].sum() + (~attack.included[order[:100]]).sum()
        assert binom.sf(right - 1, 200, 1 / (1 + np.exp(-found))) == pytest.approx(0.05, rel=1e-3)
        assert one_run_bound(attack, 1e-4, 0.95) < found

    @pytest.mark.parametrize(("mu", "epsilon"), [(0.268, 1.0), (0.719, 3.0), (2.0, 10.0)])
    def test_bounds_lie_below_the_truth_and_grow_with_the_canaries(self, mu: float, epsilon: float) -> None:
        few, many = (gaussian_bound(gaussian_scores(mu, n), DELTA, 0.99) for n in (500, 50_000))
        assert few < many < epsilon
        assert many > 0.85 * epsilon
        assert 0.3 * epsilon < one_run_bound(gaussian_scores(mu, 50_000), DELTA, 0.99) < epsilon


def audited_training(epsilon: float, broken: float, seed: int, canaries: int = CANARIES) -> Audit:
    """Audit DP-SGD whose noise is `broken` times what the accountant asks for."""
    plan = PrivatePlan(steps=40, sample_rate=0.5, noise=1.0, learning_rate=0.1, expected_batch=100.0)
    budget = Budget(epsilon, DELTA, {})
    sigma = budget.calibrated(lambda s: sampled_gaussian(s, plan.sample_rate, plan.steps), least=0.2, most=1e3)
    plan = dataclasses.replace(plan, noise=sigma * broken)
    rng = np.random.default_rng(seed)
    return Audit.of(attack_training(canaries, plan, SecretRandomness(rng=rng), rng), epsilon, DELTA)


class TestAudits:
    def test_training_keeps_its_claim_and_half_the_noise_does_not(self) -> None:
        honest, broken = (audited_training(1.0, share, seed=1) for share in (1.0, 0.5))
        assert not honest.refuted
        assert honest.gaussian > 0.5
        assert broken.refuted
        assert "REFUTED" in broken.text()

    @pytest.mark.parametrize("epsilon", [1.0, 3.0, 10.0])
    def test_counts_keep_their_claim_and_half_the_noise_does_not(self, epsilon: float) -> None:
        sigma = (0.5 / rho_of(epsilon, DELTA)) ** 0.5
        assert Loss.gaussian(sigma).epsilon(DELTA) == pytest.approx(epsilon)
        rng = np.random.default_rng(3)
        noise = Noise(rng=rng)
        honest, broken = (
            Audit.of(attack_counts(CANARIES, lambda c, s=share: noise.gaussian(c, s * sigma), rng), epsilon, DELTA)
            for share in (1.0, 0.5)
        )
        assert not honest.refuted
        assert honest.gaussian > 0.6 * epsilon
        assert broken.refuted


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 3.0, 10.0])
def test_power_of_the_audit(epsilon: float) -> None:
    """Twenty audits each, minutes: `pytest -m slow tests/unit/test_privacy_audit.py`."""
    honest = [audited_training(epsilon, 1.0, seed, canaries=50_000) for seed in range(20)]
    broken = [audited_training(epsilon, 0.5, seed, canaries=50_000) for seed in range(20)]
    # With 95 % confidence, about one of twenty may be refuted wrongly; RDP's slack makes it fewer.
    assert sum(one.refuted for one in honest) <= 2
    assert all(one.refuted for one in broken)
