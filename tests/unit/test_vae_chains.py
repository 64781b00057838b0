from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from tables_made import people
from tabvae_core.models.drawing import generate
from tabvae_core.spec import ModelSpec
from tabvae_core.synthesizers import vae
from tabvae_core.synthesizers.vae import VAESynthesizer


def fitted(table: pa.Table, members: int, epochs: int = 2) -> VAESynthesizer:
    return VAESynthesizer(ModelSpec(seed=1, epochs=epochs, options={"members": members})).fit(table)


@pytest.fixture(scope="module")
def model() -> VAESynthesizer:
    """Three members: the table's order, the other way round, the table's order again."""
    return fitted(people(), 3)


def names_of(model: VAESynthesizer) -> list[tuple[str, ...]]:
    return [chain.codec.schema.names for chain in model._chains]


def test_members_draw_columns_in_two_orders(model: VAESynthesizer) -> None:
    forth, back = names_of(model)
    assert forth == model.schema.names
    assert back == forth[::-1]
    assert [model._chain_of(member) is model._chains[member % 2] for member in range(3)] == [True] * 3
    assert model.sample(10, seed=0).column_names == list(forth), "tables have their own order"


def test_one_network_has_one_order() -> None:
    assert names_of(fitted(people(), 1)) == [tuple(people().column_names)]


def test_rows_come_from_the_members_in_turn(model: VAESynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where each member alone draws something else, and whatever the number of rows."""
    monkeypatch.setattr(model, "_pairs", None)  # which rows are left out would follow from the members
    kept = [network.shift.clone() for network in model._networks]
    segments = pc.unique(people()["segment"].cast(pa.string())).drop_null().to_pylist()[:3]
    for member, segment in enumerate(segments):
        codec = model._chain_of(member).codec
        cells = pa.array([segment], people().schema.field("segment").type)
        token = int(codec.codec_of("segment").encode(cells).tokens[0, 0])
        network = model._networks[member]
        network.shift[int(network.offsets[codec.slots_of("segment")[0]]) + token] += 100.0
    for rows in (1, 2, 7, 130, 300):
        drawn = model.sample(rows, seed=0)["segment"].cast(pa.string()).to_pylist()
        # Groups of 128 rows begin anew with the first member.
        assert drawn == [segments[row % 128 % 3] if row < 256 else segments[(row - 256) % 3] for row in range(rows)]
    for network, shift in zip(model._networks, kept, strict=True):
        network.shift.copy_(shift)


def test_what_comes_first_in_one_order_is_drawn_by_its_members_alone(
    model: VAESynthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no candidates."""
    drawn: list[tuple[int, bool]] = []

    def watched(network: object, *args: object, **more: object) -> object:
        drawn.append(([id(one) for one in model._networks].index(id(network)), bool(more["weighed"])))
        return generate(network, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(vae, "generate", watched)
    first, last = (next(n for n in names if people()[n].null_count == 0 and n != "key") for names in names_of(model))
    middle = "segment"
    for name, expected in (
        (first, {(0, False), (2, False)}),
        (last, {(1, False)}),
        (middle, {(0, True), (1, True), (2, True)}),
    ):
        drawn.clear()
        value = people()[name].drop_null()[0].as_py()
        assert set(model.sample(50, seed=0, given={name: value})[name].to_pylist()) == {value}
        assert set(drawn) == expected, name


def test_both_orders_survive_saving(model: VAESynthesizer, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = VAESynthesizer.load(tmp_path / "model")
    assert names_of(loaded) == names_of(model)
    assert loaded.sample(300, seed=2).equals(model.sample(300, seed=2))


def test_an_order_that_knows_fewer_relations_is_not_learned() -> None:
    """A column that equals an earlier one in some rows cannot be computed before it."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 10_000, 2_000)
    often = np.where(rng.random(2_000) < 0.4, base, rng.integers(0, 10_000, 2_000))
    table = pa.table({"base": base, "other": rng.normal(size=2_000), "often": often})
    made = fitted(table, 2)
    assert made.record["relations"]
    assert names_of(made) == [("base", "other", "often")]
    assert len(made._networks) == 2


@pytest.mark.parametrize(("slots", "most"), [(6, 4096), (30, 2048), (900, 1024)])
def test_groups_are_parts_of_a_block(
    model: VAESynthesizer, monkeypatch: pytest.MonkeyPatch, slots: int, most: int
) -> None:
    """Whole ones, the same however many rows are drawn, and small only where a sample begins."""
    monkeypatch.setattr(VAESynthesizer, "_n_slots", slots)
    for block, least in ((0, 128), (3, most)):
        every = model._groups(block, 4096, whole=True)
        assert [first for first, _ in every] == [0, *(last for _, last in every[:-1])]
        assert every[-1][1] == 4096
        sizes = [last - first for first, last in every]
        assert (min(sizes), max(sizes)) == (least, most if block else min(most, 2048))
        for rows in (1, 128, 129, 1_000, 4_095):
            some = model._groups(block, rows, whole=True)
            assert some == every[: len(some)]
            assert some[-1][0] < rows <= some[-1][1]
    assert model._groups(0, 300, whole=False)[-1][1] == 300, "rows that are drawn again need no whole group"


def test_shares_are_those_of_the_training_rows() -> None:
    """Of a few rows, and however little was learned: margins are fitted, and rows drawn side by side."""
    rng = np.random.default_rng(0)
    kinds = rng.choice(["a", "b", "c", "d"], 4_000, p=[0.6, 0.25, 0.1, 0.05])
    size = np.where(kinds == "a", rng.gamma(2.0, 3.0, 4_000), rng.normal(20, 2, 4_000))
    table = pa.table({"kind": kinds, "size": size, "late": rng.random(4_000) < 0.3})
    made = fitted(table, 2, epochs=1)
    drawn = made.sample(1_000, seed=1)
    for name in ("kind", "late"):
        shares = [
            {row["values"]: row["counts"] / len(part) for row in pc.value_counts(part).to_pylist()}
            for part in (drawn[name], table[name])
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.012), name
    grid = np.quantile(size, np.linspace(0.02, 0.98, 49))
    below = [np.searchsorted(np.sort(part), grid) / len(part) for part in (drawn["size"].to_numpy(), size)]
    assert np.abs(below[0] - below[1]).max() < 0.03
    assert torch.isfinite(made._networks[0].bends).all()
