from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from arrow_tables import ALL_TYPES, BYTES, TEXTS, columns
from tabvae_core.codecs.base import Codec, CodecState
from tabvae_core.codecs.constant import ConstantCodec, ConstantFitter
from tabvae_core.codecs.null import NullCodec, NullFitter
from tabvae_core.codecs.text import TextCodec, TextFitter
from tabvae_core.errors import DataError, ModelFileError
from tabvae_core.schema import ColumnSchema, Unlearnable
from tabvae_core.spec import Kind, PrivacySpec

RNG = np.random.default_rng(11)
COMMON = [f"word{i}" for i in range(40)]


def _schema(array: pa.Array, kind: Kind = Kind.TEXT, unlearnable: Unlearnable = "generate") -> ColumnSchema:
    share = array.null_count / max(len(array), 1)
    return ColumnSchema(
        name="note", kind=kind, arrow_type=str(array.type), nulls=share, nullable=share > 0,
        distinct=len(array), unlearnable=unlearnable,
    )  # fmt: skip


def _fit(array: pa.Array) -> TextCodec:
    fitter = TextFitter(_schema(array), array.type, PrivacySpec())
    fitter.observe(array, 0)
    codec = fitter.finish()
    assert isinstance(codec, TextCodec)
    return codec


def _decode(codec: Codec, first: int, count: int, seed: int = 0) -> pa.Array:
    tokens = np.zeros((count, len(codec.slots)), dtype=np.int32)
    rows = np.arange(first, first + count, dtype=np.uint64)
    return codec.decode(tokens, tokens.astype(np.float32), rows=rows, seed=seed)


def _reviews(rows: int = 400) -> pa.Array:
    return pa.array([" ".join(RNG.choice(COMMON, RNG.integers(3, 12))) + f" secret{i}" for i in range(rows)])


def test_only_words_that_many_rows_share_are_kept() -> None:
    codec = _fit(_reviews())
    stored = json.dumps(codec.state().values)
    assert "secret" not in stored
    assert set(codec.words) <= set(COMMON)
    made = _decode(codec, 0, 200).to_pylist()
    assert {word for text in made for word in text.split()} <= set(COMMON)
    assert 3 <= np.mean([len(text.split()) for text in made]) <= 12


def test_a_word_repeated_in_one_row_counts_once() -> None:
    array = pa.array(["loud " * 30, *[f"quiet{i}" for i in range(60)]])
    assert "loud" not in _fit(array).words


def test_sharding_and_restoring_change_nothing() -> None:
    codec = _fit(_reviews())
    state = codec.state()
    again = TextCodec.restore(CodecState(state.kind, json.loads(json.dumps(state.values)), state.arrays), pa.string())
    whole = _decode(codec, 0, 90, seed=5).to_pylist()
    assert _decode(again, 0, 33, seed=5).to_pylist() + _decode(again, 33, 57, seed=5).to_pylist() == whole
    assert _decode(codec, 0, 90, seed=6).to_pylist() != whole


def test_merging_adds_up() -> None:
    array = _reviews()
    parts = [TextFitter(_schema(array), array.type, PrivacySpec()) for _ in range(2)]
    parts[0].observe(array.slice(0, 150), 0)
    parts[1].observe(array.slice(150), 150)
    parts[1].merge(parts[0])
    merged, whole = parts[1].finish().state(), _fit(array).state()
    assert merged.values == whole.values
    assert all(np.array_equal(merged.arrays[name], whole.arrays[name]) for name in whole.arrays)


def test_texts_without_shared_words_get_neutral_ones() -> None:
    names = pa.array(["".join(RNG.choice(list("abcdefghij"), 7)) for _ in range(200)])
    assert all(re.fullmatch(r"[a-z]{4,6}", text) for text in _decode(_fit(names), 0, 50).to_pylist())


def test_mail_addresses_are_invented() -> None:
    mails = pa.array([f"p{i}.x@firm{i}.com" for i in range(200)])
    assert all(re.fullmatch(r"[a-z]+\.[a-z]+@example\.com", text) for text in _decode(_fit(mails), 0, 50).to_pylist())


def test_rare_words_with_a_format_keep_it() -> None:
    tickets = pa.array([f"A/{i % 7} {i * 7919 % 100000:05d}" for i in range(200)])
    assert all(re.fullmatch(r"A/\d \d{5}", text) for text in _decode(_fit(tickets), 0, 50).to_pylist())


@settings(max_examples=40, deadline=None)
@given(columns(types=[*TEXTS, *BYTES, pa.dictionary(pa.int32(), pa.string())]))
def test_any_text_keeps_its_type(array: pa.Array) -> None:
    codec = _fit(array)
    tokens = codec.encode(array).tokens
    rows = np.arange(len(array), dtype=np.uint64)
    made = codec.decode(tokens, tokens.astype(np.float32), rows=rows, seed=0)
    assert made.type == array.type
    made.validate(full=True)
    assert made.is_null().equals(array.is_null())


def test_text_kept_as_null_learns_nothing() -> None:
    array = _reviews(50)
    fitter = TextFitter(_schema(array, unlearnable="null"), array.type, PrivacySpec())
    fitter.observe(array, 0)
    codec = fitter.finish()
    assert codec.slots == ()
    assert _decode(codec, 0, 4).null_count == 4


def test_numbers_are_no_text() -> None:
    with pytest.raises(DataError, match=r"'note'.*are no text"):
        TextFitter(_schema(pa.array([1])), pa.int64(), PrivacySpec())


@pytest.mark.parametrize("kind", ALL_TYPES, ids=str)
def test_nulls_of_every_type(kind: pa.DataType) -> None:
    fitter = NullFitter(_schema(pa.nulls(3, kind), Kind.NESTED), kind, PrivacySpec())
    fitter.observe(pa.nulls(3, kind), 0)
    codec = NullCodec.restore(fitter.finish().state(), kind)
    made = _decode(codec, 0, 5)
    assert made.type == kind
    assert made.to_pylist() == [None] * 5


@settings(max_examples=60, deadline=None)
@given(columns(rows=12))
def test_constants_of_every_type(array: pa.Array) -> None:
    array = pa.concat_arrays([array.slice(0, 1)] * 12)
    fitter = ConstantFitter(_schema(array, Kind.CONSTANT), array.type, PrivacySpec())
    fitter.observe(array, 0)
    codec = fitter.finish()
    state = CodecState(codec.state().kind, json.loads(json.dumps(codec.state().values)))
    made = _decode(type(codec).restore(state, array.type), 0, 7)
    assert made.type == array.type
    assert made.to_pylist() == array.to_pylist()[:7]


def test_a_constant_with_two_values_is_refused() -> None:
    array = pa.array([1, 1])
    parts = [ConstantFitter(_schema(array, Kind.CONSTANT), array.type, PrivacySpec()) for _ in range(2)]
    parts[0].observe(array, 0)
    parts[1].observe(pa.array([2]), 2)
    with pytest.raises(DataError, match="'note' is called constant"):
        parts[0].merge(parts[1])


def test_a_damaged_constant_is_a_typed_error() -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        ConstantCodec.restore(CodecState("constant", {"ipc": "AAAA"}), pa.int64())
