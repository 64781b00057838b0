"""The one slot that codecs without values share: is the cell there, or null."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tabvae_core.codecs.base import Encoded, IntArray, Slot
from tabvae_core.codecs.ordinal import to_ordinal

__all__ = ["NULL", "VALUE", "cells_with_nulls", "is_null", "null_log_prior", "null_slots", "presence"]

VALUE, NULL = 0, 1


def null_slots(name: str, *, nullable: bool) -> tuple[Slot, ...]:
    """One slot of two tokens for a column with nulls, none for a column without."""
    return (Slot(name, n_tokens=2),) if nullable else ()


def is_null(array: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which cells are missing; a NaN is."""
    if pa.types.is_floating(array.type):
        return ~to_ordinal(array)[1]
    missing = array.is_null()
    return np.asarray(missing.to_numpy(zero_copy_only=False) if isinstance(missing, pa.Array) else missing, dtype=bool)


def presence(array: pa.Array, slots: tuple[Slot, ...]) -> Encoded:
    """Encode which cells are null; a codec without slots encodes nothing."""
    shape = (len(array), len(slots))
    tokens = np.zeros(shape, dtype=np.int32)
    if slots:
        tokens[:, 0] = is_null(array)
    zeros = np.zeros(shape, dtype=np.float32)
    return Encoded(tokens, zeros, zeros)


def null_log_prior(slots: tuple[Slot, ...], share: float) -> list[npt.NDArray[np.float32] | None]:
    """Log frequencies of the slot's two tokens."""
    if not slots:
        return []
    share = min(max(share, 0.0), 1.0)
    with np.errstate(divide="ignore"):
        return [np.log(np.array([1.0 - share, share])).astype(np.float32)]


def cells_with_nulls(cells: npt.NDArray[np.object_], tokens: IntArray, kind: pa.DataType) -> pa.Array:
    """Put nulls where the tokens say so; `kind` is the plain type of the cells."""
    mask = tokens[:, 0] == NULL if tokens.shape[1] else np.zeros(len(cells), dtype=np.bool_)
    return pa.array(cells, type=kind, mask=mask)
