"""The VAE under exact margins: its likelihood, dependence that no Gaussian copula has, margins whatever it learned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, norm, spearmanr

from tables_made import people
from tabvae_core.errors import SpecError
from tabvae_core.models.copula_vae import CopulaSize, CopulaVAE, log_interval
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create


def learned(table: pa.Table, *, epochs: int = 1, batch_size: int | None = None, hidden: int = 8) -> Synthesizer:
    model = ModelSpec(
        method="copula_vae", epochs=epochs, batch_size=batch_size, learning_rate=5e-3, device="cpu",
        options={"hidden": hidden},
    )  # fmt: skip
    return create("copula_vae", model, PrivacySpec()).fit(table)


@settings(deadline=None)
@given(low=st.floats(-45, 45), width=st.floats(1e-3, 90))
def test_probabilities_of_intervals_in_both_tails(low: float, width: float) -> None:
    ends = torch.tensor([[low], [low + width]], dtype=torch.float64, requires_grad=True)
    found = log_interval(ends[0], ends[1])
    # Of the mirrored interval too, scipy is precise where neither end is far in the upper tail.
    first, last = (low, low + width) if 2 * low + width < 0 else (-low - width, -low)
    expected = norm.logcdf(last) + np.log(-np.expm1(norm.logcdf(first) - norm.logcdf(last)))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    found.sum().backward()
    assert torch.isfinite(ends.grad).all()


def test_cells_that_are_not_observed_count_for_nothing() -> None:
    torch.manual_seed(0)
    network = CopulaVAE(CopulaSize(3, 2, 8))
    scores, noise = torch.zeros(5, 3), torch.zeros(5, 2)
    low, high = torch.full((5, 3), -40.0), torch.full((5, 3), 40.0)
    mean, log_variance = network.encode(scores)
    rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()
    assert network.negative_elbo(scores, low, high, noise).item() == pytest.approx(rate.item(), abs=1e-4)
    low[:, 0], high[:, 0] = -1.0, 1.0
    assert network.negative_elbo(scores, low, high, noise).item() > rate.item() + 0.01


def test_margins_are_exact_before_anything_is_learned() -> None:
    table = people(2000)
    drawn = learned(table).sample(8000, seed=0)
    for name in ("segment", "active"):
        for value in set(table[name].to_pylist()):
            shares = [np.mean([cell == value for cell in rows[name].to_pylist()]) for rows in (table, drawn)]
            assert shares[1] == pytest.approx(shares[0], abs=0.02)
    assert drawn["income"].null_count / 8000 == pytest.approx(table["income"].null_count / 2000, abs=0.01)
    for name in ("age", "income"):
        there = [rows[name].drop_null().to_numpy() for rows in (table, drawn)]
        assert ks_2samp(*there).statistic < 0.03, name


def test_dependence_that_is_no_correlation_is_learned() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    table = pa.table({"x": x, "y": np.abs(x) + rng.normal(size=4000) / 5, "big": np.where(np.abs(x) > 1, "yes", "no")})
    drawn = learned(table, epochs=20, batch_size=64, hidden=64).sample(4000, seed=0)
    size = np.abs(drawn["x"].to_numpy())
    assert spearmanr(size, drawn["y"])[0] > 0.8
    assert abs(spearmanr(drawn["x"], drawn["y"])[0]) < 0.15
    big = np.array(drawn["big"].to_pylist()) == "yes"
    assert np.mean(size[big] < 0.7) < 0.05  # a correlation would leave more than half of them there
    assert np.median(size[big]) > 2 * np.median(size[~big])


def test_given_values_are_refused() -> None:
    model = learned(people(200))
    with pytest.raises(SpecError, match="'copula_vae' cannot fix given values"):
        model.sample(5, given={"age": 30})
