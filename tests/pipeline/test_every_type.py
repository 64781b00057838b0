"""Every Arrow type that Parquet brings keeps its exact Arrow schema through a whole refresh on a real S3 store.

The source is several files, one of which holds columns of nulls alone. What Parquet itself changes is changed before
tabvae reads it: date64 becomes date32, seconds become milliseconds, dictionaries of other than texts and bytes become
their values, and what lies in lists and maps gets Parquet's own names. Durations and the other dictionaries come back
through Arrow's schema, which its writer stores beside.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from s3_servers import Store
from tabvae_core import release, steps
from tabvae_core.spec import RefreshSpec, parse_spec
from tabvae_core.storage import copy_file

ROWS = 240
FILES = 3
UNITS = ("s", "ms", "us", "ns")
LAX = {"max_column_jsd": 1.0, "max_trend": 100, "max_auc": 1.0, "max_copies": 100, "data_docs": False}
MOMENT = dt.datetime(2024, 2, 29, 13, 14, 15)

CHANGED_BY_PARQUET = {
    "date64[ms]", "time32[s]", "dictionary_of_int",
    "timestamp[s]", *(f"timestamp[s, tz={zone}]" for zone in ("UTC", "Europe/Berlin", "+05:30")),
}  # fmt: skip

Cell = Callable[[int], Any]


def cells(kind: pa.DataType, make: Cell, *, nulls: bool = True, empty: range = range(0)) -> pa.Array:
    """A column of a type, with nulls in every seventh row and in all rows of `empty`."""
    values = [None if (nulls and k % 7 == 0) or k in empty else make(k) for k in range(ROWS)]
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.array(values, width).cast(kind)
    return pa.array(values, kind)


def per_second(unit: str) -> int:
    return int(10 ** (3 * UNITS.index(unit)))


def columns() -> dict[str, pa.Array]:
    """One column a type; numbers repeat and spread, so that both tokens and densities are learned."""
    rng = np.random.default_rng(3)
    draw = rng.integers(0, 100, ROWS)
    middle = range(ROWS // FILES, 2 * ROWS // FILES)
    found: dict[str, pa.Array] = {}
    for width in (8, 16, 32, 64):
        found[f"int{width}"] = cells(getattr(pa, f"int{width}")(), lambda k: int(draw[k]) - 50)
        found[f"uint{width}"] = cells(getattr(pa, f"uint{width}")(), lambda k: int(draw[k]))
    found["big_id"] = cells(pa.int64(), lambda k: 2**53 + 1 + 2 * int(k), nulls=False)
    found["big_measure"] = cells(pa.int64(), lambda k: 2**62 + int(draw[k]) * 10**15 + 1)
    found["biggest"] = cells(pa.uint64(), lambda k: 2**64 - 1 - int(draw[k]))
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        found[str(kind)] = cells(kind, lambda k, kind=kind: np.dtype(kind.to_pandas_dtype()).type(draw[k] / 8))
    found["special_floats"] = cells(pa.float64(), lambda k: (float("nan"), float("inf"), -0.0, 1.5)[k % 4])
    for kind in (pa.decimal128(10, 2), pa.decimal128(38, 10), pa.decimal256(60, 5), pa.decimal128(20, 0)):
        found[f"{kind}"] = cells(kind, lambda k, kind=kind: Decimal(int(draw[k])).scaleb(-min(2, kind.scale)))
    found["bool"] = cells(pa.bool_(), lambda k: bool(draw[k] % 2))
    words = ("", "Köln", "two words", "aubergine")
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        found[str(kind)] = cells(kind, lambda k, kind=kind: _bytes_or_text(words[draw[k] % 4], kind))
    found["fixed"] = cells(pa.binary(4), lambda k: b"abcd" if draw[k] % 2 else b"wxyz")
    found["key"] = cells(pa.string(), lambda k: f"C-{k:06d}", nulls=False)
    for index in (pa.int8(), pa.int32()):
        kind = pa.dictionary(index, pa.string())
        found[str(kind)] = cells(pa.string(), lambda k: words[draw[k] % 4]).dictionary_encode().cast(kind)
    found["dictionary_of_int"] = cells(pa.int64(), lambda k: int(draw[k] % 5)).dictionary_encode()
    for kind in (pa.date32(), pa.date64()):
        found[str(kind)] = cells(kind, lambda k: MOMENT.date() + dt.timedelta(days=int(draw[k])))
    for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")):
        found[str(kind)] = cells(kind, lambda k, kind=kind: int(draw[k]) * 700 * per_second(kind.unit))
    for unit in UNITS:
        for zone in (None, "UTC", "Europe/Berlin", "+05:30"):
            kind = pa.timestamp(unit, zone)
            found[str(kind)] = cells(kind, lambda k, unit=unit: (1_700_000_000 + int(draw[k]) * 977) * per_second(unit))
        kind = pa.duration(unit)
        found[str(kind)] = cells(kind, lambda k, unit=unit: int(draw[k]) * 60 * per_second(unit))
    found["null"] = pa.nulls(ROWS)
    found["all_null"] = pa.nulls(ROWS, pa.int64())
    found["all_null_text"] = pa.nulls(ROWS, pa.string())
    found["empty_in_one_file"] = cells(pa.int64(), lambda k: int(draw[k]), empty=middle)
    found["empty_text_in_one_file"] = cells(pa.string(), lambda k: words[draw[k] % 4], empty=middle)
    found["list"] = pa.array([[int(d), None] for d in draw], pa.list_(pa.int64()))
    found["struct"] = pa.array([{"a": int(d), "b": "x"} for d in draw])
    found["map"] = pa.array([[("k", int(d))] for d in draw], pa.map_(pa.string(), pa.int32()))
    found["strict"] = cells(pa.int32(), lambda k: int(draw[k]), nulls=False)
    return found


def _bytes_or_text(word: str, kind: pa.DataType) -> Any:
    return word.encode() if "binary" in str(kind) else word


@pytest.fixture(scope="module")
def table() -> pa.Table:
    found = columns()
    fields = [pa.field(name, array.type, nullable=name != "strict") for name, array in found.items()]
    return pa.Table.from_arrays(list(found.values()), schema=pa.schema(fields, metadata={"owner": "sales"}))


def uploaded(table: pa.Table, store: Store, folder: Path, *, method: str) -> RefreshSpec:
    """Put a table into a store as several files, and describe its refresh."""
    place = f"{store.bucket_uri('types')}/{uuid.uuid4().hex}"
    size = ROWS // FILES
    for number in range(FILES):
        part = folder / f"part{number}.parquet"
        pq.write_table(table.slice(number * size, size), part)
        copy_file(str(part), f"{place}/source/part{number}.parquet", target_storage=store.storage)
    storage = store.storage.model_dump()
    return parse_spec(
        {
            "source": {"uri": f"{place}/source", "storage": storage},
            "target": {"uri": f"{place}/synthetic", "storage": storage},
            "workspace": {"uri": f"{place}/work", "storage": storage},
            "model": {"method": method, "epochs": 1},
            "gates": LAX,
        }
    )


@pytest.mark.parametrize(("method", "name"), [("vae_basic", "moto"), ("vae", "rclone")])
def test_published_schema_is_the_sources(
    method: str, name: str, table: pa.Table, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store: Store = request.getfixturevalue(f"s3_{name}")
    spec = uploaded(table, store, tmp_path, method=method)
    done = steps.refresh(spec)
    assert done.rows == ROWS
    for number, uri in enumerate(release.release_uris(spec.target)):
        copy = tmp_path / f"published{number}.parquet"
        copy_file(uri, str(copy), source_storage=store.storage)
        published = pq.read_table(copy)  # pyarrow alone, as any reader would
        _is_same_schema(published.schema, pq.read_table(tmp_path / "part0.parquet").schema)
    kept = [f.name for f in table.schema if f.name not in CHANGED_BY_PARQUET]
    assert published.select(kept).schema.equals(table.select(kept).schema)
    _is_plausible(published)


def _is_same_schema(found: pa.Schema, wanted: pa.Schema) -> None:
    different = [f"{a} became {b}" for a, b in zip(wanted, found, strict=True) if not a.equals(b, check_metadata=True)]
    assert not different
    assert found.equals(wanted, check_metadata=True)


def _is_plausible(table: pa.Table) -> None:
    for name in ("null", "all_null", "all_null_text", "list", "struct", "map"):
        assert table[name].null_count == table.num_rows, name
    assert table["strict"].null_count == 0
    assert pc.count_distinct(table["big_id"]).as_py() == table.num_rows
    assert pc.count_distinct(table["key"]).as_py() == table.num_rows
    assert pc.min(table["big_measure"]).as_py() >= 2**62
    assert pc.min(table["biggest"]).as_py() >= 2**64 - 200
    learned = [n for n in table.schema.names if n not in ("null", "all_null", "all_null_text", "list", "struct", "map")]
    assert not [name for name in learned if table[name].null_count == table.num_rows]
