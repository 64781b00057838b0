"""Rates: found where one number of another follows from further columns, nowhere else, and met in what is drawn."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.links import Links
from tabvae_core.codecs.rates import Key, Rates, find_rates
from tabvae_core.codecs.ratios import Ratio, Ratios
from tabvae_core.codecs.table import TableCodec
from tabvae_core.inference import infer_schema
from tabvae_core.relations import find_relations
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.vae import VAESynthesizer
from tabvae_core.tables import as_source

ROWS, LEAST = 3_000, 10
PRODUCTS = tuple("ABCDEFGHIJKL")
PRICES = dict(zip(PRODUCTS, np.random.default_rng(5).lognormal(3, 1, len(PRODUCTS)).round(2), strict=True))


def orders(rows: int = ROWS, seed: int = 0, kind: str = "priced") -> pa.Table:
    """Products, weights, and what they cost: so much a kilogram by product, and a tenth less for members."""
    rng = np.random.default_rng(seed)
    product = rng.choice(PRODUCTS, rows)
    member = rng.random(rows) < 0.4
    weight = rng.lognormal(1, 0.6, rows).round(3)
    price = np.array([PRICES[name] for name in product]) * np.where(member, 0.9, 1.0)
    amount = price * weight
    if kind == "scattered":
        amount = amount * rng.lognormal(0, 0.2, rows)
    if kind == "often otherwise":
        amount = np.where(rng.random(rows) < 0.7, amount * rng.lognormal(0, 0.5, rows), amount)
    if kind == "one price":
        amount = 7.0 * weight
    if kind == "of each row":
        product = np.array([f"{name}{k}" for k, name in enumerate(product)])
    if kind == "some otherwise":
        amount = np.where(rng.random(rows) < 0.1, amount * 1.3, amount)
    return pa.table({"product": product, "member": member, "weight": weight, "amount": amount.round(2)})


def learned(table: pa.Table, least_rows: int = LEAST) -> tuple[TableCodec, Ratios]:
    source = as_source(table)
    schema = infer_schema(source)
    codec = TableCodec.fit(source, schema, PrivacySpec())
    links = Links.fit(find_relations(source, schema), codec, table)
    return codec, Ratios.fit(codec, links, table, least_rows=least_rows)


def with_rates(ratios: Ratios) -> list[Ratio]:
    return [ratio for ratio in ratios.ratios if ratio.rates is not None]


@pytest.mark.parametrize(("kind", "share"), [("priced", 0.95), ("some otherwise", 0.85)])
def test_rates_are_found_with_what_they_are_by(kind: str, share: float) -> None:
    codec, ratios = learned(orders(kind=kind))
    (ratio,) = with_rates(ratios)
    assert ratio.rates is not None
    assert (ratio.target, ratio.column, set(ratio.rates.columns)) == ("amount", "weight", {"product", "member"})
    assert ratio.share > share
    assert ratio.text().startswith("amount ≈ weight at a rate by ")
    assert len(ratio.rates.logs) == 2 * len(PRODUCTS)
    found = np.sort(np.exp(ratio.rates.logs))
    real = np.sort([price * factor for price in PRICES.values() for factor in (1.0, 0.9)])
    np.testing.assert_allclose(found, real, rtol=2e-4)
    cells = ratios.cells(codec, orders(kind=kind), codec.encode(orders(kind=kind)).tokens)
    place = ratios.ratios.index(ratio)
    near = (cells[:, place, 1] > 0) & (np.abs(cells[:, place, 0]) < 0.005)
    assert near.mean() > share


@pytest.mark.parametrize("kind", ["scattered", "often otherwise", "one price", "of each row"])
def test_what_has_no_rate_gets_none(kind: str) -> None:
    """Broad ratios, ratios that few rows have, one that needs no rates, and products that are no column to go by."""
    assert with_rates(learned(orders(kind=kind))[1]) == []


def test_rates_are_known_of_enough_rows_alone() -> None:
    table = orders()
    few = table.slice(0, LEAST - 1).set_column(0, "product", pa.array(["Z"] * (LEAST - 1)))
    few = few.set_column(3, "amount", pa.array(few["weight"].to_numpy() * 3.21))
    for least in (LEAST, 120):
        (ratio,) = with_rates(learned(pa.concat_tables([table, few]), least)[1])
        assert ratio.rates is not None
        assert not np.isclose(np.exp(ratio.rates.logs), 3.21, rtol=0.01).any()
        counts = table.group_by(["product", "member"]).aggregate([([], "count_all")])["count_all"].to_numpy()
        assert len(ratio.rates.logs) == np.count_nonzero(counts >= least)


values = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=6, unique=True)


@settings(deadline=None)
@given(values, values, st.integers(0, 2**31))
def test_every_combination_has_its_rate_and_others_have_none(
    first: list[float], second: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    every = [(one, other) for one in first for other in second]
    known = [pair for pair in every if rng.random() < 0.7] or every[:1]
    rates = Rates(("a", "b"), tuple(known), tuple(float(k) for k in range(len(known))))
    again = Rates.from_json(
        json.loads(json.dumps({"columns": rates.columns, "values": rates.values, "logs": rates.logs}))
    )
    assert again == rates
    rows = [*every, (np.nan, second[0]), (first[0], np.nan), (2e6, second[0])]
    real = {name: np.array([row[k] for row in rows]) for k, name in enumerate("ab")}
    expected = [known.index(row) if row in known else np.nan for row in rows]
    np.testing.assert_array_equal(again.of(real), expected)


def test_a_column_of_a_target_that_is_missing_leaves_it_without() -> None:
    own: npt.NDArray[np.float64] = np.full(ROWS, np.nan)
    key = Key.of(np.arange(ROWS) % 3.0)
    assert key is not None
    assert find_rates(own, {"x": np.ones(ROWS)}, {"k": key}, np.ones(ROWS, np.bool_), LEAST) is None


def test_columns_of_one_value_or_of_too_many_are_no_keys() -> None:
    assert Key.of(np.ones(ROWS)) is None
    assert Key.of(np.arange(ROWS) / 2) is None
    gone = Key.of(np.where(np.arange(ROWS) % 2, np.nan, 1.0))
    assert gone is not None
    assert len(np.unique(gone.codes)) == 2


def test_targets_come_after_what_they_follow_from() -> None:
    _, ratios = learned(orders())
    assert ratios.arranged(["amount", "weight", "member", "product"]) == ("weight", "member", "product", "amount")
    kept = ("product", "weight", "member", "other", "amount")
    assert ratios.arranged(kept) == kept


@pytest.fixture(scope="module")
def model() -> VAESynthesizer:
    return VAESynthesizer(ModelSpec(seed=1, epochs=15, options={"members": 2})).fit(orders())


def test_drawn_rows_have_the_rates_in_either_order(model: VAESynthesizer) -> None:
    assert len(model._chains) == 2
    assert all(chain.codec.schema.names.index("amount") == 3 for chain in model._chains)
    drawn = model.sample(2_000, seed=1).to_pandas()
    price = drawn["product"].map(PRICES).to_numpy(float) * np.where(drawn["member"], 0.9, 1.0)
    away = np.abs(np.log(drawn["amount"] / drawn["weight"] / price))
    assert (away < 0.005).mean() > 0.9


def test_given_cells_have_their_rates(model: VAESynthesizer) -> None:
    drawn = model.sample(500, seed=1, given={"product": "C", "member": True}).to_pandas()
    away = np.abs(np.log(drawn["amount"] / drawn["weight"] / (0.9 * PRICES["C"])))
    assert (away < 0.005).mean() > 0.85
