"""What a latent space is worth: estimates against closed forms, and encodings whose worth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tabvae_core.evaluation.association import correlation
from tabvae_core.evaluation.disentanglement import FactorRows, factor_rows, mutual_information_gap, rate_parts
from tabvae_core.models.aggregate import log_aggregate, log_normal, total_correlation

Floats = npt.NDArray[np.float64]
ROWS, SPREAD = 2_000, 0.5


def related(r: float) -> Floats:
    """Means of posteriors whose mixture is normal: two dimensions with correlation r before their spread."""
    return np.random.default_rng(7).multivariate_normal([0, 0], [[1, r], [r, 1]], ROWS)


@pytest.mark.parametrize("r", [0.0, 0.6, -0.9])
def test_parts_of_the_rate_are_those_of_normal_posteriors(r: float) -> None:
    found = rate_parts(related(r), np.full((ROWS, 2), SPREAD))
    variance = 1 + SPREAD**2
    assert found.total_correlation == pytest.approx(-0.5 * np.log(1 - (r / variance) ** 2), abs=0.04)
    assert found.dimension_wise == pytest.approx(variance - 1 - np.log(variance), abs=0.06)
    assert found.information == pytest.approx(
        0.5 * np.log((variance**2 - r**2) / SPREAD**4), abs=0.06
    )  # log det of the whole less that of the noise
    rate = 0.5 * ((related(r) ** 2).sum(axis=1).mean() + 2 * (SPREAD**2 - 1 - np.log(SPREAD**2)))
    assert found.rate == pytest.approx(rate, abs=0.06)


def test_total_correlation_is_learned_away() -> None:
    """Its gradient turns related dimensions until they share nothing."""
    mean, angle = torch.from_numpy(related(0.8)[:300]), torch.tensor(0.2, requires_grad=True)
    noise, log_variance = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) * 0.3, torch.zeros(300, 2)
    log_variance += 2 * np.log(0.3)

    def turned() -> torch.Tensor:
        cos, sin = angle.cos(), angle.sin()
        at = mean @ torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).double()
        return total_correlation(at + noise, at, log_variance)

    before = float(turned().detach())
    for _ in range(30):
        (slope,) = torch.autograd.grad(turned(), angle)
        with torch.no_grad():
            angle -= 0.2 * slope
    assert before > 0.2
    assert float(turned().detach()) < 0.05
    assert float(angle.detach()) == pytest.approx(np.pi / 4, abs=0.1)  # the diagonal, on which the cloud lies


def test_density_of_the_mixture_is_that_of_its_parts() -> None:
    z, mean, log_variance = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (5, 7, 7))
    each = torch.stack([log_normal(z, m, v).exp() for m, v in zip(mean, log_variance, strict=True)])
    joint, margins = log_aggregate(z, mean, log_variance)
    assert torch.allclose(joint.exp(), each.prod(dim=-1).mean(dim=0), atol=1e-6)
    assert torch.allclose(margins.exp(), each.mean(dim=0), atol=1e-6)


# ---------------------------------------------------------------- the gap


@pytest.fixture(scope="module")
def made() -> FactorRows:
    return factor_rows(1_500)


def own_axes(made: FactorRows) -> Floats:
    """Each factor on an axis of its own, and two axes about nothing."""
    mean = np.zeros((len(made.factors), 5))
    mean[:, [0, 2, 4]] = made.factors / made.factors.std(axis=0)
    return mean


def test_gap_of_an_axis_for_each_factor_is_one(made: FactorRows) -> None:
    found = mutual_information_gap(own_axes(made), np.full((len(made.factors), 5), 0.05), made.factors)
    assert found.gap > 0.97
    assert np.argmax(found.information, axis=1).tolist() == [0, 2, 4]
    assert np.allclose(found.information[[0, 1, 2], [0, 2, 4]], found.entropies, rtol=0.02)
    assert np.allclose(found.entropies, np.log([8, 6, 5]), atol=0.01)


def test_gap_of_latents_about_nothing_is_none(made: FactorRows) -> None:
    shape = (len(made.factors), 4)
    assert mutual_information_gap(np.zeros(shape), np.ones(shape), made.factors).gap < 1e-9
    chance = mutual_information_gap(np.random.default_rng(1).normal(size=shape), np.full(shape, 0.5), made.factors)
    assert chance.gap < 0.02


def test_gap_of_factors_told_twice_is_none(made: FactorRows) -> None:
    twice = np.tile(own_axes(made), 2)
    found = mutual_information_gap(twice, np.full(twice.shape, 0.05), made.factors)
    assert found.gap < 0.02
    assert (found.information.max(axis=1) > 0.95 * found.entropies).all()


def test_gap_of_mixed_axes_is_small(made: FactorRows) -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    found = mutual_information_gap(own_axes(made) @ turn, np.full((len(made.factors), 5), 0.05), made.factors)
    assert found.gap < 0.3


def test_one_axis_has_no_second(made: FactorRows) -> None:
    mean = own_axes(made)[:, :1]
    assert mutual_information_gap(mean, np.full(mean.shape, 0.05), made.factors).gaps[0] > 0.97


def test_made_rows_follow_their_own_factor_and_no_other(made: FactorRows) -> None:
    table = made.table
    assert table.equals(factor_rows(1_500).table)
    assert not table.equals(factor_rows(1_500, seed=1).table)
    between = correlation(made.factors.astype(np.float64)) - np.eye(3)
    assert np.abs(between).max() < 0.08
    for number, name in enumerate(table.column_names):
        codes = np.unique(np.array(table[name].to_pylist()), return_inverse=True)[1]
        effects = [share_of_variance(factor, codes) for factor in made.factors.T]
        own = number % 3
        assert effects[own] > 0.15, name
        assert max(effects[:own] + effects[own + 1 :]) < 0.02, name


def share_of_variance(levels: npt.NDArray[np.int64], values: npt.NDArray[np.int64]) -> float:
    means = np.array([values[levels == level].mean() for level in range(levels.max() + 1)])
    return float(means[levels].var() / values.var())
