"""Numbers as tokens and places: what comes back of a cell, what can be drawn, and how often."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.numeric import NumericFitter, NumericTable, _believable

Floats = npt.NDArray[Any]
UNITS = tuple(10**k for k in range(1, 13))


def fit(values: Floats, *, protect: int = 1, min_rows: int = 5, error: float = 1e-15, nulls: int = 0) -> NumericTable:
    fitter = NumericFitter(
        integer=values.dtype.kind == "i", units=UNITS, min_rows=min_rows, protect=protect, relative_error=error
    )
    cells = np.concatenate([values, values[:1].repeat(nulls)])
    fitter.observe(cells, np.arange(len(cells)) < len(values), 0)
    return fitter.finish()


def every(values: Floats) -> npt.NDArray[np.bool_]:
    return np.ones(len(values), dtype=np.bool_)


# ---------------------------------------------------------------- any numbers


def _drawn(kind: str, rows: int, rng: np.random.Generator) -> Floats:
    """Numbers of one shape and scale, in some columns with many that are shared."""
    scale = float(rng.choice([1, 10, 1_000, 1e5]))
    shapes = [
        rng.normal(0, scale, rows),
        rng.lognormal(np.log(scale), 1.5, rows),
        rng.uniform(-scale, scale, rows),
    ]
    values = shapes[int(rng.integers(3))]
    if rng.random() < 0.6:
        pool = values[: int(rng.integers(1, max(2, rows // 2 + 1)))]
        weight = 1 / np.arange(1, len(pool) + 1) ** rng.choice([0, 0.5, 1, 1.5])
        shared = rng.choice(pool, rows, p=weight / weight.sum())
        values = np.where(rng.random(rows) < rng.choice([0.5, 1.0]), shared, values)
    some = rng.random(rows) < rng.random()
    match kind:
        case "integers":
            return np.rint(values).astype(np.int64)
        case "round integers":
            values = np.rint(values * 100)
            return np.where(some, np.rint(values / 100) * 100, values).astype(np.int64)
        case "long integers":
            return np.int64(2) ** int(rng.integers(40, 62)) + np.rint(values).astype(np.int64)
        case "wide integers":
            return rng.integers(-(2**62), 2**62, rows)
        case "decimals":
            values = np.round(values, int(rng.integers(1, 4)))
            return np.where(some, np.round(values), values) + 0.0
        case "decimals as float32":
            return np.round(values, 2).astype(np.float32).astype(np.float64)
        case "decimals and others":
            return np.where(some, np.round(values, 2), values)
        case "tiny":
            return values * 1e-20
    return values


KINDS = (
    "integers", "round integers", "long integers", "wide integers", "decimals", "decimals as float32",
    "decimals and others", "floats", "tiny",
)  # fmt: skip


@st.composite
def numbers(draw: st.DrawFn) -> tuple[Floats, NumericTable, np.random.Generator]:
    """Numbers, the table fitted to them, and a generator for places."""
    kind = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = _drawn(kind, draw(st.sampled_from([1, 2, 3, 10, 30, 100, 400, 2_000])), rng)
    few = st.sampled_from([1, 3, 5, 10])
    error = 6e-8 if kind == "decimals as float32" else 1e-15
    table = fit(values, protect=draw(few), min_rows=draw(few), error=error, nulls=draw(st.sampled_from([0, 7])))
    return values, table, rng


def places_in(low: Floats, high: Floats, share: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Places strictly within cells, and which cells are wide enough for float32 to have one."""
    margin = np.float32(1e-5) * (high - low)
    first = np.maximum(np.nextafter(low, np.float32(np.inf)), low + margin)
    last = np.minimum(np.nextafter(high, np.float32(-np.inf)), high - margin)
    inside = first <= last
    place = low + np.float32(share) * (high - low)
    return np.where(inside, np.clip(place, np.minimum(first, last), last), (low + high) / 2).astype(np.float32), inside


@settings(max_examples=200, deadline=None)
@given(drawn=numbers(), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_cells_come_back_from_anywhere_within_them(
    drawn: tuple[Floats, NumericTable, np.random.Generator], shares: list[float]
) -> None:
    """Exactly, but for these: values beyond the protected ends, and cells that float32 has no room for.

    A decimal comes back as the float nearest to it; what is within 1e-5 of a step of a multiple (not of zero) counts as
    that multiple.
    """
    values, table, _ = drawn
    tokens, low, high = table.encode(values, every(values))
    assert (high >= low).all()
    offsets, is_level = table.offsets(values), tokens < table.n_levels
    beyond = is_level & ((offsets < table.lowest) | (offsets > table.highest))
    step = np.where(is_level, np.append(table.steps, 0.0)[np.where(is_level, tokens, -1)], 0.0)
    for share in (0.5, *shares):
        place, inside = places_in(low, high, share)
        back, valid = table.decode(tokens, place)
        assert valid.all()
        assert back.dtype == values.dtype
        decoded = table.offsets(back)
        off = np.abs(decoded - offsets)
        if table.n_levels:
            assert (off[~is_level] == 0).all(), "spikes are exact"
        else:  # all have tokens: a value too rare for one is the nearest of them
            assert (off == np.abs(table.spikes[:, None] - offsets).min(axis=0)).all()
        ends = np.clip(decoded, table.lowest, table.highest)
        assert np.allclose(decoded[is_level], ends[is_level], rtol=1e-15, atol=0)
        error = np.where(np.abs(offsets) > step / 2, 1e-5 * step, 0.0) * (not table.integer)
        error += 4e-15 * np.abs(offsets) if np.any(values != np.float32(values)) else 2e-7 * np.abs(offsets)
        exact = is_level & ~beyond & (step > 0) & inside
        assert (off <= error * (not table.integer))[exact].all()
        for level, finer in enumerate(table.maps):
            own = (tokens == level) & ~beyond
            shared = own & np.isin(offsets, finer.atoms)
            assert (off[shared & inside] == 0).all(), "a value that many rows share is exact"
            # What else there is: places that float32 cannot tell apart, and steps off what others have tokens for.
            reach = 2 * np.spacing(np.abs(place))
            start, end = finer.value(place - reach), finer.value(place + reach)
            slack = 4 * step + error + 1e-9 * np.maximum(np.abs(start), np.abs(end))
            near = (decoded >= start - slack) & (decoded <= end + slack)
            near &= (offsets >= start - slack) & (offsets <= end + slack)
            assert near[own].all()


@settings(max_examples=200, deadline=None)
@given(drawn=numbers())
def test_what_is_drawn_is_on_its_grid_and_has_no_other_token(
    drawn: tuple[Floats, NumericTable, np.random.Generator],
) -> None:
    """Unless no multiple of the step lies within the ends, or no free one within three steps of the value."""
    _, table, rng = drawn
    places = np.concatenate([table.z_range(), rng.uniform(*table.z_range(), 300)]).astype(np.float32)
    for level, step in enumerate(table.steps):
        tokens = np.full(len(places), level, np.int32)
        back, valid = table.decode(tokens, places)
        assert valid.all()
        offsets = table.offsets(back)
        assert np.allclose(offsets, np.clip(offsets, table.lowest, table.highest), rtol=1e-15, atol=0)
        if step == 0:
            continue
        shift = table.base % int(step) if table.integer else 0
        first = np.ceil((table.lowest + shift) / step - 1e-9) * step - shift
        if first > table.highest + 1e-9 * step:
            continue
        if table.integer:
            assert {(int(offset) + table.base) % int(step) for offset in offsets} == {0}
        else:
            off = np.abs(offsets / step - np.rint(offsets / step))
            assert (off <= 1e-6 + 4e-15 * np.abs(offsets / step)).all()
        foreign = np.flatnonzero(_is_foreign(table, offsets, level))
        for moves in (1, 2, 3):
            for sign in (1, -1):
                beside = offsets[foreign] + sign * moves * step
                beside = beside if table.integer else np.round(beside, 6)
                free = ~_is_foreign(table, beside, level)
                assert not (free & (beside >= table.lowest) & (beside <= table.highest)).any()


def _is_foreign(table: NumericTable, offsets: Floats, level: int) -> npt.NDArray[np.bool_]:
    """Whether a training cell of these values would have another token than the level's."""
    values = offsets
    if table.integer:
        values = np.rint(offsets).astype(np.int64) + table.base
    elif len(table.spikes):  # a float32 spike stands for the decimal beside it
        single = table.spikes == table.spikes.astype(np.float32)
        error = np.where(single, 2e-7, 4e-15) * np.abs(table.spikes)
        error = np.minimum(error, 0.004 * table.steps[table.steps > 0].min(initial=1.0))
        beside = np.abs(table.spikes[:, None] - offsets) <= error[:, None]
        values = np.where(beside.any(axis=0), table.spikes[beside.argmax(axis=0)], offsets)
    foreign: npt.NDArray[np.bool_] = table.encode(values, every(values))[0] != level
    return foreign


@settings(max_examples=100, deadline=None)
@given(drawn=numbers())
def test_settled_places_are_those_of_training_rows(drawn: tuple[Floats, NumericTable, np.random.Generator]) -> None:
    values, table, rng = drawn
    if not table.n_levels:
        return
    tokens = rng.integers(0, table.n_levels, 300).astype(np.int32)
    places = rng.uniform(*table.z_range(), 300).astype(np.float32)
    settled = table.settle(tokens, places)
    drawn_cells, valid = table.decode(tokens, places)
    own, low, high = table.encode(drawn_cells, valid)
    same = (own == tokens) & (np.abs(drawn_cells) < 2.0**53)
    assert np.allclose(settled[same], (low[same] + high[same]) / 2, rtol=1e-6, atol=1e-6)
    roomy = same & (table.steps[tokens] > 0) & places_in(low, high, 0.5)[1]
    assert np.array_equal(table.decode(tokens, settled)[0][roomy], drawn_cells[roomy])
    # Training cells lie there already, and tokens without a value keep theirs.
    own, low, high = table.encode(values, every(values))
    middle = (low + high) / 2
    offsets = table.offsets(values)
    inside = places_in(low, high, 0.5)[1] & (offsets >= table.lowest) & (offsets <= table.highest)
    inside |= own >= table.n_levels
    assert np.allclose(table.settle(own, middle)[inside], middle[inside], rtol=1e-6, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(drawn=numbers())
def test_bundles_bring_the_table_back(drawn: tuple[Floats, NumericTable, np.random.Generator]) -> None:
    values, table, rng = drawn
    again = NumericTable.restore(table.to_json(), {k: v.copy() for k, v in table.to_arrays().items()})
    for one, other in zip(table.encode(values, every(values)), again.encode(values, every(values)), strict=True):
        assert np.array_equal(one, other)
    tokens = rng.integers(0, table.n_tokens, 300).astype(np.int32)
    places = rng.uniform(*table.z_range(), 300).astype(np.float32)
    for one, other in zip(table.decode(tokens, places), again.decode(tokens, places), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(table.settle(tokens, places), again.settle(tokens, places))
    assert (table.z_range(), table.ends) == (again.z_range(), again.ends)
    assert len(again.maps) == table.n_levels


@settings(max_examples=100, deadline=None)
@given(drawn=numbers())
def test_maps_are_monotone_and_share_their_ends(drawn: tuple[Floats, NumericTable, np.random.Generator]) -> None:
    _, table, _ = drawn
    for finer in table.maps:
        assert (np.diff(finer.values) > 0).all()
        assert (np.diff(finer.z) > 0).all()
        assert np.isfinite(finer.z).all()
        assert finer.z[0] == pytest.approx(table.maps[0].z[0])
        assert finer.z[-1] == pytest.approx(table.maps[0].z[-1], abs=0.01)


# ---------------------------------------------------------------- how often


def smooth_draws(places: Floats, pieces: int = 16) -> Floats:
    """Places as a density draws them that knows no more of the training rows than some quantiles: the inner ones."""
    quantiles = np.quantile(places, np.linspace(0.1, 0.9, pieces + 1))
    return np.interp(np.linspace(0, 1, 200_000), np.linspace(0, 1, pieces + 1), quantiles).astype(np.float32)


@pytest.mark.parametrize("step", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("skew", [0.3, 1.0])
def test_a_smooth_density_draws_shared_values_as_often_as_they_are(step: float, skew: float) -> None:
    rng = np.random.default_rng(int(100 * step))
    weight = rng.permutation(1 / np.arange(1, 401) ** skew)
    shared = np.sort(rng.choice(20_000, 400, replace=False)) * (step or np.pi)
    fresh = rng.integers(0, 20_000, 20_000) * step if step else rng.uniform(0, 20_000 * np.pi, 20_000)
    values = np.where(rng.random(20_000) < 0.7, rng.choice(shared, 20_000, p=weight / weight.sum()), fresh)
    values = values.astype(np.int64) if step == 1.0 else np.round(values, 2) if step else values
    table = fit(values, protect=5)
    assert table.steps.tolist() == [step]
    tokens, low, high = table.encode(values, every(values))
    own = tokens == 0
    places = low[own] + rng.random(int(own.sum())) * (high[own].astype(float) - low[own])
    drawn = table.offsets(table.decode(np.zeros(200_000, np.int32), smooth_draws(places))[0])
    offsets = table.offsets(values[own])
    inner = offsets[(places >= np.quantile(places, 0.1)) & (places <= np.quantile(places, 0.9))]
    unique, counts = np.unique(inner, return_counts=True)
    known, often = np.unique(drawn, return_counts=True)
    share = dict(zip(known.tolist(), (often / len(drawn)).tolist(), strict=True))
    got = np.array([share.get(value, 0.0) for value in unique.tolist()])
    common = counts >= 10
    real = counts / counts.sum()
    assert real[common].sum() > 0.4
    assert got[common].sum() == pytest.approx(real[common].sum(), abs=0.05)
    assert np.abs(got - real)[common].sum() / 2 < 0.1, "total variation"
    assert np.median(np.abs(got / real - 1)[common]) < 0.2


def test_a_value_of_most_of_a_level_gets_most_of_its_places() -> None:
    """Also where its level has few cells, so that its value is no spike."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 10**6, 30_000)
    values[values % 1000 == 0] += 1
    values[:1_000] = rng.integers(1, 1000, 1_000) * 1000
    values[1_000:1_120] = 250_000
    table = fit(values, protect=5)
    level = table.steps.tolist().index(1000.0)
    offset = 250_000 - table.base
    assert offset not in table.spikes
    tokens, low, high = table.encode(values, every(values))
    own = tokens == level
    places = low[own] + rng.random(int(own.sum())) * (high[own].astype(float) - low[own])
    quantiles = np.quantile(places, np.linspace(0, 1, 17))
    drawn = np.interp(rng.random(100_000), np.linspace(0, 1, 17), quantiles).astype(np.float32)
    decoded = table.offsets(table.decode(np.full(100_000, level, np.int32), drawn)[0])
    assert (decoded == offset).mean() == pytest.approx((values[own] == 250_000).mean(), rel=0.2)


# ---------------------------------------------------------------- cases that were wrong once


def decoded_range(table: NumericTable, level: int = -1) -> Floats:
    tokens = np.full(2_000, level % table.n_levels, np.int32)
    return table.decode(tokens, np.linspace(*table.z_range(), 2_000).astype(np.float32))[0]


def test_float32_ends_come_back() -> None:
    """0.84 as float32 is less than 0.84, which then seemed to lie beyond the largest value."""
    rng = np.random.default_rng(0)
    values = np.round(rng.uniform(-0.99, 0.84, 3_000), 2)
    values[:9], values[9:18] = 0.84, -0.99
    single = values.astype(np.float32).astype(np.float64)
    table = fit(single, error=6e-8, min_rows=40)
    assert table.steps.tolist() == [0.01]
    tokens, low, high = table.encode(single, every(single))
    back, _ = table.decode(tokens, (low + high) / 2)
    assert np.array_equal(back.astype(np.float32), values.astype(np.float32))


def test_float32_spikes_are_nobody_elses_values() -> None:
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(0, 5, 5_000), 2)
    values[:400] = 0.84
    table = fit(values.astype(np.float32).astype(np.float64), error=6e-8)
    assert np.float64(np.float32(0.84)) in table.spikes
    assert not np.isclose(decoded_range(table), 0.84, atol=1e-6).any()


def test_spikes_beside_a_coarser_grid_take_nothing_from_it() -> None:
    """1,500,234 is no multiple of a thousand, so the place of 1,500,000 is not taken."""
    rng = np.random.default_rng(2)
    values = rng.integers(1, 3_000, 12_000) * 1000
    values[:600], values[600:2_500] = 1_500_234, rng.integers(1, 3_000_000, 1_900)
    table = fit(values, min_rows=20)
    assert 1_500_234 - table.base in table.spikes
    coarse = table.steps.tolist().index(1000.0)
    places = np.linspace(*table.z_range(), 400_000).astype(np.float32)
    drawn = table.decode(np.full(len(places), coarse, np.int32), places)[0]
    beside = [int((drawn == 1_500_000 + 1000 * k).sum()) for k in range(-9, 10)]
    assert beside[9] > 0.5 * np.median(beside)


def test_round_numbers_beyond_2_53() -> None:
    """The place of a base among multiples of ten was taken from its float."""
    rng = np.random.default_rng(3)
    values = np.int64(2**60 + 7) + np.where(rng.random(3_000) < 0.5, 3 + 10 * rng.integers(0, 500, 3_000), 1)
    values += np.where(rng.random(3_000) < 0.1, rng.integers(0, 9, 3_000), 0)
    table = fit(values)
    tokens, low, high = table.encode(values, every(values))
    back, _ = table.decode(tokens, (low + high) / 2)
    assert np.array_equal(back, values)


def test_integers_of_the_whole_range_have_no_grid() -> None:
    values = np.random.default_rng(4).integers(-(2**63), 2**63 - 1, 500, endpoint=True)
    table = fit(values)
    assert table.steps.tolist() == [0.0]


@pytest.mark.parametrize("scale", [1e-300, 1e-19, 1e12, 1e300])
def test_any_scale_is_learned(scale: float) -> None:
    """A column of charges around 1e-19 has as many different values as any other."""
    values = np.random.default_rng(5).normal(2, 1, 3_000) * scale
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = fit(values, protect=5)
    drawn = decoded_range(table)
    assert len(np.unique(drawn)) > 1_900
    assert np.quantile(drawn, [0.2, 0.8]) / scale == pytest.approx([-0.4, 4.4], abs=1.2)
    tokens, low, high = table.encode(values, every(values))
    back, _ = table.decode(tokens, (low + high) / 2)
    inner = (values > table.lowest) & (values < table.highest)
    assert np.abs(back - values)[inner].max() < 1e-5 * scale


def test_small_numbers_are_no_zeros() -> None:
    """Chances of 1e-9 beside round ones."""
    rng = np.random.default_rng(6)
    values = np.where(rng.random(4_000) < 0.4, np.round(rng.random(4_000), 2), 10.0 ** rng.uniform(-12, -6, 4_000))
    table = fit(values)
    assert table.steps.tolist() == [0.01, 0.0]
    tokens, low, high = table.encode(values, every(values))
    assert (tokens[(values > 0) & (values < 1e-6)] == 1).all()
    back, _ = table.decode(tokens, (low + high) / 2)
    small = (values > 1e-11) & (values < 1e-6)
    assert (back[small] > 0).all()


def test_moves_off_a_spike_do_not_leave_the_grid() -> None:
    """At the lower end, which is a mean and no decimal itself."""
    rng = np.random.default_rng(7)
    spikes = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    values = np.concatenate([np.zeros(4), np.repeat(spikes, 60), rng.integers(8, 500, 1_000) / 10])
    table = fit(values, protect=7, min_rows=20)
    assert 0.3 < table.lowest < 0.4
    assert table.spikes.tolist()[:7] == spikes
    drawn = decoded_range(table)
    assert np.allclose(drawn * 10, np.rint(drawn * 10), atol=1e-6)


# ---------------------------------------------------------------- what counts say


def grid_counts(mean: npt.NDArray[np.float64], seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    counts = np.random.default_rng(seed).poisson(mean)
    values = np.arange(len(mean), dtype=np.float64)
    return values[counts > 0], counts[counts > 0]


def test_chance_is_not_believed() -> None:
    """Counts of a smooth density differ by chance alone: no value is told from its neighbourhood."""
    mean = 60 * np.exp(-(((np.arange(500) - 250) / 120.0) ** 2)) + 5
    believed = _believable(*grid_counts(mean), 1.0, 1.0)
    assert (believed > 0).mean() < 0.02


def test_heaps_are_believed_as_they_are() -> None:
    mean = np.full(500, 20.0)
    mean[99::100] = 600.0
    values, counts = grid_counts(mean)
    believed = _believable(values, counts, 1.0, 1.0)
    heaps = np.isin(values, np.arange(99, 500, 100))
    assert np.array_equal(believed[heaps], counts[heaps])
    assert (believed[~heaps] > 0).mean() < 0.05


def test_lumps_are_shrunk_towards_the_truth() -> None:
    """Where values differ by more than chance, what is believed is nearer to the truth than the counts are."""
    mean = np.random.default_rng(1).gamma(40.0, 1.0, 800)
    values, counts = grid_counts(mean)
    truth = mean[values.astype(int)]
    believed = _believable(values, counts, 1.0, 1.0)
    assert np.all(believed > 0)
    assert ((believed - truth) ** 2).mean() < 0.8 * ((counts - truth) ** 2).mean()
    assert believed.sum() == pytest.approx(counts.sum(), rel=1e-6)


def test_few_values_have_plenty_of_rows_each() -> None:
    values, counts = grid_counts(np.linspace(500, 900, 20))
    assert np.array_equal(_believable(values, counts, 1.0, 1.0), counts)
