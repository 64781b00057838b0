from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from arrow_tables import BYTES, DICTIONARIES, NESTED, ORDERABLE, TEXTS, columns
from tabvae_core.codecs.ordinal import (
    as_field,
    base_type,
    bound_of,
    from_ordinal,
    is_integer_like,
    is_orderable,
    ordinal_of,
    plain,
    restore_type,
    to_ordinal,
    unit_of,
)
from tabvae_core.errors import DataError


@settings(max_examples=150, deadline=None)
@given(columns(types=ORDERABLE))
def test_ordinals_bring_back_every_cell(array: pa.Array) -> None:
    ordinals, valid = to_ordinal(array)
    assert ordinals.dtype == (np.int64 if is_integer_like(array.type) else np.float64)
    back = from_ordinal(ordinals, valid, array.type)
    back.validate(full=True)
    assert back.type == array.type
    assert back.equals(array)


@settings(max_examples=80, deadline=None)
@given(columns(types=ORDERABLE))
def test_bounds_are_written_and_read(array: pa.Array) -> None:
    ordinals, valid = to_ordinal(array)
    for ordinal in ordinals[valid].tolist():
        written = bound_of(ordinal, array.type)
        assert written is None or ordinal_of(written, array.type) == pytest.approx(ordinal, rel=1e-15, abs=0)


@settings(max_examples=60, deadline=None)
@given(columns(types=[*TEXTS, *BYTES, *DICTIONARIES]))
def test_plain_cells_get_their_type_back(array: pa.Array) -> None:
    back = restore_type(plain(array), array.type)
    assert back.type == array.type
    assert back.to_pylist() == array.to_pylist()


@pytest.mark.parametrize("kind", ORDERABLE, ids=str)
def test_slices_read_their_own_cells(kind: pa.DataType) -> None:
    whole = from_ordinal([0, 1, 0, 1, 1], [True, True, False, True, True], kind)
    assert from_ordinal(*to_ordinal(whole.slice(1, 3)), kind).equals(whole.slice(1, 3))


@pytest.mark.parametrize("kind", ORDERABLE, ids=str)
def test_chunks_and_no_cells(kind: pa.DataType) -> None:
    assert to_ordinal(pa.chunked_array([], type=kind))[0].shape == (0,)
    piece = from_ordinal([1, 0], [True, True], kind)
    assert to_ordinal(pa.chunked_array([piece, piece]))[0].tolist() == to_ordinal(piece)[0].tolist() * 2


def test_order_of_unsigned_integers_is_kept() -> None:
    ordinals, _ = to_ordinal(pa.array([0, 2**53 + 1, 2**63, 2**64 - 1], pa.uint64()))
    assert (np.diff(ordinals) > 0).all()


def test_values_beyond_the_type_become_its_ends() -> None:
    assert from_ordinal([300.0, -5.4], [True, True], pa.uint8()).to_pylist() == [255, 0]
    assert from_ordinal([1e300, -1e300], [True, True], pa.int64()).to_pylist() == [2**63 - 1, -(2**63)]
    assert from_ordinal([10**12], [True], pa.decimal128(5, 2)).to_pylist() == [Decimal("999.99")]
    assert from_ordinal([10**12], [True], pa.time32("s")).cast(pa.int32()).to_pylist() == [86_399]


def test_not_a_number_is_missing_and_infinity_is_finite() -> None:
    ordinals, valid = to_ordinal(pa.array([np.nan, np.inf, -np.inf, 1.0], pa.float32()))
    assert valid.tolist() == [False, True, True, True]
    assert ordinals[1:].tolist() == [float(np.finfo(np.float32).max), float(np.finfo(np.float32).min), 1.0]


def test_wide_decimals_show_no_digits_of_doubles() -> None:
    cells = pa.array([Decimal("12.34"), Decimal("-0.1"), None], pa.decimal128(38, 18))
    assert from_ordinal(*to_ordinal(cells), cells.type).equals(cells)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("2024-01-01", pa.date32(), 19_723),
        ("2024-01-01", pa.timestamp("s"), 1_704_067_200),
        ("2024-01-01T00:00:00+01:00", pa.timestamp("s", "Europe/Berlin"), 1_704_063_600),
        ("2024-01-01", pa.timestamp("s", "Europe/Berlin"), 1_704_067_200),
        ("08:15", pa.time32("s"), 29_700),
        ("2024-01-01T10:00", pa.date32(), 19_723),
    ],
    ids=str,
)
def test_bounds_of_time_are_iso(text: str, kind: pa.DataType, expected: int) -> None:
    assert ordinal_of(text, kind) == expected


@pytest.mark.parametrize("kind", [pa.date32(), pa.int64(), pa.duration("s")], ids=str)
def test_foreign_bounds_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(ValueError, match="is not a value of type"):
        ordinal_of("soon", kind)


@pytest.mark.parametrize("kind", [*NESTED, pa.string(), pa.null()], ids=str)
def test_types_without_order(kind: pa.DataType) -> None:
    assert not is_orderable(kind)
    assert unit_of(kind) is None
    with pytest.raises(DataError, match="have no order"):
        to_ordinal(pa.nulls(2, kind))
    with pytest.raises(DataError, match="have no order"):
        from_ordinal([1], [True], kind)


def test_wrappers_are_seen_through() -> None:
    assert base_type(pa.dictionary(pa.int8(), pa.date32())) == pa.date32()
    assert base_type(pa.uuid()) == pa.binary(16)
    assert base_type(pa.run_end_encoded(pa.int32(), pa.string())) == pa.string()


def test_a_narrow_index_that_overflows_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot become"):
        restore_type(pa.array([str(i) for i in range(200)]), pa.dictionary(pa.int8(), pa.string()))


def test_fields_that_forbid_nulls() -> None:
    cells = pa.array([1.0, None])
    assert np.isnan(as_field(cells, pa.field("x", pa.float64(), nullable=False))[1].as_py())
    assert as_field(cells, pa.field("x", pa.float64())) is cells
    with pytest.raises(DataError, match="'x' allows no nulls"):
        as_field(pa.array([1, None]), pa.field("x", pa.int64(), nullable=False))
