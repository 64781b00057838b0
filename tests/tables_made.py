"""Small tables with structure, for tests of everything that learns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

__all__ = ["people"]


def people(rows: int = 600, seed: int = 0) -> pa.Table:
    """A table with a key, dependent columns, nulls, a spike and dates."""
    rng = np.random.default_rng(seed)
    segment = rng.choice(["basic", "plus", "pro"], rows, p=[0.6, 0.3, 0.1])
    age = rng.integers(18, 80, rows)
    base = np.select([segment == "basic", segment == "plus"], [20_000, 45_000], 90_000)
    income = np.where(rng.random(rows) < 0.1, 0, np.round(base * rng.lognormal(0, 0.2, rows), -2))
    opened = np.datetime64("2020-01-01") + rng.integers(0, 900, rows)
    return pa.table(
        {
            "key": pa.array([f"P-{k:06d}" for k in rng.permutation(rows)]),
            "age": pa.array(age, type=pa.int16()),
            "income": pa.array(income, mask=rng.random(rows) < 0.05),
            "segment": pa.array(segment).dictionary_encode(),
            "opened": pa.array(opened.astype("datetime64[D]"), type=pa.date32()),
            "active": pa.array(rng.random(rows) < 0.5),
        }
    )
