from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tables_made import people
from tabvae_core.errors import ImpossibleRule
from tabvae_core.lake import ParquetSink
from tabvae_core.rules import bounds_of
from tabvae_core.sampling import sample_to, valid_blocks
from tabvae_core.spec import ModelSpec, PrivacySpec
from tabvae_core.synthesizers.base import Synthesizer
from tabvae_core.synthesizers.registry import create


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    return create("vae", ModelSpec(epochs=4), PrivacySpec()).fit(people())


def drawn(model: Synthesizer, rows: int, *rules: str, shards: int = 1, seed: int = 0, tries: int = 100) -> pa.Table:
    bounds = bounds_of(rules, model.schema)
    blocks = valid_blocks(model, rows, seed=seed, shards=shards, rules=rules, bounds=bounds, max_tries=tries)
    return pa.concat_tables(table for table, _ in blocks)


def test_exactly_n_rows_and_all_satisfy_the_rules(model: Synthesizer) -> None:
    table = drawn(model, 9000, "age > 30", "income >= age * 1000", "segment in ('plus', 'pro') or age < 60")
    assert table.num_rows == 9000
    assert pc.min(table["age"]).as_py() > 30
    poor = pc.less(table["income"], pc.multiply(table["age"].cast(pa.float64()), 1000.0))
    assert not pc.any(poor).as_py()


def test_rows_drawn_again_leave_keys_unique(model: Synthesizer) -> None:
    table = drawn(model, 9000, "income >= age * 1000")
    assert len(pc.unique(table["key"])) == 9000


def test_bounds_of_one_column_cost_no_draws(model: Synthesizer) -> None:
    rules = ("age >= 40", "age <= 50", "segment == 'pro'")
    blocks = valid_blocks(model, 4000, seed=0, rules=rules, bounds=bounds_of(rules, model.schema))
    assert sum(draws for _, draws in blocks) == 4000


def test_same_bytes_for_any_number_of_shards(model: Synthesizer, tmp_path: Path) -> None:
    digests = []
    for shards in (1, 4):
        path = tmp_path / f"{shards}.parquet"
        with ParquetSink(str(path), model.schema.arrow) as sink:
            sample_to(sink, model, 13_000, seed=7, shards=shards, rules=("income >= age * 1000",))
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_impossible_rule_is_named_with_its_acceptance(model: Synthesizer) -> None:
    with pytest.raises(ImpossibleRule) as caught:
        drawn(model, 100, "age > 0", "age * 2 < age", tries=3)
    assert caught.value.rule == "age * 2 < age"
    assert caught.value.acceptance == 0
    assert "age * 2 < age" in str(caught.value)
