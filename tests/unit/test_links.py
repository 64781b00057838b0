from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tabvae_core.bundle import read_bundle
from tabvae_core.codecs.links import Links
from tabvae_core.codecs.ordering import arrange
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.given import given_cells
from tabvae_core.inference import infer_schema
from tabvae_core.relations import Relation, RelationKind, find_relations
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.vae import VAESynthesizer
from tabvae_core.tables import as_source

ROWS = 2_000


def payments(nulls: bool = False) -> pa.Table:
    """A bill; a payment, of which a quarter settle the bill; a fee in cents; and the total of payment and fee."""
    rng = np.random.default_rng(0)
    bill = rng.lognormal(8, 1, ROWS).round().astype(np.int64)
    paid = rng.lognormal(7, 1, ROWS).round().astype(np.int64)
    paid = np.where(rng.random(ROWS) < 0.25, bill, paid)
    fee = (rng.gamma(2, 3, ROWS)).round(2)
    total = [Decimal(int(p)) + Decimal(f"{f:.2f}") for p, f in zip(paid, fee, strict=True)]
    return pa.table(
        {
            "bill": pa.array(bill, mask=rng.random(ROWS) < 0.2) if nulls else bill,
            "paid": paid,
            "fee": fee,
            "total": pa.array(total, pa.decimal128(12, 2)),
        }
    )


def linked(table: pa.Table) -> tuple[TableCodec, Links]:
    schema = infer_schema(as_source(table))
    relations, order = arrange(find_relations(as_source(table), schema), table, schema.names)
    codec = TableCodec.fit(as_source(table), schema.reordered(order), PrivacySpec())
    return codec, Links.fit(relations, codec, table)


def settle_all(settling: Settling, tokens: torch.Tensor, values: torch.Tensor) -> None:
    for slot in range(tokens.shape[1]):
        settling.allowed(slot)
        tokens[:, slot], values[:, slot] = settling.settle(slot, tokens[:, slot], values[:, slot])


def test_targets_mark_exactly_the_rows_that_follow() -> None:
    table = payments()
    codec, links = linked(table)
    copies = [link for link in links.links if link.relation.kind is RelationKind.COPY]
    assert [link.relation.formula() for link in copies] == ["paid = bill"]
    tokens = codec.encode(table).tokens
    slot = copies[0].slot
    marked = links.targets(codec, table, tokens)[:, slot] >= codec.slots[slot].n_tokens
    equal = table["paid"].to_numpy() == table["bill"].to_numpy()
    spikes = tokens[:, slot] >= codec.slots[slot].n_levels
    assert np.array_equal(marked, equal & ~spikes)
    assert 0.2 < marked.mean() < 0.3


def test_drawn_links_are_computed_to_the_last_digit() -> None:
    table = payments()
    codec, links = linked(table)
    encoded = codec.encode(table)
    tokens = torch.from_numpy(links.targets(codec, table, encoded.tokens).astype(np.int64))
    # Everything that follows is forgotten: it has to come from the other cells.
    values = torch.from_numpy((encoded.low + encoded.high) / 2)
    for slot in links.of_slot:
        values[tokens[:, slot] >= codec.slots[slot].n_tokens, slot] = 0.0
    settling = Settling(codec, links)
    settle_all(settling, tokens, values)
    decoded = settling.decode(tokens, values, rows=np.arange(ROWS, dtype=np.uint64), seed=0)
    assert decoded.schema.field("total").type == pa.decimal128(12, 2)
    inner = np.ones(ROWS, dtype=np.bool_)
    for name in ("bill", "paid", "fee", "total"):  # the outermost rows are nobody's own, see protect_extremes
        real = table[name].cast(pa.float64()).to_numpy()
        inner &= (real > np.sort(real)[10]) & (real < np.sort(real)[-10])
    assert inner.mean() > 0.9
    for name in ("paid", "total"):
        assert decoded[name].filter(pa.array(inner)).equals(table[name].filter(pa.array(inner)))


def test_a_link_without_its_operand_is_not_allowed() -> None:
    table = payments(nulls=True)
    codec, links = linked(table)
    slot = next(link.slot for link in links.links if link.relation.kind is RelationKind.COPY)
    encoded = codec.encode(table)
    settling = Settling(codec, links)
    first = codec.slots_of("bill")[0]
    values = torch.from_numpy((encoded.low + encoded.high) / 2)
    settling.settle(first, torch.from_numpy(encoded.tokens[:, first].astype(np.int64)), values[:, first])
    allowed = settling.allowed(slot)
    assert allowed is not None
    assert allowed.shape == (ROWS, codec.slots[slot].n_tokens + links.extra(slot))
    assert np.array_equal(allowed[:, -1], ~table["bill"].is_null().to_numpy(zero_copy_only=False))
    assert allowed[:, : codec.slots[slot].n_tokens].all()


def test_links_come_back_from_json() -> None:
    _, links = linked(payments())
    again = Links.from_json(links.to_json())
    assert again.links == links.links
    assert again.of_slot == links.of_slot


def test_the_large_unrounded_column_is_computed_from_the_others() -> None:
    rng = np.random.default_rng(1)
    loan = rng.integers(1, 40, ROWS) * 1_000
    repaid = (rng.gamma(2, 100, ROWS)).round(2)
    balance = (loan - repaid).round(2)
    table = pa.table({"loan": loan, "balance": balance, "repaid": repaid})
    found = Relation(RelationKind.DIFFERENCE, "repaid", ("loan", "balance"), 1.0)
    [turned], order = arrange([found], table, table.column_names)
    assert turned.formula() == "balance = loan - repaid"
    assert order == ("loan", "repaid", "balance")


@pytest.fixture(scope="module")
def model() -> VAESynthesizer:
    return VAESynthesizer(ModelSpec(epochs=4)).fit(payments(nulls=True))


def test_relations_survive_learning_saving_and_drawing(
    model: VAESynthesizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    drawn = model.sample(3_000, seed=1)
    assert drawn.schema == payments(nulls=True).schema
    share = np.mean(drawn["paid"].to_numpy() == drawn["bill"].to_numpy(zero_copy_only=False))
    assert 0.12 < share < 0.3, "about a quarter of the bills that are there are settled"
    total = drawn["total"].cast(pa.float64()).to_numpy()
    exact = np.isclose(total, drawn["paid"].to_numpy() + drawn["fee"].to_numpy(), atol=1e-6)
    assert exact.mean() > 0.97
    folder = tmp_path_factory.mktemp("bundle")
    model.save(folder)
    assert VAESynthesizer.load(folder).sample(3_000, seed=1).equals(drawn)


def test_partly_given_rows_are_filled(model: VAESynthesizer) -> None:
    part = payments(nulls=True).slice(0, 300)
    bill = pa.array([None if k % 3 == 0 else v for k, v in enumerate(part["bill"].to_pylist())], pa.int64())
    partial = pa.table({"bill": bill, "fee": part["fee"]})
    filled = model.sample_block(0, 300, seed=0, given=partial)
    assert filled.column_names == ["bill", "paid", "fee", "total"]
    assert filled["fee"].equals(part["fee"])
    kept = bill.is_valid()
    assert filled["bill"].filter(kept).combine_chunks().equals(bill.filter(kept))
    assert given_cells(partial, model.schema, 300)["bill"].mask.sum() == kept.to_numpy(zero_copy_only=False).sum()
    assert filled["paid"].null_count == filled["total"].null_count == 0


def test_what_follows_from_given_cells_follows_exactly(model: VAESynthesizer) -> None:
    """Also from values that no training row held; given cells that break a relation are kept all the same."""
    rng = np.random.default_rng(5)
    rows = 600
    bill = pa.array(np.where(rng.random(rows) < 0.7, 3_001 + 2 * np.arange(rows), 0), mask=rng.random(rows) < 0.3)
    fee = np.round(rng.uniform(0.5, 20, rows), 2)
    total = pa.array([Decimal("1234.56") if k % 10 == 0 else None for k in range(rows)], pa.decimal128(12, 2))
    filled = model.sample_block(0, rows, seed=2, given=pa.table({"bill": bill, "fee": fee, "total": total}))
    assert filled["fee"].to_numpy().tolist() == fee.tolist()
    assert filled["bill"].null_count == filled["paid"].null_count == filled["total"].null_count == 0
    kept = bill.is_valid()
    assert filled["bill"].combine_chunks().filter(kept).equals(bill.filter(kept))
    given_total = total.is_valid().to_numpy(zero_copy_only=False)
    assert set(filled["total"].filter(pa.array(given_total)).to_pylist()) == {Decimal("1234.56")}
    drawn = [Decimal(p) + Decimal(str(f)) for p, f in zip(filled["paid"].to_pylist(), fee.tolist(), strict=True)]
    exact = np.array([value == cell for value, cell in zip(drawn, filled["total"].to_pylist(), strict=True)])
    assert exact[~given_total].mean() > 0.97
    settled = filled["paid"].to_numpy() == filled["bill"].to_numpy()
    above = kept.to_numpy(zero_copy_only=False) & (filled["bill"].to_numpy() > 0) & ~given_total
    assert 0.1 < settled[above].mean() < 0.4, "about a quarter of the given bills are settled"


def test_bundles_hold_codecs_in_the_tables_order(tmp_path: Path) -> None:
    """Gates read a bundle's codecs without its network, so the order in which columns are drawn is no one else's."""
    rng = np.random.default_rng(1)
    loan, repaid = rng.integers(1, 40, ROWS) * 1_000, rng.gamma(2, 100, ROWS).round(2)
    grade = rng.choice(["a", "b"], ROWS)
    table = pa.table({"balance": (loan - repaid).round(2), "grade": grade, "loan": loan, "repaid": repaid})
    fitted = VAESynthesizer(ModelSpec(epochs=1)).fit(table)
    assert fitted._fitted.schema.names != fitted.schema.names, "the balance is drawn last"
    fitted.save(tmp_path / "model")
    stored = read_bundle(tmp_path / "model")
    assert [state.values["name"] for state in stored.codecs] == table.column_names
    again = VAESynthesizer.load(tmp_path / "model").sample(200, seed=1)
    assert again.schema == table.schema
    assert again.equals(fitted.sample(200, seed=1))
