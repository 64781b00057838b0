"""The mixture behind `dp_marginals`, and what the method promises beyond the contract of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tables_made import people
from tabvae_core.errors import SpecError
from tabvae_core.inference import infer_schema
from tabvae_core.models.dp_marginals import Measured, Mixture, fit_mixture, pair_counts
from tabvae_core.privacy.noise import Noise
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.dp_marginals import DPMarginalsSynthesizer
from tabvae_core.synthesizers.registry import create, find, methods, private_methods
from tabvae_core.tables import as_source

MIXTURE = Mixture((2, 3), np.array([0.25, 0.75]), np.array([[0.9, 0.1, 1.0, 0.0, 0.0], [0.2, 0.8, 0.0, 0.5, 0.5]]))


def fitted(table: pa.Table, epsilon: float, seed: int = 0) -> DPMarginalsSynthesizer:
    model = ModelSpec(method="dp_marginals", options={"components": 60, "steps": 30})
    privacy = PrivacySpec(epsilon=epsilon)
    schema = infer_schema(as_source(table), overrides={"key": ColumnOverride(kind=Kind.IDENTIFIER)}, privacy=privacy)
    synthesizer = DPMarginalsSynthesizer(model, privacy)
    synthesizer._noise = Noise(rng=np.random.default_rng(seed))
    return synthesizer.fit(table, schema)


def test_draws_follow_the_mixture() -> None:
    uniforms = np.random.default_rng(0).random((40_000, 3))
    shares = pair_counts(MIXTURE.draw({}, {}, uniforms), 0, 1, MIXTURE.sizes) / 40_000
    np.testing.assert_allclose(shares, MIXTURE.pair(0, 1), atol=0.01)


def test_conditional_draws_are_exact() -> None:
    """Given the second column, the first follows from Bayes' rule; limits renormalise."""
    uniforms, every = np.random.default_rng(0).random((40_000, 3)), np.ones(40_000, dtype=np.bool_)
    pair = MIXTURE.pair(0, 1)
    given = {0: (np.ones(40_000, np.int32), every)}
    drawn = MIXTURE.draw({}, given, uniforms)
    assert (drawn[:, 0] == 1).all()
    np.testing.assert_allclose(np.bincount(drawn[:, 1], minlength=3) / 40_000, pair[1] / pair[1].sum(), atol=0.01)
    drawn = MIXTURE.draw({1: np.array([True, True, False])}, {}, uniforms)
    assert set(np.unique(drawn[:, 1])) == {0, 1}
    expected = pair[:, :2].sum(axis=1) / pair[:, :2].sum()
    np.testing.assert_allclose(np.bincount(drawn[:, 0]) / 40_000, expected, atol=0.01)


def test_a_fit_comes_near_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 5000)
    tokens = np.stack([first, (first + (rng.random(5000) < 0.1)) % 4, rng.integers(0, 3, 5000)], axis=1).astype(
        np.int32
    )
    sizes = (4, 4, 3)
    single = np.concatenate([np.bincount(tokens[:, j], minlength=size) / 5000 for j, size in enumerate(sizes)])
    pairs = {(0, 1): pair_counts(tokens, 0, 1, sizes) / 5000, (1, 2): pair_counts(tokens, 1, 2, sizes) / 5000}
    mixture = fit_mixture(sizes, Measured(single, pairs, 1e-3, 1e-3), components=30, steps=1500, seed=0)
    for pair, shares in pairs.items():
        assert np.abs(mixture.pair(*pair) - shares).sum() < 0.03


def test_dependence_is_learned_and_a_small_budget_blurs_it() -> None:
    table = people(3000)
    errors = []
    for epsilon in (0.02, 30.0):
        drawn = fitted(table, epsilon).sample(3000, seed=0).to_pandas()
        means = drawn[drawn["income"] > 0].groupby("segment", observed=False)["income"].mean()
        errors.append(abs(means.get("pro", 0.0) / max(means.get("basic", 1.0), 1.0) - 4.5))
    assert errors[1] < 1.0 < errors[0]


def test_the_record_accounts_for_all_of_the_budget(tmp_path: Path) -> None:
    model = fitted(people(), 2.0)
    spent = model.record["privacy"]
    assert 1.9 < spent["spent_epsilon"] <= 2.0
    assert {one["share"] for one in spent["spending"]} == {"bounds", "domains", "counts", "selection", "training"}
    planned = DPMarginalsSynthesizer.planned_loss(model.privacy)
    assert planned.epsilon(1e-5) <= 2.0 + 1e-6
    assert planned.epsilon(1e-5) == pytest.approx(spent["spent_epsilon"], abs=1e-3)
    model.save(tmp_path)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "satisfies epsilon" in card
    assert "no differential-privacy guarantee" not in card


def test_no_exact_count_reaches_the_bundle(tmp_path: Path) -> None:
    """Neither the number of rows nor a share of nulls, in a table of which one more or less would tell."""
    table = people(1234)
    model = fitted(table, 1.0, seed=1)
    model.save(tmp_path)
    header = json.loads((tmp_path / "bundle.json").read_text())
    assert header["schema"]["public"]
    assert 1234 not in (header["schema"]["rows"], header["record"]["rows"])
    nulls = table["income"].null_count / 1234
    assert all(column["nulls"] != nulls for column in header["schema"]["columns"])


def test_an_epsilon_is_asked_of_private_methods_alone() -> None:
    with pytest.raises(SpecError, match=r"privacy\.epsilon is not set"):
        create("dp_marginals", ModelSpec(method="dp_marginals"), PrivacySpec())
    assert "dp_marginals" in private_methods()
    for name in methods():
        if not find(name).private:
            with pytest.raises(SpecError, match="has no differential privacy") as refused:
                create(name, ModelSpec(method=name), PrivacySpec(epsilon=1.0))
            assert "dp_marginals" in refused.value.hint


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"total_epsilon": 1.0}, "total_epsilon needs epsilon"),
        ({"epsilon": 2.0, "total_epsilon": 1.0}, "total_epsilon must not be below epsilon"),
        ({"epsilon": 2.0, "delta": 1e-4, "total_delta": 1e-5}, "total_delta must not be below delta"),
    ],
)
def test_totals_that_hold_no_release_are_refused(privacy: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrivacySpec(**privacy)  # type: ignore[arg-type]
