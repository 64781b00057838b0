"""The Gaussian copula: margins, latent correlations, repair and conditional draws against closed forms; and tables."""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from scipy.stats import ks_2samp, kstest, spearmanr

from tables_made import people
from tabvae_core.inference import infer_schema
from tabvae_core.models.copula import (
    Margin,
    draw_between,
    hermite_coefficients,
    informative_order,
    latent_correlations,
    nearest_correlation,
    shrunk,
)
from tabvae_core.rules import bounds_of
from tabvae_core.sampling import valid_blocks
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import as_source

Floats = npt.NDArray[np.float64]
COUNTS = st.lists(st.integers(0, 1000), min_size=1, max_size=30)


def learned(table: pa.Table, **overrides: ColumnOverride) -> Synthesizer:
    schema = infer_schema(as_source(table), overrides=overrides)
    return create("gaussian_copula", ModelSpec(method="gaussian_copula"), PrivacySpec()).fit(table, schema)


def margin(*counts: float) -> Margin:
    return Margin.of_counts(np.arange(len(counts)), np.array(counts))


def solved(observed: float, first: Margin, second: Margin) -> float:
    """Latent correlation of two variables whose scores have the observed one."""
    return float(latent_correlations(np.array([[1.0, observed], [observed, 1.0]]), [first, second])[0, 1])


def uniforms(rows: int, times: int, d: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, times, d)), rng.gumbel(size=(rows, times))


# ---------------------------------------------------------------- margins


@settings(deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 2**32))
def test_ranks_become_pieces_in_proportion_and_come_back(counts: list[int], seed: int) -> None:
    codes = np.random.default_rng(seed).permutation(len(counts)).astype(np.int64)
    one = Margin.of_counts(codes, np.array(counts))
    ranks = (np.arange(2000) + 0.5) / 2000
    found, within = one.pick(ranks)
    piece = one.find(found)
    back = one.edges[piece] + within * (one.edges[piece + 1] - one.edges[piece])
    assert np.allclose(back, ranks, atol=1e-9)
    total = sum(counts) or len(counts)
    expected = np.array(counts if sum(counts) else [1] * len(counts)) / total
    shares = np.bincount(piece, minlength=len(counts)) / 2000
    assert np.abs(shares - expected).max() <= 1 / 2000


@settings(deadline=None)
@given(counts=COUNTS)
def test_scores_ascend_and_their_mean_is_zero(counts: list[int]) -> None:
    one = margin(*counts)
    scores = one.scores()
    assert np.all(np.diff(scores) > -1e-6)
    assert abs(float((np.diff(one.edges) * scores).sum())) < 1e-9


def test_codes_that_no_piece_has() -> None:
    one = Margin.of_counts(np.array([10, 20, 30]), np.array([1, 1, 1]))
    codes = np.array([10, 15, 99, -1])
    assert one.find(codes).tolist() == [0, -1, -1, -1]
    assert one.find(codes, nearest=True).tolist() == [0, 1, 2, -1]


# ---------------------------------------------------------------- correlations


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 100), min_size=2, max_size=12))
def test_squared_coefficients_sum_up_to_the_variance(counts: list[int]) -> None:
    one = margin(*counts)
    explained = float((hermite_coefficients(one) ** 2).sum())
    assert 0.75 * one.deviation() ** 2 < explained <= one.deviation() ** 2 * (1 + 1e-9)


@pytest.mark.parametrize("rho", [-0.99, -0.9, -0.3, 0.0, 0.2, 0.6, 0.9, 0.97, 0.995])
def test_halves_have_the_tetrachoric_correlation(rho: float) -> None:
    """Signs of normals of correlation rho correlate by 2 / pi * asin(rho) (Sheppard, 1899)."""
    assert solved(2 / np.pi * np.arcsin(rho), margin(1, 1), margin(1, 1)) == pytest.approx(rho, abs=0.002)


def test_unequal_margins_have_it_too() -> None:
    """Against cells of two by three categories, counted from many draws; strongly related ones as well."""
    rng = np.random.default_rng(0)
    first, second = margin(7, 3), margin(1, 5, 2)
    for rho in (-0.95, -0.4, 0.5, 0.95):
        ranks = ndtr(rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 200_000))
        scores = [one.scores()[one.piece(ranks[:, k])] for k, one in enumerate((first, second))]
        assert solved(np.corrcoef(scores)[0, 1], first, second) == pytest.approx(rho, abs=0.012)


def test_a_number_and_a_half_have_the_biserial_correlation() -> None:
    assert solved(0.6 * np.sqrt(2 / np.pi), margin(*[1] * 500), margin(1, 1)) == pytest.approx(0.6, abs=0.005)


@settings(max_examples=25, deadline=None)
@given(
    first=st.lists(st.integers(1, 50), min_size=2, max_size=6),
    second=st.lists(st.integers(1, 50), min_size=2, max_size=6),
    observed=st.floats(-1, 1),
)
def test_solved_correlations_lie_in_range_and_ascend(first: list[int], second: list[int], observed: float) -> None:
    weaker, stronger = (solved(r, margin(*first), margin(*second)) for r in (observed, observed + 0.01))
    assert -1 <= weaker <= stronger + 1e-9 <= 1 + 1e-9


def test_what_does_not_vary_correlates_with_nothing() -> None:
    assert solved(0.0, margin(5), margin(1, 1)) == 0.0


def test_chance_is_taken_off_and_certainty_is_not() -> None:
    rows = np.full((2, 2), 100.0)
    kept = [shrunk(np.array([[1.0, r], [r, 1.0]]), rows)[0, 1] for r in (0.05, 0.3, 1.0)]
    assert kept[0] == 0.0
    assert 0.25 < kept[1] < 0.3
    assert kept[2] == 1.0


def test_nearest_correlation_of_highams_example() -> None:
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    nearest = nearest_correlation(matrix, floor=1e-9)
    assert nearest[0, 1] == pytest.approx(0.7607, abs=1e-3)
    assert nearest[0, 2] == pytest.approx(0.1573, abs=1e-3)


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 8), seed=st.integers(0, 2**32), rank=st.integers(0, 8))
def test_any_matrix_is_repaired(d: int, seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = np.clip(rng.normal(size=(d, d)), -1, 1)
    if rank:  # singular or nearly so
        factors = rng.normal(size=(d, rank))
        matrix = np.corrcoef(factors) if d > 1 and rank > 1 else np.ones((d, d))
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 1.0)
    repaired = nearest_correlation(matrix)
    assert np.allclose(np.diag(repaired), 1.0)
    assert np.allclose(repaired, repaired.T)
    assert np.all(np.isfinite(np.linalg.cholesky(repaired)))
    assert np.abs(repaired).max() <= 1 + 1e-9
    if np.linalg.eigvalsh(matrix)[0] > 1e-3:
        assert repaired is matrix


def test_an_order_is_found_for_categories() -> None:
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0, 0], [[1, 0.5, 0.4], [0.5, 1, 0.2], [0.4, 0.2, 1]], 5000)
    levels = np.floor(ndtr(z[:, 0]) * 7).astype(np.int64)
    names = rng.permutation(7)
    order = informative_order(names[levels].astype(np.int32), z[:, 1:], 7)
    position = np.argsort(order)[names]
    assert position.tolist() in (list(range(7)), list(range(6, -1, -1)))


# ---------------------------------------------------------------- conditional draws


def test_given_points_leave_the_normal_that_algebra_says() -> None:
    correlation = np.array([[1, 0.6, -0.3], [0.6, 1, 0.2], [-0.3, 0.2, 1]])
    low, high = np.zeros((20_000, 3)), np.ones((20_000, 3))
    low[:, 0] = high[:, 0] = ndtr(1.5)
    low[:, 2] = high[:, 2] = ndtr(-0.5)
    z = ndtri(draw_between(correlation, low, high, *uniforms(20_000, 1, 3)))
    block = correlation[np.ix_([0, 2], [0, 2])]
    weights = np.linalg.solve(block, correlation[[0, 2], 1])
    mean, variance = weights @ [1.5, -0.5], 1 - weights @ correlation[[0, 2], 1]
    assert np.allclose(z[:, 0], 1.5)
    assert np.allclose(z[:, 2], -0.5)
    assert kstest((z[:, 1] - mean) / np.sqrt(variance), "norm").pvalue > 0.001


def test_one_interval_is_exact_without_candidates() -> None:
    """E[y | a < x < b] = rho E[x | a < x < b]."""
    correlation = np.array([[1, 0.8], [0.8, 1]])
    low, high = np.zeros((40_000, 2)), np.ones((40_000, 2))
    low[:, 1], high[:, 1] = 0.7, 0.9
    z = ndtri(draw_between(correlation, low, high, *uniforms(40_000, 1, 2)))
    score = margin(7, 2, 1).scores()[1]
    assert z[:, 1].mean() == pytest.approx(score, abs=0.01)
    assert z[:, 0].mean() == pytest.approx(0.8 * score, abs=0.02)


def test_several_intervals_are_as_rejection_says() -> None:
    correlation = np.array([[1, 0.7, 0.5, 0.1], [0.7, 1, 0.6, 0.3], [0.5, 0.6, 1, -0.2], [0.1, 0.3, -0.2, 1]])
    below, above = np.array([0.0, 0.5, 0.2, 0.0]), np.array([0.4, 1.0, 0.5, 1.0])
    rng = np.random.default_rng(1)
    ranks = ndtr(rng.multivariate_normal(np.zeros(4), correlation, 400_000))
    kept = ndtri(ranks[np.all((ranks >= below) & (ranks <= above), axis=1)])
    low, high = np.tile(below, (20_000, 1)), np.tile(above, (20_000, 1))
    drawn = ndtri(draw_between(correlation, low, high, *uniforms(20_000, 32, 4)))
    assert np.abs(drawn.mean(axis=0) - kept.mean(axis=0)).max() < 0.03
    assert np.abs(np.cov(drawn.T) - np.cov(kept.T)).max() < 0.03


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), d=st.integers(1, 6))
def test_draws_lie_in_their_intervals_however_unlikely(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(d, 2))
    scaled = factors / np.linalg.norm(factors, axis=1, keepdims=True)
    correlation = nearest_correlation(np.clip(scaled @ scaled.T, -1, 1))
    ends = np.sort(np.where(rng.random((2, 50, d)) < 0.3, rng.integers(0, 2, (2, 50, d)), rng.random((2, 50, d))), 0)
    low, high = np.minimum(ends[0], 1 - 1e-9), np.maximum(ends[1], 1e-9)
    ranks = draw_between(correlation, low, high, *uniforms(50, 3, d, seed))
    assert np.all((ranks >= low) & (ranks <= high))


# ---------------------------------------------------------------- tables


def test_margins_are_those_of_the_rows() -> None:
    table = people(4000)
    drawn = learned(table).sample(8000, seed=1)
    for name in ("segment", "active"):
        shares = {k: n / 4000 for k, n in zip(*np.unique(table[name].to_pylist(), return_counts=True), strict=True)}
        for value, share in shares.items():
            assert np.mean([cell == value for cell in drawn[name].to_pylist()]) == pytest.approx(share, abs=0.02)
    assert drawn["income"].null_count / 8000 == pytest.approx(table["income"].null_count / 4000, abs=0.01)
    zero = [pc.mean(pc.equal(rows["income"], 0).cast(pa.int8())).as_py() for rows in (table, drawn)]
    assert zero[1] == pytest.approx(zero[0], abs=0.015)
    for name in ("age", "income"):
        there = [rows[name].drop_null().to_numpy() for rows in (table, drawn)]
        assert ks_2samp(*there).statistic < 0.03, name


def test_correlations_are_those_of_the_rows() -> None:
    """Of numbers, of cut numbers, and of a column that is another one in other words, whatever they are called."""
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0], [[1, -0.7], [-0.7, 1]], 6000)
    levels = np.floor(ndtr(z[:, 0]) * 5).astype(int)
    table = pa.table(
        {
            "x": np.exp(z[:, 0]),
            "y": z[:, 1],
            "cut": np.array(["delta", "alpha", "echo", "bravo", "charlie"])[levels],
            "code": np.array([30, 10, 50, 40, 20])[np.array([1, 4, 0, 3, 2])][levels],
        }
    )
    drawn = learned(table).sample(6000, seed=0)
    assert spearmanr(drawn["x"], drawn["y"])[0] == pytest.approx(spearmanr(table["x"], table["y"])[0], abs=0.03)
    for name, value in (("cut", "delta"), ("cut", "charlie"), ("code", 10)):
        means = [rows.filter(pc.equal(rows[name], value))["y"].to_numpy().mean() for rows in (table, drawn)]
        assert means[1] == pytest.approx(means[0], abs=0.12)
    pairs = {(row["cut"], row["code"]) for row in table.select(["cut", "code"]).to_pylist()}
    known = [(row["cut"], row["code"]) in pairs for row in drawn.select(["cut", "code"]).to_pylist()]
    assert np.mean(known) > 0.97


def test_nulls_come_together_as_they_did() -> None:
    rng = np.random.default_rng(0)
    gone, when = rng.random(4000) < 0.3, rng.integers(0, 10**8, 4000)
    table = pa.table(
        {
            "size": pa.array(rng.normal(size=4000) + 2, mask=gone),
            "kind": pa.array(rng.choice(["a", "b"], 4000), mask=gone),
            "at": pa.array(dt.datetime(2020, 1, 1) + dt.timedelta(seconds=int(s)) for s in when),
        }
    )
    table = table.set_column(2, "at", pc.if_else(pa.array(gone), None, table["at"]))
    drawn = learned(table).sample(3000, seed=0)
    nulls = [drawn[name].is_null().to_numpy() for name in table.column_names]
    assert nulls[0].mean() == pytest.approx(0.3, abs=0.03)
    assert (nulls[0] == nulls[1]).mean() > 0.99
    assert (nulls[0] == nulls[2]).mean() > 0.99
    hours = pc.hour(drawn["at"].drop_null()).to_numpy()
    assert np.bincount(hours, minlength=24).min() > 0.4 * len(hours) / 24


def test_categories_of_two_levels() -> None:
    rng = np.random.default_rng(0)
    zip_code = rng.integers(0, 600, 12_000)
    table = pa.table({"zip": [f"Z{k:03d}" for k in zip_code], "rent": zip_code % 7 + rng.normal(size=12_000) / 4})
    model = learned(table, zip=ColumnOverride(kind=Kind.CATEGORY))
    drawn = model.sample(12_000, seed=0)
    assert len(pc.unique(drawn["zip"])) > 580
    rest = np.array([int(name[1:]) % 7 for name in drawn["zip"].to_pylist()])
    assert np.corrcoef(rest, drawn["rent"])[0, 1] > 0.9
    asked = model.sample(500, seed=0, given={"zip": "Z013"})
    assert set(asked["zip"].to_pylist()) == {"Z013"}
    assert asked["rent"].to_numpy().mean() == pytest.approx(6, abs=0.4)


def test_singular_tables_are_learned() -> None:
    """More columns than rows, among them copies and sums of each other."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 20))
    cells = np.concatenate([first, first, first[:, :10] + first[:, 10:]], axis=1)
    table = pa.table({f"c{k}": cells[:, k] for k in range(50)})
    drawn = learned(table).sample(2000, seed=0)
    copies = [spearmanr(drawn[f"c{k}"], drawn[f"c{k + 20}"])[0] for k in range(20)]
    assert min(copies) > 0.95


# ---------------------------------------------------------------- given cells and bounds


def test_given_numbers_leave_what_algebra_says() -> None:
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 20_000)
    model = learned(pa.table({"x": z[:, 0], "y": z[:, 1]}))
    for x in (-1.5, 0.0, 2.0):
        y = model.sample(3000, seed=0, given={"x": x})["y"].to_numpy()
        assert y.mean() == pytest.approx(0.8 * x, abs=0.06)
        assert y.std() == pytest.approx(0.6, abs=0.04)


def test_given_categories_and_nulls_condition_the_rest() -> None:
    model = learned(people(3000))
    incomes = {
        segment: np.nanmedian(model.sample(500, seed=0, given={"segment": segment})["income"].to_numpy(False))
        for segment in ("basic", "plus", "pro")
    }
    assert incomes["basic"] < 0.7 * incomes["plus"] < 0.5 * incomes["pro"]
    assert model.sample(50, seed=0, given={"income": None})["income"].null_count == 50


def test_each_row_of_a_given_table_follows_its_own_cells() -> None:
    rng = np.random.default_rng(0)
    z = rng.multivariate_normal([0, 0, 0], [[1, 0.7, 0.5], [0.7, 1, 0.3], [0.5, 0.3, 1]], 10_000)
    names = np.array(["low", "middle", "high"])
    model = learned(pa.table({"x": z[:, 0], "y": z[:, 1], "size": names[np.digitize(z[:, 2], [-0.5, 0.5])]}))
    partial = pa.table({"x": [2.0, None] * 1000, "size": [None, "low", "high", "high"] * 500})
    y = model.sample(2000, seed=0, given=partial)["y"].to_numpy()
    scores = margin(ndtr(-0.5), ndtr(0.5) - ndtr(-0.5), ndtr(-0.5)).scores()
    assert y[0::4].mean() == pytest.approx(1.4, abs=0.15)
    assert y[1::4].mean() == pytest.approx(0.3 * scores[0], abs=0.15)
    assert y[3::4].mean() == pytest.approx(0.3 * scores[2], abs=0.15)


@pytest.mark.parametrize("rule", ["age > 70", "segment == 'pro'", "income is not null"])
def test_bounds_are_met_without_many_draws(rule: str) -> None:
    model = learned(people(2000))
    blocks = list(valid_blocks(model, 2000, seed=0, rules=(rule,), bounds=bounds_of((rule,), model.schema)))
    drawn = sum(draws for _, draws in blocks)
    assert sum(table.num_rows for table, _ in blocks) == 2000
    assert 2000 / drawn >= 0.9
