from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.base import Codec, Encoded
from tabvae_core.codecs.category import CategoryCodec, CategoryFitter
from tabvae_core.codecs.datetime import DatetimeCodec, DatetimeFitter
from tabvae_core.codecs.number import NumberCodec, NumberFitter
from tabvae_core.codecs.restrict import slot_limits
from tabvae_core.codecs.table import TableCodec
from tabvae_core.inference import infer_schema
from tabvae_core.rules import bounds_of
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import as_source


def column(array: pa.Array, kind: Kind, *, nullable: bool = True) -> ColumnSchema:
    return ColumnSchema(name="x", kind=kind, arrow_type=str(array.type), nulls=0.0, nullable=nullable, distinct=0)


FITTERS = {Kind.NUMBER: NumberFitter, Kind.CATEGORY: CategoryFitter, Kind.DATETIME: DatetimeFitter}


def fitted(array: pa.Array, kind: Kind, privacy: PrivacySpec | None = None) -> Codec:
    fitter = FITTERS[kind](column(array, kind), array.type, privacy or PrivacySpec())
    fitter.observe(array, 0)
    return fitter.finish()


def decoded(codec: Codec, encoded: Encoded) -> pa.Array:
    rows = np.arange(len(encoded.tokens), dtype=np.uint64)
    return codec.decode(encoded.tokens, (encoded.low + encoded.high) / 2, rows=rows, seed=0)


class TestNumber:
    def test_few_values_become_tokens_and_come_back_exactly(self) -> None:
        array = pa.array(np.random.default_rng(0).choice([1, 5, 700], 1000), type=pa.int16())
        codec = fitted(array, Kind.NUMBER)
        assert codec.slots[0].n_levels == 0
        assert codec.slots[0].n_tokens == 3
        assert decoded(codec, codec.encode(array)).equals(array)

    def test_spike_in_a_continuous_column_is_exact_and_the_rest_is_close(self) -> None:
        rng = np.random.default_rng(1)
        values = np.where(rng.random(5000) < 0.3, 0.0, rng.normal(50, 10, 5000))
        codec = fitted(pa.array(values), Kind.NUMBER)
        back = decoded(codec, codec.encode(pa.array(values))).to_numpy()
        assert isinstance(codec, NumberCodec)
        assert codec.table.spikes.tolist() == [0.0]
        assert (back[values == 0] == 0).all()
        rest = values[values != 0]
        inner = (values > np.quantile(rest, 0.01)) & (values < np.quantile(rest, 0.99))
        assert np.abs(back - values)[inner].max() < 1e-3

    def test_round_amounts_keep_their_roundness(self) -> None:
        rng = np.random.default_rng(2)
        fine = rng.integers(1_000, 900_000, 6000)
        values = np.where(rng.random(6000) < 0.6, fine // 1000 * 1000, fine)
        codec = fitted(pa.array(values), Kind.NUMBER)
        assert isinstance(codec, NumberCodec)
        assert 1000.0 in codec.table.steps
        noisy = codec.encode(pa.array(values))
        place = rng.random(noisy.low.shape).astype(np.float32)
        back = codec.decode(
            noisy.tokens, noisy.low + place * (noisy.high - noisy.low), rows=np.arange(6000, dtype=np.uint64), seed=0
        ).to_numpy()
        assert abs((back % 1000 == 0).mean() - (values % 1000 == 0).mean()) < 0.01

    def test_two_decimals_stay_two_decimals(self) -> None:
        values = np.round(np.random.default_rng(3).lognormal(3, 1, 4000), 2)
        codec = fitted(pa.array(values), Kind.NUMBER)
        back = decoded(codec, codec.encode(pa.array(values))).to_numpy()
        assert (np.round(back, 2) == back).all()

    def test_integers_beyond_2_53_keep_their_low_digits(self) -> None:
        values = np.int64(2**60) + np.random.default_rng(4).integers(0, 5000, 3000)
        codec = fitted(pa.array(values), Kind.NUMBER)
        back = decoded(codec, codec.encode(pa.array(values))).to_numpy()
        assert np.abs(back - values).max() <= 60
        assert back.dtype == np.int64

    def test_extremes_are_nobodys_value(self) -> None:
        values = np.concatenate([np.random.default_rng(5).normal(0, 1, 3000), [1e6, -1e6]])
        codec = fitted(pa.array(values), Kind.NUMBER)
        assert isinstance(codec, NumberCodec)
        stored = np.concatenate(
            [codec.table.knots_value, codec.table.spikes, [codec.table.highest, codec.table.lowest]]
        )
        assert not np.isin([1e6, -1e6], stored).any()
        assert not np.isin(values[:3000], stored).any()

    def test_merging_parts_gives_the_codec_of_the_whole(self) -> None:
        array = pa.array(np.random.default_rng(6).lognormal(3, 1, 4000))
        parts = [NumberFitter(column(array, Kind.NUMBER), array.type, PrivacySpec()) for _ in range(2)]
        parts[0].observe(array.slice(0, 1500), 0)
        parts[1].observe(array.slice(1500), 1500)
        parts[1].merge(parts[0])
        merged, whole = parts[1].finish(), fitted(array, Kind.NUMBER)
        assert isinstance(whole, NumberCodec)
        assert np.array_equal(merged.table.knots_value, whole.table.knots_value)
        assert np.array_equal(merged.table.counts, whole.table.counts)

    def test_all_null(self) -> None:
        array = pa.nulls(50, pa.float32())
        codec = fitted(array, Kind.NUMBER)
        assert decoded(codec, codec.encode(array)).equals(array)


class TestCategory:
    def test_rare_categories_are_not_in_the_state(self) -> None:
        array = pa.array(["common"] * 90 + ["second"] * 20 + ["secret-person"] * 2)
        codec = fitted(array, Kind.CATEGORY)
        assert isinstance(codec, CategoryCodec)
        state = codec.state()
        assert b"secret" not in state.arrays["categories"].tobytes() + repr(state.values).encode()
        prior = codec.log_prior()[0]
        assert prior is not None
        assert np.isneginf(prior).sum() == 1, "the token of the rare ones is never drawn"

    def test_many_categories_take_two_small_slots(self) -> None:
        names = [f"v{k:05d}" for k in range(3000)] * 6
        array = pa.array(names).dictionary_encode()
        codec = fitted(array, Kind.CATEGORY)
        assert len(codec.slots) == 2
        assert sum(slot.n_tokens for slot in codec.slots) < 150
        assert decoded(codec, codec.encode(array)).cast(pa.string()).equals(pa.array(names))

    def test_no_category_shared_by_enough_rows_gives_neutral_ones(self) -> None:
        array = pa.array(["a", "a", "b", "b", "c", None] * 2)
        codec = fitted(array, Kind.CATEGORY, PrivacySpec(min_category_rows=50))
        values = set(decoded(codec, codec.encode(array)).to_pylist()) - {None}
        assert values <= {"x 1", "x 2", "x 3"}


class TestDatetime:
    def test_dates_with_gaps_keep_their_weekdays(self) -> None:
        days = np.arange(0, 4000)
        days = days[(days + 3) % 7 < 5]
        array = pa.array(days.astype("datetime64[D]"), type=pa.date32())
        codec = fitted(array, Kind.DATETIME)
        assert [slot.name for slot in codec.slots] == ["x.week", "x.weekday"]
        back = decoded(codec, codec.encode(array))
        weekday = np.array([d.weekday() for d in back.to_pylist()])
        assert (weekday < 5).all()

    @pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
    def test_time_of_day_is_the_zones_own(self, zone: str | None) -> None:
        rng = np.random.default_rng(7)
        days = rng.integers(18_000, 19_500, 3000)
        local = days * 86_400 + rng.integers(9 * 3600, 17 * 3600, 3000)
        naive = pa.array(local.astype("datetime64[s]"), type=pa.timestamp("s"))
        array = naive if zone is None else pa.compute.assume_timezone(naive, zone)
        codec = fitted(array, Kind.DATETIME)
        assert isinstance(codec, DatetimeCodec)
        assert codec.clock is not None
        assert codec.clock.lowest >= 9 * 3600 - codec.clock.base - 1
        back = decoded(codec, codec.encode(array))
        assert back.type == array.type
        hours = pa.compute.hour(back).to_numpy()
        assert hours.min() >= 9
        assert hours.max() <= 17

    def test_null_rows_mark_every_slot(self) -> None:
        array = pa.array([1_600_000_000 + 7777 * k if k % 3 else None for k in range(900)], type=pa.timestamp("s"))
        codec = fitted(array, Kind.DATETIME)
        encoded = codec.encode(array)
        assert decoded(codec, encoded).is_null().equals(array.is_null())
        priors = codec.log_prior()
        for prior in priors[1:]:
            assert prior is not None
            null = codec.day.null_token if isinstance(codec, DatetimeCodec) else 0
            assert np.isfinite(prior[null]).sum() == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_table_goes_in_and_comes_out_in_its_own_schema(data: st.DataObject) -> None:
    from arrow_tables import arrow_tables

    table = data.draw(arrow_tables())
    if table.num_rows < 10:
        return
    # Free text that allows no null cannot be kept with nulls only: inference refuses that.
    strict = {field.name: ColumnOverride(unlearnable="generate") for field in table.schema if not field.nullable}
    schema = infer_schema(as_source(table), overrides=strict, unlearnable="null")
    codec = TableCodec.fit(as_source(table), schema, PrivacySpec())
    encoded = codec.encode(table)
    for index, slot in enumerate(codec.slots):
        assert encoded.tokens[:, index].min() >= 0
        assert encoded.tokens[:, index].max() < slot.n_tokens
    assert np.isfinite(encoded.low).all()
    assert (encoded.high >= encoded.low).all()
    back = codec.decode(encoded.tokens, encoded.low, rows=np.arange(table.num_rows, dtype=np.uint64), seed=3)
    assert back.schema.equals(table.schema)
    again = TableCodec.restore(schema, codec.states())
    assert again.encode(table).tokens.tolist() == encoded.tokens.tolist()
    for name in table.column_names:
        if schema.column(name).nulls == 0 and schema.column(name).unlearnable != "null":
            assert back[name].null_count == 0


def test_bounds_become_limits_of_slots() -> None:
    rng = np.random.default_rng(8)
    table = pa.table({"x": rng.integers(0, 100_000, 4000), "c": rng.choice(["a", "b", "c"], 4000)})
    schema = infer_schema(as_source(table))
    codec = TableCodec.fit(as_source(table), schema, PrivacySpec())
    limits = slot_limits(codec, bounds_of(("x > 500", "x <= 70000", "c in ('a', 'b')"), schema))
    number = codec.codecs[0]
    assert isinstance(number, NumberCodec)
    finest, ends = np.array([number.table.n_levels - 1]), (limits[0].low, limits[0].high)
    low, high = (int(number.table.decode(finest, np.array([z]))[0][0]) for z in ends)
    assert round(low) >= 501
    assert round(high) <= 70_000
    assert limits[1].tokens.tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["lumpy", "rounded", "cents", "round and cents", "continuous", "float32"])
@pytest.mark.parametrize("shares", [(0.2, 0.7), (0.05, 0.1), (0.0, 0.5)])
def test_nothing_is_drawn_outside_of_bounds(kind: str, shares: tuple[float, float]) -> None:
    """A minimum or maximum of the spec has no rule behind it that would draw again."""
    rng, n = np.random.default_rng(9), 8_000
    step, amounts = rng.choice([1, 10, 100, 1000], n), rng.gamma(2, 400, n)
    values = {
        "lumpy": np.where(rng.random(n) < 0.3, rng.choice(np.arange(50, 2000, 7), n), rng.integers(1, 5000, n)),
        "rounded": (rng.lognormal(7, 1, n) // step * step).astype(np.int64),
        "cents": amounts.round(2),
        "round and cents": np.where(rng.random(n) < 0.5, amounts.round(0), amounts.round(2)),
        "continuous": rng.normal(0, 1, n),
        "float32": amounts.round(1).astype(np.float32),
    }[kind]
    table = pa.table({"x": values})
    schema = infer_schema(as_source(table))
    codec = TableCodec.fit(as_source(table), schema, PrivacySpec())
    low, high = (round(float(np.quantile(values, share)), 1) for share in shares)
    limits = slot_limits(codec, bounds_of((f"x >= {low}", f"x <= {high}"), schema))
    if not limits:  # nothing can be drawn: the rule that says so names itself in sampling
        assert ((values < low) | (values > high)).mean() > 0.9
        return
    number, limit = codec.codecs[0], limits[0]
    assert isinstance(number, NumberCodec)
    ends = number.table.z_range()
    place = rng.uniform(max(limit.low, ends[0]), min(limit.high, ends[1]), 20_000).astype(np.float32)
    tokens = rng.choice(np.flatnonzero(limit.tokens), len(place)).astype(np.int32)
    cells = number.decode(tokens[:, None], place[:, None], rows=np.arange(len(place), dtype=np.uint64), seed=0)
    drawn = cells.to_numpy(zero_copy_only=False).astype(np.float64)
    slack = 1e-6 * abs(high) if kind == "float32" else 0.0
    assert drawn.min() >= low - slack
    assert drawn.max() <= high + slack
    inside = values[(values >= low) & (values <= high)]
    assert drawn.min() <= np.quantile(inside, 0.05), "what is allowed is also reached"
    assert drawn.max() >= np.quantile(inside, 0.95)
