"""What a model file must not hold is searched for in all its bytes: rare categories, exact extremes, keys and texts."""

from __future__ import annotations

import datetime as dt
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tabvae_core.inference import infer_schema
from tabvae_core.spec import ColumnOverride, Kind, ModelSpec, PrivacySpec
from tabvae_core.synthesizers.registry import create
from tabvae_core.tables import InMemoryTable

ROWS = 400
RARE = ("zq-quartz", 'Ærø "Ø" straße', "four rows ✓")
"""Categories of one, three and four rows; the first that may be learned has five."""
FIVE = "exactly-five-rows"
LOW, HIGH = -876543.2109375, 987654.3359375
"""Exact in 32 bits too, so that both widths are searched for."""
COUNT = 7_654_321
FIRST, LAST = dt.datetime(1911, 3, 7, 5, 13, 17), dt.datetime(2088, 11, 23, 19, 41, 43)
METHODS = {
    "vae": {"epochs": 1, "options": {"members": 1}},
    "vae_basic": {"epochs": 1},
    "gaussian_copula": {},
    "copula_vae": {"epochs": 1},
    "ctgan": {"epochs": 1},
    "tabddpm": {"epochs": 1},
}


def table() -> pa.Table:
    rng = np.random.default_rng(0)
    place = np.array(rng.choice(["north", "south", "west"], ROWS), dtype=object)
    place[:1], place[1:4], place[4:8], place[8:13] = *RARE, FIVE
    amount, visits = np.round(rng.lognormal(3, 1, ROWS), 2), rng.integers(0, 9, ROWS)
    amount[20], amount[21], visits[22] = LOW, HIGH, COUNT
    seen = np.datetime64("2020-01-01T00:00:00") + rng.integers(0, 10**7, ROWS).astype("timedelta64[s]")
    seen[23], seen[24] = np.datetime64(FIRST), np.datetime64(LAST)
    return pa.table(
        {
            "key": [f"QK-{k:05d}-{(k * 7919) % 997:03d}" for k in range(ROWS)],
            "note": [f"met the person called xylo{k:04d} in the yard" for k in range(ROWS)],
            "place": place.tolist(),
            "amount": amount,
            "visits": visits,
            "seen": pa.array(seen.astype("datetime64[us]")),
        }
    )


def forms(value: Any) -> Iterator[bytes]:
    """All ways in which a value could stand in a file."""
    if isinstance(value, str):
        yield value.encode()
        yield json.dumps(value)[1:-1].encode()
        yield value.encode("utf-16-le")
    elif isinstance(value, dt.datetime):
        seconds = int(value.replace(tzinfo=dt.UTC).timestamp())
        yield value.isoformat().encode()
        yield value.isoformat(sep=" ").encode()
        for scale in (1, 10**3, 10**6, 10**9):
            yield from forms(seconds * scale)
            yield from forms(float(seconds * scale))
    elif isinstance(value, int):
        yield str(value).encode()
        yield struct.pack("<q", value)
        if abs(value) < 2**31:
            yield struct.pack("<i", value)
        yield from forms(float(value))
    else:
        yield repr(value).encode()
        yield struct.pack("<d", value)
        if float(np.float32(value)) == value:
            yield struct.pack("<f", value)


def holds(folder: Path, value: Any) -> list[str]:
    """Files of a bundle in which a value stands, however it is written."""
    wanted = tuple(forms(value))
    return [str(file) for file in folder.rglob("*") if file.is_file() and any(f in file.read_bytes() for f in wanted)]


@pytest.fixture(scope="module", params=METHODS)
def bundles(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with the protection that is the default, and one without."""
    rows = table()
    found = {}
    for name, privacy in (
        ("protected", PrivacySpec()),
        ("open", PrivacySpec(min_category_rows=1, protect_extremes=1)),
    ):
        folder = tmp_path_factory.mktemp(name)
        schema = infer_schema(
            InMemoryTable(rows), privacy=privacy,
            overrides={"place": ColumnOverride(kind=Kind.CATEGORY), "note": ColumnOverride(kind=Kind.TEXT)},
        )  # fmt: skip
        model = ModelSpec(method=request.param, **METHODS[request.param])
        create(request.param, model, privacy).fit(rows, schema).save(folder)
        found[name] = folder
    return found


def test_no_rare_category_no_exact_extreme_no_key_and_no_rare_word(bundles: dict[str, Path]) -> None:
    rows = table()
    for value in (*RARE, LOW, HIGH, COUNT, FIRST, LAST):
        assert not holds(bundles["protected"], value), value
    for name in ("key", "note"):
        content = b"".join(file.read_bytes() for file in bundles["protected"].rglob("*") if file.is_file())
        assert not [cell for cell in rows[name].to_pylist() if cell.encode() in content]
        assert b"xylo" not in content


def test_the_search_finds_what_is_there(bundles: dict[str, Path]) -> None:
    """Without protection the same values are found, and a category of five rows is found with it."""
    assert holds(bundles["protected"], FIVE)
    assert all(holds(bundles["open"], value) for value in RARE)
    assert any(holds(bundles["open"], value) for value in (LOW, HIGH))
