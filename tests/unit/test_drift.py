from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tables_made import people
from tabvae_core.drift import Profile, drift_of, profile_of
from tabvae_core.inference import infer_schema
from tabvae_core.references import ColumnDrift
from tabvae_core.spec import PrivacySpec
from tabvae_core.tables import InMemoryTable

PRIVACY = PrivacySpec()


def drift(before: pa.Table, now: pa.Table, max_drift: float = 0.05) -> dict[str, ColumnDrift]:
    profile = profile_of(before, infer_schema(InMemoryTable(before)), PRIVACY)
    return {one.column: one for one in drift_of(profile, now, max_drift)}


def test_rows_of_one_distribution_do_not_drift() -> None:
    found = drift(people(2000, seed=1), people(1500, seed=2))
    assert set(found) == set(people(1).schema.names)
    assert not [one for one in found.values() if one.drifted]
    assert max(one.beyond for one in found.values()) < 0.02


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("age", lambda cells: pa.array(np.asarray(cells) + 8, pa.int16())),
        ("income", lambda cells: pa.array(cells.fill_null(0).to_numpy(), mask=np.arange(len(cells)) % 3 == 0)),
        ("segment", lambda cells: pa.array(["pro" if k % 4 == 0 else str(c) for k, c in enumerate(cells.to_pylist())])),
        ("opened", lambda cells: pa.array(np.asarray(cells) + np.timedelta64(200, "D"))),
        ("key", lambda cells: pa.array([None if k % 5 == 0 else c for k, c in enumerate(cells.to_pylist())])),
        ("active", lambda cells: pa.array([True] * len(cells))),
    ],
)
def test_the_column_that_changed_is_named_and_no_other(column: str, change: object) -> None:
    now = people(1500, seed=2)
    cells = now.column(column).combine_chunks()
    moved = now.set_column(now.schema.names.index(column), column, change(cells))  # type: ignore[operator]
    found = drift(people(2000, seed=1), moved)
    assert [one.column for one in found.values() if one.drifted] == [column]
    assert next(iter(found)) == column, "the furthest comes first"


def test_a_profile_holds_no_rare_category_and_no_cell() -> None:
    rows = people(400, seed=1)
    kind = pa.array(["common"] * 200 + ["other"] * 190 + ["secret"] * 4 + [None] * 6)
    exact = np.random.default_rng(0).lognormal(6, 1, 400)
    table = rows.append_column("kind", kind).append_column("exact", pa.array(exact))
    schema = infer_schema(InMemoryTable(table))
    columns = profile_of(table, schema, PRIVACY)
    assert columns["kind"].categories == ("common", "other")
    assert columns["kind"].counts == (200, 190, 4, 6)
    assert not set(columns["exact"].edges or ()) & set(exact.tolist())
    said = json.dumps({name: column.model_dump(mode="json") for name, column in columns.items()})
    assert "secret" not in said
    assert "P-0" not in said, "keys are counted, never kept"


@settings(max_examples=40, deadline=None)
@given(
    cells=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([0.0, 7.0])), min_size=12, max_size=200),
    seed=st.integers(0, 1000),
)
def test_counts_are_those_of_the_rows_whatever_the_cells(cells: list[float | None], seed: int) -> None:
    """Every row is counted once, the same rows in any order are no drift, and no edge leaves the range of the cells."""
    table = pa.table({"x": pa.array(cells, pa.float64()), "y": pa.array([str(k % 3) for k in range(len(cells))])})
    schema = infer_schema(InMemoryTable(table))
    profile = profile_of(table, schema, PRIVACY)
    assert all(sum(one.counts) == len(cells) for one in profile.values())
    shuffled = table.take(np.random.default_rng(seed).permutation(len(cells)))
    assert all(one.distance == one.beyond == 0.0 for one in drift_of(profile, shuffled, 0.0))
    known = [cell for cell in cells if cell is not None]
    if known and profile["x"].edges:
        assert min(known) <= min(profile["x"].edges)
        assert max(profile["x"].edges) <= max(known)
    stored = Profile(rows=len(cells), schema_fingerprint="s", files=1, files_digest="d", columns=profile)
    assert Profile.model_validate_json(stored.model_dump_json()) == stored
