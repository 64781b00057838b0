"""Near copies of rare training rows are drawn again, and nothing else is."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables_made import people
from tabvae_core import steps
from tabvae_core.errors import ImpossibleRule, SpecError
from tabvae_core.inference import infer_schema
from tabvae_core.local import fit_table, sample_model
from tabvae_core.privacy.near_copies import NearCopies
from tabvae_core.sampling import valid_blocks
from tabvae_core.spec import ModelSpec, PrivacySpec, RefreshSpec, parse_spec
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import InMemoryTable

PRIVACY = PrivacySpec(min_category_rows=1, protect_extremes=1)


def fitted(table: pa.Table) -> NearCopies:
    return NearCopies.fit(InMemoryTable(table), infer_schema(InMemoryTable(table), privacy=PRIVACY))


def kept(near: NearCopies, table: pa.Table) -> np.ndarray:
    return near.evaluate(table).to_numpy(zero_copy_only=False)


@cache
def of_people() -> NearCopies:
    return fitted(people(200, 1))


def test_rare_rows_are_found_and_frequent_ones_are_not() -> None:
    often = pa.table({"x": [1.0] * 50 + [2.0] * 50, "c": ["a", "b"] * 50})
    rare = pa.table({"x": [777.0], "c": ["a"]})
    near = fitted(pa.concat_tables([often, rare]))
    assert not kept(near, rare).any()
    assert kept(near, often).all(), "a row that many share may be repeated"
    assert kept(near, pa.table({"x": [777.0], "c": ["b"]})).all(), "another category is another row"
    assert near.redrawn == 1


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(7, 200))
def test_the_answer_follows_from_the_row_alone(seed: int, chunk: int) -> None:
    """Whatever stands beside it, in whatever batch and order, and whatever nulls it has."""
    train, near = people(200, 1), of_people()
    drawn = pa.concat_tables([people(60, seed + 2), train.slice(0, 60)]).unify_dictionaries()
    whole = kept(near, drawn)
    parts = [kept(near, drawn.slice(at, chunk)) for at in range(0, drawn.num_rows, chunk)]
    assert np.array_equal(whole, np.concatenate(parts))
    order = np.random.default_rng(seed).permutation(drawn.num_rows)
    assert np.array_equal(whole[order], kept(near, drawn.take(order)))


def test_a_copy_with_a_little_noise_is_near_and_a_fresh_row_hardly_ever_is() -> None:
    rng = np.random.default_rng(0)
    train, fresh = (pa.table({f"x{k}": rng.normal(size=3000) for k in range(6)}) for _ in range(2))
    near = fitted(train)
    noisy = pa.table({name: train[name].to_numpy() * (1 + 1e-5) for name in train.column_names})
    assert kept(near, noisy).mean() < 0.02
    assert kept(near, fresh).mean() > 0.999


# ---------------------------------------------------------------- while rows are drawn


def test_exactly_n_rows_are_drawn_for_any_shards_and_nothing_changes_where_nothing_is_near() -> None:
    train = people(300, 1)
    model = create("gaussian_copula", ModelSpec(method="gaussian_copula"), PRIVACY).fit(train)
    near = NearCopies.fit(InMemoryTable(model.sample(200, seed=3)), model.schema)
    plainly = pa.concat_tables(table for table, _ in valid_blocks(model, 4200, seed=3))
    filtered = [
        pa.concat_tables(table for table, _ in valid_blocks(model, 4200, seed=3, conditions=(near,), shards=shards))
        for shards in (1, 3)
    ]
    assert filtered[0].equals(filtered[1])
    assert filtered[0].num_rows == 4200
    assert kept(near, filtered[0]).all()
    refused = ~kept(near, plainly)
    assert 0 < refused.sum() < 1000
    untouched = np.flatnonzero(~refused)
    assert filtered[0].take(untouched).equals(plainly.take(untouched)), "other rows stay, byte for byte"
    assert filtered[0]["key"].equals(plainly["key"]), "keys stay unique"
    elsewhere = pa.array(["elsewhere"] * train.num_rows).dictionary_encode()
    far = NearCopies.fit(InMemoryTable(train.set_column(3, "segment", elsewhere)), model.schema)
    same = pa.concat_tables(table for table, _ in valid_blocks(model, 4200, seed=3, conditions=(far,)))
    assert same.equals(plainly)


class _Parrot:
    """A model that draws its training rows and nothing else, for which no draw can help."""

    def __init__(self, table: pa.Table) -> None:
        self._table, self.schema, self.row_keyed = table, infer_schema(InMemoryTable(table), privacy=PRIVACY), ()

    def sample_block(self, block: int, n_rows: int, *, seed: int, attempt: int = 0, **_: object) -> pa.Table:
        return self._table.take(np.random.default_rng([seed, block, attempt]).integers(len(self._table), size=n_rows))


def test_a_model_that_only_copies_ends_in_an_error_that_names_the_setting() -> None:
    near = of_people()
    parrot = _Parrot(people(200, 1).filter(pa.array(~kept(near, people(200, 1)))))
    with pytest.raises(ImpossibleRule, match=r"near_copies: redraw"):
        list(valid_blocks(parrot, 100, seed=0, conditions=(near,), max_tries=2))  # type: ignore[arg-type]


def test_a_refresh_says_how_many_rows_were_drawn_again(tmp_path: Path) -> None:
    pq.write_table(people(300, 1), tmp_path / "people.parquet")
    lax = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}
    spec = parse_spec(
        {
            "source": {"uri": str(tmp_path / "people.parquet")},
            "target": {"uri": str(tmp_path / "out")},
            "workspace": {"uri": str(tmp_path / "work")},
            "model": {"method": "gaussian_copula"},
            "gates": lax,
            "privacy": {"near_copies": "redraw"},
        }
    )
    pinned = steps.snapshot(spec)
    table = steps.sample(spec, pinned, steps.train(spec, pinned))
    assert table.redrawn is not None
    assert table.rows == 300


def test_a_model_alone_cannot_look_for_near_copies(tmp_path: Path) -> None:
    pq.write_table(people(120, 1), tmp_path / "people.parquet")
    spec: RefreshSpec = parse_spec(
        {
            "source": {"uri": str(tmp_path / "people.parquet")},
            "target": {"uri": "memory://x"},
            "model": {"method": "gaussian_copula"},
            "sample": {"rows": 10},
            "privacy": {"near_copies": "redraw"},
        }
    )
    fit_table(spec, str(tmp_path / "model"))
    with pytest.raises(SpecError, match="needs the training rows"):
        sample_model(str(tmp_path / "model"), str(tmp_path / "out.parquet"), spec)
    assert not (tmp_path / "out.parquet").exists()
