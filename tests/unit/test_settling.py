"""Links between columns as tokens, and what is computed of them while rows are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tabvae_core.codecs.links import Link, Links
from tabvae_core.codecs.number import NumberCodec
from tabvae_core.codecs.settling import Settling
from tabvae_core.codecs.table import TableCodec
from tabvae_core.inference import infer_schema
from tabvae_core.relations import Relation, RelationKind, find_relations
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import as_source

ROWS = 2_000
OPERATIONS: dict[RelationKind, Callable[[Any, Any], Any]] = {
    RelationKind.COPY: lambda a, b: a,
    RelationKind.SUM: lambda a, b: a + b,
    RelationKind.DIFFERENCE: lambda a, b: a - b,
    RelationKind.PRODUCT: lambda a, b: a * b,
    RelationKind.RATIO: lambda a, b: a / b,
}


def codec_of(table: pa.Table) -> TableCodec:
    overrides = {name: ColumnOverride(kind=Kind.NUMBER) for name in table.column_names}
    source = as_source(table)
    return TableCodec.fit(source, infer_schema(source, overrides=overrides), PrivacySpec())


def linked(
    table: pa.Table, kind: RelationKind, columns: tuple[str, ...], target: str = "c", share: float = 0.5
) -> tuple[TableCodec, Links]:
    """Codecs of a table, and a relation that is said to hold in a share of its rows."""
    codec = codec_of(table)
    return codec, Links.fit([Relation(kind, target, columns, share)], codec, table)


class Block:
    """Rows while they are drawn: each slot's tokens and places are settled in turn."""

    def __init__(self, codec: TableCodec, links: Links, tokens: Any, values: Any, given: Any = None) -> None:
        self.codec, self.settling = codec, Settling(codec, links, given)
        self.tokens = torch.from_numpy(np.asarray(tokens, dtype=np.int64).copy())
        self.values = torch.from_numpy(np.asarray(values, dtype=np.float32).copy())
        self.allowed: dict[int, npt.NDArray[np.bool_] | None] = {}

    def settled(self) -> Block:
        for slot in range(self.tokens.shape[1]):
            self.allowed[slot] = self.settling.allowed(slot)
            one = self.settling.settle(slot, self.tokens[:, slot], self.values[:, slot])
            self.tokens[:, slot], self.values[:, slot] = one
        return self

    def decoded(self) -> pa.Table:
        rows = np.arange(len(self.tokens), dtype=np.uint64)
        return self.settling.decode(self.tokens, self.values, rows=rows, seed=0)


def redrawn(table: pa.Table, codec: TableCodec, links: Links, given: Any = None) -> tuple[Block, npt.NDArray[np.bool_]]:
    """Draw the rows of a table as they are, but compute what follows from other cells; also the rows of that."""
    encoded = codec.encode(table)
    targets = links.targets(codec, table, encoded.tokens)
    n_tokens = np.array([slot.n_tokens for slot in codec.slots])
    follows = targets >= n_tokens
    values = np.where(follows, 0.0, (encoded.low + encoded.high) / 2)
    return Block(codec, links, targets, values, given).settled(), follows.any(axis=1)


def decimals(cells: pa.ChunkedArray) -> list[Decimal | None]:
    """Cells as they are written, so that no float error is overlooked."""
    written = np.float32 if pa.types.is_float32(cells.type) else lambda cell: cell
    return [None if cell is None else Decimal(str(written(cell))) for cell in cells.to_pylist()]


def within(codec: TableCodec, name: str, value: Decimal) -> bool:
    """Whether a number lies between the ends of what its column can hold."""
    column = codec.codecs[codec.schema.names.index(name)]
    assert isinstance(column, NumberCodec)
    unit = Decimal(10) ** -int(column.arrow_type.scale) if pa.types.is_decimal(column.arrow_type) else Decimal(1)
    base = column.table.base + (2**63 if pa.types.is_uint64(column.arrow_type) else 0)
    low, high = ((Decimal(repr(float(end))) + base) * unit for end in column.table.ends)
    return low <= value <= high


# ---------------------------------------------------------------- targets


TYPES = {
    "integers": (pa.int64(), 0),
    "small integers": (pa.int32(), 0),
    "unsigned": (pa.uint64(), 0),
    "floats": (pa.float64(), 2),
    "single": (pa.float32(), 1),
    "decimals": (pa.decimal128(16, 2), 2),
    "wide decimals": (pa.decimal128(38, 4), 2),
}


def planted(kind: RelationKind, type_name: str, share: float, *, nulls: float = 0.0, seed: int = 0) -> pa.Table:
    """Numbers a and b, and c that follows from them in a share of the rows."""
    arrow_type, places = TYPES[type_name]
    rng, unit = np.random.default_rng(seed), Decimal(10) ** -places
    high = {"single": 4_000, "unsigned": 10**9}.get(type_name, 10**7)
    a, b = (rng.integers(1, high, ROWS) for _ in range(2))
    a = a + high if type_name == "unsigned" else a  # no difference is negative
    if kind in (RelationKind.PRODUCT, RelationKind.RATIO):
        b = rng.integers(1, 60, ROWS) * 10**places
    if kind is RelationKind.PRODUCT:
        a = a % 3_000 + 1
    if kind is RelationKind.RATIO:
        a = (a % 3_000 + 1) * (b // 10**places)
    first, second = ([int(x) * unit for x in column] for column in (a, b))
    follows = [OPERATIONS[kind](x, y).quantize(unit) for x, y in zip(first, second, strict=True)]
    other = [follows[k] for k in rng.permutation(ROWS)]
    right = rng.random(ROWS) < share
    third = [x if is_right else y for x, y, is_right in zip(follows, other, right, strict=True)]
    gone = rng.random((3, ROWS)) < nulls

    def cells(values: list[Decimal], missing: npt.NDArray[np.bool_]) -> pa.Array:
        known = [None if is_gone else value for value, is_gone in zip(values, missing, strict=True)]
        if pa.types.is_decimal(arrow_type):
            return pa.array(known, arrow_type)
        return pa.array([None if x is None else (float(x) if places else int(x)) for x in known], arrow_type)

    columns = (cells(v, m) for v, m in zip((first, second, third), gone, strict=True))
    return pa.table(dict(zip("abc", columns, strict=True)))


def follows_exactly(table: pa.Table, kind: RelationKind, places: int) -> npt.NDArray[np.bool_]:
    """Rows in which c follows from a and b, by the arithmetic of decimals."""
    result = []
    for a, b, c in zip(*(decimals(table[name]) for name in "abc"), strict=True):
        missing = a is None or c is None or (b is None and kind is not RelationKind.COPY)
        result.append(not missing and OPERATIONS[kind](a, b).quantize(Decimal(10) ** -places) == c)
    return np.array(result)


CASES = [(kind, name) for kind in OPERATIONS for name in TYPES if (kind, name) != (RelationKind.PRODUCT, "single")]


@pytest.mark.parametrize(("kind", "type_name"), CASES)
def test_links_of_every_kind_and_type(kind: RelationKind, type_name: str) -> None:
    """Marked where they hold, and computed to the last digit of the type."""
    table = planted(kind, type_name, 0.4, nulls=0.1)
    places = TYPES[type_name][1]
    codec, links = linked(table, kind, ("a",) if kind is RelationKind.COPY else ("a", "b"))
    assert [link.decimals for link in links.links] == [places]
    block, marked = redrawn(table, codec, links)
    slot = codec.slots_of("c")[0]
    own = codec.encode(table).tokens[:, slot] < codec.slots[slot].n_levels
    holds = follows_exactly(table, kind, places)
    assert np.array_equal(marked, holds & own)
    assert 0.2 < marked.mean() < 0.6
    drawn = block.decoded()
    assert drawn.schema.equals(table.schema)
    checked = 0
    for a, b, c, is_link in zip(*(decimals(drawn[name]) for name in "abc"), marked, strict=True):
        if is_link:
            expected = OPERATIONS[kind](a, b).quantize(Decimal(10) ** -places)
            if within(codec, "c", expected):
                assert c == expected
                checked += 1
    assert checked > 0.95 * marked.sum()
    null = table["c"].combine_chunks().is_null()
    assert drawn["c"].filter(null).null_count == table["c"].null_count == drawn["c"].null_count, "a null stays one"


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(sorted(OPERATIONS)),
    type_name=st.sampled_from(sorted(set(TYPES) - {"single"})),
    share=st.sampled_from([0.1, 0.5, 0.95, 1.0]),
    nulls=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_found_is_drawn_again(
    kind: RelationKind, type_name: str, share: float, nulls: float, seed: int
) -> None:
    """A relation that the search finds holds again in all of its rows, but for those at the protected ends."""
    table = planted(kind, type_name, share, nulls=nulls, seed=seed)
    codec = codec_of(table)
    found = [r for r in find_relations(as_source(table), codec.schema) if r.kind is kind and r.target == "c"]
    links = Links.fit(found, codec, table)
    assert len(links.links) == len(found)
    if not found:
        return
    block, marked = redrawn(table, codec, links)
    drawn = block.decoded()
    again = follows_exactly(drawn, kind, TYPES[type_name][1])
    cells = decimals(drawn["c"])
    linked_cells = [cell for cell, is_link in zip(cells, marked, strict=True) if is_link and cell is not None]
    ends = {min(linked_cells), max(linked_cells)} if linked_cells else set()
    assert (again | np.array([cell in ends for cell in cells]))[marked].all()


def test_a_unit_beside_is_no_link() -> None:
    """Beyond 10^9 a relative tolerance would take the neighbours in."""
    rng = np.random.default_rng(0)
    a = rng.integers(4 * 10**12, 9 * 10**12, ROWS)
    off = rng.choice([0, 0, 0, 1, -1, 2, 40], ROWS)
    table = pa.table({"a": a, "c": a + off})
    codec, links = linked(table, RelationKind.COPY, ("a",))
    _, marked = redrawn(table, codec, links)
    assert np.array_equal(marked, off == 0)


def test_a_unit_beside_is_no_link_where_decimals_are_many() -> None:
    """Eight decimals count as continuous, but are not."""
    rng = np.random.default_rng(0)
    a = rng.integers(10**11, 9 * 10**11, ROWS)
    off = rng.choice([0, 0, 0, 1, -1, 2, 40], ROWS)
    first, last = ([Decimal(int(x)).scaleb(-8) for x in cells] for cells in (a, a + off))
    table = pa.table({"a": pa.array(first, pa.decimal128(18, 8)), "c": pa.array(last, pa.decimal128(18, 8))})
    codec, links = linked(table, RelationKind.COPY, ("a",))
    assert [link.decimals for link in links.links] == [None]
    block, marked = redrawn(table, codec, links)
    assert np.array_equal(marked, off == 0)
    drawn = block.decoded()
    same = pa.array(marked & (a > np.sort(a)[10]) & (a < np.sort(a)[-10]))
    assert drawn["c"].filter(same).equals(drawn["a"].filter(same))


def test_continuous_links_hold_to_float_errors() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(3, 1, ROWS), rng.lognormal(2, 1, ROWS)
    right = rng.random(ROWS) < 0.5
    table = pa.table({"a": a, "b": b, "c": np.where(right, a * b * (1 + 1e-15), rng.lognormal(5, 1, ROWS))})
    codec, links = linked(table, RelationKind.PRODUCT, ("a", "b"))
    assert links.links[0].decimals is None
    block, marked = redrawn(table, codec, links)
    assert np.array_equal(marked, right)
    drawn = {name: column.to_numpy() for name, column in zip("abc", block.decoded().columns, strict=True)}
    ends = drawn["c"][marked].min(), drawn["c"][marked].max()
    assert np.array_equal(drawn["c"][marked], np.clip(drawn["a"] * drawn["b"], *ends)[marked])


def test_values_with_tokens_of_their_own_are_links_only_where_it_always_holds() -> None:
    rng = np.random.default_rng(2)
    a = np.where(rng.random(ROWS) < 0.3, 0, rng.integers(1, 10**6, ROWS))
    c = np.where(rng.random(ROWS) < 0.5, a, rng.integers(1, 10**6, ROWS))
    table = pa.table({"a": a, "c": c})
    for share in (0.5, 0.95):
        codec, links = linked(table, RelationKind.COPY, ("a",), share=share)
        _, marked = redrawn(table, codec, links)
        assert np.array_equal(marked, (a == c) & ((a != 0) | (share > 0.9)))


def test_the_first_link_that_holds_is_the_one() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(1, 10**6, (2, ROWS))
    b = np.where(rng.random(ROWS) < 0.1, 0, b)
    pick = rng.random(ROWS)
    c = np.select([pick < 0.3, pick < 0.6], [a, a + b], rng.integers(1, 10**6, ROWS))
    table = pa.table({"a": a, "b": b, "c": c})
    codec = codec_of(table)
    copy, total = Relation(RelationKind.COPY, "c", ("a",), 0.33), Relation(RelationKind.SUM, "c", ("a", "b"), 0.3)
    for relations in ([copy, total], [total, copy]):
        links = Links.fit(relations, codec, table)
        slot = codec.slots_of("c")[0]
        assert links.extra(slot) == 2
        tokens = links.targets(codec, table, codec.encode(table).tokens)[:, slot] - codec.slots[slot].n_tokens
        holds = {RelationKind.COPY: c == a, RelationKind.SUM: c == a + b}
        first, second = (holds[relation.kind] for relation in relations)
        assert np.array_equal(tokens == 0, first)
        assert np.array_equal(tokens == 1, second & ~first)
        block, _ = redrawn(table, codec, links)
        drawn = {name: column.to_numpy() for name, column in zip("abc", block.decoded().columns, strict=True)}
        ends = drawn["c"].min(), drawn["c"].max()
        for which, relation in enumerate(relations):
            expected = drawn["a"] + (drawn["b"] if relation is total else 0)
            assert np.array_equal(drawn["c"][tokens == which], np.clip(expected, *ends)[tokens == which])


def test_chains_of_links_are_computed_in_turn() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(1, 10**6, (2, ROWS))
    table = pa.table({"a": a, "b": b, "c": a + b, "d": 3 * (a + b) - a})
    table = table.append_column("e", pa.array(table["d"].to_numpy() - table["c"].to_numpy()))
    codec = codec_of(table)
    relations = [
        Relation(RelationKind.DIFFERENCE, "e", ("d", "c"), 1.0),
        Relation(RelationKind.SUM, "c", ("a", "b"), 1.0),
    ]
    links = Links.fit(relations, codec, table)
    assert len(links.links) == 2
    block, marked = redrawn(table, codec, links)
    assert marked.all()
    drawn = {name: column.to_numpy() for name, column in zip(table.column_names, block.decoded().columns, strict=True)}
    assert np.mean(drawn["c"] == drawn["a"] + drawn["b"]) > 0.98
    assert np.mean(drawn["e"] == drawn["d"] - drawn["c"]) > 0.98


# ---------------------------------------------------------------- what cannot be a link


def test_only_numbers_that_come_later_are_computed() -> None:
    rng = np.random.default_rng(5)
    a = rng.integers(1, 10**6, ROWS)
    table = pa.table({"a": a, "c": a, "t": a.astype("datetime64[s]"), "s": [str(x) for x in a]})
    source = as_source(table)
    codec = TableCodec.fit(source, infer_schema(source), PrivacySpec())

    def fitted(relation: Relation) -> int:
        return len(Links.fit([relation], codec, table).links)

    assert fitted(Relation(RelationKind.COPY, "c", ("a",), 1.0)) == 1
    assert fitted(Relation(RelationKind.COPY, "a", ("c",), 1.0)) == 0
    assert fitted(Relation(RelationKind.ORDER, "c", ("a",), 1.0)) == 0
    assert fitted(Relation(RelationKind.DETERMINES, "c", ("a",), 1.0)) == 0
    assert fitted(Relation(RelationKind.COPY, "t", ("a",), 1.0)) == 0
    assert fitted(Relation(RelationKind.COPY, "c", ("gone",), 1.0)) == 0


STEPS = np.arange(ROWS, dtype=np.int64)


def scaled(step: int, scale: int) -> list[Decimal]:
    return [Decimal(k * step + 1).scaleb(-scale) for k in range(ROWS)]


@pytest.mark.parametrize(
    ("cells", "links"),
    [
        (pa.array(STEPS * 10**11 + 2**49), 1),
        (pa.array(STEPS * 10**11 + 2**53), 0),
        (pa.array(-STEPS * 10**11 - 2**53), 0),
        (pa.array(STEPS.astype(np.uint64) * 10**11 + 2**63), 0),
        (pa.array(STEPS.astype(np.uint64) * 10**11), 1),
        (pa.array(scaled(10**15, 2), pa.decimal128(20, 2)), 0),
        (pa.array(scaled(10**13, 2), pa.decimal64(18, 2)), 0),
        (pa.array(scaled(10**10, 2), pa.decimal64(18, 2)), 1),
        (pa.array(scaled(10**6, 2), pa.decimal128(38, 10)), 1),
        (pa.array(scaled(10**6, 2), pa.decimal128(38, 18)), 1),
        (pa.array(STEPS * 1e17 + 2.0**60), 1),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else str(value),
)
def test_what_float64_cannot_count_is_not_computed(cells: pa.Array, links: int) -> None:
    """Low digits that are nobody's would come out: rather no link than a wrong one."""
    table = pa.table({"a": cells, "c": cells})
    codec, found = linked(table, RelationKind.COPY, ("a",), share=1.0)
    assert len(found.links) == links
    drawn = redrawn(table, codec, found)[0].decoded()
    if links:
        assert drawn["c"].equals(drawn["a"])


@pytest.mark.parametrize("scale", [10, 18])
def test_decimals_with_more_digits_than_float64_keep_their_cents(scale: int) -> None:
    """Decimals of 38 digits, 18 of them behind the point, are what Spark makes of prices."""
    cents = np.random.default_rng(0).integers(1, 10**9, ROWS)
    prices = pa.array([Decimal(int(x)).scaleb(-2) for x in cents], pa.decimal128(38, scale))
    codec = codec_of(pa.table({"a": prices}))
    column = codec.codecs[0]
    assert isinstance(column, NumberCodec)
    assert column.table.steps[-1] == 10.0 ** (scale - 2)
    places = np.linspace(*column.table.z_range(), ROWS).astype(np.float32)[:, None]
    drawn = codec.decode(np.zeros((ROWS, 1), np.int32), places, rows=STEPS.astype(np.uint64), seed=0)
    assert all(cell == cell.quantize(Decimal("0.01")) for cell in drawn["a"].to_pylist())
    assert len(set(drawn["a"].to_pylist())) > 0.9 * ROWS


def test_at_most_four_links_a_slot() -> None:
    rng = np.random.default_rng(6)
    names = [f"a{k}" for k in range(6)]
    table = pa.table({name: rng.integers(1, 10**6, ROWS) for name in [*names, "c"]})
    links = Links.fit([Relation(RelationKind.COPY, "c", (name,), 0.2) for name in names], codec_of(table), table)
    assert [link.relation.columns[0] for link in links.links] == names[:4]


def test_no_links_change_nothing() -> None:
    table = planted(RelationKind.SUM, "integers", 0.0)
    codec, links = codec_of(table), Links()
    encoded = codec.encode(table)
    assert links.targets(codec, table, encoded.tokens) is encoded.tokens
    block = Block(codec, links, encoded.tokens, (encoded.low + encoded.high) / 2).settled()
    assert block.allowed == {0: None, 1: None, 2: None}
    rows = np.arange(ROWS, dtype=np.uint64)
    plain = codec.decode(encoded.tokens, block.values.numpy(), rows=rows, seed=0)
    assert block.decoded().equals(plain)


def test_links_come_back_from_json() -> None:
    table = planted(RelationKind.SUM, "decimals", 0.5)
    codec = codec_of(table)
    relations = [Relation(RelationKind.SUM, "c", ("a", "b"), 0.5), Relation(RelationKind.COPY, "c", ("a",), 0.1)]
    links = Links.fit(relations, codec, table)
    links = Links([*links.links, Link(relations[0], 2, None)])
    again = Links.from_json(json.loads(json.dumps(links.to_json())))
    assert again.links == links.links
    assert again.columns == links.columns == {"a", "b", "c"}
    tokens = codec.encode(table).tokens
    assert np.array_equal(again.targets(codec, table, tokens), links.targets(codec, table, tokens))


# ---------------------------------------------------------------- while rows are drawn


def test_a_null_or_infinite_result_forbids_the_link() -> None:
    rng = np.random.default_rng(7)
    a = pa.array(rng.integers(1, 10**6, ROWS).astype(float), mask=rng.random(ROWS) < 0.2)
    b = pa.array(np.where(rng.random(ROWS) < 0.2, 0.0, rng.integers(1, 50, ROWS)), mask=rng.random(ROWS) < 0.2)
    table = pa.table({"a": a, "b": b, "c": rng.lognormal(5, 2, ROWS)})
    codec = codec_of(table)
    relations = [Relation(RelationKind.RATIO, "c", ("a", "b"), 0.2), Relation(RelationKind.COPY, "c", ("a",), 0.2)]
    links = Links.fit(relations, codec, table)
    encoded = codec.encode(table)
    block = Block(codec, links, encoded.tokens, (encoded.low + encoded.high) / 2).settled()
    slot = codec.slots_of("c")[0]
    assert block.allowed[0] is None
    allowed = block.allowed[slot]
    assert allowed is not None
    assert allowed.shape == (ROWS, codec.slots[slot].n_tokens + 2)
    assert allowed[:, :-2].all()
    there = {name: ~table[name].is_null().to_numpy() for name in "ab"}
    assert np.array_equal(allowed[:, -1], there["a"])
    assert np.array_equal(allowed[:, -2], there["a"] & there["b"] & (table["b"].fill_null(1).to_numpy() != 0))


def test_protected_ends_bound_what_is_computed() -> None:
    """The largest sum of drawn cells may be somebody's value, or one that no column ever held."""
    rng = np.random.default_rng(8)
    a, b = rng.integers(1, 10**6, (2, ROWS))
    table = pa.table({"a": a, "b": b, "c": np.minimum(a + b, 1_200_000 + rng.integers(0, 1_000, ROWS))})
    codec, links = linked(table, RelationKind.SUM, ("a", "b"), share=0.95)
    column = codec.codecs[2]
    assert isinstance(column, NumberCodec)
    low, high = (round(column.table.base + end) for end in column.table.ends)
    encoded = codec.encode(table)
    tokens = encoded.tokens.copy()
    tokens[:, 2] = codec.slots[2].n_tokens  # in every row
    block = Block(codec, links, tokens, (encoded.low + encoded.high) / 2).settled()
    drawn = {name: column.to_numpy() for name, column in zip("abc", block.decoded().columns, strict=True)}
    assert np.array_equal(drawn["c"], np.clip(drawn["a"] + drawn["b"], low, high))
    assert (drawn["c"] == high).any()
    assert high < table["c"].to_numpy().max()


def test_later_slots_see_what_was_computed() -> None:
    """As a token and a place of the column's own, as in training: a link is no cell."""
    table = planted(RelationKind.SUM, "decimals", 0.5)
    codec, links = linked(table, RelationKind.SUM, ("a", "b"))
    block, marked = redrawn(table, codec, links)
    slots = codec.slots
    assert all(int(block.tokens[:, slot].max()) < slots[slot].n_tokens for slot in range(3))
    again = codec.encode(block.decoded())
    assert np.array_equal(again.tokens[marked, 2], block.tokens.numpy()[marked, 2])
    middle = (again.low + again.high)[:, 2] / 2
    assert np.allclose(block.values.numpy()[marked, 2], middle[marked], atol=1e-5)


def test_values_are_rounded_before_later_slots_see_them() -> None:
    """A place anywhere in a cell becomes the middle, where training rows lie, and decodes to the same."""
    rng = np.random.default_rng(9)
    table = pa.table({"a": rng.integers(0, 300, ROWS) * 10, "b": np.round(rng.normal(0, 1, ROWS), 1)})
    codec = codec_of(table)
    encoded = codec.encode(table)
    somewhere = encoded.low + rng.random(encoded.low.shape, dtype=np.float32) * (encoded.high - encoded.low)
    block = Block(codec, Links(), encoded.tokens, somewhere).settled()
    for slot in range(len(codec.slots)):
        cells = table.column(slot).to_numpy()
        own = (encoded.tokens[:, slot] < codec.slots[slot].n_levels) & (cells > np.sort(cells)[10])
        own &= cells < np.sort(cells)[-10]  # beyond the protected ends
        middle = (encoded.low + encoded.high)[:, slot] / 2
        assert np.allclose(block.values.numpy()[own, slot], middle[own], atol=1e-6)
    rows = np.arange(ROWS, dtype=np.uint64)
    assert block.decoded().equals(codec.decode(encoded.tokens, somewhere, rows=rows, seed=0))


def test_of_several_cells_each_is_settled_as_if_it_were_drawn() -> None:
    """Those that follow from others, too."""
    table = planted(RelationKind.SUM, "decimals", 0.5, nulls=0.05)
    codec, links = linked(table, RelationKind.SUM, ("a", "b"))
    encoded = codec.encode(table)
    targets = torch.from_numpy(links.targets(codec, table, encoded.tokens).astype(np.int64))
    assert int(targets.max()) >= codec.slots[2].n_tokens, "some follow"
    values = torch.from_numpy((encoded.low + encoded.high) / 2)
    settling, turned = Settling(codec, links), torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    for slot in range(3):
        cells = [torch.stack([part[:, slot], part[turned, slot]], dim=1) for part in (targets, values)]
        together = settling.settled(slot, *cells)
        for k in (1, 0):  # later slots go on from the first ones
            alone = settling.settle(slot, *(part[:, k] for part in cells))
            assert all(torch.equal(one, many[:, k]) for one, many in zip(alone, together, strict=True))


def test_columns_that_are_no_numbers_pass() -> None:
    table = pa.table({"s": ["a", "b"] * 50, "a": np.arange(100)})
    source = as_source(table)
    codec = TableCodec.fit(source, infer_schema(source), PrivacySpec())
    tokens, values = torch.tensor([0, 1, 0]), torch.zeros(3)
    settled: tuple[Tensor, Tensor] = Settling(codec, Links()).settle(codec.slots_of("s")[0], tokens, values)
    assert settled[0] is tokens
    assert settled[1] is values


# ---------------------------------------------------------------- given operands


def test_given_operands_count_exactly() -> None:
    """Not as the codec knows them, which is as floats of 32 bits among others."""
    rng = np.random.default_rng(10)
    a, b = np.round(rng.lognormal(3, 1, ROWS), 6) + 1e-7, rng.integers(1, 100, ROWS) * 1.0
    table = pa.table({"a": a, "b": b, "c": a + b})
    codec, links = linked(table, RelationKind.SUM, ("a", "b"), share=1.0)
    odd, gone = np.array([12.3456789012, 33.3333333333, 20.0, 7.77]), np.array([False, False, True, False])
    encoded = codec.encode(pa.table({"a": odd, "b": [1.0, 2.0, 3.0, 4.0], "c": [1.0] * 4}))
    tokens = encoded.tokens.copy()
    tokens[:, 2] = codec.slots[2].n_tokens
    given_cells = {"a": pa.array(odd, mask=gone)}
    block = Block(codec, links, tokens, (encoded.low + encoded.high) / 2, given_cells).settled()
    drawn = {name: column.to_numpy() for name, column in zip("abc", block.decoded().columns, strict=True)}
    assert (drawn["a"][~gone] != odd[~gone]).any(), "the codec alone would not know"
    exact = np.where(gone, drawn["a"], odd) + drawn["b"]
    assert drawn["c"] == pytest.approx(exact, rel=1e-15, abs=0)


def test_nulls_that_are_to_be_filled_are_not_drawn() -> None:
    rng = np.random.default_rng(11)
    a = pa.array(rng.integers(1, 10**6, ROWS), mask=rng.random(ROWS) < 0.3)
    table = pa.table({"a": a, "c": a})
    codec, links = linked(table, RelationKind.COPY, ("a",), share=1.0)
    null = codec.codecs[0].null_token
    assert null is not None
    allowed = Settling(codec, links, {"a": pa.array([5, None, 7], pa.int64())}).allowed(0)
    assert allowed is not None
    assert allowed.shape == (3, codec.slots[0].n_tokens)
    assert not allowed[:, null].any()
    assert allowed.sum() == allowed.size - 3
    assert Settling(codec, links).allowed(0) is None
