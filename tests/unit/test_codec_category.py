from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tabvae_core.codecs.category import CategoryFitter
from tabvae_core.schema import ColumnSchema
from tabvae_core.spec import Kind, PrivacySpec


@pytest.mark.parametrize("kind", [pa.binary(16), pa.binary(1), pa.binary(), pa.large_binary(), pa.string()], ids=str)
def test_stand_ins_for_categories_that_nobody_shares_fit_their_type(kind: pa.DataType) -> None:
    width = kind.byte_width if pa.types.is_fixed_size_binary(kind) else 16
    text = pa.types.is_string(kind)
    cells = pa.array([chr(65 + k) * width if text else bytes([200 + k]) * width for k in range(20)], kind)
    column = ColumnSchema(
        name="token", kind=Kind.CATEGORY, arrow_type=str(kind), nulls=0.0, nullable=False, distinct=20
    )
    fitter = CategoryFitter(column, kind, PrivacySpec())
    fitter.observe(cells, 0)
    codec = fitter.finish()
    tokens = np.arange(codec.slots[0].n_tokens, dtype=np.int32)[:, None]
    rows = np.arange(len(tokens), dtype=np.uint64)
    made = codec.decode(tokens, np.zeros(tokens.shape, np.float32), rows=rows, seed=0)
    assert made.type == kind
    assert made.null_count == 0
    assert len(made.unique()) == len(made) == 8
    assert not set(made.to_pylist()) & set(cells.to_pylist())
