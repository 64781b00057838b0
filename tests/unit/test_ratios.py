"""Ratios: found where numbers keep close to multiples of others, nowhere else, and met in what is drawn."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.links import Links
from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.ordering import arrange
from tabvae_core.codecs.ratios import CENTRES, Ratios, log_of, share_tied
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.inference import infer_schema
from tabvae_core.relations import RelationKind, find_relations
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.vae import VAESynthesizer
from tabvae_core.tables import as_source

ROWS = 4_000
MINIMUM = 0.036
ADDITIVE = (RelationKind.SUM, RelationKind.DIFFERENCE)


def bills(rows: int = ROWS, seed: int = 0, kind: str = "near") -> pa.Table:
    """Bills, and what was paid: a little more, the least that may be, or anything."""
    rng = np.random.default_rng(seed)
    bill = np.rint(np.exp(rng.normal(8.0, 1.2, rows)))
    paid = np.exp(rng.normal(7.0, 1.2, rows))
    which = rng.random(rows)
    if kind == "near":
        paid = np.where(which < 0.25, bill * rng.uniform(1.0005, 1.008, rows), paid)
        paid = np.where((which > 0.25) & (which < 0.5), bill * MINIMUM * rng.uniform(0.99, 1.01, rows), paid)
    if kind == "correlated":
        paid = bill * np.exp(rng.normal(-1.0, 0.4, rows))
    if kind == "round":
        bill, paid = (np.rint(part / 1000 + 0.5) * 1000 for part in (bill, paid))
    if kind == "copied":
        paid = np.where(which < 0.5, bill, paid)
    return pa.table({"bill": bill.astype(np.int64), "paid": np.rint(paid).astype(np.int64)})


def learned(table: pa.Table) -> tuple[TableCodec, Links, Ratios]:
    source = as_source(table)
    schema = infer_schema(source)
    codec = TableCodec.fit(source, schema, PrivacySpec())
    links = Links.fit(find_relations(source, schema), codec, table)
    return codec, links, Ratios.fit(codec, links, table)


def near(table: pa.Table, low: float, high: float) -> float:
    """Share of the rows whose ratio lies within an interval."""
    ratio = table["paid"].to_numpy() / np.maximum(table["bill"].to_numpy(), 1)
    return float(((ratio > low) & (ratio < high)).mean())


def test_peaks_are_found_where_they_are() -> None:
    _, _, ratios = learned(bills())
    (ratio,) = ratios.ratios
    assert (ratio.target, ratio.column) == ("paid", "bill")
    assert len(ratio.centres) == CENTRES
    for place in (1.004, MINIMUM):
        assert min(abs(centre - np.log(place)) for centre in ratio.centres) < 0.03
    assert 0.3 < ratio.share < 0.5
    assert re.fullmatch(r"paid ≈ .* or .* \* bill \([34]\d\.\d % of rows\)", ratio.text())


@pytest.mark.parametrize("kind", ["free", "correlated", "round", "copied"])
def test_what_is_no_peak_is_none(kind: str) -> None:
    """Unrelated columns, a broad relation, round values whose ratios repeat by chance, and what a link computes."""
    _, links, ratios = learned(bills(kind=kind))
    assert ratios.ratios == ()
    assert bool(links.links) == (kind == "copied")


def test_few_rows_and_other_kinds_have_none() -> None:
    assert learned(bills(rows=300))[2].ratios == ()
    words = bills().set_column(0, "bill", pa.array(["a", "b"] * (ROWS // 2)))
    assert learned(words)[2].ratios == ()
    seconds = bills().set_column(1, "paid", bills()["paid"].cast(pa.duration("s")))
    assert learned(seconds)[2].ratios == ()


def test_many_rows_have_room_for_the_strongest_alone() -> None:
    table = bills()
    table = table.append_column("again", pa.array(np.rint(table["paid"].to_numpy() * 1.01).astype(np.int64)))
    codec, links, ratios = learned(table)
    assert len(ratios.ratios) > 1
    (kept,) = Ratios.fit(codec, links, table, n_rows=30_000_000).ratios
    assert kept == max(ratios.ratios, key=lambda ratio: ratio.share)
    assert Ratios.fit(codec, links, table, n_rows=40_000_000).ratios == ()


def test_ratios_come_back_from_json() -> None:
    codec, _, ratios = learned(bills())
    again = Ratios.from_json(ratios.to_json(), codec)
    assert again.ratios == ratios.ratios
    assert again.slots == ratios.slots == (codec.slots_of("paid")[0],)
    assert np.array_equal(again.centres(), ratios.centres())


TYPES = (pa.int64(), pa.int32(), pa.float64(), pa.float32(), pa.decimal128(12, 2))


def of_type(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(f"{value:.2f}") for value in values], kind)
    return pa.array(np.rint(values) if pa.types.is_integer(kind) else values).cast(kind)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(TYPES),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.3, 2.5),
    shift=st.sampled_from([-1e6, -50.0, 0.0, 1e4]),
    heaped=st.booleans(),
)
def test_cells_in_logs_hold_their_values_and_logs_lead_back(
    kind: pa.DataType, seed: int, spread: float, shift: float, heaped: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(5.0, spread, 1_200)) + shift
    if heaped:
        values[::3] = np.rint(values[::3] / 100) * 100
    table = pa.table({"x": of_type(values, kind)})
    schema = infer_schema(as_source(table), overrides={"x": ColumnOverride(kind=Kind.NUMBER)})
    codec = TableCodec.fit(as_source(table), schema, PrivacySpec())
    number = codec.codec_of("x")
    assert isinstance(number, NumberCodec)
    encoded = codec.encode(table)
    if not number.table.n_levels:
        return
    tokens = encoded.tokens[:, 0]
    offsets = number.table.drawn_offsets(tokens, (encoded.low[:, 0] + encoded.high[:, 0]) / 2)
    middle, width, place_width = number.log_cells(tokens, offsets, np.zeros(len(offsets)))
    real = np.array(table["x"].to_pylist(), dtype=float)
    inside = (real >= float((offsets + number.table.base).min())) & (tokens < number.table.n_levels) & (width > 0)
    decoded = (offsets + number.table.base) * (0.01 if pa.types.is_decimal(kind) else 1.0)
    edges = np.exp(middle - width / 2), np.exp(middle + width / 2)
    slack = 1e-6 * np.abs(decoded)
    assert ((edges[0] <= decoded + slack) & (decoded - slack <= edges[1]))[inside].all()
    assert (place_width > 0).all()
    assert not width[(tokens >= number.table.n_levels) | (decoded < 0)].any()
    if not inside.any():  # all of it below zero
        return
    places = number.places_of(tokens[inside], decoded[inside])
    back = number.table.drawn_offsets(tokens[inside], places.astype(np.float32))
    away = np.abs(back - offsets[inside])
    assert np.mean(away <= 1e-5 * np.abs(offsets[inside]) + 1e-9) > 0.9
    assert away.max(initial=0.0) < 0.05 * np.ptp(offsets)


def test_cells_of_rows_are_those_of_their_ratios() -> None:
    table = bills()
    codec, _, ratios = learned(table)
    cells = ratios.cells(codec, table, codec.encode(table).tokens)
    assert cells.shape == (ROWS, 1, 5)
    assert (cells[:, 0, 3] < cells[:, 0, 4]).all()
    own = log_of(table["paid"].to_numpy().astype(float)) - log_of(table["bill"].to_numpy().astype(float))
    valued = cells[:, 0, 1] > 0
    assert valued.mean() > 0.8
    assert np.abs(cells[valued, 0, 0] - own[valued]).max() < 0.7  # a cell of a small number is wide in logs
    assert np.median(np.abs(cells[valued, 0, 0] - own[valued])) < 1e-4
    gone = table.set_column(0, "bill", pa.array([None] + [0] + [5] * (ROWS - 2), pa.int64()))
    widths = ratios.cells(codec, gone, codec.encode(gone).tokens)[:, 0, 1]
    assert widths[0] == widths[1] == -1.0
    assert (widths[2:] >= 0).all()


@pytest.fixture(scope="module")
def model() -> VAESynthesizer:
    return VAESynthesizer(ModelSpec(seed=3, epochs=20, options={"members": 1})).fit(bills())


def test_ratios_survive_learning_saving_and_drawing(model: VAESynthesizer, tmp_path: Path) -> None:
    real, drawn = bills(seed=1), model.sample(ROWS, seed=1)
    for low, high in ((1.0, 1.01), (MINIMUM * 0.98, MINIMUM * 1.02)):
        assert near(drawn, low, high) == pytest.approx(near(real, low, high), abs=0.06)
    assert model.record["ratios"] == [ratio.text() for ratio in model._chains[0].ratios.ratios]
    model.save(tmp_path / "model")
    (card,) = (tmp_path / "model").glob("*.md")
    assert f"- {model._chains[0].ratios.ratios[0].text()}" in card.read_text(encoding="utf-8").splitlines()
    assert VAESynthesizer.load(tmp_path / "model").sample(500, seed=2).equals(model.sample(500, seed=2))


def test_what_is_given_has_its_ratios(model: VAESynthesizer) -> None:
    paid = model.sample(ROWS, seed=1, given={"bill": 3_217})
    assert set(paid["bill"].to_pylist()) == {3_217}
    assert near(paid, 1.0, 1.01) > 0.15
    assert near(paid, MINIMUM * 0.98, MINIMUM * 1.02) > 0.15


def test_a_missing_multiple_leaves_the_rest(model: VAESynthesizer) -> None:
    """Where the other number has no log there is no ratio, in training nor in drawing."""
    codec, ratios = model._fitted, model._chains[0].ratios
    settling = Settling(codec, Links(), ratios=ratios)
    first, slot = codec.slots_of("bill")[0], codec.slots_of("paid")[0]
    encoded = codec.encode(pa.table({"bill": pa.array([0, 900], pa.int64()), "paid": pa.array([5, 900], pa.int64())}))
    tokens = torch.from_numpy(encoded.tokens.astype(np.int64))
    values = torch.from_numpy((encoded.low + encoded.high) / 2)
    assert settling.frames(first) is None
    settling.settle(first, tokens[:, first], values[:, first])
    frames = settling.frames(slot)
    assert frames is not None
    assert frames.shape == (2, 1, 4)
    assert float(frames[1, 0, 0]) == pytest.approx(np.log(900), abs=0.05)
    assert not frames[..., 1].any()


def loans(rows: int = ROWS) -> pa.Table:
    """What was paid is about so many instalments, and exactly principal and interest."""
    rng = np.random.default_rng(0)
    instalment = np.rint(np.exp(rng.normal(6.0, 0.7, rows)) * 100)
    paid = np.rint(instalment * (rng.integers(2, 6, rows) - rng.uniform(0.01, 0.03, rows)))
    interest = np.rint(paid * rng.uniform(0.05, 0.4, rows))
    cents = {"instalment": instalment, "principal": paid - interest, "interest": interest, "paid": paid}
    return pa.table({name: (values / 100).round(2) for name, values in cents.items()})


def test_what_is_close_to_multiples_is_drawn_and_not_computed() -> None:
    table = loans()
    relations = find_relations(as_source(table), infer_schema(as_source(table)))
    names, tied = table.column_names, partial(share_tied, table)
    assert tied("paid", ["instalment"]) > 0.5 > tied("interest", ["instalment"])
    assert tied("paid", []) == 0.0
    assert tied("paid", [*["interest"] * 40, "instalment"]) < 0.5, "of many numbers the first ones are looked at"
    for counted, target in ((tied, "principal"), (lambda *_: 0.0, "paid")):
        turned, order = arrange(relations, table, names, counted)
        assert [relation.target for relation in turned if relation.kind in ADDITIVE] == [target]
        assert order[-1] == target


def test_instalments_are_met_and_the_sum_is_exact() -> None:
    model = VAESynthesizer(ModelSpec(seed=0, epochs=15, options={"members": 1})).fit(loans())
    drawn = model.sample(2_000, seed=1)
    paid, instalment, principal, interest = (
        drawn[name].to_numpy() for name in ("paid", "instalment", "principal", "interest")
    )
    short = np.ceil(paid / instalment) - paid / instalment
    assert ((short > 0.005) & (short < 0.035)).mean() > 0.8
    assert (np.abs(paid - principal - interest) < 0.005).mean() > 0.95
