from __future__ import annotations

import json
import re
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabvae_core.codecs.base import CodecState
from tabvae_core.codecs.formats import permute
from tabvae_core.codecs.identifier import IdentifierCodec, IdentifierFitter
from tabvae_core.errors import DataError
from tabvae_core.inference import infer_schema
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import ColumnOverride, Kind, PrivacySpec
from tabvae_core.tables import InMemoryTable

RNG = np.random.default_rng(7)


def _column(array: pa.Array) -> ColumnSchema:
    source = InMemoryTable(pa.table({"key": array}))
    return infer_schema(source, overrides={"key": ColumnOverride(kind=Kind.IDENTIFIER)}).columns[0]


def _fit(array: pa.Array) -> IdentifierCodec:
    fitter = IdentifierFitter(_column(array), array.type, PrivacySpec())
    fitter.observe(array, 0)
    return fitter.finish()


def _decode(codec: IdentifierCodec, first: int, count: int, seed: int = 0) -> pa.Array:
    tokens = np.zeros((count, len(codec.slots)), dtype=np.int32)
    rows = np.arange(first, first + count, dtype=np.uint64)
    return codec.decode(tokens, tokens.astype(np.float32), rows=rows, seed=seed)


KEYS = {
    "padded": pa.array([f"C-{i:06d}" for i in range(500)]),
    "counted": pa.array([str(i) for i in range(1, 501)], pa.string_view()),
    "hex": pa.array([RNG.bytes(16).hex() for _ in range(500)], pa.large_string()),
    "uuid text": pa.array([str(uuid.UUID(bytes=RNG.bytes(16), version=4)) for _ in range(500)]),
    "two formats": pa.array([f"A-{i}" if i % 3 else f"B/{i}" for i in range(500)]).dictionary_encode(),
    "tiny": pa.array([f"k{i}" for i in range(12)]),
    "fixed bytes": pa.array([f"C-{i:06d}".encode() for i in range(500)], pa.binary(8)),
    "raw bytes": pa.array([RNG.bytes(9) for _ in range(500)], pa.binary_view()),
    "sequence": pa.array(range(1, 501)),
    "from nought": pa.array(range(500), pa.uint16()),
    "scattered": pa.array(RNG.choice(10**8, 500, replace=False)),
    "negative": pa.array(-RNG.choice(10**8, 500, replace=False)),
    "64 bits": pa.array(RNG.integers(10**18, 9 * 10**18, 500)),
    "unsigned": pa.array(RNG.integers(0, 2**64 - 1, 500, dtype=np.uint64)),
    "decimal": pa.array(RNG.choice(10**8, 500, replace=False)).cast(pa.decimal128(38, 0)),
}


@pytest.mark.parametrize("name", KEYS)
def test_made_keys_differ_over_blocks_and_keep_type_and_format(name: str) -> None:
    array = KEYS[name]
    codec = _fit(array)
    blocks = [_decode(codec, first, len(array)) for first in range(0, 12 * len(array), len(array))]
    assert all(block.type == array.type for block in blocks)
    cells = [cell for block in blocks for cell in block.to_pylist()]
    assert len(set(cells)) == len(cells)
    if codec.regex is not None:
        assert all(re.search(codec.regex, c.decode() if isinstance(c, bytes) else c) for c in cells)


@pytest.mark.parametrize("name", KEYS)
def test_the_stored_codec_makes_the_same_keys(name: str) -> None:
    codec = _fit(KEYS[name])
    state = codec.state()
    again = IdentifierCodec.restore(CodecState(state.kind, json.loads(json.dumps(state.values))), KEYS[name].type)
    whole = _decode(codec, 0, 300, seed=3).to_pylist()
    assert _decode(again, 0, 100, seed=3).to_pylist() + _decode(again, 100, 200, seed=3).to_pylist() == whole


def test_seeds_make_different_keys() -> None:
    codec = _fit(KEYS["scattered"])
    assert _decode(codec, 0, 50, seed=1).to_pylist() != _decode(codec, 0, 50, seed=2).to_pylist()


def test_formats_are_found() -> None:
    assert _fit(KEYS["padded"]).regex == r"^(?:C\-[0-9]{6,})$"
    version_4 = uuid.UUID(_decode(_fit(KEYS["uuid text"]), 0, 1)[0].as_py())
    assert version_4.version == 4
    assert _decode(_fit(KEYS["sequence"]), 0, 3).to_pylist() == [1, 2, 3]
    assert _decode(_fit(KEYS["from nought"]), 0, 3).to_pylist() == [0, 1, 2]


def test_characters_of_few_rows_are_not_kept() -> None:
    few = pa.array([f"SECRET{i}" for i in range(12)])
    assert "SECRET" not in json.dumps(_fit(few).state().values)


def test_rows_that_outnumber_the_format_get_longer_keys() -> None:
    codec = _fit(pa.array([f"k{i}" for i in range(12)]))
    cells = _decode(codec, 0, 20_000).to_pylist()
    assert len(set(cells)) == len(cells)
    assert max(map(len, cells)) > 3
    assert all(re.search(str(codec.regex), cell) for cell in cells)


def test_nulls_are_one_slot() -> None:
    array = pa.array([None if i % 5 == 0 else f"C-{i:06d}" for i in range(500)])
    codec = _fit(array)
    tokens = codec.encode(array).tokens
    assert [slot.n_tokens for slot in codec.slots] == [2]
    assert tokens[:, 0].tolist() == array.is_null().to_pylist()
    made = codec.decode(tokens, tokens.astype(np.float32), rows=np.arange(500, dtype=np.uint64), seed=0)
    assert made.is_null().equals(array.is_null())
    prior = codec.log_prior()[0]
    assert prior is not None
    assert np.exp(prior) == pytest.approx([0.8, 0.2])
    assert _fit(KEYS["padded"]).slots == ()


def test_a_narrow_integer_runs_out() -> None:
    codec = _fit(pa.array(range(200), pa.uint8()))
    with pytest.raises(DataError, match="'key': uint8 has no room"):
        _decode(codec, 0, 400)


def test_merging_does_not_depend_on_order() -> None:
    array = KEYS["two formats"]
    column, states = _column(array), []
    for order in ((0, 1), (1, 0)):
        parts = [IdentifierFitter(column, array.type, PrivacySpec()) for _ in range(2)]
        parts[0].observe(array.slice(0, 250), 0)
        parts[1].observe(array.slice(250), 250)
        parts[order[0]].merge(parts[order[1]])
        states.append(parts[order[0]].finish().state().values)
    assert states[0] == states[1]


def test_floats_are_no_keys() -> None:
    column = ColumnSchema(name="x", kind=Kind.IDENTIFIER, arrow_type="double", nulls=0, nullable=False, distinct=9)
    with pytest.raises(DataError, match=r"'x'.*cannot be identifiers"):
        IdentifierFitter(column, pa.float64(), PrivacySpec())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**60))
def test_permute_is_one_to_one(size: int, key: int) -> None:
    shuffled = permute(np.arange(size, dtype=np.uint64), size, key)
    assert sorted(shuffled.tolist()) == list(range(size))


def test_keys_of_another_table_are_shared_by_as_many_rows() -> None:
    rng = np.random.default_rng(0)
    keys = pa.array(rng.permutation(np.repeat(np.arange(10_000, 10_700), 2))[:1000])
    schema = infer_schema(InMemoryTable(pa.table({"account_id": keys})))
    column = schema.column("account_id")
    assert column.kind is Kind.IDENTIFIER
    fitter = IdentifierFitter(column, keys.type, PrivacySpec())
    fitter.observe(keys, 0)
    rows = np.arange(5000, dtype=np.uint64)
    made = fitter.finish().decode(np.zeros((5000, 0), np.int32), np.zeros((5000, 0), np.float32), rows=rows, seed=1)
    share = len(pc.unique(keys)) / 1000
    assert abs(len(pc.unique(made)) / 5000 - share) < 0.01
