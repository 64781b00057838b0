"""Edges: found in accounts, not in what is merely close; columns are drawn so that they can be met."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.edges import Edge, find_edges, with_edges
from tabvae_core.draft import init_spec
from tabvae_core.inference import infer_schema
from tabvae_core.relations import Relation, RelationKind, find_relations
from tabvae_core.spec import ModelSpec, parse_spec
from tabvae_core.synthesizers.vae import VAESynthesizer
from tabvae_core.tables import as_source

ROWS = 4_000
NONE = (0.0, 0.0, 0.0)


def accounts(rows: int = ROWS, seed: int = 0, months: int = 2) -> pa.Table:
    """Bills of some months, the last one first, then what was paid of each but the last: round sums, if not all."""
    rng = np.random.default_rng(seed)
    bills = [np.rint(np.exp(rng.normal(9.0, 0.8, rows)))]
    paid: list[npt.NDArray[Any]] = []
    for _ in range(months - 1):
        before = bills[-1]
        share = rng.beta(1.0, 4.0, rows)
        paid.append(np.minimum(np.rint(before * share / 100 + 0.5) * 100, before))
        interest = before * rng.uniform(0.012, 0.022, rows)
        bought = np.where(rng.random(rows) < 0.4, np.exp(rng.normal(6.0, 1.5, rows)), 0.0)
        bills.append(np.rint(before - paid[-1] + interest + bought))
    columns = {f"bill{months - k}": bill for k, bill in enumerate(bills)}
    columns = dict(sorted(columns.items())) | {f"paid{months - 1 - k}": part for k, part in enumerate(paid)}
    return pa.table({name: values.astype(np.int64) for name, values in columns.items()})


def edges_of(table: pa.Table) -> tuple[Edge, ...]:
    schema = infer_schema(as_source(table))
    return find_edges(table, schema, find_relations(as_source(table), schema))


def test_what_is_owed_is_counted_from_what_was_owed_and_paid() -> None:
    (edge,) = edges_of(accounts())
    assert (edge.target, edge.first, edge.second, edge.minus) == ("bill1", "bill2", "paid1", True)
    assert edge.share > 0.5
    assert edge.text().startswith("bill1 ≥ bill2 - paid1, often by little (")
    assert edge.quartiles[0] == pytest.approx(np.log(0.015), abs=0.2)
    order = with_edges([edge], (), ("bill1", "bill2", "paid1"))[1]
    assert order == ("bill2", "paid1", "bill1")


def test_a_draft_shows_them(tmp_path: Path) -> None:
    pq.write_table(accounts(), tmp_path / "accounts.parquet")
    draft = init_spec(str(tmp_path / "accounts.parquet"))
    assert "#   bill1 ≥ bill2 - paid1, often by little (" in draft
    parse_spec(yaml.safe_load(draft))


def test_months_are_drawn_one_after_the_other() -> None:
    table = accounts(months=4)
    edges = edges_of(table)
    assert {edge.target for edge in edges} >= {"bill1", "bill2", "bill3"}
    months = [edge for edge in edges if edge.first == f"bill{int(edge.target[-1]) + 1}"]
    order = with_edges(months, (), table.column_names)[1]
    assert order == ("bill4", "paid3", "bill3", "paid2", "bill2", "paid1", "bill1")


def test_a_total_exceeds_its_parts_by_a_fee() -> None:
    rng = np.random.default_rng(0)
    net, tax = np.exp(rng.normal(6, 1, ROWS)), np.exp(rng.normal(4, 1, ROWS))
    total = net + tax + net * rng.uniform(0.01, 0.05, ROWS)
    (edge,) = edges_of(pa.table({"net": net, "tax": tax, "total": total}))
    assert (edge.target, {edge.first, edge.second}, edge.minus) == ("total", {"net", "tax"}, False)


@pytest.mark.parametrize("kind", ["free", "close", "both sides", "far", "few", "words"])
def test_what_is_no_edge_is_none(kind: str) -> None:
    """Unrelated; two alike and a small third; a relation that errs to both sides; an excess that is not little."""
    rng = np.random.default_rng(1)
    one = np.exp(rng.normal(6, 1, ROWS))
    part = one * rng.uniform(0.05, 0.6, ROWS)
    made: dict[str, Any] = {
        "free": (one, np.exp(rng.normal(6, 1, ROWS)), np.exp(rng.normal(6, 1, ROWS))),
        "close": (one, one * rng.uniform(0.999, 1.001, ROWS), one * rng.uniform(0.01, 0.09, ROWS)),
        "both sides": (one, part, (one - part) * rng.normal(1.0, 0.02, ROWS)),
        "far": (one, part, one - part + one * rng.uniform(0.3, 2.0, ROWS)),
        "few": tuple(accounts(400).columns),
        "words": (*accounts().columns[:2], pa.array(["a", "b"] * (ROWS // 2))),
    }
    assert edges_of(pa.table(dict(zip("abc", made[kind], strict=True)))) == ()


NAMES = tuple("abcdef")
some_edges = st.lists(
    st.tuples(st.sampled_from(list(permutations(NAMES, 3))), st.booleans()).map(
        lambda made: Edge(made[0][0], made[0][1], made[0][2], made[1], 0.5, NONE)
    ),
    max_size=5,
    unique_by=lambda edge: edge.target,
)
some_relations = st.lists(
    st.builds(
        lambda kind, names: Relation(
            kind, names[2], (names[0],) if kind is RelationKind.COPY else (names[0], names[1]), 0.5
        ),
        st.sampled_from([RelationKind.COPY, RelationKind.SUM, RelationKind.DIFFERENCE, RelationKind.PRODUCT]),
        st.sampled_from([(a, b, c) for a, b, c in permutations(NAMES, 3) if a < c and b < c]),
    ),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(edges=some_edges, relations=some_relations)
def test_any_edges_and_relations_give_an_order(edges: list[Edge], relations: list[Relation]) -> None:
    """All columns once; edges are served but for circles; what relations say stays true."""
    turned, order = with_edges(edges, relations, NAMES)
    assert sorted(order) == list(NAMES)
    at = {name: k for k, name in enumerate(order)}
    if len(edges) == 1:
        (edge,) = edges
        assert at[edge.target] > max(at[edge.first], at[edge.second])
    if not edges:
        assert (turned, order) == (tuple(relations), NAMES)
    values = {name: float(k + 2) for k, name in enumerate(NAMES)}
    for before, after in zip(relations, turned, strict=True):
        assert {before.target, *before.columns} == {after.target, *after.columns}
        if before.kind in (RelationKind.SUM, RelationKind.DIFFERENCE):
            assert at[after.target] == max(at[name] for name in (after.target, *after.columns))
            known = values | {before.target: _apply(before, values)}
            assert _apply(after, known) == pytest.approx(known[after.target])


def _apply(relation: Relation, values: dict[str, float]) -> float:
    first, second = (values[name] for name in relation.columns)
    return first + second if relation.kind is RelationKind.SUM else first - second


def test_what_was_learned_is_met() -> None:
    """Hardly a bill is less than what is left of the last one, and interest is what it was."""
    real, model = accounts(seed=1), VAESynthesizer(ModelSpec(seed=0, epochs=20, options={"members": 1}))
    drawn = model.fit(accounts(2_500)).sample(2_500, seed=1)
    assert drawn.column_names == ["bill1", "bill2", "paid1"]
    assert any("bill2 - paid1" in text for text in model.record["ratios"])
    shares = []
    for table in (real, drawn):
        bill, before, paid = (table[name].to_numpy().astype(float) for name in ("bill1", "bill2", "paid1"))
        excess = (bill - before + paid) / before
        shares.append(((excess < -0.001).mean(), ((excess > 0.01) & (excess < 0.025)).mean()))
    assert shares[1][0] < 0.08
    assert shares[1][1] == pytest.approx(shares[0][1], abs=0.12)
